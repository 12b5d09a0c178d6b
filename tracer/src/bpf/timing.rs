//! The kernel side of `latency`: programs stay loaded, links come and go.

use std::fs::File;
use std::os::fd::OwnedFd;

use aya::maps::{Array, HashMap, PerCpuArray};
use tracer_common::perf::{Histogram, PerfControl, PerfStat, SegmentKey};

use super::Error;
use super::age::monotonic_ns;
use super::attach::cgroup2_root;
use super::netfilter::{IPV4, IPV6, link_at_edge};
use super::perf::PerfSide;
use super::raw::{Kind, link_cgroup};
use crate::net::{Netns, setns};

/// The program at the root cgroup.
const SOCKET: &str = "lat_socket";
/// The programs at the hooks of netfilter.
const HOOKS: [(&str, bool); 2] = [("lat_hook_first", true), ("lat_hook_last", false)];
/// `NF_INET_NUMHOOKS` without the one of devices.
const HOOK_COUNT: u32 = 5;

impl PerfSide {
    /// Loads the program that tells when a socket takes a packet.
    ///
    /// # Errors
    ///
    /// Why this kernel cannot have it.
    pub fn load_socket(&mut self) -> Result<(), String> {
        cgroup2_root().ok_or("no cgroup v2 hierarchy is mounted")?;
        let program = self.raw.load(SOCKET, Kind::CGROUP_INGRESS).map_err(|e| e.to_string())?;
        self.programs.insert(SOCKET, program);
        Ok(())
    }

    /// Loads the programs at the hooks of netfilter.
    ///
    /// # Errors
    ///
    /// Why this kernel cannot have them.
    pub fn load_hooks(&mut self) -> Result<(), String> {
        for (name, _) in HOOKS {
            let program = self.raw.load(name, Kind::NETFILTER);
            let program =
                program.map_err(|_| "this kernel has no BPF netfilter links (since 6.4)")?;
            self.programs.insert(name, program);
        }
        Ok(())
    }

    /// Attaches to what sockets receive, if that is loaded.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn attach_socket(&mut self) -> Result<(), Error> {
        let (Some(program), Some(root)) = (self.programs.get(SOCKET), cgroup2_root()) else {
            return Ok(());
        };
        let failed = |source| Error::Sys { what: format!("cannot attach {SOCKET}"), source };
        let root = File::open(root).map_err(failed)?;
        self.links.push(link_cgroup(program, &root).map_err(failed)?);
        Ok(())
    }

    /// Attaches to the hooks of a namespace, if that is loaded. A namespace that is gone, or cannot
    /// be entered, is left out.
    pub fn attach_hooks(&mut self, netns: &Netns) {
        let programs: Vec<(&OwnedFd, bool)> = HOOKS
            .iter()
            .filter_map(|(name, is_first)| Some((self.programs.get(name)?, *is_first)))
            .collect();
        if programs.is_empty() {
            return;
        }
        let families = if netns.has_ipv6 { &[IPV4, IPV6][..] } else { &[IPV4][..] };
        let links = setns::run_in_inum(&netns.path, netns.inum, || {
            let mut links = Vec::new();
            for family in families {
                for hook in 0..HOOK_COUNT {
                    for (program, is_first) in &programs {
                        links.push(link_at_edge(program, *family, hook, *is_first)?);
                    }
                }
            }
            Ok(links)
        });
        self.links.extend(links.unwrap_or_default());
    }

    /// Detaches everything; what is loaded stays.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    /// Forgets the packets that are under way: probes were not attached all the time.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn begin_anew(&mut self) -> Result<(), Error> {
        let failed = |source| Error::Map { name: "PERF_CONTROL", source };
        let map = self.ebpf.map_mut("PERF_CONTROL").ok_or(Error::NoMap("PERF_CONTROL"))?;
        let mut words: Array<_, u64> = Array::try_from(map).map_err(failed)?;
        words.set(PerfControl::Since as u32, monotonic_ns(), 0).map_err(failed)
    }

    /// Every histogram.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn histograms(&self) -> Result<Vec<(SegmentKey, Box<Histogram>)>, Error> {
        let failed = |source| Error::Map { name: "SEGMENTS", source };
        let map = self.ebpf.map("SEGMENTS").ok_or(Error::NoMap("SEGMENTS"))?;
        let map: HashMap<_, SegmentKey, Histogram> = HashMap::try_from(map).map_err(failed)?;
        map.iter()
            .map(|entry| entry.map(|(key, times)| (key, Box::new(times))).map_err(failed))
            .collect()
    }

    /// Times that were not counted.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn unplaced(&self) -> Result<u64, Error> {
        self.stat(PerfStat::Unplaced)
    }

    /// Segments that were sent again, without an event each.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn untold(&self) -> Result<u64, Error> {
        self.stat(PerfStat::Untold)
    }

    fn stat(&self, stat: PerfStat) -> Result<u64, Error> {
        let failed = |source| Error::Map { name: "PERF_STATS", source };
        let map = self.ebpf.map("PERF_STATS").ok_or(Error::NoMap("PERF_STATS"))?;
        let stats: PerCpuArray<_, u64> = PerCpuArray::try_from(map).map_err(failed)?;
        Ok(stats.get(&(stat as u32), 0).map_err(failed)?.iter().sum())
    }
}
