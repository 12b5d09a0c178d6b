//! Words that all the tools share: protocols, prefixes, ranges, masks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocols by the names that the tools print; anything else is a number.
const PROTOCOLS: [(&str, u8); 15] = [
    ("tcp", 6),
    ("udp", 17),
    ("icmp", 1),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("sctp", 132),
    ("dccp", 33),
    ("udplite", 136),
    ("igmp", 2),
    ("esp", 50),
    ("ah", 51),
    ("gre", 47),
    ("ipencap", 4),
    ("ipv6", 41),
    ("vrrp", 112),
];

/// The number of an IP protocol.
pub(super) fn protocol(word: &str) -> Option<u8> {
    let known = PROTOCOLS.iter().find(|(name, _)| *name == word).map(|(_, n)| *n);
    known.or_else(|| word.parse().ok())
}

/// The name of an IP protocol, as `/etc/protocols` has it.
pub(super) fn protocol_name(number: u8) -> Option<&'static str> {
    PROTOCOLS.iter().find(|(_, n)| *n == number).map(|(name, _)| *name)
}

/// A string of C; what is no UTF-8 in it is replaced.
pub(super) fn c_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// A number, decimal or `0x…`.
pub(super) fn number(word: &str) -> Option<u32> {
    match word.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

/// `1.2.3.4`, `10.0.0.0/8`, `10.0.0.0/255.0.0.0` or `10.1.0.1-10.1.0.9` as prefixes.
pub(super) fn nets(word: &str) -> Option<Vec<(IpAddr, u8)>> {
    if let Some((first, last)) = word.split_once('-') {
        return range_nets(first.parse().ok()?, last.parse().ok()?);
    }
    let Some((addr, len)) = word.split_once('/') else {
        let addr: IpAddr = word.parse().ok()?;
        return Some(vec![(addr, bits(addr))]);
    };
    let addr: IpAddr = addr.parse().ok()?;
    let len = match len.parse::<u8>() {
        Ok(len) => len,
        Err(_) => mask_len(len.parse().ok()?)?,
    };
    (len <= bits(addr)).then(|| vec![(addr, len)])
}

/// Whether `addr` is in the prefix.
pub(super) fn is_in(addr: IpAddr, (net, len): (IpAddr, u8)) -> bool {
    if addr.is_ipv4() != net.is_ipv4() {
        return false;
    }
    let shift = u32::from(bits(addr) - len.min(bits(addr)));
    (value(addr) ^ value(net)).checked_shr(shift).unwrap_or(0) == 0
}

/// `80` or `80-90` or `80:90`, also open at one end (`:90`, `1024:`).
pub(super) fn port_range(word: &str) -> Option<(u16, u16)> {
    let Some((first, last)) = word.split_once(['-', ':']) else {
        let port = word.parse().ok()?;
        return Some((port, port));
    };
    let first = if first.is_empty() { 0 } else { first.parse().ok()? };
    let last = if last.is_empty() { u16::MAX } else { last.parse().ok()? };
    Some((first, last))
}

/// `1.2.3.4`, `1.2.3.4:80`, `[fd00::1]:80`, `fd00::1`, `:80`; of a range of addresses or ports
/// nothing is known but that it is one.
pub(super) fn endpoint(word: &str) -> (Option<IpAddr>, Option<u16>) {
    if let Ok(addr) = word.parse() {
        return (Some(addr), None);
    }
    if let Some((addr, port)) = word.strip_prefix('[').and_then(|w| w.split_once(']')) {
        return (addr.parse().ok(), port.strip_prefix(':').and_then(|p| p.parse().ok()));
    }
    match word.rsplit_once(':') {
        Some((addr, port)) => (addr.parse().ok(), port.parse().ok()),
        None => (None, None),
    }
}

fn bits(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

fn value(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

fn mask_len(mask: IpAddr) -> Option<u8> {
    let width = bits(mask);
    let left = value(mask) << (128 - u32::from(width));
    let len = left.leading_ones();
    (left.count_ones() == len).then(|| u8::try_from(len).unwrap_or(width))
}

/// The fewest prefixes that cover a range exactly.
fn range_nets(first: IpAddr, last: IpAddr) -> Option<Vec<(IpAddr, u8)>> {
    if first.is_ipv4() != last.is_ipv4() || value(first) > value(last) {
        return None;
    }
    let width = u32::from(bits(first));
    let (mut at, end) = (value(first), value(last));
    let mut found = Vec::new();
    loop {
        // As large as the alignment of `at` allows, and then as what is left allows.
        let mut size = at.trailing_zeros().min(width);
        while size > 0 && (at | low_bits(size)) > end {
            size -= 1;
        }
        let addr = if first.is_ipv4() {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(at).ok()?))
        } else {
            IpAddr::V6(Ipv6Addr::from(at))
        };
        found.push((addr, u8::try_from(width - size).ok()?));
        let covered = at | low_bits(size);
        if covered >= end {
            return Some(found);
        }
        at = covered + 1;
    }
}

fn low_bits(n: u32) -> u128 {
    1_u128.checked_shl(n).map_or(u128::MAX, |bit| bit - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    #[test]
    fn a_range_is_exactly_its_prefixes() {
        let found = nets("10.1.0.1-10.1.0.9").unwrap();
        let inside = |a: &str| found.iter().any(|n| is_in(ip(a), *n));
        assert!(!inside("10.1.0.0") && inside("10.1.0.1") && inside("10.1.0.9"));
        assert!(!inside("10.1.0.10"));
        assert_eq!(nets("0.0.0.0-255.255.255.255").unwrap(), [(ip("0.0.0.0"), 0)]);
    }

    #[test]
    fn masks_prefixes_and_families() {
        assert_eq!(nets("10.0.0.0/255.0.0.0"), Some(vec![(ip("10.0.0.0"), 8)]));
        assert_eq!(nets("10.0.0.0/255.0.255.0"), None);
        assert!(is_in(ip("1.2.3.4"), (ip("0.0.0.0"), 0)));
        assert!(!is_in(ip("::1"), (ip("0.0.0.0"), 0)));
        assert!(is_in(ip("fd00::1"), (ip("fd00::"), 8)));
    }

    #[test]
    fn endpoints_with_and_without_ports() {
        assert_eq!(endpoint("10.0.0.1:80"), (Some(ip("10.0.0.1")), Some(80)));
        assert_eq!(endpoint("[fd00::1]:80"), (Some(ip("fd00::1")), Some(80)));
        assert_eq!(endpoint("fd00::1"), (Some(ip("fd00::1")), None));
        assert_eq!(endpoint(":8080"), (None, Some(8080)));
        assert_eq!(endpoint("10.0.0.1-10.0.0.5"), (None, None));
    }
}
