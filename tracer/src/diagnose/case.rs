//! Everything that a rule may look at.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::walk::{Obstacle, Walk};
use crate::event::Tuple;
use crate::journey::{self, Fate, Flow, Hop, Journey, Lineage, Route};
use crate::net::detail::Detail;
use crate::net::{Inum, Netns, NetworkState};

/// Added to the depth of what happens to replies: they come after the whole request.
pub(super) const REPLY_DEPTH: u32 = 100_000;

/// What was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// `--from` as typed.
    pub from: String,
    /// `--to` as typed.
    pub to: String,
    /// The namespace that probes are sent from.
    pub netns: Inum,
    /// The name, if one was typed.
    pub name: Option<String>,
    /// The address, typed or resolved. For `--proto dns` the name server.
    pub addr: Option<IpAddr>,
    /// The port.
    pub port: Option<u16>,
    /// `--proto`, or what follows without it.
    pub proto: Method,
}

/// How a probe asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// ICMP or ICMPv6 echo.
    #[default]
    Icmp,
    /// TCP connect, then the start of an answer.
    Tcp,
    /// One UDP datagram.
    Udp,
    /// A DNS query over UDP, over TCP when the answer was truncated.
    Dns,
}

impl Method {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Dns => "dns",
        }
    }
}

/// What a probe was sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// To reach the target.
    Reach,
    /// Beside the one that decides: an echo where a port was asked for.
    Beside,
    /// To see whether a packet of full size with DF gets through.
    FullSize,
    /// To resolve the target's name.
    Resolve,
    /// Not ours: the DNS server's own question to the server that it asks.
    Upstream,
    /// Nothing was sent: the configuration is checked.
    Check,
}

/// One probe and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// How it asked.
    pub method: Method,
    /// Why.
    pub purpose: Purpose,
    /// From which namespace.
    pub netns: Inum,
    /// Whom.
    pub to: IpAddr,
    /// Destination port, 0 for ICMP.
    pub dport: u16,
    /// Source port, or identifier of an echo: chosen before it was sent, so that its packets are
    /// known.
    pub sport: u16,
    /// Length of its IP packet, for [`Purpose::FullSize`].
    pub size: Option<u32>,
    /// Name that was asked for, for DNS.
    pub question: Option<String>,
    /// From sending to the answer.
    pub rtt: Option<Duration>,
    /// What came of it.
    pub outcome: Outcome,
}

impl Probed {
    /// The target, or what lies before it, answered as it should.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        match &self.outcome {
            Outcome::Answered | Outcome::Silent { asked: false } => true,
            Outcome::Dns { rcode, addresses } => *rcode == 0 && !addresses.is_empty(),
            Outcome::Silent { asked: true }
            | Outcome::Refused
            | Outcome::Reset
            | Outcome::Icmp { .. }
            | Outcome::Local(_)
            | Outcome::Timeout => false,
        }
    }

    /// What came of it, in a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let what = match self.method {
            Method::Icmp => format!("{} (ICMP echo)", self.to),
            Method::Tcp => format!("{} (TCP)", SocketAddr::new(self.to, self.dport)),
            Method::Udp => format!("{} (UDP)", SocketAddr::new(self.to, self.dport)),
            Method::Dns => format!("{} (DNS)", self.to),
        };
        let rtt =
            self.rtt.map(|t| format!(" in {:.1} ms", t.as_secs_f64() * 1e3)).unwrap_or_default();
        match &self.outcome {
            Outcome::Answered => format!("{what} answers{rtt}"),
            Outcome::Silent { asked: true } => {
                format!("{what} accepts the connection{rtt} and does not answer the request")
            }
            Outcome::Silent { asked: false } => {
                format!("{what} accepts the connection{rtt} and waits")
            }
            Outcome::Refused => format!("{what} refuses the connection"),
            Outcome::Reset => format!("{what} accepts the connection and resets it"),
            Outcome::Dns { rcode, addresses } => {
                let name = self.question.as_deref().unwrap_or_default();
                let said = match rcode {
                    0 if addresses.is_empty() => "that there is no IPv4 address",
                    0 => "an answer",
                    2 => "SERVFAIL",
                    3 => "NXDOMAIN",
                    5 => "REFUSED",
                    _ => "an error",
                };
                format!("{what} says {said} to {name}{rtt}")
            }
            Outcome::Icmp { kind, code, from, .. } => {
                let from = from.map(|a| format!(" from {a}")).unwrap_or_default();
                format!("{what}: ICMP error type {kind} code {code}{from}")
            }
            Outcome::Local(errno) => {
                let why = std::io::Error::from_raw_os_error(*errno).to_string();
                format!("{what}: {}", why.split(" (os error").next().unwrap_or_default())
            }
            Outcome::Timeout => format!("{what} does not answer"),
        }
    }

    /// It has to succeed for the target to count as reached.
    #[must_use]
    pub fn decides(&self) -> bool {
        // Who is told of a smaller MTU sends smaller packets.
        let is_told = matches!(
            self.outcome,
            Outcome::Icmp { mtu: Some(_), .. } | Outcome::Local(libc::EMSGSIZE)
        );
        self.purpose != Purpose::Beside && !(self.purpose == Purpose::FullSize && is_told)
    }

    /// Whether a tuple, as first seen, is that of its request.
    #[must_use]
    pub fn sent(&self, tuple: &Tuple) -> bool {
        let is_method = match self.method {
            Method::Icmp => tuple.proto.is_icmp(),
            Method::Tcp => tuple.proto == crate::event::Proto::Tcp,
            Method::Udp | Method::Dns => {
                matches!(tuple.proto, crate::event::Proto::Udp | crate::event::Proto::Tcp)
            }
        };
        let ports =
            tuple.sport == self.sport && (self.method == Method::Icmp || tuple.dport == self.dport);
        is_method && ports && tuple.dst == self.to
    }
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer came: an echo reply, data, a datagram.
    Answered,
    /// TCP: connected, and nothing came in the time given to it.
    Silent {
        /// It had been asked something. Else it may well be waiting for that.
        asked: bool,
    },
    /// TCP: reset instead of an answer to the SYN.
    Refused,
    /// TCP: connected, then reset before anything came.
    Reset,
    /// DNS: an answer. 0 no error, 2 server failure, 3 no such name, 5 refused.
    Dns {
        /// Response code.
        rcode: u8,
        /// A records. None without an error: the name exists, and has no such record.
        addresses: Vec<IpAddr>,
    },
    /// An ICMP error came back.
    Icmp {
        /// Type, in the numbers of its family.
        kind: u8,
        /// Code.
        code: u8,
        /// Who sent it.
        from: Option<IpAddr>,
        /// Next-hop MTU that it tells, bytes.
        mtu: Option<u32>,
    },
    /// The sending kernel refused with this errno: no packet left the socket.
    Local(i32),
    /// Nothing came.
    Timeout,
}

/// Counters of all namespaces at one moment: see [`Detail::counters`].
pub type Counters = BTreeMap<Inum, BTreeMap<String, u64>>;

/// One direction of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the prober to the target.
    Request,
    /// Back.
    Reply,
}

/// Everything known about one diagnosis.
#[derive(Debug)]
pub struct Case<'a> {
    /// What was asked; `None` when only the node is checked or traffic of others is watched.
    pub target: Option<Target>,
    /// What was sent, and what came of it.
    pub probes: Vec<Probed>,
    /// What was seen: the probes' packets, the replies, and whatever comes from them.
    pub journeys: &'a [Journey],
    /// The same as connections, both directions.
    pub flows: Vec<Flow>,
    /// The node's configuration with details, as it was after the probes.
    pub state: &'a NetworkState,
    /// Counters before the probes; those after are in the state's details.
    pub before: Counters,
    /// Where requests and their replies have to go by the configuration, and what is in the way;
    /// one for each place where a Service or a route may send them.
    pub ways: Vec<Way>,
    /// What is seen as one node, by `--view`; empty is everything on this kernel.
    pub view: Vec<Inum>,
}

/// One way there and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// What the probes on it were sent for.
    pub purpose: Purpose,
    /// There.
    pub request: Walk,
    /// Back, where the request arrives at somebody who can answer.
    pub reply: Option<Walk>,
}

impl Way {
    /// Both directions, those that there are.
    pub fn walks(&self) -> impl Iterator<Item = (Direction, &Walk)> {
        let reply = self.reply.iter().map(|w| (Direction::Reply, w));
        [(Direction::Request, &self.request)].into_iter().chain(reply)
    }
}

/// A drop that was seen.
#[derive(Clone, Copy, Debug)]
pub struct Drop<'a> {
    /// Which packet.
    pub journey: &'a Journey,
    /// Its `drop` hop.
    pub hop: &'a Hop,
    /// Index of the hop.
    pub at: usize,
    /// Drop reason.
    pub reason: &'a str,
    /// Kernel function, empty where unknown.
    pub function: &'a str,
    /// Which way the packet went.
    pub direction: Direction,
}

impl<'a> Case<'a> {
    /// A case without ways and counters.
    #[must_use]
    pub fn new(
        target: Option<Target>,
        probes: Vec<Probed>,
        journeys: &'a [Journey],
        state: &'a NetworkState,
    ) -> Self {
        Self {
            target,
            probes,
            journeys,
            flows: journey::group(journeys),
            state,
            before: Counters::new(),
            ways: Vec::new(),
            view: Vec::new(),
        }
    }

    /// The same, with these connections alone and nothing known of them yet.
    #[must_use]
    pub fn part(&self, flows: impl Iterator<Item = Flow>) -> Case<'a> {
        Case {
            target: None,
            probes: Vec::new(),
            journeys: self.journeys,
            flows: flows.collect(),
            state: self.state,
            before: Counters::new(),
            ways: Vec::new(),
            view: self.view.clone(),
        }
    }

    /// A namespace, where it is known.
    #[must_use]
    pub fn netns(&self, inum: Inum) -> Option<&'a Netns> {
        self.state.netns.get(&inum)
    }

    /// The name of a device.
    #[must_use]
    pub fn dev_name(&self, netns: Inum, ifindex: u32) -> String {
        let device = self.state.device(netns, ifindex);
        device.map_or_else(|| format!("device {ifindex}"), |d| d.name.clone())
    }

    /// The details of a namespace's configuration, where they were read.
    #[must_use]
    pub fn detail(&self, inum: Inum) -> Option<&'a Detail> {
        self.netns(inum)?.detail.as_deref()
    }

    /// A setting below `/proc/sys/net`: `ipv4/conf/eth0/rp_filter`.
    #[must_use]
    pub fn sysctl(&self, inum: Inum, path: &str) -> Option<&'a str> {
        self.detail(inum)?.sysctls.get(path).map(String::as_str)
    }

    /// By how much a counter has grown meanwhile; 0 where it is not known.
    #[must_use]
    pub fn grown(&self, inum: Inum, counter: &str) -> u64 {
        let now = self.detail(inum).and_then(|d| d.counters.get(counter)).copied().unwrap_or(0);
        let before = self.before.get(&inum).and_then(|c| c.get(counter)).copied();
        before.map_or(0, |before| now.saturating_sub(before))
    }

    /// Probes that have to succeed and did not.
    pub fn failed(&self) -> impl Iterator<Item = &Probed> {
        self.probes.iter().filter(|p| p.decides() && !p.is_answered())
    }

    /// Whether anything is known to fail: without a probe, a drop that was seen, or a way that
    /// leads nowhere.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        if self.probes.is_empty() {
            let mut walks = self.ways.iter().flat_map(Way::walks);
            self.drops().next().is_some() || walks.any(|(_, walk)| walk.stopped_at().is_some())
        } else {
            self.failed().next().is_some()
        }
    }

    /// The connection that a probe made, if any packet of it was seen.
    #[must_use]
    pub fn flow_of(&self, probe: &Probed) -> Option<&Flow> {
        self.flows.iter().find(|f| {
            f.forward.iter().any(|i| {
                let journey = &self.journeys[*i];
                journey.parent.is_none() && journey.first.is_some_and(|h| probe.sent(&h.tuple))
            })
        })
    }

    /// The packets of a flow in one direction.
    pub fn packets(
        &self,
        flow: &'a Flow,
        direction: Direction,
    ) -> impl Iterator<Item = &'a Journey> {
        let indices = match direction {
            Direction::Request => &flow.forward,
            Direction::Reply => &flow.backward,
        };
        indices.iter().map(|i| &self.journeys[*i])
    }

    /// The drops seen that mean something: not those of healthy traffic, and of a flood only what
    /// the others did not deliver.
    pub fn drops(&self) -> impl Iterator<Item = Drop<'a>> + '_ {
        self.flows.iter().flat_map(move |flow| {
            let both = [(&flow.forward, Direction::Request), (&flow.backward, Direction::Reply)];
            both.into_iter().flat_map(move |(indices, direction)| {
                indices.iter().filter_map(move |i| self.drop_of(&self.journeys[*i], direction))
            })
        })
    }

    fn drop_of(&self, journey: &'a Journey, direction: Direction) -> Option<Drop<'a>> {
        let drop = Drop::of(journey, direction)?;
        // Of others' traffic: whoever is told of a smaller MTU sends smaller packets.
        let is_told =
            self.target.is_none() && drop.reason == "PKT_TOO_BIG" && drop.icmp().is_some();
        (!drop.is_noise() && !is_told && !self.is_spare(journey)).then_some(drop)
    }

    /// A clone that nobody wanted (a flooded frame at the wrong pod), while a relative of it
    /// arrived.
    fn is_spare(&self, journey: &Journey) -> bool {
        let Some(parent) = journey.parent.filter(|p| p.kind == Lineage::Clone) else {
            return false;
        };
        self.journeys.iter().any(|j| {
            let is_family = j.id == parent.id || j.parent.is_some_and(|p| p.id == parent.id);
            is_family && matches!(j.fate, Fate::Delivered | Fate::LeftNode)
        })
    }

    /// The place of a step of a walk along the way, for [`super::Finding::depth`]; that of a drop
    /// is [`Case::depth_of`].
    #[must_use]
    pub fn depth(&self, direction: Direction, step: usize) -> u32 {
        let step = u32::try_from(step).unwrap_or(REPLY_DEPTH).min(REPLY_DEPTH / 10 - 1) * 10;
        match direction {
            Direction::Request => step,
            Direction::Reply => REPLY_DEPTH + step,
        }
    }

    /// Everything that is in the way by the configuration, on every way and in both directions.
    pub fn obstacles(&self) -> impl Iterator<Item = Met<'_>> {
        self.ways.iter().flat_map(move |way| {
            way.walks().flat_map(move |(direction, walk)| {
                walk.obstacles().map(move |(step, obstacle)| Met {
                    way,
                    walk,
                    direction,
                    step,
                    obstacle,
                    depth: self.depth(direction, step),
                })
            })
        })
    }

    /// The answer to any probe of this kind came.
    #[must_use]
    pub fn answered(&self, method: Method) -> bool {
        self.probes.iter().any(|p| p.method == method && p.is_answered())
    }

    /// Where a probe goes, for titles: `10.0.0.1`, `10.0.0.1:80`.
    #[must_use]
    pub fn aim(&self) -> String {
        let Some(target) = &self.target else { return "the target".to_owned() };
        match (target.addr, target.port) {
            (Some(addr), Some(port)) => SocketAddr::new(addr, port).to_string(),
            (Some(addr), None) => addr.to_string(),
            (None, _) => target.to.clone(),
        }
    }
}

/// An obstacle on a way.
#[derive(Clone, Copy, Debug)]
pub struct Met<'a> {
    /// On which.
    pub way: &'a Way,
    /// In which direction of it.
    pub walk: &'a Walk,
    /// There or back.
    pub direction: Direction,
    /// Index of its step.
    pub step: usize,
    /// What is in the way.
    pub obstacle: &'a Obstacle,
    /// For [`super::Finding::depth`].
    pub depth: u32,
}

impl Drop<'_> {
    /// Where a journey was dropped, if it was.
    #[must_use]
    pub fn of(journey: &Journey, direction: Direction) -> Option<Drop<'_>> {
        let point = journey.dropped.as_ref().filter(|_| journey.fate == Fate::Dropped)?;
        Some(Drop {
            journey,
            hop: journey.hops.get(point.hop)?,
            at: point.hop,
            reason: &point.reason,
            function: point.function.as_deref().unwrap_or_default(),
            direction,
        })
    }

    /// Seen on healthy paths too: proves nothing.
    #[must_use]
    pub fn is_noise(&self) -> bool {
        match (self.reason, self.function) {
            // Each reply that a raw socket has got; the end of closing sockets.
            ("NO_SOCKET", "ping_rcv")
            | ("QUEUE_PURGE" | "TCP_OLD_DATA" | "TCP_ABORT_ON_DATA", _) => true,
            ("NOT_SPECIFIED", "tcp_v4_rcv" | "tcp_v6_rcv" | "stp_pdu_rcv") => true,
            // NAT lets no redirect pass whose packet is not through with translation, and one that
            // is sent while the packet is forwarded never is (`nf_nat_icmp_reply_translation`). It
            // is a hint to the sender: the packet that it is about goes on.
            ("NETFILTER_DROP", _) => self.is_redirect(),
            _ => false,
        }
    }

    /// An ICMP redirect (type 5), or that of ICMPv6 (137).
    fn is_redirect(&self) -> bool {
        let Some(headers) = self.journey.first else { return false };
        headers.icmp().is_some_and(|icmp| match headers.tuple.src {
            IpAddr::V4(_) => icmp.kind == 5,
            IpAddr::V6(_) => icmp.kind == 137,
        })
    }

    /// The last routing decision before it, in the same namespace.
    #[must_use]
    pub fn route(&self) -> Option<&Route> {
        let here = self.journey.hops[..self.at].iter().rev();
        here.take_while(|h| h.netns == self.hop.netns).find_map(|h| h.route.as_ref())
    }

    /// Device at which it was dropped: the drop's own, or the last one before it there.
    #[must_use]
    pub fn dev(&self) -> Option<&str> {
        let own = self.hop.dev.as_ref().map(|d| d.name.as_str());
        let before = || {
            let here = self.journey.hops[..self.at].iter().rev();
            here.take_while(|h| h.netns == self.hop.netns)
                .find_map(|h| h.dev.as_ref().map(|d| d.name.as_str()))
        };
        own.or_else(before)
    }

    /// Tuple with which it arrived here, translations included.
    #[must_use]
    pub fn tuple(&self) -> Option<Tuple> {
        let changed = self.journey.hops[..=self.at].iter().rev();
        let tunnelled = |h: &&Hop| !h.is_encap;
        changed
            .filter(tunnelled)
            .find_map(|h| h.tuple)
            .or_else(|| self.journey.first.map(|h| h.tuple))
    }

    /// The ICMP error that the kernel sent because of it.
    #[must_use]
    pub fn icmp(&self) -> Option<(u8, u8)> {
        self.journey.hops.iter().find_map(|h| h.icmp)
    }

    /// In a sentence: what was dropped where, by what.
    #[must_use]
    pub fn fact(&self) -> String {
        let what =
            self.journey.first.map_or_else(|| "a packet".to_owned(), |h| h.tuple.to_string());
        let way = match self.direction {
            Direction::Request => "the request",
            Direction::Reply => "the reply",
        };
        let dev = self.dev().map(|d| format!(" at {d}")).unwrap_or_default();
        let function = match self.function {
            "" => String::new(),
            f => format!(" in {f}()"),
        };
        format!(
            "{way} {what} was dropped in {}{dev}: {}{function}",
            self.hop.netns_name, self.reason
        )
    }
}
