//! The packet that another one carries.
//!
//! What is found is a guess until its fingerprint is compared, or the filter agrees with it: so
//! every UDP payload may be tried for a tunnel's header, whatever its port.

use crate::maps::Slot;
use crate::packet::{ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, UDP};
use crate::skb::{behind_ethernet, probe_read};

/// How many tunnels deep a packet is looked for.
pub(crate) const MAX_DEPTH: u8 = 3;

/// Protocol numbers of tunnels: IPv4, IPv6 and GRE inside an IP packet.
pub(crate) const IPIP: u8 = 4;
pub(crate) const SIT: u8 = 41;
pub(crate) const GRE: u8 = 47;

/// Extension headers of IPv6 that may lie before the tunnel's: ip6tnl writes destination options.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Ethernet types, as they lie in memory: Ethernet itself in a tunnel, and ERSPAN.
const ETH_P_TEB: u16 = 0x6558_u16.to_be();
const ETH_P_ERSPAN: u16 = 0x88be_u16.to_be();
const GENEVE_PORT: u16 = 6081_u16.to_be();

/// Where the packet lies that the one in the slot carries: its place goes into the slot, its
/// protocol comes back; 0 when there is none.
///
/// Exported for the reason that [`crate::skb::read_packet`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn find_carried(slot: u64, protocol: u64) -> u64 {
    let Some(slot) = Slot::of(slot) else { return 0 };
    let l3 = slot.room().l3;
    let (next, l4) = match protocol as u16 {
        ETH_P_IP => behind_ipv4(l3),
        ETH_P_IPV6 => behind_ipv6(l3),
        _ => return 0,
    };
    let (at, inner) = match next {
        IPIP => (l4, ETH_P_IP),
        SIT => (l4, ETH_P_IPV6),
        GRE => in_gre(l4),
        UDP => in_udp(l4),
        _ => return 0,
    };
    if inner != ETH_P_IP && inner != ETH_P_IPV6 && inner != ETH_P_ARP {
        return 0;
    }
    slot.room().l3 = at;
    u64::from(inner)
}

/// Nothing that can be followed: the protocol number of none.
const NOTHING: (u8, u64) = (59, 0);

#[inline(always)]
fn behind_ipv4(l3: u64) -> (u8, u64) {
    // SAFETY: integers; zeroes, a header that is none, when they cannot be read.
    let w: [u32; 3] = unsafe { probe_read(l3 as *const u8) };
    let is_later_fragment = (w[1] >> 16) as u16 & 0x1fff_u16.to_be() != 0;
    if is_later_fragment {
        return NOTHING;
    }
    ((w[2] >> 8) as u8, l3 + u64::from(w[0] & 0xf) * 4)
}

#[inline(always)]
fn behind_ipv6(l3: u64) -> (u8, u64) {
    // SAFETY: an integer.
    let next: u8 = unsafe { probe_read((l3 + 6) as *const u8) };
    // Three at most, and not as a loop, see `maps::claim_slot`.
    let (next, at) = behind_extension(next, l3 + 40);
    let (next, at) = behind_extension(next, at);
    behind_extension(next, at)
}

/// Behind one extension header; as it was where there is none.
#[inline(always)]
fn behind_extension(next: u8, at: u64) -> (u8, u64) {
    if !matches!(next, HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT) {
        return (next, at);
    }
    // SAFETY: integers.
    let [following, units, high, low]: [u8; 4] = unsafe { probe_read(at as *const u8) };
    if next != FRAGMENT {
        (following, at + 8 + u64::from(units) * 8)
    } else if high == 0 && low & 0xf8 == 0 {
        (following, at + 8)
    } else {
        NOTHING
    }
}

/// GRE with its optional checksum, key and sequence number (RFC 2784, 2890), and ERSPAN.
#[inline(always)]
fn in_gre(gre: u64) -> (u64, u16) {
    const CHECKSUM: u8 = 0x80;
    const ROUTED: u8 = 0x40;
    const KEY: u8 = 0x20;
    const SEQUENCE: u8 = 0x10;
    // SAFETY: integers.
    let [flags, version]: [u8; 2] = unsafe { probe_read(gre as *const u8) };
    // SAFETY: an integer.
    let kind: u16 = unsafe { probe_read((gre + 2) as *const u8) };
    if flags & ROUTED != 0 || version & 7 != 0 {
        return (0, 0);
    }
    let option = |bit: u8| if flags & bit != 0 { 4 } else { 0 };
    let at = gre + 4 + option(CHECKSUM) + option(KEY) + option(SEQUENCE);
    match kind {
        ETH_P_TEB => behind_ethernet(at),
        // Type I has no header of its own, and no sequence number; type II has eight bytes.
        ETH_P_ERSPAN if flags & SEQUENCE != 0 => behind_ethernet(at + 8),
        ETH_P_ERSPAN => behind_ethernet(at),
        kind => (at, kind),
    }
}

/// VXLAN, with its extensions for policies and for other payloads than Ethernet (GPE), Geneve with
/// its options, or a bare IP packet (FOU).
#[inline(always)]
fn in_udp(udp: u64) -> (u64, u16) {
    const NEXT_PROTOCOL: u8 = 0x04;
    const HAS_VNI: u8 = 0x08;
    // SAFETY: an integer.
    let dport: u16 = unsafe { probe_read((udp + 2) as *const u8) };
    let header = udp + 8;
    // SAFETY: integers.
    let [first, _, _, next]: [u8; 4] = unsafe { probe_read(header as *const u8) };
    // SAFETY: an integer.
    let kind: u16 = unsafe { probe_read((header + 2) as *const u8) };
    if dport == GENEVE_PORT
        || first & 0xc8 == 0 && matches!(kind, ETH_P_TEB | ETH_P_IP | ETH_P_IPV6)
    {
        let at = header + 8 + u64::from(first & 0x3f) * 4;
        return if kind == ETH_P_TEB { behind_ethernet(at) } else { (at, kind) };
    }
    match first >> 4 {
        4 => return (header, ETH_P_IP),
        6 => return (header, ETH_P_IPV6),
        _ => {}
    }
    if first & HAS_VNI == 0 {
        return (0, 0);
    }
    let at = header + 8;
    match (first & NEXT_PROTOCOL, next) {
        (NEXT_PROTOCOL, 1) => (at, ETH_P_IP),
        (NEXT_PROTOCOL, 2) => (at, ETH_P_IPV6),
        _ => behind_ethernet(at),
    }
}
