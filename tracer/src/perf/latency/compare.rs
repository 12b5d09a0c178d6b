//! Did a segment get slower, or is it noise? Two histograms, one question.
//!
//! Slower is what is so beyond chance *and* by an amount that matters. Chance: the
//! Kolmogorov–Smirnov distance of both distributions; packets of one burst wait together, so no
//! more than [`INDEPENDENT`] of them count as independent. Amount: the median or the slowest
//! tenth must have grown by a quarter and by a microsecond, and a time of now must be longer than
//! one of before in most pairs (Mann–Whitney's probability).

use super::times::Times;
use crate::render;
use crate::report::diagnosis::{Finding, Where};
use crate::report::{Latency, Segment};

/// Fewer times than these tell nothing.
const ENOUGH: u64 = 30;
/// Times that count as independent at most.
const INDEPENDENT: f64 = 400.0;
/// Factor of the Kolmogorov–Smirnov test at an error of 1 in 1,000.
const CRITICAL: f64 = 1.95;
/// Growth that matters.
const RATIO: f64 = 1.25;
/// See [`RATIO`].
const LEAST_NS: u64 = 1_000;
/// Share of pairs in which the time of now is the longer one.
const PAIRS: f64 = 0.6;

/// A segment that got slower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slower {
    /// Which part of the times: `p50` or `p90`.
    pub(super) at: &'static str,
    /// Then.
    pub(super) before_ns: u64,
    /// Now.
    pub(super) now_ns: u64,
    /// Share of pairs in which the time of now is the longer one.
    pub(super) pairs: f64,
}

/// What got slower from `before` to `now`, if anything did.
fn slower(before: &Times, now: &Times) -> Option<Slower> {
    let (n, m) = (before.count(), now.count());
    if n < ENOUGH || m < ENOUGH {
        return None;
    }
    let (n, m) = ((n as f64).min(INDEPENDENT), (m as f64).min(INDEPENDENT));
    if distance(before, now) <= CRITICAL * ((n + m) / (n * m)).sqrt() {
        return None;
    }
    let pairs = pairs(before, now);
    let grown = |at, share| {
        let (before_ns, now_ns) = (before.percentile(share), now.percentile(share));
        let matters = now_ns as f64 >= before_ns as f64 * RATIO && now_ns - before_ns >= LEAST_NS;
        matters.then_some(Slower { at, before_ns, now_ns, pairs })
    };
    if pairs >= PAIRS {
        return grown("p50", 0.5).or_else(|| grown("p90", 0.9));
    }
    // Only some packets wait: most pairs are as before, but a tenth is much slower.
    grown("p90", 0.9).filter(|slower| slower.now_ns >= slower.before_ns * 2)
}

/// A finding for each segment of `now` that got slower than it was.
pub(super) fn findings(before: &Latency, now: &Latency) -> Vec<Finding> {
    let mut found: Vec<(u64, Finding)> = Vec::new();
    for segment in &now.segments {
        let Some(old) = before.segments.iter().find(|old| is_same(old, segment)) else { continue };
        let times = |segment: &Segment| Times::from_buckets(&segment.buckets);
        if let Some(slower) = slower(&times(old), &times(segment)) {
            found.push((slower.now_ns - slower.before_ns, finding(old, segment, &slower, now)));
        }
    }
    found.sort_by_key(|(grown, _)| std::cmp::Reverse(*grown));
    found.into_iter().map(|(_, finding)| finding).collect()
}

/// Names stay, numbers do not: a namespace may have been made anew.
fn is_same(a: &Segment, b: &Segment) -> bool {
    let place = |s: &Segment| {
        let name = |netns: &Option<crate::report::Netns>| netns.as_ref().map(|n| n.name.clone());
        let dev = |dev: &Option<crate::report::Dev>| dev.as_ref().map(|d| d.name.clone());
        (name(&s.netns), dev(&s.dev), name(&s.out_netns), dev(&s.out_dev))
    };
    (&a.segment, &a.proto) == (&b.segment, &b.proto) && place(a) == place(b)
}

fn finding(old: &Segment, now: &Segment, slower: &Slower, report: &Latency) -> Finding {
    let (before_ns, now_ns) = (slower.before_ns, slower.now_ns);
    let place = render::latency::place(now);
    let (was, is) = (render::duration(before_ns), render::duration(now_ns));
    Finding {
        id: "slow-segment".to_owned(),
        severity: "warning".to_owned(),
        confidence: "likely".to_owned(),
        scenario: "host".to_owned(),
        title: format!("{} at {place} takes {is} instead of {was} ({})", now.segment, slower.at),
        place: Where {
            node: Some(report.node.clone()),
            netns: now.netns.as_ref().map(|n| n.name.clone()),
            dev: now.dev.as_ref().map(|d| d.name.clone()),
            hook: is_hook(&now.segment).then(|| now.segment.clone()),
            ..Where::default()
        },
        evidence: vec![
            format!(
                "{}: {was} before ({} times), {is} now ({} times)",
                slower.at, old.count, now.count
            ),
            format!(
                "{:.0} % of pairs of a packet of now and one of before: now is slower",
                slower.pairs * 100.0
            ),
        ],
        fix: Vec::new(),
        remedies: Vec::new(),
        explain: "The times of this part of the way are longer than they were when the baseline \
                  was kept, by more than chance explains: what waits or works there is the place \
                  to look at."
            .to_owned(),
        journeys: Vec::new(),
    }
}

fn is_hook(name: &str) -> bool {
    ["prerouting", "input", "forward", "output", "postrouting"].contains(&name)
}

/// How far `now` lies above `before` at most: the one-sided Kolmogorov–Smirnov distance.
fn distance(before: &Times, now: &Times) -> f64 {
    let (n, m) = (before.count() as f64, now.count() as f64);
    let (mut old, mut new, mut most) = (0.0, 0.0, 0.0_f64);
    for (a, b) in before.counts().iter().zip(now.counts()) {
        old += *a as f64 / n;
        new += *b as f64 / m;
        most = most.max(old - new);
    }
    most
}

/// The probability that a time of `now` is longer than one of `before`; ties count half.
fn pairs(before: &Times, now: &Times) -> f64 {
    let (n, m) = (before.count() as f64, now.count() as f64);
    let (mut below, mut sum) = (0.0, 0.0);
    for (a, b) in before.counts().iter().zip(now.counts()) {
        sum += *b as f64 * (below + *a as f64 / 2.0);
        below += *a as f64;
    }
    sum / (n * m)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` times around `ns`, spread by a tenth, by a generator without luck.
    fn around(ns: u64, n: u64, seed: u64) -> Times {
        let mut state = seed;
        let mut all = std::collections::BTreeMap::new();
        for _ in 0..n {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let spread = (state >> 33) % 200;
            *all.entry(ns * (900 + spread) / 1_000).or_insert(0) += 1;
        }
        Times::from_buckets(&all.into_iter().collect::<Vec<_>>())
    }

    #[test]
    fn the_same_is_not_slower() {
        for seed in 0..100 {
            assert_eq!(
                slower(&around(50_000, 1_000, seed), &around(50_000, 500, seed + 1_000)),
                None
            );
        }
    }

    #[test]
    fn a_little_slower_does_not_matter() {
        assert_eq!(slower(&around(50_000, 10_000, 1), &around(55_000, 10_000, 2)), None);
        // Twice as long, but by nothing that anybody would notice.
        assert_eq!(slower(&around(300, 10_000, 1), &around(600, 10_000, 2)), None);
    }

    #[test]
    fn half_as_long_again_is_slower_and_its_opposite_is_not() {
        let (fast, slow) = (around(50_000, 300, 1), around(75_000, 300, 2));
        let found = slower(&fast, &slow).unwrap();
        assert_eq!(found.at, "p50");
        assert!(found.pairs > 0.99);
        assert_eq!(slower(&slow, &fast), None);
    }

    #[test]
    fn few_packets_tell_nothing() {
        assert_eq!(slower(&around(50_000, 300, 1), &around(75_000, 20, 2)), None);
    }

    #[test]
    fn a_slow_fifth_is_found() {
        let fast = around(50_000, 1_000, 1);
        let mut mixed = around(50_000, 800, 2);
        mixed.add(&around(5_000_000, 200, 3));
        let found = slower(&fast, &mixed).unwrap();
        assert_eq!(found.at, "p90");
        assert!(found.now_ns > 4_000_000);
    }
}
