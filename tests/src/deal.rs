//! Work that mostly waits, done by more threads than there are processors.

use std::panic::resume_unwind;
use std::sync::Mutex;
use std::thread::{self, available_parallelism};

/// Threads for each processor.
const PER_PROCESSOR: usize = 2;

/// Several threads do `job`, each with what it takes from the items one by one; what each returned.
///
/// # Panics
///
/// If one of them does.
pub fn side_by_side<'a, T: Sync, R: Send>(
    items: &'a [T],
    job: impl Fn(&mut dyn Iterator<Item = &'a T>) -> R + Sync,
) -> Vec<R> {
    let next = Mutex::new(items.iter());
    let take = || next.lock().expect("taking does not panic").next();
    let work = || job(&mut std::iter::from_fn(take));
    let threads = PER_PROCESSOR * available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.min(items.len())).map(|_| scope.spawn(work)).collect();
        let ended = threads.into_iter().map(thread::ScopedJoinHandle::join);
        ended.map(|result| result.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_taken_once() {
        let items: Vec<u32> = (0..100).collect();
        let taken = side_by_side(&items, |queue| queue.copied().collect::<Vec<_>>());
        let mut taken = taken.concat();
        taken.sort_unstable();
        assert_eq!(taken, items);
        assert!(side_by_side(&[0_u8; 0], |queue| queue.count()).is_empty());
    }
}
