//! Packets that a firewall rule, or the policy of a chain, does not let through.

use std::collections::BTreeSet;
use std::net::IpAddr;

mod name;
mod reverse;
mod seen;

use super::met::each;
use super::{Case, Finding, Rule, docker, in_front, kube_nft, local_endpoint, refusal, tproxy};
use crate::diagnose::case::{Purpose, REPLY_DEPTH};
use crate::diagnose::walk::{Leg, ObstacleKind as Kind, RuleRef};
use crate::diagnose::{Confidence, Direction, Drop, Met, Where};
use crate::event::Tuple;
use crate::firewall::Firewall;
use crate::journey::Hook;
use crate::net::Inum;

pub(super) const RULE: Rule = Rule {
    id: "firewall-drop",
    covers: &[
        "firewall-drop",
        "forward-policy-drop",
        "forward-policy-drop-remote",
        "svc-forward-policy-drop",
        "firewalld-forward-reject",
        "iptables-other-backend-drop",
        "conntrack-invalid-drop",
        "underlay-vxlan-input-drop",
        "input-drop",
        "output-drop",
        "netpol-ingress-drop",
        "netpol-ingress-reject",
        "netpol-ipset-stale",
        "netpol-port-mismatch",
        "dns-no-endpoints",
        "dns-udp-egress-blocked",
        "svc-no-endpoints",
        "svc-no-local-endpoints",
        "nodeport-raw-firewall",
        "nodeport-forward-drop",
        "nodeport-lb-source-ranges",
        "docker-rules-flushed",
        "docker-user-drop",
        "docker-icc-off",
        "docker-isolation",
        "egress-upstream-drop",
    ],
    check,
};

/// Where a packet ended, and by which rule.
struct Blocked<'a> {
    netns: Inum,
    hook: Option<Hook>,
    rule: RuleRef,
    is_reject: bool,
    direction: Direction,
    firewall: Option<&'a Firewall>,
    dst: Option<(IpAddr, u16)>,
    /// The packet as it leaves the hook, and as it came there.
    tuples: Vec<Tuple>,
    leg: Leg,
}

fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = each(case, walked);
    let stopped: BTreeSet<_> =
        findings.iter().filter(|f| !is_of_reply(f)).map(|f| (f.id, f.place.netns)).collect();
    // Rules of one kind take both directions: the one that takes the request is enough.
    findings.retain(|f| !is_of_reply(f) || !stopped.contains(&(f.id, f.place.netns)));
    // A rule of a bridge takes the packet, and before it the question for its next hop.
    let mut told = BTreeSet::new();
    findings.sort_by_key(|f| f.depth);
    findings.retain(|f| {
        let Where { netns, table, chain, rule, .. } = &f.place;
        rule.is_none() || told.insert((*netns, table.clone(), chain.clone(), rule.clone()))
    });
    for drop in case.drops().filter(is_firewalls) {
        findings.extend(seen::unforeseen(case, &drop, &findings));
    }
    findings
}

fn is_of_reply(finding: &Finding) -> bool {
    finding.depth >= REPLY_DEPTH
}

fn walked(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    // What drops the error about a packet's length is told with the length.
    if met.obstacle.leg == Leg::Error {
        return None;
    }
    let (hook, rule, is_reject, why) = match &met.obstacle.kind {
        Kind::Filtered { hook, rule, is_reject } => (hook, rule, *is_reject, None),
        Kind::MayBeFiltered { hook, rule, why } => (hook, rule, false, Some(why)),
        _ => return None,
    };
    let netns = met.obstacle.place.netns;
    let is_before = *hook == Some(Hook::Forward) && tproxy::is_at(case, netns);
    if is_before || is_untranslated(case, (netns, *hook), rule) {
        return None;
    }
    // What may drop is worth telling only where a drop was seen.
    let is_it = |d: &Drop<'_>| is_firewalls(d) && d.hop.netns == netns;
    let dropped = case.drops().find(is_it);
    // Nobody watches ARP: what may drop that is a guess.
    if why.is_some() && dropped.is_none() && met.obstacle.leg == Leg::Packet {
        return None;
    }
    let marked = local_endpoint::marked(case, met.walk, (netns, rule));
    let (hook, rule) = marked.map_or((*hook, rule), |(hook, rule)| (Some(hook), rule));
    let blocked = Blocked {
        netns,
        hook,
        rule: rule.clone(),
        is_reject,
        direction: met.direction,
        firewall: case.detail(netns).map(|d| &d.firewall),
        dst: Some((met.walk.ask.dst, met.walk.ask.dport)),
        tuples: tuples(met),
        leg: met.obstacle.leg,
    };
    if let Some(dropped) = &dropped
        && let Some(finding) = reverse::path(case, met, (netns, rule), dropped)
    {
        return Some(finding);
    }
    let misled = blocked.is_policy().then(|| docker::misled(case, met, netns)).flatten();
    let mut finding = misled.unwrap_or_else(|| {
        let (id, title) = blocked.name(case);
        let id = if met.way.purpose == Purpose::Upstream { "dns-upstream-unreachable" } else { id };
        invalid(case, met, blocked.fill(case, met.finding(case, id, title)))
    });
    if met.obstacle.leg != Leg::Packet && met.walk.tuple.dst.is_ipv6() {
        finding = discovery(case, netns, finding);
    }
    if let Some(drop) = dropped {
        finding = finding.fact(drop.fact()).journeys([drop.journey.id]);
        finding.confidence = if why.is_some() { Confidence::Likely } else { Confidence::Certain };
    }
    Some(finding)
}

/// Steps keep what has become of the packet there.
fn tuples(met: &Met<'_>) -> Vec<Tuple> {
    let steps = &met.walk.steps;
    let before = met.step.checked_sub(1).and_then(|at| steps.get(at));
    let mut tuples: Vec<Tuple> = steps.get(met.step).map(|s| s.tuple).into_iter().collect();
    tuples.extend(before.map(|s| s.tuple).filter(|t| !tuples.contains(t)));
    tuples
}

/// It is not the packet that the rule takes but the question for its next hop's link-layer address,
/// or the answer: in IPv6 those are packets of ICMPv6, which rules meet as any other.
fn discovery(case: &Case<'_>, netns: Inum, finding: Finding) -> Finding {
    let node = case.state.netns_name(netns);
    let title = format!(
        "{node} drops neighbour solicitations or advertisements (NDP, ICMPv6 types 135 and 136), \
         without which no next hop is found: {}",
        finding.title
    );
    let advice =
        "accept ICMPv6 neighbour-solicitation and neighbour-advertisement before that rule";
    Finding { title, steps: vec![advice.into()], ..finding }
}

/// By a rule, or by the queue that a rule hands packets to.
fn is_firewalls(drop: &Drop<'_>) -> bool {
    drop.reason == "NETFILTER_DROP" || in_front::is_queues(drop)
}

/// A Service's address that was not translated goes where it was never meant to, and is dropped
/// there as any other, or as a Service that is none.
fn is_untranslated(case: &Case<'_>, (netns, hook): (Inum, Option<Hook>), rule: &RuleRef) -> bool {
    let mut met = case.obstacles().filter(|m| m.obstacle.place.netns == netns);
    let is_behind = hook != Some(Hook::Prerouting) && !refusal::says_no_endpoints(rule);
    is_behind
        && met.any(|m| {
            let is_it = matches!(m.obstacle.kind, Kind::Untranslated { .. });
            is_it && (m.obstacle.stops() || rule.table == kube_nft::TABLE)
        })
}

/// What the rule holds against the packet is that conntrack does not know its connection: what took
/// the other direction past conntrack is the cause.
fn invalid(case: &Case<'_>, met: &Met<'_>, finding: Finding) -> Finding {
    let obstacles = &met.walk.steps[met.step].obstacles;
    let untracked = obstacles.iter().find_map(|o| match &o.kind {
        Kind::Untracked { rule } => Some(rule.as_ref()),
        _ => None,
    });
    let (Some(untracked), Some(netns)) = (untracked, met.netns(case)) else { return finding };
    let node = &netns.name;
    let Some(rule) = untracked else {
        return finding.fact(format!(
            "conntrack of {node} has not seen the other direction, which takes another way"
        ));
    };
    let title = format!(
        "{node} keeps the request from conntrack, and drops the answer as one to nothing: {}",
        rule.text
    );
    in_front::by_notrack(case, (netns.inum, rule), Finding { title, ..finding })
}
