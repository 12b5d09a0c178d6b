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

/// Why drops of this kind are no loss, if they are none. `is_packet` is false of what has neither
/// a device nor a protocol.
pub(super) fn why(
    reason: Option<&str>,
    function: Option<&str>,
    is_packet: bool,
) -> Option<&'static str> {
    if !is_packet {
        return Some(NO_PACKET);
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
        assert!(why(Some("NO_SOCKET"), Some("ping_rcv"), true).is_some());
        assert!(why(Some("NO_SOCKET"), Some("__udp4_lib_rcv"), true).is_none());
        assert!(why(Some("TCP_OLD_DATA"), Some("tcp_data_queue"), true).is_some());
        assert!(why(Some("NETFILTER_DROP"), Some("nft_do_chain"), true).is_none());
        // Before 5.17 there are no reasons.
        assert!(why(None, Some("skb_queue_purge"), true).is_some());
        assert!(why(None, Some("nf_hook_slow"), true).is_none());
        assert!(why(None, None, false).is_some());
    }
}
