//! The ledger of translations: what two looks at the same packet differ in, and where.

use std::net::IpAddr;

use tracer_common::Probe;

use super::{
    Hook, Nat, NatKind, Stage,
    walk::{Walk, is_blind},
};
use crate::event::{CtInfo, Event, Tuple};

/// A change that conntrack knows nothing of.
const OUTSIDE: &str =
    "rewritten behind here, not by conntrack: tc, a chain at the device, or a stateless rule";

impl Walk<'_> {
    /// Compares the packet with the last look at it.
    pub(super) fn observe(&mut self, e: &Event) {
        let Some(packet) = &e.packet else { return };
        if self.hops.is_empty() || is_blind(e.probe) {
            return;
        }
        let now = packet.headers.tuple;
        self.ttl = packet.headers.ttl;
        let slot = if self.is_encap { &mut self.outer } else { &mut self.tuple };
        let was = slot.replace(now);
        if self.is_encap && self.tuple.is_none() {
            self.tuple = packet.tunnelled().map(|h| h.tuple);
        }
        if let Some(was) = was.filter(|was| *was != now) {
            self.translate(e, was, now);
        }
        self.observed_at = self.hops.len() - 1;
        self.is_observed_inside = self.traversal.is_some();
    }

    fn translate(&mut self, e: &Event, was: Tuple, now: Tuple) {
        let is_reply = match e.ct {
            Some(CtInfo::Untracked) | None => self.is_reply,
            Some(ct) => ct.is_reply(),
        };
        let (source, destination) = difference(&was, &now, is_reply);
        // With both changed between two looks, the destination was translated first: PREROUTING
        // and OUTPUT come before POSTROUTING and INPUT. IPVS translates at INPUT, and back at
        // FORWARD.
        let middle = if source && destination {
            let dport = if now.proto.has_ports() { now.dport } else { was.dport };
            Tuple { dst: now.dst, dport, ..was }
        } else {
            now
        };
        if destination {
            let status = if is_reply { "snat" } else { "dnat" };
            let hop = self.place_of(e, [Hook::Prerouting, Hook::Output, Hook::Input], status);
            let kind = self.destination_kind(hop, is_reply, now.dst);
            self.record(Nat { hop, kind, before: was, after: middle });
        }
        if source {
            let status = if is_reply { "dnat" } else { "snat" };
            let hop = self.place_of(e, [Hook::Postrouting, Hook::Input, Hook::Forward], status);
            let kind = self.source_kind(hop, is_reply, now.src);
            let before = if destination { middle } else { was };
            self.record(Nat { hop, kind, before, after: now });
        }
    }

    fn record(&mut self, nat: Nat) {
        if let Some(hop) = self.hops.get_mut(nat.hop) {
            hop.tuple = Some(nat.after);
        }
        self.nat.push(nat);
    }

    /// The hop that made the change: a hook that may make it and that the packet was in since
    /// the last look, else the hop of this look. A change between a device and a hook that cannot
    /// have made it is the device's: tc, a chain at the device, a flowtable.
    fn place_of(&mut self, e: &Event, hooks: [Hook; 3], status: &str) -> usize {
        let last = self.hops.len() - 1;
        // The first function of a hook sees what came before the hook.
        let end =
            if matches!(e.probe, Probe::NfFirst | Probe::HookEnter) { last } else { last + 1 };
        // A hook that was seen to its end made its changes before that.
        let start = (self.observed_at + usize::from(!self.is_observed_inside)).min(end);
        let may = |at: &usize| {
            self.hops.get(*at).and_then(|h| h.hook).is_some_and(|hook| hooks.contains(&hook))
        };
        let found = (start..end).rev().find(may);
        let is_hook = |at: usize| self.hops[at].stage == Stage::Netfilter;
        match found {
            Some(at) if !self.is_outside(e, at, status) => at,
            // The routing decision that the hook implies stands before it.
            _ if is_hook(last) && !is_hook(self.observed_at) => {
                let hop = &mut self.hops[self.observed_at];
                hop.note.get_or_insert_with(|| OUTSIDE.to_owned());
                self.observed_at
            }
            _ => last,
        }
    }

    /// Whether a translation that was first seen behind `PREROUTING` was made before it: by
    /// conntrack's word it is none of its own.
    fn is_outside(&self, e: &Event, at: usize, status: &str) -> bool {
        let was_inside = self.is_observed_inside && at == self.observed_at;
        if was_inside || self.hops[at].hook != Some(Hook::Prerouting) {
            return false;
        }
        match (e.ct, e.connection) {
            (None | Some(CtInfo::Untracked | CtInfo::Invalid), _) => true,
            (Some(_), Some(connection)) => !connection.status().any(|said| said == status),
            // The kernel does not say how it keeps connections.
            (Some(_), None) => false,
        }
    }

    fn destination_kind(&self, hop: usize, is_reply: bool, now: IpAddr) -> NatKind {
        if is_reply {
            return NatKind::UnSnat;
        }
        let hop = &self.hops[hop];
        // `redirect` sets an address of the input device, or loopback for local packets. A
        // translation to another address of the node (a Service backed by a host port) is not it.
        let is_own = match hop.hook {
            Some(Hook::Output) => now.is_loopback(),
            _ => hop.dev.as_ref().is_some_and(|d| self.holds(hop.netns, d.ifindex, now)),
        };
        if is_own { NatKind::Redirect } else { NatKind::Dnat }
    }

    fn source_kind(&self, hop: usize, is_reply: bool, now: IpAddr) -> NatKind {
        if is_reply {
            return NatKind::UnDnat;
        }
        let hop = &self.hops[hop];
        let out = if hop.stage == Stage::Netfilter { &hop.out_dev } else { &hop.dev };
        if out.as_ref().is_some_and(|d| self.holds(hop.netns, d.ifindex, now)) {
            NatKind::Masquerade
        } else {
            NatKind::Snat
        }
    }

    fn holds(&self, netns: u32, ifindex: u32, addr: IpAddr) -> bool {
        self.state
            .device(netns, ifindex)
            .is_some_and(|d| d.addresses.iter().any(|(a, _)| *a == addr))
    }
}

/// Whether the source and whether the destination was translated. Ports count only where both
/// looks show them (a fragment has none), another protocol is another packet.
fn difference(was: &Tuple, now: &Tuple, is_reply: bool) -> (bool, bool) {
    if was.proto != now.proto {
        return (false, false);
    }
    let (mut source, mut destination) = (was.src != now.src, was.dst != now.dst);
    if was.has_l4() && now.has_l4() {
        if was.proto.has_ports() {
            source |= was.sport != now.sport;
            destination |= was.dport != now.dport;
        } else if was.sport != now.sport && !source && !destination {
            // Only source translation changes an ICMP identifier; a reply gets it back with the
            // destination.
            source = !is_reply;
            destination = is_reply;
        }
    }
    (source, destination)
}
