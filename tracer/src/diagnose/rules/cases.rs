//! Services, name servers and the way out, on hand-made nodes: what fires, what stays quiet, and
//! what heals. Nothing is sent here: a probe that got no answer and the configuration are all
//! there is.

use crate::diagnose::case::{Case, Method, Outcome, Probed, Purpose, Target, Way};
use crate::diagnose::walk::tests::{cluster, inum, ip, ruled};
use crate::diagnose::walk::{Ask, Scope};
use crate::diagnose::{Diagnosis, Severity, Verdict, conclude};
use crate::net::NetworkState;
use crate::net::detail::Resolver;

/// As kube-proxy and flannel write them: a Service on either node, and DNS.
const RULES: &str = r#"*nat
    :PREROUTING ACCEPT [0:0]
    :OUTPUT ACCEPT [0:0]
    :POSTROUTING ACCEPT [0:0]
    :KUBE-SERVICES - [0:0]
    :KUBE-MARK-MASQ - [0:0]
    :KUBE-SVC-NEAR - [0:0]
    :KUBE-SVC-BOTH - [0:0]
    :KUBE-SVC-NAMES - [0:0]
    :KUBE-SEP-NEAR - [0:0]
    :KUBE-SEP-FAR - [0:0]
    :KUBE-SEP-NAMES - [0:0]
    -A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
    -A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
    -A POSTROUTING -s 10.1.0.0/16 ! -d 10.1.0.0/16 -j MASQUERADE
    -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
    -A KUBE-SERVICES -d 10.99.0.2/32 -p tcp -m comment --comment "shop/near cluster IP" -m tcp --dport 80 -j KUBE-SVC-NEAR
    -A KUBE-SERVICES -d 10.99.0.3/32 -p tcp -m comment --comment "shop/both cluster IP" -m tcp --dport 80 -j KUBE-SVC-BOTH
    -A KUBE-SERVICES -d 10.99.0.53/32 -p udp -m comment --comment "kube-system/names:dns cluster IP" -m udp --dport 53 -j KUBE-SVC-NAMES
    -A KUBE-SVC-NEAR ! -s 10.1.0.0/16 -d 10.99.0.2/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
    -A KUBE-SVC-NEAR -j KUBE-SEP-NEAR
    -A KUBE-SVC-BOTH -m statistic --mode random --probability 0.5 -j KUBE-SEP-NEAR
    -A KUBE-SVC-BOTH -j KUBE-SEP-FAR
    -A KUBE-SVC-NAMES -j KUBE-SEP-NAMES
    -A KUBE-SEP-NEAR -s 10.1.1.3/32 -j KUBE-MARK-MASQ
    -A KUBE-SEP-NEAR -p tcp -m tcp -j DNAT --to-destination 10.1.1.3:8080
    -A KUBE-SEP-FAR -p tcp -m tcp -j DNAT --to-destination 10.1.2.2:8080
    -A KUBE-SEP-NAMES -p udp -m udp -j DNAT --to-destination 10.1.2.2:53
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

/// What is concluded when a probe from `from` ends like this.
pub(super) fn concluded(
    state: &NetworkState,
    (from, to, dport): (&str, &str, u16),
    outcome: Outcome,
) -> Diagnosis {
    let (netns, to) = (inum(state, from), ip(to));
    let (method, ask) = match dport {
        0 => (Method::Icmp, Ask::ping(netns, to)),
        53 => (Method::Dns, Ask::udp(netns, to, 53)),
        port => (Method::Tcp, Ask::tcp(netns, to, port)),
    };
    let port = (dport > 0).then_some(dport);
    let target = Target { netns, addr: Some(to), port, proto: method, ..Target::default() };
    let probe = Probed {
        method,
        purpose: Purpose::Reach,
        netns,
        to,
        dport,
        sport: 40_000,
        size: None,
        question: None,
        rtt: None,
        outcome,
    };
    let mut case = Case::new(Some(target), vec![probe], &[], state);
    case.ways = Way::all(state, &Scope::everything(), &ask, Purpose::Reach);
    conclude(&case)
}

/// The id of the first finding and its commands; the others are not errors.
fn cause(rules: &str, more: &str, aim: (&str, &str, u16)) -> (&'static str, Vec<String>) {
    first(&ruled(more, "a", rules), aim)
}

fn first(state: &NetworkState, aim: (&str, &str, u16)) -> (&'static str, Vec<String>) {
    let found = concluded(state, aim, Outcome::Timeout).findings;
    let errors = found.iter().filter(|f| f.severity == Severity::Error).count();
    assert!(errors <= 1, "{aim:?}: {found:#?}");
    let finding = found.first().unwrap_or_else(|| panic!("{aim:?}: nothing found"));
    (finding.id, finding.fix.iter().filter(|f| !f.starts_with('#')).cloned().collect())
}

#[test]
fn what_is_answered_has_nothing_wrong() {
    let state = ruled("", "a", RULES);
    for aim in [
        ("x1", "10.99.0.2", 80),
        ("x1", "10.99.0.3", 80),
        ("a", "10.99.0.2", 80),
        ("x1", "10.99.0.53", 53),
        ("x1", "198.51.100.7", 80),
    ] {
        let found = concluded(&state, aim, Outcome::Answered).findings;
        assert!(found.is_empty(), "{aim:?}: {found:#?}");
        // What fails for another reason is not laid at the door of these rules.
        let found = concluded(&state, aim, Outcome::Timeout).findings;
        let ids: Vec<_> = found.iter().map(|f| f.id).collect();
        assert!(ids.iter().all(|id| *id == "no-packet-sent"), "{aim:?}: {ids:?}");
    }
}

#[test]
fn a_service_without_its_rules_gets_them_back() {
    let near = r#"-A KUBE-SERVICES -d 10.99.0.2/32 -p tcp -m comment --comment "shop/near cluster IP" -m tcp --dport 80 -j KUBE-SVC-NEAR"#;
    let (id, fix) = cause(&with(near, ""), "", ("x1", "10.99.0.2", 80));
    assert_eq!(id, "kube-proxy-rules-missing");
    let add = "iptables -t nat -I KUBE-SERVICES -d 10.99.0.2/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-NEAR";
    assert!(fix.len() == 1 && fix[0].ends_with(add), "{fix:?}");
    // kube-proxy itself says that there is no endpoint.
    let rejecting = with(near, "").replace(
        "*filter\n    :INPUT ACCEPT [0:0]\n    :FORWARD ACCEPT [0:0]\n    :OUTPUT ACCEPT [0:0]",
        "*filter\n    :INPUT ACCEPT [0:0]\n    :FORWARD ACCEPT [0:0]\n    :OUTPUT ACCEPT [0:0]\n    -A FORWARD -d 10.99.0.2/32 -p tcp -m comment --comment \"shop/near has no endpoints\" -m tcp --dport 80 -j REJECT",
    );
    let (id, fix) = cause(&rejecting, "", ("x1", "10.99.0.2", 80));
    assert_eq!(id, "svc-no-endpoints");
    assert!(fix.len() == 2 && fix[0].ends_with(add) && fix[1].contains(" -D FORWARD "), "{fix:?}");
}

#[test]
fn a_jump_that_is_missing_is_put_back() {
    let jump =
        r#"-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#;
    let (id, fix) = cause(&with(jump, ""), "", ("x1", "10.99.0.2", 80));
    assert_eq!(id, "kube-proxy-jump-missing");
    assert!(fix[0].contains("-I PREROUTING ") && fix[0].ends_with("-j KUBE-SERVICES"), "{fix:?}");
    let jump = r#"-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#;
    let (id, fix) = cause(&with(jump, ""), "", ("a", "10.99.0.2", 80));
    assert_eq!(id, "svc-host-output-jump-missing");
    assert!(fix[0].contains("-I OUTPUT "), "{fix:?}");
}

#[test]
fn a_rule_for_an_endpoint_that_is_gone_leads_to_a_living_one() {
    let gone = with(
        "-A KUBE-SEP-NEAR -p tcp -m tcp -j DNAT --to-destination 10.1.1.3",
        "-A KUBE-SEP-NEAR -p tcp -m tcp -j DNAT --to-destination 10.1.1.77",
    );
    let (id, fix) = cause(&gone, "", ("x1", "10.99.0.2", 80));
    assert_eq!(id, "svc-endpoint-stale-ip");
    let right = "-R KUBE-SEP-NEAR 2 -p tcp -m tcp -j DNAT --to-destination 10.1.1.3:8080";
    assert!(fix.len() == 1 && fix[0].ends_with(right), "{fix:?}");
    let far = with(
        "-A KUBE-SEP-FAR -p tcp -m tcp -j DNAT --to-destination 10.1.2.2",
        "-A KUBE-SEP-FAR -p tcp -m tcp -j DNAT --to-destination 10.1.2.77",
    );
    let (id, fix) = cause(&far, "", ("x1", "10.99.0.3", 80));
    assert_eq!(id, "svc-one-endpoint-dead");
    let other = "-R KUBE-SEP-FAR 1 -p tcp -m tcp -j DNAT --to-destination 10.1.1.3:8080";
    assert!(fix.len() == 1 && fix[0].ends_with(other), "{fix:?}");
}

#[test]
fn what_keeps_a_connection_from_conntrack_is_the_cause() {
    let rules = with(
        ":FORWARD ACCEPT [0:0]",
        ":FORWARD ACCEPT [0:0]\n    -A FORWARD -m conntrack --ctstate INVALID -j DROP",
    );
    let rules = format!(
        "*raw\n    :PREROUTING ACCEPT [0:0]\n    -A PREROUTING -s 10.1.1.2/32 -j CT --notrack\n    COMMIT\n    {rules}"
    );
    let (id, fix) = cause(&rules, "", ("x1", "10.1.2.2", 8080));
    assert_eq!(id, "conntrack-invalid-drop");
    assert!(fix.len() == 1 && fix[0].contains("-t raw -D PREROUTING -s 10.1.1.2/32"), "{fix:?}");
}

#[test]
fn a_port_that_nobody_listens_at_needs_no_drop_to_be_told() {
    let state = ruled("x2: unlisten", "a", RULES);
    let found = concluded(&state, ("x1", "10.1.1.3", 8080), Outcome::Refused).findings;
    let finding = found.first().expect("something is wrong");
    assert_eq!((finding.id, finding.severity), ("app-not-listening", Severity::Error));
    assert!(finding.evidence.iter().any(|e| e.starts_with("listening in x2: ")), "{finding:#?}");
}

#[test]
fn too_few_ports_are_an_error_once_a_probe_got_none() {
    let state = cluster("x1: sysctl ipv4/ip_local_port_range 40000_40001");
    let severity = |outcome| {
        let found = concluded(&state, ("x1", "198.51.100.7", 80), outcome).findings;
        let finding = found.into_iter().find(|f| f.id == "ephemeral-ports-exhausted");
        finding.map(|f| f.severity)
    };
    assert_eq!(severity(Outcome::Answered), Some(Severity::Warning));
    assert_eq!(severity(Outcome::Local(libc::EADDRNOTAVAIL)), Some(Severity::Error));
}

#[test]
fn a_ping_to_a_service_is_no_fault() {
    let state = ruled("", "a", RULES);
    let found = concluded(&state, ("x1", "10.99.0.2", 0), Outcome::Timeout);
    assert_eq!(found.verdict, Verdict::Inconclusive, "{found:#?}");
    assert_eq!(found.findings.first().map(|f| f.id), Some("svc-ping-unanswered"));
}

fn asks(mut state: NetworkState, server: &str) -> NetworkState {
    let x1 = inum(&state, "x1");
    let detail = state.netns.get_mut(&x1).and_then(|n| n.detail.as_mut()).unwrap();
    let path = "/etc/netns/x1/resolv.conf".to_owned();
    detail.resolver = Some(Resolver { path, nameservers: vec![ip(server)], ..Resolver::default() });
    state
}

#[test]
fn a_name_server_that_is_nobodys_is_replaced_by_the_service() {
    for (server, id) in [
        ("10.99.0.99", "dns-resolvconf-wrong-server"),
        ("10.1.1.77", "dns-resolvconf-wrong-server"),
        ("169.254.20.10", "dns-nodelocal-missing"),
    ] {
        let state = asks(ruled("", "a", RULES), server);
        let (found, fix) = first(&state, ("x1", server, 53));
        assert_eq!(found, id, "{server}");
        assert!(fix.len() == 1 && fix[0].ends_with(&format!(" {server} 10.99.0.53")), "{fix:?}");
    }
    // The cache is there: then it is not the address.
    let state = asks(ruled("a: addr 169.254.20.10/32 dev lo", "a", RULES), "169.254.20.10");
    let found = concluded(&state, ("x1", "169.254.20.10", 53), Outcome::Timeout).findings;
    assert!(found.iter().all(|f| f.id != "dns-nodelocal-missing"), "{found:#?}");
}

#[test]
fn a_private_source_is_masqueraded_again() {
    let rule = "-A POSTROUTING -s 10.1.0.0/16 ! -d 10.1.0.0/16 -j MASQUERADE";
    for (instead, id) in [
        ("", "masquerade-missing"),
        ("-A POSTROUTING -s 10.7.0.0/16 ! -d 10.7.0.0/16 -j MASQUERADE", "masquerade-wrong-cidr"),
        ("-A POSTROUTING -s 10.1.0.0/16 -o eth7 -j MASQUERADE", "masquerade-wrong-oif"),
        // Of another network of this node: that is not what was meant.
        ("-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE", "masquerade-missing"),
    ] {
        let (found, fix) = cause(&with(rule, instead), "", ("x1", "198.51.100.7", 80));
        assert_eq!(found, id, "{instead}");
        assert!(fix.len() == 1 && fix[0].ends_with("-o eth0 -j MASQUERADE"), "{fix:?}");
        assert!(fix[0].contains("-A POSTROUTING -s 10.1."), "{fix:?}");
    }
}

#[test]
fn a_source_that_nobody_holds_is_replaced() {
    let rule = "-A POSTROUTING -s 10.1.0.0/16 ! -d 10.1.0.0/16 -j MASQUERADE";
    let wrong = "-A POSTROUTING -s 10.1.1.0/24 -o eth0 -j SNAT --to-source 192.0.2.77";
    let (id, fix) = cause(&with(rule, wrong), "", ("x1", "198.51.100.7", 80));
    assert_eq!(id, "snat-wrong-address");
    assert!(fix[0].ends_with("-R POSTROUTING 1 -s 10.1.1.0/24 -o eth0 -j MASQUERADE"), "{fix:?}");
    // Behind it another one translates rightly.
    let both = with(rule, &format!("{wrong}\n    {rule}"));
    let (id, fix) = cause(&both, "", ("x1", "198.51.100.7", 80));
    assert_eq!(id, "snat-wrong-address");
    assert!(fix[0].contains(" -D POSTROUTING "), "{fix:?}");
}

#[test]
fn few_local_ports_are_warned_of_and_none_is_an_error() {
    let state = ruled("x1: sysctl ipv4/ip_local_port_range 40000_40001", "a", RULES);
    let aim = ("x1", "198.51.100.7", 80);
    let severity = |outcome| {
        let found = concluded(&state, aim, outcome).findings;
        let it = found.iter().find(|f| f.id == "ephemeral-ports-exhausted");
        it.map(|f| f.severity)
    };
    assert_eq!(severity(Outcome::Answered), Some(Severity::Warning));
    assert_eq!(severity(Outcome::Local(libc::EADDRNOTAVAIL)), Some(Severity::Error));
    let enough = ruled("x1: sysctl ipv4/ip_local_port_range 32768_60999", "a", RULES);
    assert!(concluded(&enough, aim, Outcome::Answered).findings.is_empty());
}

/// Only what nobody was seen to send is left: nothing is in the way.
fn is_quiet(rules: &str, more: &str, aim: (&str, &str, u16)) -> bool {
    let found = concluded(&ruled(more, "a", rules), aim, Outcome::Timeout).findings;
    found.iter().all(|f| f.id == "no-packet-sent")
}

#[test]
fn a_translation_in_front_of_the_right_one_is_taken_away() {
    let portal =
        r#"-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#;
    let front = "-A PREROUTING -d 10.99.0.0/16 -p tcp -j DNAT --to-destination 10.1.1.77";
    let rules = with(portal, &format!("{front}\n    {portal}"));
    let (id, fix) = cause(&rules, "", ("x1", "10.99.0.2", 80));
    assert_eq!(id, "translation-in-front");
    assert!(fix.len() == 1 && fix[0].contains(" -D PREROUTING -d 10.99.0.0/16 "), "{fix:?}");
    let behind = with(portal, &format!("{portal}\n    {front}"));
    assert!(is_quiet(&behind, "", ("x1", "10.99.0.2", 80)));
}

#[test]
fn what_keeps_the_masquerading_from_its_packets_is_taken_away() {
    let rule = "-A POSTROUTING -s 10.1.0.0/16 ! -d 10.1.0.0/16 -j MASQUERADE";
    let rules = with(rule, &format!("-A POSTROUTING -d 198.51.100.0/24 -j ACCEPT\n    {rule}"));
    let (id, fix) = cause(&rules, "", ("x1", "198.51.100.7", 80));
    assert_eq!(id, "masquerade-missing");
    assert!(fix[0].ends_with(" -D POSTROUTING -d 198.51.100.0/24 -j ACCEPT"), "{fix:?}");
    let raw = |net| {
        format!(
            "{RULES}*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -s {net} -j CT --notrack\nCOMMIT\n"
        )
    };
    for aim in [("x1", "198.51.100.7", 80), ("x1", "10.99.0.2", 80)] {
        let (id, fix) = cause(&raw("10.1.1.0/24"), "", aim);
        assert_eq!(id, "conntrack-untracked", "{aim:?}");
        assert!(
            fix.len() == 1 && fix[0].contains("-t raw -D PREROUTING -s 10.1.1.0/24"),
            "{fix:?}"
        );
        assert!(is_quiet(&raw("10.1.7.0/24"), "", aim));
    }
}

/// One direction in another zone of conntrack, which so knows nothing of the other one.
#[test]
fn a_zone_that_only_one_direction_is_in_is_taken_away() {
    let raw = |rules: &str| format!("{RULES}*raw\n:PREROUTING ACCEPT [0:0]\n{rules}\nCOMMIT\n");
    let aim = ("x1", "198.51.100.7", 80);
    for rule in ["-i eth0 -j CT --zone 7", "-i br0 -j CT --zone 7"] {
        let (id, fix) = cause(&raw(&format!("-A PREROUTING {rule}")), "", aim);
        assert_eq!(id, "conntrack-zone-mismatch", "{rule}");
        assert!(fix[0].contains(&format!("-t raw -D PREROUTING {rule}")), "{fix:?}");
    }
    let both = "-A PREROUTING -i eth0 -j CT --zone 7\n-A PREROUTING -i br0 -j CT --zone 9";
    let (id, fix) = cause(&raw(both), "", aim);
    assert_eq!(id, "conntrack-zone-mismatch");
    assert!(fix[0].contains("-R PREROUTING 1 -i eth0 -j CT --zone 9"), "{fix:?}");
    for quiet in [
        "-A PREROUTING -i eth0 -j CT --zone 7\n-A PREROUTING -i br0 -j CT --zone 7",
        "-A PREROUTING -i br0 -j CT --zone-orig 7",
        "-A PREROUTING -i vx0 -j CT --zone 7",
    ] {
        assert!(is_quiet(&raw(quiet), "", aim), "{quiet}");
    }
}

#[test]
fn a_redirection_to_nobody_is_taken_away() {
    let portal =
        r#"-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#;
    let rule =
        "-A PREROUTING -d 198.51.100.0/24 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3129";
    let rules = with(portal, &format!("{portal}\n    {rule}"));
    let aim = ("x1", "198.51.100.7", 80);
    let (id, fix) = cause(&rules, "", aim);
    assert_eq!(id, "redirect-unserved");
    // Others are redirected all the same: whoever wrote the rule means it.
    let spared = " -I PREROUTING 2 -s 10.1.1.2/32 -d 198.51.100.7/32 -j ACCEPT";
    assert!(fix.len() == 1 && fix[0].ends_with(spared), "{fix:?}");
    assert_eq!(cause(&rules, "a: listen tcp 127.0.0.1 3129", aim), (id, fix));
    assert!(is_quiet(&rules, "a: listen tcp 0.0.0.0 3129", aim));
}

#[test]
fn a_pod_that_reaches_itself_is_masqueraded() {
    let (id, fix) = cause(RULES, "", ("x2", "10.99.0.2", 80));
    assert_eq!(id, "svc-hairpin-unmasqueraded");
    let masquerade = "-I POSTROUTING -s 10.1.1.3/32 -d 10.1.1.3/32 -j MASQUERADE";
    assert!(fix.len() == 1 && fix[0].ends_with(masquerade), "{fix:?}");
    let rule = "-A POSTROUTING -s 10.1.0.0/16 ! -d 10.1.0.0/16 -j MASQUERADE";
    let healed = with(rule, &masquerade.replace("-I", "-A"));
    assert!(is_quiet(&healed, "", ("x2", "10.99.0.2", 80)));
}

#[test]
fn what_is_dropped_is_not_blamed_for_its_source() {
    let rules = format!(
        "{RULES}*mangle\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o eth0 -p tcp -j DROP\nCOMMIT\n"
    );
    let (id, fix) = cause(&rules, "", ("x1", "198.51.100.7", 80));
    assert_eq!(id, "firewall-drop");
    // The source is not translated yet where the rule stands.
    let let_through = "-t mangle -I POSTROUTING 1 -s 10.1.1.2/32 -d 198.51.100.7/32 -p tcp";
    assert!(fix.len() == 1 && fix[0].contains(let_through), "{fix:?}");
}

#[test]
fn a_service_that_nft_maps_lack_is_added_and_its_rejection_is_no_cause() {
    let nft = |element: &str| {
        format!(
            "table ip kube-proxy {{
                set cluster-ips {{
                    type ipv4_addr
                    elements = {{ 10.99.0.2, 10.99.0.3 }}
                }}
                map service-ips {{
                    type ipv4_addr . inet_proto . inet_service : verdict
                    elements = {{ {element} }}
                }}
                chain endpoint-A {{
                    meta l4proto tcp dnat to 10.1.1.3:8080 # handle 3
                }}
                chain service-A {{
                    ip daddr 10.99.0.2 tcp dport 80 ip saddr != 10.1.0.0/16 jump mark # handle 4
                    numgen random mod 1 vmap {{ 0 : goto endpoint-A }} # handle 5
                }}
                chain mark {{
                    meta mark set meta mark | 0x00004000 # handle 6
                }}
                chain cluster-ips-check {{
                    ip daddr @cluster-ips reject # handle 7
                }}
                chain filter-forward {{
                    type filter hook forward priority -110; policy accept;
                    ct state new jump cluster-ips-check # handle 8
                }}
                chain services {{
                    ip daddr . meta l4proto . th dport vmap @service-ips # handle 9
                }}
                chain nat-prerouting {{
                    type nat hook prerouting priority dstnat; policy accept;
                    jump services # handle 10
                }}
            }}"
        )
    };
    let state = |element: &str| {
        let mut state = ruled("", "a", "");
        let a = inum(&state, "a");
        let detail = state.netns.get_mut(&a).and_then(|n| n.detail.as_mut()).unwrap();
        detail.firewall = crate::firewall::parsed(&[], &nft(element));
        state
    };
    let aim = ("x1", "10.99.0.2", 80);
    let (id, fix) = first(&state("10.99.0.3 . tcp . 80 : goto service-A"), aim);
    assert_eq!(id, "kube-proxy-rules-missing");
    let add = "service-ips { 10.99.0.2 . tcp . 80 : goto service-A }";
    assert!(fix.len() == 1 && fix[0].contains(add), "{fix:?}");
    let whole = state("10.99.0.2 . tcp . 80 : goto service-A");
    let found = concluded(&whole, aim, Outcome::Timeout).findings;
    assert!(found.iter().all(|f| f.id == "no-packet-sent"), "{found:#?}");
}

/// What a VLAN that does not fit costs, and what heals it.
#[test]
fn a_port_in_another_vlan_is_taken_into_that_of_the_others() {
    use crate::diagnose::walk::tests::vlans::FILTERING;
    let heals = |more: &str, to: &str| {
        let (id, fix) = cause(RULES, &format!("{FILTERING}\n{more}"), ("x1", to, 0));
        (id, fix.join("; "))
    };
    for (more, to, id, command) in [
        (
            "a: novlan va2\na: vlan va2 20 pvid untagged",
            "10.1.1.3",
            "vlan-filtering-mismatch",
            "bridge vlan add dev va2 vid 1 pvid untagged",
        ),
        (
            "a: novlan va1\na: vlan va1 20 pvid untagged",
            "10.1.1.3",
            "vlan-filtering-mismatch",
            "bridge vlan add dev va1 vid 1 pvid untagged",
        ),
        (
            "a: novlan va1",
            "10.1.1.3",
            "vlan-filtering-mismatch",
            "bridge vlan add dev va1 vid 1 pvid untagged",
        ),
        (
            "a: novlan br0",
            "10.1.2.2",
            "vlan-filtering-mismatch",
            "bridge vlan add dev br0 vid 1 pvid untagged self",
        ),
        (
            "a: vlan va2 1 pvid",
            "10.1.1.3",
            "vlan-filtering-mismatch",
            "bridge vlan add dev va2 vid 1 pvid untagged",
        ),
        (
            "a: novlan va1\na: novlan va2\na: novlan br0",
            "10.1.1.3",
            "vlan-filtering-mismatch",
            "ip link set dev br0 type bridge vlan_filtering 0",
        ),
    ] {
        let (found, fix) = heals(more, to);
        assert_eq!((found, fix.ends_with(command)), (id, true), "{more}: {fix}");
        assert_eq!(fix.matches("; ").count(), 0, "{more}: {fix}");
    }
}

/// Of two with one address, the one that was not meant has to give it up.
#[test]
fn a_duplicate_address_is_taken_from_who_was_not_meant() {
    let third = "a: link va3 veth x3/eth0 master br0\nx3: addr 10.1.1.9/24 dev eth0";
    for (address, aim) in [
        ("10.1.1.3", ("x1", "10.1.1.3", 8080)),
        ("10.1.1.3", ("x1", "10.1.1.3", 0)),
        ("10.1.1.1", ("x1", "10.1.2.2", 8080)),
    ] {
        let more = format!("{third}\nx3: addr {address}/24 dev eth0");
        let (id, fix) = cause(RULES, &more, aim);
        assert_eq!(id, "duplicate-address", "{aim:?}");
        assert!(fix[0].ends_with(&format!("ip addr del {address}/24 dev eth0")), "{fix:?}");
        assert!(fix[1].ends_with(&format!("ip neigh flush to {address}")), "{fix:?}");
    }
}
