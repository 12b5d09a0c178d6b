//! Devices that change, come and go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::{Link, NewLink, Port};
use super::{World, tables};
use crate::net::detail::PortVlan;
use crate::net::{BridgePort, Device, DeviceKind, Inum, Peer};

/// `BR_STATE_FORWARDING`.
const FORWARDING: u8 = 3;

impl World {
    pub(super) fn set_link(&mut self, at: Inum, dev: &str, set: &Link) -> Option<()> {
        let index = self.index(at, dev)?;
        match set {
            Link::Up => self.raise(at, dev)?,
            Link::Master(bridge) => self.plug(at, dev, bridge)?,
            Link::Mtu(mtu) => self.device(at, dev)?.mtu = *mtu,
            Link::Address(mac) => {
                self.device(at, dev)?.mac = Some(*mac);
                // The kernel forgets a device's neighbours with its address.
                self.detail(at)?.neighbours.retain(|n| n.dev != index);
            }
            Link::Arp => self.device(at, dev)?.is_noarp = false,
            Link::NoXdp(_) => self.device(at, dev)?.xdp = None,
            Link::NoStp => self.device(at, dev)?.bridge.as_mut()?.stp = false,
            Link::NoVlanFiltering => self.device(at, dev)?.bridge.as_mut()?.vlan_filtering = false,
            Link::MacvlanBridge => self.device(at, dev)?.macvlan = Some("bridge"),
            Link::VxlanRemote { remote, .. } => {
                let vxlan = self.device(at, dev)?.vxlan.as_mut()?;
                let old = vxlan.remote.replace(*remote);
                let entries = &mut self.detail(at)?.fdb;
                let is_its = |mac: &[u8; 6]| *mac == [0; 6];
                for entry in entries.iter_mut().filter(|e| e.dev == index && is_its(&e.mac)) {
                    if entry.remote == old {
                        entry.remote = Some(*remote);
                    }
                }
            }
        }
        Some(())
    }

    /// Up: with carrier where the other end is up too, and with the routes that its addresses make.
    fn raise(&mut self, at: Inum, dev: &str) -> Option<()> {
        let device = self.device(at, dev)?;
        device.up = true;
        let (index, is_veth, peer) = (device.ifindex, device.kind == DeviceKind::Veth, device.link);
        let is_bridge = device.kind == DeviceKind::Bridge;
        let is_loopback = device.kind == DeviceKind::Loopback;
        let other = peer.filter(|_| is_veth).map(|p| (p.netns.unwrap_or(at), p.ifindex));
        let is_linked = match other {
            Some((there, peer)) => self.state.device(there, peer).is_none_or(|d| d.up),
            None => true,
        };
        self.carry(at, index, is_linked);
        if let Some((there, peer)) = other {
            self.carry(there, peer, is_linked);
        }
        if is_bridge {
            self.open_ports(at, index);
        }
        let netns = self.netns(at)?;
        if is_loopback {
            // `inetdev_event` and `init_loopback` (net/ipv4/devinet.c, net/ipv6/addrconf.c).
            for (addr, len) in
                [(IpAddr::from(Ipv4Addr::LOCALHOST), 8), (Ipv6Addr::LOCALHOST.into(), 128)]
            {
                if !netns.devices.get(&index)?.addresses.contains(&(addr, len)) {
                    tables::add_addr(netns, dev, (addr, len))?;
                }
            }
        }
        tables::reconnect(netns, index)
    }

    /// A bridge that goes up lets its ports forward, as far as they have a link
    /// (`br_stp_enable_bridge`).
    fn open_ports(&mut self, at: Inum, bridge: u32) -> Option<()> {
        let ports = self.netns(at)?.devices.values_mut();
        for device in ports.filter(|d| d.master == Some(bridge) && d.up && d.carrier) {
            if let Some(port) = &mut device.port {
                port.state = FORWARDING;
            }
        }
        Some(())
    }

    /// A device has a link or none, its bridge with it, and so have the routes by it.
    fn carry(&mut self, at: Inum, index: u32, is_linked: bool) -> Option<()> {
        const DEAD: u32 = 1;
        const LINKDOWN: u32 = 16;
        let device = self.netns(at)?.devices.get_mut(&index)?;
        device.carrier = is_linked;
        if let Some(port) = device.port.as_mut().filter(|_| is_linked && device.up) {
            port.state = FORWARDING;
        }
        let master = device.master;
        if is_linked {
            let routes = self.detail(at)?.routes.iter_mut().flat_map(|r| &mut r.hops);
            for hop in routes.filter(|h| h.dev == Some(index)) {
                hop.flags &= !(DEAD | LINKDOWN);
            }
            self.carry(at, master?, true)?;
        }
        Some(())
    }

    fn plug(&mut self, at: Inum, dev: &str, bridge: &str) -> Option<()> {
        let (index, master) = (self.index(at, dev)?, self.index(at, bridge)?);
        let is_filtering = self.device(at, bridge)?.bridge.is_some_and(|b| b.vlan_filtering);
        let device = self.device(at, dev)?;
        device.master = Some(master);
        device.port = Some(fresh_port());
        let is_linked = device.up && device.carrier;
        if let Some(vlans) = self.detail(at)?.vlans.as_mut().filter(|_| is_filtering) {
            let (vids, is_pvid, is_untagged) = ((1, 1), true, true);
            vlans.push(PortVlan { dev: index, vids, is_pvid, is_untagged });
        }
        if is_linked {
            self.carry(at, master, true);
        }
        Some(())
    }

    pub(super) fn set_port(&mut self, at: Inum, dev: &str, set: Port) -> Option<()> {
        let port = self.device(at, dev)?.port.as_mut()?;
        match set {
            Port::Hairpin => port.hairpin = true,
            Port::Forwarding => port.state = FORWARDING,
            Port::NotIsolated => port.isolated = false,
            Port::Unlocked => port.locked = false,
            Port::Flood => port.unicast_flood = true,
            Port::BroadcastFlood => port.broadcast_flood = true,
            Port::MulticastFlood => port.multicast_flood = true,
        }
        Some(())
    }

    pub(super) fn add_link(&mut self, at: Inum, dev: &str, link: &NewLink) -> Option<()> {
        let mut device = self.blank(at, dev)?;
        let lower =
            |name: &str| self.index(at, name).map(|ifindex| Peer { netns: Some(at), ifindex });
        match link {
            NewLink::Veth { peer, there, mtu } => {
                let there = there.unwrap_or(at);
                let mut other = self.blank(there, peer)?;
                if there == at && other.ifindex == device.ifindex {
                    other.ifindex += 1;
                }
                device.link = Some(Peer { netns: Some(there), ifindex: other.ifindex });
                other.link = Some(Peer { netns: Some(at), ifindex: device.ifindex });
                for end in [&mut device, &mut other] {
                    (end.kind, end.mtu) = (DeviceKind::Veth, mtu.unwrap_or(1500));
                    end.mac = Some(fresh_mac(at, end.ifindex, end.link?.ifindex));
                }
                self.netns(there)?.devices.insert(other.ifindex, other);
            }
            NewLink::Vxlan { mac, mtu, lower: below, vxlan } => {
                device.link = below.as_deref().and_then(lower);
                (device.kind, device.mtu, device.vxlan) = (DeviceKind::Vxlan, *mtu, Some(*vxlan));
                device.mac = mac.or(device.mac);
            }
            NewLink::Vlan { lower: below, vid } => {
                device.link = lower(below);
                (device.kind, device.vlan) = (DeviceKind::Other("vlan".to_owned()), Some(*vid));
                device.mac = self.device(at, below)?.mac;
            }
            NewLink::Stacked { lower: below, is_ipvlan } => {
                device.link = lower(below);
                let kind = if *is_ipvlan { "ipvlan" } else { "macvlan" };
                device.kind = DeviceKind::Other(kind.to_owned());
                device.macvlan = (!is_ipvlan).then_some("bridge");
                device.mac = Some(fresh_mac(at, device.ifindex, 0));
            }
        }
        self.netns(at)?.devices.insert(device.ifindex, device);
        Some(())
    }

    /// A device of this name, down and without anything; the one that had the name lends it its
    /// number.
    fn blank(&mut self, at: Inum, name: &str) -> Option<Device> {
        let old = self.gone.remove(&(at, name.to_owned()));
        let devices = &self.netns(at)?.devices;
        let next = devices.keys().max().map_or(1, |last| last + 1);
        let (ifindex, mtu) = old.as_ref().map_or((next, 1500), |old| (old.ifindex, old.mtu));
        let mac = old.and_then(|old| old.mac);
        Some(Device { ifindex, name: name.to_owned(), mtu, mac, ..Device::default() })
    }

    pub(super) fn del_link(&mut self, at: Inum, dev: &str) -> Option<()> {
        let index = self.index(at, dev)?;
        let device = self.netns(at)?.devices.remove(&index)?;
        let detail = self.detail(at)?;
        detail.routes.retain(|r| r.hops.is_empty() || r.hops.iter().any(|h| h.dev != Some(index)));
        detail.neighbours.retain(|n| n.dev != index);
        detail.fdb.retain(|e| e.dev != index);
        self.gone.insert((at, dev.to_owned()), device);
        Some(())
    }
}

/// As a port is when it is made (`new_nbp`).
fn fresh_port() -> BridgePort {
    BridgePort {
        state: FORWARDING,
        hairpin: false,
        isolated: false,
        learning: true,
        unicast_flood: true,
        broadcast_flood: true,
        multicast_flood: true,
        neigh_suppress: false,
        locked: false,
    }
}

/// One that nobody has: given by hand, and numbered.
fn fresh_mac(at: Inum, index: u32, other: u32) -> [u8; 6] {
    let [.., a, b] = at.to_be_bytes();
    let [.., c, d] = index.to_be_bytes();
    [0x02, 0xfe, a ^ other.to_be_bytes()[3], b, c, d]
}
