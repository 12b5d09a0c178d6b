//! The few socket calls that the standard library does not have.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::Wait;

/// How long one wait lasts before it is asked whether to go on.
const SLICE: Duration = Duration::from_millis(20);

/// A non-blocking socket of the family of `to` that reports ICMP errors in full.
pub(super) fn open(to: IpAddr, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes no pointer.
    let fd = check(unsafe { libc::socket(family, kind, protocol) })?;
    // SAFETY: `fd` was just opened and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    match to {
        IpAddr::V4(_) => set(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?,
        IpAddr::V6(_) => set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?,
    }
    Ok(socket)
}

/// Sets an option that is an int.
pub(super) fn set(
    socket: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = size_of_val(&value) as libc::socklen_t;
    let value = (&raw const value).cast();
    // SAFETY: the descriptor is open; `value` is an int of `size` bytes that outlives the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, size) }).map(drop)
}

/// Binds to a port (0 is any) on any address.
pub(super) fn bind(socket: &OwnedFd, to: IpAddr, port: u16) -> io::Result<()> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let (address, len) = native(SocketAddr::new(any, port));
    // SAFETY: the address is a whole sockaddr_storage of which `len` bytes are read.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
}

/// Connects; for TCP only begins to.
pub(super) fn connect(socket: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    let (address, len) = native(to);
    // SAFETY: the address is a whole sockaddr_storage of which `len` bytes are read.
    let done =
        check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) });
    match done {
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        other => other.map(drop),
    }
}

/// The port that it is bound to.
pub(super) fn port(socket: &OwnedFd) -> u16 {
    // SAFETY: zeroes are a valid value of the structure.
    let mut address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: at most `len` bytes are written into the structure.
    unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut len) };
    // SAFETY: the port of IPv4 and IPv6 addresses is at the same place, behind the family.
    let port = unsafe { (*(&raw const address).cast::<libc::sockaddr_in>()).sin_port };
    u16::from_be(port)
}

/// Sends on a connected socket.
pub(super) fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    let (data, len) = (bytes.as_ptr().cast(), bytes.len());
    // SAFETY: `len` bytes are read from `bytes`.
    let n = unsafe { libc::send(socket.as_raw_fd(), data, len, libc::MSG_NOSIGNAL) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives what is there; `None` when nothing is.
pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let (data, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: at most `len` bytes are written to `buffer`.
    let n = unsafe { libc::recv(socket.as_raw_fd(), data, len, libc::MSG_DONTWAIT) };
    match usize::try_from(n) {
        Ok(n) => Ok(Some(n)),
        Err(_) => match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            e => Err(e),
        },
    }
}

/// What a socket is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// As asked.
    Yes,
    /// An error waits, in the error queue or as the socket's own.
    Error,
    /// Not in time.
    No,
}

/// Waits until the socket can be read (`POLLIN`) or written (`POLLOUT`).
pub(super) fn wait(socket: &OwnedFd, events: i16, until: &Wait) -> io::Result<Ready> {
    while !until.is_over() {
        let left = until.deadline.saturating_duration_since(Instant::now()).min(SLICE);
        let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 };
        let millis = left.as_millis() as libc::c_int + 1;
        // SAFETY: one pollfd that outlives the call.
        let n = unsafe { libc::poll(&raw mut poll, 1, millis) };
        if n < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if poll.revents & (libc::POLLERR | libc::POLLNVAL) != 0 {
            return Ok(Ready::Error);
        }
        if n > 0 {
            return Ok(Ready::Yes);
        }
    }
    Ok(Ready::No)
}

fn native(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: zeroes are a valid value of the structure.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let len = match address {
        SocketAddr::V4(a) => {
            let into = (&raw mut storage).cast::<libc::sockaddr_in>();
            // SAFETY: sockaddr_storage is large enough and aligned for every address.
            unsafe {
                (*into).sin_family = libc::AF_INET as libc::sa_family_t;
                (*into).sin_port = a.port().to_be();
                (*into).sin_addr.s_addr = u32::from_ne_bytes(a.ip().octets());
            }
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(a) => {
            let into = (&raw mut storage).cast::<libc::sockaddr_in6>();
            // SAFETY: as above.
            unsafe {
                (*into).sin6_family = libc::AF_INET6 as libc::sa_family_t;
                (*into).sin6_port = a.port().to_be();
                (*into).sin6_addr.s6_addr = a.ip().octets();
                (*into).sin6_scope_id = a.scope_id();
            }
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, len as libc::socklen_t)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
