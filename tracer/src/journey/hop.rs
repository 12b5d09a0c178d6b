//! One hop of a journey: an observation, or a few of them that belong together.

use std::net::IpAddr;

use crate::{
    event::{Connection, CtInfo, Tuple},
    net::{Inum, Mac},
};

/// One step of a packet.
#[derive(Clone, Debug)]
pub struct Hop {
    /// When, CLOCK_MONOTONIC; the first observation when there are several.
    pub ktime_ns: u64,
    /// What kind of step.
    pub stage: Stage,
    /// Network namespace.
    pub netns: Inum,
    /// Its name.
    pub netns_name: String,
    /// The device it came in by, or is handed to.
    pub dev: Option<Dev>,
    /// The device it is about to leave by.
    pub out_dev: Option<Dev>,
    /// Name of the device that `dev` is a port of.
    pub master: Option<String>,
    /// Set when a netfilter hook runs for a bridged frame (`br_netfilter`).
    pub layer: Option<Layer>,
    /// Netfilter hook.
    pub hook: Option<Hook>,
    /// What the hook decided.
    pub verdict: Option<Verdict>,
    /// The table that decided, or the only one that ran; where function probes show it.
    pub table: Option<String>,
    /// Its chain.
    pub chain: Option<String>,
    /// How many tables ran at the hook.
    pub(crate) tables: u8,
    /// What ran at the hook, in order: tables, conntrack's look and confirmation.
    pub steps: Vec<String>,
    /// The rule that decided, where it is known.
    pub rule: Option<Box<Rule>>,
    /// All rules that it met at this hook, in order, where they are known.
    pub rules: Vec<Rule>,
    /// Routing decision.
    pub route: Option<Box<Route>>,
    /// Neighbour that the packet met.
    pub neigh: Option<Neigh>,
    /// Addresses of the frame, where it has any.
    pub frame: Option<Frame>,
    /// What a forwarding database decided.
    pub fdb: Option<Fdb>,
    /// The bridge was seen sending it out by every port.
    pub(crate) is_flooded: bool,
    /// Tunnel that it enters or leaves.
    pub tunnel: Option<Box<Tunnel>>,
    /// Type and code of the ICMP error sent because of it.
    pub icmp: Option<(u8, u8)>,
    /// The process that reads it.
    pub process: Option<Process>,
    /// Conntrack's view.
    pub ct: Option<CtInfo>,
    /// What it keeps of the connection.
    pub connection: Option<Connection>,
    /// The tuple, when this hop changed it (or it is the outer one from here on).
    pub tuple: Option<Tuple>,
    /// It travels inside a tunnel here.
    pub is_encap: bool,
    /// `skb->len`.
    pub len: u32,
    /// `skb->mark`.
    pub mark: u32,
    /// By whom it was freed.
    pub freed: Option<Box<Freed>>,
    /// A remark for the reader.
    pub note: Option<String>,
    /// Which probe families saw it.
    pub sources: Sources,
}

impl Hop {
    /// A step of which nothing is known but its kind.
    pub(crate) fn at(stage: Stage) -> Self {
        Self {
            ktime_ns: 0,
            stage,
            netns: 0,
            netns_name: String::new(),
            dev: None,
            out_dev: None,
            master: None,
            layer: None,
            hook: None,
            verdict: None,
            table: None,
            chain: None,
            tables: 0,
            steps: Vec::new(),
            rule: None,
            rules: Vec::new(),
            route: None,
            neigh: None,
            frame: None,
            fdb: None,
            is_flooded: false,
            tunnel: None,
            icmp: None,
            process: None,
            ct: None,
            connection: None,
            tuple: None,
            is_encap: false,
            len: 0,
            mark: 0,
            freed: None,
            note: None,
            sources: Sources::default(),
        }
    }
}

/// Kind of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Handed to a device.
    Queue,
    /// Handed to its driver.
    Xmit,
    /// Received from a device.
    Rx,
    /// tc ingress programs.
    TcIngress,
    /// tc egress programs.
    TcEgress,
    /// Forwarded from port to port.
    Bridge,
    /// A netfilter hook.
    Netfilter,
    /// Routing decision.
    Route,
    /// A neighbour that is not resolved.
    Neigh,
    /// Enters a tunnel.
    Encap,
    /// Leaves a tunnel.
    Decap,
    /// Taken by a socket.
    Socket,
    /// Handed to the process that holds a tun device, or made by it.
    Tun,
    /// An XDP program that runs on packets (generic XDP).
    Xdp,
    /// Forwarded past routing and hooks by a flowtable.
    Flowtable,
    /// Causes an ICMP error.
    IcmpError,
    /// Dropped.
    Drop,
    /// Freed after use.
    Free,
}

impl Stage {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Xmit => "xmit",
            Self::Rx => "rx",
            Self::TcIngress => "tc-ingress",
            Self::TcEgress => "tc-egress",
            Self::Bridge => "bridge",
            Self::Netfilter => "netfilter",
            Self::Route => "route",
            Self::Neigh => "neigh",
            Self::Encap => "encap",
            Self::Decap => "decap",
            Self::Socket => "socket",
            Self::Tun => "tun",
            Self::Xdp => "xdp",
            Self::Flowtable => "flowtable",
            Self::IcmpError => "icmp-error",
            Self::Drop => "drop",
            Self::Free => "free",
        }
    }
}

/// A process as it called itself when it read the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Name of its thread.
    pub name: String,
}

/// A device as a hop names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dev {
    /// Interface index in the hop's namespace.
    pub ifindex: u32,
    /// Interface name.
    pub name: String,
}

/// On whose behalf a netfilter hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The bridge's, through `br_netfilter`.
    Bridge,
}

impl Layer {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
        }
    }
}

/// Netfilter hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// `NF_INET_PRE_ROUTING`
    Prerouting,
    /// `NF_INET_LOCAL_IN`
    Input,
    /// `NF_INET_FORWARD`
    Forward,
    /// `NF_INET_LOCAL_OUT`
    Output,
    /// `NF_INET_POST_ROUTING`
    Postrouting,
    /// `NF_NETDEV_INGRESS`: a device's own, before the protocols.
    Ingress,
    /// `NF_NETDEV_EGRESS`: a device's own, behind them.
    Egress,
}

impl Hook {
    /// It is a device's, not a protocol's.
    #[must_use]
    pub fn is_netdev(self) -> bool {
        matches!(self, Self::Ingress | Self::Egress)
    }

    /// From `enum nf_inet_hooks`.
    #[must_use]
    pub fn from_wire(n: u8) -> Option<Self> {
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting]
            .get(usize::from(n))
            .copied()
    }

    /// As nftables and reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// As iptables and people spell it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
            Self::Ingress => "INGRESS",
            Self::Egress => "EGRESS",
        }
    }
}

/// What a netfilter hook decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on.
    Accept,
    /// Dropped.
    Drop,
    /// Taken by a hook function.
    Stolen,
}

impl Verdict {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
            Self::Stolen => "stolen",
        }
    }
}

/// A firewall rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Table.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// nftables handle.
    pub handle: Option<u64>,
    /// The rule as its own tool prints it; `policy accept` for the end of a hooked chain.
    pub text: String,
    /// Its comment.
    pub comment: Option<String>,
    /// The chains jumped through to get there, outermost first, without `chain`.
    pub via: Vec<String>,
    /// What it decided: `accept`, `drop`, `continue`, `return`, `queue` or `jump CHAIN`.
    pub verdict: String,
    /// How it is known.
    pub basis: Basis,
    /// It is of iptables-legacy; nft may have a table of the same name.
    pub is_legacy: bool,
}

/// How a rule is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// The kernel said that the packet met it.
    Seen,
    /// The rules as configured leave no other.
    Computed,
    /// One of several that the rules as configured allow.
    Candidate,
}

impl Basis {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Computed => "computed",
            Self::Candidate => "candidate",
        }
    }
}

/// Routing decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination prefix, where it is known.
    pub dst: Option<(IpAddr, u8)>,
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Device.
    pub dev: Option<Dev>,
    /// Routing table number.
    pub table: Option<u32>,
    /// What kind of route.
    pub kind: RouteKind,
}

/// Kind of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Towards a device.
    Unicast,
    /// To this namespace itself.
    Local,
    /// Silently discarded.
    Blackhole,
    /// Refused with "host unreachable".
    Unreachable,
    /// Refused with "administratively prohibited".
    Prohibit,
    /// There is no route.
    None,
}

impl RouteKind {
    /// As `ip route` and reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unicast => "unicast",
            Self::Local => "local",
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
            Self::None => "none",
        }
    }

    /// The packet goes on.
    #[must_use]
    pub fn is_success(self) -> bool {
        matches!(self, Self::Unicast | Self::Local)
    }
}

/// A neighbour entry that is not resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neigh {
    /// Address asked for.
    pub key: IpAddr,
    /// `NUD_*`.
    pub nud_state: u8,
    /// The packet waits for the answer.
    pub is_waiting: bool,
    /// What came of the question, once that was seen.
    pub outcome: Option<Outcome>,
}

/// What came of asking for a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The packet went on, to the address that the answer gave.
    Answered {
        /// Where it has one.
        mac: Option<Mac>,
        /// How long the packet waited.
        after_ns: u64,
    },
    /// The kernel gave up.
    Silent {
        /// How long the packet waited.
        after_ns: u64,
    },
}

/// Addresses of an Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Source.
    pub src: Mac,
    /// Destination.
    pub dst: Mac,
}

/// What a forwarding database said of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fdb {
    /// Address that was looked up.
    pub mac: Mac,
    /// What followed; `None` while that is not known.
    pub way: Option<FdbWay>,
    /// Where the entry is from: `learned`, `static`, `permanent`, or `default` for the tunnel's
    /// entry for all others.
    pub entry: Option<&'static str>,
}

/// Where a forwarding database sends a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdbWay {
    /// The port that the frame left by.
    Port,
    /// Every port: the address is everybody's.
    Broadcast,
    /// The ports of a group, or every port.
    Multicast,
    /// Every port: the address is not known.
    Unknown,
    /// The other end of a tunnel.
    Remote(IpAddr),
    /// Nowhere.
    NoEntry,
}

impl Neigh {
    /// As `ip neigh` spells it.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match self.nud_state {
            0x01 => "incomplete",
            0x02 => "reachable",
            0x04 => "stale",
            0x08 => "delay",
            0x10 => "probe",
            0x20 => "failed",
            0x40 => "noarp",
            0x80 => "permanent",
            _ => "none",
        }
    }
}

/// A tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// `vxlan`, or the device's kind.
    pub kind: String,
    /// Network identifier.
    pub vni: Option<u32>,
    /// Outer source.
    pub src: Option<IpAddr>,
    /// Outer destination.
    pub dst: Option<IpAddr>,
}

/// Who freed the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freed {
    /// Drop reason; `None` when the kernel called it consumed.
    pub reason: Option<String>,
    /// Kernel function.
    pub function: Option<String>,
}

/// A set of probe families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources(u8);

impl Sources {
    /// Tracepoints.
    pub const TP: Self = Self(1);
    /// BPF netfilter links.
    pub const NF: Self = Self(2);
    /// tc programs.
    pub const TC: Self = Self(4);
    /// cgroup programs.
    pub const CG: Self = Self(8);
    /// Kernel functions.
    pub const FN: Self = Self(16);

    /// Adds those of `other`.
    pub fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// As reports spell them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (Self::TP, "tp"),
            (Self::NF, "nf"),
            (Self::FN, "fn"),
            (Self::TC, "tc"),
            (Self::CG, "cg"),
        ];
        all.into_iter().filter(move |(set, _)| self.0 & set.0 != 0).map(|(_, name)| name)
    }
}
