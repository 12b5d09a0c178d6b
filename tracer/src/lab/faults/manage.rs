//! Breaking a lab that is up, and making it whole again. Which faults are active is recorded before
//! anything is changed, so that `fix` also clears away what an interrupted `break` left.

use std::time::Duration;

use super::super::build::Nets;
use super::super::lifecycle::Lab;
use super::super::probe::Probe;
use super::apply::Work;
use super::op::{Op, undo};
use super::{Error, Fault};

/// What one probe of a fault came to.
#[derive(Debug)]
pub struct Seen {
    pub probe: &'static Probe,
    pub must_fail: bool,
    /// Why it failed.
    pub failure: Option<String>,
}

impl Seen {
    /// Whether it came out as the fault wants it.
    #[must_use]
    pub fn is_expected(&self) -> bool {
        self.must_fail == self.failure.is_some()
    }
}

impl Lab {
    /// Makes a fault. Neighbours and connections are forgotten first, so that nothing learned
    /// before hides it.
    ///
    /// # Errors
    ///
    /// That it belongs to another lab, is active already, or cannot be made; then it is undone.
    pub async fn break_by(&mut self, fault: &'static Fault) -> Result<(), Error> {
        let _alone = self.lock()?;
        self.reload()?;
        self.knows(fault)?;
        if self.record.faults.iter().any(|id| id == fault.id) {
            return Err(Error::Broken { fault: fault.id, prefix: self.prefix.to_string() });
        }
        self.record.faults.push(fault.id.to_owned());
        self.store()?;
        let topology = self.topology()?;
        let nets = Nets::open(&self.prefix, &topology)?;
        let work = Work { lab: self, topology: &topology, nets: &nets };
        let broken = work.make(fault).await;
        if broken.is_err() {
            // The first error is the one to tell; `fix` can be tried again.
            if work.unmake(fault).await.is_ok() {
                self.record.faults.retain(|id| id != fault.id);
                self.store()?;
            }
        }
        broken
    }

    /// Undoes the named fault, or all that are active, and returns which. The others are made
    /// again: what restores a host's rules restores them all.
    ///
    /// # Errors
    ///
    /// That the fault is not active, or cannot be undone.
    pub async fn fix(
        &mut self,
        only: Option<&'static Fault>,
    ) -> Result<Vec<&'static Fault>, Error> {
        let _alone = self.lock()?;
        self.reload()?;
        let active = self.record.faults.iter().map(|id| Fault::find(id));
        let active = active.collect::<Result<Vec<_>, _>>()?;
        let is_meant = |fault: &&Fault| only.is_none_or(|only| only.id == fault.id);
        let (fixed, others): (Vec<_>, Vec<_>) = active.iter().copied().partition(is_meant);
        if let Some(fault) = only.filter(|_| fixed.is_empty()) {
            return Err(Error::NotBroken {
                fault: fault.id,
                active: self.record.faults.join(", "),
                prefix: self.prefix.to_string(),
            });
        }
        if fixed.is_empty() {
            return Ok(fixed);
        }
        let topology = self.topology()?;
        let nets = Nets::open(&self.prefix, &topology)?;
        let work = Work { lab: self, topology: &topology, nets: &nets };
        for fault in active.iter().rev() {
            work.unmake(fault).await?;
        }
        if others.is_empty() {
            nets.wait_for_carriers().await?;
        }
        for fault in &others {
            work.make(fault).await?;
        }
        work.forget().await?;
        self.record.faults = others.iter().map(|fault| fault.id.to_owned()).collect();
        self.store()?;
        Ok(fixed)
    }

    /// The fault is one of this lab.
    fn knows(&self, fault: &'static Fault) -> Result<(), Error> {
        if fault.lab == self.record.lab {
            return Ok(());
        }
        Err(Error::OtherLab {
            fault: fault.id,
            lab: fault.lab,
            up: self.record.lab.clone(),
            prefix: self.prefix.to_string(),
        })
    }

    /// Runs the fault's probes, all at once.
    ///
    /// # Errors
    ///
    /// That the lab is another one.
    pub fn symptom(&self, fault: &'static Fault) -> Result<Vec<Seen>, Error> {
        self.knows(fault)?;
        let [fails, works] = fault.expectations()?;
        let probes =
            fails.into_iter().map(|p| (p, true)).chain(works.into_iter().map(|p| (p, false)));
        let probes: Vec<_> = probes.collect();
        Ok(std::thread::scope(|scope| {
            let run = |(probe, must_fail): (&'static Probe, bool)| {
                (probe, must_fail, scope.spawn(|| probe.run(&self.prefix)))
            };
            let threads: Vec<_> = probes.into_iter().map(run).collect();
            let seen = threads.into_iter().map(|(probe, must_fail, thread)| Seen {
                probe,
                must_fail,
                failure: match thread.join() {
                    Ok(result) => result.err().map(|e| e.to_string()),
                    Err(_) => Some("the probe panicked".to_owned()),
                },
            });
            seen.collect()
        }))
    }

    /// Makes the traffic that a fault slows down, for so long; `false` if it slows none.
    ///
    /// # Errors
    ///
    /// That the lab is another one, or a host cannot be entered.
    pub fn load(&self, fault: &'static Fault, span: Duration) -> Result<bool, Error> {
        self.knows(fault)?;
        let [fails, _] = fault.expectations()?;
        let mut has_load = false;
        for probe in fails {
            has_load |= probe.load(&self.prefix, span)?;
        }
        Ok(has_load)
    }

    /// The operations that undo a fault of this lab.
    ///
    /// # Errors
    ///
    /// As [`Lab::topology`].
    pub fn fix_steps(&self, fault: &Fault) -> Result<Vec<Op>, Error> {
        Ok(undo(fault.breaks, &self.topology()?))
    }
}

impl Work<'_> {
    async fn make(&self, fault: &Fault) -> Result<(), Error> {
        self.forget().await?;
        for op in fault.breaks {
            self.apply(*op).await?;
        }
        Ok(())
    }

    async fn unmake(&self, fault: &Fault) -> Result<(), Error> {
        for op in undo(fault.breaks, self.topology) {
            self.apply_undo(op).await?;
        }
        Ok(())
    }

    /// Neighbours and connections, as if the lab had been idle for some minutes.
    async fn forget(&self) -> Result<(), Error> {
        for net in self.nets.all() {
            net.forget_neighbours().await?;
        }
        for rules in &self.topology.rules {
            self.apply(Op::ForgetConnections { host: rules.host }).await?;
        }
        Ok(())
    }
}
