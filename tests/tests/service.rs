//! Pods that reach Services by their ClusterIP.

use pkttrace_tests::{Lab, Run, Tracer, tcp};

/// Which iptables the node's rules are written with.
const BACKENDS: [&str; 2] = ["nft", "legacy"];

/// Traces one HTTP request of p1 to a Service, neighbours known.
fn get(iptables: &str, service: &str) -> Run {
    let lab = Lab::cluster_with(iptables);
    lab.get("p1", service);
    // The node itself must know the pods too, for translated frames that stay on its bridge.
    for pod in ["10.244.1.2", "10.244.1.3"] {
        lab.ping("n1", pod);
    }
    let tracer = Tracer::start(&lab, &["--dst", service, "--dport", "80"]);
    lab.get("p1", service);
    tracer.await_journeys(1, &tcp("S").at("p1"));
    tracer.await_journeys(1, &tcp("S."));
    tracer.finish()
}

#[test]
fn a_service_on_the_same_node_is_translated_at_prerouting() {
    for backend in BACKENDS {
        let run = get(backend, "10.96.45.102");
        let syn = run.one(&tcp("S").to("10.96.45.102 80"));
        let before = "10.244.1.2:* > 10.96.45.102:80";
        let after = "10.244.1.2:* > 10.244.1.3:8080";
        syn.assert_nat("dnat", "n1/cni0/PREROUTING", before, after).assert_fate("delivered", "p2");
        syn.assert_order(&[
            "p1/route=eth0",
            "p1/eth0/OUTPUT",
            "p1/eth0/xmit",
            "n1/veth-p1/rx",
            "n1/cni0/PREROUTING=dnat",
            "n1/route=cni0",
            "n1/cni0>cni0/FORWARD=accept",
            "n1/cni0/POSTROUTING=accept",
            "n1/veth-p2/xmit",
            "p2/eth0/rx",
            "p2/eth0/INPUT=accept",
        ]);
        let answer = run.one(&tcp("S."));
        answer.assert_child_of(syn, "reply").assert_fate("delivered", "p1");
        let before = "10.244.1.3:8080 > 10.244.1.2:*";
        let after = "10.96.45.102:80 > 10.244.1.2:*";
        answer.assert_nat("un-dnat", "n1/cni0/POSTROUTING", before, after);
        answer.assert_path(
            "eth0@p2 → veth-p2 → cni0 → PREROUTING → FORWARD → POSTROUTING UN-DNAT → veth-p1 → \
             eth0@p1",
        );
        run.assert_no_drops();
    }
}

#[test]
fn a_service_on_the_other_node_is_translated_before_the_tunnel() {
    for backend in BACKENDS {
        let run = get(backend, "10.96.45.103");
        let syn = run.one(&tcp("S").to("10.96.45.103 80"));
        let before = "10.244.1.2:* > 10.96.45.103:80";
        let after = "10.244.1.2:* > 10.244.2.2:8080";
        syn.assert_nat("dnat", "n1/cni0/PREROUTING", before, after).assert_fate("delivered", "p3");
        syn.assert_path(
            "eth0@p1 → veth-p1 → cni0 → PREROUTING DNAT → route flannel.1 → FORWARD → \
             POSTROUTING → flannel.1 → eth0 → port-n1@fab → sw0 → port-n2 → eth0@n2 → \
             flannel.1 → PREROUTING → route cni0 → FORWARD → POSTROUTING → cni0 → veth-p3 → \
             eth0@p3",
        );
        let answer = run.one(&tcp("S."));
        answer.assert_child_of(syn, "reply").assert_fate("delivered", "p1");
        let before = "10.244.2.2:8080 > 10.244.1.2:*";
        let after = "10.96.45.103:80 > 10.244.1.2:*";
        answer.assert_nat("un-dnat", "n1/cni0/POSTROUTING", before, after);
        answer.assert_order(&[
            "p3/eth0/xmit",
            "n2/encap",
            "n1/decap",
            "n1/flannel.1/PREROUTING",
            "n1/route=cni0",
            "n1/flannel.1>cni0/FORWARD",
            "n1/cni0/POSTROUTING=un-dnat",
            "n1/veth-p1/xmit",
            "p1/eth0/INPUT",
        ]);
        run.assert_no_drops();
    }
}

/// The pod is behind its own Service: out by its port of the bridge and in by the same.
#[test]
fn a_service_backed_by_the_client_itself_is_translated_twice() {
    for backend in BACKENDS {
        let run = get(backend, "10.96.45.101");
        let syn = run.one(&tcp("S").to("10.96.45.101 80"));
        let (asked, chosen) = ("10.244.1.2:* > 10.96.45.101:80", "10.244.1.2:* > 10.244.1.2:8080");
        syn.assert_nat("dnat", "n1/cni0/PREROUTING", asked, chosen);
        let masked = "10.244.1.1:* > 10.244.1.2:8080";
        syn.assert_nat("masquerade", "n1/cni0/POSTROUTING", chosen, masked);
        syn.assert_fate("delivered", "p1").assert_order(&[
            "p1/eth0/xmit",
            "n1/veth-p1/rx",
            "n1/cni0/PREROUTING=dnat",
            "n1/cni0>cni0/FORWARD",
            "n1/cni0/POSTROUTING=masquerade",
            "n1/veth-p1/xmit",
            "p1/eth0/rx",
            "p1/eth0/INPUT",
        ]);
        let answer = run.one(&tcp("S."));
        answer.assert_child_of(syn, "reply").assert_fate("delivered", "p1");
        let (sent, back) = ("10.244.1.2:8080 > 10.244.1.1:*", "10.244.1.2:8080 > 10.244.1.2:*");
        answer.assert_nat("un-snat", "n1/cni0/PREROUTING", sent, back);
        let told = "10.96.45.101:80 > 10.244.1.2:*";
        answer.assert_nat("un-dnat", "n1/cni0/POSTROUTING", back, told);
        run.assert_no_drops();
    }
}

#[test]
fn a_service_asked_by_the_node_is_translated_at_output() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--dst", "10.96.45.103"]);
    lab.get("n1", "10.96.45.103");
    tracer.await_journeys(1, &tcp("S.").at("p3"));
    let run = tracer.finish();
    let syn = run.one(&tcp("S").at("n1"));
    syn.assert_fate("delivered", "p3").assert_order(&[
        "n1//OUTPUT=dnat",
        "n1/route=flannel.1",
        "n1/flannel.1/POSTROUTING",
        "n1/encap",
        "n2/decap",
        "p3/eth0/INPUT",
    ]);
    run.one(&tcp("S.").at("p3")).assert_child_of(syn, "reply").assert_fate("delivered", "n1");
    run.assert_no_drops();
}
