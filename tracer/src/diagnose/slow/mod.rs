//! Why a connection is slow: what grew on the flow's own way while its traffic ran.
//!
//! Pure: an [`Evidence`] holds the way by configuration, figures from before, during and after, the
//! times between hops of some of its packets, and the answer times of its name servers. Each check
//! looks for one kind of cause. Totals since boot tell nothing, only what grew meanwhile does;
//! retransmissions alone, or a closed window alone, are no fault.

mod addresses;
mod buffers;
mod capacity;
mod classes;
mod connections;
mod costly;
mod delays;
mod dropping;
mod end;
mod endpoints;
mod evidence;
mod expiry;
mod files;
mod flights;
mod flood;
mod fragments;
mod ingress;
mod lengths;
mod limits;
mod loss;
mod names;
mod offload;
mod passage;
mod ports;
mod queues;
mod quota;
mod routing;
mod rules;
mod stations;
mod taps;
#[cfg(test)]
mod tests;
mod times;
mod upstream;
mod verdict;

pub use evidence::{Again, Evidence, Lookup, Moment, Timed};
pub use times::Segment;

use super::case::Case;
use super::engine::{self, Verdict};
use super::finding::{Confidence, Finding, Severity};
use super::remedy;

/// What looks for one kind of cause.
pub(super) struct Check {
    /// The ids of its findings, each with what `pkttrace explain` says of it.
    pub(super) explains: &'static [(&'static str, &'static str)],
    /// Looks.
    pub(super) find: fn(&Evidence<'_>) -> Vec<Finding>,
}

/// Every check.
const CHECKS: &[&Check] = &[
    &rules::CHECK,
    &verdict::CHECK,
    &queues::CHECK,
    &dropping::CHECK,
    &ports::CHECK,
    &routing::CHECK,
    &capacity::CHECK,
    &quota::CHECK,
    &files::CHECK,
    &fragments::CHECK,
    &lengths::CHECK,
    &offload::CHECK,
    &delays::CHECK,
    &connections::CHECK,
    &names::CHECK,
    &addresses::CHECK,
    &endpoints::CHECK,
    &limits::CHECK,
    &flights::CHECK,
    &taps::CHECK,
    &flood::CHECK,
    &stations::CHECK,
    &costly::CHECK,
    &expiry::CHECK,
    &ingress::CHECK,
    &upstream::CHECK,
    &loss::CHECK,
];

/// Every id with its explanation.
pub fn explanations() -> impl Iterator<Item = (&'static str, &'static str)> {
    CHECKS.iter().flat_map(|check| check.explains.iter().copied())
}

/// What makes it slow, the surest cause first, and what was looked at.
#[must_use]
pub fn conclude(evidence: &Evidence<'_>) -> super::Diagnosis {
    let mut findings: Vec<Finding> =
        CHECKS.iter().flat_map(|check| (check.find)(evidence)).collect();
    for finding in &mut findings {
        let why = explanations().find(|(id, _)| *id == finding.id).map(|(_, why)| why);
        if finding.explain.is_empty() {
            why.unwrap_or_default().clone_into(&mut finding.explain);
        }
    }
    // Where a cause is known, what it leads to is not another one.
    let causes: Vec<_> =
        findings.iter().filter(|f| f.severity == Severity::Error).map(|f| f.id).collect();
    for finding in &mut findings {
        if finding.severity == Severity::Error
            && finding.follows.iter().any(|id| causes.contains(id))
        {
            finding.severity = Severity::Info;
        }
    }
    findings.sort_by_key(|f| (f.severity, f.confidence, f.depth, f.id));
    let mut case =
        Case::new(evidence.target.clone(), Vec::new(), evidence.journeys, evidence.state);
    case.ways.clone_from(&evidence.ways);
    remedy::conclude_working(&case, &mut findings);
    if findings.iter().all(|f| f.severity != Severity::Error) {
        findings.splice(0..0, stopped(evidence, case));
    }
    let verdict = Verdict::of(&findings, evidence.has_traffic());
    super::Diagnosis { verdict, findings, checked: evidence.summary() }
}

/// Where nothing makes it slow and connections of our own are not answered, or only some are: what
/// stops them.
fn stopped(evidence: &Evidence<'_>, mut case: Case<'_>) -> Vec<Finding> {
    let all = evidence.probes.len();
    let silent = evidence.probes.iter().filter(|probe| !probe.was_reached()).count();
    // Of a name's addresses the others are tried.
    let is_name = evidence.target.as_ref().is_none_or(|target| target.name.is_some());
    if silent == 0 || is_name {
        return Vec::new();
    }
    case.probes.clone_from(&evidence.probes);
    let mut found = engine::conclude(&case).findings;
    found.retain(|f| f.severity == Severity::Error && f.confidence != Confidence::Possible);
    let fact = format!("{silent} of {all} connections of our own were not answered");
    found.into_iter().map(|finding| finding.fact(fact.clone())).collect()
}
