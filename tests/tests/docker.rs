//! Containers of a Docker host.

use pkttrace_tests::{Lab, Tracer, icmp, tcp};

fn published_with(iptables: &str) {
    let lab = Lab::cluster_with(iptables);
    lab.get("ext", "192.168.50.13:8080/");
    let tracer = Tracer::start(&lab, &["--dst", "192.168.50.13", "--dport", "8080"]);
    lab.get("ext", "192.168.50.13:8080/");
    tracer.await_journeys(1, &tcp("S."));
    let run = tracer.finish();
    let syn = run.one(&tcp("S").at("ext"));
    let before = "192.168.50.1:* > 192.168.50.13:8080";
    let after = "192.168.50.1:* > 172.17.0.2:80";
    syn.assert_nat("dnat", "dh/eth0/PREROUTING", before, after);
    syn.assert_fate("delivered", "d1").assert_order(&[
        "ext/eth0/xmit",
        "fab/port-ext>port-dh/bridge",
        "dh/eth0/rx",
        "dh/eth0/PREROUTING=dnat",
        "dh/route=docker0",
        "dh/eth0>docker0/FORWARD=accept",
        "dh/docker0/POSTROUTING=accept",
        "dh/docker0/xmit",
        "dh/veth-d1/xmit",
        "d1/eth0/rx",
        "d1/eth0/INPUT=accept",
    ]);
    let answer = run.one(&tcp("S."));
    answer.assert_child_of(syn, "reply").assert_fate("delivered", "ext");
    let before = "172.17.0.2:80 > 192.168.50.1:*";
    let after = "192.168.50.13:8080 > 192.168.50.1:*";
    answer.assert_nat("un-dnat", "dh/eth0/POSTROUTING", before, after);
    run.assert_no_drops();
}

#[test]
fn a_published_port_is_translated_by_iptables_nft() {
    published_with("nft");
}

#[test]
fn a_published_port_is_translated_by_iptables_legacy() {
    published_with("legacy");
}

#[test]
fn a_container_is_masqueraded_on_its_way_out() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--src", "172.17.0.2", "--proto", "icmp"]);
    lab.ping("d1", "203.0.113.10");
    let run = tracer.finish();
    let request = run.one(&icmp(8));
    request.assert_fate("delivered", "ext").assert_order(&[
        "d1/eth0/xmit",
        "dh/docker0/PREROUTING",
        "dh/route=eth0",
        "dh/docker0>eth0/FORWARD=accept",
        "dh/eth0/POSTROUTING=masquerade",
        "ext/eth0/INPUT=accept",
    ]);
    let reply = run.one(&icmp(0));
    reply.assert_child_of(request, "reply").assert_fate("delivered", "d1");
    reply.assert_order(&["dh/eth0/PREROUTING=un-snat", "dh/veth-d1/xmit", "d1/eth0/rx"]);
    run.assert_no_drops();
}

#[test]
fn networks_of_a_docker_host_are_isolated_by_a_drop_in_forward() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--dst", "172.18.0.2", "--proto", "icmp"]);
    lab.ping_fails("d1", "172.18.0.2");
    let run = tracer.finish();
    let request = run.one(&icmp(8));
    request.assert_drop("NETFILTER_DROP", "nft_do_chain", "dh");
    request.assert_order(&["d1/eth0/xmit", "dh/docker0>br-mynet/FORWARD=drop", "dh/drop"]);
    assert_eq!(request.json["drop"]["hook"], "forward", "{request}");
}
