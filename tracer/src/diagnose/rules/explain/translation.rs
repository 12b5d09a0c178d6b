//! Addresses that are translated.

pub(super) const TEXTS: super::Texts = &[
    (
        &[
            "service-not-translated",
            "kube-proxy-rules-missing",
            "kube-proxy-jump-missing",
            "svc-host-output-jump-missing",
        ],
        "The address of a Service is on no device: rules of kube-proxy translate it to an endpoint, \
         at PREROUTING for what comes in and at OUTPUT for the node's own. Where they are missing or \
         not reached, the packet is routed like any other and ends at the default gateway.",
    ),
    (
        &["bridge-nf-call-iptables-off", "dns-same-node-bridge-nf-off"],
        "Conntrack translates the answer of a Service's endpoint back. Between two pods on one \
         bridge it sees the answer only if bridged packets pass iptables \
         (net.bridge.bridge-nf-call-iptables); else the client gets it from an address that it \
         never asked, and refuses it.",
    ),
    (
        &["nodeport-route-localnet-off"],
        "Packets from or to 127.0.0.0/8 do not leave a host unless route_localnet is on: a port that \
         is translated to a pod cannot be asked for at 127.0.0.1.",
    ),
    (
        &["ipvs-no-destination"],
        "In IPVS mode the kernel's balancer hands connections to real servers. Without one, or with \
         none that has a weight, it refuses them.",
    ),
    (
        &["translation-not-local"],
        "What comes in meets the rules of PREROUTING, what a host sends itself those of OUTPUT. A \
         forwarded or published port whose rule is in PREROUTING alone works for all others, and at \
         the host itself nobody listens at it.",
    ),
    (
        &["service-route-elsewhere"],
        "The address of a Service is nobody's: a packet for it has to come to a node, whose rules \
         translate it. A pod with a second network whose default route leads out there sends it to \
         somebody who never heard of it.",
    ),
    (
        &["svc-reply-bypasses-node"],
        "The node that translated the request has to translate the answer back. Where the endpoint \
         answers the client by another way, it comes from an address that the client never asked, \
         and is refused.",
    ),
    (
        &[
            "svc-endpoint-wrong",
            "svc-endpoint-stale-ip",
            "svc-endpoint-stale-ip-remote",
            "svc-one-endpoint-dead",
        ],
        "The rules of a Service lead to the addresses of its pods, and are written anew when those \
         change. Where that does not happen they lead to a pod that is gone: of several endpoints, \
         its share of the connections fails.",
    ),
    (
        &["hostport-stale-pod"],
        "A published port is a rule that leads to one container's address. Where the container was \
         made anew and the rule was not, it leads to nobody.",
    ),
    (
        &["svc-wrong-targetport"],
        "A Service translates its port to the target port of its pods. Where nobody listens there, \
         the pod's kernel refuses the connection.",
    ),
    (
        &["nodeport-not-on-loopback"],
        "What is sent to 127.0.0.1 has that as its source, too, and cannot leave the host unless its \
         source is translated and route_localnet is on. kube-proxy does that in iptables mode alone, \
         and not if it is told not to: elsewhere NodePorts are served at the node's own addresses.",
    ),
    (
        &["svc-port-unknown"],
        "A Service translates the ports that it names and no others: at any other one its address \
         is nobody's.",
    ),
    (
        &["svc-ping-unanswered"],
        "Only the ports of a Service are translated: its address is on no device and answers no \
         ping. Ask for a port.",
    ),
    (
        &["svc-hairpin-unmasqueraded"],
        "A pod that is led to itself by its own Service would get its packets from its own address, \
         which no kernel takes from a device: kube-proxy masquerades them for that.",
    ),
    (
        &["svc-endpoint-rule-missing"],
        "The chain of a Service takes connections by chance, each rule its share of what the ones \
         before it leave, and the last one all the rest. Where a rule is missing, that rest comes \
         to the end of the chain untranslated. Some connections work, and some do not.",
    ),
    (
        &["nat-chain-empty"],
        "A rule leads packets for this address and port to a chain of their own, which is to \
         translate them and has no rule left. What comes back from it untranslated is delivered to \
         the node itself, where nobody listens, or sent after an address that nobody has.",
    ),
    (
        &["translation-in-front"],
        "The first rule of table nat that holds decides: what stands behind it for the same packets \
         never runs.",
    ),
    (
        &["redirect-unserved", "queue-unserved"],
        "A rule hands the packet to a program of the node's own (REDIRECT, NFQUEUE): as long as that \
         program does not run, what it catches is refused or dropped.",
    ),
    (
        &["conntrack-untracked"],
        "What conntrack does not see (NOTRACK) is neither translated nor known as an answer: rules \
         that let answers through do not hold for it.",
    ),
    (
        &["conntrack-zone-mismatch"],
        "Conntrack keeps connections by zone. An answer that a rule puts into another zone than its \
         connection is in belongs to none, and is not translated back.",
    ),
    (
        &["translation-takes-host"],
        "A rule of this node translates a destination that another host really has (an external IP \
         of a Service, a published port): what is meant for that host ends somewhere else, though \
         it would get there as it is.",
    ),
    (
        &["translation-hides-source"],
        "A source that is masqueraded makes all pods of a node look like the node: whoever filters \
         by pod, or answers by another way, does not know them any more. Between pods a cluster \
         promises that the source stays.",
    ),
    (
        &[
            "port-not-published",
            "nodeport-rules-missing",
            "docker-nat-flushed",
            "docker-publish-loopback",
        ],
        "A published port, or a NodePort, is a rule: it translates a port of the node to a pod or \
         container. Where the rule is missing (flushed, or its writer is not running) or holds for \
         127.0.0.1 alone, the packet is for the node itself, which has nobody listening there and \
         refuses the connection.",
    ),
    (
        &["conntrack-stale", "dns-stale-udp-conntrack"],
        "Rules of table nat see the first packet of a connection only; conntrack remembers the \
         translation for all later ones. A client that sends UDP from one port over and over keeps \
         its entry alive for ever: when the endpoint is replaced, its packets go on to the one that \
         is gone, while every new client is served.",
    ),
    (
        &["conntrack-table-full"],
        "Conntrack has room for nf_conntrack_max connections in each namespace. When that is used \
         up, packets of new connections are dropped (\"nf_conntrack: table full\") while those of \
         old ones pass.",
    ),
    (
        &[
            "source-not-translated",
            "masquerade-missing",
            "masquerade-wrong-cidr",
            "masquerade-wrong-oif",
        ],
        "Pods and containers have private addresses that nobody outside has a route to. The node \
         puts its own in their place (MASQUERADE, SNAT) when a packet leaves, and undoes it for the \
         answer. Without that, requests leave as if all were well and no answer ever comes. The same \
         holds for what a node asks from 127.0.0.1 and a rule leads to a pod: no link may carry \
         that address.",
    ),
    (
        &["masquerade-excepts-target"],
        "What leaves with a pod's address as source is answered only by those who know a way to the \
         pod. Where a rule excepts a destination from masquerading because a pool or an address set \
         covers it, that host sends its answer elsewhere.",
    ),
    (
        &["snat-wrong-address"],
        "A source that is translated has to become an address that the node holds: answers to any \
         other go to nobody.",
    ),
    (
        &["ephemeral-ports-exhausted"],
        "Each connection to one address and port needs a local port of its own, out of \
         ip_local_port_range, and keeps it for a minute after its end (TIME-WAIT). When all are in \
         use, connect() fails with EADDRNOTAVAIL.",
    ),
];
