//! Chains that leave connections to nobody: those that spread them at random, a part of them; those
//! that are empty, all.

use super::RuleRef;
use super::verdict::reference;
use crate::firewall::{By, Chain, Elements, Hit, Match, Rule, Table, Target};

/// A share smaller than this is the rounding of probabilities.
const ROUNDING: f64 = 0.001;

/// The last rule that spreads, where those of its chain leave a share of connections untranslated.
pub(super) fn hole(hits: &[Hit<'_>]) -> Option<(RuleRef, u8)> {
    hits.iter().find_map(|hit| {
        let rule = hit.rule.filter(|r| spreads(r) && hit.chain.hook.is_none())?;
        let (last, share) = left(hit.table, hit.chain)?;
        // Each of them may be a hit: the last one is enough.
        let is_last = std::ptr::eq(last, rule);
        let percent = (share * 100.0).round().clamp(1.0, 99.0);
        is_last.then(|| (reference(hit), percent as u8))
    })
}

/// The jump to a chain without rules, where it, or a jump that leads to it, is about certain addresses
/// or ports; with the comment of that one.
pub(super) fn emptied(hits: &[Hit<'_>]) -> Option<(RuleRef, String, Option<String>)> {
    hits.iter().enumerate().find_map(|(at, hit)| {
        let to = hit.rule?.leads_to()?;
        let is_empty = |c: &&Chain| c.name == to && c.hook.is_none() && c.rules.is_empty();
        let is_nat = hit.table.name == "nat" || hit.table.chains.iter().any(|c| c.kind == "nat");
        let chain = hit.table.chains.iter().find(is_empty).filter(|_| is_nat)?;
        let asked = about(hits.get(..=at)?)?;
        Some((reference(hit), chain.name.clone(), asked.comment.clone()))
    })
}

/// Of jumps that lead to the last of these hits, itself among them, the one that is about certain
/// addresses or ports.
fn about<'a>(hits: &[Hit<'a>]) -> Option<&'a Rule> {
    let (last, before) = hits.split_last()?;
    let rule = last.rule?;
    let is_specific = rule.matches.iter().any(|m| match m {
        Match::Dport { not, .. } => !not,
        Match::Dst { nets, not: false } => {
            nets.iter().any(|(a, len)| *len == if a.is_ipv4() { 32 } else { 128 })
        }
        _ => false,
    });
    if is_specific {
        return Some(rule);
    }
    let leads_here = |h: &Hit<'_>| {
        std::ptr::eq(h.table, last.table)
            && h.rule.and_then(Rule::leads_to) == Some(last.chain.name.as_str())
    };
    let above = before.iter().rposition(leads_here)?;
    about(before.get(..=above)?)
}

fn spreads(rule: &Rule) -> bool {
    chance(rule).is_some() || modulus(rule).is_some()
}

/// With which probability a rule of iptables takes a connection.
fn chance(rule: &Rule) -> Option<f64> {
    rule.matches.iter().find_map(|m| match m {
        Match::Random { probability } => probability.parse().ok(),
        _ => None,
    })
}

/// Of how many numbers a map of nftables chooses one at random, and how many it has.
fn modulus(rule: &Rule) -> Option<(usize, usize)> {
    let Target::Map(map) = &rule.target else { return None };
    let (By::Number { of, .. }, Elements::Here(elements)) = (&map.by, &map.elements) else {
        return None;
    };
    Some((usize::try_from(*of).ok()?, elements.len()))
}

/// The share that no rule of the chain takes, and the last rule that takes one.
fn left<'a>(table: &Table, chain: &'a Chain) -> Option<(&'a Rule, f64)> {
    let (mut share, mut last) = (1.0, None);
    for rule in &chain.rules {
        if let Some((of, has)) = modulus(rule).filter(|(of, _)| *of > 0) {
            share *= 1.0 - has.min(of) as f64 / of as f64;
            last = Some(rule);
        } else if !leads_on(table, rule) {
            continue;
        } else if let Some(p) = chance(rule) {
            share *= 1.0 - p;
            last = Some(rule);
        } else if last.is_some() && !rule.matches.iter().any(|m| matches!(m, Match::Other(_))) {
            return None;
        }
    }
    last.filter(|_| share > ROUNDING).map(|last| (last, share))
}

/// The rule translates, or goes on in a chain that does.
fn leads_on(table: &Table, rule: &Rule) -> bool {
    let translates = |r: &Rule| matches!(r.target, Target::Dnat { .. } | Target::Redirect { .. });
    let Some(to) = rule.leads_to() else { return translates(rule) };
    let next = table.chains.iter().find(|c| c.name == to);
    next.is_some_and(|c| c.rules.iter().any(translates))
}
