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
        let mut times: Vec<_> = self
            .journeys
            .iter()
            .flat_map(|j| j.hops.windows(2))
            .filter(|pair| pair[1].netns == netns && pair[0].netns == netns)
            .filter(|pair| {
                let out = pair[1].dev.as_ref().map(|d| d.ifindex);
                let is_there = dev.is_none_or(|dev| out == Some(dev));
                is_there
                    && match segment {
                        Segment::Hook(hook) => {
                            pair[1].stage == Stage::Netfilter && pair[1].hook == Some(hook)
                        }
                        // It is told of at its begin.
                        Segment::Route => pair[0].stage == Stage::Route,
                        Segment::Queue => {
                            pair[0].stage == Stage::Queue && pair[1].stage == Stage::Xmit
                        }
                        Segment::Neighbour => pair[0].stage == Stage::Neigh,
                    }
            })
            .map(|pair| Duration::from_nanos(pair[1].ktime_ns.saturating_sub(pair[0].ktime_ns)))
            .collect();
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
        let times = self.times(netns, segment, dev);
        let middle = times.get(times.len() / 2).copied()?;
        (times.len() >= ENOUGH).then_some((middle, times.len()))
    }

    /// The median time of first packets of connections in a hook, where there are enough of them.
    pub(super) fn median_of_first(&self, netns: Inum, hook: Hook) -> Option<(Duration, usize)> {
        let pairs = self.journeys.iter().flat_map(|j| j.hops.windows(2));
        let is_it = |pair: &&[Hop]| {
            pair.iter().all(|hop| hop.netns == netns)
                && pair[1].stage == Stage::Netfilter
                && pair[1].hook == Some(hook)
                && pair[1].ct == Some(CtInfo::New)
        };
        let took =
            |pair: &[Hop]| Duration::from_nanos(pair[1].ktime_ns.saturating_sub(pair[0].ktime_ns));
        let mut times: Vec<Duration> = pairs.filter(is_it).map(took).collect();
        times.sort();
        let middle = times.get(times.len() / 2).copied()?;
        (times.len() >= ENOUGH).then_some((middle, times.len()))
    }

    /// The longest that its packets took on this node, as far as it is known.
    pub(super) fn on_node(&self) -> Option<Duration> {
        let followed = self.journeys.iter().map(|j| j.end_ns.saturating_sub(j.start_ns)).max();
        followed.map(Duration::from_nanos).or(self.timed.whole)
    }
}
