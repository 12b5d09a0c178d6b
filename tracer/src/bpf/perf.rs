//! The kernel side of `drops` and `latency`: only the programs that are asked for are loaded, and
//! what they counted is read out of maps.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{HashMap, MapData, PerCpuArray, PerCpuHashMap, RingBuf};
use aya::{Ebpf, EbpfLoader};
use tracer_common::offsets::{KernelOffsets, Options};
use tracer_common::perf::{DropCount, DropKey, PerfConfig};
use tracer_common::{Filter, Portal};

use super::Error;
use super::load::{OBJECT, not_permitted, replace, scratch_slots};
use super::raw::{Kind, RawObject, link_tracing};
use super::ring::Ring;
use super::stats::missed_runs;
use crate::kernel::btf::KernelBtf;

/// Room for examples, bytes.
const RING: u32 = 256 << 10;
/// Pods' addresses at most.
const ADDRESSES: u32 = 1_024;

/// What the kernel side is loaded with. The maps of a command that is not run have one entry.
#[derive(Clone, Debug)]
pub struct PerfOptions {
    /// What to count; all there is, when it has no terms.
    pub filter: Filter,
    /// Where the Service is reached, when the filter asks for one.
    pub portals: Vec<Portal>,
    /// Where this kernel keeps its fields.
    pub offsets: KernelOffsets,
    /// Likewise.
    pub config: PerfConfig,
    /// Different drops.
    pub drops: u32,
    /// Different segments.
    pub segments: u32,
    /// Packets that are timed at once.
    pub under_way: u32,
}

/// Programs and maps, loaded.
pub struct PerfSide {
    pub(super) ebpf: Ebpf,
    pub(super) raw: RawObject,
    ring: Ring,
    pub(super) programs: BTreeMap<&'static str, OwnedFd>,
    pub(super) links: Vec<OwnedFd>,
    /// Those that stay when the others come and go.
    lasting: Vec<OwnedFd>,
}

impl PerfSide {
    /// Makes the maps; programs are loaded one by one.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn load(options: &PerfOptions, btf: &KernelBtf) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NotBuilt);
        }
        let constants = Options {
            ring_bytes: u64::from(RING),
            kfree_has_reason: u8::from(btf.tracepoint_arguments("kfree_skb").unwrap_or(0) > 2),
            ..Options::default()
        };
        let portals = u32::try_from(options.portals.len().max(1)).unwrap_or(u32::MAX);
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("OFFSETS", &options.offsets, true)
            .override_global("FILTER", &options.filter, true)
            .override_global("OPTIONS", &constants, true)
            .override_global("PERF", &options.config, true)
            .map_max_entries("EVENTS", RING)
            .map_max_entries("SCRATCH", scratch_slots())
            .map_max_entries("TRACKED", 1)
            .map_max_entries("ORIGINS", 1)
            .map_max_entries("CALLS", 1)
            .map_max_entries("PORTALS", portals)
            .map_max_entries("SCOPE_ADDR", ADDRESSES)
            .map_max_entries("DROPS", options.drops.max(1))
            .map_max_entries("SEGMENTS", options.segments.max(1))
            .map_max_entries("UNDER_WAY", options.under_way.max(1))
            .load(OBJECT)
            .map_err(not_permitted)?;
        let events = ebpf.take_map("EVENTS").ok_or(Error::NoMap("EVENTS"))?;
        let raw = RawObject::prepare(OBJECT, &ebpf, &events)?;
        let ring =
            RingBuf::try_from(events).map_err(|source| Error::Map { name: "EVENTS", source })?;
        let mut side = Self {
            ebpf,
            raw,
            ring: Ring::new(ring),
            programs: BTreeMap::new(),
            links: Vec::new(),
            lasting: Vec::new(),
        };
        let portals = options.portals.clone();
        replace(&mut side.hash::<Portal, u8>("PORTALS")?, "PORTALS", portals.into_iter())?;
        Ok(side)
    }

    /// Loads the program for a tracepoint.
    ///
    /// # Errors
    ///
    /// Why this kernel cannot have it.
    pub fn load_tracepoint(
        &mut self,
        btf: &KernelBtf,
        program: &'static str,
        tracepoint: &str,
    ) -> Result<(), String> {
        let target = btf.tracepoint(tracepoint).ok_or("this kernel has no such tracepoint")?;
        let fd = match self.raw.load(program, Kind::tracepoint(target)) {
            Err(Error::NotPermitted) => return Err(Error::NotPermitted.to_string()),
            other => other.map_err(|e| e.to_string())?,
        };
        self.programs.insert(program, fd);
        Ok(())
    }

    /// Attaches a program that was loaded for a tracepoint.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn attach(&mut self, program: &'static str) -> Result<(), Error> {
        let link = self.link(program)?;
        self.links.push(link);
        Ok(())
    }

    /// The same for as long as this lives.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn attach_for_good(&mut self, program: &'static str) -> Result<(), Error> {
        let link = self.link(program)?;
        self.lasting.push(link);
        Ok(())
    }

    fn link(&self, program: &'static str) -> Result<OwnedFd, Error> {
        let missing = || Error::Prepare(format!("{program} is not loaded"));
        let fd = self.programs.get(program).ok_or_else(missing)?;
        let failed = |source| Error::Sys { what: format!("cannot attach {program}"), source };
        link_tracing(fd).map_err(failed)
    }

    /// Hands the records that wait in the ring to `take`.
    pub fn drain(&mut self, take: impl FnMut(&[u8])) {
        self.ring.drain(RING as usize, take);
    }

    /// What was dropped so far, summed over CPUs.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn drops(&self) -> Result<Vec<(DropKey, DropCount)>, Error> {
        let failed = |source| Error::Map { name: "DROPS", source };
        let map = self.ebpf.map("DROPS").ok_or(Error::NoMap("DROPS"))?;
        let map: PerCpuHashMap<_, DropKey, DropCount> =
            PerCpuHashMap::try_from(map).map_err(failed)?;
        map.iter()
            .map(|entry| entry.map(|(key, counts)| (key, sum(&counts))).map_err(failed))
            .collect()
    }

    /// What was dropped for which there was no room.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn other_drops(&self) -> Result<DropCount, Error> {
        let failed = |source| Error::Map { name: "DROPS_OTHER", source };
        let map = self.ebpf.map("DROPS_OTHER").ok_or(Error::NoMap("DROPS_OTHER"))?;
        let map: PerCpuArray<_, DropCount> = PerCpuArray::try_from(map).map_err(failed)?;
        Ok(sum(&map.get(&0, 0).map_err(failed)?))
    }

    /// Runs of programs that the kernel left out because the same program was running.
    #[must_use]
    pub fn missed_runs(&self) -> u64 {
        self.programs.values().map(|program| missed_runs(program.as_fd())).sum()
    }

    /// Tells in which namespaces packets are met (`--netns`, `--container`, `--pod`), and which
    /// addresses are those of the pods.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn set_scope(&mut self, netns: &[u32], addresses: &[[u32; 4]]) -> Result<(), Error> {
        replace(&mut self.hash::<u32, u8>("SCOPE_NETNS")?, "SCOPE_NETNS", netns.iter().copied())?;
        let addresses = addresses.iter().copied().take(ADDRESSES as usize);
        replace(&mut self.hash::<[u32; 4], u8>("SCOPE_ADDR")?, "SCOPE_ADDR", addresses)
    }

    /// Tells on which devices packets are met (`--dev`).
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn set_devices(&mut self, devices: &[(u32, u32)]) -> Result<(), Error> {
        let keys = devices.iter().map(|(netns, dev)| u64::from(*netns) << 32 | u64::from(*dev));
        replace(&mut self.hash::<u64, u8>("SCOPE_DEV")?, "SCOPE_DEV", keys)
    }

    fn hash<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &'static str,
    ) -> Result<HashMap<&mut MapData, K, V>, Error> {
        let map = self.ebpf.map_mut(name).ok_or(Error::NoMap(name))?;
        HashMap::try_from(map).map_err(|source| Error::Map { name, source })
    }
}

impl std::fmt::Debug for PerfSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PerfSide").field("programs", &self.programs).finish_non_exhaustive()
    }
}

/// One count of those of all CPUs.
fn sum(counts: &[DropCount]) -> DropCount {
    counts.iter().fold(DropCount::default(), |all, count| DropCount {
        packets: all.packets + count.packets,
        bytes: all.bytes + count.bytes,
        first_ns: match (all.first_ns, count.first_ns) {
            (0, first) | (first, 0) => first,
            (one, other) => one.min(other),
        },
        last_ns: all.last_ns.max(count.last_ns),
        example_ns: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_that_saw_nothing_do_not_date_the_first_drop() {
        let count = |packets, first_ns, last_ns| DropCount {
            packets,
            bytes: packets * 100,
            first_ns,
            last_ns,
            example_ns: 0,
        };
        let all = sum(&[count(0, 0, 0), count(2, 50, 90), count(3, 20, 40)]);
        assert_eq!((all.packets, all.bytes, all.first_ns, all.last_ns), (5, 500, 20, 90));
    }
}
