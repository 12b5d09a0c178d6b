//! What `firewall::traverse` says a packet meets is what the kernel's counters say it met.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use pkttrace::diagnose::remedy::{ChainAt, Edit, Spot, command_of};
use pkttrace::event::{Proto, Tuple};
use pkttrace::firewall::{
    At, Chain, End, Firewall, Flavour, Packet, Policy, Stateful, Table, read_in, traverse,
};
use pkttrace::journey::Hook;
use pkttrace::net::conntrack;
use pkttrace::net::setns::{inum_of, run_in_inum};
use pkttrace_tests::Lab;

/// Which iptables the node's rules are written with.
const BACKENDS: [&str; 2] = ["nft", "legacy"];

/// Addresses of n1.
const LOCALS: [&str; 3] = ["192.168.50.11", "10.244.1.1", "10.244.1.0"];

type Path<'a> = &'a [(Hook, Option<&'a str>, Option<&'a str>)];

const TO_POD: Path<'_> = &[
    (Hook::Prerouting, Some("cni0"), None),
    (Hook::Forward, Some("cni0"), Some("cni0")),
    (Hook::Postrouting, None, Some("cni0")),
];
const TO_POD_FROM_OUTSIDE: Path<'_> = &[
    (Hook::Prerouting, Some("eth0"), None),
    (Hook::Forward, Some("eth0"), Some("cni0")),
    (Hook::Postrouting, None, Some("cni0")),
];
const TO_POD_FROM_NODE: Path<'_> =
    &[(Hook::Output, None, Some("eth0")), (Hook::Postrouting, None, Some("cni0"))];
const TO_OUTSIDE: Path<'_> = &[
    (Hook::Prerouting, Some("cni0"), None),
    (Hook::Forward, Some("cni0"), Some("eth0")),
    (Hook::Postrouting, None, Some("eth0")),
];

fn ip(s: &str) -> IpAddr {
    s.parse().expect("an address")
}

/// Rules of n1 that were met: `nat KUBE-SERVICES 3 -A KUBE-SERVICES …`.
type Met = BTreeSet<String>;

/// What the rules are expected to do with a packet on its way through n1.
#[derive(Debug, Default)]
struct Expected {
    certain: Met,
    possible: Met,
    translations: Vec<&'static str>,
    end: String,
}

struct Node {
    lab: Lab,
    path: PathBuf,
    inum: u32,
    tool: String,
}

impl Node {
    /// n1 of a fresh cluster whose servers take SYNs and do not answer, so that one packet at a
    /// time crosses the node.
    fn up(backend: &str) -> Self {
        let lab = Lab::cluster_with(backend);
        for host in ["p1", "p2"] {
            lab.exec(host, "iptables-nft -I INPUT -p tcp --dport 8080 -j DROP");
        }
        lab.exec("ext", "iptables-nft -I INPUT -p tcp --dport 80 -j DROP");
        // The node's own reports of multicast groups would count too.
        lab.exec(
            "n1",
            "nft 'table ip quiet { chain out { type filter hook output priority -400; \
             ip protocol igmp drop; }; }'",
        );
        let path = PathBuf::from(format!("/run/netns/{}", lab.netns("n1")));
        let inum = inum_of(&path.metadata().expect("n1 is there"));
        Self { lab, path, inum, tool: format!("iptables-{backend}") }
    }

    fn read(&self) -> Firewall {
        let fw = read_in(&self.path, self.inum).expect("n1 can be entered");
        assert_eq!(fw.unread, Vec::<String>::new());
        fw
    }

    fn iptables(&self, rule: &str) {
        self.lab.exec("n1", &format!("{} {rule}", self.tool));
    }

    /// Sends a SYN to `to` and returns which rules of n1 counted anything.
    fn counted(&self, from: &str, to: &str) -> Met {
        let before = counters(&self.read());
        self.lab.exec_fails(from, &format!("curl -sS -m 0.5 http://{to}/"));
        counters(&self.read())
            .into_iter()
            .filter(|(rule, packets)| before.get(rule) != Some(packets))
            .map(|(rule, _)| rule)
            .collect()
    }

    /// Sends a SYN on this way and checks that exactly the expected rules count it.
    fn check(&self, from: (&str, &str), to: (&str, u16), way: Path<'_>) -> Expected {
        let expected = expect(&self.read(), from.1, to, way);
        let counted = self.counted(from.0, &format!("{}:{}", to.0, to.1));
        assert!(!counted.is_empty(), "{to:?}: nothing counted");
        let missing: Vec<_> = expected.certain.difference(&counted).collect();
        let surprising: Vec<_> = counted.difference(&expected.possible).collect();
        assert!(
            missing.is_empty() && surprising.is_empty(),
            "{} {from:?} to {to:?}: did not count {missing:#?}, counted {surprising:#?}",
            self.tool
        );
        expected
    }
}

fn counters(fw: &Firewall) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for table in &fw.tables {
        for chain in &table.chains {
            for rule in &chain.rules {
                let Some(counter) = rule.counter else { continue };
                found.insert(name(&table.name, &chain.name, rule), counter.packets);
            }
        }
    }
    found
}

fn name(table: &str, chain: &str, rule: &pkttrace::firewall::Rule) -> String {
    format!("{table} {chain} {} {}", rule.number, rule.text)
}

/// Takes a SYN along its way through n1; each hook gets what the one before it left.
fn expect(fw: &Firewall, src: &str, (dst, dport): (&str, u16), way: Path<'_>) -> Expected {
    let locals = LOCALS.map(ip).into();
    let mut packet = Packet {
        src: ip(src),
        dst: ip(dst),
        proto: 6,
        sport: 40000,
        dport,
        icmp: None,
        tcp_flags: 0x02,
        mark: 0,
        ct: Stateful::New,
        orig_dst: Some((ip(dst), dport)),
        is_dnat: false,
        is_fragment: false,
        frame: pkttrace::firewall::Frame::default(),
    };
    let mut expected = Expected::default();
    for (hook, iif, oif) in way {
        let is_bridged = *iif == Some("cni0") && *oif == Some("cni0");
        let at = At {
            hook: *hook,
            is_bridged,
            iif: *iif,
            oif: *oif,
            phys_in: None,
            phys_out: None,
            locals: &locals,
        };
        let seen = traverse(fw, &packet, &at);
        for hit in &seen.hits {
            let rule = hit.rule.expect("hits are rules");
            let name = name(&hit.table.name, &hit.chain.name, rule);
            if hit.is_certain {
                expected.certain.insert(name.clone());
            }
            expected.possible.insert(name);
        }
        expected.translations.extend(seen.nat.iter().map(|n| n.kind.name()));
        assert!(seen.maybe.is_empty(), "{hook:?}: nothing here is beyond the model");
        expected.end = match &seen.end {
            End::Accept => "accept".to_owned(),
            End::Drop(hit) => match hit.rule {
                Some(rule) => said(hit.table, hit.chain, Edit::Delete(Spot::of(rule))),
                None => said(hit.table, hit.chain, Edit::Policy(Policy::Accept)),
            },
            End::Reject(..) => "reject".to_owned(),
            End::Queue(_) => "queue".to_owned(),
        };
        if !matches!(seen.end, End::Accept) {
            break;
        }
        packet = seen.packet;
    }
    expected
}

/// The command of a change.
fn said(table: &Table, chain: &Chain, edit: Edit) -> String {
    let command = command_of(&ChainAt::of(table, chain).edit(edit));
    command.and_then(|argv| argv.line()).expect("plain names")
}

#[test]
fn rules_that_a_packet_meets_are_the_ones_that_count() {
    for backend in BACKENDS {
        let node = Node::up(backend);
        let p1 = ("p1", "10.244.1.2");

        let same = node.check(p1, ("10.96.45.102", 80), TO_POD);
        assert_eq!((same.translations, same.certain == same.possible), (vec!["dnat"], true));
        let hairpin = node.check(p1, ("10.96.45.101", 80), TO_POD);
        assert_eq!(hairpin.translations, ["dnat", "masquerade"]);
        let outside = node.check(p1, ("203.0.113.10", 80), TO_OUTSIDE);
        assert_eq!(outside.translations, ["masquerade"]);
        let ext = ("ext", "192.168.50.1");
        let node_port = node.check(ext, ("192.168.50.11", 30081), TO_POD_FROM_OUTSIDE);
        assert_eq!(node_port.translations, ["dnat"]);
        let host_port = node.check(ext, ("192.168.50.11", 8088), TO_POD_FROM_OUTSIDE);
        assert_eq!(host_port.translations, ["dnat"]);
        let n1 = ("n1", "192.168.50.11");
        let from_node = node.check(n1, ("10.96.45.102", 80), TO_POD_FROM_NODE);
        assert_eq!(from_node.translations, ["dnat", "masquerade"]);
    }
}

#[test]
fn drops_are_found_and_their_fixes_work() {
    for backend in BACKENDS {
        let node = Node::up(backend);
        let (p1, p2) = (("p1", "10.244.1.2"), ("10.244.1.3", 8080));

        let policy = "KUBE-ROUTER-FORWARD -d 10.244.1.3/32 -p tcp -m conntrack --ctstate NEW \
                      -m comment --comment \"it's a 'policy'\" -j DROP";
        node.iptables(&format!("-A {policy}"));
        let dropped = node.check(p1, p2, TO_POD);
        assert!(dropped.end.contains(" -D KUBE-ROUTER-FORWARD "), "{}", dropped.end);
        // The rule for p2 does not concern others.
        assert_eq!(node.check(p1, ("203.0.113.10", 80), TO_OUTSIDE).end, "accept");
        node.lab.exec("n1", &dropped.end);
        assert_eq!(node.check(p1, p2, TO_POD).end, "accept");

        node.iptables("-P FORWARD DROP");
        assert_eq!(node.check(p1, p2, TO_POD).end, "accept");
        node.iptables("-F FLANNEL-FWD");
        let dropped = node.check(p1, p2, TO_POD);
        assert!(dropped.end.ends_with(" -P FORWARD ACCEPT"), "{}", dropped.end);
        node.lab.exec("n1", &dropped.end);
        assert_eq!(node.check(p1, p2, TO_POD).end, "accept");
    }
}

#[test]
fn an_ipset_of_a_network_policy_is_asked() {
    let node = Node::up("nft");
    let set = format!("KUBE-SRC-{}", std::process::id());
    node.lab.exec("n1", &format!("ipset create {set} hash:ip; ipset add {set} 10.244.1.77"));
    node.iptables(&format!(
        "-A KUBE-ROUTER-FORWARD -d 10.244.1.3/32 -m conntrack --ctstate NEW \
         -m set ! --match-set {set} src -j DROP"
    ));
    let (p1, p2) = (("p1", "10.244.1.2"), ("10.244.1.3", 8080));
    assert!(node.check(p1, p2, TO_POD).end.contains("--match-set"));
    node.lab.exec("n1", &format!("ipset add {set} 10.244.1.2"));
    assert_eq!(node.check(p1, p2, TO_POD).end, "accept");
}

/// Reading must leave no trace: no table, no chain, no set that was not there before.
#[test]
fn reading_changes_nothing() {
    let node = Node::up("nft");
    let names = "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names; nft list chains; \
                 ipset list -n";
    let before = node.lab.exec("n1", names);
    let fw = node.read();
    assert!(!fw.tables.iter().any(|t| t.flavour == Flavour::IptablesLegacy));
    assert_eq!(node.lab.exec("n1", names), before);

    // One table, one owner, and each rule with the handle that nft knows it by.
    let mut tables = BTreeSet::new();
    for table in &fw.tables {
        assert!(tables.insert((&table.family, &table.name)), "{} twice", table.name);
        for rule in table.chains.iter().flat_map(|c| &c.rules) {
            assert!(rule.handle.is_some(), "{} {}", table.name, rule.text);
        }
    }
    let services = fw.services();
    let web = services.iter().find(|s| s.name == "default/webrem").expect("the lab's Service");
    assert_eq!(web.endpoints, [(ip("10.244.2.2"), 8080)]);
}

#[test]
fn a_translation_that_outlives_its_rule_is_stale() {
    let lab = Lab::cluster();
    let path = PathBuf::from(format!("/run/netns/{}", lab.netns("n1")));
    let inum = inum_of(&path.metadata().expect("n1 is there"));
    let locals: BTreeSet<IpAddr> = LOCALS.iter().map(|addr| ip(addr)).collect();
    lab.exec("p1", "curl -sS -m 2 --local-port 40123 http://10.96.45.102/");
    let asked = Tuple {
        src: ip("10.244.1.2"),
        dst: ip("10.96.45.102"),
        proto: Proto::Tcp,
        sport: 40123,
        dport: 80,
    };
    let look_up = |tuple| {
        run_in_inum(&path, inum, || conntrack::lookup_here(&tuple)).expect("ctnetlink answers")
    };
    let entry = look_up(asked).expect("the connection is tracked");
    assert_eq!(entry.new_destination(), Some((ip("10.244.1.3"), 8080)));
    assert!(entry.is_answered());
    // Either direction finds it.
    assert_eq!(look_up(entry.reply), Some(entry));
    assert_eq!(look_up(Tuple { sport: 40124, ..asked }), None);
    let read = || read_in(&path, inum).expect("n1 can be entered");
    assert!(!read().is_stale(&entry, &locals));
    let rules = lab.exec("n1", "iptables-save -t nat");
    let leads_there = |line: &&str| line.contains("--to-destination 10.244.1.3:8080");
    let commands: Vec<_> = rules
        .lines()
        .filter(leads_there)
        .map(|rule| format!("iptables -t nat {}", rule.replacen("-A", "-D", 1)))
        .collect();
    lab.exec("n1", &commands.join(" && "));
    assert!(read().is_stale(&entry, &locals));
}
