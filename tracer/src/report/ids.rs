//! One sequence of ids for a run.
//!
//! The kernel side numbers journeys where they begin, on each CPU by itself; a reader wants one
//! number after the other, in the order in which they are told.

use std::collections::{HashMap, VecDeque};

use crate::journey::Journey;

/// Ids that are remembered, for the journeys that come from others: more than are ever open.
const KEEP: usize = 1 << 18;

/// Gives journeys their ids.
#[derive(Debug, Default)]
pub struct Ids {
    last: u64,
    known: HashMap<u64, u64>,
    order: VecDeque<u64>,
}

impl Ids {
    /// Numbers a journey and the one that it comes from.
    pub fn renumber(&mut self, journey: &mut Journey) {
        if let Some(parent) = &mut journey.parent {
            parent.id = self.of(parent.id);
        }
        journey.id = self.of(journey.id);
    }

    fn of(&mut self, id: u64) -> u64 {
        if let Some(known) = self.known.get(&id) {
            return *known;
        }
        self.last += 1;
        self.known.insert(id, self.last);
        self.order.push_back(id);
        if self.order.len() > KEEP
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_one_sequence_and_stay() {
        let mut ids = Ids::default();
        let told: Vec<u64> = [1 << 48 | 1, 1, 1 << 48 | 1, 2].map(|id| ids.of(id)).into();
        assert_eq!(told, [1, 2, 1, 3]);
    }
}
