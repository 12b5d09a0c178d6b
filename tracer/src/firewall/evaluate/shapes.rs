//! Rule sets of the shapes that today's managers write, and conditions of every kind.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::*;
use crate::firewall::{nft, parsed};

const KUBE: &str = r#"table ip kube-proxy {
	set cluster-ips {
		type ipv4_addr
		elements = { 10.96.1.1, 10.96.1.7 }
	}
	set nodeport-ips {
		type ipv4_addr
		elements = { 192.0.2.11 }
	}
	map no-endpoint-services {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 10.96.1.10 . tcp . 80 comment "shop/none:http" : goto reject-chain }
	}
	map firewall-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 203.0.113.10 . tcp . 80 : goto firewall-A-shop/lb/tcp/http }
	}
	map service-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 10.96.1.1 . tcp . 80 : goto service-A-shop/web/tcp/http,
			     203.0.113.10 . tcp . 80 : goto service-A-shop/web/tcp/http }
	}
	map service-nodeports {
		type inet_proto . inet_service : verdict
		elements = { tcp . 30080 : goto service-A-shop/web/tcp/http }
	}
	chain filter-prerouting-pre-dnat {
		type filter hook prerouting priority -110; policy accept;
		ct state new jump firewall-check # handle 1
	}
	chain filter-forward {
		type filter hook forward priority 0; policy accept;
		ct state new ip daddr . meta l4proto . th dport vmap @no-endpoint-services # handle 2
		ct state new ip daddr @cluster-ips reject # handle 3
	}
	chain nat-prerouting {
		type nat hook prerouting priority -100; policy accept;
		ip daddr . meta l4proto . th dport vmap @service-ips # handle 4
		ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports # handle 5
	}
	chain firewall-check {
		ip daddr . meta l4proto . th dport vmap @firewall-ips # handle 6
	}
	chain firewall-A-shop/lb/tcp/http {
		ip saddr != { 198.51.100.0/24, 203.0.113.10 } drop # handle 7
	}
	chain reject-chain {
		reject # handle 8
	}
	chain service-A-shop/web/tcp/http {
		meta l4proto tcp dnat ip to numgen random mod 3 map { 0 : 10.1.0.3 . 8080, 1 : 10.1.0.4 . 8080, 2 : 10.2.0.2 . 8080 } # handle 9
	}
}
"#;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(hook: Hook, locals: &BTreeSet<IpAddr>) -> At<'_> {
    let iif = (hook != Hook::Output).then_some("eth0");
    let oif = matches!(hook, Hook::Forward | Hook::Output).then_some("cni0");
    At { hook, is_bridged: false, iif, oif, phys_in: None, phys_out: None, locals }
}

fn syn(src: &str, dst: &str, dport: u16) -> Packet {
    Packet { sport: 40_000, dport, tcp_flags: 2, ..Packet::new(ip(src), ip(dst), 6) }
}

/// How a SYN ends at a hook, in the ruleset's words.
fn end(ruleset: &str, hook: Hook, packet: &Packet) -> String {
    let fw = Firewall { tables: nft::text::parse(ruleset), ..Firewall::default() };
    told(&fw, hook, packet)
}

fn told(fw: &Firewall, hook: Hook, packet: &Packet) -> String {
    let locals = BTreeSet::from([ip("192.0.2.11")]);
    let passed = traverse(fw, packet, &at(hook, &locals));
    let sure = |hit: &Hit<'_>| if hit.is_certain { "" } else { "perhaps " };
    match &passed.end {
        End::Accept if passed.maybe.is_empty() => "accept".to_owned(),
        End::Accept => "accept or not".to_owned(),
        End::Drop(hit) => format!("{}drop in {}", sure(hit), hit.chain.name),
        End::Reject(hit, _) => format!("{}reject in {}", sure(hit), hit.chain.name),
        End::Queue(_) => "queue".to_owned(),
    }
}

#[test]
fn a_service_of_the_nftables_mode_leads_to_any_of_its_endpoints() {
    let fw = Firewall { tables: nft::text::parse(KUBE), ..Firewall::default() };
    let locals = BTreeSet::from([ip("192.0.2.11")]);
    for (dst, port) in [("10.96.1.1", 80), ("192.0.2.11", 30_080)] {
        let passed = traverse(&fw, &syn("10.1.0.2", dst, port), &at(Hook::Prerouting, &locals));
        let to: Vec<_> = passed.nat.iter().flat_map(|nat| nat.to.iter().copied()).collect();
        let ends = ["10.1.0.3", "10.1.0.4", "10.2.0.2"].map(|a| (Some(ip(a)), Some(8080)));
        assert_eq!(to, ends, "{dst}");
        assert!(passed.nat.iter().all(|nat| nat.hit.is_certain), "{dst}");
    }
    let web = fw.services().into_iter().find(|s| s.addr == Some(ip("10.96.1.1"))).unwrap();
    assert_eq!((web.name.as_str(), web.endpoints.len()), ("shop/web:http", 3));
    let none = fw.services().into_iter().find(|s| s.has_no_endpoints).unwrap();
    assert_eq!(none.name, "shop/none:http");
}

#[test]
fn what_kube_proxy_refuses_it_refuses_where_it_says() {
    let forward = |dst, port| end(KUBE, Hook::Forward, &syn("10.1.0.2", dst, port));
    assert_eq!(forward("10.96.1.10", 80), "reject in reject-chain");
    assert_eq!(forward("10.96.1.1", 81), "reject in filter-forward");
    assert_eq!(forward("10.1.0.3", 8080), "accept");
    let from = |src| end(KUBE, Hook::Prerouting, &syn(src, "203.0.113.10", 80));
    assert_eq!(from("192.0.2.99"), "drop in firewall-A-shop/lb/tcp/http");
    assert_eq!(from("198.51.100.7"), "accept");
}

fn one(rule: &str) -> String {
    format!(
        "table inet t {{\n set s {{\n type ipv4_addr\n elements = {{ 10.9.0.1 }}\n }}\n \
         chain c {{\n type filter hook forward priority 0; policy accept;\n {rule} # handle 1\n }}\n}}\n"
    )
}

#[test]
fn conditions_of_nftables_hold_fail_or_are_left_open() {
    let (yes, no, open) = ("drop in c", "accept", "accept or not");
    for (condition, expected) in [
        ("tcp flags syn", yes),
        ("tcp flags == syn", yes),
        ("tcp flags syn,rst", yes),
        ("tcp flags ! syn", no),
        ("tcp flags & (fin | syn | rst | ack) == syn", yes),
        ("tcp flags != syn", no),
        ("ct state ! new", no),
        ("ct status ! dnat", yes),
        ("ct status snat", no),
        ("ct direction original", yes),
        ("ct direction reply", no),
        ("ct mark 0x00000001", open),
        ("fib daddr type local", no),
        ("fib daddr type { local, multicast }", no),
        ("fib daddr type != local", yes),
        ("fib saddr . iif oif missing", open),
        ("meta pkttype multicast", no),
        ("meta skuid 0", no),
        ("limit rate over 10/second", open),
        ("ct count over 20", open),
        ("ip saddr @s", no),
        ("ip saddr != @s", yes),
        ("ip saddr . tcp dport { 10.1.0.2 . 80-90, 10.1.0.3 . 22 }", yes),
        ("icmp type != echo-request", no),
        ("add @s { ip saddr }", yes),
        ("xt match \"u32\"", open),
    ] {
        let packet = syn("10.1.0.2", "10.1.0.4", 80);
        let found = end(&one(&format!("{condition} drop")), Hook::Forward, &packet);
        assert_eq!(found, expected, "{condition}");
    }
}

#[test]
fn conditions_of_iptables_hold_fail_or_are_left_open() {
    let (yes, no, open) = ("drop in FORWARD", "accept", "accept or not");
    for (condition, expected) in [
        ("-m conntrack --ctstate RELATED,ESTABLISHED,DNAT", no),
        ("-m conntrack --ctstate NEW,DNAT", yes),
        ("-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT", yes),
        ("-m conntrack --ctstatus ASSURED", no),
        ("-m conntrack --ctdir ORIGINAL", yes),
        ("-p tcp -m multiport --ports 22,80", yes),
        ("-p tcp -m multiport ! --ports 22,80", no),
        ("-m addrtype --dst-type LOCAL,MULTICAST", no),
        ("-m addrtype ! --dst-type LOCAL", yes),
        ("-m recent --set --name x --mask 255.255.255.255 --rsource", yes),
        ("-m recent --rcheck --seconds 60 --name x --mask 255.255.255.255 --rsource", open),
        ("-m hashlimit --hashlimit-above 5/sec --hashlimit-burst 5 --hashlimit-name a", open),
        ("-m connlimit --connlimit-above 20 --connlimit-mask 32 --connlimit-saddr", open),
        ("-m connmark --mark 0x1", open),
        ("-m u32 --u32 \"0x0=0x0\"", open),
        ("-m owner --uid-owner 0", no),
        ("-m rpfilter --invert", open),
        ("-m pkttype --pkt-type multicast", no),
        ("-m statistic --mode random --probability 0.5", open),
        ("-m set --match-set absent src", open),
    ] {
        let text =
            format!("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD {condition} -j DROP\nCOMMIT\n");
        let found =
            told(&parsed(&[("ip", &text)], ""), Hook::Forward, &syn("10.1.0.2", "10.1.0.4", 80));
        assert_eq!(found, expected, "{condition}");
    }
}
