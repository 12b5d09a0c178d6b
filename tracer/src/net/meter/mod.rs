//! Figures that move while traffic runs: counters, queues, sockets, offloads of a few namespaces,
//! and what their processes may use of the processors. [`mod@super::inspect`] reads how things are
//! set up; this reads how they go, often enough to compare.
//!
//! Everything is asked on a thread inside the namespace. What cannot be read is absent: a figure
//! that is not there proves nothing. Nothing here changes the node.

mod classes;
mod connections;
mod cpu;
mod features;
mod programs;
mod queues;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::Mac;
use super::detail::Socket;
use super::inspect::sockets;
use super::inspect::wire::Netlink;
use super::inspect::{counters, neighbours};
use super::setns;
use super::state::{DeviceKind, Inum, Netns};

pub use super::inspect::sockets::Processes;
pub use classes::{Class, Steering};
pub use connections::{Connecting, Connection};
pub use cpu::{Cpu, Quota, cpus};
pub use features::{Feature, Features};
pub use programs::{Files, Taps, Tunnels, tunnels};
pub use queues::Queue;

/// A namespace to be read.
#[derive(Clone, Debug)]
pub struct Place {
    inum: Inum,
    path: PathBuf,
    devices: BTreeMap<u32, String>,
    has_bridge: bool,
    /// The programs behind its tunnel devices, by the device's name.
    tunnels: Tunnels,
}

impl Place {
    /// With the devices that it has now.
    #[must_use]
    pub fn new(netns: &Netns) -> Self {
        let devices = netns.devices.values().map(|d| (d.ifindex, d.name.clone())).collect();
        let has_bridge = netns.devices.values().any(|d| d.kind == DeviceKind::Bridge);
        let (inum, path) = (netns.inum, netns.path.clone());
        Self { inum, path, devices, has_bridge, tunnels: Tunnels::new() }
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

/// A bridge, an address, and the VLAN that it is in.
pub type Station = (u32, Mac, Option<u16>);

/// The figures of one namespace at one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// As [`Detail::counters`](super::detail::Detail::counters).
    pub counters: BTreeMap<String, u64>,
    /// Queueing disciplines but for those that only hold classifiers.
    pub queues: Vec<Queue>,
    /// The classes of those that have some.
    pub classes: Vec<Class>,
    /// What leads to them; read with everything.
    pub steering: Vec<Steering>,
    /// TCP connections that carry data.
    pub connections: Vec<Connection>,
    /// Connections that are asked for and not answered yet.
    pub connecting: Vec<Connecting>,
    /// Sockets that take what comes.
    pub sockets: Vec<Socket>,
    /// Offloads by interface index; read once, at the start.
    pub features: BTreeMap<u32, Features>,
    /// Behind which port each bridge has learned an address.
    pub stations: BTreeMap<Station, u32>,
    /// Packet sockets that take all that a device receives, by interface index (0: of every
    /// device); read with everything.
    pub taps: BTreeMap<u32, Taps>,
    /// By process that holds a socket here, or a tunnel device, unless only peaks were read; those of its cgroup and of
    /// the ones around it.
    pub quotas: BTreeMap<u32, Vec<Quota>>,
    /// By process that takes connections here; read with the quotas.
    pub files: BTreeMap<u32, Files>,
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
        if place.has_bridge {
            reading.stations = stations(&mut netlink);
        }
        reading.classes = classes::classes(&mut netlink, &reading.queues);
        if depth == Depth::All {
            reading.steering = classes::steering(&mut netlink, &reading.queues);
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
        reading.files = reading
            .accepting()
            .into_iter()
            .filter_map(|pid| Some((pid, programs::files(pid)?)))
            .collect();
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

fn stations(netlink: &mut Netlink) -> BTreeMap<Station, u32> {
    let all = neighbours::fdb(netlink).unwrap_or_default().into_iter();
    let learned = all.filter(|entry| entry.is_learned);
    learned.filter_map(|entry| Some(((entry.bridge?, entry.mac, entry.vlan), entry.dev))).collect()
}

impl Reading {
    /// The processes that take connections.
    fn accepting(&self) -> BTreeSet<u32> {
        let is_tcp = |s: &&Socket| i32::from(s.proto) == libc::IPPROTO_TCP;
        let all = self.sockets.iter().filter(is_tcp).filter_map(|s| s.process.as_ref());
        all.map(|(pid, _)| *pid).collect()
    }

    /// Each once, however many sockets it holds.
    fn holders(&self) -> BTreeSet<u32> {
        let of_sockets = self.sockets.iter().filter_map(|s| s.process.as_ref());
        let of_connections = self.connections.iter().filter_map(|c| c.process.as_ref());
        of_sockets.chain(of_connections).map(|(pid, _)| *pid).collect()
    }
}
