//! `pkttrace drops`: counts what is dropped, and nothing else, so that a packet that arrives costs
//! nothing.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use tracer_common::Probe;
use tracer_common::event::{EventHeader, FreeDetail, SNAP_LEN, flags};
use tracer_common::filter::terms;
use tracer_common::offsets::ABSENT;
use tracer_common::perf::{DropCount, DropKey, DropSample, hook};

use super::tp::KERNEL_SPACE;
use crate::asked::{self, PACKET_TERMS, with_packet};
use crate::config::{filter, option};
use crate::filter::{self, wanted};
use crate::maps::EVENTS;
use crate::packet;
use crate::perf_maps::{DROPS, DROPS_OTHER, SCOPE_ADDR, add, perf};
use crate::skb::{Kptr, Skb, ifindex, inum, is_netns, netns_of, probe_read};

/// `BPF_NOEXIST`: another CPU may have been faster.
const NEW: u64 = 1;
/// An example of each kind of drop at most so often, nanoseconds.
const EXAMPLE_EVERY: u64 = 1_000_000_000;
/// `RTN_LOCAL`, `RTN_BROADCAST`, `RTN_MULTICAST`.
const LOCAL_TYPES: [u16; 3] = [2, 3, 5];
/// `RTF_LOCAL | RTF_ANYCAST`.
const LOCAL_FLAGS: u32 = 0x8010_0000;

type Ptr = *const u8;

/// `trace_kfree_skb(skb, location)`, with `reason` since 5.17 and `rx_sk` since 6.11.
#[btf_tracepoint(function = "kfree_skb")]
pub fn drops(ctx: BtfTracePointContext) -> i32 {
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(0));
    let (netns, device) = place(&ctx, skb);
    if !matches(skb, netns, device) {
        return 0;
    }
    let key = DropKey {
        location: ctx.arg(1),
        reason: if option!(kfree_has_reason) != 0 { ctx.arg::<u64>(2) as u32 } else { 0 },
        netns,
        ifindex: device,
        protocol_be: skb.protocol().to_ne_bytes(),
        hook: hook_of(skb, device),
        to_group: u8::from(is_to_group(skb)),
    };
    let Some(count) = count_of(&key) else { return 0 };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: a map value of this CPU. Programs may nest or be preempted: what must be exact is
    // added in one instruction.
    unsafe {
        add(&raw mut (*count).packets, 1);
        add(&raw mut (*count).bytes, u64::from(skb.len()));
        if (*count).first_ns == 0 {
            (*count).first_ns = now;
        }
        (*count).last_ns = now;
        if now - (*count).example_ns >= EXAMPLE_EVERY {
            (*count).example_ns = now;
            sample(skb, key, now);
        }
    }
    0
}

#[inline(always)]
fn count_of(key: &DropKey) -> Option<*mut DropCount> {
    if let Some(count) = DROPS.get_ptr_mut(key) {
        return Some(count);
    }
    let none = DropCount { packets: 0, bytes: 0, first_ns: 0, last_ns: 0, example_ns: 0 };
    let _ = DROPS.insert(key, none, NEW);
    DROPS.get_ptr_mut(key).or_else(|| DROPS_OTHER.get_ptr_mut(0))
}

/// Where it is dropped: at its device; without one, in the namespace of its socket or its route.
/// See [`is_netns`] for what no device can be told of.
#[inline(always)]
fn place(ctx: &BtfTracePointContext, skb: Skb<true>) -> (u32, u32) {
    let dev = skb.dev();
    let has_device = dev.address() >= KERNEL_SPACE;
    let its = if has_device { netns_of(dev) } else { 0 };
    if perf!(kfree_has_socket) != 0 {
        let socket = Kptr::<true>::new(ctx.arg::<Ptr>(3));
        if !socket.is_null() {
            let netns = inum(socket.follow(perf!(sock_net)));
            return (netns, if its == netns { ifindex(dev) } else { 0 });
        }
    }
    if is_netns(its) {
        return (its, ifindex(dev));
    }
    let socket = skb.follow(perf!(skb_sk));
    if !socket.is_null() {
        return (inum(socket.follow(perf!(sock_net))), 0);
    }
    let dst = skb.dst();
    if dst < KERNEL_SPACE {
        return (0, 0);
    }
    let dev = Kptr::<false>::new(dst as Ptr).follow(perf!(dst_dev));
    if dev.is_null() { (0, 0) } else { (netns_of(dev), 0) }
}

/// Whether it is asked for. Without a filter everything is, whatever protocol it is of.
#[inline(always)]
fn matches(skb: Skb<true>, netns: u32, device: u32) -> bool {
    if filter!(terms) == 0 {
        return true;
    }
    let in_scope = filter::in_scope(netns, device);
    // Where only a place is asked for, everything that is dropped there is, too.
    if in_scope && !wanted(PACKET_TERMS) {
        return true;
    }
    let protocol = skb.protocol();
    let l3 = skb.network();
    if !filter::wants_protocol(protocol) {
        return false;
    }
    let by_address = wanted(terms::NETNS) && !wanted(terms::DEV);
    if !in_scope && !by_address {
        return false;
    }
    with_packet(skb, l3, protocol, |slot| {
        let key = &slot.packet().key;
        // SAFETY: the values are not looked at.
        let is_theirs = in_scope
            || unsafe {
                SCOPE_ADDR.get(key.saddr).is_some() || SCOPE_ADDR.get(key.daddr).is_some()
            };
        is_theirs && asked::matches(slot, protocol)
    })
}

/// See [`hook`].
#[inline(always)]
fn hook_of(skb: Skb<true>, device: u32) -> u8 {
    let protocol = skb.protocol();
    let dst = skb.dst();
    let came_in_by: u32 = skb.load(perf!(skb_iif));
    if dst < KERNEL_SPACE {
        return if came_in_by == 0 { hook::UNKNOWN } else { hook::PREROUTING };
    }
    let member = |offset: u16| (dst + u64::from(offset)) as Ptr;
    // SAFETY: integers; zeroes when they cannot be read. `dst` begins an rtable or a rt6_info.
    let (is_input, is_local) = unsafe {
        if protocol == packet::ETH_P_IP && perf!(rt_is_input) != ABSENT {
            let kind: u16 = probe_read(member(perf!(rt_type)));
            let is_input = probe_read::<u8>(member(perf!(rt_is_input))) != 0;
            (is_input, LOCAL_TYPES[0] == kind || LOCAL_TYPES[1] == kind || LOCAL_TYPES[2] == kind)
        } else if protocol == packet::ETH_P_IPV6 {
            let flags: u32 = probe_read(member(perf!(rt6_flags)));
            (came_in_by != 0, flags & LOCAL_FLAGS != 0)
        } else {
            return hook::UNKNOWN;
        }
    };
    if is_input {
        return match (is_local, device == came_in_by) {
            (true, _) => hook::INPUT,
            (false, true) => hook::FORWARD,
            (false, false) => hook::POSTROUTING,
        };
    }
    // A bridge gives what it shows to netfilter a route of its own, which is no route.
    match (came_in_by, device) {
        (0, 0) => hook::OUTPUT,
        (0, _) => hook::POSTROUTING,
        _ => hook::UNKNOWN,
    }
}

/// Whether its destination is a multicast address.
#[inline(always)]
fn is_to_group(skb: Skb<true>) -> bool {
    let (at, group, mask) = match skb.protocol() {
        packet::ETH_P_IP => (16, 0xe0, 0xf0),
        packet::ETH_P_IPV6 => (24, 0xff, 0xff),
        _ => return false,
    };
    // SAFETY: a byte; zero when it cannot be read.
    unsafe { probe_read::<u8>(skb.network().wrapping_add(at)) & mask == group }
}

/// Sends the packet to the user side. A full ring costs an example, no count.
#[inline(always)]
fn sample(skb: Skb<true>, key: DropKey, now: u64) {
    let Some(mut slot) = EVENTS.reserve::<DropSample>(0) else { return };
    // SAFETY: the record is ours until submitted; every member is written.
    unsafe {
        let sample = slot.as_mut_ptr();
        (&raw mut (*sample).key).write(key);
        let event = &raw mut (*sample).event;
        let cpu = bpf_get_smp_processor_id();
        (&raw mut (*event).header).write(EventHeader {
            ktime_ns: now,
            // Unique enough: no CPU drops two packets at the same nanosecond.
            journey: u64::from(cpu) << 48 | now & 0xffff_ffff_ffff,
            ct_mark: 0,
            ct_status: 0,
            ct_zone: 0,
            head: 0,
            netns: key.netns,
            ifindex: key.ifindex,
            len: 0,
            mark: 0,
            seq: 0,
            probe: Probe::Kfree as u8,
            flags: flags::BIRTH | flags::END,
            gso_size: 0,
            protocol_be: key.protocol_be,
            ct: 0,
            pkt_type: 0,
            cpu: cpu as u16,
            lost: 0,
            tunnels: 0,
        });
        skb.describe(&mut (*event).header);
        let detail = FreeDetail { location: key.location, reason: key.reason, callers: [0; 5] };
        (&raw mut (*event).detail).cast::<FreeDetail>().write(detail);
        let snap = (&raw mut (*event).snap).cast();
        bpf_probe_read_kernel(snap, SNAP_LEN as u32, skb.network().cast());
    }
    slot.submit(u64::from(BPF_RB_NO_WAKEUP));
}
