//! Pods that talk to the world outside, and to their own node.

use pkttrace_tests::{Journey, Lab, Tracer, icmp, tcp};

/// Leaves p1 for `203.0.113.10` and is masqueraded by the node.
fn assert_masqueraded(journey: &Journey) -> &Journey {
    journey.assert_order(&[
        "p1/route=eth0",
        "p1/eth0/OUTPUT=accept",
        "p1/eth0/POSTROUTING=accept",
        "p1/eth0/xmit",
        "n1/veth-p1/rx",
        "n1/cni0/PREROUTING=bridge",
        "n1/cni0/rx",
        "n1/route=eth0",
        "n1/cni0>eth0/FORWARD=accept",
        "n1/eth0/POSTROUTING=masquerade",
        "n1/eth0/queue",
        "n1/eth0/xmit",
        "fab/port-n1/rx",
        "fab/port-n1>port-ext/bridge",
        "fab/port-ext/xmit",
        "ext/eth0/rx",
        "ext/eth0/PREROUTING=accept",
        "ext/route=local",
        "ext/eth0/INPUT=accept",
    ])
}

fn masquerade_with(iptables: &str) {
    let lab = Lab::cluster_with(iptables);
    lab.get("p1", "203.0.113.10/");
    let tracer = Tracer::start(&lab, &["--dst", "203.0.113.10", "--proto", "tcp"]);
    lab.get("p1", "203.0.113.10/");
    tracer.await_journeys(1, &tcp("S.").at("ext"));
    let run = tracer.finish();
    let syn = run.one(&tcp("S").at("p1"));
    assert_masqueraded(syn).assert_fate("delivered", "ext");
    let before = "10.244.1.2:* > 203.0.113.10:80";
    let after = "192.168.50.11:* > 203.0.113.10:80";
    syn.assert_nat("masquerade", "n1/cni0>eth0/POSTROUTING", before, after);
    let way = "eth0@p1 → veth-p1 → cni0 → PREROUTING → route eth0 → FORWARD → \
               POSTROUTING MASQUERADE → eth0 → ";
    assert!(syn.path().starts_with(way), "{syn}");
    let answer = run.one(&tcp("S.").at("ext"));
    answer.assert_child_of(syn, "reply").assert_fate("delivered", "p1").assert_order(&[
        "ext/eth0/xmit",
        "n1/eth0/rx",
        "n1/eth0/PREROUTING=un-snat",
        "n1/route=cni0",
        "n1/eth0>cni0/FORWARD=accept",
        "n1/cni0/POSTROUTING=accept",
        "n1/veth-p1/xmit",
        "p1/eth0/INPUT=accept",
    ]);
    let before = "203.0.113.10:80 > 192.168.50.11:*";
    let after = "203.0.113.10:80 > 10.244.1.2:*";
    answer.assert_nat("un-snat", "n1/eth0/PREROUTING", before, after);
    run.assert_no_drops();
}

#[test]
fn a_pod_is_masqueraded_on_its_way_out_by_iptables_nft() {
    masquerade_with("nft");
}

#[test]
fn a_pod_is_masqueraded_on_its_way_out_by_iptables_legacy() {
    masquerade_with("legacy");
}

#[test]
fn a_ping_to_the_outside_comes_back_translated() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--dst", "203.0.113.10", "--proto", "icmp"]);
    lab.ping("p1", "203.0.113.10");
    let run = tracer.finish();
    let request = run.one(&icmp(8));
    assert_masqueraded(request).assert_fate("delivered", "ext");
    let reply = run.one(&icmp(0));
    reply.assert_order(&["n1/eth0/PREROUTING=un-snat", "n1/cni0/POSTROUTING", "p1/eth0/rx"]);
    reply.assert_child_of(request, "reply").assert_fate("delivered", "p1");
    run.assert_no_drops();
}

#[test]
fn a_pod_reaches_its_node_and_the_node_the_pod() {
    let lab = Lab::cluster();
    lab.ping("p1", "10.244.1.1");
    let tracer = Tracer::start(&lab, &["--host", "10.244.1.1", "--proto", "icmp"]);
    lab.ping("p1", "10.244.1.1");
    lab.ping("n1", "10.244.1.2");
    let run = tracer.finish();
    let up =
        ["p1/eth0/xmit", "n1/veth-p1/rx", "n1/cni0/PREROUTING", "n1/cni0/rx", "n1/route=local"];
    let down = ["n1/route=cni0", "n1/cni0/OUTPUT", "n1/cni0/POSTROUTING", "n1/cni0/xmit"];
    for kind in [8, 0] {
        let to_node = run.one(&icmp(kind).at("p1"));
        to_node.assert_order(&up).assert_order(&["n1/cni0/INPUT=accept"]);
        to_node.assert_fate("delivered", "n1");
        to_node.assert_path("eth0@p1 → veth-p1 → cni0 → PREROUTING → INPUT");
        let to_pod = run.one(&icmp(kind).at("n1"));
        to_pod.assert_order(&down).assert_order(&["n1/veth-p1/xmit", "p1/eth0/INPUT=accept"]);
        to_pod.assert_fate("delivered", "p1").assert_path("cni0@n1 → veth-p1 → eth0@p1");
    }
    run.one(&icmp(0).at("n1")).assert_child_of(run.one(&icmp(8).at("p1")), "reply");
    run.one(&icmp(0).at("p1")).assert_child_of(run.one(&icmp(8).at("n1")), "reply");
    run.assert_no_drops();
}

/// No bridge: the node routes to the pod's own device and answers its ARP.
#[test]
fn a_calico_pod_is_routed_without_a_bridge() {
    let lab = Lab::cluster();
    lab.get("pc", "10.244.2.2:8080/");
    let tracer = Tracer::start(&lab, &["--host", "10.244.1.200", "--proto", "tcp"]);
    lab.get("pc", "10.244.2.2:8080/");
    tracer.await_journeys(1, &tcp("S.").at("p3"));
    let run = tracer.finish();
    let syn = run.one(&tcp("S").at("pc"));
    syn.assert_order(&[
        "pc/route=eth0",
        "pc/eth0/xmit",
        "n1/cali1/rx",
        "n1/cali1/PREROUTING=accept",
        "n1/route=flannel.1",
        "n1/cali1>flannel.1/FORWARD=accept",
        "n1/flannel.1/POSTROUTING=accept",
        "n1/encap",
        "n2/decap",
        "p3/eth0/INPUT=accept",
    ]);
    syn.assert_fate("delivered", "p3").assert_absent("n1/bridge");
    let answer = run.one(&tcp("S.").at("p3"));
    answer.assert_child_of(syn, "reply").assert_fate("delivered", "pc").assert_order(&[
        "n1/decap",
        "n1/route=cali1",
        "n1/flannel.1>cali1/FORWARD=accept",
        "n1/cali1/xmit",
        "pc/eth0/INPUT=accept",
    ]);
    run.assert_no_drops();
}
