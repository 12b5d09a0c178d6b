//! The registers of nf_tables while a rule is read: not what they hold, but what that is.

use super::datatype::constant;
use super::fields::Field;
use super::kind::Kind;
use crate::firewall::nft::token::{Words, words};

/// Registers of four bytes (`NFT_REG32_00` and on).
const SLOTS: usize = 16;

/// What a register holds.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Something of the packet or its surroundings.
    Loaded(Loaded),
    /// Bytes from the rule.
    Constant(Vec<u8>),
    /// What a map has for a key: the look-up in words, and what its values are.
    Mapped { words: Words, kinds: Vec<Kind> },
}

/// Something loaded, and what was done to it since.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    /// Neighbouring fields loaded at once are several.
    pub(super) parts: Vec<Part>,
    /// Bytes loaded: fewer than an address has for a prefix.
    pub(super) len: usize,
    pub(super) mask: Option<Vec<u8>>,
    /// Shifts and the like, in words.
    pub(super) ops: Words,
    pub(super) is_network_order: bool,
    /// It is of a header that only packets of a protocol have.
    pub(super) is_link: bool,
    pub(super) is_network: bool,
    pub(super) is_transport: bool,
}

/// A field in a load.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) words: Words,
    pub(super) kind: Kind,
    /// Bytes of the whole field.
    pub(super) len: usize,
}

impl Loaded {
    pub(super) fn of(field: Field) -> Self {
        Self::new(words(field.words), field.kind, field.len)
    }

    pub(super) fn new(words: Words, kind: Kind, len: usize) -> Self {
        Self {
            parts: vec![Part { words, kind, len }],
            len,
            mask: None,
            ops: Words::new(),
            is_network_order: kind.is_network_order(),
            is_link: false,
            is_network: false,
            is_transport: false,
        }
    }

    /// What is compared: the type of the one field, or plain bytes.
    pub(super) fn kind(&self) -> Kind {
        match self.parts.as_slice() {
            [one] => one.kind,
            _ => Kind::NetInteger,
        }
    }

    /// `ip daddr`, `meta mark & 0xff`; several fields as a concatenation.
    pub(super) fn words(&self) -> Words {
        let mut all = Words::new();
        for part in &self.parts {
            if !all.is_empty() {
                all.push(".".to_owned());
            }
            all.extend(part.words.iter().cloned());
        }
        if let Some(mask) = &self.mask {
            all.extend(["&".to_owned(), self.constant(mask)]);
        }
        all.extend(self.ops.iter().cloned());
        all
    }

    /// Bytes as a value of what is loaded.
    pub(super) fn constant(&self, bytes: &[u8]) -> String {
        constant(self.kind(), bytes, self.is_network_order)
    }
}

/// All registers.
#[derive(Debug, Default)]
pub(super) struct Registers([Option<Value>; SLOTS]);

/// The slot of a register by its number: the old ones are sixteen bytes each (`NFT_REG_1` …).
pub(super) fn slot(number: u32) -> Option<usize> {
    let number = usize::try_from(number).ok()?;
    match number {
        1..=4 => Some((number - 1) * 4),
        8..=23 => Some(number - 8),
        _ => None,
    }
}

impl Registers {
    pub(super) fn get(&self, number: Option<u32>) -> Option<&Value> {
        self.0.get(slot(number?)?)?.as_ref()
    }

    pub(super) fn loaded(&self, number: Option<u32>) -> Option<&Loaded> {
        match self.get(number)? {
            Value::Loaded(loaded) => Some(loaded),
            _ => None,
        }
    }

    pub(super) fn set(&mut self, number: Option<u32>, value: Value) {
        if let Some(place) = number.and_then(slot).and_then(|slot| self.0.get_mut(slot)) {
            *place = Some(value);
        }
    }

    /// What is in the registers from `number` on that hold a key of so many bytes.
    pub(super) fn key(&self, number: Option<u32>, len: usize) -> Option<Vec<&Value>> {
        let mut at = slot(number?)?;
        let end = at + len.div_ceil(4).max(1);
        let mut found = Vec::new();
        while at < end {
            let value = self.0.get(at)?.as_ref()?;
            at += match value {
                Value::Loaded(loaded) => loaded.len,
                Value::Constant(bytes) => bytes.len(),
                Value::Mapped { kinds, .. } => {
                    kinds.iter().map(|k| k.size().unwrap_or(4).next_multiple_of(4)).sum()
                }
            }
            .div_ceil(4)
            .max(1);
            found.push(value);
        }
        Some(found)
    }
}
