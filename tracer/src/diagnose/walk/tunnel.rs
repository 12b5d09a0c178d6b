//! VXLAN: where the tunnel sends a frame, and who unpacks it.

use std::net::IpAddr;

use super::flight::Flight;
use super::stack::underlay;
use super::walker::{Next, Walker};
use super::{Effect, End, ObstacleKind, What};
use crate::event::{Proto, Tuple};
use crate::firewall::Stateful;
use crate::net::detail::FdbEntry;
use crate::net::{Device, DeviceKind, Inum, Mac};

/// Inner Ethernet, VXLAN, UDP and the outer IP header.
const OVERHEAD_V4: u32 = 14 + 8 + 8 + 20;
const OVERHEAD_V6: u32 = 14 + 8 + 8 + 40;
/// Tunnels in tunnels beyond this are a tunnel in itself.
const DEPTH: usize = 4;

impl Walker<'_> {
    /// `vxlan_xmit`: the remote end by the frame's address, then a UDP packet of the namespace that
    /// the tunnel was made in.
    pub(super) fn encap(&mut self, netns: Inum, device: &Device) -> Next {
        let dev = device.ifindex;
        let Some(vxlan) = device.vxlan else {
            return Next::Over(End::Unknown {
                why: format!("the parameters of tunnel {} were not read", device.name),
            });
        };
        let Some(under) = underlay(netns, device) else {
            let why = format!("where tunnel {} sends its packets is not known", device.name);
            return Next::Over(End::Unknown { why });
        };
        if self.inside.len() >= DEPTH {
            return Next::Over(End::Loop);
        }
        let mac = self.flight.written_mac.or(self.flight.mac).unwrap_or([0xff; 6]);
        let actual = self.flight.mac.and_then(|mac| self.tunnel_end(netns, mac));
        let fdb = self.conf.detail(netns).map_or(&[][..], |d| &d.fdb);
        let at =
            |mac: Mac| fdb.iter().find(move |e| e.dev == dev && e.mac == mac && e.remote.is_some());
        let entry = at(mac).or_else(|| at([0; 6]));
        // A group reaches whoever has joined it.
        let told = entry.and_then(|e| e.remote).or(vxlan.remote);
        let told = told.filter(|r| !r.is_multicast()).or(actual.filter(|_| told.is_some()));
        let Some(remote) = told.or(actual) else {
            self.hinder(Effect::Stops, netns, Some(dev), ObstacleKind::NoTunnelEntry { mac });
            return self.stop();
        };
        if told.is_none() {
            self.hinder(Effect::Stops, netns, Some(dev), ObstacleKind::NoTunnelEntry { mac });
        }
        if self.conf.is_local(under, remote) {
            let end = self.flight.mac.and_then(|mac| self.tunnel_with(netns, mac));
            let kind = ObstacleKind::TunnelToItself { remote, end };
            self.hinder(Effect::Stops, netns, Some(dev), kind);
            return self.stop();
        }
        // Healed: on to where the frame's address is.
        let mut to = remote;
        let flooded = FdbEntry {
            dev,
            bridge: None,
            mac: [0; 6],
            vlan: None,
            remote: Some(remote),
            state: 0,
            is_learned: false,
            is_sticky: false,
        };
        let is_only = fdb.iter().filter(|e| e.dev == dev && e.mac == [0; 6]).count() < 2;
        let own = entry.filter(|e| e.mac == mac).or(is_only.then_some(&flooded));
        if let (Some(entry), Some(actual)) = (own, actual)
            && told.is_some()
            && actual != remote
            && !self.is_at(remote, actual)
            && !self.holds(netns, remote)
        {
            let kind = ObstacleKind::WrongTunnelEntry { entry: entry.clone(), actual };
            self.hinder(Effect::Stops, netns, Some(dev), kind);
            to = actual;
        }
        self.step(netns, Some(dev), None, What::Encap { vni: vxlan.vni, remote: to });
        let local = vxlan.local.filter(|l| l.is_ipv4() == to.is_ipv4() && !l.is_unspecified());
        if let Some(local) = local.filter(|l| !self.conf.is_local(under, *l)) {
            let kind = ObstacleKind::TunnelSourceGone { local };
            self.hinder(Effect::Stops, netns, Some(dev), kind);
        }
        let src = local.filter(|l| self.conf.is_local(under, *l));
        let overhead = if to.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
        let outer = Flight {
            tuple: Tuple {
                src: src.unwrap_or(to),
                dst: to,
                proto: Proto::Udp,
                sport: 49_152,
                dport: vxlan.port,
            },
            len: self.flight.len + overhead,
            df: to.is_ipv6(),
            ttl: 64,
            mark: self.flight.mark,
            is_reply: false,
            is_local: true,
            is_forwarded: false,
            is_by_default: false,
            has_src: src.is_some(),
            vni: None,
            tag: None,
            tagger: None,
            own_mac: None,
            mac: None,
            written_mac: None,
            track: None,
            ct: Stateful::New,
            is_translated: (false, false),
            is_prerouted: false,
            orig: None,
        };
        let inner = std::mem::replace(&mut self.flight, outer);
        self.inside.push(Flight { vni: Some(vxlan.vni), ..inner });
        if let Some(step) = self.walk.steps.last_mut() {
            step.tuple = self.flight.tuple;
        }
        Next::Output { netns: under }
    }

    /// The outer address of the tunnel device with this address, elsewhere in view.
    fn tunnel_end(&self, netns: Inum, mac: Mac) -> Option<IpAddr> {
        let (at, dev) = self.tunnel_with(netns, mac)?;
        self.conf.device(at, dev)?.vxlan?.local
    }

    /// The tunnel device with this address, elsewhere in view.
    fn tunnel_with(&self, netns: Inum, mac: Mac) -> Option<(Inum, u32)> {
        let others = self.conf.all().filter(|n| n.inum != netns);
        let mut all = others.flat_map(|n| n.devices.values().map(move |d| (n.inum, d)));
        let is_it = |d: &Device| d.mac == Some(mac) && d.vxlan.is_some_and(|v| v.local.is_some());
        all.find(|(_, d)| is_it(d)).map(|(at, d)| (at, d.ifindex))
    }

    /// The entry by which a tunnel floods, where none of those that it has leads to `end`, and where
    /// that is.
    pub(super) fn wrong_flood(
        &self,
        netns: Inum,
        dev: u32,
        end: (Inum, u32),
    ) -> Option<(FdbEntry, IpAddr)> {
        let actual = self.conf.device(end.0, end.1)?.vxlan?.local?;
        let fdb = &self.conf.detail(netns)?.fdb;
        let is_flood = |e: &&FdbEntry| e.dev == dev && e.mac == [0; 6] && e.remote.is_some();
        let leads = |remote: IpAddr| {
            remote.is_multicast() || remote == actual || self.is_at(remote, actual)
        };
        let mut entries = fdb.iter().filter(is_flood);
        let first = entries.clone().next()?;
        let is_wrong = !entries.any(|e| e.remote.is_some_and(leads));
        (is_wrong && self.conf.is_local(end.0, actual)).then(|| (first.clone(), actual))
    }

    /// The namespace of the tunnel device that the frame is for has the address.
    fn holds(&self, here: Inum, addr: IpAddr) -> bool {
        let Some(mac) = self.flight.mac else { return false };
        let mut others = self.conf.all().filter(|n| n.inum != here);
        others.any(|n| {
            n.devices.values().any(|d| d.mac == Some(mac) && d.vxlan.is_some())
                && self.conf.is_local(n.inum, addr)
        })
    }

    /// Both addresses are of one namespace.
    fn is_at(&self, a: IpAddr, b: IpAddr) -> bool {
        let of_b = self.conf.holders(b);
        self.conf.holders(a).iter().any(|(netns, _)| of_b.iter().any(|(n, _)| n == netns))
    }

    /// `vxlan_rcv` in place of a socket, when the packet under way carries another one. `None`
    /// when it does not.
    pub(super) fn decap(&mut self, netns: Inum, dev: u32) -> Option<Next> {
        let vni = self.inside.last()?.vni?;
        let port = self.flight.tuple.dport;
        let all = self.conf.all().flat_map(|n| n.devices.values().map(move |d| (n.inum, d)));
        let is_here = |(at, d): &(Inum, &Device)| {
            d.kind == DeviceKind::Vxlan && d.vxlan.is_some() && underlay(*at, d) == Some(netns)
        };
        let homes: Vec<(Inum, &Device)> = all.filter(is_here).collect();
        let tunnels: Vec<&Device> = homes.iter().map(|(_, d)| *d).collect();
        let vnis = |d: &Device| d.vxlan.map(|v| v.vni);
        let ports = |d: &Device| d.vxlan.map(|v| v.port);
        let at_port = |d: &&&Device| ports(d) == Some(port);
        let same = tunnels.iter().find(|d| vnis(d) == Some(vni) && ports(d) == Some(port));
        let heard = tunnels.iter().filter(at_port).any(|d| d.up);
        let found = same
            .or_else(|| tunnels.iter().find(|d| vnis(d) == Some(vni)))
            .or_else(|| tunnels.iter().find(at_port))
            .or(tunnels.first())
            .copied();
        self.step(netns, Some(dev), None, What::Decap { vni });
        let Some(tunnel) = found else {
            self.hinder(Effect::Stops, netns, Some(dev), ObstacleKind::NoTunnel { vni });
            return Some(self.stop());
        };
        let kind = if ports(tunnel) != Some(port) {
            let listens = tunnels.iter().filter_map(|d| ports(d)).collect();
            Some(ObstacleKind::TunnelPort { sent: port, listens })
        } else if !tunnel.up {
            Some(ObstacleKind::TunnelDown { dev: tunnel.ifindex })
        } else if vnis(tunnel) != Some(vni) {
            let has = tunnels.iter().filter(|_| heard).filter_map(|d| vnis(d)).collect();
            Some(ObstacleKind::VniUnknown { vni, has })
        } else {
            None
        };
        let home =
            homes.iter().find(|(_, d)| std::ptr::eq(*d, tunnel)).map_or(netns, |(at, _)| *at);
        if let Some(kind) = kind {
            self.hinder(Effect::Stops, home, Some(tunnel.ifindex), kind);
        }
        let tunnel = tunnel.ifindex;
        if let Some(inner) = self.inside.pop() {
            self.flight = inner;
        }
        self.flight.vni = None;
        // Another node: nothing but the frame itself came along.
        self.flight.mark = 0;
        self.flight.scrub(netns, netns);
        if let Some(step) = self.walk.steps.last_mut() {
            (step.out_dev, step.tuple) = (Some(tunnel), self.flight.tuple);
        }
        Some(Next::Receive { netns: home, dev: tunnel })
    }
}
