//! Everything that a rule may look at.

use std::collections::BTreeMap;
use std::net::SocketAddr;

mod dropped;
mod probed;

pub use dropped::Drop;
pub use probed::{Method, Outcome, Probed, Purpose, Target};

use super::walk::{self, Ask, Obstacle, Scope, Walk};
use crate::journey::{self, Fate, Flow, Journey, Lineage};
use crate::net::detail::Detail;
use crate::net::{Inum, Netns, NetworkState};

/// Added to the depth of what happens to replies: they come after the whole request.
pub(super) const REPLY_DEPTH: u32 = 100_000;

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
    /// Those of a packet, there and back.
    #[must_use]
    pub fn all(state: &NetworkState, scope: &Scope, ask: &Ask, purpose: Purpose) -> Vec<Self> {
        let requests = walk::walks(state, scope, ask).into_iter();
        requests
            .map(|request| {
                let reply = walk::walk_reply(state, scope, &request);
                Self { purpose, request, reply }
            })
            .collect()
    }

    /// Nothing stops a packet on it, nor its answer.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.request.is_clear() && self.reply.as_ref().is_none_or(Walk::is_clear)
    }

    /// Both directions, those that there are.
    pub fn walks(&self) -> impl Iterator<Item = (Direction, &Walk)> {
        let reply = self.reply.iter().map(|w| (Direction::Reply, w));
        [(Direction::Request, &self.request)].into_iter().chain(reply)
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

    /// Whether what was asked works, and only a long packet beside it was lost.
    #[must_use]
    pub fn is_aside(&self) -> bool {
        let mut failed = self.failed().peekable();
        failed.peek().is_some() && self.works() && failed.all(|p| p.purpose == Purpose::FullSize)
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

    /// Whether what was asked was seen to work: a probe of the target itself was answered. Without
    /// probes: a packet came to somebody who took it, or what is configured was walked to its end.
    #[must_use]
    pub fn works(&self) -> bool {
        if self.target.is_some() {
            let asked = |p: &&Probed| matches!(p.purpose, Purpose::Reach | Purpose::FullSize);
            return self.probes.iter().filter(asked).any(Probed::was_reached);
        }
        let arrived = |j: &Journey| j.fate == Fate::Delivered;
        let is_known = |w: &Way| matches!(w.request.end, walk::End::Delivered { .. });
        self.journeys.iter().any(arrived) || self.ways.iter().any(is_known)
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
        self.flows.iter().filter(|flow| !self.is_beside(flow)).flat_map(move |flow| {
            let both = [(&flow.forward, Direction::Request), (&flow.backward, Direction::Reply)];
            both.into_iter().flat_map(move |(indices, direction)| {
                indices.iter().filter_map(move |i| self.drop_of(&self.journeys[*i], direction))
            })
        })
    }

    /// An echo that decides nothing, and its answers: an address of which only ports are open may
    /// well refuse it.
    fn is_beside(&self, flow: &Flow) -> bool {
        let first = flow.forward.first().and_then(|i| self.journeys[*i].first);
        let Some(first) = first.filter(|_| !self.probes.is_empty()) else { return false };
        let is_echo = first.icmp().is_some_and(|i| matches!(i.kind, 8 | 128));
        is_echo && !self.probes.iter().any(|p| p.decides() && p.sent(&first.tuple))
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
