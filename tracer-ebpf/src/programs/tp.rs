//! The `tp` backend: tracepoints with BTF types. They see every network namespace.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_stack;
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use tracer_common::Probe;
use tracer_common::event::{
    DETAIL_LEN, DeviceDetail, FibDetail, FreeDetail, IcmpDetail, NeighDetail, ReaderDetail,
    Tracked, state,
};
use tracer_common::offsets::ABSENT;

use crate::config::{offset, option};
use crate::emit::{Site, emit, emit_note};
use crate::identity::{Rule, followed, forget, hand_over, observe, settle};
use crate::maps::{STACK, STACK_FRAMES, TRACKED, any_held, current, take_origin};
use crate::skb::{Kptr, Skb, ifindex, is_netns, netns_of};

type Ptr = *const u8;

/// Below this lie user addresses and small numbers: `skb->dev` shares its place with other things
/// once a socket has the skb. With five levels of page tables the kernel's addresses begin at
/// 0xff00_0000_0000_0000 (x86-64; 0xfff0… on arm64).
pub(super) const KERNEL_SPACE: u64 = 0xff00_0000_0000_0000;

/// What a look-up of a route may end in, negated errno.
const EAGAIN: i32 = -11;
const EACCES: i32 = -13;
const EINVAL: i32 = -22;
const ENETUNREACH: i32 = -101;
const EHOSTUNREACH: i32 = -113;
/// Scope of the next hop of an address of the namespace itself (`fib_create_info`).
const RT_SCOPE_NOWHERE: u8 = 255;
/// `RTN_*` of routes that refuse.
const RTN_BLACKHOLE: u8 = 6;
const RTN_UNREACHABLE: u8 = 7;
const RTN_PROHIBIT: u8 = 8;
const RTN_THROW: u8 = 9;

fn place_of(dev: Kptr<true>) -> (u32, u32) {
    (netns_of(dev), ifindex(dev))
}

#[inline(always)]
fn name_of(dev: Kptr<true>) -> DeviceDetail {
    let lo: u64 = dev.load(offset!(dev_name));
    let hi: u64 = dev.load(offset!(dev_name) + 8);
    let mut name = [0; 16];
    name[..8].copy_from_slice(&lo.to_ne_bytes());
    name[8..].copy_from_slice(&hi.to_ne_bytes());
    DeviceDetail { name, ..DeviceDetail::default() }
}

/// The device's name and the addresses of the frame.
#[inline(always)]
fn frame_of(skb: Skb<true>) -> DeviceDetail {
    DeviceDetail { macs: skb.macs(), ..name_of(skb.dev()) }
}

/// `trace_netif_receive_skb(struct sk_buff *skb)`, in `__netif_receive_skb_core`.
/// `skb->data` is at the network header; `skb->network_header` is set only after it.
#[btf_tracepoint(function = "netif_receive_skb")]
pub fn rx(ctx: BtfTracePointContext) -> i32 {
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(0));
    let rule = Rule { may_begin: true, routes: true, ..Rule::default() };
    observe(skb, skb.data(), rule, Probe::Rx, || place_of(skb.dev()), || frame_of(skb));
    0
}

/// `trace_net_dev_queue(struct sk_buff *skb)`, in `__dev_queue_xmit`.
#[btf_tracepoint(function = "net_dev_queue")]
pub fn queue(ctx: BtfTracePointContext) -> i32 {
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(0));
    let rule = Rule { may_begin: true, ..Rule::default() };
    observe(skb, skb.network(), rule, Probe::Queue, || place_of(skb.dev()), || frame_of(skb));
    0
}

/// `trace_net_dev_start_xmit(const struct sk_buff *skb, const struct net_device *dev)`.
///
/// Every packet has passed `net_dev_queue`, so nothing begins here but the segments of a packet
/// that this CPU is working on.
#[btf_tracepoint(function = "net_dev_start_xmit")]
pub fn xmit(ctx: BtfTracePointContext) -> i32 {
    let Some(current) = current() else { return 0 };
    if current.skb == 0 {
        return 0;
    }
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(0));
    let dev = Kptr::<true>::new(ctx.arg::<Ptr>(1));
    let rule = Rule { may_begin: true, is_brief: true, ..Rule::default() };
    let entry = observe(skb, skb.network(), rule, Probe::Xmit, || place_of(dev), || name_of(dev));
    if !entry.is_null() {
        // SAFETY: a map value; this CPU works on the packet.
        unsafe { (*entry).state = state::SENT };
    }
    0
}

/// `trace_kfree_skb(skb, location)`, with `reason` since 5.17 and `rx_sk` since 6.11.
#[btf_tracepoint(function = "kfree_skb")]
pub fn kfree(ctx: BtfTracePointContext) -> i32 {
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(0));
    let location: u64 = ctx.arg(1);
    let reason = if option!(kfree_has_reason) != 0 { ctx.arg::<u64>(2) as u32 } else { 0 };
    // A packet dropped before any other probe saw it is worth a journey of one hop.
    let may_begin = reason == 0 || reason != option!(queue_purge);
    let rule = Rule { may_begin, ends: true, ..Rule::default() };
    let place = || {
        let dev = skb.dev();
        if (dev.address()) < KERNEL_SPACE {
            return (0, 0);
        }
        let place = place_of(dev);
        if is_netns(place.0) { place } else { (0, 0) }
    };
    let detail = || FreeDetail { location, reason, callers: callers(ctx.as_ptr(), location) };
    observe(skb, skb.network(), rule, Probe::Kfree, place, detail);
    take_origin(skb.address());
    0
}

/// Who called the function that freed the skb: the frames behind `location` on the stack.
#[inline(always)]
fn callers(ctx: *mut c_void, location: u64) -> [i32; 5] {
    let mut callers = [0; 5];
    let Some(stack) = STACK.get_ptr_mut(0) else { return callers };
    // SAFETY: a map value of this CPU; the helper writes no more than the frames.
    let stack = unsafe { &mut *stack };
    // SAFETY: a helper without arguments.
    let token = unsafe { bpf_ktime_get_ns() };
    stack.token = token;
    let room = size_of_val(&stack.frames) as u32;
    // SAFETY: as above. What it does not fill, it zeroes.
    if unsafe { bpf_get_stack(ctx, stack.frames.as_mut_ptr().cast(), room, 0) } < 0 {
        return callers;
    }
    let mut behind = callers.len();
    let mut n = 0;
    while n < STACK_FRAMES {
        if behind < callers.len() {
            callers[behind] = (stack.frames[n].wrapping_sub(location)) as i32;
            behind += 1;
        } else if stack.frames[n] == location {
            behind = 0;
        }
        n += 1;
    }
    // A program that ran in an interrupt meanwhile has written its own there.
    if stack.token == token { callers } else { [0; 5] }
}

/// `trace_consume_skb(skb)`, with `location` since 6.12.
#[btf_tracepoint(function = "consume_skb")]
pub fn consume(ctx: BtfTracePointContext) -> i32 {
    if !any_held() {
        return 0;
    }
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(0));
    let Some(entry) = TRACKED.get_ptr_mut(skb.address()) else {
        take_origin(skb.address());
        return 0;
    };
    // SAFETY: a map value; the skb has one owner left.
    let entry = unsafe { &mut *entry };
    if entry.state == state::MOVING && hand_over(skb, entry) {
        return 0;
    }
    if entry.journey == 0 {
        forget(skb.address(), entry);
        return 0;
    }
    let rule = Rule { ends: true, is_brief: true, ..Rule::default() };
    observe(skb, skb.network(), rule, Probe::Consume, || (0, 0), || consumed(&ctx));
    0
}

#[inline(always)]
fn consumed(ctx: &BtfTracePointContext) -> FreeDetail {
    let location = if option!(consume_has_location) != 0 { ctx.arg::<u64>(1) } else { 0 };
    FreeDetail { location, reason: 0, callers: [0; 5] }
}

/// `trace_fib_table_lookup(u32 tb_id, const struct flowi4 *flp, const struct fib_nh_common *nhc,
/// int err)`: no skb, so the look-up is the packet's whose addresses it has.
#[btf_tracepoint(function = "fib_table_lookup")]
pub fn fib(ctx: BtfTracePointContext) -> i32 {
    let Some(current) = current() else { return 0 };
    if current.skb == 0 || current.routes == 0 {
        return 0;
    }
    let flow = Kptr::<true>::new(ctx.arg::<Ptr>(1));
    let saddr: u32 = flow.load(offset!(fl4_saddr));
    let daddr: u32 = flow.load(offset!(fl4_daddr));
    if daddr != current.daddr[0] || saddr != current.saddr[0] {
        return 0;
    }
    let Some(entry) = current_entry(current.skb) else { return 0 };
    let nhc = Kptr::<true>::new(ctx.arg::<Ptr>(2));
    let mut detail = FibDetail {
        table: ctx.arg::<u64>(0) as u32,
        err: ctx.arg::<u64>(3) as i32,
        ..FibDetail::default()
    };
    if !nhc.is_null() {
        detail.ifindex = ifindex(nhc.follow(offset!(nhc_dev)));
        detail.gw_family = nhc.load(offset!(nhc_gw_family));
        if offset!(nhc_scope) != ABSENT {
            detail.is_local = u8::from(nhc.load::<u8>(offset!(nhc_scope)) == RT_SCOPE_NOWHERE);
        }
        // A union: the verifier of old kernels lets no load be wider than its first member.
        // SAFETY: bytes.
        detail.gw = unsafe { crate::skb::probe_read(nhc.at(offset!(nhc_gw))) };
    }
    emit_note(entry, entry_site(entry, Probe::Fib), detail);
    0
}

/// `trace_fib6_table_lookup(const struct net *net, const struct fib6_result *res,
/// struct fib6_table *table, const struct flowi6 *flp)`.
#[btf_tracepoint(function = "fib6_table_lookup")]
pub fn fib6(ctx: BtfTracePointContext) -> i32 {
    let Some(current) = current() else { return 0 };
    if current.skb == 0 || current.routes == 0 {
        return 0;
    }
    let flow = Kptr::<true>::new(ctx.arg::<Ptr>(3));
    // The last words tell hosts apart; the user side checks the rest by the route it finds.
    let saddr: u32 = flow.load(offset!(fl6_saddr) + 12);
    let daddr: u32 = flow.load(offset!(fl6_daddr) + 12);
    if daddr != current.daddr[3] || saddr != current.saddr[3] {
        return 0;
    }
    let Some(entry) = current_entry(current.skb) else { return 0 };
    let result = Kptr::<true>::new(ctx.arg::<Ptr>(1));
    let table = Kptr::<true>::new(ctx.arg::<Ptr>(2));
    let mut detail = FibDetail {
        table: table.load(offset!(fib6_table_id)),
        err: fib6_error(Kptr::<true>::new(ctx.arg::<Ptr>(0)), result),
        ..FibDetail::default()
    };
    if detail.err == 0 {
        // `fib6_nh` begins with its `fib_nh_common`.
        detail.ifindex = ifindex(result.follow(offset!(fib6_result_nh)).follow(offset!(nhc_dev)));
    }
    emit_note(entry, entry_site(entry, Probe::Fib6), detail);
    0
}

/// The error that a look-up of IPv6 ends in, which the tracepoint does not have: a table without a
/// route answers with the namespace's null entry, and the type of others says the rest
/// (`ip6_rt_type_to_error`).
#[inline(always)]
fn fib6_error(net: Kptr<true>, result: Kptr<true>) -> i32 {
    if offset!(net_fib6_null_entry) != ABSENT && offset!(fib6_result_f6i) != ABSENT {
        let found: u64 = result.load(offset!(fib6_result_f6i));
        let null: u64 = net.load(offset!(net_fib6_null_entry));
        if found == null {
            return ENETUNREACH;
        }
    }
    if offset!(fib6_result_type) == ABSENT {
        return 0;
    }
    match result.load::<u8>(offset!(fib6_result_type)) {
        RTN_BLACKHOLE => EINVAL,
        RTN_UNREACHABLE => EHOSTUNREACH,
        RTN_PROHIBIT => EACCES,
        RTN_THROW => EAGAIN,
        _ => 0,
    }
}

/// `trace_neigh_create(struct neigh_table *tbl, struct net_device *dev, const void *pkey, …)`,
/// since 5.3: the packet that this CPU has just routed meets a neighbour that nobody knows. The
/// reports below come after the question, which may have been answered by then, and the packet
/// may have arrived: this one comes before.
#[btf_tracepoint(function = "neigh_create")]
pub fn neigh_create(ctx: BtfTracePointContext) -> i32 {
    let Some(current) = current() else { return 0 };
    let address = current.resolving;
    let place = (current.resolving_netns as u32, current.resolving_ifindex as u32);
    if address == 0 || place_of(Kptr::<true>::new(ctx.arg::<Ptr>(1))) != place {
        return 0;
    }
    let Some(entry) = current_entry(address) else { return 0 };
    // By helper: the verifiers of 6.12 and before let nobody load a `const void *`.
    // SAFETY: the context has this many words; of the bytes of the key, those beyond the four of
    // IPv4 are whatever lies there.
    let key: [u8; 16] = unsafe {
        let words: [u64; 3] = crate::skb::probe_read(ctx.as_ptr().cast::<u8>().cast_const());
        crate::skb::probe_read(words[2] as Ptr)
    };
    let detail = NeighDetail { ifindex: place.1, nud_state: 0, waiting: 1, reserved: [0; 10], key };
    let mut site = entry_site(entry, Probe::Neigh);
    (site.netns, site.ifindex) = place;
    emit_note(entry, site, detail);
    0
}

/// `trace_neigh_event_send_done(struct neighbour *neigh, int rc)`: the packet that this CPU
/// has just routed met a neighbour entry that is not valid.
#[btf_tracepoint(function = "neigh_event_send_done")]
pub fn neigh_done(ctx: BtfTracePointContext) -> i32 {
    neigh(&ctx)
}

/// `trace_neigh_event_send_dead(struct neighbour *neigh, int rc)`.
#[btf_tracepoint(function = "neigh_event_send_dead")]
pub fn neigh_dead(ctx: BtfTracePointContext) -> i32 {
    neigh(&ctx)
}

#[inline(always)]
fn neigh(ctx: &BtfTracePointContext) -> i32 {
    let Some(current) = current() else { return 0 };
    let address = current.resolving;
    if address == 0 {
        return 0;
    }
    let neigh = Kptr::<true>::new(ctx.arg::<Ptr>(0));
    let dev: Kptr<true> = neigh.follow(offset!(neigh_dev));
    // The answer to this packet's question, or the packet's own reply, may have been routed
    // since: then the report is about neither of them.
    let place = (current.resolving_netns as u32, current.resolving_ifindex as u32);
    if place_of(dev) != place {
        return 0;
    }
    current.resolving = 0;
    let Some(entry) = current_entry(address) else { return 0 };
    // The key is a flexible array: beyond the type that the verifier knows.
    let mut key = [0; 16];
    // SAFETY: bytes; the helper may fail and then zeroes.
    let [lo, hi]: [u64; 2] = unsafe { crate::skb::probe_read(neigh.at(offset!(neigh_key))) };
    key[..8].copy_from_slice(&lo.to_ne_bytes());
    key[8..].copy_from_slice(&hi.to_ne_bytes());
    let detail = NeighDetail {
        ifindex: place.1,
        nud_state: neigh.load(offset!(neigh_state)),
        waiting: u8::from(ctx.arg::<u64>(1) as i32 != 0),
        reserved: [0; 10],
        key,
    };
    let mut site = entry_site(entry, Probe::Neigh);
    (site.netns, site.ifindex) = place;
    emit_note(entry, site, detail);
    0
}

/// `trace_icmp_send(const struct sk_buff *skb, int type, int code)`, since 6.1.
#[btf_tracepoint(function = "icmp_send")]
pub fn icmp_send(ctx: BtfTracePointContext) -> i32 {
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(0));
    let Some(entry) = followed(skb) else { return 0 };
    let detail = IcmpDetail {
        icmp_type: ctx.arg::<u64>(1) as u8,
        code: ctx.arg::<u64>(2) as u8,
        reserved: [0; 30],
    };
    // The look-ups from here on are the error's.
    if let Some(current) = current() {
        current.routes = 0;
    }
    let site = entry_site(entry, Probe::IcmpSend);
    emit(entry, skb, site, detail, None);
    0
}

/// `trace_tcp_probe(struct sock *sk, const struct sk_buff *skb)`, in `tcp_rcv_established`.
#[btf_tracepoint(function = "tcp_probe")]
pub fn tcp_socket(ctx: BtfTracePointContext) -> i32 {
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(1));
    let Some(entry) = followed(skb) else { return 0 };
    if entry.state != state::SETTLED {
        let site = entry_site(entry, Probe::TcpSocket);
        emit(entry, skb, site, [0u8; DETAIL_LEN], None);
        settle(entry);
    }
    0
}

/// `trace_skb_copy_datagram_iovec(const struct sk_buff *skb, int len)`: the application reads, or
/// the process that holds a tun device. Other sockets than those of packets come by here as well.
#[btf_tracepoint(function = "skb_copy_datagram_iovec")]
pub fn copy_to_user(ctx: BtfTracePointContext) -> i32 {
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(0));
    let rule = Rule { is_brief: true, ..Rule::default() };
    observe(skb, skb.network(), rule, Probe::CopyToUser, || (0, 0), reader);
    0
}

/// The process that runs.
#[inline(always)]
fn reader() -> ReaderDetail {
    let comm = bpf_get_current_comm().unwrap_or_default();
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    ReaderDetail { pid, comm, ..ReaderDetail::default() }
}

#[inline(always)]
fn entry_site(entry: &Tracked, probe: Probe) -> Site {
    Site { probe, netns: entry.netns, ifindex: entry.ifindex, flags: 0 }
}

#[inline(always)]
fn current_entry(address: u64) -> Option<&'static mut Tracked> {
    // SAFETY: a map value; this CPU works on the packet.
    TRACKED.get_ptr_mut(address).map(|e| unsafe { &mut *e }).filter(|e| e.journey != 0)
}
