//! Where the running kernel keeps the fields that the kernel side reads.
//!
//! rustc emits no CO-RE relocations, so the user side reads BTF and fills this in before loading.
//! The values lie in frozen `.rodata`: the verifier knows them as constants, so a load through a
//! BTF pointer is still a direct load.

/// Marks a field that this kernel does not have; reads of it compile away.
pub const ABSENT: u16 = u16::MAX;

/// Byte offsets of members, from BTF. Masks are of the byte at the offset.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KernelOffsets {
    /// `sk_buff.dev`
    pub skb_dev: u16,
    /// `sk_buff.len`
    pub skb_len: u16,
    /// `sk_buff.data`
    pub skb_data: u16,
    /// `sk_buff.head`
    pub skb_head: u16,
    /// `sk_buff.end`
    pub skb_end: u16,
    /// `sk_buff.network_header`
    pub skb_network_header: u16,
    /// `sk_buff.mac_header`
    pub skb_mac_header: u16,
    /// `sk_buff.inner_network_header`
    pub skb_inner_network_header: u16,
    /// `sk_buff.protocol`
    pub skb_protocol: u16,
    /// `sk_buff.mark`
    pub skb_mark: u16,
    /// `sk_buff._nfct`
    pub skb_nfct: u16,
    /// `sk_buff._skb_refdst`
    pub skb_refdst: u16,
    /// Byte of `sk_buff.cloned`
    pub skb_cloned: u16,
    /// Bit of `sk_buff.cloned`
    pub skb_cloned_mask: u16,
    /// Byte of `sk_buff.encapsulation`
    pub skb_encapsulation: u16,
    /// Bit of `sk_buff.encapsulation`
    pub skb_encapsulation_mask: u16,
    /// Byte of `sk_buff.pkt_type` (its low three bits)
    pub skb_pkt_type: u16,
    /// `skb_shared_info.gso_size`
    pub shinfo_gso_size: u16,
    /// `net_device.ifindex`
    pub dev_ifindex: u16,
    /// `net_device.name`
    pub dev_name: u16,
    /// `net_device.nd_net`
    pub dev_net: u16,
    /// `net.ns.inum`
    pub net_inum: u16,
    /// `nf_hook_state.hook`
    pub state_hook: u16,
    /// `nf_hook_state.pf`
    pub state_pf: u16,
    /// `nf_hook_state.in`
    pub state_in: u16,
    /// `nf_hook_state.out`
    pub state_out: u16,
    /// `nf_hook_state.net`
    pub state_net: u16,
    /// `rtable.rt_gw_family`
    pub rt_gw_family: u16,
    /// `rtable.rt_gw4` (union with `rt_gw6`)
    pub rt_gw4: u16,
    /// `rt6_info.rt6i_gateway`
    pub rt6_gateway: u16,
    /// `flowi4.saddr`
    pub fl4_saddr: u16,
    /// `flowi4.daddr`
    pub fl4_daddr: u16,
    /// `flowi6.saddr`
    pub fl6_saddr: u16,
    /// `flowi6.daddr`
    pub fl6_daddr: u16,
    /// `fib_nh_common.nhc_dev`
    pub nhc_dev: u16,
    /// `fib_nh_common.nhc_gw_family`
    pub nhc_gw_family: u16,
    /// `fib_nh_common.nhc_scope`
    pub nhc_scope: u16,
    /// `fib_nh_common.nhc_gw`
    pub nhc_gw: u16,
    /// `fib6_result.nh` (a `fib6_nh *`)
    pub fib6_result_nh: u16,
    /// `fib6_result.f6i` (a `fib6_info *`)
    pub fib6_result_f6i: u16,
    /// `fib6_result.fib6_type`
    pub fib6_result_type: u16,
    /// `net.ipv6.fib6_null_entry` (a `fib6_info *`)
    pub net_fib6_null_entry: u16,
    /// `fib6_table.tb6_id`
    pub fib6_table_id: u16,
    /// `neighbour.dev`
    pub neigh_dev: u16,
    /// `neighbour.nud_state`
    pub neigh_state: u16,
    /// `neighbour.primary_key`
    pub neigh_key: u16,
    /// Zero; keeps the size a multiple of eight.
    pub reserved: [u16; 2],
}

/// Facts about tracepoints and options, beside the offsets.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Options {
    /// Size of the event ring, bytes.
    pub ring_bytes: u64,
    /// Journeys admitted in a second; 0 is unlimited.
    pub max_journeys: u64,
    /// `skb:consume_skb` has a second argument, the location (since 6.12).
    pub consume_has_location: u8,
    /// `skb:kfree_skb` has a third argument, the reason (since 5.17).
    pub kfree_has_reason: u8,
    /// Let the kernel side log.
    pub debug: u8,
    /// Zero.
    pub reserved: u8,
    /// `SKB_DROP_REASON_QUEUE_PURGE` of this kernel, 0 if it has none: what a closing socket
    /// throws away is no drop of a packet under way.
    pub queue_purge: u32,
}

const _: () = assert!(size_of::<KernelOffsets>() == 48 * 2);
const _: () = assert!(size_of::<Options>() == 24);
