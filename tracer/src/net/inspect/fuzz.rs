//! The ways in for `crate::fuzz`: bytes of netlink and text of `/proc`, to every parser here. Each
//! tells how much it made of them.

use super::wire::{attribute, attributes};
use super::{
    conntrack, counters, groups, neighbours, policies, resolver, routes, sockets, tc, vlans,
};

pub(crate) fn netlink(input: &[u8]) -> usize {
    let none = sockets::Processes::default();
    let found = [
        routes::route(input).is_some(),
        routes::rule(input).is_some(),
        neighbours::neighbour(input).is_some(),
        neighbours::fdb_entry(input).is_some(),
        !vlans::of_port(input).is_empty(),
        !groups::of_bridge(input).is_empty(),
        tc::kind(input).is_some(),
        tc::filter(input, true).is_some(),
        conntrack::entry(input).is_some(),
        policies::policy(input).is_some(),
        sockets::socket(17, input, &none).is_some(),
        attributes(input).count() > 0,
    ];
    found.into_iter().filter(|is| *is).count()
}

/// A header of some length with attributes in attributes behind it.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let inner: Vec<u8> = (0..8).flat_map(|kind| attribute(kind, &[10, 0, 0, 1])).collect();
    let outer: Vec<u8> = (0..32).flat_map(|kind| attribute(kind, &inner)).collect();
    [(2, 4), (10, 12), (2, 16), (7, 20), (2, 72)]
        .into_iter()
        .map(|(family, header)| {
            let mut bytes = vec![0; header];
            bytes[0] = family;
            bytes.extend(&outer);
            bytes
        })
        .collect()
}

pub(crate) fn proc(text: &str) -> usize {
    let mut found = counters::Counters::new();
    counters::titled(text, &mut found);
    counters::listed(text, &mut found);
    counters::softnet(text, &mut found);
    let none = sockets::Processes::default();
    let kinds = [None, Some(6), Some(17)];
    let lines = text.lines().flat_map(|line| kinds.map(|kind| (kind, line)));
    let sockets = lines.filter_map(|(kind, line)| sockets::of_line(kind, line, &none)).count();
    found.len() + sockets + policies::parse_ipvs(text).len()
}

pub(crate) fn resolv_conf(text: &str) -> usize {
    resolver::parse(text).nameservers.len()
}
