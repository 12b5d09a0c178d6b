//! BPF netfilter programs and links (since 6.4). aya 0.14 has no such program type, so the object
//! is parsed a second time, relocated onto the maps that aya made, and loaded by `bpf(2)`.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya_obj::Object;
use aya_obj::generated::bpf_insn;

use super::Error;
use crate::net::{Netns, setns};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_NETFILTER: u32 = 32;
const BPF_NETFILTER: u32 = 45;
/// Large enough for every member used here (`bpf_attr` ends after it, zeroes are ignored).
const ATTR_LEN: usize = 128;

/// How many priorities are tried when another tracer holds the outermost ones.
const PRIORITIES: i32 = 32;

/// `NFPROTO_IPV4`.
pub(super) const IPV4: u32 = 2;
/// `NFPROTO_IPV6`.
pub(super) const IPV6: u32 = 10;

/// Which of the programs.
#[derive(Clone, Copy, Debug)]
enum Position {
    /// Before everything in `LOCAL_OUT`, where packets of this node are met first.
    Output,
    /// After everything.
    Last,
}

/// Hook number, program.
///
/// Every position costs every packet of the namespace. The last function of each hook is enough:
/// it proves the verdict, shows what the hook translated (the packet was seen before it), and a
/// packet that is dropped was dropped in the hook after the last one that it passed.
const POSITIONS: [(u32, Position); 6] = [
    (0, Position::Last),
    (1, Position::Last),
    (2, Position::Last),
    (3, Position::Output),
    (3, Position::Last),
    (4, Position::Last),
];

/// The loaded programs.
#[derive(Debug)]
pub(super) struct NetfilterPrograms {
    output: OwnedFd,
    last: OwnedFd,
}

impl NetfilterPrograms {
    /// Loads them from `object`, on the maps of `ebpf` and the ring `events`.
    pub(super) fn prepare(object: &[u8], ebpf: &Ebpf, events: &Map) -> Result<Self, Error> {
        let prepare = |e: &dyn std::fmt::Display| Error::Prepare(e.to_string());
        let mut parsed = Object::parse(object).map_err(|e| prepare(&e))?;
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
        Ok(Self { output: load(&parsed, "nf_output")?, last: load(&parsed, "nf_last")? })
    }

    /// Attaches them in the namespace at `netns` for the protocol families `families`.
    pub(super) fn attach(&self, netns: &Netns, families: &[u32]) -> io::Result<Vec<OwnedFd>> {
        setns::run_in_inum(&netns.path, netns.inum, || {
            let mut links = Vec::with_capacity(POSITIONS.len() * families.len());
            for family in families {
                for (hook, position) in POSITIONS {
                    links.push(self.link(*family, hook, position)?);
                }
            }
            Ok(links)
        })
    }

    /// Links one program in the namespace of the calling thread. Two BPF programs may not share a
    /// priority, so where another tracer sits at the edge, the next place inwards is taken.
    fn link(&self, family: u32, hook: u32, position: Position) -> io::Result<OwnedFd> {
        let (program, edge, step) = match position {
            // The very first and last priorities are the kernel's own.
            Position::Output => (&self.output, i32::MIN + 1, 1),
            Position::Last => (&self.last, i32::MAX - 1, -1),
        };
        let mut result = Err(io::Error::from_raw_os_error(libc::EBUSY));
        for n in 0..PRIORITIES {
            result = link_create(program, family, hook, edge + n * step);
            match &result {
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
                _ => break,
            }
        }
        result
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
struct Attr([u8; ATTR_LEN]);

impl Attr {
    fn new() -> Self {
        Self([0; ATTR_LEN])
    }

    fn u32(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(mut self, offset: usize, value: u64) -> Self {
        self.0[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn bytes(mut self, offset: usize, value: &[u8]) -> Self {
        self.0[offset..offset + value.len()].copy_from_slice(value);
        self
    }

    /// Calls `bpf(2)` for a command that returns a descriptor.
    fn call(mut self, command: libc::c_long) -> io::Result<OwnedFd> {
        // SAFETY: the attribute outlives the call, and so does what it points to (see callers).
        let fd = unsafe {
            libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), ATTR_LEN as libc::c_uint)
        };
        match RawFd::try_from(fd) {
            // SAFETY: a new descriptor that nobody else has.
            Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn load(object: &Object, name: &'static str) -> Result<OwnedFd, Error> {
    let missing = || Error::Prepare(format!("the object has no program {name}"));
    let program = object.programs.get(name).ok_or_else(missing)?;
    let function = object.functions.get(&program.function_key()).ok_or_else(missing)?;
    match prog_load(name, &function.instructions, &program.license, &mut []) {
        Ok(fd) => Ok(fd),
        Err(source) if source.raw_os_error() == Some(libc::EPERM) => Err(Error::NotPermitted),
        Err(source) => {
            let mut log = vec![0; 16 << 20];
            // Again, only to learn the verifier's reason.
            let _ = prog_load(name, &function.instructions, &program.license, &mut log);
            let what = format!("cannot load {name} ({})", verifier_reason(&log));
            Err(Error::Sys { what, source })
        }
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
    instructions: &[bpf_insn],
    license: &CString,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    let count = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    let mut attr = Attr::new()
        .u32(0, BPF_PROG_TYPE_NETFILTER)
        .u32(4, count)
        .u64(8, instructions.as_ptr() as u64)
        .u64(16, license.as_ptr() as u64)
        .bytes(48, &name.as_bytes()[..name.len().min(15)])
        .u32(68, BPF_NETFILTER);
    if !log.is_empty() {
        let len = u32::try_from(log.len()).map_err(io::Error::other)?;
        attr = attr.u32(24, 1).u32(28, len).u64(32, log.as_mut_ptr() as u64);
    }
    attr.call(BPF_PROG_LOAD)
}

fn link_create(program: &OwnedFd, family: u32, hook: u32, priority: i32) -> io::Result<OwnedFd> {
    let fd = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
    Attr::new()
        .u32(0, fd)
        .u32(8, BPF_NETFILTER)
        .u32(16, family)
        .u32(20, hook)
        .bytes(24, &priority.to_ne_bytes())
        .call(BPF_LINK_CREATE)
}
