//! "A pod cannot resolve names": resolv.conf, the DNS Service, its pod, and the way there.

use super::Fault;
use super::op::{Edit, Offload, Op, iptables, no_offload, serve_tcp, serve_udp, sysctl};
use crate::lab::server::Kind;

const fn fault(id: &'static str, title: &'static str) -> Fault {
    Fault::new("dns", id, title).target("p1", "web.default.svc.cluster.local", "dns")
}

const DNS_SERVER: &str = "10.244.2.53:53";

pub(super) const FAULTS: &[Fault] = &[
    fault("dns-resolvconf-wrong-server", "p1's resolv.conf names an address that serves no DNS")
        .probes(&["dns"], &["dnssvc", "cross"])
        .at("p1", "/etc/resolv.conf")
        .breaks(&[Op::Resolver { host: "p1", nameserver: "10.96.0.99" }]),
    fault("dns-no-endpoints", "the DNS Service has no endpoints")
        .probes(&["dns"], &["dnsdirect", "cross"])
        .at("n1", "filter/KUBE-SERVICES")
        .breaks(&[
            iptables(
                "n1",
                r#"-t nat -D KUBE-SERVICES -d 10.96.0.10/32 -p udp -m udp --dport 53 -m comment --comment "kube-system/kube-dns:dns cluster IP" -j KUBE-SVC-DNS"#,
            ),
            iptables(
                "n1",
                r#"-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m udp --dport 53 -m comment --comment "kube-system/kube-dns:dns has no endpoints" -j REJECT"#,
            ),
        ]),
    fault("dns-server-down", "nothing listens in the DNS pod")
        .probes(&["dns", "dnsdirect"], &["cross"])
        .at("dns", "udp port 53")
        .breaks(&[serve_udp("dns", 53, Edit::Stop), serve_tcp("dns", 53, Edit::Stop)]),
    fault("dns-udp-egress-blocked", "a network policy drops p1's DNS queries")
        .probes(&["dns", "dnsdirect"], &["cross"])
        .at("n1", "filter/KUBE-ROUTER-FORWARD")
        .breaks(&[iptables(
            "n1",
            "-A KUBE-ROUTER-FORWARD -s 10.244.1.2/32 -p udp --dport 53 -m conntrack --ctstate NEW -j DROP",
        )]),
    fault("dns-upstream-unreachable", "the cluster's DNS cannot reach the one outside")
        .probes(&["dnsext"], &["dns"])
        .target("p1", "www.example.test", "dns")
        .at("n2", "filter/FORWARD")
        .breaks(&[iptables("n2", "-I FORWARD -s 10.244.2.53/32 -d 203.0.113.53/32 -j DROP")]),
    fault("dns-nodelocal-missing", "p1's resolv.conf names a node-local cache that does not run")
        .probes(&["dns"], &["dnssvc"])
        .at("p1", "/etc/resolv.conf")
        .breaks(&[Op::Resolver { host: "p1", nameserver: "169.254.20.10" }]),
    fault("dns-rcvbuf-full", "the DNS server does not read and its receive buffer is full")
        .probes(&["dns", "dnsdirect"], &["cross"])
        .at("dns", "udp port 53")
        .breaks(&[
            serve_udp("dns", 53, Edit::Become(Kind::Stalled)),
            Op::Send { host: "p1", to: DNS_SERVER, sport: 0, times: 10 },
        ]),
    fault("dns-same-node-bridge-nf-off", "n2's bridge does not pass iptables, so that answers from the DNS pod come untranslated")
        .probes(&["dnsnode2"], &["dns"])
        .target("p3", "web.default.svc.cluster.local", "dns")
        .at("n2", "sysctl net.bridge.bridge-nf-call-iptables")
        .breaks(&[sysctl("n2", "net.bridge.bridge-nf-call-iptables", "0", "1")]),
    fault("dns-stale-udp-conntrack", "n1 remembers a DNS pod that is gone for queries from port 5353, until 30 s pass without one")
        .probes(&["dnsfixed"], &["dnssvc", "dns"])
        .target("p1", "10.96.0.10:53", "dns")
        .sport(5353)
        .at("n1", "conntrack entry of udp port 5353")
        .breaks(&[
            iptables(
                "n1",
                "-t nat -R KUBE-SEP-DNS 2 -p udp -m udp -j DNAT --to-destination 10.244.2.99:53",
            ),
            Op::Send { host: "p1", to: "10.96.0.10:53", sport: 5353, times: 1 },
            iptables(
                "n1",
                "-t nat -R KUBE-SEP-DNS 2 -p udp -m udp -j DNAT --to-destination 10.244.2.53:53",
            ),
        ]),
    fault("dns-checksum-corrupted", "n1 corrupts the UDP checksums of p1's queries")
        .probes(&["dns", "dnsdirect"], &["cross"])
        .at("n1", "nftables ip flt")
        .breaks(&[
            no_offload("p1", Offload::Checksum),
            Op::AddNft {
                host: "n1",
                table: "ip flt",
                chain: "type filter hook postrouting priority 300;",
                rule: "ip saddr 10.244.1.2 udp dport 53 udp checksum set 0xdead",
            },
        ]),
];
