//! Netlink by hand, for the families that the netlink crates know little of: one blocking dump,
//! and what reads its bytes. The socket stays in the namespace of the thread that opened it.

use std::io;
use std::net::IpAddr;

use netlink_sys::{Socket, SocketAddr};

/// The kernel fills a datagram up to the buffer that it is read into, 32 KiB at most.
const DATAGRAM: usize = 32 * 1024;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Dumps that changed while they were taken are taken again so many times.
const TRIES: usize = 3;
/// What the kernel was not asked in vain for takes milliseconds.
static TIMEOUT: libc::timeval = libc::timeval { tv_sec: 5, tv_usec: 0 };

/// A socket of one netlink family.
pub(in crate::net) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// The answer to a dump.
#[derive(Debug, Default)]
pub(in crate::net) struct Answer(Vec<u8>);

impl Netlink {
    pub(in crate::net) fn open(protocol: i32) -> io::Result<Self> {
        use std::os::fd::AsRawFd as _;
        let mut socket = Socket::new(protocol as isize)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        // SAFETY: the pointer and the length are those of a `timeval` that outlives the call.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const TIMEOUT).cast(),
                size_of::<libc::timeval>() as libc::socklen_t,
            );
        }
        Ok(Self { socket, sequence: 0 })
    }

    /// All messages that answer the dump request `kind` with `body`.
    pub(in crate::net) fn dump(&mut self, kind: u16, body: &[u8]) -> io::Result<Answer> {
        self.dump_up_to(kind, body, usize::MAX)
    }

    /// The same, where the answer may be too large: behind the error the socket is of no use.
    pub(in crate::net) fn dump_up_to(
        &mut self,
        kind: u16,
        body: &[u8],
        most: usize,
    ) -> io::Result<Answer> {
        let mut answer = Vec::new();
        for _ in 0..TRIES {
            answer.clear();
            self.send(kind, NLM_F_DUMP, body)?;
            if !self.receive(&mut answer, most)? {
                break;
            }
        }
        Ok(Answer(answer))
    }

    /// The message that answers the question `kind` with `body` about one object.
    pub(in crate::net) fn get(&mut self, kind: u16, body: &[u8]) -> io::Result<Answer> {
        let mut answer = Vec::new();
        self.send(kind, NLM_F_ACK, body)?;
        self.receive(&mut answer, usize::MAX)?;
        Ok(Answer(answer))
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut request = Vec::with_capacity(HEADER + body.len());
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend(0_u32.to_ne_bytes());
        request.extend(body);
        self.socket.send(&request, 0).map(drop)
    }

    /// Reads until the dump is done, or acknowledged; true when it is not consistent.
    fn receive(&mut self, answer: &mut Vec<u8>, most: usize) -> io::Result<bool> {
        let mut buffer = [0; DATAGRAM];
        let mut is_interrupted = false;
        loop {
            let length = self.socket.recv(&mut &mut buffer[..], 0)?;
            let mut rest = &buffer[..length];
            while let Some((message, next)) = split_message(rest) {
                rest = next;
                if message.sequence != self.sequence {
                    continue; // of a dump that was given up
                }
                is_interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        let code = i32_at(message.body, 0).unwrap_or(0);
                        return match code {
                            0.. => Ok(is_interrupted),
                            _ => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    _ if answer.len() > most => {
                        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
                    }
                    _ => answer.extend(message.whole),
                }
            }
        }
    }
}

impl Answer {
    /// Its bytes.
    pub(in crate::net) fn len(&self) -> usize {
        self.0.len()
    }

    /// Type and body of each message.
    pub(in crate::net) fn messages(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (message, next) = split_message(rest)?;
            rest = next;
            Some((message.kind, message.body))
        })
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
    /// With its header and padding.
    whole: &'a [u8],
}

fn split_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = u32_at(bytes, 0)? as usize;
    let body = bytes.get(HEADER..length)?;
    let (whole, rest) = bytes.split_at(length.next_multiple_of(4).min(bytes.len()));
    let message = Message {
        kind: u16_at(bytes, 4)?,
        flags: u16_at(bytes, 6)?,
        sequence: u32_at(bytes, 8)?,
        body,
        whole,
    };
    Some((message, rest))
}

/// The attributes in `bytes`: type without the nesting and byte order flags, and value. Ends at
/// the first one that does not fit.
pub(in crate::net) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some((kind, value))
    })
}

/// The attributes behind a fixed header of so many bytes.
pub(in crate::net) fn attributes_after(
    body: &[u8],
    header: usize,
) -> impl Iterator<Item = (u16, &[u8])> {
    attributes(body.get(header.next_multiple_of(4)..).unwrap_or_default())
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

pub(in crate::net) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// Host byte order, as the next ones.
pub(in crate::net) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_ne_bytes)
}

pub(in crate::net) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_ne_bytes)
}

pub(in crate::net) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes_at(bytes, at).map(i32::from_ne_bytes)
}

pub(in crate::net) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_ne_bytes)
}

/// Network byte order.
pub(in crate::net) fn be16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_be_bytes)
}

/// Network byte order.
pub(in crate::net) fn be32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_be_bytes)
}

/// An address of four or sixteen bytes.
pub(in crate::net) fn addr(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes_at::<4>(bytes, 0).map(IpAddr::from),
        16 => bytes_at::<16>(bytes, 0).map(IpAddr::from),
        _ => None,
    }
}

/// The address of a family at the start of a field that holds either.
pub(in crate::net) fn addr_of(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    let length = if i32::from(family) == libc::AF_INET6 { 16 } else { 4 };
    addr(bytes.get(..length)?)
}

/// A C string.
pub(in crate::net) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An attribute with its padding.
pub(in crate::net) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_end_where_they_do_not_fit() {
        let mut bytes = attribute(3, b"eth0\0");
        bytes.extend(attribute(0x8001, &7_u32.to_ne_bytes()));
        bytes.extend([200, 0, 9, 0, 1]);
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].0, text(read[0].1).as_str()), (3, "eth0"));
        assert_eq!((read[1].0, u32_at(read[1].1, 0)), (1, Some(7)));
    }

    #[test]
    fn loopback_is_in_every_dump_of_links() {
        let mut netlink = Netlink::open(libc::NETLINK_ROUTE).unwrap();
        let answer = netlink.dump(libc::RTM_GETLINK, &[0; 16]).unwrap();
        assert!(answer.messages().any(|(_, body)| i32_at(body, 4) == Some(1)));
    }

    #[test]
    fn a_refusal_is_an_error() {
        let mut netlink = Netlink::open(libc::NETLINK_ROUTE).unwrap();
        assert!(netlink.dump(0x7fff, &[0; 16]).is_err());
    }
}
