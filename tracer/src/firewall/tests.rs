//! Reading and changing, on what the tools print.

use super::*;
use crate::diagnose::remedy::{Argv, ChainAt, Edit, Remedy, Spot, command_of};

fn said(remedy: &Remedy) -> String {
    command_of(remedy).and_then(|argv: Argv| argv.line()).unwrap()
}

fn delete_command(table: &Table, chain: &Chain, rule: &Rule) -> String {
    said(&ChainAt::of(table, chain).edit(Edit::Delete(Spot::of(rule))))
}

fn policy_command(table: &Table, chain: &Chain, policy: Policy) -> String {
    said(&ChainAt::of(table, chain).edit(Edit::Policy(policy)))
}

fn kube() -> Firewall {
    let text = include_str!("testdata/kube.iptables");
    let tables = iptables::parse(text, Flavour::IptablesNft, "ip", "iptables");
    Firewall { tables, ..Firewall::default() }
}

fn words() -> Firewall {
    let tables = nft::text::parse(include_str!("testdata/words.nft"));
    Firewall { tables, ..Firewall::default() }
}

fn rule(fw: &Firewall, handle: u64) -> &Rule {
    fw.rule_by_handle("inet", "firewalld", "filter_FORWARD", handle).unwrap().2
}

#[test]
fn chains_have_their_place_policy_and_counters() {
    let fw = kube();
    let (table, chain) = fw.chains("ip", "filter", "FORWARD")[0];
    assert_eq!(
        (chain.hook, chain.policy),
        (Some(crate::journey::Hook::Forward), Some(Policy::Drop))
    );
    assert_eq!(chain.counter, Some(Counter { packets: 3, bytes: 180 }));
    assert_eq!(chain.rules[2].counter, Some(Counter { packets: 5, bytes: 300 }));
    assert_eq!(chain.rules[2].comment.as_deref(), Some("kubernetes forwarding rules"));
    assert_eq!(
        policy_command(table, chain, Policy::Accept),
        "iptables -t filter -P FORWARD ACCEPT"
    );
    let nat = fw.chains("ip", "nat", "POSTROUTING")[0].1;
    assert_eq!((nat.priority, nat.kind.as_str()), (100, "nat"));
}

#[test]
fn statements_of_nftables_that_are_not_conditions_decide_nothing() {
    let fw = words();
    assert_eq!(rule(&fw, 42).target, Target::Continue);
    assert_eq!(rule(&fw, 49).target, Target::Continue);
    assert_eq!(rule(&fw, 48).target, Target::SetMark { value: 0x12, mask: 0xff });
    assert_eq!(rule(&fw, 37).matches, [Match::Other("fib saddr . mark . iif oif missing".into())]);
    assert_eq!(rule(&fw, 68).target, Target::Drop);
    let counted = rule(&fw, 17);
    assert_eq!(counted.counter, Some(Counter { packets: 3, bytes: 180 }));
    assert_eq!(counted.text, r#"iifname { "cali*", "eth0" } oifname != "docker0" drop"#);
    let icmp = [
        Match::Proto { number: 1, not: false },
        Match::Icmp { kind: 3, code: Some(4), not: false },
    ];
    assert_eq!(rule(&fw, 35).matches, icmp);
}

#[test]
fn deleting_is_safe_in_a_shell() {
    let text = "*filter\n:INPUT ACCEPT [0:0]\n\
        [0:0] -A INPUT ! -s 10.0.0.0/8 -m comment --comment \"it's \\\"$(reboot)\\\"\" -j DROP\nCOMMIT\n";
    let tables = iptables::parse(text, Flavour::IptablesLegacy, "ip", "iptables-legacy");
    let chain = &tables[0].chains[0];
    assert_eq!(
        delete_command(&tables[0], chain, &chain.rules[0]),
        r#"iptables-legacy -t filter -D INPUT ! -s 10.0.0.0/8 -m comment --comment 'it'\''s "$(reboot)"' -j DROP"#
    );
    let fw = words();
    let (table, chain, rule) =
        fw.rule_by_handle("inet", "firewalld", "filter_FORWARD", 22).unwrap();
    assert_eq!(
        delete_command(table, chain, rule),
        "nft delete rule inet firewalld filter_FORWARD handle 22"
    );
    assert_eq!(
        policy_command(table, chain, Policy::Accept),
        "nft chain inet firewalld filter_FORWARD '{ policy accept; }'"
    );
}

#[test]
fn services_and_published_ports_are_read_back() {
    let fw = kube();
    let services = fw.services();
    let web: Vec<_> = services.iter().filter(|s| s.name == "default/web:http").collect();
    assert_eq!(web.len(), 2);
    let endpoints: Vec<_> = ["10.244.1.2", "10.244.2.2"].map(|a| (a.parse().unwrap(), 8080)).into();
    assert_eq!((web[0].addr, web[0].port, &web[0].endpoints), (None, 30080, &endpoints));
    assert_eq!((web[1].addr, &web[1].endpoints), ("10.96.45.100".parse().ok(), &endpoints));
    let dead = services.iter().find(|s| s.name == "default/dead:http").unwrap();
    assert!(dead.has_no_endpoints && dead.endpoints.is_empty());
    let published: Vec<_> = fw.published().into_iter().map(|p| (p.port, p.to.1)).collect();
    assert_eq!(published, [(8088, 8080), (8080, 80)]);
}

#[test]
fn services_of_the_nftables_mode_are_read_back() {
    let tables = nft::text::parse(include_str!("testdata/kube.nft"));
    let services = Firewall { tables, ..Firewall::default() }.services();
    let names: Vec<_> =
        services.iter().map(|s| (s.name.as_str(), s.port, s.endpoints.len())).collect();
    assert_eq!(
        names,
        [
            ("default/dead:http", 80, 0),
            ("default/kubernetes:https", 443, 2),
            ("default/web:http", 30080, 2),
            ("kube-system/kube-dns:dns", 53, 1),
        ]
    );
}

#[test]
fn comments_of_network_policies_name_them() {
    let text = r#"*filter
:FORWARD ACCEPT [0:0]
:FLANNEL-FWD - [0:0]
:KUBE-POD-FW-54O2QMM5KRGWCMHR - [0:0]
:cali-tw-cali12ab34cd56e - [0:0]
:cali-pi-_kTC7Wk0zT1vJ9xZ3pQm - [0:0]
-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A KUBE-POD-FW-54O2QMM5KRGWCMHR -m comment --comment "run through nw policy deny-all" -j KUBE-NWPLCY-XA5TVQ2HV5SDU6XV
-A KUBE-POD-FW-54O2QMM5KRGWCMHR -m comment --comment "rule to REJECT traffic destined for POD name:web namespace: shop" -m mark ! --mark 0x10000/0x10000 -j REJECT --reject-with icmp-port-unreachable
-A cali-tw-cali12ab34cd56e -m comment --comment "cali:y1a2B3c4D5e6F7g8" -m comment --comment "Drop if no policies passed packet" -m mark --mark 0x0/0x20000 -j DROP
-A cali-pi-_kTC7Wk0zT1vJ9xZ3pQm -m comment --comment "cali:Zb1rT0wq8v3mS4nK" -m comment --comment "Policy shop/knp.default.deny-all ingress" -m set --match-set cali40s:Wk0 src -j MARK --set-xmark 0x10000/0x10000
COMMIT
"#;
    let fw = parsed(&[("ip", text)], "");
    let comments = |chain: &str| -> Vec<String> {
        let rules = &fw.chains("ip", "filter", chain)[0].1.rules;
        rules.iter().filter_map(|rule| rule.comment.clone()).collect()
    };
    assert_eq!(comments("FLANNEL-FWD"), ["flanneld forward"]);
    let router = comments("KUBE-POD-FW-54O2QMM5KRGWCMHR");
    assert_eq!(router[0], "run through nw policy deny-all");
    assert_eq!(router[1], "rule to REJECT traffic destined for POD name:web namespace: shop");
    // The first is Calico's hash of the rule; what people wrote comes last.
    assert_eq!(comments("cali-tw-cali12ab34cd56e"), ["Drop if no policies passed packet"]);
    assert_eq!(
        comments("cali-pi-_kTC7Wk0zT1vJ9xZ3pQm"),
        ["Policy shop/knp.default.deny-all ingress"]
    );
}

#[test]
fn a_rule_with_a_state_in_it_is_deleted_by_its_number() {
    let text = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j ACCEPT\n\
                -A FORWARD -m recent --update --seconds 60 --name bl -j DROP\n\
                -A FORWARD -m comment --comment recent -j DROP\nCOMMIT\n";
    let tables = iptables::parse(text, Flavour::IptablesNft, "ip", "iptables");
    let chain = &tables[0].chains[0];
    let delete = |at: usize| delete_command(&tables[0], chain, &chain.rules[at]);
    assert_eq!(delete(1), "iptables -t filter -D FORWARD 2");
    assert!(delete(2).ends_with("--comment recent -j DROP"), "{}", delete(2));
}
