//! A packet that somebody beyond the view has sent, from where it comes in.

use super::flight::Flight;
use super::walker::{Next, Walker};
use super::{Ask, Entry, What};
use crate::net::{Device, DeviceKind, Inum, Mac};

impl Walker<'_> {
    /// On the wire of the device that it comes in by, inside of the tunnel that it comes in.
    pub(super) fn enter(&mut self, ask: &Ask, entry: &Entry) -> Next {
        let (netns, dev) = (ask.from, entry.dev);
        self.flight.is_local = false;
        self.flight.has_src = true;
        self.flight.mac = self.addressed_to(netns, dev);
        if let Some((outer, vni)) = entry.tunnel {
            let mut carrier =
                Flight::new(&Ask { df: false, is_reply: false, ..ask.clone() }, outer);
            (carrier.is_local, carrier.has_src, carrier.mac) = (false, true, self.flight.mac);
            let mut inner = std::mem::replace(&mut self.flight, carrier);
            inner.mac = self.tunnel_mac(netns, vni);
            inner.vni = Some(vni);
            self.inside.push(inner);
        }
        self.step(netns, Some(dev), None, What::Wire { next_hop: None });
        Next::Receive { netns, dev }
    }

    /// Whom the frame is for: whoever has the destination on the bridge that it comes in by, else
    /// the bridge, or the device itself.
    fn addressed_to(&self, netns: Inum, dev: u32) -> Option<Mac> {
        let device = self.conf.device(netns, dev)?;
        let Some(bridge) = device.master else { return device.mac };
        let dst = self.flight.tuple.dst;
        let mut holders = self.conf.holders(dst).into_iter().filter(|(at, _)| *at != netns);
        let holder = holders.find_map(|(at, dev)| self.conf.mac((at, dev)));
        holder.or_else(|| self.conf.mac((netns, bridge)))
    }

    fn tunnel_mac(&self, netns: Inum, vni: u32) -> Option<Mac> {
        let is_tunnel = |d: &&Device| d.kind == DeviceKind::Vxlan;
        let devices = || self.conf.netns(netns).into_iter().flat_map(|n| n.devices.values());
        let same = |d: &&Device| d.vxlan.is_some_and(|v| v.vni == vni);
        let mut tunnels = devices().filter(is_tunnel);
        devices().filter(is_tunnel).find(same).or_else(|| tunnels.next())?.mac
    }
}
