//! Rules on the way: Services, masquerading, policies, and the answers to what they translate.

use super::*;
use crate::journey::NatKind;

/// A Service with an endpoint on either node, one with the local one alone, one of x1 itself.
const RULES: &str = r#"*nat
    :PREROUTING ACCEPT [0:0]
    :OUTPUT ACCEPT [0:0]
    :POSTROUTING ACCEPT [0:0]
    :SVCS - [0:0]
    :WEB - [0:0]
    :NEAR - [0:0]
    :SELF - [0:0]
    -A PREROUTING -j SVCS
    -A OUTPUT -j SVCS
    -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE
    -A POSTROUTING -s 10.1.0.0/16 ! -d 10.1.0.0/16 -j MASQUERADE
    -A SVCS -d 10.99.0.1/32 -p tcp -m tcp --dport 80 -j WEB
    -A SVCS -d 10.99.0.2/32 -p tcp -m tcp --dport 80 -j NEAR
    -A SVCS -d 10.99.0.3/32 -p tcp -m tcp --dport 80 -j SELF
    -A WEB -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.1.1.3:8080
    -A WEB -p tcp -j DNAT --to-destination 10.1.2.2:8080
    -A NEAR -p tcp -j DNAT --to-destination 10.1.1.3:8080
    -A SELF -s 10.1.1.2/32 -j MARK --set-xmark 0x4000/0x4000
    -A SELF -p tcp -j DNAT --to-destination 10.1.1.2:8080
    COMMIT
    *filter
    :INPUT ACCEPT [0:0]
    :FORWARD ACCEPT [0:0]
    :OUTPUT ACCEPT [0:0]
    COMMIT
    "#;

/// The rules with one of them replaced.
fn with(old: &str, new: &str) -> String {
    assert!(RULES.contains(old), "{old}");
    RULES.replace(old, new)
}

fn all_ways(state: &NetworkState, from: &str, to: &str) -> Vec<Walk> {
    walks(state, &Scope::everything(), &Ask::tcp(inum(state, from), ip(to), 80))
}

#[test]
fn healthy_services_are_translated_there_and_back() {
    let state = ruled("", "a", RULES);
    for (from, to, ways) in [
        ("x1", "10.99.0.1", 2),
        ("x1", "10.99.0.2", 1),
        ("x1", "10.99.0.3", 1),
        ("a", "10.99.0.1", 2),
        ("x1", "198.51.100.7", 1),
    ] {
        let walks = all_ways(&state, from, to);
        assert_eq!(walks.len(), ways, "{from} to {to}");
        for there in walks {
            assert_eq!(all(&there), Vec::<String>::new(), "{from} to {to}: {there:#?}");
            assert!(!there.nat.is_empty(), "{from} to {to}");
            let back = answer(&state, &there);
            assert_eq!(all(&back), Vec::<String>::new(), "{to} back: {back:#?}");
            let last = back.steps.last().unwrap();
            assert_eq!(last.tuple, there.tuple.reversed(), "{from} to {to}");
        }
    }
}

#[test]
fn one_endpoint_of_two_is_dead() {
    let state = ruled(
        "",
        "a",
        &with(
            "-A WEB -p tcp -j DNAT --to-destination 10.1.2.2",
            "-A WEB -p tcp -j DNAT --to-destination 10.1.2.99",
        ),
    );
    let walks = all_ways(&state, "x1", "10.99.0.1");
    let found: Vec<_> = walks.iter().map(stops).collect();
    assert_eq!(found, [vec![], vec!["NobodyAnswers".to_owned()]]);
}

#[test]
fn an_answer_is_bridged_past_its_translation() {
    let state = ruled("a: sysctl bridge/bridge-nf-call-iptables 0", "a", RULES);
    let there = tcp(&state, "x1", "10.99.0.2", 80);
    assert_eq!(stops(&there), Vec::<String>::new(), "{there:#?}");
    assert_eq!(stops(&answer(&state, &there)), ["BypassesNat"]);
    // Through the overlay it comes back where it was translated.
    let far = ruled(
        "a: sysctl bridge/bridge-nf-call-iptables 0",
        "a",
        &with(
            "-A NEAR -p tcp -j DNAT --to-destination 10.1.1.3",
            "-A NEAR -p tcp -j DNAT --to-destination 10.1.2.2",
        ),
    );
    let there = tcp(&far, "x1", "10.99.0.2", 80);
    assert_eq!(stops(&answer(&far, &there)), Vec::<String>::new());
}

#[test]
fn a_service_that_leads_back_to_its_client() {
    let state = ruled("a: set va1 nomaster\na: set va1 master br0", "a", RULES);
    assert_eq!(stops(&tcp(&state, "x1", "10.99.0.3", 80)), ["HairpinOff"]);
    let plain = with("-A SELF -s 10.1.1.2/32 -j MARK --set-xmark 0x4000/0x4000", "");
    let walk = tcp(&ruled("", "a", &plain), "x1", "10.99.0.3", 80);
    assert_eq!(stops(&walk), ["OwnSource"]);
}

#[test]
fn a_service_address_that_no_rule_translates() {
    let state = ruled("", "a", &with("-A PREROUTING -j SVCS", ""));
    let walk = tcp(&state, "x1", "10.99.0.2", 80);
    assert!(stops(&walk).contains(&"Untranslated".to_owned()), "{:?}", all(&walk));
    let state = ruled("", "a", RULES);
    let walk = tcp(&state, "x1", "10.99.0.77", 80);
    assert!(all(&walk).contains(&"Untranslated".to_owned()), "{:?}", all(&walk));
}

#[test]
fn a_private_source_goes_out_into_the_world() {
    let state =
        ruled("", "a", &with("-A POSTROUTING -s 10.1.0.0/16", "-A POSTROUTING -s 10.7.0.0/16"));
    let walk = tcp(&state, "x1", "198.51.100.7", 80);
    assert_eq!(all(&walk), ["PrivateSource"]);
    assert!(answer(&state, &walk).stopped_at().is_some(), "the outside has no route back");
}

#[test]
fn a_source_that_nobody_holds() {
    let state = ruled(
        "",
        "a",
        &with(
            "-A POSTROUTING -s 10.1.0.0/16 ! -d 10.1.0.0/16 -j MASQUERADE",
            "-A POSTROUTING -s 10.1.0.0/16 ! -d 10.1.0.0/16 -j SNAT --to-source 192.0.2.77",
        ),
    );
    let walk = tcp(&state, "x1", "198.51.100.7", 80);
    assert_eq!(all(&walk), ["ForeignSource"]);
    assert_eq!(walk.nat[0].kind, NatKind::Snat);
    assert_eq!(stops(&answer(&state, &walk)), ["NobodyAnswers"]);
}

/// The rules with more in table filter.
fn filtered(rules: &str) -> String {
    with(
        ":FORWARD ACCEPT [0:0]\n    :OUTPUT ACCEPT [0:0]",
        &format!(":FORWARD ACCEPT [0:0]\n    :OUTPUT ACCEPT [0:0]\n    {rules}"),
    )
}

#[test]
fn rules_drop_what_they_name_and_nothing_else() {
    let state = ruled("", "a", &filtered("-A FORWARD -d 10.1.1.3/32 -j DROP"));
    let walk = ping(&state, "x1", "10.1.1.3");
    assert_eq!(stops(&walk), ["Filtered"], "bridged frames are shown to FORWARD");
    assert_eq!(all(&ping(&state, "x1", "10.1.2.2")), Vec::<String>::new());
    let state = ruled("", "b", &filtered("-A INPUT -p udp --dport 8472 -j REJECT"));
    let walk = ping(&state, "x1", "10.1.2.2");
    let Some((_, obstacle)) = walk.stopped_at() else { panic!("{walk:#?}") };
    assert!(matches!(obstacle.kind, ObstacleKind::Filtered { is_reject: true, .. }));
    assert_eq!(obstacle.place.netns, inum(&state, "b"));
}

#[test]
fn an_answer_to_what_was_not_tracked_is_invalid() {
    let rules = filtered("-A FORWARD -m conntrack --ctstate INVALID -j DROP").replace(
        "*nat",
        "*raw\n    :PREROUTING ACCEPT [0:0]\n    -A PREROUTING -s 10.1.1.2/32 -j CT --notrack\n    COMMIT\n    *nat",
    );
    let state = ruled("", "a", &rules);
    let there = tcp(&state, "x1", "10.1.2.2", 8080);
    assert_eq!(stops(&there), Vec::<String>::new());
    let back = answer(&state, &there);
    assert_eq!(stops(&back), ["Filtered", "Untracked"], "{:?} {back:#?}", there.tracks);
    assert_eq!(all(&answer(&state, &tcp(&state, "x2", "10.1.2.2", 8080))), Vec::<String>::new());
}

#[test]
fn the_error_that_would_repair_the_length_is_dropped() {
    let more = "x1: set eth0 mtu 1500\na: set va1 mtu 1500\na: set br0 mtu 1500";
    let rules = filtered("-A OUTPUT -p icmp -m icmp --icmp-type 3/4 -j DROP");
    let state = ruled(more, "a", &rules);
    let ask = Ask { len: 1500, ..Ask::tcp(inum(&state, "x1"), ip("10.1.2.2"), 8080) };
    let walk = walk(&state, &Scope::everything(), &ask);
    assert_eq!(stops(&walk), ["TooLong", "Filtered"]);
}

/// From 127.0.0.1 to a translated port and out of the node.
#[test]
fn loopback_is_routed_only_where_that_is_allowed() {
    let rules = with("-A OUTPUT -j SVCS", "-A OUTPUT -p tcp --dport 3000 -j NEAR").replace(
        "-A POSTROUTING -s",
        "-A POSTROUTING -s 127.0.0.0/8 -j MASQUERADE\n    -A POSTROUTING -s",
    );
    let state = ruled("", "a", &rules);
    assert_eq!(stops(&tcp(&state, "a", "127.0.0.1", 3000)), ["RouteLocalnetOff"]);
    let state = ruled("a: sysctl ipv4/conf/all/route_localnet 1", "a", &rules);
    let walk = tcp(&state, "a", "127.0.0.1", 3000);
    assert_eq!(all(&walk), Vec::<String>::new(), "{walk:#?}");
}
