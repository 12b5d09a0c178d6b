//! What aya 0.14 cannot do, by `bpf(2)`: BPF netfilter programs, and trampolines on functions in
//! modules. Also the tracepoints, for which aya would parse the kernel's type information itself,
//! which is known by then and takes a tenth of starting. The object is parsed a second time and
//! relocated onto the maps that aya made.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya_obj::{Function, Object};

use super::Error;

pub(super) const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BPF_BTF_LOAD: libc::c_long = 18;
const BPF_BTF_GET_FD_BY_ID: libc::c_long = 19;
const BPF_BTF_GET_NEXT_ID: libc::c_long = 23;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_TRACING: u32 = 26;
const BPF_PROG_TYPE_NETFILTER: u32 = 32;
const BPF_TRACE_RAW_TP: u32 = 23;
const BPF_TRACE_FENTRY: u32 = 24;
const BPF_TRACE_FEXIT: u32 = 25;
const BPF_NETFILTER: u32 = 45;
const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
const BPF_CGROUP_INET_INGRESS: u32 = 0;
/// Large enough for every member used here (`bpf_attr` ends after it, zeroes are ignored).
const ATTR_LEN: usize = 128;

/// What a program is loaded as.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    program: u32,
    attach: u32,
    /// What it is attached to, a function or a tracepoint: its type number.
    target: u32,
    /// Module that it is in: its type information, 0 for the kernel itself.
    module: RawFd,
}

impl Kind {
    /// A netfilter hook function.
    pub(super) const NETFILTER: Self =
        Self { program: BPF_PROG_TYPE_NETFILTER, attach: BPF_NETFILTER, target: 0, module: 0 };

    /// What a cgroup's sockets receive.
    pub(super) const CGROUP_INGRESS: Self = Self {
        program: BPF_PROG_TYPE_CGROUP_SKB,
        attach: BPF_CGROUP_INET_INGRESS,
        target: 0,
        module: 0,
    };

    /// A tracepoint, by its type number.
    pub(super) fn tracepoint(target: u32) -> Self {
        Self { program: BPF_PROG_TYPE_TRACING, attach: BPF_TRACE_RAW_TP, target, module: 0 }
    }

    /// A trampoline at the entry of a function, or at its exit.
    pub(super) fn trampoline(at_exit: bool, function: u32, module: Option<&OwnedFd>) -> Self {
        Self {
            program: BPF_PROG_TYPE_TRACING,
            attach: if at_exit { BPF_TRACE_FEXIT } else { BPF_TRACE_FENTRY },
            target: function,
            module: module.map_or(0, |fd| fd.as_raw_fd()),
        }
    }
}

/// The object, relocated.
#[derive(Debug)]
pub(super) struct RawObject {
    object: Object,
    /// Its own type information as the kernel holds it; `None` where it takes none. It tells which
    /// functions are to be verified by themselves.
    btf: Option<OwnedFd>,
}

impl RawObject {
    /// Parses `object` and puts it onto the maps of `ebpf` and the ring `events`, which must
    /// outlive the loading of programs.
    pub(super) fn prepare(object: &[u8], ebpf: &Ebpf, events: &Map) -> Result<Self, Error> {
        let prepare = |e: &dyn std::fmt::Display| Error::Prepare(e.to_string());
        let mut parsed = Object::parse(object).map_err(|e| prepare(&e))?;
        let features = aya::features();
        let btf = match features.btf() {
            Some(features) => parsed.fixup_and_sanitize_btf(features).map_err(|e| prepare(&e))?,
            None => None,
        };
        // Without it the programs load as well, only slower.
        let btf = btf.and_then(|btf| btf_load(&btf.to_bytes()).ok());
        let sections: HashSet<usize> = parsed.functions.keys().map(|(s, _)| *s).collect();
        let maps: Vec<(String, RawFd, aya_obj::Map)> = parsed
            .maps
            .iter()
            .filter_map(|(name, map)| {
                let fd = if name == "EVENTS" { fd_of(events) } else { fd_of(ebpf.map(name)?) };
                Some((name.clone(), fd?, map.clone()))
            })
            .collect();
        parsed
            .relocate_maps(maps.iter().map(|(n, fd, m)| (n.as_str(), *fd, m)), &sections)
            .map_err(|e| prepare(&e))?;
        parsed.relocate_calls(&sections).map_err(|e| prepare(&e))?;
        Ok(Self { object: parsed, btf })
    }

    /// Loads one program.
    pub(super) fn load(&self, name: &str, kind: Kind) -> Result<OwnedFd, Error> {
        let missing = || Error::Prepare(format!("the object has no program {name}"));
        let program = self.object.programs.get(name).ok_or_else(missing)?;
        let function = self.object.functions.get(&program.function_key()).ok_or_else(missing)?;
        let load = |log: &mut [u8]| {
            prog_load(name, kind, function, &program.license, self.btf.as_ref(), log)
        };
        match load(&mut []) {
            Ok(fd) => Ok(fd),
            Err(source) if source.raw_os_error() == Some(libc::EPERM) => Err(Error::NotPermitted),
            Err(source) => {
                let mut log = vec![0; 16 << 20];
                // Again, only to learn the verifier's reason.
                let _ = load(&mut log);
                let reason = verifier_reason(&log);
                let reason = if reason.is_empty() { reason } else { format!(" ({reason})") };
                Err(Error::Sys { what: format!("cannot load {name}{reason}"), source })
            }
        }
    }
}

/// The descriptor of a map, whatever its kind.
fn fd_of(map: &Map) -> Option<RawFd> {
    let data: &MapData = match map {
        Map::Array(d)
        | Map::HashMap(d)
        | Map::LruHashMap(d)
        | Map::PerCpuArray(d)
        | Map::PerCpuHashMap(d)
        | Map::PerfEventArray(d)
        | Map::RingBuf(d)
        | Map::Unsupported(d) => d,
        _ => return None,
    };
    Some(data.fd().as_fd().as_raw_fd())
}

/// `bpf_attr` as bytes with members at fixed offsets.
#[repr(C, align(8))]
pub(super) struct Attr([u8; ATTR_LEN]);

impl Attr {
    pub(super) fn new() -> Self {
        Self([0; ATTR_LEN])
    }

    pub(super) fn u32(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn u64(mut self, offset: usize, value: u64) -> Self {
        self.0[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn bytes(mut self, offset: usize, value: &[u8]) -> Self {
        self.0[offset..offset + value.len()].copy_from_slice(value);
        self
    }

    fn fd(self, offset: usize, fd: RawFd) -> Self {
        self.bytes(offset, &fd.to_ne_bytes())
    }

    /// Calls `bpf(2)`.
    fn call(&mut self, command: libc::c_long) -> io::Result<RawFd> {
        // SAFETY: the attribute outlives the call, and so does what it points to (see callers).
        let rc = unsafe {
            libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), ATTR_LEN as libc::c_uint)
        };
        match RawFd::try_from(rc) {
            Ok(rc) if rc >= 0 => Ok(rc),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Calls `bpf(2)` for a command that returns a descriptor.
    pub(super) fn open(mut self, command: libc::c_long) -> io::Result<OwnedFd> {
        let fd = self.call(command)?;
        // SAFETY: a new descriptor that nobody else has.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// The verifier's last word before its statistics.
fn verifier_reason(log: &[u8]) -> String {
    let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    text.lines().rev().find(|l| !l.starts_with("processed ")).unwrap_or_default().to_owned()
}

fn prog_load(
    name: &str,
    kind: Kind,
    function: &Function,
    license: &CString,
    btf: Option<&OwnedFd>,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    let instructions = &function.instructions;
    let count = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    let mut attr = Attr::new()
        .u32(0, kind.program)
        .u32(4, count)
        .u64(8, instructions.as_ptr() as u64)
        .u64(16, license.as_ptr() as u64)
        .bytes(48, &name.as_bytes()[..name.len().min(15)])
        .u32(68, kind.attach)
        .u32(108, kind.target)
        .fd(112, kind.module);
    let functions = function.func_info.func_info_bytes();
    if let Some(btf) = btf {
        attr = attr
            .fd(72, btf.as_raw_fd())
            .u32(76, function.func_info_rec_size as u32)
            .u64(80, functions.as_ptr() as u64)
            .u32(88, function.func_info.len() as u32);
    }
    if !log.is_empty() {
        let len = u32::try_from(log.len()).map_err(io::Error::other)?;
        attr = attr.u32(24, 1).u32(28, len).u64(32, log.as_mut_ptr() as u64);
    }
    attr.open(BPF_PROG_LOAD)
}

/// Hands type information to the kernel.
fn btf_load(btf: &[u8]) -> io::Result<OwnedFd> {
    let len = u32::try_from(btf.len()).map_err(io::Error::other)?;
    Attr::new().u64(0, btf.as_ptr() as u64).u32(16, len).open(BPF_BTF_LOAD)
}

/// Attaches a program to the function or tracepoint that it was loaded for.
pub(super) fn link_tracing(program: &OwnedFd) -> io::Result<OwnedFd> {
    Attr::new().fd(8, program.as_raw_fd()).open(BPF_RAW_TRACEPOINT_OPEN)
}

/// Attaches a program to what the sockets of a cgroup receive.
pub(super) fn link_cgroup(program: &OwnedFd, cgroup: &File) -> io::Result<OwnedFd> {
    Attr::new()
        .fd(0, program.as_raw_fd())
        .fd(4, cgroup.as_raw_fd())
        .u32(8, BPF_CGROUP_INET_INGRESS)
        .open(BPF_LINK_CREATE)
}

/// Attaches a netfilter program in the namespace of the calling thread.
pub(super) fn link_netfilter(
    program: &OwnedFd,
    family: u32,
    hook: u32,
    priority: i32,
) -> io::Result<OwnedFd> {
    Attr::new()
        .fd(0, program.as_raw_fd())
        .u32(8, BPF_NETFILTER)
        .u32(16, family)
        .u32(20, hook)
        .bytes(24, &priority.to_ne_bytes())
        .open(BPF_LINK_CREATE)
}

/// The type information of a module, as the kernel holds it.
pub(super) fn module_btf(module: &str) -> io::Result<OwnedFd> {
    let mut id = 0_u32;
    loop {
        let mut next = Attr::new().u32(0, id);
        next.call(BPF_BTF_GET_NEXT_ID)?;
        id = u32::from_ne_bytes([next.0[4], next.0[5], next.0[6], next.0[7]]);
        // Gone between the two calls: look on.
        let Ok(fd) = Attr::new().u32(0, id).open(BPF_BTF_GET_FD_BY_ID) else { continue };
        if btf_name(&fd).is_ok_and(|name| name == module.as_bytes()) {
            return Ok(fd);
        }
    }
}

/// `bpf_btf_info.name`.
fn btf_name(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    const NAME: usize = 64;
    let mut name = vec![0_u8; NAME];
    // btf, btf_size, id, name, name_len, kernel_btf.
    let mut info = [0_u64; 4];
    info[2] = name.as_mut_ptr() as u64;
    info[3] = NAME as u64;
    Attr::new()
        .fd(0, fd.as_raw_fd())
        .u32(4, size_of_val(&info) as u32)
        .u64(8, info.as_mut_ptr() as u64)
        .call(BPF_OBJ_GET_INFO_BY_FD)?;
    name.truncate(name.iter().position(|b| *b == 0).unwrap_or(NAME));
    Ok(name)
}
