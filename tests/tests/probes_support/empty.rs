//! Programs that do nothing, attached as the tracer's are: what the kernel's own way to a program
//! costs, and the clock that measures it.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use pkttrace::kernel::btf::{KernelBtf, VMLINUX};
use pkttrace::net::setns::run_in_path;
use pkttrace_tests::{Lab, PinnedProgram, Verdict};

use super::{Cost, cost_in_fdinfo};

const PROG_LOAD: libc::c_long = 5;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const LINK_CREATE: libc::c_long = 28;
/// `union bpf_attr`, as far as anything here is written.
const ATTR_LEN: usize = 128;

const KPROBE: u32 = 2;
const CGROUP_SKB: u32 = 8;
const RAW_TRACEPOINT: u32 = 17;
const TRACING: u32 = 26;
const NETFILTER: u32 = 32;
/// `BPF_TRACE_FEXIT`.
const FEXIT: u32 = 25;
/// `BPF_NETFILTER`.
const NETFILTER_HOOK: u32 = 45;

/// By what a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A tracepoint: typed or raw, the kernel calls both alike (`__bpf_trace_run`).
    Tracepoint,
    /// fentry and fexit (`__bpf_prog_enter`).
    Trampoline,
    /// kprobe and kretprobe (`trace_call_bpf`).
    Kprobe,
    /// The root cgroup.
    Cgroup,
    /// A netfilter hook.
    Netfilter,
    /// A classifier of tc.
    Classifier,
}

impl Kind {
    /// Of a program of the tracer, by its name.
    pub fn of(program: &str) -> Self {
        match program.split_once('_') {
            Some(("fn", _)) => Self::Trampoline,
            Some(("kp" | "kr", _)) => Self::Kprobe,
            Some(("cg", _)) => Self::Cgroup,
            Some(("nf", _)) => Self::Netfilter,
            Some(("tc", "in_first" | "in_last" | "out_first" | "out_last")) => Self::Classifier,
            _ => Self::Tracepoint,
        }
    }
}

/// An attached program that does nothing, in the way of the lab's packets.
pub struct Empty {
    pub kind: Kind,
    program: RawFd,
    _held: Vec<OwnedFd>,
    _pinned: Option<PinnedProgram>,
}

impl Empty {
    /// One of each kind that this kernel has.
    pub fn all(lab: &Lab) -> Vec<Self> {
        let kinds = [
            attach_to_tracepoint(),
            attach_to_function(),
            attach_to_kprobe(),
            attach_to_cgroup(),
            attach_to_hook(lab),
        ];
        let mut all: Vec<_> = kinds.into_iter().filter_map(Result::ok).collect();
        all.push(classifier(lab));
        all
    }

    /// What it has cost so far.
    pub fn cost(&self) -> Cost {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.program));
        cost_in_fdinfo(&text.expect("a descriptor of ours")).expect("the kernel counts runs")
    }

    fn new(kind: Kind, program: OwnedFd, attached: OwnedFd) -> Self {
        Self { kind, program: program.as_raw_fd(), _held: vec![attached, program], _pinned: None }
    }
}

fn attach_to_tracepoint() -> io::Result<Empty> {
    let program = load(RAW_TRACEPOINT, 0, [0, 0])?;
    let name = c"netif_receive_skb";
    let open = Attr::new().u64(0, name.as_ptr() as u64).fd(8, program.as_raw_fd());
    let attached = open.call(RAW_TRACEPOINT_OPEN)?;
    Ok(Empty::new(Kind::Tracepoint, program, attached))
}

fn attach_to_function() -> io::Result<Empty> {
    let btf = KernelBtf::read(Path::new(VMLINUX)).map_err(io::Error::other)?;
    let id = btf.function("nf_hook_slow").ok_or(io::ErrorKind::NotFound)?;
    let program = load(TRACING, 0, [FEXIT, id])?;
    let attached = Attr::new().fd(8, program.as_raw_fd()).call(RAW_TRACEPOINT_OPEN)?;
    Ok(Empty::new(Kind::Trampoline, program, attached))
}

/// By a perf event of the kprobe unit (`include/uapi/linux/perf_event.h`).
fn attach_to_kprobe() -> io::Result<Empty> {
    const SET_BPF: libc::c_ulong = 0x4004_2408;
    const ENABLE: libc::c_ulong = 0x2400;
    let unit = fs::read_to_string("/sys/bus/event_source/devices/kprobe/type")?;
    let unit: u64 = unit.trim().parse().map_err(io::Error::other)?;
    let program = load(KPROBE, 0, [0, 0])?;
    let function = c"nf_hook_slow";
    let mut attr = [0_u64; 15];
    attr[0] = unit | (size_of_val(&attr) as u64) << 32;
    attr[7] = function.as_ptr() as u64;
    // SAFETY: a `perf_event_attr` of the length that it states; this process's events of any CPU.
    let event =
        unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), -1, 0, -1, 8_u64) };
    let event = owned(event)?;
    for (request, value) in [(SET_BPF, program.as_raw_fd()), (ENABLE, 0)] {
        // SAFETY: requests that take a number.
        if unsafe { libc::ioctl(event.as_raw_fd(), request, value) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(Empty::new(Kind::Kprobe, program, event))
}

fn attach_to_cgroup() -> io::Result<Empty> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let root = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next().filter(|_| fields.next() == Some("cgroup2"))
    });
    let root = File::open(root.ok_or(io::ErrorKind::NotFound)?)?;
    let program = load(CGROUP_SKB, 1, [0, 0])?;
    let link = Attr::new().fd(0, program.as_raw_fd()).fd(4, root.as_raw_fd());
    let attached = link.call(LINK_CREATE)?;
    Ok(Empty::new(Kind::Cgroup, program, attached))
}

fn attach_to_hook(lab: &Lab) -> io::Result<Empty> {
    // IPv4, PRE_ROUTING; the priority is nobody's.
    let program = load(NETFILTER, 1, [NETFILTER_HOOK, 0])?;
    let link = Attr::new().fd(0, program.as_raw_fd()).u32(8, NETFILTER_HOOK).u32(16, 2).u32(24, 7);
    let netns = Path::new("/run/netns").join(lab.netns("n1"));
    let attached = run_in_path(&netns, || link.call(LINK_CREATE))?;
    Ok(Empty::new(Kind::Netfilter, program, attached))
}

fn classifier(lab: &Lab) -> Empty {
    let pinned = PinnedProgram::new(lab, Verdict::TcNext);
    lab.exec("n1", "tc qdisc add dev veth-p2 clsact");
    let path = pinned.path();
    lab.exec("n1", &format!("tc filter add dev veth-p2 ingress bpf da pinned {path}"));
    let program = pinned.fd();
    Empty { kind: Kind::Classifier, program, _held: Vec::new(), _pinned: Some(pinned) }
}

/// Loads `r0 = value; exit`; `attach` is the expected type and the function's identity.
fn load(program: u32, value: u8, attach: [u32; 2]) -> io::Result<OwnedFd> {
    let instructions: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, value, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let license = CString::new("GPL").map_err(io::Error::other)?;
    let attr = Attr::new().u32(0, program).u32(4, 2).u64(8, instructions.as_ptr() as u64);
    let attr = attr.u64(16, license.as_ptr() as u64).u32(68, attach[0]).u32(108, attach[1]);
    attr.call(PROG_LOAD)
}

/// `union bpf_attr`; the places are those of the command.
#[repr(C, align(8))]
struct Attr([u8; ATTR_LEN]);

impl Attr {
    fn new() -> Self {
        Self([0; ATTR_LEN])
    }

    fn u32(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(mut self, at: usize, value: u64) -> Self {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn fd(self, at: usize, fd: RawFd) -> Self {
        self.u32(at, fd.cast_unsigned())
    }

    fn call(&self, command: libc::c_long) -> io::Result<OwnedFd> {
        // SAFETY: the attribute and what it points to outlive the call.
        owned(unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_ptr(), ATTR_LEN) })
    }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0);
    let fd = fd.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just given this descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
