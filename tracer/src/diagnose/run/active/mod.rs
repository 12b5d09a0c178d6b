//! Active diagnosis: own probes, followed both ways.

mod absolute;
mod name;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use super::{Ask, Node, Outcome, Watched, ask, judge, upstream};
use crate::cli::filter::{FilterArgs, Network};
use crate::config::Config;
use crate::diagnose::case::{self, Drop, Method, Outcome as Came, Probed, Purpose, Target};
use crate::diagnose::probe::{Plan, Report, Running, candidates};
use crate::diagnose::walk::{self, End};
use crate::journey::Journey;
use crate::net::detail::Resolver;
use crate::net::{Device, Inum, inspect, setns};
use crate::owner::Owners;
use crate::privileges;
use crate::source::{Capture, Captured};

/// How often the ring is looked at.
const TICK: Duration = Duration::from_millis(2);
/// How long packets are followed after the last answer: those of the connection's end.
const SETTLE: Duration = Duration::from_millis(60);
/// How long after the last probe has given up: a failed neighbour is told after 3.1 s, and an
/// ICMP error may be on its way.
const PATIENCE: Duration = Duration::from_millis(350);
/// How long an answer may still come when a probe's packet is known to be dropped.
const GRACE: Duration = Duration::from_millis(60);
/// How long an echo is waited for that only says more about what decides.
const BESIDE: Duration = Duration::from_millis(1500);
/// Connections at once, at most, to meet every endpoint of a Service.
const MAX_PROBES: usize = 48;
/// DNS queries of one diagnosis: servers behind one address take turns.
const QUERIES: usize = 4;

/// Probes and concludes.
///
/// # Errors
///
/// What keeps it from running, in one line.
pub async fn active(ask: &Ask) -> Result<Outcome> {
    privileges::check(privileges::Command::Probe, false)?;
    let proto = method(ask)?;
    let (owners, from, view) = who(ask).await?;
    (ask.say)("reading the configuration of this node");
    let node = Node::read(owners, view, Some(from), ask.to.host.clone().ok()).await?;
    let Some(netns) = node.state.netns.get(&from) else {
        bail!("--from: network namespace {} cannot be read", ask.from);
    };
    let resolver = netns.detail.as_ref().and_then(|d| d.resolver.clone());
    let inside = setns::open(&netns.path, from).context("cannot enter --from")?;
    let target = target(ask, (from, proto), resolver.as_ref());
    if target.proto == Method::Icmp && !privileges::may_send_icmp() {
        bail!(
            "not permitted: an ICMP probe needs CAP_NET_RAW; run it as root, in a container with \
             --cap-add NET_RAW, or ask for a port (--to {}:PORT)",
            ask.to.text
        );
    }
    let limit = ask.timeout.as_secs_f64();
    (ask.say)(&format!(
        "asking {} from {} ({}), up to {limit} s",
        ask.to.text,
        ask.from,
        target.proto.name()
    ));
    let mut session = Session::start(&target, inside).await?;
    privileges::shed();
    let target = session.ask_all(ask, target, resolver.as_ref(), &node).await;
    let Finished { mut probes, mut captured } = session.end().await?;
    if target.name.is_none() {
        probes.iter_mut().for_each(asked_for_any_name);
    }
    if upstream::is_wanted(&probes) {
        upstream::follow(&node, &mut probes, &mut captured.journeys).await?;
    }
    let has_failed = probes.iter().any(|p| p.decides() && !p.is_answered());
    let mut state = captured.state;
    if has_failed {
        (ask.say)("not every question was answered: looking for the cause");
        node.details(&mut state).await;
    } else {
        state = node.state.clone();
    }
    let connected = probes.iter().filter(|p| p.method == Method::Tcp);
    let ends: BTreeSet<_> = connected.map(|p| (p.netns, SocketAddr::new(p.to, p.dport))).collect();
    for (netns, end) in ends {
        inspect::count_connections(&mut state, netns, end);
    }
    let journeys = own(captured.journeys, &probes, &node.near);
    Ok(judge(Some(target), probes, journeys, state, (&node, Watched::Target)))
}

/// The namespaces that `--from` and `--view` mean.
pub(super) async fn who(ask: &Ask) -> Result<(Owners, Inum, Option<Inum>)> {
    let view = ask.view.as_deref().map(|name| ("--view", name));
    let names: Vec<_> = [("--from", ask.from.as_str())].into_iter().chain(view).collect();
    let (owners, inums) = super::owners(&names).await?;
    let from = inums.first().copied().context("--from means no namespace")?;
    Ok((owners, from, inums.get(1).copied()))
}

/// What is asked of whom, as far as it is known before a name is resolved.
pub(super) fn target(
    ask: &Ask,
    (netns, proto): (Inum, Method),
    resolver: Option<&Resolver>,
) -> Target {
    let mut target = Target {
        from: ask.from.clone(),
        to: ask.to.text.clone(),
        netns,
        name: ask.to.host.clone().err(),
        addr: ask.to.host.clone().ok(),
        port: ask.to.port,
        proto,
    };
    if proto == Method::Dns {
        target.port = Some(target.port.unwrap_or(53));
        if target.name.is_some() {
            target.addr = Some(nameserver(resolver));
        }
    }
    target
}

/// How to ask: as it was said, else by TCP where there is a port.
pub(super) fn method(ask: &Ask) -> Result<Method> {
    let proto = ask.proto.unwrap_or(match ask.to.port {
        Some(_) => Method::Tcp,
        None => Method::Icmp,
    });
    if matches!(proto, Method::Tcp | Method::Udp) && ask.to.port.is_none() {
        bail!("--proto {} needs a port: --to {}:PORT", proto.name(), ask.to.text);
    }
    Ok(proto)
}

/// Whom the C library asks: without a name server, the machine itself (resolv.conf(5)).
fn nameserver(resolver: Option<&Resolver>) -> IpAddr {
    let first = resolver.and_then(|r| r.nameservers.first().copied());
    first.unwrap_or_else(|| [127, 0, 0, 1].into())
}

/// A capture with probes under way.
struct Session {
    capture: Capture,
    inside: Arc<File>,
    running: Running,
    to: UnboundedSender<Report>,
    reports: UnboundedReceiver<Report>,
    /// What was sent, by number: its plan, its source port, and what came of it.
    sent: BTreeMap<usize, Sent>,
    may_send_icmp: bool,
}

struct Sent {
    plan: Plan,
    /// Where it was sent from.
    inside: Arc<File>,
    is_second: bool,
    sport: Option<u16>,
    probed: Option<Probed>,
}

struct Finished {
    probes: Vec<Probed>,
    captured: Captured,
}

impl Session {
    async fn start(target: &Target, inside: File) -> Result<Self> {
        // A name's address is not known yet: then everything from there is followed.
        let dst =
            target.addr.map(|addr| Network { addr, len: if addr.is_ipv4() { 32 } else { 128 } });
        let filter = FilterArgs {
            dst: dst.filter(|_| target.name.is_none() || target.proto == Method::Dns),
            netns: Some(target.netns.to_string()),
            ..FilterArgs::default()
        };
        let capture = Capture::start(&Config::capture(&filter)?).await?;
        let (to, reports) = unbounded_channel();
        Ok(Self {
            capture,
            inside: Arc::new(inside),
            running: Running::default(),
            to,
            reports,
            sent: BTreeMap::new(),
            may_send_icmp: privileges::may_send_icmp(),
        })
    }

    /// Sends everything; returns the target with the address that its name has.
    async fn ask_all(
        &mut self,
        ask: &Ask,
        mut target: Target,
        resolver: Option<&Resolver>,
        node: &Node,
    ) -> Target {
        if target.proto == Method::Dns {
            self.ask_dns(ask, &target, resolver, Purpose::Reach);
            self.wait().await;
            return target;
        }
        let written = target.name.as_deref().and_then(|name| written(node, target.netns, name));
        if written.is_some() {
            target.addr = written;
        } else if target.name.is_some() {
            self.ask_dns(ask, &target, resolver, Purpose::Resolve);
            self.wait().await;
            target.addr = self.resolved();
            if target.addr.is_none() {
                target.addr = self.ask_v6(ask, &target, resolver).await;
            }
        }
        if let Some(addr) = target.addr {
            self.reach(ask, &target, addr, node);
            self.wait().await;
            let is_answered = |s: &Sent| s.probed.as_ref().is_some_and(Probed::is_answered);
            let is_reached = |s: &Sent| {
                s.plan.purpose == Purpose::Reach
                    && s.probed.as_ref().is_some_and(Probed::was_reached)
            };
            if !self.sent.values().any(is_reached) {
                self.ask_otherwise(ask, &target, written.is_some(), resolver).await;
            }
            // Not before: a question from over there would teach this side what it cannot learn by
            // itself, and so heal what is looked for.
            if self.sent.values().any(is_answered) {
                self.reach_back(ask, &target, addr, node);
                self.wait().await;
            }
        }
        target
    }

    /// The queries for a name: several, since the servers behind one address take turns.
    fn ask_dns(
        &mut self,
        ask: &Ask,
        target: &Target,
        resolver: Option<&Resolver>,
        purpose: Purpose,
    ) {
        let empty = Resolver::default();
        let resolver = resolver.unwrap_or(&empty);
        let questions = match &target.name {
            Some(name) => candidates(resolver, name),
            None => vec![known_name(resolver)],
        };
        let asked_server = target.addr.filter(|_| target.proto == Method::Dns);
        let server = asked_server.unwrap_or_else(|| nameserver(Some(resolver)));
        // A port that was asked for is had once.
        for _ in 0..if ask.sport.is_some() { 1 } else { QUERIES } {
            let plan = Plan {
                questions: questions.clone(),
                dport: if target.proto == Method::Dns { target.port.unwrap_or(53) } else { 53 },
                sport: ask.sport.filter(|_| target.proto == Method::Dns),
                ..self.plan(ask, target, Method::Dns, purpose, server)
            };
            self.send(plan);
        }
    }

    /// The probes of the target itself.
    fn reach(&mut self, ask: &Ask, target: &Target, addr: IpAddr, node: &Node) {
        let dport = target.port.unwrap_or(0);
        let beside = if target.proto == Method::Icmp { Purpose::Reach } else { Purpose::Beside };
        let mut echo = self.plan(ask, target, Method::Icmp, beside, addr);
        if beside == Purpose::Beside {
            echo.timeout = echo.timeout.min(BESIDE);
        }
        self.send(echo);
        self.full_size(ask, target, (target.netns, addr), node);
        if matches!(target.proto, Method::Tcp | Method::Udp) {
            let choices =
                ask::choices(&node.state, &node.view, target.proto, (target.netns, addr, dport));
            let count = if ask.sport.is_some() { 1 } else { enough(choices) };
            for _ in 0..count {
                let plan = self.plan(ask, target, target.proto, Purpose::Reach, addr);
                self.send(Plan { dport, sport: ask.sport, ..plan });
            }
        }
    }

    /// From those who answer: answers may be long where requests are not.
    fn reach_back(&mut self, ask: &Ask, target: &Target, addr: IpAddr, node: &Node) {
        for (there, here) in answerers(node, target.netns, addr) {
            let Some(netns) = node.state.netns.get(&there) else { continue };
            let Ok(inside) = setns::open(&netns.path, there) else { continue };
            let asker = std::mem::replace(&mut self.inside, Arc::new(inside));
            let plan = self.plan(ask, target, Method::Icmp, Purpose::Beside, here);
            self.send(Plan { netns: there, timeout: plan.timeout.min(BESIDE), ..plan });
            self.full_size(ask, target, (there, here), node);
            self.inside = asker;
        }
    }

    /// An echo as long as the sender's device takes, and not to be cut.
    fn full_size(&mut self, ask: &Ask, target: &Target, (from, to): (Inum, IpAddr), node: &Node) {
        let Some(size) = full_size(node, from, to) else { return };
        let plan = self.plan(ask, target, Method::Icmp, Purpose::FullSize, to);
        let timeout = plan.timeout.min(BESIDE);
        self.send(Plan { netns: from, size: Some(size), timeout, ..plan });
    }

    fn plan(
        &self,
        ask: &Ask,
        target: &Target,
        method: Method,
        purpose: Purpose,
        to: IpAddr,
    ) -> Plan {
        Plan {
            method,
            purpose,
            netns: target.netns,
            to,
            dport: 0,
            sport: None,
            size: None,
            questions: Vec::new(),
            asks_v6: false,
            timeout: ask.timeout,
        }
    }

    fn send(&mut self, plan: Plan) {
        // Said at the start: what could not be sent must not count as lost.
        if plan.method == Method::Icmp && !self.may_send_icmp {
            return;
        }
        let number = self.sent.len();
        self.running.start(Arc::clone(&self.inside), number, plan.clone(), self.to.clone());
        let inside = Arc::clone(&self.inside);
        let sent = Sent { plan, inside, is_second: false, sport: None, probed: None };
        self.sent.insert(number, sent);
    }

    /// Sends a long packet once more that was lost where short ones are answered: one that was lost
    /// by chance proves nothing. Whether it did.
    fn send_again(&mut self, number: usize, probed: &Probed) -> bool {
        let is_answered = |s: &Sent| {
            let of = (s.plan.netns, s.plan.to) == (probed.netns, probed.to);
            of && s.plan.size.is_none() && s.probed.as_ref().is_some_and(Probed::is_answered)
        };
        let is_lost = probed.purpose == Purpose::FullSize && probed.outcome == Came::Timeout;
        if !is_lost || self.running.is_called_off() || !self.sent.values().any(is_answered) {
            return false;
        }
        let Some(sent) = self.sent.get_mut(&number).filter(|s| !s.is_second) else { return false };
        (sent.is_second, sent.sport) = (true, None);
        let inside = Arc::clone(&sent.inside);
        self.running.start(inside, number, sent.plan.clone(), self.to.clone());
        true
    }

    /// The address that the queries came to.
    fn resolved(&self) -> Option<IpAddr> {
        self.sent.values().filter_map(|s| s.probed.as_ref()).find_map(|p| match &p.outcome {
            Came::Dns { rcode: 0, addresses } => addresses.first().copied(),
            _ => None,
        })
    }

    /// Follows packets until every probe is over, and the rest of their packets has been seen. A
    /// probe whose packet is known to be dropped is not waited for.
    async fn wait(&mut self) {
        let mut next = Instant::now();
        let mut hopeless_since: Option<Instant> = None;
        while self.sent.values().any(|s| s.probed.is_none()) {
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => self.take(report),
                () = self.capture.follow_change() => {}
                () = sleep_until(next) => {
                    next = Instant::now() + TICK;
                    if self.is_hopeless() {
                        let since = *hopeless_since.get_or_insert(next);
                        if next.duration_since(since) > GRACE {
                            self.running.call_off();
                        }
                    }
                }
            }
        }
        let is_lost = |s: &Sent| s.probed.as_ref().is_some_and(|p| p.outcome == Came::Timeout);
        let is_proved = hopeless_since.is_some();
        let is_patient = self.sent.values().any(is_lost) && !is_proved;
        let until = Instant::now() + if is_patient { PATIENCE } else { SETTLE };
        while Instant::now() < until {
            tokio::select! {
                biased;
                () = self.capture.follow_change() => {}
                () = sleep_until(next) => {
                    self.capture.turn();
                    next = Instant::now() + TICK;
                }
            }
        }
        self.running = Running::default();
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Sends(number, sport) => {
                if let Some(sent) = self.sent.get_mut(&number) {
                    sent.sport = Some(sport);
                }
            }
            Report::Done(number, probed) => {
                if self.send_again(number, &probed) {
                    return;
                }
                let is_cut = probed.outcome == Came::Truncated;
                let Some(sent) = self.sent.get_mut(&number) else { return };
                let (plan, name) = (sent.plan.clone(), probed.question.clone());
                sent.probed = Some(*probed);
                if is_cut {
                    // As the C library's resolver does: the same question over TCP.
                    let questions = name.into_iter().collect();
                    self.send(Plan { method: Method::Tcp, sport: None, questions, ..plan });
                }
            }
        }
    }

    /// Whether for every probe that is still waited for, a packet of it was dropped.
    fn is_hopeless(&mut self) -> bool {
        let journeys = self.capture.turn();
        let waiting: Vec<(&Plan, u16)> = self
            .sent
            .values()
            .filter(|s| s.probed.is_none())
            .map(|s| (&s.plan, s.sport.unwrap_or(0)))
            .collect();
        !waiting.is_empty()
            && waiting.iter().all(|(plan, sport)| {
                journeys.iter().any(|j| {
                    is_dropped(j)
                        && begins_in(j, plan.netns)
                        && j.first.is_some_and(|h| {
                            let t = h.tuple;
                            t.dst == plan.to && t.sport == *sport && *sport != 0
                        })
                })
            })
    }

    /// Lets go of the kernel.
    async fn end(self) -> Result<Finished> {
        let captured = self.capture.end().await?;
        let mut probes: Vec<Probed> = self.sent.into_values().filter_map(|s| s.probed).collect();
        // Where no echo is answered at all, one of full size tells nothing.
        let has_echo = |long: &Probed| {
            let is_plain = |p: &&Probed| p.method == Method::Icmp && p.size.is_none();
            let mut plain = probes.iter().filter(is_plain);
            plain.any(|p| (p.netns, p.to) == (long.netns, long.to) && p.is_answered())
        };
        let is_kept: Vec<bool> =
            probes.iter().map(|p| p.purpose != Purpose::FullSize || has_echo(p)).collect();
        let mut kept = is_kept.into_iter();
        probes.retain(|_| kept.next().unwrap_or(true));
        Ok(Finished { probes, captured })
    }
}

fn is_dropped(journey: &Journey) -> bool {
    Drop::of(journey, case::Direction::Request).is_some_and(|d| !d.is_noise())
}

/// The length of a full-size packet to `addr`: the MTU of the device that leads there, where the
/// walk can tell; longer ones do not leave the sender anyway.
fn full_size(node: &Node, netns: Inum, addr: IpAddr) -> Option<u32> {
    let netns = node.state.netns.get(&netns)?;
    let devices = netns.devices.values().filter(|d| {
        d.kind != crate::net::DeviceKind::Loopback
            && d.addresses.iter().any(|(a, _)| a.is_ipv4() == addr.is_ipv4())
    });
    let has = |d: &Device| d.addresses.iter().any(|(a, _)| *a == addr);
    let is_own = netns.devices.values().any(has);
    // Whoever takes less announces less (TCP's MSS).
    let there = node.state.holders(addr).flat_map(|n| n.devices.values().filter(|d| has(d)));
    let taken = there.map(|d| d.mtu).filter(|mtu| *mtu > 0).max();
    let sent = devices.map(|d| d.mtu).min().filter(|_| !is_own && !addr.is_loopback());
    Some(untold(node, netns.inum, addr, sent?.min(taken.unwrap_or(u32::MAX))))
}

/// The length of a packet that no router on the way has to complain about. What it says is kept by
/// the kernel for ten minutes: the sender's connections announce less from then on, and what was to
/// be found out would be healed.
fn untold(node: &Node, from: Inum, to: IpAddr, len: u32) -> u32 {
    let scope = ask::scope(node.view.iter().copied());
    let ask = walk::Ask { len, ..walk::Ask::ping(from, to) };
    let walk = walk::walk(&node.state, &scope, &ask);
    let packed = walk.steps.iter().position(|s| matches!(s.what, walk::What::Encap { .. }));
    let told = walk.obstacles().filter(|(at, _)| packed.is_none_or(|packed| *at < packed));
    let told = told.filter_map(|(_, o)| match o.kind {
        walk::ObstacleKind::TooLong { mtu, tells_sender: true, .. } => Some(mtu),
        _ => None,
    });
    told.min().map_or(len, |mtu| mtu.min(len))
}

/// The address that `/etc/hosts` there has for the name.
fn written(node: &Node, netns: Inum, name: &str) -> Option<IpAddr> {
    node.state.netns.get(&netns)?.detail.as_ref()?.hosts.as_ref()?.address(name)
}

/// Who answers, where that can be seen, and the address that the answers go to.
fn answerers(node: &Node, netns: Inum, addr: IpAddr) -> Vec<(Inum, IpAddr)> {
    let scope = ask::scope(node.view.iter().copied());
    let walk = walk::walk(&node.state, &scope, &walk::Ask::ping(netns, addr));
    let End::Delivered { netns: there, .. } = walk.end else { return Vec::new() };
    let is_plain = walk.nat.is_empty() && there != netns;
    is_plain.then_some((there, walk.tuple.src)).into_iter().collect()
}

/// How many connections meet each of `choices` endpoints, all but certainly.
fn enough(choices: usize) -> usize {
    if choices < 2 {
        return 1;
    }
    let n = choices as f64;
    let missed = |k: usize| n * (1.0 - 1.0 / n).powi(i32::try_from(k).unwrap_or(i32::MAX));
    (choices..MAX_PROBES).find(|k| missed(*k) < 0.001).unwrap_or(MAX_PROBES)
}

/// A name that every server of this kind knows.
fn known_name(resolver: &Resolver) -> String {
    let cluster = resolver.search.iter().find_map(|s| s.strip_prefix("svc."));
    cluster.map_or_else(|| "localhost".to_owned(), |d| format!("kubernetes.default.svc.{d}"))
}

/// Where no name was typed, a server that says there is none has answered.
fn asked_for_any_name(probe: &mut Probed) {
    if matches!(probe.outcome, Came::Dns { rcode: 0 | 3, .. }) {
        probe.outcome = Came::Answered;
    }
}

/// Where a packet was met first: one that looks the same may be under way elsewhere.
fn begins_in(journey: &Journey, netns: Inum) -> bool {
    journey.hops.first().is_some_and(|h| h.netns == netns)
}

/// The packets of the probes, and all that comes from them. An echo that was sent beside a probe
/// and is lost says nothing about that: no Service answers echoes. What never came `near` (empty is
/// everywhere) belongs to another network that uses the same addresses.
fn own(mut journeys: Vec<Journey>, probes: &[Probed], near: &BTreeSet<Inum>) -> Vec<Journey> {
    journeys.retain(|j| near.is_empty() || j.hops.iter().any(|h| near.contains(&h.netns)));
    let flows = crate::journey::group(&journeys);
    let counts = |p: &&Probed| p.purpose != Purpose::Beside || p.is_answered();
    let is_sent = |i: &usize| {
        let first = journeys[*i].first;
        first.is_some_and(|h| probes.iter().filter(counts).any(|p| p.sent(&h.tuple)))
    };
    let mut kept = vec![false; journeys.len()];
    for flow in flows.iter().filter(|f| f.forward.iter().any(is_sent)) {
        flow.forward.iter().chain(&flow.backward).for_each(|i| kept[*i] = true);
    }
    let mut kept = kept.into_iter();
    journeys.into_iter().filter(|_| kept.next().unwrap_or(false)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_met() {
        assert_eq!(enough(1), 1);
        assert_eq!(enough(2), 11);
        assert!(enough(3) > 15 && enough(100) == MAX_PROBES);
    }
}
