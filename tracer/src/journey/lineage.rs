//! Where a journey comes from: the journey that it is a clone, copy, segment, fragment,
//! retransmission or answer of, or an error about.

use tracer_common::{
    Probe,
    event::{OriginDetail, origin},
};

use super::{
    Lineage, Parent,
    fate::is_answer,
    recent::{Recent, Trace},
};
use crate::event::{Event, Headers, L4, Packet, Proto, Tcp, Tuple};

/// A copy is made while the original is in the same function.
const COPY_NS: u64 = 5_000_000;
/// What is handed to a driver, or to a process, comes back at once.
const REBUILD_NS: u64 = 1_000_000_000;
/// How long the kernel waits for the other fragments (`net.ipv4.ipfrag_time`), less than that.
const REASSEMBLY_NS: u64 = 10_000_000_000;
/// How many candidates are compared.
const MAX_CANDIDATES: usize = 32;

/// The parent of the journey that begins with `e`, whose followed headers are `first`.
pub(super) fn parent(recent: &Recent, e: &Event, first: &Headers) -> Option<Parent> {
    let of = |kind| move |id| Parent { id, kind };
    None.or_else(|| clone(recent, e, first).map(of(Lineage::Clone)))
        .or_else(|| fragment(recent, e, first).map(of(Lineage::Fragment)))
        .or_else(|| segment(recent, e, first).map(of(Lineage::Segment)))
        .or_else(|| copy(recent, e, first).map(of(Lineage::Copy)))
        .or_else(|| rejoined(recent, e, first).map(of(Lineage::Reassembly)))
        .or_else(|| rebuilt(recent, e, first).map(of(Lineage::Rebuild)))
        .or_else(|| icmp_error(recent, e).map(of(Lineage::IcmpError)))
        .or_else(|| retransmit(recent, e, first).map(of(Lineage::Retransmit)))
        .or_else(|| reply(recent, e, first).map(of(Lineage::Reply)))
}

/// The other journey was there first.
fn is_elder(t: &Trace, e: &Event) -> bool {
    t.id != e.journey && (t.start_ns, t.id) < (e.ktime_ns, e.journey)
}

/// Shares the data of another journey's skb and is the same packet. `skb->head` alone does not
/// tell: a freed head is soon in use by a stranger.
fn clone(recent: &Recent, e: &Event, first: &Headers) -> Option<u64> {
    let other = recent.with_head(e.head).filter(|t| is_elder(t, e))?;
    (e.is_cloned() && is_same_packet(other, first)).then_some(other.id)
}

/// The same packet once more, in data of its own, at the same time and place.
fn copy(recent: &Recent, e: &Event, first: &Headers) -> Option<u64> {
    if first.ip_id.is_none_or(|id| id == 0) {
        return None;
    }
    let is_copied = |t: &&Trace| {
        is_elder(t, e)
            && t.head != e.head
            && t.netns_now == e.netns
            && e.ktime_ns.saturating_sub(t.last_ns) < COPY_NS
            && is_same_packet(t, first)
    };
    recent.with_key(&first.key()).take(MAX_CANDIDATES).find(is_copied).map(|t| t.id)
}

/// The parent that the kernel side tells: the original of a copy, or what the skb held before.
pub(super) fn told(recent: &Recent, e: &Event, detail: &OriginDetail) -> Option<Parent> {
    let kind = match detail.kind {
        origin::CLONE => Lineage::Clone,
        origin::COPY => Lineage::Copy,
        origin::ENCAP => Lineage::Encap,
        _ => became(recent.trace(detail.parent)?, recent.trace(e.journey)?)?,
    };
    Some(Parent { id: detail.parent, kind })
}

/// What the packet of an skb has become by the time another one is found in it. `None` when the
/// one is gone unseen and the other has nothing to do with it.
fn became(was: &Trace, now: &Trace) -> Option<Lineage> {
    let (before, after) = (&was.first, &now.first);
    let is_between_same = (was.key.src, was.key.dst, was.key.proto)
        == (after.tuple.src, after.tuple.dst, after.tuple.proto);
    if before.fragment.is_some() {
        // A datagram of IPv6 has no identification of its own.
        let is_whole =
            after.fragment.is_none() && (after.ip_id.is_none() || after.ip_id == before.ip_id);
        return (is_whole && is_between_same).then_some(Lineage::Reassembly);
    }
    if is_between_same {
        return is_merged(was, now).then_some(Lineage::Merge);
    }
    let is_unpacked = now.birth == Probe::Rx
        && now.start_ns.saturating_sub(was.last_ns) < REBUILD_NS
        && before.fragment.is_none();
    unpacking(before).filter(|_| is_unpacked)
}

/// How what such a packet carries comes out of it.
fn unpacking(outer: &Headers) -> Option<Lineage> {
    const IP_TUNNELS: [u8; 3] = [4, 41, 47];
    const ESP: u8 = 50;
    match outer.tuple.proto {
        Proto::Other(ESP) => Some(Lineage::Decrypt),
        Proto::Other(proto) if IP_TUNNELS.contains(&proto) => Some(Lineage::Decap),
        // VXLAN's flag, or Geneve's port: else it cannot be read, as of WireGuard or ESP in UDP.
        Proto::Udp => {
            let payload = outer.payload.as_slice();
            let is_plain = payload.first().is_some_and(|flags| flags & 0xf8 == 0x08)
                || outer.tuple.dport == 6081;
            Some(if is_plain { Lineage::Decap } else { Lineage::Decrypt })
        }
        _ => None,
    }
}

/// The packet begins with the bytes of that one, and is longer.
fn is_merged(first: &Trace, whole: &Trace) -> bool {
    whole.len > first.len
        && match (&first.first.l4, &whole.first.l4) {
            (L4::Tcp(a), L4::Tcp(b)) => a.seq == b.seq,
            (L4::Udp { .. }, L4::Udp { .. }) => true,
            _ => false,
        }
}

/// Journeys of the segments that a packet was merged from, in order: they were handed to the
/// device that it was received by, and nothing was seen of them since.
pub(super) fn merged(recent: &Recent, id: u64) -> Vec<u64> {
    let Some(whole) = recent.trace(id) else { return Vec::new() };
    let is_part = |t: &&Trace| {
        t.is_open
            && t.id != id
            && t.probe == Probe::Xmit
            && t.start_ns < whole.start_ns
            && match (&t.first.l4, &whole.first.l4) {
                (L4::Tcp(part), L4::Tcp(whole)) => part.payload_len > 0 && is_within(part, whole),
                (L4::Udp { .. }, L4::Udp { .. }) => t.len <= u32::from(whole.gso_size) + 48,
                _ => false,
            }
    };
    let mut parts: Vec<&Trace> = recent.with_key(&whole.first.key()).filter(is_part).collect();
    parts.sort_by_key(|t| (t.start_ns, t.id));
    let most = whole.len.div_ceil(u32::from(whole.gso_size.max(1)));
    parts.iter().take(most as usize).map(|t| t.id).collect()
}

/// The same packet in another skb that comes in by another device: a driver (XDP on a veth) or a
/// process (behind tun) has made it anew of the one that it was handed.
fn rebuilt(recent: &Recent, e: &Event, first: &Headers) -> Option<u64> {
    if e.probe != Probe::Rx {
        return None;
    }
    let is_handed = |t: &&Trace| {
        is_elder(t, e)
            && matches!(t.probe, Probe::Xmit | Probe::Consume | Probe::CopyToUser)
            && (t.netns_now, t.ifindex) != (e.netns, e.ifindex)
            && e.ktime_ns.saturating_sub(t.last_ns) < REBUILD_NS
            && is_same_packet(t, first)
    };
    recent.with_key(&first.key()).take(MAX_CANDIDATES).find(is_handed).map(|t| t.id)
}

/// A packet put together again from its fragments: the first of those that are here.
fn rejoined(recent: &Recent, e: &Event, first: &Headers) -> Option<u64> {
    if first.fragment.is_some() || first.ip_id == Some(0) {
        return None;
    }
    fragments(recent, e, first).first().copied()
}

/// The fragments of a packet in the namespace where it was put together, in their order.
pub(super) fn fragments(recent: &Recent, e: &Event, whole: &Headers) -> Vec<u64> {
    let is_here = |t: &&Trace| {
        is_elder(t, e)
            && t.netns_now == e.netns
            && t.first.fragment.is_some()
            && (whole.ip_id.is_none() || t.first.ip_id == whole.ip_id)
            && e.ktime_ns.saturating_sub(t.last_ns) < REASSEMBLY_NS
    };
    // Only the first fragment has ports.
    let key = whole.key();
    let bare = Tuple { sport: 0, dport: 0, ..key };
    let others = (bare != key).then_some(bare);
    let mut found: Vec<&Trace> = Vec::new();
    for key in [Some(key), others].into_iter().flatten() {
        found.extend(recent.with_key(&key).take(MAX_CANDIDATES).filter(is_here));
    }
    found.sort_by_key(|t| t.first.fragment.map(|f| f.offset));
    found.iter().map(|t| t.id).collect()
}

fn is_same_packet(t: &Trace, now: &Headers) -> bool {
    t.first.ip_id == now.ip_id
        && t.first.fragment == now.fragment
        && t.first.payload == now.payload
        && t.first.tuple.proto == now.tuple.proto
        && match (&t.first.l4, &now.l4) {
            (L4::Tcp(a), L4::Tcp(b)) => {
                (a.seq, a.ack, a.flags, a.payload_len) == (b.seq, b.ack, b.flags, b.payload_len)
            }
            (L4::Icmp(a), L4::Icmp(b)) => (a.kind, a.code, a.seq) == (b.kind, b.code, b.seq),
            (a, b) => a == b,
        }
}

fn fragment(recent: &Recent, e: &Event, first: &Headers) -> Option<u64> {
    first.fragment?;
    let is_whole = |t: &&Trace| {
        is_elder(t, e) && t.first.fragment.is_none() && t.first.len.max(t.len) > first.len
    };
    // IPv6 packets have no identification before they are fragmented; their tuple must do, and
    // serves the first fragment only.
    recent
        .with_ident(first)
        .filter(is_whole)
        .or_else(|| recent.with_key(&first.key()).find(|t| is_whole(t) && t.first.ip_id.is_none()))
        .map(|t| t.id)
}

/// Part of the bytes of a GSO packet of the same flow.
fn segment(recent: &Recent, e: &Event, first: &Headers) -> Option<u64> {
    let is_whole = |t: &&Trace| {
        is_elder(t, e)
            && t.gso_size > 0
            && t.len > e.len
            && match (&first.l4, &t.first.l4) {
                (L4::Tcp(part), L4::Tcp(whole)) => part.payload_len > 0 && is_within(part, whole),
                (L4::Udp { .. }, L4::Udp { .. }) => is_piece(t, e, first),
                _ => false,
            }
    };
    recent.with_key(&first.key()).take(MAX_CANDIDATES).find(is_whole).map(|t| t.id)
}

/// The bytes of a segment are among those of another.
fn is_within(part: &Tcp, whole: &Tcp) -> bool {
    let offset = part.seq.wrapping_sub(whole.seq);
    offset < whole.payload_len && offset + part.payload_len <= whole.payload_len
}

/// A datagram is a piece of a larger one that was cut up in this namespace: its identification
/// counts on from the larger one's, where there is one.
fn is_piece(whole: &Trace, e: &Event, piece: &Headers) -> bool {
    let pieces = whole.len.div_ceil(u32::from(whole.gso_size));
    let is_next = match (whole.first.ip_id, piece.ip_id) {
        (Some(from), Some(id)) => u32::from((id as u16).wrapping_sub(from as u16)) < pieces,
        _ => true,
    };
    is_next && whole.netns_now == e.netns && e.ktime_ns.saturating_sub(whole.last_ns) < COPY_NS
}

/// The packet that an ICMP error quotes, as it looked when the error was made.
fn icmp_error(recent: &Recent, e: &Event) -> Option<u64> {
    let quoted = e.packet.as_ref().and_then(Packet::quoted)?;
    let is_it = |t: &&Trace| is_elder(t, e) && t.first.ip_id == quoted.ip_id;
    recent
        .with_key(&quoted.key())
        .take(MAX_CANDIDATES)
        .find(is_it)
        .or_else(|| recent.with_ident(quoted).filter(|t| is_elder(t, e)))
        .map(|t| t.id)
}

/// The same bytes of the same connection, sent again by the same end.
fn retransmit(recent: &Recent, e: &Event, first: &Headers) -> Option<u64> {
    let tcp = first.tcp().filter(|tcp| tcp.span() > 0)?;
    let is_same = |t: &&Trace| {
        is_elder(t, e)
            && t.netns == e.netns
            && t.first.tuple == first.tuple
            && t.first.tcp().is_some_and(|other| {
                // A pure acknowledgement has the number of the FIN that follows it.
                (other.seq, other.payload_len, other.span())
                    == (tcp.seq, tcp.payload_len, tcp.span())
            })
    };
    recent.with_key(&first.key()).take(MAX_CANDIDATES).find(is_same).map(|t| t.id)
}

/// The newest journey that this one answers: its tuple, after all translations, is the reverse
/// of this one's as first seen.
fn reply(recent: &Recent, e: &Event, first: &Headers) -> Option<u64> {
    let key = first.key().reversed();
    let is_asked = |t: &&Trace| is_elder(t, e) && t.key == key;
    let candidates = recent.with_key(&key).filter(is_asked).take(MAX_CANDIDATES);
    match &first.l4 {
        L4::Tcp(tcp) => tcp_reply(candidates, tcp),
        L4::Udp { .. } => nearest(candidates, e),
        L4::Icmp(_) | L4::Arp(_) if !is_answer(&first.l4, first.tuple.src.is_ipv6()) => None,
        L4::Icmp(icmp) => nearest(candidates.filter(|t| is_question(t, icmp.seq)), e),
        L4::Arp(_) => {
            nearest(candidates.filter(|t| matches!(t.first.l4, L4::Arp(arp) if arp.op == 1)), e)
        }
        L4::Unknown => None,
    }
}

/// The newest that ended where the answer begins (of the clones of a flooded question only one
/// did), else the newest.
fn nearest<'a>(candidates: impl Iterator<Item = &'a Trace>, e: &Event) -> Option<u64> {
    let mut newest = None;
    for candidate in candidates {
        if candidate.netns_now == e.netns {
            return Some(candidate.id);
        }
        newest = newest.or(Some(candidate.id));
    }
    newest
}

fn is_question(t: &Trace, seq: Option<u16>) -> bool {
    let is_v6 = t.first.tuple.src.is_ipv6();
    t.first.icmp().is_some_and(|icmp| icmp.is_request(is_v6) && icmp.seq == seq)
}

/// What a segment acknowledges, else the newest segment against its direction. A pure
/// acknowledgement takes no sequence space and is never answered.
fn tcp_reply<'a>(candidates: impl Iterator<Item = &'a Trace>, tcp: &Tcp) -> Option<u64> {
    let mut newest = None;
    for candidate in candidates {
        let Some(asked) = candidate.first.tcp().filter(|asked| asked.span() > 0) else { continue };
        let is_reset = tcp.flags & (Tcp::RST | Tcp::ACK) == Tcp::RST && asked.ack == tcp.seq;
        if is_reset || asked.seq.wrapping_add(asked.span()) == tcp.ack {
            return Some(candidate.id);
        }
        newest = newest.or(Some(candidate.id));
    }
    newest
}
