//! The `tc` backend: classifiers first and last on a device. They touch nothing and begin nothing.
//!
//! And two that stand in for tracepoints on the devices where packets enter and leave the node, while
//! there is no packet to follow.
//!
//! The context of such a program is the skb itself at run time, so its address is the identity
//! that the tracepoints know; its members are read by helper, and only for followed packets.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use tracer_common::event::DeviceDetail;
use tracer_common::{Control, Probe};

use crate::config::offset;
use crate::identity::{Rule, observe};
use crate::maps::{any_live, control};
use crate::skb::{Kptr, Skb, ifindex, netns_of};

/// `TC_ACT_UNSPEC`: no opinion, the next program decides.
const NEXT: i32 = -1;

/// Before the other programs on ingress.
#[classifier]
pub fn tc_in_first(ctx: TcContext) -> i32 {
    see(&ctx, Probe::TcIngressFirst)
}

/// After the other programs on ingress.
#[classifier]
pub fn tc_in_last(ctx: TcContext) -> i32 {
    see(&ctx, Probe::TcIngressLast)
}

/// Before the other programs on egress.
#[classifier]
pub fn tc_out_first(ctx: TcContext) -> i32 {
    see(&ctx, Probe::TcEgressFirst)
}

/// After the other programs on egress.
#[classifier]
pub fn tc_out_last(ctx: TcContext) -> i32 {
    see(&ctx, Probe::TcEgressLast)
}

/// What `rx` would see of a packet that enters the node.
#[classifier]
pub fn tc_enters(ctx: TcContext) -> i32 {
    stand_in(&ctx, Probe::Rx)
}

/// What `queue` would see of a packet that leaves the node.
#[classifier]
pub fn tc_leaves(ctx: TcContext) -> i32 {
    stand_in(&ctx, Probe::Queue)
}

#[inline(always)]
fn stand_in(ctx: &TcContext, probe: Probe) -> i32 {
    if control(Control::Thin) == 0 {
        return NEXT;
    }
    let skb = Skb::<false>::new(ctx.as_ptr().cast::<u8>().cast_const());
    let rule = Rule { may_begin: true, ..Rule::default() };
    observe(skb, skb.network(), rule, probe, || place(skb.dev()), || frame(skb));
    NEXT
}

fn frame(skb: Skb<false>) -> DeviceDetail {
    DeviceDetail { macs: skb.macs(), ..name(skb.dev()) }
}

#[inline(always)]
fn see(ctx: &TcContext, probe: Probe) -> i32 {
    if !any_live() {
        return NEXT;
    }
    let skb = Skb::<false>::new(ctx.as_ptr().cast::<u8>().cast_const());
    let rule = Rule { routes: probe as u8 <= Probe::TcIngressLast as u8, ..Rule::default() };
    observe(skb, skb.network(), rule, probe, || place(skb.dev()), || name(skb.dev()));
    NEXT
}

fn place(dev: Kptr<false>) -> (u32, u32) {
    (netns_of(dev), ifindex(dev))
}

fn name(dev: Kptr<false>) -> DeviceDetail {
    DeviceDetail { name: dev.load(offset!(dev_name)), ..DeviceDetail::default() }
}
