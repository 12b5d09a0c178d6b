//! The `cg` backend: the root cgroup's ingress program runs where a socket filter would, so it
//! proves that the packet has found its socket. It always allows.
//!
//! `sk_filter_trim_cap` runs it for TCP (listeners included), UDP, raw and ping sockets.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use tracer_common::Probe;
use tracer_common::event::DETAIL_LEN;

use crate::identity::{Rule, observe, settle};
use crate::maps::{TRACKED, any_held};
use crate::packet::{TCP, UDP};
use crate::skb::{Skb, probe_read};

const ALLOW: i32 = 1;

/// A socket is about to take the packet.
#[cgroup_skb]
pub fn cg_socket(ctx: SkBuffContext) -> i32 {
    if !any_held() {
        return ALLOW;
    }
    let skb = Skb::<false>::new(ctx.as_ptr().cast::<u8>().cast_const());
    let Some(entry) = TRACKED.get_ptr_mut(skb.address()) else { return ALLOW };
    // SAFETY: a map value; this CPU works on the packet.
    let entry = unsafe { &mut *entry };
    if entry.journey == 0 {
        settle(entry);
        return ALLOW;
    }
    let rule = Rule::default();
    let l3 = skb.network();
    let entry = observe(skb, l3, rule, Probe::CgSocket, || (0, 0), || [0u8; DETAIL_LEN]);
    // SAFETY: bytes of the packet; zeroes when they cannot be read.
    let protocol: [u8; 10] = unsafe { probe_read(l3) };
    let protocol = if protocol[0] >> 4 == 4 { protocol[9] } else { protocol[6] };
    // Since 6.18 a datagram that is read on its own CPU ends unseen, as TCP always did.
    if !entry.is_null() && (protocol == TCP || protocol == UDP) {
        // SAFETY: a map value; this CPU works on the packet.
        settle(unsafe { &mut *entry });
    }
    ALLOW
}
