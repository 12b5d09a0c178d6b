//! Sockets that take what comes (`sock_diag`), and the processes that hold them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::wire::{Answer, Netlink, addr_of, attributes_after, be16_at, u8_at, u32_at};
use crate::net::detail::Socket;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_SKMEMINFO: u16 = 7;
const INET_DIAG_SKV6ONLY: u16 = 11;
/// Indices into the numbers of `INET_DIAG_SKMEMINFO`.
const SK_MEMINFO_RCVBUF: usize = 1;
const SK_MEMINFO_DROPS: usize = 8;
/// `struct inet_diag_msg`.
const HEADER: usize = 72;
const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;
const TCP_CLOSING: u8 = 11;
const KINDS: [(i32, &[u8]); 2] =
    [(libc::IPPROTO_TCP, &[TCP_LISTEN]), (libc::IPPROTO_UDP, &[TCP_CLOSE, TCP_ESTABLISHED])];

/// Process by inode of its socket: PID and command name.
pub type Processes = BTreeMap<u32, (u32, String)>;

/// The sockets of the calling thread's namespace. Where the kernel has no reader for a kind (its
/// module is not there), the kind's file tells all but devices, backlogs and `IPV6_V6ONLY`; what
/// that cannot be read of either is said in `unread`.
pub(in crate::net) fn sockets(
    netlink: &mut Netlink,
    processes: &Processes,
    unread: &mut Vec<String>,
) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for (proto, states) in KINDS {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let memory = &[INET_DIAG_SKMEMINFO];
            match dump(netlink, (family, proto), states, memory) {
                Ok(answer) => sockets.extend(
                    answer.messages().filter_map(|(_, body)| socket(proto as u8, body, processes)),
                ),
                Err(error) => match listed(file_of(family, proto), processes) {
                    Ok(found) => sockets.extend(found.into_iter().filter(|s| s.port != 0)),
                    // IPv6 is not there: nor are its sockets.
                    Err(_) if family == libc::AF_INET6 => {}
                    Err(_) => unread.push(format!("sockets of protocol {proto}: {error}")),
                },
            }
        }
    }
    for file in ["raw", "raw6"] {
        sockets.extend(listed(file, processes).unwrap_or_default());
    }
    sockets
}

const fn file_of(family: i32, proto: i32) -> &'static str {
    match (proto, family) {
        (libc::IPPROTO_TCP, libc::AF_INET) => "tcp",
        (libc::IPPROTO_TCP, _) => "tcp6",
        (_, libc::AF_INET) => "udp",
        _ => "udp6",
    }
}

/// What a file of `/proc/net` lists. Every kernel has them, unlike the readers for `sock_diag`.
fn listed(file: &str, processes: &Processes) -> io::Result<Vec<Socket>> {
    let text = fs::read_to_string(format!("/proc/thread-self/net/{file}"))?;
    let proto = match file.trim_end_matches('6') {
        "tcp" => Some(libc::IPPROTO_TCP as u8),
        "udp" => Some(libc::IPPROTO_UDP as u8),
        _ => None,
    };
    Ok(text.lines().skip(1).filter_map(|line| of_line(proto, line, processes)).collect())
}

/// A line of `/proc/net/{tcp,udp,raw}` (`get_tcp4_sock`, `udp4_format_sock`, `raw_sock_seq_show`).
/// Without a protocol it is a raw socket's, whose port is the protocol's number.
pub(super) fn of_line(proto: Option<u8>, line: &str, processes: &Processes) -> Option<Socket> {
    const TCP: Option<u8> = Some(libc::IPPROTO_TCP as u8);
    let words: Vec<&str> = line.split_whitespace().collect();
    let (addr, port) = words.get(1)?.split_once(':')?;
    let (peer, peer_port) = words.get(2)?.split_once(':')?;
    let state = u8::from_str_radix(words.get(3)?, 16).ok()?;
    let (_, queued) = words.get(4)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    if proto == TCP && state != TCP_LISTEN {
        return None;
    }
    let is_connected = proto.is_some() && state == TCP_ESTABLISHED;
    let peer = (hex_addr(peer)?, u16::from_str_radix(peer_port, 16).ok()?);
    Some(Socket {
        proto: proto.or_else(|| u8::try_from(port).ok())?,
        addr: hex_addr(addr)?,
        port: if proto.is_some() { port } else { 0 },
        v6only: proto.is_none() && addr.len() > 8,
        peer: is_connected.then_some(peer),
        queued: u32::from_str_radix(queued, 16).ok()?,
        // Of a listener what waits is listed, not how much may.
        limit: if proto == TCP { u32::MAX } else { 0 },
        drops: if proto == TCP { 0 } else { words.last()?.parse().ok()? },
        dev: None,
        process: processes.get(&words.get(9)?.parse().ok()?).cloned(),
    })
}

/// Words of 32 bits in host byte order, as `/proc/net` writes addresses.
fn hex_addr(text: &str) -> Option<IpAddr> {
    let words = (0..text.len() / 8).map(|at| {
        let word = u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    super::wire::addr(words.collect::<Option<Vec<_>>>()?.as_flattened())
}

/// The sockets of a family and protocol that are in one of the `states`, with these extensions
/// (`struct inet_diag_req_v2`).
pub(in crate::net) fn dump(
    netlink: &mut Netlink,
    (family, proto): (i32, i32),
    states: &[u8],
    extensions: &[u16],
) -> io::Result<Answer> {
    let mut request = request(family, proto, states);
    request[2] = extensions.iter().fold(0, |mask, extension| mask | 1 << (extension - 1));
    netlink.dump(SOCK_DIAG_BY_FAMILY, &request)
}

fn request(family: i32, proto: i32, states: &[u8]) -> [u8; 56] {
    let mut request = [0; 56];
    request[0] = family as u8;
    request[1] = proto as u8;
    let mask = states.iter().fold(0_u32, |mask, state| mask | 1 << state);
    request[4..8].copy_from_slice(&mask.to_ne_bytes());
    request
}

/// How many connections of the calling thread's namespace lead to `end`, each of which keeps a
/// local port from being used for another one. The kernel leaves out other ports by itself
/// (`inet_diag_dump_icsk`, since 2.6).
pub(super) fn connections_to(netlink: &mut Netlink, end: SocketAddr) -> io::Result<u32> {
    let family = if end.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let all: Vec<u8> = (TCP_ESTABLISHED..=TCP_CLOSING).filter(|s| *s != TCP_LISTEN).collect();
    let mut request = request(family, libc::IPPROTO_TCP, &all);
    request[10..12].copy_from_slice(&end.port().to_be_bytes());
    let answer = netlink.dump(SOCK_DIAG_BY_FAMILY, &request)?;
    let leads_there = |body: &[u8]| {
        let addr = addr_of(u8_at(body, 0)?, body.get(24..40)?)?;
        Some(addr == end.ip() && be16_at(body, 6)? == end.port())
    };
    let count = answer.messages().filter(|(_, body)| leads_there(body) == Some(true)).count();
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

pub(super) fn socket(proto: u8, body: &[u8], processes: &Processes) -> Option<Socket> {
    let (family, state) = (u8_at(body, 0)?, u8_at(body, 1)?);
    let mut socket = Socket {
        proto,
        addr: addr_of(family, body.get(8..24)?)?,
        port: be16_at(body, 4)?,
        v6only: false,
        peer: None,
        queued: u32_at(body, 56)?,
        limit: u32_at(body, 60)?,
        drops: 0,
        dev: u32_at(body, 40).filter(|dev| *dev != 0),
        process: processes.get(&u32_at(body, 68)?).cloned(),
    };
    if proto != libc::IPPROTO_TCP as u8 && state == TCP_ESTABLISHED {
        socket.peer = Some((addr_of(family, body.get(24..40)?)?, be16_at(body, 6)?));
    }
    if proto == libc::IPPROTO_UDP as u8 && socket.port == 0 {
        return None; // takes nothing yet
    }
    for (kind, value) in attributes_after(body, HEADER) {
        match kind {
            INET_DIAG_SKMEMINFO => {
                let number = |at: usize| u32_at(value, at * 4);
                if state != TCP_LISTEN {
                    socket.limit = number(SK_MEMINFO_RCVBUF).unwrap_or(socket.limit);
                }
                socket.drops = number(SK_MEMINFO_DROPS).unwrap_or(0).into();
            }
            INET_DIAG_SKV6ONLY => socket.v6only = u8_at(value, 0) == Some(1),
            _ => {}
        }
    }
    Some(socket)
}

/// Who holds which socket: a look at every descriptor that there is, so only on request.
pub(in crate::net) fn processes() -> Processes {
    let mut found = Processes::new();
    let Ok(entries) = fs::read_dir("/proc") else { return found };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        // Processes come and go, and some must not be looked at: their sockets stay nameless.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let mut inodes =
            descriptors.flatten().filter_map(|e| inode(&fs::read_link(e.path()).ok()?));
        let Some(first) = inodes.next() else { continue };
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        for inode in std::iter::once(first).chain(inodes) {
            found.entry(inode).or_insert_with(|| (pid, name.trim_end().to_owned()));
        }
    }
    found
}

/// `socket:[4711]` → 4711.
fn inode(link: &std::path::Path) -> Option<u32> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

impl Socket {
    /// Whether a packet to `addr` and `port` that comes in by device `dev` is for it, as far as
    /// addresses decide.
    #[must_use]
    pub fn takes(&self, addr: IpAddr, port: u16, dev: u32) -> bool {
        let is_any = match self.addr {
            IpAddr::V4(own) => own == Ipv4Addr::UNSPECIFIED && addr.is_ipv4(),
            IpAddr::V6(own) => own == Ipv6Addr::UNSPECIFIED && !(addr.is_ipv4() && self.v6only),
        };
        self.port == port && (is_any || self.addr == addr) && self.dev.is_none_or(|d| d == dev)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn own() -> Vec<Socket> {
        let mut netlink = Netlink::open(libc::NETLINK_SOCK_DIAG).unwrap();
        let mut unread = Vec::new();
        let sockets = sockets(&mut netlink, &processes(), &mut unread);
        assert_eq!(unread, Vec::<String>::new());
        sockets
    }

    #[test]
    fn an_own_listener_is_found_with_its_process_and_queue() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _waiting = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let sockets = own();
        let found = sockets.iter().find(|s| s.port == port && s.proto == 6).unwrap();
        assert_eq!(found.addr, Ipv4Addr::LOCALHOST);
        assert_eq!(found.queued, 1);
        assert!(found.limit > 1);
        assert_eq!(found.process.as_ref().unwrap().0, std::process::id());
        assert!(found.takes(Ipv4Addr::LOCALHOST.into(), port, 1));
        assert!(!found.takes("192.0.2.1".parse().unwrap(), port, 1));
    }

    #[test]
    fn raw_sockets_are_read_from_their_file() {
        let line = "   1: 0100007F:0001 00000000:0000 07 00000000:00000300 00:00000000 00000000     \
                    0        0 4711 2 00000000aa 5";
        let holder = (12, "ping".to_owned());
        let socket = of_line(None, line, &[(4711, holder.clone())].into()).unwrap();
        assert_eq!((socket.proto, socket.addr), (1, Ipv4Addr::LOCALHOST.into()));
        assert_eq!((socket.queued, socket.drops, socket.process), (0x300, 5, Some(holder)));
        let v6 = hex_addr("000080FE000000000000000001000000");
        assert_eq!(v6, Some("fe80::1".parse().unwrap()));
    }

    #[test]
    fn the_files_tell_of_listeners_what_the_kernels_reader_does() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = UdpSocket::bind("[::1]:0").unwrap();
        let port = |s: &Socket| (s.proto, s.addr, s.port, s.process.clone());
        let mine = |s: &Socket| s.process.as_ref().is_some_and(|p| p.0 == std::process::id());
        let processes = processes();
        let files = ["tcp", "udp", "tcp6", "udp6"];
        let listed = files.iter().flat_map(|file| listed(file, &processes).unwrap());
        let listed: Vec<_> = listed.filter(mine).map(|s| port(&s)).collect();
        let of_kernel: Vec<_> = own().iter().map(port).collect();
        assert!(listed.iter().any(|s| s.0 == 6));
        assert!(listed.iter().any(|s| s.2 == bound.local_addr().unwrap().port()));
        // Other tests' sockets come and go meanwhile: these two stay.
        let here = [listener.local_addr().unwrap().port(), bound.local_addr().unwrap().port()];
        for socket in listed.iter().filter(|s| here.contains(&s.2)) {
            assert!(of_kernel.contains(socket), "{socket:?}");
        }
    }

    #[test]
    fn udp_sockets_tell_what_waits_and_whom_they_talk_to() {
        let bound = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(bound.local_addr().unwrap()).unwrap();
        connected.send(&[0; 100]).unwrap();
        let sockets = own();
        let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
        let of = |port: u16| sockets.iter().find(|s| s.port == port && s.proto == 17).unwrap();
        assert!(of(port(&bound)).queued >= 100 && of(port(&bound)).limit > 1000);
        let peer = Some((Ipv4Addr::LOCALHOST.into(), port(&bound)));
        assert_eq!(of(port(&connected)).peer, peer);
    }
}
