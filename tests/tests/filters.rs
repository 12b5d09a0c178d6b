//! Which packets the options select, and how a run ends.

use pkttrace_tests::{Lab, Run, Tracer, icmp, packets, tcp, udp};

/// p1 pings p2 and p3, fetches from p2, and asks the DNS.
fn traffic(lab: &Lab) {
    lab.ping("p1", "10.244.1.3");
    lab.ping("p1", "10.244.2.2");
    lab.get("p1", "10.244.1.3:8080/");
    lab.exec("p1", "getent ahostsv4 web.default.svc.cluster.local");
}

fn trace(lab: &Lab, options: &[&str]) -> Run {
    let tracer = Tracer::start(lab, options);
    traffic(lab);
    tracer.finish()
}

/// Asserts what a run with these options shows of the traffic: pings to p2, to p3, TCP, DNS.
fn assert_selects(options: &[&str], expected: [bool; 4]) {
    let lab = Lab::cluster();
    let run = trace(&lab, options);
    let picks = [
        icmp(8).to("10.244.1.3"),
        icmp(8).to("10.244.2.2"),
        tcp("S").to("10.244.1.3 8080"),
        udp().to("10.96.0.10 53"),
    ];
    for (pick, wanted) in picks.iter().zip(expected) {
        let found = !run.all(pick).is_empty();
        assert_eq!(found, wanted, "{options:?} shows {pick}\n{}", run.listing());
    }
}

#[test]
fn addresses_select_by_either_end() {
    assert_selects(&["--dst", "10.244.1.3"], [true, false, true, false]);
    assert_selects(&["--dst", "10.96.0.0/12"], [false, false, false, true]);
    assert_selects(&["--src", "10.244.1.2", "--dst", "10.244.2.2"], [false, true, false, false]);
    assert_selects(&["--host", "10.244.1.2"], [true, true, true, true]);
    assert_selects(&["--src", "10.244.1.99"], [false; 4]);
}

#[test]
fn protocols_select() {
    assert_selects(&["--proto", "icmp"], [true, true, false, false]);
    assert_selects(&["--proto", "tcp"], [false, false, true, false]);
    assert_selects(&["--proto", "17"], [false, false, false, true]);
    assert_selects(&["--proto", "icmp6"], [false; 4]);
}

#[test]
fn ports_select() {
    assert_selects(&["--dport", "8080"], [false, false, true, false]);
    assert_selects(&["--port", "53"], [false, false, false, true]);
    assert_selects(&["--sport", "1"], [false; 4]);
}

#[test]
fn replies_are_followed_unless_unwanted() {
    let lab = Lab::cluster();
    let with = trace(&lab, &["--dst", "10.244.2.2", "--proto", "icmp"]);
    with.one(&icmp(8)).assert_fate("delivered", "p3");
    with.one(&icmp(0)).assert_fate("delivered", "p1");
    let without = trace(&lab, &["--dst", "10.244.2.2", "--proto", "icmp", "--no-replies"]);
    without.one(&icmp(8)).assert_fate("delivered", "p3");
    without.none(&icmp(0));
}

#[test]
fn a_namespace_selects_what_is_first_met_in_it() {
    let lab = Lab::cluster();
    let netns = lab.netns("p1");
    let tracer = Tracer::start(&lab, &["--netns", &netns, "--proto", "icmp", "--no-replies"]);
    lab.ping("p1", "10.244.1.3");
    lab.ping("p3", "10.244.2.3");
    let run = tracer.finish();
    run.one(&icmp(8)).assert_fate("delivered", "p2");
    run.none(&packets().from("10.244.2.2"));
    let path = format!("/run/netns/{netns}");
    let by_path = trace(&lab, &["--netns", &path, "--proto", "icmp", "--dst", "10.244.2.2"]);
    by_path.one(&icmp(8)).assert_fate("delivered", "p3");
}

#[test]
fn a_device_selects_what_is_first_met_on_it() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--dev", "cali1", "--proto", "icmp", "--dst", "10.244.2.2"]);
    lab.ping("pc", "10.244.2.2");
    lab.ping("p1", "10.244.2.2");
    let run = tracer.finish();
    let request = run.one(&icmp(8));
    assert_eq!((request.fate(), request.end()), ("delivered", "p3"), "{request}");
    request.assert_order(&["n1/cali1/rx", "n1/route=flannel.1"]);
    assert_eq!(request.json["flow"]["src"], "10.244.1.200", "{request}");
    // What it did in its pod was not asked for.
    assert_eq!(request.json["gaps"][0]["why"], "joined-midway", "{request}");
}

#[test]
fn a_count_ends_the_run() {
    let lab = Lab::cluster();
    let tracer = Tracer::at(&lab, "p1", &["--proto", "icmp", "--no-replies", "-c", "2"]);
    lab.exec("p1", "ping -n -c4 -i0.2 -W5 10.244.1.3");
    let run = tracer.join();
    assert_eq!((run.printed, run.code), (2, Some(0)), "{}", run.listing());
    assert_eq!(run.summary["type"], "summary", "{}", run.listing());
    assert_eq!(run.summary["lost_events"], 0, "{}", run.summary);
}

#[test]
fn a_duration_ends_the_run() {
    let lab = Lab::cluster();
    let run = Tracer::at(&lab, "p1", &["--proto", "tcp", "--duration", "100ms"]).join();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.summary["journeys"], 0, "{}", run.summary);
}

#[test]
fn only_drops_are_shown_when_asked_for() {
    let lab = Lab::cluster();
    lab.exec("n1", "iptables-nft -I FORWARD -d 10.244.1.5 -j DROP");
    let tracer = Tracer::at(&lab, "p1", &["--proto", "icmp", "--dropped", "--exit-code"]);
    lab.ping("p1", "10.244.1.3");
    lab.ping_fails("p1", "10.244.1.5");
    let run = tracer.finish();
    assert_eq!((run.printed, run.code), (1, Some(1)), "{}", run.listing());
    run.one(&icmp(8).to("10.244.1.5")).assert_drop("NETFILTER_DROP", "nft_do_chain", "n1");
}

#[test]
fn without_a_drop_the_exit_code_is_zero() {
    let lab = Lab::cluster();
    let tracer = Tracer::at(&lab, "p1", &["--proto", "icmp", "--dropped", "--exit-code"]);
    lab.ping("p1", "10.244.1.3");
    let run = tracer.finish();
    assert_eq!((run.printed, run.code), (0, Some(0)), "{}", run.listing());
}
