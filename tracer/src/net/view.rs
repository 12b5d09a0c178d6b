//! The world as one node sees it, where several share a kernel (labs, kind, nested nodes).

use std::collections::BTreeSet;

use super::state::{DeviceKind, Inum, NetworkState};

/// The namespaces of the node whose root namespace is `root`: itself and the pods that its veths
/// lead to.
///
/// A veth whose far end is a port of a bridge over there is a cable into somebody else's switch,
/// not a pod; and so is one between two routers.
#[must_use]
pub fn view(state: &NetworkState, root: Inum) -> BTreeSet<Inum> {
    let mut seen = BTreeSet::from([root]);
    let Some(netns) = state.netns.get(&root) else { return seen };
    for device in netns.devices.values().filter(|d| d.kind == DeviceKind::Veth) {
        let Some(peer) = device.link else { continue };
        let Some(inum) = peer.netns else { continue };
        let Some(far) = state.device(inum, peer.ifindex) else { continue };
        let switch = far.master.and_then(|master| state.device(inum, master));
        let is_cable = switch.is_some_and(|switch| switch.kind == DeviceKind::Bridge);
        if !is_cable && (device.master.is_some() || !leads_on(state, inum, root)) {
            seen.insert(inum);
        }
    }
    seen
}

/// The namespace routes, and has links to others than `root`: it is no pod.
fn leads_on(state: &NetworkState, netns: Inum, root: Inum) -> bool {
    state.netns.get(&netns).filter(|n| n.forwards_v4 || n.forwards_v6).is_some_and(|n| {
        n.devices.values().any(|d| match d.kind {
            DeviceKind::Veth => d.link.and_then(|l| l.netns).is_some_and(|n| n != root),
            _ => d.kind == DeviceKind::Physical,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::state::{Device, Netns, Peer};

    fn veth(ifindex: u32, to: (Inum, u32), master: Option<u32>) -> Device {
        let link = Some(Peer { netns: Some(to.0), ifindex: to.1 });
        Device { ifindex, kind: DeviceKind::Veth, link, master, ..Device::default() }
    }

    fn bridge(ifindex: u32) -> Device {
        Device { ifindex, kind: DeviceKind::Bridge, ..Device::default() }
    }

    #[test]
    fn pods_belong_to_a_node_and_the_switch_between_nodes_does_not() {
        // Node 1 with pod 2, node 3 with pod 4, and the switch 9 between the nodes.
        let namespaces = [
            (1, vec![veth(2, (9, 12), None), bridge(3), veth(4, (2, 2), Some(3))]),
            (2, vec![veth(2, (1, 4), None)]),
            (3, vec![veth(2, (9, 13), None), veth(4, (4, 2), None)]),
            (4, vec![veth(2, (3, 4), None)]),
            (9, vec![bridge(11), veth(12, (1, 2), Some(11)), veth(13, (3, 2), Some(11))]),
        ];
        let mut state = NetworkState::default();
        for (inum, devices) in namespaces {
            let devices = devices.into_iter().map(|d| (d.ifindex, d)).collect();
            state.netns.insert(inum, Netns { inum, devices, ..Netns::default() });
        }
        assert_eq!(view(&state, 1), [1, 2].into());
        assert_eq!(view(&state, 3), [3, 4].into());
        assert_eq!(view(&state, 2), [2].into());
        assert_eq!(view(&state, 77), [77].into());
    }

    #[test]
    fn a_router_behind_a_cable_is_no_pod() {
        // Routers 1 and 3 joined by a cable; pod 2 of the first has two links to it.
        let namespaces = [
            (1, vec![veth(2, (3, 2), None), veth(3, (2, 2), None), veth(4, (2, 3), None)]),
            (2, vec![veth(2, (1, 3), None), veth(3, (1, 4), None)]),
            (3, vec![veth(2, (1, 2), None), veth(3, (4, 2), None)]),
            (4, vec![veth(2, (3, 3), None)]),
        ];
        let mut state = NetworkState::default();
        for (inum, devices) in namespaces {
            let devices = devices.into_iter().map(|d| (d.ifindex, d)).collect();
            let netns = Netns { inum, devices, forwards_v4: inum != 4, ..Netns::default() };
            state.netns.insert(inum, netns);
        }
        assert_eq!(view(&state, 1), [1, 2].into());
        assert_eq!(view(&state, 3), [3, 4].into());
    }
}
