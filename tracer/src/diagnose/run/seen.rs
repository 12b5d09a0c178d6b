//! Traffic of others as questions: who asked whom, where that began, and what came of it. From
//! here on they are treated as if they had been sent to find out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::stalled::{self, LONG, PATIENCE_NS};
use crate::diagnose::Direction;
use crate::diagnose::case::{Case, Drop, Method, Outcome, Probed, Purpose, Target};
use crate::diagnose::walk::{Ask, Entry};
use crate::event::{Headers, Proto, Tcp, Tuple};
use crate::journey::{Fate, Flow, Hop, Journey, Stage};
use crate::net::{DeviceKind, Inum, Netns};

const DNS: u16 = 53;

/// One question, or several alike.
#[derive(Debug, Default)]
pub(super) struct Question {
    /// What has to be walked, and what for.
    pub(super) asks: Vec<(Purpose, Ask)>,
    /// What was asked of whom.
    pub(super) target: Target,
    /// Each time that it was asked.
    pub(super) probes: Vec<Probed>,
    /// Indices of its flows.
    pub(super) flows: Vec<usize>,
}

impl Question {
    /// It had to be answered, and was not every time.
    pub(super) fn has_failed(&self) -> bool {
        self.probes.iter().any(|p| p.decides() && !p.is_answered())
    }

    /// Where it was asked, or came in.
    pub(super) fn from(&self) -> Inum {
        self.probes.first().map_or(0, |p| p.netns)
    }

    fn is_from(&self, servers: &BTreeSet<Inum>) -> bool {
        self.asks.iter().any(|(_, ask)| ask.entry.is_none() && servers.contains(&ask.from))
    }
}

/// What was asked, each once: a connection that is opened again has another source port.
pub(super) fn questions(case: &Case<'_>, until_ns: u64) -> Vec<Question> {
    let mut found: Vec<Question> = Vec::new();
    for (at, flow) in case.flows.iter().enumerate() {
        let Some((ask, method)) =
            first(case, flow).and_then(|j| Some((question(case, j)?, method(j)?)))
        else {
            continue;
        };
        let seen = Seen { case, flow, ask: &ask, method, until_ns };
        let Some(probes) = seen.probes() else { continue };
        let is_alike = |known: &Ask| Ask { sport: ask.sport, ..known.clone() } == ask;
        let alike = |q: &&mut Question| {
            q.target.proto == method && q.asks.iter().any(|(_, known)| is_alike(known))
        };
        let asks = probes.iter().map(|p| {
            let len = p.size.unwrap_or(ask.len);
            (p.purpose, Ask { len, df: ask.df || p.size.is_some(), ..ask.clone() })
        });
        let asks: Vec<(Purpose, Ask)> = asks.collect();
        match found.iter_mut().find(alike) {
            Some(same) => {
                same.probes.extend(probes);
                same.flows.push(at);
                for (purpose, ask) in asks {
                    if !same.asks.iter().any(|(known, _)| *known == purpose) {
                        same.asks.push((purpose, ask));
                    }
                }
            }
            None => {
                let target = target(case, &ask, method);
                found.push(Question { asks, target, probes, flows: vec![at] });
            }
        }
    }
    upstreams(case, &mut found);
    found.retain(|q| !q.probes.is_empty());
    found
}

/// The first packet of a connection.
fn first<'a>(case: &Case<'a>, flow: &Flow) -> Option<&'a Journey> {
    let journey = case.journeys.get(*flow.forward.first()?)?;
    journey.parent.is_none().then_some(journey)
}

/// The packet as its sender made it, or as it came in from beyond what is known: walked from where
/// it only came by, it would have skipped what comes before.
pub(super) fn question(case: &Case<'_>, journey: &Journey) -> Option<Ask> {
    let (hop, tuple) = (journey.hops.first()?, journey.first?.tuple);
    if is_for_many(case, tuple.dst) {
        return None;
    }
    let netns = case.netns(hop.netns)?;
    let ask = Ask { src: Some(tuple.src), ..Ask::like(hop.netns, &tuple) };
    if is_made(netns, hop, tuple.src) {
        return Some(ask);
    }
    let dev = hop.dev.as_ref().map(|d| d.ifindex).filter(|dev| leads_out(case, netns, *dev))?;
    let tunnel = hop.is_encap.then(|| carrier(netns, journey)).flatten();
    (hop.is_encap == tunnel.is_some()).then_some(Ask { entry: Some(Entry { dev, tunnel }), ..ask })
}

/// It was made in the namespace where it was seen first.
fn is_made(netns: &Netns, hop: &Hop, src: IpAddr) -> bool {
    let is_own = netns.devices.values().any(|d| d.addresses.iter().any(|(a, _)| *a == src));
    is_own && matches!(hop.stage, Stage::Netfilter | Stage::Queue | Stage::Route)
}

/// What the device is linked with is not known.
fn leads_out(case: &Case<'_>, netns: &Netns, dev: u32) -> bool {
    let Some(device) = netns.devices.get(&dev) else { return false };
    match device.kind {
        DeviceKind::Physical => true,
        DeviceKind::Veth | DeviceKind::Other(_) => {
            let other = device.link.and_then(|l| Some((l.netns?, l.ifindex)));
            other.is_none_or(|(at, peer)| case.state.device(at, peer).is_none())
        }
        DeviceKind::Loopback | DeviceKind::Bridge | DeviceKind::Vxlan => false,
    }
}

/// The tunnel packet that it came in, and the tunnel's number.
fn carrier(netns: &Netns, journey: &Journey) -> Option<(Tuple, u32)> {
    let outer = journey.hops.iter().filter(|h| h.is_encap).find_map(|h| h.tuple)?;
    let seen = journey.hops.iter().find_map(|h| h.tunnel.as_ref()?.vni);
    let tunnels = || netns.devices.values().filter_map(|d| d.vxlan);
    let at_port = || tunnels().find(|t| t.port == outer.dport).or_else(|| tunnels().next());
    Some((outer, seen.or_else(|| at_port().map(|t| t.vni))?))
}

/// A group, or every host of a link.
fn is_for_many(case: &Case<'_>, dst: IpAddr) -> bool {
    let IpAddr::V4(v4) = dst else { return dst.is_multicast() };
    let is_last = |(addr, len): &(IpAddr, u8)| match addr {
        IpAddr::V4(a) if *len < 31 => (u32::from(*a) | (u32::MAX >> len)) == u32::from(v4),
        _ => false,
    };
    let mut devices = case.state.netns.values().flat_map(|n| n.devices.values());
    v4.is_multicast() || v4.is_broadcast() || devices.any(|d| d.addresses.iter().any(is_last))
}

/// How it asks, where an answer is due.
fn method(journey: &Journey) -> Option<Method> {
    let headers = journey.first?;
    let tuple = headers.tuple;
    match tuple.proto {
        Proto::Icmp | Proto::Icmp6 => {
            headers.icmp().is_some_and(|i| matches!(i.kind, 8 | 128)).then_some(Method::Icmp)
        }
        Proto::Tcp => {
            let flags = headers.tcp()?.flags;
            (flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN).then_some(Method::Tcp)
        }
        Proto::Udp if tuple.dport == DNS => Some(Method::Dns),
        Proto::Udp => Some(Method::Udp),
        Proto::Sctp | Proto::Arp | Proto::Other(_) => None,
    }
}

/// It does not belong to a connection that was made before.
pub(super) fn begins(journey: &Journey) -> bool {
    let is_question = || method(journey).is_some();
    journey.first.is_some_and(|h| match h.tuple.proto {
        Proto::Tcp | Proto::Icmp | Proto::Icmp6 => is_question(),
        Proto::Udp | Proto::Sctp | Proto::Arp | Proto::Other(_) => true,
    })
}

fn target(case: &Case<'_>, ask: &Ask, method: Method) -> Target {
    let port = (method != Method::Icmp).then_some(ask.dport);
    // Nobody known has asked what comes from beyond.
    let netns = if ask.entry.is_none() { ask.from } else { 0 };
    Target {
        from: case.state.netns_name(ask.from),
        to: ask.dst.to_string(),
        netns,
        name: None,
        addr: Some(ask.dst),
        port,
        proto: method,
    }
}

/// A name server that fails on behalf of others: what it asks itself in vain belongs to that.
fn upstreams(case: &Case<'_>, found: &mut [Question]) {
    let is_servfail = |p: &Probed| matches!(p.outcome, Outcome::Dns { rcode: 2, .. });
    let is_own = |q: &Question| {
        let is_dns = q.target.proto == Method::Dns;
        is_dns && q.has_failed() && !q.probes.iter().any(is_servfail)
    };
    for at in 0..found.len() {
        if !found[at].probes.iter().any(is_servfail) {
            continue;
        }
        let packets = found[at].flows.iter().flat_map(|f| &case.flows[*f].forward);
        let ends = packets.filter_map(|i| case.journeys[*i].hops.last());
        let servers: BTreeSet<Inum> = ends.map(|hop| hop.netns).collect();
        let mut upstream: Vec<Question> = Vec::new();
        for question in found.iter_mut().filter(|q| is_own(q) && q.is_from(&servers)) {
            upstream.push(std::mem::take(question));
        }
        for own in upstream {
            let probes = own.probes.into_iter();
            let asks = own.asks.into_iter().map(|(_, ask)| (Purpose::Upstream, ask));
            let into = &mut found[at];
            into.probes.extend(probes.map(|p| Probed { purpose: Purpose::Upstream, ..p }));
            into.asks.extend(asks);
            into.flows.extend(own.flows);
        }
    }
}

/// A flow that begins with a question.
struct Seen<'a> {
    case: &'a Case<'a>,
    flow: &'a Flow,
    ask: &'a Ask,
    method: Method,
    until_ns: u64,
}

impl<'a> Seen<'a> {
    fn journeys(&self, direction: Direction) -> impl Iterator<Item = &'a Journey> {
        self.case.packets(self.flow, direction)
    }

    /// What came of it; `None` where that cannot be said, or no answer is due.
    fn probes(&self) -> Option<Vec<Probed>> {
        let outcome = self.outcome()?;
        let probe = self.probe(outcome);
        let stalled = || stalled::length(self.case, self.flow, self.until_ns);
        let lost = match probe.outcome {
            // Connected, and then silence.
            Outcome::Silent { asked: true } => stalled().or_else(|| self.long()),
            Outcome::Answered if self.method == Method::Tcp => stalled(),
            _ => None,
        };
        // Small packets get through.
        let Some(size) = lost else { return Some(vec![probe]) };
        let long =
            Probed { purpose: Purpose::FullSize, size: Some(size), ..self.probe(Outcome::Timeout) };
        Some(vec![self.probe(Outcome::Answered), long])
    }

    fn probe(&self, outcome: Outcome) -> Probed {
        Probed {
            method: self.method,
            purpose: Purpose::Reach,
            netns: self.ask.from,
            to: self.ask.dst,
            dport: if self.method == Method::Icmp { 0 } else { self.ask.dport },
            sport: self.ask.sport,
            size: None,
            question: None,
            rtt: None,
            outcome,
        }
    }

    fn outcome(&self) -> Option<Outcome> {
        let outcome = match self.method {
            Method::Icmp => self.answers().next().map(|_| Outcome::Answered),
            Method::Tcp => self.stream(),
            Method::Udp => self.answers().next().map(|_| Outcome::Answered),
            Method::Dns => self.answers().find_map(|h| {
                // NXDOMAIN: resolvers try every domain of their search list.
                Some(match h.payload.as_slice().get(3)? & 0x0f {
                    3 => Outcome::Answered,
                    rcode => Outcome::Dns { rcode, addresses: Vec::new() },
                })
            }),
        };
        let outcome = outcome.or_else(|| self.error()).unwrap_or(Outcome::Timeout);
        let is_silence = matches!(outcome, Outcome::Timeout | Outcome::Silent { asked: true });
        if is_silence && !self.is_lost() {
            let asked_ns = self.journeys(Direction::Request).map(|j| j.start_ns).min()?;
            let is_due = self.method != Method::Udp && asked_ns + PATIENCE_NS <= self.until_ns;
            return is_due.then_some(outcome);
        }
        Some(outcome)
    }

    /// A packet of it was dropped.
    fn is_lost(&self) -> bool {
        [Direction::Request, Direction::Reply]
            .into_iter()
            .any(|way| self.journeys(way).any(|j| Drop::of(j, way).is_some_and(|d| !d.is_noise())))
    }

    /// Answers that came to whoever asked, translated back.
    fn answers(&self) -> impl Iterator<Item = Headers> {
        let expected =
            self.journeys(Direction::Request).find_map(|j| Some(j.first?.tuple.reversed()));
        // To beyond, the answer goes as the question came: inside of the tunnel.
        let is_tunnelled = self.ask.entry.is_some_and(|e| e.tunnel.is_some());
        let is_back = move |j: &&Journey| {
            let is_packed = !is_tunnelled || j.hops.iter().any(|h| h.stage == Stage::Encap);
            j.last_tuple == expected && arrived(j) && is_packed
        };
        self.journeys(Direction::Reply).filter(is_back).filter_map(|j| j.first)
    }

    fn stream(&self) -> Option<Outcome> {
        let heard: Vec<Tcp> = self.answers().filter_map(|h| h.tcp().copied()).collect();
        let is_reset = heard.iter().any(|t| t.flags & Tcp::RST != 0);
        if !heard.iter().any(|t| t.flags & Tcp::SYN != 0) {
            return is_reset.then_some(Outcome::Refused);
        }
        if heard.iter().any(|t| t.payload_len > 0) {
            return Some(Outcome::Answered);
        }
        if is_reset {
            return Some(Outcome::Reset);
        }
        let sent = || self.journeys(Direction::Request).filter_map(|j| j.first?.tcp().copied());
        // Whoever gets an answer to its SYN acknowledges it at once.
        if !sent().any(|t| t.flags & Tcp::SYN == 0 && t.flags & Tcp::ACK != 0) {
            return None;
        }
        Some(Outcome::Silent { asked: sent().any(|t| t.payload_len > 0) })
    }

    /// The longest segment that did not arrive, as an IP packet.
    fn long(&self) -> Option<u32> {
        let both = [Direction::Request, Direction::Reply].into_iter();
        let lost = both.flat_map(|way| self.journeys(way)).filter(|j| !arrived(j));
        lost.filter_map(|j| Some(j.first?.len)).filter(|len| *len >= LONG).max()
    }

    /// The ICMP error that came back instead. That a packet is too long is no answer: a shorter one
    /// is sent.
    fn error(&self) -> Option<Outcome> {
        self.journeys(Direction::Reply).filter(|j| arrived(j) && j.quoted.is_some()).find_map(|j| {
            let headers = j.first?;
            let icmp = headers.icmp()?;
            let is_v4 = headers.tuple.src.is_ipv4();
            let is_no = match (is_v4, icmp.kind, icmp.code) {
                (true, 3, 4) | (false, 2, _) => false,
                (true, 3 | 11, _) | (false, 1 | 3, _) => true,
                _ => false,
            };
            let (kind, code, from) = (icmp.kind, icmp.code, Some(headers.tuple.src));
            is_no.then_some(Outcome::Icmp { kind, code, from, mtu: None })
        })
    }
}

fn arrived(journey: &Journey) -> bool {
    matches!(journey.fate, Fate::Delivered | Fate::LeftNode)
}
