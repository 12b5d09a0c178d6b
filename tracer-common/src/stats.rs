//! Counters, one slot each in a per-CPU array, and the words by which the user side controls the
//! kernel side.

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

/// Slot of a word that only the user side writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Control {
    /// How many entries it has aged out.
    Aged = 0,
    /// 1 once everything is attached: before that, no journey begins, as it would have holes.
    Enabled = 1,
}

impl Control {
    /// How many slots there are.
    pub const COUNT: u32 = 2;
}
