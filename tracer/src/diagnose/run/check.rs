//! What to walk where nothing is probed: the ways that a node's pods need anyway, or those of the
//! connections that were seen to get no answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{ask, seen};
use crate::diagnose::case::{Case, Purpose, Way};
use crate::diagnose::place;
use crate::diagnose::walk::Ask;
use crate::journey::{Flow, Journey};
use crate::net::detail::{Route, RouteType};
use crate::net::{DeviceKind, Inum, Netns};

/// Pods that are walked from, at most: a check has to be quick on a full node.
const PODS: usize = 64;
/// Up to so many pods on one link, each is walked to from each; beyond, from its neighbour only.
const ALL_PAIRS: usize = 6;
/// Other nodes' pod networks that are walked to from each link.
const NETWORKS: usize = 16;
/// Unanswered connections that are walked.
const FLOWS: usize = 32;

/// The ways that every pod needs: to its gateway, to the others on its link, to the other nodes'
/// pods, to its name server where that is a Service. And what that comes to, in a sentence.
pub(super) fn needed(case: &Case<'_>) -> (Vec<Way>, String) {
    let mut links: BTreeMap<(Inum, u32), Vec<&Netns>> = BTreeMap::new();
    let mut count = 0;
    let all = || case.state.netns.values().filter_map(|pod| Some((pod, link(case, pod)?)));
    for (pod, link) in all().take(PODS) {
        links.entry(link).or_default().push(pod);
        count += 1;
    }
    let mut asks: Vec<Ask> = Vec::new();
    for ((node, _), pods) in &links {
        asks.extend(pods.iter().filter_map(|p| Some(Ask::ping(p.inum, gateway(p)?))));
        let n = pods.len();
        for (i, from) in pods.iter().enumerate() {
            let others = (1..n).take(if n <= ALL_PAIRS { n } else { 1 });
            let others = others.filter_map(|k| address(pods[(i + k) % n]));
            asks.extend(others.map(|to| Ask::ping(from.inum, to)));
        }
        // One pod speaks for its link: what lies behind the gateway is the same for all.
        let Some((from, node)) = pods.first().zip(case.netns(*node)) else { continue };
        let networks = remote(case, node).into_iter().take(NETWORKS);
        asks.extend(networks.map(|to| Ask::ping(from.inum, to)));
        let servers = from.detail.iter().filter_map(|d| d.resolver.as_ref());
        let servers = servers.flat_map(|r| &r.nameservers).filter(|a| case.is_service(**a));
        asks.extend(servers.map(|to| Ask::udp(from.inum, *to, 53)));
    }
    let ways = asks.iter().flat_map(|a| ask::both(case, a, Purpose::Check)).collect();
    let of = match all().count() {
        total if total > count => format!("{count} of {total} pods (no more are looked at)"),
        _ => format!("{count} pods"),
    };
    (ways, format!("the ways of {of} to gateways, neighbours, other nodes and DNS: {}", asks.len()))
}

/// The ways of connections that were seen and got no answer.
pub(super) fn unanswered(case: &Case<'_>) -> Vec<Way> {
    let first = |flow: &Flow| -> Option<&Journey> {
        let journey = case.journeys.get(*flow.forward.first()?)?;
        let is_silence = flow.backward.is_empty() && journey.parent.is_none();
        (is_silence && seen::begins(journey)).then_some(journey)
    };
    let asks = case.flows.iter().filter_map(|flow| seen::question(case, first(flow)?));
    let mut asked: Vec<Ask> = Vec::new();
    for ask in asks {
        let same =
            |known: &Ask| Ask { sport: 0, ..known.clone() } == Ask { sport: 0, ..ask.clone() };
        if asked.len() < FLOWS && !asked.iter().any(same) {
            asked.push(ask);
        }
    }
    asked.iter().flat_map(|a| ask::both(case, a, Purpose::Reach)).collect()
}

/// The node that a pod hangs on, and what its veth is a port of there; a routed one has a link of
/// its own.
fn link(case: &Case<'_>, pod: &Netns) -> Option<(Inum, u32)> {
    let node = place::node_of(case.state, pod.inum).filter(|_| address(pod).is_some())?;
    let peer = pod.devices.values().find(|d| d.kind == DeviceKind::Veth)?.link?;
    let port = case.state.device(node, peer.ifindex)?;
    Some((node, port.master.unwrap_or(port.ifindex)))
}

fn address(pod: &Netns) -> Option<IpAddr> {
    let devices = pod.devices.values().filter(|d| d.kind != DeviceKind::Loopback);
    let mut addresses = devices.flat_map(|d| &d.addresses).map(|(a, _)| *a);
    addresses.find(|a| a.is_ipv4() && !place::is_link_local(*a))
}

fn gateway(pod: &Netns) -> Option<IpAddr> {
    let detail = pod.detail.as_ref()?;
    let is_default = |r: &&Route| r.dst.1 == 0 && r.dst.0.is_ipv4() && r.kind == RouteType::Unicast;
    let via = detail.routes.iter().find(is_default)?.hops.first()?.via;
    // 169.254.1.1 is nobody's: routed pods only need it to be answered for, by proxy ARP.
    via.filter(|via| !place::is_link_local(*via))
}

/// An address in each network that the node reaches by a tunnel: a pod's where one is seen, else
/// the first one, which is the other node's own.
fn remote(case: &Case<'_>, node: &Netns) -> BTreeSet<IpAddr> {
    let is_tunnel = |dev: Option<u32>| {
        let device = dev.and_then(|dev| node.devices.get(&dev));
        device.is_some_and(|d| d.kind == DeviceKind::Vxlan)
    };
    let routes = node.detail.iter().flat_map(|d| &d.routes);
    let routes = routes.filter(|r| r.hops.iter().any(|h| is_tunnel(h.dev)) && r.dst.1 < 32);
    routes
        .filter(|r| r.kind == RouteType::Unicast && r.dst.0.is_ipv4() && r.dst.1 > 0)
        .filter_map(|route| {
            let pods = case.state.netns.values().filter(|n| link(case, n).is_some());
            let mut seen = pods.filter_map(address);
            let pod = seen.find(|a| crate::diagnose::show::covers(route.dst, *a));
            pod.or(match route.dst.0 {
                IpAddr::V4(net) => Some(IpAddr::V4((u32::from(net) | 1).into())),
                IpAddr::V6(_) => None,
            })
        })
        .collect()
}
