//! The kernel side's counters.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::maps::{Map, PerCpuArray};
use tracer_common::Stat;

use super::Error;

/// Counters, summed over CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Journeys admitted.
    pub admitted: u64,
    /// Journeys refused for want of room in the ring.
    pub refused_ring: u64,
    /// Journeys refused by `--max-journeys`.
    pub refused_rate: u64,
    /// Packets refused because the table of followed skbs was full.
    pub refused_table: u64,
    /// Events of admitted journeys that were lost.
    pub lost_events: u64,
    /// Events written.
    pub events: u64,
    /// Packet headers that could not be read.
    pub failed_reads: u64,
    /// skb addresses met again with another packet.
    pub reused: u64,
    /// Packets that nothing had room to look at: too many programs were reading packets at once.
    pub no_scratch: u64,
    /// Runs that the kernel left out because an interrupt came upon the same program on the same
    /// CPU (`recursion_misses`, since 5.12). Only frees and route look-ups can be hit.
    pub missed_runs: u64,
}

impl Counters {
    /// Journeys refused, for whatever reason.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused_ring + self.refused_rate + self.refused_table + self.no_scratch
    }

    /// Lost events, and those of them of which it is not known whose they are.
    pub(super) fn lost(map: &Map) -> Result<(u64, u64), Error> {
        let failed = |source| Error::Map { name: "STATS", source };
        let array: PerCpuArray<_, u64> = PerCpuArray::try_from(map).map_err(failed)?;
        let sum = |stat: Stat| -> Result<u64, Error> {
            Ok(array.get(&(stat as u32), 0).map_err(failed)?.iter().sum())
        };
        Ok((sum(Stat::LostEvents)?, sum(Stat::LostUnknown)?))
    }

    pub(super) fn read(map: &Map) -> Result<Self, Error> {
        let failed = |source| Error::Map { name: "STATS", source };
        let array: PerCpuArray<_, u64> = PerCpuArray::try_from(map).map_err(failed)?;
        let sum = |stat: Stat| -> Result<u64, Error> {
            Ok(array.get(&(stat as u32), 0).map_err(failed)?.iter().sum())
        };
        Ok(Self {
            admitted: sum(Stat::Admitted)?,
            refused_ring: sum(Stat::RefusedRing)?,
            refused_rate: sum(Stat::RefusedRate)?,
            refused_table: sum(Stat::RefusedTable)?,
            lost_events: sum(Stat::LostEvents)?,
            events: sum(Stat::Events)?,
            failed_reads: sum(Stat::FailedReads)?,
            reused: sum(Stat::Reused)?,
            no_scratch: sum(Stat::NoScratch)?,
            missed_runs: 0,
        })
    }
}

/// The runs of the program behind a descriptor that the kernel left out.
pub(super) fn missed_runs(program: BorrowedFd<'_>) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|l| l.strip_prefix("recursion_misses:"));
    value.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
}
