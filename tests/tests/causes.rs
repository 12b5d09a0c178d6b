//! Causes that lie elsewhere than where a packet ends, verdicts, and what only looks like a fault:
//! on networks that are nobody's lab.

use std::process::Command;

use pkttrace_tests::{Diagnosis, Site, binary, greeter, name_server};

fn title(found: &Diagnosis) -> &str {
    found.first()["title"].as_str().unwrap_or_default()
}

/// A client, a router between, and a server with a route back.
fn routed() -> Site {
    let site = Site::new(&["cl", "rt", "sv"]);
    site.wire(("cl", "up0", "10.81.1.2/24"), ("rt", "in0", "10.81.1.1/24"));
    site.wire(("rt", "out0", "10.81.2.1/24"), ("sv", "e0", "10.81.2.9/24"));
    site.exec("rt", "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0");
    site.exec("cl", "ip route add default via 10.81.1.1");
    site.exec("sv", "ip route add default via 10.81.2.1");
    site
}

#[test]
fn a_server_that_greets_and_hangs_up_works() {
    let site = routed();
    greeter(&site, "sv", 80);
    for _ in 0..3 {
        Diagnosis::of(&["--from", &site.netns("cl"), "--to", "10.81.2.9:80"]).assert_healthy();
    }
}

#[test]
fn what_was_not_seen_is_inconclusive() {
    let site = Site::new(&["quiet"]);
    let output = Command::new(binary())
        .args(["diagnose", "--netns", &site.netns("quiet"), "--duration", "300ms", "-o", "json"])
        .output()
        .expect("diagnose starts");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&found["verdict"], &found["healthy"]), (&"inconclusive".into(), &false.into()));
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("watching"), "what is being done is said: {said}");
}

#[test]
fn a_translation_that_takes_a_hosts_address_is_the_cause() {
    let site = routed();
    greeter(&site, "sv", 25);
    site.ping_once("rt", "10.81.2.9");
    site.exec(
        "rt",
        "iptables -t nat -A PREROUTING -d 10.81.2.9/32 -p tcp --dport 25 \
         -j DNAT --to-destination 10.81.1.2:2525",
    );
    let found = Diagnosis::of(&["--from", &site.netns("cl"), "--to", "10.81.2.9:25"]);
    found.assert_first("translation-takes-host", &site.netns("rt"));
}

#[test]
fn a_masquerade_that_hides_the_sender_is_the_cause_of_the_refusal() {
    let site = routed();
    greeter(&site, "sv", 5432);
    site.exec("sv", "iptables -A INPUT -p tcp --dport 5432 ! -s 10.81.1.0/24 -j DROP");
    site.exec("rt", "iptables -t nat -A POSTROUTING -s 10.81.1.0/24 -j MASQUERADE");
    let found = Diagnosis::of(&["--from", &site.netns("cl"), "--to", "10.81.2.9:5432"]);
    found.assert_first("translation-hides-source", &site.netns("rt"));
}

#[test]
fn a_policy_rule_is_spared_from_by_a_narrower_one() {
    let site = routed();
    greeter(&site, "sv", 445);
    site.exec("sv", "ip link add vpn7 type veth peer name vpn8 && ip link set vpn7 up");
    site.exec("sv", "ip link set vpn8 up");
    site.exec(
        "sv",
        "ip route add 10.81.1.0/24 dev vpn7 table 77 && ip rule add pref 700 lookup 77",
    );
    let from = site.netns("cl");
    let found = Diagnosis::of(&["--from", &from, "--to", "10.81.2.9:445"]);
    found.assert_first("policy-rule-hijack", &site.netns("sv")).run_fix();
    Diagnosis::of(&["--from", &from, "--to", "10.81.2.9:445"]).assert_healthy();
    assert!(site.exec("sv", "ip rule").contains("700:"), "the rule itself stays");
}

#[test]
fn an_address_that_failed_detection_is_not_used() {
    let site = Site::new(&["sw", "a", "b"]);
    site.exec("sw", "ip link add br9 type bridge mcast_snooping 0 && ip link set br9 up");
    for host in ["a", "b"] {
        site.plug("sw", "br9", host);
    }
    site.exec("a", "ip addr add fd81::a/64 dev e0 nodad");
    site.exec(
        "b",
        "sysctl -qw net.ipv6.conf.all.enhanced_dad=0 net.ipv6.conf.e0.enhanced_dad=0 \
         net.ipv6.conf.all.accept_dad=1 net.ipv6.conf.e0.accept_dad=1",
    );
    site.exec("sw", "bridge link set dev p-b hairpin on");
    site.exec("b", "ip addr add fd81::b/64 dev e0");
    site.until("b", "ip -6 addr show dev e0 | grep -q dadfailed");
    let found = Diagnosis::of(&["--from", &site.netns("a"), "--to", "fd81::b"]);
    found.assert_first("ipv6-address-unverified", &site.netns("b"));
    assert!(found.json.to_string().contains("hairpin"), "{:#}", found.json);
}

#[test]
fn a_router_without_a_proxy_entry_does_not_answer_solicitations() {
    let site = Site::new(&["peer", "host", "box"]);
    site.wire(("peer", "e0", "fd82::2/64"), ("host", "lan0", "fd82::1/64"));
    site.wire(("host", "in0", "fd82::ff:1/112"), ("box", "e0", "fd82::ff:2/112"));
    site.exec("host", "sysctl -qw net.ipv6.conf.all.forwarding=1");
    site.exec("box", "ip -6 route add default via fd82::ff:1");
    let from = site.netns("peer");
    let ask = ["--from", &from, "--to", "fd82::ff:2"];
    site.until("host", "ping -6 -c1 -W1 fd82::ff:2 && ping -6 -c1 -W1 fd82::2");
    let found = Diagnosis::of(&ask);
    found.assert_first("ndp-proxy-missing", &site.netns("host")).run_fix();
    Diagnosis::of(&ask).assert_healthy();
}

/// Two hosts on a bridge that snoops and asks who has joined which group.
#[test]
fn a_host_that_reports_no_group_is_not_asked() {
    let site = Site::new(&["sw", "a", "b"]);
    site.exec("sw", "ip link add brx type bridge mcast_snooping 1 && ip link set brx up");
    for report in [131, 143] {
        let rule = format!("-A OUTPUT -p icmpv6 --icmpv6-type {report} -j DROP");
        site.exec("b", &format!("ip6tables {rule}"));
    }
    for (host, addr) in [("a", "fd85::a/64"), ("b", "fd85::b/64")] {
        site.plug("sw", "brx", host);
        site.exec(host, &format!("ip addr add {addr} dev e0 nodad"));
    }
    let from = site.netns("a");
    let ask = ["--from", &from, "--to", "fd85::b"];
    // Nobody queries: multicasts are flooded.
    Diagnosis::of(&ask).assert_healthy();
    site.exec("a", "ip -6 neigh flush dev e0");
    site.exec("sw", "ip addr add fd85::1/64 dev brx nodad");
    // The kernel goes on flooding for as long as answers to the first query may take.
    site.exec("sw", "ip link set brx type bridge mcast_query_response_interval 10");
    site.exec("sw", "ip link set brx type bridge mcast_querier 1");
    site.until("a", "ip -6 neigh flush dev e0; ! ping -6 -c1 -W1 fd85::b");
    let found = Diagnosis::of(&ask);
    found.assert_first("mld-group-missing", &site.netns("sw")).run_fix();
    assert!(found.json.to_string().contains("icmpv6-type 143"), "{:#}", found.json);
    Diagnosis::of(&ask).assert_healthy();
}

#[test]
fn rules_let_solicitations_through_and_nothing_else() {
    let site = Site::new(&["pod", "rt"]);
    site.wire(("pod", "e0", "fd86::2/64 nodad"), ("rt", "in0", "fd86::1/64 nodad"));
    greeter(&site, "rt", 53);
    let pod = "-A POD -p tcp --dport 53 -j ACCEPT; ip6tables -A POD -j REJECT";
    site.exec("rt", &format!("ip6tables -N POD; ip6tables {pod}"));
    site.exec("rt", "ip6tables -A INPUT -s fd86::2 -j POD");
    let from = site.netns("pod");
    let ask = ["--from", &from, "--to", "[fd86::1]:53", "--proto", "tcp"];
    let found = Diagnosis::of(&ask);
    found.assert_first("input-drop", &site.netns("rt")).run_fix();
    assert!(title(&found).contains("neighbour solicitations"), "{:#}", found.json);
    Diagnosis::of(&ask).assert_healthy();
    assert!(site.exec("rt", "ip6tables-save").contains("-A POD -j REJECT"), "the rule stays");
}

#[test]
fn a_search_domain_that_answers_everything_takes_a_name() {
    let site = Site::new(&["app", "net"]);
    site.wire(("app", "e0", "10.83.0.2/24"), ("net", "e0", "10.83.0.1/24"));
    site.exec("net", "ip addr add 10.83.9.9/32 dev lo && ip addr add 10.83.9.66/32 dev lo");
    site.exec("app", "ip route add default via 10.83.0.1");
    site.exec("net", "iptables -A INPUT -d 10.83.9.66 -p tcp -j REJECT --reject-with tcp-reset");
    greeter(&site, "net", 8443);
    name_server(&site, "net", |name| match name {
        "hub.example.org" => &[[10, 83, 9, 9]],
        name if name.ends_with(".wild.test") => &[[10, 83, 9, 66]],
        _ => &[],
    });
    site.resolver("app", "search first.test wild.test\nnameserver 10.83.0.1\noptions ndots:4\n");
    let found = Diagnosis::of(&["--from", &site.netns("app"), "--to", "hub.example.org:8443"]);
    found.assert_first("dns-search-takes-name", &site.netns("app"));
    assert!(title(&found).contains("wild.test"), "{:#}", found.json);
}

#[test]
fn an_answer_too_long_for_a_datagram_needs_tcp() {
    let site = Site::new(&["app", "net"]);
    site.wire(("app", "e0", "10.84.0.2/24"), ("net", "e0", "10.84.0.1/24"));
    name_server(&site, "net", |name| match name {
        "many.test" => &[[10, 84, 0, 1]; 24],
        "one.test" => &[[10, 84, 0, 1]],
        _ => &[],
    });
    site.resolver("app", "nameserver 10.84.0.1\n");
    let from = site.netns("app");
    Diagnosis::of(&["--from", &from, "--to", "one.test", "--proto", "dns"]).assert_healthy();
    let found = Diagnosis::of(&["--from", &from, "--to", "many.test", "--proto", "dns"]);
    found.assert_first("dns-tcp-unreachable", &from);
}

#[test]
fn bystanders_change_no_answer() {
    let site = routed();
    site.exec("sv", "iptables -A INPUT -p tcp --dport 9000 -j DROP");
    let ask = ["--from", &site.netns("cl"), "--to", "10.81.2.9:9000"];
    let before = Diagnosis::of(&ask);
    // Only `lo`, half-made pods, a sandboxed service with the very address, and another lab.
    let others = Site::new(&["b0", "b1", "b2", "b3", "half", "box", "cl2", "rt2", "sv2", "b4"]);
    others.exec("half", "ip link add eth0 type veth peer name loose");
    others.exec(
        "box",
        "ip link add d0 type veth peer name d1 && ip addr add 10.81.2.9/24 dev d0 && ip link set d0 up",
    );
    others.wire(("cl2", "up0", "10.81.1.2/24"), ("rt2", "in0", "10.81.1.1/24"));
    others.wire(("rt2", "out0", "10.81.2.1/24"), ("sv2", "e0", "10.81.2.9/24"));
    let after = Diagnosis::of(&ask);
    for found in [&before, &after] {
        found.assert_first("input-drop", &site.netns("sv"));
    }
    assert_eq!(before.first()["title"], after.first()["title"]);
    assert_eq!(before.loud(), after.loud());
}
