//! Next hops that nobody answers for, or that the wrong one answers for.

use std::net::IpAddr;

use super::met::each;
use super::{Case, Finding, Rule, devices, duplicate, plug};
use crate::diagnose::remedy::{Link, Path, Remedy, Step, full, sysctl_name};
use crate::diagnose::walk::{ObstacleKind as Kind, What};
use crate::diagnose::{Confidence, Met, Where, place, show};
use crate::net::detail::Route;
use crate::net::{DeviceKind, Inum, Mac, Netns};

pub(super) const RULE: Rule = Rule {
    id: "neighbour-silent",
    covers: &[
        "neighbour-silent",
        "neigh-stale-permanent",
        "pod-arp-ignore",
        "calico-proxy-arp-off",
        "vxlan-neigh-missing",
        "veth-missing",
        "route-wrong-nexthop",
        "route-wrong-dev",
        "cni0-wrong-ip",
        "cni0-no-ip",
        "pod-ip-missing",
    ],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    each(case, one)
}

fn one(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let netns = met.netns(case)?;
    let node = &netns.name;
    let dev = met.obstacle.place.dev.map(|d| case.dev_name(netns.inum, d)).unwrap_or_default();
    Some(match &met.obstacle.kind {
        Kind::WrongNeighbour { addr, has, actual, is_permanent } => {
            let real = actual.map(|m| format!("; {addr} has {}", show::mac(m))).unwrap_or_default();
            let kind = if *is_permanent { "a permanent" } else { "an outdated" };
            if let (Some(actual), true) = (actual, is_tunnel(case, met)) {
                return Some(other_mac(case, met, netns, (*addr, *has, *actual)));
            }
            let title = format!("{node} has {kind} neighbour entry for {addr} that is wrong");
            let mut finding = met.finding(case, "neigh-stale-permanent", title);
            // The kernel asks anew once it has doubts.
            if !is_permanent && met.obstacle.stops() {
                finding.confidence = Confidence::Likely;
            }
            finding
                .fact(format!(
                    "ip neigh of {node}: {addr} dev {dev} lladdr {}{real}",
                    show::mac(*has)
                ))
                .fix(met.remedy(Remedy::DelNeigh { dev, addr: *addr }))
        }
        Kind::NoNeighbour { addr } => {
            let id = if is_tunnel(case, met) { "vxlan-neigh-missing" } else { RULE.id };
            let title =
                format!("{node} has no neighbour entry for {addr} on {dev}, which cannot ask");
            let finding = met
                .finding(case, id, title)
                .fact(format!("ip neigh show dev {dev} of {node} lacks {addr}"))
                // A device loses its entries with its address.
                .follows(&["vxlan-mac-changed"]);
            let mac = mac_of(case, *addr);
            match mac {
                Some(mac) => finding.fix(met.remedy(Remedy::Neigh { dev, addr: *addr, mac })),
                None => finding.fix("# restart the overlay's agent (flanneld) on this node: it writes these entries"),
            }
        }
        Kind::ArpIgnore { sysctl, value } => {
            let name = sysctl_name(sysctl);
            let title = format!("{node} does not answer ARP: {name} is {value}");
            let finding = met.finding(case, "pod-arp-ignore", title);
            finding.wrong_sysctl(netns, sysctl, &value.to_string(), "0")
        }
        Kind::ProxyArpOff { sysctl, addr } => {
            let name = sysctl_name(sysctl);
            let title = format!(
                "{node} does not answer ARP for {addr} on behalf of what lies behind it: {name} is 0"
            );
            met.finding(case, "calico-proxy-arp-off", title).wrong_sysctl(netns, sysctl, "0", "1")
        }
        // Why nobody does is known.
        Kind::NobodyAnswers { .. } if is_explained(met) => return None,
        Kind::NobodyAnswers { addr, elsewhere, unaddressed, .. }
            if elsewhere.is_empty() && unaddressed.len() == 1 =>
        {
            address_gone(case, met, netns, *addr, unaddressed[0])?
        }
        Kind::NobodyAnswers { addr, elsewhere, bare, .. } => {
            nobody(case, met, netns, &dev, (*addr, elsewhere, bare))?
        }
        _ => return None,
    })
}

/// At a tunnel device.
fn is_tunnel(case: &Case<'_>, met: &Met<'_>) -> bool {
    let place = met.obstacle.place;
    let device = place.dev.and_then(|dev| case.state.device(place.netns, dev));
    device.is_some_and(|d| d.kind == DeviceKind::Vxlan)
}

/// Something else at the same step keeps whoever has the address from answering.
fn is_explained(met: &Met<'_>) -> bool {
    let here = &met.walk.steps[met.step].obstacles;
    here.iter().any(|o| o.stops() && !matches!(o.kind, Kind::NobodyAnswers { .. }))
}

/// The other end of a tunnel has another address than the one that was written down for it.
fn other_mac(
    case: &Case<'_>,
    met: &Met<'_>,
    netns: &Netns,
    (addr, has, actual): (IpAddr, Mac, Mac),
) -> Finding {
    let all = case.state.netns.values().flat_map(|n| n.devices.values().map(move |d| (n, d)));
    let mut ends = all.filter(|(n, d)| n.inum != netns.inum && d.vxlan.is_some());
    let end = ends.find(|(_, d)| d.mac == Some(actual));
    let (node, dev) =
        end.map_or(("the other end", "the tunnel"), |(n, d)| (n.name.as_str(), d.name.as_str()));
    let (has_text, actual) = (show::mac(has), show::mac(actual));
    let title = format!(
        "{dev} of {node} has the MAC {actual}, but {} sends to {has_text} and {node} drops that",
        netns.name
    );
    let mut finding = met
        .finding(case, "vxlan-mac-changed", title)
        .fact(format!("ip neigh of {}: {addr} lladdr {has_text}", netns.name))
        .fact(format!("ip link of {node}: {dev} link/ether {actual}"));
    let Some((node, device)) = end else {
        return finding.fix("# restart the overlay's agent on both nodes: it writes these entries");
    };
    finding.place = Where::netns(case.state, node.inum).dev(&device.name);
    // What every other node has written down is quicker put back than changed everywhere.
    let set = Remedy::link(&device.name, Link::Address(has)).at(node.inum);
    finding.fix(set).fixes(case.overlay_entries(node))
}

/// The bridge that a pod hangs on does not have the address of the pod's gateway.
fn gateway_gone(case: &Case<'_>, met: &Met<'_>, pod: &Netns, addr: IpAddr) -> Option<Finding> {
    let device = pod.devices.get(&met.obstacle.place.dev?)?;
    let own = device.addresses.iter().find(|net| show::covers(**net, addr))?;
    let node = case.netns(place::node_of(case.state, pod.inum)?)?;
    let port = node.devices.get(&device.link?.ifindex)?;
    let bridge = node.devices.get(&port.master?)?;
    let is_suitable = |net: &(IpAddr, u8)| show::covers(*own, net.0) && net.0.is_ipv4();
    if bridge.kind != DeviceKind::Bridge || bridge.addresses.iter().any(is_suitable) {
        return None;
    }
    let wrong: Vec<_> =
        bridge.addresses.iter().filter(|(a, _)| a.is_ipv4() == addr.is_ipv4()).collect();
    let (id, has) = match wrong.first() {
        Some((a, len)) => ("cni0-wrong-ip", format!("has {a}/{len}")),
        None => ("cni0-no-ip", "has no address".to_owned()),
    };
    let title = format!(
        "bridge {} of {} {has}, but the pods on it have {addr} as their gateway",
        bridge.name, node.name
    );
    let mut finding = met
        .finding(case, id, title)
        .fact(format!("ip addr of {}: {} {has}", node.name, bridge.name))
        .facts(
            route_before(met)
                .map(|(r, _)| format!("ip route of {}: {}", pod.name, show::route(pod, r))),
        );
    finding.place = Where::netns(case.state, node.inum).dev(&bridge.name);
    let behind = case.state.netns.values().filter(|n| {
        n.devices.values().any(|d| {
            d.link.is_some_and(|l| {
                l.netns == Some(node.inum)
                    && node.devices.get(&l.ifindex).is_some_and(|p| p.master == port.master)
            })
        })
    });
    let used: Vec<IpAddr> = behind
        .flat_map(|n| n.devices.values())
        .flat_map(|d| &d.addresses)
        .map(|(a, _)| *a)
        .collect();
    let unused = wrong.into_iter().filter(|net| !used.iter().any(|u| show::covers(**net, *u)));
    let steps = unused.map(|net| Remedy::del_addr(&bridge.name, *net));
    let add = Remedy::add_addr(&bridge.name, (addr, own.1));
    Some(finding.fixes(steps.chain([add]).map(|step| step.at(node.inum))))
}

/// Of all on the link only one has no address: the one that is asked for is its own.
fn address_gone(
    case: &Case<'_>,
    met: &Met<'_>,
    asker: &Netns,
    addr: IpAddr,
    (at, dev): (Inum, u32),
) -> Option<Finding> {
    let pod = case.netns(at)?;
    let name = case.dev_name(at, dev);
    let title = format!("{name} of {} has no address: nobody on the link has {addr}", pod.name);
    let own = met.obstacle.place.dev.and_then(|d| asker.devices.get(&d));
    let near = own.iter().flat_map(|d| &d.addresses).find(|net| show::covers(**net, addr));
    let len = near.map_or(full(addr), |net| net.1);
    let mut finding = met
        .finding(case, "pod-ip-missing", title)
        .confidence(Confidence::Likely)
        .fact(format!("ip addr of {}: {name} has no address", pod.name))
        .fix(Remedy::add_addr(&name, (addr, len)).at(at));
    finding.place = Where::netns(case.state, at).dev(&name);
    let routes = if addr.is_ipv4() { asker.forwards_v4 } else { asker.forwards_v6 };
    let gateway = near.filter(|_| routes).map(|net| net.0).or_else(|| devices::gateway(case, at));
    finding =
        finding.fixes(gateway.map(|via| Remedy::Route(Path::default(via, Some(&name))).at(at)));
    Some(finding.fix(format!(
        "# if {addr} is not the address of {}, whoever leads there is wrong: kubectl get pod -o wide",
        pod.name
    )))
}

/// Nobody on the link has the address: the pod is gone, or what led there is wrong.
fn nobody(
    case: &Case<'_>,
    met: &Met<'_>,
    netns: &Netns,
    dev: &str,
    (addr, elsewhere, bare): (IpAddr, &[(Inum, u32)], &[Inum]),
) -> Option<Finding> {
    if let Some(finding) = gateway_gone(case, met, netns, addr) {
        return Some(finding);
    }
    let node = &netns.name;
    let translated = met.walk.nat.iter().rfind(|n| n.after.dst == addr && n.before.dst != addr);
    // Runtimes name their namespaces, and each has its own way. One that only processes hold is as
    // likely a sandbox that was made without a link, and a rule that leads to a pod that is gone is
    // common: there the name has to tell.
    let is_pod = |n: &Inum| {
        let is_named = case.netns(*n).is_some_and(|n| !n.path.starts_with("/proc"));
        let is_like = plug::is_like_others(case, met.obstacle.place, *n);
        is_like.unwrap_or(translated.is_none()) && (is_named || translated.is_none())
    };
    let is_full = plug::is_pair(case.state, met.obstacle.place);
    let bare: Vec<Inum> = bare.iter().copied().filter(|n| !is_full && is_pod(n)).collect();
    let all = bare.len();
    let (bare, is_only) = plug::likeliest(case, met.obstacle.place, &bare);
    if let Some(pod) = bare.filter(|_| elsewhere.is_empty()) {
        let pod = case.netns(pod)?;
        let title = format!(
            "nobody on {dev} of {node} has {addr}; {} has no device but lo: its veth is missing",
            pod.name
        );
        let mut finding = met
            .finding(case, "veth-missing", title)
            .fact(format!("ip link of {}: lo only", pod.name))
            .confidence(Confidence::Likely);
        if is_only {
            finding.place = Where::netns(case.state, pod.inum);
            finding.confidence = if all == 1 { Confidence::Certain } else { Confidence::Likely };
            finding = finding.fixes(plug::veth(case, met.obstacle.place, pod, addr));
        }
        return Some(finding.fix(
            "# in a cluster, delete the pod: the network plugin makes the veth of its successor",
        ));
    }
    let held = elsewhere.iter().map(|(n, d)| {
        format!("{addr} is on {} of {}", case.dev_name(*n, *d), case.state.netns_name(*n))
    });
    let route = route_before(met);
    if let Some(translated) = translated {
        let fact = format!("nobody on {dev} of {node} answers for {addr}");
        return Some(super::service::stale(case, met, translated, fact));
    }
    let on_link = route.filter(|(_, via)| !via).map(|(route, _)| (netns, route));
    let twice = on_link.and_then(|on| duplicate::network(case, met, on, addr, elsewhere));
    if let Some(finding) = twice {
        return Some(finding.facts(held));
    }
    if let Some((route, via)) = route
        && (!elsewhere.is_empty() || via)
    {
        let id = if via { "route-wrong-nexthop" } else { "route-wrong-dev" };
        let text = show::route(netns, route);
        let title = match via {
            true => format!("the next hop of {node}'s route {text} answers on no link of {dev}"),
            false => format!("{node} looks for {addr} on {dev}, where it is not: {text}"),
        };
        let mut finding =
            met.finding(case, id, title).fact(format!("ip route of {node}: {text}")).facts(held);
        finding.place.route = Some(text);
        let narrow = narrower(case, netns, route);
        if !narrow.is_empty() {
            return Some(finding.fixes(narrow));
        }
        let fixes = wrong_hop(case, met, netns, (route, addr));
        let fewer = if via { Vec::new() } else { alone(addr, &fixes) };
        return Some(finding.rather(fewer).fixes(fixes));
    }
    let finding = met
        .finding(case, RULE.id, format!("nobody on {dev} of {node} answers for {addr}"))
        .facts(held)
        .fix(format!("# {addr} has to exist on that link, or what points to it has to change"))
        .follows(&["snat-wrong-address", "dns-resolvconf-wrong-server"]);
    Some(finding)
}

/// The routes among these steps for one address alone: whatever else the route leads to, it may be
/// right for.
fn alone(addr: IpAddr, steps: &[Step]) -> Vec<Step> {
    let narrow = |step: &Step| match step {
        Step::Do(netns, Remedy::Route(path)) => {
            let is_wider = path.dst.1 < full(addr) && show::covers(path.dst, addr);
            let own = Path { dst: (addr, full(addr)), ..path.clone() };
            is_wider.then(|| Remedy::Route(own).at(*netns))
        }
        _ => None,
    };
    steps.iter().filter_map(narrow).collect()
}

/// Another next hop for the route, else the route that should be there instead.
pub(super) fn wrong_hop(
    case: &Case<'_>,
    met: &Met<'_>,
    netns: &Netns,
    (route, dead): (&Route, IpAddr),
) -> Vec<Step> {
    let dst = met.walk.steps[met.step].tuple.dst;
    let is_multipath = route.hops.len() > 1;
    let overlay = || case.overlay_route(netns, dst).filter(|_| case.is_pod_address(dst));
    if (is_multipath || overlay().is_none())
        && let Some(remedy) = case.route_by_others(netns, dst, Some((route, dead)))
    {
        return vec![remedy.at(netns.inum)];
    }
    case.missing_route_fix(netns, Some(dst))
}

/// What gives a device the prefix length that others on its link have, where its own takes
/// in addresses that are elsewhere.
fn narrower(case: &Case<'_>, netns: &Netns, route: &Route) -> Vec<Step> {
    let hop = route.hops.first().and_then(|h| netns.devices.get(&h.dev?));
    let own = |(a, len): &&(IpAddr, u8)| (show::network(*a, *len), *len) == route.dst;
    let Some((device, (addr, len))) = hop.and_then(|d| Some((d, d.addresses.iter().find(own)?)))
    else {
        return Vec::new();
    };
    let others = case.state.netns.values().filter(|n| n.inum != netns.inum);
    let others = others.flat_map(|n| n.devices.values()).flat_map(|d| &d.addresses);
    let beside = others.filter(|net| net.1 > *len && show::covers(**net, *addr) && net.0 != *addr);
    let Some(right) = beside.map(|net| net.1).filter(|l| *l < full(*addr)).min() else {
        return Vec::new();
    };
    let mut steps = vec![
        Remedy::add_addr(&device.name, (*addr, right)),
        Remedy::del_addr(&device.name, (*addr, *len)),
    ];
    // What leads by a gateway is gone with the address.
    let routes = netns.detail.iter().flat_map(|d| &d.routes);
    let kept = routes.filter(|r| {
        let via = r.hops.first().and_then(|h| h.via.filter(|_| h.dev == Some(device.ifindex)));
        via.is_some_and(|via| show::covers((*addr, right), via))
    });
    steps.extend(kept.map(|r| Remedy::Route(Path::of(netns, r))));
    steps.into_iter().map(|step| step.at(netns.inum)).collect()
}

/// The route that led to the neighbour, and whether it names a gateway.
pub(super) fn route_before<'a>(met: &Met<'a>) -> Option<(&'a Route, bool)> {
    met.walk.steps[..=met.step].iter().rev().find_map(|s| match &s.what {
        What::Route { route: Some(route), .. } if s.netns == met.obstacle.place.netns => {
            Some((&**route, route.hops.iter().any(|h| h.via.is_some())))
        }
        _ => None,
    })
}

/// The link-layer address of the device that holds an address.
fn mac_of(case: &Case<'_>, addr: IpAddr) -> Option<Mac> {
    let devices = case.state.holders(addr).flat_map(|n| n.devices.values());
    let mut holding = devices.filter(|d| d.addresses.iter().any(|(a, _)| *a == addr));
    holding.find_map(|d| d.mac)
}
