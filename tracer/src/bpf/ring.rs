//! Reading the event ring.

use aya::maps::{MapData, RingBuf};

/// The event ring.
pub struct Ring {
    ring: RingBuf<MapData>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

impl Ring {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// Hands up to `limit` waiting records to `take`; returns how many there were.
    pub fn drain(&mut self, limit: usize, mut take: impl FnMut(&[u8])) -> usize {
        for n in 0..limit {
            match self.ring.next() {
                Some(record) => take(&record),
                None => return n,
            }
        }
        limit
    }
}
