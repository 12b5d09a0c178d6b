//! Segments that TCP sent again, one event each.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use tracer_common::perf::Retransmission as Event;

use super::tcp;
use crate::cli::filter::FilterArgs;
use crate::net::Inum;
use crate::perf::Node;
use crate::report::Retransmission;

/// Events that a report has at most: the last ones.
const MOST: usize = 100;
/// `TCP_SYN_SENT`, `TCP_SYN_RECV`.
const SYN: [u8; 2] = [2, 3];
/// `TCP_CA_CWR`, `TCP_CA_Recovery`, `TCP_CA_Loss`; below there is no loss that TCP knows of.
const CWR: u8 = 2;
const LOSS: u8 = 4;

/// What was sent again.
#[derive(Debug, Default)]
pub(super) struct Again {
    last: VecDeque<Retransmission>,
    counts: BTreeMap<(Inum, &'static str), u64>,
}

impl Again {
    /// Takes a record of the ring.
    pub(super) fn take(&mut self, record: &[u8], node: &Node, filter: &FilterArgs) {
        let Some(event) = decode(record) else { return };
        let (own, peer) = ends(&event);
        if !node.is_in_scope(event.netns) || !tcp::is_asked_for(filter, own, peer) {
            return;
        }
        let cause = cause(&event);
        *self.counts.entry((event.netns, cause)).or_default() += 1;
        if self.last.len() >= MOST {
            self.last.pop_front();
        }
        self.last.push_back(Retransmission {
            t_ns: event.ktime_ns.saturating_add_signed(crate::bpf::clock_offset_ns()),
            netns: node.netns(event.netns),
            owner: node.owner(event.netns).cloned(),
            src: own.to_string(),
            dst: peer.to_string(),
            seq: event.seq,
            cause: cause.to_owned(),
        });
    }

    /// The last of them.
    pub(super) fn last(&self) -> Vec<Retransmission> {
        self.last.iter().cloned().collect()
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.counts.values().sum()
    }

    /// How many there were for each reason, by the names of their namespaces.
    pub(super) fn counts(&self, node: &Node) -> BTreeMap<(String, String), u64> {
        let named = |((netns, cause), n): (&(Inum, &'static str), &u64)| {
            ((node.netns(*netns).name, (*cause).to_owned()), *n)
        };
        self.counts.iter().map(named).collect()
    }
}

fn decode(record: &[u8]) -> Option<Event> {
    // SAFETY: plain old data, and as many bytes as it has.
    (record.len() >= size_of::<Event>())
        .then(|| unsafe { std::ptr::read_unaligned(record.as_ptr().cast()) })
}

fn ends(event: &Event) -> (SocketAddr, SocketAddr) {
    let addr = |words: [u32; 4]| -> IpAddr {
        if event.family == libc::AF_INET as u16 {
            return IpAddr::from(words[0].to_ne_bytes());
        }
        let mut bytes = [0; 16];
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        IpAddr::from(bytes).to_canonical()
    };
    let peer_port = u16::from_be_bytes(event.peer_port_be);
    (
        SocketAddr::new(addr(event.addr), event.port),
        SocketAddr::new(addr(event.peer_addr), peer_port),
    )
}

/// Why: a connection that is not answered, a time-out, what the other end's acknowledgements
/// say, or a probe whether the last segment came.
fn cause(event: &Event) -> &'static str {
    match event.recovery {
        _ if SYN.contains(&event.state) => "syn",
        LOSS => "timeout",
        CWR..LOSS => "fast",
        _ => "probe",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_read_in_both_families() {
        let word = u32::from_ne_bytes([10, 0, 0, 2]);
        let event = Event {
            addr: [word, 0, 0, 0],
            port: 40_000,
            peer_addr: [u32::from_ne_bytes([10, 0, 0, 3]), 0, 0, 0],
            peer_port_be: [0, 80],
            family: 2,
            ..Event::default()
        };
        let (own, peer) = ends(&event);
        assert_eq!(
            (own.to_string().as_str(), peer.to_string().as_str()),
            ("10.0.0.2:40000", "10.0.0.3:80")
        );
        // A socket of IPv6 that talks IPv4.
        let mapped = [0, 0, 0xffff_u32.to_be(), word];
        let (own, _) = ends(&Event { addr: mapped, family: 10, ..event });
        assert_eq!(own.to_string(), "10.0.0.2:40000");
        assert!(decode(&[0; 55]).is_none() && decode(&[0; 56]).is_some());
    }

    #[test]
    fn causes_are_told_apart() {
        let of = |state, recovery| cause(&Event { state, recovery, ..Event::default() });
        assert_eq!([of(2, 4), of(1, 4), of(1, 3), of(1, 0)], ["syn", "timeout", "fast", "probe"]);
    }
}
