//! Rules as their tools print them, and what they do with packets.

use super::*;
use crate::firewall::{Flavour, Ipset, iptables, nft};

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn kube() -> Firewall {
    let text = include_str!("../testdata/kube.iptables");
    let tables = iptables::parse(text, Flavour::IptablesNft, "ip", "iptables");
    let set = Ipset {
        name: "KUBE-SRC-AAAA".to_owned(),
        kind: "hash:ip".to_owned(),
        members: vec!["10.244.1.77".to_owned()],
    };
    Firewall { tables, ipsets: vec![set], ..Firewall::default() }
}

fn kube_nft() -> Firewall {
    let tables = nft::text::parse(include_str!("../testdata/kube.nft"));
    Firewall { tables, ..Firewall::default() }
}

fn rules(text: &str) -> Firewall {
    let tables = iptables::parse(text, Flavour::IptablesLegacy, "ip", "iptables");
    Firewall { tables, ..Firewall::default() }
}

fn native(text: &str) -> Firewall {
    Firewall { tables: nft::text::parse(text), ..Firewall::default() }
}

/// A SYN.
fn syn(src: &str, dst: &str, dport: u16) -> Packet {
    Packet {
        src: ip(src),
        dst: ip(dst),
        proto: 6,
        sport: 40000,
        dport,
        icmp: None,
        tcp_flags: 0x02,
        mark: 0,
        ct: Stateful::New,
        orig_dst: None,
        is_dnat: false,
        is_fragment: false,
        frame: Frame::default(),
    }
}

fn at(fw: &Firewall, packet: &Packet, hook: Hook) -> Seen {
    through(fw, packet, hook, "eth0", "cni0")
}

fn through(fw: &Firewall, packet: &Packet, hook: Hook, iif: &str, oif: &str) -> Seen {
    let locals = BTreeSet::from([ip("192.168.50.1"), ip("10.244.1.1")]);
    let at = At {
        hook,
        is_bridged: false,
        iif: Some(iif),
        oif: Some(oif),
        phys_in: None,
        phys_out: None,
        locals: &locals,
    };
    Seen::from(&traverse(fw, packet, &at))
}

/// A traversal in words.
#[derive(Debug)]
struct Seen {
    /// `CHAIN/number`, with `?` where it is not certain.
    hits: Vec<String>,
    /// New destination or source, and the mark then.
    nat: Vec<(String, u32)>,
    end: String,
    maybe: Vec<String>,
    packet: Packet,
}

impl From<&Traversal<'_>> for Seen {
    fn from(t: &Traversal<'_>) -> Self {
        let to = |n: &Translation<'_>| {
            let to: Vec<String> =
                n.to.iter()
                    .map(|(a, p)| {
                        let addr = a.map_or_else(String::new, |a| a.to_string());
                        p.map_or_else(|| addr.clone(), |p| format!("{addr}:{p}"))
                    })
                    .collect();
            (format!("{} {}", n.kind.name(), to.join("|")), n.packet.mark)
        };
        Self {
            hits: t.hits.iter().map(place).collect(),
            nat: t.nat.iter().map(to).collect(),
            end: match &t.end {
                End::Accept => "accept".to_owned(),
                End::Drop(hit) => format!("drop {}", place(hit)),
                End::Reject(hit, with) => format!("reject {} {with}", place(hit)),
                End::Queue(hit) => format!("queue {}", place(hit)),
            },
            maybe: t.maybe.iter().map(place).collect(),
            packet: t.packet.clone(),
        }
    }
}

fn place(hit: &Hit<'_>) -> String {
    let rule = hit.rule.map_or_else(|| "policy".to_owned(), |r| r.number.to_string());
    format!("{}/{rule}{}", hit.chain.name, if hit.is_certain { "" } else { "?" })
}

#[test]
fn a_service_has_its_endpoints_as_alternatives() {
    let seen = at(&kube(), &syn("10.244.1.5", "10.96.45.100", 80), Hook::Prerouting);
    assert_eq!(
        seen.hits,
        [
            "PREROUTING/1",
            "KUBE-SERVICES/1",
            "KUBE-SVC-WEB/2?",
            "KUBE-SEP-A/2?",
            "KUBE-SVC-WEB/3?",
            "KUBE-SEP-B/2?"
        ]
    );
    let expected = [("dnat 10.244.1.2:8080".to_owned(), 0), ("dnat 10.244.2.2:8080".to_owned(), 0)];
    assert_eq!(seen.nat, expected);
    assert_eq!((seen.end.as_str(), seen.maybe.len()), ("accept", 0));
}

#[test]
fn a_pod_that_reaches_itself_is_marked_on_that_way_only() {
    let seen = at(&kube(), &syn("10.244.1.2", "10.96.45.100", 80), Hook::Prerouting);
    let expected =
        [("dnat 10.244.1.2:8080".to_owned(), 0x4000), ("dnat 10.244.2.2:8080".to_owned(), 0)];
    assert_eq!(seen.nat, expected);
}

#[test]
fn a_node_port_is_marked_and_masqueraded() {
    let fw = kube();
    let seen = at(&fw, &syn("192.168.50.7", "192.168.50.1", 30080), Hook::Prerouting);
    assert!(seen.hits.contains(&"KUBE-MARK-MASQ/1".to_owned()), "{seen:?}");
    assert_eq!(seen.nat.iter().map(|n| n.1).collect::<Vec<_>>(), [0x4000, 0x4000]);
    let marked = Packet { mark: seen.packet.mark, ..syn("192.168.50.7", "10.244.2.2", 8080) };
    let seen = at(&fw, &marked, Hook::Postrouting);
    assert_eq!(seen.nat, [("masquerade ".to_owned(), 0)]);
    let plain = at(&fw, &syn("10.244.1.5", "10.244.2.2", 8080), Hook::Postrouting);
    assert_eq!((plain.nat.len(), plain.end.as_str()), (0, "accept"));
}

#[test]
fn connections_that_are_known_do_not_see_nat() {
    for ct in [Stateful::Established, Stateful::Untracked, Stateful::Invalid] {
        let packet = Packet { ct, ..syn("10.244.1.5", "10.96.45.100", 80) };
        assert!(at(&kube(), &packet, Hook::Prerouting).hits.is_empty(), "{ct:?}");
    }
}

#[test]
fn a_policy_of_drop_behind_an_accept_drops_nothing() {
    let seen = at(&kube(), &syn("10.244.1.5", "8.8.8.8", 53), Hook::Forward);
    assert_eq!((seen.end.as_str(), seen.maybe.len()), ("accept", 0), "{seen:?}");
    assert_eq!(seen.hits.last().unwrap(), "FORWARD/5");
}

#[test]
fn a_policy_of_drop_drops_what_nothing_accepts() {
    let seen = at(&kube(), &syn("172.17.0.2", "8.8.8.8", 53), Hook::Forward);
    assert_eq!(seen.end, "drop FORWARD/policy");
}

#[test]
fn a_drop_for_another_source_or_device_does_not_hit() {
    let fw = kube();
    let seen = at(&fw, &syn("10.244.1.9", "10.244.1.5", 80), Hook::Forward);
    assert_eq!(seen.end, "drop KUBE-ROUTER-FORWARD/1");
    let seen = at(&fw, &syn("10.244.1.8", "10.244.1.5", 80), Hook::Forward);
    assert_eq!(seen.end, "accept");
    let seen = through(&fw, &syn("10.244.1.8", "10.244.1.5", 80), Hook::Forward, "docker0", "x");
    assert_eq!(seen.end, "drop DOCKER-ISOLATION-STAGE-1/1");
}

#[test]
fn an_ipset_decides_by_its_members() {
    let fw = kube();
    let seen = at(&fw, &syn("10.244.1.5", "10.244.1.3", 80), Hook::Forward);
    assert_eq!(seen.end, "drop KUBE-ROUTER-FORWARD/2");
    let seen = at(&fw, &syn("10.244.1.77", "10.244.1.3", 80), Hook::Forward);
    assert_eq!(seen.end, "accept");
    let unread = Firewall { ipsets: Vec::new(), ..fw };
    let seen = at(&unread, &syn("10.244.1.5", "10.244.1.3", 80), Hook::Forward);
    assert_eq!(
        (seen.end.as_str(), seen.maybe.as_slice()),
        ("accept", ["KUBE-ROUTER-FORWARD/2?".to_owned()].as_slice())
    );
}

#[test]
fn a_service_without_endpoints_is_rejected() {
    let seen = at(&kube(), &syn("10.244.1.5", "10.96.0.99", 80), Hook::Forward);
    assert_eq!(seen.end, "reject KUBE-SERVICES/1 icmp-port-unreachable");
    let seen = at(&kube_nft(), &syn("10.244.1.5", "10.96.0.99", 80), Hook::Forward);
    assert_eq!(seen.end, "reject reject-chain/1 icmp-port-unreachable");
}

#[test]
fn kube_proxy_in_nftables_mode() {
    let fw = kube_nft();
    let seen = at(&fw, &syn("10.244.1.5", "10.96.0.1", 443), Hook::Prerouting);
    let expected = [("dnat 172.18.0.2:6443".to_owned(), 0), ("dnat 172.18.0.3:6443".to_owned(), 0)];
    assert_eq!(seen.nat, expected);
    let from_outside = at(&fw, &syn("192.168.50.7", "10.96.0.1", 443), Hook::Prerouting);
    assert_eq!(from_outside.nat.iter().map(|n| n.1).collect::<Vec<_>>(), [0x4000, 0x4000]);
    let node_port = at(&fw, &syn("192.168.50.7", "192.168.50.1", 30080), Hook::Prerouting);
    assert_eq!(node_port.nat.len(), 2);
    assert!(node_port.hits.contains(&"mark-for-masquerade/1".to_owned()), "{node_port:?}");
    let wrong_port = at(&fw, &syn("10.244.1.5", "10.96.0.1", 444), Hook::Forward);
    assert_eq!(wrong_port.end, "reject cluster-ips-check/1 icmp-port-unreachable");
    let other = at(&fw, &syn("10.244.1.5", "10.244.2.2", 443), Hook::Prerouting);
    assert!(other.nat.is_empty());
    assert!(!other.hits.iter().any(|h| h.starts_with("services/")), "{other:?}");
}

#[test]
fn one_endpoint_is_certain_and_later_chains_see_the_translated_packet() {
    let fw = native(
        "table ip t {\n\
         chain n {\n type nat hook output priority -100; policy accept;\n\
         ip daddr 10.96.0.10 numgen random mod 1 vmap { 0 : goto e } # handle 2\n }\n\
         chain e {\n meta l4proto tcp dnat to 10.244.0.3:53 # handle 3\n }\n\
         chain f {\n type filter hook output priority 0; policy accept;\n\
         ip daddr 10.96.0.10 drop # handle 4\n\
         ip daddr 10.244.0.3 tcp dport 53 ct status dnat counter packets 1 bytes 2 reject # handle 5\n }\n\
         }\n",
    );
    let seen = at(&fw, &syn("10.244.1.5", "10.96.0.10", 53), Hook::Output);
    assert_eq!(seen.hits, ["n/1", "e/1", "f/2"]);
    assert_eq!(seen.end, "reject f/2 icmp-port-unreachable");
}

#[test]
fn an_accept_ends_its_own_chain_and_a_drop_ends_all() {
    let fw = native(
        "table inet a {\n chain c {\n type filter hook forward priority -10; policy accept;\n\
         ip saddr 10.0.0.0/8 accept # handle 1\n drop # handle 2\n }\n}\n\
         table inet b {\n chain d {\n type filter hook forward priority 10; policy accept;\n\
         tcp dport 80 drop # handle 1\n }\n}\n",
    );
    assert_eq!(at(&fw, &syn("10.0.0.1", "1.1.1.1", 80), Hook::Forward).end, "drop d/1");
    assert_eq!(at(&fw, &syn("10.0.0.1", "1.1.1.1", 81), Hook::Forward).end, "accept");
    assert_eq!(at(&fw, &syn("11.0.0.1", "1.1.1.1", 81), Hook::Forward).end, "drop c/2");
    // The header of the other family is not there to be compared.
    assert_eq!(at(&fw, &syn("fd00::1", "fd00::2", 81), Hook::Forward).end, "drop c/2");
}

#[test]
fn goto_does_not_come_back_and_return_does() {
    let head = "*filter\n:FORWARD DROP [0:0]\n:A - [0:0]\n:B - [0:0]\n";
    let tail = "-A A -p tcp -j RETURN\n-A A -j DROP\nCOMMIT\n";
    let jump = format!("{head}-A FORWARD -j A\n-A FORWARD -j ACCEPT\n{tail}");
    assert_eq!(at(&rules(&jump), &syn("1.1.1.1", "2.2.2.2", 1), Hook::Forward).end, "accept");
    let goto = format!("{head}-A FORWARD -g A\n-A FORWARD -j ACCEPT\n{tail}");
    let seen = at(&rules(&goto), &syn("1.1.1.1", "2.2.2.2", 1), Hook::Forward);
    assert_eq!(seen.end, "drop FORWARD/policy");
}

#[test]
fn what_is_not_modelled_may_drop_and_certainty_ends_there() {
    let fw = rules(
        "*filter\n:INPUT ACCEPT [0:0]\n\
         -A INPUT -p tcp -m limit --limit 1/sec -j ACCEPT\n\
         -A INPUT -p tcp -m tcp --dport 22 -j DROP\n\
         -A INPUT -p tcp -m rpfilter --invert -j DROP\nCOMMIT\n",
    );
    let ssh = at(&fw, &syn("1.1.1.1", "2.2.2.2", 22), Hook::Input);
    assert_eq!(
        (ssh.end.as_str(), ssh.maybe.as_slice()),
        ("accept", ["INPUT/2?".to_owned()].as_slice())
    );
    let web = at(&fw, &syn("1.1.1.1", "2.2.2.2", 80), Hook::Input);
    assert_eq!(web.maybe, ["INPUT/3?"]);
}

#[test]
fn a_mark_that_may_be_set_leaves_later_questions_open() {
    let fw = rules(
        "*mangle\n:PREROUTING ACCEPT [0:0]\n\
         -A PREROUTING -m recent --name X --rcheck -j MARK --set-xmark 0x1/0x1\n\
         -A PREROUTING -m mark --mark 0x2/0x2 -j DROP\n\
         -A PREROUTING -m mark --mark 0x1/0x1 -j DROP\nCOMMIT\n",
    );
    let seen = at(&fw, &syn("1.1.1.1", "2.2.2.2", 1), Hook::Prerouting);
    assert_eq!(seen.maybe, ["PREROUTING/3?"]);
    let marked = Packet { mark: 2, ..syn("1.1.1.1", "2.2.2.2", 1) };
    assert_eq!(at(&fw, &marked, Hook::Prerouting).end, "drop PREROUTING/2");
}

#[test]
fn untracked_packets_are_not_translated() {
    let fw = rules(
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -j CT --notrack\nCOMMIT\n\
         *nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j DNAT --to-destination 1.2.3.4\nCOMMIT\n",
    );
    let seen = at(&fw, &syn("1.1.1.1", "2.2.2.2", 1), Hook::Prerouting);
    assert_eq!((seen.nat.len(), seen.packet.ct), (0, Stateful::Untracked));
    let udp = Packet { proto: 17, ..syn("1.1.1.1", "2.2.2.2", 1) };
    let seen = at(&fw, &udp, Hook::Prerouting);
    assert_eq!((seen.nat.len(), seen.packet.dst), (1, ip("1.2.3.4")));
}

#[test]
fn bridged_frames_meet_physdev() {
    let fw = rules(
        "*filter\n:FORWARD ACCEPT [0:0]\n\
         -A FORWARD -m physdev --physdev-in veth-a+ --physdev-is-bridged -j DROP\nCOMMIT\n",
    );
    let locals = BTreeSet::new();
    let at = At {
        hook: Hook::Forward,
        is_bridged: true,
        iif: Some("cni0"),
        oif: Some("cni0"),
        phys_in: Some("veth-a1"),
        phys_out: Some("veth-b"),
        locals: &locals,
    };
    let packet = syn("10.244.1.2", "10.244.1.3", 80);
    assert!(matches!(traverse(&fw, &packet, &at).end, End::Drop(_)));
    let routed = At { is_bridged: false, ..at };
    assert!(matches!(traverse(&fw, &packet, &routed).end, End::Accept));
    let other = At { phys_in: Some("veth-b"), ..at };
    assert!(matches!(traverse(&fw, &packet, &other).end, End::Accept));
}

#[test]
fn what_is_dropped_is_told_how_it_would_have_been_translated() {
    let fw = rules(
        "*mangle\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -p tcp -j DROP\nCOMMIT\n\
         *nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n",
    );
    let locals = BTreeSet::new();
    let at = At {
        hook: Hook::Postrouting,
        is_bridged: false,
        iif: None,
        oif: Some("eth0"),
        phys_in: None,
        phys_out: None,
        locals: &locals,
    };
    let packet = syn("10.1.0.1", "192.0.2.1", 80);
    let passed = traverse(&fw, &packet, &at);
    assert!(matches!(&passed.end, End::Drop(hit) if hit.is_certain), "{:?}", passed.end);
    assert_eq!(passed.nat.len(), 1);
    assert!(passed.nat[0].hit.is_certain);
}

/// `nft -a -y list ruleset` of chains at devices.
const DEVICES: &str = r#"table netdev flt {
	chain in {
		type filter hook ingress devices = { "eth0", "eth1" } priority 0; policy accept;
		ip daddr 2.2.2.2 tcp dport 80 counter packets 3 bytes 9 drop # handle 4
		arp operation request arp daddr ip 2.2.2.3 drop # handle 5
	}
	chain out {
		type filter hook egress device "eth0" priority 0; policy drop;
		ether type arp accept # handle 6
	}
}
"#;

#[test]
fn chains_at_devices_see_what_comes_by_them() {
    let fw = super::super::parsed(&[], DEVICES);
    let locals = BTreeSet::new();
    let at = At {
        hook: Hook::Prerouting,
        is_bridged: false,
        iif: None,
        oif: None,
        phys_in: None,
        phys_out: None,
        locals: &locals,
    };
    let number = |packet: &Packet, dev, is_ingress| match traverse_device(
        &fw,
        packet,
        &at,
        (dev, is_ingress),
    )
    .end
    {
        End::Drop(hit) => Some((hit.rule.and_then(|r| r.handle), hit.is_certain)),
        _ => None,
    };
    let web = syn("1.1.1.1", "2.2.2.2", 80);
    assert_eq!(number(&web, "eth1", true), Some((Some(4), true)));
    assert_eq!(number(&web, "eth2", true), None);
    assert_eq!(number(&syn("1.1.1.1", "2.2.2.2", 81), "eth1", true), None);
    assert_eq!(number(&web, "eth0", false), Some((None, true)), "by the policy");
    let arp = |operation, dst| {
        let frame = Frame { arp: Some(operation), ..Frame::default() };
        Packet { frame, proto: 0, ..syn("1.1.1.1", dst, 0) }
    };
    assert_eq!(number(&arp(1, "2.2.2.3"), "eth0", true), Some((Some(5), true)));
    assert_eq!(number(&arp(2, "2.2.2.3"), "eth0", true), None);
    assert_eq!(number(&arp(1, "2.2.2.2"), "eth0", true), None);
    assert_eq!(number(&arp(1, "2.2.2.3"), "eth0", false), None);
}

#[test]
fn conditions_about_frames() {
    let mac = |last| Some([2, 0, 0, 0, 0, last]);
    let frame = Frame { src: mac(1), dst: mac(2), arp: None };
    let packet = Packet { frame, ..syn("1.1.1.1", "2.2.2.2", 80) };
    for (text, truth) in [
        ("ether type ip", Truth::Yes),
        ("ether type arp", Truth::No),
        ("meta protocol != ip", Truth::No),
        ("ether saddr 02:00:00:00:00:01", Truth::Yes),
        ("ether daddr != 02:00:00:00:00:02", Truth::No),
        ("arp operation request", Truth::No),
        ("meta pkttype broadcast", Truth::Maybe),
    ] {
        assert_eq!(frame::holds(text, &packet), truth, "{text}");
    }
}
