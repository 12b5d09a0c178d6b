//! What common drops mean, in plain words. Measured, not guessed: the reason's name often says
//! something else than what happened.

/// The meaning of a drop by its reason, and by its function where one reason has several.
#[must_use]
pub fn meaning(reason: &str, function: Option<&str>) -> Option<&'static str> {
    let function = function.unwrap_or("");
    Some(match (reason, function) {
        ("NETFILTER_DROP", "nft_do_chain") => "a firewall rule drops it",
        ("NETFILTER_DROP", _) => "a firewall rule, or NAT or conntrack itself, drops it",
        ("IP_INADDRERRORS", _) => "forwarding is disabled here",
        ("IP_INNOROUTES" | "IP_OUTNOROUTES", "vxlan_xmit_one") => {
            "the tunnel's local address is gone or its peer has no route"
        }
        ("IP_INNOROUTES" | "IP_OUTNOROUTES", _) => "no route to the destination",
        ("IP_RPFILTER", _) => "reverse path filter: the source is not routed by this device",
        ("IP_LOCAL_SOURCE", _) => "its source address is this host's own",
        ("IP_INVALID_SOURCE", _) => "its source address is not valid here",
        ("IP_INHDR", "ip_forward") => "its time to live ran out (routing loop?)",
        ("IP_INHDR", _) => "malformed IP header",
        ("OTHERHOST", _) => "addressed to another host's MAC",
        ("NEIGH_FAILED", _) => "nobody answered ARP or neighbour discovery for the next hop",
        ("NEIGH_QUEUEFULL", _) => "too many packets wait for the same neighbour",
        ("NEIGH_DEAD", _) => "its neighbour entry was removed",
        ("NO_TX_TARGET", "vxlan_xmit") => "no forwarding entry for this tunnel peer",
        ("NO_TX_TARGET", "br_dev_xmit") => "the bridge has no port to send it to",
        ("VXLAN_VNI_NOT_FOUND", _) => "no tunnel device here has this network identifier",
        ("NO_SOCKET", "__udp4_lib_rcv" | "__udp6_lib_rcv" | "tcp_v4_rcv" | "tcp_v6_rcv") => {
            "nobody listens on this port"
        }
        ("NO_SOCKET", _) => "no socket wants it",
        ("XFRM_POLICY", _) => "an IPsec policy forbids it",
        ("PKT_TOO_BIG", _) => "larger than the next device's MTU and not to be fragmented",
        ("BRIDGE_INGRESS_STP_STATE", _) => "the bridge port does not forward (down, or STP)",
        ("TC_INGRESS" | "TC_EGRESS", _) => "a tc program or filter drops it",
        ("XDP", _) => "an XDP program drops it",
        ("QDISC_DROP" | "QDISC_OVERLIMIT", _) => "the queue is full, or the device is down",
        ("SOCKET_RCVBUFF", _) => "the application reads too slowly, its buffer is full",
        ("SOCKET_FILTER", _) => "a filter on the socket drops it",
        ("SOCKET_BACKLOG", _) => "the socket's backlog is full",
        ("TCP_CSUM" | "UDP_CSUM" | "IP_CSUM", _) => "wrong checksum",
        ("UNHANDLED_PROTO", _) => "nothing here takes this protocol",
        ("DEV_READY" | "DEV_HDR", _) => "the device is not ready",
        ("NOT_SPECIFIED", "ip_error") => "a blackhole, unreachable or prohibit route",
        ("NOT_SPECIFIED", "__dev_forward_skb2" | "__dev_forward_skb" | "br_nf_dev_queue_xmit") => {
            "larger than the MTU of the other end or of the bridge port"
        }
        ("NOT_SPECIFIED", "br_handle_frame_finish") => {
            "would leave by the port it came in by (hairpin mode is off)"
        }
        ("NOT_SPECIFIED", "do_xdp_generic" | "veth_xdp_rcv_skb") => "an XDP program drops it",
        _ => return None,
    })
}
