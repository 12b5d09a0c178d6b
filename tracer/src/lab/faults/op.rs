//! The operations that faults are made of, as data. Each can be said as a command
//! ([`super::say`]), carried out ([`super::apply`]) and undone, again by operations.

use super::super::addr::Mac;
use super::super::netlink::{Hook, LinkChange};
use super::super::server::{Kind, Proto};
use super::super::topology::{LinkKind, Topology};

/// One change to one host of a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Link {
        host: &'static str,
        dev: &'static str,
        change: LinkChange<'static>,
    },
    DelLink {
        host: &'static str,
        dev: &'static str,
    },
    /// Makes a device of the topology anew, with its addresses, as CNI ADD or flannel would.
    Remake {
        host: &'static str,
        dev: &'static str,
    },
    /// Makes `flannel.1` anew with other parameters.
    Vxlan {
        host: &'static str,
        vni: u32,
        local: &'static str,
        port: u16,
    },
    /// A macvlan (mode bridge) above `parent` that lies in another host.
    AddMacvlan {
        host: &'static str,
        parent: &'static str,
        into: &'static str,
        dev: &'static str,
    },
    /// A bridge port whose other end is left down.
    AddOrphan {
        host: &'static str,
        dev: &'static str,
        peer: (&'static str, &'static str),
        master: &'static str,
    },
    AddAddress {
        host: &'static str,
        dev: &'static str,
        cidr: &'static str,
    },
    DelAddress {
        host: &'static str,
        dev: &'static str,
        cidr: &'static str,
    },
    /// Adds the route or takes the place of the one to that destination.
    SetRoute {
        host: &'static str,
        route: &'static str,
    },
    DelRoute {
        host: &'static str,
        route: &'static str,
    },
    AddRule {
        host: &'static str,
        from: &'static str,
        table: u32,
        priority: u32,
    },
    DelRule {
        host: &'static str,
        from: &'static str,
        table: u32,
        priority: u32,
    },
    SetNeighbour {
        host: &'static str,
        dev: &'static str,
        ip: &'static str,
        mac: Mac,
    },
    DelNeighbour {
        host: &'static str,
        dev: &'static str,
        ip: &'static str,
    },
    /// Deletes the entry that leads to this VTEP's node.
    DelFdb {
        host: &'static str,
        dev: &'static str,
        remote: &'static str,
    },
    /// Writes all routes and permanent neighbour and fdb entries of a host as they were built.
    Routes {
        host: &'static str,
    },
    Sysctl {
        host: &'static str,
        key: &'static str,
        value: &'static str,
        healthy: &'static str,
    },
    /// `iptables` of the lab's backend; the words as typed in a shell.
    Iptables {
        host: &'static str,
        words: &'static str,
    },
    /// `iptables` of the backend that the lab does not use, and the words that take it back.
    OtherIptables {
        host: &'static str,
        words: &'static str,
        undo: &'static str,
    },
    /// Writes all iptables rules of a host as they were built.
    Rules {
        host: &'static str,
        has_raw: bool,
    },
    /// A table of nftables, beside those of iptables.
    AddNft {
        host: &'static str,
        table: &'static str,
        chain: &'static str,
        rule: &'static str,
    },
    DelNft {
        host: &'static str,
        table: &'static str,
    },
    /// A chain of rules for others, in front of everybody's way, as kube-proxy writes them for
    /// Services without endpoints.
    RuleList {
        host: &'static str,
        chain: &'static str,
        count: u16,
    },
    AddIpset {
        host: &'static str,
        name: &'static str,
        member: &'static str,
    },
    DelIpset {
        host: &'static str,
        name: &'static str,
    },
    Offload {
        host: &'static str,
        dev: &'static str,
        what: Offload,
        on: bool,
    },
    /// The queueing discipline of a device, in the words of `tc qdisc replace dev DEV root`.
    Qdisc {
        host: &'static str,
        dev: &'static str,
        words: &'static str,
        healthy: &'static str,
    },
    /// Puts a program on a device that drops every packet, or passes it.
    Program {
        host: &'static str,
        dev: &'static str,
        hook: Hook,
        on: bool,
    },
    Resolver {
        host: &'static str,
        nameserver: &'static str,
    },
    /// The search list of a host's `resolv.conf`.
    Search {
        host: &'static str,
        domains: &'static str,
    },
    /// Changes what a host's server on a port does.
    Serve {
        host: &'static str,
        proto: Proto,
        port: u16,
        edit: Edit,
    },
    /// Serves what the lab was built to serve.
    ServeAll,
    /// Datagrams that nobody waits for an answer to.
    Send {
        host: &'static str,
        to: &'static str,
        sport: u16,
        times: u8,
    },
    /// Connections, held together for a moment.
    Connect {
        host: &'static str,
        to: &'static str,
        times: u8,
    },
    ForgetConnections {
        host: &'static str,
    },
}

/// A change to the servers of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    Stop,
    /// Listens on 127.0.0.1 only.
    Loopback,
    Become(Kind),
}

/// What a device does on behalf of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// TCP segmentation and generic segmentation: with it on, a veth passes 64 kB packets.
    Segmentation,
    Checksum,
}

pub(super) const fn link(host: &'static str, dev: &'static str, change: LinkChange<'static>) -> Op {
    Op::Link { host, dev, change }
}

pub(super) const fn iptables(host: &'static str, words: &'static str) -> Op {
    Op::Iptables { host, words }
}

/// A sysctl: the value that breaks, then the healthy one.
pub(super) const fn sysctl(
    host: &'static str,
    key: &'static str,
    value: &'static str,
    healthy: &'static str,
) -> Op {
    Op::Sysctl { host, key, value, healthy }
}

pub(super) const fn set_route(host: &'static str, route: &'static str) -> Op {
    Op::SetRoute { host, route }
}

pub(super) const fn del_route(host: &'static str, route: &'static str) -> Op {
    Op::DelRoute { host, route }
}

pub(super) const fn serve_tcp(host: &'static str, port: u16, edit: Edit) -> Op {
    Op::Serve { host, proto: Proto::Tcp, port, edit }
}

pub(super) const fn serve_udp(host: &'static str, port: u16, edit: Edit) -> Op {
    Op::Serve { host, proto: Proto::Udp, port, edit }
}

pub(super) const fn no_offload(host: &'static str, what: Offload) -> Op {
    Op::Offload { host, dev: "eth0", what, on: false }
}

/// What undoes `ops`, the last first and each only once.
pub(super) fn undo(ops: &[Op], topology: &Topology) -> Vec<Op> {
    let mut undone = Vec::new();
    for op in ops.iter().rev() {
        for back in op.undo(topology) {
            // Writing the same thing anew is right only after everything that it depends on.
            undone.retain(|earlier| *earlier != back);
            undone.push(back);
        }
    }
    // A server takes over the settings that it finds when it starts.
    undone.sort_by_key(|op| *op == Op::ServeAll);
    undone
}

impl Op {
    fn undo(self, topology: &Topology) -> Vec<Self> {
        match self {
            Self::Link { host, dev, change } => undo_link(host, dev, change, topology),
            Self::DelLink { host, dev } => vec![Self::Remake { host, dev }],
            Self::Vxlan { host, .. } => vec![Self::Remake { host, dev: "flannel.1" }],
            Self::AddMacvlan { into, dev, .. } => vec![Self::DelLink { host: into, dev }],
            Self::AddOrphan { host, dev, .. } => vec![Self::DelLink { host, dev }],
            Self::AddAddress { host, dev, cidr } => {
                vec![Self::DelAddress { host, dev, cidr }, Self::Routes { host }]
            }
            Self::DelAddress { host, dev, cidr } => {
                vec![Self::AddAddress { host, dev, cidr }, Self::Routes { host }]
            }
            // The lab's own route to that destination comes back by `Routes`.
            Self::SetRoute { host, route } => {
                vec![Self::DelRoute { host, route }, Self::Routes { host }]
            }
            Self::DelRoute { host, .. } | Self::DelFdb { host, .. } => vec![Self::Routes { host }],
            Self::AddRule { host, from, table, priority } => {
                vec![Self::DelRule { host, from, table, priority }]
            }
            Self::SetNeighbour { host, dev, ip, .. } => {
                vec![Self::DelNeighbour { host, dev, ip }, Self::Routes { host }]
            }
            Self::DelNeighbour { host, .. } => vec![Self::Routes { host }],
            Self::Sysctl { host, key, value, healthy } => {
                vec![Self::Sysctl { host, key, value: healthy, healthy: value }]
            }
            Self::Iptables { host, words } => {
                vec![Self::Rules { host, has_raw: words.starts_with("-t raw ") }]
            }
            Self::OtherIptables { host, words, undo } => {
                vec![Self::OtherIptables { host, words: undo, undo: words }]
            }
            Self::AddNft { host, table, .. } => vec![Self::DelNft { host, table }],
            Self::RuleList { host, .. } => vec![Self::Rules { host, has_raw: false }],
            Self::Qdisc { host, dev, words, healthy } => {
                vec![Self::Qdisc { host, dev, words: healthy, healthy: words }]
            }
            Self::AddIpset { host, name, .. } => vec![Self::DelIpset { host, name }],
            Self::Offload { host, dev, what, on } => {
                vec![Self::Offload { host, dev, what, on: !on }]
            }
            Self::Program { host, dev, hook, on } => {
                vec![Self::Program { host, dev, hook, on: !on }]
            }
            Self::Resolver { host, .. } => topology
                .resolvers
                .iter()
                .filter(|resolver| resolver.host == host)
                .map(|resolver| Self::Resolver { host, nameserver: resolver.nameserver })
                .collect(),
            Self::Search { host, .. } => topology
                .resolvers
                .iter()
                .filter(|resolver| resolver.host == host)
                .map(|resolver| Self::Search { host, domains: resolver.search })
                .collect(),
            Self::Serve { .. } => vec![Self::ServeAll],
            Self::Send { .. } | Self::Connect { .. } | Self::ForgetConnections { .. } => vec![],
            // These only ever undo.
            Self::Remake { .. }
            | Self::DelRule { .. }
            | Self::Routes { .. }
            | Self::Rules { .. }
            | Self::DelNft { .. }
            | Self::DelIpset { .. }
            | Self::ServeAll => vec![],
        }
    }
}

fn undo_link(
    host: &'static str,
    dev: &'static str,
    change: LinkChange<'static>,
    topology: &Topology,
) -> Vec<Op> {
    let built = topology.links.iter().find(|l| l.ends().any(|end| end == (host, dev)));
    let is_own = built.is_some_and(|l| (l.host, l.dev) == (host, dev));
    let set = |change| Op::Link { host, dev, change };
    match change {
        // A device that goes down takes its routes along.
        LinkChange::Down => vec![set(LinkChange::Up), Op::Routes { host }],
        // Only devices that the lab is built without are set up, and those go again.
        LinkChange::Up => vec![],
        LinkChange::Mtu(_) => built.map(|l| set(LinkChange::Mtu(l.mtu))).into_iter().collect(),
        LinkChange::NoMaster | LinkChange::Master(_) => {
            let Some(link) = built.filter(|_| is_own) else { return vec![] };
            let master = link.master.map_or(LinkChange::NoMaster, LinkChange::Master);
            vec![set(master), set(LinkChange::Hairpin(link.has_hairpin))]
        }
        LinkChange::Hairpin(on) => vec![set(LinkChange::Hairpin(!on))],
        LinkChange::Isolated(on) => vec![set(LinkChange::Isolated(!on))],
        LinkChange::Forwarding(on) => vec![set(LinkChange::Forwarding(!on))],
        LinkChange::Address(_) => {
            let mac =
                built.and_then(|l| l.mac.filter(|_| matches!(l.kind, LinkKind::Vxlan { .. })));
            let Some(mac) = mac else { return vec![] };
            // The kernel drops a device's neighbours when its address changes.
            vec![set(LinkChange::Address(mac)), Op::Routes { host }]
        }
    }
}
