//! `pkttrace latency`: the time between the points of a packet's way, counted in histograms. No
//! event leaves the kernel.
//!
//! A packet is known by its address alone: whatever frees it is attached too, and what cannot
//! follow where it was last seen is another packet.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use aya_ebpf::macros::{btf_tracepoint, cgroup_skb};
use aya_ebpf::programs::{BtfTracePointContext, SkBuffContext};
use tracer_common::perf::{
    BUCKETS, Histogram, PerfControl, PerfStat, SegmentKey, UnderWay, bucket, point,
};

use crate::asked::is_asked_for;
use crate::config::offset;
use crate::perf_maps::{
    NOTHING, PERF_CONTROL, PERF_STATS, RECEIVED, SEGMENTS, UNDER_WAY, add, increment, perf,
};
use crate::skb::{Kptr, Skb, ifindex, inum, netns_of, probe_read};

const NF_ACCEPT: i32 = 1;
const ALLOW: i32 = 1;
/// `BPF_NOEXIST`: another CPU may have been faster.
const NEW: u64 = 1;
/// Histograms of a segment, each shared by so many CPUs.
const SHARDS: u32 = 4;
const LOCAL_IN: u8 = 1;
const LOCAL_OUT: u8 = 3;

type Ptr = *const u8;

/// Where a packet is seen.
#[derive(Clone, Copy)]
struct At {
    point: u8,
    netns: u32,
    ifindex: u32,
}

/// What a point is for the packets that are seen there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// One may be seen there first.
    Begins,
    /// One has been seen before.
    Follows,
    /// Nothing comes after it.
    Ends,
}

/// `trace_netif_receive_skb(struct sk_buff *skb)`.
#[btf_tracepoint(function = "netif_receive_skb")]
pub fn lat_rx(ctx: BtfTracePointContext) -> i32 {
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(0));
    let dev = skb.dev();
    let role = if perf!(begin_at_hooks) == 0 { Role::Begins } else { Role::Follows };
    step(skb, skb.data(), at(point::RX, dev), role);
    if let Some(received) = RECEIVED.get_ptr_mut(0) {
        // SAFETY: a slot of this CPU.
        unsafe {
            (*received).skb = skb.address();
            (*received).head = skb.head();
        }
    }
    0
}

/// `trace_net_dev_queue(struct sk_buff *skb)`.
#[btf_tracepoint(function = "net_dev_queue")]
pub fn lat_queue(ctx: BtfTracePointContext) -> i32 {
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(0));
    step(skb, skb.network(), at(point::QUEUE, skb.dev()), Role::Begins);
    0
}

/// `trace_qdisc_enqueue(struct Qdisc *qdisc, const struct netdev_queue *txq, struct sk_buff *skb)`,
/// since 5.14.
#[btf_tracepoint(function = "qdisc_enqueue")]
pub fn lat_enqueue(ctx: BtfTracePointContext) -> i32 {
    let dev = Kptr::<true>::new(ctx.arg::<Ptr>(1)).follow(perf!(queue_dev));
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(2));
    step(skb, skb.network(), at(point::ENQUEUE, dev), Role::Begins);
    0
}

/// `trace_qdisc_dequeue(struct Qdisc *qdisc, const struct netdev_queue *txq, int packets,
/// struct sk_buff *skb)`: `skb` is null when there was none.
#[btf_tracepoint(function = "qdisc_dequeue")]
pub fn lat_dequeue(ctx: BtfTracePointContext) -> i32 {
    let skb = Skb::<false>::new(ctx.arg::<Ptr>(3));
    if skb.address() == 0 {
        return 0;
    }
    let dev = Kptr::<true>::new(ctx.arg::<Ptr>(1)).follow(perf!(queue_dev));
    step(skb, skb.network(), at(point::DEQUEUE, dev), Role::Follows);
    0
}

/// `trace_net_dev_start_xmit(const struct sk_buff *skb, const struct net_device *dev)`.
#[btf_tracepoint(function = "net_dev_start_xmit")]
pub fn lat_xmit(ctx: BtfTracePointContext) -> i32 {
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(0));
    let dev = Kptr::<true>::new(ctx.arg::<Ptr>(1));
    let role = if perf!(begin_at_xmit) != 0 { Role::Begins } else { Role::Follows };
    step(skb, skb.network(), at(point::XMIT, dev), role);
    0
}

/// `trace_skb_copy_datagram_iovec(const struct sk_buff *skb, int len)`.
#[btf_tracepoint(function = "skb_copy_datagram_iovec")]
pub fn lat_read(ctx: BtfTracePointContext) -> i32 {
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(0));
    let Some(entry) = known(skb.address(), point::READ) else { return 0 };
    let here = At { point: point::READ, netns: entry.netns, ifindex: entry.ifindex };
    go_on(skb, skb.network(), here, Role::Ends, entry);
    0
}

/// `trace_consume_skb(skb)`: the kernel itself has used what it received, or something was sent.
#[btf_tracepoint(function = "consume_skb")]
pub fn lat_consume(ctx: BtfTracePointContext) -> i32 {
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(0));
    let Some(entry) = known(skb.address(), point::CONSUME) else { return 0 };
    if entry.point == u32::from(point::RX) || entry.point == u32::from(point::HOOK_LAST + LOCAL_IN)
    {
        let here = At { point: point::CONSUME, netns: entry.netns, ifindex: entry.ifindex };
        whole(skb, skb.network(), here, entry, now());
    }
    let _ = UNDER_WAY.remove(skb.address());
    0
}

/// `trace_kfree_skb(skb, location)`: dropped, so there is nothing to time.
#[btf_tracepoint(function = "kfree_skb")]
pub fn lat_kfree(ctx: BtfTracePointContext) -> i32 {
    let _ = UNDER_WAY.remove(ctx.arg::<u64>(0));
    0
}

/// A socket is about to take the packet, or a clone of it: the root cgroup's ingress program.
#[cgroup_skb]
pub fn lat_socket(ctx: SkBuffContext) -> i32 {
    let skb = Skb::<false>::new(ctx.as_ptr().cast::<u8>().cast_const());
    if let Some(entry) = known(skb.address(), point::SOCKET) {
        let here = At { point: point::SOCKET, netns: entry.netns, ifindex: entry.ifindex };
        go_on(skb, skb.network(), here, Role::Follows, entry);
        return ALLOW;
    }
    let Some(received) = RECEIVED.get_ptr_mut(0) else { return ALLOW };
    // SAFETY: a slot of this CPU, which is delivering what it has received.
    let (original, head) = unsafe { ((*received).skb, (*received).head) };
    if head != skb.head() {
        return ALLOW;
    }
    let Some(entry) = known(original, point::SOCKET) else { return ALLOW };
    let mut clone = *entry;
    let here = At { point: point::SOCKET, netns: clone.netns, ifindex: clone.ifindex };
    go_on(skb, skb.network(), here, Role::Follows, &mut clone);
    let _ = UNDER_WAY.insert(skb.address(), clone, 0);
    ALLOW
}

/// Runs before every other function of its hook.
#[unsafe(no_mangle)]
#[unsafe(link_section = "socket/lat_hook_first")]
pub extern "C" fn lat_hook_first(ctx: *mut c_void) -> i32 {
    hook(ctx, point::HOOK_FIRST);
    NF_ACCEPT
}

/// Runs after every other function of its hook.
#[unsafe(no_mangle)]
#[unsafe(link_section = "socket/lat_hook_last")]
pub extern "C" fn lat_hook_last(ctx: *mut c_void) -> i32 {
    hook(ctx, point::HOOK_LAST);
    NF_ACCEPT
}

/// `struct bpf_nf_ctx { const struct nf_hook_state *state; struct sk_buff *skb; }`, both trusted.
#[inline(always)]
fn hook(ctx: *mut c_void, which: u8) {
    let ctx = Kptr::<true>::new(ctx.cast());
    let state = ctx.follow(0);
    let skb = Skb::<true>::new(ctx.load::<Ptr>(8));
    let hook: u8 = state.load(offset!(state_hook));
    let dev = skb.dev();
    let dev = if dev.is_null() { state.follow(offset!(state_out)) } else { dev };
    let netns = inum(state.follow(offset!(state_net)));
    let here = At { point: which + hook, netns, ifindex: ifindex(dev) };
    let begins = which == point::HOOK_FIRST && (hook == LOCAL_OUT || perf!(begin_at_hooks) != 0);
    step(skb, skb.network(), here, if begins { Role::Begins } else { Role::Follows });
}

#[inline(always)]
fn at(point: u8, dev: Kptr<true>) -> At {
    At { point, netns: netns_of(dev), ifindex: ifindex(dev) }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// A packet is at a point.
#[inline(always)]
fn step<const DIRECT: bool>(skb: Skb<DIRECT>, l3: Ptr, here: At, role: Role) {
    if let Some(entry) = known(skb.address(), here.point) {
        go_on(skb, l3, here, role, entry);
    } else if role == Role::Begins && is_asked_for(skb, l3, here.netns, here.ifindex) {
        let now = now();
        let entry = UnderWay {
            begin_ns: now,
            last_ns: now,
            begin_netns: here.netns,
            begin_ifindex: here.ifindex,
            netns: here.netns,
            ifindex: here.ifindex,
            point: u32::from(here.point),
            proto: 0,
        };
        let _ = UNDER_WAY.insert(skb.address(), entry, 0);
    }
}

/// What is known of the skb at this address, if it may come to `point` next.
#[inline(always)]
fn known(address: u64, to: u8) -> Option<&'static mut UnderWay> {
    let entry = UNDER_WAY.get_ptr_mut(address)?;
    // SAFETY: a map value; this CPU works on the packet.
    let entry = unsafe { &mut *entry };
    let since = PERF_CONTROL.get(PerfControl::Since as u32).copied().unwrap_or(0);
    (entry.last_ns >= since && may_follow(entry.point as u8, to)).then_some(entry)
}

/// Whether a packet that was at one point can be at the other next: else it is another one, at an
/// address that was given away unseen.
#[inline(always)]
fn may_follow(from: u8, to: u8) -> bool {
    match to {
        point::READ => from == point::SOCKET,
        point::DEQUEUE => from == point::ENQUEUE,
        point::CONSUME => true,
        _ => from != point::SOCKET && from != point::ENQUEUE,
    }
}

/// Counts the time since the last point, and the whole where it ends or is delivered.
#[inline(always)]
fn go_on<const DIRECT: bool>(
    skb: Skb<DIRECT>,
    l3: Ptr,
    here: At,
    role: Role,
    entry: &mut UnderWay,
) {
    let now = now();
    let key = SegmentKey {
        from_netns: entry.netns,
        from_ifindex: entry.ifindex,
        to_netns: here.netns,
        to_ifindex: here.ifindex,
        from: entry.point as u8,
        to: here.point,
        ..SegmentKey::default()
    };
    record(key, now.saturating_sub(entry.last_ns));
    if here.point == point::SOCKET || (here.point == point::XMIT && perf!(whole_at_xmit) != 0) {
        whole(skb, l3, here, entry, now);
    }
    if role == Role::Ends {
        let _ = UNDER_WAY.remove(skb.address());
        return;
    }
    entry.last_ns = now;
    entry.netns = here.netns;
    entry.ifindex = here.ifindex;
    entry.point = u32::from(here.point);
}

/// Counts the time since the packet was first seen.
#[inline(always)]
fn whole<const DIRECT: bool>(skb: Skb<DIRECT>, l3: Ptr, here: At, entry: &mut UnderWay, now: u64) {
    if entry.proto == 0 {
        // SAFETY: bytes; zeroes when they cannot be read.
        let header: [u8; 12] = unsafe { probe_read(l3) };
        let proto = if header[0] >> 4 == 4 { header[9] } else { header[6] };
        entry.proto = if skb.protocol() == crate::packet::ETH_P_ARP { 0 } else { proto.into() };
    }
    let key = SegmentKey {
        from_netns: entry.begin_netns,
        from_ifindex: entry.begin_ifindex,
        to_netns: here.netns,
        to_ifindex: here.ifindex,
        from: point::BEGIN,
        to: here.point,
        proto: entry.proto as u8,
        ..SegmentKey::default()
    };
    record(key, now.saturating_sub(entry.begin_ns));
}

/// Counts a time.
#[inline(always)]
fn record(mut key: SegmentKey, ns: u64) {
    // SAFETY: a helper without arguments.
    key.shard = (unsafe { bpf_get_smp_processor_id() } % SHARDS) as u8;
    let Some(histogram) = histogram_of(&key) else {
        if let Some(slot) = PERF_STATS.get_ptr_mut(PerfStat::Unplaced as u32) {
            add(slot, 1);
        }
        return;
    };
    let at = bucket(ns) as usize & (BUCKETS - 1);
    // SAFETY: a map value, and an index within it. The longest time may be missed when two CPUs
    // find one at once; it lies in the last bucket all the same.
    unsafe {
        increment((&raw mut (*histogram).buckets).cast::<u32>().add(at));
        add(&raw mut (*histogram).sum_ns, ns);
        if (*histogram).max_ns < ns {
            (*histogram).max_ns = ns;
        }
    }
}

#[inline(always)]
fn histogram_of(key: &SegmentKey) -> Option<*mut Histogram> {
    if let Some(histogram) = SEGMENTS.get_ptr_mut(key) {
        return Some(histogram);
    }
    let nothing = NOTHING.get(0)?;
    let _ = SEGMENTS.insert(key, nothing, NEW);
    SEGMENTS.get_ptr_mut(key)
}
