//! What did not match, as long as nothing has.

use aya::maps::PerCpuArray;
use tracer_common::filter::{NearMiss, miss};
use tracer_common::{Control, Stat};

use super::Error;
use super::load::KernelSide;

/// Packets that did not match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Misses {
    /// How many were looked at.
    pub packets: u64,
    /// How many each term turned away, with others or alone; see [`miss`].
    pub by_term: Vec<(u32, u64)>,
    /// Those that one term alone turned away, and how many.
    pub near: Vec<(NearMiss, u64)>,
}

impl KernelSide {
    /// Tells the programs whether what does not match is to be counted. It costs each packet of the
    /// node a closer look.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn count_misses(&mut self, is_on: bool) -> Result<(), Error> {
        self.control(Control::Curious, u64::from(is_on))
    }

    /// What was counted so far.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn misses(&mut self) -> Result<Misses, Error> {
        let packets = self.sum_of("STATS", Stat::Missed as u32)?;
        let mut by_term = Vec::new();
        for n in 0..miss::COUNT {
            by_term.push((1 << n, self.sum_of("MISSES", n)?));
        }
        let near = self.hash::<NearMiss, u64>("NEAR")?;
        let near = near.iter().filter_map(Result::ok).collect();
        Ok(Misses { packets, by_term, near })
    }

    fn sum_of(&self, name: &'static str, slot: u32) -> Result<u64, Error> {
        let failed = |source| Error::Map { name, source };
        let array: PerCpuArray<_, u64> = PerCpuArray::try_from(self.map(name)?).map_err(failed)?;
        Ok(array.get(&slot, 0).map_err(failed)?.iter().sum())
    }
}
