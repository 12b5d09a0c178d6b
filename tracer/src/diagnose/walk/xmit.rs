//! Out by a device, and in by the one at its other end.

use std::net::IpAddr;

use super::conf::is_private;
use super::hooks::Devs;
use super::verdict::reference;
use super::walker::{Next, Walker};
use super::{Effect, End, ObstacleKind, RuleRef, What, l2, stack, vlan};
use crate::firewall::{Hit, Target};
use crate::journey::Hook;
use crate::net::{Device, DeviceKind, Inum};

/// What a veth takes beyond its MTU: room for a VLAN tag (`__is_skb_forwardable`).
const VLAN_HLEN: u32 = 4;

impl Walker<'_> {
    /// POSTROUTING, then the frame's address.
    pub(super) fn emit(
        &mut self,
        netns: Inum,
        iif: Option<u32>,
        dev: u32,
        hop: Option<IpAddr>,
    ) -> Next {
        if self.flight.is_forwarded {
            self.ipsec(netns, "out");
        }
        self.by_default(netns, iif);
        let devs = Devs { iif, oif: Some(dev), hop, ..Devs::default() };
        self.hook(netns, Hook::Postrouting, devs);
        self.private_source(netns, dev);
        let to = hop.unwrap_or(self.flight.tuple.dst);
        let Some(device) = self.conf.device(netns, dev) else { return self.stop() };
        if !self.resolve(netns, device, to) {
            return self.stop();
        }
        Next::Xmit { netns, dev, hop: Some(to) }
    }

    /// A packet of somebody behind this namespace goes out into the world as it is.
    fn private_source(&mut self, netns: Inum, dev: u32) {
        let t = self.flight.tuple;
        let leaves = self.flight.is_forwarded && self.flight.is_by_default && !self.flight.is_reply;
        if !leaves || !is_private(t.src) || is_private(t.dst) || self.conf.is_local(netns, t.src) {
            return;
        }
        let kind = ObstacleKind::PrivateSource { src: t.src, rules: self.masks(netns) };
        self.hinder(Effect::MayStop, netns, Some(dev), kind);
    }

    fn masks(&self, netns: Inum) -> Vec<RuleRef> {
        let Some(detail) = self.conf.detail(netns) else { return Vec::new() };
        let mut found = Vec::new();
        for table in &detail.firewall.tables {
            for chain in &table.chains {
                for rule in &chain.rules {
                    if matches!(rule.target, Target::Masquerade | Target::Snat { .. }) {
                        let via = Vec::new();
                        let hit = Hit { table, chain, rule: Some(rule), via, is_certain: true };
                        found.push(reference(&hit));
                    }
                }
            }
        }
        found
    }

    pub(super) fn xmit(&mut self, netns: Inum, dev: u32, hop: Option<IpAddr>) -> Next {
        let Some(device) = self.conf.device(netns, dev) else { return self.stop() };
        self.step(netns, None, Some(dev), What::Xmit);
        for (effect, kind) in l2::programs(self.conf, netns, device, false) {
            self.hinder(effect, netns, Some(dev), kind);
        }
        self.device_hook(netns, dev, false);
        self.down(netns, device);
        if let Some((at, child)) = self.child_of(netns, dev) {
            let kind = ObstacleKind::ParentIsolated { dev: child, parent: dev };
            self.hinder(Effect::Stops, at, Some(child), kind);
            self.flight.scrub(netns, at);
            return Next::Ip { netns: at, dev: child, port: None };
        }
        match &device.kind {
            DeviceKind::Loopback => Next::Ip { netns, dev, port: None },
            DeviceKind::Bridge => self.bridge(netns, device, None),
            DeviceKind::Vxlan => self.encap(netns, device),
            DeviceKind::Veth => self.cross(netns, device, hop),
            DeviceKind::Other(_) if stack::is_macvlan(device) => {
                self.send_by_lower(netns, device, hop)
            }
            DeviceKind::Other(_) if self.flight.tag.is_none() && device.vlan.is_some() => {
                let Some((at, lower)) = stack::below(netns, device) else {
                    return self.leave(netns, dev, hop);
                };
                (self.flight.tag, self.flight.tagger) = (device.vlan, Some((netns, dev)));
                Next::Xmit { netns: at, dev: lower, hop }
            }
            DeviceKind::Other(kind) if kind == "dummy" => Next::Over(End::Unknown {
                why: format!("{} is a dummy: what it is given is gone", device.name),
            }),
            DeviceKind::Physical | DeviceKind::Other(_) => {
                if device.up && !device.carrier {
                    let kind = ObstacleKind::NoCarrier { dev };
                    self.hinder(Effect::Stops, netns, Some(dev), kind);
                }
                self.leave(netns, dev, hop)
            }
        }
    }

    /// The macvlan on top of `dev` that the frame is for: what `dev` itself sends does not come to
    /// it (`macvlan_queue_xmit` hands over frames of its siblings alone).
    fn child_of(&self, netns: Inum, dev: u32) -> Option<(Inum, u32)> {
        let mac = self.flight.mac.filter(|_| self.flight.is_local || self.flight.is_forwarded)?;
        let mut children = self.conf.children(netns, dev);
        children.find(|(_, d)| d.mac == Some(mac)).map(|(at, d)| (at, d.ifindex))
    }

    fn leave(&mut self, netns: Inum, dev: u32, next_hop: Option<IpAddr>) -> Next {
        self.step(netns, None, Some(dev), What::Wire { next_hop });
        Next::Over(End::LeftView { netns, dev, next_hop })
    }

    fn down(&mut self, netns: Inum, device: &Device) {
        if device.up {
            return;
        }
        let kind = match device.kind {
            DeviceKind::Bridge => ObstacleKind::BridgeDown { bridge: device.ifindex },
            _ => ObstacleKind::DeviceDown { dev: device.ifindex },
        };
        self.hinder(Effect::Stops, netns, Some(device.ifindex), kind);
    }

    /// Through a veth pair.
    fn cross(&mut self, netns: Inum, device: &Device, hop: Option<IpAddr>) -> Next {
        let dev = device.ifindex;
        let Some((at, peer)) = self.conf.peer(netns, device) else {
            return self.leave(netns, dev, hop);
        };
        let peer_dev = peer.ifindex;
        self.step(netns, None, Some(dev), What::Veth { peer: (at, peer_dev) });
        let (mtu, len) = (peer.mtu, self.flight.len);
        if mtu > 0 && len > mtu + VLAN_HLEN {
            let kind = ObstacleKind::TooLong { dev: peer_dev, mtu, len, tells_sender: false };
            self.hinder(Effect::Stops, at, Some(peer_dev), kind);
        }
        if device.up && peer.up && !device.carrier {
            self.hinder(Effect::Stops, netns, Some(dev), ObstacleKind::NoCarrier { dev });
        }
        self.flight.scrub(netns, at);
        Next::Receive { netns: at, dev: peer_dev }
    }

    /// A macvlan talks to its siblings itself, and to the world by the device below it.
    fn send_by_lower(&mut self, netns: Inum, child: &Device, hop: Option<IpAddr>) -> Next {
        let Some((at, parent)) = stack::lower(netns, child) else {
            return self.leave(netns, child.ifindex, hop);
        };
        if let Some(mac) = self.flight.mac {
            let sibling = self
                .conf
                .children(at, parent)
                .find(|(_, d)| d.mac == Some(mac))
                .map(|(there, d)| (there, d.ifindex));
            let own = (self.conf.mac((at, parent)) == Some(mac)).then_some((at, parent));
            let other = sibling.and_then(|(at, dev)| Some((at, self.conf.device(at, dev)?)));
            let apart = other.and_then(|other| l2::apart((netns, child), other));
            if let Some((effect, kind)) = apart {
                self.hinder(effect, netns, Some(child.ifindex), kind);
            }
            if let Some((there, dev)) = sibling.or(own) {
                self.flight.scrub(netns, there);
                return Next::Receive { netns: there, dev };
            }
        }
        if self.conf.device(at, parent).is_none() {
            return self.leave(netns, child.ifindex, hop);
        }
        self.flight.scrub(netns, at);
        Next::Xmit { netns: at, dev: parent, hop }
    }

    pub(super) fn receive(&mut self, netns: Inum, dev: u32) -> Next {
        let Some(device) = self.conf.device(netns, dev) else { return self.stop() };
        self.down(netns, device);
        for (effect, kind) in l2::programs(self.conf, netns, device, true) {
            self.hinder(effect, netns, Some(dev), kind);
        }
        self.device_hook(netns, dev, true);
        if let Some((at, child)) =
            self.flight.tag.and_then(|tag| vlan::subinterface(self.conf, netns, dev, tag))
        {
            (self.flight.tag, self.flight.tagger) = (None, None);
            return Next::Receive { netns: at, dev: child.ifindex };
        }
        if let Some(bridge) = self.conf.bridge_of(netns, device) {
            return self.bridge(netns, bridge, Some(device));
        }
        self.unknown_tag(netns, dev);
        let is_bond = |d: &&Device| matches!(&d.kind, DeviceKind::Other(k) if k == "bond");
        let master = device.master.and_then(|m| self.conf.device(netns, m)).filter(is_bond);
        if let Some(bond) = master {
            return Next::Ip { netns, dev: bond.ifindex, port: None };
        }
        let Some(mac) = self.flight.mac else { return Next::Ip { netns, dev, port: None } };
        let child = self.conf.children(netns, dev).find(|(_, d)| d.mac == Some(mac));
        if let Some((at, child)) = child {
            let child = child.ifindex;
            self.flight.scrub(netns, at);
            return Next::Ip { netns: at, dev: child, port: None };
        }
        if device.mac.is_some() && device.mac != Some(mac) {
            if device.kind == DeviceKind::Veth && self.unplugged_from((netns, dev), mac) {
                return self.stop();
            }
            let kind = ObstacleKind::NotForMe { frame: mac, dev: device.mac };
            self.hinder(Effect::Stops, netns, Some(dev), kind);
        }
        Next::Ip { netns, dev, port: None }
    }
    /// A frame with a tag that nobody here asks for is for another host (`__netif_receive_skb_core`).
    pub(super) fn unknown_tag(&mut self, netns: Inum, dev: u32) {
        if let Some(vid) = self.flight.tag.take() {
            let kind = ObstacleKind::UnknownTag { dev, vid, sent: self.flight.tagger.take() };
            self.hinder(Effect::Stops, netns, Some(dev), kind);
        }
    }
}
