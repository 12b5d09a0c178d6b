//! Entering and leaving tunnels: the packet stays the same journey inside another one.

use super::{
    Dev, Hop, Stage, Tunnel,
    assemble::{Place, Walk, is_blind},
};
use crate::{
    event::{Event, Tuple},
    net::DeviceKind,
};

impl Walk<'_> {
    /// Notices that the packet has entered or left a tunnel since the last event. Events without
    /// packet bytes do not tell, and freed packets may have lost their headers.
    pub(super) fn cross_tunnel(&mut self, e: &Event) {
        if e.packet.is_none() || is_blind(e.probe) || e.is_encap() == self.is_encap {
            return;
        }
        if self.hops.is_empty() {
            self.is_encap = e.is_encap();
            return;
        }
        self.close_traversal();
        let lookup = self.take_outer_lookup(e);
        self.is_encap = e.is_encap();
        let outer = if e.is_encap() { e.packet.map(|p| p.headers.tuple) } else { self.outer };
        let (stage, dev, tuple) = if e.is_encap() {
            let dev = self.hops.last().and_then(|h| h.dev.clone());
            (Stage::Encap, dev, outer)
        } else {
            (Stage::Decap, self.dev(e.netns, e.ifindex), e.packet.map(|p| p.headers.tuple))
        };
        let tunnel = Some(self.tunnel(e, dev.as_ref(), outer));
        let ktime_ns = lookup.as_ref().map_or(e.ktime_ns, |hop| hop.ktime_ns);
        self.hops.push(Hop { ktime_ns, dev, tunnel, tuple, ..self.hop(e, stage) });
        self.outer = if e.is_encap() { outer } else { None };
        self.routed = None;
        self.place = Place::Moving;
        if let Some(lookup) = lookup {
            self.routed = Some(self.hops.len());
            self.hops.push(Hop { is_encap: true, ..lookup });
        }
    }

    /// The tunnel device looks up the outer packet's route before there is an outer packet: the
    /// lookup then comes right behind the device's `xmit`, and belongs into the tunnel.
    fn take_outer_lookup(&mut self, e: &Event) -> Option<Hop> {
        let [.., before, last] = &self.hops[..] else { return None };
        let is_outer = e.is_encap() && before.stage == Stage::Xmit && last.stage == Stage::Route;
        if is_outer { self.hops.pop() } else { None }
    }

    fn tunnel(&self, e: &Event, dev: Option<&Dev>, outer: Option<Tuple>) -> Tunnel {
        let device = dev.and_then(|d| self.state.device(e.netns, d.ifindex));
        let vni = e.packet.filter(|_| e.is_encap()).and_then(|p| p.vni());
        let vxlan = device.and_then(|d| d.vxlan);
        let kind = match device.map(|d| &d.kind) {
            Some(DeviceKind::Other(kind)) => kind.as_str(),
            _ if vni.is_some() || vxlan.is_some() => "vxlan",
            _ => "tunnel",
        };
        Tunnel {
            kind: kind.to_owned(),
            vni: vni.or(vxlan.map(|v| v.vni)),
            src: outer.map(|t| t.src),
            dst: outer.map(|t| t.dst),
        }
    }
}
