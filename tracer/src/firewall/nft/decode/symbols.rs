//! nft's names of numbers.

use super::kind::Kind;
use crate::firewall::nft::field;
use crate::firewall::words;

/// Its name, if nft has one for it.
pub(super) fn name(kind: Kind, value: u32) -> Option<&'static str> {
    let table: &[(&'static str, u32)] = match kind {
        Kind::Nfproto => &[("ipv4", 2), ("ipv6", 10)],
        Kind::EtherType => &ETHER_TYPES,
        Kind::ArpOp => &ARP_OPERATIONS,
        Kind::Protocol => return words::protocol_name(u8::try_from(value).ok()?),
        Kind::IcmpType => return field::icmp_type_name(u8::try_from(value).ok()?, 1),
        Kind::Icmpv6Type => return field::icmp_type_name(u8::try_from(value).ok()?, 58),
        Kind::IcmpCode => return field::icmp_code_name(u8::try_from(value).ok()?, 1),
        Kind::Icmpv6Code => return field::icmp_code_name(u8::try_from(value).ok()?, 58),
        Kind::IcmpxCode => &ICMPX_CODES,
        Kind::TcpFlags => &TCP_FLAGS,
        Kind::CtState => &CT_STATES,
        Kind::CtDir => &[("original", 0), ("reply", 1)],
        Kind::CtStatus => &CT_STATUS,
        Kind::PktType => &[("host", 0), ("broadcast", 1), ("multicast", 2), ("other", 3)],
        Kind::Dscp => &DSCP,
        Kind::FibType => &FIB_TYPES,
        _ => return None,
    };
    table.iter().find(|(_, number)| *number == value).map(|(name, _)| *name)
}

const ETHER_TYPES: [(&str, u32); 5] =
    [("ip", 0x0800), ("arp", 0x0806), ("ip6", 0x86dd), ("8021q", 0x8100), ("8021ad", 0x88a8)];

const ARP_OPERATIONS: [(&str, u32); 7] = [
    ("request", 1),
    ("reply", 2),
    ("rrequest", 3),
    ("rreply", 4),
    ("inrequest", 8),
    ("inreply", 9),
    ("nak", 10),
];

/// `NFT_REJECT_ICMPX_*`
const ICMPX_CODES: [(&str, u32); 4] =
    [("no-route", 0), ("port-unreachable", 1), ("host-unreachable", 2), ("admin-prohibited", 3)];

const TCP_FLAGS: [(&str, u32); 8] = [
    ("fin", 0x01),
    ("syn", 0x02),
    ("rst", 0x04),
    ("psh", 0x08),
    ("ack", 0x10),
    ("urg", 0x20),
    ("ecn", 0x40),
    ("cwr", 0x80),
];

/// `NF_CT_STATE_BIT`
const CT_STATES: [(&str, u32); 5] =
    [("invalid", 1), ("established", 2), ("related", 4), ("new", 8), ("untracked", 64)];

/// `IPS_*`
const CT_STATUS: [(&str, u32); 7] = [
    ("expected", 1),
    ("seen-reply", 2),
    ("assured", 4),
    ("confirmed", 8),
    ("snat", 16),
    ("dnat", 32),
    ("dying", 512),
];

const DSCP: [(&str, u32); 23] = [
    ("cs0", 0),
    ("cs1", 8),
    ("cs2", 16),
    ("cs3", 24),
    ("cs4", 32),
    ("cs5", 40),
    ("cs6", 48),
    ("cs7", 56),
    ("lephb", 1),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("va", 44),
    ("ef", 46),
];

/// `RTN_*`
const FIB_TYPES: [(&str, u32); 9] = [
    ("unspec", 0),
    ("unicast", 1),
    ("local", 2),
    ("broadcast", 3),
    ("anycast", 4),
    ("multicast", 5),
    ("blackhole", 6),
    ("unreachable", 7),
    ("prohibit", 8),
];
