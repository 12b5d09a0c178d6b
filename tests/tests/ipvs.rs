//! Services by IPVS, as kube-proxy sets them up in that mode.

use pkttrace_tests::{Diagnosis, Feature, Journey, Lab, Run, Tracer, tcp, udp};

const SERVICE: &str = "10.96.200.1";

/// Node n1 balances `SERVICE` itself: the address on a dummy device, so that packets for it come
/// to `INPUT`, and connection tracking told of the translation (`--proxy-mode=ipvs` does both).
fn balance(lab: &Lab, proto: &str, port: u16, server: &str) {
    let service = format!("{proto} {SERVICE}:{port}");
    for command in [
        "ip link add kube-ipvs0 type dummy",
        &format!("ip address add {SERVICE}/32 dev kube-ipvs0"),
        &format!("ipvsadm -A {service} -s rr"),
        &format!("ipvsadm -a {service} -r {server} -m"),
        "sysctl -qw net.ipv4.vs.conntrack=1",
    ] {
        lab.exec("n1", command);
    }
}

/// One HTTP request of p1 to the Service, neighbours known.
fn get(server: &str) -> Run {
    let lab = Lab::cluster();
    balance(&lab, "-t", 80, server);
    lab.get("p1", SERVICE);
    let tracer = Tracer::start(&lab, &["--dst", SERVICE, "--dport", "80"]);
    lab.get("p1", SERVICE);
    tracer.await_journeys(1, &tcp("S").at("p1"));
    tracer.await_journeys(1, &tcp("S."));
    tracer.finish()
}

/// `INPUT` is where IPVS took it, and says so; it goes on through `OUTPUT` once.
fn assert_taken(journey: &Journey) {
    let sent =
        journey.hops_at("n1/flannel.1/OUTPUT").len() + journey.hops_at("n1/cni0/OUTPUT").len();
    assert_eq!(sent, 1, "{journey}");
    let hops = journey.hops_at("n1/INPUT");
    assert_eq!(hops.len(), 1, "{journey}");
    let hop = &hops[0];
    assert_eq!(hop["verdict"], "stolen", "{journey}");
    let note = hop["note"].as_str().unwrap_or_default();
    assert!(note.split(" · ").any(|step| step == "IPVS"), "{hop:#}\n{journey}");
}

#[test]
fn a_service_on_the_other_node_is_translated_at_input_and_back_at_forward() {
    if Feature::Ipvs.is_missing() {
        return;
    }
    let run = get("10.244.2.2:8080");
    let syn = run.one(&tcp("S").to("10.96.200.1 80"));
    let (before, after) = ("10.244.1.2:* > 10.96.200.1:80", "10.244.1.2:* > 10.244.2.2:8080");
    syn.assert_nat("dnat", "n1/INPUT", before, after).assert_fate("delivered", "p3");
    assert_taken(syn);
    syn.assert_order(&[
        "p1/eth0/xmit",
        "n1/veth-p1/rx",
        "n1/cni0/PREROUTING",
        "n1/route=local",
        "n1/INPUT=dnat",
        "n1/OUTPUT=accept",
        "n1/flannel.1/POSTROUTING=accept",
        "n1/encap",
        "n2/decap",
        "n2/flannel.1>cni0/FORWARD=accept",
        "n2/veth-p3/xmit",
        "p3/eth0/INPUT=accept",
    ]);
    let answer = run.one(&tcp("S."));
    answer.assert_child_of(syn, "reply").assert_fate("delivered", "p1");
    let (before, after) = ("10.244.2.2:8080 > 10.244.1.2:*", "10.96.200.1:80 > 10.244.1.2:*");
    answer.assert_nat("un-dnat", "n1/flannel.1>cni0/FORWARD", before, after);
    answer.assert_order(&[
        "p3/eth0/xmit",
        "n2/encap",
        "n1/decap",
        "n1/flannel.1/PREROUTING",
        "n1/route=cni0",
        "n1/flannel.1>cni0/FORWARD=un-dnat",
        "n1/cni0/POSTROUTING=accept",
        "n1/veth-p1/xmit",
        "p1/eth0/INPUT=accept",
    ]);
    run.assert_no_drops();
}

/// The answer stays on the bridge, whose packets pass the node's hooks by br_netfilter.
#[test]
fn a_service_on_the_same_node_comes_back_translated_over_the_bridge() {
    if Feature::Ipvs.is_missing() {
        return;
    }
    let run = get("10.244.1.3:8080");
    let syn = run.one(&tcp("S").to("10.96.200.1 80"));
    let (before, after) = ("10.244.1.2:* > 10.96.200.1:80", "10.244.1.2:* > 10.244.1.3:8080");
    syn.assert_nat("dnat", "n1/INPUT", before, after).assert_fate("delivered", "p2");
    assert_taken(syn);
    syn.assert_order(&["n1/INPUT=dnat", "n1/OUTPUT=accept", "n1/cni0/POSTROUTING", "p2/eth0/rx"]);
    let answer = run.one(&tcp("S."));
    answer.assert_child_of(syn, "reply").assert_fate("delivered", "p1");
    let (before, after) = ("10.244.1.3:8080 > 10.244.1.2:*", "10.96.200.1:80 > 10.244.1.2:*");
    answer.assert_nat("un-dnat", "n1/cni0>cni0/FORWARD", before, after);
    run.assert_no_drops();
}

#[test]
fn a_question_by_udp_and_its_answer_are_one_flow() {
    if Feature::Ipvs.is_missing() {
        return;
    }
    let lab = Lab::cluster();
    balance(&lab, "-u", 53, "10.244.2.53:53");
    lab.ping("p1", "10.244.2.53");
    let tracer = Tracer::start(&lab, &["--dst", SERVICE, "--proto", "udp"]);
    // A query for the root's address; any answer will do.
    let query = r"\0\1\1\0\0\1\0\0\0\0\0\0\0\0\1\0\1";
    let ask = format!("exec 3<>/dev/udp/{SERVICE}/53; printf '{query}' >&3; head -c12 <&3");
    lab.exec("p1", &format!("timeout 10 bash -c \"{ask}\" >/dev/null"));
    tracer.await_journeys(1, &udp().from("10.244.2.53 53"));
    let run = tracer.finish();
    let question = run.first(&udp().to("10.96.200.1 53"));
    let (before, after) = ("10.244.1.2:* > 10.96.200.1:53", "10.244.1.2:* > 10.244.2.53:53");
    question.assert_nat("dnat", "n1/INPUT", before, after).assert_fate("delivered", "dns");
    assert_taken(question);
    let answer = run.first(&udp().from("10.244.2.53 53"));
    answer.assert_child_of(question, "reply").assert_fate("delivered", "p1");
    answer.assert_order(&["n1/flannel.1>cni0/FORWARD=un-dnat", "n1/cni0/POSTROUTING=accept"]);
    run.assert_no_drops();
}

/// What `diagnose` says of a Service that IPVS balances: quiet on what works, else its cause.
#[test]
fn a_service_by_ipvs_is_diagnosed_down_to_its_servers() {
    if Feature::Ipvs.is_missing() {
        return;
    }
    let lab = Lab::cluster();
    balance(&lab, "-t", 80, "10.244.2.2:8080");
    let from = lab.netns("p1");
    let ask = || Diagnosis::of(&["--from", &from, "--to", "10.96.200.1:80", "--proto", "tcp"]);
    ask().assert_healthy();
    // The way to the only server is broken: that is the cause, not the Service.
    assert!(lab.run("break", &["vxlan-fdb-missing"]).ok);
    ask().assert_first("vxlan-fdb-missing", &lab.netns("n1")).run_fix();
    ask().assert_healthy();
    // No server at all.
    lab.exec("n1", &format!("ipvsadm -d -t {SERVICE}:80 -r 10.244.2.2:8080"));
    ask().assert_first("ipvs-no-destination", &lab.netns("n1"));
}
