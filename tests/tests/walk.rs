//! The walk through the real cluster lab: nothing stops what works, whatever looks wrong beside it.

use std::net::IpAddr;

use pkttrace::diagnose::walk::{Ask, End, Scope, Walk, walk_reply, walks};
use pkttrace::firewall;
use pkttrace::net::{NetworkState, What, inspect, snapshot};
use pkttrace_tests::Lab;

/// What the lab's own probes try: from, to, protocol, port.
const WAYS: &[(&str, &str, &str, u16)] = &[
    ("p1", "10.244.1.3", "icmp", 0),
    ("p1", "10.244.1.3", "tcp", 8080),
    ("p2", "10.244.1.2", "tcp", 8080),
    ("p1", "10.244.2.2", "icmp", 0),
    ("p1", "10.244.2.2", "tcp", 8080),
    ("p3", "10.244.1.2", "tcp", 8080),
    ("p1", "10.96.0.10", "udp", 53),
    ("p3", "10.96.0.10", "udp", 53),
    ("dns", "203.0.113.53", "udp", 53),
    ("p1", "10.96.45.102", "tcp", 80),
    ("p1", "10.96.45.103", "tcp", 80),
    ("p1", "10.96.45.100", "tcp", 80),
    ("p1", "10.96.45.101", "tcp", 80),
    ("p1", "10.96.0.1", "tcp", 443),
    ("n1", "10.96.45.103", "tcp", 80),
    ("ext", "192.168.50.11", "tcp", 30080),
    ("ext", "192.168.50.12", "tcp", 30080),
    ("ext", "192.168.50.11", "tcp", 30081),
    ("n1", "127.0.0.1", "tcp", 30080),
    ("ext", "192.168.50.11", "tcp", 8088),
    ("p1", "203.0.113.10", "tcp", 80),
    ("p3", "203.0.113.10", "tcp", 80),
    ("p1", "10.244.1.1", "tcp", 10250),
    ("p3", "192.168.50.11", "tcp", 10250),
    ("n1", "10.244.1.2", "tcp", 8080),
    ("p1", "127.0.0.1", "tcp", 8080),
    ("p3", "10.244.1.200", "tcp", 8080),
    ("pc", "10.244.2.2", "tcp", 8080),
    ("ext", "192.168.50.13", "tcp", 8080),
    ("d1", "203.0.113.10", "tcp", 80),
    ("d1", "172.17.0.3", "tcp", 80),
];

/// All of the lab's hosts with everything that is configured in them.
fn read(lab: &Lab) -> NetworkState {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let prefix = lab.netns("");
    let mut state = runtime.block_on(async {
        let (mut state, _) = snapshot::take().await.unwrap();
        inspect(&mut state, &|n| n.name.starts_with(&prefix), What::ALL).await;
        state
    });
    state.netns.retain(|_, n| n.name.starts_with(&prefix));
    for netns in state.netns.values_mut() {
        let rules = firewall::read_in(&netns.path, netns.inum).unwrap();
        netns.detail.as_mut().unwrap().firewall = rules;
    }
    state
}

fn ask(lab: &Lab, state: &NetworkState, from: &str, to: &str, proto: &str, port: u16) -> Ask {
    let name = lab.netns(from);
    let from = state.netns.values().find(|n| n.name == name).unwrap().inum;
    let to: IpAddr = to.parse().unwrap();
    match proto {
        "icmp" => Ask::ping(from, to),
        "udp" => Ask::udp(from, to, port),
        _ => Ask::tcp(from, to, port),
    }
}

fn assert_clear(walk: &Walk, what: &str) {
    let stops: Vec<_> = walk.obstacles().filter(|(_, o)| o.stops()).collect();
    assert!(stops.is_empty(), "{what}: {stops:#?}");
    assert!(matches!(walk.end, End::Delivered { .. }), "{what}: {:?}", walk.end);
}

/// Every way and its answer are clear; `why` names what was done to the lab.
fn assert_all_clear(lab: &Lab, why: &str) {
    let state = read(lab);
    for &(from, to, proto, port) in WAYS {
        let ask = ask(lab, &state, from, to, proto, port);
        for there in walks(&state, &Scope::everything(), &ask) {
            assert_clear(&there, &format!("{why}: {from} to {to} {proto} {port}"));
            let back = walk_reply(&state, &Scope::everything(), &there).unwrap();
            assert_clear(&back, &format!("{why}: {to} {proto} {port} back to {from}"));
            let last = back.steps.last().unwrap().tuple;
            assert_eq!(last, there.tuple.reversed(), "{why}: {from} to {to} {proto} {port}");
        }
    }
}

#[test]
fn nothing_stops_what_works_in_the_cluster_lab() {
    let lab = Lab::cluster();
    assert_all_clear(&lab, "healthy");
    let traps = [
        ("n1", "iptables -P FORWARD DROP"),
        ("n2", "iptables -P FORWARD DROP"),
        ("n1", "sysctl -qw net.bridge.bridge-nf-call-arptables=0"),
        ("n1", "bridge link set dev veth-p2 hairpin off"),
        ("n1", "iptables -A KUBE-SERVICES -d 10.96.99.99/32 -p tcp --dport 80 -j REJECT"),
        ("n1", "iptables -A INPUT -p tcp --dport 30080 -j DROP"),
        ("dh", "iptables -A INPUT -p tcp --dport 8080 -j DROP"),
        ("n1", "iptables -I FORWARD -s 198.51.100.0/24 -j DROP"),
        ("n1", "iptables -t raw -I PREROUTING -d 10.96.77.77 -j DROP"),
        ("n1", "ip link set eth0 mtu 1400"),
        ("n1", "ip link add veth-dead type veth peer name dead0"),
        ("n1", "ip link set veth-dead master cni0 up"),
    ];
    for (host, command) in traps {
        let ran = lab.attempt(host, command);
        assert!(ran.ok, "{command}: {}", ran.stderr);
    }
    assert_all_clear(&lab, "looks broken, is not");
}
