//! A walk and its steps.

use std::net::IpAddr;

use super::{Ask, Obstacle, Zone, obstacle::RuleRef};
use crate::event::{Proto, Tuple};
use crate::journey::{Hook, NatKind};
use crate::net::detail::{Route, RoutingRule, Socket};
use crate::net::{Inum, Mac};

/// One way that a packet may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// What was asked.
    pub ask: Ask,
    /// The packet as it was first sent: the source that was selected, for example.
    pub tuple: Tuple,
    /// In order.
    pub steps: Vec<Step>,
    /// How it ends, with all obstacles taken as healed except where none of them can be walked
    /// past: see [`Walk::stopped_at`] for what really happens.
    pub end: End,
    /// Translations, in order.
    pub nat: Vec<Nat>,
    /// What this way chose where there were several.
    pub choices: Vec<Choice>,
    /// What conntrack knows in each namespace that it came through.
    pub tracks: Vec<Track>,
}

/// A connection as the conntrack of one namespace has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// Where.
    pub netns: Inum,
    /// As the first packet came to the namespace.
    pub orig: Tuple,
    /// As it left it; an answer is its reverse.
    pub now: Tuple,
    /// Conntrack sees it (no `NOTRACK`).
    pub is_tracked: bool,
    /// The rule that keeps conntrack from seeing it.
    pub untracked: Option<RuleRef>,
    /// The zone that it is kept in.
    pub zone: Zone,
}

/// A place where a packet may go several ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Step at which it was made.
    pub step: usize,
    /// The alternative taken, from 0, and how many there are.
    pub taken: (usize, usize),
    /// What was chosen, for people: `10.244.1.3:8080`, `via 10.0.0.1`.
    pub text: String,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where.
    pub netns: Inum,
    /// Input device, or the device that it concerns.
    pub dev: Option<u32>,
    /// Output device, once it is decided.
    pub out_dev: Option<u32>,
    /// What happens.
    pub what: What,
    /// The packet as it is after this step; inside a tunnel, the outer one.
    pub tuple: Tuple,
    /// What is in the way here.
    pub obstacles: Vec<Obstacle>,
}

/// What happens at a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Made by a process (or by the kernel, for an answer).
    Socket,
    /// Where it goes was looked up.
    Route {
        /// The route, `None` when there is none.
        route: Option<Box<Route>>,
        /// The policy rule that led to it.
        rule: Option<Box<RoutingRule>>,
        /// The next hop's address: the gateway, or the destination itself.
        next_hop: Option<IpAddr>,
        /// For a packet that came in, not for one made here.
        is_input: bool,
    },
    /// A netfilter hook. `is_bridged`: on behalf of a bridge (`br_netfilter`, or bridge rules).
    Hook {
        /// Which.
        hook: Hook,
        /// Rules that held, in order, with those that jumped to them.
        hits: Vec<RuleRef>,
        /// On behalf of a bridge.
        is_bridged: bool,
    },
    /// The next hop's link-layer address.
    Neigh {
        /// Next hop.
        addr: IpAddr,
        /// What it resolves to, if the walk goes on.
        mac: Option<Mac>,
        /// How it is known.
        how: How,
        /// Who answers, where that is visible: namespace and interface index.
        answers: Option<(Inum, u32)>,
    },
    /// Handed to a device's driver.
    Xmit,
    /// Through a veth pair.
    Veth {
        /// The other end.
        peer: (Inum, u32),
    },
    /// Forwarded by a bridge, or taken by it for its own namespace.
    Bridge {
        /// The bridge.
        bridge: u32,
        /// Port it came in by; `None` from the namespace itself.
        in_port: Option<u32>,
        /// Ports it leaves by; empty when it is for the namespace itself.
        out_ports: Vec<u32>,
        /// Why there.
        how: How,
    },
    /// Packed into a tunnel.
    Encap {
        /// VXLAN network identifier.
        vni: u32,
        /// Remote tunnel end.
        remote: IpAddr,
    },
    /// Unpacked.
    Decap {
        /// VXLAN network identifier.
        vni: u32,
    },
    /// Forwarded by IP.
    Forward,
    /// Given to the transport protocol.
    Deliver {
        /// The socket that takes it; `None` for what the kernel answers itself, or when there is
        /// no such socket.
        socket: Option<Socket>,
    },
    /// Goes on by a device that leads out of what can be seen.
    Wire {
        /// Next hop.
        next_hop: Option<IpAddr>,
    },
}

/// How a link-layer decision is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// Neighbour or forwarding entry that somebody configured.
    Configured,
    /// Entry that was learned.
    Learned,
    /// Question and answer were walked through.
    Asked,
    /// No entry: sent everywhere.
    Flood,
    /// For the bridge's own namespace.
    Local,
    /// Needs no address (`lo`, tunnels without neighbours, a point-to-point device).
    Direct,
    /// Cannot be known from here.
    Unknown,
}

/// How a walk ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It arrives.
    Delivered {
        /// Where.
        netns: Inum,
        /// The socket; `None` for what the kernel answers itself (ICMP echo).
        socket: Option<Socket>,
    },
    /// It ends there, and nothing can be said about what would follow. The step holds an obstacle
    /// that stops it.
    Stopped {
        /// Index of the step.
        step: usize,
    },
    /// It leaves by a device that leads where nothing is known.
    LeftView {
        /// From here.
        netns: Inum,
        /// By this device.
        dev: u32,
        /// To this neighbour.
        next_hop: Option<IpAddr>,
    },
    /// It goes round in circles until its TTL ends.
    Loop,
    /// It cannot be said.
    Unknown {
        /// Why.
        why: String,
    },
}

/// A translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Index of the step, a hook.
    pub step: usize,
    /// Where.
    pub netns: Inum,
    /// What.
    pub kind: NatKind,
    /// Before.
    pub before: Tuple,
    /// After.
    pub after: Tuple,
    /// The rule; `None` for a translation back.
    pub rule: Option<RuleRef>,
}

/// Which packet an obstacle is in the way of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Leg {
    /// The packet itself.
    #[default]
    Packet,
    /// The question for the next hop's link-layer address (ARP request, neighbour solicitation).
    Question,
    /// The answer to that question.
    Answer,
    /// The ICMP error that would tell the sender to send smaller packets.
    Error,
}

impl Walk {
    pub(super) fn nowhere(ask: &Ask) -> Self {
        Self {
            ask: ask.clone(),
            tuple: Tuple {
                src: ask.src.unwrap_or(ask.dst),
                dst: ask.dst,
                proto: Proto::from_ip(ask.proto),
                sport: ask.sport,
                dport: ask.dport,
            },
            steps: Vec::new(),
            end: End::Unknown { why: "not walked".to_owned() },
            nat: Vec::new(),
            choices: Vec::new(),
            tracks: Vec::new(),
        }
    }

    /// All obstacles in order, each with the index of its step.
    pub fn obstacles(&self) -> impl Iterator<Item = (usize, &Obstacle)> {
        self.steps.iter().enumerate().flat_map(|(i, s)| s.obstacles.iter().map(move |o| (i, o)))
    }

    /// The first obstacle that stops the packet for certain. What is found behind it holds once
    /// it is healed.
    #[must_use]
    pub fn stopped_at(&self) -> Option<(usize, &Obstacle)> {
        self.obstacles().find(|(_, o)| o.stops())
    }

    /// Nothing stops it, and it arrives or leaves the view.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.stopped_at().is_none()
            && matches!(self.end, End::Delivered { .. } | End::LeftView { .. })
    }
}
