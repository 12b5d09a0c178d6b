//! What is read out of packet bytes: the tuple, and the fingerprint that tells packets apart.
//!
//! Pure code on words as they lie in memory (network order, little-endian host), so that it is
//! tested on the host. The word is 32 bits because headers are aligned to four: BPF has no
//! unaligned loads.

use tracer_common::FlowKey;

/// Words of a snapshot.
pub(crate) const WORDS: usize = tracer_common::event::SNAP_LEN / 4;
/// Words of a transport header that are looked at.
pub(crate) const L4_WORDS: usize = 6;

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
pub(crate) const ICMPV6: u8 = 58;
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// Extension headers of IPv6 that stand before the transport header.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// How many of them are stepped over.
const MAX_EXTENSIONS: u32 = 6;

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
    /// First eight payload bytes of a datagram, zeroes behind its end; 0 when unknown or none.
    pub(crate) payload: u64,
    /// Not 0 for an ICMP error, then its own protocol: `key` is that of the packet it speaks of,
    /// reversed.
    pub(crate) is_error: u32,
    /// Not 0 for a fragment other than the first: it has no ports.
    pub(crate) is_later_fragment: u32,
    /// Not 0 for every fragment.
    pub(crate) is_fragment: u32,
    /// Time to live, hop limit; 0 for ARP.
    pub(crate) ttl: u32,
    /// Who sent the ICMP error; zeroes for other packets.
    pub(crate) sender: [u32; 4],
}

impl Packet {
    /// A number that changes when the tuple does.
    #[inline(always)]
    pub(crate) fn tuple(&self) -> u32 {
        let k = &self.key;
        let mut h = u64::from(k.saddr[0]) << 32 | u64::from(k.daddr[0]);
        h = h.wrapping_mul(K1);
        h ^= (u64::from(k.saddr[3]) << 32 | u64::from(k.daddr[3])).wrapping_mul(K2);
        h ^= u64::from(k.sport) << 16 | u64::from(k.dport);
        (h ^ h >> 32) as u32
    }
}

/// A number that changes with each of the two, in its upper half most of all.
#[inline(always)]
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    (a.wrapping_mul(K1) ^ b).wrapping_mul(K2)
}

/// Whether the transport header begins with a source and a destination port.
#[inline(always)]
pub(crate) fn has_ports(proto: u8) -> bool {
    matches!(proto, TCP | UDP | DCCP | SCTP | UDP_LITE)
}

/// Where the transport header of a packet lies, and what it is.
#[derive(Clone, Copy)]
pub(crate) struct Transport {
    /// Bytes behind the beginning of the network header; 0 when there is none to read.
    pub(crate) at: u32,
    /// Its protocol.
    pub(crate) proto: u8,
    /// The fragment header of IPv6; zeroes when there is none.
    fragment: [u32; 2],
}

/// Of an IPv4 packet, from its header's words.
#[inline(always)]
pub(crate) fn ipv4_transport(w: &[u32; WORDS]) -> Transport {
    let length = w[0] & 0xf;
    let at = if length < 5 { 0 } else { length * 4 };
    Transport { at, proto: (w[2] >> 8) as u8, fragment: [0; 2] }
}

/// Of an IPv6 packet; `words` reads two words so many bytes behind its beginning. Extension
/// headers are stepped over, but no more than [`MAX_EXTENSIONS`].
#[inline(always)]
pub(crate) fn ipv6_transport(first: u8, words: impl Fn(u32) -> [u32; 2]) -> Transport {
    let mut transport = Transport { at: 40, proto: first, fragment: [0; 2] };
    let mut n = 0;
    while n < MAX_EXTENSIONS {
        let length = match transport.proto {
            HOP_BY_HOP | ROUTING | DESTINATION => 8,
            AUTHENTICATION => 4,
            FRAGMENT => 0,
            _ => break,
        };
        let header = words(transport.at);
        let units = header[0] >> 8 & 0xff;
        if length == 0 {
            transport.fragment = header;
            transport.at += 8;
        } else {
            transport.at += 8 + units * length;
        }
        transport.proto = header[0] as u8;
        // A later fragment goes on in the middle of the packet.
        if is_later(&transport.fragment) {
            break;
        }
        n += 1;
    }
    transport
}

#[inline(always)]
fn is_later(fragment: &[u32; 2]) -> bool {
    (fragment[0] >> 16) as u16 & 0xfff8_u16.to_be() != 0
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
    let first = again(&w[0]);
    let total = u32::from(u16::from_be((first >> 16) as u16));
    trim(p, behind(total, (first & 0xf) * 4));
    p.ttl = again(&w[2]) & 0xff;
}

/// Rewrites the tuple of an ICMP error to the reverse of that of the packet inside, whose header's
/// words are `w` and whose transport header begins with `l4`.
#[inline(always)]
pub(crate) fn quoted(
    p: &mut Packet,
    is_v6: bool,
    w: &[u32; WORDS],
    transport: &Transport,
    l4: [u32; 2],
) {
    p.sender = p.key.saddr;
    if is_v6 {
        p.key.saddr = [w[6], w[7], w[8], w[9]];
        p.key.daddr = [w[2], w[3], w[4], w[5]];
    } else {
        p.key.saddr[0] = w[4];
        p.key.daddr[0] = w[3];
    }
    p.key.proto = transport.proto;
    (p.key.sport, p.key.dport) = (0, 0);
    if has_ports(transport.proto) {
        p.key.sport = (l4[0] >> 16) as u16;
        p.key.dport = l4[0] as u16;
    } else if is_echo(transport.proto, l4[0] as u8) {
        p.key.sport = l4[1] as u16;
        p.key.dport = l4[1] as u16;
    }
}

/// Reads an IPv6 packet; `l4` is its transport header.
#[inline(always)]
pub(crate) fn ipv6(p: &mut Packet, w: &[u32; WORDS], found: &Transport, l4: &[u32; L4_WORDS]) {
    let proto = found.proto;
    let fragment = u64::from(found.fragment[0] >> 16) << 40 ^ u64::from(found.fragment[1]);
    p.is_later_fragment = u32::from(is_later(&found.fragment));
    p.is_fragment = u32::from(found.fragment != [0; 2]);
    p.key.saddr = [w[2], w[3], w[4], w[5]];
    p.key.daddr = [w[6], w[7], w[8], w[9]];
    p.key.proto = proto;
    // Flow label, payload length, next header. The label is set by the sender and kept by NAT.
    p.fingerprint = u64::from(w[0] & 0xffff_0f00) << 16
        ^ u64::from(w[1] & 0xffff)
        ^ u64::from(proto) << 56
        ^ fragment;
    transport(p, l4);
    let length = u32::from(u16::from_be(again(&w[1]) as u16));
    trim(p, behind(if length == 0 { 0 } else { 40 + length }, found.at));
    p.ttl = again(&w[1]) >> 24;
    if proto == ICMPV6 && p.is_later_fragment == 0 && matches!(l4[0] as u8, 135 | 136) {
        // Neighbour discovery asks for (or answers for) its target, not for the group address.
        let target = [l4[2], l4[3], l4[4], l4[5]];
        if l4[0] as u8 == 135 {
            p.key.daddr = target;
        } else {
            p.key.saddr = target;
        }
    }
}

/// Reads a word once more: kept since it was read first, it would take of the stack, which is full.
#[inline(always)]
fn again(word: &u32) -> u32 {
    // SAFETY: a reference.
    unsafe { core::ptr::from_ref(word).read_volatile() }
}

/// Bytes of a packet of `total` behind the first `at`. Jumbograms have no length.
#[inline(always)]
fn behind(total: u32, at: u32) -> u32 {
    if total == 0 { u32::MAX } else { total.saturating_sub(at) }
}

/// Leaves of the payload what the packet has of it, whose transport header and payload are `length`
/// bytes. Behind it lies what the buffer held before, and another buffer holds something else there.
#[inline(always)]
fn trim(p: &mut Packet, length: u32) {
    let header = if p.key.proto == SCTP { 16 } else { 8 };
    let room = length.saturating_sub(header);
    if room < 8 {
        p.payload &= (1 << (room * 8)) - 1;
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
    } else if proto == UDP_LITE {
        ports(&mut p.key, l4[0]);
        // Checksum coverage in the place of the length.
        extra = u64::from(l4[1] & 0xffff);
        p.payload = u64::from(l4[3]) << 32 | u64::from(l4[2]);
    } else if proto == SCTP {
        ports(&mut p.key, l4[0]);
        // Verification tag; first chunk. Between them lies the checksum, which NAT changes.
        extra = u64::from(l4[1]) << 32 | u64::from(l4[3]);
        p.payload = u64::from(l4[5]) << 32 | u64::from(l4[4]);
    } else if proto == DCCP {
        ports(&mut p.key, l4[0]);
        // Type and sequence number.
        extra = u64::from(l4[2]) << 32 | u64::from(l4[3]);
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
    *extra = u64::from(l4[0] & 0xffff);
    if is_echo(p.key.proto, kind) {
        // NAT may change the identifier, never the sequence number.
        *extra |= u64::from(l4[1] >> 16) << 16;
        p.key.sport = l4[1] as u16;
        p.key.dport = l4[1] as u16;
        p.payload = u64::from(l4[3]) << 32 | u64::from(l4[2]);
    } else if p.key.proto == ICMP {
        p.is_error = if matches!(kind, 3 | 4 | 5 | 11 | 12) { u32::from(ICMP) } else { 0 };
    } else {
        p.is_error = if kind < 128 { u32::from(ICMPV6) } else { 0 };
    }
}

/// Whether a message of ICMP (of either family) is an echo request or reply.
#[inline(always)]
fn is_echo(proto: u8, kind: u8) -> bool {
    (proto == ICMP && matches!(kind, 8 | 0)) || (proto == ICMPV6 && matches!(kind, 128 | 129))
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
        (w, [w[5], w[6], w[7], w[8], w[9], w[10]])
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
    fn what_lies_behind_a_packet_is_not_its_payload() {
        for (length, of_it) in [(28, 0), (29, 1), (35, 7), (36, 8), (84, 8)] {
            let (mut w, _) = echo(7, 1, 64, [10, 244, 1, 2]);
            w[0] = 0x45 | u32::from(u16::to_be(length)) << 16;
            let payload = read(&w, &[w[5], w[6], w[7], w[8], w[9], w[10]]).payload;
            let seen = [1, 2, 3, 4, 5, 6, 7, 8].map(|n| if n <= of_it { n } else { 0 });
            assert_eq!(payload.to_le_bytes(), seen, "{length}");
        }
        assert_eq!(behind(0, 40), u32::MAX, "a jumbogram");
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
        let l4 = [w[5], w[6], w[7], w[8], w[9], w[10]];
        let mut p = read(&w, &l4);
        assert_eq!(p.is_error, u32::from(ICMP));
        let mut quoted_words = [0; WORDS];
        quoted_words[..6].copy_from_slice(&inner);
        let transport = ipv4_transport(&quoted_words);
        quoted(&mut p, false, &quoted_words, &transport, [inner[5], 0]);
        assert_eq!(p.sender[0].to_ne_bytes(), [10, 244, 1, 1]);
        assert_eq!(p.key.saddr[0], inner[4]);
        assert_eq!(p.key.daddr[0], inner[3]);
        assert_eq!(p.key.proto, UDP);
        assert_eq!((p.key.sport.to_be(), p.key.dport.to_be()), (53, 0x1000));
    }

    /// IPv6 with these extension headers, each without its first byte, then 8 bytes of ports.
    fn extended(headers: &[(u8, &[u8])], last: u8) -> Transport {
        let mut bytes = Vec::new();
        for (n, (_, rest)) in headers.iter().enumerate() {
            bytes.push(headers.get(n + 1).map_or(last, |(kind, _)| *kind));
            bytes.extend(*rest);
        }
        bytes.extend([0; 8]);
        let word = |at: usize| {
            let bytes = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            u32::from_ne_bytes(bytes)
        };
        let words = |at: u32| {
            let at = at as usize - 40;
            [word(at), word(at + 4)]
        };
        ipv6_transport(headers.first().map_or(last, |(kind, _)| *kind), words)
    }

    #[test]
    fn extension_headers_are_stepped_over() {
        let found = |headers: &[(u8, &[u8])], last| {
            let found = extended(headers, last);
            (found.proto, found.at, is_later(&found.fragment))
        };
        assert_eq!(found(&[], TCP), (TCP, 40, false));
        // Hop-by-hop of 16 bytes, routing of 8, authentication of 24.
        let hop_by_hop = [&[1][..], &[0; 14]].concat();
        let routing = [&[0][..], &[0; 6]].concat();
        let authentication = [&[4][..], &[0; 22]].concat();
        let all = [(0, &hop_by_hop[..]), (43, &routing), (51, &authentication)];
        assert_eq!(found(&all, UDP), (UDP, 40 + 16 + 8 + 24, false));
        let first = [0, 0, 1, 0, 0, 0, 7];
        assert_eq!(found(&[(44, &first)], UDP), (UDP, 48, false));
        let later = [0, 0, 9, 0, 0, 0, 7];
        assert_eq!(found(&[(44, &later)], DESTINATION), (DESTINATION, 48, true));
    }

    #[test]
    fn a_chain_of_extension_headers_is_left_where_it_is_too_long() {
        let empty = [0; 7];
        let endless = vec![(60, &empty[..]); 9];
        assert_eq!(extended(&endless, UDP).proto, DESTINATION);
    }

    #[test]
    fn every_transport_with_ports_shows_them() {
        for proto in [TCP, UDP, DCCP, SCTP, UDP_LITE] {
            let (mut w, _) = echo(7, 1, 64, [10, 244, 1, 2]);
            w[2] = u32::from_ne_bytes([64, proto, 0, 0]);
            let l4 = [u32::from_ne_bytes([0x03, 0xe8, 0x07, 0xd0]), 1, 2, 3, 4, 5];
            let p = read(&w, &l4);
            assert_eq!((p.key.sport.to_be(), p.key.dport.to_be()), (1000, 2000), "{proto}");
        }
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
