//! Causes that lie before the place where a packet ends.
//!
//! The rule, or the missing listener, at which a packet ends is to blame only if the packet came
//! there as it should. So what was done to it before is undone on the model, one thing at a time:
//! if the way is clear then, there and back, that is the cause, and all that was met behind it is
//! its consequence.
//!
//! Pure: the same model as the walk's, walked again.

pub(super) mod elsewhere;
pub(super) mod ipv6;
pub(super) mod names;
pub(super) mod past_node;
mod say;
mod undo;

use super::case::{Case, Outcome, Purpose, Way};
use super::finding::{Finding, Severity};
use super::place::node_of;
use super::walk::End;
use crate::journey;
pub(super) use say::RULE;
use undo::{Alteration, leads};

/// Puts a cause that explains the findings before them.
pub(super) fn put_first(case: &Case<'_>, findings: &mut Vec<Finding>) {
    let Some(cause) = cause(case, findings) else { return };
    findings.retain(|f| !say::is_same(f, &cause));
    for finding in findings.iter_mut().filter(|f| f.severity == Severity::Error) {
        finding.severity = Severity::Info;
    }
    findings.insert(0, cause);
    findings.sort_by_key(|f| f.severity);
}

fn cause(case: &Case<'_>, findings: &[Finding]) -> Option<Finding> {
    case.target.as_ref().filter(|_| case.is_failing())?;
    to_blame(case)
        .and_then(|(way, alteration)| say::finding(case, way, &alteration, findings))
        .or_else(|| names::finding(case))
        .or_else(|| past_node::finding(case))
        .or_else(|| elsewhere::finding(case, findings))
}

/// What has to be undone for a way that fails to lead there and back.
fn to_blame<'a>(case: &'a Case<'_>) -> Option<(&'a Way, Alteration)> {
    case.ways.iter().filter(|way| fails(case, way)).find_map(|way| {
        // What its own setting heals is its own cause.
        if undo::is_healed_by_loose_filter(case, way) {
            return None;
        }
        let all = Alteration::on(case, way).into_iter();
        let mut to_blame = all.filter(|a| a.is_to_blame(case, way));
        Some((way, to_blame.next()?))
    })
}

/// By the configuration, or since the wrong server answered.
fn fails(case: &Case<'_>, way: &Way) -> bool {
    let mut failed = case.failed().filter(|p| p.purpose == way.purpose);
    let is_asked = matches!(way.purpose, Purpose::Reach | Purpose::Resolve);
    let is_answered_wrong = |outcome: &Outcome| matches!(outcome, Outcome::Dns { .. });
    is_asked && failed.any(|p| !leads(way) || is_answered_wrong(&p.outcome))
}

/// Sources that are hidden between pods although the answers would find back without: what works,
/// but not as a cluster promises.
fn hidden(case: &Case<'_>) -> Vec<Finding> {
    if case.target.is_none() || case.is_failing() || !case.works() {
        return Vec::new();
    }
    let is_pod = |netns| node_of(case.state, netns).is_some_and(|n| !case.is_docker_host(n));
    let is_between = |way: &&Way| match way.request.end {
        End::Delivered { netns, .. } => {
            netns != way.request.ask.from && is_pod(netns) && is_pod(way.request.ask.from)
        }
        _ => false,
    };
    // What is led to a Service's endpoint has to come back to where that was done.
    let is_plain = |way: &&Way| !way.request.nat.iter().any(|n| n.kind.is_destination());
    let ways = case.ways.iter().filter(|w| w.purpose == Purpose::Reach).filter(is_between);
    let found = ways.filter(is_plain).find_map(|way| {
        let all = Alteration::on(case, way).into_iter();
        let mut needless = all.filter(|a| matches!(a, Alteration::Translated(..)));
        let Alteration::Translated(nat, rule) = needless.find(|a| a.is_to_blame(case, way))? else {
            return None;
        };
        let is_seen = |n: &journey::Nat| n.before.src == nat.before.src && n.kind == nat.kind;
        let journey = case.journeys.iter().find(|j| j.nat.iter().any(is_seen))?;
        Some(say::masked(case, (&nat, &rule), journey.id))
    });
    found.into_iter().collect()
}
