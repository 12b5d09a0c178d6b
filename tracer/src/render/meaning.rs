//! What common drops mean, in plain words. Measured, not guessed: the reason's name often says
//! something else than what happened.

/// Reasons, the functions for which this holds (all, when none is named), and what it means. The
/// first row that fits counts.
const MEANINGS: &[(&[&str], &[&str], &str)] = &[
    (&["NETFILTER_DROP"], &["nft_do_chain"], "a firewall rule drops it"),
    (&["NETFILTER_DROP"], &[], "a firewall rule, or NAT or conntrack itself, drops it"),
    (&["IP_INADDRERRORS"], &[], "forwarding is disabled here"),
    (
        &["IP_INNOROUTES", "IP_OUTNOROUTES"],
        &["vxlan_xmit_one"],
        "the tunnel's local address is gone or its peer has no route",
    ),
    (&["IP_INNOROUTES", "IP_OUTNOROUTES"], &[], "no route to the destination"),
    (&["IP_RPFILTER"], &[], "reverse path filter: the source is not routed by this device"),
    (&["IP_LOCAL_SOURCE"], &[], "its source address is this host's own"),
    (&["IP_INVALID_SOURCE"], &[], "its source address is not valid here"),
    (&["IP_INHDR"], &["ip_forward"], "its time to live ran out (routing loop?)"),
    (&["IP_INHDR"], &[], "malformed IP header"),
    (&["OTHERHOST"], &[], "addressed to another host's MAC"),
    (&["NEIGH_FAILED"], &[], "nobody answered ARP or neighbour discovery for the next hop"),
    (&["NEIGH_QUEUEFULL"], &[], "too many packets wait for the same neighbour"),
    (&["NEIGH_DEAD"], &[], "its neighbour entry was removed"),
    (&["NO_TX_TARGET"], &["vxlan_xmit"], "no forwarding entry for this tunnel peer"),
    (&["NO_TX_TARGET"], &["br_dev_xmit"], "the bridge has no port to send it to"),
    (&["VXLAN_VNI_NOT_FOUND"], &[], "no tunnel device here has this network identifier"),
    (
        &["NO_SOCKET"],
        &["__udp4_lib_rcv", "__udp6_lib_rcv", "udp_rcv", "udpv6_rcv", "tcp_v4_rcv", "tcp_v6_rcv"],
        "nobody listens on this port",
    ),
    // Before 5.17 the kernel gives no reasons: the function alone tells.
    (
        &["NOT_SPECIFIED"],
        &["__udp4_lib_rcv", "__udp6_lib_rcv", "tcp_v4_rcv", "tcp_v6_rcv"],
        "nobody listens on this port, or no connection takes it",
    ),
    (&["NOT_SPECIFIED"], &["nf_hook_slow"], "a firewall rule drops it"),
    (
        &["NOT_SPECIFIED"],
        &["neigh_invalidate"],
        "nobody answered ARP or neighbour discovery for the next hop",
    ),
    (&["NOT_SPECIFIED"], &["vxlan_xmit"], "no forwarding entry for this tunnel peer"),
    (&["NO_SOCKET"], &[], "no socket wants it"),
    (&["XFRM_POLICY"], &[], "an IPsec policy forbids it"),
    (&["PKT_TOO_BIG"], &[], "larger than the next device's MTU and not to be fragmented"),
    (&["BRIDGE_INGRESS_STP_STATE"], &[], "the bridge port does not forward (down, or STP)"),
    (&["TC_INGRESS", "TC_EGRESS"], &[], "a tc program or filter drops it"),
    (&["XDP"], &[], "an XDP program drops it"),
    (&["QDISC_DROP", "QDISC_OVERLIMIT"], &[], "the queue is full, or the device is down"),
    (&["SOCKET_RCVBUFF"], &[], "the application reads too slowly, its buffer is full"),
    (&["SOCKET_FILTER"], &[], "a filter on the socket drops it"),
    (&["SOCKET_BACKLOG"], &[], "the socket's backlog is full"),
    (&["TCP_CSUM", "UDP_CSUM", "IP_CSUM"], &[], "wrong checksum"),
    (&["UNHANDLED_PROTO"], &[], "nothing here takes this protocol"),
    (&["DEV_READY", "DEV_HDR"], &[], "the device is not ready"),
    (&["NEIGH_CREATEFAIL"], &[], "the neighbour table is full"),
    (&["NOMEM", "PROTO_MEM"], &[], "no memory is left for it"),
    (&["CPU_BACKLOG"], &[], "packets come faster than this CPU takes them"),
    (&["FULL_RING"], &[], "the device's ring is full"),
    (&["ICMP_CSUM", "SKB_CSUM"], &[], "wrong checksum"),
    (&["TCP_ZEROWINDOW"], &[], "the receiver's window is closed: it reads too slowly"),
    (
        &["TCP_OLD_DATA", "TCP_OLD_SEQUENCE", "TCP_OLD_ACK", "TCP_TOO_OLD_ACK"],
        &[],
        "a repetition of what has arrived already",
    ),
    (&["TCP_OVERWINDOW", "TCP_INVALID_SEQUENCE"], &[], "its sequence number is outside the window"),
    (&["TCP_RFC7323_PAWS"], &[], "its TCP timestamp is older than one already seen"),
    (&["TCP_INVALID_SYN"], &[], "a SYN in the middle of a connection"),
    (&["TCP_CLOSE"], &[], "the connection is closed on this side"),
    (&["TCP_RESET"], &[], "it resets the connection"),
    (&["TCP_FLAGS"], &[], "its TCP flags do not fit the connection's state"),
    (&["IP_NOPROTO"], &[], "nothing here takes this IP protocol"),
    (&["UNICAST_IN_L2_MULTICAST"], &[], "a unicast address in a multicast frame"),
    (&["FRAG_REASM_TIMEOUT"], &[], "the other fragments did not come in time"),
    (&["DUP_FRAG", "FRAG_TOO_FAR"], &[], "a fragment that does not fit those that came before"),
    (&["PKT_TOO_SMALL", "HDR_TRUNC"], &[], "shorter than its headers"),
    (&["NOT_SPECIFIED"], &["ip_error"], "a blackhole, unreachable or prohibit route"),
    (
        &["NOT_SPECIFIED"],
        &["__dev_forward_skb2", "__dev_forward_skb", "br_nf_dev_queue_xmit"],
        "larger than the MTU of the other end or of the bridge port",
    ),
    (
        &["NOT_SPECIFIED"],
        &["br_handle_frame_finish"],
        "would leave by the port it came in by (hairpin mode is off)",
    ),
    (&["NOT_SPECIFIED"], &["do_xdp_generic", "veth_xdp_rcv_skb"], "an XDP program drops it"),
];

/// The meaning of a drop by its reason, and by its function where one reason has several.
#[must_use]
pub fn meaning(reason: &str, function: Option<&str>) -> Option<&'static str> {
    let function = function.unwrap_or("");
    let mut meanings = meanings(reason);
    meanings
        .find(|(functions, _)| functions.is_empty() || functions.contains(&function))
        .map(|m| m.1)
}

/// All that a reason may mean, each with the functions for which it holds (none: all others).
pub fn meanings(reason: &str) -> impl Iterator<Item = (&'static [&'static str], &'static str)> {
    let rows = MEANINGS.iter().filter(move |(reasons, ..)| reasons.contains(&reason));
    rows.map(|(_, functions, text)| (*functions, *text))
}

/// The reasons that have a meaning, in order.
pub fn reasons() -> impl Iterator<Item = &'static str> {
    let mut seen = std::collections::BTreeSet::new();
    let reasons = MEANINGS.iter().flat_map(|(reasons, ..)| reasons.iter().copied());
    reasons.filter(move |reason| seen.insert(*reason))
}
