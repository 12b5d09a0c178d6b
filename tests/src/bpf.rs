//! The smallest BPF programs there are, pinned where `ip` and `tc` can take them from.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::Lab;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;

/// What a program says about every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `XDP_DROP`.
    XdpDrop,
    /// `TC_ACT_SHOT`.
    TcShot,
    /// `TC_ACT_UNSPEC`: what the next one says.
    TcNext,
}

/// A pinned program; unpinned when dropped.
#[derive(Debug)]
pub struct PinnedProgram {
    mount: PathBuf,
    path: PathBuf,
    program: OwnedFd,
}

/// `union bpf_attr` as `BPF_PROG_LOAD` and `BPF_OBJ_PIN` begin it.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    rest: [u64; 13],
}

#[repr(C)]
#[derive(Default)]
struct PinAttr {
    pathname: u64,
    fd: u32,
    file_flags: u32,
    rest: [u64; 14],
}

impl PinnedProgram {
    /// Loads and pins a program in the lab's scratch directory.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[must_use]
    pub fn new(lab: &Lab, verdict: Verdict) -> Self {
        let mount = lab.scratch().join("bpf");
        std::fs::create_dir_all(&mount).expect("a directory");
        mount_bpffs(&mount);
        let path = mount.join("program");
        let program = Self { mount, path, program: load(verdict) };
        pin(&program.program, &program.path);
        program
    }

    /// Its descriptor, for as long as this lives.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.program.as_raw_fd()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.to_str().expect("our own names are text")
    }
}

impl Drop for PinnedProgram {
    fn drop(&mut self) {
        let mount = c_path(&self.mount);
        // SAFETY: a NUL-terminated path; detaching a mount of ours touches no memory.
        unsafe { libc::umount2(mount.as_ptr(), libc::MNT_DETACH) };
    }
}

fn load(verdict: Verdict) -> OwnedFd {
    let (prog_type, value) = match verdict {
        Verdict::XdpDrop => (6, 1),
        Verdict::TcShot => (3, 2),
        Verdict::TcNext => (3, -1),
    };
    let [a, b, c, d] = i32::to_ne_bytes(value);
    // r0 = value; exit
    let insns: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, a, b, c, d], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let attr = LoadAttr {
        prog_type,
        insn_cnt: 2,
        insns: insns.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..LoadAttr::default()
    };
    // SAFETY: `attr` is long enough for the call and what it points to outlives it.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<LoadAttr>())
    };
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0);
    let fd = fd.unwrap_or_else(|| panic!("BPF_PROG_LOAD: {}", std::io::Error::last_os_error()));
    // SAFETY: the kernel has just given this descriptor to us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn pin(program: &OwnedFd, path: &Path) {
    let path = c_path(path);
    let fd = program.as_raw_fd().cast_unsigned();
    let attr = PinAttr { pathname: path.as_ptr() as u64, fd, ..PinAttr::default() };
    // SAFETY: as in `load`.
    let pinned =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_PIN, &raw const attr, size_of::<PinAttr>()) };
    assert_eq!(pinned, 0, "BPF_OBJ_PIN: {}", std::io::Error::last_os_error());
}

/// `ip -n` and `ip netns exec` hide `/sys/fs/bpf`, so the pin needs a mount of its own.
fn mount_bpffs(at: &Path) {
    let path = c_path(at);
    let kind = c"bpf".as_ptr();
    // SAFETY: NUL-terminated strings that outlive the call, and no data.
    let mounted = unsafe { libc::mount(kind, path.as_ptr(), kind, 0, std::ptr::null()) };
    assert_eq!(mounted, 0, "mount bpf: {}", std::io::Error::last_os_error());
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL in our own names")
}
