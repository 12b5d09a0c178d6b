//! Drops that a healthy node makes all the time: none of them is a packet that somebody misses.

/// Reasons (any, when none is named), functions (likewise), and why it happens.
type Row = (&'static [&'static str], &'static [&'static str], &'static str);

const ROWS: &[Row] = &[
    (
        &["NO_SOCKET", "NOT_SPECIFIED", "IP_NOPROTO"],
        &["ping_rcv"],
        "an answer that ping's raw socket has a copy of",
    ),
    (&["QUEUE_PURGE"], &[], "a socket was closed with unread data"),
    (
        &[],
        &[
            "sk_stream_kill_queues",
            "inet_sock_destruct",
            "skb_queue_purge",
            "skb_queue_purge_reason",
            "skb_rbtree_purge",
        ],
        "a socket was closed with unread data",
    ),
    (
        &["TCP_OLD_DATA", "TCP_OLD_SEQUENCE", "TCP_OLD_ACK", "TCP_OFOMERGE"],
        &[],
        "TCP has it already",
    ),
    (
        &["NOT_SPECIFIED"],
        &["tcp_v4_rcv", "tcp_v6_rcv", "tcp_v4_do_rcv", "tcp_v6_do_rcv"],
        "late segments of a closed connection",
    ),
    (
        &["NOT_SPECIFIED", "UNHANDLED_PROTO"],
        &["stp_pdu_rcv", "llc_rcv"],
        "spanning tree frames that nobody runs",
    ),
];

/// What is no packet of a network, but a message between processes or from the kernel.
const NO_PACKET: &str = "messages of local and netlink sockets";

/// Reasons for which a packet for a group is dropped where it has no member, or no way.
const NO_MEMBER: [&str; 7] = [
    "NOT_SPECIFIED",
    "NO_SOCKET",
    "NO_TX_TARGET",
    "IP_INADDRERRORS",
    "IPV6DISABLED",
    "UNHANDLED_PROTO",
    "UNICAST_IN_L2_MULTICAST",
];
/// The same where there are no reasons: functions that a packet for one host does not end in.
const OF_GROUPS: [&str; 4] =
    ["ip_rcv_finish_core", "ip_rcv_finish", "ip6_mc_input", "__udp4_lib_mcast_deliver"];
const TO_GROUP: &str = "multicast that nobody asked for";

/// What a drop is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// What has neither a device nor a protocol.
    NoPacket,
    /// A packet for a group.
    Group,
    /// Any other packet.
    Packet,
}

/// Why drops of this kind are no loss, if they are none.
pub(super) fn why(reason: Option<&str>, function: Option<&str>, of: Of) -> Option<&'static str> {
    let is_unasked = match reason {
        Some(reason) => NO_MEMBER.contains(&reason),
        None => function.is_some_and(|function| OF_GROUPS.contains(&function)),
    };
    match of {
        Of::NoPacket => return Some(NO_PACKET),
        Of::Group if is_unasked => return Some(TO_GROUP),
        Of::Group | Of::Packet => {}
    }
    let (reason, function) = (reason.unwrap_or("NOT_SPECIFIED"), function.unwrap_or(""));
    let fits = |names: &[&str], name| names.is_empty() || names.contains(&name);
    let mut rows = ROWS.iter();
    rows.find(|(reasons, functions, _)| fits(reasons, reason) && fits(functions, function))
        .map(|(.., why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_noise_only_where_it_says_nothing() {
        let is_noise = |reason, function| why(reason, function, Of::Packet).is_some();
        assert!(is_noise(Some("NO_SOCKET"), Some("ping_rcv")));
        assert!(!is_noise(Some("NO_SOCKET"), Some("__udp4_lib_rcv")));
        assert!(is_noise(Some("TCP_OLD_DATA"), Some("tcp_data_queue")));
        assert!(!is_noise(Some("NETFILTER_DROP"), Some("nft_do_chain")));
        // Before 5.17 there are no reasons.
        assert!(is_noise(None, Some("skb_queue_purge")));
        assert!(!is_noise(None, Some("nf_hook_slow")));
        assert!(why(None, None, Of::NoPacket).is_some());
    }

    #[test]
    fn a_group_without_members_is_no_loss_and_a_rule_against_it_is_one() {
        let of_group = |reason, function| why(reason, function, Of::Group);
        assert_eq!(of_group(Some("NO_TX_TARGET"), Some("br_dev_xmit")), Some(TO_GROUP));
        assert_eq!(of_group(None, Some("ip_rcv_finish")), Some(TO_GROUP));
        assert_eq!(of_group(Some("NETFILTER_DROP"), Some("nft_do_chain")), None);
        assert_eq!(of_group(None, Some("nf_hook_slow")), None);
        assert_eq!(why(Some("NO_TX_TARGET"), Some("br_dev_xmit"), Of::Packet), None);
    }
}
