//! Devices and bridge ports that discard frames without a word.

use super::met::{each, in_netns};
use super::{Case, Finding, Rule};
use crate::diagnose::walk::{Flood, ObstacleKind as Kind};
use crate::diagnose::{Met, fix, show};
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
    explain: "A frame goes through a veth pair and a bridge only while both ends of the pair are up, \
              the host's end is a port of the bridge, the port forwards and the bridge itself is \
              up. Where one of these fails, frames vanish without a drop event; what is seen is an \
              address that nobody answers for.",
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
                .fix(met.command(case, &format!("ip link set {dev} up")))
        }
        Kind::NotAPort { dev, bridge } => {
            let hairpin = is_hairpin(case, here, *dev, *bridge);
            let (dev, bridge) = (name(*dev), name(*bridge));
            let title = format!("{dev} of {node} is up, but no port of bridge {bridge}");
            let hairpin = hairpin.then(|| format!("bridge link set dev {dev} hairpin on"));
            met.finding(case, "veth-detached-from-bridge", title)
                .fact(format!("ip link of {node}: {dev} has no master {bridge}"))
                .fix(met.command(case, &format!("ip link set {dev} master {bridge}")))
                .fixes(hairpin.map(|c| met.command(case, &c)))
        }
        Kind::BridgesApart { bridge, other } => {
            let (near, far) = (unused(case, here, "j", 0), unused(case, here, "j", 1));
            let (bridge, other) = (name(*bridge), name(*other));
            let title = format!(
                "bridges {bridge} and {other} of {node} have ends of one network, and nothing joins them"
            );
            let add = format!("ip link add {near} type veth peer name {far}");
            let commands = [
                add,
                format!("ip link set {near} master {bridge} up"),
                format!("ip link set {far} master {other} up"),
            ];
            met.finding(case, "veth-missing", title)
                .fact(format!("bridge link of {node}: no port of {bridge} leads to {other}"))
                .fixes(commands.iter().map(|c| met.command(case, c)))
        }
        Kind::PortState { port, state } => {
            let (dev, state) = (name(*port), state_name(*state));
            let title = format!("bridge port {dev} of {node} does not forward: it is {state}");
            met.finding(case, "bridge-port-blocking", title)
                .fact(format!("bridge link of {node}: {dev} state {state}"))
                .follows(&["veth-host-down", "veth-pod-down", "bridge-down", "link-down"])
                .fixes(stp_off(case, met, *port))
                .fix(met.command(case, &format!("bridge link set dev {dev} state 3")))
        }
        Kind::PortsIsolated { from, to } => {
            // The answer meets the same two the other way round.
            let (from, to) = (name(*from.min(to)), name(*from.max(to)));
            let title =
                format!("bridge ports {from} and {to} of {node} are isolated from each other");
            let mut finding = met
                .finding(case, "bridge-port-isolated", title)
                .fact(format!("bridge -d link of {node}: {from} and {to} have isolated on"))
                .fix(met.command(case, &format!("bridge link set dev {from} isolated off")))
                .fix(met.command(case, &format!("bridge link set dev {to} isolated off")));
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
                .fix(met.command(case, &format!("bridge link set dev {dev} locked off")))
        }
        Kind::HairpinOff { port } => {
            let dev = name(*port);
            let title = format!(
                "{dev} of {node} may not send a frame back where it came from: hairpin is off"
            );
            met.finding(case, "svc-hairpin-off", title)
                .fact(format!("bridge -d link of {node}: {dev} hairpin off"))
                .fix(met.command(case, &format!("bridge link set dev {dev} hairpin on")))
        }
        Kind::FloodOff { port, flood } => {
            let dev = name(*port);
            let what = match flood {
                Flood::Unicast => "flood",
                Flood::Broadcast => "bcast_flood",
                Flood::Multicast => "mcast_flood",
            };
            let title = format!(
                "bridge port {dev} of {node} does not pass on what is meant for all: {what} is off"
            );
            met.finding(case, "bridge-port-no-flood", title)
                .fact(format!("bridge -d link of {node}: {dev} has {what} off"))
                .fix(met.command(case, &format!("bridge link set dev {dev} {what} on")))
        }
        Kind::NoPorts { bridge } => {
            let dev = name(*bridge);
            met.finding(
                case,
                "bridge-no-ports",
                format!("bridge {dev} of {node} has no port, and a route leads to it"),
            )
            .fix(format!("# {}", met.command(case, &format!("ip link del {dev}"))))
        }
        Kind::FdbElsewhere { entry, .. } => {
            let (dev, mac) = (name(entry.dev), crate::diagnose::show::mac(entry.mac));
            let title =
                format!("the forwarding database of {node} sends {mac} to {dev}, where it is not");
            let bridge = entry.bridge.and_then(|b| met.netns(case)?.devices.get(&b));
            let is_own = bridge.filter(|b| b.mac == Some(entry.mac));
            let own = is_own.map(|bridge| {
                let bridge = fix::quote(&bridge.name);
                met.command(case, &format!("bridge fdb replace {mac} dev {bridge} self permanent"))
            });
            met.finding(case, "fdb-stale", title)
                .fact(format!("bridge fdb of {node}: {mac} dev {dev}"))
                .fix(met.command(case, &format!("bridge fdb del {mac} dev {dev} master")))
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

/// Where the spanning tree protocol decides, a port's state cannot be set.
fn stp_off(case: &Case<'_>, met: &Met<'_>, port: u32) -> Vec<String> {
    let bridge = met.netns(case).and_then(|n| n.devices.get(&n.devices.get(&port)?.master?));
    let Some(bridge) = bridge.filter(|b| b.bridge.is_some_and(|b| b.stp)) else {
        return Vec::new();
    };
    let delay = bridge.bridge.map_or(0, |b| b.forward_delay) / 100 * 2;
    let off = format!("ip link set {} type bridge stp_state 0", fix::quote(&bridge.name));
    vec![
        format!(
            "# STP lets it forward by itself after {delay} s, unless another way would make a loop; without STP:"
        ),
        met.command(case, &off),
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
    let (low, pod_name) = (fix::quote(&parent.name), &pod.name);
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
    let mode = if kind == "ipvlan" { "mode l2" } else { "mode bridge" };
    let shim = "mvsh";
    let commands = [
        format!("ip link add {shim} link {low} type {kind} {mode}"),
        format!("ip link set {shim} up"),
        format!("ip route replace {addr} dev {shim} src {own}"),
    ];
    Some(finding.fixes(commands.iter().map(|c| fix::in_netns(host, c))))
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
        let set = format!("ip link set {} type macvlan mode bridge", fix::quote(&name));
        finding = finding
            .fact(format!("ip -d link of {pod}: {name} macvlan mode {mode}"))
            .fix(in_netns(case, *at, &set));
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
        .fix(in_netns(case, netns, &format!("ip link set {name} up")));
    // What the agent of an overlay had written went away with the link.
    if let Some(netns) = case.netns(netns).filter(|_| device.is_some_and(|d| d.vxlan.is_some())) {
        finding = case.overlay_repair(netns).into_iter().fold(finding, Finding::fix);
    }
    finding.place = crate::diagnose::Where::netns(case.state, netns).dev(&name);
    // A device that goes down takes its routes along, and they do not come back.
    let lost_default = is_pod
        && case
            .detail(netns)
            .is_some_and(|d| !d.routes.iter().any(|r| r.dst.1 == 0 && r.table == 254));
    if lost_default && let Some(gateway) = gateway(case, netns) {
        finding = finding.fix(in_netns(
            case,
            netns,
            &format!("ip route replace default via {gateway} dev {name}"),
        ));
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
