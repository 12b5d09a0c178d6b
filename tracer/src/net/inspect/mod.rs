//! Reads what namespaces are configured to do with packets: fills in [`Netns::detail`].
//!
//! Everything is asked on a thread inside the namespace, by sockets that are closed before it
//! leaves. What cannot be read is empty and said in [`Detail::unread`]; nothing here fails as a
//! whole, and nothing changes the node.

mod addresses;
pub mod conntrack;
pub(super) mod counters;
#[cfg(test)]
pub(crate) mod fuzz;
mod groups;
pub(super) mod neighbours;
mod nexthops;
pub(crate) mod nftables;
mod policies;
mod resolver;
pub(super) mod routes;
pub(super) mod sockets;
mod sysctls;
pub(super) mod tc;
mod vlans;
pub(super) mod wire;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;

use super::detail::{Detail, TcFilter};
use super::discover::Skipped;
use super::error::vanished;
use super::state::{DeviceKind, Inum, Netns, NetworkState};
use super::{setns, snapshot};
use crate::firewall;
use wire::Netlink;

/// Threads that read at once: the kernel answers most questions under one lock anyway.
const THREADS: usize = 4;

/// What to read of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct What {
    /// Routes and policy routing rules.
    pub routes: bool,
    /// Neighbours and forwarding databases.
    pub neighbours: bool,
    /// Settings.
    pub sysctls: bool,
    /// Counters, and how full connection tracking is.
    pub counters: bool,
    /// Sockets and their processes.
    pub sockets: bool,
    /// Classifiers.
    pub tc: bool,
    /// IPsec policies and IPVS servers.
    pub policies: bool,
    /// `resolv.conf`.
    pub resolver: bool,
    /// Rules of every flavour.
    pub firewall: bool,
}

impl What {
    /// What tells where packets go: for a running trace.
    pub const ROUTING: Self = Self { routes: true, ..Self::NOTHING };
    /// The same where there are bridges or tunnels.
    pub const FORWARDING: Self = Self { neighbours: true, ..Self::ROUTING };
    /// What the node's rules are.
    pub const FIREWALL: Self = Self { firewall: true, ..Self::NOTHING };
    /// What a map of the node shows.
    pub const TOPOLOGY: Self = Self { routes: true, neighbours: true, ..Self::NOTHING };
    /// Everything that may explain a failure.
    pub const ALL: Self = Self {
        routes: true,
        neighbours: true,
        sysctls: true,
        counters: true,
        sockets: true,
        tc: true,
        policies: true,
        resolver: true,
        firewall: true,
    };
    const NOTHING: Self = Self {
        routes: false,
        neighbours: false,
        sysctls: false,
        counters: false,
        sockets: false,
        tc: false,
        policies: false,
        resolver: false,
        firewall: false,
    };
}

/// Reads `what` of the `wanted` namespaces anew. Those that cannot be entered keep what they have
/// and are reported; those that are gone by now are not.
pub async fn inspect(
    state: &mut NetworkState,
    wanted: &dyn Fn(&Netns) -> bool,
    what: What,
) -> Vec<Skipped> {
    let jobs = jobs(state, wanted);
    match snapshot::blocking(move || Ok(read_all(jobs, what))).await {
        Ok(outcomes) => enter(state, outcomes),
        Err(error) => {
            let what = "the namespaces' configuration".to_owned();
            vec![Skipped { what, why: error.to_string() }]
        }
    }
}

/// [`inspect`] that blocks: for a few namespaces, where waiting costs more than it takes.
pub fn inspect_now(
    state: &mut NetworkState,
    wanted: &dyn Fn(&Netns) -> bool,
    what: What,
) -> Vec<Skipped> {
    let outcomes = read_all(jobs(state, wanted), what);
    enter(state, outcomes)
}

/// Counts the TCP connections of a namespace that was read that lead to `end`. Where they cannot be
/// counted, none are known.
pub fn count_connections(state: &mut NetworkState, inum: Inum, end: SocketAddr) {
    let Some(netns) = state.netns.get_mut(&inum) else { return };
    let count = || sockets::connections_to(&mut Netlink::open(libc::NETLINK_SOCK_DIAG)?, end);
    match (setns::run_in_inum(&netns.path, inum, count), &mut netns.detail) {
        (Ok(count), Some(detail)) => _ = detail.connections.insert(end, count),
        (Err(error), _) => log::debug!("connections of {} to {end}: {error}", netns.name),
        (Ok(_), None) => {}
    }
}

fn jobs(state: &NetworkState, wanted: &dyn Fn(&Netns) -> bool) -> Vec<Job> {
    state.netns.values().filter(|n| wanted(n)).map(Job::new).collect()
}

fn enter(state: &mut NetworkState, outcomes: Vec<Outcome>) -> Vec<Skipped> {
    let mut skipped = Vec::new();
    for (job, outcome) in outcomes {
        match outcome {
            Ok(detail) => {
                if let Some(netns) = state.netns.get_mut(&job.inum) {
                    netns.detail = Some(crate::net::Shared::new(detail));
                }
            }
            Err(error) if vanished(&error) => {}
            Err(error) => skipped.push(Skipped {
                what: format!("the configuration of network namespace {}", job.name),
                why: error.to_string(),
            }),
        }
    }
    skipped
}

/// A namespace to read.
struct Job {
    inum: Inum,
    name: String,
    path: PathBuf,
    devices: BTreeMap<u32, String>,
    has_bridge: bool,
}

impl Job {
    fn new(netns: &Netns) -> Self {
        Self {
            inum: netns.inum,
            name: netns.name.clone(),
            path: netns.path.clone(),
            devices: netns.devices.values().map(|d| (d.ifindex, d.name.clone())).collect(),
            has_bridge: netns.devices.values().any(|d| d.kind == DeviceKind::Bridge),
        }
    }
}

/// What is looked up once for all namespaces.
struct Shared {
    processes: sockets::Processes,
    pids: resolver::Pids,
}

type Outcome = (Job, std::io::Result<Detail>);

fn read_all(jobs: Vec<Job>, what: What) -> Vec<Outcome> {
    let shared = Shared {
        processes: if what.sockets { sockets::processes() } else { BTreeMap::new() },
        pids: if what.resolver { resolver::pids() } else { BTreeMap::new() },
    };
    let threads = THREADS.min(jobs.len());
    let queue = Mutex::new(jobs);
    let work = || {
        let mut done = Vec::new();
        // Nobody panics while holding the lock.
        while let Some(job) = queue.lock().ok().and_then(|mut queue| queue.pop()) {
            let read = || Ok(read_here(&job, what, &shared));
            let outcome = setns::run_in_inum(&job.path, job.inum, read);
            done.push((job, outcome));
        }
        done
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    })
}

/// Reads the calling thread's namespace.
fn read_here(job: &Job, what: What, shared: &Shared) -> Detail {
    let mut detail = Detail::default();
    match Netlink::open(libc::NETLINK_ROUTE) {
        Ok(mut netlink) => read_route_family(&mut netlink, job, what, &mut detail),
        Err(error) => detail.note("routes, neighbours and classifiers", error),
    }
    if what.sysctls {
        detail.sysctls = sysctls::read(job.devices.values().map(String::as_str));
    }
    if what.counters {
        counters::protocols(&mut detail.counters);
        detail.conntrack = conntrack_fill();
        // Where nothing tracks, asking would make the kernel load what does.
        if detail.conntrack.is_some()
            && let Err(error) = counters::conntrack(&mut detail.counters)
        {
            detail.note("connection tracking's counters", error);
        }
    }
    if what.sockets {
        match Netlink::open(libc::NETLINK_SOCK_DIAG) {
            Ok(mut netlink) => {
                detail.sockets =
                    sockets::sockets(&mut netlink, &shared.processes, &mut detail.unread);
            }
            Err(error) => detail.note("sockets", error),
        }
    }
    if what.policies {
        detail.xfrm = detail.take("IPsec policies", policies::xfrm());
        detail.ipvs = detail.take("IPVS servers", policies::ipvs());
    }
    if what.resolver {
        let pids = shared.pids.get(&job.inum).map_or(&[][..], Vec::as_slice);
        detail.resolver = detail.take("resolv.conf", resolver::read(&job.path, pids));
        detail.hosts = resolver::hosts(&job.path, pids);
    }
    if what.firewall {
        detail.firewall = firewall::read_here();
    }
    detail
}

fn read_route_family(netlink: &mut Netlink, job: &Job, what: What, detail: &mut Detail) {
    if what.routes {
        detail.v6_addresses = addresses::states();
        detail.routes = detail.take("routes", routes::routes(netlink));
        nexthops::fill(netlink, &mut detail.routes);
        detail.rules = detail.take("policy routing rules", routes::rules(netlink));
    }
    if what.neighbours {
        detail.neighbours = detail.take("neighbours", neighbours::neighbours(netlink));
        detail.fdb = detail.take("forwarding databases", neighbours::fdb(netlink));
        if job.has_bridge {
            detail.vlans = detail.take("VLANs of bridges", vlans::vlans(netlink).map(Some));
            detail.groups = detail.take("multicast groups", groups::groups(netlink).map(Some));
        }
    }
    if what.tc {
        detail.tc = detail.take("classifiers", tc::filters(netlink));
        detail.tc.retain(|filter| !crate::bpf::is_tracers(filter));
        detail.tc.extend(crate::bpf::classifiers_here(&job.devices));
    }
    if what.counters
        && let Err(error) = counters::devices(netlink, &job.devices, &mut detail.counters)
            .and_then(|()| counters::queues(netlink, &job.devices, &mut detail.counters))
    {
        detail.note("devices' counters", error);
    }
}

/// The classifiers and shapers of the calling thread's namespace, without tcx programs.
pub(crate) fn filters_here() -> io::Result<Vec<TcFilter>> {
    tc::filters(&mut Netlink::open(libc::NETLINK_ROUTE)?)
}

/// The virtual servers of the calling thread's namespace.
pub(crate) fn virtual_servers_here() -> io::Result<Vec<crate::net::detail::IpvsService>> {
    policies::ipvs()
}

/// Entries and their limit.
fn conntrack_fill() -> Option<(u64, u64)> {
    let number = |name: &str| {
        let file = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    };
    Some((number("count")?, number("max")?))
}

impl Detail {
    fn note(&mut self, what: &str, why: impl Display) {
        self.unread.push(format!("{what} cannot be read: {why}"));
    }

    fn take<T: Default>(&mut self, what: &str, read: std::io::Result<T>) -> T {
        read.unwrap_or_else(|error| {
            self.note(what, error);
            T::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_own_namespace_tells_everything() {
        let (mut state, _) = snapshot::take().await.unwrap();
        let own = state.own;
        let skipped = inspect(&mut state, &|netns| netns.inum == own, What::ALL).await;
        assert_eq!(skipped, []);
        let detail = state.netns[&own].detail.as_ref().unwrap();
        assert!(detail.rules.iter().any(|rule| !rule.is_v6 && rule.priority == 0));
        let loopback = ("127.0.0.0".parse().unwrap(), 8);
        assert!(detail.routes.iter().any(|route| route.dst == loopback && route.table == 255));
        assert!(detail.sysctls.contains_key("ipv4/conf/lo/rp_filter"));
        assert!(detail.counters.contains_key("if.lo.rx_packets"));
        assert_eq!(detail.unread, Vec::<String>::new());
        let has_file = std::path::Path::new("/etc/resolv.conf").exists();
        assert_eq!(detail.resolver.is_some(), has_file);
        let others = state.netns.values().filter(|netns| netns.inum != own);
        assert!(others.into_iter().all(|netns| netns.detail.is_none()));
    }
}
