//! Why a connection is slow: figures before and after, with its traffic in between.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

mod names;

use self::names::Questions;
use super::{Ask, Node, Outcome, Watch, active, ask};
use crate::cli::filter::{FilterArgs, Network};
use crate::config::Config;
use crate::diagnose::case::{Method, Probed, Purpose, Target, Way};
use crate::diagnose::probe::{Plan, Report, Running, candidates};
use crate::diagnose::slow::{self, Evidence, Lookup, Moment};
use crate::firewall::{self, Firewall};
use crate::journey::Journey;
use crate::net::detail::Resolver;
use crate::net::meter::{self, Depth, Place};
use crate::net::{Inum, Netns, inspect, setns};
use crate::source::Capture;
use crate::{privileges, ready, signals};

/// How long packets are followed: enough for medians, and it costs the flow itself time.
const FOLLOWED: Duration = Duration::from_millis(2500);
/// Journeys a second.
const RATE: u64 = 400;
/// How often queues are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// When it is looked once more which processes hold the sockets: some came after the first look.
const SETTLED: Duration = Duration::from_secs(1);
/// How often the ring is.
const TICK: Duration = Duration::from_millis(2);
/// How long concluding may take when a signal has ended the watch.
const CONCLUDING: Duration = Duration::from_secs(3);
/// A connection of our own, so that something is seen where nobody else talks.
const PROBES: usize = 3;
/// For each of several ways: that none of a dozen takes one of two is a chance of one in 4,096.
const PROBES_A_WAY: usize = 6;
const MOST_PROBES: usize = 36;
/// Of a name, in each family.
const ADDRESSES: usize = 3;

/// Watches the flow, and concludes. It may be ended early.
///
/// # Errors
///
/// What keeps it from running, in one line.
pub async fn slow<T>(
    from: Option<&Ask>,
    watch: &Watch,
    ended: impl Future<Output = T>,
) -> Result<Outcome> {
    tokio::pin!(ended);
    let mut watching = tokio::select! {
        biased;
        _ = &mut ended => bail!(super::INTERRUPTED),
        begun = Watching::start(from, watch) => begun?,
    };
    let is_ended = tokio::select! {
        biased;
        _ = &mut ended => true,
        done = watching.run(watch.duration) => { done?; false }
    };
    watching.conclude(is_ended).await
}

/// A flow that is being watched.
struct Watching {
    begun: Begun,
    places: Arc<Vec<Place>>,
    processes: Arc<meter::Processes>,
    tunnels: meter::Tunnels,
    /// They were looked at when the traffic ran.
    is_settled: bool,
    capture: Option<Capture>,
    start: Instant,
    cpus: Vec<meter::Cpu>,
    moments: Vec<Moment>,
    journeys: Vec<Journey>,
    probes: Vec<Probed>,
    lookups: Vec<Lookup>,
}

impl Watching {
    async fn start(from: Option<&Ask>, watch: &Watch) -> Result<Self> {
        let command = match from {
            Some(_) => privileges::Command::Probe,
            None => privileges::Command::Watch,
        };
        privileges::check(command, false)?;
        let begun = Begun::new(from, watch).await?;
        let tunnels = spawn_blocking(meter::tunnels).await?;
        let places = begun.places().into_iter().map(|place| place.with(&tunnels)).collect();
        let places = Arc::new(places);
        let processes = Arc::new(spawn_blocking(meter::processes).await?);
        let mut config = Config::capture(&begun.filter)?;
        config.max_journeys = RATE;
        let capture = Some(Capture::start(&config).await?);
        if let Some(path) = &watch.ready_file {
            ready::say(path)?;
        }
        privileges::shed();
        signals::flushing(Some(CONCLUDING));
        let cpus = meter::cpus();
        let mut watching = Self {
            begun,
            places,
            processes,
            tunnels,
            is_settled: false,
            capture,
            start: Instant::now(),
            cpus,
            moments: Vec::new(),
            journeys: Vec::new(),
            probes: Vec::new(),
            lookups: Vec::new(),
        };
        watching.look(Depth::All).await?;
        watching.start = Instant::now();
        Ok(watching)
    }

    async fn look(&mut self, mut depth: Depth) -> Result<()> {
        if !self.is_settled && self.start.elapsed() > SETTLED {
            self.processes = Arc::new(spawn_blocking(meter::processes).await?);
            self.is_settled = true;
            depth = depth.max(Depth::Quotas);
        }
        let (places, processes) = (Arc::clone(&self.places), Arc::clone(&self.processes));
        let read = spawn_blocking(move || meter::read(&places, &processes, depth));
        self.moments.push(read.await?);
        Ok(())
    }

    /// Looks again and again; ends when the time is over and every name server has been heard or
    /// given up.
    async fn run(&mut self, span: Duration) -> Result<()> {
        let (mut look, mut tick) = (self.start + LOOK, self.start);
        let (probing, (report, mut reports)) = (Running::default(), unbounded_channel());
        let mut sent = self.begun.probe(self.begun.address(), &probing, &report);
        let (to, mut answers) = unbounded_channel();
        let asking = tokio::spawn(self.begun.questions()?.ask(to));
        let start = self.start;
        let is_over = |asking: &JoinHandle<()>| start.elapsed() > span && asking.is_finished();
        // Whoever was asked has been heard, or given up.
        while !is_over(&asking) || !answers.is_empty() || self.probes.len() < sent {
            tokio::select! {
                biased;
                Some(report) = reports.recv() => self.probes.extend(done(report)),
                Some(lookup) = answers.recv() => {
                    // Whoever connects to the name may get any of them.
                    for addr in lookup.addresses.iter().take(ADDRESSES) {
                        sent += self.begun.probe(Some(*addr), &probing, &report);
                    }
                    self.lookups.push(lookup);
                }
                () = sleep_until(look) => {
                    self.look(Depth::Peaks).await?;
                    look = Instant::now() + LOOK;
                }
                () = sleep_until(tick) => {
                    tick = Instant::now() + if self.capture.is_some() { TICK } else { LOOK };
                    self.turn().await?;
                }
            }
        }
        self.begun.resolve(&self.lookups);
        Ok(())
    }

    /// Takes in what packets did; lets go of them once there are enough.
    async fn turn(&mut self) -> Result<()> {
        if let Some(capture) = &mut self.capture {
            capture.turn();
        }
        if self.start.elapsed() > FOLLOWED {
            self.let_go().await?;
        }
        Ok(())
    }

    async fn let_go(&mut self) -> Result<()> {
        if let Some(capture) = self.capture.take() {
            self.journeys = capture.end().await?.journeys;
        }
        Ok(())
    }

    async fn conclude(mut self, is_hasty: bool) -> Result<Outcome> {
        self.let_go().await?;
        self.look(Depth::All).await?;
        let span = self.start.elapsed();
        // Reading rules takes processes, and time.
        let after = if is_hasty { BTreeMap::new() } else { self.begun.rules().await };
        let Begun { mut node, target, ways, .. } = self.begun;
        if let Some((netns, end)) = target.as_ref().and_then(end_of) {
            inspect::count_connections(&mut node.state, netns, end);
        }
        let evidence = Evidence {
            target: target.clone(),
            state: &node.state,
            ways,
            journeys: &self.journeys,
            moments: self.moments,
            span,
            after,
            cpus: (self.cpus, meter::cpus()),
            lookups: self.lookups,
            tunnels: self.tunnels,
            probes: self.probes.clone(),
            timed: slow::Timed::default(),
        };
        let diagnosis = slow::conclude(&evidence);
        Ok(Outcome { target, probes: self.probes, diagnosis, journeys: self.journeys })
    }
}

/// What is known before anything is measured.
struct Begun {
    node: Node,
    target: Option<Target>,
    ways: Vec<Way>,
    filter: FilterArgs,
}

impl Begun {
    async fn new(from: Option<&Ask>, watch: &Watch) -> Result<Self> {
        let Some(ask) = from else {
            let view: Vec<_> = watch.view.iter().map(|name| ("--view", name.as_str())).collect();
            let (owners, view) = super::owners(&view).await?;
            let node = Node::read(owners, view.first().copied(), None, None).await?;
            let filter = watch.filter.clone();
            return Ok(Self { node, target: None, ways: Vec::new(), filter });
        };
        let (owners, from, view) = active::who(ask).await?;
        (ask.say)("reading the configuration of this node");
        let node = Node::read(owners, view, Some(from), ask.to.host.clone().ok()).await?;
        let Some(netns) = node.state.netns.get(&from) else {
            bail!("--from: network namespace {} cannot be read", ask.from);
        };
        let resolver = netns.detail.as_ref().and_then(|d| d.resolver.clone());
        let target = active::target(ask, (from, active::method(ask)?), resolver.as_ref());
        let ways = ways(&node, &target);
        let dst = target.addr.map(Network::host);
        let filter = FilterArgs { dst, netns: Some(from.to_string()), ..FilterArgs::default() };
        Ok(Self { node, target: Some(target), ways, filter })
    }

    /// The namespaces on the way, and the one that has the address where a tunnel hides its end; all
    /// that can be reached where it is not known.
    fn places(&self) -> Vec<Place> {
        let walks = self.ways.iter().flat_map(Way::walks);
        let mut on_way: BTreeSet<Inum> =
            walks.flat_map(|(_, w)| &w.steps).map(|s| s.netns).collect();
        if let (Some(addr), false) = (self.address(), on_way.is_empty()) {
            let has =
                |n: &&Netns| n.devices.values().any(|d| d.addresses.iter().any(|a| a.0 == addr));
            let near = |n: &&Netns| self.node.near.is_empty() || self.node.near.contains(&n.inum);
            on_way.extend(self.node.state.netns.values().filter(has).filter(near).map(|n| n.inum));
        }
        let wanted = |n: &&Netns| match on_way.is_empty() {
            true => {
                n.devices.len() > 1
                    && (self.node.near.is_empty() || self.node.near.contains(&n.inum))
            }
            false => on_way.contains(&n.inum),
        };
        self.node.state.netns.values().filter(wanted).map(Place::new).collect()
    }

    /// Where to, unless a name has to be looked up for that.
    fn address(&self) -> Option<IpAddr> {
        self.target.as_ref()?.addr
    }

    /// Connections of our own, and how many: what they meet is what the others meet.
    fn probe(
        &self,
        to: Option<IpAddr>,
        running: &Running,
        report: &UnboundedSender<Report>,
    ) -> usize {
        let (Some(target), Some(to)) = (&self.target, to) else { return 0 };
        let netns = self.node.state.netns.get(&target.netns);
        let inside = netns.and_then(|n| setns::open(&n.path, target.netns).ok());
        let Some(inside) = inside.map(Arc::new) else { return 0 };
        // A datagram of ours could be taken for real by whoever waits for them.
        if !matches!(target.proto, Method::Icmp | Method::Tcp) {
            return 0;
        }
        // Several ways (endpoints, next hops) are taken by chance: each of them should be.
        let count = match self.ways.len() {
            0 | 1 => PROBES,
            several => (PROBES_A_WAY * several).min(MOST_PROBES),
        };
        for number in 0..count {
            let plan = plan(target, target.proto, to, target.port.unwrap_or(0));
            running.start(Arc::clone(&inside), number, plan, report.clone());
        }
        count
    }

    /// The ways to what a name stands for, now that it is known.
    fn resolve(&mut self, lookups: &[Lookup]) {
        let Some(target) = &mut self.target else { return };
        // What stands in the way of the connections to name servers is seen on their way.
        let again = lookups.iter().find(|l| l.again == Some(slow::Again::Silent));
        if let Some(lookup) = again {
            let (addr, port) = (Some(lookup.server), Some(53));
            let one = Target { addr, port, proto: Method::Tcp, ..target.clone() };
            self.ways.extend(ways(&self.node, &one));
        }
        if target.addr.is_some() {
            return;
        }
        for addr in lookups.iter().flat_map(|l| &l.addresses) {
            let one = Target { addr: Some(*addr), ..target.clone() };
            self.ways.extend(ways(&self.node, &one));
            target.addr.get_or_insert(*addr);
        }
    }

    /// The rules of the namespaces on the way, with what they have counted by now.
    async fn rules(&self) -> BTreeMap<Inum, Firewall> {
        let walks = self.ways.iter().flat_map(Way::walks);
        let netns: BTreeSet<Inum> = walks.flat_map(|(_, w)| &w.steps).map(|s| s.netns).collect();
        let mut rules = BTreeMap::new();
        for netns in netns.iter().filter_map(|inum| self.node.state.netns.get(inum)) {
            let (path, inum) = (netns.path.clone(), netns.inum);
            let has_rules = netns.detail.as_ref().is_some_and(|d| !d.firewall.tables.is_empty());
            if !has_rules {
                continue;
            }
            if let Ok(Ok(read)) = spawn_blocking(move || firewall::read_in(&path, inum)).await {
                rules.insert(inum, read);
            }
        }
        rules
    }

    /// What the resolver library would ask for the target's name.
    fn questions(&self) -> Result<Questions> {
        let mut questions = Questions::default();
        let Some(target) = &self.target else { return Ok(questions) };
        let (Some(name), Some(netns)) = (&target.name, self.node.state.netns.get(&target.netns))
        else {
            return Ok(questions);
        };
        let empty = Resolver::default();
        let detail = netns.detail.as_ref();
        let resolver = detail.and_then(|d| d.resolver.as_ref()).unwrap_or(&empty);
        let inside = setns::open(&netns.path, target.netns).context("cannot enter --from")?;
        questions.inside = Some((Arc::new(inside), target.clone()));
        questions.name.clone_from(name);
        questions.candidates = candidates(resolver, name);
        questions.servers.clone_from(&resolver.nameservers);
        questions.rotates = resolver.rotates;
        questions.port = target.port.filter(|_| target.proto == Method::Dns).unwrap_or(53);
        Ok(questions)
    }
}

/// Where connections of the asked namespace lead to.
fn end_of(target: &Target) -> Option<(Inum, SocketAddr)> {
    let end = SocketAddr::new(target.addr?, target.port?);
    (target.proto == Method::Tcp).then_some((target.netns, end))
}

fn done(report: Report) -> Option<Probed> {
    match report {
        Report::Sends(..) => None,
        Report::Done(_, probed) => Some(*probed),
    }
}

fn plan(target: &Target, method: Method, to: IpAddr, dport: u16) -> Plan {
    Plan {
        method,
        purpose: Purpose::Reach,
        netns: target.netns,
        to,
        dport,
        sport: None,
        size: None,
        questions: Vec::new(),
        asks_v6: false,
        timeout: Duration::from_secs(3),
    }
}

fn ways(node: &Node, target: &Target) -> Vec<Way> {
    let Some(addr) = target.addr else { return Vec::new() };
    let port = target.port.unwrap_or(0);
    let question = ask::question(target.proto, target.netns, addr, port, None);
    let scope = ask::scope(node.view.iter().copied());
    Way::all(&node.state, &scope, &question, Purpose::Reach)
}
