//! "A Service's ClusterIP cannot be reached": kube-proxy's rules, endpoints, hairpin, br_netfilter.

use super::Fault;
use super::op::{iptables, link, sysctl};
use crate::lab::netlink::LinkChange;

const fn fault(id: &'static str, title: &'static str) -> Fault {
    Fault::new("service", id, title).target("p1", "10.96.45.102:80", "tcp")
}

pub(super) const FAULTS: &[Fault] = &[
    fault("kube-proxy-rules-missing", "n1 has no rules for any Service")
        .probes(&["svcsame", "svcrem", "dns"], &["same", "cross"])
        .at("n1", "nat/KUBE-SERVICES")
        .breaks(&[iptables("n1", "-t nat -F KUBE-SERVICES")]),
    fault("kube-proxy-jump-missing", "n1's PREROUTING does not jump to the rules of the Services")
        .probes(&["svcsame", "svcrem"], &["same", "cross", "svcnode"])
        .at("n1", "nat/PREROUTING")
        .breaks(&[iptables(
            "n1",
            r#"-t nat -D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
        )]),
    fault("svc-no-endpoints", "the Service has no endpoints")
        .probes(&["svcsame"], &["same", "svcrem"])
        .at("n1", "filter/KUBE-SERVICES")
        .breaks(&[
            iptables(
                "n1",
                r#"-t nat -D KUBE-SERVICES -d 10.96.45.102/32 -p tcp -m tcp --dport 80 -m comment --comment "default/websame cluster IP" -j KUBE-SVC-WEBSAME"#,
            ),
            iptables(
                "n1",
                r#"-A KUBE-SERVICES -d 10.96.45.102/32 -p tcp -m tcp --dport 80 -m comment --comment "default/websame has no endpoints" -j REJECT"#,
            ),
        ]),
    fault("svc-endpoint-stale-ip", "the Service leads to a pod of this node that is gone")
        .probes(&["svcsame"], &["same", "svcrem"])
        .at("n1", "nat/KUBE-SEP-P2")
        .breaks(&[iptables(
            "n1",
            "-t nat -R KUBE-SEP-P2 2 -p tcp -m tcp -j DNAT --to-destination 10.244.1.99:8080",
        )]),
    fault("svc-endpoint-stale-ip-remote", "the Service leads to a pod of the other node that is gone")
        .probes(&["svcrem"], &["cross", "svcsame"])
        .target("p1", "10.96.45.103:80", "tcp")
        .at("n1", "nat/KUBE-SEP-P3")
        .breaks(&[iptables(
            "n1",
            "-t nat -R KUBE-SEP-P3 2 -p tcp -m tcp -j DNAT --to-destination 10.244.2.99:8080",
        )]),
    fault("svc-wrong-targetport", "the Service leads to a port that its pod does not listen on")
        .probes(&["svcsame"], &["same", "svcrem"])
        .at("n1", "nat/KUBE-SEP-P2")
        .breaks(&[iptables(
            "n1",
            "-t nat -R KUBE-SEP-P2 2 -p tcp -m tcp -j DNAT --to-destination 10.244.1.3:9999",
        )]),
    fault("svc-one-endpoint-dead", "one of the Service's two endpoints is gone")
        .probes(&["svcweb"], &["svcsame", "cross"])
        .target("p1", "10.96.45.100:80", "tcp")
        .at("n1", "nat/KUBE-SEP-P3")
        .breaks(&[iptables(
            "n1",
            "-t nat -R KUBE-SEP-P3 2 -p tcp -m tcp -j DNAT --to-destination 10.244.2.99:8080",
        )]),
    fault("svc-hairpin-off", "p1's bridge port does not send back what came from it")
        .probes(&["svcself"], &["svcsame", "svcrem"])
        .target("p1", "10.96.45.101:80", "tcp")
        .on("n1", "veth-p1")
        .by("bridge port flag hairpin")
        .breaks(&[link("n1", "veth-p1", LinkChange::Hairpin(false))]),
    fault("bridge-nf-call-iptables-off", "n1's bridge does not pass iptables, so that answers of local endpoints come untranslated")
        .probes(&["svcsame"], &["svcrem", "same", "cross"])
        .at("n1", "sysctl net.bridge.bridge-nf-call-iptables")
        .breaks(&[sysctl("n1", "net.bridge.bridge-nf-call-iptables", "0", "1")]),
    fault("svc-host-output-jump-missing", "n1's OUTPUT does not jump to the rules of the Services")
        .probes(&["svcnode"], &["svcrem", "svcsame"])
        .target("n1", "10.96.45.103:80", "tcp")
        .at("n1", "nat/OUTPUT")
        .breaks(&[iptables(
            "n1",
            r#"-t nat -D OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#,
        )]),
    fault("svc-forward-policy-drop", "n1's FORWARD policy is DROP and nothing accepts")
        .probes(&["svcrem"], &["host2pod"])
        .target("p1", "10.96.45.103:80", "tcp")
        .at("n1", "filter/FORWARD")
        .breaks(&[
            iptables("n1", "-P FORWARD DROP"),
            iptables("n1", "-F FLANNEL-FWD"),
            iptables("n1", "-F KUBE-FORWARD"),
        ]),
];
