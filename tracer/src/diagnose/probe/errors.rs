//! What a socket's error means: the ICMP error behind it, if there is one (`IP_RECVERR`, ip(7)).

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use super::super::case::Outcome;

/// Space for the control messages of one error.
const CONTROL: usize = 512;

/// Takes the errors that wait. An ICMP error tells more than the errno that stands for it.
pub(super) fn take(socket: &OwnedFd) -> Option<Outcome> {
    take_of(socket, |_| true)
}

/// [`take`], of those alone whose packet is one's own: a raw socket is told of every packet of its
/// protocol between its addresses (`raw_icmp_error`). `is_own` is given what of the packet came
/// back, from the header behind the IP header on.
pub(super) fn take_of(socket: &OwnedFd, is_own: impl Fn(&[u8]) -> bool) -> Option<Outcome> {
    let mut found = None;
    let mut is_any = false;
    let mut packet = [0_u8; 64];
    while let Some((outcome, len)) = queued(socket, &mut packet) {
        is_any = true;
        if is_own(&packet[..len]) {
            found.get_or_insert(outcome);
        }
    }
    let own = pending(socket).filter(|_| !is_any);
    found.or_else(|| own.map(of_errno))
}

/// What an errno means for a probe.
pub(super) fn of_errno(errno: i32) -> Outcome {
    match errno {
        libc::ECONNREFUSED => Outcome::Refused,
        libc::ECONNRESET => Outcome::Reset,
        libc::ETIMEDOUT => Outcome::Timeout,
        other => Outcome::Local(other),
    }
}

/// `SO_ERROR`, which it clears.
fn pending(socket: &OwnedFd) -> Option<i32> {
    let mut errno: libc::c_int = 0;
    let mut len = size_of_val(&errno) as libc::socklen_t;
    let (fd, value) = (socket.as_raw_fd(), (&raw mut errno).cast());
    // SAFETY: an int is written into `errno`.
    unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, value, &raw mut len) };
    (errno != 0).then_some(errno)
}

/// One entry of the error queue, and how much of its packet is in `data`.
fn queued(socket: &OwnedFd, data: &mut [u8]) -> Option<(Outcome, usize)> {
    let mut control = [0_u64; CONTROL / 8];
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: zeroes are a valid value of the structure.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the message points to buffers of the sizes that it says.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let len = usize::try_from(n).ok()?;
    // SAFETY: the kernel has filled in the control messages.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: a header that CMSG_FIRSTHDR or CMSG_NXTHDR returned lies inside the buffer.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if (level, kind) == (libc::IPPROTO_IP, libc::IP_RECVERR)
            || (level, kind) == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        {
            // SAFETY: such a message holds a sock_extended_err and the offender's address.
            let error = unsafe { libc::CMSG_DATA(header).cast::<libc::sock_extended_err>() };
            // SAFETY: as above; the copy has no alignment to keep.
            let error = unsafe { (error.read_unaligned(), offender(error)) };
            return Some((outcome(&error.0, error.1), len));
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Some((Outcome::Timeout, len))
}

fn outcome(error: &libc::sock_extended_err, from: Option<IpAddr>) -> Outcome {
    let errno = i32::try_from(error.ee_errno).unwrap_or(libc::EIO);
    let is_icmp = matches!(error.ee_origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6);
    if !is_icmp {
        // The kernel's own: too long for the device, or the neighbour did not answer.
        return of_errno(errno);
    }
    let mtu = (errno == libc::EMSGSIZE).then_some(error.ee_info);
    Outcome::Icmp { kind: error.ee_type, code: error.ee_code, from, mtu }
}

/// The address behind the error.
///
/// # Safety
///
/// `error` is followed by a socket address (`SO_EE_OFFENDER`).
unsafe fn offender(error: *const libc::sock_extended_err) -> Option<IpAddr> {
    // SAFETY: the caller's promise.
    let address = unsafe { error.add(1) };
    // SAFETY: every socket address begins with its family.
    let family = unsafe { address.cast::<libc::sa_family_t>().read_unaligned() };
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: the family says so.
            let a = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(IpAddr::from(a.sin_addr.s_addr.to_ne_bytes()))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says so.
            let a = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(IpAddr::from(a.sin6_addr.s6_addr))
        }
        _ => None,
    }
}
