//! Which journey an skb belongs to.
//!
//! Key: the skb's address, checked by a fingerprint of the packet, so that an address that was
//! freed and taken again never joins two packets. A packet inside a tunnel is found again by the
//! fingerprint of the inner header.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use core::ptr::null_mut;

use aya_ebpf::helpers::generated::bpf_ringbuf_query;
use aya_log_ebpf::debug;
use tracer_common::event::{
    DETAIL_LEN, DetailBytes, JOURNEY_EVENTS, LONG_LEN, OriginDetail, Tracked, flags, state,
};
use tracer_common::filter::terms;
use tracer_common::{Control, Probe, Stat};

use crate::config::{filter, option};
use crate::emit::{Site, emit, emit_note};
use crate::filter::{self, Match};
use crate::maps::{
    CURRENT, Current, EVENTS, RATE, Slot, TRACKED, any_held, any_live, control, count, held_add,
    held_sub, learn, live, live_add, live_sub, take_origin,
};
use crate::packet::{self, Packet};
use crate::skb::{Skb, probe_read};

/// `BPF_RB_AVAIL_DATA`: bytes written and not yet read.
const AVAILABLE: u64 = 0;
const NO_DETAIL: DetailBytes = [0; DETAIL_LEN];

/// What a probe point is, beyond the skb and the place.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    /// A packet may be met here first.
    pub(crate) may_begin: bool,
    /// Nothing comes after: the skb is being freed.
    pub(crate) ends: bool,
    /// A route look-up that follows on this CPU is this packet's.
    pub(crate) routes: bool,
}

/// The one path that every probe with packet bytes takes.
///
/// `place` gives namespace and device; it and `detail` are asked only when they are needed, and
/// each at one place, since the verifier walks through all of them as often as it can come there.
/// Returns the entry when it goes on, else null: an `Option` here leaves registers undefined that
/// the verifier minds.
#[inline(always)]
pub(crate) fn observe<const DIRECT: bool, D: Copy>(
    skb: Skb<DIRECT>,
    l3: *const u8,
    rule: Rule,
    probe: Probe,
    place: impl Fn() -> (u32, u32),
    detail: impl Fn() -> D,
) -> *mut Tracked {
    let address = skb.address();
    let known = if any_held() { TRACKED.get_ptr_mut(address) } else { None };
    if known.is_none() && !rule.may_begin {
        return null_mut();
    }
    let protocol = skb.protocol();
    if known.is_none() && (!filter::wants_protocol(protocol) || filter::rejects(l3, protocol)) {
        return null_mut();
    }
    let (netns, ifindex) = place();
    let detail = detail();
    let Some(current) = current() else { return null_mut() };
    let level = current.nesting;
    let Some(slot) = Slot::of(level) else { return null_mut() };
    current.nesting = level + 1;
    slot.room().level = level;
    let site = Site { probe, netns, ifindex, flags: 0 };
    let entry = look(skb, slot, l3, protocol, known, rule, site, detail);
    current.nesting = level;
    entry
}

/// [`observe`], once there is room to read the packet into.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined; a struct would cost BPF stack")]
fn look<const DIRECT: bool, D: Copy>(
    skb: Skb<DIRECT>,
    slot: Slot,
    l3: *const u8,
    protocol: u16,
    known: Option<*mut Tracked>,
    rule: Rule,
    mut site: Site,
    detail: D,
) -> *mut Tracked {
    if let Some(entry) = known {
        // SAFETY: a map value; this CPU works on the packet.
        let entry = unsafe { &mut *entry };
        // What a socket has taken does not set out again: the address holds a packet that only
        // looks the same.
        let is_over = entry.state == state::SETTLED && rule.may_begin && !rule.ends;
        if !is_over && let Some(encap) = same_packet(skb, slot, l3, protocol, entry) {
            site.flags = encap;
            return go_on(skb, slot.packet(), l3, rule, site, entry, detail);
        }
        // The address holds another packet now; where nothing else may begin, that is a datagram
        // put together from its fragments.
        end_unseen(entry);
        forget(skb.address(), entry);
        if rule.ends || !filter::wants_protocol(protocol) {
            return null_mut();
        }
    }
    begin(skb, slot, l3, protocol, rule, site, detail)
}

/// Reports a followed packet.
#[inline(always)]
fn go_on<const DIRECT: bool, D: Copy>(
    skb: Skb<DIRECT>,
    packet: &Packet,
    l3: *const u8,
    rule: Rule,
    mut site: Site,
    entry: &mut Tracked,
    detail: D,
) -> *mut Tracked {
    if entry.journey != 0 {
        note_translation(entry, packet, site.flags);
        entry.head = skb.head();
        entry.encap = u16::from(site.flags);
        // A probe without a device of its own happens where the packet was last.
        if site.netns != 0 {
            entry.netns = site.netns;
            entry.ifindex = site.ifindex;
        }
        site.netns = entry.netns;
        site.ifindex = entry.ifindex;
        site.flags |= if rule.ends { flags::END } else { 0 };
        emit(entry, skb, site, detail, Some(l3));
        set_current(skb, packet, rule.routes);
    }
    if rule.ends {
        forget(skb.address(), entry);
        return null_mut();
    }
    if entry.journey != 0 { &raw mut *entry } else { null_mut() }
}

/// Tells whether the skb still holds the packet of `entry`: as it is (0) or inside a tunnel
/// ([`flags::ENCAP`]).
#[inline(always)]
fn same_packet<const DIRECT: bool>(
    skb: Skb<DIRECT>,
    slot: Slot,
    l3: *const u8,
    protocol: u16,
    entry: &Tracked,
) -> Option<u8> {
    if !skb.packet(slot, l3, protocol) {
        return None;
    }
    if is_same(slot.packet(), entry) {
        return Some(0);
    }
    if inner_packet(skb, slot, l3, protocol) && is_same(slot.packet(), entry) {
        return Some(flags::ENCAP);
    }
    None
}

#[inline(always)]
fn is_same(packet: &Packet, entry: &Tracked) -> bool {
    packet.fingerprint == entry.fingerprint
        && (packet.payload == entry.payload || packet.payload == 0 || entry.payload == 0)
}

/// Replaces the packet by the one inside a tunnel: where the stack says so, or behind a VXLAN
/// header. False when there is none.
#[inline(always)]
fn inner_packet<const DIRECT: bool>(
    skb: Skb<DIRECT>,
    slot: Slot,
    l3: *const u8,
    protocol: u16,
) -> bool {
    let key = &slot.packet().key;
    let at = if key.proto == packet::UDP && filter::is_vxlan_port(key.dport) {
        let header = if protocol == packet::ETH_P_IP { 20 } else { 40 };
        // UDP 8, VXLAN 8, Ethernet 14. Linux puts no options into the outer header.
        l3.wrapping_add(header + 30)
    } else if let Some(at) = skb.inner_network() {
        at
    } else {
        return false;
    };
    // SAFETY: an integer.
    let version: u8 = unsafe { probe_read(at) };
    let protocol = if version >> 4 == 4 { packet::ETH_P_IP } else { packet::ETH_P_IPV6 };
    skb.packet(slot, at, protocol)
}

/// Remembers translated tuples, so that replies are recognised where they are born.
#[inline(always)]
fn note_translation(entry: &mut Tracked, packet: &Packet, flag: u8) {
    if filter!(terms) & terms::REPLIES == 0 || flag & flags::ENCAP != 0 || packet.is_error != 0 {
        return;
    }
    let tuple = packet.tuple();
    if tuple != entry.tuple && packet.is_later_fragment == 0 {
        entry.tuple = tuple;
        learn(&packet.key);
    }
}

/// Starts a journey if the packet matches and there is room for it.
#[inline(always)]
fn begin<const DIRECT: bool, D: Copy>(
    skb: Skb<DIRECT>,
    slot: Slot,
    l3: *const u8,
    protocol: u16,
    rule: Rule,
    mut site: Site,
    detail: D,
) -> *mut Tracked {
    if control(Control::Enabled) == 0 || !skb.packet(slot, l3, protocol) {
        return null_mut();
    }
    let mut how = filter::matches(slot.packet(), protocol);
    site.flags = flags::BIRTH;
    if how.is_none() {
        let key = &slot.packet().key;
        if key.proto != packet::UDP
            || !filter::is_vxlan_port(key.dport)
            || !inner_packet(skb, slot, l3, protocol)
        {
            return null_mut();
        }
        how = filter::matches(slot.packet(), protocol);
        site.flags |= flags::ENCAP;
    }
    site.flags |= match how {
        Some(Match::Forward) => 0,
        Some(Match::Reverse) => flags::REVERSE,
        Some(Match::Learned) => flags::LEARNED,
        None => return null_mut(),
    };
    let packet = slot.packet();
    if !filter::in_scope(site.netns, site.ifindex) {
        if !filter::is_reply_into_scope(packet) {
            return null_mut();
        }
        site.flags |= flags::LEARNED;
    } else if filter::has_scope() {
        // So that the replies are followed from where they begin.
        learn(&packet.key);
    }
    let entry = Tracked {
        journey: admit(),
        head: skb.head(),
        fingerprint: packet.fingerprint,
        payload: packet.payload,
        // What is refused, and a first event that is lost, write none: without it they would be aged
        // out while under way.
        // SAFETY: a helper without arguments.
        ktime_ns: unsafe { bpf_ktime_get_ns() },
        tuple: packet.tuple(),
        netns: site.netns,
        ifindex: site.ifindex,
        seq: 0,
        lost: 0,
        state: state::MOVING,
        encap: u16::from(site.flags & flags::ENCAP),
    };
    if TRACKED.insert(skb.address(), entry, 0).is_err() {
        count(Stat::RefusedTable);
        return null_mut();
    }
    held_add();
    live_add();
    let Some(entry) = TRACKED.get_ptr_mut(skb.address()) else { return null_mut() };
    // SAFETY: a map value; this CPU works on the packet.
    let entry = unsafe { &mut *entry };
    if entry.journey != 0 {
        site.flags |= if rule.ends { flags::END } else { 0 };
        emit(entry, skb, site, detail, Some(l3));
        set_current(skb, packet, rule.routes);
        count(Stat::Admitted);
        if option!(debug) != 0 {
            debug!((), "journey {:x} begins at probe {}", entry.journey, site.probe as u8);
        }
    }
    tell_origin(skb.address(), entry);
    if rule.ends {
        forget(skb.address(), entry);
        return null_mut();
    }
    if entry.journey != 0 { &raw mut *entry } else { null_mut() }
}

/// Tells whose copy a new journey's skb is, when the kernel was seen making it.
#[inline(always)]
fn tell_origin(address: u64, entry: &mut Tracked) {
    let Some(origin) = take_origin(address) else { return };
    if entry.journey != 0 && origin.fingerprint == entry.fingerprint {
        let site =
            Site { probe: Probe::Origin, netns: entry.netns, ifindex: entry.ifindex, flags: 0 };
        let detail = OriginDetail {
            parent: origin.parent,
            kind: origin.kind as u8,
            ..OriginDetail::default()
        };
        emit_note(entry, site, detail);
    }
}

/// The identity of a new journey, or 0 when it is refused.
#[inline(always)]
fn admit() -> u64 {
    let ring = option!(ring_bytes);
    // SAFETY: the map is a ring buffer.
    let unread = unsafe { bpf_ringbuf_query((&raw const EVENTS).cast_mut().cast(), AVAILABLE) };
    let promised = (live() + 1) * JOURNEY_EVENTS * (LONG_LEN as u64 + 8);
    if unread + promised > ring {
        count(Stat::RefusedRing);
        return 0;
    }
    let limit = option!(max_journeys);
    if limit != 0 && over_rate(limit) {
        count(Stat::RefusedRate);
        return 0;
    }
    let Some(current) = current() else { return 0 };
    current.next_journey += 1;
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    u64::from(cpu) << 48 | current.next_journey
}

/// Counts an admission into the present second and tells whether that is one too many.
#[inline(always)]
fn over_rate(limit: u64) -> bool {
    const SECOND: u64 = 1_000_000_000;
    let (Some(start), Some(admitted)) = (RATE.get_ptr_mut(0), RATE.get_ptr_mut(1)) else {
        return false;
    };
    // SAFETY: map values; a race between CPUs costs a few admissions, nothing else.
    unsafe {
        let now = bpf_ktime_get_ns();
        if now.wrapping_sub(*start) >= SECOND {
            *start = now;
            *admitted = 0;
        }
        *admitted += 1;
        *admitted > limit
    }
}

/// This CPU's notes.
#[inline(always)]
pub(crate) fn current() -> Option<&'static mut Current> {
    // SAFETY: a slot of this CPU.
    CURRENT.get_ptr_mut(0).map(|c| unsafe { &mut *c })
}

#[inline(always)]
fn set_current<const DIRECT: bool>(skb: Skb<DIRECT>, packet: &Packet, routes: bool) {
    if let Some(current) = current() {
        current.routes = u64::from(routes);
        current.skb = skb.address();
        current.saddr = packet.key.saddr;
        current.daddr = packet.key.daddr;
    }
}

/// Reports that the journey ended without a probe seeing it.
#[inline(always)]
fn end_unseen(entry: &mut Tracked) {
    count(Stat::Reused);
    if option!(debug) != 0 {
        debug!((), "journey {:x} ended unseen", entry.journey);
    }
    if entry.journey != 0 {
        let site = Site {
            probe: Probe::Reused,
            netns: entry.netns,
            ifindex: entry.ifindex,
            flags: flags::END,
        };
        emit_note(entry, site, NO_DETAIL);
    }
}

/// Drops the entry of a packet that is gone.
#[inline(always)]
pub(crate) fn forget(address: u64, entry: &Tracked) {
    let settled = entry.state == state::SETTLED;
    if TRACKED.remove(address).is_ok() {
        held_sub();
        if !settled {
            live_sub();
        }
    }
}

/// Whether the packet goes on in another skb: one without room for the device's header is cloned,
/// and consumed, between `POST_ROUTING` and the neighbour (`skb_expand_head`, before 5.15
/// `skb_realloc_headroom`). What IPVS sends into a tunnel is such.
#[inline(always)]
pub(crate) fn hand_over<const DIRECT: bool>(skb: Skb<DIRECT>, entry: &mut Tracked) -> bool {
    let Some(current) = current() else { return false };
    let address = skb.address();
    if current.resolving != address || current.cloned != address || current.clone == 0 {
        return false;
    }
    let clone = current.clone;
    // Its address may be that of a packet whose end was not seen.
    if let Some(stale) = TRACKED.get_ptr_mut(clone) {
        // SAFETY: a map value; the packet is gone.
        let stale = unsafe { &mut *stale };
        end_unseen(stale);
        forget(clone, stale);
    }
    // Moved or not yet: the next look at the data settles it.
    entry.head = Skb::<false>::new(clone as *const u8).head();
    if TRACKED.insert(clone, *entry, 0).is_err() {
        return false;
    }
    let _ = TRACKED.remove(address);
    take_origin(clone);
    current.resolving = clone;
    current.cloned = 0;
    if current.skb == address {
        current.skb = clone;
    }
    true
}

/// The entry of an skb, for probes that trust the address: nothing can have freed it since the
/// last probe without one of ours seeing it.
#[inline(always)]
pub(crate) fn followed<const DIRECT: bool>(skb: Skb<DIRECT>) -> Option<&'static mut Tracked> {
    if !any_live() {
        return None;
    }
    // SAFETY: a map value; this CPU works on the packet.
    TRACKED.get_ptr_mut(skb.address()).map(|e| unsafe { &mut *e }).filter(|e| e.journey != 0)
}

/// Marks a packet that a TCP or UDP socket has taken: its end may not be visible.
#[inline(always)]
pub(crate) fn settle(entry: &mut Tracked) {
    if entry.state != state::SETTLED {
        entry.state = state::SETTLED;
        live_sub();
    }
}
