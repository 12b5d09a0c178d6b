//! The kernel's own type information (BTF), as far as pkttrace asks it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use btf_rs::{Backend, Btf, BtfType, Struct, Type};

use super::Error;

/// Where the kernel publishes it (since 5.4 with CONFIG_DEBUG_INFO_BTF).
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Where the kernel publishes that of its modules, a file each (since 5.11).
const MODULES: &str = "/sys/kernel/btf";

/// Depth of anonymous structures and unions that is searched.
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

/// Type information, read where it lies: a tenth of it is ever looked at.
#[derive(Debug)]
pub struct KernelBtf {
    btf: BtfDebug,
    /// Type numbers by name, of the names that were asked for: each takes a pass over all types.
    ids: Mutex<HashMap<String, Vec<u32>>>,
}

/// [`Btf`] has no `Debug`.
struct BtfDebug(Btf);

impl std::fmt::Debug for BtfDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Btf")
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
        let bad = |why| Error::BadBtf { path: path.to_owned(), why };
        // Before 6.16 the kernel's own file cannot be mapped.
        let copy = in_memory(&bytes).map_err(|e| bad(format!("no memory for it: {e}")))?;
        let copy = format!("/proc/self/fd/{}", copy.as_raw_fd());
        let btf =
            Btf::from_file_with_backend(copy, Backend::Mmap).map_err(|e| bad(e.to_string()))?;
        Ok(Self::new(btf))
    }

    fn new(btf: Btf) -> Self {
        Self { btf: BtfDebug(btf), ids: Mutex::default() }
    }

    /// The type information of a loaded module, on top of this; `None` when it has none (before
    /// 5.11, or no such module).
    #[must_use]
    pub fn module(&self, name: &str) -> Option<Self> {
        let bytes = fs::read(Path::new(MODULES).join(name)).ok()?;
        Some(Self::new(Btf::from_split_bytes(&bytes, &self.btf.0).ok()?))
    }

    /// The type numbers that have a name.
    fn ids(&self, name: &str) -> Vec<u32> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = ids.get(name) {
            return known.clone();
        }
        let found = self.btf.0.resolve_ids_by_name(name).unwrap_or_default();
        ids.insert(name.to_owned(), found.clone());
        found
    }

    /// The types that have a name, with their numbers.
    fn types(&self, name: &str) -> impl Iterator<Item = (u32, Type)> {
        let ids = self.ids(name).into_iter();
        ids.filter_map(|id| Some((id, self.btf.0.resolve_type_by_id(id).ok()?)))
    }

    /// The type number of a function; `None` when it is unknown, or known more than once.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<u32> {
        let mut functions = self.types(name).filter(|(_, t)| matches!(t, Type::Func(_)));
        let (id, _) = functions.next()?;
        functions.next().is_none().then_some(id)
    }

    /// The name of a function's first argument.
    #[must_use]
    pub fn first_argument(&self, function: &str) -> Option<String> {
        let btf = &self.btf.0;
        let Type::Func(func) = btf.resolve_type_by_id(self.function(function)?).ok()? else {
            return None;
        };
        let Type::FuncProto(proto) = btf.resolve_chained_type(&func).ok()? else { return None };
        btf.resolve_name(proto.parameters.first()?).ok()
    }

    /// Size of a structure, bytes.
    #[must_use]
    pub fn size(&self, structure: &str) -> Option<usize> {
        self.structure(structure).map(|s| s.size())
    }

    /// Where `member` of `structure` lies; a dotted path enters named members, and anonymous
    /// structures and unions are looked through. `None` when this kernel has no such member.
    #[must_use]
    pub fn member(&self, structure: &str, member: &str) -> Option<Place> {
        let mut current = self.structure(structure)?;
        let mut bits = 0;
        let mut width = None;
        for name in member.split('.') {
            let (place, type_id) = self.search(&current, name, NESTING)?;
            bits += place.bits;
            width = place.width;
            if let Some(next) = self.as_structure(type_id) {
                current = next;
            }
        }
        Some(Place { bits, width })
    }

    /// The values of an enumeration by number, without `prefix`.
    #[must_use]
    pub fn enumeration(&self, name: &str, prefix: &str) -> BTreeMap<u32, String> {
        let btf = &self.btf.0;
        let mut values = BTreeMap::new();
        for (_, found) in self.types(name) {
            if let Type::Enum(e) = found {
                for member in &e.members {
                    if let Ok(text) = btf.resolve_name(member) {
                        let text = text.strip_prefix(prefix).unwrap_or(&text).to_owned();
                        values.insert(member.val(), text);
                    }
                }
            }
        }
        values
    }

    /// The type number of the tracepoint `name`; `None` when the kernel has no such tracepoint.
    #[must_use]
    pub fn tracepoint(&self, name: &str) -> Option<u32> {
        let name = format!("btf_trace_{name}");
        let mut types = self.types(&name);
        types.find_map(|(id, t)| matches!(t, Type::Typedef(_)).then_some(id))
    }

    /// How many arguments the tracepoint `name` hands to a BTF-typed program; `None` when the
    /// kernel has no such tracepoint.
    #[must_use]
    pub fn tracepoint_arguments(&self, name: &str) -> Option<usize> {
        let btf = &self.btf.0;
        let Type::Typedef(typedef) = btf.resolve_type_by_id(self.tracepoint(name)?).ok()? else {
            return None;
        };
        let Type::Ptr(ptr) = btf.resolve_chained_type(&typedef).ok()? else { return None };
        let Type::FuncProto(proto) = btf.resolve_chained_type(&ptr).ok()? else { return None };
        // The first parameter is the probe's private data.
        proto.parameters.len().checked_sub(1)
    }

    /// Whether a structure of this name exists.
    #[must_use]
    pub fn has_structure(&self, name: &str) -> bool {
        self.structure(name).is_some()
    }

    fn structure(&self, name: &str) -> Option<Struct> {
        self.types(name).find_map(|(_, t)| match t {
            Type::Struct(s) if !s.members.is_empty() => Some(s),
            _ => None,
        })
    }

    /// The structure or union that a type is, through typedefs and qualifiers.
    fn as_structure(&self, type_id: u32) -> Option<Struct> {
        let mut id = type_id;
        for _ in 0..NESTING {
            match self.btf.0.resolve_type_by_id(id).ok()? {
                Type::Struct(s) | Type::Union(s) => return Some(s),
                Type::Typedef(t) => id = t.get_type_id()?,
                Type::Const(q) | Type::Volatile(q) => id = q.get_type_id()?,
                _ => return None,
            }
        }
        None
    }

    fn search(&self, within: &Struct, name: &str, depth: usize) -> Option<(Place, u32)> {
        for member in &within.members {
            let type_id = member.get_type_id()?;
            let own_name = self.btf.0.resolve_name(member).unwrap_or_default();
            if own_name == name {
                let width = member.bitfield_size().filter(|w| *w != 0);
                return Some((Place { bits: member.bit_offset(), width }, type_id));
            }
            if own_name.is_empty()
                && depth > 0
                && let Some(inner) = self.as_structure(type_id)
                && let Some((place, id)) = self.search(&inner, name, depth - 1)
            {
                return Some((Place { bits: member.bit_offset() + place.bits, ..place }, id));
            }
        }
        None
    }
}

/// A nameless file in memory with these bytes.
fn in_memory(bytes: &[u8]) -> io::Result<File> {
    // SAFETY: the name is a constant string.
    let fd = unsafe { libc::memfd_create(c"btf".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes)?;
    Ok(file)
}
