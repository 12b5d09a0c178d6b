//! One ICMP or ICMPv6 echo, with 1 s to be answered.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::lab::sys;
use crate::net::echo::{is_reply, request};

const WAIT: Duration = Duration::from_secs(1);
const DEFAULT_SIZE: u16 = 56;

/// Pings `to`. With a `size` the packet has that many bytes of data and may not be fragmented.
pub(super) fn ping(to: IpAddr, size: u16) -> io::Result<()> {
    let socket = raw_socket(to)?;
    if size != 0 {
        forbid_fragments(&socket, to)?;
    }
    socket.connect(SocketAddr::new(to, 0))?;
    let id = next_id();
    socket.send(&request(to, id, 1, usize::from(if size == 0 { DEFAULT_SIZE } else { size })))?;
    let deadline = Instant::now() + WAIT;
    let mut packet = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(ErrorKind::TimedOut, format!("no reply within {WAIT:?}")));
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut packet) {
            Ok(n) if is_reply(to, id, &packet[..n]) => return Ok(()),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
    }
}

/// A raw socket as [`UdpSocket`], whose connect, send and recv are those of any datagram socket.
fn raw_socket(to: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP),
        IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6),
    };
    Ok(sys::raw_socket(family, protocol)?.into())
}

fn forbid_fragments(socket: &UdpSocket, to: IpAddr) -> io::Result<()> {
    let (level, option, value) = match to {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
    };
    sys::set_socket_option(socket, level, option, value)
}

/// Probes run side by side in one namespace, where each raw socket sees every echo reply.
fn next_id() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    #[expect(clippy::cast_possible_truncation, reason = "an id only has to differ")]
    let base = (std::process::id() << 6) as u16;
    base.wrapping_add(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::echo::checksum;

    #[test]
    fn echo_request_sums_to_zero() {
        let packet = request("10.0.0.1".parse().unwrap(), 0x1234, 1, 56);
        assert_eq!(packet.len(), 64);
        assert_eq!(checksum(&packet), 0);
    }

    #[test]
    fn only_our_own_reply_counts() {
        let to: IpAddr = "::1".parse().unwrap();
        assert!(is_reply(to, 7, &[129, 0, 0, 0, 0, 7, 0, 1]));
        assert!(!is_reply(to, 8, &[129, 0, 0, 0, 0, 7, 0, 1]));
        assert!(!is_reply(to, 7, &[128, 0, 0, 0, 0, 7, 0, 1]));
        assert!(!is_reply("10.0.0.1".parse().unwrap(), 7, &[0x45]));
    }
}
