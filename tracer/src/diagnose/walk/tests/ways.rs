//! Ways on which nothing is wrong.

use super::*;

/// Nothing at all is said about a healthy way, there and back.
#[test]
fn a_healthy_cluster_has_no_obstacle() {
    let state = cluster("");
    let pings = [
        ("x1", "10.1.1.3"),
        ("x1", "10.1.2.2"),
        ("y1", "10.1.1.2"),
        ("x1", "10.1.1.1"),
        ("a", "10.1.1.2"),
        ("a", "10.1.2.2"),
        ("a", "192.0.2.12"),
        ("b", "10.1.1.200"),
        ("x5", "10.1.2.2"),
        ("x1", "10.1.1.2"),
        ("x1", "127.0.0.1"),
        ("gw", "192.0.2.11"),
    ];
    for (from, to) in pings {
        let there = ping(&state, from, to);
        assert_eq!(all(&there), Vec::<String>::new(), "{from} to {to}: {there:#?}");
        assert!(matches!(there.end, End::Delivered { .. }), "{from} to {to}: {:?}", there.end);
        let back = answer(&state, &there);
        assert_eq!(all(&back), Vec::<String>::new(), "{to} back to {from}: {back:#?}");
        assert!(
            matches!(back.end, End::Delivered { netns, .. } if netns == inum(&state, from)),
            "{to} back to {from}: {:?}",
            back.end
        );
    }
}

#[test]
fn a_way_through_the_overlay_is_walked_hop_by_hop() {
    let state = cluster("");
    let walk = tcp(&state, "x1", "10.1.2.2", 8080);
    let named = |s: &Step| (state.netns_name(s.netns), kind_of(&s.what));
    let steps: Vec<_> = walk.steps.iter().map(named).collect();
    let has = |netns: &str, what: &str| {
        steps.iter().position(|s| *s == (netns.to_owned(), what.to_owned())).unwrap()
    };
    let order = [
        has("x1", "Socket"),
        has("x1", "Neigh"),
        has("a", "Bridge"),
        has("a", "Forward"),
        has("a", "Encap"),
        has("sw", "Bridge"),
        has("b", "Decap"),
        has("b", "Forward"),
        has("y1", "Deliver"),
    ];
    assert!(order.is_sorted(), "{steps:?}");
    assert!(matches!(walk.end, End::Delivered { socket: Some(_), .. }));
}

fn kind_of(what: &What) -> String {
    let text = format!("{what:?}");
    text.split([' ', '{']).next().unwrap_or_default().to_owned()
}

/// Seen from one node alone, the way ends at its device, and the answer is walked from there.
#[test]
fn a_restricted_scope_ends_where_the_view_ends() {
    let state = cluster("");
    let scope = Scope::only(["a", "x1", "x2", "x5"].map(|n| inum(&state, n)));
    let ask = Ask::tcp(inum(&state, "x1"), ip("10.1.2.2"), 8080);
    let there = walk(&state, &scope, &ask);
    assert_eq!(all(&there), Vec::<String>::new());
    let a = inum(&state, "a");
    assert!(matches!(there.end, End::LeftView { netns, .. } if netns == a), "{:?}", there.end);
    let back = walk_reply(&state, &scope, &there).unwrap();
    assert_eq!(all(&back), Vec::<String>::new(), "{back:#?}");
    let x1 = inum(&state, "x1");
    assert!(matches!(back.end, End::Delivered { netns, .. } if netns == x1), "{:?}", back.end);
}

#[test]
fn every_next_hop_of_a_multipath_route_is_walked() {
    let state = cluster(
        "a: route del 10.1.2.0/24
         a: route 10.1.2.0/24 via 10.1.2.0 dev vx0 via 192.0.2.99 dev eth0",
    );
    let ask = Ask::ping(inum(&state, "x1"), ip("10.1.2.2"));
    let walks = walks(&state, &Scope::everything(), &ask);
    assert_eq!(walks.len(), 2);
    assert_eq!(stops(&walks[0]), Vec::<String>::new());
    assert_eq!(stops(&walks[1]), ["NobodyAnswers"]);
    assert_eq!(walks[1].choices[0].text, "via 192.0.2.99");
}

/// Things that look wrong and do not matter here.
#[test]
fn what_does_not_concern_the_way_is_not_said() {
    for more in [
        "a: set va2 hairpin",
        "a: set va1 isolated",
        "a: link dead veth x1/dead master br0\nx1: set dead down",
        "x2: sysctl ipv4/conf/all/arp_ignore 1",
        "b: sysctl ipv4/conf/all/rp_filter 1",
        "a: neigh 10.1.1.77 mac - dev br0 failed",
        "a: sysctl bridge/bridge-nf-call-iptables 0",
        "x2: listen tcp 127.0.0.1 9090",
        "a: link idle bridge\na: set idle down\na: addr 10.88.0.1/16 dev idle",
    ] {
        let state = cluster(more);
        for (from, to, port) in [("x1", "10.1.1.3", 8080), ("x1", "10.1.2.2", 8080)] {
            let there = tcp(&state, from, to, port);
            assert_eq!(all(&there), Vec::<String>::new(), "{more}: {from} to {to}");
            assert_eq!(all(&answer(&state, &there)), Vec::<String>::new(), "{more}: {to} back");
        }
    }
}
