//! Which packets that match are followed, and what is remembered of those that are not.

use aya_ebpf::helpers::generated::bpf_ringbuf_query;
use tracer_common::event::{JOURNEY_EVENTS, LONG_LEN, Tracked, state};
use tracer_common::{Probe, Stat};

use crate::again::is_stale;
use crate::config::option;
use crate::maps::{EVENTS, RATE, Slot, count, live};
use crate::skb::Skb;

/// `BPF_RB_AVAIL_DATA`: bytes written and not yet read.
const AVAILABLE: u64 = 0;

/// The identity of a new journey, or 0 when it is refused.
#[inline(always)]
pub(crate) fn admit(slot: Slot, now: u64) -> u64 {
    // First, since it costs less to ask.
    let limit = option!(max_journeys);
    if limit != 0 && is_over_rate(limit, now) {
        count(Stat::RefusedRate);
        return 0;
    }
    let ring = option!(ring_bytes);
    // SAFETY: the map is a ring buffer.
    let unread = unsafe { bpf_ringbuf_query((&raw const EVENTS).cast_mut().cast(), AVAILABLE) };
    let promised = (live() + 1) * JOURNEY_EVENTS * (LONG_LEN as u64 + 8);
    if unread + promised > ring {
        count(Stat::RefusedRing);
        return 0;
    }
    if limit != 0
        && let Some(admitted) = RATE.get_ptr_mut(1)
    {
        // SAFETY: a map value; a race between CPUs costs a few admissions, nothing else.
        unsafe { *admitted += 1 };
    }
    let room = slot.room();
    room.journeys += 1;
    room.number << 48 | room.journeys
}

/// Whether the present second has had its admissions.
#[inline(always)]
fn is_over_rate(limit: u64, now: u64) -> bool {
    const SECOND: u64 = 1_000_000_000;
    let (Some(start), Some(admitted)) = (RATE.get_ptr_mut(0), RATE.get_ptr_mut(1)) else {
        return false;
    };
    // SAFETY: map values; a race between CPUs costs a few admissions, nothing else.
    unsafe {
        if now.wrapping_sub(*start) >= SECOND {
            *start = now;
            *admitted = 0;
        }
        *admitted >= limit
    }
}

/// Whether this is, as far as the least look can tell, the packet that was refused: its buffer is
/// where it was, and it is not met where that one was met first. One that was put together from fragments lies in the buffer of the first.
#[inline(always)]
pub(crate) fn is_refused_yet<const DIRECT: bool>(
    skb: Skb<DIRECT>,
    entry: &Tracked,
    probe: Probe,
) -> bool {
    entry.journey == 0
        && entry.seq != probe as u16
        && entry.head == skb.head()
        && entry.state != state::SETTLED
        && entry.is_fragment == 0
        && !is_stale(entry)
}
