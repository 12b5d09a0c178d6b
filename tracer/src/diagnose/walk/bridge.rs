//! A frame in a bridge: its port, the rules that see it, the forwarding database, the port that it
//! leaves by.

use super::hooks::Devs;
use super::l2::{self, CONFIGURED, FORWARDING, STATIC};
use super::vlan::{self, Vid};
use super::walker::{Next, Walker};
use super::{Effect, End, Flood, How, ObstacleKind, What};
use crate::journey::Hook;
use crate::net::detail::RouteType;
use crate::net::fib::FibQuery;
use crate::net::{Device, Inum, Mac};

impl Walker<'_> {
    /// A frame from the port `from`, or from the namespace itself.
    pub(super) fn bridge(&mut self, netns: Inum, bridge: &Device, from: Option<&Device>) -> Next {
        let in_port = from.map(|p| p.ifindex);
        let by = from.unwrap_or(bridge);
        let vid = self.enter_vlan(netns, bridge, by);
        if let Some(port) = from {
            self.enter_port(netns, bridge, port);
            self.bridge_hook(netns, Hook::Prerouting, (in_port, None));
            if self.calls_ip(netns) {
                let changed = self.prerouting(netns, bridge, port);
                if changed && !self.translated_in_bridge(netns, bridge) {
                    return self.stop();
                }
            }
        }
        let Some(mac) = self.flight.mac else {
            return Next::Over(End::Unknown {
                why: format!("the address of the frame in {} is not known", bridge.name),
            });
        };
        if from.is_some() && self.conf.is_bridges_own(netns, bridge, mac) {
            self.led_away(netns, bridge, (mac, vid));
            self.bridged(netns, bridge, in_port, &[], How::Local);
            self.bridge_hook(netns, Hook::Input, (in_port, None));
            if let Some(up) = self.up_vlan(netns, bridge, (by, vid)) {
                return up;
            }
            return Next::Ip { netns, dev: bridge.ifindex, port: in_port };
        }
        let Some(out) = self.out_port(netns, bridge, (from, vid), mac) else { return self.stop() };
        if from.is_some() {
            self.forwarded(netns, bridge, in_port, out);
        } else {
            self.bridge_hook(netns, Hook::Output, (None, Some(out)));
            self.bridge_hook(netns, Hook::Postrouting, (None, Some(out)));
        }
        Next::Xmit { netns, dev: out, hop: None }
    }

    /// A static entry takes frames to the bridge's own address elsewhere.
    fn led_away(&mut self, netns: Inum, bridge: &Device, (mac, vid): (Mac, Vid)) {
        let entry = l2::fdb(self.conf, netns, bridge.ifindex, (mac, vid));
        if let Some(entry) = entry.filter(|e| e.state & CONFIGURED == STATIC) {
            let kind = ObstacleKind::FdbElsewhere { entry: entry.clone(), actual: None };
            self.hinder(Effect::Stops, netns, Some(entry.dev), kind);
        }
    }

    fn bridged(
        &mut self,
        netns: Inum,
        bridge: &Device,
        in_port: Option<u32>,
        out: &[u32],
        how: How,
    ) {
        let (bridge, out_ports) = (bridge.ifindex, out.to_vec());
        let what = What::Bridge { bridge, in_port, out_ports, how };
        self.step(netns, in_port, out.first().copied(), what);
    }

    fn enter_port(&mut self, netns: Inum, bridge: &Device, port: &Device) {
        if !bridge.up {
            let kind = ObstacleKind::BridgeDown { bridge: bridge.ifindex };
            self.hinder(Effect::Stops, netns, Some(bridge.ifindex), kind);
        } else if let Some(settings) = port.port.filter(|p| p.state != FORWARDING)
            && port.up
        {
            let kind = ObstacleKind::PortState { port: port.ifindex, state: settings.state };
            self.hinder(Effect::Stops, netns, Some(port.ifindex), kind);
        }
        if let Some(kind) = l2::locked(self.conf, netns, port, self.flight.own_mac) {
            self.hinder(Effect::Stops, netns, Some(port.ifindex), kind);
        }
    }

    /// The VLAN that the frame is in from here on.
    fn enter_vlan(&mut self, netns: Inum, bridge: &Device, by: &Device) -> Vid {
        let is_filtering = bridge.bridge.is_some_and(|b| b.vlan_filtering);
        if is_filtering && vlan::known(self.conf, netns, bridge).is_none() {
            let kind = ObstacleKind::VlanFiltering { bridge: bridge.ifindex };
            self.hinder(Effect::Degrades, netns, Some(bridge.ifindex), kind);
        }
        let (vid, obstacle) = vlan::enter(self.conf, netns, bridge, by, self.flight.tag);
        if let Some(kind) = obstacle {
            self.hinder(Effect::Stops, netns, Some(by.ifindex), kind);
        }
        vid
    }

    /// Out by `port`, or up to the bridge's own namespace, with the tag that its VLAN has there.
    fn leave_vlan(
        &mut self,
        netns: Inum,
        bridge: &Device,
        (from, port): (&Device, &Device),
        vid: Vid,
    ) {
        let was = self.flight.tag;
        let way = (from.ifindex, port);
        let (tag, obstacle) = vlan::leave(self.conf, netns, bridge, way, (vid, was));
        if let Some(kind) = obstacle {
            self.hinder(Effect::Stops, netns, Some(port.ifindex), kind);
        }
        if tag.is_some() && tag != was {
            self.flight.tagger = Some((netns, port.ifindex));
        }
        self.flight.tag = tag;
    }

    /// Up with a tag: to the subinterface of that VLAN, if there is one.
    fn up_vlan(&mut self, netns: Inum, bridge: &Device, (by, vid): (&Device, Vid)) -> Option<Next> {
        self.leave_vlan(netns, bridge, (by, bridge), vid);
        let tag = self.flight.tag?;
        let Some((at, child)) = vlan::subinterface(self.conf, netns, bridge.ifindex, tag) else {
            self.unknown_tag(netns, bridge.ifindex);
            return None;
        };
        (self.flight.tag, self.flight.tagger) = (None, None);
        Some(Next::Receive { netns: at, dev: child.ifindex })
    }

    /// `br_netfilter` shows bridged packets to the rules of IP.
    fn calls_ip(&self, netns: Inum) -> bool {
        self.conf.sysctl(netns, self.calls_ip_sysctl()).is_some_and(|v| v != 0)
    }

    fn calls_ip_sysctl(&self) -> &'static str {
        if self.flight.tuple.dst.is_ipv4() {
            "bridge/bridge-nf-call-iptables"
        } else {
            "bridge/bridge-nf-call-ip6tables"
        }
    }

    /// PREROUTING on behalf of the bridge; whether the destination is another one now.
    fn prerouting(&mut self, netns: Inum, bridge: &Device, port: &Device) -> bool {
        let before = self.flight.tuple.dst;
        let devs = Devs {
            iif: Some(bridge.ifindex),
            ports: (Some(port.ifindex), None),
            is_bridged: true,
            ..Devs::default()
        };
        self.hook(netns, Hook::Prerouting, devs);
        self.flight.is_prerouted = true;
        self.flight.tuple.dst != before
    }

    /// `br_nf_pre_routing_finish`: where the new destination is on this bridge, the frame is
    /// addressed to it and bridged on; else it goes up to be routed.
    fn translated_in_bridge(&mut self, netns: Inum, bridge: &Device) -> bool {
        let t = self.flight.tuple;
        let query =
            FibQuery { mark: self.flight.mark, ..FibQuery::input(t.src, t.dst, bridge.ifindex) };
        // What is for the namespace itself goes up: the route's device is `lo` to the kernel.
        let found = self.conf.lookup(netns, &query);
        let found = found.filter(|f| f.kind != Some(RouteType::Local));
        match found.and_then(|f| f.towards(t.dst)).filter(|(dev, _)| *dev == bridge.ifindex) {
            Some((_, hop)) => self.resolve(netns, bridge, hop),
            None => {
                self.flight.mac = bridge.mac;
                true
            }
        }
    }

    /// The port for `mac`, and what is in the way there.
    fn out_port(
        &mut self,
        netns: Inum,
        bridge: &Device,
        (from, vid): (Option<&Device>, Vid),
        mac: Mac,
    ) -> Option<u32> {
        let entry = l2::fdb(self.conf, netns, bridge.ifindex, (mac, vid));
        let ports: Vec<&Device> = self.conf.ports(netns, bridge.ifindex).collect();
        let leads = |p: &&Device| l2::leads_to(self.conf, netns, p.ifindex, mac);
        let known: Vec<_> = ports.iter().map(|p| (p.ifindex, leads(p))).collect();
        let actual = known.iter().find(|(_, leads)| *leads == Some(true)).map(|(p, _)| *p);
        let outward = known.iter().find(|(_, leads)| leads.is_none()).map(|(p, _)| *p);
        let how = match entry {
            Some(e) if e.state & CONFIGURED != 0 => How::Configured,
            Some(_) => How::Learned,
            None => How::Flood,
        };
        let out = actual.or(entry.map(|e| e.dev)).or(outward);
        let in_port = from.map(|p| p.ifindex);
        let others = ports.iter().map(|p| p.ifindex).filter(|p| Some(*p) != in_port);
        let out_ports: Vec<u32> = match out {
            Some(out) if how != How::Flood => vec![out],
            _ => others.collect(),
        };
        self.bridged(netns, bridge, in_port, &out_ports, how);
        if ports.is_empty() {
            let kind = ObstacleKind::NoPorts { bridge: bridge.ifindex };
            self.hinder(Effect::Stops, netns, Some(bridge.ifindex), kind);
        }
        let Some(out) = out else {
            if self.unplugged_from((netns, bridge.ifindex), mac) {
                return None;
            }
            let kind = ObstacleKind::NobodyHasMac { mac };
            self.hinder(Effect::Stops, netns, Some(bridge.ifindex), kind);
            return None;
        };
        if let Some(entry) = entry
            && entry.dev != out
        {
            let effect = if how == How::Configured { Effect::Stops } else { Effect::MayStop };
            let kind = ObstacleKind::FdbElsewhere { entry: entry.clone(), actual };
            self.hinder(effect, netns, Some(entry.dev), kind);
        }
        let flood = (how == How::Flood).then_some(Flood::Unicast);
        let port = self.conf.device(netns, out)?;
        self.leave_vlan(netns, bridge, (from.unwrap_or(bridge), port), vid);
        if bridge.up && port.up {
            for kind in l2::out_of_port(port, from, flood) {
                self.hinder(Effect::Stops, netns, Some(out), kind);
            }
        }
        if from.is_some() && port.mtu > 0 && self.flight.len > port.mtu + 4 {
            let (mtu, len) = (port.mtu, self.flight.len);
            let kind = ObstacleKind::TooLong { dev: out, mtu, len, tells_sender: false };
            self.hinder(Effect::Stops, netns, Some(out), kind);
        }
        Some(out)
    }

    /// From port to port: FORWARD and POSTROUTING, of the bridge's own rules and of IP's, or past
    /// IP's, and so past what would translate an answer back.
    fn forwarded(&mut self, netns: Inum, bridge: &Device, in_port: Option<u32>, out: u32) {
        self.bridge_hook(netns, Hook::Forward, (in_port, Some(out)));
        if self.calls_ip(netns) {
            let devs = Devs {
                iif: Some(bridge.ifindex),
                oif: Some(bridge.ifindex),
                ports: (in_port, Some(out)),
                is_bridged: true,
                hop: None,
            };
            self.hook(netns, Hook::Forward, devs);
            self.hook(netns, Hook::Postrouting, devs);
        } else {
            self.bypass(netns, bridge);
        }
        self.bridge_hook(netns, Hook::Postrouting, (in_port, Some(out)));
    }

    fn bypass(&mut self, netns: Inum, bridge: &Device) {
        let tuple = self.flight.tuple;
        let tracks = self.request.map_or(&[][..], |r| &r.tracks);
        let is_translated =
            tracks.iter().any(|t| t.netns == netns && t.now.reversed() == tuple && t.orig != t.now);
        if is_translated && self.inside.is_empty() {
            let sysctl = self.calls_ip_sysctl().to_owned();
            let kind = ObstacleKind::BypassesNat { sysctl, bridge: bridge.ifindex };
            self.hinder(Effect::Stops, netns, Some(bridge.ifindex), kind);
        }
    }
}
