//! A packet that came in: PREROUTING, the routing decision and its checks, forwarding.

use super::address::{bad_source, forwarding_off, unverified};
use super::hooks::Devs;
use super::walker::{Next, Walker};
use super::{Effect, End, ObstacleKind};
use crate::journey::Hook;
use crate::net::detail::RouteType;
use crate::net::{DeviceKind, Inum};

impl Walker<'_> {
    pub(super) fn ip_receive(&mut self, netns: Inum, dev: u32, port: Option<u32>) -> Next {
        if self.conf.netns(netns).is_some_and(|n| n.detail.is_none()) {
            let why =
                format!("the configuration of {} was not read", self.conf.state.netns_name(netns));
            return Next::Over(End::Unknown { why });
        }
        if self.came_round(netns, dev) {
            self.hinder(Effect::Stops, netns, Some(dev), ObstacleKind::TtlExceeded);
            return Next::Over(End::Loop);
        }
        // ip_sabotage_in(): what the bridge has shown to PREROUTING is not shown to it again.
        if !self.flight.is_prerouted {
            let devs = Devs { iif: Some(dev), ports: (port, None), ..Devs::default() };
            self.hook(netns, Hook::Prerouting, devs);
        }
        self.flight.is_prerouted = false;
        if self.conf.device(netns, dev).is_some_and(|d| d.kind == DeviceKind::Loopback) {
            return Next::Input { netns, dev, port };
        }
        // The kernel has no route to such an address, though it is the namespace's own.
        let own = unverified(self.conf, netns, self.flight.tuple.dst);
        if let Some((holder, kind)) = own {
            self.hinder(Effect::Stops, netns, Some(holder), kind);
            return Next::Input { netns, dev, port };
        }
        self.martian_destination(netns, dev);
        let Some(way) = self.route(netns, Some(dev)) else { return self.stop() };
        let (src, dst) = (self.flight.tuple.src, self.flight.tuple.dst);
        if let Some(kind) = bad_source(self.conf, netns, dev, (src, dst), self.flight.mark) {
            self.hinder(Effect::Stops, netns, Some(dev), kind);
        }
        match way.route.kind {
            RouteType::Local => Next::Input { netns, dev, port },
            RouteType::Broadcast | RouteType::Multicast => {
                Next::Over(End::Unknown { why: "packets to a group are not followed".to_owned() })
            }
            _ => {
                let Some(out) = self.out_dev(netns, &way) else { return self.stop() };
                let mtu = way.route.mtu.filter(|m| *m > 0);
                self.forward(netns, dev, port, out, mtu);
                Next::Emit { netns, iif: Some(dev), dev: out, hop: way.hop.via }
            }
        }
    }

    /// `ip_forward`: setting, IPsec, TTL, length, FORWARD.
    fn forward(&mut self, netns: Inum, dev: u32, port: Option<u32>, out: u32, mtu: Option<u32>) {
        if let Some(sysctl) = forwarding_off(self.conf, netns, dev, self.flight.tuple.dst) {
            let kind = ObstacleKind::ForwardingOff { sysctl };
            self.hinder(Effect::Stops, netns, Some(dev), kind);
        }
        self.ipsec(netns, "fwd");
        self.flight.is_forwarded = true;
        if self.flight.ttl <= 1 {
            self.hinder(Effect::Stops, netns, Some(dev), ObstacleKind::TtlExceeded);
        }
        self.flight.ttl = self.flight.ttl.saturating_sub(1);
        self.forwarded_length(netns, dev, out, mtu);
        self.step(netns, Some(dev), Some(out), super::What::Forward);
        let ports = (port, None);
        let devs = Devs { iif: Some(dev), oif: Some(out), ports, ..Devs::default() };
        self.hook(netns, Hook::Forward, devs);
    }

    /// Longer than the next link takes: the sender is told to send less, unless a rule keeps it
    /// from hearing that (`ip_exceeds_mtu`, `icmp_send`).
    fn forwarded_length(&mut self, netns: Inum, dev: u32, out: u32, mtu: Option<u32>) {
        let Some(own) = self.conf.device(netns, out).map(|d| d.mtu).filter(|m| *m > 0) else {
            return;
        };
        let mtu = mtu.map_or(own, |m| m.min(own));
        let len = self.flight.len;
        if len <= mtu {
            return;
        }
        if !self.flight.df {
            let kind = ObstacleKind::Fragmented { dev: out, mtu, len };
            self.hinder(Effect::Degrades, netns, Some(out), kind);
            return;
        }
        let error = self.unheard(netns, dev);
        let tells_sender = error.is_none();
        let effect = error.as_ref().map_or(Effect::Degrades, |error| error.effect);
        let kind = ObstacleKind::TooLong { dev: out, mtu, len, tells_sender };
        self.hinder(effect, netns, Some(out), kind);
        if let Some(error) = error {
            self.hinder_with(error);
        }
        self.flight.len = mtu;
    }

    fn martian_destination(&mut self, netns: Inum, dev: u32) {
        let dst = self.flight.tuple.dst;
        if dst.is_ipv4() && dst.is_loopback() {
            let (value, sysctl) = self.conf.conf_max(netns, dev, "route_localnet");
            if value == 0 {
                let kind = ObstacleKind::RouteLocalnetOff { sysctl };
                self.hinder(Effect::Stops, netns, Some(dev), kind);
            }
        }
    }

    /// The same packet was received here before: it goes round.
    fn came_round(&mut self, netns: Inum, dev: u32) -> bool {
        !self.seen.insert((netns, dev, self.flight.tuple, self.inside.len()))
    }
}
