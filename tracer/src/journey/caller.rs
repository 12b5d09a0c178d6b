//! Which hook a function of the kernel runs, told by its name: whose call dropped a packet.

use super::{Hook, Layer};

/// A hook, and on whose behalf it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Runs {
    pub(super) hook: Hook,
    pub(super) layer: Option<Layer>,
}

/// Functions that run the hooks of IP, ARP, the bridge (`br_netfilter` among it) and devices. What
/// they inline differs from kernel to kernel: the names of both are here.
const RUNNERS: &[(&[&str], Hook, Option<Layer>)] = &[
    (
        &["ip_rcv", "ip_sublist_rcv", "ip_list_rcv", "ipv6_rcv", "ip6_sublist_rcv"],
        Hook::Prerouting,
        None,
    ),
    (
        &["ipv6_list_rcv", "xfrm4_transport_finish", "xfrm6_transport_finish"],
        Hook::Prerouting,
        None,
    ),
    (&["vrf_ip_rcv", "vrf_ip6_rcv", "vrf_l3_rcv", "vrf_rcv_nfhook"], Hook::Prerouting, None),
    (&["ip_local_deliver", "ip6_input", "arp_rcv"], Hook::Input, None),
    (&["ip_forward", "ip6_forward", "ipmr_queue_xmit", "ip6mr_forward2"], Hook::Forward, None),
    (
        &["__ip_local_out", "ip_local_out", "__ip6_local_out", "ip6_local_out", "ip6_xmit"],
        Hook::Output,
        None,
    ),
    (&["raw_send_hdrinc", "raw_sendmsg", "rawv6_send_hdrinc", "rawv6_sendmsg"], Hook::Output, None),
    (&["ndisc_send_skb", "mld_sendpack", "igmp6_send", "arp_xmit"], Hook::Output, None),
    (&["vrf_ip_local_out", "vrf_ip6_local_out"], Hook::Output, None),
    (&["ip_output", "ip_mc_output", "ip6_output"], Hook::Postrouting, None),
    (&["xfrm4_output", "xfrm6_output", "vrf_output", "vrf_output6"], Hook::Postrouting, None),
    (&["__netif_receive_skb_core", "__netif_receive_skb_one_core"], Hook::Ingress, None),
    (&["__dev_queue_xmit"], Hook::Egress, None),
    (
        &["br_nf_pre_routing", "br_nf_pre_routing_ipv6", "br_handle_frame"],
        Hook::Prerouting,
        Some(Layer::Bridge),
    ),
    (&["br_pass_frame_up", "br_nf_local_in"], Hook::Input, Some(Layer::Bridge)),
    (
        &["br_nf_forward_ip", "br_nf_forward_arp", "br_nf_forward", "__br_forward", "br_forward"],
        Hook::Forward,
        Some(Layer::Bridge),
    ),
    (&["br_nf_post_routing", "br_forward_finish"], Hook::Postrouting, Some(Layer::Bridge)),
];

/// Functions that walk through those of a hook.
const WALKS: [&str; 3] = ["nf_hook_slow", "nf_hook_slow_list", "br_nf_hook_thresh"];

/// The hook in which a packet was freed, when that is known; `chain` is the function that freed it,
/// the one that called that, and so on.
pub(super) fn runs<'a>(chain: impl Iterator<Item = &'a str>) -> Option<Runs> {
    let mut behind = chain.skip_while(|name| !WALKS.contains(name));
    let runner = behind.find(|name| !WALKS.contains(name))?;
    RUNNERS.iter().find_map(|(names, hook, layer)| {
        names.contains(&runner).then_some(Runs { hook: *hook, layer: *layer })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_of_the_walk_names_the_hook() {
        let hook = |chain: &[&str]| runs(chain.iter().copied()).map(|runs| runs.hook);
        assert_eq!(hook(&["nf_hook_slow", "ip_local_deliver", "ip_rcv"]), Some(Hook::Input));
        let listed = ["nf_hook_slow", "nf_hook_slow_list", "ip_sublist_rcv"];
        assert_eq!(hook(&listed), Some(Hook::Prerouting));
        // The table itself frees what it drops.
        let by_table =
            ["nft_do_chain", "nft_do_chain_netdev", "nf_hook_slow", "__netif_receive_skb_core"];
        assert_eq!(hook(&by_table), Some(Hook::Ingress));
        let bridged = ["nf_hook_slow", "br_nf_hook_thresh", "br_nf_forward_ip"];
        assert_eq!(hook(&bridged), Some(Hook::Forward));
        assert_eq!(hook(&["nf_hook_slow", "something_new", "ip_forward"]), None);
        assert_eq!(hook(&["ip_forward"]), None);
    }

    #[test]
    fn no_function_runs_two_hooks() {
        let mut names: Vec<&str> = RUNNERS.iter().flat_map(|(names, ..)| *names).copied().collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
