//! The routes of the namespaces that followed packets are in, and the forwarding databases of
//! bridges and tunnels there: read when the first packet is seen there and again after a change,
//! so that a trace starts without them. A database learns from every frame and tells nobody here:
//! that it has changed shows when a packet goes where it does not lead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::bpf;
use crate::journey::{Journey, forwarding};
use crate::net::{self, DeviceKind, Inum, Netns, NetworkState, What};

/// Least time between two readings of a namespace.
const GAP: Duration = Duration::from_millis(100);
/// Reading takes one part in so many of the time at most, where tables are large and change often.
const SHARE: u32 = 50;

/// What has been read.
#[derive(Debug, Default)]
pub(super) struct Routes {
    by_netns: BTreeMap<Inum, Reading>,
}

#[derive(Debug)]
struct Reading {
    is_stale: bool,
    /// Not to be read again before this.
    rest_until: Instant,
    /// When it was, CLOCK_MONOTONIC.
    at_ns: u64,
}

impl Routes {
    /// Routes, rules or devices of a namespace have changed.
    pub(super) fn changed(&mut self, inum: Inum) {
        if let Some(reading) = self.by_netns.get_mut(&inum) {
            reading.is_stale = true;
        }
    }

    /// A namespace is gone; its number may be given out again.
    pub(super) fn gone(&mut self, inum: Inum) {
        self.by_netns.remove(&inum);
    }

    /// Nothing is to be read there.
    pub(super) fn is_current(&self, inum: Inum) -> bool {
        self.by_netns.get(&inum).is_some_and(|reading| !reading.is_stale)
    }

    /// Reads those of `seen` that are not current. What cannot be read has no routes.
    pub(super) fn read(&mut self, state: &mut NetworkState, seen: &BTreeSet<Inum>) {
        for inum in seen {
            let now = Instant::now();
            let must_rest = |reading: &Reading| !reading.is_stale || now < reading.rest_until;
            if !self.by_netns.get(inum).is_some_and(must_rest) {
                self.read_one(state, *inum);
            }
        }
    }

    /// Finds out what forwarding databases decided about a finished journey, where those that were
    /// read do not tell. As seldom as routes are read: else it stays untold.
    pub(super) fn decide(&mut self, state: &mut NetworkState, journey: &mut Journey) {
        let open: BTreeSet<Inum> = forwarding::undecided(&journey.hops).collect();
        if open.is_empty() {
            return;
        }
        for inum in &open {
            let reading = self.by_netns.get(inum);
            let is_fresh = reading.is_some_and(|r| r.at_ns > journey.end_ns);
            let may_read = reading.is_none_or(|r| Instant::now() >= r.rest_until);
            if !is_fresh && may_read {
                self.read_one(state, *inum);
            }
        }
        let is_fresh = |inum| self.by_netns.get(inum).is_some_and(|r| r.at_ns > journey.end_ns);
        if open.iter().all(is_fresh) {
            forwarding::decide(&mut journey.hops, state, true);
        }
    }

    fn read_one(&mut self, state: &mut NetworkState, inum: Inum) {
        let Some(netns) = state.netns.get(&inum) else { return };
        let what = if forwards_frames(netns) { What::FORWARDING } else { What::ROUTING };
        let start = Instant::now();
        net::inspect_now(state, &|netns| netns.inum == inum, what);
        let rest_until = Instant::now() + GAP.max(start.elapsed() * SHARE);
        let reading = Reading { is_stale: false, rest_until, at_ns: bpf::monotonic_ns() };
        self.by_netns.insert(inum, reading);
    }
}

/// It has a forwarding database.
fn forwards_frames(netns: &Netns) -> bool {
    netns.devices.values().any(|d| matches!(d.kind, DeviceKind::Bridge | DeviceKind::Vxlan))
}
