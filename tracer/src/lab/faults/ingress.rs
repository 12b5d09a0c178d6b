//! "A NodePort or hostPort cannot be reached".

use super::Fault;
use super::op::{iptables, sysctl};

const fn fault(id: &'static str, title: &'static str) -> Fault {
    Fault::new("ingress", id, title).target("ext", "192.168.50.11:30080", "tcp")
}

pub(super) const FAULTS: &[Fault] = &[
    fault("nodeport-raw-firewall", "n1 drops the NodePort before anything translates it")
        .probes(&["nodeport"], &["svcrem", "nodeport2"])
        .at("n1", "raw/PREROUTING")
        .breaks(&[iptables("n1", "-t raw -I PREROUTING -i eth0 -p tcp --dport 30080 -j DROP")]),
    fault("nodeport-rules-missing", "n1 has no rules for NodePorts")
        .probes(&["nodeport", "nplocal"], &["svcrem"])
        .at("n1", "nat/KUBE-NODEPORTS")
        .breaks(&[iptables("n1", "-t nat -F KUBE-NODEPORTS")]),
    fault("nodeport-forward-drop", "n1 forwards no new connection that comes in by eth0")
        .probes(&["nodeport", "nplocal", "hostport"], &["svcrem", "same"])
        .at("n1", "filter/FORWARD")
        .breaks(&[iptables("n1", "-I FORWARD -i eth0 -m conntrack --ctstate NEW -j DROP")]),
    fault("nodeport-lb-source-ranges", "the Service's loadBalancerSourceRanges leave out the client")
        .probes(&["nodeport"], &["svcrem"])
        .at("n1", "filter/KUBE-PROXY-FIREWALL")
        .breaks(&[iptables(
            "n1",
            r#"-A KUBE-PROXY-FIREWALL -m conntrack --ctorigdst 192.168.50.11 --ctorigdstport 30080 -m comment --comment "traffic not accepted by KUBE-FW" -j DROP"#,
        )]),
    fault("nodeport-route-localnet-off", "n1 does not route 127.0.0.1, so that NodePorts fail there")
        .probes(&["nplo"], &["nodeport"])
        .target("n1", "127.0.0.1:30080", "tcp")
        .at("n1", "sysctl net.ipv4.conf.all.route_localnet")
        .breaks(&[sysctl("n1", "net.ipv4.conf.all.route_localnet", "0", "1")]),
    fault("hostport-stale-pod", "the hostPort leads to a pod that is gone")
        .probes(&["hostport"], &["nodeport", "same"])
        .target("ext", "192.168.50.11:8088", "tcp")
        .at("n1", "nat/CNI-DN-P2")
        .breaks(&[iptables(
            "n1",
            "-t nat -I CNI-DN-P2 3 -p tcp -m tcp --dport 8088 -j DNAT --to-destination 10.244.1.99:8080",
        )]),
];
