//! Puts finished journeys back into the order in which they began.
//!
//! A journey is finished when its end was seen, or when silence says so; a TCP handshake would
//! otherwise be printed after the data that follows it.

use std::collections::BTreeMap;

use super::{Journey, flood};

/// How long a journey is held back for earlier ones, from its beginning. Longer than the silence
/// that ends a journey whose end is not visible ([`super::Options::settle_ns`]).
const HOLD_NS: u64 = 150_000_000;

/// Holds finished journeys for a moment and gives them out by their beginning.
#[derive(Debug)]
pub struct Sequencer<T = Journey> {
    held: BTreeMap<(u64, u64), T>,
}

impl<T> Default for Sequencer<T> {
    fn default() -> Self {
        Self { held: BTreeMap::new() }
    }
}

impl Sequencer {
    /// Takes finished journeys in and gives out those that began long enough before `now_ns`.
    pub fn pass(&mut self, finished: Vec<Journey>, now_ns: u64) -> Vec<Journey> {
        for journey in finished {
            self.hold(journey.start_ns, journey.id, journey);
        }
        let due = (now_ns.saturating_sub(HOLD_NS), 0);
        if self.held.range(..due).any(|(_, j)| flood::is_other_hosts(j)) {
            flood::settle(self.held.values_mut());
        }
        self.release(now_ns)
    }

    /// Takes the last finished journeys in and gives out all.
    pub fn finish(&mut self, finished: Vec<Journey>) -> Vec<Journey> {
        self.pass(finished, u64::MAX)
    }
}

impl<T> Sequencer<T> {
    /// Takes in a journey that began at `start_ns`.
    fn hold(&mut self, start_ns: u64, id: u64, journey: T) {
        self.held.insert((start_ns, id), journey);
    }

    /// Gives out those that began long enough before `now_ns`.
    fn release(&mut self, now_ns: u64) -> Vec<T> {
        let later = self.held.split_off(&(now_ns.saturating_sub(HOLD_NS), 0));
        std::mem::replace(&mut self.held, later).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journeys_come_in_the_order_of_their_beginning() {
        let mut order = Sequencer::default();
        for (start_ns, name) in [(30, "third"), (10, "first"), (20, "second")] {
            order.hold(start_ns, 1, name);
        }
        assert!(order.release(HOLD_NS).is_empty());
        assert_eq!(order.release(HOLD_NS + 21), ["first", "second"]);
        order.hold(5, 1, "late");
        assert_eq!(order.release(u64::MAX), ["late", "third"]);
        assert!(order.release(u64::MAX).is_empty());
    }
}
