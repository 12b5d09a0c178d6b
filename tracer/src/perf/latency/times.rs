//! Times as the kernel side counts them: how many in each bucket.

use tracer_common::perf::{BUCKETS, Histogram, lower_ns};

/// How often each time was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    counts: Vec<u64>,
    sum_ns: u64,
    max_ns: u64,
}

impl Default for Times {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], sum_ns: 0, max_ns: 0 }
    }
}

impl Times {
    /// From buckets by their shortest time, as a report has them.
    #[must_use]
    pub fn from_buckets(buckets: &[(u64, u64)]) -> Self {
        let mut times = Self::default();
        for (lower, count) in buckets {
            let at = tracer_common::perf::bucket(*lower) as usize;
            times.counts[at] += count;
            times.max_ns = times.max_ns.max(*lower);
        }
        times
    }

    /// Adds what a histogram has grown by.
    pub fn grow(&mut self, before: &Histogram, now: &Histogram) {
        let grown =
            now.buckets.iter().zip(&before.buckets).map(|(now, old)| now.wrapping_sub(*old));
        for (count, more) in self.counts.iter_mut().zip(grown) {
            *count += u64::from(more);
        }
        self.sum_ns += now.sum_ns.wrapping_sub(before.sum_ns);
        self.max_ns = self.max_ns.max(now.max_ns);
    }

    /// Adds others.
    pub fn add(&mut self, others: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&others.counts) {
            *count += more;
        }
        self.sum_ns += others.sum_ns;
        self.max_ns = self.max_ns.max(others.max_ns);
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together.
    #[must_use]
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// The longest.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// The time that this share of them does not exceed, from the middle of its bucket: at most
    /// 1.6 % off.
    #[must_use]
    pub fn percentile(&self, share: f64) -> u64 {
        let count = self.count();
        if count == 0 {
            return 0;
        }
        let rank = ((count as f64 * share).ceil() as u64).clamp(1, count);
        let mut below = 0;
        for (bucket, n) in (0..).zip(&self.counts) {
            below += n;
            if below >= rank {
                let lower = lower_ns(bucket);
                let middle = lower + (lower_ns(bucket + 1) - lower) / 2;
                return if self.max_ns == 0 { middle } else { middle.min(self.max_ns) };
            }
        }
        self.max_ns
    }

    /// Buckets that are not empty: their shortest time, and how many.
    #[must_use]
    pub fn buckets(&self) -> Vec<(u64, u64)> {
        let all = (0..).map(lower_ns).zip(self.counts.iter().copied());
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// By bucket.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_common::perf::bucket;

    fn times(all: &[u64]) -> Times {
        let mut now = Histogram { sum_ns: 0, max_ns: 0, buckets: [0; BUCKETS] };
        let before = now;
        for ns in all {
            now.buckets[bucket(*ns) as usize] += 1;
            now.sum_ns += ns;
            now.max_ns = now.max_ns.max(*ns);
        }
        let mut times = Times::default();
        times.grow(&before, &now);
        times
    }

    #[test]
    fn percentiles_are_near_the_truth() {
        let all: Vec<u64> = (1..=10_000).map(|n| n * 1_000).collect();
        let times = times(&all);
        for (share, truth) in [(0.5, 5_000_000.0), (0.9, 9_000_000.0), (0.99, 9_900_000.0)] {
            let off = (times.percentile(share) as f64 - truth).abs() / truth;
            assert!(off < 0.017, "{share}: {off}");
        }
        assert_eq!(times.max_ns(), 10_000_000);
        assert_eq!(times.count(), 10_000);
        assert_eq!(times.sum_ns(), all.iter().sum::<u64>());
    }

    #[test]
    fn no_percentile_is_beyond_the_longest() {
        assert_eq!(times(&[1_000_000]).percentile(0.5), 1_000_000);
        assert_eq!(Times::default().percentile(0.5), 0);
    }

    #[test]
    fn buckets_come_back() {
        let some = times(&[10, 100, 100, 5_000_000]);
        let back = Times::from_buckets(&some.buckets());
        assert_eq!(back.counts(), some.counts());
    }
}
