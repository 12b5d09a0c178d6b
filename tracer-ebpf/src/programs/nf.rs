//! The `nf` backend: BPF netfilter programs (since 6.4), the last of each hook, and the first of
//! `LOCAL_OUT`.
//!
//! aya knows no such program type, so they lie in sections of a type that it does know; the user
//! side loads them by `bpf(2)`. They always accept.

use core::ffi::c_void;

use tracer_common::Probe;
use tracer_common::event::{NfDetail, state};
use tracer_common::offsets::ABSENT;

use crate::config::offset;
use crate::identity::{Rule, observe};
use crate::maps::{any_live, current};
use crate::skb::{Kptr, Skb, ifindex, inum, probe_read};

const NF_ACCEPT: i32 = 1;
pub(super) const LOCAL_IN: u8 = 1;
const FORWARD: u8 = 2;
pub(super) const LOCAL_OUT: u8 = 3;
pub(super) const POST_ROUTING: u8 = 4;
pub(super) const PF_IPV4: u8 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `struct bpf_nf_ctx { const struct nf_hook_state *state; struct sk_buff *skb; }`, both trusted.
#[inline(always)]
fn context(ctx: *mut c_void) -> (Kptr<true>, Skb<true>) {
    let ctx = Kptr::<true>::new(ctx.cast());
    (ctx.follow(0), Skb::new(ctx.load::<*const u8>(8)))
}

/// Runs before every other function of `LOCAL_OUT`, where packets of this node are met first.
#[unsafe(no_mangle)]
#[unsafe(link_section = "socket/nf_output")]
pub extern "C" fn nf_output(ctx: *mut c_void) -> i32 {
    hook(ctx, Probe::NfFirst, true);
    NF_ACCEPT
}

/// Runs after every other function of its hook, the confirmation of conntrack excepted.
#[unsafe(no_mangle)]
#[unsafe(link_section = "socket/nf_last")]
pub extern "C" fn nf_last(ctx: *mut c_void) -> i32 {
    hook(ctx, Probe::NfLast, false);
    NF_ACCEPT
}

#[inline(always)]
fn hook(ctx: *mut c_void, probe: Probe, may_begin: bool) {
    if !may_begin && !any_live() {
        return;
    }
    let (state_ptr, skb) = context(ctx);
    let hook: u8 = state_ptr.load(offset!(state_hook));
    let place = || {
        let dev = skb.dev();
        let dev = if dev.is_null() { state_ptr.follow(offset!(state_out)) } else { dev };
        (inum(state_ptr.follow(offset!(state_net))), ifindex(dev))
    };
    let routes = hook == 0 || (hook == LOCAL_OUT && matches!(probe, Probe::NfFirst));
    let rule = Rule { may_begin, routes, makes: may_begin, ..Rule::default() };
    let entry = observe(skb, skb.network(), rule, probe, place, || detail(state_ptr, skb, hook));
    if entry.is_null() || !matches!(probe, Probe::NfLast) {
        return;
    }
    if hook == LOCAL_IN {
        // SAFETY: a map value; this CPU works on the packet.
        unsafe { (*entry).state = state::LOCAL };
    } else if hook == POST_ROUTING
        && let Some(current) = current()
    {
        current.resolving = skb.address();
        current.resolving_netns = u64::from(inum(state_ptr.follow(offset!(state_net))));
        current.resolving_ifindex = u64::from(ifindex(state_ptr.follow(offset!(state_out))));
    }
}

/// What `struct nf_hook_state` says.
#[inline(always)]
pub(super) fn detail<const DIRECT: bool>(
    state_ptr: Kptr<DIRECT>,
    skb: Skb<DIRECT>,
    hook: u8,
) -> NfDetail {
    let pf: u8 = state_ptr.load(offset!(state_pf));
    let mut detail = NfDetail {
        in_ifindex: ifindex(state_ptr.follow(offset!(state_in))),
        out_ifindex: ifindex(state_ptr.follow(offset!(state_out))),
        hook,
        pf,
        ..NfDetail::default()
    };
    if hook == FORWARD || hook == LOCAL_OUT {
        gateway(skb, pf, &mut detail);
    }
    detail
}

/// The next hop of the route that the skb carries.
#[inline(always)]
pub(super) fn gateway<const DIRECT: bool>(skb: Skb<DIRECT>, pf: u8, detail: &mut NfDetail) {
    let dst = skb.dst();
    if dst == 0 {
        return;
    }
    // SAFETY: integers; `dst` begins an rtable or a rt6_info by family.
    unsafe {
        if pf == PF_IPV4 && offset!(rt_gw_family) != ABSENT {
            detail.gw_family = probe_read((dst + u64::from(offset!(rt_gw_family))) as *const u8);
            let at = (dst + u64::from(offset!(rt_gw4))) as *const u8;
            if detail.gw_family == AF_INET {
                detail.gw[..4].copy_from_slice(&probe_read::<u32>(at).to_ne_bytes());
            } else if detail.gw_family == AF_INET6 {
                detail.gw = probe_read(at);
            }
        } else if pf != PF_IPV4 && offset!(rt6_gateway) != ABSENT {
            detail.gw = probe_read((dst + u64::from(offset!(rt6_gateway))) as *const u8);
            if detail.gw != [0; 16] {
                detail.gw_family = AF_INET6;
            }
        }
    }
}
