//! Pods on one bridge of one node.

use pkttrace_tests::{Journey, Lab, Run, Tracer, fin, icmp, tcp};

/// Traces one ping from p1 to p2, with br_netfilter on or off.
fn ping(call_iptables: &str) -> Run {
    let lab = Lab::cluster();
    lab.exec("n1", &format!("sysctl -qw net.bridge.bridge-nf-call-iptables={call_iptables}"));
    let tracer = Tracer::start(&lab, &["--dst", "10.244.1.3", "--proto", "icmp"]);
    lab.ping("p1", "10.244.1.3");
    tracer.finish()
}

/// What leads over the bridge, between the ends that are the same in both cases.
fn assert_bridged(journey: &Journey, from: &str, to: &str, bridge: &[&str]) {
    let begin = ["/route=eth0", "/eth0/OUTPUT=accept", "/eth0/POSTROUTING=accept"];
    let leave = ["/eth0/queue", "/eth0/xmit"];
    let enter = ["/eth0/rx", "/eth0/PREROUTING=accept", "/route=local", "/eth0/INPUT=accept"];
    let at = |host: &str, steps: &[&str]| steps.iter().map(|s| format!("{host}{s}")).collect();
    let mut trail: Vec<String> = at(from, &begin);
    trail.append(&mut at(from, &leave));
    trail.extend(bridge.iter().map(|s| format!("n1/{s}")));
    trail.append(&mut at(to, &enter));
    let trail: Vec<_> = trail.iter().map(String::as_str).collect();
    journey.assert_trail(&trail).assert_fate("delivered", to);
}

#[test]
fn with_br_netfilter_the_nodes_hooks_run_for_a_bridged_packet() {
    let run = ping("1");
    let request = run.one(&icmp(8));
    request.assert_path(
        "eth0@p1 → veth-p1 → cni0 → PREROUTING → FORWARD → POSTROUTING → veth-p2 → eth0@p2",
    );
    let hooks = ["cni0/PREROUTING=bridge", "cni0>cni0/FORWARD=bridge", "cni0/POSTROUTING=bridge"];
    let bridged = |from: &str, to: &str| {
        let mut steps = vec![format!("{from}/rx")];
        steps.extend(hooks.map(str::to_owned));
        steps.push(format!("{from}>{to}/bridge"));
        steps.extend([format!("{to}/queue"), format!("{to}/xmit")]);
        steps
    };
    let there = bridged("veth-p1", "veth-p2");
    let back = bridged("veth-p2", "veth-p1");
    assert_bridged(request, "p1", "p2", &there.iter().map(String::as_str).collect::<Vec<_>>());
    let reply = run.one(&icmp(0));
    assert_bridged(reply, "p2", "p1", &back.iter().map(String::as_str).collect::<Vec<_>>());
    reply.assert_child_of(request, "reply").assert_path(
        "eth0@p2 → veth-p2 → cni0 → PREROUTING → FORWARD → POSTROUTING → veth-p1 → eth0@p1",
    );
    run.assert_no_drops();
}

#[test]
fn without_br_netfilter_the_bridge_forwards_past_the_hooks() {
    let run = ping("0");
    let there = ["veth-p1/rx", "veth-p1>veth-p2/bridge", "veth-p2/queue", "veth-p2/xmit"];
    let back = ["veth-p2/rx", "veth-p2>veth-p1/bridge", "veth-p1/queue", "veth-p1/xmit"];
    let request = run.one(&icmp(8));
    assert_bridged(request, "p1", "p2", &there);
    request.assert_path("eth0@p1 → veth-p1 → cni0 → veth-p2 → eth0@p2");
    let reply = run.one(&icmp(0));
    assert_bridged(reply, "p2", "p1", &back);
    reply.assert_child_of(request, "reply");
    reply.assert_path("eth0@p2 → veth-p2 → cni0 → veth-p1 → eth0@p1");
    run.assert_no_drops();
}

#[test]
fn a_connection_on_one_bridge_is_seen_in_both_directions() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--dst", "10.244.1.3", "--port", "8080"]);
    lab.get("p1", "10.244.1.3:8080/");
    tracer.await_journeys(2, &fin());
    let run = tracer.finish();
    let syn = run.one(&tcp("S").from("10.244.1.2").to("10.244.1.3 8080"));
    syn.assert_fate("delivered", "p2").assert_order(&["p1/eth0/xmit", "n1/veth-p2/xmit"]);
    let answer = run.one(&tcp("S.").from("10.244.1.3 8080").to("10.244.1.2"));
    answer.assert_fate("delivered", "p1").assert_child_of(syn, "reply");
    run.assert_no_drops();
}
