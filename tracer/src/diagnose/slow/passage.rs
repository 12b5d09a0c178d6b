//! Where the flow meets rules of a firewall.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Evidence;
use crate::diagnose::walk::{Step, What};
use crate::event::{Tcp, Tuple};
use crate::firewall::{self, At, Firewall, Packet, Stateful, Traversal};
use crate::journey::Hook;
use crate::net::{DeviceKind, Inum};

/// A hook that the flow comes through.
pub(super) struct Passage<'a> {
    pub(super) netns: Inum,
    pub(super) hook: Hook,
    /// For a bridge: its own rules, or those of IP that `br_netfilter` asks.
    bridge: Option<Bridge>,
    iif: Option<&'a str>,
    oif: Option<&'a str>,
    /// The packet as it comes and as it goes on.
    tuples: (Tuple, Tuple),
    locals: BTreeSet<IpAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bridge {
    Own,
    OfIp,
}

/// All of them, in the order of the way, both ways.
pub(super) fn passages<'a>(evidence: &'a Evidence<'_>) -> Vec<Passage<'a>> {
    let walks = evidence.ways.iter().flat_map(|way| way.walks());
    walks.flat_map(|(_, walk)| of_walk(evidence, &walk.steps)).collect()
}

fn of_walk<'a>(evidence: &'a Evidence<'_>, steps: &'a [Step]) -> Vec<Passage<'a>> {
    let mut before = steps.first().map(|step| step.tuple);
    let mut found = Vec::new();
    for step in steps {
        if let (What::Hook { hook, is_bridged, .. }, Some(before)) = (&step.what, before) {
            found.push(passage(evidence, step, (*hook, *is_bridged), before));
        }
        before = Some(step.tuple);
    }
    found
}

fn passage<'a>(
    evidence: &'a Evidence<'_>,
    step: &'a Step,
    (hook, is_bridged): (Hook, bool),
    before: Tuple,
) -> Passage<'a> {
    let device = |dev: Option<u32>| evidence.state.device(step.netns, dev?);
    let name = |dev| device(dev).map(|d| d.name.as_str());
    let is_bridge = [step.dev, step.out_dev]
        .into_iter()
        .any(|dev| device(dev).is_some_and(|d| d.kind == DeviceKind::Bridge));
    let bridge = is_bridged.then_some(if is_bridge { Bridge::OfIp } else { Bridge::Own });
    let devices = evidence.netns(step.netns).into_iter().flat_map(|n| n.devices.values());
    Passage {
        netns: step.netns,
        hook,
        bridge,
        iif: name(step.dev).filter(|_| hook != Hook::Output),
        oif: name(step.out_dev),
        tuples: (before, step.tuple),
        locals: devices.flat_map(|d| d.addresses.iter().map(|(addr, _)| *addr)).collect(),
    }
}

impl Passage<'_> {
    /// The families of tables that it meets.
    pub(super) fn meets(&self, family: &str) -> bool {
        match self.bridge {
            Some(Bridge::Own) => family == "bridge",
            _ if self.tuples.1.dst.is_ipv4() => matches!(family, "ip" | "inet"),
            _ => matches!(family, "ip6" | "inet"),
        }
    }

    /// A packet with these addresses comes to it, and not one of the other direction.
    pub(super) fn takes(&self, tuple: &Tuple) -> bool {
        let own = &self.tuples.0;
        (own.src, own.dst, own.proto) == (tuple.src, tuple.dst, tuple.proto)
    }

    /// A packet of a connection that is known, or the first of one.
    fn packet(&self, is_first: bool, flags: Option<u8>) -> Packet {
        let (t, ct, usual) = match is_first {
            true => (self.tuples.0, Stateful::New, Tcp::SYN),
            false => (self.tuples.1, Stateful::Established, Tcp::ACK),
        };
        let flags = flags.unwrap_or(usual);
        let mut packet = Packet::new(t.src, t.dst, t.proto.number());
        (packet.sport, packet.dport, packet.ct, packet.tcp_flags) = (t.sport, t.dport, ct, flags);
        packet
    }

    /// What the rules do with such a packet.
    pub(super) fn traverse<'f>(&self, fw: &'f Firewall, is_first: bool) -> Traversal<'f> {
        self.traverse_flagged(fw, (is_first, None))
    }

    /// The same with these TCP flags, not just those that such a packet has to have.
    pub(super) fn traverse_flagged<'f>(
        &self,
        fw: &'f Firewall,
        (is_first, flags): (bool, Option<u8>),
    ) -> Traversal<'f> {
        let at = At {
            hook: self.hook,
            is_bridged: self.bridge.is_some(),
            iif: self.iif,
            oif: self.oif,
            phys_in: None,
            phys_out: None,
            locals: &self.locals,
        };
        let packet = self.packet(is_first, flags);
        match self.bridge {
            Some(Bridge::Own) => firewall::traverse_bridge(fw, &packet, &at),
            _ => firewall::traverse(fw, &packet, &at),
        }
    }
}
