//! How long the flow's packets took from one hop to the next.

use std::time::Duration;

use super::Evidence;
use super::passage::Passage;
use crate::event::{CtInfo, Tuple};
use crate::journey::{Hook, Hop, Journey, Stage};
use crate::net::Inum;

/// Packets without which a median means little.
const ENOUGH: usize = 5;

/// A part of the way that takes time, by what lies between two hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// In a queueing discipline.
    Queue,
    /// Waiting for the next hop's link-layer address.
    Neighbour,
}

impl Evidence<'_> {
    /// Between the same addresses others are followed, too: those of other ports.
    pub(super) fn is_asked_for(&self, journey: &Journey) -> bool {
        let port = self.target.as_ref().and_then(|target| target.port);
        let tuples = [journey.first.map(|headers| headers.tuple), journey.last_tuple];
        port.is_none_or(|port| tuples.iter().flatten().any(|t| [t.sport, t.dport].contains(&port)))
    }

    /// The times that its packets took for a segment, in order.
    pub(super) fn times(&self, netns: Inum, segment: Segment, dev: Option<u32>) -> Vec<Duration> {
        self.between(
            netns,
            |_| true,
            |from, to| {
                let out = to.dev.as_ref().map(|d| d.ifindex);
                let is_there = dev.is_none_or(|dev| out == Some(dev));
                is_there
                    && match segment {
                        Segment::Queue => from.stage == Stage::Queue && to.stage == Stage::Xmit,
                        Segment::Neighbour => from.stage == Stage::Neigh,
                    }
            },
        )
    }

    /// The times between neighbouring hops in a namespace of which `is` holds, in order; of packets
    /// whose addresses before the second one are `its`.
    fn between(
        &self,
        netns: Inum,
        its: impl Fn(Option<Tuple>) -> bool,
        is: impl Fn(&Hop, &Hop) -> bool,
    ) -> Vec<Duration> {
        let mut times = Vec::new();
        for journey in self.journeys.iter().filter(|j| self.is_asked_for(j)) {
            let mut tuple = journey.first.map(|headers| headers.tuple);
            for pair in journey.hops.windows(2) {
                let [from, to] = pair else { continue };
                tuple = from.tuple.or(tuple);
                if from.netns == netns && to.netns == netns && its(tuple) && is(from, to) {
                    let took = to.ktime_ns.saturating_sub(from.ktime_ns);
                    times.push(Duration::from_nanos(took));
                }
            }
        }
        times.sort();
        times
    }

    /// Their median, where there are enough of them.
    pub(super) fn median(
        &self,
        netns: Inum,
        segment: Segment,
        dev: Option<u32>,
    ) -> Option<(Duration, usize)> {
        let timed = || self.timed.queues.get(&(netns, dev?)).copied();
        if segment == Segment::Queue
            && let Some(median) = timed()
        {
            return (median.1 >= ENOUGH).then_some(median);
        }
        middle(&self.times(netns, segment, dev))
    }

    /// The median time in a hook of packets that come to it as those of the passage do, where there
    /// are enough of them: the other direction may meet other rules there. Of first packets of
    /// connections alone, or of all.
    pub(super) fn median_at(
        &self,
        passage: &Passage<'_>,
        is_first: bool,
    ) -> Option<(Duration, usize)> {
        let is_asked =
            |to: &Hop| is_in(to, passage.hook) && (!is_first || to.ct == Some(CtInfo::New));
        let its = |tuple: Option<Tuple>| tuple.is_some_and(|tuple| passage.takes(&tuple));
        middle(&self.between(passage.netns, its, |_, to| is_asked(to)))
    }

    /// The median time until the route was chosen, of the direction that waits longer for it: each
    /// may match another rule.
    pub(super) fn median_of_routes(&self, netns: Inum) -> Option<(Duration, usize)> {
        let of = |is_up: bool| {
            let its = |tuple: Option<Tuple>| tuple.is_some_and(|t| (t.src < t.dst) == is_up);
            // It is told of at its begin.
            middle(&self.between(netns, its, |from, _| from.stage == Stage::Route))
        };
        of(true).max(of(false))
    }

    /// The median time at a device, past packet sockets and filters of tc: of what comes in, up to
    /// the next hop, or of what goes out, from the one before.
    pub(super) fn median_of_device(
        &self,
        (netns, dev): (Inum, u32),
        is_ingress: bool,
    ) -> Option<(Duration, usize)> {
        let (stage, program) = match is_ingress {
            true => (Stage::Rx, Stage::TcIngress),
            // What runs there has run when it is handed to the queue.
            false => (Stage::Queue, Stage::TcEgress),
        };
        let is_there = |hop: &&Hop| {
            let is_dev = hop.dev.as_ref().is_some_and(|d| d.ifindex == dev);
            hop.netns == netns && hop.stage == stage && is_dev
        };
        let mut times = Vec::new();
        for journey in self.journeys {
            // Programs that only look are hops among them.
            let hops: Vec<&Hop> = journey.hops.iter().filter(|h| h.stage != program).collect();
            let pairs = hops.windows(2).filter_map(|pair| match pair {
                [from, to] if is_there(if is_ingress { from } else { to }) => Some((from, to)),
                _ => None,
            });
            let took = pairs.filter(|(from, to)| from.netns == to.netns);
            times.extend(took.map(|(from, to)| to.ktime_ns.saturating_sub(from.ktime_ns)));
        }
        times.sort_unstable();
        middle(&times.into_iter().map(Duration::from_nanos).collect::<Vec<_>>())
    }

    /// The longest that its packets took on this node, as far as it is known.
    pub(super) fn on_node(&self) -> Option<Duration> {
        let followed = self.journeys.iter().map(|j| j.end_ns.saturating_sub(j.start_ns)).max();
        followed.map(Duration::from_nanos).or(self.timed.whole)
    }
}

fn is_in(hop: &Hop, hook: Hook) -> bool {
    hop.stage == Stage::Netfilter && hop.hook == Some(hook)
}

/// The median of times in order and how many they are, where there are enough.
fn middle(times: &[Duration]) -> Option<(Duration, usize)> {
    let middle = times.get(times.len() / 2).copied()?;
    (times.len() >= ENOUGH).then_some((middle, times.len()))
}
