//! Sets and maps with their elements.

use std::collections::HashMap;

use super::datatype::{constant, number, quoted};
use super::kind::Kind;
use crate::firewall::nft::token::{Words, word};
use crate::firewall::{Element, Set};
use crate::net::nftables::{Attrs, user_data};

/// `NFT_SET_*`.
const ANONYMOUS: u32 = 1;
const INTERVAL: u32 = 4;
const MAP: u32 = 8;
const CONCAT: u32 = 0x80;
/// `NFT_SET_ELEM_*`.
const INTERVAL_END: u32 = 1;
const CATCHALL: u32 = 2;

/// What is known of a set beside its elements.
pub(super) struct Info {
    name: String,
    flags: u32,
    pub(super) key_len: usize,
    kinds: Vec<Kind>,
    /// The key of one part is kept in network byte order.
    is_network_order: Option<bool>,
    /// What a map's values are.
    pub(super) values: Vec<Kind>,
    elements: Vec<Element>,
    is_whole: bool,
}

/// The sets of a table by name.
#[derive(Default)]
pub(super) struct Sets(HashMap<String, Info>);

impl Sets {
    pub(super) fn get(&self, name: &str) -> Option<&Info> {
        self.0.get(name)
    }

    pub(super) fn add(&mut self, info: Info) {
        self.0.insert(info.name.clone(), info);
    }

    /// Those with a name, by it: the others are in the words of their rules.
    pub(super) fn into_named(self) -> Vec<Set> {
        let named = self.0.into_values().filter(|info| info.flags & ANONYMOUS == 0);
        let set = |i: Info| Set { name: i.name, elements: i.elements, is_whole: i.is_whole };
        let mut sets: Vec<Set> = named.map(set).collect();
        sets.sort_by(|a, b| a.name.cmp(&b.name));
        sets
    }
}

/// One element as the kernel has it.
struct Raw<'a> {
    key: &'a [u8],
    end: Option<&'a [u8]>,
    flags: u32,
    attrs: Attrs<'a>,
}

impl Info {
    /// `NFTA_SET_*`.
    pub(super) fn new(set: Attrs<'_>) -> Option<Self> {
        let udata = set.get(13).unwrap_or_default();
        // `NFTNL_UDATA_SET_KEYBYTEORDER`: 1 is the host's, 2 the network's.
        let order = user_data(udata, 0).and_then(|order| order.first_chunk::<4>());
        let order = order.map(|order| u32::from_ne_bytes(*order));
        let flags = set.be32(3).unwrap_or(0);
        let values = set.be32(6).filter(|_| flags & MAP != 0);
        Some(Self {
            name: set.text(2)?,
            flags,
            key_len: set.be32(5)? as usize,
            kinds: Kind::all_of(set.be32(4).unwrap_or(0)),
            is_network_order: match (flags & INTERVAL != 0, order) {
                (true, _) | (_, Some(2)) => Some(true),
                (_, Some(1)) => Some(false),
                _ => None,
            },
            values: values.map(Kind::all_of).unwrap_or_default(),
            elements: Vec::new(),
            is_whole: true,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The set could not be read, or has more elements than are read.
    pub(super) fn cut(&mut self) {
        self.is_whole = false;
    }

    /// `@name`, or the elements in braces.
    pub(super) fn words(&self) -> Words {
        if self.flags & ANONYMOUS == 0 {
            return vec![format!("@{}", self.name)];
        }
        let mut all = vec![word("{")];
        for (at, element) in self.elements.iter().enumerate() {
            all.extend((at > 0).then(|| word(",")));
            all.extend(element.words());
        }
        all.push(word("}"));
        all
    }

    /// Takes the elements (`NFTA_SET_ELEM_*`), in any order.
    pub(super) fn take<'a>(&mut self, elements: impl Iterator<Item = Attrs<'a>>) {
        let raw = |attrs: Attrs<'a>| Raw {
            key: attrs.nested(1).get(1).unwrap_or_default(),
            end: attrs.nested(10).get(1),
            flags: attrs.be32(3).unwrap_or(0),
            attrs,
        };
        let mut all: Vec<Raw<'a>> = elements.map(raw).collect();
        let is_network_order = match self.kind() {
            // nft sorts names as numbers of its own byte order.
            Kind::IfName => false,
            kind => self.is_network_order.unwrap_or_else(|| kind.is_network_order()),
        };
        all.sort_by_cached_key(|e| {
            // Of two at one place, the one that ends there is in front.
            let is_start = e.flags & INTERVAL_END == 0;
            (e.flags & CATCHALL != 0, order(e.key, is_network_order), is_start)
        });
        let is_ranges = self.flags & INTERVAL != 0 && self.flags & CONCAT == 0;
        for (at, element) in all.iter().enumerate() {
            if is_ranges && element.flags & INTERVAL_END != 0 {
                continue;
            }
            let key = if element.flags & CATCHALL != 0 {
                vec![word("*")]
            } else if is_ranges {
                vec![self.range(element.key, all.get(at + 1).map(|next| next.key))]
            } else {
                self.key(element)
            };
            let (value, comment) = (self.value(element.attrs), comment(element.attrs));
            self.elements.push(Element { key, value, comment });
        }
    }

    fn kind(&self) -> Kind {
        self.kinds.first().copied().unwrap_or(Kind::Integer)
    }

    /// From `first` to in front of `next`, or without an end.
    fn range(&self, first: &[u8], next: Option<&[u8]>) -> String {
        let kind = self.kind();
        if kind == Kind::IfName {
            return names(first);
        }
        let last = match next {
            Some(next) => before(next),
            None => vec![0xff; first.len()],
        };
        between(kind, first, &last, true)
    }

    /// The parts of a key; each may be a range where the set has intervals.
    fn key(&self, element: &Raw<'_>) -> Words {
        let mut at = 0;
        let mut parts = Words::new();
        for (n, kind) in self.kinds.iter().enumerate() {
            let rest = element.key.get(at..).unwrap_or_default();
            // Of a type whose size the kernel is not told, there may be the rest.
            let size =
                kind.size().unwrap_or(if n + 1 == self.kinds.len() { rest.len() } else { 4 });
            let Some(first) = rest.get(..size) else { return vec![hex(element.key)] };
            let order = match self.is_network_order {
                Some(order) if self.kinds.len() == 1 || self.flags & INTERVAL != 0 => order,
                _ => kind.is_network_order(),
            };
            let last = element.end.and_then(|end| end.get(at..at + size)).unwrap_or(first);
            parts.push(between(*kind, first, last, order));
            at += size.next_multiple_of(4);
        }
        if parts.is_empty() { vec![hex(element.key)] } else { parts }
    }

    /// The value of a map's element.
    fn value(&self, element: Attrs<'_>) -> Words {
        if let Some(object) = element.text(9) {
            return vec![quoted(&object)];
        }
        let data = element.nested(2);
        if data.has(2) {
            return verdict(data).unwrap_or_default();
        }
        let Some(bytes) = data.get(1).filter(|_| self.flags & MAP != 0) else {
            return Words::new();
        };
        let mut at = 0;
        let mut words = Words::new();
        for (n, kind) in self.values.iter().enumerate() {
            let rest = bytes.get(at..).unwrap_or_default();
            let size = kind.size().unwrap_or(rest.len());
            let Some(part) = rest.get(..size) else { return vec![hex(bytes)] };
            words.extend((n > 0).then(|| word(".")));
            words.push(constant(*kind, part, kind.is_network_order()));
            at += size.next_multiple_of(4);
        }
        words
    }
}

/// What keys are sorted by: their number, or their bytes where they are no number.
fn order(key: &[u8], is_network_order: bool) -> Vec<u8> {
    match number(key, is_network_order) {
        Some(number) => number.to_be_bytes().to_vec(),
        None => key.to_vec(),
    }
}

/// One less: intervals are kept with the first value behind them.
fn before(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for byte in bytes.iter_mut().rev() {
        let (less, is_borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !is_borrowed {
            break;
        }
    }
    bytes
}

/// A value, a prefix or a range.
fn between(kind: Kind, first: &[u8], last: &[u8], order: bool) -> String {
    let start = constant(kind, first, order);
    if first == last {
        return start;
    }
    if kind == Kind::IfName {
        return names(first);
    }
    if let (true, Some(a), Some(b)) = (kind.has_prefixes(), number(first, true), number(last, true))
    {
        let free = (a ^ b).count_ones();
        if (a ^ b) == 1_u128.checked_shl(free).map_or(u128::MAX, |bit| bit - 1) && a & (a ^ b) == 0
        {
            return format!("{start}/{}", first.len() * 8 - free as usize);
        }
    }
    format!("{start}-{}", constant(kind, last, order))
}

/// Names that begin alike.
fn names(first: &[u8]) -> String {
    quoted(&format!("{}*", crate::firewall::words::c_text(first)))
}

fn hex(bytes: &[u8]) -> String {
    constant(Kind::Hex, bytes, true)
}

/// `NFTA_SET_ELEM_USERDATA`: `NFTNL_UDATA_SET_ELEM_COMMENT`.
fn comment(element: Attrs<'_>) -> Option<String> {
    let text = user_data(element.get(6)?, 0)?;
    Some(crate::firewall::words::c_text(text))
}

/// `NFTA_VERDICT_CODE`, `NFTA_VERDICT_CHAIN` in `NFTA_DATA_VERDICT`.
pub(super) fn verdict(data: Attrs<'_>) -> Option<Words> {
    let verdict = data.nested(2);
    let chain = || verdict.text(2);
    Some(match verdict.be_i32(1)? {
        0 => vec![word("drop")],
        1 => vec![word("accept")],
        -1 => vec![word("continue")],
        -2 => vec![word("break")],
        -3 => vec![word("jump"), chain()?],
        -4 => vec![word("goto"), chain()?],
        -5 => vec![word("return")],
        code if code & 0xff == 3 => vec![word("queue")],
        _ => return None,
    })
}
