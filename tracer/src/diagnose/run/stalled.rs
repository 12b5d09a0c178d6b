//! Segments of full size that get lost inside of a connection that answers short ones: sent again
//! and again, and never acknowledged.

use std::collections::BTreeMap;

use crate::diagnose::Direction;
use crate::diagnose::case::Case;
use crate::event::Tcp;
use crate::journey::{Flow, Journey, Lineage};

/// How long an answer may take. What was asked later is not judged, unless it was dropped.
pub(super) const PATIENCE_NS: u64 = 1_000_000_000;
/// Segments from this size on are long: whatever is smaller gets through any link.
pub(super) const LONG: u32 = 1000;
/// What comes so much later was sent again: `TCP_RTO_MIN` is 200 ms.
const AGAIN_NS: u64 = 100_000_000;

/// A segment with data, as it was seen to be sent.
#[derive(Clone, Copy)]
struct Sent {
    at_ns: u64,
    seq: u32,
    payload: u32,
    /// Of its IP packet.
    length: u32,
}

/// The length, as an IP packet, of what one side of a connection does not get across.
pub(super) fn length(case: &Case<'_>, flow: &Flow, until_ns: u64) -> Option<u32> {
    let both = [(Direction::Request, Direction::Reply), (Direction::Reply, Direction::Request)];
    both.into_iter().find_map(|(there, back)| {
        let acked = acknowledged(case.packets(flow, back))?;
        let sent: Vec<Sent> =
            case.packets(flow, there).filter_map(|journey| sent(case, journey)).collect();
        unacknowledged(&sent, acked, until_ns)
    })
}

/// By its sender, or cut out of a longer one: a flooded frame's copies are not sent.
fn sent(case: &Case<'_>, journey: &Journey) -> Option<Sent> {
    let is_copy = |kind: Lineage| {
        matches!(kind, Lineage::Clone | Lineage::Copy | Lineage::Fragment) || kind.is_succession()
    };
    let headers = journey.first.filter(|_| !journey.parent.is_some_and(|p| is_copy(p.kind)))?;
    let tcp = headers.tcp().filter(|t| t.payload_len > 0)?;
    let length = on_wire(case, journey, headers.len);
    Some(Sent { at_ns: journey.start_ns, seq: tcp.seq, payload: tcp.payload_len, length })
}

/// How far the other side has got everything.
fn acknowledged<'a>(packets: impl Iterator<Item = &'a Journey>) -> Option<u32> {
    let segments = packets.filter_map(|j| j.first?.tcp().copied());
    let acks = segments.filter(|t| t.flags & Tcp::ACK != 0 && t.flags & Tcp::RST == 0);
    acks.map(|t| t.ack).reduce(|a, b| if is_after(b, a) { b } else { a })
}

/// In the sequence space, which goes round.
fn is_after(a: u32, b: u32) -> bool {
    (1..1 << 31).contains(&a.wrapping_sub(b))
}

/// A long segment that was sent more than once, first some time ago, and is not acknowledged. The
/// shortest with its number: the first was perhaps yet to be cut into segments.
fn unacknowledged(sent: &[Sent], acked: u32, until_ns: u64) -> Option<u32> {
    let mut open: BTreeMap<u32, Vec<&Sent>> = BTreeMap::new();
    for segment in sent.iter().filter(|s| is_after(s.seq.wrapping_add(s.payload), acked)) {
        open.entry(segment.seq).or_default().push(segment);
    }
    open.into_values().find_map(|same| {
        let first_ns = same.iter().map(|s| s.at_ns).min()?;
        let last_ns = same.iter().map(|s| s.at_ns).max()?;
        let length = same.iter().map(|s| s.length).min()?;
        let is_due = first_ns + AGAIN_NS <= last_ns && first_ns + PATIENCE_NS <= until_ns;
        (is_due && length >= LONG).then_some(length)
    })
}

/// What is longer than the device by which it leaves takes is cut before.
fn on_wire(case: &Case<'_>, journey: &Journey, len: u32) -> u32 {
    let Some(first) = journey.hops.first() else { return len };
    let src = journey.first.map(|h| h.tuple.src);
    let own = case.netns(first.netns).into_iter().flat_map(|n| n.devices.values());
    let mut own = own.filter(|d| d.addresses.iter().any(|(a, _)| Some(*a) == src));
    let at = || case.state.device(first.netns, first.dev.as_ref()?.ifindex);
    let mtu = own.next().or_else(at).map_or(0, |d| d.mtu);
    if mtu > 0 { len.min(mtu) } else { len }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn segment(ms: u64, seq: u32, length: u32) -> Sent {
        Sent { at_ns: ms * MS, seq, payload: length - 52, length }
    }

    #[test]
    fn what_is_sent_again_and_never_acknowledged_is_stuck() {
        let stuck = [segment(1, 500, 95), segment(2, 543, 7292), segment(203, 543, 1500)];
        assert_eq!(unacknowledged(&stuck, 543, 1500 * MS), Some(1500));
        let early = unacknowledged(&stuck, 543, 900 * MS);
        assert_eq!(early, None, "it may still come");
        assert_eq!(unacknowledged(&stuck, 7783, 1500 * MS), None, "it was acknowledged");
        assert_eq!(unacknowledged(&stuck[..2], 543, 1500 * MS), None, "sent once alone");
        let short = [segment(2, 543, 300), segment(203, 543, 300)];
        assert_eq!(unacknowledged(&short, 543, 1500 * MS), None, "not for its length");
        // Cut into segments at once: that is not sent again.
        let cut = [segment(2, 543, 7292), segment(3, 543, 1500)];
        assert_eq!(unacknowledged(&cut, 543, 1500 * MS), None);
    }

    #[test]
    fn the_sequence_space_goes_round() {
        assert!(is_after(5, 4) && !is_after(4, 5) && !is_after(4, 4));
        assert!(is_after(3, u32::MAX - 3) && !is_after(u32::MAX - 3, 3));
    }
}
