//! A rule where it was read, and what takes it away or puts another in its place.

use crate::diagnose::remedy::{ChainAt, Edit, Spec, Spot, Step, locate};
use crate::diagnose::walk::RuleRef;
use crate::diagnose::{Case, Where};
use crate::firewall::{self, Policy, Table};
use crate::net::Inum;

/// What removes a rule, or lets a chain's policy accept.
pub(in crate::diagnose) fn delete(case: &Case<'_>, netns: Inum, rule: &RuleRef) -> Step {
    let found = located(case, netns, rule).map(|(table, chain, own)| {
        let edit = match own {
            None => Edit::Policy(Policy::Accept),
            Some(own) => Edit::Delete(Spot::of(own)),
        };
        ChainAt::of(table, chain).edit(edit)
    });
    match found {
        Some(remedy) => remedy.at(netns),
        None => format!("# remove from {}/{}: {}", rule.table, rule.chain, rule.text).into(),
    }
}

/// What puts `text` in the place of a rule.
pub(super) fn replace(case: &Case<'_>, netns: Inum, rule: &RuleRef, text: &str) -> Option<Step> {
    let (table, chain, own) = located(case, netns, rule)?;
    let at = ChainAt::of(table, chain);
    let spec = Spec::of_text(&at, text);
    Some(at.edit(Edit::Replace(Spot::of(own?), spec)).at(netns))
}

/// Where a rule is.
pub(super) fn place_of(case: &Case<'_>, netns: Inum, rule: &RuleRef) -> Where {
    let mut place = Where::netns(case.state, netns);
    place.table = Some(rule.table.clone());
    place.chain = Some(rule.chain.clone());
    place.rule = Some(rule.text.clone());
    place
}

/// A rule where it was read; without a rule, the chain whose policy it is.
pub(in crate::diagnose) fn located<'a>(
    case: &Case<'a>,
    netns: Inum,
    rule: &RuleRef,
) -> Option<(&'a Table, &'a firewall::Chain, Option<&'a firewall::Rule>)> {
    locate(case.state, netns, rule)
}
