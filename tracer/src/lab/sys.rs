//! The system calls that the labs need and the standard library does not have.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// The error of a system call that returns -1 for one.
pub(crate) fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// `mount(2)` of `source` on `target`, without data.
pub(crate) fn mount(
    source: &Path,
    target: &Path,
    fs_type: &CStr,
    flags: libc::c_ulong,
) -> io::Result<()> {
    let (source, target) = (c_path(source)?, c_path(target)?);
    // SAFETY: all three strings are NUL-terminated and outlive the call; there is no data.
    check(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), fs_type.as_ptr(), flags, std::ptr::null())
    })
}

/// Takes the mount on `target` out of sight; it ends when nothing uses it any more.
pub(crate) fn unmount(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: `target` is NUL-terminated and outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) })
}

/// Whether the file system at `path` is mounted read-only.
pub(crate) fn is_read_only(path: &Path) -> bool {
    let Ok(path) = c_path(path) else { return false };
    // SAFETY: statvfs is a plain structure of integers, for which zeroes are valid.
    let mut info: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is NUL-terminated; `info` is a whole statvfs that is only written to.
    let result = unsafe { libc::statvfs(path.as_ptr(), &raw mut info) };
    result == 0 && info.f_flag & libc::ST_RDONLY != 0
}

/// Moves the calling thread to a new namespace of the kinds in `flags`.
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare takes no pointer.
    check(unsafe { libc::unshare(flags) })
}

/// Moves the calling thread to the network namespace that `netns` is open on.
pub(crate) fn enter_netns(netns: &impl AsFd) -> io::Result<()> {
    // SAFETY: setns takes no pointer; the descriptor is open.
    check(unsafe { libc::setns(netns.as_fd().as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Waits for the exclusive lock of an open file.
pub(crate) fn lock(file: &impl AsFd) -> io::Result<()> {
    // SAFETY: flock takes no pointer; the descriptor is open.
    check(unsafe { libc::flock(file.as_fd().as_raw_fd(), libc::LOCK_EX) })
}

/// Sets an option of a socket that is an int.
pub(crate) fn set_socket_option(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let size = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open; `value` is an int of `size` bytes that outlives the call.
    check(unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), size) })
}

/// A raw socket.
pub(crate) fn raw_socket(family: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket takes no pointer.
    let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    check(fd)?;
    // SAFETY: `fd` was just opened and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an offload of a device by `SIOCETHTOOL` (`struct ethtool_value`), in the namespace of the
/// calling thread.
pub(crate) fn set_offload(dev: &str, command: u32, on: bool) -> io::Result<()> {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    let mut value = Value { command, data: on.into() };
    let mut request = interface_request(dev)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: the request is a whole ifreq whose data is a whole Value; both outlive the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) })
}

/// Names a device for `ioctl(2)`.
fn interface_request(dev: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is a plain structure for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if dev.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(dev.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

/// Makes `/dev/net/tun`, open, the other side of a tun device of the calling thread's namespace,
/// which is made if it is not there and stays.
pub(crate) fn attach_tun(tun: &impl AsFd, dev: &str) -> io::Result<()> {
    let mut request = interface_request(dev)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    let fd = tun.as_fd().as_raw_fd();
    // SAFETY: a whole ifreq that outlives the call.
    check(unsafe { libc::ioctl(fd, libc::TUNSETIFF, &raw mut request) })?;
    // SAFETY: the argument is a number.
    check(unsafe { libc::ioctl(fd, libc::TUNSETPERSIST, 1) })
}

/// How many packets wait in a tun device of the calling thread's namespace to be read.
pub(crate) fn set_queue(dev: &str, packets: libc::c_int) -> io::Result<()> {
    const SIOCSIFTXQLEN: libc::Ioctl = 0x8943;
    let mut request = interface_request(dev)?;
    // `ifr_qlen` lies where all integers of the union do.
    request.ifr_ifru.ifru_metric = packets;
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: a whole ifreq that outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCSIFTXQLEN, &raw mut request) })
}

/// Reads and writes return at once.
pub(crate) fn set_nonblocking(file: &impl AsFd) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: takes a number, returns one.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    check(flags)?;
    // SAFETY: takes numbers only.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) })
}

/// Leaves the terminal's session, so that its end and its Ctrl-C do not reach this process.
pub(crate) fn leave_session() -> io::Result<()> {
    // SAFETY: setsid takes no argument.
    check(unsafe { libc::setsid() })
}

/// Puts `file` in the place of stdout, and so closes what stdout was.
pub(crate) fn replace_stdout(file: &impl AsFd) -> io::Result<()> {
    // SAFETY: both descriptors are open; dup2 closes the old stdout and leaves `file` as it is.
    check(unsafe { libc::dup2(file.as_fd().as_raw_fd(), libc::STDOUT_FILENO) })
}

/// The name of this thread in `ps`; of the main thread, that of the process.
pub(crate) fn set_process_name(name: &CStr) {
    // SAFETY: PR_SET_NAME reads a NUL-terminated string that outlives the call. A name is only
    // for people, so failing to set it is no matter.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Whether this process acts as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes no argument and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// A process, held so that its id cannot come to mean another one.
#[derive(Debug)]
pub(crate) struct Process(OwnedFd);

impl Process {
    pub(crate) fn open(pid: libc::pid_t) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
        check(fd)?;
        // SAFETY: `fd` was just opened and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn signal(&self, signal: libc::c_int) -> io::Result<()> {
        let (fd, none) = (self.0.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: the descriptor is open; a null siginfo stands for that of kill(2).
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) };
        check(libc::c_int::try_from(sent).map_err(io::Error::other)?)
    }

    /// Waits for its end; `false` if that does not come in time.
    pub(crate) fn wait(&self, limit: Duration) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let limit = libc::c_int::try_from(limit.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: one pollfd that outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, limit) };
        check(ready)?;
        Ok(ready > 0)
    }
}
