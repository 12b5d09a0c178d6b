//! Rules that drop some of the flow's packets, and let others by.

use std::collections::BTreeSet;

use super::passage::{Passage, passages};
use super::ports::dropped_at;
use super::{Check, Evidence};
use crate::diagnose::finding::{Confidence, Finding};
use crate::diagnose::remedy::{ChainAt, Edit, Spot};
use crate::event::Tcp;
use crate::firewall::{Chain, End, Hit, Match, Rule, Table, Target};
use crate::journey::{Fate, Journey};
use crate::net::Inum;

pub(super) const CHECK: Check = Check {
    explains: &[
        (
            "slow-policer",
            "What exceeds the rate of a rule is dropped (by that rule, or by one behind it), at once \
             and without a queue: TCP loses packets at every burst and slows down far below the rate. \
             A shaper, which delays instead, suits better.",
        ),
        (
            "slow-rule-drops",
            "A rule drops some of the packets (by chance, by turns, or by something that only some \
             of them have). TCP sends them again, and slows down as if the network were congested; \
             what a datagram or a first packet held comes seconds later, or never.",
        ),
    ],
    find,
};

/// Fewer are what is left of a connection that ends.
const SOME: u64 = 3;

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for passage in passages(evidence) {
        let dropped = flags_of_dropped(evidence, &passage);
        let usual = [(false, None), (true, None)];
        for packet in usual.into_iter().chain(dropped) {
            for finding in at(evidence, &passage, packet) {
                if !found.iter().any(|f| f.place == finding.place) {
                    found.push(finding);
                }
            }
        }
    }
    found
}

/// Followed packets that were dropped there, by their TCP flags: a rule may look at any of them
/// (those of ECN, for one).
fn flags_of_dropped(evidence: &Evidence<'_>, passage: &Passage<'_>) -> BTreeSet<Flagged> {
    let is_there = |j: &&Journey| {
        let is_at = j.hops.last().is_some_and(|hop| hop.netns == passage.netns);
        let hook = j.dropped.as_ref().and_then(|drop| drop.hook);
        j.fate == Fate::Dropped && is_at && hook == Some(passage.hook)
    };
    let dropped = evidence.journeys.iter().filter(is_there);
    let tcp = dropped.filter_map(|j| Some(j.first.as_ref()?.tcp()?.flags));
    tcp.map(|flags| (flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN, Some(flags))).collect()
}

/// The first packet of a connection, or one of a connection that is known; its TCP flags where it is
/// not just any.
type Flagged = (bool, Option<u8>);

/// What may drop a packet.
type Dropper<'a> = (&'a Table, &'a Chain, Option<&'a Rule>);

/// The rules and policies of a hook that dropped packets of the flow.
fn at(evidence: &Evidence<'_>, passage: &Passage<'_>, packet: Flagged) -> Vec<Finding> {
    let Some(detail) = evidence.detail(passage.netns) else { return Vec::new() };
    let passed = passage.traverse_flagged(&detail.firewall, packet);
    let last = match &passed.end {
        End::Drop(hit) | End::Reject(hit, _) => Some(hit),
        End::Accept | End::Queue(_) => None,
    };
    let drops = |hit: &&Hit<'_>| {
        hit.rule.is_none_or(|rule| matches!(rule.target, Target::Drop | Target::Reject(_)))
    };
    let may = passed.maybe.iter().chain(last).filter(drops);
    let judged = may.filter_map(|hit| {
        let dropper = (hit.table, hit.chain, hit.rule);
        let limit = limit(&passed.hits, hit);
        judge(evidence, passage, dropper, limit)
    });
    judged.collect()
}

/// The rate that makes the difference: in the rule that drops, or in one before it that lets by what
/// does not exceed it.
fn limit<'a>(hits: &[Hit<'a>], dropper: &Hit<'a>) -> Option<(&'a Chain, &'a Rule)> {
    if let Some(rule) = dropper.rule.filter(|rule| has_limit(rule)) {
        return Some((dropper.chain, rule));
    }
    let is_dropper = |hit: &&Hit<'_>| match (hit.rule, dropper.rule) {
        (Some(one), Some(other)) => std::ptr::eq(one, other),
        _ => false,
    };
    let before = hits.iter().take_while(|hit| !is_dropper(hit));
    let lets_by = |rule: &Rule| matches!(rule.target, Target::Accept | Target::Return);
    let its = before.filter(|hit| std::ptr::eq(hit.table, dropper.table));
    its.filter_map(|hit| Some((hit.chain, hit.rule?)))
        .filter(|(_, rule)| has_limit(rule) && lets_by(rule))
        .last()
}

/// Holds for so many packets, bytes or connections, or for what comes slower or faster.
fn has_limit(rule: &Rule) -> bool {
    let words =
        ["limit rate", "--limit ", "--hashlimit", "--connlimit", "ct count ", "quota ", "--quota "];
    let is_open = rule.matches.iter().any(|m| matches!(m, Match::Other(_)));
    is_open && words.iter().any(|words| rule.text.contains(words))
}

fn judge(
    evidence: &Evidence<'_>,
    passage: &Passage<'_>,
    dropper: Dropper<'_>,
    limit: Option<(&Chain, &Rule)>,
) -> Option<Finding> {
    let (netns, hook) = (passage.netns, passage.hook);
    let seen = dropped_at(evidence, netns).into_iter().filter(|at| *at == hook).count();
    let count = evidence.grown_at(netns, dropper);
    // What it counts is its own; without a counter, a drop at its hook is. A rule without a limit may
    // drop what others send.
    let is_it = match (count, limit) {
        (Some(count), Some(_)) => count >= SOME || count > 0 && seen > 0,
        (Some(count), None) => count >= SOME && seen > 0,
        (None, _) => seen > 0,
    };
    if !is_it {
        return None;
    }
    let (table, chain, rule) = dropper;
    let at = limit.map_or((chain, rule), |(chain, rule)| (chain, Some(rule)));
    let mut finding = match limit {
        Some(_) => {
            let title = "A rule drops what exceeds a rate: the flow is policed".to_owned();
            evidence.finding("slow-policer", netns, title)
        }
        None => {
            let what = if rule.is_some() { "A rule drops" } else { "The end of a chain drops" };
            let title = format!("{what} some of the flow's packets");
            evidence.finding("slow-rule-drops", netns, title).follows(&[
                "slow-policer",
                "slow-dead-endpoint",
                "slow-duplicate-address",
            ])
        }
    };
    finding.place = finding.place.hook(hook).rule(&table.name, &at.0.name, at.1);
    for (chain, rule) in [at, (chain, rule)] {
        let fact = |rule: &Rule| format!("{}/{}: {}", table.name, chain.name, rule.text);
        finding = finding.facts(rule.map(fact));
    }
    let seconds = evidence.span.as_secs_f64();
    if let Some(count) = count {
        finding = finding.fact(format!("{count} packets were dropped in {seconds:.1} s"));
    }
    finding = match seen {
        0 => finding.confidence(Confidence::Likely),
        n => finding.fact(format!("{n} packets of the flow were seen to be dropped there")),
    };
    Some(remedy(finding, netns, dropper, limit.is_some()))
}

fn remedy(
    finding: Finding,
    netns: Inum,
    (table, chain, rule): Dropper<'_>,
    is_limit: bool,
) -> Finding {
    if is_limit {
        return finding.fix(
            "raise the rate or the burst of that rule, remove it, or shape instead of dropping (tc \
             tbf, fq_codel)",
        );
    }
    let by_chance = |rule: &&Rule| {
        rule.text.contains("statistic")
            || rule.matches.iter().any(|m| matches!(m, Match::Random { .. }))
    };
    match rule.filter(by_chance) {
        // Nobody is protected by a drop that the next packet does not meet.
        Some(rule) => {
            let edit = Edit::Delete(Spot::of(rule));
            finding.fix(ChainAt::of(table, chain).edit(edit).at(netns))
        }
        None => finding.fix("remove that rule, or except what the flow sends"),
    }
}
