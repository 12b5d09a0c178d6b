//! What translations make of the addresses that a filter asks for, by the rules as configured:
//! nftables' tracing has to know them beforehand, in every namespace that a packet may come to.
//!
//! More is found than can happen: of a rule's conditions only addresses, ports and protocols of the
//! destination are looked at, and everything else may hold.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::cli::filter::Network;
use crate::firewall::{Chain, Element, Elements, Firewall, Map, Match, Rule, Table, Target};
use crate::nftrace::{End, Wanted};

/// As deep as the kernel lets chains jump.
const DEPTH: usize = 16;
/// Rules that are looked at for one question. A ruleset that takes more can lead anywhere.
const BUDGET: usize = 400_000;
/// Translations behind each other.
const ROUNDS: usize = 3;
/// More addresses than these, and an end is anything.
const ADDRESSES: usize = 8192;

/// The translations of one namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) firewall: Firewall,
    /// Its own addresses.
    pub(super) locals: BTreeSet<IpAddr>,
    /// Virtual servers of IPVS with their real ones.
    pub(super) ipvs: Vec<(IpAddr, Vec<IpAddr>)>,
}

impl Place {
    /// Whether it translates at all.
    pub(super) fn translates(&self) -> bool {
        !self.ipvs.is_empty()
            || self.firewall.tables.iter().flat_map(|t| &t.chains).any(|c| c.kind == "nat")
    }
}

/// `wanted` with what translations in these places make of it; what had to be given up, in words.
pub(super) fn widened<'a>(
    wanted: &Wanted,
    places: impl Iterator<Item = &'a Place> + Clone,
) -> (Wanted, Option<&'static str>) {
    let mut wide = wanted.clone();
    let mut why = None;
    let sources = sources(places.clone());
    for (src, dst) in &mut wide.pairs {
        if !src.is_any() {
            src.also.extend(&sources);
        }
        let led = (!dst.is_any()).then(|| follow(dst, wanted.proto, places.clone()));
        wide.behind |= led == Some(Led::Behind);
        if led == Some(Led::Anywhere) {
            *dst = End::default();
            why = Some("rules translate to addresses that they do not spell out");
        }
        for end in [src, dst] {
            if end.also.len() > ADDRESSES {
                *end = End::default();
                why = Some("rules translate to very many addresses");
            }
        }
    }
    (wide, why)
}

/// Addresses that take the place of a source.
fn sources<'a>(places: impl Iterator<Item = &'a Place>) -> BTreeSet<IpAddr> {
    let mut all = BTreeSet::new();
    for place in places {
        let chains = place.firewall.tables.iter().flat_map(|table| &table.chains);
        for rule in chains.flat_map(|chain| &chain.rules) {
            for target in rule.also.iter().chain([&rule.target]) {
                match target {
                    Target::Snat { .. } => all.extend(addresses(&rule.text)),
                    Target::Masquerade => all.extend(&place.locals),
                    _ => {}
                }
            }
        }
    }
    all
}

/// Where an end leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Led {
    /// To the addresses that are known now.
    There,
    /// Of what is translated to it, some has any of the node's addresses: it is met behind that.
    Behind,
    /// Nobody knows.
    Anywhere,
}

/// Adds to an end what its addresses are translated to, and what is translated to them.
fn follow<'a>(
    end: &mut End,
    proto: Option<u8>,
    places: impl Iterator<Item = &'a Place> + Clone,
) -> Led {
    let mut led = Led::There;
    let mut port = end.port;
    let mut asked: Vec<Network> = end.also.iter().map(|addr| Network::host(*addr)).collect();
    asked.extend(end.network.map(|(addr, len)| Network { addr, len }));
    let mut is_anywhere = end.network.is_none() && !end.is_listed;
    for round in 0..ROUNDS {
        let (mut found, mut back) = (BTreeSet::new(), BTreeSet::new());
        for place in places.clone() {
            let mut search = Search {
                place,
                asked: &asked,
                is_anywhere,
                port,
                proto,
                left: BUDGET,
                found: &mut found,
                back: &mut back,
                is_open: false,
                is_behind: false,
            };
            if !search.all() {
                return Led::Anywhere;
            }
            if search.is_behind && round == 0 {
                led = Led::Behind;
            }
        }
        // What leads to where the first ones are led to is another flow's.
        end.also.extend(back.iter().filter(|_| round == 0));
        asked = found.difference(&end.also).map(|addr| Network::host(*addr)).collect();
        end.also.extend(found);
        // Behind a translation the port may be another one.
        (is_anywhere, port) = (false, None);
        if asked.is_empty() {
            break;
        }
    }
    led
}

/// One question to the rules of one place.
struct Search<'a> {
    place: &'a Place,
    asked: &'a [Network],
    /// Any address will do.
    is_anywhere: bool,
    port: Option<u16>,
    proto: Option<u8>,
    left: usize,
    /// What it is translated to, and what is translated to it.
    found: &'a mut BTreeSet<IpAddr>,
    back: &'a mut BTreeSet<IpAddr>,
    is_open: bool,
    /// What is asked for has other addresses before that are not spelled out.
    is_behind: bool,
}

/// What the rules on the way here ask of a packet.
#[derive(Clone, Default)]
struct Way {
    /// The destination; `None` is any.
    to: Option<Vec<Network>>,
    is_local: bool,
    /// The port and the protocol may be those that are asked for.
    is_port: bool,
}

impl<'a> Search<'a> {
    fn all(&mut self) -> bool {
        for table in &self.place.firewall.tables {
            let hooked = table.chains.iter().filter(|chain| chain.hook.is_some());
            for chain in hooked {
                self.chain(table, chain, &Way { is_port: true, ..Way::default() }, DEPTH);
            }
        }
        for (server, real) in &self.place.ipvs {
            if self.is_asked(Network::host(*server)) {
                self.found.extend(real);
            }
            if real.iter().any(|addr| self.is_named(*addr)) {
                self.back.insert(*server);
            }
        }
        !self.is_open && self.left > 0
    }

    fn chain(&mut self, table: &'a Table, chain: &'a Chain, way: &Way, depth: usize) {
        for rule in &chain.rules {
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                return;
            }
            let way = self.through(way, rule);
            for target in rule.also.iter().chain([&rule.target]) {
                self.target(table, rule, (target, &way), depth);
            }
        }
    }

    fn through(&self, way: &Way, rule: &Rule) -> Way {
        let mut way = way.clone();
        for condition in &rule.matches {
            match condition {
                Match::Dst { nets, not: false } => {
                    way.to = Some(nets.iter().map(|(addr, len)| net(*addr, *len)).collect());
                }
                Match::DstLocal { not: false } => way.is_local = true,
                Match::Dport { ranges, not: false } => {
                    way.is_port &= self
                        .port
                        .is_none_or(|port| ranges.iter().any(|(a, b)| (*a..=*b).contains(&port)));
                }
                Match::Proto { number, not: false } => {
                    way.is_port &= self.proto.is_none_or(|proto| proto == *number);
                }
                _ => {}
            }
        }
        way
    }

    fn target(
        &mut self,
        table: &'a Table,
        rule: &Rule,
        (target, way): (&Target, &Way),
        depth: usize,
    ) {
        match target {
            Target::Jump(name) | Target::Goto(name) => self.jump(table, name, way, depth),
            Target::Dnat { addr: Some(to), .. } => self.translation(way, *to),
            // A range, or another port alone.
            Target::Dnat { addr: None, .. } if self.is_met(way) => {
                self.is_open |= addresses(&rule.text).any(|addr| !self.is_named(addr));
                self.found.extend(self.asked.iter().filter(|n| n.is_host()).map(|n| n.addr));
            }
            Target::Redirect { .. } if self.is_met(way) => self.found.extend(&self.place.locals),
            Target::Map(map) => self.map(table, (target, map), way, depth),
            _ => {}
        }
    }

    fn jump(&mut self, table: &'a Table, name: &str, way: &Way, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else { return };
        if let Some(chain) = table.chains.iter().find(|chain| chain.name == name) {
            self.chain(table, chain, way, depth);
        }
    }

    /// Each element of a map that may be meant.
    fn map(&mut self, table: &'a Table, (target, map): (&Target, &Map), way: &Way, depth: usize) {
        let translates = target.nat_kind().is_some();
        let elements = match &map.elements {
            Elements::Here(elements) => elements.as_slice(),
            Elements::Named(name) => table.set(name).map_or(&[][..], |set| &set.elements),
        };
        for Element { key, value, .. } in elements {
            let to: Vec<Network> =
                key.iter().flat_map(|word| addresses(word)).map(Network::host).collect();
            let way = match to.is_empty() {
                true => way.clone(),
                false => Way { to: Some(to), ..way.clone() },
            };
            if translates {
                let all = value.iter().flat_map(|word| addresses(word));
                all.for_each(|addr| self.translation(&way, addr));
            }
            if let [verb, name] = value.as_slice()
                && matches!(verb.as_str(), "goto" | "jump")
            {
                self.jump(table, name, &way, depth);
            }
        }
    }

    fn translation(&mut self, way: &Way, to: IpAddr) {
        if self.is_met(way) {
            self.found.insert(to);
        }
        if self.is_named(to) {
            let hosts = way.to.iter().flatten().filter(|n| n.is_host()).map(|n| n.addr);
            self.back.extend(hosts);
            self.is_behind |= way.to.is_none();
        }
    }

    /// Whether what is asked for may come this way.
    fn is_met(&self, way: &Way) -> bool {
        let is_local = || {
            self.is_anywhere
                || self.place.locals.iter().any(|addr| self.is_asked(Network::host(*addr)))
        };
        let is_to = way.to.as_ref().is_none_or(|to| to.iter().any(|n| self.is_asked(*n)));
        way.is_port && is_to && (!way.is_local || is_local())
    }

    fn is_asked(&self, network: Network) -> bool {
        self.is_anywhere || self.asked.iter().any(|asked| asked.overlaps(network))
    }

    /// Asked for by its own address, and not because any will do.
    fn is_named(&self, addr: IpAddr) -> bool {
        self.asked.iter().any(|asked| asked.contains(addr))
    }
}

fn net(addr: IpAddr, len: u8) -> Network {
    Network { addr, len }
}

/// All addresses among these words, with ports or without.
fn addresses(words: &str) -> impl Iterator<Item = IpAddr> + '_ {
    let is_part = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':');
    words.split(move |c| !is_part(c)).filter_map(|word| {
        let word = word.trim_matches(':');
        let bare = || word.split_once(':').map_or(word, |(before, _)| before);
        word.parse().or_else(|_| bare().parse()).ok()
    })
}

#[cfg(test)]
mod tests;
