//! The rules on hand-made nodes: that they speak, with a fix, and that they are quiet.

use std::net::IpAddr;

use super::*;
use crate::diagnose::walk::tests::build::{inum, node};
use crate::diagnose::walk::tests::{cluster, ruled};
use crate::diagnose::walk::{Ask, Scope, walks};
use crate::diagnose::{
    Confidence, Diagnosis, Method, Outcome, Probed, Purpose, Severity, Target, Way, conclude,
};
use crate::net::NetworkState;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn probed(state: &NetworkState, from: &str, to: &str, size: Option<u32>) -> Probed {
    Probed {
        method: Method::Icmp,
        purpose: if size.is_some() { Purpose::FullSize } else { Purpose::Reach },
        netns: inum(state, from),
        to: ip(to),
        dport: 0,
        sport: 7,
        size,
        question: None,
        rtt: None,
        outcome: Outcome::Timeout,
    }
}

/// What is concluded from probes that failed, and from nothing but the configuration.
fn concluded(state: &NetworkState, from: &str, probes: Vec<Probed>) -> Diagnosis {
    let first = &probes[0];
    let target = Target {
        netns: inum(state, from),
        addr: Some(first.to),
        to: first.to.to_string(),
        ..Target::default()
    };
    let scope = Scope::everything();
    let mut ways = Vec::new();
    for probe in &probes {
        let mut ask = Ask::ping(probe.netns, probe.to);
        ask.len = probe.size.unwrap_or(ask.len);
        ways.extend(Way::all(state, &scope, &ask, probe.purpose));
    }
    let mut case = Case::new(Some(target), probes, &[], state);
    case.ways = ways;
    conclude(&case)
}

pub(super) fn echo(state: &NetworkState, from: &str, to: &str) -> Diagnosis {
    concluded(state, from, vec![probed(state, from, to, None)])
}

/// The ids of severity error.
pub(super) fn errors(diagnosis: &Diagnosis) -> Vec<&'static str> {
    let all = diagnosis.findings.iter().filter(|f| f.severity == Severity::Error);
    all.map(|f| f.id).collect()
}

#[test]
fn one_cause_is_one_error_with_its_fix() {
    let cases = [
        ("x2: set eth0 down", "10.1.1.3", "veth-pod-down", "x2/ns ip link set dev eth0 up"),
        ("a: set va2 nomaster", "10.1.1.3", "veth-detached-from-bridge", "set dev va2 master br0"),
        (
            "a: set va1 isolated\na: set va2 isolated",
            "10.1.1.3",
            "bridge-port-isolated",
            "va2 isolated off",
        ),
        ("x2: set eth0 xdp", "10.1.1.3", "xdp-drop-on-veth", "ip link set dev eth0 xdpgeneric off"),
        ("a: tc va2 egress bpf", "10.1.1.3", "tc-egress-drop", "tc filter show dev va2 egress"),
        (
            "a: tc va2 ingress matchall",
            "10.1.1.3",
            "tc-ingress-drop",
            "tc filter del dev va2 ingress",
        ),
        ("a: set br0 noaddr", "10.1.2.2", "cni0-no-ip", "ip addr add 10.1.1.1/24 dev br0"),
        (
            "a: set br0 noaddr\na: addr 10.1.9.1/24 dev br0",
            "10.1.2.2",
            "cni0-wrong-ip",
            "ip addr del 10.1.9.1/24 dev br0",
        ),
        (
            "a: route del 10.1.2.0/24\na: route blackhole 10.1.2.0/24",
            "10.1.2.2",
            "route-blackhole",
            "ip route replace 10.1.2.0/24 via 10.1.2.0 dev vx0 onlink",
        ),
        (
            "a: route default via 192.0.2.1 dev eth0 table 100\na: rule 100 from 10.1.1.0/24 lookup 100",
            "10.1.2.2",
            "policy-rule-hijack",
            "ip rule add priority 99 to 10.1.2.2 table main",
        ),
        (
            "a: rule 100 from 10.1.1.0/24",
            "10.1.2.2",
            "policy-rule-hijack",
            "ip rule add priority 99 to 10.1.2.2 table main",
        ),
        (
            "b: set vx0 mac 02:aa:00:00:00:07",
            "10.1.2.2",
            "vxlan-mac-changed",
            "ip link set dev vx0 address 02:aa:00:00:00:02",
        ),
        (
            "b: set vx0 id 2",
            "10.1.2.2",
            "vxlan-vni-mismatch",
            "type vxlan id 9 dev eth0 local 192.0.2.12",
        ),
        ("b: set vx0 port 4789", "10.1.2.2", "vxlan-port-mismatch", "dstport 8472"),
        (
            "a: set vx0 local 192.0.9.1",
            "10.1.2.2",
            "vxlan-local-ip-gone",
            "id 9 dev eth0 local 192.0.2.11",
        ),
        (
            "x1: set eth0 noaddr\nx1: route del default\nx2: neigh 10.1.1.2 mac 02:00:00:00:00:02 dev eth0 stale\nx1: set eth0 mac 02:00:00:00:00:02",
            "10.1.2.2",
            "pod-ip-missing-client",
            "ip addr add 10.1.1.2/24 dev eth0",
        ),
    ];
    for (more, to, id, fix) in cases {
        let state = cluster(more);
        let diagnosis = echo(&state, "x1", to);
        assert_eq!(errors(&diagnosis), [id], "{more}: {diagnosis:#?}");
        let fixes = diagnosis.findings[0].fix.join("\n");
        assert!(fixes.contains(fix.trim_start_matches("x2/ns ")), "{more}: {fixes}");
    }
}

#[test]
fn a_pod_without_link_is_plugged_in_like_its_neighbours() {
    let state = cluster("a: link va3 veth x3/eth0 master br0 mtu 1450\na: del va3");
    let mut state = state;
    let x3 = inum(&state, "x3");
    state.netns.get_mut(&x3).unwrap().path = "/run/netns/x3".into();
    let diagnosis = echo(&state, "x1", "10.1.1.4");
    assert_eq!(errors(&diagnosis), ["veth-missing"], "{diagnosis:#?}");
    let fixes = diagnosis.findings[0].fix.join("\n");
    for part in [
        "mtu 1450 type veth peer name eth0 mtu 1450 netns x3",
        "master br0\n",
        "ip addr add 10.1.1.4/24 dev eth0",
        "ip route replace default via 10.1.1.1 dev eth0",
    ] {
        assert!(fixes.contains(part), "{part}: {fixes}");
    }
}

/// Two bridges of one node, a veth between them, pods on both.
const JOINED: &str = "
    h: link left bridge
    h: link right bridge
    h: link j0 veth h/j1 master left
    h: set j1 master right
    h: link v1 veth p1/net0 master left
    h: link v2 veth p2/net0 master right
    h: link v3 veth p3/net0 master right
    h: addr 10.9.0.1/24 dev left
    h: sysctl ipv4/ip_forward 1
    p1: addr 10.9.0.2/24 dev net0
    p2: addr 10.9.0.3/24 dev net0
    p3: addr 10.9.0.4/24 dev net0
";

#[test]
fn two_bridges_are_joined_again_where_they_came_apart() {
    let cases = [
        ("h: set j1 nomaster", "veth-detached-from-bridge", "ip link set dev j1 master right"),
        ("h: set j0 nomaster", "veth-detached-from-bridge", "ip link set dev j0 master left"),
        ("h: del j0", "veth-missing", "ip link add name j0 type veth peer name j1"),
        ("h: set v2 nomaster", "veth-detached-from-bridge", "ip link set dev v2 master "),
    ];
    for (more, id, fix) in cases {
        let state = node(&format!("{JOINED}\n{more}"));
        let diagnosis = echo(&state, "p1", "10.9.0.3");
        assert_eq!(errors(&diagnosis), [id], "{more}: {diagnosis:#?}");
        let fixes = diagnosis.findings[0].fix.join("\n");
        assert!(fixes.contains(fix) && !fixes.contains("hairpin"), "{more}: {fixes}");
    }
    let healthy = echo(&node(JOINED), "p1", "10.9.0.3");
    assert_eq!(errors(&healthy), ["no-packet-sent"], "{healthy:#?}");
}

/// An entry that was learned while the link was whole does not hide what happened to it.
#[test]
fn a_known_neighbour_does_not_hide_a_port_that_is_gone() {
    let known = "x1: neigh 10.1.1.3 mac 02:00:00:00:69:02 dev eth0 stale";
    let mac = |state: &NetworkState| {
        let x2 = &state.netns[&inum(state, "x2")];
        x2.devices.values().find(|d| d.name == "eth0").and_then(|d| d.mac).unwrap()
    };
    let mac = crate::diagnose::show::mac(mac(&cluster("")));
    let known = known.replace("02:00:00:00:69:02", &mac);
    for (gone, fix) in [
        ("a: set va2 nomaster", "ip link set dev va2 master br0"),
        ("a: set va1 nomaster", "ip link set dev va1 master br0"),
    ] {
        let diagnosis = echo(&cluster(&format!("{known}\n{gone}")), "x1", "10.1.1.3");
        assert_eq!(errors(&diagnosis), ["veth-detached-from-bridge"], "{gone}: {diagnosis:#?}");
        assert!(diagnosis.findings[0].fix.join("\n").contains(fix), "{gone}: {diagnosis:#?}");
    }
    let whole = echo(&cluster(&known), "x1", "10.1.1.3");
    assert_eq!(errors(&whole), ["no-packet-sent"], "{whole:#?}");
}

/// What is asked by everybody, or by a group, has to come to all ports.
#[test]
fn a_port_that_is_left_out_of_a_flood_is_told() {
    let v6 = "x1: addr fd01::2/64 dev eth0\nx2: addr fd01::3/64 dev eth0";
    let cases = [
        ("a: set va2 nobcast", "10.1.1.3", "bcast_flood on"),
        ("a: set va2 nomcast", "fd01::3", "mcast_flood on"),
    ];
    for (more, to, fix) in cases {
        let mut state = cluster(&format!("{v6}\n{more}"));
        state.netns.values_mut().for_each(|n| n.has_ipv6 = true);
        let diagnosis = echo(&state, "x1", to);
        assert_eq!(errors(&diagnosis), ["bridge-port-no-flood"], "{more}: {diagnosis:#?}");
        assert!(diagnosis.findings[0].fix[0].contains(fix), "{more}: {diagnosis:#?}");
    }
    // Questions of IPv4 are for everybody, not for a group.
    let other = echo(&cluster("a: set va2 nomcast"), "x1", "10.1.1.3");
    assert_eq!(errors(&other), ["no-packet-sent"], "{other:#?}");
}

#[test]
fn a_host_without_devices_has_lost_no_veth() {
    let mut state = cluster("x9: link v0 veth x1/v9\nx9: del v0");
    let lost = |state: &_| errors(&echo(state, "x1", "10.1.1.77")).contains(&"veth-missing");
    assert!(lost(&state));
    // Named like nobody there it is somebody else's.
    assert!(
        !errors(&echo(&cluster("h: link v0 veth x1/v9\nh: del v0"), "x1", "10.1.1.77"))
            .contains(&"veth-missing")
    );
    state.own = inum(&state, "x9");
    assert!(!lost(&state));
    // A pair without a bridge has no room for another.
    let pair = cluster(
        "x7: link w0 veth x8/w1\nx7: addr 10.7.0.1/24 dev w0\nx7: route 10.7.0.0/24 dev w0\nx9: link v0 veth x1/v9\nx9: del v0",
    );
    assert!(!errors(&echo(&pair, "x7", "10.7.0.77")).contains(&"veth-missing"));
}

#[test]
fn a_macvlan_and_its_host() {
    let state = cluster("x1: link mv0 macvlan a/eth0\nx1: addr 192.0.2.55/24 dev mv0");
    let diagnosis = echo(&state, "a", "192.0.2.55");
    assert_eq!(errors(&diagnosis), ["macvlan-host-isolation"], "{diagnosis:#?}");
    assert!(diagnosis.findings[0].fix.join("\n").contains("192.0.2.55 dev mvsh src 192.0.2.11"));
}

fn long(state: &NetworkState, from: &str, to: &str, size: u32) -> Diagnosis {
    concluded(state, from, vec![probed(state, from, to, Some(size))])
}

#[test]
fn long_packets_get_lost() {
    let narrow = cluster("sw: set p-b mtu 1400");
    let diagnosis = long(&narrow, "x1", "10.1.2.2", 1450);
    assert_eq!(errors(&diagnosis), ["underlay-mtu-blackhole"], "{diagnosis:#?}");
    let cut = cluster("a: set eth0 mtu 1400\nb: set eth0 mtu 1400");
    let diagnosis = long(&cut, "x1", "10.1.2.2", 1450);
    assert_eq!(errors(&diagnosis), ["vxlan-fragments-dropped"], "{diagnosis:#?}");
    assert!(diagnosis.findings[0].fix.iter().any(|f| f.contains("vx0 mtu 1350")));
    let near = long(&cluster("a: set va2 mtu 1400"), "x1", "10.1.1.3", 1450);
    assert_eq!(errors(&near), ["mtu-mismatch"], "{near:#?}");
    // Nothing that is known is too small.
    let beyond = long(&cluster(""), "x1", "10.1.2.2", 1450);
    assert_eq!(errors(&beyond), ["underlay-mtu-blackhole"], "{beyond:#?}");
    assert_eq!(beyond.findings[0].confidence, Confidence::Likely);
}

#[test]
fn the_error_about_the_length_is_dropped() {
    let more = "x1: set eth0 mtu 1500\na: set va1 mtu 1500\na: set br0 mtu 1500";
    let rules = "*filter
        :OUTPUT ACCEPT [0:0]
        -A OUTPUT -p icmp -m icmp --icmp-type 3/4 -j DROP
        COMMIT";
    let diagnosis = long(&ruled(more, "a", rules), "x1", "10.1.2.2", 1500);
    assert_eq!(errors(&diagnosis), ["pmtud-blackhole"], "{diagnosis:#?}");
    // The sender hears of it, and the rule stays.
    let spared = "-I OUTPUT 1 -d 10.1.1.2/32 -p icmp -m icmp --icmp-type 3/4 -j ACCEPT";
    assert!(diagnosis.findings[0].fix[0].ends_with(spared), "{diagnosis:#?}");
}

/// What the walk meets seldom is the first thing said, with what heals it.
#[test]
fn what_is_seldom_met_is_told_too() {
    let cases = [
        (
            "x1: set eth0 mac 02:00:00:00:00:77\nx2: set eth0 mac 02:00:00:00:00:77",
            "10.1.1.3",
            "duplicate-mac",
            "ip link set dev eth0 address 02:00:00:00:00:78",
        ),
        (
            "a: link va3 veth x3/eth0 master br0\nx3: addr 10.1.1.3/24 dev eth0",
            "10.1.1.3",
            "duplicate-address",
            "# take 10.1.1.3 away",
        ),
        (
            "x2: sysctl ipv4/conf/all/arp_filter 1\nx2: route 10.1.1.2 dev lo",
            "10.1.1.3",
            "arp-filter",
            "arp_filter=0",
        ),
        ("", "fd00::1", "ipv6-disabled", "net.ipv6.conf.all.disable_ipv6=0"),
        (
            "x1: set eth0 noaddr\nx1: addr 10.1.1.2/8 dev eth0\n\
             x1: route 10.0.0.0/8 dev eth0",
            "10.1.2.2",
            "route-wrong-dev",
            "ip addr add 10.1.1.2/24 dev eth0",
        ),
    ];
    for (more, to, id, fix) in cases {
        let diagnosis = echo(&cluster(more), "x1", to);
        assert_eq!(errors(&diagnosis).first(), Some(&id), "{more}: {diagnosis:#?}");
        let fixes = diagnosis.findings[0].fix.join("\n");
        assert!(fixes.contains(fix), "{more}: {fixes}");
    }
    let routed = echo(&cluster("a: route del default"), "x5", "10.1.2.2");
    assert_eq!(errors(&routed).first(), Some(&"proxy-arp-no-route"), "{routed:#?}");
}

/// The next hop is out of view, and does not answer.
#[test]
fn a_silent_next_hop_beyond_the_view_is_told_with_its_route() {
    let state = cluster("a: neigh 192.0.2.1 mac - dev eth0 failed");
    let scope = Scope::only(["a", "x1", "x2"].map(|n| inum(&state, n)));
    let probe = probed(&state, "a", "198.51.100.7", None);
    let request = walks(&state, &scope, &Ask::ping(probe.netns, probe.to)).remove(0);
    let target = Target { netns: probe.netns, addr: Some(probe.to), ..Target::default() };
    let mut case = Case::new(Some(target), vec![probe], &[], &state);
    case.ways = vec![Way { purpose: Purpose::Reach, request, reply: None }];
    let diagnosis = conclude(&case);
    assert_eq!(errors(&diagnosis), ["route-wrong-nexthop"], "{diagnosis:#?}");
    assert_eq!(diagnosis.findings[0].confidence, Confidence::Likely);
    assert!(diagnosis.findings[0].fix[0].contains("192.0.2.1"), "{diagnosis:#?}");
}

/// A failure that nothing explains is not blamed on what is healthy.
#[test]
fn healthy_nodes_are_not_accused() {
    let quiet = [
        "",
        "a: set va1 isolated",
        "a: link va9 veth x9/eth0 master br0\na: set va9 xdp",
        "x2: neigh 10.1.1.200 mac 02:00:00:00:00:77 dev eth0 stale",
        "b: link other vxlan id 77 local 192.0.2.12 port 8472",
        "a: rule 100 from 10.7.0.0/16",
        "a: link br8 bridge",
        "x1: link mv0 macvlan a/eth0",
        "b: link mv0 macvlan b/eth0\nb: addr 192.0.2.12/32 dev mv0",
    ];
    for more in quiet {
        let state = cluster(more);
        for to in ["10.1.1.3", "10.1.2.2"] {
            let mut probe = probed(&state, "x1", to, None);
            probe.outcome = Outcome::Answered;
            let diagnosis = concluded(&state, "x1", vec![probe]);
            assert!(diagnosis.findings.is_empty(), "{more}: {diagnosis:#?}");
            let failed = echo(&state, "x1", to);
            let said = errors(&failed);
            assert!(said.iter().all(|id| *id == "no-packet-sent"), "{more}: {failed:#?}");
        }
    }
}
