//! Where a journey comes from: the journey that it is a clone, copy, segment, fragment,
//! retransmission or answer of, or an error about.

use super::{
    Lineage, Parent,
    fate::is_answer,
    recent::{Recent, Trace},
};
use crate::event::{Event, Headers, L4, Packet, Tcp};

/// A copy is made while the original is in the same function.
const COPY_NS: u64 = 5_000_000;
/// How many candidates are compared.
const MAX_CANDIDATES: usize = 32;

/// The parent of the journey that begins with `e`, whose followed headers are `first`.
pub(super) fn parent(recent: &Recent, e: &Event, first: &Headers) -> Option<Parent> {
    let of = |kind| move |id| Parent { id, kind };
    None.or_else(|| clone(recent, e, first).map(of(Lineage::Clone)))
        .or_else(|| fragment(recent, e, first).map(of(Lineage::Fragment)))
        .or_else(|| segment(recent, e, first).map(of(Lineage::Segment)))
        .or_else(|| copy(recent, e, first).map(of(Lineage::Copy)))
        .or_else(|| rejoined(recent, e, first).map(of(Lineage::Copy)))
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

/// A packet put together again from its fragments, in another namespace than it was sent from.
fn rejoined(recent: &Recent, e: &Event, first: &Headers) -> Option<u64> {
    if first.fragment.is_some() || first.ip_id.is_none_or(|id| id == 0) {
        return None;
    }
    let key = first.key();
    let is_fragment_here = |t: &Trace| {
        is_elder(t, e)
            && t.netns_now == e.netns
            && t.first.fragment.is_some()
            && t.first.ip_id == first.ip_id
    };
    let mut fragments = recent.with_key(&key).take(MAX_CANDIDATES);
    fragments.find(|t| is_fragment_here(t))?;
    let is_whole = |t: &&Trace| is_elder(t, e) && is_same_packet(t, first);
    recent.with_key(&key).take(MAX_CANDIDATES).filter(is_whole).last().map(|t| t.id)
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
    let tcp = first.tcp().filter(|tcp| tcp.payload_len > 0)?;
    let is_whole = |t: &&Trace| {
        is_elder(t, e)
            && t.gso_size > 0
            && t.len > e.len
            && t.first.tcp().is_some_and(|whole| {
                let offset = tcp.seq.wrapping_sub(whole.seq);
                offset < whole.payload_len && offset + tcp.payload_len <= whole.payload_len
            })
    };
    recent.with_key(&first.key()).take(MAX_CANDIDATES).find(is_whole).map(|t| t.id)
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
