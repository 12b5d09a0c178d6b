//! Retransmissions that were needed: where are the packets lost?

use std::collections::BTreeMap;

use super::{Check, Evidence};
use crate::diagnose::finding::{Confidence, Finding};
use crate::event::Proto;
use crate::journey::{Fate, Journey};
use crate::net::Inum;
use crate::net::meter::Connection;

pub(super) const CHECK: Check = Check {
    explains: &[(
        "slow-loss",
        "Segments were lost and had to be sent again: each loss halves the rate or stalls the \
         connection for a round trip, a lost last segment for a time-out. Retransmissions that the \
         receiver did not need (DSACK) are not counted.",
    )],
    find,
};

/// What says better why packets are lost.
const CAUSES: &[&str] = &[
    "slow-shaper",
    "slow-policer",
    "slow-rule-drops",
    "slow-queue-drops",
    "slow-backlog-drops",
    "slow-conntrack-full",
    "slow-snat-ports",
    "slow-accept-queue",
    "slow-syn-queue",
    "slow-reassembly",
    "slow-cpu-quota",
    "slow-dead-endpoint",
];

/// The same for datagrams.
const OF_DATAGRAMS: &[&str] = &[
    "slow-socket-buffer",
    "slow-shaper",
    "slow-policer",
    "slow-rule-drops",
    "slow-queue-drops",
    "slow-backlog-drops",
    "slow-conntrack-full",
    "slow-snat-ports",
    "slow-reassembly",
    "slow-cpu-quota",
];

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let connections = evidence.connections();
    let grown = |of: fn(&Connection) -> u32, now: &Connection, before: &Option<Connection>| {
        of(now).saturating_sub(before.as_ref().map_or(0, of))
    };
    let worst = connections.iter().max_by_key(|(_, now, before)| {
        let again = grown(|c| c.retransmits, now, before);
        again.saturating_sub(grown(|c| c.needless, now, before))
    });
    let Some((netns, now, before)) = worst else { return datagrams(evidence) };
    let again = grown(|c| c.retransmits, now, before);
    let needless = grown(|c| c.needless, now, before);
    let segments = grown(|c| c.data_segments, now, before).max(1);
    // One in a thousand is seen on healthy networks.
    let is_loss = again >= 20 && needless * 2 < again && again * 1000 > segments;
    if !is_loss {
        return Vec::new();
    }
    let title = format!("{again} of {segments} segments to {} were sent again", now.peer);
    let mut finding = evidence.finding("slow-loss", *netns, title).fact(format!(
        "{} to {}: {again} retransmissions, {needless} of them needless (DSACK)",
        now.local, now.peer
    ));
    finding = match place(evidence.journeys.iter()) {
        Some((place, dev, what, count)) => {
            let mut at =
                evidence.finding("slow-loss", place, finding.title).facts(finding.evidence);
            if let Some(dev) = dev {
                at.place = at.place.dev(&dev);
            }
            at.fact(format!("{count} of its packets were seen to be dropped: {what}"))
                .fix("`pkttrace drops` shows what is dropped there and why")
        }
        // Only timed: nobody looked where they end.
        None if evidence.journeys.is_empty() => finding
            .confidence(Confidence::Likely)
            .fix("`pkttrace drops` shows whether they are dropped on this node, where and why"),
        None => finding
            .confidence(Confidence::Likely)
            .fact("none of the packets that were followed was dropped on this node".to_owned())
            .fix("look beyond this node: the packets leave it and are not acknowledged"),
    };
    vec![finding.follows(CAUSES)]
}

/// Followed datagrams that were dropped, where there is no connection that tells.
fn datagrams(evidence: &Evidence<'_>) -> Vec<Finding> {
    let is_datagram = |j: &&Journey| j.first.is_some_and(|first| first.tuple.proto == Proto::Udp);
    let followed = evidence.journeys.iter().filter(is_datagram).count();
    let dropped = evidence.journeys.iter().filter(is_datagram);
    let Some((netns, dev, what, count)) = place(dropped) else { return Vec::new() };
    if followed == 0 || count < 3 || count * 100 < followed {
        return Vec::new();
    }
    let title = format!("{count} of {followed} datagrams that were followed were dropped");
    let mut finding = evidence.finding("slow-loss", netns, title).fact(what);
    if let Some(dev) = dev {
        finding.place = finding.place.dev(&dev);
    }
    vec![finding.fix("`pkttrace drops` shows what is dropped there and why").follows(OF_DATAGRAMS)]
}

type Dropped = (Inum, Option<String>, String, usize);

/// Where most of the followed packets were dropped.
fn place<'a>(journeys: impl Iterator<Item = &'a Journey>) -> Option<Dropped> {
    let mut all: BTreeMap<(Inum, Option<String>, String), usize> = BTreeMap::new();
    for journey in journeys.filter(|j| j.fate == Fate::Dropped) {
        let (Some(drop), Some(hop)) = (&journey.dropped, journey.hops.last()) else { continue };
        // Copies of what came already, and what a closing socket had left.
        if matches!(drop.reason.as_str(), "TCP_OLD_DATA" | "TCP_OLD_SEQUENCE" | "QUEUE_PURGE") {
            continue;
        }
        let dev = hop.dev.as_ref().map(|d| d.name.clone());
        let function = drop.function.as_deref().unwrap_or("?");
        *all.entry((hop.netns, dev, format!("{} in {function}", drop.reason))).or_default() += 1;
    }
    let ((netns, dev, what), count) = all.into_iter().max_by_key(|(_, n)| *n)?;
    Some((netns, dev, what, count))
}
