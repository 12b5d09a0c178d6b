//! Loading: constants into `.rodata`, programs and maps into the kernel.

use std::os::fd::AsFd as _;

use aya::maps::{Array, HashMap, Map, RingBuf};
use aya::{Btf, Ebpf, EbpfLoader, Endianness};
use tracer_common::offsets::{KernelOffsets, Options};
use tracer_common::{Control, Filter};

use super::attach::{Attached, Backends, ProbeStatus};
use super::log::KernelLog;
use super::netfilter::NetfilterPrograms;
use super::ring::Ring;
use super::stats::{Counters, missed_runs};
use super::{Error, attach};
use crate::kernel::btf::KernelBtf;

/// The object, as `build.rs` found it; empty when the kernel side has not been built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pkttrace-ebpf"));

/// What the kernel side is loaded with.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// What to follow.
    pub filter: Filter,
    /// Where this kernel keeps its fields.
    pub offsets: KernelOffsets,
    /// Size of the event ring, a power of two, bytes.
    pub ring_bytes: u32,
    /// Journeys admitted in a second, 0 for no limit.
    pub max_journeys: u64,
    /// What to attach.
    pub backends: Backends,
    /// Let the kernel side log (aya-log).
    pub debug: bool,
}

/// The kernel side: loaded, and attached as far as this kernel allows.
#[derive(Debug)]
pub struct KernelSide {
    pub(super) ebpf: Ebpf,
    pub(super) netfilter: Option<NetfilterPrograms>,
    pub(super) attached: Attached,
    pub(super) options: LoadOptions,
    /// Entries aged out so far.
    pub(super) aged: u64,
    log: Option<KernelLog>,
    ring: Ring,
}

impl KernelSide {
    /// Loads the programs and attaches those that are global.
    ///
    /// # Errors
    ///
    /// See [`Error`]; a probe point that this kernel lacks is no error but a [`ProbeStatus`].
    pub fn load(options: LoadOptions, btf: &KernelBtf) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NotBuilt);
        }
        let raw_btf = std::fs::read(crate::kernel::btf::VMLINUX).map_err(|source| Error::Sys {
            what: format!("cannot read {}", crate::kernel::btf::VMLINUX),
            source,
        })?;
        let aya_btf = Btf::parse(&raw_btf, Endianness::default())
            .map_err(|e| Error::Prepare(e.to_string()))?;
        let arguments = |name| btf.tracepoint_arguments(name).unwrap_or(0);
        let constants = Options {
            ring_bytes: u64::from(options.ring_bytes),
            max_journeys: options.max_journeys,
            consume_has_location: u8::from(arguments("consume_skb") > 1),
            kfree_has_reason: u8::from(arguments("kfree_skb") > 2),
            debug: u8::from(options.debug),
            reserved: 0,
            queue_purge: btf
                .enumeration("skb_drop_reason", "SKB_DROP_REASON_")
                .iter()
                .find_map(|(n, name)| (name == "QUEUE_PURGE").then_some(*n))
                .unwrap_or(0),
        };
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&aya_btf))
            .override_global("OFFSETS", &options.offsets, true)
            .override_global("FILTER", &options.filter, true)
            .override_global("OPTIONS", &constants, true)
            .map_max_entries("EVENTS", options.ring_bytes)
            .load(OBJECT)
            .map_err(not_permitted)?;
        let events = ebpf.take_map("EVENTS").ok_or(Error::NoMap("EVENTS"))?;
        let netfilter = if options.backends.nf {
            Some(NetfilterPrograms::prepare(OBJECT, &ebpf, &events)?)
        } else {
            None
        };
        let ring =
            RingBuf::try_from(events).map_err(|source| Error::Map { name: "EVENTS", source })?;
        let log = if options.debug { Some(KernelLog::open(&mut ebpf)?) } else { None };
        let mut side = Self {
            ebpf,
            netfilter,
            attached: Attached::new(options.backends.nf),
            options,
            aged: 0,
            log,
            ring: Ring::new(ring),
        };
        attach::global(&mut side, &aya_btf, btf)?;
        Ok(side)
    }

    /// The events that wait in the ring, and what is attached.
    pub fn ring_and_attached(&mut self) -> (&mut Ring, &Attached) {
        (&mut self.ring, &self.attached)
    }

    /// Prints what the kernel side has logged.
    pub fn print_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.print();
        }
    }

    /// How each probe point is attached, or why not.
    #[must_use]
    pub fn probes(&self) -> Vec<ProbeStatus> {
        self.attached.statuses()
    }

    /// The counters of the kernel side, summed over CPUs.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn counters(&self) -> Result<Counters, Error> {
        let mut counters = Counters::read(self.map("STATS")?)?;
        for (_, program) in self.ebpf.programs() {
            if let Ok(fd) = program.fd() {
                counters.missed_runs += missed_runs(fd.as_fd());
            }
        }
        Ok(counters)
    }

    /// Lets journeys begin: everything is attached.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn enable(&mut self) -> Result<(), Error> {
        self.control(Control::Enabled, 1)
    }

    /// Writes a word that the kernel side reads.
    pub(super) fn control(&mut self, word: Control, value: u64) -> Result<(), Error> {
        let failed = |source| Error::Map { name: "CONTROL", source };
        let map = self.ebpf.map_mut("CONTROL").ok_or(Error::NoMap("CONTROL"))?;
        let mut words: Array<_, u64> = Array::try_from(map).map_err(failed)?;
        words.set(word as u32, value, 0).map_err(failed)
    }

    /// Tells in which namespaces a packet may be met first (`--netns`).
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn set_netns_scope(&mut self, inums: &[u32]) -> Result<(), Error> {
        let mut scope = self.hash::<u32, u8>("SCOPE_NETNS")?;
        replace(&mut scope, "SCOPE_NETNS", inums.iter().copied())
    }

    /// Tells on which devices (namespace, index) a packet may be met first (`--dev`).
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn set_device_scope(&mut self, devices: &[(u32, u32)]) -> Result<(), Error> {
        let keys = devices.iter().map(|(netns, dev)| u64::from(*netns) << 32 | u64::from(*dev));
        let keys: Vec<u64> = keys.collect();
        let mut scope = self.hash::<u64, u8>("SCOPE_DEV")?;
        replace(&mut scope, "SCOPE_DEV", keys.into_iter())
    }

    pub(super) fn map(&self, name: &'static str) -> Result<&Map, Error> {
        self.ebpf.map(name).ok_or(Error::NoMap(name))
    }

    pub(super) fn hash<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &'static str,
    ) -> Result<HashMap<&mut aya::maps::MapData, K, V>, Error> {
        let map = self.ebpf.map_mut(name).ok_or(Error::NoMap(name))?;
        HashMap::try_from(map).map_err(|source| Error::Map { name, source })
    }
}

/// Makes the keys of a scope map exactly `wanted`.
fn replace<K: aya::Pod + Ord>(
    map: &mut HashMap<&mut aya::maps::MapData, K, u8>,
    name: &'static str,
    wanted: impl Iterator<Item = K>,
) -> Result<(), Error> {
    let failed = |source| Error::Map { name, source };
    let mut stale: std::collections::BTreeSet<K> = map.keys().filter_map(Result::ok).collect();
    for key in wanted {
        stale.remove(&key);
        map.insert(key, 1, 0).map_err(failed)?;
    }
    for key in stale {
        map.remove(&key).map_err(failed)?;
    }
    Ok(())
}

fn not_permitted(error: aya::EbpfError) -> Error {
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<std::io::Error>()
            && io.raw_os_error() == Some(libc::EPERM)
        {
            return Error::NotPermitted;
        }
        cause = e.source();
    }
    Error::Load(error)
}
