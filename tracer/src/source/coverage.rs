//! Since when, and until when, the probe points of a namespace have been there.
//!
//! Hooks that a packet passed before that, or in a namespace that cannot be attached to, are
//! missing from its journey, which says so.

use std::collections::BTreeMap;

use crate::event::Proto;
use crate::journey::{GapCause, Hop, Journey, Stage};
use crate::net::Inum;

/// How long a namespace that is gone is remembered: longer than any journey is waited for.
const KEEP_NS: u64 = 60_000_000_000;

/// Times are CLOCK_MONOTONIC.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    covered: BTreeMap<Inum, (u64, u64)>,
}

impl Coverage {
    /// The probe points of a namespace are attached.
    pub(super) fn begin(&mut self, netns: Inum, now_ns: u64) {
        let span = self.covered.entry(netns).or_insert((now_ns, u64::MAX));
        if span.1 != u64::MAX {
            *span = (now_ns, u64::MAX);
        }
    }

    /// The namespace is gone.
    pub(super) fn end(&mut self, netns: Inum, now_ns: u64) {
        if let Some(span) = self.covered.get_mut(&netns) {
            span.1 = now_ns;
        }
        self.covered.retain(|_, (_, until)| now_ns < until.saturating_add(KEEP_NS));
    }

    /// Why the probe points of a namespace did not see what was there then.
    fn lack(&self, netns: Inum, at_ns: u64) -> Option<GapCause> {
        match self.covered.get(&netns) {
            None => Some(GapCause::NamespaceNotCovered),
            Some((from, _)) if at_ns < *from => Some(GapCause::LateAttach),
            Some((_, until)) if at_ns > *until => Some(GapCause::NamespaceNotCovered),
            Some(_) => None,
        }
    }

    /// Says in a journey where hooks may be missing: once for each stay in such a namespace. That it
    /// passed them by is not said there.
    pub(super) fn mark(&self, journey: &mut Journey) {
        // ARP passes no hook that there are probe points at.
        if journey.first.is_some_and(|first| first.tuple.proto == Proto::Arp) {
            return;
        }
        let lack = |hop: &Hop| self.lack(hop.netns, hop.ktime_ns);
        while let Some(at) =
            journey.hops.iter().position(|hop| hop.stage == Stage::Flowtable && lack(hop).is_some())
        {
            journey.remove_hop(at);
        }
        let mut stay = None;
        let mut lacks = Vec::new();
        for (n, hop) in journey.hops.iter().enumerate() {
            if hop.netns != 0 && stay != Some(hop.netns) {
                lacks.extend(lack(hop).map(|why| (n, why)));
                stay = Some(hop.netns);
            }
        }
        lacks.into_iter().for_each(|(n, why)| journey.add_gap(n, why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Headers, L4, PayloadHead, Tuple};

    fn headers() -> Headers {
        let ip = |text: &str| text.parse().unwrap();
        let (src, dst) = (ip("10.1.0.2"), ip("10.1.0.3"));
        Headers {
            tuple: Tuple { src, dst, proto: Proto::Udp, sport: 4000, dport: 53 },
            len: 28,
            ttl: Some(64),
            ip_id: Some(1),
            fragment: None,
            dont_fragment: false,
            l4: L4::Udp { len: 8 },
            payload: PayloadHead::default(),
        }
    }

    fn gaps(coverage: &Coverage, stays: &[(Inum, u64)]) -> Vec<(usize, GapCause)> {
        let hop = |(netns, ktime_ns): &(Inum, u64)| Hop {
            netns: *netns,
            ktime_ns: *ktime_ns,
            ..Hop::at(Stage::Rx)
        };
        let mut journey = Journey::of(headers(), stays.iter().map(hop).collect());
        coverage.mark(&mut journey);
        journey.gaps.iter().map(|gap| (gap.before_hop, gap.why)).collect()
    }

    #[test]
    fn hooks_are_missing_before_during_and_after() {
        let mut coverage = Coverage::default();
        coverage.begin(1, 100);
        coverage.begin(2, 100);
        coverage.begin(1, 150);
        coverage.end(2, 200);
        assert_eq!(gaps(&coverage, &[(1, 120), (1, 121), (2, 130)]), []);
        assert_eq!(gaps(&coverage, &[(1, 90), (1, 110)]), [(0, GapCause::LateAttach)]);
        let both = [(2, GapCause::NamespaceNotCovered), (3, GapCause::NamespaceNotCovered)];
        assert_eq!(gaps(&coverage, &[(1, 190), (1, 191), (3, 195), (2, 201)]), both);
        coverage.begin(2, 300);
        assert_eq!(gaps(&coverage, &[(2, 301)]), []);
        assert_eq!(gaps(&coverage, &[(2, 250)]), [(0, GapCause::LateAttach)]);
    }

    #[test]
    fn where_hooks_are_missing_nothing_passed_them_by() {
        let mut coverage = Coverage::default();
        coverage.begin(1, 100);
        let hop = |netns, stage| Hop { netns, ktime_ns: 200, ..Hop::at(stage) };
        for (netns, stages) in
            [(1, &[Stage::Rx, Stage::Flowtable, Stage::Queue][..]), (2, &[Stage::Rx, Stage::Queue])]
        {
            let hops = [Stage::Rx, Stage::Flowtable, Stage::Queue].map(|stage| hop(netns, stage));
            let mut journey = Journey::of(headers(), hops.to_vec());
            coverage.mark(&mut journey);
            assert!(journey.hops.iter().map(|hop| hop.stage).eq(stages.iter().copied()));
        }
    }
}
