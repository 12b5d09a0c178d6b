//! Whether a packet is asked for, where nothing is remembered of it (`drops`, `latency`).

use tracer_common::filter::terms;

use crate::config::filter;
use crate::filter::{self, Match, wanted};
use crate::maps::{Slot, learn};
use crate::skb::Skb;

/// The terms that take a look into the packet.
pub(crate) const PACKET_TERMS: u32 = terms::SRC
    | terms::DST
    | terms::HOST
    | terms::SPORT
    | terms::DPORT
    | terms::PORT
    | terms::PROTO
    | terms::SERVICE;

/// What `look` says of the packet at `l3`, read into a slot; false when it cannot be read.
#[inline(always)]
pub(crate) fn with_packet<const DIRECT: bool>(
    skb: Skb<DIRECT>,
    l3: *const u8,
    protocol: u16,
    look: impl FnOnce(Slot) -> bool,
) -> bool {
    let Some(slot) = Slot::claim() else { return false };
    let found = skb.packet(slot, l3, protocol) && look(slot);
    slot.release();
    found
}

/// Whether the packet in the slot matches, or none of its own terms is asked for.
#[inline(always)]
pub(crate) fn matches(slot: Slot, protocol: u16) -> bool {
    !wanted(PACKET_TERMS)
        || filter::match_packet(slot.room().number, u64::from(protocol)) != Match::NONE
}

/// Whether the packet at `l3`, met at this place, is to be followed: one that matches there, or
/// one of a flow that was met where the filter says.
#[inline(always)]
pub(crate) fn is_asked_for<const DIRECT: bool>(
    skb: Skb<DIRECT>,
    l3: *const u8,
    netns: u32,
    ifindex: u32,
) -> bool {
    if filter!(terms) == 0 {
        return true;
    }
    let protocol = skb.protocol();
    if !filter::wants_protocol(protocol) {
        return false;
    }
    let in_scope = filter::in_scope(netns, ifindex);
    let learns = filter::has_scope();
    if !in_scope && !learns {
        return false;
    }
    if in_scope && !learns && !wanted(PACKET_TERMS) {
        return true;
    }
    // What most packets end at costs one read.
    if in_scope && wanted(PACKET_TERMS) && filter::rejects(l3, protocol) {
        return false;
    }
    with_packet(skb, l3, protocol, |slot| {
        if !in_scope {
            return filter::is_reply_into_scope(slot.packet());
        }
        let found = matches(slot, protocol);
        if found && learns && slot.packet().is_later_fragment == 0 {
            learn(&slot.packet().key);
        }
        found
    })
}
