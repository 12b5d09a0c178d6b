//! Addresses, routes, neighbours and forwarding databases that change.

use std::net::IpAddr;

use super::super::{Fdb, Hop, Path, full};
use super::index;
use crate::diagnose::show;
use crate::net::detail::{Detail, FdbEntry, Neighbour, NextHop, Prefix, Route, RouteType};
use crate::net::{Mac, Netns};

const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
/// `RTPROT_KERNEL`.
const KERNEL: u8 = 2;
const ONLINK: u32 = 4;
const PERMANENT: u16 = 0x80;
const NOARP: u16 = 0x40;

fn by_device(dst: Prefix, dev: u32, src: Option<IpAddr>) -> Route {
    let hop = NextHop { dev: Some(dev), weight: 1, ..NextHop::default() };
    Route { prefsrc: src, protocol: KERNEL, scope: SCOPE_LINK, ..Route::to(dst, vec![hop]) }
}

/// An address, with the routes that it makes (`fib_add_ifaddr`).
pub(super) fn add_addr(netns: &mut Netns, dev: &str, net: Prefix) -> Option<()> {
    let index = index(netns, dev)?;
    let device = netns.devices.get_mut(&index)?;
    if !device.addresses.contains(&net) {
        device.addresses.push(net);
    }
    let is_up = device.up;
    let own = Route {
        kind: RouteType::Local,
        table: TABLE_LOCAL,
        scope: SCOPE_HOST,
        ..by_device((net.0, full(net.0)), index, net.0.is_ipv4().then_some(net.0))
    };
    let routes = &mut netns.detail.as_deref_mut()?.routes;
    if !routes.iter().any(|r| r.dst == own.dst && r.table == own.table) {
        routes.push(own);
    }
    if is_up { reconnect(netns, index) } else { Some(()) }
}

/// The routes to the networks of a device's addresses.
pub(super) fn reconnect(netns: &mut Netns, index: u32) -> Option<()> {
    let nets = netns.devices.get(&index)?.addresses.clone();
    let routes = &mut netns.detail.as_deref_mut()?.routes;
    for (addr, len) in nets.into_iter().filter(|(a, len)| *len < full(*a)) {
        let dst = (show::network(addr, len), len);
        let leads = |r: &Route| r.dst == dst && r.hops.iter().any(|h| h.dev == Some(index));
        if !routes.iter().any(leads) {
            routes.push(by_device(dst, index, addr.is_ipv4().then_some(addr)));
        }
    }
    Some(())
}

/// Without an address, and without what hangs on it (`fib_del_ifaddr`, `fib_disable_ip`).
pub(super) fn del_addr(netns: &mut Netns, dev: &str, net: Prefix) -> Option<()> {
    let index = index(netns, dev)?;
    let device = netns.devices.get_mut(&index)?;
    device.addresses.retain(|a| *a != net);
    let left = device.addresses.clone();
    let elsewhere = netns.devices.values().any(|d| d.addresses.iter().any(|(a, _)| *a == net.0));
    let of_family = |a: &IpAddr| a.is_ipv4() == net.0.is_ipv4();
    let is_bare = !left.iter().any(|(a, _)| of_family(a));
    let network = (show::network(net.0, net.1), net.1);
    let is_shared = left.iter().any(|(a, len)| (show::network(*a, *len), *len) == network);
    netns.detail.as_deref_mut()?.routes.retain(|r| {
        let is_by = r.hops.iter().any(|h| h.dev == Some(index));
        let is_own = r.table == TABLE_LOCAL && r.dst.0 == net.0 && !elsewhere;
        let is_net = is_by && r.dst == network && r.protocol == KERNEL && !is_shared;
        let is_from = r.prefsrc == Some(net.0) && !elsewhere;
        let is_lost = is_bare && is_by && of_family(&r.dst.0) && net.0.is_ipv4();
        !(is_own || is_net || is_from || is_lost)
    });
    Some(())
}

/// A route, in the place of the one to the same destination.
pub(super) fn replace_route(netns: &mut Netns, path: &Path) -> Option<()> {
    let hops: Option<Vec<NextHop>> = path.hops.iter().map(|hop| next_hop(netns, hop)).collect();
    let hops = hops?;
    let metric = match (path.metric, path.dst.0) {
        // `IP6_RT_PRIO_USER`.
        (0, IpAddr::V6(_)) => 1024,
        (metric, _) => metric,
    };
    let is_direct = hops.iter().all(|h| h.via.is_none());
    let route = Route {
        kind: path.kind,
        table: if path.table == 0 { TABLE_MAIN } else { path.table },
        metric,
        prefsrc: path.src,
        scope: if is_direct { SCOPE_LINK } else { 0 },
        ..Route::to(path.dst, hops)
    };
    let routes = &mut netns.detail.as_deref_mut()?.routes;
    let same = |r: &Route| (r.dst, r.table, r.metric) == (route.dst, route.table, route.metric);
    match routes.iter_mut().find(|r| same(r)) {
        Some(old) => *old = route,
        None => routes.push(route),
    }
    Some(())
}

/// A next hop; its device is the one on whose network the gateway is, where none is named.
fn next_hop(netns: &Netns, hop: &Hop) -> Option<NextHop> {
    let dev = match &hop.dev {
        Some(name) => index(netns, name)?,
        None => {
            let via = hop.via?;
            let is_near = |net: &Prefix| net.0 != via && show::covers(*net, via);
            let mut devices = netns.devices.values().filter(|d| d.up);
            devices.find(|d| d.addresses.iter().any(is_near))?.ifindex
        }
    };
    let flags = if hop.is_onlink { ONLINK } else { 0 };
    Some(NextHop { via: hop.via, dev: Some(dev), flags, weight: 1 })
}

/// Without the first route that is as described.
pub(super) fn del_route(netns: &mut Netns, path: &Path) -> Option<()> {
    let hops: Vec<(Option<IpAddr>, Option<u32>)> = path
        .hops
        .iter()
        .map(|h| (h.via, h.dev.as_deref().and_then(|name| index(netns, name))))
        .collect();
    let routes = &mut netns.detail.as_deref_mut()?.routes;
    let at = routes.iter().position(|r| {
        let table = if path.table == 0 { TABLE_MAIN } else { path.table };
        let leads = |(via, dev): &(Option<IpAddr>, Option<u32>)| {
            r.hops
                .iter()
                .any(|h| (via.is_none() || h.via == *via) && (dev.is_none() || h.dev == *dev))
        };
        let is_kind = r.kind == path.kind;
        let is_metric = path.metric == 0 || r.metric == path.metric;
        let is_same = (r.dst, r.table) == (path.dst, table) && is_kind && is_metric;
        let is_led = hops.iter().all(leads) || r.hops.is_empty();
        is_same && if path.nexthop.is_some() { r.nexthop == path.nexthop } else { is_led }
    })?;
    routes.remove(at);
    Some(())
}

pub(super) fn write_neighbour(detail: &mut Detail, dev: u32, addr: IpAddr, mac: Mac) {
    detail.neighbours.retain(|n| n.dev != dev || n.addr != addr || n.is_proxy);
    let (mac, state, is_proxy) = (Some(mac), PERMANENT, false);
    detail.neighbours.push(Neighbour { dev, addr, mac, state, is_proxy });
}

/// Has no link-layer address: its own is told.
pub(super) fn answer_for(detail: &mut Detail, dev: u32, addr: IpAddr) {
    let (mac, state, is_proxy) = (None, PERMANENT, true);
    detail.neighbours.push(Neighbour { dev, addr, mac, state, is_proxy });
}

/// `ip neigh flush` leaves what was configured.
pub(super) fn forget(detail: &mut Detail, addr: IpAddr) {
    detail.neighbours.retain(|n| n.addr != addr || n.state & (PERMANENT | NOARP) != 0);
}

pub(super) fn edit_fdb(detail: &mut Detail, dev: u32, mac: Mac, edit: Fdb) {
    let entry = |bridge, remote| FdbEntry {
        dev,
        bridge,
        mac,
        vlan: None,
        remote,
        state: PERMANENT,
        is_learned: false,
        is_sticky: false,
    };
    let is_its = |e: &FdbEntry| e.dev == dev && e.mac == mac;
    match edit {
        Fdb::Behind(to) => {
            detail.fdb.retain(|e| !is_its(e));
            detail.fdb.push(entry(None, Some(to)));
        }
        Fdb::AlsoBehind(to) => detail.fdb.push(entry(None, Some(to))),
        Fdb::NotBehind(to) => detail.fdb.retain(|e| !is_its(e) || e.remote != Some(to)),
        Fdb::Forget => detail.fdb.retain(|e| !is_its(e) || e.bridge.is_none()),
        Fdb::Own => detail.fdb.push(entry(Some(dev), None)),
    }
}
