//! Figures that move while traffic runs: counters, queues, sockets, offloads of a few namespaces,
//! and what their processes may use of the processors. [`mod@super::inspect`] reads how things are
//! set up; this reads how they go, often enough to compare.
//!
//! Everything is asked on a thread inside the namespace. What cannot be read is absent: a figure
//! that is not there proves nothing. Nothing here changes the node.

mod connections;
mod cpu;
mod features;
mod programs;
mod queues;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::detail::Socket;
use super::inspect::counters;
use super::inspect::sockets;
use super::inspect::wire::Netlink;
use super::setns;
use super::state::{Inum, Netns};

pub use super::inspect::sockets::Processes;
pub use connections::{Connecting, Connection};
pub use cpu::{Cpu, Quota, cpus};
pub use features::{Feature, Features};
pub use programs::{Taps, Tunnels, tunnels};
pub use queues::Queue;

/// A namespace to be read.
#[derive(Clone, Debug)]
pub struct Place {
    inum: Inum,
    path: PathBuf,
    devices: BTreeMap<u32, String>,
    /// The programs behind its tunnel devices, by the device's name.
    tunnels: Tunnels,
}

impl Place {
    /// With the devices that it has now.
    #[must_use]
    pub fn new(netns: &Netns) -> Self {
        let devices = netns.devices.values().map(|d| (d.ifindex, d.name.clone())).collect();
        Self { inum: netns.inum, path: netns.path.clone(), devices, tunnels: Tunnels::new() }
    }

    /// With the programs behind its tunnel devices.
    #[must_use]
    pub fn with(mut self, tunnels: &Tunnels) -> Self {
        let is_here = |name: &&String| self.devices.values().any(|dev| dev == *name);
        let its = tunnels.iter().filter(|(name, _)| is_here(name));
        self.tunnels = its.map(|(name, programs)| (name.clone(), programs.clone())).collect();
        self
    }
}

/// The figures of one namespace at one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// As [`Detail::counters`](super::detail::Detail::counters).
    pub counters: BTreeMap<String, u64>,
    /// Queueing disciplines but for those that only hold classifiers.
    pub queues: Vec<Queue>,
    /// TCP connections that carry data.
    pub connections: Vec<Connection>,
    /// Connections that are asked for and not answered yet.
    pub connecting: Vec<Connecting>,
    /// Sockets that take what comes.
    pub sockets: Vec<Socket>,
    /// Offloads by interface index; read once, at the start.
    pub features: BTreeMap<u32, Features>,
    /// Packet sockets that take all that a device receives, by interface index (0: of every
    /// device); read with everything.
    pub taps: BTreeMap<u32, Taps>,
    /// By process that holds a socket here, or a tunnel device, unless only peaks were read; those of its cgroup and of
    /// the ones around it.
    pub quotas: BTreeMap<u32, Vec<Quota>>,
}

/// How much is read, each with what is before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// What has peaks: queues and sockets.
    Peaks,
    /// What the sockets' processes may use: several files for each of them.
    Quotas,
    /// Everything.
    All,
}

/// Reads all `places`, one after the other; those that are gone are left out.
#[must_use]
pub fn read(places: &[Place], processes: &Processes, depth: Depth) -> BTreeMap<Inum, Reading> {
    let read = |place: &Place| {
        let here = || Ok(read_here(place, processes, depth));
        Some((place.inum, setns::run_in_inum(&place.path, place.inum, here).ok()?))
    };
    places.iter().filter_map(read).collect()
}

/// The processes that hold sockets: a look at every descriptor of the node.
#[must_use]
pub fn processes() -> Processes {
    sockets::processes()
}

fn read_here(place: &Place, processes: &Processes, depth: Depth) -> Reading {
    let mut reading = Reading::default();
    if let Ok(mut netlink) = Netlink::open(libc::NETLINK_ROUTE) {
        reading.queues = queues::queues(&mut netlink, &place.devices).unwrap_or_default();
        if depth == Depth::All {
            // What cannot be read is not there.
            let _ = counters::devices(&mut netlink, &place.devices, &mut reading.counters);
        }
    }
    if let Ok(mut netlink) = Netlink::open(libc::NETLINK_SOCK_DIAG) {
        reading.connections = connections::connections(&mut netlink, processes);
        reading.sockets = sockets::sockets(&mut netlink, processes, &mut Vec::new());
        let holders = reading.holders();
        reading.connecting = connections::connecting(&mut netlink, processes, &holders);
    }
    if depth >= Depth::Quotas {
        let mut holders = reading.holders();
        holders.extend(place.tunnels.values().flatten().map(|(pid, _)| *pid));
        reading.quotas = holders.into_iter().map(|p| (p, cpu::quotas(p))).collect();
    }
    if depth < Depth::All {
        return reading;
    }
    counters::protocols(&mut reading.counters);
    if std::path::Path::new("/proc/sys/net/netfilter/nf_conntrack_count").exists() {
        let _ = counters::conntrack(&mut reading.counters);
    }
    reading.features = features::features(&place.devices);
    reading.taps = programs::taps(processes);
    reading
}

impl Reading {
    /// Each once, however many sockets it holds.
    fn holders(&self) -> BTreeSet<u32> {
        let of_sockets = self.sockets.iter().filter_map(|s| s.process.as_ref());
        let of_connections = self.connections.iter().filter_map(|c| c.process.as_ref());
        of_sockets.chain(of_connections).map(|(pid, _)| *pid).collect()
    }
}
