//! Few rules that cost each packet much.

use std::time::Duration;

use super::evidence::human;
use super::passage::{Passage, passages};
use super::rules::{MANY, Walked};
use super::{Check, Evidence};
use crate::diagnose::finding::Finding;
use crate::firewall::{Chain, Rule, Table};

pub(super) const CHECK: Check = Check {
    explains: &[(
        "slow-costly-rule",
        "Some matches look at more than the headers of a packet: string searches all of its payload \
         (up to 64 KB with offloads), bpf runs a program, recent looks into a list under a lock. Behind a match on addresses and ports, or on new connections, few packets \
         come to them; in front, every packet pays.",
    )],
    find,
};

/// A hook that takes longer than this is felt.
const FELT: Duration = Duration::from_micros(40);
/// What reads the payload, runs a program or walks a list, in the words of iptables.
const COSTLY: [&str; 3] = ["-m string", "-m bpf", "-m recent"];

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for passage in passages(evidence) {
        let Some(finding) = costly(evidence, &passage) else { continue };
        if !found.iter().any(|f| f.place == finding.place) {
            found.push(finding);
        }
    }
    found
}

fn costly(evidence: &Evidence<'_>, passage: &Passage<'_>) -> Option<Finding> {
    let (time, seen) = evidence.median_at(passage, false)?;
    let met = Walked::of(&evidence.detail(passage.netns)?.firewall, passage, false).rules;
    let is_costly = |rule: &Rule| COSTLY.iter().any(|word| rule.text.contains(word));
    let costly: Vec<&(&Table, &Chain, &Rule)> =
        met.iter().filter(|(.., rule)| is_costly(rule)).collect();
    // With so many rules it is the list that costs, whatever is in it.
    if time < FELT || met.len() >= MANY {
        return None;
    }
    let (table, chain, rule) = costly.first()?;
    let hook = passage.hook;
    let at = hook.name().to_uppercase();
    let title = match costly.len() {
        1 => format!("A rule that is dear to try costs every packet {} at {at}", human(time)),
        n => format!("{n} rules that are dear to try cost every packet {} at {at}", human(time)),
    };
    let facts = costly
        .iter()
        .take(3)
        .map(|(table, chain, rule)| format!("{}/{}: {}", table.name, chain.name, rule.text));
    let mut finding = evidence
        .finding("slow-costly-rule", passage.netns, title)
        .fact(format!("{} in this hook (median of {seen} packets)", human(time)))
        .facts(facts);
    finding.place = finding.place.hook(hook).rule(&table.name, &chain.name, Some(rule));
    Some(finding.fix(
        "try them on fewer packets (behind matches on addresses and ports, or --ctstate NEW), or \
         remove them",
    ))
}
