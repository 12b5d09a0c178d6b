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
use super::engine::Verdict;
use super::finding::{Finding, Severity};
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
    let verdict = Verdict::of(&findings, evidence.has_traffic());
    super::Diagnosis { verdict, findings, checked: evidence.summary() }
}
