//! Packets from their description, as bytes from the network header on.

use std::{collections::BTreeMap, net::IpAddr};

use super::{number, value};

/// A packet and what its skb says of it.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) protocol: u16,
    pub(crate) len: u32,
}

/// Builds the packet that `words` describe: `PROTO SRC > DST KEY=VALUE…`.
pub(crate) fn build(words: &[&str], known: &BTreeMap<String, Packet>) -> Packet {
    let [proto, src, ">", dst, options @ ..] = words else { panic!("packet: {words:?}") };
    let ((src, sport), (dst, dport)) = (endpoint(src), endpoint(dst));
    let other = |key| value(options, key).map(|name| known.get(name).expect("a known packet"));
    if *proto == "arp" {
        return arp(src, dst, number(options, "op"));
    }
    let mut data = vec![0xab; number::<usize>(options, "data")];
    let mut l4 = Vec::new();
    let next = match *proto {
        "tcp" => {
            tcp(&mut l4, sport, dport, options);
            6
        }
        "udp" => {
            udp(&mut l4, sport, dport, data.len());
            17
        }
        "vxlan" => {
            let inner = other("inner").expect("inner=");
            data = vxlan(number(options, "vni"), inner);
            udp(&mut l4, 0xc000, 8472, data.len());
            17
        }
        "icmp" | "icmp6" => {
            data.extend(icmp(&mut l4, options, other("quote")));
            if *proto == "icmp" { 1 } else { 58 }
        }
        other => panic!("packet: {other}?"),
    };
    if let Some((offset, _)) = fragment(options)
        && offset > 0
    {
        l4.clear();
    }
    l4.extend(&data);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4(next, src.octets(), dst.octets(), options, &l4),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6(next, src.octets(), dst.octets(), &l4),
        _ => panic!("packet of two families"),
    }
}

/// `A`, `A:PORT` or `[A]:PORT`.
fn endpoint(text: &str) -> (IpAddr, u16) {
    if let Ok(addr) = text.parse() {
        return (addr, 0);
    }
    let socket: std::net::SocketAddr = text.parse().unwrap_or_else(|_| panic!("endpoint {text}"));
    (socket.ip(), socket.port())
}

fn arp(src: IpAddr, dst: IpAddr, op: u16) -> Packet {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) else { panic!("arp is for IPv4") };
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(op.to_be_bytes());
    bytes.extend([2, 0, 0, 0, 0, src.octets()[3]]);
    bytes.extend(src.octets());
    bytes.extend([0; 6]);
    bytes.extend(dst.octets());
    Packet { len: 28, bytes, protocol: 0x0806 }
}

fn tcp(l4: &mut Vec<u8>, sport: u16, dport: u16, options: &[&str]) {
    l4.extend(sport.to_be_bytes());
    l4.extend(dport.to_be_bytes());
    l4.extend(number::<u32>(options, "seq").to_be_bytes());
    l4.extend(number::<u32>(options, "ack").to_be_bytes());
    let letters = [('F', 1), ('S', 2), ('R', 4), ('P', 8), ('.', 16)];
    let flags = value(options, "flags").unwrap_or(".");
    let flags = letters.iter().filter(|(c, _)| flags.contains(*c)).map(|(_, bit)| bit).sum();
    l4.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
}

fn udp(l4: &mut Vec<u8>, sport: u16, dport: u16, len: usize) {
    l4.extend(sport.to_be_bytes());
    l4.extend(dport.to_be_bytes());
    l4.extend((8 + len as u16).to_be_bytes());
    l4.extend([0, 0]);
}

fn vxlan(vni: u32, inner: &Packet) -> Vec<u8> {
    let mut data = vec![8, 0, 0, 0];
    data.extend((vni << 8).to_be_bytes());
    data.extend([2; 12]);
    data.extend(inner.protocol.to_be_bytes());
    data.extend(&inner.bytes);
    data
}

/// Writes the header; gives what an error quotes.
fn icmp(l4: &mut Vec<u8>, options: &[&str], quote: Option<&Packet>) -> Vec<u8> {
    if let Some(error) = value(options, "error") {
        let (kind, code) = error.split_once('/').expect("TYPE/CODE");
        l4.extend([kind.parse().expect("type"), code.parse().expect("code"), 0, 0, 0, 0]);
        l4.extend(number::<u16>(options, "mtu").to_be_bytes());
        return quote.map(|q| q.bytes.iter().copied().take(28).collect()).unwrap_or_default();
    }
    l4.extend([number::<u8>(options, "echo"), 0, 0, 0]);
    l4.extend(number::<u16>(options, "id").to_be_bytes());
    l4.extend(number::<u16>(options, "seq").to_be_bytes());
    vec![0xab; 56]
}

/// `frag=OFFSET` or `frag=OFFSET+` when more follow.
fn fragment(options: &[&str]) -> Option<(u16, bool)> {
    let text = value(options, "frag")?;
    let offset = text.trim_end_matches('+').parse().expect("frag=OFFSET");
    Some((offset, text.ends_with('+')))
}

fn ipv4(next: u8, src: [u8; 4], dst: [u8; 4], options: &[&str], l4: &[u8]) -> Packet {
    let len = 20 + l4.len();
    let (offset, more) = fragment(options).unwrap_or((0, false));
    let mut bytes = vec![0x45, 0];
    bytes.extend((len as u16).to_be_bytes());
    bytes.extend(number::<u16>(options, "ip_id").to_be_bytes());
    bytes.extend((offset >> 3 | u16::from(more) << 13).to_be_bytes());
    bytes.extend([value(options, "ttl").map_or(64, |t| t.parse().expect("ttl")), next, 0, 0]);
    bytes.extend(src);
    bytes.extend(dst);
    bytes.extend(l4);
    Packet { bytes, protocol: 0x0800, len: len as u32 }
}

fn ipv6(next: u8, src: [u8; 16], dst: [u8; 16], l4: &[u8]) -> Packet {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((l4.len() as u16).to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend(src);
    bytes.extend(dst);
    bytes.extend(l4);
    Packet { len: bytes.len() as u32, bytes, protocol: 0x86dd }
}
