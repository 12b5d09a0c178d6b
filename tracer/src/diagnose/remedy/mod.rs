//! Remedies: the change of configuration that heals, as a value.
//!
//! A rule of diagnosis proposes [`Remedy`]s; each is written as an argument vector (`words`,
//! `rules`), applied to a copy of the configuration (`world`) and walked again (`prove`): what
//! is proved there is printed as a command, the rest as advice. Nothing here runs anything.

mod allow;
mod argv;
mod beside;
mod conclude;
mod ebtables;
mod path;
mod prove;
mod rules;
mod words;
mod world;

pub(crate) use allow::{allow, locate, main_first, past};
pub(crate) use argv::argv;
pub use argv::{Argv, Foreign, Word, clean, full, quote};
pub use conclude::{Command, conclude, conclude_working};
pub use path::{Hop, Path, everything};
pub(crate) use rules::identifier;
pub use rules::{ChainAt, Edit, Rules, Spec, Spot, interface};
pub use words::{command, sysctl_name};

use std::net::IpAddr;

use crate::net::detail::{Prefix, RoutingRule, XfrmPolicy};
use crate::net::{Inum, Mac, Vxlan};

/// A change of one namespace's configuration. Devices go by name: some are made by the remedy
/// before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Sets a setting, by its path below `/proc/sys/net`.
    Sysctl { path: String, value: String },
    /// Changes a device.
    Link { dev: String, set: Link },
    /// Changes a port of a bridge.
    Port { dev: String, set: Port },
    /// Makes a device.
    AddLink { dev: String, link: NewLink },
    /// Deletes a device.
    DelLink { dev: String },
    /// Takes a port of a bridge (or the bridge, `is_self`) into a VLAN; untagged and as its PVID,
    /// unless `is_tagged`.
    JoinVlan { dev: String, vid: u16, is_tagged: bool, is_self: bool },
    /// Gives an address; at once, without asking who else has it, where `no_dad`.
    AddAddr { dev: String, net: Prefix, no_dad: bool },
    /// Takes an address away.
    DelAddr { dev: String, net: Prefix },
    /// Adds a route, or puts it in the place of the one to the same destination.
    Route(Path),
    /// Deletes a route.
    DelRoute(Path),
    /// Adds a policy rule.
    AddRule(RoutingRule),
    /// Deletes a policy rule.
    DelRule(RoutingRule),
    /// A permanent neighbour entry.
    Neigh { dev: String, addr: IpAddr, mac: Mac },
    /// Deletes a neighbour entry.
    DelNeigh { dev: String, addr: IpAddr },
    /// Answers for an address that lies behind it (IPv6).
    ProxyNeigh { dev: String, addr: IpAddr },
    /// Sends by a port of a bridge that snoops what is for this multicast group.
    Join { bridge: String, port: String, group: IpAddr },
    /// Forgets who has this one address, on every device.
    ForgetNeigh { addr: IpAddr },
    /// Changes a forwarding database.
    Fdb { dev: String, mac: Mac, edit: Fdb },
    /// Changes a firewall.
    Rules(Rules),
    /// Deletes a tc filter.
    DelFilter { dev: String, is_ingress: bool, kind: FilterKind },
    /// Deletes the queueing discipline of a device.
    DelQueue { dev: String },
    /// Deletes an IPsec policy.
    DelXfrm(XfrmPolicy),
    /// Lets conntrack forget connections that it leads to an end of which no rule knows any more.
    Forget { proto: &'static str, to: (IpAddr, u16), now: IpAddr },
    /// Switches an offload, by the kernel's name for it.
    Offload { dev: String, feature: &'static str, on: bool },
    /// Writes into a `resolv.conf` that is this namespace's own.
    Resolver { file: String, edit: Resolv },
}

/// What to set of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Administratively up.
    Up,
    /// A port of this bridge.
    Master(String),
    /// Bytes.
    Mtu(u32),
    /// Link-layer address.
    Address(Mac),
    /// Asks for neighbours and answers.
    Arp,
    /// Without its XDP program, which was attached in this mode (`xdpgeneric`, …).
    NoXdp(&'static str),
    /// Of a bridge: without the spanning tree protocol.
    NoStp,
    /// Of a bridge: VLANs are not told apart.
    NoVlanFiltering,
    /// Of a macvlan: talks to its siblings.
    MacvlanBridge,
    /// Of a VXLAN device: where what it has no entry for is sent.
    VxlanRemote { vni: u32, remote: IpAddr },
}

/// What to set of a port of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Frames may leave by the port that they came in by.
    Hairpin,
    /// State forwarding.
    Forwarding,
    /// Talks to isolated ports too.
    NotIsolated,
    /// Takes frames from any address.
    Unlocked,
    /// Passes on what is for addresses that are not known.
    Flood,
    /// Passes on broadcasts.
    BroadcastFlood,
    /// Passes on multicasts.
    MulticastFlood,
}

/// A device to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewLink {
    /// A veth pair; the peer may be in another namespace.
    Veth { peer: String, there: Option<Inum>, mtu: Option<u32> },
    /// A VXLAN tunnel end.
    Vxlan { mac: Option<Mac>, mtu: u32, lower: Option<String>, vxlan: Vxlan },
    /// A subinterface.
    Vlan { lower: String, vid: u16 },
    /// A `macvlan` in mode bridge, or an `ipvlan` in mode l2.
    Stacked { lower: String, is_ipvlan: bool },
}

/// What to change of a forwarding database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fdb {
    /// Of a tunnel: behind this end.
    Behind(IpAddr),
    /// Of a tunnel: behind this end as well.
    AlsoBehind(IpAddr),
    /// Of a tunnel: not behind this end.
    NotBehind(IpAddr),
    /// Of a bridge: not behind this port.
    Forget,
    /// Of a bridge: its own address.
    Own,
}

/// What a tc filter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterKind {
    /// A program attached by tcx.
    Tcx,
    /// A filter of this preference.
    Filter(u32),
}

/// What to change of a `resolv.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolv {
    /// One more name server.
    AddServer(IpAddr),
    /// Another one in the place of one.
    ReplaceServer { from: IpAddr, to: IpAddr },
    /// A search list.
    Search(Vec<String>),
}

/// What heals, or what somebody has to do who knows more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A change of this namespace.
    Do(Inum, Remedy),
    /// A sentence.
    Advise(String),
}

impl Step {
    /// The remedy, if it is one.
    #[must_use]
    pub fn remedy(&self) -> Option<&Remedy> {
        match self {
            Self::Do(_, remedy) => Some(remedy),
            Self::Advise(_) => None,
        }
    }
}

/// Advice.
impl From<String> for Step {
    fn from(text: String) -> Self {
        Self::Advise(text)
    }
}

/// Advice.
impl From<&str> for Step {
    fn from(text: &str) -> Self {
        Self::Advise(text.to_owned())
    }
}

/// The command of a change of a firewall, inside of its namespace.
#[must_use]
pub fn command_of(remedy: &Remedy) -> Option<Argv> {
    match remedy {
        Remedy::Rules(change) => Some(rules::command(change)),
        _ => None,
    }
}

impl Remedy {
    /// In this namespace.
    #[must_use]
    pub fn at(self, netns: Inum) -> Step {
        Step::Do(netns, self)
    }

    /// A device goes up.
    #[must_use]
    pub fn up(dev: &str) -> Self {
        Self::link(dev, Link::Up)
    }

    /// A device is changed.
    #[must_use]
    pub fn link(dev: &str, set: Link) -> Self {
        Self::Link { dev: dev.to_owned(), set }
    }

    /// A port is changed.
    #[must_use]
    pub fn port(dev: &str, set: Port) -> Self {
        Self::Port { dev: dev.to_owned(), set }
    }

    /// A setting is set.
    #[must_use]
    pub fn sysctl(path: &str, value: &str) -> Self {
        Self::Sysctl { path: path.to_owned(), value: value.to_owned() }
    }

    /// An address is given.
    #[must_use]
    pub fn add_addr(dev: &str, net: Prefix) -> Self {
        Self::AddAddr { dev: dev.to_owned(), net, no_dad: false }
    }

    /// An address is taken away.
    #[must_use]
    pub fn del_addr(dev: &str, net: Prefix) -> Self {
        Self::DelAddr { dev: dev.to_owned(), net }
    }

    /// A forwarding database is changed.
    #[must_use]
    pub fn fdb(dev: &str, mac: Mac, edit: Fdb) -> Self {
        Self::Fdb { dev: dev.to_owned(), mac, edit }
    }
}

/// What is printed of steps that are all proved.
#[cfg(test)]
pub(crate) fn lines(state: &crate::net::NetworkState, steps: &[Step]) -> Vec<String> {
    let line = |step: &Step| match step {
        Step::Advise(text) => text.clone(),
        Step::Do(netns, remedy) => command(state, *netns, remedy).unwrap().line().unwrap(),
    };
    steps.iter().map(line).collect()
}
