//! Two parts of one link that are no longer joined: a veth whose end hangs loose, where it should be
//! a port of a bridge on the other side of the gap.

use super::conf::Conf;
use super::l2::{self, Domain, Frame};
use super::walker::Walker;
use super::{Effect, ObstacleKind};
use crate::net::{Device, DeviceKind, Inum, Mac};

/// A device of a namespace.
type At = (Inum, u32);

/// A loose end, and the bridge of its namespace that it should be a port of.
struct Gap {
    netns: Inum,
    end: u32,
    bridge: u32,
}

impl Walker<'_> {
    /// Whoever is sought is at `far`, and a frame out by `near` does not get there: hinders it by the
    /// end that hangs loose between the two. `false` where there is none.
    pub(super) fn unplugged(&mut self, near: (Inum, u32), far: (Inum, u32)) -> bool {
        let Some(gap) = gap(self.conf, near, far) else { return false };
        let kind = ObstacleKind::NotAPort { dev: gap.end, bridge: gap.bridge };
        self.hinder(Effect::Stops, gap.netns, Some(gap.end), kind);
        true
    }

    /// The same for a frame to `mac`, by whom it belongs to.
    pub(super) fn unplugged_from(&mut self, near: (Inum, u32), mac: Mac) -> bool {
        let mut holders: Vec<_> = self
            .conf
            .all()
            .flat_map(|n| n.devices.values().map(move |d| (n.inum, d)))
            .filter(|(_, d)| d.mac == Some(mac))
            .map(|(at, d)| self.conf.lowest((at, d.ifindex)))
            .collect();
        holders.dedup();
        holders.into_iter().any(|far| self.unplugged(near, far))
    }
}

fn gap(conf: Conf<'_>, near: At, far: At) -> Option<Gap> {
    let reached = |at: At| l2::explore(conf, at.0, at.1, Frame::QUESTION);
    let (here, there) = (side(conf, near, &reached(near)), side(conf, far, &reached(far)));
    let between = |loose: &[At], bridges: &[At]| {
        loose.iter().find_map(|&(netns, end)| {
            let (_, bridge) = bridges.iter().find(|(at, _)| *at == netns)?;
            Some(Gap { netns, end, bridge: *bridge })
        })
    };
    // What is already one link has no gap.
    if here.1.iter().any(|bridge| there.1.contains(bridge)) {
        return None;
    }
    between(&there.0, &here.1).or_else(|| between(&here.0, &there.1))
}

/// The loose ends and the bridges of what is reached from a device, itself among them.
fn side(conf: Conf<'_>, from: At, domain: &Domain) -> (Vec<At>, Vec<At>) {
    let all = || std::iter::once(from).chain(domain.arrivals.iter().map(|a| a.at));
    let is = |at: &At, fits: &dyn Fn(&Device) -> bool| conf.device(at.0, at.1).is_some_and(fits);
    let loose = all().filter(|at| is(at, &|d| is_loose(conf, at.0, d))).collect();
    let bridges = all().filter(|at| is(at, &|d| d.kind == DeviceKind::Bridge)).collect();
    (loose, bridges)
}

/// An end of a veth that is of no use by itself: without a bridge, an address or a route.
fn is_loose(conf: Conf<'_>, netns: Inum, device: &Device) -> bool {
    let is_usual = |(addr, _): &(std::net::IpAddr, u8)| match addr {
        std::net::IpAddr::V4(_) => true,
        std::net::IpAddr::V6(a) => !a.is_unicast_link_local(),
    };
    let routes = conf.detail(netns).map_or(&[][..], |d| &d.routes);
    let is_routed = routes.iter().any(|route| {
        let is_link_local = |(a, _): (std::net::IpAddr, u8)| {
            matches!(a, std::net::IpAddr::V6(a) if a.is_unicast_link_local() || a.is_multicast())
        };
        let is_by_it = route.hops.iter().any(|h| h.dev == Some(device.ifindex));
        is_by_it && !is_link_local(route.dst)
    });
    device.kind == DeviceKind::Veth
        && device.master.is_none()
        && !is_routed
        && !device.addresses.iter().any(is_usual)
        // Calico and others route to such ends.
        && conf.conf_max(netns, device.ifindex, "proxy_arp").0 == 0
        && conf.children(netns, device.ifindex).next().is_none()
        && !has_subinterface(conf, netns, device)
}

fn has_subinterface(conf: Conf<'_>, netns: Inum, device: &Device) -> bool {
    let devices = conf.netns(netns).into_iter().flat_map(|n| n.devices.values());
    let mut others = devices.filter(|d| d.kind != DeviceKind::Veth);
    others.any(|d| super::stack::below(netns, d) == Some((netns, device.ifindex)))
}
