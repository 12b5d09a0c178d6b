//! Entries of connection tracking (`IPCTNL_MSG_CT_GET`): one asked for by a tuple, or all whose
//! destination is translated.

use std::io;
use std::net::IpAddr;

use super::wire::{
    Netlink, addr, attribute, attributes, attributes_after, be16_at, be32_at, u8_at,
};
use crate::event::{Proto, Tuple};

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_GET`.
const GET: u16 = (1 << 8) | 1;
/// `struct nfgenmsg`.
const HEADER: usize = 4;

/// `CTA_*`.
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const MARK: u16 = 8;
const ZONE: u16 = 18;
const STATUS_MASK: u16 = 26;
/// `CTA_TUPLE_*`.
const IP: u16 = 1;
const PROTO: u16 = 2;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

/// `IPS_SEEN_REPLY`.
const SEEN_REPLY: u32 = 1 << 1;
/// `IPS_DST_NAT`.
const DST_NAT: u32 = 1 << 5;

/// As many bytes of entries are read, a hundred thousand entries or so.
const MOST: usize = 32 << 20;

/// A tracked connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its first packet before any translation.
    pub original: Tuple,
    /// What answers to it look like before any is undone: its reverse shows the translation.
    pub reply: Tuple,
    /// `IPS_*`, `enum ip_conntrack_status`.
    pub status: u32,
    /// Connection mark.
    pub mark: u32,
    /// Zone.
    pub zone: u16,
}

impl Entry {
    /// An answer has been seen.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.status & SEEN_REPLY != 0
    }

    /// Where its packets are sent instead of where they are addressed to.
    #[must_use]
    pub fn new_destination(&self) -> Option<(IpAddr, u16)> {
        let (now, was) = (self.reply.reversed(), self.original);
        ((now.dst, now.dport) != (was.dst, was.dport)).then_some((now.dst, now.dport))
    }
}

/// The connection of the calling thread's namespace (zone 0) that a packet with this tuple belongs
/// to, in either direction. ICMP is looked up as an echo request.
///
/// # Errors
///
/// `EPERM` without `CAP_NET_ADMIN`; those of the socket. `None` when nothing is tracked, or
/// protocol or family are not.
pub fn lookup_here(tuple: &Tuple) -> io::Result<Option<Entry>> {
    if !is_tracking() {
        return Ok(None);
    }
    let Some(request) = request(tuple) else { return Ok(None) };
    match Netlink::open(libc::NETLINK_NETFILTER)?.get(GET, &request) {
        Ok(answer) => Ok(answer.messages().find_map(|(_, body)| entry(body))),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The connections of the calling thread's namespace whose destination is translated: by rules that
/// may be gone, by IPVS, by what no rule shows.
///
/// # Errors
///
/// `EPERM` without `CAP_NET_ADMIN`; `FileTooLarge` where there are too many; those of the socket.
pub fn translated_here() -> io::Result<Vec<Entry>> {
    if !is_tracking() {
        return Ok(Vec::new());
    }
    let bit = DST_NAT.to_be_bytes();
    // The kernel picks them since 5.15 (`ctnetlink_filter_parse_status`), and gives all before.
    let request = [vec![0; HEADER], attribute(STATUS, &bit), attribute(STATUS_MASK, &bit)].concat();
    let answer = Netlink::open(libc::NETLINK_NETFILTER)?.dump_up_to(GET, &request, MOST)?;
    let entries = answer.messages().filter_map(|(_, body)| entry(body));
    Ok(entries.filter(|entry| entry.status & DST_NAT != 0).collect())
}

/// Where nothing tracks, asking would make the kernel load what does.
fn is_tracking() -> bool {
    std::path::Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists()
}

fn request(tuple: &Tuple) -> Option<Vec<u8>> {
    let (family, addresses) = match (tuple.src, tuple.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            (libc::AF_INET, [(1, src.octets().to_vec()), (2, dst.octets().to_vec())])
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            (libc::AF_INET6, [(3, src.octets().to_vec()), (4, dst.octets().to_vec())])
        }
        _ => return None,
    };
    let (sport, dport) = (tuple.sport.to_be_bytes(), tuple.dport.to_be_bytes());
    let (number, proto) = match tuple.proto {
        Proto::Icmp => (1, vec![attribute(4, &sport), attribute(5, &[8]), attribute(6, &[0])]),
        Proto::Icmp6 => (58, vec![attribute(7, &sport), attribute(8, &[128]), attribute(9, &[0])]),
        Proto::Tcp => (6, vec![attribute(2, &sport), attribute(3, &dport)]),
        Proto::Udp => (17, vec![attribute(2, &sport), attribute(3, &dport)]),
        Proto::Sctp => (132, vec![attribute(2, &sport), attribute(3, &dport)]),
        Proto::Arp | Proto::Other(_) => return None,
    };
    let addresses = addresses.map(|(kind, bytes)| attribute(kind, &bytes)).concat();
    let proto = [attribute(1, &[number]), proto.concat()].concat();
    let tuple = [attribute(IP | NESTED, &addresses), attribute(PROTO | NESTED, &proto)].concat();
    let header = vec![u8::try_from(family).ok()?, 0, 0, 0];
    Some([header, attribute(TUPLE_ORIG | NESTED, &tuple)].concat())
}

pub(super) fn entry(body: &[u8]) -> Option<Entry> {
    let value = |wanted| {
        attributes_after(body, HEADER).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    };
    let number = |wanted| value(wanted).and_then(|value| be32_at(value, 0)).unwrap_or(0);
    Some(Entry {
        original: tuple(value(TUPLE_ORIG)?)?,
        reply: tuple(value(TUPLE_REPLY)?)?,
        status: number(STATUS),
        mark: number(MARK),
        zone: value(ZONE).and_then(|value| be16_at(value, 0)).unwrap_or(0),
    })
}

/// The identifier of an echo stands for both ports, as in [`Tuple`].
fn tuple(nest: &[u8]) -> Option<Tuple> {
    let part = |wanted| attributes(nest).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let (ip, proto) = (part(IP)?, part(PROTO)?);
    let of = |bytes, wanted: &[u16]| {
        attributes(bytes).find(|(kind, _)| wanted.contains(kind)).map(|(_, value)| value)
    };
    let port = |wanted| of(proto, wanted).and_then(|value| be16_at(value, 0)).unwrap_or(0);
    Some(Tuple {
        src: of(ip, &[1, 3]).and_then(addr)?,
        dst: of(ip, &[2, 4]).and_then(addr)?,
        proto: Proto::from_ip(u8_at(of(proto, &[1])?, 0)?),
        sport: port(&[2, 4, 7]),
        dport: port(&[3, 4, 7]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_reads_as_the_entry_that_it_asks_for() {
        for (proto, ports) in [(Proto::Udp, (4000, 53)), (Proto::Icmp6, (7, 7))] {
            let (src, dst) = match proto {
                Proto::Icmp6 => ("fd00::1", "fd00::2"),
                _ => ("10.244.1.2", "10.96.0.10"),
            };
            let asked = Tuple {
                src: src.parse().unwrap(),
                dst: dst.parse().unwrap(),
                proto,
                sport: ports.0,
                dport: ports.1,
            };
            let mut body = request(&asked).unwrap();
            let nest = body[HEADER + 4..].to_vec();
            body.extend(attribute(TUPLE_REPLY, &nest));
            body.extend(attribute(STATUS, &2_u32.to_be_bytes()));
            body.extend(attribute(ZONE, &9_u16.to_be_bytes()));
            let entry = entry(&body).unwrap();
            assert_eq!((entry.original, entry.zone, entry.is_answered()), (asked, 9, true));
        }
    }

    #[test]
    fn what_is_not_tracked_has_no_entry() {
        let nobody = Tuple {
            src: "192.0.2.1".parse().unwrap(),
            dst: "192.0.2.2".parse().unwrap(),
            proto: Proto::Tcp,
            sport: 1,
            dport: 2,
        };
        assert_eq!(lookup_here(&nobody).unwrap(), None);
        assert_eq!(lookup_here(&Tuple { proto: Proto::Arp, ..nobody }).unwrap(), None);
    }
}
