//! Packets whose checksum is wrong: the receiver takes them for noise, and conntrack, where it
//! looks first, for invalid.

use super::{Case, Direction, Finding, Rule, docker, located};
use crate::diagnose::remedy::{Remedy, Step};
use crate::diagnose::walk::{End, RuleRef, What};
use crate::diagnose::{Confidence, Drop, Outcome, Probed, Purpose, Scenario, Where};
use crate::firewall::{Match, Stateful, Target};
use crate::net::{DeviceKind, Inum};

pub(super) const RULE: Rule = Rule {
    id: "checksum-corrupted",
    covers: &["checksum-corrupted", "dns-checksum-corrupted"],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let seen: Vec<Finding> = case.drops().filter_map(|d| corrupted(case, &d)).collect();
    if seen.is_empty() { unseen(case).into_iter().collect() } else { seen }
}

/// Nobody on this node minds, but a rule on the way out writes the checksum that the answer never
/// came to.
fn unseen(case: &Case<'_>) -> Option<Finding> {
    let is_lost = |p: &&Probed| p.outcome == Outcome::Timeout && p.purpose != Purpose::FullSize;
    let probe = case.failed().find(is_lost)?;
    let way = case.ways.iter().find(|w| {
        w.purpose == probe.purpose
            && w.request.stopped_at().is_none()
            && matches!(w.request.end, End::LeftView { .. })
    })?;
    let (step, at, rule) = way.request.steps.iter().enumerate().find_map(|(i, step)| {
        let What::Hook { hits, .. } = &step.what else { return None };
        Some((i, step.netns, hits.iter().find(|r| writes(&r.text))?))
    })?;
    let is_dns = case.scenario() == Scenario::Dns;
    let id = if is_dns { "dns-checksum-corrupted" } else { RULE.id };
    let title = format!(
        "a rule of {} writes a checksum of its own into the packet, and no answer comes",
        case.state.netns_name(at)
    );
    let place = Where::netns(case.state, at);
    let place = Where { rule: Some(rule.text.clone()), table: Some(rule.table.clone()), ..place };
    Some(
        Finding::error(id, case.scenario(), title)
            .confidence(Confidence::Likely)
            .at(Where { chain: Some(rule.chain.clone()), ..place })
            .fact(format!("{} {}: {}", rule.table, rule.chain, rule.text))
            .fact(probe.sentence())
            .fix(located::delete(case, at, rule))
            .depth(case.depth(Direction::Request, step)),
    )
}

/// Writes a fixed checksum; 0 says that a datagram has none, which is allowed.
fn writes(rule: &str) -> bool {
    let value = rule.split("checksum set ").nth(1).and_then(|v| v.split_whitespace().next());
    value.is_some_and(|v| !matches!(v, "0" | "0x0" | "0x0000"))
}

fn corrupted(case: &Case<'_>, drop: &Drop<'_>) -> Option<Finding> {
    let netns = drop.hop.netns;
    let proof = match drop.reason {
        "TCP_CSUM" | "UDP_CSUM" | "IP_CSUM" | "ICMP_CSUM" => Vec::new(),
        "NETFILTER_DROP" => invalid(case, drop)?,
        _ => return None,
    };
    let is_dns = case.scenario() == Scenario::Dns;
    let id = if is_dns { "dns-checksum-corrupted" } else { RULE.id };
    let writer = writer(case, drop);
    let node = case.state.netns_name(netns);
    let at = writer.as_ref().map_or(netns, |(at, _)| *at);
    let title = match &writer {
        Some((at, _)) => format!(
            "a rule of {} writes a wrong checksum, and {node} drops the packet for it",
            case.state.netns_name(*at)
        ),
        None => format!("the packet comes to {node} with a wrong checksum and is dropped for it"),
    };
    let mut place = Where::netns(case.state, at);
    if let Some((_, rule)) = &writer {
        place.table = Some(rule.table.clone());
        place.chain = Some(rule.chain.clone());
        place.rule = Some(rule.text.clone());
    } else {
        place.dev = drop.dev().map(str::to_owned);
    }
    let is_certain = writer.is_some() || drop.reason != "NETFILTER_DROP";
    let finding = Finding::error(id, case.scenario(), title)
        .confidence(if is_certain { Confidence::Certain } else { Confidence::Likely })
        .at(place)
        .fact(drop.fact())
        .facts(proof)
        .facts(writer.iter().map(|(_, r)| format!("{} {}: {}", r.table, r.chain, r.text)))
        .journeys([drop.journey.id])
        .depth(case.depth_of(drop));
    let fixes = match &writer {
        Some((at, rule)) => vec![located::delete(case, *at, rule)],
        None => offload(case, drop),
    };
    Some(finding.fixes(fixes))
}

/// Why the drop can have no other cause: the packet is the first of its connection, which conntrack
/// refuses only when it is malformed (`nf_conntrack_tcp_packet`, `udp_error`), and it counted one.
fn invalid(case: &Case<'_>, drop: &Drop<'_>) -> Option<Vec<String>> {
    let netns = drop.hop.netns;
    let headers = drop.journey.first?;
    let is_first = headers
        .tcp()
        .map_or(headers.tuple.proto == crate::event::Proto::Udp, |t| t.flags & 0x12 == 0x02);
    if drop.direction != Direction::Request || !is_first || case.grown(netns, "ct.invalid") == 0 {
        return None;
    }
    let tables = &case.detail(netns)?.firewall.tables;
    let mut rules = tables.iter().flat_map(|t| &t.chains).flat_map(|c| &c.rules);
    let rule = rules.find(|r| {
        matches!(r.target, Target::Drop | Target::Reject(_))
            && r.matches.iter().any(|m| match m {
                Match::CtState { states, not: false } => states.contains(&Stateful::Invalid),
                _ => false,
            })
    })?;
    let node = case.state.netns_name(netns);
    Some(vec![
        format!("conntrack of {node} has counted {} invalid", case.grown(netns, "ct.invalid")),
        format!("{node}: {}", rule.text),
    ])
}

/// The rule on its way that writes checksums.
fn writer(case: &Case<'_>, drop: &Drop<'_>) -> Option<(Inum, RuleRef)> {
    drop.journey.hops[..=drop.at].iter().find_map(|hop| {
        let tables = &case.detail(hop.netns)?.firewall.tables;
        let chains = tables.iter().flat_map(|t| t.chains.iter().map(move |c| (t, c)));
        let mut rules = chains.flat_map(|(t, c)| c.rules.iter().map(move |r| (t, c, r)));
        let (table, chain, rule) = rules.find(|(_, _, r)| r.text.contains("checksum set "))?;
        Some((hop.netns, docker::reference(table, chain, rule)))
    })
}

/// Without a rule, the offload of a tunnel is what goes wrong most.
fn offload(case: &Case<'_>, drop: &Drop<'_>) -> Vec<Step> {
    let tunnel = drop.journey.hops[..=drop.at].iter().find_map(|hop| {
        let dev = hop.dev.as_ref()?;
        let device = case.state.device(hop.netns, dev.ifindex)?;
        (device.kind == DeviceKind::Vxlan).then_some((hop.netns, &device.name))
    });
    let off = |netns, dev: &str| {
        Remedy::Offload { dev: dev.to_owned(), feature: "tx-checksum-ip-generic", on: false }
            .at(netns)
    };
    let advice = "# the sender's checksum offload, or what changes packets on the way, is wrong";
    [advice.into()].into_iter().chain(tunnel.map(|(n, d)| off(n, d))).collect()
}
