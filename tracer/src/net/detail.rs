//! What a namespace is configured to do with packets, beside its devices: read on demand by
//! [`mod@super::inspect`], plain data like the rest of [`NetworkState`](super::NetworkState).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::Mac;
use crate::firewall::Firewall;

/// A destination and its length in bits.
pub type Prefix = (IpAddr, u8);

/// The configuration of one namespace. What could not be read is empty and named in `unread`: an
/// empty list alone proves nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// All tables, IPv4 and IPv6, in the kernel's order.
    pub routes: Vec<Route>,
    /// IPv6 addresses that are not simply there: unusable yet, or learned from a router.
    pub v6_addresses: Vec<AddressState>,
    /// Policy routing, by ascending priority.
    pub rules: Vec<RoutingRule>,
    /// ARP and neighbour discovery.
    pub neighbours: Vec<Neighbour>,
    /// Forwarding databases of bridges and tunnels.
    pub fdb: Vec<FdbEntry>,
    /// VLANs of bridges and of their ports (`bridge vlan show`); `None` when they were not read.
    pub vlans: Option<Vec<PortVlan>>,
    /// Who joined which multicast group of a bridge (`bridge mdb show`); `None` when not read.
    pub groups: Option<Vec<Membership>>,
    /// Settings below `/proc/sys/net`, the path as key: `ipv4/conf/eth0/rp_filter`.
    pub sysctls: BTreeMap<String, String>,
    /// Rules of every flavour.
    pub firewall: Firewall,
    /// Sockets that take what comes: TCP in LISTEN, UDP and raw bound to a port.
    pub sockets: Vec<Socket>,
    /// TCP connections, TIME-WAIT included, to the ends that they were counted for.
    pub connections: BTreeMap<SocketAddr, u32>,
    /// Counters by the names that `nstat` uses (`IpInAddrErrors`, `TcpExtListenDrops`), devices'
    /// as `if.DEV.tx_dropped`, conntrack's as `ct.insert_failed`.
    pub counters: BTreeMap<String, u64>,
    /// Classifiers and programs at tc hooks.
    pub tc: Vec<TcFilter>,
    /// IPsec policies (`ip xfrm policy`).
    pub xfrm: Vec<XfrmPolicy>,
    /// IPVS virtual servers.
    pub ipvs: Vec<IpvsService>,
    /// Connection tracking entries now; their limit.
    pub conntrack: Option<(u64, u64)>,
    /// `/etc/resolv.conf` as the processes in it see it, where that is known.
    pub resolver: Option<Resolver>,
    /// Their `/etc/hosts`, where that is known.
    pub hosts: Option<Hosts>,
    /// What could not be read, and why; one sentence each.
    pub unread: Vec<String>,
}

/// What the kernel thinks of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressState {
    /// Interface index.
    pub dev: u32,
    /// The address.
    pub addr: IpAddr,
    /// Duplicate address detection found it in use: the kernel does not use it.
    pub is_failed: bool,
    /// Duplicate address detection is not over: the kernel does not use it yet.
    pub is_tentative: bool,
    /// With a lifetime: from a router's advertisement, or DHCP.
    pub is_learned: bool,
}

/// A VLAN that a port of a bridge, or the bridge for itself, is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortVlan {
    /// Interface index of the port, or of the bridge.
    pub dev: u32,
    /// First and last VLAN id: neighbouring ids with the same flags are told together.
    pub vids: (u16, u16),
    /// Untagged frames that come in are in it.
    pub is_pvid: bool,
    /// Its frames leave without a tag.
    pub is_untagged: bool,
}

/// A route (`RTM_NEWROUTE`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination; length 0 is the default route.
    pub dst: Prefix,
    /// What it does.
    pub kind: RouteType,
    /// Table number: 254 main, 255 local.
    pub table: u32,
    /// `RTA_PRIORITY`; lower wins.
    pub metric: u32,
    /// Next hops; more than one is multipath.
    pub hops: Vec<NextHop>,
    /// The nexthop object that the hops, and a refusal, are of (`RTA_NH_ID`).
    pub nexthop: Option<u32>,
    /// `RTA_PREFSRC`.
    pub prefsrc: Option<IpAddr>,
    /// `RTAX_MTU`, bytes.
    pub mtu: Option<u32>,
    /// What else it limits connections to.
    pub limits: RouteLimits,
    /// `RTPROT_*`.
    pub protocol: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
}

impl Route {
    /// To a destination by these hops, as `ip route add` makes it in table main, and without limits.
    #[must_use]
    pub fn to(dst: Prefix, hops: Vec<NextHop>) -> Self {
        const MAIN: u32 = 254;
        const BOOT: u8 = 3;
        Self {
            dst,
            kind: RouteType::Unicast,
            table: MAIN,
            metric: 0,
            hops,
            nexthop: None,
            prefsrc: None,
            mtu: None,
            limits: RouteLimits::default(),
            protocol: BOOT,
            scope: 0,
        }
    }
}

/// What a route limits the TCP connections to that go by it (`ip route … window N`); absent is no
/// limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteLimits {
    /// `RTAX_WINDOW`: the window that they offer, bytes.
    pub window: Option<u32>,
    /// `RTAX_CWND`: segments under way.
    pub cwnd: Option<u32>,
    /// `RTAX_ADVMSS`: the segments that they ask for, bytes.
    pub advmss: Option<u32>,
    /// `RTAX_INITCWND`: segments that they begin with.
    pub initcwnd: Option<u32>,
    /// `RTAX_INITRWND`: segments that they offer room for at first.
    pub initrwnd: Option<u32>,
    /// `RTAX_RTO_MIN`: how long they wait at least before they send again, milliseconds.
    pub rto_min: Option<u32>,
}

/// One way of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHop {
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Interface index.
    pub dev: Option<u32>,
    /// `RTNH_F_*`: dead 1, onlink 4, linkdown 16.
    pub flags: u32,
    /// Share, from 1.
    pub weight: u32,
}

/// Type of a route or a routing rule's action (`RTN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteType {
    /// Towards a device.
    Unicast,
    /// To this namespace itself.
    Local,
    /// To everybody on the link.
    Broadcast,
    /// To a group.
    Multicast,
    /// Silently discarded.
    Blackhole,
    /// Refused with "host unreachable".
    Unreachable,
    /// Refused with "administratively prohibited".
    Prohibit,
    /// The look-up goes on in the next rule.
    Throw,
    /// Anything else.
    Other(u8),
}

/// A policy routing rule (`RTM_NEWRULE`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutingRule {
    /// Lower comes first.
    pub priority: u32,
    /// IPv6.
    pub is_v6: bool,
    /// Source.
    pub src: Option<Prefix>,
    /// Destination.
    pub dst: Option<Prefix>,
    /// Input device.
    pub iif: Option<String>,
    /// Output device (of local sockets bound to it).
    pub oif: Option<String>,
    /// Mark and its mask.
    pub mark: Option<(u32, u32)>,
    /// Matches what the rest does not.
    pub invert: bool,
    /// Matches on things that are not modelled (ports, uid, tos, …), in `ip rule`'s words.
    pub other: Option<String>,
    /// What to do.
    pub action: RuleAction,
}

impl RoutingRule {
    /// One that every packet of a family meets.
    #[must_use]
    pub fn plain(priority: u32, is_v6: bool, action: RuleAction) -> Self {
        Self {
            priority,
            is_v6,
            src: None,
            dst: None,
            iif: None,
            oif: None,
            mark: None,
            invert: false,
            other: None,
            action,
        }
    }
}

/// What a routing rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Look up a table. A result whose prefix is not longer than the number is ignored
    /// (`suppress_prefixlength`).
    Lookup(u32, Option<u32>),
    /// End as such a route would.
    End(RouteType),
    /// Anything else (`goto`, `nop`).
    Other,
}

/// A neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Interface index.
    pub dev: u32,
    /// Address.
    pub addr: IpAddr,
    /// Link-layer address.
    pub mac: Option<Mac>,
    /// `NUD_*`.
    pub state: u16,
    /// `ip neigh add proxy`.
    pub is_proxy: bool,
}

/// A forwarding database entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// The port, or the tunnel device itself.
    pub dev: u32,
    /// The bridge, when the entry is the bridge's (`master`), not the device's own (`self`).
    pub bridge: Option<u32>,
    /// Address.
    pub mac: Mac,
    /// VLAN.
    pub vlan: Option<u16>,
    /// Remote tunnel end.
    pub remote: Option<IpAddr>,
    /// `NUD_*`: permanent (0x80) for a device's own address, noarp (0x40) for static.
    pub state: u16,
    /// Learned by traffic, not configured.
    pub is_learned: bool,
    /// `NTF_STICKY`: stays at its port.
    pub is_sticky: bool,
}

/// A member of a multicast group, as a bridge has heard it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The bridge.
    pub bridge: u32,
    /// The port, or the bridge itself.
    pub dev: u32,
    /// The group; `None`: a router is there, which takes them all.
    pub group: Option<IpAddr>,
}

/// A socket that takes what comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// IP protocol number.
    pub proto: u8,
    /// Local address; unspecified means any. `::` takes IPv4 too unless `v6only`.
    pub addr: IpAddr,
    /// Local port; 0 for raw sockets, which take their whole protocol.
    pub port: u16,
    /// `IPV6_V6ONLY`.
    pub v6only: bool,
    /// Connected to, for UDP.
    pub peer: Option<(IpAddr, u16)>,
    /// TCP LISTEN: connections waiting for accept. UDP: bytes waiting to be read.
    pub queued: u32,
    /// TCP LISTEN: the backlog. UDP: receive buffer in bytes.
    pub limit: u32,
    /// Datagrams that this socket dropped.
    pub drops: u64,
    /// Bound to this device (`SO_BINDTODEVICE`).
    pub dev: Option<u32>,
    /// Its process: PID and command name, where it could be found.
    pub process: Option<(u32, String)>,
}

/// A classifier or program at a tc hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcFilter {
    /// Interface index.
    pub dev: u32,
    /// Of packets that come in; else of those that go out.
    pub is_ingress: bool,
    /// `u32`, `bpf`, `matchall`, `tcx`, `netkit`, …
    pub kind: String,
    /// Program name or a short description.
    pub text: String,
    /// Preference and handle, as `tc filter del` wants them, where there are.
    pub place: Option<(u32, u32)>,
    /// It has an action that drops.
    pub drops: bool,
}

impl TcFilter {
    /// A queueing discipline that loses or delays by design, not a filter.
    #[must_use]
    pub fn is_queue(&self) -> bool {
        self.place.is_none() && self.text.starts_with("qdisc ")
    }
}

/// An IPsec policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XfrmPolicy {
    /// Source selector.
    pub src: Prefix,
    /// Destination selector.
    pub dst: Prefix,
    /// `in`, `out` or `fwd`.
    pub direction: String,
    /// Blocks; else it allows or transforms.
    pub blocks: bool,
    /// Wants a transformation: plain packets do not satisfy it.
    pub has_template: bool,
}

/// An IPVS virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpvsService {
    /// IP protocol number; 0 with a mark.
    pub proto: u8,
    /// Address.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// Firewall mark instead.
    pub mark: u32,
    /// Scheduler (`rr`, …).
    pub scheduler: String,
    /// Address, port, weight of its real servers.
    pub servers: Vec<(IpAddr, u16, u32)>,
}

/// `hosts(5)`: names that are looked up before any server is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// The file that was read.
    pub path: String,
    /// Addresses and their names, in order.
    pub entries: Vec<(IpAddr, Vec<String>)>,
}

impl Hosts {
    /// The address that the file gives a name: of several, the first of IPv4.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<IpAddr> {
        let name = name.trim_end_matches('.').to_lowercase();
        let all = || self.entries.iter().filter(|(_, names)| names.contains(&name));
        let first_v4 = all().find(|(addr, _)| addr.is_ipv4());
        first_v4.or_else(|| all().next()).map(|(addr, _)| *addr)
    }
}

/// `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// The file that was read.
    pub path: String,
    /// In order.
    pub nameservers: Vec<IpAddr>,
    /// In order.
    pub search: Vec<String>,
    /// Names with at least so many dots are tried as they are first.
    pub ndots: u8,
    /// Every name server has its turn to be asked first (`options rotate`).
    pub rotates: bool,
}
