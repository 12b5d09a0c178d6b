//! Fills [`KernelOffsets`] from the running kernel's type information.

use tracer_common::offsets::{ABSENT, KernelOffsets};

use super::Error;
use super::btf::{KernelBtf, Place};

/// Asks for one member, by the two errors there can be.
struct Lookup<'a>(&'a KernelBtf);

impl Lookup<'_> {
    /// A member that the kernel side cannot do without.
    fn need(&self, structure: &str, member: &str) -> Result<u16, Error> {
        self.place(structure, member).map(Place::byte)
    }

    fn place(&self, structure: &str, member: &str) -> Result<Place, Error> {
        self.0
            .member(structure, member)
            .ok_or_else(|| Error::Missing { what: format!("{structure}.{member}") })
    }

    /// A member that may be missing, under any of several names.
    fn any(&self, structure: &str, members: &[&str]) -> u16 {
        members.iter().find_map(|m| self.0.member(structure, m)).map_or(ABSENT, Place::byte)
    }

    /// Byte and mask of a bit field of one bit.
    fn bit(&self, structure: &str, member: &str) -> Result<(u16, u16), Error> {
        let place = self.place(structure, member)?;
        Ok((place.byte(), 1 << (place.bits % 8)))
    }
}

/// The offsets of this kernel.
///
/// # Errors
///
/// [`Error::Missing`] for a member that the kernel side cannot do without.
pub fn find(btf: &KernelBtf) -> Result<KernelOffsets, Error> {
    let of = Lookup(btf);
    let (skb_cloned, skb_cloned_mask) = of.bit("sk_buff", "cloned")?;
    let (skb_encapsulation, skb_encapsulation_mask) = of.bit("sk_buff", "encapsulation")?;
    Ok(KernelOffsets {
        skb_dev: of.need("sk_buff", "dev")?,
        skb_len: of.need("sk_buff", "len")?,
        skb_data: of.need("sk_buff", "data")?,
        skb_head: of.need("sk_buff", "head")?,
        skb_end: of.need("sk_buff", "end")?,
        skb_network_header: of.need("sk_buff", "network_header")?,
        skb_mac_header: of.need("sk_buff", "mac_header")?,
        skb_inner_network_header: of.need("sk_buff", "inner_network_header")?,
        skb_protocol: of.need("sk_buff", "protocol")?,
        skb_mark: of.need("sk_buff", "mark")?,
        skb_nfct: of.any("sk_buff", &["_nfct"]),
        skb_refdst: of.need("sk_buff", "_skb_refdst")?,
        skb_cloned,
        skb_cloned_mask,
        skb_encapsulation,
        skb_encapsulation_mask,
        skb_pkt_type: of.need("sk_buff", "pkt_type")?,
        shinfo_gso_size: of.need("skb_shared_info", "gso_size")?,
        dev_ifindex: of.need("net_device", "ifindex")?,
        dev_name: of.need("net_device", "name")?,
        dev_net: of.need("net_device", "nd_net.net")?,
        net_inum: of.need("net", "ns.inum")?,
        state_hook: of.any("nf_hook_state", &["hook"]),
        state_pf: of.any("nf_hook_state", &["pf"]),
        state_in: of.any("nf_hook_state", &["in"]),
        state_out: of.any("nf_hook_state", &["out"]),
        state_net: of.any("nf_hook_state", &["net"]),
        rt_gw_family: of.any("rtable", &["rt_gw_family"]),
        rt_gw4: of.any("rtable", &["rt_gw4"]),
        rt6_gateway: of.any("rt6_info", &["rt6i_gateway"]),
        fl4_saddr: of.need("flowi4", "saddr")?,
        fl4_daddr: of.need("flowi4", "daddr")?,
        fl6_saddr: of.need("flowi6", "saddr")?,
        fl6_daddr: of.need("flowi6", "daddr")?,
        nhc_dev: of.need("fib_nh_common", "nhc_dev")?,
        nhc_gw_family: of.need("fib_nh_common", "nhc_gw_family")?,
        nhc_scope: of.any("fib_nh_common", &["nhc_scope"]),
        nhc_gw: of.need("fib_nh_common", "nhc_gw")?,
        fib6_result_nh: of.any("fib6_result", &["nh"]),
        fib6_result_f6i: of.any("fib6_result", &["f6i"]),
        fib6_result_type: of.any("fib6_result", &["fib6_type"]),
        net_fib6_null_entry: of.any("net", &["ipv6.fib6_null_entry"]),
        fib6_table_id: of.any("fib6_table", &["tb6_id"]),
        neigh_dev: of.need("neighbour", "dev")?,
        neigh_state: of.need("neighbour", "nud_state")?,
        neigh_key: of.need("neighbour", "primary_key")?,
        reserved: [0; 2],
    })
}
