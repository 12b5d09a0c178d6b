//! The rules on routers in a row: hand-made, without overlay, bridge or firewall. What is broken is
//! named, and mended by the example of the nodes around.

use super::tests::{echo, errors};
use crate::diagnose::walk::tests::build::node;
use crate::diagnose::walk::tests::cluster;
use crate::net::NetworkState;

/// Two routers between a client and a server, IPv4 and IPv6; `r3` is beside `r2` and gets there too.
const CHAIN: &str = "
    c: link eth0 veth r1/lan
    c: addr 10.71.0.2/24 dev eth0
    c: addr fd71::2/64 dev eth0
    c: route default via 10.71.0.1 dev eth0
    c: route default via fd71::1 dev eth0
    sw: link br bridge
    sw: link p1 veth r1/wan master br
    sw: link p2 veth r2/wan master br
    sw: link p3 veth r3/wan master br
    r1: addr 10.71.0.1/24 dev lan
    r1: addr fd71::1/64 dev lan
    r1: addr 10.79.0.1/24 dev wan
    r1: addr fd79::1/64 dev wan
    r1: route 10.72.0.0/24 via 10.79.0.2 dev wan
    r1: route fd72::/64 via fd79::2 dev wan
    r1: sysctl ipv4/ip_forward 1
    r1: sysctl ipv6/conf/all/forwarding 1
    r2: addr 10.79.0.2/24 dev wan
    r2: addr fd79::2/64 dev wan
    r2: link lan veth s/eth0
    r2: addr 10.72.0.1/24 dev lan
    r2: addr fd72::1/64 dev lan
    r2: route 10.71.0.0/24 via 10.79.0.1 dev wan
    r2: route fd71::/64 via fd79::1 dev wan
    r2: sysctl ipv4/ip_forward 1
    r2: sysctl ipv6/conf/all/forwarding 1
    r3: addr 10.79.0.3/24 dev wan
    r3: route 10.72.0.0/24 via 10.79.0.2 dev wan
    r3: route 10.71.0.0/24 via 10.79.0.1 dev wan
    r3: sysctl ipv4/ip_forward 1
    s: addr 10.72.0.2/24 dev eth0
    s: addr fd72::2/64 dev eth0
    s: route default via 10.72.0.1 dev eth0
    s: route default via fd72::1 dev eth0
    s: listen tcp 0.0.0.0 8080
";

fn chain(more: &str) -> NetworkState {
    let mut state = node(&format!("{CHAIN}\n{more}"));
    for netns in state.netns.values_mut() {
        netns.has_ipv6 = true;
        netns.path = format!("/run/netns/{}", netns.name).into();
    }
    state
}

/// The first error and its fix, by one fault each.
#[test]
fn a_fault_of_routing_is_mended_by_the_example_of_others() {
    let cases = [
        (
            "r1: route del 10.72.0.0/24",
            "10.72.0.2",
            "route-pod-cidr-missing-no-default",
            "ip netns exec r1 ip route replace 10.72.0.0/24 via 10.79.0.2 dev wan",
        ),
        (
            "r2: route del 10.71.0.0/24",
            "10.72.0.2",
            "route-return-missing",
            "ip netns exec r2 ip route replace 10.71.0.0/24 via 10.79.0.1 dev wan",
        ),
        (
            "r1: route del fd72::/64",
            "fd72::2",
            "route-pod-cidr-missing-no-default",
            "ip netns exec r1 ip -6 route replace fd72::/64 via fd79::2 dev wan",
        ),
        (
            "r1: route del 10.72.0.0/24\nr1: route 10.72.0.0/24 via 10.79.0.77 dev wan",
            "10.72.0.2",
            "route-wrong-nexthop",
            "ip netns exec r1 ip route replace 10.72.0.0/24 via 10.79.0.2 dev wan",
        ),
        (
            "r1: route del 10.72.0.0/24\n\
             r1: route 10.72.0.0/24 via 10.79.0.77 dev wan via 10.79.0.2 dev wan",
            "10.72.0.2",
            "route-wrong-nexthop",
            "ip netns exec r1 ip route replace 10.72.0.0/24 via 10.79.0.2 dev wan",
        ),
        (
            "c: route del default\nc: set eth0 noaddr\nc: addr 10.71.0.2/32 dev eth0",
            "10.72.0.2",
            "pod-no-default-route",
            "ip netns exec c ip addr add 10.71.0.2/24 dev eth0",
        ),
        (
            "r2: route 10.72.0.2/32 via 10.79.0.1 dev wan",
            "10.72.0.2",
            "routing-loop",
            "ip netns exec r2 ip route del 10.72.0.2 via 10.79.0.1 dev wan",
        ),
        (
            "c: addr 10.66.0.5/32 dev lo\nc: route del default\n\
             c: route default via 10.71.0.1 dev eth0 src 10.66.0.5",
            "10.72.0.2",
            "route-wrong-source",
            "ip route replace default via 10.71.0.1 dev eth0 src 10.71.0.2",
        ),
        (
            "r2: route del 10.71.0.0/24\nr2: sysctl ipv4/conf/all/rp_filter 2",
            "10.72.0.2",
            "route-return-missing",
            "ip netns exec r2 ip route replace 10.71.0.0/24 via 10.79.0.1 dev wan",
        ),
        (
            "s: set eth0 noaddr\ns: route del default",
            "10.72.0.2",
            "pod-ip-missing",
            "ip netns exec s ip addr add 10.72.0.2/24 dev eth0",
        ),
        (
            "s: set eth0 noaddr\ns: sysctl ipv6/conf/eth0/disable_ipv6 1",
            "fd72::2",
            "ipv6-disabled",
            "ip netns exec s sysctl -w net.ipv6.conf.eth0.disable_ipv6=0",
        ),
        (
            "s: set eth0 noaddr mtu 1000",
            "fd72::2",
            "ipv6-mtu-too-small",
            "ip netns exec s ip link set dev eth0 mtu 1500",
        ),
    ];
    for (more, to, id, fix) in cases {
        let diagnosis = echo(&chain(more), "c", to);
        assert_eq!(errors(&diagnosis).first(), Some(&id), "{more}: {diagnosis:#?}");
        let fixes = diagnosis.findings[0].fix.join("\n");
        assert!(fixes.contains(fix), "{more}: {fixes}");
    }
}

#[test]
fn the_other_metric_remains_where_the_better_route_is_dead() {
    let mut state = chain("r1: route 10.72.0.0/24 via 10.79.0.77 dev wan");
    let r1 = state.netns.values_mut().find(|n| n.name == "r1").unwrap();
    let routes = &mut r1.detail.as_mut().unwrap().routes;
    let mut good =
        routes.iter_mut().filter(|r| r.hops[0].via == Some("10.79.0.2".parse().unwrap()));
    good.next().unwrap().metric = 50;
    let diagnosis = echo(&state, "c", "10.72.0.2");
    assert_eq!(errors(&diagnosis), ["route-wrong-nexthop"], "{diagnosis:#?}");
    let fix = &diagnosis.findings[0].fix;
    assert_eq!(fix[0], "ip netns exec r1 ip route del 10.72.0.0/24 via 10.79.0.77 dev wan");
}

#[test]
fn rules_that_refuse_or_are_missing() {
    let diagnosis = echo(&chain("r1: rule 77 from 10.71.0.0/24"), "c", "10.72.0.2");
    assert_eq!(errors(&diagnosis), ["policy-rule-hijack"], "{diagnosis:#?}");
    let fix = &diagnosis.findings[0].fix[0];
    assert_eq!(fix, "ip netns exec r1 ip rule add priority 76 to 10.72.0.2 table main");
    let mut state = chain("");
    let r1 = state.netns.values_mut().find(|n| n.name == "r1").unwrap();
    r1.detail.as_mut().unwrap().rules.retain(|r| r.priority != 32_766 || r.is_v6);
    let diagnosis = echo(&state, "c", "10.72.0.2");
    assert_eq!(errors(&diagnosis).first(), Some(&"policy-rule-hijack"), "{diagnosis:#?}");
    let fix = &diagnosis.findings[0].fix[0];
    assert_eq!(fix, "ip netns exec r1 ip rule add priority 32766 table main");
}

/// Calico's way: addresses alone on their links, a gateway that is on none of them.
#[test]
fn a_pod_alone_on_its_link() {
    let calico = "
        n: link cal1 veth a/eth0
        n: link cal2 veth b/eth0
        n: link up physical
        n: addr 192.0.2.5/24 dev up
        n: route default via 192.0.2.1 dev up
        n: route 10.75.0.10 dev cal1
        n: route 10.75.0.11 dev cal2
        n: sysctl ipv4/ip_forward 1
        n: sysctl ipv4/conf/cal1/proxy_arp 1
        n: sysctl ipv4/conf/cal2/proxy_arp 1
        a: addr 10.75.0.10/32 dev eth0
        a: route 169.254.1.1 dev eth0
        a: route default via 169.254.1.1 dev eth0
        b: addr 10.75.0.11/32 dev eth0
        b: route 169.254.1.1 dev eth0
        b: route default via 169.254.1.1 dev eth0
    ";
    let cases = [
        (
            "n: route del 10.75.0.11",
            "route-pod-cidr-missing",
            "ip route replace 10.75.0.11 dev cal2",
        ),
        (
            "a: route del default\na: route del 169.254.1.1",
            "pod-no-default-route",
            "ip route replace 169.254.1.1 dev eth0 scope link",
        ),
        (
            "b: route del default",
            "route-return-missing",
            "ip route replace default via 169.254.1.1 dev eth0",
        ),
        (
            "n: route del 10.75.0.10\nn: sysctl ipv4/conf/cal1/rp_filter 1",
            "route-return-missing",
            "ip route replace 10.75.0.10 dev cal1",
        ),
    ];
    for (more, id, fix) in cases {
        let state = node(&format!("{calico}\n{more}"));
        let diagnosis = echo(&state, "a", "10.75.0.11");
        assert_eq!(errors(&diagnosis).first(), Some(&id), "{more}: {diagnosis:#?}");
        let fixes = diagnosis.findings[0].fix.join("\n");
        assert!(fixes.contains(fix), "{more}: {fixes}");
    }
}

/// Nothing that is healthy is accused, whatever the outcome.
#[test]
fn what_is_as_it_should_be_is_not_mended() {
    let quiet = [
        "",
        "r1: rule 100 from 10.7.0.0/16",
        "r1: route 10.99.0.0/24 via 10.79.0.77 dev wan",
        "r1: route blackhole 10.98.0.0/16",
        "s: sysctl ipv6/conf/eth0/disable_ipv6 0",
        "r2: sysctl ipv4/conf/all/rp_filter 1",
        "x: link eth0 veth sw/p9\nsw: set p9 master br",
    ];
    for more in quiet {
        for to in ["10.72.0.2", "fd72::2"] {
            let diagnosis = echo(&chain(more), "c", to);
            let said = errors(&diagnosis);
            assert!(said.iter().all(|id| *id == "no-packet-sent"), "{more}: {diagnosis:#?}");
        }
    }
}

/// Tunnels without entries for their ends, which flood: the question goes where packets go.
#[test]
fn a_tunnel_that_floods_is_asked_through() {
    let flooding = "
        a: neigh del 10.1.2.0
        a: fdb del 02:aa:00:00:00:02
        b: neigh del 10.1.1.0
        b: fdb del 02:aa:00:00:00:01
        b: fdb 00:00:00:00:00:00 dev vx0 dst 192.0.2.11
    ";
    let right = "a: fdb 00:00:00:00:00:00 dev vx0 dst 192.0.2.12";
    let wrong = "a: fdb 00:00:00:00:00:00 dev vx0 dst 192.0.2.99";
    let healthy = echo(&cluster(&format!("{flooding}\n{right}")), "x1", "10.1.2.2");
    assert_eq!(errors(&healthy), ["no-packet-sent"], "{healthy:#?}");
    let cases = [
        (format!("{right}\nb: set vx0 id 2"), "vxlan-vni-mismatch", "type vxlan id 9"),
        (format!("{right}\nb: set vx0 port 4789"), "vxlan-port-mismatch", "dstport 8472"),
        (
            wrong.to_owned(),
            "vxlan-fdb-wrong",
            "bridge fdb append 00:00:00:00:00:00 dev vx0 dst 192.0.2.12 self permanent",
        ),
        (
            format!("{wrong}\na: fdb 02:aa:00:00:00:02 dev vx0 dst 192.0.2.12 learned"),
            "vxlan-fdb-wrong",
            "bridge fdb del 00:00:00:00:00:00 dev vx0 dst 192.0.2.99 self",
        ),
    ];
    for (more, id, fix) in cases {
        let diagnosis = echo(&cluster(&format!("{flooding}\n{more}")), "x1", "10.1.2.2");
        assert_eq!(errors(&diagnosis).first(), Some(&id), "{more}: {diagnosis:#?}");
        let fixes = diagnosis.findings[0].fix.join("\n");
        assert!(fixes.contains(fix), "{more}: {fixes}");
    }
}

/// A host whose policy rule leads to a table of its own, on a link with two gateways.
const RULED: &str = "
    c: link eth0 veth h/lan
    c: addr 10.71.0.2/24 dev eth0
    c: route default via 10.71.0.1 dev eth0
    h: addr 10.71.0.1/24 dev lan
    h: link one veth g1/in
    h: addr 10.81.0.2/24 dev one
    g1: addr 10.81.0.1/24 dev in
    g1: sysctl ipv4/ip_forward 1
    g1: link out veth s/a
    g1: addr 203.0.113.1/26 dev out
    h: link two veth g2/in
    h: addr 10.82.0.2/24 dev two
    g2: addr 10.82.0.1/24 dev in
    g2: sysctl ipv4/ip_forward 1
    g2: link out veth s/b
    g2: addr 203.0.113.65/26 dev out
    s: addr 203.0.113.2/26 dev a
    s: addr 203.0.113.66/26 dev b
    s: route 10.82.0.0/24 via 203.0.113.65 dev b
    s: route 10.71.0.0/24 via 203.0.113.65 dev b
    g1: route 203.0.113.64/26 via 203.0.113.2 dev out
    g2: route 10.71.0.0/24 via 10.82.0.2 dev in
    h: sysctl ipv4/ip_forward 1
    h: route default via 10.81.0.1 dev one
    h: rule 900 from 10.71.0.0/24 lookup 50
    h: route 10.71.0.0/24 dev lan table 50
";

/// The gateway of the table that a rule leads to is gone: the rule is as it was meant.
#[test]
fn a_dead_gateway_is_no_fault_of_the_rule_that_leads_to_it() {
    let dead = format!("{RULED}\nh: route default via 10.82.0.9 dev two table 50");
    let diagnosis = echo(&node(&dead), "c", "203.0.113.66");
    assert_eq!(errors(&diagnosis), ["route-wrong-nexthop"], "{diagnosis:#?}");
    let fix = &diagnosis.findings[0].fix;
    assert!(fix[0].contains("default via 10.82.0.1 dev two table 50"), "{fix:?}");
    // Nobody on that link gets there: then it is the rule.
    let led = format!("{dead}\ng2: sysctl ipv4/ip_forward 0");
    let diagnosis = echo(&node(&led), "c", "203.0.113.66");
    assert!(errors(&diagnosis).contains(&"policy-rule-hijack"), "{diagnosis:#?}");
}

/// What comes back to its sender is no forgery: neither is its address taken, nor does it become a
/// router.
#[test]
fn a_packet_that_comes_home_costs_nobody_its_address() {
    let looped = "
        c: link eth0 veth r/lan
        c: addr 10.71.0.2/24 dev eth0
        c: route default via 10.71.0.1 dev eth0
        r: addr 10.71.0.1/24 dev lan
        r: sysctl ipv4/ip_forward 1
        r: route default via 10.71.0.2 dev lan
    ";
    let diagnosis = echo(&node(looped), "c", "192.0.2.55");
    let fixes = diagnosis.findings.iter().flat_map(|f| &f.fix);
    let harms = |f: &&String| f.contains("addr del") || f.contains("ip_forward=1");
    assert_eq!(fixes.filter(harms).count(), 0, "{diagnosis:#?}");
    assert_eq!(errors(&diagnosis).first(), Some(&"routing-loop"), "{diagnosis:#?}");
}

/// A container on a bridge of its host, and a neighbour of the host that knows nothing of it.
const CONTAINER: &str = "
    h: link br9 bridge
    h: addr 10.95.0.1/24 dev br9
    h: link v1 veth k/eth0 master br9
    h: link out veth e/x0
    h: addr 10.96.0.2/24 dev out
    h: sysctl ipv4/ip_forward 1
    k: addr 10.95.0.2/24 dev eth0
    k: route default via 10.95.0.1 dev eth0
    e: addr 10.96.0.9/24 dev x0
";

#[test]
fn a_neighbour_without_a_way_back_is_what_masquerading_is_for() {
    let docker = "*filter\n:FORWARD ACCEPT [0:0]\n:DOCKER - [0:0]\n\
                  -A FORWARD -o br9 -j DOCKER\n-A FORWARD -i br9 -j ACCEPT\nCOMMIT\n\
                  *nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n-A PREROUTING -j DOCKER\n\
                  -A DOCKER -p tcp --dport 8080 -j DNAT --to-destination 10.95.0.2:80\nCOMMIT\n";
    let host = |more: &str, rules: &str| {
        let mut state = node(&format!("{CONTAINER}\n{more}"));
        let h = state.netns.values_mut().find(|n| n.name == "h").unwrap();
        let detail = h.detail.as_mut().unwrap();
        detail.firewall.tables = crate::firewall::parse_iptables(rules);
        state
    };
    let diagnosis = echo(&host("", docker), "k", "10.96.0.9");
    assert_eq!(errors(&diagnosis), ["masquerade-missing"], "{diagnosis:#?}");
    let fix = &diagnosis.findings[0].fix[0];
    assert!(fix.contains("-A POSTROUTING -s 10.95.0.0/24 -o out -j MASQUERADE"), "{fix}");
    // A host that hides nobody, and the other direction.
    let diagnosis = echo(&host("", ""), "k", "10.96.0.9");
    assert!(!errors(&diagnosis).contains(&"masquerade-missing"), "{diagnosis:#?}");
    let gone = host("e: route default via 10.96.0.2 dev x0\nk: route del default", docker);
    let diagnosis = echo(&gone, "e", "10.95.0.2");
    assert_eq!(errors(&diagnosis), ["route-return-missing"], "{diagnosis:#?}");
}
