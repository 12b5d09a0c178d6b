//! What is said when no rule explains a failure: the observation, and what it leaves open. Run by
//! the engine after all other rules.

use super::{Case, Finding, Rule};
use crate::diagnose::finding::{Confidence, Where};
use crate::diagnose::{Direction, Drop, Outcome, Probed};
use crate::journey::{Fate, Flow, Journey};
use crate::render;

pub(super) const DROP: Rule =
    Rule { id: "drop-unexplained", covers: &["drop-unexplained"], check: nothing };

pub(super) const NO_REPLY: Rule =
    Rule { id: "no-reply-beyond-node", covers: &["no-reply-beyond-node"], check: nothing };

pub(super) const SILENT: Rule = Rule {
    id: "silent-loss",
    covers: &["silent-loss", "probe-refused", "no-packet-sent"],
    check: nothing,
};

/// What says only where packets were last seen.
pub(in crate::diagnose) const IDS: [&str; 3] = [DROP.id, NO_REPLY.id, SILENT.id];

/// These rules speak only when all others are silent.
fn nothing(_: &Case<'_>) -> Vec<Finding> {
    Vec::new()
}

/// One finding for each thing that was seen and not explained.
pub(in crate::diagnose) fn check(case: &Case<'_>) -> Vec<Finding> {
    let drops: Vec<Finding> = case.drops().map(|d| dropped(case, &d)).collect();
    if !drops.is_empty() {
        return drops;
    }
    let mut findings: Vec<Finding> = Vec::new();
    for probe in case.failed() {
        let finding = match case.flow_of(probe) {
            Some(flow) => lost(case, probe, flow),
            None => unsent(case, probe),
        };
        if !findings.iter().any(|f| f.id == finding.id && f.place == finding.place) {
            findings.push(finding);
        }
    }
    findings
}

fn dropped(case: &Case<'_>, drop: &Drop<'_>) -> Finding {
    let mut place = Where::netns(case.state, drop.hop.netns);
    place.dev = drop.dev().map(str::to_owned);
    place.hook = drop.hop.hook.map(crate::journey::Hook::name);
    let meaning = render::meaning(drop.reason, Some(drop.function));
    let what = meaning.map_or_else(|| drop.reason.to_owned(), str::to_owned);
    let title = format!("{} drops the packet: {what}", drop.hop.netns_name);
    Finding::error(DROP.id, case.scenario(), title)
        .confidence(if drop.journey.is_complete() {
            Confidence::Likely
        } else {
            Confidence::Possible
        })
        .at(place)
        .fact(drop.fact())
        .fact(format!("its way: {}", drop.journey.path))
        .fix(format!("# pkttrace explain {}", drop.reason))
        .journeys([drop.journey.id])
        .depth(case.depth_of(drop))
}

/// Sent, seen, and neither dropped nor answered.
fn lost(case: &Case<'_>, probe: &Probed, flow: &Flow) -> Finding {
    let all = |way| -> Vec<&Journey> {
        let indices = if way == Direction::Request { &flow.forward } else { &flow.backward };
        indices.iter().map(|i| &case.journeys[*i]).collect()
    };
    let (requests, replies) = (all(Direction::Request), all(Direction::Reply));
    let (way, last) = match replies.iter().max_by_key(|j| j.start_ns) {
        Some(reply) => (Direction::Reply, Some(*reply)),
        None => (Direction::Request, furthest(&requests)),
    };
    let Some(last) = last else { return unsent(case, probe) };
    let hop = last.hops.last();
    let netns = hop.map_or(probe.netns, |h| h.netns);
    let mut place = Where::netns(case.state, netns);
    place.dev = last.hops.iter().rev().find_map(|h| h.dev.as_ref().map(|d| d.name.clone()));
    let dev = place.dev.clone().unwrap_or_default();
    let node = case.state.netns_name(netns);
    let word = if way == Direction::Request { "request" } else { "reply" };
    let (id, title, fix) = match last.fate {
        Fate::LeftNode => (
            NO_REPLY.id,
            format!("the {word} left {node} by {dev} as it should, and nothing came back"),
            beyond(probe, last),
        ),
        Fate::Delivered if way == Direction::Request => (
            SILENT.id,
            format!("the request arrived in {node}, and no answer was sent"),
            format!("# look at the application in {node}, and at its routes back"),
        ),
        Fate::Delivered => (
            "probe-refused",
            format!("{node} is answered, but not with what it asked for: {}", probe.sentence()),
            format!("# whoever answers as {} says so: look there", probe.to),
        ),
        Fate::Dropped | Fate::Consumed | Fate::InFlight => (
            SILENT.id,
            format!("the {word} was last seen in {node} at {dev}, and went no further"),
            "# look at the devices, bridge ports and neighbours behind that place".to_owned(),
        ),
    };
    let left_open = match id {
        "no-reply-beyond-node" => Some(
            "nothing on this node is in its way; what is left: the network between (a firewall, a \
             smaller MTU), the other node (its tunnel, forwarding, firewall, route back), the target",
        ),
        _ => None,
    };
    Finding::error(id, case.scenario(), title)
        .facts(left_open.map(str::to_owned))
        .confidence(if last.is_complete() { Confidence::Likely } else { Confidence::Possible })
        .at(place)
        .fact(probe.sentence())
        .fact(format!("the way of the {word}: {}", last.path))
        .fix(fix)
        .journeys([last.id])
        .depth(case.depth(way, last.hops.len()))
}

/// What to run on the next node: where a tunnel leads is known, and what its packets look like.
fn beyond(probe: &Probed, last: &Journey) -> String {
    let outer = last.hops.iter().rev().find_map(|h| h.tunnel.as_ref()).and_then(|t| t.dst);
    let proto = match probe.method {
        crate::diagnose::Method::Icmp => "icmp",
        crate::diagnose::Method::Tcp => "tcp",
        crate::diagnose::Method::Udp | crate::diagnose::Method::Dns => "udp",
    };
    // Translations on this node decide what the next one sees.
    let to = last.nat.last().map_or(probe.to, |n| n.after.dst);
    let node = outer.map_or_else(|| "the next node".to_owned(), |a| format!("the node {a}"));
    format!("# on {node}, while this is run again: pkttrace --host {to} --proto {proto}")
}

/// The one that came through most namespaces; of copies, the one that got furthest.
fn furthest<'a>(journeys: &[&'a Journey]) -> Option<&'a Journey> {
    let rank = |j: &&&Journey| (matches!(j.fate, Fate::Delivered | Fate::LeftNode), j.hops.len());
    journeys.iter().max_by_key(rank).copied()
}

/// No packet of it was seen.
fn unsent(case: &Case<'_>, probe: &Probed) -> Finding {
    let netns = case.state.netns_name(probe.netns);
    let (title, confidence) = match probe.outcome {
        Outcome::Local(errno) => {
            let why = std::io::Error::from_raw_os_error(errno).to_string();
            let why = why.split(" (os error").next().unwrap_or_default().to_lowercase();
            (format!("{netns} cannot send to {}: {why}", probe.to), Confidence::Certain)
        }
        _ => (format!("no packet from {netns} to {} was seen", probe.to), Confidence::Possible),
    };
    Finding::error("no-packet-sent", case.scenario(), title)
        .confidence(confidence)
        .at(Where::netns(case.state, probe.netns))
        .fact(probe.sentence())
        .fix(format!("# look at the addresses and routes of {netns}"))
        .depth(0)
}
