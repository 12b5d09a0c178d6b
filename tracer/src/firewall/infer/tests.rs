//! What the rules of iptables-legacy are said to have done, on journeys made by hand.

use super::*;
use crate::event::{Headers, PayloadHead, Proto};
use crate::firewall::iptables;
use crate::journey::{Dev, Nat, NatKind};
use crate::net::{Device, Netns};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tuple(src: &str, dst: &str) -> Tuple {
    Tuple { src: ip(src), dst: ip(dst), proto: Proto::Udp, sport: 4000, dport: 53 }
}

fn dev(ifindex: u32, name: &str) -> Option<Dev> {
    Some(Dev { ifindex, name: name.to_owned() })
}

fn journey(hops: Vec<Hop>) -> Journey {
    let headers = Headers {
        tuple: tuple("10.244.1.2", "192.0.2.9"),
        len: 28,
        ttl: Some(64),
        ip_id: Some(1),
        fragment: None,
        dont_fragment: false,
        l4: L4::Udp { len: 8 },
        payload: PayloadHead::default(),
    };
    let hops = hops.into_iter().map(|hop| Hop { netns: 7, ..hop });
    Journey::of(headers, hops.collect())
}

fn hook(hook: Hook) -> Hop {
    let verdict = Some(Verdict::Accept);
    Hop { hook: Some(hook), verdict, ct: Some(CtInfo::New), ..Hop::at(Stage::Netfilter) }
}

/// Bridge 3 with port 4, and eth0.
fn state() -> NetworkState {
    let device = |ifindex, master| Device { ifindex, master, ..Device::default() };
    let devices = [device(2, None), device(3, None), device(4, Some(3))];
    let devices = devices.map(|d| (d.ifindex, d)).into();
    let netns = Netns { inum: 7, devices, ..Netns::default() };
    NetworkState { netns: [(7, netns)].into(), ..NetworkState::default() }
}

fn infer_with(saved: &str, journey: &mut Journey) {
    let tables = iptables::parse(saved, Flavour::IptablesLegacy, "ip", "iptables-legacy");
    infer(journey, 7, &Firewall { tables, ..Firewall::default() }, &state());
}

fn masqueraded(saved: &str) -> Journey {
    let mut journey = journey(vec![Hop {
        out_dev: dev(2, "eth0"),
        tuple: Some(tuple("192.0.2.1", "192.0.2.9")),
        ..hook(Hook::Postrouting)
    }]);
    let (before, after) = (tuple("10.244.1.2", "192.0.2.9"), tuple("192.0.2.1", "192.0.2.9"));
    journey.nat.push(Nat { hop: 0, kind: NatKind::Masquerade, before, after });
    infer_with(saved, &mut journey);
    journey
}

#[test]
fn snat_to_the_devices_own_address_is_no_masquerade() {
    let saved = "*nat\n:POSTROUTING ACCEPT [0:0]\n\
        -A POSTROUTING -d 198.51.100.0/24 -j MASQUERADE\n\
        -A POSTROUTING -o eth0 -j SNAT --to-source 192.0.2.1\nCOMMIT\n";
    let journey = masqueraded(saved);
    let rule = journey.hops[0].rule.as_ref().expect("the rule is named");
    assert_eq!(rule.text, "-A POSTROUTING -o eth0 -j SNAT --to-source 192.0.2.1");
    assert_eq!((rule.basis, journey.nat[0].kind), (Basis::Computed, NatKind::Snat));
}

#[test]
fn of_two_rules_that_may_have_translated_neither_is_claimed() {
    let saved = "*nat\n:POSTROUTING ACCEPT [0:0]\n\
        -A POSTROUTING -m owner --uid-owner 7 -j MASQUERADE\n\
        -A POSTROUTING -o eth0 -j SNAT --to-source 192.0.2.1\nCOMMIT\n";
    let journey = masqueraded(saved);
    let rule = journey.hops[0].rule.as_ref().expect("a candidate is named");
    assert_eq!((rule.basis, journey.nat[0].kind), (Basis::Candidate, NatKind::Masquerade));
}

#[test]
fn a_rule_that_would_have_translated_did_not_accept() {
    let mut journey = journey(vec![hook(Hook::Prerouting)]);
    let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m statistic --mode random \
        --probability 0.5 -j DNAT --to-destination 10.244.1.3\nCOMMIT\n";
    infer_with(saved, &mut journey);
    assert_eq!(journey.hops[0].rule, None);
}

#[test]
fn ports_of_the_bridge_are_asked_for_by_physdev() {
    let saved = "*filter\n:FORWARD ACCEPT [0:0]\n\
        -A FORWARD -m physdev --physdev-in veth-p1 -j DROP\nCOMMIT\n";
    let seen = |first: Vec<Hop>| {
        let dropped = Hop { verdict: Some(Verdict::Drop), ..hook(Hook::Forward) };
        let bridge = dev(3, "cni0");
        let forward = Hop { dev: bridge.clone(), out_dev: dev(2, "eth0"), ..dropped };
        let layer = Some(Layer::Bridge);
        let before = Hop { dev: bridge, layer, ..hook(Hook::Prerouting) };
        let mut journey = journey([first, vec![before, forward]].concat());
        infer_with(saved, &mut journey);
        journey.hops.pop().and_then(|hop| hop.rule).map(|rule| (rule.verdict, rule.basis))
    };
    let port = Hop { dev: dev(4, "veth-p1"), ..Hop::at(Stage::Rx) };
    assert_eq!(seen(vec![port]), Some(("drop".to_owned(), Basis::Computed)));
    let other = Hop { dev: dev(4, "veth-p9"), ..Hop::at(Stage::Rx) };
    assert_eq!(seen(vec![other]), None);
}

#[test]
fn a_policy_of_the_other_iptables_that_accepts_settles_nothing() {
    let policy = Rule {
        table: "filter".to_owned(),
        chain: "FORWARD".to_owned(),
        handle: None,
        text: "policy accept".to_owned(),
        comment: None,
        via: Vec::new(),
        verdict: "accept".to_owned(),
        basis: Basis::Seen,
        is_legacy: false,
    };
    let mut journey = journey(vec![Hop { rule: Some(Box::new(policy)), ..hook(Hook::Forward) }]);
    let saved = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -s 10.244.0.0/16 -j ACCEPT\nCOMMIT\n";
    infer_with(saved, &mut journey);
    let rule = journey.hops[0].rule.as_ref().expect("a rule");
    assert_eq!(
        (rule.text.as_str(), rule.basis),
        ("-A FORWARD -s 10.244.0.0/16 -j ACCEPT", Basis::Computed)
    );
}
