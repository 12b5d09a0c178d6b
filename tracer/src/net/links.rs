//! Rtnetlink messages to [`Device`]s, for dumps and notifications alike.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use rtnetlink::packet_core::{NetlinkDeserializable as _, NetlinkHeader};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    BridgeQuerierState, BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind,
    InfoMacVlan, InfoPortData, InfoVlan, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkLayerType, LinkMessage, LinkXdp, MacVlanMode, State, XdpAttached,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::inspect::wire::{Answer, Netlink, attribute};
use super::state::{Bridge, BridgePort, Device, DeviceKind, Inum, Peer, Vxlan, Xdp};

/// `IFLA_EXT_MASK` with `RTEXT_FILTER_SKIP_STATS`: counters are most of a message.
const NO_COUNTERS: (u16, u32) = (29, 1 << 3);

/// All devices of the calling thread's namespace, which is `inum`.
pub(super) fn dump(netlink: &mut Netlink, inum: Inum) -> io::Result<BTreeMap<u32, Device>> {
    let mut devices = BTreeMap::new();
    let mut link = vec![0; 16];
    link.extend(attribute(NO_COUNTERS.0, &NO_COUNTERS.1.to_ne_bytes()));
    for message in messages(&netlink.dump(libc::RTM_GETLINK, &link)?) {
        if let RouteNetlinkMessage::NewLink(message) = message
            && let Some(device) = device(inum, &message)
        {
            devices.insert(device.ifindex, device);
        }
    }
    for message in messages(&netlink.dump(libc::RTM_GETADDR, &[0; 8])?) {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && let Some((ifindex, prefix)) = address(&message)
            && let Some(device) = devices.get_mut(&ifindex)
        {
            device.addresses.push(prefix);
        }
    }
    Ok(devices)
}

/// Those that make sense.
fn messages(answer: &Answer) -> impl Iterator<Item = RouteNetlinkMessage> {
    answer.messages().filter_map(|(kind, body)| {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        let parsed = RouteNetlinkMessage::deserialize(&header, body);
        parsed.inspect_err(|error| log::debug!("a message of type {kind}: {error}")).ok()
    })
}

/// The device that a link message of namespace `inum` describes, without its addresses.
///
/// `None` for the messages of other families (a bridge reports its ports, and their removal, by
/// `RTM_NEWLINK` and `RTM_DELLINK` too) and for those that hold wireless events only.
pub(super) fn device(inum: Inum, message: &LinkMessage) -> Option<Device> {
    if message.header.interface_family != AddressFamily::Unspec || !has_mtu(message) {
        return None;
    }
    let mut device = Device {
        ifindex: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        is_noarp: message.header.flags.contains(LinkFlags::Noarp),
        ..Device::default()
    };
    let (mut link, mut carrier) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Controller(master) => device.master = Some(*master).filter(|m| *m != 0),
            // Tunnels without a device below say 0.
            LinkAttribute::Link(ifindex) => link = Some(*ifindex).filter(|i| *i != 0),
            LinkAttribute::LinkNetNsId(id) => device.link_nsid = Some(*id),
            LinkAttribute::OperState(state) => {
                device.carrier = matches!(state, State::Up | State::Unknown);
            }
            // The state above follows it, up to a second later (`linkwatch_event`).
            LinkAttribute::Carrier(on) => carrier = Some(*on != 0),
            LinkAttribute::Address(bytes) => device.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::LinkInfo(info) => link_info(&mut device, info),
            LinkAttribute::Xdp(parts) => device.xdp = xdp(parts),
            LinkAttribute::GsoMaxSize(bytes) => device.gso_max = *bytes,
            LinkAttribute::GsoMaxSegs(count) => device.gso_segments = *count,
            LinkAttribute::TxQueueLen(packets) => device.queue_length = *packets,
            _ => {}
        }
    }
    device.carrier = carrier.map_or(device.carrier, |on| on && device.up);
    if device.kind == DeviceKind::Physical
        && message.header.link_layer_type == LinkLayerType::Loopback
    {
        device.kind = DeviceKind::Loopback;
    }
    let netns = device.link_nsid.is_none().then_some(inum);
    let link = link.or_else(|| below_vxlan(message));
    // What a tunnel sends stays in the namespace that it was made in, without a device below too.
    let is_away = device.kind == DeviceKind::Vxlan && device.link_nsid.is_some();
    let link = link.or_else(|| is_away.then_some(0));
    device.link = link.map(|ifindex| Peer { netns, ifindex });
    Some(device)
}

/// A VXLAN device tells the device below it among its own data, not by `IFLA_LINK`.
fn below_vxlan(message: &LinkMessage) -> Option<u32> {
    let infos = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => data.iter().find_map(|part| match part {
            InfoVxlan::Link(ifindex) => Some(*ifindex).filter(|i| *i != 0),
            _ => None,
        }),
        _ => None,
    })
}

fn has_mtu(message: &LinkMessage) -> bool {
    message.attributes.iter().any(|a| matches!(a, LinkAttribute::Mtu(_)))
}

fn link_info(device: &mut Device, info: &[LinkInfo]) {
    for part in info {
        match part {
            LinkInfo::Kind(kind) => device.kind = device_kind(kind),
            LinkInfo::Data(InfoData::Vxlan(data)) => device.vxlan = Some(vxlan(data)),
            LinkInfo::Data(InfoData::Vlan(data)) => device.vlan = vlan_id(data),
            LinkInfo::Data(InfoData::MacVlan(data)) => device.macvlan = macvlan_mode(data),
            LinkInfo::Data(InfoData::Bridge(data)) => device.bridge = Some(bridge(data)),
            LinkInfo::PortData(InfoPortData::BridgePort(data)) => device.port = Some(port(data)),
            _ => {}
        }
    }
}

fn macvlan_mode(data: &[InfoMacVlan]) -> Option<&'static str> {
    data.iter().find_map(|part| match part {
        InfoMacVlan::Mode(mode) => Some(match mode {
            MacVlanMode::Private => "private",
            MacVlanMode::Vepa => "vepa",
            MacVlanMode::Bridge => "bridge",
            MacVlanMode::Passthrough => "passthru",
            MacVlanMode::Source => "source",
            _ => return None,
        }),
        _ => None,
    })
}

fn vlan_id(data: &[InfoVlan]) -> Option<u16> {
    data.iter().find_map(|part| match part {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
}

fn bridge(data: &[InfoBridge]) -> Bridge {
    let mut bridge = Bridge::default();
    let (mut snoops, mut has_querier) = (false, false);
    for part in data {
        match part {
            InfoBridge::StpState(state) => bridge.stp = *state != BridgeStpState::Disabled,
            InfoBridge::VlanFiltering(on) => bridge.vlan_filtering = *on,
            InfoBridge::ForwardDelay(delay) => bridge.forward_delay = *delay,
            InfoBridge::MulticastSnooping(on) => snoops = *on,
            InfoBridge::MulticastQuerier(on) => has_querier |= *on,
            InfoBridge::MulticastQuerierState(told) => {
                let is_v6 =
                    |s: &BridgeQuerierState| matches!(s, BridgeQuerierState::Ipv6Address(_));
                has_querier |= told.iter().any(is_v6);
            }
            _ => {}
        }
    }
    bridge.snoops_v6 = snoops && has_querier;
    bridge
}

/// Starts from what a port is when the kernel does not say (`br_port_fill_attrs` always does).
fn port(data: &[InfoBridgePort]) -> BridgePort {
    let mut port = BridgePort {
        state: 3,
        hairpin: false,
        isolated: false,
        learning: true,
        unicast_flood: true,
        broadcast_flood: true,
        multicast_flood: true,
        neigh_suppress: false,
        locked: false,
    };
    for part in data {
        match part {
            InfoBridgePort::State(state) => port.state = (*state).into(),
            InfoBridgePort::HairpinMode(on) => port.hairpin = *on,
            InfoBridgePort::Isolated(on) => port.isolated = *on,
            InfoBridgePort::Learning(on) => port.learning = *on,
            InfoBridgePort::UnicastFlood(on) => port.unicast_flood = *on,
            InfoBridgePort::BroadcastFlood(on) => port.broadcast_flood = *on,
            InfoBridgePort::MulticastFlood(on) => port.multicast_flood = *on,
            InfoBridgePort::NeighSupress(on) => port.neigh_suppress = *on,
            InfoBridgePort::Locked(on) => port.locked = *on,
            _ => {}
        }
    }
    port
}

/// `None` without a program. With several modes at once, that of the driver runs first.
fn xdp(parts: &[LinkXdp]) -> Option<Xdp> {
    let mut xdp = Xdp { mode: 0, prog: 0 };
    for part in parts {
        match part {
            LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Multiple) => xdp.mode = 1,
            LinkXdp::Attached(XdpAttached::SocketBuffer) => xdp.mode = 2,
            LinkXdp::Attached(XdpAttached::Hardware) => xdp.mode = 3,
            LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) => xdp.prog = *id,
            LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) if xdp.prog == 0 => xdp.prog = *id,
            _ => {}
        }
    }
    (xdp.mode != 0).then_some(xdp)
}

fn device_kind(kind: &InfoKind) -> DeviceKind {
    match kind {
        InfoKind::Veth => DeviceKind::Veth,
        InfoKind::Bridge => DeviceKind::Bridge,
        InfoKind::Vxlan => DeviceKind::Vxlan,
        other => DeviceKind::Other(other.to_string()),
    }
}

fn vxlan(data: &[InfoVxlan]) -> Vxlan {
    let mut vxlan = Vxlan::default();
    for part in data {
        match part {
            InfoVxlan::Id(vni) => vxlan.vni = *vni,
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::Local(local) => vxlan.local = Some(IpAddr::V4(*local)),
            InfoVxlan::Local6(local) => vxlan.local = Some(IpAddr::V6(*local)),
            InfoVxlan::Group(remote) => vxlan.remote = Some(IpAddr::V4(*remote)),
            InfoVxlan::Group6(remote) => vxlan.remote = Some(IpAddr::V6(*remote)),
            InfoVxlan::Learning(on) => vxlan.learning = *on,
            _ => {}
        }
    }
    vxlan
}

/// The device and the address (with its prefix length) of an address message. `IFA_LOCAL` is the
/// own one where there is one; `IFA_ADDRESS` is then the other end of a point-to-point link.
pub(super) fn address(message: &AddressMessage) -> Option<(u32, (IpAddr, u8))> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => {
                address = Some(*local);
                break;
            }
            AddressAttribute::Address(other) => address = Some(*other),
            _ => {}
        }
    }
    Some((message.header.index, (address?, message.header.prefix_len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.flags = LinkFlags::Up;
        message.attributes = attributes;
        message
    }

    #[test]
    fn a_veth_to_another_namespace_keeps_its_nsid() {
        let device = device(
            1,
            &message(vec![
                LinkAttribute::IfName("eth0".to_owned()),
                LinkAttribute::Mtu(1450),
                LinkAttribute::Link(12),
                LinkAttribute::LinkNetNsId(0),
                LinkAttribute::OperState(State::LowerLayerDown),
                LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
            ]),
        )
        .unwrap();
        assert_eq!(device.kind, DeviceKind::Veth);
        assert_eq!(device.link, Some(Peer { netns: None, ifindex: 12 }));
        assert_eq!(device.link_nsid, Some(0));
        assert!(device.up && !device.carrier);
        assert_eq!(device.mac, Some([2, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn a_link_without_nsid_is_in_the_same_namespace() {
        let attributes = vec![
            LinkAttribute::IfName("eth0.5".to_owned()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Link(2),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(5)])),
            ]),
        ];
        let device = device(1, &message(attributes)).unwrap();
        assert_eq!(device.kind, DeviceKind::Other("vlan".to_owned()));
        assert_eq!(device.vlan, Some(5));
        assert_eq!(device.link, Some(Peer { netns: Some(1), ifindex: 2 }));
    }

    #[test]
    fn a_vxlan_names_the_device_below_it() {
        let data = vec![InfoVxlan::Id(1), InfoVxlan::Link(2), InfoVxlan::Port(8472)];
        let info = vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))];
        let attributes = vec![LinkAttribute::Mtu(1450), LinkAttribute::LinkInfo(info)];
        let device = device(1, &message(attributes)).unwrap();
        assert_eq!(device.link, Some(Peer { netns: Some(1), ifindex: 2 }));
        assert_eq!(device.vxlan, Some(Vxlan { vni: 1, port: 8472, ..Vxlan::default() }));
    }

    #[test]
    fn a_port_keeps_its_flags_and_an_xdp_program_is_seen() {
        let port = InfoPortData::BridgePort(vec![
            InfoBridgePort::State(4_u8.into()),
            InfoBridgePort::HairpinMode(true),
            InfoBridgePort::Learning(false),
        ]);
        let mut message = message(vec![
            LinkAttribute::Mtu(1500),
            LinkAttribute::LinkInfo(vec![LinkInfo::PortData(port)]),
            LinkAttribute::Xdp(vec![
                LinkXdp::Attached(XdpAttached::SocketBuffer),
                LinkXdp::ProgId(77),
            ]),
        ]);
        message.header.flags |= LinkFlags::Noarp;
        let device = device(1, &message).unwrap();
        let port = device.port.unwrap();
        assert_eq!((port.state, port.hairpin, port.learning), (4, true, false));
        assert!(port.unicast_flood && !port.isolated);
        assert_eq!(device.xdp, Some(Xdp { mode: 2, prog: 77 }));
        assert!(device.is_noarp);
    }

    #[test]
    fn reports_of_bridges_and_wireless_events_are_no_devices() {
        let mut port = message(vec![LinkAttribute::Mtu(1500)]);
        port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(device(1, &port), None);
        assert_eq!(device(1, &message(vec![LinkAttribute::IfName("wlan0".to_owned())])), None);
    }

    #[test]
    fn the_local_address_wins() {
        let mut message = AddressMessage::default();
        message.header.index = 3;
        message.header.prefix_len = 32;
        let [near, far]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        message.attributes = vec![AddressAttribute::Address(far), AddressAttribute::Local(near)];
        assert_eq!(address(&message), Some((3, (near, 32))));
    }
}
