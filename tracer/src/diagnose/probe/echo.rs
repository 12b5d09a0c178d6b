//! ICMP and ICMPv6 echo.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::socket::{self, Ready};
use super::{Plan, Wait, errors};
use crate::diagnose::case::{Outcome, Probed};
use crate::net::echo::{HEADER, is_reply, request};

const DATA: usize = 56;
/// An echo that is not answered is sent once more: one lost packet is no fault.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) fn run(
    plan: &Plan,
    wait: &Wait,
    sends: &dyn Fn(u16),
    probed: &mut Probed,
) -> io::Result<()> {
    let protocol = if plan.to.is_ipv4() { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 };
    let socket = socket::open(plan.to, libc::SOCK_RAW, protocol)?;
    if plan.size.is_some() {
        dont_fragment(&socket, plan.to)?;
    }
    let id = plan.sport.unwrap_or_else(next_id);
    probed.sport = id;
    sends(id);
    socket::connect(&socket, std::net::SocketAddr::new(plan.to, 0))?;
    let overhead = HEADER + if plan.to.is_ipv4() { 20 } else { 40 };
    let patience = if plan.size.is_some() { AGAIN / 4 } else { AGAIN };
    for seq in 1.. {
        let sent = Instant::now();
        let data = probed.size.map_or(DATA, |size| (size as usize).saturating_sub(overhead));
        socket::send(&socket, &request(plan.to, id, seq, data))?;
        if let Some(outcome) = answer(&socket, plan.to, id, &wait.at_most(patience))? {
            // Path MTU discovery at work: from now on as long as the way takes.
            if let Some(told) = shorter(&outcome, probed.size).filter(|_| !wait.is_over()) {
                probed.size = Some(told);
                continue;
            }
            probed.rtt = (outcome == Outcome::Answered).then(|| sent.elapsed());
            probed.outcome = outcome;
            return Ok(());
        }
        if wait.is_over() {
            break;
        }
    }
    Ok(())
}

/// The length that a router asks for, where that is less than what was sent. 576 bytes pass
/// everywhere (RFC 791).
fn shorter(outcome: &Outcome, size: Option<u32>) -> Option<u32> {
    match *outcome {
        Outcome::Icmp { mtu: Some(told), .. } if told >= 576 => {
            Some(told).filter(|t| Some(*t) < size)
        }
        _ => None,
    }
}

/// Waits for the reply, or an error about the request.
fn answer(socket: &OwnedFd, to: IpAddr, id: u16, wait: &Wait) -> io::Result<Option<Outcome>> {
    let mut packet = [0; 2048];
    loop {
        match socket::wait(socket, libc::POLLIN, wait)? {
            Ready::No => return Ok(None),
            Ready::Error => {
                if let Some(outcome) = errors::take_of(socket, |packet| is_request(id, packet)) {
                    return Ok(Some(outcome));
                }
            }
            Ready::Yes => {
                while let Some(n) = socket::receive(socket, &mut packet)? {
                    if is_reply(to, id, &packet[..n]) {
                        return Ok(Some(Outcome::Answered));
                    }
                }
            }
        }
    }
}

/// Whether an ICMP error is about a request of ours. One without its packet may be.
fn is_request(id: u16, packet: &[u8]) -> bool {
    packet.get(4..6).is_none_or(|bytes| bytes == id.to_be_bytes())
}

/// DF, whatever the path MTU is known to be: what a cache says is not what is to be found out.
fn dont_fragment(socket: &OwnedFd, to: IpAddr) -> io::Result<()> {
    match to {
        IpAddr::V4(_) => {
            let (option, value) = (libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE);
            socket::set(socket, libc::IPPROTO_IP, option, value)
        }
        IpAddr::V6(_) => {
            let (option, value) = (libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE);
            socket::set(socket, libc::IPPROTO_IPV6, option, value)
        }
    }
}

/// Probes run side by side, and a raw socket sees every reply.
fn next_id() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    #[expect(clippy::cast_possible_truncation, reason = "an id only has to differ")]
    let base = (std::process::id() << 5) as u16;
    base.wrapping_add(count).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::echo::checksum;

    #[test]
    fn an_echo_request_sums_to_zero() {
        let packet = request("10.0.0.1".parse().unwrap(), 0x1234, 1, 57);
        assert_eq!((packet.len(), checksum(&packet)), (65, 0));
    }

    #[test]
    fn a_router_may_ask_for_less() {
        let told = |mtu| Outcome::Icmp { kind: 3, code: 4, from: None, mtu };
        assert_eq!(shorter(&told(Some(1450)), Some(1500)), Some(1450));
        assert_eq!(shorter(&told(Some(1500)), Some(1500)), None);
        assert_eq!(shorter(&told(Some(68)), Some(1500)), None);
        assert_eq!(shorter(&told(None), Some(1500)), None);
        assert_eq!(shorter(&told(Some(1450)), None), None);
        assert_eq!(shorter(&Outcome::Timeout, Some(1500)), None);
    }

    #[test]
    fn an_error_about_another_probe_is_none_of_ours() {
        let to: IpAddr = "10.0.0.1".parse().unwrap();
        assert!(is_request(0x1234, &request(to, 0x1234, 1, 8)));
        assert!(!is_request(0x1235, &request(to, 0x1234, 1, 8)));
        assert!(is_request(7, &[]));
    }

    #[test]
    fn only_our_own_reply_counts() {
        let to: IpAddr = "::1".parse().unwrap();
        assert!(is_reply(to, 7, &[129, 0, 0, 0, 0, 7, 0, 1]));
        assert!(!is_reply(to, 8, &[129, 0, 0, 0, 0, 7, 0, 1]));
        assert!(!is_reply("10.0.0.1".parse().unwrap(), 7, &[0x45]));
    }
}
