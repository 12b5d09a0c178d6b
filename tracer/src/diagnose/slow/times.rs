//! How long the flow's packets took from one hop to the next.

use std::time::Duration;

use super::Evidence;
use crate::event::CtInfo;
use crate::journey::{Hook, Hop, Stage};
use crate::net::Inum;

/// Packets without which a median means little.
const ENOUGH: usize = 5;

/// A part of the way that takes time, by what lies between two hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// The rules of a netfilter hook.
    Hook(Hook),
    /// The choice of a route.
    Route,
    /// In a queueing discipline.
    Queue,
    /// Waiting for the next hop's link-layer address.
    Neighbour,
}

impl Evidence<'_> {
    /// The times that its packets took for a segment, in order.
    pub(super) fn times(&self, netns: Inum, segment: Segment, dev: Option<u32>) -> Vec<Duration> {
        self.between(netns, |from, to| {
            let out = to.dev.as_ref().map(|d| d.ifindex);
            let is_there = dev.is_none_or(|dev| out == Some(dev));
            is_there
                && match segment {
                    Segment::Hook(hook) => is_in(to, hook),
                    // It is told of at its begin.
                    Segment::Route => from.stage == Stage::Route,
                    Segment::Queue => from.stage == Stage::Queue && to.stage == Stage::Xmit,
                    Segment::Neighbour => from.stage == Stage::Neigh,
                }
        })
    }

    /// The times between neighbouring hops in a namespace of which `is` holds, in order.
    fn between(&self, netns: Inum, is: impl Fn(&Hop, &Hop) -> bool) -> Vec<Duration> {
        let pairs = self.journeys.iter().flat_map(|j| j.hops.windows(2));
        let here = pairs.filter_map(|pair| match pair {
            [from, to] if from.netns == netns && to.netns == netns => Some((from, to)),
            _ => None,
        });
        let its = here.filter(|(from, to)| is(from, to));
        let took = |(from, to): (&Hop, &Hop)| to.ktime_ns.saturating_sub(from.ktime_ns);
        let mut times: Vec<_> = its.map(took).map(Duration::from_nanos).collect();
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

    /// The median time of first packets of connections in a hook, where there are enough of them.
    pub(super) fn median_of_first(&self, netns: Inum, hook: Hook) -> Option<(Duration, usize)> {
        middle(&self.between(netns, |_, to| is_in(to, hook) && to.ct == Some(CtInfo::New)))
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
