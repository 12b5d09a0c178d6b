//! The format itself: a header, types one behind the other, and their names.
//!
//! Every read is checked against the length of what was read, no type can make another look-up
//! longer than the number of its members, and nothing recurses.

use std::ops::Range;
use std::sync::Arc;

const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
const TYPE: usize = 12;
/// An entry of the table of names that holds none.
const NONE: u32 = 0;

/// Kinds of types (`BTF_KIND_*`), as far as they are told apart.
pub(super) mod kind {
    pub(in super::super) const PTR: u8 = 2;
    pub(in super::super) const STRUCT: u8 = 4;
    pub(in super::super) const UNION: u8 = 5;
    pub(in super::super) const ENUM: u8 = 6;
    pub(in super::super) const TYPEDEF: u8 = 8;
    pub(in super::super) const VOLATILE: u8 = 9;
    pub(in super::super) const CONST: u8 = 10;
    pub(in super::super) const FUNC: u8 = 12;
    pub(in super::super) const FUNC_PROTO: u8 = 13;
}

/// Types and names, of the kernel or of a module on top of it.
pub(super) struct Types {
    base: Option<Arc<Types>>,
    bytes: Vec<u8>,
    names: Range<usize>,
    /// Where each type begins; the first one here has the number `first`.
    offsets: Vec<u32>,
    first: u32,
    /// The latest type of each hash of a name, and for each type the one before with that hash.
    latest: Vec<u32>,
    before: Vec<u32>,
}

/// A type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Type {
    pub(super) id: u32,
    pub(super) kind: u8,
    /// Where its name begins.
    name: u32,
    /// Members, values or parameters.
    count: u16,
    /// Members have the width of a bit field beside their place.
    has_widths: bool,
    /// Bytes that it takes, or the type that it refers to.
    pub(super) size_or_type: u32,
}

/// A member of a structure or union.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'a> {
    pub(super) name: &'a str,
    pub(super) type_id: u32,
    pub(super) bits: u32,
    /// Of a bit field.
    pub(super) width: Option<u32>,
}

impl Types {
    /// Reads them; `base` are those that a module's refer to.
    pub(super) fn parse(bytes: Vec<u8>, base: Option<Arc<Self>>) -> Result<Self, String> {
        if u16_at(&bytes, 0) != Some(MAGIC) {
            return Err("it does not begin as type information of this machine does".to_owned());
        }
        let header = u32_at(&bytes, 4).ok_or("it ends within its header")? as usize;
        let section = |at: usize| {
            let start = header.checked_add(u32_at(&bytes, at)? as usize)?;
            let end = start.checked_add(u32_at(&bytes, at + 4)? as usize)?;
            (header >= HEADER && end <= bytes.len()).then_some(start..end)
        };
        let types = section(8).ok_or("its types reach beyond its end")?;
        let names = section(16).ok_or("its names reach beyond its end")?;
        let first = base.as_ref().map_or(1, |b| b.first + b.count());
        let mut read = Self {
            base,
            bytes,
            names,
            offsets: Vec::new(),
            first,
            latest: Vec::new(),
            before: Vec::new(),
        };
        read.index(types)?;
        Ok(read)
    }

    /// Finds where each type begins, and notes it by its name.
    fn index(&mut self, types: Range<usize>) -> Result<(), String> {
        let mut at = types.start;
        while at < types.end {
            let info = u32_at(&self.bytes, at + 4).ok_or("its last type is cut off")?;
            self.offsets.push(u32::try_from(at).map_err(|_| "it is too large")?);
            at += TYPE
                + trailing(info).ok_or_else(|| {
                    format!("it has a type of kind {}, which is not known", kind_of(info))
                })?;
        }
        if at != types.end {
            return Err("its last type is cut off".to_owned());
        }
        self.latest = vec![NONE; self.offsets.len().next_power_of_two().max(16)];
        self.before = vec![NONE; self.offsets.len()];
        for n in 0..self.offsets.len() {
            let Some(found) = self.own(n) else { continue };
            if found.name == 0 {
                continue;
            }
            let slot = self.slot(self.name(found.name).as_bytes());
            // Numbers begin at 1, so that none is `NONE`.
            self.before[n] = self.latest[slot];
            self.latest[slot] = u32::try_from(n + 1).unwrap_or(NONE);
        }
        Ok(())
    }

    fn count(&self) -> u32 {
        u32::try_from(self.offsets.len()).unwrap_or(u32::MAX)
    }

    /// FNV-1a, cut to the size of the table.
    fn slot(&self, name: &[u8]) -> usize {
        let hash = name.iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        (hash ^ hash >> 15) as usize & (self.latest.len() - 1)
    }

    /// The type with a number.
    pub(super) fn get(&self, id: u32) -> Option<Type> {
        match id.checked_sub(self.first) {
            Some(n) => self.own(n as usize),
            None => self.base.as_ref()?.get_own(id),
        }
    }

    fn get_own(&self, id: u32) -> Option<Type> {
        self.own(id.checked_sub(self.first)? as usize)
    }

    fn own(&self, n: usize) -> Option<Type> {
        let at = *self.offsets.get(n)? as usize;
        let info = u32_at(&self.bytes, at + 4)?;
        Some(Type {
            id: self.first + u32::try_from(n).ok()?,
            kind: kind_of(info),
            name: u32_at(&self.bytes, at)?,
            count: (info & 0xffff) as u16,
            has_widths: info >> 31 == 1,
            size_or_type: u32_at(&self.bytes, at + 8)?,
        })
    }

    /// The types that have a name, those of the base too, in the order of their numbers.
    pub(super) fn named(&self, name: &str) -> Vec<Type> {
        let mut found = self.base.as_ref().map_or_else(Vec::new, |base| base.named_here(name));
        found.extend(self.named_here(name));
        found
    }

    fn named_here(&self, name: &str) -> Vec<Type> {
        let mut found = Vec::new();
        let mut next = self.latest[self.slot(name.as_bytes())];
        while let Some(n) = next.checked_sub(1).map(|n| n as usize) {
            found.extend(self.own(n).filter(|t| self.name(t.name) == name));
            next = self.before[n];
        }
        found.reverse();
        found
    }

    /// The name that begins there; empty when there is none.
    fn name(&self, at: u32) -> &str {
        let inherited = self.base.as_ref().map_or(0, |base| base.names.len());
        let own = (at as usize).checked_sub(inherited);
        let (bytes, start) = match (own, &self.base) {
            (None, Some(base)) => (&base.bytes[base.names.clone()], at as usize),
            (own, _) => (&self.bytes[self.names.clone()], own.unwrap_or(usize::MAX)),
        };
        let rest = bytes.get(start..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
        std::str::from_utf8(&rest[..end]).unwrap_or_default()
    }

    /// The members of a structure or union.
    pub(super) fn members(&self, of: Type) -> impl Iterator<Item = Member<'_>> {
        let is_one = matches!(of.kind, kind::STRUCT | kind::UNION);
        self.entries::<3>(of, is_one).map(move |[name, type_id, place]| Member {
            name: self.name(name),
            type_id,
            bits: if of.has_widths { place & 0x00ff_ffff } else { place },
            width: of.has_widths.then_some(place >> 24).filter(|width| *width != 0),
        })
    }

    /// The values of an enumeration, with their names.
    pub(super) fn values(&self, of: Type) -> impl Iterator<Item = (&str, u32)> {
        let is_one = of.kind == kind::ENUM;
        self.entries::<2>(of, is_one).map(|[name, value]| (self.name(name), value))
    }

    /// The names of the parameters of a function's type.
    pub(super) fn parameters(&self, of: Type) -> impl Iterator<Item = &str> {
        let is_one = of.kind == kind::FUNC_PROTO;
        self.entries::<2>(of, is_one).map(|[name, _]| self.name(name))
    }

    /// What follows a type, in entries of so many words.
    fn entries<const WORDS: usize>(
        &self,
        of: Type,
        has_any: bool,
    ) -> impl Iterator<Item = [u32; WORDS]> {
        let home = match &self.base {
            Some(base) if of.id < self.first => base,
            _ => self,
        };
        let start = home.offsets.get((of.id - home.first) as usize).map(|at| *at as usize + TYPE);
        let count = if has_any { usize::from(of.count) } else { 0 };
        (0..count).map_while(move |n| {
            let at = start? + n * WORDS * 4;
            let mut words = [0; WORDS];
            for (k, word) in words.iter_mut().enumerate() {
                *word = u32_at(&home.bytes, at + k * 4)?;
            }
            Some(words)
        })
    }
}

fn kind_of(info: u32) -> u8 {
    (info >> 24 & 0x1f) as u8
}

/// Bytes that follow a type of this kind; `None` for one that is newer than this program.
fn trailing(info: u32) -> Option<usize> {
    let count = (info & 0xffff) as usize;
    Some(match kind_of(info) {
        // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Array.
        3 => 12,
        // Structure, union, section, enumeration of 64 bits.
        4 | 5 | 15 | 19 => count * 12,
        // Enumeration, function's type.
        6 | 13 => count * 8,
        _ => return None,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
