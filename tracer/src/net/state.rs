//! The node's network configuration as plain data, one entry per network namespace.
//!
//! Taken by netlink (`super::snapshot`), kept current by `super::watch`; nothing here does I/O, so
//! correlation and diagnosis can be tested on hand-made states.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use super::Mac;
use super::detail::Detail;
use super::shared::Shared;

/// Inode number of a network namespace, as `stat(2)` on its file and the kernel's `ns.inum` say.
pub type Inum = u32;

/// Everything known of the node.
#[derive(Clone, Debug, Default)]
pub struct NetworkState {
    /// By inode number.
    pub netns: BTreeMap<Inum, Netns>,
    /// The namespace that pkttrace itself runs in.
    pub own: Inum,
}

/// One network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Netns {
    /// Inode number.
    pub inum: Inum,
    /// Name below `/run/netns` (or Docker's and CRI's equivalents), `host` for the node's own, or
    /// `comm/PID` of a process in it when it has no name.
    pub name: String,
    /// A file that `setns(2)` accepts.
    pub path: PathBuf,
    /// By interface index.
    pub devices: BTreeMap<u32, Device>,
    /// `net.ipv4.ip_forward`.
    pub forwards_v4: bool,
    /// `net.ipv6.conf.all.forwarding`.
    pub forwards_v6: bool,
    /// IPv6 exists in it (`disable_ipv6` of `all` is 0).
    pub has_ipv6: bool,
    /// The rest of its configuration, when it was asked for.
    pub detail: Option<Shared<Detail>>,
}

/// The settings of a namespace that decide whether it routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sysctls {
    /// `net.ipv4.ip_forward`.
    pub forwards_v4: bool,
    /// `net.ipv6.conf.all.forwarding`.
    pub forwards_v6: bool,
    /// IPv6 exists in it (`disable_ipv6` of `all` is 0).
    pub has_ipv6: bool,
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Interface index in its namespace.
    pub ifindex: u32,
    /// Interface name.
    pub name: String,
    /// What it is.
    pub kind: DeviceKind,
    /// Interface index of the bridge (or bond, VRF) that it is a port of.
    pub master: Option<u32>,
    /// The other end of a veth, or the device below a VLAN, macvlan or VXLAN.
    pub link: Option<Peer>,
    /// The id (`IFLA_LINK_NETNSID`) that the namespace of `link` has in this one, when it is
    /// another one; `link.netns` says which, once that is known.
    pub link_nsid: Option<i32>,
    /// Administratively up.
    pub up: bool,
    /// Has carrier (`operstate` up or unknown).
    pub carrier: bool,
    /// Bytes.
    pub mtu: u32,
    /// Link-layer address.
    pub mac: Option<Mac>,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// VLAN id of an 802.1Q device.
    pub vlan: Option<u16>,
    /// VXLAN parameters.
    pub vxlan: Option<Vxlan>,
    /// As a port of a bridge.
    pub port: Option<BridgePort>,
    /// As a bridge.
    pub bridge: Option<Bridge>,
    /// An XDP program runs on what it receives.
    pub xdp: Option<Xdp>,
    /// Of a macvlan: with whom it talks, `MACVLAN_MODE_*` in the words of `ip link`.
    pub macvlan: Option<&'static str>,
    /// `IFF_NOARP`: never asks for neighbours.
    pub is_noarp: bool,
    /// Largest GSO packet, bytes (`IFLA_GSO_MAX_SIZE`), 0 when it was not told.
    pub gso_max: u32,
    /// Most segments of one (`IFLA_GSO_MAX_SEGS`), 0 when it was not told.
    pub gso_segments: u32,
    /// Packets that its queue holds (`IFLA_TXQLEN`).
    pub queue_length: u32,
}

/// Settings of a bridge's port (`IFLA_BRPORT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgePort {
    /// `BR_STATE_*`: 0 disabled, 1 listening, 2 learning, 3 forwarding, 4 blocking.
    pub state: u8,
    /// Frames may leave by the port that they came in by.
    pub hairpin: bool,
    /// Does not talk to other isolated ports.
    pub isolated: bool,
    /// Learns addresses from frames.
    pub learning: bool,
    /// Frames to unknown addresses leave by it.
    pub unicast_flood: bool,
    /// Broadcasts leave by it.
    pub broadcast_flood: bool,
    /// Multicasts to groups that nobody was heard to join leave by it.
    pub multicast_flood: bool,
    /// Answers ARP for its neighbours itself.
    pub neigh_suppress: bool,
    /// Takes frames only from addresses that an entry has behind it (`BR_PORT_LOCKED`, since 5.18).
    pub locked: bool,
}

/// Settings of a bridge (`IFLA_BR_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// Spanning tree protocol runs.
    pub stp: bool,
    /// VLANs are told apart.
    pub vlan_filtering: bool,
    /// Seconds in listening and learning each, times 100.
    pub forward_delay: u32,
    /// IPv6 multicasts leave only where somebody was heard to join their group: it snoops, and
    /// somebody asks who has joined (`br_multicast_querier_exists`).
    pub snoops_v6: bool,
}

/// An XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xdp {
    /// `XDP_ATTACHED_*`: 1 driver, 2 generic, 3 offloaded.
    pub mode: u8,
    /// Program id.
    pub prog: u32,
}

/// The device at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its namespace, if that is known.
    pub netns: Option<Inum>,
    /// Its interface index there.
    pub ifindex: u32,
}

/// VXLAN parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vxlan {
    /// Network identifier.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Local outer address.
    pub local: Option<IpAddr>,
    /// Remote end, or group, of what the forwarding database does not know.
    pub remote: Option<IpAddr>,
    /// Learns remote ends from frames.
    pub learning: bool,
}

/// What a device is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceKind {
    /// Hardware, or a driver without an rtnetlink kind: what it sends leaves this node.
    #[default]
    Physical,
    /// Loopback.
    Loopback,
    /// One end of a veth pair.
    Veth,
    /// A bridge.
    Bridge,
    /// A VXLAN tunnel end.
    Vxlan,
    /// Another kind, by its rtnetlink name (`macvlan`, `tun`, `dummy`, …).
    Other(String),
}

impl DeviceKind {
    /// What comes in by such a device came in inside another packet, by another device.
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        const OF_EITHER_FAMILY: &[&str] = &[
            "gre",
            "gretap",
            "erspan",
            "geneve",
            "ipip",
            "sit",
            "tnl",
            "vti",
            "vti6",
            "xfrm",
            "wireguard",
        ];
        match self {
            Self::Vxlan => true,
            Self::Other(kind) => OF_EITHER_FAMILY.contains(&kind.trim_start_matches("ip6")),
            _ => false,
        }
    }
}

impl Netns {
    /// Its settings.
    #[must_use]
    pub fn sysctls(&self) -> Sysctls {
        Sysctls {
            forwards_v4: self.forwards_v4,
            forwards_v6: self.forwards_v6,
            has_ipv6: self.has_ipv6,
        }
    }

    /// Takes over new settings.
    pub fn set_sysctls(&mut self, sysctls: Sysctls) {
        self.forwards_v4 = sysctls.forwards_v4;
        self.forwards_v6 = sysctls.forwards_v6;
        self.has_ipv6 = sysctls.has_ipv6;
    }
}

impl NetworkState {
    /// The device `ifindex` of namespace `netns`.
    #[must_use]
    pub fn device(&self, netns: Inum, ifindex: u32) -> Option<&Device> {
        self.netns.get(&netns)?.devices.get(&ifindex)
    }

    /// The name of a namespace; `net:[INUM]` when it is not known.
    #[must_use]
    pub fn netns_name(&self, netns: Inum) -> String {
        self.netns.get(&netns).map_or_else(|| format!("net:[{netns}]"), |n| n.name.clone())
    }

    /// The namespaces that hold `addr`.
    pub fn holders(&self, addr: IpAddr) -> impl Iterator<Item = &Netns> {
        self.netns.values().filter(move |n| {
            n.devices.values().any(|d| d.addresses.iter().any(|(a, _)| *a == addr))
        })
    }
}
