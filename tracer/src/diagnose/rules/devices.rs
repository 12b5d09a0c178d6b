//! Devices and bridge ports that discard frames without a word.

use super::met::each;
use super::{Case, Finding, Rule};
use crate::diagnose::remedy::{Fdb, Link, NewLink, Path, Port, Remedy, Step};
use crate::diagnose::walk::{Flood, ObstacleKind as Kind};
use crate::diagnose::{Met, show};
use crate::net::detail::Route;
use crate::net::{Device, DeviceKind, Inum, Netns};

pub(super) const RULE: Rule = Rule {
    id: "link-down",
    covers: &[
        "link-down",
        "veth-host-down",
        "veth-pod-down",
        "veth-detached-from-bridge",
        "lo-down",
        "bridge-down",
        "bridge-port-isolated",
        "bridge-port-blocking",
        "bridge-port-no-flood",
        "bridge-no-ports",
        "fdb-stale",
        "svc-hairpin-off",
        "macvlan-host-isolation",
        "macvlan-mode",
        "bridge-port-locked",
    ],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    each(case, one)
}

fn one(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let here = met.obstacle.place.netns;
    let node = case.state.netns_name(here);
    let name = |dev: u32| case.dev_name(here, dev);
    Some(match &met.obstacle.kind {
        Kind::DeviceDown { dev } => down(case, met, (here, *dev)),
        Kind::BridgeDown { bridge } => {
            let dev = name(*bridge);
            met.finding(case, "bridge-down", format!("bridge {dev} of {node} is down"))
                .fact(format!("ip link of {node}: {dev} is not UP"))
                .fix(met.remedy(Remedy::up(&dev)))
        }
        Kind::NotAPort { dev, bridge } => {
            let hairpin = is_hairpin(case, here, *dev, *bridge);
            let (dev, bridge) = (name(*dev), name(*bridge));
            let title = format!("{dev} of {node} is up, but no port of bridge {bridge}");
            let hairpin = hairpin.then(|| met.remedy(Remedy::port(&dev, Port::Hairpin)));
            met.finding(case, "veth-detached-from-bridge", title)
                .fact(format!("ip link of {node}: {dev} has no master {bridge}"))
                .fix(met.remedy(Remedy::link(&dev, Link::Master(bridge))))
                .fixes(hairpin)
        }
        Kind::BridgesApart { bridge, other } => {
            let (near, far) = (unused(case, here, "j", 0), unused(case, here, "j", 1));
            let (bridge, other) = (name(*bridge), name(*other));
            let title = format!(
                "bridges {bridge} and {other} of {node} have ends of one network, and nothing joins them"
            );
            let pair = NewLink::Veth { peer: far.clone(), there: None, mtu: None };
            let steps = [
                Remedy::AddLink { dev: near.clone(), link: pair },
                Remedy::link(&near, Link::Master(bridge.clone())),
                Remedy::link(&far, Link::Master(other.clone())),
                Remedy::up(&near),
                Remedy::up(&far),
            ];
            met.finding(case, "veth-missing", title)
                .fact(format!("bridge link of {node}: no port of {bridge} leads to {other}"))
                .fixes(steps.map(|step| met.remedy(step)))
        }
        Kind::PortState { port, state } => {
            let (dev, state) = (name(*port), state_name(*state));
            let all = blocked_ports(case, met, *port);
            // All of a bridge's are told by the first.
            if all.first().is_some_and(|(first, _)| first != port) {
                return None;
            }
            let title = format!("bridge port {dev} of {node} does not forward: it is {state}");
            let fact = |(port, state): &(u32, u8)| {
                format!("bridge link of {node}: {} state {}", name(*port), state_name(*state))
            };
            let open =
                |(port, _): &(u32, u8)| met.remedy(Remedy::port(&name(*port), Port::Forwarding));
            met.finding(case, "bridge-port-blocking", title)
                .facts(all.iter().map(fact))
                .follows(&["veth-host-down", "veth-pod-down", "bridge-down", "link-down"])
                .fixes(stp_off(case, met, *port))
                .fixes(all.iter().map(open))
        }
        Kind::PortsIsolated { from, to } => {
            // The answer meets the same two the other way round.
            let (from, to) = (name(*from.min(to)), name(*from.max(to)));
            let title =
                format!("bridge ports {from} and {to} of {node} are isolated from each other");
            let mut finding = met
                .finding(case, "bridge-port-isolated", title)
                .fact(format!("bridge -d link of {node}: {from} and {to} have isolated on"))
                .fix(met.remedy(Remedy::port(&from, Port::NotIsolated)))
                .fix(met.remedy(Remedy::port(&to, Port::NotIsolated)));
            finding.place.dev = Some(from);
            finding
        }
        Kind::ParentIsolated { dev, .. } => isolated(case, met, *dev)?,
        Kind::SiblingsApart { apart } => siblings(case, met, apart)?,
        Kind::PortLocked { port, mac } => {
            let (dev, mac) = (name(*port), show::mac(*mac));
            let title = format!(
                "bridge port {dev} of {node} is locked, and {mac} is no address that may come in by it"
            );
            met.finding(case, "bridge-port-locked", title)
                .fact(format!("bridge -d link of {node}: {dev} has locked on"))
                .fact(format!("bridge fdb of {node}: no entry has {mac} behind {dev}"))
                .fix(format!("# to let that address in alone: bridge fdb replace {mac} dev {dev} master static; to let all in:"))
                .fix(met.remedy(Remedy::port(&dev, Port::Unlocked)))
        }
        Kind::HairpinOff { port } => {
            let dev = name(*port);
            let title = format!(
                "{dev} of {node} may not send a frame back where it came from: hairpin is off"
            );
            met.finding(case, "svc-hairpin-off", title)
                .fact(format!("bridge -d link of {node}: {dev} hairpin off"))
                .fix(met.remedy(Remedy::port(&dev, Port::Hairpin)))
        }
        Kind::FloodOff { port, flood } => {
            let dev = name(*port);
            let (what, set) = match flood {
                Flood::Unicast => ("flood", Port::Flood),
                Flood::Broadcast => ("bcast_flood", Port::BroadcastFlood),
                Flood::Multicast => ("mcast_flood", Port::MulticastFlood),
            };
            let title = format!(
                "bridge port {dev} of {node} does not pass on what is meant for all: {what} is off"
            );
            met.finding(case, "bridge-port-no-flood", title)
                .fact(format!("bridge -d link of {node}: {dev} has {what} off"))
                .fix(met.remedy(Remedy::port(&dev, set)))
        }
        Kind::NoPorts { bridge } => {
            let dev = name(*bridge);
            met.finding(
                case,
                "bridge-no-ports",
                format!("bridge {dev} of {node} has no port, and a route leads to it"),
            )
            .fix(format!(
                "# plug into it what belongs there, or take the route away and delete {dev}"
            ))
        }
        Kind::FdbElsewhere { entry, .. } => {
            let (dev, mac) = (name(entry.dev), show::mac(entry.mac));
            let title =
                format!("the forwarding database of {node} sends {mac} to {dev}, where it is not");
            let bridge = entry.bridge.and_then(|b| met.netns(case)?.devices.get(&b));
            let is_own = bridge.filter(|b| b.mac == Some(entry.mac));
            let own =
                is_own.map(|bridge| met.remedy(Remedy::fdb(&bridge.name, entry.mac, Fdb::Own)));
            met.finding(case, "fdb-stale", title)
                .fact(format!("bridge fdb of {node}: {mac} dev {dev}"))
                .fix(met.remedy(Remedy::fdb(&dev, entry.mac, Fdb::Forget)))
                .fixes(own)
        }
        _ => return None,
    })
}

/// The ports of the bridge hand back what they take, where that is how they are set up and it makes
/// no circle: behind another bridge it would.
fn is_hairpin(case: &Case<'_>, netns: Inum, dev: u32, bridge: u32) -> bool {
    let devices = || case.netns(netns).into_iter().flat_map(|n| n.devices.values());
    let others = devices().filter(|d| d.master == Some(bridge) && d.ifindex != dev);
    let peer = case.state.device(netns, dev).and_then(|d| d.link);
    let peer = peer.and_then(|p| case.state.device(p.netns.unwrap_or(netns), p.ifindex));
    let mut ports = others.filter_map(|d| d.port);
    peer.is_none_or(|p| p.master.is_none()) && ports.any(|p| p.hairpin)
}

/// A name for a device that none has.
fn unused(case: &Case<'_>, netns: Inum, start: &str, skip: usize) -> String {
    let devices = || case.netns(netns).into_iter().flat_map(|n| n.devices.values());
    let names = (0..).map(|n: u32| format!("{start}{n}"));
    let mut free = names.filter(|name| devices().all(|d| d.name != *name));
    free.nth(skip).unwrap_or_default()
}

/// The ports of the bridge of `port`, on any way, that do not forward.
fn blocked_ports(case: &Case<'_>, met: &Met<'_>, port: u32) -> Vec<(u32, u8)> {
    let netns = met.obstacle.place.netns;
    let bridge = |port| case.state.device(netns, port).and_then(|d| d.master);
    let mut found = Vec::new();
    for other in case.obstacles().filter(|m| m.obstacle.place.netns == netns) {
        if let Kind::PortState { port: other, state } = other.obstacle.kind
            && bridge(other) == bridge(port)
            && !found.contains(&(other, state))
        {
            found.push((other, state));
        }
    }
    found
}

/// Where the spanning tree protocol decides, a port's state cannot be set.
fn stp_off(case: &Case<'_>, met: &Met<'_>, port: u32) -> Vec<Step> {
    let bridge = met.netns(case).and_then(|n| n.devices.get(&n.devices.get(&port)?.master?));
    let Some(bridge) = bridge.filter(|b| b.bridge.is_some_and(|b| b.stp)) else {
        return Vec::new();
    };
    let delay = bridge.bridge.map_or(0, |b| b.forward_delay) / 100 * 2;
    vec![
        format!(
            "# STP lets it forward by itself after {delay} s, unless another way would make a loop; without STP:"
        )
        .into(),
        met.remedy(Remedy::link(&bridge.name, Link::NoStp)),
    ]
}

/// A macvlan and the device below it: a sibling on the host's side talks to both.
fn isolated(case: &Case<'_>, met: &Met<'_>, dev: u32) -> Option<Finding> {
    let pod = met.netns(case)?;
    let child = pod.devices.get(&dev)?;
    let lower = child.link?;
    let host = case.netns(lower.netns.unwrap_or(pod.inum))?;
    let parent = host.devices.get(&lower.ifindex)?;
    let kind = match &child.kind {
        DeviceKind::Other(kind) => kind.as_str(),
        _ => "macvlan",
    };
    let pod_name = &pod.name;
    let title = format!(
        "{} of {pod_name} is a {kind} on {} of {}, and the two never talk to each other",
        child.name, parent.name, host.name
    );
    let addr = child.addresses.iter().find(|(a, _)| a.is_ipv4());
    let own = parent.addresses.iter().find(|(a, _)| a.is_ipv4());
    let finding = met
        .finding(case, "macvlan-host-isolation", title)
        .fact(format!("ip -d link of {pod_name}: {}@{} {kind}", child.name, parent.name))
        .fix(format!("# by design: give {} a {kind} of its own to talk by", host.name));
    let (Some((addr, _)), Some((own, _))) = (addr, own) else { return Some(finding) };
    let shim = "mvsh";
    let stacked = NewLink::Stacked { lower: parent.name.clone(), is_ipvlan: kind == "ipvlan" };
    let steps = [
        Remedy::AddLink { dev: shim.to_owned(), link: stacked },
        Remedy::up(shim),
        Remedy::Route(Path { src: Some(*own), ..Path::host(*addr, None, Some(shim)) }),
    ];
    Some(finding.fixes(steps.map(|step| step.at(host.inum))))
}

/// Two macvlans on one device, not both in mode `bridge`.
fn siblings(
    case: &Case<'_>,
    met: &Met<'_>,
    apart: &[((Inum, u32), &'static str)],
) -> Option<Finding> {
    let ((first, dev), mode) = apart.first()?;
    let (pod, name) = (case.state.netns_name(*first), case.dev_name(*first, *dev));
    let title = format!(
        "{name} of {pod} is a macvlan in mode {mode}: it does not talk to others on the same device"
    );
    let mut finding = met.finding(case, "macvlan-mode", title);
    finding.place = crate::diagnose::Where::netns(case.state, *first).dev(&name);
    for ((at, dev), mode) in apart {
        let (pod, name) = (case.state.netns_name(*at), case.dev_name(*at, *dev));
        finding = finding
            .fact(format!("ip -d link of {pod}: {name} macvlan mode {mode}"))
            .fix(Remedy::link(&name, Link::MacvlanBridge).at(*at));
    }
    Some(finding)
}

pub(super) fn down(case: &Case<'_>, met: &Met<'_>, (netns, dev): (Inum, u32)) -> Finding {
    let (node, name) = (case.state.netns_name(netns), case.dev_name(netns, dev));
    let device = case.state.device(netns, dev);
    let is_pod = crate::diagnose::place::node_of(case.state, netns).is_some();
    let id = match device.map(|d| &d.kind) {
        Some(DeviceKind::Loopback) => "lo-down",
        Some(DeviceKind::Veth) if is_pod => "veth-pod-down",
        Some(DeviceKind::Veth) => "veth-host-down",
        Some(DeviceKind::Bridge) => "bridge-down",
        Some(DeviceKind::Vxlan) => "vxlan-link-down-remote",
        _ => RULE.id,
    };
    let mut finding = met
        .finding(case, id, format!("{name} of {node} is down"))
        .fact(format!("ip link of {node}: {name} is not UP"))
        .fix(Remedy::up(&name).at(netns));
    // What the agent of an overlay had written went away with the link.
    if let Some(netns) = case.netns(netns).filter(|_| device.is_some_and(|d| d.vxlan.is_some())) {
        finding = finding.fixes(case.overlay_repair(netns));
    }
    finding.place = crate::diagnose::Where::netns(case.state, netns).dev(&name);
    // A device that goes down takes its routes along, and they do not come back.
    let lost_default = is_pod
        && case
            .detail(netns)
            .is_some_and(|d| !d.routes.iter().any(|r| r.dst.1 == 0 && r.table == 254));
    if lost_default && let Some(gateway) = gateway(case, netns) {
        finding = finding.fix(Remedy::Route(Path::default(gateway, Some(&name))).at(netns));
    }
    finding
}

/// The address that the other pods of the same node have their default route by.
pub(super) fn gateway(case: &Case<'_>, pod: Inum) -> Option<std::net::IpAddr> {
    let node = crate::diagnose::place::node_of(case.state, pod);
    let others = case.state.netns.keys().filter(|o| {
        **o != pod && crate::diagnose::place::node_of(case.state, **o) == node && node.is_some()
    });
    let routes = others.filter_map(|o| case.detail(*o)).flat_map(|d| &d.routes);
    // Those beside it first: a node may have several networks.
    let link = case.netns(pod).and_then(|n| uplink(case, n));
    let is_beside = |r: &&Route| {
        let via = r.hops.first().and_then(|h| h.via);
        link.is_none_or(|link| via.is_some_and(|via| link.addresses.iter().any(|(a, _)| *a == via)))
    };
    let by_others = routes
        .filter(is_beside)
        .find(|r| {
            r.dst.1 == 0
                && r.dst.0.is_ipv4()
                && r.hops.first().is_some_and(|h| h.via.is_some_and(is_usual))
        })
        .and_then(|r| r.hops.first()?.via);
    let own = || {
        let pod = case.netns(pod)?;
        let mut addrs = pod.devices.values().flat_map(|d| &d.addresses);
        let own = addrs.find(|(a, len)| a.is_ipv4() && !a.is_loopback() && *len < 32)?;
        let node = case.netns(node?)?;
        let mut theirs = node.devices.values().flat_map(|d| &d.addresses);
        theirs.find(|(a, _)| crate::diagnose::show::covers(*own, *a)).map(|(a, _)| *a)
    };
    own().or(by_others)
}

/// The bridge of the node that a pod is plugged into.
fn uplink<'a>(case: &Case<'a>, pod: &Netns) -> Option<&'a Device> {
    let node = case.netns(crate::diagnose::place::node_of(case.state, pod.inum)?)?;
    let peers = pod.devices.values().filter_map(|d| node.devices.get(&d.link?.ifindex));
    peers.filter_map(|port| node.devices.get(&port.master?)).next()
}

/// Not the link-local address that Calico uses.
fn is_usual(addr: std::net::IpAddr) -> bool {
    !matches!(addr, std::net::IpAddr::V4(a) if a.is_link_local())
}

fn state_name(state: u8) -> &'static str {
    match state {
        0 => "disabled",
        1 => "listening",
        2 => "learning",
        3 => "forwarding",
        _ => "blocking",
    }
}
