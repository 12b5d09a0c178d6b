//! Faults that break nothing and make it slow. Each is named as the finding that names it, with a
//! word more where there are several of a kind.

use super::Fault;
use super::op::{Edit, Offload, Op, iptables, serve_tcp, serve_udp, set_route, sysctl};
use crate::lab::labs::{RMEM, WMEM};
use crate::lab::netlink::Hook;
use crate::lab::server::Kind;

const BULK: &str = "10.50.2.2:9000";

pub(super) const FAULTS: &[Fault] = &[
    Fault::slow(
        "slow-rule-chain",
        "twenty thousand rules for others are walked by every packet, not only by new connections",
    )
    .probes(&["rtt"], &["reach"])
    .target("app", "10.50.2.2:8080", "tcp")
    .at("node", "filter/KUBE-SERVICES")
    .breaks(&[Op::RuleList { host: "node", chain: "KUBE-SERVICES", count: 20_000 }]),
    Fault::slow("slow-shaper", "a token bucket lets 16 Mbit/s out towards the server")
        .probes(&["upload"], &["reach"])
        .target("app", BULK, "tcp")
        .on("node", "vw")
        .by("tbf")
        .breaks(&[Op::Qdisc {
            host: "node",
            dev: "vw",
            words: "tbf rate 16mbit burst 64kb latency 30ms",
            healthy: "noqueue",
        }]),
    Fault::slow("slow-policer", "a rule of nftables drops what exceeds 2 MB/s")
        .probes(&["upload"], &["reach"])
        .target("app", BULK, "tcp")
        .at("node", "limits/c")
        .breaks(&[Op::AddNft {
            host: "node",
            table: "ip limits",
            chain: "type filter hook forward priority 0;",
            rule: "ip saddr 10.50.1.2 tcp dport 9000 limit rate over 2 mbytes/second counter drop",
        }]),
    Fault::slow("slow-policer-hashlimit", "a rule of iptables drops what exceeds 2 MB/s")
        .probes(&["upload"], &["reach"])
        .target("app", BULK, "tcp")
        .at("node", "filter/FORWARD")
        .breaks(&[iptables(
            "node",
            "-I FORWARD -s 10.50.1.2 -p tcp --dport 9000 -m hashlimit --hashlimit-above 2mb/s --hashlimit-mode srcip --hashlimit-name pods -j DROP",
        )]),
    Fault::slow(
        "slow-policer-behind",
        "a rule lets 1000 packets a second by, and the next one drops the rest",
    )
    .probes(&["upload"], &["reach"])
    .target("app", BULK, "tcp")
    .at("node", "filter/FORWARD")
    .breaks(&[
        iptables(
            "node",
            "-I FORWARD -s 10.50.1.2 -p tcp --dport 9000 -j DROP",
        ),
        iptables(
            "node",
            "-I FORWARD -s 10.50.1.2 -p tcp --dport 9000 -m hashlimit --hashlimit-upto 1000/s --hashlimit-burst 20 --hashlimit-mode srcip --hashlimit-name slow -j ACCEPT",
        ),
    ]),
    Fault::slow("slow-rule-drops", "a rule drops every other packet of the upload")
        .probes(&["upload"], &["reach"])
        .target("app", BULK, "tcp")
        .at("node", "filter/FORWARD")
        .breaks(&[iptables(
            "node",
            "-I FORWARD -s 10.50.1.2 -p tcp --dport 9000 -m statistic --mode nth --every 2 --packet 0 -j DROP",
        )]),
    Fault::slow(
        "slow-snat-ports",
        "the datagrams' source is translated to four ports, which are used up at once",
    )
    .probes(&["questions"], &["reach"])
    .target("app", "10.50.2.2:9002", "udp")
    .at("node", "nat/POSTROUTING")
    .breaks(&[iptables(
        "node",
        "-t nat -A POSTROUTING -o vw -p udp -j MASQUERADE --to-ports 61000-61003",
    )]),
    Fault::slow(
        "slow-offload-segmentation",
        "the client's device does not segment: its packets walk the way one by one",
    )
    .probes(&["byapp"], &["reach"])
    .target("app", BULK, "tcp")
    .on("app", "eth0")
    .by("tx-tcp-segmentation")
    .breaks(&[Op::Offload { host: "app", dev: "eth0", what: Offload::Segmentation, on: false }]),
    Fault::slow(
        "slow-offload-checksum",
        "the node's device computes no checksums, without which it cannot segment either",
    )
    .probes(&["toweb"], &["reach"])
    .target("app", BULK, "tcp")
    .on("node", "vw")
    .by("tx-checksum-ip-generic")
    .breaks(&[Op::Offload { host: "node", dev: "vw", what: Offload::Checksum, on: false }]),
    Fault::slow(
        "slow-offload-program",
        "an XDP program on the server's device: its peer, the node's, segments nothing any more",
    )
    .probes(&["toweb"], &["reach"])
    .target("app", BULK, "tcp")
    .on("web", "eth0")
    .by("XDP")
    .breaks(&[Op::Program { host: "web", dev: "eth0", hook: Hook::XdpPassing, on: true }]),
    Fault::slow(
        "slow-socket-buffer",
        "the log server's receive buffer holds twenty datagrams, and bursts are of a hundred",
    )
    .probes(&["logs"], &["reach"])
    .target("app", "10.50.2.2:514", "udp")
    .at("web", "the server on port 514")
    .breaks(&[serve_udp("web", 514, Edit::Become(Kind::Cramped))]),
    Fault::slow(
        "slow-accept-queue",
        "somaxconn allows a queue of 8 connections, and forty come at once",
    )
    .probes(&["connect"], &["reach"])
    .target("app", "10.50.2.2:8443", "tcp")
    .at("web", "net.core.somaxconn")
    .breaks(&[
        sysctl("web", "net.core.somaxconn", "8", "4096"),
        serve_tcp("web", 8443, Edit::Become(Kind::Paced)),
    ]),
    Fault::slow(
        "slow-server-names",
        "the server asks for the name of each client, and its name server is silent",
    )
    .probes(&["connect"], &["reach"])
    .target("app", "10.50.2.2:8443", "tcp")
    .at("web", "the server on port 8443")
    .breaks(&[serve_tcp("web", 8443, Edit::Become(Kind::Named))]),
    Fault::slow("slow-route-limit", "the client's route keeps its window at 16 KiB, and 80 ms need more")
        .probes(&["download"], &["far"])
        .target("app", "192.0.2.9:9001", "tcp")
        .at("app", "default via 169.254.1.1 dev eth0 window 16384")
        .breaks(&[set_route("app", "default via 169.254.1.1 dev eth0 window 16384")]),
    Fault::slow("slow-window-scaling", "the client scales no windows, and the server is 80 ms away")
        .probes(&["download"], &["far"])
        .target("app", "192.0.2.9:9001", "tcp")
        .at("app", "net.ipv4.tcp_window_scaling")
        .breaks(&[sysctl("app", "net.ipv4.tcp_window_scaling", "0", "1")]),
    Fault::slow(
        "slow-receive-buffer",
        "the client's receive buffer may not grow to what 80 ms need",
    )
    .probes(&["download"], &["far"])
    .target("app", "192.0.2.9:9001", "tcp")
    .at("app", "net.ipv4.tcp_rmem")
    .breaks(&[sysctl("app", "net.ipv4.tcp_rmem", "4096 65536 65536", RMEM)]),
    Fault::slow(
        "slow-receive-buffer-fixed",
        "the client's kernel does not let receive buffers grow, and 80 ms need more",
    )
    .probes(&["download"], &["far"])
    .target("app", "192.0.2.9:9001", "tcp")
    .at("app", "net.ipv4.tcp_moderate_rcvbuf")
    .breaks(&[sysctl("app", "net.ipv4.tcp_moderate_rcvbuf", "0", "1")]),
    Fault::slow("slow-send-buffer", "the client's send buffer may not grow to what 80 ms need")
        .probes(&["farload"], &["far"])
        .target("app", "192.0.2.9:9000", "tcp")
        .at("app", "net.ipv4.tcp_wmem")
        .breaks(&[sysctl("app", "net.ipv4.tcp_wmem", "4096 16384 65536", WMEM)]),
    Fault::slow(
        "slow-neighbour",
        "the node answers ARP for others after up to 0.8 s, as is the default",
    )
    .probes(&["first"], &["beside"])
    .target("app", "10.50.2.2:8080", "tcp")
    .on("node", "va")
    .by("net.ipv4.neigh.va.proxy_delay")
    .breaks(&[sysctl("node", "net.ipv4.neigh.va.proxy_delay", "80", "0")]),
    Fault::slow(
        "slow-dns-search",
        "a search domain whose name servers are silent is tried before the real name",
    )
    .probes(&["lookup"], &["reach"])
    .target("app", "web", "dns")
    .at("app", "resolv.conf")
    .breaks(&[Op::Search {
        host: "app",
        domains: "corp.test default.svc.cluster.local svc.cluster.local cluster.local",
    }]),
];

/// Each for an address that nobody has, and the jump that leads everybody there.
pub(super) fn rule_list(chain: &str, count: u16) -> String {
    let mut text = format!("*filter\n:{chain} - [0:0]\n-I FORWARD 1 -j {chain}\n");
    for n in 0..count {
        let [high, low] = n.to_be_bytes();
        text +=
            &format!("-A {chain} -d 10.96.{high}.{low}/32 -p tcp -m tcp --dport 80 -j REJECT\n");
    }
    text + "COMMIT\n"
}
