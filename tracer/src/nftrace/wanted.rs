//! Which packets are to be told of, as far as a rule of nftables can say it.
//!
//! A journey is followed by its identity, a rule sees one packet in one namespace: what a
//! translation makes of an address has to be listed beforehand ([`End::also`]). Where that cannot
//! be known, an end is anything, and more is told than was asked for. That costs others, so it is
//! the last resort; what is told too much is never asked for.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tracer_common::filter::{Filter, Portal, Prefix, terms};

/// As many entrances have rules of their own.
const PLACES: usize = 8;

/// One end of the packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// An address in this network.
    pub network: Option<(IpAddr, u8)>,
    /// And this port.
    pub port: Option<u16>,
    /// Or one of these addresses, with any port: what translations make of it.
    pub also: BTreeSet<IpAddr>,
    /// Nothing but those addresses: a Service's.
    pub is_listed: bool,
}

/// The packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
    /// ARP, where a bridge sees it.
    pub arp: bool,
    /// Of this IP protocol.
    pub proto: Option<u8>,
    /// From one end to the other, of any of these pairs.
    pub pairs: Vec<(End, End)>,
    /// And back.
    pub both_ways: bool,
    /// A packet may have become one of these only by a translation.
    pub behind: bool,
    /// UDP ports at which another packet is inside.
    pub vxlan: Vec<u16>,
}

impl End {
    /// Whatever there is.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.network.is_none() && self.port.is_none() && !self.is_listed
    }
}

impl Wanted {
    /// What a filter asks for, before any translation. Where a packet is first met cannot be said.
    #[must_use]
    pub fn of(filter: &Filter, portals: &[Portal]) -> Self {
        let has = |term| filter.terms & term != 0;
        let end = |addr, prefix: &Prefix, port, number: u16| End {
            network: has(addr).then(|| network(prefix, has(terms::IPV4))),
            port: has(port).then(|| u16::from_be(number)),
            ..End::default()
        };
        let src = end(terms::SRC, &filter.src, terms::SPORT, filter.sport);
        let mut dst = end(terms::DST, &filter.dst, terms::DPORT, filter.dport);
        if has(terms::SERVICE) {
            dst.is_listed = true;
            dst.also = portals.iter().map(|p| address(p.addr, portal_is_v4(p))).collect();
        }
        Self {
            ipv4: has(terms::IPV4),
            ipv6: has(terms::IPV6),
            arp: has(terms::ARP),
            proto: has(terms::PROTO).then(|| u8::try_from(filter.proto).unwrap_or(0)),
            pairs: pairs(filter, src, dst),
            both_ways: has(terms::REPLIES),
            behind: false,
            vxlan: filter
                .vxlan_ports
                .iter()
                .filter(|port| **port != 0 && has(terms::VXLAN))
                .map(|port| u16::from_be(*port))
                .collect(),
        }
    }

    /// As well what goes to one of these places, and back: rules see it before it is translated to
    /// what was asked for.
    #[must_use]
    pub fn entering(mut self, entrances: &[Portal]) -> Self {
        let places = entrances.iter().filter(|portal| portal.port != 0);
        let places: BTreeSet<_> =
            places.map(|p| (address(p.addr, portal_is_v4(p)), u16::from_be(p.port))).collect();
        let ends: Vec<End> = if places.len() > PLACES {
            let also = places.iter().map(|(addr, _)| *addr).collect();
            vec![End { is_listed: true, also, ..End::default() }]
        } else {
            let end = |(addr, port): &(IpAddr, u16)| {
                let len = if addr.is_ipv4() { 32 } else { 128 };
                End { network: Some((*addr, len)), port: Some(*port), ..End::default() }
            };
            places.iter().map(end).collect()
        };
        let sources: Vec<End> = self.pairs.iter().map(|(src, _)| src.clone()).collect();
        for end in ends {
            let pairs = sources.iter().map(|src| (src.clone(), end.clone()));
            self.pairs.extend(pairs);
        }
        self
    }

    /// All packets there are.
    #[must_use]
    pub fn everything() -> Self {
        let pairs = vec![(End::default(), End::default())];
        Self { ipv4: true, ipv6: true, arp: true, pairs, ..Self::default() }
    }

    /// Every packet is told of.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.proto.is_none() && self.pairs.iter().any(|(a, b)| a.is_any() && b.is_any())
    }
}

/// `--host` and `--port` mean either end. Beside a term for one end they add little, and are left
/// out.
fn pairs(filter: &Filter, src: End, dst: End) -> Vec<(End, End)> {
    let has = |term| filter.terms & term != 0;
    let host = (src.is_any() && dst.is_any() && has(terms::HOST))
        .then(|| network(&filter.host, has(terms::IPV4)));
    let port = has(terms::PORT).then(|| u16::from_be(filter.port));
    let port = port.filter(|_| src.port.is_none() && dst.port.is_none() && !dst.is_listed);
    let mut pairs = vec![(src, dst)];
    if host.is_some() {
        pairs = either(pairs, |end| end.network = host);
    }
    if port.is_some() {
        pairs = either(pairs, |end| end.port = port);
    }
    pairs
}

fn either(pairs: Vec<(End, End)>, set: impl Fn(&mut End)) -> Vec<(End, End)> {
    let both = |(src, dst): (End, End)| {
        let (mut from, mut to) = ((src.clone(), dst.clone()), (src, dst));
        set(&mut from.0);
        set(&mut to.1);
        [from, to]
    };
    pairs.into_iter().flat_map(both).collect()
}

fn network(prefix: &Prefix, is_v4: bool) -> (IpAddr, u8) {
    let words = if is_v4 { &prefix.mask[..1] } else { &prefix.mask[..] };
    let len: u32 = words.iter().map(|word| word.count_ones()).sum();
    (address(prefix.addr, is_v4), u8::try_from(len).unwrap_or(0))
}

fn address(words: [u32; 4], is_v4: bool) -> IpAddr {
    if is_v4 {
        return IpAddr::from(words[0].to_ne_bytes());
    }
    let mut bytes = [0; 16];
    for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    IpAddr::from(bytes)
}

/// No address of IPv6 that is in use has only zeroes behind its first 32 bits.
fn portal_is_v4(portal: &Portal) -> bool {
    portal.addr[1..] == [0; 3]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(bytes: [u8; 4], len: u32) -> Prefix {
        let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0).to_be();
        Prefix { addr: [u32::from_ne_bytes(bytes), 0, 0, 0], mask: [mask, 0, 0, 0] }
    }

    #[test]
    fn ends_are_those_of_the_filter() {
        let filter = Filter {
            terms: terms::IPV4 | terms::DST | terms::DPORT | terms::PROTO | terms::REPLIES,
            proto: 6,
            dst: prefix([10, 96, 0, 0], 16),
            dport: 80_u16.to_be(),
            ..Filter::default()
        };
        let wanted = Wanted::of(&filter, &[]);
        let to = End {
            network: Some((IpAddr::from([10, 96, 0, 0]), 16)),
            port: Some(80),
            ..End::default()
        };
        assert_eq!(wanted.pairs, [(End::default(), to)]);
        assert!(wanted.ipv4 && !wanted.ipv6 && wanted.both_ways && !wanted.is_everything());
        assert_eq!(wanted.proto, Some(6));
        assert!(Wanted::of(&Filter::default(), &[]).is_everything());
    }

    #[test]
    fn what_enters_elsewhere_is_one_of_them() {
        let filter = Filter {
            terms: terms::IPV4 | terms::DST,
            dst: prefix([10, 244, 1, 2], 32),
            ..Filter::default()
        };
        let portal = |host: u8, port: u16, proto| Portal {
            addr: [u32::from_ne_bytes([10, 96, 0, host]), 0, 0, 0],
            port: port.to_be(),
            proto,
            reserved: 0,
        };
        let wanted = Wanted::of(&filter, &[]);
        let of = |portals: &[Portal]| wanted.clone().entering(portals).pairs.split_off(1);
        // What stands for later fragments is no other place.
        let to = End {
            network: Some((IpAddr::from([10, 96, 0, 1]), 32)),
            port: Some(80),
            ..End::default()
        };
        assert_eq!(of(&[portal(1, 80, 6), portal(1, 0, 0)]), [(End::default(), to)]);
        let many: Vec<_> = (1..=100).map(|host| portal(host, 80, 6)).collect();
        let [(_, to)] = &of(&many)[..] else { panic!("one pair") };
        assert!(to.is_listed && to.also.len() == 100);
    }

    #[test]
    fn either_end_may_be_meant() {
        let filter = Filter {
            terms: terms::IPV4 | terms::HOST | terms::PORT,
            host: prefix([10, 0, 0, 1], 32),
            port: 53_u16.to_be(),
            ..Filter::default()
        };
        let pairs = Wanted::of(&filter, &[]).pairs;
        assert_eq!(pairs.len(), 4);
        let host = Some((IpAddr::from([10, 0, 0, 1]), 32));
        assert!(pairs.iter().all(|(a, b)| (a.network == host) != (b.network == host)));
        assert!(pairs.iter().all(|(a, b)| (a.port == Some(53)) != (b.port == Some(53))));
    }
}
