//! What the kind of a device means for the packet on it: devices on top of others, those that a
//! process holds, and those that a packet does not come back from.

use tracer_common::{Probe, event::ReaderDetail};

use super::{
    Hop, Process, Stage,
    walk::{Place, Walk},
};
use crate::{
    event::Event,
    net::{DeviceKind, NetworkState},
};

impl Walk<'_> {
    /// The kernel tells of a frame that comes in once, at the lower device; what happens next
    /// happens on the VLAN, macvlan or ipvlan on top of it.
    pub(super) fn climb(&mut self, e: &Event) {
        let is_on_device = matches!(
            e.probe,
            Probe::NfFirst
                | Probe::NfLast
                | Probe::HookEnter
                | Probe::HookExit
                | Probe::TcIngressFirst
                | Probe::TcIngressLast
        );
        if !is_on_device {
            return;
        }
        let lower = self.hops.last().filter(|h| matches!(h.stage, Stage::Rx | Stage::TcIngress));
        let Some((lower, dev)) = lower.and_then(|h| Some((h, h.dev.as_ref()?))) else { return };
        let below = self.state.device(e.netns, e.ifindex).and_then(|d| d.link);
        let is_below =
            below.is_some_and(|l| (l.netns, l.ifindex) == (Some(lower.netns), dev.ifindex));
        if !is_below {
            return;
        }
        let hop = self.hop(e, Stage::Rx);
        self.hops.push(Hop { dev: self.dev(e.netns, e.ifindex), ..hop });
    }

    /// A process reads the packet: from its socket, or from the tun device that it holds.
    pub(super) fn read(&mut self, e: &Event, d: &ReaderDetail) {
        let len = d.comm.iter().position(|b| *b == 0).unwrap_or(d.comm.len());
        let name = String::from_utf8_lossy(&d.comm[..len]).into_owned();
        let process = Some(Process { pid: d.pid, name });
        if self.place == Place::Left {
            let dev = self.dev(e.netns, e.ifindex);
            self.hops.push(Hop { dev, process, ..self.hop(e, Stage::Tun) });
            return;
        }
        self.socket(e, process);
    }
}

/// What is handed to this device leaves the node's network stack: hardware, or a program that
/// holds a tun device (a VM, a VPN in user space).
pub(super) fn leaves_node(state: &NetworkState, e: &Event) -> bool {
    let kind = state.device(e.netns, e.ifindex).map(|d| &d.kind);
    kind == Some(&DeviceKind::Physical) || is_tun(state, e)
}

/// The device is one that a process holds.
pub(super) fn is_tun(state: &NetworkState, e: &Event) -> bool {
    is_kind(state, e, &["tun", "tap", "macvtap", "ipvtap"])
}

/// The device is there to use up what it is handed.
pub(super) fn swallows(state: &NetworkState, e: &Event) -> bool {
    leaves_node(state, e) || is_kind(state, e, &["dummy", "nlmon"])
}

fn is_kind(state: &NetworkState, e: &Event, kinds: &[&str]) -> bool {
    let kind = state.device(e.netns, e.ifindex).map(|d| &d.kind);
    matches!(kind, Some(DeviceKind::Other(kind)) if kinds.contains(&kind.as_str()))
}
