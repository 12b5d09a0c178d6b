//! Drop reasons: their meanings are those that the timeline prints; here they get their place in
//! Kubernetes and a command.

use std::borrow::Cow;

use super::{Entry, entry};
use crate::render;

pub(super) fn entries() -> Vec<Entry> {
    render::reasons().map(of_reason).collect()
}

fn of_reason(reason: &'static str) -> Entry {
    let mut general = None;
    let mut special = Vec::new();
    for (functions, meaning) in render::meanings(reason) {
        match functions {
            [] => general = Some(meaning),
            _ => special.push(format!("in {}: {meaning}", functions.join(", "))),
        }
    }
    let what = match general {
        Some(meaning) => format!("{}.", capital(meaning)),
        None => "The kernel gives no reason, so the function that dropped it must tell.".to_owned(),
    };
    let why = match special.is_empty() {
        true => "It means the same in every function.".to_owned(),
        false => format!("The function tells more; {}.", special.join("; ")),
    };
    let (kubernetes, look) = ROWS
        .iter()
        .find(|(reasons, ..)| reasons.contains(&reason))
        .map_or(OTHER, |(_, kubernetes, look)| (kubernetes, look));
    Entry {
        what: Cow::Owned(what),
        why: Cow::Owned(why),
        ..entry(reason, &[], "", "", kubernetes, look)
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| c.to_uppercase().chain(chars).collect())
}

/// Of reasons that are no more Kubernetes' than anybody's.
const OTHER: (&str, &str) = ("Nothing of Kubernetes in particular does this.", "nstat -az");

type Row = (&'static [&'static str], &'static str, &'static str);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    (&["NETFILTER_DROP"],
        "A NetworkPolicy, a FORWARD policy of DROP (Docker, ufw), or a full conntrack table.",
        "pkttrace --dropped; nft list ruleset; conntrack -S"),
    (&["IP_INADDRERRORS"],
        "The node no longer forwards: net.ipv4.ip_forward was reset after the runtime had set it.",
        "sysctl net.ipv4.ip_forward"),
    (&["IP_INNOROUTES", "IP_OUTNOROUTES"],
        "The route to another node's podCIDR is missing (flanneld, BIRD, cloud routes), or a pod has no default route.",
        "ip route get ADDRESS"),
    (&["IP_RPFILTER"],
        "A node with several uplinks or policy routing has strict rp_filter.",
        "sysctl -a | grep '[.]rp_filter'"),
    (&["IP_LOCAL_SOURCE"],
        "Another host uses this node's or a pod's address: two nodes with the same podCIDR, for instance.",
        "ip -br addr"),
    (&["IP_INVALID_SOURCE"],
        "A pod sends from an address of no valid kind; a broken CNI configuration.",
        "ip -br addr"),
    (&["IP_INHDR"],
        "Two nodes send a pod's packets to each other: stale routes after a node was replaced.",
        "ip route get ADDRESS; tracepath ADDRESS"),
    (&["OTHERHOST"],
        "Flooded frames on cni0 that are for another pod: harmless. On the uplink, a stale neighbour entry.",
        "ip neigh; bridge fdb show"),
    (&["NEIGH_FAILED", "NEIGH_QUEUEFULL", "NEIGH_DEAD"],
        "The pod or node behind the address is gone; endpoints may be stale, or flannel's entry is missing.",
        "ip neigh show dev DEV"),
    (&["NO_TX_TARGET", "VXLAN_VNI_NOT_FOUND"],
        "The overlay does not know the other node: flanneld has not written its entry, or uses another VNI.",
        "bridge fdb show dev flannel.1; ip -d link show flannel.1"),
    (&["NO_SOCKET"],
        "The container does not listen: not ready yet, a wrong targetPort, or bound to 127.0.0.1 only.",
        "nsenter --net=/proc/PID/ns/net ss -tulpn"),
    (&["PKT_TOO_BIG"],
        "The pods' MTU is larger than the overlay's.",
        "ip link show; tracepath ADDRESS"),
    (&["BRIDGE_INGRESS_STP_STATE"],
        "The port of cni0 is still learning or down; the pod was only just connected.",
        "bridge link"),
    (&["TC_INGRESS", "TC_EGRESS"],
        "Cilium (or another eBPF CNI) enforces a policy, or the bandwidth plugin limits.",
        "tc filter show dev DEV ingress; cilium-dbg monitor --type drop"),
    (&["XDP"],
        "Cilium's load balancer acceleration, or a DDoS filter on the uplink.",
        "bpftool net"),
    (&["QDISC_DROP", "QDISC_OVERLIMIT"],
        "A bandwidth annotation of the pod, or the node's uplink is full.",
        "tc -s qdisc show dev DEV"),
    (&["SOCKET_RCVBUFF", "SOCKET_BACKLOG"],
        "The container cannot keep up: CPU limits, or CoreDNS under too many queries.",
        "nstat -az UdpRcvbufErrors TcpExtListenOverflows"),
    (&["XFRM_POLICY"],
        "Encryption between nodes (Cilium or Calico with IPsec) has lost its keys on one side.",
        "ip -s xfrm state; ip xfrm policy"),
    (&["TCP_CSUM", "UDP_CSUM", "IP_CSUM"],
        "Checksum offload of an overlay on some network cards and hypervisors.",
        "ethtool -K flannel.1 tx-checksum-ip-generic off"),
    (&["NEIGH_CREATEFAIL"],
        "A node with more pods and nodes than net.ipv4.neigh.default.gc_thresh3 allows.",
        "sysctl net.ipv4.neigh.default.gc_thresh3; ip -s neigh | wc -l"),
    (&["CPU_BACKLOG", "FULL_RING"],
        "All packets of a veth may land on one CPU: a busy ingress node.",
        "cat /proc/net/softnet_stat; sysctl net.core.netdev_max_backlog"),
    (&["TCP_INVALID_SEQUENCE", "TCP_OVERWINDOW", "TCP_RFC7323_PAWS"],
        "Two pods behind one masqueraded address, or a Service whose connections change their endpoint.",
        "conntrack -L; nstat -az | grep -i paws"),
    (&["TCP_ZEROWINDOW"],
        "The container cannot keep up: look at its CPU limit.",
        "ss -tmi"),
    (&["FRAG_REASM_TIMEOUT", "DUP_FRAG", "FRAG_TOO_FAR"],
        "Large UDP (DNS, VXLAN over a small MTU) whose fragments take different ways or are lost.",
        "nstat -az | grep -i reasm"),
    (&["NOT_SPECIFIED"],
        "Often the MTU of an overlay, or a pod that reaches itself by its Service without hairpin mode.",
        "pkttrace --dropped; bridge -d link"),
];
