//! The outside that reaches pods by NodePort and hostPort.

use pkttrace_tests::{Journey, Lab, Run, Tracer, tcp};

/// Traces one HTTP request of `ext` to a port of node n1.
fn get(iptables: &str, port: &str) -> Run {
    let lab = Lab::cluster_with(iptables);
    let url = format!("192.168.50.11:{port}/");
    lab.get("ext", &url);
    let tracer = Tracer::start(&lab, &["--dst", "192.168.50.11", "--dport", port]);
    lab.get("ext", &url);
    tracer.await_journeys(1, &tcp("S."));
    tracer.finish()
}

fn assert_enters(syn: &Journey) {
    syn.assert_order(&[
        "ext/route=eth0",
        "ext/eth0/OUTPUT=accept",
        "ext/eth0/xmit",
        "fab/port-ext>port-n1/bridge",
        "n1/eth0/rx",
        "n1/eth0/PREROUTING=dnat",
    ]);
}

fn node_port_with(iptables: &str) {
    let run = get(iptables, "30080");
    let syn = run.one(&tcp("S").at("ext"));
    assert_enters(syn);
    let (asked, chosen) =
        ("192.168.50.1:* > 192.168.50.11:30080", "192.168.50.1:* > 10.244.2.2:8080");
    syn.assert_nat("dnat", "n1/eth0/PREROUTING", asked, chosen);
    let masked = "10.244.1.0:* > 10.244.2.2:8080";
    syn.assert_nat("masquerade", "n1/flannel.1/POSTROUTING", chosen, masked);
    syn.assert_fate("delivered", "p3").assert_order(&[
        "n1/eth0/PREROUTING=dnat",
        "n1/route=flannel.1",
        "n1/eth0>flannel.1/FORWARD=accept",
        "n1/flannel.1/POSTROUTING=masquerade",
        "n1/encap",
        "n2/decap",
        "n2/route=cni0",
        "n2/veth-p3/xmit",
        "p3/eth0/INPUT=accept",
    ]);
    let answer = run.one(&tcp("S."));
    answer.assert_child_of(syn, "reply").assert_fate("delivered", "ext");
    let (sent, back) = ("10.244.2.2:8080 > 10.244.1.0:*", "10.244.2.2:8080 > 192.168.50.1:*");
    answer.assert_nat("un-snat", "n1/flannel.1/PREROUTING", sent, back);
    let told = "192.168.50.11:30080 > 192.168.50.1:*";
    answer.assert_nat("un-dnat", "n1/eth0/POSTROUTING", back, told);
    run.assert_no_drops();
}

#[test]
fn a_node_port_is_translated_and_masqueraded_by_iptables_nft() {
    node_port_with("nft");
}

#[test]
fn a_node_port_is_translated_and_masqueraded_by_iptables_legacy() {
    node_port_with("legacy");
}

fn host_port_with(iptables: &str) {
    let run = get(iptables, "8088");
    let syn = run.one(&tcp("S").at("ext"));
    assert_enters(syn);
    let before = "192.168.50.1:* > 192.168.50.11:8088";
    let after = "192.168.50.1:* > 10.244.1.3:8080";
    syn.assert_nat("dnat", "n1/eth0/PREROUTING", before, after);
    syn.assert_fate("delivered", "p2").assert_order(&[
        "n1/route=cni0",
        "n1/eth0>cni0/FORWARD=accept",
        "n1/cni0/POSTROUTING=accept",
        "n1/cni0/xmit",
        "n1/veth-p2/xmit",
        "p2/eth0/INPUT=accept",
    ]);
    let answer = run.one(&tcp("S."));
    answer.assert_child_of(syn, "reply").assert_fate("delivered", "ext");
    let before = "10.244.1.3:8080 > 192.168.50.1:*";
    let after = "192.168.50.11:8088 > 192.168.50.1:*";
    answer.assert_nat("un-dnat", "n1/eth0/POSTROUTING", before, after);
    run.assert_no_drops();
}

#[test]
fn a_host_port_is_translated_by_iptables_nft() {
    host_port_with("nft");
}

#[test]
fn a_host_port_is_translated_by_iptables_legacy() {
    host_port_with("legacy");
}
