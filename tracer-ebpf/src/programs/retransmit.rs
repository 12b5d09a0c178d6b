//! Segments that TCP sends again: rare, so each is told to the user side as an event.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use tracer_common::perf::{PerfStat, Retransmission};

use crate::maps::EVENTS;
use crate::perf_maps::{PERF_STATS, add, perf};
use crate::skb::{Kptr, Skb, inum, probe_read};

const AF_INET6: u16 = 10;
/// `icsk_ca_state` is a bit field of five bits.
const RECOVERY: u8 = 0x1f;

type Ptr = *const u8;

/// `trace_tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb)`, with `err` since
/// 7.2. What a full ring has no room for is counted.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn retransmit(ctx: BtfTracePointContext) -> i32 {
    let socket = Kptr::<true>::new(ctx.arg::<Ptr>(0));
    let skb = Skb::<true>::new(ctx.arg::<Ptr>(1));
    let family: u16 = socket.load(perf!(sock_family));
    let (own, other) = match family {
        AF_INET6 => (address6(socket, perf!(sock_addr6)), address6(socket, perf!(sock_peer_addr6))),
        _ => (address(socket, perf!(sock_addr)), address(socket, perf!(sock_peer_addr))),
    };
    let Some(mut slot) = EVENTS.reserve::<Retransmission>(0) else {
        if let Some(untold) = PERF_STATS.get_ptr_mut(PerfStat::Untold as u32) {
            add(untold, 1);
        }
        return 0;
    };
    slot.write(Retransmission {
        // SAFETY: a helper without arguments.
        ktime_ns: unsafe { bpf_ktime_get_ns() },
        netns: inum(socket.follow(perf!(sock_net))),
        seq: skb.load(perf!(skb_cb)),
        addr: own,
        peer_addr: other,
        port: socket.load(perf!(sock_port)),
        peer_port_be: socket.load::<u16>(perf!(sock_peer_port)).to_ne_bytes(),
        family,
        state: socket.load(perf!(sock_state)),
        // SAFETY: a byte, beyond what the type of the argument has; zero when it cannot be read.
        recovery: unsafe { probe_read::<u8>(socket.at(perf!(sock_recovery))) & RECOVERY },
    });
    slot.submit(u64::from(BPF_RB_NO_WAKEUP));
    0
}

#[inline(always)]
fn address(socket: Kptr<true>, at: u16) -> [u32; 4] {
    [socket.load(at), 0, 0, 0]
}

#[inline(always)]
fn address6(socket: Kptr<true>, at: u16) -> [u32; 4] {
    // SAFETY: integers; zeroes when they cannot be read, or this kernel has no IPv6.
    unsafe { probe_read(socket.at(at)) }
}
