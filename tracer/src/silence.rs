//! Why nothing is seen: how many packets there were, which part of the filter turned them away, and
//! which came nearest. On stderr, while the trace waits and at its end.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tracer_common::filter::{Filter, NearMiss, Prefix, miss, terms};

use crate::bpf::Misses;
use crate::event::{Proto, Tuple};
use crate::render;
use crate::source::Live;

/// Packets that are enough to tell from: looking closer at all of them costs the node.
const ENOUGH: u64 = 50_000;
/// How many of the nearest are shown.
const NEAREST: usize = 3;

/// What did not match, as long as nothing has.
#[derive(Debug)]
pub(crate) struct Silence {
    is_quiet: bool,
    is_over: bool,
    is_counting: bool,
    is_shown: bool,
}

impl Silence {
    pub(crate) fn new(is_quiet: bool) -> Self {
        Self { is_quiet, is_over: is_quiet, is_counting: true, is_shown: false }
    }

    /// Something matched.
    pub(crate) fn end(&mut self) {
        self.is_over = true;
        self.clear();
    }

    /// Once a second: shows how it stands on a terminal, and stops the counting when nothing more
    /// is to be learned by it.
    pub(crate) fn tick(&mut self, live: &mut Live, filter: &Filter) {
        if !self.is_counting || (self.is_over && self.is_quiet) {
            return;
        }
        // A failure only leaves the counting on.
        let Ok(misses) = live.misses() else { return };
        if self.is_over || misses.packets >= ENOUGH {
            self.is_counting = live.count_misses(false).is_err();
        }
        if !self.is_over && io::stderr().is_terminal() {
            let nearest = nearest(filter, &misses).into_iter().next();
            let nearest = nearest.map_or_else(String::new, |near| format!("; nearest: {near}"));
            let text = format!("waiting: {} turned away{nearest}", packets(misses.packets));
            let _ = write!(io::stderr(), "\r\x1b[Kpkttrace: {}", render::escape(&text));
            self.is_shown = true;
        }
    }

    /// Takes the line on the terminal away.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    /// What there is to say at the end, if nothing matched.
    pub(crate) fn explain(&self, live: &mut Live, filter: &Filter) -> Vec<String> {
        if self.is_over {
            return Vec::new();
        }
        live.misses().map_or_else(|_| Vec::new(), |misses| lines(filter, &misses))
    }
}

fn packets(count: u64) -> String {
    match count {
        1 => "1 packet".to_owned(),
        n if n >= ENOUGH => format!("more than {ENOUGH} packets"),
        n => format!("{n} packets"),
    }
}

/// The silence in words.
fn lines(filter: &Filter, misses: &Misses) -> Vec<String> {
    if misses.packets == 0 {
        return vec![
            "nothing matched: no packet was seen that the filter could be about".to_owned(),
        ];
    }
    let mut by: Vec<(u64, &str)> = misses
        .by_term
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(term, count)| (*count, option(filter, *term)))
        .collect();
    by.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let by: Vec<String> = by.iter().map(|(count, term)| format!("{term} {count}")).collect();
    let seen = packets(misses.packets);
    let mut lines = vec![format!("nothing matched: {seen} seen, turned away by {}", by.join(", "))];
    lines.extend(nearest(filter, misses).into_iter().map(|near| format!("nearest: {near}")));
    lines
}

/// The option that a term comes from.
fn option(filter: &Filter, term: u32) -> &'static str {
    let has = |terms| filter.terms & terms != 0;
    match term {
        miss::SRC => "--src",
        miss::DST => "--dst",
        miss::HOST => "--host",
        miss::PORT if has(terms::DPORT) => "--dport",
        miss::PORT if has(terms::SPORT) => "--sport",
        miss::PORT => "--port",
        miss::PROTO => "--proto",
        miss::SERVICE => "--service",
        _ if has(terms::DEV) => "--dev",
        _ => "--netns, --container or --pod",
    }
}

/// The packets that one term alone turned away, by how many there were.
fn nearest(filter: &Filter, misses: &Misses) -> Vec<String> {
    let mut groups: BTreeMap<(u32, String), u64> = BTreeMap::new();
    for (near, count) in &misses.near {
        *groups.entry((near.term, what(filter, near))).or_default() += count;
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let said = |((term, what), count): ((u32, String), u64)| {
        format!("{} {what}, {}", packets(count), but(filter, term))
    };
    groups.into_iter().take(NEAREST).map(said).collect()
}

/// What a packet was, as far as it matters to the term.
fn what(filter: &Filter, near: &NearMiss) -> String {
    let tuple = tuple(near);
    let end = |addr: IpAddr, port: u16| {
        let port = tuple.proto.has_ports().then_some(port);
        render::endpoint(&addr.to_string(), port)
    };
    let (from, to) = (end(tuple.src, tuple.sport), end(tuple.dst, tuple.dport));
    let is_of_source = near.term == miss::PORT && filter.terms & terms::DPORT == 0;
    match near.term {
        miss::SRC => format!("of {} from {}", tuple.proto, tuple.src),
        miss::PORT if is_of_source && filter.terms & terms::SPORT != 0 => {
            format!("of {} from {from}", tuple.proto)
        }
        miss::HOST | miss::SCOPE => format!("of {} {} > {to}", tuple.proto, tuple.src),
        miss::PROTO => format!("of {} {} > {}", tuple.proto, tuple.src, tuple.dst),
        _ => format!("of {} to {to}", tuple.proto),
    }
}

/// What the term asked for instead.
fn but(filter: &Filter, term: u32) -> String {
    let has = |terms| filter.terms & terms != 0;
    let port = |port: u16| format!("not :{}", u16::from_be(port));
    match term {
        miss::SRC => format!("not from {}", prefix(filter, &filter.src)),
        miss::DST => format!("not {}", prefix(filter, &filter.dst)),
        miss::HOST => format!("neither end {}", prefix(filter, &filter.host)),
        miss::PORT if has(terms::DPORT) => port(filter.dport),
        miss::PORT if has(terms::SPORT) => port(filter.sport),
        miss::PORT => port(filter.port),
        miss::PROTO => {
            let number = u8::try_from(filter.proto).unwrap_or_default();
            format!("not {}", Proto::from_ip(number))
        }
        miss::SERVICE => "not the Service".to_owned(),
        _ => format!("not in scope of {}", option(filter, term)),
    }
}

fn prefix(filter: &Filter, prefix: &Prefix) -> String {
    let is_v6 = filter.terms & terms::IPV4 == 0;
    let length: u32 = prefix.mask.iter().map(|word| word.count_ones()).sum();
    let whole = if is_v6 { 128 } else { 32 };
    let addr = address(&prefix.addr, is_v6);
    if length == whole { addr.to_string() } else { format!("in {addr}/{length}") }
}

fn tuple(near: &NearMiss) -> Tuple {
    let is_v6 = near.family == 6;
    Tuple {
        src: address(&near.key.saddr, is_v6),
        dst: address(&near.key.daddr, is_v6),
        proto: if near.key.proto == 0 { Proto::Arp } else { Proto::from_ip(near.key.proto) },
        sport: u16::from_be(near.key.sport),
        dport: u16::from_be(near.key.dport),
    }
}

fn address(words: &[u32; 4], is_v6: bool) -> IpAddr {
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    if is_v6 {
        IpAddr::V6(Ipv6Addr::from(bytes))
    } else {
        IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::filter::FilterArgs;
    use crate::config::compile;
    use tracer_common::FlowKey;

    fn filter() -> Filter {
        let args = FilterArgs {
            dst: "10.96.0.10".parse().ok(),
            dport: Some(5353),
            ..FilterArgs::default()
        };
        compile(&args).unwrap()
    }

    fn near(dport: u16, sport: u16, term: u32) -> NearMiss {
        let mut key =
            FlowKey { proto: 17, sport: sport.to_be(), dport: dport.to_be(), ..FlowKey::default() };
        key.saddr[0] = u32::from_ne_bytes([10, 244, 1, 5]);
        key.daddr[0] = u32::from_ne_bytes([10, 96, 0, 10]);
        NearMiss { key, term, family: 4 }
    }

    #[test]
    fn the_nearest_are_told_with_what_was_asked_for() {
        let misses = Misses {
            packets: 30,
            by_term: vec![(miss::DST, 16), (miss::PORT, 30)],
            near: vec![
                (near(53, 4000, miss::PORT), 10),
                (near(53, 4001, miss::PORT), 4),
                (near(80, 4002, miss::PORT), 1),
            ],
        };
        assert_eq!(
            lines(&filter(), &misses),
            [
                "nothing matched: 30 packets seen, turned away by --dport 30, --dst 16",
                "nearest: 14 packets of udp to 10.96.0.10:53, not :5353",
                "nearest: 1 packet of udp to 10.96.0.10:80, not :5353",
            ]
        );
    }

    #[test]
    fn a_node_without_traffic_is_told_apart() {
        let [line] = &lines(&filter(), &Misses::default())[..] else { panic!("one line") };
        assert!(line.contains("no packet was seen"), "{line}");
    }
}
