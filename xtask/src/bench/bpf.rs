//! The little of `bpf(2)` that measuring takes: run-time counters, and a program that does nothing.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use super::programs::{self, Cost};

const PROG_LOAD: libc::c_int = 5;
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const ENABLE_STATS: libc::c_int = 32;
const TYPE_RAW_TRACEPOINT: u32 = 17;

/// `mov64 r0, 0` and `exit`, as the kernel's `struct bpf_insn`.
const RETURN_ZERO: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
struct OpenAttr {
    name: u64,
    prog_fd: u32,
    padding: u32,
}

/// Switches `kernel.bpf_stats_enabled` on for as long as the descriptor is open: the kernel
/// switches it off again even when this process is killed.
///
/// # Errors
///
/// On kernels before 5.8, or without privileges.
pub(super) fn count_runs() -> io::Result<OwnedFd> {
    // BPF_STATS_RUN_TIME is 0.
    bpf(ENABLE_STATS, &0_u32)
}

/// Attached, it costs what calling any program costs.
pub(super) struct EmptyProgram {
    program: OwnedFd,
    _attached: OwnedFd,
}

impl EmptyProgram {
    /// Loads it and attaches it to a raw tracepoint.
    pub(super) fn attach(tracepoint: &CStr) -> Result<Self> {
        let license = c"GPL";
        let load = LoadAttr {
            prog_type: TYPE_RAW_TRACEPOINT,
            insn_cnt: RETURN_ZERO.len() as u32,
            insns: address(RETURN_ZERO.as_ptr()),
            license: address(license.as_ptr()),
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kern_version: 0,
            prog_flags: 0,
            prog_name: *b"bench_empty\0\0\0\0\0",
        };
        let program = bpf(PROG_LOAD, &load).context("cannot load an empty BPF program")?;
        let prog_fd = u32::try_from(program.as_raw_fd()).context("a descriptor is positive")?;
        let open = OpenAttr { name: address(tracepoint.as_ptr()), prog_fd, padding: 0 };
        let attached = bpf(RAW_TRACEPOINT_OPEN, &open)
            .with_context(|| format!("cannot attach to {}", tracepoint.to_string_lossy()))?;
        Ok(Self { program, _attached: attached })
    }

    /// What it has cost so far.
    pub(super) fn cost(&self) -> Result<Cost> {
        let file = format!("/proc/self/fdinfo/{}", self.program.as_raw_fd());
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        programs::cost_in_fdinfo(&text).context("the kernel counts no runs")
    }
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

/// A `bpf(2)` command that returns a descriptor.
fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attr`; pointers in it outlive the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    let fd = libc::c_int::try_from(fd).ok().filter(|fd| *fd >= 0);
    let fd = fd.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just given this descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
