//! When all probe points were attached, and when only those where packets begin and are dropped.
//!
//! A journey that was not watched by all of them for as long as it lasted says where something may
//! be missing, and nothing is concluded from what was not seen of it.

use std::collections::VecDeque;

use super::{GapCause, Journey};

/// Spans that are remembered: no journey lasts longer than a few.
const KEPT: usize = 16;

/// Times are CLOCK_MONOTONIC.
#[derive(Debug)]
pub(super) struct Watch {
    /// Since when, and until when, all points were attached; the last one may go on.
    spans: VecDeque<(u64, u64)>,
}

impl Default for Watch {
    fn default() -> Self {
        Self { spans: [(0, u64::MAX)].into() }
    }
}

impl Watch {
    /// From now on some are not.
    pub(super) fn thins(&mut self, now_ns: u64) {
        if let Some(last) = self.spans.back_mut() {
            last.1 = last.1.min(now_ns);
        }
    }

    /// All are, from now on.
    pub(super) fn is_whole(&mut self, now_ns: u64) {
        if self.spans.len() >= KEPT {
            self.spans.pop_front();
        }
        self.spans.push_back((now_ns, u64::MAX));
    }

    /// All were, all the time in between.
    pub(super) fn covers(&self, from_ns: u64, until_ns: u64) -> bool {
        self.spans.iter().any(|(from, until)| *from <= from_ns && until_ns <= *until)
    }

    /// Says where something may be missing; `until_ns` is how long more might have come.
    pub(super) fn mark(&self, journey: &mut Journey, until_ns: u64) {
        let mut times: Vec<u64> = journey.hops.iter().map(|hop| hop.ktime_ns).collect();
        times.push(until_ns);
        for (n, pair) in times.windows(2).enumerate() {
            // Nothing lies between hops of one moment, nor behind the end.
            if pair[0] < pair[1] && !self.covers(pair[0], pair[1]) {
                journey.add_gap(n + 1, GapCause::LateAttach);
            }
        }
        if !journey.gaps.iter().any(|gap| gap.why == GapCause::LateAttach) {
            journey.add_gap(0, GapCause::LateAttach);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Headers, L4, PayloadHead, Proto, Tuple};
    use crate::journey::{Hop, Stage};

    fn journey(times: &[u64]) -> Journey {
        let ip = |text: &str| text.parse().unwrap();
        let (src, dst) = (ip("10.1.0.2"), ip("10.1.0.3"));
        let headers = Headers {
            tuple: Tuple { src, dst, proto: Proto::Udp, sport: 4000, dport: 53 },
            len: 28,
            ttl: Some(64),
            ip_id: Some(1),
            fragment: None,
            dont_fragment: false,
            l4: L4::Udp { len: 8 },
            payload: PayloadHead::default(),
        };
        let hop = |ktime_ns: &u64| Hop { ktime_ns: *ktime_ns, ..Hop::at(Stage::Rx) };
        Journey::of(headers, times.iter().map(hop).collect())
    }

    fn gaps(watch: &Watch, times: &[u64], until_ns: u64) -> Vec<usize> {
        let mut journey = journey(times);
        watch.mark(&mut journey, until_ns);
        journey.gaps.iter().map(|gap| gap.before_hop).collect()
    }

    /// All from 0 to 100, and from 200 to 300.
    fn watch() -> Watch {
        let mut watch = Watch::default();
        watch.thins(100);
        watch.is_whole(200);
        watch.thins(300);
        watch
    }

    #[test]
    fn a_time_is_covered_by_one_span() {
        let watch = watch();
        assert!(watch.covers(0, 100) && watch.covers(200, 300) && watch.covers(250, 250));
        assert!(!watch.covers(90, 110) && !watch.covers(90, 210) && !watch.covers(150, 160));
        assert!(!watch.covers(290, 301));
        let mut watch = watch;
        watch.is_whole(400);
        assert!(watch.covers(400, u64::MAX - 1));
    }

    #[test]
    fn gaps_lie_where_points_were_missing() {
        // Begun before all were there, and followed from then on.
        assert_eq!(gaps(&watch(), &[150, 160, 210, 220], 230), [1, 2]);
        // They went away while it was under way.
        assert_eq!(gaps(&watch(), &[280, 290], 500), [2]);
        assert_eq!(gaps(&watch(), &[280, 310], 310), [1]);
        // Met at its end, and nowhere else.
        assert_eq!(gaps(&watch(), &[150], 150), [0]);
    }

    #[test]
    fn old_spans_are_forgotten() {
        let mut watch = Watch::default();
        for n in 1..=100_u64 {
            watch.thins(n * 100 - 50);
            watch.is_whole(n * 100);
        }
        assert_eq!(watch.spans.len(), KEPT);
        assert!(watch.covers(10_000, 10_010) && !watch.covers(0, 40));
    }
}
