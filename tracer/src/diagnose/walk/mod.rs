//! The walk: which way a packet has to go according to the node's configuration, and everything
//! on that way that stops it.
//!
//! It answers what a trace cannot: why there was silence. Where a journey ends in a failed address
//! resolution, or leaves the node and nothing comes back, the next hop that should have come is
//! computed here, in the kernel's order, and each obstacle found on the way is kept together with
//! the fact that makes it one. A walk goes on behind an obstacle as if it were healed, so that
//! independent causes are all found.
//!
//! Pure: no I/O, no clock, no knowledge of what was traced. What the configuration does not say
//! ([`Detail::unread`](crate::net::detail::Detail::unread)) makes an obstacle at most `MayStop`.

use std::collections::BTreeSet;
use std::net::IpAddr;

mod address;
mod arp;
mod bridge;
mod conf;
mod deliver;
mod enter;
mod flight;
mod hole;
mod hooks;
mod input;
mod l2;
mod model;
mod neigh;
mod obstacle;
mod reply;
mod route;
mod siblings;
mod snoop;
mod stack;
#[cfg(test)]
pub(super) mod tests;
mod tunnel;
mod unheard;
mod unplugged;
mod verdict;
mod vlan;
mod walker;
mod xmit;
mod zone;

pub use model::{Choice, End, How, Leg, Nat, Step, Track, Walk, What};
pub use obstacle::{Effect, Flood, Obstacle, ObstacleKind, Place, RuleRef};
pub use reply::walk_reply;
pub(super) use verdict::reference;
pub use zone::Zone;

use conf::{Conf, Stacked};
use walker::{Next, Walker};

use crate::event::Tuple;
use crate::net::{Inum, NetworkState};

/// A packet to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Namespace of the sender.
    pub from: Inum,
    /// Source address, when the sender is bound to one; else the kernel selects it.
    pub src: Option<IpAddr>,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol number.
    pub proto: u8,
    /// Source port, or the ICMP identifier; 0 when it does not matter.
    pub sport: u16,
    /// Destination port, or the ICMP identifier.
    pub dport: u16,
    /// Length of the IP packet in bytes.
    pub len: u32,
    /// "Don't fragment" is set (always so for IPv6).
    pub df: bool,
    /// `skb->mark` as the socket sets it.
    pub mark: u32,
    /// It answers another packet: conntrack has seen the other direction.
    pub is_reply: bool,
    /// Length of what answers it, not to be cut, where that is longer: a full segment of the
    /// connection that it begins.
    pub answer: Option<u32>,
    /// It was not made in `from`, but comes in there from beyond what is known.
    pub entry: Option<Entry>,
}

/// Where a packet comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// By this device.
    pub dev: u32,
    /// Inside of a tunnel: the outer packet, and the VXLAN network identifier.
    pub tunnel: Option<(Tuple, u32)>,
}

impl Ask {
    /// An ICMP echo request of `ping`'s default size.
    #[must_use]
    pub fn ping(from: Inum, dst: IpAddr) -> Self {
        let (proto, len) = if dst.is_ipv4() { (1, 84) } else { (58, 104) };
        Self { proto, len, df: true, sport: 1, dport: 1, ..Self::to(from, dst) }
    }

    /// The first segment of a TCP connection.
    #[must_use]
    pub fn tcp(from: Inum, dst: IpAddr, dport: u16) -> Self {
        Self { proto: 6, len: 60, df: true, sport: 40_000, dport, ..Self::to(from, dst) }
    }

    /// A small UDP datagram.
    #[must_use]
    pub fn udp(from: Inum, dst: IpAddr, dport: u16) -> Self {
        Self { proto: 17, len: 64, sport: 40_000, dport, ..Self::to(from, dst) }
    }

    /// A packet of this protocol and these ports, of a small size; its source is left open.
    #[must_use]
    pub fn like(from: Inum, tuple: &Tuple) -> Self {
        let ask = match tuple.proto.number() {
            1 | 58 => Self::ping(from, tuple.dst),
            6 => Self::tcp(from, tuple.dst, tuple.dport),
            proto => Self { proto, ..Self::udp(from, tuple.dst, tuple.dport) },
        };
        Self { sport: tuple.sport, ..ask }
    }

    fn to(from: Inum, dst: IpAddr) -> Self {
        Self {
            from,
            src: None,
            dst,
            proto: 0,
            sport: 0,
            dport: 0,
            len: 0,
            df: false,
            mark: 0,
            is_reply: false,
            answer: None,
            entry: None,
        }
    }
}

/// The namespaces whose configuration may be looked at (`--view`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope(Option<BTreeSet<Inum>>);

impl Scope {
    /// Everything that the state holds.
    #[must_use]
    pub fn everything() -> Self {
        Self(None)
    }

    /// Only these.
    #[must_use]
    pub fn only(netns: impl IntoIterator<Item = Inum>) -> Self {
        Self(Some(netns.into_iter().collect()))
    }

    /// May be looked at, if it is known at all.
    #[must_use]
    pub fn contains(&self, netns: Inum) -> bool {
        self.0.as_ref().is_none_or(|only| only.contains(&netns))
    }
}

/// The way of `ask`: the first of [`walks`].
#[must_use]
pub fn walk(state: &NetworkState, scope: &Scope, ask: &Ask) -> Walk {
    walks(state, scope, ask).into_iter().next().unwrap_or_else(|| Walk::nowhere(ask))
}

/// Every way that `ask` may take: one per endpoint of a Service, per next hop of a multipath
/// route, per rule that cannot be decided from configuration. Never empty; at most 32.
#[must_use]
pub fn walks(state: &NetworkState, scope: &Scope, ask: &Ask) -> Vec<Walk> {
    let stacked = Stacked::of(state, scope);
    let conf = Conf { state, scope, stacked: &stacked };
    let netns = ask.from;
    walker::every(|script| {
        if conf.detail(netns).is_none() {
            let why = format!("the configuration of {} was not read", state.netns_name(netns));
            return Walk { end: End::Unknown { why }, ..Walk::nowhere(ask) };
        }
        let mut walker = Walker::new(conf, ask, None, script);
        let first = match &ask.entry {
            Some(entry) => walker.enter(ask, entry),
            None => Next::Output { netns },
        };
        walker.run(first)
    })
}
