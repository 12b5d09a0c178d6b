//! The left side of a comparison in nftables: a field of the packet or of its connection.

/// A field that is modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `ip saddr`, `ip6 saddr`.
    Saddr,
    /// `ip daddr`, `ip6 daddr`.
    Daddr,
    /// `meta l4proto`, `ip protocol`, `ip6 nexthdr`.
    L4proto,
    /// `meta nfproto`, `meta protocol`, `ether type`.
    Nfproto,
    /// `th sport`, or of one protocol.
    Sport(Option<u8>),
    /// `th dport`, or of one protocol.
    Dport(Option<u8>),
    /// `iifname`, `iif`.
    Iif,
    /// `oifname`, `oif`.
    Oif,
    /// `meta mark`.
    Mark,
    /// `ct state`.
    CtState,
    /// `ct status`.
    CtStatus,
    /// `icmp type` (1), `icmpv6 type` (58).
    IcmpType(u8),
    /// `icmp code`, `icmpv6 code`.
    IcmpCode(u8),
    /// `tcp flags`.
    TcpFlags,
    /// `fib daddr type`.
    FibDaddr,
    /// `fib saddr type`.
    FibSaddr,
    /// `ct original ip daddr`.
    CtOrigDaddr,
    /// `ct original proto-dst`.
    CtOrigDport,
    /// Any other: what it is compared with may be or not.
    Unknown,
}

/// Spellings, longest first where one begins like another.
const SPELLINGS: [(&[&str], Field); 47] = [
    (&["ct", "original", "ip", "daddr"], Field::CtOrigDaddr),
    (&["ct", "original", "ip6", "daddr"], Field::CtOrigDaddr),
    (&["ct", "original", "daddr"], Field::CtOrigDaddr),
    (&["ct", "original", "proto-dst"], Field::CtOrigDport),
    (&["ct", "state"], Field::CtState),
    (&["ct", "status"], Field::CtStatus),
    (&["fib", "daddr", "type"], Field::FibDaddr),
    (&["fib", "saddr", "type"], Field::FibSaddr),
    (&["ip", "saddr"], Field::Saddr),
    (&["ip6", "saddr"], Field::Saddr),
    (&["ip", "daddr"], Field::Daddr),
    (&["ip6", "daddr"], Field::Daddr),
    (&["meta", "l4proto"], Field::L4proto),
    (&["ip", "protocol"], Field::L4proto),
    (&["ip6", "nexthdr"], Field::L4proto),
    (&["meta", "nfproto"], Field::Nfproto),
    (&["meta", "protocol"], Field::Nfproto),
    (&["ether", "type"], Field::Nfproto),
    (&["meta", "iifname"], Field::Iif),
    (&["meta", "oifname"], Field::Oif),
    (&["meta", "iif"], Field::Iif),
    (&["meta", "oif"], Field::Oif),
    (&["meta", "mark"], Field::Mark),
    (&["th", "sport"], Field::Sport(None)),
    (&["th", "dport"], Field::Dport(None)),
    (&["tcp", "sport"], Field::Sport(Some(6))),
    (&["tcp", "dport"], Field::Dport(Some(6))),
    (&["tcp", "flags"], Field::TcpFlags),
    (&["udp", "sport"], Field::Sport(Some(17))),
    (&["udp", "dport"], Field::Dport(Some(17))),
    (&["sctp", "sport"], Field::Sport(Some(132))),
    (&["sctp", "dport"], Field::Dport(Some(132))),
    (&["dccp", "sport"], Field::Sport(Some(33))),
    (&["dccp", "dport"], Field::Dport(Some(33))),
    (&["udplite", "sport"], Field::Sport(Some(136))),
    (&["udplite", "dport"], Field::Dport(Some(136))),
    (&["icmp", "type"], Field::IcmpType(1)),
    (&["icmp", "code"], Field::IcmpCode(1)),
    (&["icmpv6", "type"], Field::IcmpType(58)),
    (&["icmpv6", "code"], Field::IcmpCode(58)),
    (&["iifname"], Field::Iif),
    (&["oifname"], Field::Oif),
    (&["iif"], Field::Iif),
    (&["oif"], Field::Oif),
    (&["mark"], Field::Mark),
    (&["sport"], Field::Sport(None)),
    (&["dport"], Field::Dport(None)),
];

impl Field {
    /// The field that `words` begin with, and how many words it takes.
    pub(super) fn parse(words: &[String]) -> Option<(Self, usize)> {
        let (spelling, field) = SPELLINGS.iter().find(|(spelling, _)| {
            words.len() >= spelling.len() && words.iter().zip(*spelling).all(|(a, b)| a == b)
        })?;
        Some((*field, spelling.len()))
    }

    /// The protocol that the field exists in.
    pub(super) fn protocol(self) -> Option<u8> {
        match self {
            Self::Sport(proto) | Self::Dport(proto) => proto,
            Self::IcmpType(proto) | Self::IcmpCode(proto) => Some(proto),
            Self::TcpFlags => Some(6),
            _ => None,
        }
    }
}

/// ICMP types by nft's names.
const ICMP_TYPES: [(&str, u8); 13] = [
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("source-quench", 4),
    ("redirect", 5),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
    ("info-request", 15),
    ("info-reply", 16),
];

const ICMPV6_TYPES: [(&str, u8); 15] = [
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("mld-listener-query", 130),
    ("mld-listener-report", 131),
    ("mld-listener-done", 132),
    ("nd-router-solicit", 133),
    ("nd-router-advert", 134),
    ("nd-neighbor-solicit", 135),
    ("nd-neighbor-advert", 136),
    ("nd-redirect", 137),
    ("mld2-listener-report", 143),
];

const ICMP_CODES: [(&str, u8); 8] = [
    ("net-unreachable", 0),
    ("host-unreachable", 1),
    ("prot-unreachable", 2),
    ("port-unreachable", 3),
    ("frag-needed", 4),
    ("net-prohibited", 9),
    ("host-prohibited", 10),
    ("admin-prohibited", 13),
];

const ICMPV6_CODES: [(&str, u8); 6] = [
    ("no-route", 0),
    ("admin-prohibited", 1),
    ("addr-unreachable", 3),
    ("port-unreachable", 4),
    ("policy-fail", 5),
    ("reject-route", 6),
];

fn types(proto: u8) -> &'static [(&'static str, u8)] {
    if proto == 58 { &ICMPV6_TYPES } else { &ICMP_TYPES }
}

fn codes(proto: u8) -> &'static [(&'static str, u8)] {
    if proto == 58 { &ICMPV6_CODES } else { &ICMP_CODES }
}

fn number(word: &str, names: &[(&str, u8)]) -> Option<u8> {
    let named = || names.iter().find(|(name, _)| *name == word).map(|(_, n)| *n);
    word.parse().ok().or_else(named)
}

fn name(number: u8, names: &[(&'static str, u8)]) -> Option<&'static str> {
    names.iter().find(|(_, n)| *n == number).map(|(name, _)| *name)
}

/// The number of an ICMP type.
pub(in crate::firewall) fn icmp_type(word: &str, proto: u8) -> Option<u8> {
    number(word, types(proto))
}

/// nft's name of an ICMP type.
pub(super) fn icmp_type_name(kind: u8, proto: u8) -> Option<&'static str> {
    name(kind, types(proto))
}

/// The number of an ICMP code.
pub(super) fn icmp_code(word: &str, proto: u8) -> Option<u8> {
    number(word, codes(proto))
}

/// nft's name of an ICMP code.
pub(super) fn icmp_code_name(code: u8, proto: u8) -> Option<&'static str> {
    name(code, codes(proto))
}
