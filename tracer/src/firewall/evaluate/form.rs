//! A packet together with what is not known of it any more.

use std::net::IpAddr;

use super::{Packet, Truth};
use crate::firewall::words::is_in;

/// One of the forms that a packet may have at a point.
#[derive(Clone, Debug)]
pub(super) struct Form {
    pub(super) packet: Packet,
    /// Bits of the mark that are not known.
    pub(super) mark_unknown: u32,
    /// The kernel chose the source, or a rule of which only the kind is known.
    pub(super) is_src_unknown: bool,
    /// The same of the destination.
    pub(super) is_dst_unknown: bool,
    /// A rule that may hold says `NOTRACK`.
    pub(super) is_ct_unknown: bool,
    /// Translated at this hook: no other rule translates it here.
    pub(super) is_translated: bool,
}

impl Form {
    pub(super) fn new(packet: &Packet) -> Self {
        Self {
            packet: packet.clone(),
            mark_unknown: 0,
            is_src_unknown: false,
            is_dst_unknown: false,
            is_ct_unknown: false,
            is_translated: false,
        }
    }

    pub(super) fn src(&self, nets: &[(IpAddr, u8)]) -> Truth {
        if self.is_src_unknown { Truth::Maybe } else { among(self.packet.src, nets) }
    }

    pub(super) fn dst(&self, nets: &[(IpAddr, u8)]) -> Truth {
        if self.is_dst_unknown { Truth::Maybe } else { among(self.packet.dst, nets) }
    }

    pub(super) fn sport(&self, range: (u16, u16)) -> Truth {
        self.port(self.packet.sport, range, self.is_src_unknown)
    }

    pub(super) fn dport(&self, range: (u16, u16)) -> Truth {
        self.port(self.packet.dport, range, self.is_dst_unknown)
    }

    fn port(&self, port: u16, (first, last): (u16, u16), is_unknown: bool) -> Truth {
        match (self.has_ports(), is_unknown) {
            (false, _) => Truth::No,
            (true, true) => Truth::Maybe,
            (true, false) => (first <= port && port <= last).into(),
        }
    }

    /// TCP, UDP, DCCP, SCTP or UDP-Lite, and the part of the datagram that holds the ports.
    pub(super) fn has_ports(&self) -> bool {
        matches!(self.packet.proto, 6 | 17 | 33 | 132 | 136) && !self.packet.is_fragment
    }

    pub(super) fn mark(&self, value: u32, mask: u32) -> Truth {
        let known = mask & !self.mark_unknown;
        match (self.packet.mark & known == value & known && value & !mask == 0, known == mask) {
            (false, _) => Truth::No,
            (true, true) => Truth::Yes,
            (true, false) => Truth::Maybe,
        }
    }

    pub(super) fn set_mark(&mut self, value: u32, mask: u32) {
        self.packet.mark = self.packet.mark & !mask ^ value;
        self.mark_unknown &= !mask;
    }

    /// What is known if the packet is either `self` or `other`, which differ in marks and states.
    pub(super) fn or(mut self, other: &Self) -> Self {
        self.mark_unknown |= other.mark_unknown | (self.packet.mark ^ other.packet.mark);
        self.is_ct_unknown |= other.is_ct_unknown || self.packet.ct != other.packet.ct;
        self
    }
}

fn among(addr: IpAddr, nets: &[(IpAddr, u8)]) -> Truth {
    nets.iter().any(|net| is_in(addr, *net)).into()
}
