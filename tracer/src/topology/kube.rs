//! What each thing would be on a Kubernetes node, and who would have made it there.

use crate::net::detail::Route;
use crate::net::view::view;
use crate::net::{Device, DeviceKind, Netns, NetworkState};

/// Routes packets between others: has a bridge or a tunnel, and forwards.
pub(super) fn is_node(netns: &Netns) -> bool {
    let joins = |d: &Device| matches!(d.kind, DeviceKind::Bridge | DeviceKind::Vxlan);
    netns.forwards_v4 && netns.devices.values().any(joins)
}

/// A veth leads from it to a namespace that is a node.
fn is_pod(state: &NetworkState, netns: &Netns) -> bool {
    !is_node(netns)
        && netns.devices.values().any(|d| {
            let peer = d.link.and_then(|l| l.netns).filter(|i| *i != netns.inum);
            d.kind == DeviceKind::Veth
                && peer.and_then(|inum| state.netns.get(&inum)).is_some_and(is_node)
        })
}

pub(super) fn namespace(state: &NetworkState, netns: &Netns) -> &'static str {
    if is_node(netns) {
        "node: forwarding switched on for kube-proxy and CNI"
    } else if is_pod(state, netns) {
        "pod sandbox, made by the CRI runtime for kubelet"
    } else if netns.inum == state.own {
        "node"
    } else {
        ""
    }
}

/// The other end is in a pod that is routed to, without a bridge, as Calico and the ptp plugin do.
fn is_pods(state: &NetworkState, netns: &Netns, device: &Device) -> bool {
    let far = device.link.and_then(|l| l.netns).and_then(|i| state.netns.get(&i));
    far.is_some_and(|far| !is_node(far) && view(state, netns.inum).contains(&far.inum))
}

pub(super) fn device(state: &NetworkState, netns: &Netns, device: &Device) -> &'static str {
    let far = device.link.and_then(|l| l.netns).and_then(|i| state.netns.get(&i));
    let is_far_node = || far.is_some_and(is_node);
    match (&device.kind, device.name.as_str()) {
        (DeviceKind::Veth, _)
            if is_node(netns) && (device.master.is_some() || is_pods(state, netns, device)) =>
        {
            "node's end of a pod's interface, by the CNI plugin"
        }
        (DeviceKind::Veth, _) if is_pod(state, netns) && is_far_node() => {
            "pod's interface by the CNI plugin, address by IPAM"
        }
        (DeviceKind::Veth | DeviceKind::Physical, _) if is_node(netns) => "node's network card",
        (DeviceKind::Bridge, "docker0") => "Docker's bridge, as cni0 on a node",
        (DeviceKind::Bridge, _) if is_node(netns) => "cni0, by the bridge or flannel CNI plugin",
        (DeviceKind::Bridge, _) => "a switch between nodes",
        (DeviceKind::Vxlan, _) => "flannel.1, overlay between nodes by flanneld",
        (DeviceKind::Loopback, _) => "loopback",
        (DeviceKind::Other(kind), name) if kind == "dummy" && name.starts_with("kube-ipvs") => {
            "Services' addresses, by kube-proxy in IPVS mode"
        }
        (DeviceKind::Other(kind), _) if kind == "ipip" || kind == "wireguard" => {
            "tunnel between nodes, by the CNI plugin"
        }
        _ => "",
    }
}

pub(super) fn route(state: &NetworkState, netns: &Netns, route: &Route) -> &'static str {
    let kinds = || route.hops.iter().filter_map(|h| Some(&netns.devices.get(&h.dev?)?.kind));
    let is_node = is_node(netns);
    let leads_to_pod = || {
        let mut devices = route.hops.iter().filter_map(|h| netns.devices.get(&h.dev?));
        devices.any(|d| d.kind == DeviceKind::Veth && is_pods(state, netns, d))
    };
    if kinds().any(|kind| *kind == DeviceKind::Vxlan) {
        "pods of another node, by flanneld"
    } else if is_node && kinds().any(|kind| *kind == DeviceKind::Bridge) {
        "this node's pods, by the CNI plugin"
    } else if is_node && leads_to_pod() {
        "a pod of this node, by the CNI plugin"
    } else if route.dst.1 == 0 && is_pod(state, netns) {
        "to the node, by the CNI plugin"
    } else {
        ""
    }
}
