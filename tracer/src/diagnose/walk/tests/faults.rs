//! One fault at a time: what must be found, and that it is found where it is.

use super::*;

/// Faults of the way from x1 to x2 on one bridge.
#[test]
fn same_bridge() {
    let cases = [
        ("a: set va2 down", "DeviceDown"),
        ("x2: set eth0 down", "DeviceDown"),
        ("a: set va2 nomaster", "NotAPort"),
        ("a: del va2", "NobodyAnswers"),
        ("a: set br0 down", "BridgeDown"),
        ("a: set va1 isolated\na: set va2 isolated", "PortsIsolated"),
        ("a: set va2 state 0", "PortState"),
        ("a: set va1 state 4", "PortState"),
        ("a: set va2 nobcast", "FloodOff"),
        ("x2: sysctl ipv4/conf/all/arp_ignore 8", "ArpIgnore"),
        ("x2: set eth0 noarp", "NoArp"),
        ("x2: set eth0 noaddr", "NobodyAnswers"),
        ("x1: neigh 10.1.1.3 mac 02:00:00:00:00:99 dev eth0 permanent", "WrongNeighbour"),
        ("a: tc va2 ingress matchall", "TcProgram"),
        ("a: tc va2 egress matchall", "TcProgram"),
        ("a: fdb 02:00:00:00:00:03 dev va1\nx2: set eth0 mac 02:00:00:00:00:03", "FdbElsewhere"),
        ("x2: sysctl ipv4/icmp_echo_ignore_all 1", "EchoIgnored"),
        ("x1: set eth0 noaddr\nx1: route del default", "NoSource"),
        ("x2: addr 10.1.1.2/32 dev lo", "OwnSource"),
    ];
    for (more, expected) in cases {
        let state = cluster(more);
        let walk = ping(&state, "x1", "10.1.1.3");
        assert!(stops(&walk).iter().any(|s| s == expected), "{more}: {:?}", all(&walk));
        let back = ping(&state, "y1", "192.0.2.12");
        assert_eq!(all(&back), Vec::<String>::new(), "{more}: elsewhere");
    }
}

#[test]
fn programs_may_drop() {
    let state = cluster("x2: set eth0 xdp");
    let walk = ping(&state, "x1", "10.1.1.3");
    assert_eq!(stops(&walk), Vec::<String>::new());
    assert!(all(&walk).contains(&"XdpProgram".to_owned()));
}

/// Faults of the way from x1 to y1 through the tunnel.
#[test]
fn through_the_tunnel() {
    let cases = [
        ("a: sysctl ipv4/ip_forward 0", "ForwardingOff"),
        ("b: sysctl ipv4/conf/vx0/forwarding 0", "ForwardingOff"),
        ("a: route del 10.1.2.0/24\na: route del default", "NoRoute"),
        ("a: route del 10.1.2.0/24\na: route blackhole 10.1.2.0/24", "RouteRefuses"),
        ("a: route del 10.1.2.0/24\na: route prohibit 10.1.2.0/24", "RouteRefuses"),
        ("a: rule 100 from 10.1.1.0/24", "RuleRefuses"),
        ("a: route del 10.1.2.0/24\na: route 10.1.2.0/24 via 192.0.2.99 dev eth0", "NobodyAnswers"),
        ("a: route del 10.1.2.0/24\na: route 10.1.2.0/24 dev br0", "NobodyAnswers"),
        ("a: set br0 noaddr\na: addr 10.1.9.1/24 dev br0", "NobodyAnswers"),
        ("x1: route del default", "NoRoute"),
        ("a: fdb del 02:aa:00:00:00:02", "NoTunnelEntry"),
        ("a: neigh del 10.1.2.0", "NoNeighbour"),
        ("b: set vx0 mac 02:aa:00:00:00:07", "WrongNeighbour"),
        ("b: set vx0 id 2", "VniUnknown"),
        ("b: set vx0 port 4789", "TunnelPort"),
        ("b: set vx0 down", "TunnelDown"),
        ("b: del vx0", "NoTunnel"),
        ("a: set vx0 local 192.0.9.1", "TunnelSourceGone"),
        (
            "a: fdb del 02:aa:00:00:00:02\na: fdb 02:aa:00:00:00:02 dev vx0 dst 192.0.2.1",
            "WrongTunnelEntry",
        ),
        ("a: set eth0 down", "DeviceDown"),
        ("b: addr 10.1.1.2/32 dev lo", "OwnSource"),
        (
            "b: sysctl ipv4/conf/all/rp_filter 1\nb: route del 10.1.1.0/24\nb: route 10.1.1.0/24 via 192.0.2.11 dev eth0",
            "ReversePath",
        ),
    ];
    for (more, expected) in cases {
        let state = cluster(more);
        let walk = ping(&state, "x1", "10.1.2.2");
        assert!(stops(&walk).iter().any(|s| s == expected), "{more}: {walk:#?}");
        let near = ping(&state, "x1", "10.1.1.3");
        assert_eq!(all(&near), Vec::<String>::new(), "{more}: on the bridge");
    }
}

#[test]
fn a_route_that_is_gone_leaves_the_default_one() {
    let state = cluster("a: route del 10.1.2.0/24");
    let walk = ping(&state, "x1", "10.1.2.2");
    assert!(all(&walk).contains(&"OnlyDefaultRoute".to_owned()), "{:?}", all(&walk));
    assert!(walk.stopped_at().is_some(), "the gateway has no route");
}

#[test]
fn policy_rules_divert() {
    let state = cluster(
        "a: route default via 192.0.2.1 dev eth0 table 100
         a: rule 100 from 10.1.1.0/24 lookup 100",
    );
    let walk = ping(&state, "x1", "10.1.2.2");
    assert!(all(&walk).contains(&"Diverted".to_owned()), "{:?}", all(&walk));
}

#[test]
fn the_way_back_has_its_own_faults() {
    let state = cluster("b: route del 10.1.1.0/24");
    let there = ping(&state, "x1", "10.1.2.2");
    assert_eq!(stops(&there), Vec::<String>::new());
    let back = answer(&state, &there);
    assert!(all(&back).contains(&"OnlyDefaultRoute".to_owned()), "{:?}", all(&back));
    assert!(back.stopped_at().is_some());
}

#[test]
fn a_router_that_does_not_answer_for_what_lies_behind() {
    let state = cluster("a: sysctl ipv4/conf/cal0/proxy_arp 0");
    let walk = ping(&state, "x5", "10.1.2.2");
    assert!(stops(&walk).contains(&"ProxyArpOff".to_owned()), "{walk:#?}");
    let state = cluster("a: route del default");
    let walk = ping(&state, "x5", "10.1.2.2");
    assert!(stops(&walk).contains(&"ProxyArpNoRoute".to_owned()), "{walk:#?}");
}

#[test]
fn loopback_that_is_down() {
    let state = cluster("x1: set lo down");
    assert!(stops(&ping(&state, "x1", "127.0.0.1")).contains(&"DeviceDown".to_owned()));
    assert_eq!(all(&ping(&state, "x1", "10.1.1.3")), Vec::<String>::new());
}

#[test]
fn sockets() {
    let cases = [
        ("x2: unlisten", "NoListener"),
        ("x2: unlisten\nx2: listen tcp 127.0.0.1 8080", "ListensElsewhere"),
        ("x2: unlisten\nx2: listen tcp 0.0.0.0 8080 queued 2 limit 1", "QueueFull"),
    ];
    for (more, expected) in cases {
        let walk = tcp(&cluster(more), "x1", "10.1.1.3", 8080);
        assert_eq!(stops(&walk), [expected], "{more}");
    }
    let walk = tcp(
        &cluster("x2: unlisten\nx2: listen tcp :: 8080 queued 1 limit 9"),
        "x1",
        "10.1.1.3",
        8080,
    );
    assert_eq!(all(&walk), ["NotServed"]);
}

#[test]
fn a_socket_for_datagrams_that_is_full() {
    let more = "y1: unlisten\ny1: listen udp 0.0.0.0 53 queued 212000 limit 212992";
    let state = cluster(more);
    let ask = Ask::udp(inum(&state, "x1"), ip("10.1.2.2"), 53);
    assert_eq!(stops(&walk(&state, &Scope::everything(), &ask)), ["QueueFull"]);
}

#[test]
fn few_ports_are_left() {
    let state = cluster("x1: sysctl ipv4/ip_local_port_range 40000_40001");
    assert_eq!(all(&tcp(&state, "x1", "10.1.2.2", 8080)), ["FewPorts"]);
    assert_eq!(all(&ping(&state, "x1", "10.1.2.2")), Vec::<String>::new());
}

#[test]
fn macvlan_and_the_device_below_it() {
    let state = cluster("x1: link mv0 macvlan a/eth0\nx1: addr 192.0.2.55/24 dev mv0");
    assert!(stops(&ping(&state, "a", "192.0.2.55")).contains(&"ParentIsolated".to_owned()));
    let peer = ping(&state, "gw", "192.0.2.55");
    assert_eq!(stops(&peer), Vec::<String>::new(), "{peer:#?}");
    assert_eq!(stops(&answer(&state, &peer)), Vec::<String>::new());
}

#[test]
fn lengths() {
    let long = |state: &NetworkState, len, df| {
        let ask = Ask { len, df, ..Ask::udp(inum(state, "x1"), ip("10.1.2.2"), 53) };
        walk(state, &Scope::everything(), &ask)
    };
    let state = cluster("");
    assert_eq!(all(&long(&state, 1450, true)), Vec::<String>::new());
    // The outer packet may be cut where the inner one may not.
    let state = cluster("a: set eth0 mtu 1400\nb: set eth0 mtu 1400");
    assert_eq!(all(&long(&state, 1450, true)), ["Fragmented"]);
    // Silent: a port of the switch takes less than what is sent to it.
    let state = cluster("sw: set p-a mtu 1400");
    assert_eq!(stops(&long(&state, 1450, true)), ["TooLong"]);
    // Told: path MTU discovery repairs it.
    let state = cluster("x1: set eth0 mtu 1500\na: set va1 mtu 1500\na: set br0 mtu 1500");
    let walk = long(&state, 1500, true);
    assert_eq!(stops(&walk), Vec::<String>::new());
    assert_eq!(all(&walk), ["TooLong"]);
}

#[test]
fn a_pair_of_routers_that_point_at_each_other() {
    let state = cluster(
        "a: route del 10.1.2.0/24\na: route 10.9.0.0/16 via 192.0.2.12 dev eth0
         b: route 10.9.0.0/16 via 192.0.2.11 dev eth0",
    );
    let walk = ping(&state, "x1", "10.9.0.1");
    assert_eq!(walk.end, End::Loop);
    assert_eq!(stops(&walk), ["TtlExceeded"]);
}

#[test]
fn duplicates() {
    let state = cluster("a: link va3 veth x3/eth0 master br0\nx3: addr 10.1.1.3/24 dev eth0");
    assert!(all(&ping(&state, "x1", "10.1.1.3")).contains(&"DuplicateAddress".to_owned()));
    let state = cluster("x1: set eth0 mac 02:00:00:00:00:77\nx2: set eth0 mac 02:00:00:00:00:77");
    assert!(all(&ping(&state, "x1", "10.1.1.3")).contains(&"DuplicateMac".to_owned()));
}

/// Independent causes are all found, in their order.
#[test]
fn several_faults_on_one_way() {
    let state = cluster(
        "a: sysctl ipv4/ip_forward 0
         b: set vx0 down
         y1: unlisten",
    );
    let walk = tcp(&state, "x1", "10.1.2.2", 8080);
    let found = stops(&walk);
    let at =
        |kind: &str| found.iter().position(|k| k == kind).unwrap_or_else(|| panic!("{found:?}"));
    assert!(at("ForwardingOff") < at("TunnelDown"));
    assert!(at("TunnelDown") < at("NoListener"));
}

#[test]
fn what_the_sender_lacks() {
    let state = cluster("");
    let bound = Ask { src: Some(ip("10.1.1.77")), ..Ask::ping(inum(&state, "x1"), ip("10.1.1.3")) };
    let walk = super::walk(&state, &Scope::everything(), &bound);
    assert!(stops(&walk).contains(&"SourceNotLocal".to_owned()), "{walk:#?}");
    let v6 = ping(&state, "x1", "fd00::1");
    assert!(stops(&v6).contains(&"NoIpv6".to_owned()), "{v6:#?}");
}

#[test]
fn nobody_has_the_written_address() {
    let gone = "a: del va2\na: neigh 10.1.1.3 mac 02:00:00:00:00:99 dev br0 permanent";
    assert_eq!(stops(&ping(&cluster(gone), "a", "10.1.1.3")), ["NobodyHasMac"]);
    let empty = "a: link br9 bridge\na: addr 10.77.0.1/16 dev br9
        a: neigh 10.77.0.2 mac 02:00:00:00:00:99 dev br9 permanent";
    assert_eq!(stops(&ping(&cluster(empty), "a", "10.77.0.2")), ["NoPorts", "NobodyHasMac"]);
}

/// A bridge of the other side's address space, seen by a node alone: the entry is all there is.
#[test]
fn an_unanswered_question_to_the_outside() {
    let state = cluster("a: neigh 192.0.2.1 mac - dev eth0 failed");
    let scope = Scope::only(["a", "x1", "x2"].map(|n| inum(&state, n)));
    let ask = Ask::ping(inum(&state, "a"), ip("198.51.100.7"));
    assert_eq!(all(&walk(&state, &scope, &ask)), ["ResolutionFailed"]);
    let quiet = cluster("a: neigh 192.0.2.1 mac 02:00:00:00:00:05 dev eth0 stale");
    assert_eq!(all(&walk(&quiet, &scope, &ask)), Vec::<String>::new());
}

#[test]
fn a_device_without_carrier() {
    let more = "a: link nic physical nocarrier\na: addr 203.0.113.1/24 dev nic";
    assert_eq!(stops(&ping(&cluster(more), "a", "203.0.113.9")), ["NoCarrier"]);
}

#[test]
fn arp_filter_asks_for_the_way_back() {
    let more = "x2: sysctl ipv4/conf/all/arp_filter 1";
    assert_eq!(all(&ping(&cluster(more), "x1", "10.1.1.3")), Vec::<String>::new());
    let state = cluster(&format!("{more}\nx2: route 10.1.1.2 dev lo"));
    assert!(stops(&ping(&state, "x1", "10.1.1.3")).contains(&"ArpFilter".to_owned()));
}
