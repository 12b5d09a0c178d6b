//! Counters, one slot each in a per-CPU array.

/// Slot of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stat {
    /// Journeys admitted.
    Admitted = 0,
    /// Journeys refused at birth: no room in the ring.
    RefusedRing = 1,
    /// Journeys refused at birth: over `--max-journeys`.
    RefusedRate = 2,
    /// Packets refused because the table of followed skbs is full.
    RefusedTable = 3,
    /// Events of admitted journeys that the ring refused.
    LostEvents = 4,
    /// Events written.
    Events = 5,
    /// Packet headers that could not be read.
    FailedReads = 6,
    /// Entries whose skb address was found to hold another packet.
    Reused = 7,
}

impl Stat {
    /// How many slots there are.
    pub const COUNT: u32 = 8;
}
