//! Firewalls, and programs at devices.

pub(super) const TEXTS: super::Texts = &[
    (
        &["firewall-drop", "iptables-other-backend-drop", "egress-upstream-drop"],
        "A rule of a firewall, or the policy at the end of a chain, drops the packet. DROP is \
         silent, REJECT tells the sender. Rules of iptables-legacy and of nftables (iptables-nft \
         too) apply both, whichever tool lists them.",
    ),
    (
        &[
            "forward-policy-drop",
            "forward-policy-drop-remote",
            "svc-forward-policy-drop",
            "nodeport-forward-drop",
            "docker-rules-flushed",
        ],
        "What a node passes on goes through FORWARD. A policy of DROP is normal there beside Docker \
         and Kubernetes, as long as their own rules accept their traffic first; when those rules \
         are flushed or reordered, the policy takes everything.",
    ),
    (
        &["firewalld-forward-reject"],
        "firewalld refuses what is forwarded between zones unless a policy or a zone lets it: a \
         bridge or tunnel that belongs to no zone is in the default one.",
    ),
    (
        &["conntrack-invalid-drop"],
        "Conntrack calls a packet INVALID that fits no connection that it knows: an answer whose \
         question took another way, a segment outside of the window. A rule against invalid packets \
         then drops what is good.",
    ),
    (
        &["underlay-vxlan-input-drop"],
        "Tunnel packets between the nodes are plain UDP that ends on the node: they pass INPUT, and \
         a firewall of the host drops them there unless it lets the overlay's port in. The pods see \
         silence.",
    ),
    (
        &["input-drop", "nodeport-raw-firewall"],
        "What is addressed to the node itself passes its INPUT rules (and those of table raw before \
         any translation), whatever listens behind them. DROP is silent, REJECT tells the sender.",
    ),
    (
        &["output-drop"],
        "What a process sends passes the OUTPUT rules of its own namespace first: dropped there, it \
         is never sent at all.",
    ),
    (
        &["netpol-ingress-drop", "netpol-ingress-reject", "netpol-port-mismatch"],
        "A NetworkPolicy becomes rules on the node of the pod that it selects: what none of its \
         peers and ports lets through is dropped or refused there, before it comes to the pod. It \
         may be meant so.",
    ),
    (
        &["netpol-ipset-stale"],
        "A NetworkPolicy names its peers by labels; its rules know them by a set of addresses. Where \
         the set is not written anew when pods change, the right pod is not in it and is refused.",
    ),
    (
        &["svc-no-endpoints", "dns-no-endpoints"],
        "A Service without ready endpoints leads nowhere: kube-proxy refuses or drops its port. The \
         pods behind it are missing, not ready, or not selected.",
    ),
    (
        &["svc-no-local-endpoints"],
        "With traffic policy Local a node hands a Service's connections to its own endpoints alone, \
         and drops them where it has none, on purpose.",
    ),
    (
        &["nodeport-lb-source-ranges"],
        "loadBalancerSourceRanges lets only the networks that it names in; kube-proxy drops \
         everybody else. It may be meant so.",
    ),
    (
        &["dns-udp-egress-blocked"],
        "Names are asked for by UDP to port 53, and the answer comes from that port: a rule against \
         either leaves every name unresolved while addresses work.",
    ),
    (
        &["docker-user-drop"],
        "Chain DOCKER-USER comes before Docker's own rules and is the administrator's: what is \
         dropped there never comes to a container.",
    ),
    (
        &["docker-icc-off", "docker-isolation"],
        "Docker keeps the networks of containers apart, and with icc=false the containers of one \
         network too. That is meant so: who has to talk is put on a common network.",
    ),
    (
        &["program-drop", "tc-ingress-drop", "tc-egress-drop", "qdisc-loss"],
        "Classifiers and queues at a device (tc) see a packet before the firewall on its way in and \
         after it on its way out, and may drop it; no firewall rule shows that.",
    ),
    (
        &["xdp-drop-on-veth", "xdp-native-drop-on-veth"],
        "An XDP program sees a frame before the kernel makes a packet of it. What it drops appears \
         in no capture and no rule of that host.",
    ),
    (
        &["xfrm-policy-block"],
        "An IPsec policy wants packets between these addresses encrypted, or blocks them: what is \
         not, is dropped on its way in or out.",
    ),
];
