//! "A pod cannot reach the outside": masquerading, ports, routes, the network beyond.

use super::Fault;
use super::op::{Op, del_route, iptables, sysctl};

const fn fault(id: &'static str, title: &'static str) -> Fault {
    Fault::new("egress", id, title).probes(&["egress"], &["cross"]).target(
        "p1",
        "203.0.113.10:80",
        "tcp",
    )
}

pub(super) const FAULTS: &[Fault] = &[
    fault("masquerade-missing", "n1 does not masquerade its pods")
        .probes(&["egress"], &["cross", "same"])
        .at("n1", "nat/POSTROUTING")
        .breaks(&[iptables(
            "n1",
            r#"-t nat -D POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG"#,
        )]),
    fault("masquerade-wrong-cidr", "n1 masquerades another network than its pods'")
        .at("n1", "nat/FLANNEL-POSTRTG")
        .breaks(&[iptables(
            "n1",
            "-t nat -R FLANNEL-POSTRTG 5 -s 10.42.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
        )]),
    fault("masquerade-wrong-oif", "n1 masquerades on a device that it does not have")
        .at("n1", "nat/FLANNEL-POSTRTG")
        .breaks(&[iptables(
            "n1",
            "-t nat -R FLANNEL-POSTRTG 5 -s 10.244.0.0/16 -o ens3 -j MASQUERADE --random-fully",
        )]),
    fault("snat-wrong-address", "n1 translates its pods to an address that it does not have")
        .at("n1", "nat/POSTROUTING")
        .breaks(&[iptables(
            "n1",
            "-t nat -I POSTROUTING -s 10.244.1.0/24 -o eth0 -j SNAT --to-source 192.168.50.77",
        )]),
    fault("ephemeral-ports-exhausted", "p1 has two ports for all its connections")
        .probes(&["egresspar"], &["egress2"])
        .at("p1", "sysctl net.ipv4.ip_local_port_range")
        .breaks(&[sysctl(
            "p1",
            "net.ipv4.ip_local_port_range",
            "40000 40001",
            "32768 60999",
        )]),
    fault("node-default-route-missing", "n1 has no default route")
        .probes(&["egress"], &["cross", "same"])
        .at("n1", "route default")
        .breaks(&[del_route("n1", "default via 192.168.50.1")]),
    fault("egress-upstream-drop", "the network beyond the node drops it")
        .at("fab", "nftables bridge flt")
        .breaks(&[Op::AddNft {
            host: "fab",
            table: "bridge flt",
            // Ahead of br_netfilter, which on old kernels (5.10) passes over chains of its own
            // priority, 0.
            chain: "type filter hook forward priority -300;",
            rule: "ip daddr 203.0.113.10 counter drop",
        }]),
];
