//! Telling packets apart while their ends are not seen: see `Control::Thin`.

use tracer_common::Control;
use tracer_common::event::Tracked;

use crate::emit::Site;
use crate::maps::control;
use crate::packet::{self, Packet};

/// Whether the packet of an entry may have ended unseen, or be elsewhere by now: it was not met since
/// all points are attached. Where a packet may begin it is compared, and that it is dropped is told;
/// elsewhere it may be one that only looks the same, as a copy does that a socket gets.
#[inline(always)]
pub(crate) fn is_stale(entry: &Tracked) -> bool {
    entry.birthmark != 0 && entry.ktime_ns < control(Control::WholeSince)
}

/// Whether a packet that looks like the one of `entry` is another one: while the ends of packets are
/// not seen, it is met again where that one was met first.
#[inline(always)]
pub(crate) fn begins_again(packet: &Packet, site: Site, entry: &Tracked) -> bool {
    entry.birthmark != 0 && entry.birthmark == birthmark(packet, entry.tunnels, site)
}

/// Stands for the packet as it is met first, and for the place; never 0. One that comes round again
/// has fewer hops left to live.
#[inline(always)]
pub(crate) fn birthmark(packet: &Packet, tunnels: u8, site: Site) -> u32 {
    let place = u64::from(site.netns) << 32 | u64::from(site.ifindex);
    let seen = u64::from(packet.ttl) << 16 | u64::from(tunnels) << 8 | u64::from(site.probe as u8);
    (packet::mix(packet::mix(packet.tuple().into(), place), seen) >> 32) as u32 | 1
}
