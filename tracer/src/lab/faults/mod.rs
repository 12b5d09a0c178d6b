//! Named faults, and traps that only look like faults: what `pkttrace lab break` does to a lab.
//!
//! A fault is a value: what is wrong and where, which probes show it, what to diagnose, and the
//! operations that make it. What undoes them follows from them and the lab's topology.

mod apply;
mod cross_node;
mod dns;
mod docker;
mod egress;
mod ingress;
mod manage;
mod op;
mod perf;
mod same_node;
mod say;
mod service;
mod traps;

pub use manage::Seen;
pub use op::Op;
pub use say::Speaker;

use super::Error;
use super::labs::Spec;
use super::probe::{Expected, Probe};

/// A fault or a trap.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub id: &'static str,
    pub kind: FaultKind,
    /// The part of the network that a user would suspect, as in the findings of `diagnose`.
    pub scenario: &'static str,
    /// The lab that it is made in.
    pub lab: &'static str,
    /// What is wrong; with a trap, why nothing is.
    pub title: &'static str,
    /// Probes that fail by it.
    pub fails: &'static [&'static str],
    /// Probes that still work.
    pub works: &'static [&'static str],
    pub target: Target,
    pub place: Place,
    pub breaks: &'static [Op],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    Fault,
    /// Looks broken and is healthy.
    Trap,
}

impl FaultKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Trap => "trap",
        }
    }
}

/// What to give `pkttrace diagnose`.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// A host of the lab.
    pub from: &'static str,
    /// `IP`, `IP:PORT` or a name.
    pub to: &'static str,
    pub proto: &'static str,
    pub sport: Option<u16>,
}

/// Where the fault lies.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub host: &'static str,
    pub dev: Option<&'static str>,
    /// The sysctl, chain, route, file or program that is wrong, where it is not the device itself.
    pub what: Option<&'static str>,
}

const TABLES: [&[Fault]; 9] = [
    same_node::FAULTS,
    cross_node::FAULTS,
    dns::FAULTS,
    service::FAULTS,
    ingress::FAULTS,
    egress::FAULTS,
    docker::FAULTS,
    perf::FAULTS,
    traps::FAULTS,
];

/// How many names are suggested for one that does not exist.
const SUGGESTIONS: usize = 3;

impl Fault {
    const fn new(scenario: &'static str, id: &'static str, title: &'static str) -> Self {
        Self {
            id,
            kind: FaultKind::Fault,
            scenario,
            lab: "cluster",
            title,
            fails: &[],
            works: &[],
            target: Target { from: "", to: "", proto: "", sport: None },
            place: Place { host: "", dev: None, what: None },
            breaks: &[],
        }
    }

    /// A fault of lab `perf`.
    const fn slow(id: &'static str, title: &'static str) -> Self {
        Self { lab: "perf", ..Self::new("perf", id, title) }
    }

    /// A trap: every probe of a healthy lab still works.
    const fn trap(scenario: &'static str, id: &'static str, title: &'static str) -> Self {
        Self { kind: FaultKind::Trap, ..Self::new(scenario, id, title) }
    }

    const fn probes(self, fails: &'static [&'static str], works: &'static [&'static str]) -> Self {
        Self { fails, works, ..self }
    }

    const fn target(self, from: &'static str, to: &'static str, proto: &'static str) -> Self {
        Self { target: Target { from, to, proto, sport: None }, ..self }
    }

    const fn sport(self, sport: u16) -> Self {
        Self { target: Target { sport: Some(sport), ..self.target }, ..self }
    }

    const fn on(self, host: &'static str, dev: &'static str) -> Self {
        Self { place: Place { host, dev: Some(dev), what: None }, ..self }
    }

    const fn at(self, host: &'static str, what: &'static str) -> Self {
        Self { place: Place { host, dev: None, what: Some(what) }, ..self }
    }

    /// Adds what is wrong with the device.
    const fn by(self, what: &'static str) -> Self {
        Self { place: Place { what: Some(what), ..self.place }, ..self }
    }

    const fn breaks(self, breaks: &'static [Op]) -> Self {
        Self { breaks, ..self }
    }

    /// It breaks nothing: what it makes slow is measured.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.scenario == "perf"
    }

    /// All of them, faults before traps.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        TABLES.into_iter().flatten()
    }

    /// The one of that name.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownFault`], with the names that are most like it.
    pub fn find(id: &str) -> Result<&'static Self, Error> {
        Self::all()
            .find(|fault| fault.id == id)
            .ok_or_else(|| Error::UnknownFault { id: id.to_owned(), near: near(id).join(", ") })
    }

    /// The probes of the lab that it makes fail, and those that still work.
    ///
    /// # Errors
    ///
    /// [`Error::BadSpec`] for a probe that the lab does not have.
    pub fn expectations(&self) -> Result<[Vec<&'static Probe>; 2], Error> {
        let probes = Spec::find(self.lab)?.probes;
        if self.kind == FaultKind::Trap {
            let healthy = probes.iter().filter(|probe| probe.expected == Expected::Healthy);
            return Ok([Vec::new(), healthy.collect()]);
        }
        let named = |names: &[&str]| {
            let probe = |name: &&str| {
                let found = probes.iter().find(|probe| probe.name == *name);
                found.ok_or_else(|| Error::BadSpec(format!("{}: no probe `{name}`", self.id)))
            };
            names.iter().map(probe).collect::<Result<Vec<_>, _>>()
        };
        Ok([named(self.fails)?, named(self.works)?])
    }
}

/// The names that are most like `id`: those that share the most of its words, then the closest.
fn near(id: &str) -> Vec<&'static str> {
    let words: Vec<&str> = id.split('-').filter(|word| word.len() > 1).collect();
    let mut names: Vec<_> = Fault::all()
        .map(|fault| {
            let shared = words.iter().filter(|word| fault.id.contains(**word)).count();
            (usize::MAX - shared, distance(id, fault.id), fault.id)
        })
        .collect();
    names.sort_unstable();
    names.into_iter().take(SUGGESTIONS).map(|(_, _, id)| id).collect()
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
