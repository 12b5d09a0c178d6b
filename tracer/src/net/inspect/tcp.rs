//! Connections of TCP (`sock_diag`), with what the kernel keeps of each (`struct tcp_info`).

use std::io;
use std::net::SocketAddr;

use super::wire::{Netlink, addr_of, attributes_after, be16_at, u8_at, u32_at, u64_at};
use crate::net::setns;
use crate::net::state::Netns;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_INFO: u16 = 2;
/// `struct inet_diag_msg`.
const HEADER: usize = 72;
const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE_WAIT: u8 = 8;

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The kernel's number of the socket, unique while it runs.
    pub cookie: u64,
    /// Own end.
    pub local: SocketAddr,
    /// Other end.
    pub remote: SocketAddr,
    /// What is kept of it.
    pub info: Info,
}

/// Of `struct tcp_info`; times in microseconds, what an older kernel lacks is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// What was sent last was all that the application had.
    pub is_app_limited: bool,
    /// Smoothed round trip.
    pub rtt_us: u32,
    /// Shortest round trip of late; all ones when there was none.
    pub min_rtt_us: u32,
    /// Segments that were sent again, since the beginning.
    pub retrans: u32,
    /// Segments with data that were sent.
    pub data_segs_out: u32,
    /// Segments that were received.
    pub segs_in: u32,
    /// Time in which there was something to send.
    pub busy_us: u64,
    /// Of that, limited by the other end's window.
    pub rwnd_us: u64,
    /// Of that, limited by the own buffer.
    pub sndbuf_us: u64,
    /// Segments that the other end said it had had already.
    pub dsack: u32,
}

/// The connections of a namespace.
///
/// # Errors
///
/// When it cannot be entered, or has no reader for them.
pub fn connections(netns: &Netns) -> io::Result<Vec<Connection>> {
    setns::run_in_inum(&netns.path, netns.inum, || {
        let mut netlink = Netlink::open(libc::NETLINK_SOCK_DIAG)?;
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            match netlink.dump(SOCK_DIAG_BY_FAMILY, &request(family)) {
                Ok(answer) => {
                    found.extend(answer.messages().filter_map(|(_, body)| connection(body)));
                }
                // IPv6 is not there: nor are its connections.
                Err(_) if family == libc::AF_INET6 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    })
}

/// `struct inet_diag_req_v2`.
fn request(family: i32) -> [u8; 56] {
    let mut request = [0; 56];
    request[0] = family as u8;
    request[1] = libc::IPPROTO_TCP as u8;
    request[2] = 1 << (INET_DIAG_INFO - 1);
    let states: u32 = 1 << TCP_ESTABLISHED | 1 << TCP_CLOSE_WAIT;
    request[4..8].copy_from_slice(&states.to_ne_bytes());
    request
}

fn connection(body: &[u8]) -> Option<Connection> {
    let family = u8_at(body, 0)?;
    let info = attributes_after(body, HEADER).find(|(kind, _)| *kind == INET_DIAG_INFO)?.1;
    Some(Connection {
        cookie: u64::from(u32_at(body, 44)?) | u64::from(u32_at(body, 48)?) << 32,
        local: SocketAddr::new(addr_of(family, body.get(8..24)?)?, be16_at(body, 4)?),
        remote: SocketAddr::new(addr_of(family, body.get(24..40)?)?, be16_at(body, 6)?),
        info: Info::read(info),
    })
}

impl Info {
    fn read(info: &[u8]) -> Self {
        let word = |at| u32_at(info, at).unwrap_or(0);
        let long = |at| u64_at(info, at).unwrap_or(0);
        Self {
            is_app_limited: u8_at(info, 7).unwrap_or(0) & 1 != 0,
            rtt_us: word(68),
            retrans: word(100),
            segs_in: word(140),
            min_rtt_us: u32_at(info, 148).unwrap_or(u32::MAX),
            data_segs_out: word(156),
            busy_us: long(168),
            rwnd_us: long(176),
            sndbuf_us: long(184),
            dsack: word(216),
        }
    }
}
