//! The kernel's own type information (BTF), as far as pkttrace asks it.

mod raw;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use raw::{Type, Types, kind};

use super::Error;

/// Where the kernel publishes it (since 5.4 with CONFIG_DEBUG_INFO_BTF).
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Where the kernel publishes that of its modules, a file each (since 5.11).
const MODULES: &str = "/sys/kernel/btf";

/// Depth of anonymous structures and unions that is searched, and of typedefs.
const NESTING: usize = 8;

/// Where a member lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bits from the start of the outermost structure.
    pub bits: u32,
    /// Width in bits, when it is a bit field.
    pub width: Option<u32>,
}

impl Place {
    /// Byte in which it begins.
    #[must_use]
    pub fn byte(self) -> u16 {
        u16::try_from(self.bits / 8).unwrap_or(u16::MAX)
    }
}

/// Type information.
#[derive(Clone)]
pub struct KernelBtf(Arc<Types>);

impl std::fmt::Debug for KernelBtf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KernelBtf")
    }
}

impl KernelBtf {
    /// Reads the type information at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::NoBtf`] or [`Error::BadBtf`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes =
            fs::read(path).map_err(|source| Error::NoBtf { path: path.to_owned(), source })?;
        Self::parse(bytes, None).map_err(|why| Error::BadBtf { path: path.to_owned(), why })
    }

    /// Type information from its bytes; that of a module is on top of the kernel's.
    pub(crate) fn parse(bytes: Vec<u8>, kernel: Option<&Self>) -> Result<Self, String> {
        let base = kernel.map(|kernel| Arc::clone(&kernel.0));
        Ok(Self(Arc::new(Types::parse(bytes, base)?)))
    }

    /// The type information of a loaded module, on top of this; `None` when it has none (before
    /// 5.11, or no such module).
    #[must_use]
    pub fn module(&self, name: &str) -> Option<Self> {
        let bytes = fs::read(Path::new(MODULES).join(name)).ok()?;
        Self::parse(bytes, Some(self)).ok()
    }

    /// The type number of a function; `None` when it is unknown, or known more than once.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<u32> {
        self.function_type(name).map(|function| function.id)
    }

    fn function_type(&self, name: &str) -> Option<Type> {
        let mut functions = self.0.named(name).into_iter().filter(|t| t.kind == kind::FUNC);
        functions.next().filter(|_| functions.next().is_none())
    }

    /// The name of a function's first argument.
    #[must_use]
    pub fn first_argument(&self, function: &str) -> Option<String> {
        let proto = self.0.get(self.function_type(function)?.size_or_type)?;
        self.0.parameters(proto).next().map(str::to_owned)
    }

    /// Size of a structure, bytes.
    #[must_use]
    pub fn size(&self, structure: &str) -> Option<usize> {
        self.structure(structure).map(|s| s.size_or_type as usize)
    }

    /// Where `member` of `structure` lies; a dotted path enters named members, and anonymous
    /// structures and unions are looked through. `None` when this kernel has no such member.
    #[must_use]
    pub fn member(&self, structure: &str, member: &str) -> Option<Place> {
        let mut current = self.structure(structure)?;
        let mut whole = Place { bits: 0, width: None };
        for name in member.split('.') {
            let (place, type_id) = self.search(current, name)?;
            whole = Place { bits: whole.bits.checked_add(place.bits)?, width: place.width };
            if let Some(next) = self.as_structure(type_id) {
                current = next;
            }
        }
        Some(whole)
    }

    /// The values of an enumeration by number, without `prefix`.
    #[must_use]
    pub fn enumeration(&self, name: &str, prefix: &str) -> BTreeMap<u32, String> {
        let all = self.0.named(name).into_iter().filter(|t| t.kind == kind::ENUM);
        all.flat_map(|found| self.0.values(found))
            .map(|(text, value)| (value, text.strip_prefix(prefix).unwrap_or(text).to_owned()))
            .collect()
    }

    /// The type number of the tracepoint `name`; `None` when the kernel has no such tracepoint.
    #[must_use]
    pub fn tracepoint(&self, name: &str) -> Option<u32> {
        self.tracepoint_type(name).map(|tracepoint| tracepoint.id)
    }

    fn tracepoint_type(&self, name: &str) -> Option<Type> {
        let types = self.0.named(&format!("btf_trace_{name}"));
        types.into_iter().find(|t| t.kind == kind::TYPEDEF)
    }

    /// How many arguments the tracepoint `name` hands to a BTF-typed program; `None` when the
    /// kernel has no such tracepoint.
    #[must_use]
    pub fn tracepoint_arguments(&self, name: &str) -> Option<usize> {
        let pointer = self.0.get(self.tracepoint_type(name)?.size_or_type)?;
        let proto = self.0.get(pointer.size_or_type).filter(|_| pointer.kind == kind::PTR)?;
        // The first parameter is the probe's private data.
        self.0.parameters(proto).count().checked_sub(1)
    }

    /// Whether a structure of this name exists.
    #[must_use]
    pub fn has_structure(&self, name: &str) -> bool {
        self.structure(name).is_some()
    }

    fn structure(&self, name: &str) -> Option<Type> {
        let is_whole = |t: &Type| t.kind == kind::STRUCT && self.0.members(*t).next().is_some();
        self.0.named(name).into_iter().find(is_whole)
    }

    /// The structure or union that a type is, through typedefs and qualifiers.
    fn as_structure(&self, type_id: u32) -> Option<Type> {
        let mut id = type_id;
        for _ in 0..NESTING {
            let found = self.0.get(id)?;
            match found.kind {
                kind::STRUCT | kind::UNION => return Some(found),
                kind::TYPEDEF | kind::CONST | kind::VOLATILE => id = found.size_or_type,
                _ => return None,
            }
        }
        None
    }

    /// A member of a structure or of what is nameless in it, and its type. Level by level: members
    /// of one scope have different names.
    fn search(&self, within: Type, name: &str) -> Option<(Place, u32)> {
        let mut level = vec![(within, 0_u32)];
        for _ in 0..=NESTING {
            let mut inner = Vec::new();
            for (structure, start) in level {
                for member in self.0.members(structure) {
                    let bits = start.checked_add(member.bits)?;
                    if member.name == name {
                        return Some((Place { bits, width: member.width }, member.type_id));
                    }
                    if member.name.is_empty() {
                        inner.extend(self.as_structure(member.type_id).map(|s| (s, bits)));
                    }
                }
            }
            // More than any structure has: what refers to itself would grow for ever.
            inner.truncate(4096);
            level = inner;
        }
        None
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::sample;
