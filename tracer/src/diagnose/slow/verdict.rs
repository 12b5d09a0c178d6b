//! Programs that decide about packets, and take their time.

use std::time::Duration;

use super::evidence::human;
use super::passage::{Passage, passages};
use super::{Check, Evidence};
use crate::diagnose::finding::Finding;
use crate::firewall::{Hit, Target};

pub(super) const CHECK: Check = Check {
    explains: &[(
        "slow-verdict",
        "A rule hands packets to a program (NFQUEUE, nftables' queue), and each waits in the kernel's \
         queue until the program has decided. It takes them one after the other: one that is slow, \
         or gets no processor, delays all of them, and what finds its queue full is dropped (or let \
         by, with bypass).",
    )],
    find,
};

/// A program that keeps up decides in microseconds.
const FELT: Duration = Duration::from_millis(1);

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for passage in passages(evidence) {
        // What every packet meets, the first one meets too.
        let waits = |is_first| waited(evidence, &passage, is_first);
        let Some(finding) = waits(false).or_else(|| waits(true)) else { continue };
        if !found.iter().any(|f| f.place == finding.place) {
            found.push(finding);
        }
    }
    found
}

fn waited(evidence: &Evidence<'_>, passage: &Passage<'_>, is_first: bool) -> Option<Finding> {
    let (netns, hook) = (passage.netns, passage.hook);
    let passed = passage.traverse(&evidence.detail(netns)?.firewall, is_first);
    let hands_over = |hit: &&Hit<'_>| hit.rule.is_some_and(|rule| rule.target == Target::Queue);
    let hit = passed.hits.iter().chain(&passed.maybe).find(hands_over)?;
    let (time, count) = evidence.median_at(passage, is_first)?;
    if time < FELT {
        return None;
    }
    let title = format!(
        "A program that {} are handed to decides after {}",
        if is_first { "new connections" } else { "packets" },
        human(time)
    );
    let rule = hit.rule?;
    let mut finding = evidence
        .finding("slow-verdict", netns, title)
        .fact(format!("{}/{}: {}", hit.table.name, hit.chain.name, rule.text))
        .fact(format!(
            "{} at {} (median of {count} packets)",
            human(time),
            hook.name().to_uppercase()
        ));
    finding.place = finding.place.hook(hook).rule(&hit.table.name, &hit.chain.name, hit.rule);
    Some(finding.fix(
        "let the program behind that queue decide faster (several queues: --queue-balance, \
         --queue-cpu-fanout), or hand it only the first packets of connections (ct state new), or \
         remove the rule",
    ))
}
