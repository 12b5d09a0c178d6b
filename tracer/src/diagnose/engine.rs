//! From the findings of all rules to an answer: merged, ordered by cause, honest when no rule
//! explains what failed.

use std::collections::BTreeSet;

use super::case::{Case, Purpose};
use super::finding::{Confidence, Finding, Severity, Where};
use super::remedy;
use super::rules::{self, RULES, unexplained};

/// What it comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// What was asked was seen to work, and no finding has severity error.
    Healthy,
    /// A finding has severity error.
    Broken,
    /// Nothing was seen to work and nothing to fail.
    #[default]
    Inconclusive,
}

impl Verdict {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Broken => "broken",
            Self::Inconclusive => "inconclusive",
        }
    }

    /// Of these findings, where `works` says that what was asked was seen to work.
    #[must_use]
    pub fn of(findings: &[Finding], works: bool) -> Self {
        match findings.iter().any(|f| f.severity == Severity::Error) {
            true => Self::Broken,
            false if works => Self::Healthy,
            false => Self::Inconclusive,
        }
    }
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// What it comes to.
    pub verdict: Verdict,
    /// Root cause first.
    pub findings: Vec<Finding>,
    /// What was looked at and found healthy, in sentences.
    pub checked: Vec<String>,
}

impl Diagnosis {
    /// What was asked was seen to work.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.verdict == Verdict::Healthy
    }
}

/// Runs every rule and concludes.
#[must_use]
pub fn conclude(case: &Case<'_>) -> Diagnosis {
    let all = RULES.iter().flat_map(|rule| (rule.check)(case)).collect();
    let mut findings = settle(all, case.is_failing());
    if case.ways.iter().any(|w| w.purpose == Purpose::Check) {
        temper(&mut findings);
    }
    // Of several connections some met a rule that counts them.
    let is_counted = |f: &Finding| f.severity == Severity::Warning && f.place.rule.is_some();
    let is_explained = |f: &Finding| {
        f.severity == Severity::Error || is_counted(f) || f.id == "svc-ping-unanswered"
    };
    if case.is_failing() && !findings.iter().any(is_explained) {
        findings.extend(unexplained::check(case));
        findings = settle(findings, true);
    }
    super::cause::put_first(case, &mut findings);
    if case.is_aside() {
        set_aside(&mut findings);
    }
    for finding in &mut findings {
        if finding.explain.is_empty() {
            rules::explain(finding.id).unwrap_or_default().clone_into(&mut finding.explain);
        }
    }
    remedy::conclude(case, &mut findings);
    let checked = super::checked::healthy(case, &findings);
    let verdict = Verdict::of(&findings, case.works());
    Diagnosis { verdict, findings, checked }
}

/// The findings of several cases as those of one.
#[must_use]
pub fn join(parts: impl IntoIterator<Item = Vec<Finding>>) -> Vec<Finding> {
    settle(parts.into_iter().flatten().collect(), true)
}

/// Where nobody was seen to fail: what the configuration alone suggests has to be certain, and
/// what a rule forbids may be meant so. Whether a node lets itself be pinged is its own business.
fn temper(findings: &mut Vec<Finding>) {
    findings.retain(|f| {
        let is_seen = !f.journeys.is_empty();
        is_seen
            || f.confidence == Confidence::Certain
                && !matches!(f.place.hook, Some("input" | "output"))
    });
    for finding in findings.iter_mut().filter(|f| f.journeys.is_empty()) {
        if finding.place.rule.is_some() && finding.severity == Severity::Error {
            finding.severity = Severity::Warning;
        }
    }
    findings.sort_by_key(|f| f.severity);
}

/// Where only a long echo failed: what a rule does to it, it need not do to what was asked. That a
/// way does not take the length is another matter: that holds for every packet.
fn set_aside(findings: &mut [Finding]) {
    let is_rule = |f: &&mut Finding| f.place.rule.is_some() && !rules::is_about_length(f.id);
    for finding in findings.iter_mut().filter(is_rule) {
        finding.severity = finding.severity.max(Severity::Warning);
    }
    findings.sort_by_key(|f| f.severity);
}

/// Merges, demotes what only follows, and orders.
fn settle(findings: Vec<Finding>, is_failing: bool) -> Vec<Finding> {
    let mut merged: Vec<Finding> = Vec::new();
    for finding in findings {
        match merged.iter_mut().find(|f| is_same(f, &finding)) {
            Some(same) => absorb(same, finding),
            None => merged.push(finding),
        }
    }
    // What would stop a packet has been refuted by packets that got through.
    if !is_failing {
        merged.retain(|f| f.severity != Severity::Error);
    }
    demote_followers(&mut merged);
    demote_by_mistake(&mut merged);
    merged.sort_by_key(|f| {
        (f.severity, f.confidence == Confidence::Possible, f.depth, f.confidence, f.id)
    });
    merged
}

/// Whether two findings name the same cause. One may know the device at which it was met, the
/// other the rule or the setting.
fn is_same(a: &Finding, b: &Finding) -> bool {
    let agree = |a: &Option<String>, b: &Option<String>| a == b || a.is_none() || b.is_none();
    let (p, q) = (&a.place, &b.place);
    let has_cause = |w: &Where| w.chain.is_some() || w.sysctl.is_some() || w.route.is_some();
    a.id == b.id
        && p.netns == q.netns
        && agree(&p.chain, &q.chain)
        && agree(&p.rule, &q.rule)
        && agree(&p.sysctl, &q.sysctl)
        && agree(&p.route, &q.route)
        && (agree(&p.dev, &q.dev) || (has_cause(p) && has_cause(q)))
}

/// The same cause, found again.
fn absorb(into: &mut Finding, other: Finding) {
    into.severity = into.severity.min(other.severity);
    into.confidence = into.confidence.min(other.confidence);
    into.depth = into.depth.min(other.depth);
    for fact in other.evidence {
        if !into.evidence.contains(&fact) {
            into.evidence.push(fact);
        }
    }
    for id in other.journeys {
        if !into.journeys.contains(&id) {
            into.journeys.push(id);
        }
    }
    if !into.has_remedy() && !other.steps.is_empty() {
        into.steps = other.steps;
        into.narrower = other.narrower;
    }
    let (place, rest) = (&mut into.place, other.place);
    for (own, others) in [
        (&mut place.dev, rest.dev),
        (&mut place.table, rest.table),
        (&mut place.chain, rest.chain),
        (&mut place.rule, rest.rule),
        (&mut place.sysctl, rest.sysctl),
        (&mut place.route, rest.route),
    ] {
        if own.is_none() {
            *own = others;
        }
    }
}

/// A finding that names another one of severity error as its cause is only worth knowing, and so is
/// what merely may be a cause where another one is known.
fn demote_followers(findings: &mut [Finding]) {
    let causes: BTreeSet<&'static str> = findings
        .iter()
        .filter(|f| f.severity == Severity::Error && f.confidence != Confidence::Possible)
        .map(|f| f.id)
        .collect();
    for finding in findings.iter_mut() {
        let follows = finding.follows.iter().any(|id| *id != finding.id && causes.contains(id));
        let is_guess = finding.confidence == Confidence::Possible
            && finding.severity == Severity::Error
            && !causes.is_empty();
        if follows || is_guess {
            finding.severity = Severity::Info;
        }
    }
}

/// What a host does with packets that came to it only because it has another's address follows
/// from that.
fn demote_by_mistake(findings: &mut [Finding]) {
    let is_duplicate = |f: &Finding| matches!(f.id, "duplicate-address" | "duplicate-mac");
    let mistaken: BTreeSet<_> = findings
        .iter()
        .filter(|f| is_duplicate(f) && f.severity == Severity::Error)
        // Else it is not known which of them that is.
        .filter(|f| f.has_remedy())
        .filter_map(|f| f.place.netns)
        .collect();
    for finding in findings.iter_mut().filter(|f| !is_duplicate(f)) {
        let is_there = finding.place.netns.is_some_and(|netns| mistaken.contains(&netns));
        if is_there && finding.severity == Severity::Error {
            finding.severity = Severity::Info;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::finding::Scenario;
    use crate::diagnose::remedy::Remedy;

    fn finding(id: &'static str, depth: u32) -> Finding {
        Finding::error(id, Scenario::Host, id).depth(depth)
    }

    fn ids(findings: &[Finding]) -> Vec<&'static str> {
        findings.iter().map(|f| f.id).collect()
    }

    #[test]
    fn the_earliest_certain_cause_comes_first() {
        let list = vec![
            finding("later", 20),
            finding("guess", 1).confidence(Confidence::Possible),
            finding("first", 10),
            finding("hint", 0).severity(Severity::Info),
        ];
        assert_eq!(ids(&settle(list, true)), ["first", "later", "hint", "guess"]);
    }

    #[test]
    fn the_same_cause_is_named_once_with_all_its_evidence() {
        let place = Where { dev: Some("eth0".to_owned()), ..Where::default() };
        let list = vec![
            finding("a", 20).at(place.clone()).fact("one").journeys([1]),
            finding("a", 10).at(place).fact("two").journeys([1, 2]),
            finding("a", 5).at(Where { dev: Some("eth1".to_owned()), ..Where::default() }),
        ];
        let settled = settle(list, true);
        assert_eq!(ids(&settled), ["a", "a"]);
        assert_eq!(settled[1].evidence, ["one", "two"]);
        assert_eq!((settled[1].depth, &settled[1].journeys[..]), (10, &[1, 2][..]));
    }

    #[test]
    fn what_only_follows_is_information() {
        let list = vec![finding("dns", 1).follows(&["path"]), finding("path", 20)];
        let settled = settle(list, true);
        assert_eq!(ids(&settled), ["path", "dns"]);
        assert_eq!(settled[1].severity, Severity::Info);
        let alone = settle(vec![finding("dns", 1).follows(&["path"])], true);
        assert_eq!(alone[0].severity, Severity::Error);
    }

    #[test]
    fn a_host_reached_by_mistake_is_not_accused() {
        let at = |netns| Where { netns: Some(netns), ..Where::default() };
        let del = || Remedy::del_addr("eth0", ([10, 0, 0, 1].into(), 32)).at(7);
        let found = |id, netns| finding(id, 1).at(at(netns)).fix(del());
        let settled =
            settle(vec![found("app", 7), found("duplicate-address", 7), found("x", 8)], true);
        assert_eq!(ids(&settled), ["duplicate-address", "x", "app"]);
        let advice = finding("duplicate-address", 2).at(at(7)).fix("# which of them?");
        assert_eq!(settle(vec![found("app", 7), advice], true)[0].id, "app");
    }

    #[test]
    fn a_check_speaks_of_what_is_certain() {
        let place = |hook| Where { hook, rule: Some("drop".to_owned()), ..Where::default() };
        let mut list = vec![
            finding("policy", 1).at(place(Some("forward"))),
            finding("own", 2).at(place(Some("input"))),
            finding("guess", 3).confidence(Confidence::Possible),
            finding("seen", 4).confidence(Confidence::Likely).journeys([1]),
            finding("down", 5),
        ];
        temper(&mut list);
        assert_eq!(ids(&list), ["seen", "down", "policy"]);
        assert_eq!(list[2].severity, Severity::Warning);
    }

    #[test]
    fn what_got_through_was_not_stopped() {
        let list = vec![finding("a", 1), finding("b", 1).severity(Severity::Warning)];
        assert_eq!(ids(&settle(list, false)), ["b"]);
    }
}
