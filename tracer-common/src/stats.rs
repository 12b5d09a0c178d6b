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
    /// Packets that were not looked at because too many programs were reading packets on the CPU.
    NoScratch = 8,
    /// Lost events of which no room was left to note whose they are.
    LostUnknown = 9,
    /// Packets that were looked at and did not match, while that is counted.
    Missed = 10,
}

impl Stat {
    /// How many slots there are.
    pub const COUNT: u32 = 11;
}

/// Slot of a word that only the user side writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Control {
    /// How many entries it has aged out of those that were under way.
    Aged = 0,
    /// 1 once everything is attached: before that, no journey begins, as it would have holes.
    Enabled = 1,
    /// Offset of `xt_table.name`, 0 while it is not known. This and those that follow are about
    /// structures of modules, which may be loaded while the tracer runs.
    XtName = 2,
    /// Offset of `nft_chain.table`, likewise.
    NftChainTable = 3,
    /// Offset of `nft_chain.name`, likewise.
    NftChainName = 4,
    /// Offset of `nft_table.name`, likewise.
    NftTableName = 5,
    /// 1 where `ipt_do_table` takes the table first (since 5.16), 0 where it takes it last.
    IptTableFirst = 6,
    /// Offset of `nf_conn.status`, 0 while it is not known.
    CtStatus = 7,
    /// Offset of `nf_conn.mark`, likewise; 0 too where the kernel has none.
    CtMark = 8,
    /// Offset of `nf_conn.zone.id`, likewise.
    CtZone = 9,
    /// How many entries it has aged out in all.
    AgedHeld = 10,
    /// 1 while what does not match is to be told: as long as nothing has.
    Curious = 11,
    /// 1 while only those probe points are attached where packets begin or are dropped.
    Thin = 12,
    /// Since when all are, CLOCK_MONOTONIC nanoseconds: 0 where they always were, the largest number
    /// while they are not.
    WholeSince = 13,
}

impl Control {
    /// How many slots there are.
    pub const COUNT: u32 = 14;
}
