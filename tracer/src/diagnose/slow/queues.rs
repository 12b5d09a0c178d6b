//! Queueing disciplines that shape or drop.

use std::time::Duration;

use super::evidence::{bits, human};
use super::{Check, Evidence, Segment, classes};
use crate::diagnose::finding::{Finding, Severity};
use crate::diagnose::remedy::quote;
use crate::journey::Journey;
use crate::net::meter::Queue;
use crate::net::{DeviceKind, Inum};

pub(super) const CHECK: Check = Check {
    explains: &[
        (
            "slow-shaper",
            "A queueing discipline lets packets out at a limited rate (tbf, htb, …): what comes \
             faster waits in its queue, and what finds the queue full is dropped. Everything that \
             shares the queue waits behind it, the round trip grows to the queue's length. CNI's \
             bandwidth plugin sets it up from a pod's annotations kubernetes.io/ingress-bandwidth \
             and egress-bandwidth: on the pod's veth, and behind an ifb device for what the pod \
             sends.",
        ),
        (
            "slow-queue-drops",
            "The queue of a device was full, so packets were dropped before they left. TCP takes \
             that for congestion and slows down.",
        ),
    ],
    find,
};

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let queues = evidence.queues();
    let concerned = queues.iter().filter(|(netns, q, _)| is_on_the_way(evidence, *netns, q));
    // A device's disciplines may be nested: the one that limits tells it for all.
    let mut found: Vec<Finding> =
        evidence.devices().into_iter().filter_map(|at| unread(evidence, at)).collect();
    for (netns, queue, grown) in concerned {
        let finding = match queue.shapes() {
            true => shaped(evidence, *netns, queue, grown),
            false => dropping(evidence, *netns, queue, grown),
        };
        let Some(finding) = finding else { continue };
        if !found.iter().any(|f| f.place == finding.place) {
            found.push(finding);
        }
    }
    found
}

/// The flow's packets were seen at the device, or have to come by it, or are redirected to it: an
/// ifb has no other traffic.
fn is_on_the_way(evidence: &Evidence<'_>, netns: Inum, queue: &Queue) -> bool {
    let is_ifb = |dev| {
        let is_kind =
            |d: &crate::net::Device| matches!(&d.kind, DeviceKind::Other(k) if k == "ifb");
        evidence.state.device(netns, dev).is_some_and(is_kind)
    };
    evidence.passes(netns, queue.dev)
        || is_ifb(queue.dev)
            && evidence.namespaces().contains(&netns)
            && evidence.journeys.is_empty()
}

/// Longer is a wait for a rate.
const WAIT: Duration = Duration::from_micros(500);

/// The flow's own packets hardly wait in it, and none was dropped there: its class has what it needs,
/// and others' is held back.
fn passes_at_once(evidence: &Evidence<'_>, netns: Inum, queue: &Queue) -> bool {
    let is_here = |j: &Journey| {
        let hop = j.dropped.as_ref().and_then(|drop| j.hops.get(drop.hop));
        let dev = hop.filter(|hop| hop.netns == netns).and_then(|hop| hop.dev.as_ref());
        dev.is_some_and(|dev| dev.ifindex == queue.dev) && evidence.is_asked_for(j)
    };
    let median = evidence.median(netns, Segment::Queue, Some(queue.dev));
    median.is_some_and(|(time, _)| time < WAIT) && !evidence.journeys.iter().any(is_here)
}

fn shaped(evidence: &Evidence<'_>, netns: Inum, queue: &Queue, grown: &Queue) -> Option<Finding> {
    // It held something back: a rate that nobody reaches limits nothing.
    if grown.overlimits == 0 || grown.drops == 0 && grown.backlog == 0 {
        return None;
    }
    if queue.has_classes() && passes_at_once(evidence, netns, queue) {
        return None;
    }
    let held = classes::held(evidence, netns, queue).filter(|_| queue.has_classes());
    let rate = held.as_ref().map(|held| held.limit.ceiling).or(queue.rate);
    let rate = rate.map(|r| format!(" of {}", bits(r))).unwrap_or_default();
    let class = held.as_ref().map(|held| format!(" class {}", classes::id(held.limit.id)));
    let title = format!(
        "A rate limit{rate} ({}{}) on {} shapes the flow",
        queue.kind,
        class.unwrap_or_default(),
        queue.name
    );
    let mut finding = evidence.finding("slow-shaper", netns, title);
    finding.place = finding.place.dev(&queue.name);
    let seconds = evidence.span.as_secs_f64();
    let sent = (grown.bytes as f64 / seconds) as u64;
    finding = finding.fact(format!(
        "qdisc {} on {}: {} sent in {seconds:.1} s ({}), over its limit {} times, {} packets \
         dropped, up to {} bytes waiting",
        queue.kind,
        queue.name,
        size(grown.bytes),
        bits(sent),
        grown.overlimits,
        grown.drops,
        grown.backlog
    ));
    if let Some((time, n)) = evidence.median(netns, Segment::Queue, Some(queue.dev)) {
        finding = finding.fact(format!(
            "{} in the queue of {} (median of {n} packets)",
            human(time),
            queue.name
        ));
    }
    Some(match held {
        Some(held) => held
            .tell(evidence, (netns, queue), finding)
            .fix(held.advice(evidence, netns, queue)),
        None => finding.fix(format!(
            "raise the limit where it is set (the pod's bandwidth annotations, or whatever ran `tc qdisc` on {}), or remove that qdisc",
            queue.name
        )),
    })
}

fn dropping(evidence: &Evidence<'_>, netns: Inum, queue: &Queue, grown: &Queue) -> Option<Finding> {
    // One in ten thousand is how TCP finds out how much there is room for.
    if grown.drops < 10 || grown.drops * 10_000 < grown.packets {
        return None;
    }
    let title = format!("The queue of {} ({}) was full", queue.name, queue.kind);
    let mut finding = evidence.finding("slow-queue-drops", netns, title);
    finding.place = finding.place.dev(&queue.name);
    Some(
        finding
            .severity(Severity::Warning)
            .fact(format!(
                "qdisc {} on {}: {} packets dropped, {} sent in {:.1} s",
                queue.kind,
                queue.name,
                grown.drops,
                grown.packets,
                evidence.span.as_secs_f64()
            ))
            .fix(format!(
                "a longer queue (txqueuelen of {}), or one that tells senders earlier (fq_codel)",
                queue.name
            )),
    )
}

/// Fewer packets than this are no queue for a burst.
const SHORT: u32 = 500;
/// What `tun` begins with.
const USUAL: u32 = 1000;

/// The queue from which a program reads what is sent by a tunnel device was full.
fn unread(evidence: &Evidence<'_>, (netns, dev): (Inum, u32)) -> Option<Finding> {
    const SOME: u64 = 3;
    let device = evidence.state.device(netns, dev)?;
    let is_tun = matches!(&device.kind, DeviceKind::Other(kind) if kind == "tun");
    let drops = evidence.grown(netns, &format!("if.{}.tx_dropped", device.name));
    let sent = evidence.grown(netns, &format!("if.{}.tx_packets", device.name));
    let length = device.queue_length;
    // TCP finds the end of a queue that is long enough by losing one packet in thousands.
    let is_short = (1..SHORT).contains(&length);
    if !is_tun || drops < SOME || !is_short && drops * 500 < sent {
        return None;
    }
    let name = &device.name;
    let programs = evidence.behind_tunnels(netns);
    let who = programs.iter().find(|(of, _)| of == name);
    let who = who.map_or_else(
        || "the program that reads it".to_owned(),
        |(_, (pid, program))| format!("{program} (PID {pid})"),
    );
    let title = format!("The queue of {name} was full: {who} reads it too late or too seldom");
    let mut finding = evidence.finding("slow-queue-drops", netns, title);
    finding.place = finding.place.dev(name);
    let is_ours = evidence.journeys.iter().any(|j| {
        let dropped = j.dropped.as_ref().and_then(|drop| j.hops.get(drop.hop));
        dropped.and_then(|hop| hop.dev.as_ref()).is_some_and(|at| at.ifindex == dev)
    });
    if !is_ours {
        finding = finding.severity(Severity::Warning);
    }
    finding = finding.fact(format!(
        "{name} dropped {drops} packets and sent {sent} in {:.1} s; its queue holds {length}",
        evidence.span.as_secs_f64()
    ));
    Some(match is_short {
        true => finding.fix(format!(
            "ip link set dev {} txqueuelen {USUAL} in {}",
            quote(name),
            evidence.netns(netns).map_or("?", |n| &n.name)
        )),
        false => {
            finding.fix("let that program read faster (its CPU limit, its load), or send less")
        }
    })
}

fn size(bytes: u64) -> String {
    match bytes {
        1_000_000.. => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.0} kB", bytes as f64 / 1e3),
    }
}
