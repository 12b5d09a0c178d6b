//! Packets of one flow that went the same way, as one: what keeps a busy flow readable.
//!
//! A packet that comes alone is passed on at once. Those that follow it closely and are like it in
//! all but their times are held back and told together, with how many there were and how long each
//! step took them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;

use super::Renderer;
use crate::report::{Journey, Summary};

/// What comes later than this behind another one of its kind comes alone.
const CLOSE_NS: u64 = 200_000_000;
/// A group is told after this at the latest.
const HOLD_NS: u64 = 1_000_000_000;
/// Durations that are kept of a group; of more, a sample.
const SAMPLE: usize = 2_048;
/// Kinds that are remembered.
const MAX_KINDS: usize = 16_384;

/// Journeys that went the same way.
#[derive(Clone, Debug)]
pub struct Group {
    /// The first of them.
    pub first: Journey,
    /// The last one's id.
    pub last_id: String,
    /// How many there are.
    pub count: u64,
    /// How long they took, sorted.
    durations: Vec<u64>,
    /// By hop: when they were there, sorted.
    times: Vec<Vec<u64>>,
}

/// The middle of many, and what all but the slowest of a hundred kept to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Half were no slower.
    pub p50_ns: u64,
    /// Of a hundred, one was slower.
    pub p99_ns: u64,
}

impl Group {
    fn new(first: Journey) -> Self {
        let times = first.hops.iter().map(|hop| vec![hop.t_ns]).collect();
        let durations = vec![first.duration_ns];
        Self { last_id: first.id.clone(), first, count: 1, durations, times }
    }

    fn add(&mut self, journey: &Journey) {
        self.last_id.clone_from(&journey.id);
        if let Some(at) = place(self.count, self.durations.len()) {
            put(&mut self.durations, at, journey.duration_ns);
            for (times, hop) in self.times.iter_mut().zip(&journey.hops) {
                put(times, at, hop.t_ns);
            }
        }
        self.count += 1;
    }

    fn sort(&mut self) {
        self.durations.sort_unstable();
        self.times.iter_mut().for_each(|times| times.sort_unstable());
    }

    /// How long they took.
    #[must_use]
    pub fn duration(&self) -> Spread {
        spread(&self.durations)
    }

    /// When they were at a hop.
    #[must_use]
    pub fn at(&self, hop: usize) -> Spread {
        self.times.get(hop).map_or(Spread { p50_ns: 0, p99_ns: 0 }, |times| spread(times))
    }
}

/// Where in the sample the next one goes, of which `seen` came before: at the end while there is
/// room, then over another one, evenly over all of them, by a sequence that looks random and is not.
fn place(seen: u64, kept: usize) -> Option<usize> {
    if kept < SAMPLE {
        return Some(kept);
    }
    let mixed = (seen ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let at = usize::try_from((mixed >> 17) % (seen + 1)).ok()?;
    (at < SAMPLE).then_some(at)
}

fn put(sample: &mut Vec<u64>, at: usize, value: u64) {
    match sample.get_mut(at) {
        Some(kept) => *kept = value,
        None => sample.push(value),
    }
}

fn spread(sorted: &[u64]) -> Spread {
    let rank = |percent: usize| {
        let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(at).copied().unwrap_or(0)
    };
    Spread { p50_ns: rank(50), p99_ns: rank(99) }
}

/// A kind of journey, when it was met last.
struct Kind {
    last_ns: u64,
    held: Option<Held>,
}

struct Held {
    since_ns: u64,
    group: Group,
}

/// Folds what it passes on to a renderer.
pub(super) struct Fold {
    inner: Box<dyn Renderer>,
    kinds: HashMap<String, Kind>,
    holding: usize,
    now_ns: u64,
}

impl Fold {
    pub(super) fn new(inner: Box<dyn Renderer>) -> Self {
        Self { inner, kinds: HashMap::new(), holding: 0, now_ns: 0 }
    }

    /// Tells the groups that are complete at `now_ns`, by their beginning.
    fn tell(&mut self, now_ns: u64, out: &mut dyn io::Write) -> io::Result<()> {
        if self.holding == 0 {
            return Ok(());
        }
        let is_due = |kind: &Kind| {
            kind.held.as_ref().is_some_and(|held| {
                now_ns >= held.since_ns.saturating_add(HOLD_NS)
                    || now_ns >= kind.last_ns.saturating_add(CLOSE_NS)
            })
        };
        let due = self.kinds.values_mut().filter(|kind| is_due(kind));
        let mut groups: Vec<Group> =
            due.filter_map(|kind| kind.held.take()).map(|held| held.group).collect();
        self.holding -= groups.len();
        groups
            .sort_by(|a, b| (a.first.start_ns, &a.first.id).cmp(&(b.first.start_ns, &b.first.id)));
        for group in &mut groups {
            if group.count == 1 {
                self.inner.journey(&group.first, out)?;
            } else {
                group.sort();
                self.inner.group(group, out)?;
            }
        }
        Ok(())
    }
}

impl Renderer for Fold {
    fn journey(&mut self, journey: &Journey, out: &mut dyn io::Write) -> io::Result<()> {
        let now_ns = journey.start_ns.saturating_add(journey.duration_ns);
        self.now_ns = self.now_ns.max(now_ns);
        self.tell(self.now_ns, out)?;
        // What is not whole, and what ends in a drop, is worth a look of its own the first time;
        // after that it folds like all others.
        if self.kinds.len() >= MAX_KINDS {
            let edge = self.now_ns.saturating_sub(CLOSE_NS);
            self.kinds.retain(|_, kind| kind.held.is_some() || kind.last_ns >= edge);
        }
        let kind = self.kinds.entry(way(journey)).or_insert(Kind { last_ns: 0, held: None });
        let is_close = now_ns < kind.last_ns.saturating_add(CLOSE_NS);
        kind.last_ns = kind.last_ns.max(now_ns);
        match &mut kind.held {
            Some(held) => {
                held.group.add(journey);
                Ok(())
            }
            None if is_close => {
                self.holding += 1;
                let since_ns = self.now_ns;
                kind.held = Some(Held { since_ns, group: Group::new(journey.clone()) });
                Ok(())
            }
            None => self.inner.journey(journey, out),
        }
    }

    fn turn(&mut self, now_ns: u64, out: &mut dyn io::Write) -> io::Result<()> {
        self.now_ns = self.now_ns.max(now_ns);
        self.tell(self.now_ns, out)
    }

    fn summary(&mut self, summary: &Summary, out: &mut dyn io::Write) -> io::Result<()> {
        self.tell(u64::MAX, out)?;
        self.inner.summary(summary, out)
    }
}

/// What journeys that fold have in common: flow, kind of packet, fate, and each step.
fn way(journey: &Journey) -> String {
    let mut key = String::with_capacity(256);
    // Writing to a String cannot fail.
    let _ = write!(key, "{:?}|{}|{}", journey.flow, journey.fate, journey.path);
    if let Some(packet) = &journey.packet {
        let icmp = packet.icmp.as_ref().map(|icmp| (icmp.kind, icmp.code, icmp.id));
        let flags = packet.tcp.as_ref().map(|tcp| &tcp.flags);
        let _ = write!(key, "|{icmp:?}{flags:?}{:?}", packet.fragment);
    }
    let parent = journey.parent.as_ref().map(|parent| &parent.kind);
    let _ = write!(key, "|{parent:?}{:?}{:?}", journey.drop, journey.gaps);
    for hop in &journey.hops {
        let dev = hop.dev.as_ref().map_or(0, |dev| dev.index);
        let out = hop.out_dev.as_ref().map_or(0, |dev| dev.index);
        let _ = write!(
            key,
            "|{} {} {dev} {out} {:?} {:?}",
            hop.stage, hop.netns.inum, hop.hook, hop.verdict
        );
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_sample() {
        let sorted: Vec<u64> = (1..=100).collect();
        assert_eq!(spread(&sorted), Spread { p50_ns: 50, p99_ns: 99 });
        assert_eq!(spread(&[7]), Spread { p50_ns: 7, p99_ns: 7 });
        assert_eq!(spread(&[]), Spread { p50_ns: 0, p99_ns: 0 });
    }

    #[test]
    fn the_sample_stays_small_and_takes_from_all() {
        let mut sample = Vec::new();
        for n in 0..100_000_u64 {
            if let Some(at) = place(n, sample.len()) {
                put(&mut sample, at, n);
            }
        }
        assert_eq!(sample.len(), SAMPLE);
        sample.sort_unstable();
        let middle = sample[SAMPLE / 2];
        assert!((40_000..60_000).contains(&middle), "{middle}");
    }
}
