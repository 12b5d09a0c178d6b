//! VLANs, by subinterfaces and on bridges that filter them, and queues that lose: what is followed,
//! and what is named where it does not fit.

use pkttrace_tests::{Diagnosis, Feature, Run, Site, Tracer, icmp};

/// Asks from a host.
fn ask(site: &Site, from: &str, to: &str) -> Diagnosis {
    Diagnosis::of(&["--from", &site.netns(from), "--to", to])
}

/// Breaks what works, asserts what is named where, and that the printed fix heals it.
fn assert_found_and_healed(site: &Site, (host, inject): (&str, &str), to: &str, id: &str) {
    ask(site, "a", to).assert_healthy();
    site.exec(host, inject);
    ask(site, "a", to).assert_first(id, &site.netns(host)).run_fix();
    ask(site, "a", to).assert_healthy();
}

/// `a` and `b` on one wire, each with a subinterface of VLAN 10.
fn tagged() -> Site {
    let site = Site::new(&["a", "b"]);
    site.wire(("a", "eth0", "192.0.2.1/24"), ("b", "eth0", "192.0.2.2/24"));
    for (host, n) in [("a", 1), ("b", 2)] {
        site.exec(
            host,
            &format!(
                "ip link add link eth0 name eth0.10 type vlan id 10 && \
                 ip addr add 198.51.100.{n}/24 dev eth0.10 && ip link set eth0.10 up"
            ),
        );
    }
    site
}

/// A bridge in `sw` that filters VLANs, with a port for each of `a`, `b` and `c`, all in VLAN 1.
fn filtered() -> Site {
    let site = Site::new(&["sw", "a", "b", "c"]);
    site.exec("sw", "ip link add br0 type bridge vlan_filtering 1 && ip link set br0 up");
    for (n, host) in ["a", "b", "c"].into_iter().enumerate() {
        let (netns, address) = (site.netns(host), format!("198.51.100.{}/24", n + 1));
        site.exec(
            "sw",
            &format!(
                "ip link add to-{host} type veth peer name eth0 netns {netns} && \
                 ip link set to-{host} master br0 up && \
                 ip -n {netns} addr add {address} dev eth0 && ip -n {netns} link set eth0 up"
            ),
        );
    }
    site
}

/// Traces a ping of `a` to `b`, neighbours known.
fn pinged(site: &Site) -> Run {
    let ping = "ping -n -c1 -W5 198.51.100.2";
    site.exec("a", ping);
    let tracer = Tracer::start(site, &["--dst", "198.51.100.2", "--proto", "icmp"]);
    site.exec("a", ping);
    tracer.await_journeys(1, &icmp(0));
    tracer.finish()
}

#[test]
fn a_packet_is_followed_through_subinterfaces_as_one_journey() {
    if Feature::Vlan.is_missing() {
        return;
    }
    let site = tagged();
    let run = pinged(&site);
    let request = run.one(&icmp(8));
    // The kernel tells of a frame that comes in once, before it looks at the tag.
    request.assert_fate("delivered", "b").assert_order(&[
        "a/eth0.10/xmit",
        "a/eth0/xmit",
        "b/eth0/rx",
        "b/route=eth0.10",
    ]);
    let answer = run.one(&icmp(0));
    answer.assert_child_of(request, "reply").assert_fate("delivered", "a");
    run.assert_no_drops();
}

#[test]
fn subinterfaces_of_different_vlans_are_named_and_healed() {
    if Feature::Vlan.is_missing() {
        return;
    }
    let site = tagged();
    let inject = "ip link del eth0.10 && ip link add link eth0 name eth0.20 type vlan id 20 && \
                  ip addr add 198.51.100.2/24 dev eth0.20 && ip link set eth0.20 up";
    assert_found_and_healed(&site, ("b", inject), "198.51.100.2", "vlan-id-mismatch");
}

#[test]
fn a_bridge_that_filters_is_crossed_within_a_vlan() {
    if Feature::Vlan.is_missing() {
        return;
    }
    let site = filtered();
    let run = pinged(&site);
    let request = run.one(&icmp(8));
    request.assert_fate("delivered", "b").assert_order(&[
        "a/eth0/xmit",
        "sw/to-a/rx",
        "sw/to-b/xmit",
        "b/eth0/rx",
    ]);
    run.assert_no_drops();
}

#[test]
fn ports_in_different_vlans_are_named_and_healed() {
    if Feature::Vlan.is_missing() {
        return;
    }
    let site = filtered();
    let inject = "bridge vlan del dev to-b vid 1 && bridge vlan add dev to-b vid 30 pvid untagged";
    assert_found_and_healed(&site, ("sw", inject), "198.51.100.2", "vlan-filtering-mismatch");
    // And a port that is in none, as the bridge's default makes it.
    let inject = "bridge vlan del dev to-b vid 1-4094";
    assert_found_and_healed(&site, ("sw", inject), "198.51.100.2", "vlan-filtering-mismatch");
}

#[test]
fn a_queue_that_loses_everything_is_named_and_healed() {
    if Feature::Netem.is_missing() {
        return;
    }
    let site = Site::new(&["a", "b"]);
    site.wire(("a", "eth0", "192.0.2.1/24"), ("b", "eth0", "192.0.2.2/24"));
    let inject = "tc qdisc add dev eth0 root netem loss 100%";
    assert_found_and_healed(&site, ("a", inject), "192.0.2.2", "qdisc-loss");
    assert_found_and_healed(&site, ("b", inject), "192.0.2.2", "qdisc-loss");
}
