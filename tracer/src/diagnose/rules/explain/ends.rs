//! The application and its names, and what is seen without being explained.

pub(super) const TEXTS: super::Texts = &[
    (
        &["checksum-corrupted", "dns-checksum-corrupted"],
        "TCP and UDP carry a checksum over their data and addresses. A rule that writes it, a device \
         whose offload computes it wrongly (VXLAN on some drivers), or a program that changes bytes \
         without mending it makes packets that everybody forwards and nobody takes. Pings get \
         through, since their checksum is made by software.",
    ),
    (
        &["app-not-listening", "dns-server-down"],
        "The network has done its part: the packet arrived where its destination is. A TCP \
         connection needs a socket in LISTEN at that port and address, or the kernel answers with a \
         reset; a datagram needs a bound socket, or \"port unreachable\" comes back.",
    ),
    (
        &["app-listens-localhost"],
        "A socket takes what is addressed to its own address, and one that is bound to a device \
         (SO_BINDTODEVICE) only what comes in there. What listens at 127.0.0.1 is reached from its \
         own namespace alone: for everybody else nobody listens at that port.",
    ),
    (
        &["app-hung", "app-backlog-full"],
        "The kernel completes connections before the application knows of them. One that does not \
         accept fills its queue, and then new connections time out; one that accepts and is busy or \
         stopped leaves the asker waiting.",
    ),
    (
        &["dns-rcvbuf-full"],
        "Datagrams wait in the socket's receive buffer until the server reads them. When it is full, \
         the kernel drops what comes (UdpRcvbufErrors), and the asker waits for its time-out.",
    ),
    (
        &["echo-ignored"],
        "A host may leave pings unanswered (icmp_echo_ignore_all): that says nothing about its ports.",
    ),
    (
        &["udp-answer-other-address"],
        "A UDP server that listens at all addresses (0.0.0.0) and does not say from which to answer \
         lets the kernel choose: it takes the source address of its route to the client. On a host \
         with several addresses that is not always the one that was asked. A client that waits for \
         that one (connect(2), most resolvers, every NAT on the way) has no socket for the answer \
         and refuses it with an ICMP error.",
    ),
    (
        &[
            "dns-server-wrong",
            "dns-resolvconf-wrong-server",
            "dns-nodelocal-missing",
            "dns-resolvconf-empty",
        ],
        "resolv.conf says whom to ask. In a cluster that is the address of the DNS Service, or of a \
         cache on the node (169.254.20.10), which has to run there; an address that is neither gets \
         no answer, and without any name server a resolver asks its own machine.",
    ),
    (
        &["dns-upstream-unreachable"],
        "The cluster's DNS answers for its own names itself and asks another server for all others: \
         where it does not reach that one, those alone fail, with SERVFAIL.",
    ),
    (
        &["dns-name-unknown"],
        "A server answered, and knows no such name, or no address of this kind for it: that is no \
         matter of the network.",
    ),
    (
        &["dns-server-error", "dns-server-silent"],
        "The question came to the name server, which answers with an error or not at all: it is busy, \
         cannot ask whom it would have to ask, or does not serve this client.",
    ),
    (
        &["name-hosts-file"],
        "A program that wants the address of a name looks into /etc/hosts first, and asks no server \
         for what it finds there. The file is written when a container is made, or by hand, and \
         follows nobody who moves to another address.",
    ),
    (
        &["dns-search-takes-name"],
        "A resolver tries a name that has fewer dots than ndots with each domain of its search list \
         first. Where one of those domains answers every name (a wildcard record), that answer is \
         taken and the name itself is never asked for; a final dot keeps the list out.",
    ),
    (
        &["dns-tcp-unreachable"],
        "An answer that does not fit a datagram comes cut off, marked as truncated, and is asked for \
         again over TCP at the same port: where the Service, a rule or the server has port 53 for \
         UDP alone, short answers come and long ones never do.",
    ),
    (
        &["refused-beyond-node"],
        "The request left this node as it should, and somebody beyond it says no: a router that has \
         no route or finds nobody at the address, a firewall that rejects, a host where nobody \
         listens at the port. Who says it is the place to look at.",
    ),
    (
        &["drop-unexplained"],
        "The kernel dropped the packet and said where; no rule of pkttrace knows the configuration \
         that leads to it.",
    ),
    (
        &["no-reply-beyond-node"],
        "The request left this node as it should, and nothing ever came back. The cause is beyond: \
         the other node, the network between, or an address that cannot be answered to. The same \
         command on the other node shows whether the request arrives there.",
    ),
    (
        &["silent-loss"],
        "The packet ended on this node without the kernel saying so: devices and bridge ports that \
         are down, isolated or without the right forwarding entry discard frames without a drop \
         event.",
    ),
    (
        &["probe-refused"],
        "Somebody answered, but not with what was asked for: the way is there and back, and the cause \
         is at whoever answers.",
    ),
    (
        &["no-packet-sent"],
        "Nothing was seen to leave the sender: its own kernel refused, or the packet went where \
         pkttrace does not look.",
    ),
];
