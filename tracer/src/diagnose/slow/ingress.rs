//! Rules at a device itself that drop some of what comes or goes by it.

use super::{Check, Evidence};
use crate::diagnose::finding::Finding;
use crate::firewall::{Chain, Rule, Table, Target};
use crate::journey::{Fate, Hook};
use crate::net::Inum;

/// What it names is explained where rules of other hooks are.
pub(super) const CHECK: Check = Check { explains: &[], find };

/// Fewer may be what others sent.
const SOME: u64 = 3;

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let devices = evidence.devices().into_iter();
    devices.flat_map(|(netns, dev)| at(evidence, netns, dev)).collect()
}

/// Those of families `netdev` and `inet`, of which IP and its hooks know nothing.
fn at(evidence: &Evidence<'_>, netns: Inum, dev: u32) -> Vec<Finding> {
    let seen = dropped_at(evidence, netns, dev);
    let (Some(detail), 1..) = (evidence.detail(netns), seen) else { return Vec::new() };
    let name = evidence.name(netns, dev);
    let mut found = Vec::new();
    for table in &detail.firewall.tables {
        let is_there = |chain: &&Chain| {
            chain.devices.as_ref().is_some_and(|devices| devices.names.contains(&name))
        };
        for chain in table.chains.iter().filter(is_there) {
            let drops = chain.rules.iter().filter(|rule| matches!(rule.target, Target::Drop));
            found
                .extend(drops.filter_map(|rule| {
                    judge(evidence, (netns, &name), (table, chain, rule), seen)
                }));
        }
    }
    found
}

/// Followed packets that netfilter dropped at the device, and not at a hook of IP.
fn dropped_at(evidence: &Evidence<'_>, netns: Inum, dev: u32) -> usize {
    let is_here = |j: &&crate::journey::Journey| {
        let Some(drop) = j.dropped.as_ref().filter(|_| j.fate == Fate::Dropped) else {
            return false;
        };
        let hop = j.hops.get(drop.hop).filter(|hop| hop.netns == netns);
        let is_dev = hop.and_then(|hop| hop.dev.as_ref()).is_some_and(|at| at.ifindex == dev);
        is_dev && drop.reason == "NETFILTER_DROP" && drop.hook.is_none_or(Hook::is_netdev)
    };
    evidence.journeys.iter().filter(is_here).count()
}

fn judge(
    evidence: &Evidence<'_>,
    (netns, dev): (Inum, &str),
    (table, chain, rule): (&Table, &Chain, &Rule),
    seen: usize,
) -> Option<Finding> {
    // Without a counter, which of several it is stays open.
    let count = evidence.grown_at(netns, (table, chain, Some(rule))).filter(|n| *n >= SOME)?;
    let is_ingress = chain.devices.as_ref().is_some_and(|devices| devices.is_ingress);
    let (hook, way) =
        if is_ingress { (Hook::Ingress, "comes in") } else { (Hook::Egress, "goes out") };
    let title = format!("A rule drops some of what {way} by {dev}");
    let mut finding = evidence.finding("slow-rule-drops", netns, title);
    finding.place = finding.place.dev(dev).hook(hook).rule(&table.name, &chain.name, Some(rule));
    Some(
        finding
            .fact(format!("{} {}/{}: {}", table.family, table.name, chain.name, rule.text))
            .fact(format!(
                "{count} packets were dropped in {:.1} s, {seen} that were followed among them",
                evidence.span.as_secs_f64()
            ))
            .fix("see what that rule is for: it runs before all that iptables shows"),
    )
}
