//! TCP connections with what the kernel measures of each (`sock_diag`, `struct tcp_info`).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::net::inspect::sockets::{self, Processes};
use crate::net::inspect::wire::{
    Netlink, addr_of, attributes_after, be16_at, u8_at, u32_at, u64_at,
};

const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_SKMEMINFO: u16 = 7;
/// `struct inet_diag_msg`.
const HEADER: usize = 72;
/// States in which data flows, or is still to be delivered: `ESTABLISHED`, `FIN_WAIT1` and
/// `FIN_WAIT2`, `CLOSE_WAIT`, `LAST_ACK`, `CLOSING`.
const STATES: [u8; 6] = [1, 4, 5, 8, 9, 11];
const SYN_SENT: u8 = 2;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
/// `TCPI_OPT_WSCALE`.
const WINDOW_SCALING: u8 = 4;

/// A connection as one of its ends has it. Counters are those since it began; times in
/// microseconds unless they are [`Duration`]s. What an older kernel does not tell is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The kernel's number of the socket, unique while it runs.
    pub cookie: u64,
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// The other end sends nothing more, and this one still may (`CLOSE_WAIT`).
    pub may_answer: bool,
    /// This end sends nothing more, and the other one still may (`FIN_WAIT2`).
    pub awaits_answer: bool,
    /// Process: PID and command name.
    pub process: Option<(u32, String)>,
    /// Received and not yet read, bytes.
    pub unread: u32,
    /// Receive buffer, bytes.
    pub receive_buffer: u32,
    /// Send buffer, bytes.
    pub send_buffer: u32,
    /// Sent and not acknowledged, or not yet sent, bytes.
    pub unsent: u32,
    /// Of it, not yet sent (since 4.6).
    pub held_back: u32,
    /// What was sent last was all that the application had.
    pub is_app_limited: bool,
    /// Window scaling was agreed upon.
    pub scales_window: bool,
    /// Maximum segment size to the other end, bytes.
    pub mss: u32,
    /// Path MTU, bytes.
    pub path_mtu: u32,
    /// Smoothed round trip.
    pub rtt: Duration,
    /// How long it waits for an acknowledgement before it sends again.
    pub rto: Duration,
    /// The least that was measured (since 4.9); 0 when nothing was.
    pub min_rtt: Duration,
    /// Congestion window, segments.
    pub cwnd: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// The most that the application lets it send, bytes a second (`SO_MAX_PACING_RATE`); 0 for no
    /// limit.
    pub max_pacing: u64,
    /// Bytes that the other end acknowledged (since 4.1).
    pub acked: u64,
    /// Bytes received.
    pub received: u64,
    /// Segments received (since 4.2).
    pub segments_in: u32,
    /// Segments with data that were sent (since 4.6).
    pub data_segments: u32,
    /// Time with data under way, microseconds (since 4.10), as the next two.
    pub busy_us: u64,
    /// Time in which the receiver's window was the limit.
    pub window_limited_us: u64,
    /// Time in which the send buffer was the limit.
    pub buffer_limited_us: u64,
    /// Retransmissions that the other end says it did not need (DSACK, since 5.2).
    pub needless: u32,
    /// Times that segments came in another order (since 5.2).
    pub reorderings: u32,
    /// The window that the other end offers, bytes (since 6.2).
    pub peer_window: u32,
}

/// A connection that is asked for and not answered yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connecting {
    /// This end.
    pub local: SocketAddr,
    /// Whom.
    pub peer: SocketAddr,
    /// The process, where it is one of those that were known by then.
    pub pid: Option<u32>,
}

/// Those of the calling thread's namespace. Such sockets are younger than `processes`, so they are
/// looked for with the `holders` of others.
pub(super) fn connecting(
    netlink: &mut Netlink,
    processes: &Processes,
    holders: &BTreeSet<u32>,
) -> Vec<Connecting> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let kind = (family, libc::IPPROTO_TCP);
        let Ok(answer) = sockets::dump(netlink, kind, &[SYN_SENT], &[]) else { continue };
        all.extend(answer.messages().filter_map(|(_, body)| {
            let inode = u32_at(body, 68)?;
            let known = processes.get(&inode).map(|(pid, _)| *pid);
            let pid = known.or_else(|| holders.iter().copied().find(|pid| holds(*pid, inode)));
            let (local, peer) = ends(body)?;
            Some(Connecting { local, peer, pid })
        }));
    }
    all.sort();
    all
}

/// Whether a descriptor of the process is that socket.
fn holds(pid: u32, inode: u32) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let socket = format!("socket:[{inode}]");
    files.flatten().any(|f| std::fs::read_link(f.path()).is_ok_and(|to| to.as_os_str() == &*socket))
}

/// This end and the other one.
fn ends(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let family = u8_at(body, 0)?;
    let end = |addr: &[u8], port| {
        let addr: IpAddr = addr_of(family, addr)?.to_canonical();
        Some(SocketAddr::new(addr, port))
    };
    let local = end(body.get(8..24)?, be16_at(body, 4)?)?;
    Some((local, end(body.get(24..40)?, be16_at(body, 6)?)?))
}

/// The connections of the calling thread's namespace.
pub(super) fn connections(netlink: &mut Netlink, processes: &Processes) -> Vec<Connection> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let extensions = [INET_DIAG_INFO, INET_DIAG_SKMEMINFO];
        let kind = (family, libc::IPPROTO_TCP);
        // IPv6 is not there: nor are its connections.
        let Ok(answer) = sockets::dump(netlink, kind, &STATES, &extensions) else { continue };
        all.extend(answer.messages().filter_map(|(_, body)| connection(body, processes)));
    }
    all
}

fn connection(body: &[u8], processes: &Processes) -> Option<Connection> {
    let (local, peer) = ends(body)?;
    let (mut info, mut memory) = (&[][..], &[][..]);
    for (kind, value) in attributes_after(body, HEADER) {
        match kind {
            INET_DIAG_INFO => info = value,
            INET_DIAG_SKMEMINFO => memory = value,
            _ => {}
        }
    }
    let (word, long) = (|at| u32_at(info, at).unwrap_or(0), |at| u64_at(info, at).unwrap_or(0));
    let micros = |at| Duration::from_micros(word(at).into());
    Some(Connection {
        cookie: u64::from(u32_at(body, 44)?) | u64::from(u32_at(body, 48)?) << 32,
        local,
        peer,
        may_answer: u8_at(body, 1)? == CLOSE_WAIT,
        awaits_answer: u8_at(body, 1)? == FIN_WAIT2,
        process: processes.get(&u32_at(body, 68)?).cloned(),
        unread: u32_at(body, 56)?,
        receive_buffer: u32_at(memory, 4).unwrap_or(0),
        send_buffer: u32_at(memory, 12).unwrap_or(0),
        unsent: u32_at(body, 60)?,
        held_back: word(144),
        is_app_limited: u8_at(info, 7)? & 1 != 0,
        scales_window: u8_at(info, 5)? & WINDOW_SCALING != 0,
        mss: word(16),
        path_mtu: word(60),
        rtt: micros(68),
        rto: micros(8),
        // All ones before anything was measured.
        min_rtt: if word(148) == u32::MAX { Duration::ZERO } else { micros(148) },
        cwnd: word(80),
        retransmits: word(100),
        // All ones, of 32 bits before 4.20, where nothing was set.
        max_pacing: if long(112) >= u32::MAX.into() { 0 } else { long(112) },
        acked: long(120),
        received: long(128),
        segments_in: word(140),
        data_segments: word(156),
        busy_us: long(168),
        window_limited_us: long(176),
        buffer_limited_us: long(184),
        needless: word(216),
        reorderings: word(220),
        peer_window: word(228),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_nobody_reads_is_told_at_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_reader, _) = listener.accept().unwrap();
        sender.write_all(&[0; 1000]).unwrap();
        let mut netlink = Netlink::open(libc::NETLINK_SOCK_DIAG).unwrap();
        let all = connections(&mut netlink, &Processes::new());
        let own = sender.local_addr().unwrap();
        let there = all.iter().find(|c| c.peer == own).unwrap();
        assert_eq!((there.unread, there.received), (1000, 1000));
        assert!(
            there.scales_window
                && there.receive_buffer > 1000
                && there.send_buffer > 1000
                && there.mss > 500
        );
        let here = all.iter().find(|c| c.local == own).unwrap();
        // The SYN counts as one.
        assert!((1000..=1001).contains(&here.acked), "{here:?}");
        assert!(here.data_segments >= 1 && here.retransmits == 0);
    }
}
