//! Traps: what looks broken and is healthy. A diagnosis that names one of them is wrong.

use super::Fault;
use super::cross_node::POD_MTU_TOO_LARGE;
use super::op::{Offload, Op, iptables, link, no_offload, sysctl};
use crate::lab::netlink::LinkChange;

const WEB: &str = "203.0.113.10:80";

pub(super) const FAULTS: &[Fault] = &[
    Fault::trap(
        "cross-node",
        "trap-forward-policy-drop-accepted",
        "the FORWARD policy is DROP and rules accept what matters, as on every host with Docker",
    )
    .target("p1", "10.244.2.2", "icmp")
    .at("n1", "filter/FORWARD")
    .breaks(&[iptables("n1", "-P FORWARD DROP"), iptables("n2", "-P FORWARD DROP")]),
    Fault::trap(
        "service",
        "trap-nf-call-arptables-off",
        "bridges do not pass arptables and ip6tables, and IPv4 Services need only iptables",
    )
    .target("p1", "10.96.45.102:80", "tcp")
    .at("n1", "sysctl net.bridge.bridge-nf-call-arptables")
    .breaks(&[
        sysctl("n1", "net.bridge.bridge-nf-call-arptables", "0", "1"),
        sysctl("n1", "net.bridge.bridge-nf-call-ip6tables", "0", "1"),
        sysctl("n2", "net.bridge.bridge-nf-call-arptables", "0", "1"),
        sysctl("n2", "net.bridge.bridge-nf-call-ip6tables", "0", "1"),
    ]),
    Fault::trap(
        "service",
        "trap-hairpin-off-unused",
        "hairpin is off for pods that back no Service that they call themselves",
    )
    .target("p1", "10.96.45.102:80", "tcp")
    .on("n1", "veth-p2")
    .by("bridge port flag hairpin")
    .breaks(&[
        link("n1", "veth-p2", LinkChange::Hairpin(false)),
        link("n1", "veth-p5", LinkChange::Hairpin(false)),
    ]),
    Fault::trap(
        "service",
        "trap-unrelated-service-no-endpoints",
        "a Service without endpoints is another one",
    )
    .target("p1", "10.96.45.102:80", "tcp")
    .at("n1", "filter/KUBE-SERVICES")
    .breaks(&[iptables(
        "n1",
        r#"-A KUBE-SERVICES -d 10.96.99.99/32 -p tcp --dport 80 -m comment --comment "default/old has no endpoints" -j REJECT"#,
    )]),
    Fault::trap(
        "ingress",
        "trap-input-drop-on-nodeport",
        "INPUT drops the port, and what comes to it is translated and forwarded before INPUT",
    )
    .target("ext", "192.168.50.11:30080", "tcp")
    .at("n1", "filter/INPUT")
    .breaks(&[
        iptables("n1", "-A INPUT -p tcp --dport 30080 -j DROP"),
        iptables("dh", "-A INPUT -p tcp --dport 8080 -j DROP"),
    ]),
    Fault::trap(
        "cross-node",
        "trap-pmtud-repairs-mtu",
        "pods have too large an MTU, and path-MTU discovery repairs it",
    )
    .target("p1", "10.244.2.2:8080", "tcp")
    .on("n1", "cni0")
    .by("mtu")
    .breaks(&POD_MTU_TOO_LARGE),
    Fault::trap(
        "cross-node",
        "trap-underlay-mtu-outer-fragments",
        "the nodes' MTU is too small for VXLAN, and they fragment it, which works while fragments pass",
    )
    .target("p1", "10.244.2.2:8080", "tcp")
    .on("n1", "eth0")
    .by("mtu")
    .breaks(&[
        no_offload("p1", Offload::Segmentation),
        no_offload("p3", Offload::Segmentation),
        link("n1", "eth0", LinkChange::Mtu(1400)),
        link("n2", "eth0", LinkChange::Mtu(1400)),
    ]),
    Fault::trap(
        "same-node",
        "trap-orphan-veth",
        "a bridge port without carrier is what a pod that ended has left",
    )
    .target("p1", "10.244.1.3", "icmp")
    .on("n1", "veth-dead")
    .breaks(&[Op::AddOrphan {
        host: "n1",
        dev: "veth-dead",
        peer: ("p5", "dead0"),
        master: "cni0",
    }]),
    Fault::trap(
        "cross-node",
        "trap-drop-rule-other-source",
        "rules that drop match other packets",
    )
    .target("p1", "10.244.2.2", "icmp")
    .at("n1", "filter/FORWARD")
    .breaks(&[
        iptables("n1", "-I FORWARD -s 198.51.100.0/24 -j DROP"),
        iptables("n1", "-t raw -I PREROUTING -d 10.96.77.77 -j DROP"),
    ]),
    Fault::trap(
        "egress",
        "trap-unreplied-conntrack",
        "connections that nobody answered are those of other flows",
    )
    .target("p1", WEB, "tcp")
    .at("n1", "conntrack")
    .breaks(&[
        Op::Send { host: "p1", to: "203.0.113.10:9", sport: 0, times: 1 },
        Op::Connect { host: "p1", to: "203.0.113.10:81", times: 1 },
    ]),
];
