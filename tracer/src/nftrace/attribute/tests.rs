//! What is made of what nftables tells, on journeys made by hand.

use super::*;
use crate::event::{Headers, L4, PayloadHead, Proto};
use crate::firewall;
use crate::journey::{Hop, Nat};

const OWN: &str = "pkttrace_1";
const INET: u8 = 1;
const IP: u8 = 2;

fn tuple(dst: &str) -> Tuple {
    let ip = |text: &str| text.parse().unwrap();
    Tuple { src: ip("10.1.0.2"), dst: ip(dst), proto: Proto::Udp, sport: 4000, dport: 53 }
}

fn headers() -> Headers {
    Headers {
        tuple: tuple("10.99.0.1"),
        len: 28,
        ttl: Some(64),
        ip_id: Some(1),
        fragment: None,
        dont_fragment: false,
        l4: L4::Udp { len: 8 },
        payload: PayloadHead::default(),
    }
}

fn step(family: u8, (table, chain): (&str, &str), what: What, verdict: Verdict) -> Step {
    Step {
        id: 5,
        family,
        table: table.to_owned(),
        chain: chain.to_owned(),
        what,
        verdict,
        iif: 1,
        oif: 0,
        headers: Some(headers()),
        life: Life::default(),
    }
}

/// A packet at PREROUTING, its destination translated or not.
fn journey(to: Option<&str>) -> Journey {
    let hook = Some(Hook::Prerouting);
    let hop = Hop { netns: 7, hook, tuple: to.map(tuple), ..Hop::at(Stage::Netfilter) };
    let mut journey = Journey::of(headers(), vec![hop]);
    let nat =
        |to| Nat { hop: 0, kind: NatKind::Dnat, before: tuple("10.99.0.1"), after: tuple(to) };
    journey.nat.extend(to.map(nat));
    journey
}

const RULES: &str = "table ip mynat { # handle 1\n\tchain pre { # handle 1\n\
    \t\ttype nat hook prerouting priority -100; policy accept;\n\
    \t\tip daddr 10.99.0.1 dnat to 10.1.0.1 comment \"to me\" # handle 2\n\t}\n}\n\
    table inet fw { # handle 2\n\tchain pre { # handle 1\n\
    \t\ttype filter hook prerouting priority 0; policy accept;\n\
    \t\taccept comment \"all\" # handle 2\n\t}\n}\n";

fn told(all: &mut Attribution) {
    all.push(7, step(INET, (OWN, "in"), What::Policy, Verdict::Accept), OWN);
    all.push(7, step(IP, ("mynat", "pre"), What::Rule(2), Verdict::Accept), OWN);
    all.push(7, step(INET, ("fw", "pre"), What::Rule(2), Verdict::Accept), OWN);
}

#[test]
fn the_rule_that_translates_is_named_whatever_its_table_is_called() {
    let mut all = Attribution::default();
    all.set_rules(7, &firewall::parsed(&[], RULES), Lives::default());
    told(&mut all);
    let mut translated = journey(Some("10.1.0.1"));
    all.attribute(&mut translated);
    let rule = translated.hops[0].rule.as_ref().expect("a rule");
    assert_eq!((rule.table.as_str(), rule.comment.as_deref()), ("mynat", Some("to me")));
    told(&mut all);
    let mut plain = journey(None);
    all.attribute(&mut plain);
    let rule = plain.hops[0].rule.as_ref().expect("a rule");
    assert_eq!(rule.comment.as_deref(), Some("all"));
    assert_eq!(plain.hops[0].rules.len(), 2);
}

#[test]
fn the_rule_tells_the_kind_of_the_translation() {
    let mut all = Attribution::default();
    let rules = RULES.replace("dnat to 10.1.0.1", "redirect to :53");
    all.set_rules(7, &firewall::parsed(&[], &rules), Lives::default());
    told(&mut all);
    let mut translated = journey(Some("10.1.0.1"));
    all.attribute(&mut translated);
    assert_eq!(translated.nat[0].kind, NatKind::Redirect);
}

#[test]
fn a_table_made_anew_does_not_get_the_rules_of_the_old_one() {
    let mut all = Attribution::default();
    let before = all.lives(7);
    all.set_rules(7, &firewall::parsed(&[], RULES), before.clone());
    let text = |all: &mut Attribution| {
        told(all);
        let mut journey = journey(Some("10.1.0.1"));
        all.attribute(&mut journey);
        journey.hops.pop().and_then(|hop| hop.rule).map(|rule| (rule.handle, rule.text))
    };
    assert!(text(&mut all).is_some_and(|(_, text)| text.contains("dnat")));
    all.table_gone(7, IP, "mynat");
    all.table_gone(7, INET, "fw");
    assert_eq!(text(&mut all), Some((Some(2), String::new())));
    // Read before that, and told of late.
    all.set_rules(7, &firewall::parsed(&[], RULES), before);
    assert_eq!(text(&mut all), Some((Some(2), String::new())));
    let now = all.lives(7);
    all.set_rules(7, &firewall::parsed(&[], RULES), now);
    assert!(text(&mut all).is_some_and(|(_, text)| text.contains("dnat")));
}
