//! Processes that their CPU limit stops, at both ends of the flow and between them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::evidence::human;
use super::{Check, Evidence};
use crate::diagnose::finding::Finding;
use crate::net::Inum;
use crate::net::meter::Quota;

pub(super) const CHECK: Check = Check {
    explains: &[(
        "slow-cpu-quota",
        "The process may use a share of the processors (its cgroup's quota; a container's CPU \
         limit) and was stopped for the rest of each period. While it is stopped its packets \
         wait in sockets: that looks like a slow network.",
    )],
    find,
};

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let ends = ends(evidence).into_iter().filter(|(_, pid, _)| seen.insert(*pid));
    ends.filter_map(|(netns, pid, name)| stopped(evidence, netns, pid, &name)).collect()
}

/// The processes that take the flow's packets, those that send them, and those that carry them from
/// one tunnel device to another.
fn ends(evidence: &Evidence<'_>) -> Vec<(Inum, u32, String)> {
    let receivers = evidence.receivers().into_iter().filter_map(|(netns, history)| {
        let (pid, name) = history.iter().rev().find_map(|s| s.process.clone())?;
        Some((netns, pid, name))
    });
    let connected = evidence.connections().into_iter().filter_map(|(netns, now, _)| {
        let (pid, name) = now.process?;
        Some((netns, pid, name))
    });
    let between = evidence.namespaces().into_iter().flat_map(|netns| {
        let programs = evidence.behind_tunnels(netns).into_iter();
        programs.map(move |(_, (pid, name))| (netns, *pid, name.clone()))
    });
    receivers.chain(connected).chain(between).collect()
}

fn stopped(evidence: &Evidence<'_>, netns: Inum, pid: u32, name: &str) -> Option<Finding> {
    // It may have come, or have been found, while it was watched.
    let mut seen = evidence.moments.iter().filter_map(|m| m.get(&netns)?.quotas.get(&pid));
    let before = seen.next()?;
    let now = seen.next_back()?;
    let grown = |now: &Quota| {
        let old = before.iter().find(|old| old.cgroup == now.cgroup)?;
        Some(Quota {
            cgroup: now.cgroup.clone(),
            periods: now.periods.saturating_sub(old.periods),
            throttled: now.throttled.saturating_sub(old.throttled),
            throttled_us: now.throttled_us.saturating_sub(old.throttled_us),
        })
    };
    // Of limits inside each other, the one that stops it is it.
    let Quota { cgroup, periods, throttled, throttled_us } =
        now.iter().filter_map(grown).max_by_key(|quota| quota.throttled)?;
    if throttled < 3 || throttled * 5 < periods {
        return None;
    }
    let title = format!("{name} (PID {pid}) is stopped by its CPU limit");
    Some(
        evidence
            .finding("slow-cpu-quota", netns, title)
            .fact(format!(
                "cgroup {cgroup}: throttled in {throttled} of {periods} periods, {} in {:.1} s",
                human(Duration::from_micros(throttled_us)),
                evidence.span.as_secs_f64()
            ))
            .fix(format!(
                "raise the CPU limit of the container (resources.limits.cpu; cpu.max of cgroup \
                 {cgroup}), or remove it"
            )),
    )
}
