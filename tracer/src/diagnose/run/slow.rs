//! Why a connection is slow: figures before and after, with its traffic in between.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::{Ask, Node, Outcome, Watch, active, ask};
use crate::cli::filter::{FilterArgs, Network};
use crate::config::Config;
use crate::diagnose::case::{Method, Outcome as Came, Probed, Purpose, Target, Way};
use crate::diagnose::probe::{Plan, Report, Running, candidates};
use crate::diagnose::slow::{self, Evidence, Lookup, Moment};
use crate::firewall::{self, Firewall};
use crate::journey::Journey;
use crate::net::detail::Resolver;
use crate::net::meter::{self, Depth, Place};
use crate::net::{Inum, setns};
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
/// How long a name server is waited for (resolv.conf(5): `timeout`).
const NAME_TIMEOUT: Duration = Duration::from_secs(5);
/// How long concluding may take when a signal has ended the watch.
const CONCLUDING: Duration = Duration::from_secs(3);
/// A connection of our own, so that something is seen where nobody else talks.
const PROBES: usize = 3;

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
        let places = Arc::new(begun.places());
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
        let (_probing, mut reports) = self.begun.probe();
        let (to, mut answers) = unbounded_channel();
        let asking = tokio::spawn(self.begun.questions()?.ask(to));
        let start = self.start;
        let is_over = |asking: &JoinHandle<()>| start.elapsed() > span && asking.is_finished();
        while !is_over(&asking) {
            tokio::select! {
                biased;
                Some(report) = reports.recv() => self.probes.extend(done(report)),
                Some(lookup) = answers.recv() => self.lookups.push(lookup),
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
        while let Ok(lookup) = answers.try_recv() {
            self.lookups.push(lookup);
        }
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
        let Begun { node, target, ways, .. } = self.begun;
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

    /// The namespaces on the way; all that can be reached where it is not known.
    fn places(&self) -> Vec<Place> {
        let walks = self.ways.iter().flat_map(Way::walks);
        let on_way: BTreeSet<Inum> = walks.flat_map(|(_, w)| &w.steps).map(|s| s.netns).collect();
        let wanted = |n: &&crate::net::Netns| match on_way.is_empty() {
            true => {
                n.devices.len() > 1
                    && (self.node.near.is_empty() || self.node.near.contains(&n.inum))
            }
            false => on_way.contains(&n.inum),
        };
        self.node.state.netns.values().filter(wanted).map(Place::new).collect()
    }

    /// Connections of our own: what they meet is what the others meet.
    fn probe(&self) -> (Running, UnboundedReceiver<Report>) {
        let (to, reports) = unbounded_channel();
        let running = Running::default();
        let Some(target) = &self.target else { return (running, reports) };
        let netns = self.node.state.netns.get(&target.netns);
        let inside = netns.and_then(|n| setns::open(&n.path, target.netns).ok());
        let (Some(addr), Some(inside)) = (target.addr, inside.map(Arc::new)) else {
            return (running, reports);
        };
        // A datagram of ours could be taken for real by whoever waits for them.
        if matches!(target.proto, Method::Icmp | Method::Tcp) {
            for number in 0..PROBES {
                let plan = plan(target, target.proto, addr, target.port.unwrap_or(0));
                running.start(Arc::clone(&inside), number, plan, to.clone());
            }
        }
        (running, reports)
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
        questions.port = target.port.filter(|_| target.proto == Method::Dns).unwrap_or(53);
        Ok(questions)
    }
}

/// A name as the resolver library looks it up: each candidate, of the first server that answers.
#[derive(Default)]
struct Questions {
    inside: Option<(Arc<File>, Target)>,
    name: String,
    candidates: Vec<String>,
    servers: Vec<IpAddr>,
    port: u16,
}

impl Questions {
    async fn ask(mut self, to: UnboundedSender<Lookup>) {
        let Some((inside, target)) = &self.inside else { return };
        for candidate in &self.candidates {
            while let Some(server) = self.servers.first().copied() {
                let at = (server, self.port);
                // Both at once, as the resolver library does.
                let ask = |is_v6| look_up(target, inside, (candidate, &self.name, is_v6), at);
                let both = tokio::join!(ask(false), ask(true));
                let is_answered = both.0.rcode.is_some() || both.1.rcode.is_some();
                let is_found = both.0.has_address || both.1.has_address;
                // Nobody waits for it any more: nothing to be done.
                if to.send(both.0).is_err() || to.send(both.1).is_err() || is_found {
                    return;
                }
                if is_answered {
                    break;
                }
                self.servers.remove(0);
            }
        }
    }
}

async fn look_up(
    target: &Target,
    inside: &Arc<File>,
    (candidate, name, is_v6): (&str, &str, bool),
    (server, port): (IpAddr, u16),
) -> Lookup {
    let (to, mut reports) = unbounded_channel();
    let running = Running::default();
    let questions = vec![candidate.to_owned()];
    let plan = plan(target, Method::Dns, server, port);
    let plan = Plan { questions, asks_v6: is_v6, timeout: NAME_TIMEOUT, ..plan };
    let sent = Instant::now();
    running.start(Arc::clone(inside), 0, plan, to);
    let mut answer = None;
    while let Some(report) = reports.recv().await {
        answer = answer.or(done(report));
    }
    let (rcode, has_address) = match answer.as_ref().map(|p| &p.outcome) {
        Some(Came::Dns { rcode, addresses }) => (Some(*rcode), !addresses.is_empty()),
        _ => (None, false),
    };
    let took = answer.and_then(|p| p.rtt).unwrap_or_else(|| sent.elapsed());
    let suffix = candidate.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
    let suffix = suffix.map(str::to_owned);
    Lookup { name: candidate.to_owned(), suffix, is_v6, server, took, rcode, has_address }
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
