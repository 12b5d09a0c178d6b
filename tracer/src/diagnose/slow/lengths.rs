//! Packets that are too long for the way, or shorter than it would take.

use std::collections::BTreeMap;

use super::limits::{at_route, own_routes};
use super::{Check, Evidence};
use crate::diagnose::finding::{Finding, Severity};
use crate::diagnose::remedy::{Link, Remedy};
use crate::journey::Fate;
use crate::net::detail::Route;
use crate::net::meter::Connection;
use crate::net::{Device, DeviceKind, Inum};

pub(super) const CHECK: Check = Check {
    explains: &[
        (
            "slow-fragmentation",
            "TCP never sends packets that have to be cut: what is cut here are the packets of a tunnel \
             that carries it. Its device's MTU leaves too little room for the outer headers, so \
             each full packet goes as two and is put together again at the other end: twice the \
             packets, no offloads, and one fragment lost is all of it lost.",
        ),
        (
            "slow-path-mtu",
            "A packet that is longer than a link's MTU and may not be cut is dropped, and the router \
             tells the sender by ICMP (fragmentation needed, packet too big). Where that message is \
             lost the sender goes on until it probes by itself (net.ipv4.tcp_mtu_probing), after \
             several time-outs, or never: small answers come at once, large ones take seconds.",
        ),
        (
            "slow-small-segments",
            "The ends agreed on segments much shorter than every link of the way would take: each \
             packet costs the same however short it is. A rule that clamps the MSS (TCPMSS, maxseg), \
             an MTU or advmss of a route, or a learned path MTU that is no longer true does that.",
        ),
    ],
    find,
};

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let all = [fragments(evidence), hole(evidence), segments(evidence)];
    all.into_iter().flatten().collect()
}

/// Fewer packets are no load.
const SOME: u64 = 100;

/// The flow's segments with data that were sent, or that came where the sender is not seen.
fn sent(evidence: &Evidence<'_>) -> u64 {
    let grown = |of: fn(&Connection) -> u32| {
        let all = evidence.connections().into_iter();
        let each = all.map(|(_, now, before)| {
            u64::from(of(&now).saturating_sub(before.as_ref().map_or(0, of)))
        });
        each.sum::<u64>()
    };
    grown(|c| c.data_segments).max(grown(|c| c.segments_in))
}

/// The tunnel's packets are cut, or come cut: the flow's own are not, TCP sees to that.
fn fragments(evidence: &Evidence<'_>) -> Option<Finding> {
    let tunnels: Vec<(Inum, &Device)> =
        evidence.devices().into_iter().filter_map(tunnel(evidence)).collect();
    let grown =
        |netns, names: [&str; 2]| names.iter().map(|n| evidence.grown(netns, n)).sum::<u64>();
    let worst = |names: [&str; 2]| {
        let all = evidence.namespaces().into_iter().map(|netns| (grown(netns, names), netns));
        all.max_by_key(|(count, _)| *count)
    };
    let (created, cutter) = worst(["IpFragCreates", "Ip6FragCreates"])?;
    let (came, joiner) = worst(["IpReasmReqds", "Ip6ReasmReqds"])?;
    // Others' datagrams may be cut, too: as many as this are the flow's.
    let enough = SOME.max(sent(evidence) / 10);
    if tunnels.is_empty() || created.max(came) < enough {
        return None;
    }
    let seconds = evidence.span.as_secs_f64();
    let is_cut_here = created >= enough;
    let netns = if is_cut_here { cutter } else { joiner };
    let narrow = narrowest(evidence, netns).filter(|_| is_cut_here);
    let title = match &narrow {
        Some(device) => {
            format!("The tunnel's packets are cut to the MTU {} of {}", device.mtu, device.name)
        }
        None => "The tunnel's packets come in fragments".to_owned(),
    };
    let mut finding =
        evidence.finding("slow-fragmentation", netns, title).fact(match is_cut_here {
            true => {
                format!("{created} fragments were made of packets in {seconds:.1} s (FragCreates)")
            }
            false => format!("{came} fragments came in {seconds:.1} s (ReasmReqds)"),
        });
    for (at, device) in &tunnels {
        let name = evidence.netns(*at).map_or("?", |n| &n.name);
        finding = finding.fact(format!("{} in {name} has the MTU {}", device.name, device.mtu));
    }
    if let Some(device) = &narrow {
        finding.place = finding.place.dev(&device.name);
    }
    Some(shorter(finding, &tunnels, narrow))
}

/// The tunnels' MTU as the narrowest link leaves room for, where it is known.
fn shorter(finding: Finding, tunnels: &[(Inum, &Device)], narrow: Option<&Device>) -> Finding {
    let room = |device: &Device| match device.kind {
        // Outer headers: IP, UDP, VXLAN and the inner Ethernet header.
        DeviceKind::Vxlan => {
            let is_v6 = device
                .vxlan
                .as_ref()
                .is_some_and(|v| v.local.or(v.remote).is_some_and(|addr| addr.is_ipv6()));
            Some(if is_v6 { 70 } else { 50 })
        }
        _ => None,
    };
    let fits = |device: &Device| Some(narrow?.mtu.checked_sub(room(device)?)?.max(1280));
    let steps = tunnels.iter().filter_map(|(netns, device)| {
        let mtu = fits(device).filter(|mtu| *mtu < device.mtu)?;
        Some(Remedy::link(&device.name, Link::Mtu(mtu)).at(*netns))
    });
    finding.fixes(steps.collect::<Vec<_>>()).fix(
        "set the MTU of the overlay (the CNI's configuration) to what the narrowest link between \
         the nodes takes, less the outer headers: 50 bytes for VXLAN over IPv4, 70 over IPv6",
    )
}

fn tunnel<'a>(evidence: &'a Evidence<'_>) -> impl Fn((Inum, u32)) -> Option<(Inum, &'a Device)> {
    |(netns, dev)| {
        let device = evidence.state.device(netns, dev)?;
        device.kind.is_tunnel().then_some((netns, device))
    }
}

/// The device of a namespace with the smallest MTU.
fn narrowest<'a>(evidence: &'a Evidence<'_>, netns: Inum) -> Option<&'a Device> {
    let all = evidence.netns(netns)?.devices.values();
    all.filter(|d| {
        d.up && d.kind != DeviceKind::Loopback && tunnel(evidence)((netns, d.ifindex)).is_none()
    })
    .min_by_key(|d| d.mtu)
}

/// How often a sender that heard of it would send too long a packet: once.
const DEAF: u64 = 3;

/// Too long packets are dropped again and again.
fn hole(evidence: &Evidence<'_>) -> Option<Finding> {
    let mut dropped: BTreeMap<Inum, usize> = BTreeMap::new();
    for journey in evidence.journeys.iter().filter(|j| j.fate == Fate::Dropped) {
        let (Some(drop), Some(hop)) = (&journey.dropped, journey.hops.last()) else { continue };
        if drop.reason == "PKT_TOO_BIG" {
            *dropped.entry(hop.netns).or_default() += 1;
        }
    }
    let (netns, seen) = dropped.into_iter().max_by_key(|(_, count)| *count)?;
    let counters = ["IpFragFails", "Ip6FragFails", "Ip6InTooBigErrors"];
    let failed: u64 = counters.iter().map(|name| evidence.grown(netns, name)).sum();
    if failed.max(seen as u64) < DEAF {
        return None;
    }
    let out = evidence.devices().into_iter().filter(|(at, _)| *at == netns);
    let out = out.filter_map(|(at, dev)| evidence.state.device(at, dev)).min_by_key(|d| d.mtu)?;
    let title = format!("The sender goes on with packets that are too long for {}", out.name);
    let mut finding = evidence
        .finding("slow-path-mtu", netns, title)
        .fact(format!("MTU {} on {}", out.mtu, out.name))
        .fact(format!(
            "{failed} packets were too long in {:.1} s (FragFails), {seen} of the flow were seen to be \
             dropped as PKT_TOO_BIG: a sender that hears of it sends one",
            evidence.span.as_secs_f64()
        ))
        .facts(unheard(evidence));
    finding.place = finding.place.dev(&out.name);
    Some(finding.fix(
        "let ICMP errors (IPv4: destination-unreachable; IPv6: packet-too-big) reach the sender: a \
         rule or a missing route stops them",
    ).fix("or clamp the MSS where the MTU shrinks: TCPMSS --clamp-mss-to-pmtu, nft: tcp option maxseg size set rt mtu"))
}

/// Where the router's messages are lost.
fn unheard(evidence: &Evidence<'_>) -> Option<String> {
    let lost = evidence.journeys.iter().filter(|j| j.quoted.is_some() && j.fate == Fate::Dropped);
    let lost: Vec<_> = lost.collect();
    let (drop, hop) = lost.iter().find_map(|j| Some((j.dropped.as_ref()?, j.hops.last()?)))?;
    let name = evidence.netns(hop.netns).map_or("?", |n| &n.name);
    let hook = drop.hook.map_or_else(String::new, |h| format!(" at {}", h.name().to_uppercase()));
    Some(format!("{} ICMP errors were dropped: {} in {name}{hook}", lost.len(), drop.reason))
}

/// Segments of less than half of what every link takes.
fn segments(evidence: &Evidence<'_>) -> Option<Finding> {
    let devices = evidence.devices().into_iter();
    let devices = devices.filter_map(|(netns, dev)| evidence.state.device(netns, dev));
    let least = devices.filter(|d| d.kind != DeviceKind::Loopback).map(|d| d.mtu).min()?;
    let is_short = |c: &Connection| {
        // A window that is tiny makes segments short by itself.
        c.mss > 0 && c.mss * 2 + 120 < least && c.peer_window > c.mss * 8
    };
    let connections = evidence.connections();
    let (netns, now, _) = connections.iter().find(|(_, now, before)| {
        let moved = now.data_segments
            - before.as_ref().map_or(0, |b| b.data_segments).min(now.data_segments);
        is_short(now) && u64::from(moved) > SOME
    })?;
    let title = format!("Segments hold {} bytes at most, and every link takes {least}", now.mss);
    let finding = evidence
        .finding("slow-small-segments", *netns, title)
        .severity(Severity::Warning)
        .fact(format!(
            "{} to {}: MSS {}, path MTU {} by the sender's account",
            now.local, now.peer, now.mss, now.path_mtu
        ));
    Some(clamped(evidence, finding, now))
}

/// Segments that fit every path of the outside world (IPv6 takes 1280 bytes at least).
const WIDE: u32 = 1200;

/// Made short by a route: of the sender (its MTU), or of the receiver (what it asks for).
fn by_route(evidence: &Evidence<'_>, finding: &Finding, now: &Connection) -> Option<Finding> {
    let limit = |route: &Route| {
        let mtu = route.mtu.filter(|mtu| *mtu <= now.path_mtu && now.path_mtu < now.mss * 2);
        // Options of each segment take room from it.
        let advmss = route.limits.advmss.filter(|mss| (now.mss..now.mss + 60).contains(mss));
        mtu.map(|mtu| format!("mtu {mtu}"))
            .or_else(|| advmss.map(|advmss| format!("advmss {advmss}")))
    };
    let routes = own_routes(evidence);
    let (netns, route, limit) =
        routes.into_iter().find_map(|(netns, route)| Some((netns, route, limit(route)?)))?;
    // What fits the outside world is set on purpose where links nearby take more.
    let severity = if now.mss >= WIDE { Severity::Info } else { finding.severity };
    let at = evidence
        .finding(finding.id, netns, format!("{}, by `{limit}` of a route", finding.title))
        .severity(severity)
        .facts(finding.evidence.clone());
    Some(at_route(at, evidence, (netns, route), &limit))
}

/// Who made them short.
fn clamped(evidence: &Evidence<'_>, finding: Finding, now: &Connection) -> Finding {
    if let Some(finding) = by_route(evidence, &finding, now) {
        return finding;
    }
    if now.path_mtu < now.mss * 2 {
        // A learned one is forgotten after ten minutes (net.ipv4.route.mtu_expires).
        return finding.severity(Severity::Info).fix(
            "the path MTU that the sender believes in is too small: `ip route get` shows it with its \
             source (mtu of a route, or a cached one: `ip route flush cache`)",
        );
    }
    for passage in super::passage::passages(evidence) {
        let Some(detail) = evidence.detail(passage.netns) else { continue };
        let passed = passage.traverse(&detail.firewall, true);
        let clamps = |text: &str| text.contains("TCPMSS") || text.contains("maxseg size set");
        let hit = passed.hits.iter().find(|h| h.rule.is_some_and(|rule| clamps(&rule.text)));
        let Some((hit, rule)) = hit.and_then(|hit| Some((hit, hit.rule?))) else { continue };
        let mut at = evidence
            .finding(finding.id, passage.netns, finding.title)
            .severity(finding.severity)
            .facts(finding.evidence)
            .fact(format!("{}/{}: {}", hit.table.name, hit.chain.name, rule.text));
        at.place = at.place.hook(passage.hook).rule(&hit.table.name, &hit.chain.name, hit.rule);
        return at.fix("let that rule clamp to the path's MTU (--clamp-mss-to-pmtu), or remove it");
    }
    finding.fix(
        "the other end offered no more: look there for an advmss or MTU of its route, and on the way \
         for rules that set the MSS",
    )
}
