//! The `fn` backend: programs on kernel functions, by fentry/fexit or by kprobe/kretprobe.
//!
//! Each begins with whether anything is followed at all, then asks for the skb's entry: a packet
//! that nobody follows pays two look-ups at most. The trampolines (fentry/fexit) lie in sections
//! of their own kind but are loaded by `bpf(2)`, as aya cannot attach to functions in modules.
//! Core functions have typed arguments and are read directly; in modules everything is read by
//! helper, so that one body serves fexit and kretprobe.

#![expect(unexpected_cfgs, reason = "`bpf_target_arch` is aya-ebpf's own")]

use core::ffi::c_void;

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::{kprobe, kretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use tracer_common::event::{
    DETAIL_LEN, IcmpDetail, NfDetail, StepDetail, Tracked, origin, state, step,
};
use tracer_common::{Control, Probe};

use super::nf::{LOCAL_IN, LOCAL_OUT, PF_IPV4, POST_ROUTING, detail, gateway};
use crate::config::offset;
use crate::emit::{Site, emit, emit_note};
use crate::identity::{Rule, followed, observe};
use crate::maps::{CALLS, Call, Origin, any_live, control, current, note_copy};
use crate::skb::{Kptr, Skb, ifindex, inum, netns_of, probe_read};

const PF_IPV6: u8 = 10;
const NF_ACCEPT: u32 = 1;
const DEST_UNREACH: u8 = 3;
const REDIRECT: u8 = 5;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// An argument of a trampoline program; the return value comes after the last one.
#[inline(always)]
fn arg(ctx: *mut c_void, n: usize) -> u64 {
    // SAFETY: the verifier checks the bounds of the context.
    unsafe { ctx.cast::<u64>().add(n).read_volatile() }
}

/// A pointer argument: the verifier knows its type only if it never was a number.
#[inline(always)]
fn ptr(ctx: *mut c_void, n: usize) -> *const u8 {
    // SAFETY: as in `arg`.
    unsafe { ctx.cast::<*const u8>().add(n).read_volatile() }
}

/// `int nf_hook_slow(struct sk_buff *skb, struct nf_hook_state *state,
/// const struct nf_hook_entries *e, unsigned int i)`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/fn_hook_enter")]
pub extern "C" fn fn_hook_enter(ctx: *mut c_void) -> i32 {
    hook_enter(Skb::<true>::new(ptr(ctx, 0)), Kptr::<true>::new(ptr(ctx, 1)));
    0
}

/// As above; 1 is returned when the packet goes on.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fexit/fn_hook_exit")]
pub extern "C" fn fn_hook_exit(ctx: *mut c_void) -> i32 {
    if arg(ctx, 4) as u32 == NF_ACCEPT {
        hook_exit(Skb::<true>::new(ptr(ctx, 0)), Kptr::<true>::new(ptr(ctx, 1)));
    }
    0
}

/// `nf_hook_slow` where there are no trampolines.
#[kprobe]
pub fn kp_hook_enter(ctx: ProbeContext) -> u32 {
    let skb = ctx.arg::<*const u8>(0).unwrap_or(core::ptr::null());
    let state_ptr = ctx.arg::<*const u8>(1).unwrap_or(core::ptr::null());
    hook_enter(Skb::<false>::new(skb), Kptr::<false>::new(state_ptr));
    remember(&ctx);
    0
}

/// See [`kp_hook_enter`].
#[kretprobe]
pub fn kp_hook_exit(ctx: RetProbeContext) -> u32 {
    if let Some(call) = recall(&ctx)
        && ctx.ret::<u64>() as u32 == NF_ACCEPT
    {
        let [skb, state_ptr, _] = call.args;
        hook_exit(Skb::<false>::new(skb as *const u8), Kptr::<false>::new(state_ptr as *const u8));
    }
    0
}

#[inline(always)]
fn is_ip<const DIRECT: bool>(state_ptr: Kptr<DIRECT>) -> bool {
    let pf: u8 = state_ptr.load(offset!(state_pf));
    pf == PF_IPV4 || pf == PF_IPV6
}

/// Where a hook runs: its own namespace; of its devices the skb's, else the one it leaves by.
#[inline(always)]
fn hook_place<const DIRECT: bool>(skb: Skb<DIRECT>, state_ptr: Kptr<DIRECT>) -> (u32, u32) {
    let dev = skb.dev();
    let dev = if dev.is_null() { state_ptr.follow(offset!(state_out)) } else { dev };
    (inum(state_ptr.follow(offset!(state_net))), ifindex(dev))
}

#[inline(always)]
fn hook_enter<const DIRECT: bool>(skb: Skb<DIRECT>, state_ptr: Kptr<DIRECT>) {
    let hook: u8 = state_ptr.load(offset!(state_hook));
    // Packets of this node are met here first.
    let may_begin = hook == LOCAL_OUT;
    if (!may_begin && !any_live()) || !is_ip(state_ptr) {
        return;
    }
    let routes = hook == 0 || hook == LOCAL_OUT;
    let rule = Rule { may_begin, routes, makes: may_begin, ..Rule::default() };
    let place = || hook_place(skb, state_ptr);
    observe(skb, skb.network(), rule, Probe::HookEnter, place, || detail(state_ptr, skb, hook));
}

#[inline(always)]
fn hook_exit<const DIRECT: bool>(skb: Skb<DIRECT>, state_ptr: Kptr<DIRECT>) {
    if !any_live() || !is_ip(state_ptr) {
        return;
    }
    let hook: u8 = state_ptr.load(offset!(state_hook));
    let rule = Rule { routes: hook == 0, ..Rule::default() };
    let place = || hook_place(skb, state_ptr);
    let entry =
        observe(skb, skb.network(), rule, Probe::HookExit, place, || detail(state_ptr, skb, hook));
    if entry.is_null() {
        return;
    }
    if hook == LOCAL_IN {
        // SAFETY: a map value; this CPU works on the packet.
        unsafe { (*entry).state = state::LOCAL };
    } else if hook == POST_ROUTING {
        resolves(
            skb,
            inum(state_ptr.follow(offset!(state_net))),
            ifindex(state_ptr.follow(offset!(state_out))),
        );
    }
}

/// Notes that the packet looks for its neighbour next.
#[inline(always)]
fn resolves<const DIRECT: bool>(skb: Skb<DIRECT>, netns: u32, ifindex: u32) {
    if let Some(current) = current() {
        current.resolving = skb.address();
        current.resolving_netns = u64::from(netns);
        current.resolving_ifindex = u64::from(ifindex);
    }
}

/// `int ip_finish_output2(struct net *net, struct sock *sk, struct sk_buff *skb)`; the same for
/// IPv6. `skb->dev` is the device of the route by now.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/fn_output")]
pub extern "C" fn fn_output(ctx: *mut c_void) -> i32 {
    output(Skb::<true>::new(ptr(ctx, 2)));
    0
}

/// See [`fn_output`].
#[kprobe]
pub fn kp_output(ctx: ProbeContext) -> u32 {
    output(Skb::<false>::new(ctx.arg::<*const u8>(2).unwrap_or(core::ptr::null())));
    0
}

#[inline(always)]
fn output<const DIRECT: bool>(skb: Skb<DIRECT>) {
    let rule = Rule { may_begin: true, ..Rule::default() };
    let place = || (netns_of(skb.dev()), ifindex(skb.dev()));
    let entry = observe(skb, skb.network(), rule, Probe::Output, place, || {
        let is_v6 = skb.protocol() == crate::packet::ETH_P_IPV6;
        let pf = if is_v6 { PF_IPV6 } else { PF_IPV4 };
        let mut detail = NfDetail {
            out_ifindex: ifindex(skb.dev()),
            hook: POST_ROUTING,
            pf,
            ..NfDetail::default()
        };
        gateway(skb, pf, &mut detail);
        detail
    });
    if !entry.is_null() {
        resolves(skb, netns_of(skb.dev()), ifindex(skb.dev()));
    }
}

/// Trampoline, kprobe and kretprobe of a function whose arguments (`$args` of them, three at
/// most) and return value go to `$body` together, once it has returned.
macro_rules! calls {
    ($($body:ident: $fexit:ident $kprobe:ident $kretprobe:ident, $section:literal, $args:literal;)+) => { $(
        #[unsafe(no_mangle)]
        #[unsafe(link_section = $section)]
        pub extern "C" fn $fexit(ctx: *mut c_void) -> i32 {
            if any_live() {
                // As numbers: of a pointer the verifier knows the type, and forbids arithmetic.
                // SAFETY: the context has this many words.
                let words: [u64; $args + 1] = unsafe { probe_read(ctx.cast::<u8>().cast_const()) };
                let word = |n| if n < $args { words[n] } else { 0 };
                $body([word(0), word(1), word(2)], words[$args]);
            }
            0
        }

        #[kprobe]
        pub fn $kprobe(ctx: ProbeContext) -> u32 {
            remember(&ctx);
            0
        }

        #[kretprobe]
        pub fn $kretprobe(ctx: RetProbeContext) -> u32 {
            if let Some(call) = recall(&ctx) {
                $body(call.args, ctx.ret::<u64>());
            }
            0
        }
    )+ };
}

calls! {
    ipt: fn_ipt kp_ipt kr_ipt, "fexit/fn_ipt", 3;
    ip6t: fn_ip6t kp_ip6t kr_ip6t, "fexit/fn_ip6t", 3;
    nft: fn_nft kp_nft kr_nft, "fexit/fn_nft", 2;
    conntrack: fn_conntrack kp_conntrack kr_conntrack, "fexit/fn_conntrack", 2;
    confirm: fn_confirm kp_confirm kr_confirm, "fexit/fn_confirm", 1;
    cloned: fn_clone kp_clone kr_clone, "fexit/fn_clone", 2;
}

/// `struct sk_buff *skb_copy(const struct sk_buff *skb, gfp_t gfp_mask)`: too rare for a kprobe.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fexit/fn_copy")]
pub extern "C" fn fn_copy(ctx: *mut c_void) -> i32 {
    if any_live() {
        made(arg(ctx, 0), arg(ctx, 2), origin::COPY);
    }
    0
}

/// Keeps the arguments for the kretprobe, when anything is followed. The key is the stack pointer
/// at the entry: eight bytes below where it is on return (x86-64), at the same place (arm64).
#[inline(always)]
fn remember(ctx: &ProbeContext) {
    if !any_live() {
        return;
    }
    let word = |n| ctx.arg::<u64>(n).unwrap_or(0);
    let call = Call { args: [word(0), word(1), word(2)] };
    // A full LRU map evicts.
    let _ = CALLS.insert(stack_pointer(ctx.regs), call, 0);
}

#[inline(always)]
fn recall(ctx: &RetProbeContext) -> Option<Call> {
    if !any_live() {
        return None;
    }
    let key = stack_pointer(ctx.regs).wrapping_sub(RETURN_ADDRESS);
    // SAFETY: copied at once; the key is this call's own.
    let call = unsafe { CALLS.get(key) }.copied()?;
    let _ = CALLS.remove(key);
    Some(call)
}

#[cfg(bpf_target_arch = "x86_64")]
const RETURN_ADDRESS: u64 = 8;
#[cfg(not(bpf_target_arch = "x86_64"))]
const RETURN_ADDRESS: u64 = 0;

#[inline(always)]
fn stack_pointer(regs: *mut pt_regs) -> u64 {
    // SAFETY: the context of a kprobe.
    #[cfg(bpf_target_arch = "x86_64")]
    unsafe {
        (*regs).rsp
    }
    // SAFETY: as above; the member that every other architecture of aya has.
    #[cfg(not(bpf_target_arch = "x86_64"))]
    unsafe {
        (*regs).sp
    }
}

/// `unsigned int ipt_do_table(void *priv, struct sk_buff *skb, const struct nf_hook_state *)`,
/// before 5.16 `(skb, state, struct xt_table *table)`.
#[inline(always)]
fn ipt(args: [u64; 3], verdict: u64) {
    xt(args, verdict, step::IPT);
}

#[inline(always)]
fn ip6t(args: [u64; 3], verdict: u64) {
    xt(args, verdict, step::IP6T);
}

#[inline(always)]
fn xt(args: [u64; 3], verdict: u64, kind: u8) {
    let (table, skb) =
        if control(Control::IptTableFirst) != 0 { (args[0], args[1]) } else { (args[2], args[0]) };
    let mut detail = StepDetail { kind, ..StepDetail::default() };
    if tracked(skb).is_none() {
        return;
    }
    let name = control(Control::XtName);
    if name != 0 {
        read_name(&mut detail.table, table.wrapping_add(name));
    }
    report(skb, verdict, detail);
}

/// `unsigned int nft_do_chain(struct nft_pktinfo *pkt, void *priv)`: `pkt` begins with the skb,
/// `priv` is the `struct nft_chain`.
#[inline(always)]
fn nft(args: [u64; 3], verdict: u64) {
    let mut detail = StepDetail { kind: step::NFT, ..StepDetail::default() };
    // SAFETY: integers; zeroes when they cannot be read.
    unsafe {
        let skb: u64 = probe_read(args[0] as *const u8);
        if tracked(skb).is_none() {
            return;
        }
        let name = control(Control::NftChainName);
        if name != 0 {
            read_name(&mut detail.chain, probe_read(args[1].wrapping_add(name) as *const u8));
        }
        let (table, name) = (control(Control::NftChainTable), control(Control::NftTableName));
        if table != 0 && name != 0 {
            let table: u64 = probe_read(args[1].wrapping_add(table) as *const u8);
            read_name(&mut detail.table, probe_read(table.wrapping_add(name) as *const u8));
        }
        report(skb, verdict, detail);
    }
}

/// `unsigned int nf_conntrack_in(struct sk_buff *skb, const struct nf_hook_state *state)`.
#[inline(always)]
fn conntrack(args: [u64; 3], verdict: u64) {
    report(args[0], verdict, StepDetail { kind: step::CONNTRACK, ..StepDetail::default() });
}

/// `int __nf_conntrack_confirm(struct sk_buff *skb)`.
#[inline(always)]
fn confirm(args: [u64; 3], verdict: u64) {
    report(args[0], verdict, StepDetail { kind: step::CONFIRM, ..StepDetail::default() });
}

/// Copies a name of the kernel's.
#[inline(always)]
fn read_name<const N: usize>(to: &mut [u8; N], from: u64) {
    // SAFETY: the helper writes at most `N` bytes, the last of them NUL.
    unsafe { bpf_probe_read_kernel_str(to.as_mut_ptr().cast(), N as u32, from as *const c_void) };
}

#[inline(always)]
fn tracked(skb: u64) -> Option<&'static mut Tracked> {
    followed(Skb::<false>::new(skb as *const u8))
}

/// Reports what a netfilter function returned. A packet that it took is not looked at.
#[inline(always)]
fn report(skb: u64, verdict: u64, mut detail: StepDetail) {
    let Some(entry) = tracked(skb) else { return };
    detail.verdict = verdict as u8;
    let site =
        Site { probe: Probe::HookStep, netns: entry.netns, ifindex: entry.ifindex, flags: 0 };
    if detail.verdict == NF_ACCEPT as u8 {
        // With what conntrack says by now.
        emit(entry, Skb::<false>::new(skb as *const u8), site, detail, None);
    } else {
        emit_note(entry, site, detail);
    }
}

/// `struct sk_buff *skb_clone(struct sk_buff *skb, gfp_t gfp_mask)`.
#[inline(always)]
fn cloned(args: [u64; 3], clone: u64) {
    made(args[0], clone, origin::CLONE);
    if let Some(current) = current() {
        (current.cloned, current.clone) = (args[0], clone);
    }
}

/// Remembers whose copy an skb is.
#[inline(always)]
fn made(original: u64, copy: u64, kind: u8) {
    if copy == 0 {
        return;
    }
    let Some(entry) = tracked(original) else { return };
    let origin =
        Origin { parent: entry.journey, fingerprint: entry.fingerprint, kind: u64::from(kind) };
    note_copy(copy, origin);
}

/// `void br_flood(struct net_bridge *br, struct sk_buff *skb, …)`.
#[kprobe]
pub fn kp_flood(ctx: ProbeContext) -> u32 {
    flood(ctx.arg::<u64>(1).unwrap_or(0));
    0
}

/// See [`kp_flood`].
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/fn_flood")]
pub extern "C" fn fn_flood(ctx: *mut c_void) -> i32 {
    flood(arg(ctx, 1));
    0
}

#[inline(always)]
fn flood(skb: u64) {
    let Some(entry) = tracked(skb) else { return };
    let site = Site { probe: Probe::Flood, netns: entry.netns, ifindex: entry.ifindex, flags: 0 };
    emit_note(entry, site, [0u8; DETAIL_LEN]);
}

/// `int icmp_glue_bits(void *from, char *to, int offset, int len, int odd, struct sk_buff *skb)`:
/// copies into an ICMP message, behind every limit on their rate. `from` is the
/// `struct icmp_bxm`.
#[kprobe]
pub fn kp_icmp(ctx: ProbeContext) -> u32 {
    icmp(ctx.arg::<u64>(0).unwrap_or(0), ctx.arg::<u64>(2).unwrap_or(0));
    0
}

/// See [`kp_icmp`].
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/fn_icmp")]
pub extern "C" fn fn_icmp(ctx: *mut c_void) -> i32 {
    icmp(arg(ctx, 0), arg(ctx, 2));
    0
}

/// What `tp:icmp_send` reports of the packet that an ICMP error is about.
#[inline(always)]
fn icmp(message: u64, offset: u64) {
    // Once a message.
    if !any_live() || offset as u32 != 0 {
        return;
    }
    // The skb, two integers, and the ICMP header: so from before 5.10.
    // SAFETY: integers; zeroes when they cannot be read.
    let [skb, _, header]: [u64; 3] = unsafe { probe_read(message as *const u8) };
    let [icmp_type, code, ..] = header.to_ne_bytes();
    // Only the errors: echo replies are made here too.
    if !matches!(icmp_type, DEST_UNREACH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM) {
        return;
    }
    let Some(entry) = tracked(skb) else { return };
    // The look-ups from here on are the error's.
    if let Some(current) = current() {
        current.routes = 0;
    }
    let detail = IcmpDetail { icmp_type, code, reserved: [0; 30] };
    let site =
        Site { probe: Probe::IcmpGlue, netns: entry.netns, ifindex: entry.ifindex, flags: 0 };
    emit(entry, Skb::<false>::new(skb as *const u8), site, detail, None);
}

/// `int pskb_expand_head(struct sk_buff *skb, …)`: the data moved, the packet is the same.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fexit/fn_expand")]
pub extern "C" fn fn_expand(ctx: *mut c_void) -> i32 {
    let skb = Skb::<true>::new(ptr(ctx, 0));
    if let Some(entry) = followed(skb) {
        entry.head = skb.head();
    }
    0
}
