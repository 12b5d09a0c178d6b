//! The packet under way: its headers, and what the kernel keeps beside them.

use super::Ask;
use crate::event::{Proto, Tuple};
use crate::firewall::Stateful;
use crate::net::{Inum, Mac};

/// A packet under way.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) tuple: Tuple,
    pub(super) len: u32,
    pub(super) df: bool,
    pub(super) ttl: u8,
    pub(super) mark: u32,
    /// It answers another packet.
    pub(super) is_reply: bool,
    /// Made in the namespace that it is in.
    pub(super) is_local: bool,
    /// Has gone through the FORWARD path of this namespace.
    pub(super) is_forwarded: bool,
    /// Only a default route covers its destination.
    pub(super) is_by_default: bool,
    /// Its source is decided.
    pub(super) has_src: bool,
    /// Network identifier of the tunnel that it is inside of.
    pub(super) vni: Option<u32>,
    /// The NAT of this connection is settled: its destination's, its source's.
    pub(super) is_translated: (bool, bool),
    /// VLAN tag of the frame.
    pub(super) tag: Option<u16>,
    /// Who put that on, or left it on.
    pub(super) tagger: Option<(Inum, u32)>,
    /// Source of the frame.
    pub(super) own_mac: Option<Mac>,
    /// Destination of the frame.
    pub(super) mac: Option<Mac>,
    /// As the neighbour entry has it, when that is another one than the holder's.
    pub(super) written_mac: Option<Mac>,
    /// Where conntrack keeps it now: index into [`super::Walk::tracks`].
    pub(super) track: Option<usize>,
    pub(super) ct: Stateful,
    /// PREROUTING of IP was run for the frame by a bridge of this namespace.
    pub(super) is_prerouted: bool,
    /// Destination before translation, in this namespace.
    pub(super) orig: Option<Tuple>,
}

impl Flight {
    pub(super) fn new(ask: &Ask, tuple: Tuple) -> Self {
        Self {
            tuple,
            len: ask.len,
            df: ask.df || tuple.dst.is_ipv6(),
            ttl: 64,
            mark: ask.mark,
            is_reply: ask.is_reply,
            is_local: true,
            is_forwarded: false,
            is_by_default: false,
            has_src: ask.src.is_some(),
            vni: None,
            is_translated: (false, false),
            tag: None,
            tagger: None,
            own_mac: None,
            mac: None,
            written_mac: None,
            track: None,
            ct: if ask.is_reply { Stateful::Established } else { Stateful::New },
            is_prerouted: false,
            orig: None,
        }
    }

    /// Into another namespace, or through a link: what was kept beside the packet is gone
    /// (`skb_scrub_packet`; the mark only between namespaces).
    pub(super) fn scrub(&mut self, from: Inum, to: Inum) {
        if from != to {
            self.mark = 0;
        }
        self.track = None;
        self.orig = None;
        self.is_local = false;
        self.is_forwarded = false;
        self.is_by_default = false;
        self.is_translated = (false, false);
        self.is_prerouted = false;
    }

    /// As the firewall's evaluator wants it.
    pub(super) fn for_rules(&self) -> crate::firewall::Packet {
        let t = &self.tuple;
        let (sport, dport) = if t.proto.has_ports() { (t.sport, t.dport) } else { (0, 0) };
        crate::firewall::Packet {
            src: t.src,
            dst: t.dst,
            proto: t.proto.number(),
            sport,
            dport,
            icmp: echo(t.proto, self.is_reply),
            tcp_flags: match (t.proto, self.is_reply) {
                (Proto::Tcp, false) => 0x02,
                (Proto::Tcp, true) => 0x12,
                _ => 0,
            },
            mark: self.mark,
            ct: self.ct,
            orig_dst: self.orig.map(|o| (o.dst, o.dport)),
            is_dnat: self.orig.is_some_and(|o| (o.dst, o.dport) != (t.dst, t.dport)),
            is_fragment: false,
            frame: crate::firewall::Frame { src: self.own_mac, dst: self.mac, arp: None },
        }
    }
}

/// Type and code of an echo request or its answer.
fn echo(proto: Proto, is_reply: bool) -> Option<(u8, u8)> {
    match (proto, is_reply) {
        (Proto::Icmp, false) => Some((8, 0)),
        (Proto::Icmp, true) => Some((0, 0)),
        (Proto::Icmp6, false) => Some((128, 0)),
        (Proto::Icmp6, true) => Some((129, 0)),
        _ => None,
    }
}
