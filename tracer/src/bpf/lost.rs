//! Whose events did not fit.

use super::Error;
use super::load::KernelSide;
use super::stats::Counters;

/// Notes of lost events since they were taken last.
#[derive(Debug, Default)]
pub struct Lost {
    /// Journey, and how many events of it.
    pub known: Vec<(u64, u64)>,
    /// There are others, of which it is not known whose they are.
    pub has_unknown: bool,
}

impl KernelSide {
    /// Takes the notes of lost events; costs one look where there are none.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn take_lost(&mut self) -> Result<Lost, Error> {
        let (lost, unknown) = Counters::lost(self.map("STATS")?)?;
        let mut taken = Lost { known: Vec::new(), has_unknown: unknown > self.lost_unknown };
        if lost == self.lost {
            return Ok(taken);
        }
        (self.lost, self.lost_unknown) = (lost, unknown);
        let failed = |source| Error::Map { name: "LOST", source };
        let mut map = self.hash::<u64, u64>("LOST")?;
        let journeys: Vec<u64> = map.keys().collect::<Result<_, _>>().map_err(failed)?;
        for journey in journeys {
            // An event that is lost between the two calls is noted anew, or not at all: then its
            // journey is marked already.
            if let Ok(events) = map.get(&journey, 0) {
                taken.known.push((journey, events));
                map.remove(&journey).map_err(failed)?;
            }
        }
        Ok(taken)
    }
}
