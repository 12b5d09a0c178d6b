//! Attributes of nf_tables: nested, and with integers in network byte order.

use super::super::wire::{attributes, be32_at, text};

/// Attributes one after another, not yet looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attrs<'a>(pub(super) &'a [u8]);

impl<'a> Attrs<'a> {
    /// Those in a test's bytes.
    #[cfg(test)]
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The attributes of an element's user data and the like: the bytes as they are.
    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        attributes(self.0).find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    pub(crate) fn has(self, kind: u16) -> bool {
        self.get(kind).is_some()
    }

    pub(crate) fn be32(self, kind: u16) -> Option<u32> {
        be32_at(self.get(kind)?, 0)
    }

    pub(crate) fn be64(self, kind: u16) -> Option<u64> {
        be64(self.get(kind)?)
    }

    /// Of a signed one.
    pub(crate) fn be_i32(self, kind: u16) -> Option<i32> {
        self.be32(kind).map(u32::cast_signed)
    }

    pub(crate) fn text(self, kind: u16) -> Option<String> {
        self.get(kind).map(text)
    }

    /// The attributes in one; none where it is absent.
    pub(crate) fn nested(self, kind: u16) -> Self {
        Self(self.get(kind).unwrap_or_default())
    }

    /// The elements of a list (`NFTA_LIST_ELEM`), each as its own attributes.
    pub(crate) fn list(self) -> impl Iterator<Item = Attrs<'a>> {
        attributes(self.0).filter(|(kind, _)| *kind == 1).map(|(_, value)| Attrs(value))
    }

    /// All of them, with their kinds.
    pub(crate) fn all(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        attributes(self.0)
    }
}

pub(super) fn be64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from(be32_at(bytes, 0)?) << 32 | u64::from(be32_at(bytes, 4)?))
}

/// What user space keeps for itself in an object: type, length, value, each a byte.
pub(crate) fn user_data(bytes: &[u8], kind: u8) -> Option<&[u8]> {
    let mut rest = bytes;
    while let [k, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *k == kind {
            return Some(value);
        }
        rest = &tail[value.len()..];
    }
    None
}
