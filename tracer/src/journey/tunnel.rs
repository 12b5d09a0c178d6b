//! Entering and leaving tunnels: the packet stays the same journey inside another one.

use super::{
    Dev, Hop, Stage, Tunnel,
    walk::{Place, Walk, is_blind},
};
use crate::{
    event::{Event, Tuple},
    net::{DeviceKind, Inum},
};

impl Walk<'_> {
    /// Notices that the packet has entered or left a tunnel since the last event. Events without
    /// packet bytes do not tell, and freed packets may have lost their headers.
    pub(super) fn cross_tunnel(&mut self, e: &Event) {
        if e.packet.is_none() || is_blind(e.probe) || e.tunnels == self.tunnels {
            return;
        }
        if self.hops.is_empty() {
            (self.tunnels, self.is_encap) = (e.tunnels, e.is_encap());
            self.carrier = e.packet.and_then(|p| p.carrier());
            return;
        }
        self.close_traversal();
        let enters = e.tunnels > self.tunnels;
        let lookup = if enters { self.take_outer_lookup() } else { None };
        (self.tunnels, self.is_encap) = (e.tunnels, e.is_encap());
        let now = e.packet.map(|p| p.headers.tuple);
        let outer = if enters { now } else { self.outer };
        let (stage, dev) = if enters {
            // Which device that was is not known where what it was handed was not seen.
            let last = self.hops.last().filter(|h| !self.is_thin || h.stage == Stage::Queue);
            (Stage::Encap, last.and_then(|h| h.dev.clone()))
        } else {
            (Stage::Decap, self.dev(e.netns, e.ifindex))
        };
        if enters {
            self.carrier = e.packet.and_then(|p| p.carrier());
        }
        let tunnel = Some(Box::new(self.tunnel(e.netns, dev.as_ref(), outer)));
        self.carrier = e.packet.and_then(|p| p.carrier());
        let ktime_ns = lookup.as_ref().map_or(e.ktime_ns, |hop| hop.ktime_ns);
        self.hops.push(Hop { ktime_ns, dev, tunnel, tuple: now, ..self.hop(e, stage) });
        self.outer = now.filter(|_| self.is_encap);
        self.routed = None;
        self.place = Place::Moving;
        if let Some(lookup) = lookup {
            self.routed = Some(self.hops.len());
            self.hops.push(Hop { is_encap: true, ..lookup });
        }
    }

    /// The tunnel device looks up the outer packet's route before there is an outer packet: the
    /// lookup then comes right behind the device's `xmit`, and belongs into the tunnel.
    fn take_outer_lookup(&mut self) -> Option<Hop> {
        let [.., before, last] = &self.hops[..] else { return None };
        let is_outer = before.stage == Stage::Xmit && last.stage == Stage::Route;
        if is_outer { self.hops.pop() } else { None }
    }

    /// The tunnel: as its header told, else by its device.
    fn tunnel(&self, netns: Inum, dev: Option<&Dev>, outer: Option<Tuple>) -> Tunnel {
        let device = dev.and_then(|d| self.state.device(netns, d.ifindex));
        let vxlan = device.and_then(|d| d.vxlan);
        let kind = match (self.carrier, device.map(|d| &d.kind)) {
            (Some(carrier), _) => carrier.kind,
            (None, Some(DeviceKind::Other(kind))) => kind.as_str(),
            _ if vxlan.is_some() => "vxlan",
            _ => "tunnel",
        };
        Tunnel {
            kind: kind.to_owned(),
            vni: self.carrier.and_then(|by| by.vni).or(vxlan.map(|v| v.vni)),
            src: outer.map(|t| t.src),
            dst: outer.map(|t| t.dst),
        }
    }
}
