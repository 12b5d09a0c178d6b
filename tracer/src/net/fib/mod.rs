//! What a namespace's routing does with a packet, looked up in its [`Detail`](super::detail) as
//! the kernel does it: rules by priority, tables, longest prefix, metric, next hops.
//!
//! Pure. Where the kernel asks what is not modelled (ports, users, hashes over several next
//! hops), the answer says so instead of guessing ([`FibResult::doubts`]).

use std::net::IpAddr;

use super::Mac;
use super::detail::{
    FdbEntry, Neighbour, NextHop, Prefix, Route, RouteType, RoutingRule, RuleAction,
};
use super::state::{Device, DeviceKind, Netns};

/// Table of the namespace's own addresses.
pub const TABLE_LOCAL: u32 = 255;
/// Table of `ip route` without a table.
pub const TABLE_MAIN: u32 = 254;

const RTNH_F_DEAD: u32 = 1;
const RTNH_F_LINKDOWN: u32 = 16;

/// What is looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FibQuery {
    /// Destination; `None` has no route.
    pub dst: Option<IpAddr>,
    /// Source, where it is chosen already.
    pub src: Option<IpAddr>,
    /// Input device of a packet that came in; `None` for one that is sent here.
    pub iif: Option<u32>,
    /// Output device that the sender is bound to.
    pub oif: Option<u32>,
    /// `skb->mark`, or the socket's.
    pub mark: u32,
    /// Only this table: where it is known which one decided.
    pub table: Option<u32>,
}

impl FibQuery {
    /// A packet to `dst` that is sent here.
    #[must_use]
    pub fn to(dst: IpAddr) -> Self {
        Self { dst: Some(dst), ..Self::default() }
    }

    /// A packet from `src` to `dst` that came in by `iif`.
    #[must_use]
    pub fn input(src: IpAddr, dst: IpAddr, iif: u32) -> Self {
        Self { dst: Some(dst), src: Some(src), iif: Some(iif), ..Self::default() }
    }
}

/// The outcome of a look-up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FibResult<'a> {
    /// The rule that decided.
    pub rule: Option<&'a RoutingRule>,
    /// The table that decided.
    pub table: Option<u32>,
    /// The route that decided.
    pub route: Option<&'a Route>,
    /// The next hop; with several that are alike (multipath), the first that is alive.
    pub hop: Option<&'a NextHop>,
    /// The device: that of the next hop; or the one that the sender is bound to, which IPv4 takes
    /// for on-link when it finds no route (`ip_route_output_key_hash_rcu`).
    pub dev: Option<u32>,
    /// What becomes of it; `None` when nothing matches ("network is unreachable").
    pub kind: Option<RouteType>,
    /// The source address that a sender without one gets.
    pub src: Option<IpAddr>,
    /// Rules on the way that match on more than is known here, and so may decide otherwise.
    pub doubts: Vec<&'a RoutingRule>,
}

impl FibResult<'_> {
    /// The packet goes on to a device, or to this namespace itself.
    #[must_use]
    pub fn is_success(&self) -> bool {
        use RouteType::{Broadcast, Local, Multicast, Unicast};
        matches!(self.kind, Some(Unicast | Local | Broadcast | Multicast))
    }

    /// The device that it leaves by, and the neighbour that it is sent to there.
    #[must_use]
    pub fn towards(&self, dst: IpAddr) -> Option<(u32, IpAddr)> {
        let dev = self.dev.filter(|_| self.is_success())?;
        Some((dev, self.hop.and_then(|hop| hop.via).unwrap_or(dst)))
    }
}

/// Looks up a route. Without the namespace's detail, nothing is found.
#[must_use]
pub fn lookup<'a>(netns: &'a Netns, query: &FibQuery) -> FibResult<'a> {
    let mut result = FibResult::default();
    let (Some(detail), Some(dst)) = (&netns.detail, query.dst) else { return result };
    if let Some(table) = query.table {
        if let Some(found) = in_table(netns, query, dst, table) {
            found.enter(&mut result, table);
        }
    } else {
        for rule in detail.rules.iter().filter(|rule| rule.is_v6 == dst.is_ipv6()) {
            if !applies(netns, rule, query, dst) {
                continue;
            }
            if rule.other.is_some() {
                result.doubts.push(rule);
                continue;
            }
            match rule.action {
                RuleAction::End(kind) => {
                    (result.rule, result.kind) = (Some(rule), Some(kind));
                    break;
                }
                RuleAction::Lookup(table, suppress) => {
                    let Some(found) = in_table(netns, query, dst, table) else { continue };
                    let is_short = suppress.is_some_and(|n| u32::from(found.route.dst.1) <= n);
                    if is_short && found.hop.is_some() {
                        continue;
                    }
                    result.rule = Some(rule);
                    found.enter(&mut result, table);
                    break;
                }
                RuleAction::Other => result.doubts.push(rule),
            }
        }
    }
    let is_bound = dst.is_ipv4() && query.iif.is_none() && query.table.is_none();
    if !result.is_success() && is_bound && query.oif.is_some() {
        let (dev, kind) = (query.oif, Some(RouteType::Unicast));
        result = FibResult { dev, kind, doubts: result.doubts, ..FibResult::default() };
    }
    if result.is_success() {
        result.src = query.src.or_else(|| source(netns, &result, dst));
    }
    result
}

/// What one table says.
struct Found<'a> {
    route: &'a Route,
    hop: Option<&'a NextHop>,
}

impl<'a> Found<'a> {
    fn enter(self, result: &mut FibResult<'a>, table: u32) {
        result.table = Some(table);
        result.route = Some(self.route);
        result.hop = self.hop;
        result.dev = self.hop.and_then(|hop| hop.dev);
        result.kind = Some(self.route.kind);
    }
}

/// Whether a rule is about the packet (`fib_rule_match`). What is sent here comes, to rules, from
/// `lo`.
fn applies(netns: &Netns, rule: &RoutingRule, query: &FibQuery, dst: IpAddr) -> bool {
    let name = |ifindex: u32| netns.devices.get(&ifindex).map(|d| d.name.as_str());
    let input = query.iif.map_or(Some("lo"), name);
    let is_match = rule.iif.as_deref().is_none_or(|iif| Some(iif) == input)
        && rule.oif.as_deref().is_none_or(|oif| Some(oif) == query.oif.and_then(name))
        && rule.mark.is_none_or(|(value, mask)| (query.mark ^ value) & mask == 0)
        && rule.dst.is_none_or(|prefix| contains(prefix, dst))
        && rule.src.is_none_or(|prefix| query.src.is_some_and(|src| contains(prefix, src)));
    is_match != rule.invert
}

/// The longest prefix of a table with a usable next hop; of those, the least metric. `None` when
/// there is none, or when it is a `throw`.
fn in_table<'a>(netns: &'a Netns, query: &FibQuery, dst: IpAddr, table: u32) -> Option<Found<'a>> {
    let detail = netns.detail.as_ref()?;
    let mut routes: Vec<&Route> = detail
        .routes
        .iter()
        .filter(|route| route.table == table && contains(route.dst, dst))
        .collect();
    // Stable: among equals, the kernel's order.
    routes.sort_by_key(|route| (std::cmp::Reverse(route.dst.1), route.metric));
    for route in routes {
        match route.kind {
            RouteType::Throw => return None,
            RouteType::Blackhole | RouteType::Unreachable | RouteType::Prohibit => {
                return Some(Found { route, hop: None });
            }
            _ => {}
        }
        let hop = route.hops.iter().find(|hop| is_usable(netns, hop, query, dst.is_ipv6()));
        if hop.is_some() {
            return Some(Found { route, hop });
        }
    }
    None
}

/// `fib_lookup_good_nhc`: a next hop without a link serves unless the device's setting says no.
fn is_usable(netns: &Netns, hop: &NextHop, query: &FibQuery, is_v6: bool) -> bool {
    let ignores_linkdown = || {
        let dev = hop.dev.and_then(|dev| netns.devices.get(&dev));
        let family = if is_v6 { "ipv6" } else { "ipv4" };
        let set = |dev: &str| {
            let key = format!("{family}/conf/{dev}/ignore_routes_with_linkdown");
            sysctl(netns, &key) == Some("1")
        };
        set("all") || dev.is_some_and(|dev| set(&dev.name))
    };
    hop.flags & RTNH_F_DEAD == 0
        && (hop.flags & RTNH_F_LINKDOWN == 0 || !ignores_linkdown())
        && query.oif.is_none_or(|oif| hop.dev == Some(oif))
}

/// The source address of a packet that is sent here (`fib_result_prefsrc`, RFC 6724 in brief).
fn source(netns: &Netns, result: &FibResult<'_>, dst: IpAddr) -> Option<IpAddr> {
    if let Some(src) = result.route.and_then(|route| route.prefsrc) {
        return Some(src);
    }
    if result.kind == Some(RouteType::Local) {
        return Some(dst);
    }
    let device = netns.devices.get(&result.dev?)?;
    let via = result.hop.and_then(|hop| hop.via);
    let towards = via.filter(|via| via.is_ipv6() == dst.is_ipv6()).unwrap_or(dst);
    if dst.is_ipv6() {
        return source_v6(netns, device, dst);
    }
    let own = |device: &Device| device.addresses.iter().copied().find(|(a, _)| a.is_ipv4());
    let mut here = device.addresses.iter().filter(|(a, _)| a.is_ipv4());
    let near = here.find(|prefix| contains(**prefix, towards)).copied();
    // Then the device's first, then any other device's.
    let other = || netns.devices.values().filter(|d| d.kind != DeviceKind::Loopback).find_map(own);
    near.or_else(|| own(device)).or_else(other).map(|(addr, _)| addr)
}

/// Same scope first, then the longest common prefix; addresses of the device before others.
fn source_v6(netns: &Netns, device: &Device, dst: IpAddr) -> Option<IpAddr> {
    let rank = |addr: &IpAddr| (is_link_local(*addr) == is_link_local(dst), common(*addr, dst));
    let best = |device: &Device| {
        let own = device.addresses.iter().map(|(addr, _)| *addr).filter(IpAddr::is_ipv6);
        own.filter(|addr| is_link_local(dst) || !is_link_local(*addr)).max_by_key(rank)
    };
    best(device).or_else(|| netns.devices.values().filter_map(best).max_by_key(rank))
}

/// What reverse path filtering makes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// Not asked, or answered with yes.
    Pass,
    /// The source is no host elsewhere but an address of this namespace, or a broadcast one: a
    /// martian, whatever `rp_filter` says; own addresses may pass with `accept_local`.
    Own,
    /// The way back is not the way that it came (strict), or there is none (loose).
    Fails,
}

/// Whether an IPv4 packet from `src` passes on its way in by `dev`.
#[must_use]
pub fn rp_filter(netns: &Netns, src: IpAddr, dev: u32) -> ReversePath {
    reverse_path(netns, &FibQuery { src: Some(src), iif: Some(dev), ..FibQuery::default() }, None)
}

/// [`rp_filter`] of the packet that `packet` asks for, which would leave by `out` (`None` when it
/// is delivered here). As in `__fib_validate_source`, destination and output device matter to
/// policy routing rules only, and the mark only with `src_valid_mark`.
#[must_use]
pub fn reverse_path(netns: &Netns, packet: &FibQuery, out: Option<u32>) -> ReversePath {
    use RouteType::{Blackhole, Local, Prohibit, Unicast, Unreachable};
    let (Some(src), Some(dev)) = (packet.src, packet.iif) else { return ReversePath::Pass };
    let Some(device) = netns.devices.get(&dev) else { return ReversePath::Pass };
    let is_exempt = device.kind == DeviceKind::Loopback || src.is_unspecified();
    if !src.is_ipv4() || is_exempt || netns.detail.is_none() {
        return ReversePath::Pass;
    }
    let set = |key: &str| device_sysctl(netns, "ipv4", dev, key) > 0;
    let mark = if set("src_valid_mark") { packet.mark } else { 0 };
    let back = FibQuery { src: packet.dst, iif: out, mark, ..FibQuery::to(src) };
    let found = lookup(netns, &back);
    let has_route = match found.kind {
        None | Some(Blackhole | Unreachable | Prohibit) => false,
        Some(Unicast) => true,
        Some(Local) if set("accept_local") => true,
        Some(_) => return ReversePath::Own,
    };
    let uses_dev = has_route
        && found.route.is_some_and(|route| route.hops.iter().any(|hop| hop.dev == Some(dev)));
    let has_address = device.addresses.iter().any(|(addr, _)| addr.is_ipv4());
    match rp_filter_mode(netns, dev) {
        0 => ReversePath::Pass,
        _ if uses_dev => ReversePath::Pass,
        1 => ReversePath::Fails,
        _ if has_route && has_address => ReversePath::Pass,
        _ => ReversePath::Fails,
    }
}

/// 0 off, 1 strict, 2 loose: the greater of `all` and the device's own.
#[must_use]
pub fn rp_filter_mode(netns: &Netns, dev: u32) -> u32 {
    device_sysctl(netns, "ipv4", dev, "rp_filter")
}

/// Whether packets that came in by `dev` are passed on: IPv4 asks the device alone (`all` is
/// written through to the devices), IPv6 `all`, and the device since Linux 6.17.
#[must_use]
pub fn forwarding(netns: &Netns, dev: u32, is_v6: bool) -> bool {
    let name = netns.devices.get(&dev).map_or("", |d| d.name.as_str());
    if is_v6 {
        let forced = sysctl(netns, &format!("ipv6/conf/{name}/force_forwarding"));
        return netns.forwards_v6 || forced == Some("1");
    }
    sysctl(netns, &format!("ipv4/conf/{name}/forwarding")).map_or(netns.forwards_v4, |v| v != "0")
}

/// A setting by its path below `/proc/sys/net`: `ipv4/conf/eth0/rp_filter`.
#[must_use]
pub fn sysctl<'a>(netns: &'a Netns, path: &str) -> Option<&'a str> {
    netns.detail.as_ref()?.sysctls.get(path).map(String::as_str)
}

/// The greater of what a setting is for `all` and for the device; 0 when it is not known.
#[must_use]
pub fn device_sysctl(netns: &Netns, family: &str, dev: u32, key: &str) -> u32 {
    let name = netns.devices.get(&dev).map_or("", |d| d.name.as_str());
    let number = |dev: &str| sysctl(netns, &format!("{family}/conf/{dev}/{key}"))?.parse().ok();
    ["all", name].into_iter().filter_map(number).max().unwrap_or(0)
}

/// The neighbour entry of an address on a device.
#[must_use]
pub fn neighbour(netns: &Netns, dev: u32, addr: IpAddr) -> Option<&Neighbour> {
    let mut all = netns.detail.as_ref()?.neighbours.iter();
    all.find(|n| n.dev == dev && n.addr == addr && !n.is_proxy)
}

/// Where a bridge sends frames to `mac`: the entry that knows the port. With VLANs told apart,
/// that of `vlan`.
#[must_use]
pub fn fdb(netns: &Netns, bridge: u32, mac: Mac, vlan: Option<u16>) -> Option<&FdbEntry> {
    let mut all = netns.detail.as_ref()?.fdb.iter();
    all.find(|e| e.bridge == Some(bridge) && e.mac == mac && (vlan.is_none() || e.vlan == vlan))
}

/// Where a tunnel device sends frames to `mac`: its entries for that address, else those for all
/// that are unknown (`00:00:00:00:00:00`); none means that they are dropped.
#[must_use]
pub fn tunnel_ends(netns: &Netns, dev: u32, mac: Mac) -> Vec<&FdbEntry> {
    let Some(detail) = &netns.detail else { return Vec::new() };
    let of = |mac: Mac| {
        let own = detail.fdb.iter().filter(|e| e.dev == dev && e.bridge.is_none());
        own.filter(|e| e.mac == mac && e.remote.is_some()).collect::<Vec<_>>()
    };
    let known = of(mac);
    if known.is_empty() { of([0; 6]) } else { known }
}

/// Whether an address is in a prefix; addresses of the other family never are.
#[must_use]
pub fn contains((net, length): Prefix, addr: IpAddr) -> bool {
    net.is_ipv4() == addr.is_ipv4() && common(net, addr) >= u32::from(length)
}

/// How many leading bits two addresses of one family share.
fn common(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    }
}

fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests;
