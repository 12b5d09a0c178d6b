//! What is read out of packet bytes: the tuple, and the fingerprint that tells packets apart.
//!
//! Pure code on words as they lie in memory (network order, little-endian host), so that it is
//! tested on the host. The word is 32 bits because headers are aligned to four: BPF has no
//! unaligned loads.

use tracer_common::FlowKey;

/// Words of a snapshot.
pub(crate) const WORDS: usize = tracer_common::event::SNAP_LEN / 4;
/// Words of a transport header that are looked at.
pub(crate) const L4_WORDS: usize = 4;

/// `ETH_P_IP` as it lies in memory.
pub(crate) const ETH_P_IP: u16 = 0x0800_u16.to_be();
/// `ETH_P_IPV6`, likewise.
pub(crate) const ETH_P_IPV6: u16 = 0x86dd_u16.to_be();
/// `ETH_P_ARP`, likewise.
pub(crate) const ETH_P_ARP: u16 = 0x0806_u16.to_be();

/// Whether an Ethernet type (as it lies in memory) is that of a VLAN tag: 802.1Q or 802.1ad.
#[inline(always)]
pub(crate) fn is_tag(protocol: u16) -> bool {
    protocol == 0x8100_u16.to_be() || protocol == 0x88a8_u16.to_be()
}

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const ICMPV6: u8 = 58;

const K1: u64 = 0x9e37_79b9_7f4a_7c15;
const K2: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// A packet as far as identity and filter need it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Packet {
    /// Tuple; ports are zero where there are none.
    pub(crate) key: FlowKey,
    /// What neither NAT nor forwarding changes: IP id, length, sequence numbers.
    pub(crate) fingerprint: u64,
    /// First eight payload bytes of a datagram; 0 when unknown or none.
    pub(crate) payload: u64,
    /// 1 for an ICMP error: `key` is that of the packet it speaks of, reversed.
    pub(crate) is_error: u32,
    /// Not 0 for a fragment other than the first: it has no ports.
    pub(crate) is_later_fragment: u32,
    /// Not 0 for every fragment.
    pub(crate) is_fragment: u32,
}

impl Packet {
    /// A number that changes when the tuple does.
    #[inline(always)]
    pub(crate) fn tuple(&self) -> u64 {
        let k = &self.key;
        let mut h = u64::from(k.saddr[0]) << 32 | u64::from(k.daddr[0]);
        h = h.wrapping_mul(K1);
        h ^= (u64::from(k.saddr[3]) << 32 | u64::from(k.daddr[3])).wrapping_mul(K2);
        h ^ (u64::from(k.sport) << 16 | u64::from(k.dport))
    }
}

/// Where the transport header lies.
pub(crate) enum Transport {
    /// At this word of the snapshot, which is at a constant place.
    Plain,
    /// This many bytes after the network header (options, extension headers).
    At(u32),
    /// There is none to read.
    None,
}

/// Where the IPv4 transport header lies, from the first word.
#[inline(always)]
pub(crate) fn ipv4_transport(w: &[u32; WORDS]) -> Transport {
    match w[0] & 0xf {
        5 => Transport::Plain,
        ihl @ 6..=15 => Transport::At(ihl * 4),
        _ => Transport::None,
    }
}

/// Where the IPv6 transport header lies; a fragment header is stepped over.
#[inline(always)]
pub(crate) fn ipv6_transport(w: &[u32; WORDS]) -> Transport {
    if (w[1] >> 16) as u8 == FRAGMENT { Transport::At(48) } else { Transport::Plain }
}

/// Reads an IPv4 packet; `l4` is its transport header.
///
/// In place, here and below: a copy would not fit on the BPF stack.
#[inline(always)]
pub(crate) fn ipv4(p: &mut Packet, w: &[u32; WORDS], l4: &[u32; L4_WORDS]) {
    let proto = (w[2] >> 8) as u8;
    let frag = (w[1] >> 16) as u16;
    // Offset in units of eight bytes, and "more fragments", in memory order.
    let offset = frag & 0x1fff_u16.to_be();
    let is_fragment = frag & 0x3fff_u16.to_be() != 0;
    p.is_later_fragment = u32::from(offset != 0);
    p.is_fragment = u32::from(is_fragment);
    p.key.saddr[0] = w[3];
    p.key.daddr[0] = w[4];
    p.key.proto = proto;
    // Total length, identification, protocol; the fragment word only where it means something.
    p.fingerprint = u64::from(w[0] >> 16)
        | u64::from(w[1] & 0xffff) << 16
        | u64::from(proto) << 32
        | if is_fragment { u64::from(frag) << 40 } else { 0 };
    transport(p, l4);
    if p.is_error != 0 {
        // The offending packet starts two words after the ICMP header starts.
        error_key(&mut p.key, w[10], w[11], w[7 + 2], w[12]);
    }
}

/// Rewrites `key` to the reverse of the IPv4 packet inside an ICMP error.
#[inline(always)]
fn error_key(key: &mut FlowKey, saddr: u32, daddr: u32, proto_word: u32, ports: u32) {
    key.saddr[0] = daddr;
    key.daddr[0] = saddr;
    key.proto = (proto_word >> 8) as u8;
    if key.proto == TCP || key.proto == UDP {
        key.sport = (ports >> 16) as u16;
        key.dport = ports as u16;
    }
}

/// Reads an IPv6 packet; `l4` is its transport header.
#[inline(always)]
pub(crate) fn ipv6(p: &mut Packet, w: &[u32; WORDS], l4: &[u32; L4_WORDS]) {
    let mut proto = (w[1] >> 16) as u8;
    let mut fragment = 0;
    if proto == FRAGMENT {
        proto = w[10] as u8;
        fragment = u64::from(w[10] >> 16) << 40 ^ u64::from(w[11]);
        p.is_later_fragment = u32::from((w[10] >> 16) as u16 & 0xfff8_u16.to_be());
        p.is_fragment = 1;
    }
    p.key.saddr = [w[2], w[3], w[4], w[5]];
    p.key.daddr = [w[6], w[7], w[8], w[9]];
    p.key.proto = proto;
    // Flow label, payload length, next header. The label is set by the sender and kept by NAT.
    p.fingerprint = u64::from(w[0] & 0xffff_0f00) << 16
        ^ u64::from(w[1] & 0xffff)
        ^ u64::from(proto) << 56
        ^ fragment;
    transport(p, l4);
    if p.is_error != 0 {
        // Inner header at word 12: its addresses at 14 and 18.
        p.key.saddr = [w[18], w[19], w[20], w[21]];
        p.key.daddr = [w[14], w[15], w[16], w[17]];
        p.key.proto = (w[13] >> 16) as u8;
        if p.key.proto == TCP || p.key.proto == UDP {
            p.key.sport = (w[22] >> 16) as u16;
            p.key.dport = w[22] as u16;
        }
    } else if proto == ICMPV6 && matches!(l4[0] as u8, 135 | 136) {
        // Neighbour discovery asks for (or answers for) its target, not for the group address.
        let target = [w[12], w[13], w[14], w[15]];
        if l4[0] as u8 == 135 {
            p.key.daddr = target;
        } else {
            p.key.saddr = target;
        }
    }
}

/// Reads the transport header into the tuple and the fingerprint.
#[inline(always)]
fn transport(p: &mut Packet, l4: &[u32; L4_WORDS]) {
    let proto = p.key.proto;
    if p.is_later_fragment != 0 {
        p.fingerprint = p.fingerprint.wrapping_mul(K1);
        return;
    }
    let mut extra = 0;
    if proto == TCP {
        ports(&mut p.key, l4[0]);
        extra = u64::from(l4[1]) << 32 | u64::from(l4[2]);
    } else if proto == UDP {
        ports(&mut p.key, l4[0]);
        extra = u64::from(l4[1] & 0xffff);
        p.payload = u64::from(l4[3]) << 32 | u64::from(l4[2]);
    } else if proto == ICMP || proto == ICMPV6 {
        icmp(p, l4, &mut extra);
    }
    p.fingerprint = p.fingerprint.wrapping_mul(K1) ^ extra.wrapping_mul(K2);
}

#[inline(always)]
fn ports(key: &mut FlowKey, word: u32) {
    key.sport = word as u16;
    key.dport = (word >> 16) as u16;
}

#[inline(always)]
fn icmp(p: &mut Packet, l4: &[u32; L4_WORDS], extra: &mut u64) {
    let kind = l4[0] as u8;
    let (echo, reply) = if p.key.proto == ICMP { (8, 0) } else { (128, 129) };
    *extra = u64::from(l4[0] & 0xffff);
    if kind == echo || kind == reply {
        // NAT may change the identifier, never the sequence number.
        *extra |= u64::from(l4[1] >> 16) << 16;
        p.key.sport = l4[1] as u16;
        p.key.dport = l4[1] as u16;
        p.payload = u64::from(l4[3]) << 32 | u64::from(l4[2]);
    } else if p.key.proto == ICMP {
        p.is_error = u32::from(matches!(kind, 3 | 4 | 5 | 11 | 12));
    } else {
        p.is_error = u32::from(kind < 128);
    }
}

/// Reads an ARP packet for IPv4 over Ethernet.
#[inline(always)]
pub(crate) fn arp(p: &mut Packet, w: &[u32; WORDS]) {
    // 8 bytes fixed, sender MAC 8..14, sender IP 14..18, target MAC 18..24, target IP 24..28.
    p.key.saddr[0] = w[3] >> 16 | w[4] << 16;
    p.key.daddr[0] = w[6];
    // Operation and sender MAC.
    p.fingerprint = (u64::from(w[1]) ^ u64::from(w[2]) << 32).wrapping_mul(K1)
        ^ (u64::from(w[6]) << 32 | u64::from(p.key.saddr[0])).wrapping_mul(K2);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 20 bytes of IPv4 header and an ICMP echo request, as words in memory order.
    fn echo(id: u16, seq: u16, ttl: u8, src: [u8; 4]) -> ([u32; WORDS], [u32; L4_WORDS]) {
        let mut b = [0u8; WORDS * 4];
        b[0] = 0x45;
        b[2..4].copy_from_slice(&84u16.to_be_bytes());
        b[4..6].copy_from_slice(&0x1234u16.to_be_bytes());
        b[8] = ttl;
        b[9] = ICMP;
        b[12..16].copy_from_slice(&src);
        b[16..20].copy_from_slice(&[10, 244, 2, 2]);
        b[20] = 8;
        b[24..26].copy_from_slice(&id.to_be_bytes());
        b[26..28].copy_from_slice(&seq.to_be_bytes());
        b[28..36].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut w = [0; WORDS];
        for (word, bytes) in w.iter_mut().zip(b.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        (w, [w[5], w[6], w[7], w[8]])
    }

    fn read(w: &[u32; WORDS], l4: &[u32; L4_WORDS]) -> Packet {
        let mut p = Packet::default();
        ipv4(&mut p, w, l4);
        p
    }

    #[test]
    fn nat_and_forwarding_leave_the_fingerprint_alone() {
        let (w, l4) = echo(7, 1, 64, [10, 244, 1, 2]);
        let before = read(&w, &l4);
        let (w, l4) = echo(9, 1, 63, [192, 168, 50, 11]);
        let after = read(&w, &l4);
        assert_eq!(before.fingerprint, after.fingerprint);
        assert_eq!(before.payload, after.payload);
        assert_ne!(before.tuple(), after.tuple());
    }

    #[test]
    fn another_sequence_number_is_another_packet() {
        let (w, l4) = echo(7, 1, 64, [10, 244, 1, 2]);
        let first = read(&w, &l4).fingerprint;
        let (w, l4) = echo(7, 2, 64, [10, 244, 1, 2]);
        assert_ne!(first, read(&w, &l4).fingerprint);
    }

    #[test]
    fn icmp_error_has_the_reversed_tuple_of_what_it_speaks_of() {
        let (mut w, _) = echo(7, 1, 64, [10, 244, 1, 1]);
        w[5] = u32::from_ne_bytes([3, 1, 0, 0]);
        let inner = [
            u32::from_ne_bytes([0x45, 0, 0, 60]),
            0,
            u32::from_ne_bytes([64, UDP, 0, 0]),
            u32::from_ne_bytes([10, 244, 1, 2]),
            u32::from_ne_bytes([10, 244, 2, 2]),
            u32::from_ne_bytes([0x10, 0, 0, 53]),
        ];
        w[7..13].copy_from_slice(&inner);
        let l4 = [w[5], w[6], w[7], w[8]];
        let p = read(&w, &l4);
        assert_eq!(p.is_error, 1);
        assert_eq!(p.key.saddr[0], inner[4]);
        assert_eq!(p.key.daddr[0], inner[3]);
        assert_eq!(p.key.proto, UDP);
        assert_eq!((p.key.sport.to_be(), p.key.dport.to_be()), (53, 0x1000));
    }

    #[test]
    fn arp_addresses_are_those_in_the_body() {
        let mut b = [0u8; WORDS * 4];
        b[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        b[8..14].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        b[14..18].copy_from_slice(&[10, 244, 1, 2]);
        b[24..28].copy_from_slice(&[10, 244, 1, 3]);
        let mut w = [0; WORDS];
        for (word, bytes) in w.iter_mut().zip(b.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        let mut p = Packet::default();
        arp(&mut p, &w);
        assert_eq!(p.key.saddr[0].to_ne_bytes(), [10, 244, 1, 2]);
        assert_eq!(p.key.daddr[0].to_ne_bytes(), [10, 244, 1, 3]);
    }
}
