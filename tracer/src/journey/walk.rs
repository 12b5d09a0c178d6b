//! What is remembered of a journey while its events are read: where the packet is, and what is not
//! closed yet.

use tracer_common::{Probe, event::NfDetail};

use super::{
    Dev, DropPoint, Fate, Frame, Gap, Hook, Hop, Names, Nat, Sources, Stage,
    conntracked::Conntracked,
};
use crate::{
    event::{Carrier, Event, Tuple},
    net::{Inum, NetworkState},
};

/// How the events of a journey come to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The kernel side said so.
    Seen,
    /// Nothing more came.
    Unseen,
}

/// Where the packet is, as far as its fate is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Somewhere in between.
    Moving,
    /// With a local protocol or a socket.
    Local,
    /// With the hardware, or with the program behind a tun device.
    Left,
}

/// A port of a bridge that the packet came in by.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) netns: Inum,
    pub(super) dev: Dev,
    pub(super) master: u32,
    pub(super) frame: Option<Frame>,
}

/// Reads the events of one journey.
pub(super) struct Walk<'a> {
    pub(super) state: &'a NetworkState,
    pub(super) names: &'a dyn Names,
    /// It answers another journey; stands in for conntrack's direction where that is unknown.
    pub(super) is_reply: bool,
    /// Where conntrack is known to look at every packet.
    pub(super) conntracked: &'a Conntracked,
    /// Not all probe points were attached all the time: what was not seen proves nothing.
    pub(super) is_thin: bool,
    /// It asks for a new TCP connection.
    pub(super) is_syn: bool,
    pub(super) hops: Vec<Hop>,
    pub(super) nat: Vec<Nat>,
    pub(super) gaps: Vec<Gap>,
    /// The followed packet's tuple when last seen.
    pub(super) tuple: Option<Tuple>,
    /// The outer packet's, while it is in a tunnel.
    pub(super) outer: Option<Tuple>,
    /// Hop of the last look at a tuple: what changed since then happened from there on.
    pub(super) observed_at: usize,
    /// That look was inside the hook of that hop, not behind it.
    pub(super) is_observed_inside: bool,
    pub(super) is_encap: bool,
    /// How many tunnels it is in.
    pub(super) tunnels: u16,
    /// The outermost of them.
    pub(super) carrier: Option<Carrier>,
    pub(super) port: Option<Port>,
    pub(super) traversal: Option<Traversal>,
    /// The bridge sends the frame out by every port.
    pub(super) is_flooded: bool,
    /// Time to live when last seen.
    pub(super) ttl: Option<u8>,
    /// `PREROUTING` has run for the bridged frame that is now going up.
    pub(super) has_bridge_prerouting: bool,
    /// The routing decision of this stay in a namespace.
    pub(super) routed: Option<usize>,
    pub(super) place: Place,
    pub(super) outcome: Option<(Fate, Option<DropPoint>)>,
    pub(super) tc: Option<usize>,
    pub(super) socket: Option<usize>,
}

/// A hook whose first function has run and whose last one has not been seen yet.
pub(super) struct Traversal {
    pub(super) hop: usize,
    pub(super) hook: Hook,
    pub(super) netns: Inum,
    pub(super) pf: u8,
    /// `br_netfilter` ran this hook already and takes the packet past it (`ip_sabotage_in`): not
    /// a traversal, unless the last function runs or the packet is dropped here.
    pub(super) is_shadow: bool,
}

impl Traversal {
    /// The event is about this one.
    pub(super) fn is(&self, e: &Event, d: &NfDetail) -> bool {
        Some(self.hook) == Hook::from_wire(d.hook) && (self.netns, self.pf) == (e.netns, d.pf)
    }
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        state: &'a NetworkState,
        names: &'a dyn Names,
        conntracked: &'a Conntracked,
        is_reply: bool,
    ) -> Self {
        Self {
            state,
            names,
            is_reply,
            conntracked,
            is_thin: false,
            is_syn: false,
            hops: Vec::new(),
            nat: Vec::new(),
            gaps: Vec::new(),
            tuple: None,
            outer: None,
            observed_at: 0,
            is_observed_inside: false,
            is_encap: false,
            tunnels: 0,
            carrier: None,
            port: None,
            traversal: None,
            is_flooded: false,
            ttl: None,
            has_bridge_prerouting: false,
            routed: None,
            place: Place::Moving,
            outcome: None,
            tc: None,
            socket: None,
        }
    }

    /// A hop of this event, to be completed.
    pub(super) fn hop(&self, e: &Event, stage: Stage) -> Hop {
        Hop {
            ktime_ns: e.ktime_ns,
            netns: e.netns,
            netns_name: self.state.netns_name(e.netns),
            ct: e.ct,
            connection: e.connection,
            is_encap: self.is_encap,
            len: e.len,
            mark: e.mark,
            sources: source(e.probe),
            ..Hop::at(stage)
        }
    }

    /// Names a device: by the configuration, else by what this journey has seen of it.
    pub(super) fn dev(&self, netns: Inum, ifindex: u32) -> Option<Dev> {
        if ifindex == 0 {
            return None;
        }
        let name = self
            .state
            .device(netns, ifindex)
            .map(|d| d.name.clone())
            .or_else(|| {
                let seen = self.hops.iter().filter(|h| h.netns == netns);
                seen.filter_map(|h| h.dev.as_ref())
                    .find(|d| d.ifindex == ifindex)
                    .map(|d| d.name.clone())
            })
            .unwrap_or_else(|| format!("if{ifindex}"));
        Some(Dev { ifindex, name })
    }
}

/// The probe does not look at headers that can be relied on.
pub(super) fn is_blind(probe: Probe) -> bool {
    matches!(
        probe,
        Probe::Kfree | Probe::Consume | Probe::Reused | Probe::CopyToUser | Probe::TcpSocket
    )
}

/// The address in 16 bytes of which IPv4 takes the first four.
pub(super) fn address(bytes: &[u8; 16], is_v6: bool) -> std::net::IpAddr {
    if is_v6 { (*bytes).into() } else { [bytes[0], bytes[1], bytes[2], bytes[3]].into() }
}

/// The family of a probe.
pub(super) fn source(probe: Probe) -> Sources {
    match probe {
        Probe::NfFirst | Probe::NfLast => Sources::NF,
        Probe::TcIngressFirst
        | Probe::TcIngressLast
        | Probe::TcEgressFirst
        | Probe::TcEgressLast => Sources::TC,
        Probe::CgSocket => Sources::CG,
        Probe::HookEnter
        | Probe::HookExit
        | Probe::HookStep
        | Probe::Origin
        | Probe::Output
        | Probe::Flood
        | Probe::IcmpGlue => Sources::FN,
        Probe::Rx
        | Probe::Queue
        | Probe::Xmit
        | Probe::Kfree
        | Probe::Consume
        | Probe::Fib
        | Probe::Fib6
        | Probe::Neigh
        | Probe::IcmpSend
        | Probe::TcpSocket
        | Probe::CopyToUser
        | Probe::Reused => Sources::TP,
    }
}
