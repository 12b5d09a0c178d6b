//! The route that a namespace lacks, or has wrong, found in the configuration of the others: who on
//! its links gets there.

use std::net::IpAddr;

use super::case::Case;
use super::remedy::{Path, Remedy, Step, everything, full};
use super::show;
use super::walk::{Ask, End, Scope, Walk, What, walk};
use crate::net::detail::{NextHop, Prefix, Route, RouteType};
use crate::net::{Device, DeviceKind, Inum, Netns};

/// So many neighbours are tried as a gateway: a node with a thousand pods is one link.
const TRIED: usize = 16;

/// A gateway that gets there.
struct Gateway {
    via: IpAddr,
    /// The device that its address is on the link of.
    dev: String,
    /// Behind it is the network that the destination is in, where its holder is seen.
    net: Option<(IpAddr, u8)>,
    /// Steps from it to the destination, `None` where it leaves the view on its way.
    steps: Option<usize>,
}

impl Case<'_> {
    /// What leads `netns` to `dst` by a gateway on one of its links that gets there.
    /// `wrong` is the route that leads elsewhere now, and the next hop of it that nobody answers
    /// for.
    #[must_use]
    pub(super) fn route_by_others(
        &self,
        netns: &Netns,
        dst: IpAddr,
        wrong: Option<(&Route, IpAddr)>,
    ) -> Option<Remedy> {
        if let Some((route, dead)) = wrong
            && let Some(left) = without(route, dead)
        {
            return Some(Remedy::Route(Path::of(netns, &left)));
        }
        if let Some(path) = self.link_route(netns, dst) {
            return Some(Remedy::Route(path));
        }
        let wanted = wrong.and_then(|(route, _)| route.hops.first()?.dev);
        let gateway = self.gateway_to(netns, dst, wanted)?;
        let (via, dev) = (gateway.via, gateway.dev.as_str());
        if let Some((route, _)) = wrong {
            let same = |r: &&Route| {
                *r != route
                    && (r.dst, r.table) == (route.dst, route.table)
                    && r.hops.iter().any(|h| h.via == Some(via))
            };
            return Some(match netns.detail.iter().flat_map(|d| &d.routes).find(same) {
                Some(_) => Remedy::DelRoute(Path::of(netns, route)),
                None => Remedy::Route(led_by(route, via, dev)),
            });
        }
        let to = self.lacking_prefix(netns, dst, gateway.net);
        Some(Remedy::Route(Path::to(to, Some(via), Some(dev))))
    }

    /// The route to whoever holds the address at the other end of a veth of `netns`, where no bridge
    /// is between: what Calico and others write for each pod.
    pub(super) fn link_route(&self, netns: &Netns, dst: IpAddr) -> Option<Path> {
        let holders = self.state.holders(dst).filter(|n| n.inum != netns.inum);
        let mut ends = holders.flat_map(|n| n.devices.values()).filter_map(|d| {
            d.addresses.iter().find(|(a, len)| *a == dst && *len == full(dst))?;
            let link = d.link.filter(|l| l.netns == Some(netns.inum))?;
            netns.devices.get(&link.ifindex).filter(|end| end.master.is_none() && end.up)
        });
        Some(Path::host(dst, None, Some(&ends.next()?.name)))
    }

    /// What gives a pod whose address is alone on its link the gateway that the others of its
    /// node have: one that is on no network of theirs, and answered for (`proxy_arp`).
    #[must_use]
    pub(super) fn routed_gateway(&self, pod: &Netns, is_v4: bool) -> Vec<Step> {
        let Some(node) = super::place::node_of(self.state, pod.inum) else { return Vec::new() };
        let Some(device) = pod.devices.values().find(|d| d.kind == DeviceKind::Veth && d.up) else {
            return Vec::new();
        };
        let full = if is_v4 { 32 } else { 128 };
        let is_alone = |d: &Device| {
            let mut of_family = d.addresses.iter().filter(|(a, _)| a.is_ipv4() == is_v4);
            of_family.any(|(_, len)| *len == full)
        };
        let siblings = self.state.netns.values().filter(|n| {
            n.inum != pod.inum && super::place::node_of(self.state, n.inum) == Some(node)
        });
        let told = siblings.filter(|n| n.devices.values().any(is_alone)).find_map(|n| {
            let routes = &n.detail.as_ref()?.routes;
            let default = routes.iter().find(|r| r.dst.1 == 0 && r.dst.0.is_ipv4() == is_v4)?;
            let via = default.hops.first()?.via?;
            let link = routes.iter().any(|r| r.dst == (via, full) && r.kind == RouteType::Unicast);
            Some((via, link))
        });
        let told = told.or_else(|| self.routed_end(device, is_v4));
        let Some((via, has_link)) = told.filter(|_| is_alone(device)) else { return Vec::new() };
        let dev = Some(device.name.as_str());
        let link = has_link.then(|| Path { is_link: true, ..Path::host(via, None, dev) });
        let paths = link.into_iter().chain([Path::default(via, dev)]);
        paths.map(|path| Remedy::Route(path).at(pod.inum)).collect()
    }

    /// The gateway that the other end of a pod's veth makes: an address of its own, or, where it
    /// answers for whatever it has a route to, any; that is the one that Calico uses.
    fn routed_end(&self, device: &Device, is_v4: bool) -> Option<(IpAddr, bool)> {
        let link = device.link?;
        let node = self.netns(link.netns?)?;
        let end = node.devices.get(&link.ifindex).filter(|d| d.master.is_none())?;
        let mut own = end.addresses.iter().filter(|(a, _)| a.is_ipv4() == is_v4);
        if let Some((addr, len)) = own.find(|(a, _)| is_v4 || !super::place::is_link_local(*a)) {
            // Of a network with the pod's address, that one lacks its prefix length.
            let is_shared = device.addresses.iter().any(|(a, _)| show::covers((*addr, *len), *a));
            return (!is_shared).then_some((*addr, true));
        }
        let is_set = |dev: &str| {
            self.sysctl(node.inum, &format!("ipv4/conf/{dev}/proxy_arp")).is_some_and(|v| v == "1")
        };
        (is_v4 && (is_set(&end.name) || is_set("all"))).then(|| ([169, 254, 1, 1].into(), true))
    }

    /// What is right for a device that has an address of a network without its prefix length: others on
    /// its link say what it is.
    #[must_use]
    pub(super) fn widened(&self, netns: &Netns, dst: IpAddr) -> Vec<Step> {
        let full = if dst.is_ipv4() { 32 } else { 128 };
        let alone = netns.devices.values().filter(|d| d.kind != DeviceKind::Loopback && d.up);
        let alone = alone.flat_map(|d| d.addresses.iter().map(move |net| (d, *net)));
        let mut alone = alone.filter(|(_, (a, len))| *len == full && a.is_ipv4() == dst.is_ipv4());
        let found = alone.find_map(|(device, (addr, _))| {
            let beside = self.beside(netns, device).into_iter();
            let mut nets = beside.flat_map(|(n, d)| d.addresses.iter().map(move |net| (n, *net)));
            let is_net = |(_, net): &(&Netns, (IpAddr, u8))| {
                net.1 < full && net.0 != addr && show::covers(*net, addr)
            };
            let (other, net) = nets.find(is_net)?;
            Some((device, addr, other, net))
        });
        let Some((device, addr, other, net)) = found else { return Vec::new() };
        let dev = device.name.as_str();
        let mut steps = vec![Remedy::add_addr(dev, (addr, net.1))];
        let routes = if dst.is_ipv4() { other.forwards_v4 } else { other.forwards_v6 };
        if !show::covers(net, dst) {
            if !routes {
                return Vec::new();
            }
            let to = self.lacking_prefix(netns, dst, None);
            steps.push(Remedy::Route(Path::to(to, Some(net.0), Some(dev))));
        }
        steps.into_iter().map(|step| step.at(netns.inum)).collect()
    }

    /// The devices at the other end of a veth: that of the peer, or the bridge that it is a port of
    /// and what is behind that bridge's other ports.
    pub(super) fn beside<'b>(
        &'b self,
        netns: &Netns,
        device: &Device,
    ) -> Vec<(&'b Netns, &'b Device)> {
        let peer = |at: &'b Netns, d: &'b Device| {
            let link = d.link?;
            let there = self.netns(link.netns.unwrap_or(at.inum))?;
            Some((there, there.devices.get(&link.ifindex)?))
        };
        let Some(link) = device.link.filter(|_| device.kind == DeviceKind::Veth) else {
            return Vec::new();
        };
        let Some(there) = self.netns(link.netns.unwrap_or(netns.inum)) else { return Vec::new() };
        let Some(end) = there.devices.get(&link.ifindex) else { return Vec::new() };
        let Some(bridge) = end.master.and_then(|m| there.devices.get(&m)) else {
            return vec![(there, end)];
        };
        let ports = there.devices.values().filter(|p| p.master == end.master);
        let behind = ports.filter(|p| p.ifindex != end.ifindex).filter_map(|p| peer(there, p));
        std::iter::once((there, bridge)).chain(behind).collect()
    }

    /// What the missing route is to cover: everything where only one device leads out; else the
    /// network that the destination is in.
    fn lacking_prefix(&self, netns: &Netns, dst: IpAddr, net: Option<Prefix>) -> Prefix {
        let has_default = netns.detail.iter().flat_map(|d| &d.routes).any(|r| {
            r.dst.1 == 0 && r.dst.0.is_ipv4() == dst.is_ipv4() && r.kind == RouteType::Unicast
        });
        let outward = netns.devices.values().filter(|d| d.kind != DeviceKind::Loopback).count();
        match net {
            _ if outward < 2 && !has_default => everything(dst),
            None if !has_default => everything(dst),
            Some((addr, len)) => (show::network(addr, len), len),
            None => (dst, full(dst)),
        }
    }

    /// Somebody on the link of `dev` gets there.
    pub(super) fn has_gateway(&self, netns: &Netns, dst: IpAddr, dev: u32) -> bool {
        let found = self.gateway_to(netns, dst, Some(dev));
        let name = netns.devices.get(&dev).map(|d| d.name.as_str());
        found.is_some_and(|g| Some(g.dev.as_str()) == name)
    }

    /// Of several, one on the link of `wanted`, then the nearest.
    fn gateway_to(&self, netns: &Netns, dst: IpAddr, wanted: Option<u32>) -> Option<Gateway> {
        let wanted = wanted.and_then(|dev| netns.devices.get(&dev)).map(|d| d.name.clone());
        let others = self.state.netns.values().filter(|n| n.inum != netns.inum);
        let holds = |n: &Netns| {
            let mut all = n.devices.values().flat_map(|d| &d.addresses);
            all.any(|(a, _)| *a == dst)
        };
        let routers = others.filter(|n| {
            let routes = if dst.is_ipv4() { n.forwards_v4 } else { n.forwards_v6 };
            routes || holds(n)
        });
        let addresses = routers.flat_map(|n| {
            let all = n.devices.values().filter(|d| d.up).flat_map(|d| &d.addresses);
            let of_family = all.filter(|(a, _)| a.is_ipv4() == dst.is_ipv4());
            of_family.map(move |(a, _)| (n.inum, *a))
        });
        let near = addresses.filter_map(|(at, via)| {
            let covers = |(a, len): &(IpAddr, u8)| *a != via && show::covers((*a, *len), via);
            let mut own = netns.devices.values().filter(|d| d.up);
            let own = own.find(|d| d.addresses.iter().any(covers))?;
            Some((at, via, own.name.clone()))
        });
        let usable =
            near.take(TRIED).filter_map(|(at, via, dev)| self.usable(netns, dst, (at, via, dev)));
        usable.min_by_key(|g| {
            let is_elsewhere = wanted.as_ref().is_some_and(|dev| *dev != g.dev);
            (is_elsewhere, g.steps.is_none(), g.steps, g.via)
        })
    }

    /// The neighbour as a gateway: it is on the link, and what it is given arrives.
    fn usable(
        &self,
        netns: &Netns,
        dst: IpAddr,
        (at, via, dev): (Inum, IpAddr, String),
    ) -> Option<Gateway> {
        // A policy rule may lead what is sent to the gateway itself elsewhere: as a next hop it is
        // there all the same.
        let own = netns.devices.values().find(|d| d.name == dev);
        let beside = own.map(|d| self.beside(netns, d)).unwrap_or_default();
        let is_beside = beside
            .iter()
            .any(|(n, d)| n.inum == at && d.up && d.addresses.iter().any(|(a, _)| *a == via));
        let there = walk(self.state, &Scope::everything(), &Ask::ping(netns.inum, via));
        let is_on_link = is_delivered(&there, at)
            && !there.steps.iter().any(|s| matches!(s.what, What::Forward));
        let is_there = is_on_link || is_beside && self.is_ruled(netns);
        if !is_there {
            return None;
        }
        let on = walk(self.state, &Scope::everything(), &Ask::ping(at, dst));
        if on.steps.iter().any(|s| s.netns == netns.inum && matches!(s.what, What::Forward)) {
            return None;
        }
        let (net, steps) = match on.end {
            End::Delivered { netns: holder, .. } if holder != netns.inum => {
                (self.network_of(holder, dst), Some(on.steps.len()))
            }
            End::LeftView { .. } if on.stopped_at().is_none() => (None, None),
            _ => return None,
        };
        Some(Gateway { via, dev, net, steps })
    }

    /// Policy rules besides those of the kernel itself.
    fn is_ruled(&self, netns: &Netns) -> bool {
        let rules = netns.detail.iter().flat_map(|d| &d.rules);
        rules.into_iter().any(|r| !matches!(r.priority, 0 | 32_766 | 32_767))
    }

    /// Who gets what `netns` sends to `dst` by a route with a gateway.
    pub(super) fn led_to(&self, netns: &Netns, route: &Route, dst: IpAddr) -> Option<Inum> {
        let via = route.hops.first()?.via?;
        let scope = Scope::everything();
        let there = walk(self.state, &scope, &Ask::ping(netns.inum, via));
        let End::Delivered { netns: gateway, .. } = there.end else { return None };
        match walk(self.state, &scope, &Ask::ping(gateway, dst)).end {
            End::Delivered { netns: holder, .. } if holder != netns.inum => Some(holder),
            _ => None,
        }
    }

    /// The network that an address of `holder` is in; `None` where it is alone.
    fn network_of(&self, holder: Inum, addr: IpAddr) -> Option<(IpAddr, u8)> {
        let devices = self.netns(holder)?.devices.values();
        let full = if addr.is_ipv4() { 32 } else { 128 };
        let mut held = devices.flat_map(|d| &d.addresses).filter(|(a, _)| *a == addr);
        held.next().copied().filter(|(_, len)| *len > 0 && *len < full)
    }
}

fn is_delivered(walk: &Walk, at: Inum) -> bool {
    matches!(walk.end, End::Delivered { netns, .. } if netns == at)
}

/// A multipath route without the leg that is dead.
pub(super) fn without(route: &Route, dead: IpAddr) -> Option<Route> {
    let hops: Vec<NextHop> = route.hops.iter().filter(|h| h.via != Some(dead)).cloned().collect();
    let is_left = !hops.is_empty() && hops.len() < route.hops.len();
    is_left.then(|| Route { hops, ..route.clone() })
}

/// The same route, by another gateway.
fn led_by(route: &Route, via: IpAddr, dev: &str) -> Path {
    let (table, metric) = (route.table, route.metric);
    Path { table, metric, ..Path::to(route.dst, Some(via), Some(dev)) }
}
