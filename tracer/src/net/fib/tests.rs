//! Look-ups in hand-made tables.

use super::*;
use crate::net::detail::Detail;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    let (addr, length) = text.split_once('/').unwrap();
    (ip(addr), length.parse().unwrap())
}

fn route(dst: &str, table: u32, hops: &[(Option<&str>, u32)]) -> Route {
    let hop = |&(via, dev): &(Option<&str>, u32)| NextHop {
        via: via.map(ip),
        dev: Some(dev),
        flags: 0,
        weight: 1,
    };
    Route {
        kind: if table == TABLE_LOCAL { RouteType::Local } else { RouteType::Unicast },
        table,
        ..Route::to(prefix(dst), hops.iter().map(hop).collect())
    }
}

fn rule(priority: u32, action: RuleAction) -> RoutingRule {
    RoutingRule::plain(priority, false, action)
}

fn device(ifindex: u32, name: &str, address: &str) -> (u32, Device) {
    let addresses = vec![prefix(address)];
    let kind = if name == "lo" { DeviceKind::Loopback } else { DeviceKind::Veth };
    (ifindex, Device { ifindex, name: name.to_owned(), kind, addresses, ..Device::default() })
}

/// A node: `eth0` to the outside, `cni0` with pods.
fn node() -> Netns {
    let rules = [(0, TABLE_LOCAL), (32_766, TABLE_MAIN), (32_767, 253)];
    let detail = Detail {
        rules: rules.map(|(at, table)| rule(at, RuleAction::Lookup(table, None))).to_vec(),
        routes: vec![
            route("0.0.0.0/0", TABLE_MAIN, &[(Some("192.0.2.1"), 2)]),
            route("10.244.1.0/24", TABLE_MAIN, &[(None, 3)]),
            route("192.0.2.0/24", TABLE_MAIN, &[(None, 2)]),
            route("10.244.1.1/32", TABLE_LOCAL, &[(None, 3)]),
            route("192.0.2.10/32", TABLE_LOCAL, &[(None, 2)]),
        ],
        ..Detail::default()
    };
    Netns {
        devices: [
            device(1, "lo", "127.0.0.1/8"),
            device(2, "eth0", "192.0.2.10/24"),
            device(3, "cni0", "10.244.1.1/24"),
        ]
        .into(),
        detail: Some(crate::net::Shared::new(detail)),
        ..Netns::default()
    }
}

fn detail(netns: &mut Netns) -> &mut Detail {
    netns.detail.as_mut().unwrap()
}

fn set(netns: &mut Netns, key: &str, value: &str) {
    detail(netns).sysctls.insert(key.to_owned(), value.to_owned());
}

#[test]
fn the_longest_prefix_wins_then_the_least_metric() {
    let mut netns = node();
    let mut worse = route("10.244.1.0/24", TABLE_MAIN, &[(None, 2)]);
    worse.metric = 100;
    detail(&mut netns).routes.insert(0, worse);
    let found = lookup(&netns, &FibQuery::to(ip("10.244.1.7")));
    assert_eq!(found.route.unwrap().dst, prefix("10.244.1.0/24"));
    assert_eq!(found.towards(ip("10.244.1.7")), Some((3, ip("10.244.1.7"))));
    assert_eq!((found.table, found.rule.unwrap().priority), (Some(TABLE_MAIN), 32_766));
    assert_eq!(found.src, Some(ip("10.244.1.1")));
}

#[test]
fn own_addresses_are_local_and_the_rest_goes_to_the_gateway() {
    let netns = node();
    let own = lookup(&netns, &FibQuery::input(ip("10.244.1.7"), ip("192.0.2.10"), 3));
    assert_eq!((own.kind, own.table), (Some(RouteType::Local), Some(TABLE_LOCAL)));
    let far = lookup(&netns, &FibQuery::to(ip("203.0.113.9")));
    assert_eq!(far.towards(ip("203.0.113.9")), Some((2, ip("192.0.2.1"))));
    assert_eq!(far.src, Some(ip("192.0.2.10")));
}

#[test]
fn without_a_route_the_network_is_unreachable() {
    let mut netns = node();
    detail(&mut netns).routes.remove(0);
    let found = lookup(&netns, &FibQuery::to(ip("203.0.113.9")));
    assert_eq!(found, FibResult::default());
    assert!(!found.is_success());
}

#[test]
fn rules_match_on_source_device_and_mark() {
    let mut netns = node();
    let marked = RoutingRule { mark: Some((0x10, 0xf0)), ..rule(100, RuleAction::Lookup(7, None)) };
    let from = RoutingRule {
        src: Some(prefix("10.244.1.0/24")),
        iif: Some("cni0".to_owned()),
        ..rule(200, RuleAction::End(RouteType::Prohibit))
    };
    detail(&mut netns).routes.push(route("0.0.0.0/0", 7, &[(Some("10.244.1.9"), 3)]));
    detail(&mut netns).rules.extend([marked, from]);
    detail(&mut netns).rules.sort_by_key(|r| r.priority);
    let far = ip("203.0.113.9");
    let found = lookup(&netns, &FibQuery { mark: 0x1f, ..FibQuery::to(far) });
    assert_eq!((found.table, found.rule.unwrap().priority), (Some(7), 100));
    assert_eq!(lookup(&netns, &FibQuery::to(far)).table, Some(TABLE_MAIN));
    let refused = lookup(&netns, &FibQuery::input(ip("10.244.1.7"), far, 3));
    assert_eq!(refused.kind, Some(RouteType::Prohibit));
    assert_eq!(refused.rule.unwrap().priority, 200);
    let other_way_in = lookup(&netns, &FibQuery::input(ip("10.244.1.7"), far, 2));
    assert_eq!(other_way_in.kind, Some(RouteType::Unicast));
}

#[test]
fn an_inverted_rule_matches_the_rest_and_iif_lo_what_is_sent_here() {
    let mut netns = node();
    let not_pods = RoutingRule {
        src: Some(prefix("10.244.0.0/16")),
        invert: true,
        ..rule(10, RuleAction::End(RouteType::Blackhole))
    };
    let local = RoutingRule {
        iif: Some("lo".to_owned()),
        ..rule(5, RuleAction::End(RouteType::Unreachable))
    };
    detail(&mut netns).rules.splice(0..0, [local, not_pods]);
    let far = ip("203.0.113.9");
    let kind = |query: FibQuery| lookup(&netns, &query).kind;
    assert_eq!(kind(FibQuery::to(far)), Some(RouteType::Unreachable));
    assert_eq!(kind(FibQuery::input(ip("10.244.1.7"), far, 3)), Some(RouteType::Unicast));
    assert_eq!(kind(FibQuery::input(ip("192.0.2.7"), far, 2)), Some(RouteType::Blackhole));
}

#[test]
fn throw_and_suppressed_prefixes_go_on_with_the_next_rule() {
    let mut netns = node();
    let throw = Route { kind: RouteType::Throw, ..route("10.244.0.0/16", 7, &[]) };
    detail(&mut netns).routes.extend([throw, route("0.0.0.0/0", 7, &[(None, 3)])]);
    detail(&mut netns).rules.insert(1, rule(50, RuleAction::Lookup(7, None)));
    assert_eq!(lookup(&netns, &FibQuery::to(ip("10.244.1.7"))).table, Some(TABLE_MAIN));
    assert_eq!(lookup(&netns, &FibQuery::to(ip("203.0.113.9"))).table, Some(7));
    detail(&mut netns).rules[1].action = RuleAction::Lookup(7, Some(0));
    assert_eq!(lookup(&netns, &FibQuery::to(ip("203.0.113.9"))).table, Some(TABLE_MAIN));
}

#[test]
fn dead_next_hops_are_passed_over_and_linkdown_ones_if_told() {
    let mut netns = node();
    let mut two = route("203.0.113.0/24", TABLE_MAIN, &[(None, 2), (None, 3)]);
    two.hops[0].flags = RTNH_F_LINKDOWN;
    detail(&mut netns).routes.push(two);
    let dev = |netns: &Netns| lookup(netns, &FibQuery::to(ip("203.0.113.9"))).hop.unwrap().dev;
    assert_eq!(dev(&netns), Some(2));
    set(&mut netns, "ipv4/conf/eth0/ignore_routes_with_linkdown", "1");
    assert_eq!(dev(&netns), Some(3));
    detail(&mut netns).routes.last_mut().unwrap().hops[1].flags = RTNH_F_DEAD;
    // Nothing of the prefix is left: the default route.
    let found = lookup(&netns, &FibQuery::to(ip("203.0.113.9")));
    assert_eq!(found.route.unwrap().dst.1, 0);
}

#[test]
fn a_rule_on_ports_leaves_doubt() {
    let mut netns = node();
    let ports = RoutingRule {
        other: Some("dport 53".to_owned()),
        ..rule(10, RuleAction::End(RouteType::Blackhole))
    };
    detail(&mut netns).rules.insert(1, ports.clone());
    let found = lookup(&netns, &FibQuery::to(ip("203.0.113.9")));
    assert_eq!((found.kind, found.doubts), (Some(RouteType::Unicast), vec![&ports]));
}

#[test]
fn ipv6_is_looked_up_by_its_own_rules() {
    let mut netns = node();
    let mut v6 = rule(32_766, RuleAction::Lookup(TABLE_MAIN, None));
    v6.is_v6 = true;
    detail(&mut netns).rules.push(v6);
    detail(&mut netns).routes.push(route("fd00:1::/64", TABLE_MAIN, &[(None, 3)]));
    let cni0 = netns.devices.get_mut(&3).unwrap();
    cni0.addresses.extend([prefix("fe80::1/64"), prefix("fd00:1::1/64")]);
    let found = lookup(&netns, &FibQuery::to(ip("fd00:1::7")));
    assert_eq!(found.towards(ip("fd00:1::7")), Some((3, ip("fd00:1::7"))));
    assert_eq!(found.src, Some(ip("fd00:1::1")));
    assert_eq!(lookup(&netns, &FibQuery::to(ip("fd00:2::7"))).kind, None);
}

#[test]
fn strict_reverse_path_wants_the_same_device_and_loose_any() {
    let mut netns = node();
    let verdict = |netns: &Netns, src: &str| rp_filter(netns, ip(src), 3);
    assert_eq!(verdict(&netns, "203.0.113.9"), ReversePath::Pass);
    set(&mut netns, "ipv4/conf/cni0/rp_filter", "1");
    assert_eq!(verdict(&netns, "10.244.1.7"), ReversePath::Pass);
    assert_eq!(verdict(&netns, "203.0.113.9"), ReversePath::Fails);
    set(&mut netns, "ipv4/conf/all/rp_filter", "2");
    assert_eq!(rp_filter_mode(&netns, 3), 2);
    assert_eq!(verdict(&netns, "203.0.113.9"), ReversePath::Pass);
    detail(&mut netns).routes.remove(0);
    assert_eq!(verdict(&netns, "203.0.113.9"), ReversePath::Fails);
}

#[test]
fn an_own_source_is_a_martian_without_accept_local() {
    let mut netns = node();
    assert_eq!(rp_filter(&netns, ip("192.0.2.10"), 3), ReversePath::Own);
    set(&mut netns, "ipv4/conf/cni0/accept_local", "1");
    assert_eq!(rp_filter(&netns, ip("192.0.2.10"), 3), ReversePath::Pass);
}

#[test]
fn forwarding_asks_the_device_for_ipv4_and_all_for_ipv6() {
    let mut netns = node();
    netns.forwards_v4 = true;
    assert!(forwarding(&netns, 3, false) && !forwarding(&netns, 3, true));
    set(&mut netns, "ipv4/conf/cni0/forwarding", "0");
    assert!(!forwarding(&netns, 3, false));
    set(&mut netns, "ipv6/conf/cni0/force_forwarding", "1");
    assert!(forwarding(&netns, 3, true));
}

#[test]
fn forwarding_databases_are_asked_by_bridge_and_by_tunnel() {
    let entry = |dev, bridge, last, remote: Option<&str>| FdbEntry {
        dev,
        bridge,
        mac: [0, 0, 0, 0, 0, last],
        vlan: None,
        remote: remote.map(ip),
        state: 2,
        is_learned: true,
        is_sticky: false,
    };
    let mut netns = node();
    detail(&mut netns).fdb = vec![
        entry(4, Some(3), 1, None),
        entry(5, None, 2, Some("192.0.2.20")),
        entry(5, None, 0, Some("192.0.2.30")),
    ];
    let mac = |last| [0, 0, 0, 0, 0, last];
    assert_eq!(fdb(&netns, 3, mac(1), None).unwrap().dev, 4);
    assert_eq!(fdb(&netns, 3, mac(2), None), None);
    assert_eq!(tunnel_ends(&netns, 5, mac(2))[0].remote, Some(ip("192.0.2.20")));
    assert_eq!(tunnel_ends(&netns, 5, mac(9))[0].remote, Some(ip("192.0.2.30")));
    assert!(tunnel_ends(&netns, 6, mac(2)).is_empty());
}
