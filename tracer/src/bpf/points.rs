//! The probe points of the `fn` backend: which functions, for what, by which programs.
//!
//! One row a point. A point whose functions are not all there attaches to those that are. Points
//! that were weighed and left out, because they cost every packet and tell nothing that the
//! tracepoints and hooks around them do not: `br_handle_frame`, `br_forward`, `br_pass_frame_up`,
//! `veth_xmit`, `vxlan_xmit_one`, `vxlan_rcv`, `ip_rcv` (a tracepoint lies right before or behind
//! each), `nf_nat_manip_pkt` (the packet is compared at the hook's entry and exit, which shows
//! what was translated, and where), `tcp_v4_rcv`, `udp_rcv`, `icmp_rcv` (the cgroup's program
//! and the free tell who took it), `skb_release_data` (also runs when only the data goes),
//! `ip_vs_in_hook` and its transmitters (what leaves `INPUT` by `OUTPUT` went through IPVS).

/// When a point is worth its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Always.
    Always,
    /// Only where BPF netfilter links do not show the same.
    WithoutLinks,
    /// Only where there is no such tracepoint that shows the same.
    Without(&'static str),
}

/// Where a trampoline sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// fentry.
    Entry,
    /// fexit.
    Exit,
}

/// A function.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    /// The module that it is in, unless that is built in.
    pub(super) module: Option<&'static str>,
}

/// A probe point.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) functions: &'static [Function],
    /// Preferred: a fraction of a kprobe's cost, and the arguments are still there at the exit.
    pub(super) trampolines: &'static [(&'static str, At)],
    /// kprobe and kretprobe, for functions without type information (modules before 5.11) and
    /// kernels without trampolines.
    pub(super) kprobes: &'static [&'static str],
    pub(super) when: When,
}

const fn core(name: &'static str) -> Function {
    Function { name, module: None }
}

const fn within(module: &'static str, name: &'static str) -> Function {
    Function { name, module: Some(module) }
}

/// Every point, with the function's prototype: the programs in `tracer-ebpf/src/programs/func.rs`
/// read arguments by number, so one that moves has to be told to them. In the order in which they are attached: a hook's exit before its entry would
/// show half a traversal, so nothing is followed before all are.
pub(super) const POINTS: [Point; 12] = [
    // int nf_hook_slow(struct sk_buff *skb, struct nf_hook_state *state,
    //                  const struct nf_hook_entries *e, unsigned int s), since 4.14
    //
    // State (hook, family, devices) at the entry; 1 at the exit when the packet goes on.
    Point {
        functions: &[core("nf_hook_slow")],
        trampolines: &[("fn_hook_enter", At::Entry), ("fn_hook_exit", At::Exit)],
        kprobes: &["kp_hook_enter", "kp_hook_exit"],
        when: When::Always,
    },
    // unsigned int ipt_do_table(void *priv, struct sk_buff *skb, const struct nf_hook_state *state)
    // before 5.16: (struct sk_buff *skb, const struct nf_hook_state *state, struct xt_table *table)
    //
    // Table and verdict. Where the table is among the arguments: see `Layout`.
    Point {
        functions: &[within("ip_tables", "ipt_do_table")],
        trampolines: &[("fn_ipt", At::Exit)],
        kprobes: &["kp_ipt", "kr_ipt"],
        when: When::Always,
    },
    Point {
        functions: &[within("ip6_tables", "ip6t_do_table")],
        trampolines: &[("fn_ip6t", At::Exit)],
        kprobes: &["kp_ip6t", "kr_ip6t"],
        when: When::Always,
    },
    // unsigned int nft_do_chain(struct nft_pktinfo *pkt, void *priv), since 4.1
    //
    // Table, base chain and verdict.
    Point {
        functions: &[within("nf_tables", "nft_do_chain")],
        trampolines: &[("fn_nft", At::Exit)],
        kprobes: &["kp_nft", "kr_nft"],
        when: When::Always,
    },
    // unsigned int nf_conntrack_in(struct sk_buff *skb, const struct nf_hook_state *state), since 5.1
    //
    // That conntrack looked, and found the packet invalid where it then has no connection.
    Point {
        functions: &[within("nf_conntrack", "nf_conntrack_in")],
        trampolines: &[("fn_conntrack", At::Exit)],
        kprobes: &["kp_conntrack", "kr_conntrack"],
        when: When::Always,
    },
    // int __nf_conntrack_confirm(struct sk_buff *skb), since 2.6.13
    //
    // A new connection, or the drop of one that clashes with another.
    Point {
        functions: &[within("nf_conntrack", "__nf_conntrack_confirm")],
        trampolines: &[("fn_confirm", At::Exit)],
        kprobes: &["kp_confirm", "kr_confirm"],
        when: When::Always,
    },
    // int ip_finish_output2(struct net *net, struct sock *sk, struct sk_buff *skb), since 4.4;
    // ip6_finish_output2 alike
    //
    // Route and neighbour of a packet in a namespace whose hooks have no functions; packets of
    // the node itself are met here before they wait for a neighbour.
    Point {
        functions: &[core("ip_finish_output2"), core("ip6_finish_output2")],
        trampolines: &[("fn_output", At::Entry)],
        kprobes: &["kp_output"],
        when: When::WithoutLinks,
    },
    // struct sk_buff *skb_clone(struct sk_buff *skb, gfp_t gfp_mask)
    //
    // Identity: whose copy an skb is, should it become a journey of its own.
    Point {
        functions: &[core("skb_clone")],
        trampolines: &[("fn_clone", At::Exit)],
        kprobes: &["kp_clone", "kr_clone"],
        when: When::Always,
    },
    // struct sk_buff *skb_copy(const struct sk_buff *skb, gfp_t gfp_mask), likewise
    Point {
        functions: &[core("skb_copy")],
        trampolines: &[("fn_copy", At::Exit)],
        kprobes: &[],
        when: When::Always,
    },
    // int pskb_expand_head(struct sk_buff *skb, int nhead, int ntail, gfp_t gfp_mask)
    //
    // Identity: the data moved, so its address no longer is the one remembered.
    Point {
        functions: &[core("pskb_expand_head")],
        trampolines: &[("fn_expand", At::Exit)],
        kprobes: &[],
        when: When::Always,
    },
    // int icmp_glue_bits(void *from, char *to, int offset, int len, int odd, struct sk_buff *skb)
    //
    // The sender is told. Not `__icmp_send`, which may come to nothing: this makes the message.
    // Its address is taken, so no compiler makes it part of another function.
    Point {
        functions: &[core("icmp_glue_bits")],
        trampolines: &[("fn_icmp", At::Entry)],
        kprobes: &["kp_icmp"],
        when: When::Without("icmp_send"),
    },
    // void br_flood(struct net_bridge *br, struct sk_buff *skb, enum br_pkt_type pkt_type,
    //               bool local_rcv, bool local_orig), and a VLAN's id since 6.4
    //
    // The bridge did not know the way.
    Point {
        functions: &[within("bridge", "br_flood")],
        trampolines: &[("fn_flood", At::Entry)],
        kprobes: &["kp_flood"],
        when: When::Always,
    },
];
