//! What `drops` and `latency` have to know of the running kernel.

use tracer_common::offsets::ABSENT;
use tracer_common::perf::PerfConfig;

use super::btf::{KernelBtf, Place};

/// The offsets and facts of this kernel; what it lacks is absent.
#[must_use]
pub fn config(btf: &KernelBtf) -> PerfConfig {
    let of = |structure, member| btf.member(structure, member).map_or(ABSENT, Place::byte);
    PerfConfig {
        skb_sk: of("sk_buff", "sk"),
        skb_iif: of("sk_buff", "skb_iif"),
        sock_net: of("sock", "__sk_common.skc_net.net"),
        dst_dev: of("dst_entry", "dev"),
        rt_type: of("rtable", "rt_type"),
        rt_is_input: of("rtable", "rt_is_input"),
        rt6_flags: of("rt6_info", "rt6i_flags"),
        queue_dev: of("netdev_queue", "dev"),
        skb_cb: of("sk_buff", "cb"),
        sock_family: of("sock", "__sk_common.skc_family"),
        sock_state: of("sock", "__sk_common.skc_state"),
        sock_port: of("sock", "__sk_common.skc_num"),
        sock_peer_port: of("sock", "__sk_common.skc_dport"),
        sock_addr: of("sock", "__sk_common.skc_rcv_saddr"),
        sock_peer_addr: of("sock", "__sk_common.skc_daddr"),
        sock_addr6: of("sock", "__sk_common.skc_v6_rcv_saddr"),
        sock_peer_addr6: of("sock", "__sk_common.skc_v6_daddr"),
        sock_recovery: of("inet_connection_sock", "icsk_ca_state"),
        kfree_has_socket: u8::from(btf.tracepoint_arguments("kfree_skb").unwrap_or(0) > 3),
        ..PerfConfig::default()
    }
}
