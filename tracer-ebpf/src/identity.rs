//! Which journey an skb belongs to.
//!
//! Key: the skb's address, checked by a fingerprint of the packet, so that an address that was
//! freed and taken again never joins two packets. A packet inside a tunnel is found again by the
//! fingerprint of the inner header.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use core::ptr::null_mut;

use aya_log_ebpf::debug;
use tracer_common::event::{DETAIL_LEN, DetailBytes, OriginDetail, Tracked, flags, origin, state};
use tracer_common::filter::terms;
use tracer_common::{Control, Probe, Stat};

use crate::admit::{admit, is_refused_yet};
use crate::again::{begins_again, birthmark, is_stale};
use crate::config::{filter, option};
use crate::emit::{Site, emit, emit_note};
use crate::filter::{self, Match};
use crate::maps::{
    Slot, TRACKED, any_held, any_live, control, count, current, held_add, held_sub, is_curious,
    learn, live_add, live_sub, lose, take_origin,
};
use crate::packet::{self, Packet};
use crate::skb::{Skb, probe_read};
use crate::tunnel;

const NO_DETAIL: DetailBytes = [0; DETAIL_LEN];

/// What a probe point is, beyond the skb and the place.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rule {
    /// A packet may be met here first.
    pub(crate) may_begin: bool,
    /// Nothing comes after: the skb is being freed.
    pub(crate) ends: bool,
    /// A route look-up that follows on this CPU is this packet's.
    pub(crate) routes: bool,
    /// Packets that the node makes come by here, encrypted ones among them.
    pub(crate) makes: bool,
    /// The packet's bytes need not be reported: they were, right before.
    pub(crate) is_brief: bool,
}

/// The journey that a new one comes from.
#[derive(Clone, Copy)]
struct Ancestor {
    /// Its identity, 0 when there is none.
    journey: u64,
    /// See [`origin`].
    kind: u8,
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
    if let Some(entry) = known {
        // SAFETY: a map value; this CPU works on the packet.
        let entry = unsafe { &mut *entry };
        if !rule.may_begin && (entry.journey == 0 || is_stale(entry)) {
            if rule.ends {
                forget(address, entry);
            }
            return null_mut();
        }
        let is_midway = rule.may_begin && !rule.ends && !rule.makes;
        if is_midway && is_refused_yet(skb, entry, probe) {
            return null_mut();
        }
    }
    let (l3, protocol) = skb.behind_tags(l3);
    if known.is_none() {
        let may_match = filter::wants_protocol(protocol);
        // Of an end nobody is told as a near miss, and what comes with it costs the most.
        let is_curious = || !rule.ends && is_curious();
        if !may_match || (filter::rejects(l3, protocol) && !is_curious()) {
            return null_mut();
        }
    }
    let (netns, ifindex) = place();
    let detail = detail();
    let Some(slot) = Slot::claim() else {
        overlook(address, known, rule);
        return null_mut();
    };
    let site = Site { probe, netns, ifindex, flags: 0 };
    let entry = look(skb, slot, (l3, protocol), known, rule, site, detail);
    slot.release();
    entry
}

/// A packet cannot be looked at: what is followed has lost an event.
#[inline(always)]
fn overlook(address: u64, known: Option<*mut Tracked>, rule: Rule) {
    let Some(entry) = known else {
        count(Stat::NoScratch);
        return;
    };
    // SAFETY: a map value; this CPU works on the packet.
    let entry = unsafe { &mut *entry };
    if entry.journey != 0 {
        entry.seq = entry.seq.wrapping_add(1);
        entry.lost = entry.lost.saturating_add(1);
        lose(entry.journey);
    }
    if rule.ends {
        forget(address, entry);
    }
}

/// [`observe`], once there is room to read the packet into.
#[inline(always)]
fn look<const DIRECT: bool, D: Copy>(
    skb: Skb<DIRECT>,
    slot: Slot,
    network: (*const u8, u16),
    known: Option<*mut Tracked>,
    rule: Rule,
    mut site: Site,
    detail: D,
) -> *mut Tracked {
    let mut ancestor = Ancestor { journey: 0, kind: 0 };
    if let Some(entry) = known {
        // SAFETY: a map value; this CPU works on the packet.
        let entry = unsafe { &mut *entry };
        // What a socket has taken does not set out again: the address holds a packet that only
        // looks the same.
        let is_over = entry.state == state::SETTLED && rule.may_begin && !rule.ends;
        if !is_over
            && same_packet(skb, slot, network, entry)
            && !(rule.may_begin && !rule.ends && begins_again(slot.packet(), site, entry))
        {
            return go_on(skb, slot.packet(), network, rule, site, entry, detail);
        }
        if rule.makes && is_sealed(skb, entry, site) {
            ancestor = Ancestor { journey: entry.journey, kind: origin::ENCAP };
        } else if !is_over {
            // While ends are not seen, the skb may have been anyone's in between.
            let journey = if entry.birthmark == 0 { entry.journey } else { 0 };
            ancestor = Ancestor { journey, kind: origin::SAME };
        }
        // Where nothing else may begin, this is a datagram put together from its fragments. Its end
        // may be all that is seen of it.
        let is_whole = entry.is_fragment != 0 && slot.packet().is_fragment == 0;
        if site.netns == 0 {
            (site.netns, site.ifindex) = (entry.netns, entry.ifindex);
        }
        end_unseen(entry);
        forget(skb.address(), entry);
        if rule.ends && !is_whole || !filter::wants_protocol(network.1) {
            return null_mut();
        }
    }
    begin(skb, slot, network, rule, site, ancestor, detail)
}

/// Whether the packet that a namespace sends as its own is the one that was last seen going into
/// the device that the skb is still on: what is made anew has no device yet.
#[inline(always)]
fn is_sealed<const DIRECT: bool>(skb: Skb<DIRECT>, entry: &Tracked, site: Site) -> bool {
    (entry.state == state::MOVING || entry.state == state::SENT)
        && !skb.dev().is_null()
        && (entry.netns, entry.ifindex) == (site.netns, site.ifindex)
}

/// Reports a followed packet.
#[inline(always)]
fn go_on<const DIRECT: bool, D: Copy>(
    skb: Skb<DIRECT>,
    packet: &Packet,
    network: (*const u8, u16),
    rule: Rule,
    mut site: Site,
    entry: &mut Tracked,
    detail: D,
) -> *mut Tracked {
    entry.head = skb.head();
    if entry.journey != 0 {
        note_translation(entry, packet);
        if entry.state == state::SENT {
            entry.state = state::MOVING;
        }
        // A probe without a device of its own happens where the packet was last.
        if site.netns != 0 {
            entry.netns = site.netns;
            entry.ifindex = site.ifindex;
        }
        site.netns = entry.netns;
        site.ifindex = entry.ifindex;
        site.flags |= if rule.ends { flags::END } else { 0 };
        emit(entry, skb, site, detail, if rule.is_brief { None } else { Some(network) });
        set_current(skb, packet, rule.routes);
    }
    if rule.ends {
        forget(skb.address(), entry);
        return null_mut();
    }
    if entry.journey != 0 { &raw mut *entry } else { null_mut() }
}

/// Tells whether the skb still holds the packet of `entry`, as it is or inside tunnels, and notes
/// inside how many.
#[inline(always)]
fn same_packet<const DIRECT: bool>(
    skb: Skb<DIRECT>,
    slot: Slot,
    (l3, mut protocol): (*const u8, u16),
    entry: &mut Tracked,
) -> bool {
    if !skb.packet(slot, l3, protocol) {
        return false;
    }
    // Not as a loop, see `maps::claim_slot`.
    macro_rules! compare_in {
        ($($tunnels:literal)+) => { 'found: {
            $(
                if is_same(slot.packet(), entry) {
                    entry.tunnels = $tunnels;
                    return true;
                }
                if $tunnels == tunnel::MAX_DEPTH || !enter(skb, slot, &mut protocol) {
                    break 'found;
                }
            )+
        } };
    }
    compare_in!(0 1 2 3);
    // The stack knows of tunnels that are not read here.
    let Some(inner) = skb.inner_network() else { return false };
    // SAFETY: an integer.
    let version: u8 = unsafe { probe_read(inner) };
    let protocol = if version >> 4 == 4 { packet::ETH_P_IP } else { packet::ETH_P_IPV6 };
    if skb.packet(slot, inner, protocol) && is_same(slot.packet(), entry) {
        entry.tunnels = 1;
        return true;
    }
    false
}

#[inline(always)]
fn is_same(packet: &Packet, entry: &Tracked) -> bool {
    packet.fingerprint == entry.fingerprint
        && (packet.payload == entry.payload || packet.payload == 0 || entry.payload == 0)
}

/// Replaces the packet in the slot by the one that it carries; false when there is none.
#[inline(always)]
fn enter<const DIRECT: bool>(skb: Skb<DIRECT>, slot: Slot, protocol: &mut u16) -> bool {
    let inner = tunnel::find_carried(slot.room().number, u64::from(*protocol));
    *protocol = inner as u16;
    inner != 0 && skb.packet(slot, slot.room().l3 as *const u8, inner as u16)
}

/// Remembers translated tuples, so that replies are recognised where they are born.
#[inline(always)]
fn note_translation(entry: &mut Tracked, packet: &Packet) {
    if filter!(terms) & terms::REPLIES == 0 || entry.tunnels != 0 || packet.is_error != 0 {
        return;
    }
    let tuple = packet.tuple();
    if tuple != entry.tuple && packet.is_later_fragment == 0 {
        entry.tuple = tuple;
        learn(&packet.key);
    }
}

/// Starts a journey if the packet matches and there is room for it. What an already followed
/// packet was encrypted into goes on with it, whatever it looks like.
#[inline(always)]
fn begin<const DIRECT: bool, D: Copy>(
    skb: Skb<DIRECT>,
    slot: Slot,
    network: (*const u8, u16),
    rule: Rule,
    mut site: Site,
    ancestor: Ancestor,
    detail: D,
) -> *mut Tracked {
    let (l3, mut protocol) = network;
    if control(Control::Enabled) == 0 || !skb.packet(slot, l3, protocol) {
        return null_mut();
    }
    let is_sealed = ancestor.kind == origin::ENCAP && ancestor.journey != 0;
    let (how, tunnels) = match_inside(skb, slot, &mut protocol, is_sealed);
    site.flags = match how {
        Match::FORWARD => flags::BIRTH,
        Match::REVERSE => flags::BIRTH | flags::REVERSE,
        Match::LEARNED => flags::BIRTH | flags::LEARNED,
        _ if is_sealed => flags::BIRTH | flags::LEARNED,
        _ => return miss(skb, slot, protocol, rule, false),
    };
    let packet = slot.packet();
    if filter::is_near_scope(packet) {
        learn(&packet.key);
    } else if !is_sealed && !filter::in_scope(site.netns, site.ifindex) {
        if !filter::is_reply_into_scope(packet) {
            return miss(skb, slot, protocol, rule, true);
        }
        site.flags |= flags::LEARNED;
    } else if filter::has_scope() {
        // So that the replies are followed from where they begin.
        learn(&packet.key);
    }
    let mut entry = Tracked {
        journey: 0,
        head: skb.head(),
        fingerprint: packet.fingerprint,
        payload: packet.payload,
        // What is refused, and a first event that is lost, write none: without it they would be aged
        // out while under way.
        // SAFETY: a helper without arguments.
        ktime_ns: unsafe { bpf_ktime_get_ns() },
        tuple: packet.tuple(),
        birthmark: if rule.may_begin && !rule.ends && control(Control::Thin) != 0 {
            birthmark(packet, tunnels, site)
        } else {
            0
        },
        netns: site.netns,
        ifindex: site.ifindex,
        seq: 0,
        lost: 0,
        state: state::MOVING,
        tunnels,
        is_fragment: (packet.is_fragment != 0).into(),
    };
    entry.journey = admit(slot, entry.ktime_ns);
    if entry.journey == 0 {
        if rule.ends {
            return null_mut();
        }
        entry.seq = site.probe as u16;
    }
    if TRACKED.insert(skb.address(), entry, 0).is_err() {
        count(Stat::RefusedTable);
        return null_mut();
    }
    held_add();
    if entry.journey == 0 {
        take_origin(skb.address());
        return null_mut();
    }
    live_add();
    let Some(entry) = TRACKED.get_ptr_mut(skb.address()) else { return null_mut() };
    // SAFETY: a map value; this CPU works on the packet.
    let entry = unsafe { &mut *entry };
    site.flags |= if rule.ends { flags::END } else { 0 };
    emit(entry, skb, site, detail, Some(network));
    set_current(skb, packet, rule.routes);
    count(Stat::Admitted);
    if option!(debug) != 0 {
        debug!((), "journey {:x} begins at probe {}", entry.journey, site.probe as u8);
    }
    tell_origin(skb.address(), entry, ancestor);
    if rule.ends {
        forget(skb.address(), entry);
        return null_mut();
    }
    &raw mut *entry
}

/// Leaves a packet that does not match, and tells of it while that is asked for.
#[inline(always)]
fn miss<const DIRECT: bool>(
    skb: Skb<DIRECT>,
    slot: Slot,
    protocol: u16,
    rule: Rule,
    is_outside: bool,
) -> *mut Tracked {
    if is_curious() && !rule.ends {
        // As a number, like the place of the packet, which was read from there already.
        slot.room().l3 = skb.address();
        filter::note_miss(slot.room().number, u64::from(protocol), u64::from(is_outside));
    }
    null_mut()
}

/// How the packet in the slot matches, or one that it carries, which then takes its place, and
/// inside how many tunnels that is. One that is sealed is not looked into.
#[inline(always)]
fn match_inside<const DIRECT: bool>(
    skb: Skb<DIRECT>,
    slot: Slot,
    protocol: &mut u16,
    is_sealed: bool,
) -> (u64, u8) {
    // Not as a loop, see `maps::claim_slot`.
    macro_rules! match_in {
        ($($tunnels:literal)+) => { $(
            let how = filter::match_packet(slot.room().number, u64::from(*protocol));
            let is_last = $tunnels == tunnel::MAX_DEPTH || is_sealed;
            if how != Match::NONE
                || is_last
                || !filter::may_carry(&slot.packet().key)
                || !enter(skb, slot, protocol)
            {
                return (how, $tunnels);
            }
        )+ };
    }
    match_in!(0 1 2 3);
    (Match::NONE, tunnel::MAX_DEPTH)
}

/// Tells where a new journey comes from: the packet that its skb held before, or the one that it
/// is a copy of, when the kernel was seen making it.
#[inline(always)]
fn tell_origin(address: u64, entry: &mut Tracked, mut ancestor: Ancestor) {
    if let Some(origin) = take_origin(address)
        && origin.fingerprint == entry.fingerprint
    {
        ancestor = Ancestor { journey: origin.parent, kind: origin.kind as u8 };
    }
    if entry.journey != 0 && ancestor.journey != 0 {
        let site =
            Site { probe: Probe::Origin, netns: entry.netns, ifindex: entry.ifindex, flags: 0 };
        let detail = OriginDetail {
            parent: ancestor.journey,
            kind: ancestor.kind,
            ..OriginDetail::default()
        };
        emit_note(entry, site, detail);
    }
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
    // While ends are not seen, that is nothing to tell.
    if entry.journey != 0 && entry.birthmark == 0 {
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
    let is_live = entry.journey != 0 && entry.state != state::SETTLED;
    if TRACKED.remove(address).is_ok() {
        held_sub();
        if is_live {
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
    TRACKED
        .get_ptr_mut(skb.address())
        .map(|e| unsafe { &mut *e })
        .filter(|e| e.journey != 0 && !is_stale(e))
}

/// Marks a packet that a TCP or UDP socket has taken: its end may not be visible.
#[inline(always)]
pub(crate) fn settle(entry: &mut Tracked) {
    if entry.state != state::SETTLED {
        entry.state = state::SETTLED;
        if entry.journey != 0 {
            live_sub();
        }
    }
}
