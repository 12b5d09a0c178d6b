//! What the way from one point to the next is, by the devices at both.

use tracer_common::perf::{SegmentKey, point};

use crate::event::Proto;
use crate::net::{Device, DeviceKind};
use crate::perf::Node;
use crate::report;

/// `NF_INET_*`, by number, as chains are called.
const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];
const FORWARD: u8 = 2;
const LOCAL_OUT: u8 = 3;
const LOCAL_IN: u8 = 1;
const POSTROUTING: u8 = 4;

/// A part of the way at a place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Segment {
    /// What it is.
    pub(super) name: &'static str,
    /// Where it begins.
    pub(super) netns: report::Netns,
    /// Likewise.
    pub(super) dev: Option<report::Dev>,
    /// Where it ends, if elsewhere.
    pub(super) out_netns: Option<report::Netns>,
    /// Likewise.
    pub(super) out_dev: Option<report::Dev>,
    /// Of whole ways: the protocol.
    pub(super) proto: Option<String>,
}

impl Segment {
    /// The segment that a key of the kernel side stands for; `None` for what is no way of one
    /// packet, or a step of no interest. `sees_queues`: what comes and goes in queueing disciplines
    /// is seen itself.
    pub(super) fn of(key: &SegmentKey, node: &Node, sees_queues: bool) -> Option<Self> {
        let from = node.device(key.from_netns, key.from_ifindex);
        let to = node.device(key.to_netns, key.to_ifindex);
        let name = match name(key, from, to)? {
            // Where queues are seen, this packet was in none.
            "qdisc" if sees_queues && key.from == point::QUEUE => "xmit",
            name => name,
        };
        let is_elsewhere = key.to_netns != key.from_netns;
        let is_other = is_elsewhere || key.to_ifindex != key.from_ifindex;
        let is_whole = key.from == point::BEGIN;
        Some(Self {
            name,
            netns: node.netns(key.from_netns),
            dev: node.dev(key.from_netns, key.from_ifindex),
            out_netns: is_elsewhere.then(|| node.netns(key.to_netns)),
            out_dev: node.dev(key.to_netns, key.to_ifindex).filter(|_| is_other),
            proto: is_whole.then(|| match key.proto {
                0 => "arp".to_owned(),
                number => Proto::from_ip(number).to_string(),
            }),
        })
    }
}

/// What lies between two points; `from` and `to` are their devices.
fn name(key: &SegmentKey, from: Option<&Device>, to: Option<&Device>) -> Option<&'static str> {
    let is_same = (key.from_netns, key.from_ifindex) == (key.to_netns, key.to_ifindex);
    if key.from >= point::HOOK_FIRST || key.to >= point::HOOK_FIRST {
        return hook_name(key.from, key.to);
    }
    match (key.from, key.to) {
        (point::BEGIN, point::XMIT) => leaves(to?).then_some("end-to-end"),
        (point::BEGIN, _) => Some("end-to-end"),
        (point::ENQUEUE, point::DEQUEUE) => Some("qdisc"),
        (point::QUEUE, point::XMIT) if is_same => Some("qdisc"),
        (point::XMIT, point::RX) => crossing(key, from?, is_same),
        (point::XMIT | point::QUEUE, point::QUEUE | point::ENQUEUE | point::XMIT) => {
            (!is_same).then(|| below(from))
        }
        (point::RX, point::RX) => (!is_same).then(|| below(to)),
        (point::RX, point::QUEUE | point::ENQUEUE | point::XMIT) => Some(onwards(from, to)),
        (point::RX, point::SOCKET) => Some("deliver"),
        (point::SOCKET, point::READ) => Some("socket"),
        _ => None,
    }
}

/// Between the points of netfilter.
fn hook_name(from: u8, to: u8) -> Option<&'static str> {
    let first =
        |n: u8| (point::HOOK_FIRST..point::HOOK_LAST).contains(&n).then(|| n - point::HOOK_FIRST);
    let last = |n: u8| (n >= point::HOOK_LAST).then(|| n - point::HOOK_LAST);
    match (first(from), last(from), first(to), last(to)) {
        (Some(hook), _, _, Some(same)) if hook == same => HOOKS.get(usize::from(hook)).copied(),
        (_, Some(0), Some(LOCAL_IN | FORWARD), _) => Some("route"),
        (_, Some(FORWARD | LOCAL_OUT), Some(POSTROUTING), _) => Some("ip-output"),
        (_, Some(POSTROUTING), None, None) if to != point::SOCKET => Some("neigh"),
        (_, Some(LOCAL_IN), None, None) if to == point::SOCKET => Some("deliver"),
        (None, None, Some(0), _) if from == point::RX => Some("ip-input"),
        (None, None, Some(LOCAL_OUT), _) if from == point::XMIT => Some("tunnel"),
        _ => None,
    }
}

/// What a device hands to another namespace, or back to this host. `None` when it cannot: then
/// the buffer was given to another packet meanwhile.
fn crossing(key: &SegmentKey, from: &Device, is_same: bool) -> Option<&'static str> {
    match &from.kind {
        DeviceKind::Veth => {
            let peer = from.link?;
            let is_peer = peer.ifindex == key.to_ifindex
                && peer.netns.is_none_or(|netns| netns == key.to_netns);
            is_peer.then_some("veth")
        }
        DeviceKind::Loopback => is_same.then_some("backlog"),
        DeviceKind::Physical => None,
        _ => (!is_same).then(|| below(Some(from))),
    }
}

/// What a device is that is made of others.
fn below(device: Option<&Device>) -> &'static str {
    match device.map(|d| &d.kind) {
        Some(DeviceKind::Bridge) => "bridge",
        Some(kind) if kind.is_tunnel() => "tunnel",
        _ => "device",
    }
}

/// From what was received to what is sent: by the bridge that both are ports of, else by IP.
fn onwards(from: Option<&Device>, to: Option<&Device>) -> &'static str {
    let master = |device: Option<&Device>| device.and_then(|d| d.master);
    match (master(from), master(to)) {
        (Some(a), Some(b)) if a == b => "bridge",
        _ => "stack",
    }
}

/// Whether what this device sends leaves the node.
fn leaves(device: &Device) -> bool {
    device.kind == DeviceKind::Physical || device.kind == DeviceKind::Other("tun".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Peer;

    fn key(from: u8, to: u8, places: [u32; 4]) -> SegmentKey {
        let [from_netns, from_ifindex, to_netns, to_ifindex] = places;
        SegmentKey {
            from_netns,
            from_ifindex,
            to_netns,
            to_ifindex,
            from,
            to,
            ..SegmentKey::default()
        }
    }

    fn veth(peer: (u32, u32)) -> Device {
        Device {
            kind: DeviceKind::Veth,
            link: Some(Peer { netns: Some(peer.0), ifindex: peer.1 }),
            ..Device::default()
        }
    }

    #[test]
    fn a_veth_leads_to_its_peer_alone() {
        let from = veth((2, 5));
        let way = |places| name(&key(point::XMIT, point::RX, places), Some(&from), None);
        assert_eq!(way([1, 3, 2, 5]), Some("veth"));
        assert_eq!(way([1, 3, 2, 6]), None, "a buffer that another packet has by now");
    }

    #[test]
    fn ports_of_one_bridge_are_joined_by_it() {
        let port = |master| Device { master: Some(master), ..Device::default() };
        let way = |a: &Device, b: &Device| {
            name(&key(point::RX, point::XMIT, [1, 3, 1, 4]), Some(a), Some(b))
        };
        assert_eq!(way(&port(9), &port(9)), Some("bridge"));
        assert_eq!(way(&port(9), &port(8)), Some("stack"));
    }

    #[test]
    fn hooks_have_the_names_of_chains() {
        assert_eq!(hook_name(point::HOOK_FIRST + 2, point::HOOK_LAST + 2), Some("forward"));
        assert_eq!(hook_name(point::HOOK_LAST, point::HOOK_FIRST + 2), Some("route"));
        assert_eq!(hook_name(point::HOOK_LAST + 4, point::QUEUE), Some("neigh"));
        assert_eq!(hook_name(point::HOOK_FIRST + 2, point::HOOK_LAST + 4), None);
    }

    #[test]
    fn a_whole_way_ends_in_a_socket_or_outside() {
        let sent = key(point::BEGIN, point::XMIT, [1, 3, 1, 4]);
        let physical = Device::default();
        assert_eq!(name(&sent, None, Some(&physical)), Some("end-to-end"));
        assert_eq!(name(&sent, None, Some(&veth((2, 5)))), None);
        let read = key(point::BEGIN, point::SOCKET, [1, 3, 2, 4]);
        assert_eq!(name(&read, None, None), Some("end-to-end"));
    }
}
