//! What a namespace makes of an address: which one it sends from, whom it takes packets from, and
//! whether it forwards them.

use std::net::IpAddr;

use super::ObstacleKind;
use super::conf::Conf;
use crate::net::detail::RouteType;
use crate::net::fib::{self, FibQuery, ReversePath, contains};
use crate::net::{Device, DeviceKind, Inum};

/// An address of the device for what is reached by it: on its subnet if there is one, else the
/// first, else any of the namespace (`inet_select_addr`).
pub(super) fn source_on(conf: Conf<'_>, netns: Inum, dev: u32, to: IpAddr) -> Option<IpAddr> {
    let ns = conf.netns(netns)?;
    let suits = |a: &&(IpAddr, u8)| a.0.is_ipv4() == to.is_ipv4() && is_global(a.0, to);
    let own = || ns.devices.get(&dev).into_iter().flat_map(|d| &d.addresses).filter(suits);
    own()
        .find(|a| contains(**a, to))
        .or_else(|| own().next())
        .or_else(|| {
            let up = ns.devices.values().filter(|d| d.up);
            up.flat_map(|d| &d.addresses).filter(suits).find(|a| !a.0.is_loopback())
        })
        .map(|(a, _)| *a)
}

fn is_global(addr: IpAddr, to: IpAddr) -> bool {
    let is_link_local = |a: IpAddr| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
    is_link_local(addr) == is_link_local(to)
}

/// The address as the namespace has it, where its kernel does not use it: the device, and why.
pub(super) fn unverified(conf: Conf<'_>, netns: Inum, addr: IpAddr) -> Option<(u32, ObstacleKind)> {
    let all = conf.detail(netns).map_or(&[][..], |d| &d.v6_addresses);
    let state = all.iter().find(|a| a.addr == addr && (a.is_failed || a.is_tentative))?;
    Some((state.dev, ObstacleKind::Unverified { addr, is_failed: state.is_failed }))
}

/// Why a device has no IPv6, where it has none.
pub(super) fn no_ipv6(conf: Conf<'_>, netns: Inum, device: &Device) -> Option<ObstacleKind> {
    const IPV6_MIN_MTU: u32 = 1280;
    if device.addresses.iter().any(|(a, _)| a.is_ipv6()) {
        return None;
    }
    if (1..IPV6_MIN_MTU).contains(&device.mtu) {
        return Some(ObstacleKind::MtuBelowIpv6 { dev: device.ifindex, mtu: device.mtu });
    }
    let off = |dev: &str| {
        let sysctl = format!("ipv6/conf/{dev}/disable_ipv6");
        (conf.sysctl(netns, &sysctl) == Some(1)).then_some(ObstacleKind::NoIpv6 { sysctl })
    };
    off("all").or_else(|| off(&device.name))
}

/// `fib_validate_source`: may a packet from `src` to `dst` come in by `dev`?
pub(super) fn bad_source(
    conf: Conf<'_>,
    netns: Inum,
    dev: u32,
    (src, dst): (IpAddr, IpAddr),
    mark: u32,
) -> Option<ObstacleKind> {
    let IpAddr::V4(v4) = src else { return None };
    let device = conf.device(netns, dev)?;
    if device.kind == DeviceKind::Loopback {
        return None;
    }
    let is_lo = v4.is_loopback() && conf.conf_max(netns, dev, "route_localnet").0 == 0;
    if is_lo || v4.is_multicast() || v4.is_broadcast() {
        return Some(ObstacleKind::Martian { addr: src });
    }
    let packet = FibQuery { mark, ..FibQuery::input(src, dst, dev) };
    let back = || way_back(conf, netns, src, dst);
    match fib::reverse_path(conf.netns(netns)?, &packet, None) {
        ReversePath::Pass => None,
        ReversePath::Own => {
            let holds = |d: &&crate::net::Device| d.addresses.iter().any(|(a, _)| *a == src);
            let mut devices = conf.netns(netns)?.devices.values();
            let dev = devices.find(holds).map_or(dev, |d| d.ifindex);
            Some(ObstacleKind::OwnSource { src, dev })
        }
        ReversePath::Fails => {
            let (mode, sysctl) = conf.conf_max(netns, dev, "rp_filter");
            Some(ObstacleKind::ReversePath { sysctl, strict: mode == 1, src, back: back() })
        }
    }
}

/// The device by which an answer from `src` to `to` leaves.
pub(super) fn way_back(conf: Conf<'_>, netns: Inum, to: IpAddr, src: IpAddr) -> Option<u32> {
    let found = conf.lookup(netns, &FibQuery { src: Some(src), ..FibQuery::to(to) })?;
    if found.kind == Some(RouteType::Local) {
        return conf.loopback(netns).map(|lo| lo.ifindex);
    }
    found.dev
}

/// The setting that keeps the namespace from forwarding what comes in by `dev`.
pub(super) fn forwarding_off(conf: Conf<'_>, netns: Inum, dev: u32, dst: IpAddr) -> Option<String> {
    let ns = conf.netns(netns)?;
    if fib::forwarding(ns, dev, dst.is_ipv6()) {
        return None;
    }
    Some(match dst {
        IpAddr::V6(_) => "ipv6/conf/all/forwarding".to_owned(),
        IpAddr::V4(_) if ns.forwards_v4 => {
            format!("ipv4/conf/{}/forwarding", conf.name(netns, dev))
        }
        IpAddr::V4(_) => "ipv4/ip_forward".to_owned(),
    })
}
