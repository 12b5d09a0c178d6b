//! Writing events: reserve the exact size, fill, submit without waking the reader.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use tracer_common::event::{
    DETAIL_LEN, DetailBytes, EventHeader, RawEvent, SNAP_LEN, Tracked, flags,
};
use tracer_common::{Probe, Stat};

use crate::maps::{EVENTS, count, lose};
use crate::skb::Skb;

/// An event without packet bytes.
#[repr(C)]
struct ShortEvent {
    header: EventHeader,
    detail: DetailBytes,
}

/// What a probe knows beyond the skb.
#[derive(Clone, Copy)]
pub(crate) struct Site {
    pub(crate) probe: Probe,
    pub(crate) netns: u32,
    pub(crate) ifindex: u32,
    pub(crate) flags: u8,
}

/// Writes one event of the journey in `entry`; a network header (with its protocol) makes it a
/// long one: the packet from there on goes straight into the ring.
#[inline(always)]
pub(crate) fn emit<const DIRECT: bool, D: Copy>(
    entry: &mut Tracked,
    skb: Skb<DIRECT>,
    site: Site,
    detail: D,
    l3: Option<(*const u8, u16)>,
) {
    const { assert!(size_of::<D>() == DETAIL_LEN) };
    let seq = entry.seq;
    entry.seq = seq.wrapping_add(1);
    let done = match l3 {
        Some(l3) => long(entry, skb, site, seq, detail, l3),
        None => short(entry, skb, site, seq, detail),
    };
    if done {
        count(Stat::Events);
    } else {
        entry.lost = entry.lost.saturating_add(1);
        lose(entry.journey);
    }
}

#[inline(always)]
fn long<const DIRECT: bool, D: Copy>(
    entry: &mut Tracked,
    skb: Skb<DIRECT>,
    site: Site,
    seq: u16,
    detail: D,
    (l3, protocol): (*const u8, u16),
) -> bool {
    let Some(mut slot) = EVENTS.reserve::<RawEvent>(0) else { return false };
    // SAFETY: the record is ours until submitted; every member is written.
    unsafe {
        let event = slot.as_mut_ptr();
        header(&mut (*event).header, entry, skb, site, seq);
        // That of a frame with its VLAN tag inside is the tag's.
        (*event).header.protocol_be = protocol.to_ne_bytes();
        (&raw mut (*event).detail).cast::<D>().write(detail);
        let snap = (&raw mut (*event).snap).cast();
        bpf_probe_read_kernel(snap, SNAP_LEN as u32, l3.cast());
    }
    slot.submit(u64::from(BPF_RB_NO_WAKEUP));
    true
}

#[inline(always)]
fn short<const DIRECT: bool, D: Copy>(
    entry: &mut Tracked,
    skb: Skb<DIRECT>,
    site: Site,
    seq: u16,
    detail: D,
) -> bool {
    let Some(mut slot) = EVENTS.reserve::<ShortEvent>(0) else { return false };
    // SAFETY: the record is ours until submitted; every member is written.
    unsafe {
        let event = slot.as_mut_ptr();
        header(&mut (*event).header, entry, skb, site, seq);
        (&raw mut (*event).detail).cast::<D>().write(detail);
    }
    slot.submit(u64::from(BPF_RB_NO_WAKEUP));
    true
}

#[inline(always)]
fn header<const DIRECT: bool>(
    header: &mut EventHeader,
    entry: &mut Tracked,
    skb: Skb<DIRECT>,
    site: Site,
    seq: u16,
) {
    // SAFETY: helpers without arguments.
    let (now, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    entry.ktime_ns = now;
    header.ktime_ns = now;
    header.journey = entry.journey;
    header.netns = site.netns;
    header.ifindex = site.ifindex;
    header.seq = seq;
    header.probe = site.probe as u8;
    header.flags = site.flags | encap(entry) | if skb.is_cloned() { flags::CLONED } else { 0 };
    header.cpu = cpu as u16;
    header.lost = entry.lost;
    header.tunnels = u16::from(entry.tunnels);
    skb.describe(header);
    // Known when compiled: only the programs at hooks look.
    if matches!(
        site.probe,
        Probe::NfFirst | Probe::NfLast | Probe::HookEnter | Probe::HookExit | Probe::HookStep
    ) {
        skb.describe_connection(header);
    } else {
        (header.ct_mark, header.ct_status, header.ct_zone) = (0, 0, 0);
    }
}

#[inline(always)]
fn encap(entry: &Tracked) -> u8 {
    if entry.tunnels == 0 { 0 } else { flags::ENCAP }
}

/// Writes an event of a probe that was not handed the skb, only knows which one it is about.
#[inline(always)]
pub(crate) fn emit_note<D: Copy>(entry: &mut Tracked, site: Site, detail: D) {
    const { assert!(size_of::<D>() == DETAIL_LEN) };
    let seq = entry.seq;
    entry.seq = seq.wrapping_add(1);
    let Some(mut slot) = EVENTS.reserve::<ShortEvent>(0) else {
        entry.lost = entry.lost.saturating_add(1);
        lose(entry.journey);
        return;
    };
    // SAFETY: the record is ours until submitted; every member is written.
    unsafe {
        let event = slot.as_mut_ptr();
        (&raw mut (*event).header).write(EventHeader {
            ktime_ns: bpf_ktime_get_ns(),
            journey: entry.journey,
            ct_mark: 0,
            ct_status: 0,
            ct_zone: 0,
            head: entry.head,
            netns: site.netns,
            ifindex: site.ifindex,
            len: 0,
            mark: 0,
            seq,
            probe: site.probe as u8,
            flags: site.flags | encap(entry),
            gso_size: 0,
            protocol_be: [0; 2],
            ct: 0,
            pkt_type: 0,
            cpu: bpf_get_smp_processor_id() as u16,
            lost: entry.lost,
            tunnels: u16::from(entry.tunnels),
        });
        (&raw mut (*event).detail).cast::<D>().write(detail);
    }
    slot.submit(u64::from(BPF_RB_NO_WAKEUP));
    count(Stat::Events);
}
