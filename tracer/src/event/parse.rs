//! Header parsing. Every read is checked: the bytes come from the network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Arp, Fragment, Headers, Icmp, L4, PayloadHead, Proto, Tcp, Tuple};

const ETH_P_ARP: u16 = 0x0806;
/// How many IPv6 extension headers are walked: more do not fit into an event anyway.
const MAX_EXTENSIONS: usize = 6;

/// Network and transport header, and the bytes behind them.
pub(super) fn network(protocol: u16, bytes: &[u8]) -> Option<(Headers, &[u8])> {
    if protocol == ETH_P_ARP {
        return arp(bytes);
    }
    match bytes.first()? >> 4 {
        4 => ipv4(bytes),
        6 => ipv6(bytes),
        _ => None,
    }
}

fn arp(bytes: &[u8]) -> Option<(Headers, &[u8])> {
    // Ethernet and IPv4, with their address lengths.
    if bytes.get(..6)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let l4 =
        L4::Arp(Arp { op: be16(bytes, 6)?, sender: array(bytes, 8)?, target: array(bytes, 18)? });
    let src = IpAddr::from(array::<4>(bytes, 14)?);
    let dst = IpAddr::from(array::<4>(bytes, 24)?);
    let headers = Headers {
        tuple: Tuple { src, dst, proto: Proto::Arp, sport: 0, dport: 0 },
        len: 28,
        ttl: None,
        ip_id: None,
        fragment: None,
        dont_fragment: false,
        l4,
        payload: PayloadHead::default(),
    };
    Some((headers, &bytes[28..]))
}

fn ipv4(bytes: &[u8]) -> Option<(Headers, &[u8])> {
    let header_len = usize::from(bytes.first()? & 15) * 4;
    if header_len < 20 {
        return None;
    }
    let src = Ipv4Addr::from(array::<4>(bytes, 12)?);
    let dst = Ipv4Addr::from(array::<4>(bytes, 16)?);
    let frag = be16(bytes, 6)?;
    let (offset, more) = ((frag & 0x1fff) << 3, frag & 0x2000 != 0);
    let total = u32::from(be16(bytes, 2)?);
    let mut headers = Headers {
        tuple: Tuple {
            src: src.into(),
            dst: dst.into(),
            proto: Proto::from_ip(bytes[9]),
            sport: 0,
            dport: 0,
        },
        len: total,
        ttl: Some(bytes[8]),
        ip_id: Some(be16(bytes, 4)?.into()),
        fragment: (offset != 0 || more).then_some(Fragment { offset, more }),
        dont_fragment: frag & 0x4000 != 0,
        l4: L4::Unknown,
        payload: PayloadHead::default(),
    };
    let l4_len = total.saturating_sub(header_len as u32);
    let rest = transport(&mut headers, bytes.get(header_len..).unwrap_or(&[]), l4_len);
    Some((headers, rest))
}

fn ipv6(bytes: &[u8]) -> Option<(Headers, &[u8])> {
    let src = Ipv6Addr::from(array::<16>(bytes, 8)?);
    let dst = Ipv6Addr::from(array::<16>(bytes, 24)?);
    let payload_len = u32::from(be16(bytes, 4)?);
    let mut headers = Headers {
        tuple: Tuple {
            src: src.into(),
            dst: dst.into(),
            proto: Proto::Other(bytes[6]),
            sport: 0,
            dport: 0,
        },
        len: 40 + payload_len,
        ttl: Some(bytes[7]),
        ip_id: None,
        fragment: None,
        dont_fragment: false,
        l4: L4::Unknown,
        payload: PayloadHead::default(),
    };
    let (next, at) = extensions(&mut headers, bytes);
    headers.tuple.proto = Proto::from_ip(next);
    let l4_len = headers.len.saturating_sub(at as u32);
    let rest = transport(&mut headers, bytes.get(at..).unwrap_or(&[]), l4_len);
    Some((headers, rest))
}

/// Walks the IPv6 extension headers; gives the transport protocol and where it begins.
fn extensions(headers: &mut Headers, bytes: &[u8]) -> (u8, usize) {
    let (mut next, mut at) = (bytes[6], 40);
    for _ in 0..MAX_EXTENSIONS {
        let Some(header) = bytes.get(at..at + 8) else { break };
        match next {
            0 | 43 | 60 => at += 8 + usize::from(header[1]) * 8,
            44 => {
                let frag = u16::from_be_bytes([header[2], header[3]]);
                headers.fragment = Some(Fragment { offset: frag & 0xfff8, more: frag & 1 != 0 });
                headers.ip_id =
                    Some(u32::from_be_bytes([header[4], header[5], header[6], header[7]]));
                at += 8;
            }
            _ => break,
        }
        next = header[0];
    }
    (next, at)
}

/// Fills in the transport header from `bytes`; `l4_len` is what the IP header says of its length.
/// Gives the bytes behind it.
fn transport<'a>(headers: &mut Headers, bytes: &'a [u8], l4_len: u32) -> &'a [u8] {
    if headers.fragment.is_some_and(|f| f.offset != 0) {
        return &[];
    }
    let header_len = match headers.tuple.proto {
        Proto::Tcp => tcp(headers, bytes, l4_len),
        Proto::Udp => udp(headers, bytes),
        Proto::Icmp => icmp(headers, bytes, false),
        Proto::Icmp6 => icmp(headers, bytes, true),
        Proto::Sctp => ports(headers, bytes).map(|()| 12),
        Proto::Arp | Proto::Other(_) => None,
    };
    let rest = header_len.and_then(|len| bytes.get(len..)).unwrap_or(&[]);
    // Bytes beyond the packet's own length are Ethernet padding (or what lay there before).
    let reached = l4_len.saturating_sub(header_len.unwrap_or(0) as u32) as usize;
    let payload = &rest[..rest.len().min(reached)];
    headers.payload = PayloadHead::new(payload);
    payload
}

fn ports(headers: &mut Headers, bytes: &[u8]) -> Option<()> {
    headers.tuple.sport = be16(bytes, 0)?;
    headers.tuple.dport = be16(bytes, 2)?;
    Some(())
}

fn tcp(headers: &mut Headers, bytes: &[u8], l4_len: u32) -> Option<usize> {
    ports(headers, bytes)?;
    let seq = be32(bytes, 4)?;
    let header_len = bytes.get(12).map_or(20, |b| usize::from(b >> 4) * 4).max(20);
    let flags = bytes.get(13).copied().unwrap_or(0);
    headers.l4 = L4::Tcp(Tcp {
        seq,
        ack: be32(bytes, 8).unwrap_or(0),
        flags,
        payload_len: l4_len.saturating_sub(header_len as u32),
        mss: if flags & Tcp::SYN != 0 { mss(bytes, header_len) } else { None },
    });
    Some(header_len)
}

/// The option "maximum segment size" (RFC 9293), as far as the bytes reach.
fn mss(bytes: &[u8], header_len: usize) -> Option<u16> {
    const END: u8 = 0;
    const PADDING: u8 = 1;
    const MSS: u8 = 2;
    let mut options = bytes.get(20..header_len.min(bytes.len()))?;
    while let Some(kind) = options.first() {
        let len = match *kind {
            END => return None,
            PADDING => 1,
            MSS => return be16(options, 2),
            _ => usize::from(*options.get(1)?).max(2),
        };
        options = options.get(len..)?;
    }
    None
}

fn udp(headers: &mut Headers, bytes: &[u8]) -> Option<usize> {
    ports(headers, bytes)?;
    headers.l4 = L4::Udp { len: be16(bytes, 4)? };
    Some(8)
}

fn icmp(headers: &mut Headers, bytes: &[u8], is_v6: bool) -> Option<usize> {
    let (kind, code) = (*bytes.first()?, *bytes.get(1)?);
    let is_echo = if is_v6 { matches!(kind, 128 | 129) } else { matches!(kind, 0 | 8) };
    let id = if is_echo { be16(bytes, 4) } else { None };
    let mtu = match (is_v6, kind, code) {
        (false, 3, 4) => be16(bytes, 6).map(u32::from),
        (true, 2, _) => be32(bytes, 4),
        _ => None,
    };
    let has_target = is_v6 && matches!(kind, 135 | 136);
    headers.l4 = L4::Icmp(Icmp {
        kind,
        code,
        id,
        seq: if is_echo { be16(bytes, 6) } else { None },
        target: if has_target { array::<16>(bytes, 8).map(Ipv6Addr::from) } else { None },
        mtu,
    });
    headers.tuple.sport = id.unwrap_or(0);
    headers.tuple.dport = id.unwrap_or(0);
    Some(8)
}

pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Carrier, Packet};

    /// An IPv4 header without options and with this payload.
    fn ip4(proto: u8, id: u16, frag: u16, payload: &[u8]) -> Vec<u8> {
        let len = (20 + payload.len()) as u16;
        let mut b = vec![0x45, 0];
        b.extend(len.to_be_bytes());
        b.extend(id.to_be_bytes());
        b.extend(frag.to_be_bytes());
        b.extend([64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        b.extend(payload);
        b
    }

    #[test]
    fn echo_request_has_its_identifier_as_both_ports() {
        let echo = [8, 0, 0, 0, 0, 7, 0, 1, 0xde, 0xad];
        let packet = Packet::parse(0x0800, &ip4(1, 99, 0x4000, &echo), 0).expect("parses");
        let headers = packet.headers;
        assert_eq!((headers.tuple.sport, headers.tuple.dport), (7, 7));
        assert_eq!(headers.ip_id, Some(99));
        assert!(headers.dont_fragment);
        assert_eq!(headers.payload.as_slice(), [0xde, 0xad]);
    }

    #[test]
    fn icmp_error_quotes_the_packet_that_caused_it() {
        let quoted = ip4(17, 41, 0, &[0x30, 0x39, 0, 53, 0, 20, 0, 0]);
        let mut error = vec![3, 4, 0, 0, 0, 0, 0x05, 0xaa];
        error.extend(&quoted);
        let packet = Packet::parse(0x0800, &ip4(1, 1, 0, &error), 0).expect("parses");
        let inner = packet.quoted().expect("quotes");
        assert_eq!(inner.tuple.ports(), Some((12345, 53)));
        assert_eq!(inner.ip_id, Some(41));
        assert_eq!(packet.headers.icmp().and_then(|i| i.mtu), Some(1450));
    }

    #[test]
    fn vxlan_shows_both_tuples() {
        let inner = ip4(6, 5, 0, &[0, 80, 0, 81, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, 2, 0, 0]);
        let mut udp = vec![0xc0, 0, 0x21, 0x18, 0, 0, 0, 0];
        udp.extend([8, 0, 0, 0, 0, 0, 1, 0]);
        udp.extend([0; 12]);
        udp.extend([8, 0]);
        udp.extend(&inner);
        let packet = Packet::parse(0x0800, &ip4(17, 1, 0, &udp), 1).expect("parses");
        assert_eq!(packet.headers.tuple.ports(), Some((0xc000, 8472)));
        assert_eq!(packet.carrier(), Some(Carrier { kind: "vxlan", vni: Some(1) }));
        let tcp = packet.tunnelled().and_then(|h| h.tcp()).expect("reaches TCP");
        assert_eq!((tcp.seq, tcp.flags), (9, Tcp::SYN));
    }

    #[test]
    fn later_fragments_have_no_ports() {
        let packet = Packet::parse(0x0800, &ip4(17, 7, 0x2000 | 185, &[1; 16]), 0).expect("parses");
        assert_eq!(packet.headers.tuple.ports(), None);
        assert_eq!(packet.headers.fragment, Some(Fragment { offset: 1480, more: true }));
    }

    #[test]
    fn ipv6_extension_headers_are_walked() {
        let mut b = vec![0x60, 0, 0, 0, 0, 24, 0, 64];
        b.extend([0xfd; 32]);
        b.extend([44, 0, 0, 0, 0, 0, 0, 0]);
        b.extend([17, 0, 0, 1, 0, 0, 0, 5]);
        b.extend([0x30, 0x39, 0, 53, 0, 8, 0, 0]);
        let headers = Packet::parse(0x86dd, &b, 0).expect("parses").headers;
        assert_eq!(headers.tuple.proto, Proto::Udp);
        assert_eq!(headers.tuple.ports(), Some((12345, 53)));
        assert_eq!(headers.fragment, Some(Fragment { offset: 0, more: true }));
        assert_eq!(headers.ip_id, Some(5));
    }

    #[test]
    fn what_is_no_network_header_is_refused() {
        assert!(Packet::parse(0x0800, &[0x45; 3], 0).is_none());
        assert!(Packet::parse(0x0806, &[0; 28], 0).is_none());
        assert!(Packet::parse(0x1234, &[], 0).is_none());
    }
}
