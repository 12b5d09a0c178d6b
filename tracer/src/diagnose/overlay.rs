//! What the agent of an overlay writes, written again: the tunnel device, and on each node the
//! route, the neighbour and the forwarding entry that lead to every other one.

use std::net::IpAddr;

use super::case::Case;
use super::remedy::{Fdb, Link, NewLink, Path, Remedy, Step};
use super::show;
use crate::net::detail::RouteType;
use crate::net::{Device, DeviceKind, Mac, Netns, Vxlan};

/// `NUD_PERMANENT | NUD_NOARP`.
const CONFIGURED: u16 = 0x80 | 0x40;

/// Another end of a tunnel.
struct End {
    /// The tunnel device's address: the gateway of routes through the tunnel.
    addr: IpAddr,
    mac: Mac,
    /// The node's address that tunnel packets are sent to.
    outer: Option<IpAddr>,
    /// The addresses behind it.
    net: (IpAddr, u8),
}

/// The tunnel device of a node.
pub(super) fn tunnel(netns: &Netns) -> Option<&Device> {
    netns.devices.values().find(|d| d.kind == DeviceKind::Vxlan)
}

impl Case<'_> {
    /// The route that an overlay's agent would write: the tunnel end in the same pod network is the
    /// gateway.
    pub fn overlay_route(&self, netns: &Netns, dst: IpAddr) -> Option<Step> {
        let tunnel = tunnel(netns)?;
        let ends = self.ends(netns, tunnel.vxlan.map(|v| v.vni));
        if let Some(end) = ends.iter().find(|e| show::covers(e.net, dst)) {
            return Some(route(tunnel, end.addr, end.net).at(netns.inum));
        }
        // Out of view: the neighbour entry is what is left of the other end.
        let len = if dst.is_ipv4() { 24 } else { 64 };
        let near = netns.detail.iter().flat_map(|d| &d.neighbours);
        let mut near = near.filter(|n| n.dev == tunnel.ifindex).map(|n| n.addr);
        let end = near.find(|a| show::covers((*a, len), dst))?;
        Some(route(tunnel, end, (show::network(end, len), len)).at(netns.inum))
    }

    /// What brings back what this node lacks of routes, neighbours and forwarding entries
    /// of its tunnel: what a device loses that goes down or gets another address.
    #[must_use]
    pub fn overlay_repair(&self, netns: &Netns) -> Vec<Step> {
        let Some(tunnel) = tunnel(netns) else { return Vec::new() };
        let ends = self.ends(netns, tunnel.vxlan.map(|v| v.vni));
        ends.iter().flat_map(|end| lacking(netns, tunnel, end)).map(|r| r.at(netns.inum)).collect()
    }

    /// What writes all of them, whatever is there now.
    #[must_use]
    pub fn overlay_entries(&self, netns: &Netns) -> Vec<Step> {
        let Some(tunnel) = tunnel(netns) else { return Vec::new() };
        let ends = self.ends(netns, tunnel.vxlan.map(|v| v.vni));
        ends.iter().flat_map(|end| all(tunnel, end)).map(|r| r.at(netns.inum)).collect()
    }

    /// What makes a tunnel device anew with other parameters, and all that it had: the
    /// identifier, the port and the address of a VXLAN device cannot be changed.
    #[must_use]
    pub fn remake_tunnel(&self, netns: &Netns, device: &Device, vxlan: Vxlan) -> Vec<Step> {
        let dev = &device.name;
        let lower = vxlan.local.and_then(|local| {
            let holds = |d: &&Device| d.addresses.iter().any(|(a, _)| *a == local);
            netns.devices.values().find(holds).map(|d| d.name.clone())
        });
        let (mac, mtu) = (device.mac, device.mtu);
        let link = NewLink::Vxlan { mac, mtu, lower, vxlan };
        let mut steps =
            vec![Remedy::DelLink { dev: dev.clone() }, Remedy::AddLink { dev: dev.clone(), link }];
        let own = device.addresses.iter().filter(|(a, _)| !is_link_local(*a));
        steps.extend(own.map(|net| Remedy::add_addr(dev, *net)));
        if let Some(master) = device.master.and_then(|m| netns.devices.get(&m)) {
            steps.push(Remedy::link(dev, Link::Master(master.name.clone())));
        }
        steps.push(Remedy::up(dev));
        let ends = self.ends(netns, Some(vxlan.vni));
        steps.extend(known_ends(netns, device, &ends));
        steps.extend(hanging_on(netns, device, vxlan));
        let written = ends.iter().filter(|_| !floods(netns, device));
        let written = written.flat_map(|end| all(device, end));
        steps.into_iter().chain(written).map(|r| r.at(netns.inum)).collect()
    }

    /// The other ends of this namespace's tunnel, of one network identifier.
    fn ends(&self, netns: &Netns, vni: Option<u32>) -> Vec<End> {
        let others = self.state.netns.values().filter(|n| n.inum != netns.inum);
        let devices = others.flat_map(|n| n.devices.values().map(move |d| (n, d)));
        // With an address that is this node's own, it is an end of another network.
        let is_own = |addr: &IpAddr| {
            netns.devices.values().any(|d| d.addresses.iter().any(|(a, _)| a == addr))
        };
        devices
            .filter(|(_, d)| vni.is_some() && d.vxlan.map(|v| v.vni) == vni)
            .filter(|(_, d)| !d.addresses.iter().any(|(a, _)| !is_link_local(*a) && is_own(a)))
            .filter_map(|(n, d)| {
                let (addr, _) = *d.addresses.iter().find(|(a, _)| !is_link_local(*a))?;
                Some(End { addr, mac: d.mac?, outer: outer(n, d), net: behind(n, addr) })
            })
            .collect()
    }

    /// The address that a node sends tunnel packets from when its tunnel does not say a usable one:
    /// the one that the others send to, else that of its default route's device.
    #[must_use]
    pub fn outer_address(&self, netns: &Netns, tunnel: &Device) -> Option<IpAddr> {
        let is_own = |a: IpAddr| {
            netns.devices.values().any(|d| d.addresses.iter().any(|(own, _)| *own == a))
        };
        let others = self.state.netns.values().filter(|n| n.inum != netns.inum);
        let mut entries = others.filter_map(|n| n.detail.as_ref()).flat_map(|d| &d.fdb);
        let told = entries.find_map(|e| {
            e.remote.filter(|r| is_own(*r) && (tunnel.mac == Some(e.mac) || e.mac == [0; 6]))
        });
        told.or_else(|| uplink_address(netns))
    }
}

/// The device sends to fixed ends what it has no entry for, and so needs none.
fn floods(netns: &Netns, device: &Device) -> bool {
    let mut entries = netns.detail.iter().flat_map(|d| &d.fdb);
    device.vxlan.is_some_and(|v| v.remote.is_some())
        || entries.any(|e| e.dev == device.ifindex && e.mac == [0; 6] && e.remote.is_some())
}

/// What leads to the ends that somebody has configured on a tunnel device, and that are not seen
/// themselves.
fn known_ends(netns: &Netns, device: &Device, seen: &[End]) -> Vec<Remedy> {
    let Some(detail) = netns.detail.as_ref() else { return Vec::new() };
    let dev = &device.name;
    let is_new = |mac: Mac| seen.iter().all(|end| end.mac != mac);
    let own = detail.neighbours.iter().filter(|n| n.dev == device.ifindex);
    let neighbours = own.filter(|n| n.state & CONFIGURED != 0).filter_map(|n| {
        let mac =
            n.mac.filter(|mac| is_new(*mac) && !is_link_local(n.addr) && !n.addr.is_multicast())?;
        Some(Remedy::Neigh { dev: dev.clone(), addr: n.addr, mac })
    });
    let entries = detail.fdb.iter().filter(|e| e.dev == device.ifindex && e.mac != [0; 6]);
    let entries = entries
        .filter(|e| e.state & CONFIGURED != 0 && is_new(e.mac))
        .filter_map(|e| Some(Remedy::fdb(dev, e.mac, Fdb::Behind(e.remote?))));
    neighbours.chain(entries).collect()
}

/// What goes with a tunnel device that is deleted: the ends that it floods to, and the routes by it
/// that the kernel did not make (`RTPROT_KERNEL`).
fn hanging_on(netns: &Netns, device: &Device, vxlan: Vxlan) -> Vec<Remedy> {
    const KERNEL: u8 = 2;
    let Some(detail) = netns.detail.as_ref() else { return Vec::new() };
    let (index, dev) = (device.ifindex, &device.name);
    let flooded = detail.fdb.iter().filter(|e| {
        e.dev == index && e.mac == [0; 6] && e.remote.is_some() && e.remote != vxlan.remote
    });
    let ends = flooded.filter_map(|e| Some(Remedy::fdb(dev, e.mac, Fdb::AlsoBehind(e.remote?))));
    let routes = detail.routes.iter().filter(|r| {
        r.kind == RouteType::Unicast
            && r.protocol != KERNEL
            && r.hops.iter().any(|h| h.dev == Some(index))
            && !is_link_local(r.dst.0)
    });
    ends.chain(routes.map(|r| Remedy::Route(Path::of(netns, r)))).collect()
}

/// The outer address of a tunnel end.
fn outer(netns: &Netns, tunnel: &Device) -> Option<IpAddr> {
    let local = tunnel.vxlan?.local.filter(|a| !a.is_unspecified());
    let is_own =
        |a: &IpAddr| netns.devices.values().any(|d| d.addresses.iter().any(|(own, _)| own == a));
    local.filter(is_own).or_else(|| uplink_address(netns))
}

fn uplink_address(netns: &Netns) -> Option<IpAddr> {
    let routes = netns.detail.iter().flat_map(|d| &d.routes);
    let mut default = routes.filter(|r| r.dst.1 == 0 && r.kind == RouteType::Unicast);
    let dev = default.find_map(|r| r.hops.first()?.dev)?;
    netns.devices.get(&dev)?.addresses.iter().find(|(a, _)| !is_link_local(*a)).map(|(a, _)| *a)
}

/// The addresses behind a tunnel end: those of the bridge that its own address lies in.
fn behind(netns: &Netns, addr: IpAddr) -> (IpAddr, u8) {
    let bridges = netns.devices.values().filter(|d| d.kind == DeviceKind::Bridge);
    let mut nets = bridges.flat_map(|d| &d.addresses).copied();
    let (at, len) = nets
        .find(|net| show::covers(*net, addr))
        .unwrap_or((addr, if addr.is_ipv4() { 24 } else { 64 }));
    (show::network(at, len), len)
}

fn route(tunnel: &Device, gateway: IpAddr, net: (IpAddr, u8)) -> Remedy {
    Remedy::Route(Path::to(net, Some(gateway), Some(&tunnel.name)).onlink())
}

/// Everything that leads to `end`.
fn all(tunnel: &Device, end: &End) -> Vec<Remedy> {
    let dev = &tunnel.name;
    let mut steps = vec![Remedy::Neigh { dev: dev.clone(), addr: end.addr, mac: end.mac }];
    steps.extend(end.outer.map(|outer| Remedy::fdb(dev, end.mac, Fdb::Behind(outer))));
    steps.push(route(tunnel, end.addr, end.net));
    steps
}

/// That of it which is not there, or is wrong.
fn lacking(netns: &Netns, tunnel: &Device, end: &End) -> Vec<Remedy> {
    let Some(detail) = netns.detail.as_ref() else { return Vec::new() };
    let dev = tunnel.ifindex;
    let has_neigh = detail.neighbours.iter().any(|n| {
        n.dev == dev && n.addr == end.addr && n.mac == Some(end.mac) && n.state & CONFIGURED != 0
    });
    let mut entries = detail.fdb.iter().filter(|e| e.dev == dev && e.mac == end.mac);
    let has_entry = entries.any(|e| e.remote == end.outer);
    let leads = |r: &crate::net::detail::Route| {
        r.dst == end.net && r.hops.first().is_some_and(|h| h.dev == Some(dev))
    };
    let has_route = detail.routes.iter().any(leads);
    let is_lacking = |step: &Remedy| match step {
        Remedy::Neigh { .. } => !has_neigh,
        Remedy::Fdb { .. } => !has_entry,
        _ => !has_route,
    };
    all(tunnel, end).into_iter().filter(is_lacking).collect()
}

fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}
