//! The flows beside the asked one that a remedy must leave alone: what the asker and whoever was
//! asked need besides, and the others on the way.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::diagnose::case::{Case, Purpose};
use crate::diagnose::place::{is_link_local, node_of};
use crate::diagnose::show;
use crate::diagnose::walk::{Ask, End};
use crate::net::detail::RouteType;
use crate::net::{DeviceKind, Inum, Netns, NetworkState};

/// So many of each kind are enough to show harm.
const SIBLINGS: usize = 3;
const NODES: usize = 4;
const PORTS: usize = 3;
const PASSED: usize = 8;
/// An address that only a default route covers (TEST-NET-3 and others may be a lab's): a root name
/// server, which nothing is ever sent to here.
const OUTSIDE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 41, 0, 4));

/// What to walk; some of it may not work now either.
pub(super) fn beside(case: &Case<'_>, asked: &[(Ask, Purpose)]) -> Vec<Ask> {
    let state = case.state;
    let ends: BTreeSet<Inum> = asked.iter().map(|(ask, _)| ask.from).chain(targets(case)).collect();
    let mut asks: Vec<Ask> = Vec::new();
    for end in ends.iter().filter_map(|end| state.netns.get(end)) {
        of_end(state, end, &mut asks);
    }
    let passed: BTreeSet<Inum> = case
        .ways
        .iter()
        .flat_map(|w| w.walks())
        .flat_map(|(_, walk)| walk.steps.iter().map(|s| s.netns))
        .collect();
    // From each node on the way to the others, by their own addresses.
    let nodes: Vec<&Netns> = passed
        .iter()
        .filter(|n| !ends.contains(n))
        .filter_map(|n| state.netns.get(n))
        .take(PASSED)
        .collect();
    for (at, from) in nodes.iter().enumerate() {
        let others = nodes.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, n)| n);
        asks.extend(others.filter_map(|to| Some(Ask::ping(from.inum, address(to)?))).take(NODES));
        asks.push(Ask::tcp(from.inum, OUTSIDE, 443));
    }
    let is_asked = |ask: &Ask| {
        let same = |a: &Ask| {
            (a.from, a.dst, a.proto, a.dport) == (ask.from, ask.dst, ask.proto, ask.dport)
        };
        asked.iter().any(|(a, _)| same(a))
    };
    asks.retain(|ask| !is_asked(ask));
    asks
}

/// Whoever gets what was asked.
fn targets<'a>(case: &'a Case<'_>) -> impl Iterator<Item = Inum> + 'a {
    let ends = case.ways.iter().filter_map(|way| match way.request.end {
        End::Delivered { netns, .. } => Some(netns),
        _ => None,
    });
    ends.chain(case.ways.iter().flat_map(|w| case.state.holders(w.request.ask.dst)).map(|n| n.inum))
}

/// What an end of the asked flow needs besides.
fn of_end(state: &NetworkState, end: &Netns, asks: &mut Vec<Ask>) {
    let from = end.inum;
    let node = node_of(state, from);
    asks.extend(gateways(end).map(|via| Ask::ping(from, via)));
    asks.push(Ask::tcp(from, OUTSIDE, 443));
    asks.push(Ask::udp(from, OUTSIDE, 53));
    let servers = end.detail.iter().filter_map(|d| d.resolver.as_ref());
    asks.extend(servers.flat_map(|r| &r.nameservers).take(1).map(|to| Ask::udp(from, *to, 53)));
    let is_other = |n: &&Netns| n.inum != from;
    let siblings = state
        .netns
        .values()
        .filter(is_other)
        .filter(|n| node.is_some() && node_of(state, n.inum) == node);
    let others = state.netns.values().filter(is_other).filter(|n| {
        let at = node_of(state, n.inum);
        at.is_some() && at != node
    });
    let mut seen = BTreeSet::new();
    let elsewhere = others.filter(|n| seen.insert(node_of(state, n.inum)));
    for other in siblings.take(SIBLINGS).chain(elsewhere.take(NODES)) {
        let Some(to) = address(other) else { continue };
        asks.push(Ask::ping(from, to));
        asks.extend(ports(other).map(|port| Ask::tcp(from, to, port)));
        // And back: it is the end that a remedy changes.
        if let Some(own) = address(end) {
            asks.push(Ask::ping(other.inum, own));
            asks.extend(ports(end).map(|port| Ask::tcp(other.inum, own, port)));
        }
    }
    if let Some(node) = node.and_then(|n| state.netns.get(&n)) {
        asks.extend(address(node).map(|to| Ask::ping(from, to)));
        asks.extend(address(end).map(|own| Ask::ping(node.inum, own)));
    }
}

/// An address of a namespace that others know it by.
fn address(netns: &Netns) -> Option<IpAddr> {
    let devices = netns.devices.values().filter(|d| d.kind != DeviceKind::Loopback && d.up);
    let mut all = devices.flat_map(|d| &d.addresses).map(|(a, _)| *a);
    all.find(|a| a.is_ipv4() && !is_link_local(*a))
}

/// The gateways of its default routes that are on a network of its own.
fn gateways(netns: &Netns) -> impl Iterator<Item = IpAddr> + '_ {
    let routes = netns.detail.iter().flat_map(|d| &d.routes);
    let defaults = routes.filter(|r| r.dst.1 == 0 && r.kind == RouteType::Unicast);
    let vias = defaults.filter_map(|r| r.hops.first()?.via);
    vias.filter(|via| {
        netns.devices.values().any(|d| d.addresses.iter().any(|net| show::covers(*net, *via)))
    })
}

/// TCP ports that somebody listens at, for others too.
fn ports(netns: &Netns) -> impl Iterator<Item = u16> + '_ {
    let sockets = netns.detail.iter().flat_map(|d| &d.sockets);
    let open = sockets.filter(|s| s.proto == 6 && !s.addr.is_loopback() && s.addr.is_ipv4());
    let ports: BTreeSet<u16> = open.map(|s| s.port).collect();
    ports.into_iter().take(PORTS)
}
