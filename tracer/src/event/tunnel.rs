//! The packet inside a tunnel, as `tracer-ebpf/src/tunnel.rs` finds it in the kernel.
//!
//! That there is one is known before: the kernel side has compared the inner packet. Every read is
//! checked: the bytes come from the network, and may end before the inner packet does.

use super::{
    Carrier, Headers, Inner, L4, Packet,
    parse::{array, be16, be32, network},
};

const IPIP: u8 = 4;
const UDP: u8 = 17;
const SIT: u8 = 41;
const GRE: u8 = 47;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_TEB: u16 = 0x6558;
const ETH_P_ERSPAN: u16 = 0x88be;
const GENEVE_PORT: u16 = 6081;

/// What one tunnel carries: Ethernet type, and where it begins.
type Carried = (u16, usize);

impl Packet {
    /// Parses `bytes`, which begin with the network header. `protocol` is the Ethernet type; only
    /// ARP needs it, the IP versions tell themselves apart. The kernel side has found that many
    /// `tunnels` around the packet that is followed.
    #[must_use]
    pub fn parse(protocol: u16, bytes: &[u8], tunnels: u16) -> Option<Self> {
        let (headers, rest) = network(protocol, bytes)?;
        if tunnels > 0 {
            return Some(Self { headers, inner: carried(&headers, bytes, tunnels) });
        }
        let inner = match headers.l4 {
            L4::Icmp(icmp) if icmp.is_error(headers.tuple.src.is_ipv6()) => {
                network(0, rest).map(|(quoted, _)| Inner::Quoted(quoted))
            }
            L4::Icmp(_) | L4::Udp { .. } | L4::Tcp(_) | L4::Arp(_) | L4::Unknown => None,
        };
        Some(Self { headers, inner })
    }
}

/// The packet inside this many tunnels of the packet with these headers, which `bytes` begin with.
fn carried(headers: &Headers, bytes: &[u8], tunnels: u16) -> Option<Inner> {
    let (mut inner, mut at) = (Some(*headers), 0);
    let mut by = None;
    for _ in 0..tunnels {
        let Some((carrier, (protocol, offset))) = bytes.get(at..).and_then(enter) else {
            inner = None;
            break;
        };
        by = by.or(Some(carrier));
        at += offset;
        inner = bytes.get(at..).and_then(|rest| Some(network(protocol, rest)?.0));
    }
    let by = by.unwrap_or(Carrier { kind: "tunnel", vni: None });
    Some(Inner::Carried { by, headers: inner })
}

/// The outermost tunnel of an IP packet, and what it carries.
fn enter(bytes: &[u8]) -> Option<(Carrier, Carried)> {
    let (next, at) = match bytes.first()? >> 4 {
        4 => (*bytes.get(9)?, usize::from(bytes[0] & 15) * 4),
        6 => behind_extensions(bytes)?,
        _ => return None,
    };
    let plain = |kind| Carrier { kind, vni: None };
    let is_v6 = bytes[0] >> 4 == 6;
    match next {
        IPIP => Some((plain(if is_v6 { "ip6tnl" } else { "ipip" }), (ETH_P_IP, at))),
        SIT => Some((plain(if is_v6 { "ip6tnl" } else { "sit" }), (ETH_P_IPV6, at))),
        GRE => gre(bytes, at),
        UDP => udp(bytes, at),
        _ => None,
    }
}

fn behind_extensions(bytes: &[u8]) -> Option<(u8, usize)> {
    let (mut next, mut at) = (*bytes.get(6)?, 40);
    while matches!(next, 0 | 43 | 44 | 60) {
        let [following, units] = array::<2>(bytes, at)?;
        at += 8 + if next == 44 { 0 } else { usize::from(units) * 8 };
        next = following;
    }
    Some((next, at))
}

fn gre(bytes: &[u8], at: usize) -> Option<(Carrier, Carried)> {
    let flags = *bytes.get(at)?;
    let option = |bit: u8| if flags & bit != 0 { 4 } else { 0 };
    let key_at = at + 4 + option(0x80);
    let payload = key_at + option(0x20) + option(0x10);
    let vni = if flags & 0x20 != 0 { be32(bytes, key_at) } else { None };
    let (kind, carried) = match be16(bytes, at + 2)? {
        ETH_P_TEB => ("gretap", ethernet(bytes, payload)?),
        ETH_P_ERSPAN => ("erspan", ethernet(bytes, payload + option(0x10) * 2)?),
        protocol => ("gre", (protocol, payload)),
    };
    Some((Carrier { kind, vni }, carried))
}

fn udp(bytes: &[u8], at: usize) -> Option<(Carrier, Carried)> {
    let header = at + 8;
    let [first, _, _, next] = array::<4>(bytes, header)?;
    let kind = be16(bytes, header + 2)?;
    let is_known = matches!(kind, ETH_P_TEB | ETH_P_IP | ETH_P_IPV6);
    let vni = be32(bytes, header + 4).map(|word| word >> 8);
    if be16(bytes, at + 2)? == GENEVE_PORT || first & 0xc8 == 0 && is_known {
        let payload = header + 8 + usize::from(first & 0x3f) * 4;
        let carried = if kind == ETH_P_TEB { ethernet(bytes, payload)? } else { (kind, payload) };
        return Some((Carrier { kind: "geneve", vni }, carried));
    }
    match first >> 4 {
        4 => return Some((Carrier { kind: "fou", vni: None }, (ETH_P_IP, header))),
        6 => return Some((Carrier { kind: "fou", vni: None }, (ETH_P_IPV6, header))),
        _ => {}
    }
    let carried = match (first & 4 != 0, next) {
        (true, 1) => (ETH_P_IP, header + 8),
        (true, 2) => (ETH_P_IPV6, header + 8),
        _ => ethernet(bytes, header + 8)?,
    };
    Some((Carrier { kind: "vxlan", vni }, carried))
}

/// Behind an Ethernet header and at most two VLAN tags.
fn ethernet(bytes: &[u8], at: usize) -> Option<Carried> {
    let mut type_at = at + 12;
    for _ in 0..2 {
        if !matches!(be16(bytes, type_at)?, 0x8100 | 0x88a8) {
            break;
        }
        type_at += 4;
    }
    Some((be16(bytes, type_at)?, type_at + 2))
}

#[cfg(test)]
mod tests {

    use super::*;

    /// An IPv4 packet of a protocol.
    fn ip(proto: u8, payload: &[u8]) -> Vec<u8> {
        let mut b = vec![0x45, 0, 0, (20 + payload.len()) as u8, 0, 1, 0, 0, 64, proto, 0, 0];
        b.extend([192, 0, 2, 1, 192, 0, 2, 2]);
        b.extend(payload);
        b
    }

    fn echo() -> Vec<u8> {
        ip(1, &[8, 0, 0, 0, 0, 7, 0, 9, 1, 2, 3, 4])
    }

    fn frame(tags: &[u8]) -> Vec<u8> {
        [&[0; 12][..], tags, &[8, 0], &echo()].concat()
    }

    fn assert_carries(outer: &[u8], tunnels: u16, kind: &str, vni: Option<u32>) {
        let packet = Packet::parse(0x0800, outer, tunnels).expect("parses");
        let seq = packet.tunnelled().and_then(Headers::icmp).and_then(|icmp| icmp.seq);
        assert_eq!(seq, Some(9), "{kind}");
        let by = packet.carrier().expect("is carried");
        assert_eq!((by.kind, by.vni), (kind, vni));
    }

    #[test]
    fn every_tunnel_shows_what_it_carries() {
        assert_carries(&ip(4, &echo()), 1, "ipip", None);
        let gre = [&[0x20, 0, 8, 0, 0, 0, 0, 5][..], &echo()].concat();
        assert_carries(&ip(47, &gre), 1, "gre", Some(5));
        let gretap = [&[0, 0, 0x65, 0x58][..], &frame(&[])].concat();
        assert_carries(&ip(47, &gretap), 1, "gretap", None);
        let to = |port: u16, header: &[u8], rest: &[u8]| {
            let [high, low] = port.to_be_bytes();
            ip(17, &[&[0xc0, 0, high, low, 0, 0, 0, 0][..], header, rest].concat())
        };
        let geneve = to(6081, &[1, 0, 0x65, 0x58, 0, 0, 3, 0, 9, 9, 9, 9], &frame(&[]));
        assert_carries(&geneve, 1, "geneve", Some(3));
        let vxlan = to(9999, &[8, 0, 0, 0, 0, 0, 7, 0], &frame(&[0x81, 0, 0, 5]));
        assert_carries(&vxlan, 1, "vxlan", Some(7));
        let gpe = to(4790, &[0x0c, 0, 0, 1, 0, 0, 7, 0], &echo());
        assert_carries(&gpe, 1, "vxlan", Some(7));
        assert_carries(&ip(4, &ip(4, &echo())), 2, "ipip", None);
    }

    #[test]
    fn bytes_that_end_before_the_inner_packet_show_the_outer_one() {
        let packet = Packet::parse(0x0800, &ip(4, &[]), 1).expect("parses");
        assert!(packet.tunnelled().is_none());
        assert_eq!(packet.carrier().map(|by| by.kind), Some("ipip"));
        let packet = Packet::parse(0x0800, &ip(4, &[0x45]), 3).expect("parses");
        assert!(packet.tunnelled().is_none());
    }
}
