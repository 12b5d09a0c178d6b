//! What an expression loads, by nft's names.

use super::kind::Kind;

/// A field: its words, what it is, and its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) words: &'static str,
    pub(super) kind: Kind,
    pub(super) len: usize,
}

const fn field(words: &'static str, kind: Kind, len: usize) -> Field {
    Field { words, kind, len }
}

/// `NFT_META_*`
pub(super) fn meta(key: u32) -> Option<Field> {
    let host = Kind::Integer;
    Some(match key {
        0 => field("meta length", host, 4),
        1 => field("meta protocol", Kind::EtherType, 2),
        2 => field("meta priority", Kind::Hex, 4),
        3 => field("meta mark", Kind::Mark, 4),
        4 => field("iif", Kind::IfIndex, 4),
        5 => field("oif", Kind::IfIndex, 4),
        6 => field("iifname", Kind::IfName, 16),
        7 => field("oifname", Kind::IfName, 16),
        8 => field("meta iiftype", host, 2),
        9 => field("meta oiftype", host, 2),
        10 => field("meta skuid", host, 4),
        11 => field("meta skgid", host, 4),
        12 => field("meta nftrace", host, 1),
        13 => field("meta rtclassid", host, 4),
        15 => field("meta nfproto", Kind::Nfproto, 1),
        16 => field("meta l4proto", Kind::Protocol, 1),
        17 => field("meta ibrname", Kind::IfName, 16),
        18 => field("meta obrname", Kind::IfName, 16),
        19 => field("meta pkttype", Kind::PktType, 1),
        20 => field("meta cpu", host, 4),
        21 => field("meta iifgroup", host, 4),
        22 => field("meta oifgroup", host, 4),
        23 => field("meta cgroup", host, 4),
        24 => field("meta random", host, 4),
        25 => field("meta ipsec", Kind::Boolean, 1),
        26 => field("meta iifkind", Kind::IfName, 16),
        27 => field("meta oifkind", Kind::IfName, 16),
        28 => field("meta ibrpvid", host, 2),
        29 => field("meta ibrvproto", Kind::EtherType, 2),
        30 => field("meta time", host, 8),
        31 => field("meta day", host, 1),
        32 => field("meta hour", host, 4),
        33 => field("meta sdif", Kind::IfIndex, 4),
        34 => field("meta sdifname", Kind::IfName, 16),
        35 => field("meta broute", host, 1),
        _ => return None,
    })
}

/// `NFT_CT_*`: the word behind `ct` and a direction, which is its own.
pub(super) fn ct(key: u32) -> Option<Field> {
    let host = Kind::Integer;
    Some(match key {
        0 => field("state", Kind::CtState, 4),
        1 => field("direction", Kind::CtDir, 1),
        2 => field("status", Kind::CtStatus, 4),
        3 => field("mark", Kind::Mark, 4),
        4 => field("secmark", Kind::Hex, 4),
        5 => field("expiration", Kind::Seconds, 4),
        6 => field("helper", Kind::Text, 16),
        7 => field("l3proto", Kind::Nfproto, 1),
        8 => field("saddr", Kind::Ipv4, 4),
        9 => field("daddr", Kind::Ipv4, 4),
        10 => field("protocol", Kind::Protocol, 1),
        11 => field("proto-src", Kind::Port, 2),
        12 => field("proto-dst", Kind::Port, 2),
        13 => field("label", Kind::Hex, 16),
        14 => field("packets", host, 8),
        15 => field("bytes", host, 8),
        16 => field("avgpkt", host, 8),
        17 => field("zone", host, 2),
        18 => field("event", Kind::Hex, 4),
        19 => field("ip saddr", Kind::Ipv4, 4),
        20 => field("ip daddr", Kind::Ipv4, 4),
        21 => field("ip6 saddr", Kind::Ipv6, 16),
        22 => field("ip6 daddr", Kind::Ipv6, 16),
        23 => field("id", Kind::NetInteger, 4),
        _ => return None,
    })
}

/// `NFT_RT_*`
pub(super) fn rt(key: u32) -> Option<Field> {
    Some(match key {
        0 => field("rt classid", Kind::Integer, 4),
        1 => field("rt ip nexthop", Kind::Ipv4, 4),
        2 => field("rt ip6 nexthop", Kind::Ipv6, 16),
        3 => field("rt mtu", Kind::Integer, 2),
        4 => field("rt ipsec", Kind::Boolean, 1),
        _ => return None,
    })
}

/// `NFT_SOCKET_*`
pub(super) fn socket(key: u32) -> Option<Field> {
    Some(match key {
        0 => field("socket transparent", Kind::Integer, 1),
        1 => field("socket mark", Kind::Mark, 4),
        2 => field("socket wildcard", Kind::Integer, 1),
        _ => return None,
    })
}

/// A header's fields by their place.
pub(super) type Header = &'static [(usize, Field)];

pub(super) const ETHER: Header = &[
    (0, field("ether daddr", Kind::Ether, 6)),
    (6, field("ether saddr", Kind::Ether, 6)),
    (12, field("ether type", Kind::EtherType, 2)),
];

pub(super) const IP: Header = &[
    (2, field("ip length", Kind::NetInteger, 2)),
    (4, field("ip id", Kind::NetInteger, 2)),
    (6, field("ip frag-off", Kind::NetInteger, 2)),
    (8, field("ip ttl", Kind::NetInteger, 1)),
    (9, field("ip protocol", Kind::Protocol, 1)),
    (10, field("ip checksum", Kind::NetInteger, 2)),
    (12, field("ip saddr", Kind::Ipv4, 4)),
    (16, field("ip daddr", Kind::Ipv4, 4)),
];

pub(super) const IP6: Header = &[
    (4, field("ip6 length", Kind::NetInteger, 2)),
    (6, field("ip6 nexthdr", Kind::Protocol, 1)),
    (7, field("ip6 hoplimit", Kind::NetInteger, 1)),
    (8, field("ip6 saddr", Kind::Ipv6, 16)),
    (24, field("ip6 daddr", Kind::Ipv6, 16)),
];

pub(super) const ARP: Header = &[
    (0, field("arp htype", Kind::NetInteger, 2)),
    (2, field("arp ptype", Kind::EtherType, 2)),
    (4, field("arp hlen", Kind::NetInteger, 1)),
    (5, field("arp plen", Kind::NetInteger, 1)),
    (6, field("arp operation", Kind::ArpOp, 2)),
    (8, field("arp saddr ether", Kind::Ether, 6)),
    (14, field("arp saddr ip", Kind::Ipv4, 4)),
    (18, field("arp daddr ether", Kind::Ether, 6)),
    (24, field("arp daddr ip", Kind::Ipv4, 4)),
];

/// Any protocol with ports.
pub(super) const TH: Header =
    &[(0, field("th sport", Kind::Port, 2)), (2, field("th dport", Kind::Port, 2))];

const TCP: Header = &[
    (0, field("tcp sport", Kind::Port, 2)),
    (2, field("tcp dport", Kind::Port, 2)),
    (4, field("tcp sequence", Kind::NetInteger, 4)),
    (8, field("tcp ackseq", Kind::NetInteger, 4)),
    (13, field("tcp flags", Kind::TcpFlags, 1)),
    (14, field("tcp window", Kind::NetInteger, 2)),
    (16, field("tcp checksum", Kind::NetInteger, 2)),
    (18, field("tcp urgptr", Kind::NetInteger, 2)),
];

const UDP: Header = &[
    (0, field("udp sport", Kind::Port, 2)),
    (2, field("udp dport", Kind::Port, 2)),
    (4, field("udp length", Kind::NetInteger, 2)),
    (6, field("udp checksum", Kind::NetInteger, 2)),
];

const UDPLITE: Header =
    &[(0, field("udplite sport", Kind::Port, 2)), (2, field("udplite dport", Kind::Port, 2))];

const SCTP: Header = &[
    (0, field("sctp sport", Kind::Port, 2)),
    (2, field("sctp dport", Kind::Port, 2)),
    (4, field("sctp vtag", Kind::NetInteger, 4)),
];

const DCCP: Header =
    &[(0, field("dccp sport", Kind::Port, 2)), (2, field("dccp dport", Kind::Port, 2))];

const ICMP: Header = &[
    (0, field("icmp type", Kind::IcmpType, 1)),
    (1, field("icmp code", Kind::IcmpCode, 1)),
    (2, field("icmp checksum", Kind::NetInteger, 2)),
    (4, field("icmp id", Kind::NetInteger, 2)),
    (6, field("icmp sequence", Kind::NetInteger, 2)),
];

const ICMP6: Header = &[
    (0, field("icmpv6 type", Kind::Icmpv6Type, 1)),
    (1, field("icmpv6 code", Kind::Icmpv6Code, 1)),
    (2, field("icmpv6 checksum", Kind::NetInteger, 2)),
    (4, field("icmpv6 id", Kind::NetInteger, 2)),
    (6, field("icmpv6 sequence", Kind::NetInteger, 2)),
];

const IGMP: Header = &[(0, field("igmp type", Kind::NetInteger, 1))];

/// The header of an IP protocol.
pub(super) fn transport(protocol: Option<u8>) -> Option<Header> {
    Some(match protocol {
        None => TH,
        Some(1) => ICMP,
        Some(2) => IGMP,
        Some(6) => TCP,
        Some(17) => UDP,
        Some(33) => DCCP,
        Some(58) => ICMP6,
        Some(132) => SCTP,
        Some(136) => UDPLITE,
        Some(_) => return None,
    })
}
