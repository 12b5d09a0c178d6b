//! Classifiers on kernels without tcx links: clsact filters that are asked for, and go again.
//! Where there are tcx links, none is ever added.

use pkttrace_tests::{Lab, Tracer, icmp, version};

const OPTIONS: [&str; 5] = ["--dst", "10.244.1.3", "--probes", "tp,tc", "--no-replies"];

/// tcx links are there since 6.6.
fn has_tcx() -> bool {
    version() >= (6, 6)
}

/// What is at the hooks of a node's port, and whether filters of ours are among it.
fn hooks(lab: &Lab) -> (String, bool) {
    // Without the qdisc there is nothing to ask for filters.
    let show = "tc qdisc show dev veth-p1 | grep clsact || exit 0; \
                tc filter show dev veth-p1 ingress; tc filter show dev veth-p1 egress";
    let shown = lab.exec("n1", show);
    let is_ours = shown.contains("tc_in_first") && shown.contains("tc_out_last");
    (shown, is_ours)
}

#[test]
fn they_see_the_packet_and_go_with_the_trace() {
    let lab = Lab::cluster();
    lab.ping("p1", "10.244.1.3");
    let tracer = Tracer::at(&lab, "p1", &OPTIONS);
    let (shown, is_ours) = hooks(&lab);
    assert_eq!(is_ours, !has_tcx(), "{shown}");
    lab.ping("p1", "10.244.1.3");
    tracer.await_journeys(1, &icmp(8));
    // Where it is made it is first met behind the egress hook, without probes of netfilter.
    tracer.finish().one(&icmp(8)).assert_fate("delivered", "p2").assert_order(&[
        "n1/veth-p1/tc-ingress",
        "n1/veth-p2/tc-egress",
        "p2/eth0/tc-ingress",
    ]);
    assert_eq!(hooks(&lab), (String::new(), false));
}

#[test]
fn those_of_others_stay() {
    let lab = Lab::cluster();
    lab.exec("n1", "tc qdisc add dev veth-p1 clsact");
    lab.exec("n1", "tc filter add dev veth-p1 ingress pref 1 u32 match u32 0 0 classid 1:1");
    let before = lab.exec("n1", "tc filter show dev veth-p1 ingress | grep -v stats");
    let tracer = Tracer::start(&lab, &OPTIONS);
    assert_eq!(hooks(&lab).1, !has_tcx());
    lab.ping("p1", "10.244.1.3");
    let _ = tracer.finish();
    let after = lab.exec("n1", "tc filter show dev veth-p1 ingress | grep -v stats");
    assert_eq!(after, before);
    assert!(hooks(&lab).0.contains("clsact"), "the qdisc was there before");
}

#[test]
fn what_a_killed_trace_leaves_goes_with_the_next_start() {
    let lab = Lab::cluster();
    let running = Tracer::start(&lab, &OPTIONS);
    let killed = Tracer::start(&lab, &OPTIONS);
    let before = hooks(&lab).0.matches("tc_in_first").count();
    killed.kill();
    let (shown, is_left) = hooks(&lab);
    assert_eq!(is_left, !has_tcx(), "{shown}");
    // Any trace removes them, but not what the other one needs.
    let _ = Tracer::start(&lab, &["--dst", "10.244.1.3", "--probes", "tp"]).finish();
    let (shown, is_left) = hooks(&lab);
    assert_eq!(is_left, !has_tcx(), "{shown}");
    assert_eq!(shown.matches("tc_in_first").count(), before / 2, "{shown}");
    let _ = running.finish();
    assert_eq!(hooks(&lab), (String::new(), false));
}
