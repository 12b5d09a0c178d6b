//! What a network plugin does for a pod, done again: its veth, its address, its default route, after
//! the example of the pods beside it.

use std::net::IpAddr;

use super::{Case, devices};
use crate::diagnose::remedy::{Link, NewLink, Path, Port, Remedy, Step};
use crate::diagnose::walk::Place;
use crate::diagnose::{place, show};
use crate::firewall::Target;
use crate::net::detail::RouteType;
use crate::net::{Device, DeviceKind, Inum, Netns, NetworkState};

/// What connects `pod`, which has lost its veth, with the bridge that `asker` is on (or
/// is), under its address. Empty where no other pod on that bridge shows how.
pub(super) fn veth(case: &Case<'_>, asker: Place, pod: &Netns, addr: IpAddr) -> Vec<Step> {
    let Some((node, bridge)) = bridge_of(case.state, asker) else { return Vec::new() };
    let ports = node.devices.values().filter(|d| d.master == Some(bridge.ifindex));
    let siblings = ports.filter_map(|port| {
        let link = port.link?;
        Some((port, case.netns(link.netns?)?.devices.get(&link.ifindex)?))
    });
    let like = |(_, d): &(&Device, &Device)| d.addresses.iter().any(|net| show::covers(*net, addr));
    let Some((port, sibling)) = siblings.into_iter().find(like) else { return Vec::new() };
    let len = sibling.addresses.iter().find(|net| show::covers(**net, addr)).map_or(24, |n| n.1);
    let (name, eth) = (free_name(node, pod), sibling.name.as_str());
    let pair = NewLink::Veth { peer: eth.to_owned(), there: Some(pod.inum), mtu: Some(port.mtu) };
    let mut outside = vec![
        Remedy::AddLink { dev: name.clone(), link: pair },
        Remedy::link(&name, Link::Master(bridge.name.clone())),
        Remedy::up(&name),
    ];
    if port.port.is_some_and(|p| p.hairpin) {
        outside.push(Remedy::port(&name, Port::Hairpin));
    }
    let mut inside = vec![Remedy::add_addr(eth, (addr, len)), Remedy::up(eth)];
    let gateway = bridge.addresses.iter().map(|(a, _)| *a).find(|a| show::covers((addr, len), *a));
    inside.extend(gateway.map(|via| Remedy::Route(Path::default(via, Some(eth)))));
    let outside = outside.into_iter().map(|step| step.at(node.inum));
    outside.chain(inside.into_iter().map(|step| step.at(pod.inum))).collect()
}

/// Of several namespaces without a device, the one that is named most like the pods on the bridge
/// of `asker`, and whether no other is named as much like them.
pub(super) fn likeliest(case: &Case<'_>, asker: Place, bare: &[Inum]) -> (Option<Inum>, bool) {
    let Some(pods) = pods_beside(case, asker) else {
        return (bare.first().copied(), bare.len() == 1);
    };
    let alike = |inum: &Inum| likeness(case, &pods, *inum);
    let Some(best) = bare.iter().max_by_key(|n| alike(n)) else { return (None, false) };
    let is_only = bare.iter().filter(|n| alike(n) == alike(best)).count() == 1;
    (Some(*best), is_only)
}

/// Whether a namespace is named like the pods on the bridge of `asker`; `None` where those have no
/// name in common.
pub(super) fn is_like_others(case: &Case<'_>, asker: Place, bare: Inum) -> Option<bool> {
    let pods = pods_beside(case, asker).unwrap_or_default();
    let kin = kin(&pods);
    (!kin.is_empty()).then(|| case.state.netns_name(bare).starts_with(kin))
}

/// Two ends of a veth pair that are ports of nothing: there is no room for a third.
pub(super) fn is_pair(state: &NetworkState, asker: Place) -> bool {
    let own = asker.dev.and_then(|dev| state.device(asker.netns, dev));
    let peer = own.and_then(|own| {
        let link = own.link?;
        state.device(link.netns?, link.ifindex)
    });
    let is_end = |d: &Device| d.kind == DeviceKind::Veth && d.master.is_none();
    own.is_some_and(is_end) && peer.is_some_and(is_end)
}

/// What names have in common at their beginning, up to the last separator if there is one: what
/// follows may be alike by chance. Of a single name it is what stands before its last separator.
fn kin(names: &[String]) -> &str {
    let Some((first, others)) = names.split_first() else { return "" };
    let common = others.iter().map(|other| {
        first.char_indices().zip(other.chars()).take_while(|((_, a), b)| a == b).count()
    });
    let all = first.chars().count();
    let len = common.min().unwrap_or(all);
    let shared = first.char_indices().nth(len).map_or(first.as_str(), |(at, _)| &first[..at]);
    match shared.rfind(|c: char| !c.is_alphanumeric()) {
        Some(at) => &first[..=at],
        None if others.is_empty() => "",
        None => shared,
    }
}

/// The names of the pods on the bridge of `asker`; `None` where that is on none.
fn pods_beside(case: &Case<'_>, asker: Place) -> Option<Vec<String>> {
    let (node, bridge) = bridge_of(case.state, asker)?;
    let ports = node.devices.values().filter(|d| d.master == Some(bridge.ifindex));
    Some(ports.filter_map(|p| p.link?.netns).map(|n| case.state.netns_name(n)).collect())
}

/// How many letters the name of a namespace has in common with the one of `pods` most like it.
fn likeness(case: &Case<'_>, pods: &[String], netns: Inum) -> usize {
    let name = case.state.netns_name(netns);
    let common = |pod: &String| pod.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
    pods.iter().map(common).max().unwrap_or(0)
}

/// The bridge that a device is, or that its other end is a port of, and its namespace.
fn bridge_of(state: &NetworkState, asker: Place) -> Option<(&Netns, &Device)> {
    let netns = state.netns.get(&asker.netns)?;
    let device = netns.devices.get(&asker.dev?)?;
    if device.bridge.is_some() {
        return Some((netns, device));
    }
    let link = device.link?;
    let node = state.netns.get(&link.netns?)?;
    let port = node.devices.get(&link.ifindex)?;
    Some((node, node.devices.get(&port.master?)?))
}

/// `veth-POD`, as short as device names have to be (`IFNAMSIZ`).
fn free_name(node: &Netns, pod: &Netns) -> String {
    let plain: String = pod.name.chars().filter(char::is_ascii_alphanumeric).collect();
    let start = plain.len().saturating_sub(8);
    let base = format!("veth-{}", &plain[start..]);
    let is_taken = |name: &str| node.devices.values().any(|d| d.name == name);
    if is_taken(&base) { format!("{base}x") } else { base }
}

/// The address that a pod without one had, as far as others remember it, and how they do.
pub(super) fn lost_address(case: &Case<'_>, pod: &Netns) -> Option<((IpAddr, u8), String)> {
    let node = case.netns(place::node_of(case.state, pod.inum)?)?;
    let device =
        pod.devices.values().find(|d| d.link.is_some_and(|l| l.netns == Some(node.inum)))?;
    let port = node.devices.get(&device.link?.ifindex)?;
    // A route to the host's end of its veth: Calico and others.
    let routes = node.detail.iter().flat_map(|d| &d.routes);
    let full = |a: IpAddr| if a.is_ipv4() { 32 } else { 128 };
    let is_free = |a: IpAddr| case.state.holders(a).next().is_none();
    let mut own = routes.filter(|r| {
        r.kind == RouteType::Unicast
            && r.dst.1 == full(r.dst.0)
            && is_free(r.dst.0)
            && r.hops.iter().any(|h| h.dev == Some(port.ifindex))
    });
    if let Some(route) = own.next() {
        return Some((
            route.dst,
            format!("ip route of {}: {}", node.name, show::route(node, route)),
        ));
    }
    // The bridge that it is a port of, or itself where it is none.
    let segment = port.master.and_then(|m| node.devices.get(&m)).unwrap_or(port);
    let gateway = segment.addresses.iter().find(|(a, _)| a.is_ipv4())?;
    let remembered = case.state.netns.values().find_map(|n| {
        let entries = &n.detail.as_ref()?.neighbours;
        let entry = entries.iter().find(|e| {
            e.mac.is_some()
                && e.mac == device.mac
                && show::covers(*gateway, e.addr)
                && is_free(e.addr)
        })?;
        let mac = show::mac(entry.mac?);
        let text = format!(
            "ip neigh of {}: {} lladdr {mac}, the MAC of {}",
            n.name, entry.addr, device.name
        );
        Some(((entry.addr, gateway.1), text))
    });
    remembered.or_else(|| {
        // Where Services lead to one address on this bridge that nobody has, it is that one.
        let chains = node.detail.iter().flat_map(|d| &d.firewall.tables).flat_map(|t| &t.chains);
        let rules = chains.flat_map(|c| &c.rules).filter_map(|r| match r.target {
            Target::Dnat { addr: Some(addr), .. } => Some((addr, &r.text)),
            _ => None,
        });
        let lost: Vec<_> =
            rules.filter(|(a, _)| show::covers(*gateway, *a) && is_free(*a)).collect();
        let (addr, text) = *lost.first()?;
        let is_one = lost.iter().all(|(a, _)| *a == addr);
        is_one.then(|| ((addr, gateway.1), format!("{}: {text}", node.name)))
    })
}

/// The default route of a pod, by the example of others.
pub(super) fn default_route(case: &Case<'_>, pod: Inum, dev: &str) -> Option<Step> {
    let gateway = devices::gateway(case, pod)?;
    Some(Remedy::Route(Path::default(gateway, Some(dev))).at(pod))
}

#[cfg(test)]
mod tests {
    use super::kin;

    #[test]
    fn kin_is_what_stands_before_the_last_separator() {
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            kin(&names).to_owned()
        };
        assert_eq!(of(&["cni-51a2", "cni-5c77"]), "cni-");
        assert_eq!(of(&["cni-51a2"]), "cni-");
        assert_eq!(of(&["pod1", "pod2"]), "pod");
        assert_eq!(of(&["red", "blue"]), "");
        assert_eq!(of(&["red"]), "");
        assert_eq!(of(&[]), "");
    }
}
