//! Comparisons of what a register holds with bytes of the rule.

use super::datatype::quoted;
use super::kind::Kind;
use super::reader::{Network, Reader};
use super::register::{Loaded, Value};
use crate::firewall::nft::token::{Words, word};
use crate::firewall::words::c_text;
use crate::net::nftables::Attrs;

/// `NFT_CMP_EQ`, `NEQ`, `LT`, `LTE`, `GT`, `GTE`.
const EQ: u32 = 0;
const NEQ: u32 = 1;
const LTE: u32 = 3;
const GTE: u32 = 5;
const OPERATORS: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];

/// Fields of the header of IPv4 that share a byte: the byte, the mask, words, type, shift.
const BIT_FIELDS: [(&str, u8, &str, Kind, u32); 4] = [
    ("@nh,0,8", 0xf0, "ip version", Kind::NetInteger, 4),
    ("@nh,0,8", 0x0f, "ip hdrlength", Kind::NetInteger, 0),
    ("@nh,8,8", 0xfc, "ip dscp", Kind::Dscp, 2),
    ("@nh,8,8", 0x03, "ip ecn", Kind::NetInteger, 0),
];

impl Reader<'_> {
    /// `NFTA_CMP_SREG`, `OP`, `DATA`.
    pub(super) fn cmp(&mut self, data: Attrs<'_>) -> Option<()> {
        let value = self.registers.get(data.be32(1))?.clone();
        let op = data.be32(2)?;
        let bytes = data.nested(3).get(1)?;
        self.uses(&value);
        let is_ip = self.network() == Some(Network::Ip);
        let (loaded, bytes) = match &value {
            Value::Loaded(loaded) => bit_field(loaded, bytes)
                .filter(|_| is_ip)
                .unwrap_or_else(|| (loaded.clone(), bytes.to_vec())),
            Value::Mapped { words, kinds } => {
                (Loaded::new(words.clone(), *kinds.first()?, bytes.len()), bytes.to_vec())
            }
            Value::Constant(_) => return None,
        };
        let bytes = bytes.as_slice();
        if let Some((left, from)) = self.from.take() {
            if op == LTE && left == loaded.words() {
                self.say([left, vec![format!("{from}-{}", loaded.constant(bytes))]].concat());
                return Some(());
            }
            self.say([left, vec![word(">="), from]].concat());
        }
        if op == GTE && loaded.mask.is_none() {
            self.from = Some((loaded.words(), loaded.constant(bytes)));
            return Some(());
        }
        if op == EQ && loaded.parts.len() > 1 && loaded.mask.is_none() {
            return self.joined(&loaded, bytes);
        }
        let words = comparison(&loaded, op, bytes)?;
        if op == EQ && loaded.mask.is_none() && loaded.ops.is_empty() {
            let left = loaded.words().join(" ");
            let order = loaded.is_network_order;
            let bytes: Vec<u8> =
                if order { bytes.to_vec() } else { bytes.iter().rev().copied().collect() };
            self.learn(&left, &bytes, words);
        } else {
            self.say(words);
        }
        Some(())
    }

    /// Neighbours that were loaded at once are compared one by one, as they were written.
    fn joined(&mut self, loaded: &Loaded, bytes: &[u8]) -> Option<()> {
        let mut at = 0;
        for part in &loaded.parts {
            let one = Loaded { parts: vec![part.clone()], len: part.len, ..loaded.clone() };
            let bytes = bytes.get(at..at + part.len)?;
            self.say(comparison(&one, EQ, bytes)?);
            at += part.len;
        }
        Some(())
    }

    /// `NFTA_RANGE_SREG`, `OP`, `FROM_DATA`, `TO_DATA`.
    pub(super) fn range(&mut self, data: Attrs<'_>) -> Option<()> {
        let value = self.registers.get(data.be32(1))?.clone();
        self.uses(&value);
        let Value::Loaded(loaded) = &value else { return None };
        let bound = |kind: u16| Some(loaded.constant(data.nested(kind).get(1)?));
        let mut words = loaded.words();
        words.extend((data.be32(2)? == NEQ).then(|| word("!=")));
        words.push(format!("{}-{}", bound(3)?, bound(4)?));
        self.say(words);
        Some(())
    }
}

fn comparison(loaded: &Loaded, op: u32, bytes: &[u8]) -> Option<Words> {
    let operator = word(OPERATORS.get(op as usize)?);
    let not = (op != EQ).then(|| operator.clone());
    let bare = Loaded { mask: None, ..loaded.clone() };
    let kind = loaded.kind();
    let is_zero = bytes.iter().all(|byte| *byte == 0);
    Some(match &loaded.mask {
        Some(mask) if kind.is_bits() && matches!(op, EQ | NEQ) && loaded.ops.is_empty() => {
            flags(&bare, op, mask, bytes, is_zero)
        }
        Some(mask) if prefix(mask).is_some() && kind.has_prefixes() => {
            let value = format!("{}/{}", bare.constant(bytes), prefix(mask)?);
            [bare.words(), not.into_iter().collect(), vec![value]].concat()
        }
        Some(_) => [loaded.words(), vec![operator, bare.constant(bytes)]].concat(),
        None if kind.is_bits() || !loaded.ops.is_empty() => {
            [loaded.words(), vec![operator, loaded.constant(bytes)]].concat()
        }
        None => [loaded.words(), not.into_iter().collect(), vec![value(loaded, bytes)]].concat(),
    })
}

/// `ct state new,established`, `ct status ! dnat`, `tcp flags syn / fin,syn,rst,ack`
fn flags(bare: &Loaded, op: u32, mask: &[u8], bytes: &[u8], is_zero: bool) -> Words {
    let (left, mask) = (bare.words(), bare.constant(mask));
    match (is_zero, op == EQ) {
        (true, false) => [left, vec![mask]].concat(),
        (true, true) => [left, vec![word("!"), mask]].concat(),
        (false, is_equal) => {
            let not = (!is_equal).then(|| word("!="));
            let rest = vec![bare.constant(bytes), word("/"), mask];
            [left, not.into_iter().collect(), rest].concat()
        }
    }
}

/// The one value: a prefix where fewer bytes than an address has are compared, and the beginning
/// of a name where it does not end.
fn value(loaded: &Loaded, bytes: &[u8]) -> String {
    let kind = loaded.kind();
    let whole = kind.size().unwrap_or(bytes.len());
    if kind.has_prefixes() && bytes.len() < whole {
        let mut addr = bytes.to_vec();
        addr.resize(whole, 0);
        return format!("{}/{}", loaded.constant(&addr), bytes.len() * 8);
    }
    if kind == Kind::IfName && bytes.len() < 16 && !bytes.contains(&0) {
        return quoted(&format!("{}*", c_text(bytes)));
    }
    loaded.constant(bytes)
}

/// How many bits a mask begins with, if it has no others.
fn prefix(mask: &[u8]) -> Option<u32> {
    let value = super::datatype::number(mask, true)?;
    let width = u32::try_from(mask.len() * 8).ok()?;
    let left = value.checked_shl(128 - width)?;
    let len = left.leading_ones();
    (left.count_ones() == len).then_some(len)
}

/// A field that is a part of a byte, as the mask tells: it, and the value moved to its place.
fn bit_field(loaded: &Loaded, bytes: &[u8]) -> Option<(Loaded, Vec<u8>)> {
    let [part] = loaded.parts.as_slice() else { return None };
    let mask = loaded.mask.as_deref().filter(|_| loaded.ops.is_empty())?;
    let name = part.words.first()?;
    let (.., words, kind, shift) =
        BIT_FIELDS.iter().find(|(raw, bits, ..)| raw == name && mask == [*bits])?;
    let field = Loaded {
        is_network: true,
        ..Loaded::new(crate::firewall::nft::token::words(words), *kind, 1)
    };
    Some((field, bytes.iter().map(|byte| byte >> shift).collect()))
}
