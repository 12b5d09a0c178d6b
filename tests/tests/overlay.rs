//! Pods on different nodes, through the VXLAN between them.

use pkttrace_tests::{Journey, Lab, Run, Tracer, fin, icmp, packets};

/// Traces one ping from p1 to p3, neighbours known.
fn ping(lab: &Lab) -> Run {
    lab.ping("p1", "10.244.2.2");
    let tracer = Tracer::start(lab, &["--dst", "10.244.2.2", "--proto", "icmp"]);
    lab.ping("p1", "10.244.2.2");
    tracer.finish()
}

/// From one node's pod to the other's; nodes are `n1` and `n2`, ports of the switch `port-n1`, ….
fn assert_crosses(journey: &Journey, [pod, node]: [&str; 2], [to, far]: [&str; 2]) {
    let steps = [
        format!("{pod}/route=eth0"),
        format!("{pod}/eth0/OUTPUT=accept"),
        format!("{pod}/eth0/POSTROUTING=accept"),
        format!("{pod}/eth0/queue"),
        format!("{pod}/eth0/xmit"),
        format!("{node}/veth-{pod}/rx"),
        format!("{node}/cni0/PREROUTING=bridge"),
        format!("{node}/cni0/rx"),
        format!("{node}/route=flannel.1"),
        format!("{node}/cni0>flannel.1/FORWARD=accept"),
        format!("{node}/flannel.1/POSTROUTING=accept"),
        format!("{node}/flannel.1/queue"),
        format!("{node}/flannel.1/xmit"),
        format!("{node}/flannel.1/encap"),
        format!("{node}/route=eth0"),
        format!("{node}/eth0/OUTPUT=accept"),
        format!("{node}/eth0/POSTROUTING=accept"),
        format!("{node}/eth0/queue"),
        format!("{node}/eth0/xmit"),
        format!("fab/port-{node}/rx"),
        "fab/sw0/PREROUTING=bridge".to_owned(),
        "fab/sw0>sw0/FORWARD=bridge".to_owned(),
        "fab/sw0/POSTROUTING=bridge".to_owned(),
        format!("fab/port-{node}>port-{far}/bridge"),
        format!("fab/port-{far}/queue"),
        format!("fab/port-{far}/xmit"),
        format!("{far}/eth0/rx"),
        format!("{far}/eth0/PREROUTING=accept"),
        format!("{far}/route=local"),
        format!("{far}/eth0/INPUT=accept"),
        format!("{far}/flannel.1/decap"),
        format!("{far}/flannel.1/rx"),
        format!("{far}/flannel.1/PREROUTING=accept"),
        format!("{far}/route=cni0"),
        format!("{far}/flannel.1>cni0/FORWARD=accept"),
        format!("{far}/cni0/POSTROUTING=accept"),
        format!("{far}/cni0/queue"),
        format!("{far}/cni0/xmit"),
        format!("{far}/veth-{to}/queue"),
        format!("{far}/veth-{to}/xmit"),
        format!("{to}/eth0/rx"),
        format!("{to}/eth0/PREROUTING=accept"),
        format!("{to}/route=local"),
        format!("{to}/eth0/INPUT=accept"),
    ];
    journey.assert_trail(&steps.each_ref().map(String::as_str)).assert_fate("delivered", to);
}

/// The tunnel that the packet enters and leaves.
fn assert_tunnel(journey: &Journey, src: &str, dst: &str) {
    for stage in ["encap", "decap"] {
        let hops = journey.hops_at(&format!("/flannel.1/{stage}"));
        assert_eq!(hops.len(), 1, "{stage} of:\n{journey}");
        let tunnel = &hops[0]["tunnel"];
        assert_eq!(tunnel["kind"], "vxlan", "{journey}");
        assert_eq!(tunnel["vni"], 1, "{journey}");
        assert_eq!((&tunnel["src"], &tunnel["dst"]), (&src.into(), &dst.into()), "{journey}");
    }
}

#[test]
fn a_ping_between_nodes_is_one_journey_through_the_tunnel() {
    let run = ping(&Lab::cluster());
    let request = run.one(&icmp(8));
    assert_crosses(request, ["p1", "n1"], ["p3", "n2"]);
    assert_tunnel(request, "192.168.50.11", "192.168.50.12");
    request.assert_path(
        "eth0@p1 → veth-p1 → cni0 → PREROUTING → route flannel.1 → FORWARD → POSTROUTING → \
         flannel.1 → eth0 → port-n1@fab → sw0 → port-n2 → eth0@n2 → flannel.1 → PREROUTING → \
         route cni0 → FORWARD → POSTROUTING → cni0 → veth-p3 → eth0@p3",
    );
    let reply = run.one(&icmp(0));
    assert_crosses(reply, ["p3", "n2"], ["p1", "n1"]);
    assert_tunnel(reply, "192.168.50.12", "192.168.50.11");
    reply.assert_child_of(request, "reply");
    assert_eq!(run.journeys.len(), 2, "one root journey each way:\n{}", run.listing());
}

#[test]
fn every_segment_between_nodes_is_one_journey_through_the_tunnel() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--dst", "10.244.2.2", "--proto", "tcp"]);
    lab.get("p1", "10.244.2.2:8080/");
    tracer.await_journeys(1, &fin().at("p1"));
    tracer.await_journeys(1, &fin().at("p3"));
    let run = tracer.finish();
    for journey in run.all(&packets().root().from("10.244.1.2")) {
        journey.assert_order(&["p1/eth0/queue", "n1/encap", "n2/decap", "p3/eth0/rx"]);
        assert_tunnel(journey, "192.168.50.11", "192.168.50.12");
    }
    for journey in run.all(&packets().root().from("10.244.2.2")) {
        journey.assert_order(&["p3/eth0/queue", "n2/encap", "n1/decap", "p1/eth0/rx"]);
        assert_tunnel(journey, "192.168.50.12", "192.168.50.11");
    }
    run.assert_no_drops();
}

#[test]
fn a_packet_into_the_overlay_is_not_followed_twice_when_the_underlay_matches_too() {
    let lab = Lab::cluster();
    lab.ping("p1", "10.244.2.2");
    let tracer = Tracer::start(&lab, &[]);
    lab.ping("p1", "10.244.2.2");
    let run = tracer.finish();
    run.one(&icmp(8)).assert_fate("delivered", "p3");
    run.one(&icmp(0)).assert_fate("delivered", "p1");
    run.none(&pkttrace_tests::udp().to("192.168.50.12 8472"));
}
