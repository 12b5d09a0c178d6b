//! What can be in a packet's way, each with the fact of the configuration that makes it so.

use std::net::IpAddr;

use super::{Leg, Zone};
use crate::firewall::{Counter, Flavour};
use crate::journey::Hook;
use crate::net::detail::{
    FdbEntry, IpvsService, NextHop, Route, RouteType, RoutingRule, Socket, TcFilter, XfrmPolicy,
};
use crate::net::{Inum, Mac, Xdp};

/// Whether so many per cent of what there is are in use.
pub(super) fn is_used_up(used: u64, of: u64, percent: u64) -> bool {
    of > 0 && used.saturating_mul(100) >= of.saturating_mul(percent)
}

/// Something in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What.
    pub kind: ObstacleKind,
    /// What it does to the packet.
    pub effect: Effect,
    /// Where it is.
    pub place: Place,
    /// Which packet it meets.
    pub leg: Leg,
}

impl Obstacle {
    /// The packet does not arrive unless this is healed.
    #[must_use]
    pub fn stops(&self) -> bool {
        self.effect == Effect::Stops
    }
}

/// A namespace, and a device in it where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Namespace.
    pub netns: Inum,
    /// Interface index.
    pub dev: Option<u32>,
}

/// What an obstacle does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// The packet does not get past.
    Stops,
    /// It may: that hangs on something configuration does not tell.
    MayStop,
    /// It gets past, in a worse way.
    Degrades,
}

/// What a bridge sends out by all its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Frames to an address of which it does not know where it is.
    Unicast,
    /// Broadcasts: questions of ARP.
    Broadcast,
    /// Multicasts: questions of neighbour discovery.
    Multicast,
}

/// A firewall rule, or the policy of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// Whose.
    pub flavour: Flavour,
    /// `ip`, `ip6`, `inet`, `bridge`, `arp`, `netdev`.
    pub family: String,
    /// Table.
    pub table: String,
    /// The command that changes the table (`iptables`, `nft`, …).
    pub command: String,
    /// Chains jumped through to get there, outermost first.
    pub via: Vec<String>,
    /// Chain.
    pub chain: String,
    /// Position in its chain, from 1; `None` for the chain's policy.
    pub number: Option<usize>,
    /// nftables handle.
    pub handle: Option<u64>,
    /// As its tool prints it.
    pub text: String,
    /// Its comment.
    pub comment: Option<String>,
    /// What it has counted.
    pub counter: Option<Counter>,
}

/// Kinds of obstacles, in the order in which a packet can meet them. Devices, where a field says
/// `dev` or `port`, are interface indices in the namespace of the obstacle's [`Place`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObstacleKind {
    // --- where packets are made
    /// The sender has no address that it could send from (`ENETUNREACH`).
    NoSource {
        /// Devices that are there, besides `lo`: none means that its link is missing.
        devices: Vec<u32>,
    },
    /// The source address asked for is on no device of the sender.
    SourceNotLocal { addr: IpAddr },
    /// IPv6 is disabled in the namespace, or on one device of it: the sysctl's path below
    /// `/proc/sys/net`.
    NoIpv6 { sysctl: String },
    /// A link of less than 1280 bytes has no IPv6 (`IPV6_MIN_MTU`): its addresses and routes are
    /// gone.
    MtuBelowIpv6 { dev: u32, mtu: u32 },
    /// `ip_local_port_range` leaves few ports for connections (`is_few`), or so many connections to
    /// the same end use nearly all that it leaves.
    FewPorts { is_few: bool, used: u32 },

    // --- routing
    /// No route (and no default route, when `has_default` is false).
    NoRoute { dst: IpAddr, has_default: bool },
    /// A route that refuses: blackhole, unreachable, prohibit.
    RouteRefuses { route: Route },
    /// A policy rule that refuses.
    RuleRefuses { rule: Box<RoutingRule>, kind: RouteType },
    /// A policy rule leads another way than the main table alone would.
    Diverted { rule: Box<RoutingRule>, taken: Box<Route>, main: Option<Box<Route>> },
    /// The route's next hop is marked dead or without link.
    DeadNextHop { route: Route, hop: NextHop },
    /// The route's device does not exist.
    NoSuchDevice { route: Box<Route>, dev: u32 },
    /// A private destination that only the default route covers leaves by it.
    OnlyDefaultRoute { dst: IpAddr, route: Box<Route>, holder: Option<(Inum, u32)> },
    /// Forwarding is off: the sysctl's path below `/proc/sys/net`.
    ForwardingOff { sysctl: String },
    /// Reverse path filtering drops it: the way back goes by `back`.
    ReversePath { sysctl: String, strict: bool, src: IpAddr, back: Option<u32> },
    /// The source address is one of this namespace's own, on `dev`.
    OwnSource { src: IpAddr, dev: u32 },
    /// An address that may not be seen on a link (`127.0.0.0/8`, multicast source, …).
    Martian { addr: IpAddr },
    /// `127.0.0.0/8` may not be routed here while this sysctl is 0.
    RouteLocalnetOff { sysctl: String },
    /// TTL ends, in a loop or because it was low.
    TtlExceeded,

    // --- firewall
    /// Dropped by a rule or a chain's policy. `is_reject`: the sender is told.
    Filtered { hook: Option<Hook>, rule: RuleRef, is_reject: bool },
    /// A rule that cannot be decided from configuration may drop it.
    MayBeFiltered { hook: Option<Hook>, rule: RuleRef, why: String },
    /// Conntrack looks for the answer in another zone than the one that it keeps the connection in.
    OtherZone { kept: Box<Zone>, sought: Box<Zone> },
    /// Conntrack takes the packet for invalid, as the other direction was not tracked by `rule`.
    Untracked { rule: Option<RuleRef> },
    /// The conntrack table is (nearly) full: entries, limit.
    ConntrackFull { entries: u64, limit: u64 },
    /// An IPsec policy blocks it, or wants it encrypted.
    IpsecPolicy { policy: XfrmPolicy },
    /// An IPVS service without real servers.
    NoRealServer { service: IpvsService },

    // --- translation
    /// The address is nobody's; rules that translate this very destination exist in chains that
    /// this packet does not come to.
    Untranslated { dst: IpAddr, dport: u16, unreached: Vec<RuleRef> },
    /// The rule leads here to a chain that has no rule, and so nothing translates. `asked`: the
    /// comment of the rule that leads there for this address or port alone.
    EmptyChain { jump: RuleRef, chain: String, asked: Option<String> },
    /// The rules of a chain spread connections at random, and leave this share, in percent, to
    /// nobody: `rule` is the last of them.
    Unspread { rule: RuleRef, percent: u8 },
    /// Leaves for the outside with a private source address: no answer will find back. `rules`
    /// are the masquerading and SNAT rules that there are and that did not hold.
    PrivateSource { src: IpAddr, rules: Vec<RuleRef> },
    /// Translated to a source address that this namespace does not hold.
    ForeignSource { addr: IpAddr, rule: RuleRef },
    /// A reply is bridged past the namespace that would translate it back: `br_netfilter` is off
    /// (the sysctl), and both ends are on one bridge.
    BypassesNat { sysctl: String, bridge: u32 },
    /// The answer comes back with another source than the client expects: `bypassed` translated
    /// the request and does not see the answer.
    AnswerFromElsewhere { expected: IpAddr, got: IpAddr, bypassed: Inum },

    // --- devices
    /// Administratively down.
    DeviceDown { dev: u32 },
    /// Up, but without carrier, and not because its other end is down.
    NoCarrier { dev: u32 },
    /// An XDP program takes what the device receives.
    XdpProgram { dev: u32, xdp: Xdp },
    /// A tc filter or program is at the device.
    TcProgram { filter: TcFilter },
    /// Longer than the device, or the route, takes. `error` says whether an ICMP error tells the
    /// sender (path MTU discovery then repairs it).
    TooLong { dev: u32, mtu: u32, len: u32, tells_sender: bool },
    /// Cut into fragments at `dev`: fragments get lost where anything drops them.
    Fragmented { dev: u32, mtu: u32, len: u32 },
    /// A macvlan or ipvlan device and the device below it do not talk to each other.
    ParentIsolated { dev: u32, parent: u32 },

    /// Devices on top of one device that do not talk to each other: those that are not in mode
    /// `bridge`, each with its mode.
    SiblingsApart { apart: Vec<((Inum, u32), &'static str)> },

    // --- bridges
    /// A bridge that is down takes no frames.
    BridgeDown { bridge: u32 },
    /// A bridge without any port to send by.
    NoPorts { bridge: u32 },
    /// The device that leads to the destination is up, but a port of no bridge (or of another
    /// one): `bridge` is the one that its neighbours are on.
    NotAPort { dev: u32, bridge: u32 },
    /// Two bridges of one namespace that hold the ends of one network, and nothing joins them.
    BridgesApart { bridge: u32, other: u32 },
    /// A port that does not forward (`BR_STATE_*`).
    PortState { port: u32, state: u8 },
    /// Both ports are isolated.
    PortsIsolated { from: u32, to: u32 },
    /// A locked port, and no entry has the frame's source behind it.
    PortLocked { port: u32, mac: Mac },
    /// Would leave by the port that it came in by.
    HairpinOff { port: u32 },
    /// Does not flood frames of this kind by this port.
    FloodOff { port: u32, flood: Flood },
    /// A bridge that snoops has heard nobody behind `port` join the group (IPv6 asks for
    /// neighbours in groups). `silenced`: the rule by which a host keeps its reports to itself.
    NotInGroup { bridge: u32, port: u32, group: IpAddr, silenced: Option<(Inum, Box<RuleRef>)> },
    /// The forwarding database points to another port than the one behind which the address is.
    FdbElsewhere { entry: FdbEntry, actual: Option<u32> },
    /// The bridge tells VLANs apart, and which ports are in which could not be read.
    VlanFiltering { bridge: u32 },
    /// A bridge that tells VLANs apart lets the frame neither in nor out by `port` (or not up to
    /// itself, where `port` is the bridge): it is not in VLAN `vid`; with `None`, untagged frames
    /// are in no VLAN there. The frame came in by `from`.
    NotInVlan { bridge: u32, port: u32, from: u32, vid: Option<u16>, is_tagged: bool },
    /// Comes with a VLAN tag to a device without a subinterface for it. `sent`: the subinterface
    /// that put it on, or the bridge's port that left it on.
    UnknownTag { dev: u32, vid: u16, sent: Option<(Inum, u32)> },

    // --- neighbours
    /// Nobody on this link answers for the address. `elsewhere`: who holds it, not reached from
    /// here. `bare`: namespaces that have no device but `lo`. `unaddressed`: devices on the link
    /// that have no address of that family.
    NobodyAnswers {
        addr: IpAddr,
        elsewhere: Vec<(Inum, u32)>,
        bare: Vec<Inum>,
        unaddressed: Vec<(Inum, u32)>,
    },
    /// Resolution failed or is under way, and the link leads out of the view (`NUD_*`).
    ResolutionFailed { addr: IpAddr, state: u16 },
    /// The neighbour entry has another link-layer address than the holder.
    WrongNeighbour { addr: IpAddr, has: Mac, actual: Option<Mac>, is_permanent: bool },
    /// No entry on a device that cannot ask (`noarp`, a tunnel that does not flood).
    NoNeighbour { addr: IpAddr },
    /// Duplicate address detection has found the holder's address in use (or, not `is_failed`, is
    /// not over), so that its kernel does not use it.
    Unverified { addr: IpAddr, is_failed: bool },
    /// A router on the link has a route to the address, and no entry by which it would answer
    /// neighbour solicitations for it.
    ProxyNdpOff { addr: IpAddr, sysctl: Option<String> },
    /// Several devices on the link hold the address.
    DuplicateAddress { addr: IpAddr, holders: Vec<(Inum, u32)> },
    /// Several devices on the link have the same link-layer address.
    DuplicateMac { mac: Mac, holders: Vec<(Inum, u32)> },
    /// The holder does not answer because of its setting.
    ArpIgnore { sysctl: String, value: u32 },
    /// The holder answers only on the device that routes back to the asker.
    ArpFilter { sysctl: String },
    /// `IFF_NOARP` on the holder's device: it does not answer.
    NoArp { dev: u32 },
    /// The router does not answer for what lies behind it.
    ProxyArpOff { sysctl: String, addr: IpAddr },
    /// Proxy ARP is on, but the router has no way to the address, or only back to the asker.
    ProxyArpNoRoute { addr: IpAddr },
    /// A frame for another device: dropped by who receives it.
    NotForMe { frame: Mac, dev: Option<Mac> },
    /// Nobody on the link has that link-layer address.
    NobodyHasMac { mac: Mac },

    // --- tunnels
    /// The tunnel's forwarding database does not say where that address is.
    NoTunnelEntry { mac: Mac },
    /// It says another remote end than the one that has it.
    WrongTunnelEntry { entry: FdbEntry, actual: IpAddr },
    /// The remote end that it says is this namespace's own address: frames come back to it.
    TunnelToItself { remote: IpAddr, end: Option<(Inum, u32)> },
    /// The tunnel's local address is on no device.
    TunnelSourceGone { local: IpAddr },
    /// The receiver has no tunnel with this network identifier; `has`: what it has.
    VniUnknown { vni: u32, has: Vec<u32> },
    /// The receiver's tunnel listens at another port.
    TunnelPort { sent: u16, listens: Vec<u16> },
    /// The receiver's tunnel is down, and so listens no more.
    TunnelDown { dev: u32 },
    /// No tunnel at the receiver at all.
    NoTunnel { vni: u32 },

    // --- delivery
    /// Nobody listens at the port; `others`: sockets of the same protocol there.
    NoListener { port: u16, others: Vec<Socket> },
    /// Somebody listens at the port, but not at this address.
    ListensElsewhere { sockets: Vec<Socket> },
    /// The accept queue or the receive buffer is full.
    QueueFull { socket: Socket },
    /// Something waits in the queue: the process does not take it (quickly).
    NotServed { socket: Socket },
    /// Echo requests are not answered.
    EchoIgnored { sysctl: String },
}
