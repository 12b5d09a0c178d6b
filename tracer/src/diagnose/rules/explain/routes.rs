//! Forwarding and routes.

pub(super) const TEXTS: super::Texts = &[
    (
        &["ip-forward-disabled", "docker-ip-forward-off"],
        "The kernel forwards a packet only where forwarding is on for the device that it came in \
         by. Else it counts it as an address error (IpInAddrErrors) and drops it without an ICMP \
         error: the sender sees silence. net.ipv4.ip_forward is off by default and is switched on \
         by container runtimes; a sysctl file applied later, or a restart of networking, switches \
         it off again.",
    ),
    (
        &["route-missing", "route-pod-cidr-missing-no-default", "node-default-route-missing"],
        "A packet needs a route. Without one the kernel answers with \"network unreachable\" \
         (IpExtInNoRoutes counts it). Network plugins keep one route for each other node's pods; \
         everything else goes by the default route.",
    ),
    (
        &["route-blackhole"],
        "A blackhole route discards what it covers without a word. Network plugins put one over a \
         node's own block of pod addresses, and it decides wherever no more special route does.",
    ),
    (
        &["route-unreachable", "route-prohibit"],
        "Such a route refuses what it covers with an ICMP error (host unreachable, or \
         administratively prohibited), which looks as if the other side had said so.",
    ),
    (
        &["route-wrong", "route-pod-cidr-missing", "route-return-missing"],
        "The route that the packet takes leads away from its destination. Nothing is dropped on \
         this node: the packet leaves by the wrong device, and silence is all that comes of it.",
    ),
    (
        &["route-wrong-source"],
        "A route may name the source address of what is sent by it (src). Where that is the address \
         of another device, the answer is sent to that one, and takes another way back, or none.",
    ),
    (
        &["policy-rule-hijack"],
        "Policy rules (ip rule) choose the table in which a packet is looked up, and come before all \
         routes of table main. A rule that is meant for a VPN or an uplink takes other packets with \
         it when it asks for too little.",
    ),
    (
        &["pod-no-default-route"],
        "A pod reaches what is not on its own link by its default route, which the network plugin \
         sets when the pod is made. Without it everything else is unreachable from the pod, and \
         answers to others cannot be sent.",
    ),
    (
        &["pod-ip-on-host-lo"],
        "A node takes what is addressed to one of its own addresses for itself. Where a pod's, or \
         another node's, address is on one of its devices, packets end there and are never \
         forwarded.",
    ),
    (
        &["route-dead-nexthop", "link-no-carrier"],
        "A link without carrier is up for who configures it, and dead for packets: what is sent \
         there waits for a neighbour that cannot answer, or the route is not used at all.",
    ),
    (
        &["routing-loop", "ttl-too-low"],
        "Each router takes one from a packet's TTL and discards it at 0. That happens in a circle \
         of routers whose routes point at each other, and to a packet that was sent with too few \
         for its way.",
    ),
    (
        &["source-not-local", "martian-source"],
        "A packet's source has to be an address that its sender has and that may be on a link: one \
         that is not is refused by the sender itself, or dropped by the next router as a martian.",
    ),
    (
        &["rp-filter-strict-asymmetric"],
        "With rp_filter=1 the kernel takes a packet only from the device by which it would answer \
         the packet's source; the stricter of conf.all and the device's own setting counts. Where \
         the way back is another one (policy routing, two uplinks, a route of the overlay that is \
         missing), good packets are dropped without any answer.",
    ),
    (
        &["tproxy-not-local"],
        "A rule with TPROXY gives a packet to the socket of a program on this node and marks it, and \
         leaves its destination as it is. Only a policy rule that leads the mark to a table with a \
         local route brings it to that program; what is forwarded with a socket, the kernel drops.",
    ),
    (
        &["reply-other-device"],
        "An answer has to find back. A host with two uplinks answers by the route to the client, \
         whatever device the question came in by: a policy rule that asks for the address of the \
         uplink as source does not see the answer of what is behind a translation, which is routed \
         before it is translated back.",
    ),
];
