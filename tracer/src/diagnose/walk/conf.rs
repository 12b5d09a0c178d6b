//! What the walk asks of the configuration: devices, settings, addresses, within the scope.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Scope;
use super::stack::{is_macvlan, lower};
use crate::net::detail::{Detail, RouteType};
use crate::net::fib::{self, FibQuery, FibResult, TABLE_LOCAL};
use crate::net::{Device, DeviceKind, Inum, Mac, Netns, NetworkState};

/// The configuration that may be looked at.
#[derive(Clone, Copy)]
pub(super) struct Conf<'a> {
    pub(super) state: &'a NetworkState,
    pub(super) scope: &'a Scope,
    /// See [`Stacked`].
    pub(super) stacked: &'a Stacked,
}

/// The devices in scope that lie on top of another one (macvlan): namespace, device, the one below.
/// Every frame asks for them, and few nodes have any.
#[derive(Debug, Default)]
pub(super) struct Stacked(Vec<(Inum, u32, (Inum, u32))>);

impl Stacked {
    pub(super) fn of(state: &NetworkState, scope: &Scope) -> Self {
        let seen = state.netns.values().filter(|n| scope.contains(n.inum));
        let devices = seen.flat_map(|n| n.devices.values().map(move |d| (n.inum, d)));
        let stacked = devices.filter(|(_, d)| is_macvlan(d));
        Self(stacked.filter_map(|(at, d)| Some((at, d.ifindex, lower(at, d)?))).collect())
    }
}

impl<'a> Conf<'a> {
    /// Devices that share the link of `parent` with it.
    pub(super) fn children(
        self,
        netns: Inum,
        parent: u32,
    ) -> impl Iterator<Item = (Inum, &'a Device)> {
        let own = self.stacked.0.iter().filter(move |(.., below)| *below == (netns, parent));
        own.filter_map(move |(at, dev, _)| Some((*at, self.device(*at, *dev)?)))
    }

    pub(super) fn netns(&self, netns: Inum) -> Option<&'a Netns> {
        self.scope.contains(netns).then(|| self.state.netns.get(&netns)).flatten()
    }

    /// All namespaces in scope.
    pub(super) fn all(&self) -> impl Iterator<Item = &'a Netns> + use<'a> {
        let scope = self.scope;
        self.state.netns.values().filter(move |n| scope.contains(n.inum))
    }

    pub(super) fn detail(&self, netns: Inum) -> Option<&'a Detail> {
        self.netns(netns)?.detail.as_deref()
    }

    pub(super) fn device(&self, netns: Inum, dev: u32) -> Option<&'a Device> {
        self.netns(netns)?.devices.get(&dev)
    }

    pub(super) fn name(&self, netns: Inum, dev: u32) -> &'a str {
        self.device(netns, dev).map_or("?", |d| &d.name)
    }

    /// The other end of a veth, when it may be looked at.
    pub(super) fn peer(&self, netns: Inum, dev: &Device) -> Option<(Inum, &'a Device)> {
        let peer = dev.link?;
        let at = peer.netns.or_else(|| dev.link_nsid.is_none().then_some(netns))?;
        self.device(at, peer.ifindex).map(|d| (at, d))
    }

    /// The ports of a bridge (or the members of a bond), by interface index.
    pub(super) fn ports(&self, netns: Inum, master: u32) -> impl Iterator<Item = &'a Device> {
        let devices = self.netns(netns).into_iter().flat_map(|n| n.devices.values());
        devices.filter(move |d| d.master == Some(master))
    }

    /// The bridge that the device is a port of.
    pub(super) fn bridge_of(&self, netns: Inum, dev: &Device) -> Option<&'a Device> {
        let master = self.device(netns, dev.master?)?;
        (master.kind == DeviceKind::Bridge).then_some(master)
    }

    /// A setting as a number, by its path below `/proc/sys/net`.
    pub(super) fn sysctl(&self, netns: Inum, path: &str) -> Option<u32> {
        fib::sysctl(self.netns(netns)?, path)?.trim().parse().ok()
    }

    /// The larger of `all` and the device's own `key` (`IN_DEV_MAXCONF`, and `IN_DEV_ORCONF` for
    /// what is 0 or 1), and the path that decides.
    pub(super) fn conf_max(&self, netns: Inum, dev: u32, key: &str) -> (u32, String) {
        let value = self.netns(netns).map_or(0, |n| fib::device_sysctl(n, "ipv4", dev, key));
        let all = format!("ipv4/conf/all/{key}");
        if self.sysctl(netns, &all).unwrap_or(0) == value {
            return (value, all);
        }
        (value, format!("ipv4/conf/{}/{key}", self.name(netns, dev)))
    }

    /// Addresses that are this namespace's own, as firewall rules ask for them.
    pub(super) fn locals(&self, netns: Inum) -> BTreeSet<IpAddr> {
        let Some(ns) = self.netns(netns) else { return BTreeSet::new() };
        let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16])];
        let addresses = ns.devices.values().flat_map(|d| d.addresses.iter().map(|(a, _)| *a));
        addresses.chain(loopback).filter(|a| self.is_local(netns, *a)).collect()
    }

    /// The address is one of this namespace's own: its local table says so.
    pub(super) fn is_local(&self, netns: Inum, addr: IpAddr) -> bool {
        let query = FibQuery { table: Some(TABLE_LOCAL), ..FibQuery::to(addr) };
        self.lookup(netns, &query).is_some_and(|found| found.kind == Some(RouteType::Local))
    }

    /// The route; `None` when the namespace is not in view.
    pub(super) fn lookup(&self, netns: Inum, query: &FibQuery) -> Option<FibResult<'a>> {
        Some(fib::lookup(self.netns(netns)?, query))
    }

    pub(super) fn loopback(&self, netns: Inum) -> Option<&'a Device> {
        self.netns(netns)?.devices.values().find(|d| d.kind == DeviceKind::Loopback)
    }

    /// Who has the address on a device, in scope.
    pub(super) fn holders(&self, addr: IpAddr) -> Vec<(Inum, u32)> {
        let devices = self.all().flat_map(|n| n.devices.values().map(move |d| (n.inum, d)));
        let holds = devices.filter(|(_, d)| d.addresses.iter().any(|(a, _)| *a == addr));
        holds.map(|(netns, d)| (netns, d.ifindex)).collect()
    }

    pub(super) fn mac(&self, (netns, dev): (Inum, u32)) -> Option<Mac> {
        self.device(netns, dev)?.mac
    }

    /// The device at the bottom of a stack (VLANs and the like) of one namespace, whose link-layer
    /// address those above it have too.
    pub(super) fn lowest(&self, at: (Inum, u32)) -> (Inum, u32) {
        let (netns, mut dev) = at;
        // Ends by itself: a device lies on one that was there before it.
        while let Some(device) = self.device(netns, dev)
            && device.kind != DeviceKind::Veth
            && let Some(below) = device.link.filter(|l| l.netns == Some(netns))
            && below.ifindex != dev
            && self.mac((netns, below.ifindex)) == device.mac
        {
            dev = below.ifindex;
        }
        (netns, dev)
    }

    /// Frames to `mac` are for the namespace itself when they reach the bridge: its own address,
    /// or that of one of its ports (`br_fdb_add_local`).
    pub(super) fn is_bridges_own(&self, netns: Inum, bridge: &Device, mac: Mac) -> bool {
        bridge.mac == Some(mac) || self.ports(netns, bridge.ifindex).any(|p| p.mac == Some(mac))
    }
}

/// Addresses that nobody on the Internet answers to: private, shared, link-local, unique local.
pub(super) fn is_private(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => {
            let [x, y, ..] = a.octets();
            a.is_private() || a.is_link_local() || (x == 100 && y & 0xc0 == 64)
        }
        IpAddr::V6(a) => a.is_unique_local() || a.is_unicast_link_local(),
    }
}
