//! `pkttrace diagnose`: quiet on what is healthy, the right cause first on what is not, and fixes
//! that heal.

use std::collections::BTreeSet;
use std::sync::Mutex;

use pkttrace::lab::Spec;
use pkttrace::lab::probe::{Expected, Step};
use pkttrace_tests::{Diagnosis, Lab, diagnose};
use serde_json::Value;

/// Asks from a host of the lab.
fn ask(lab: &Lab, from: &str, rest: &[&str]) -> Diagnosis {
    Diagnosis::of(&[&["--from", &lab.netns(from)], rest].concat())
}

/// A fault: how it is made, how it shows, and what has to be found where.
struct Fault<'a> {
    host: &'a str,
    inject: &'a str,
    from: &'a str,
    to: &'a [&'a str],
    id: &'a str,
    netns: &'a str,
}

/// Breaks the lab, asserts the first finding, runs its fix as it was printed, and asserts that it
/// healed.
fn assert_found_and_healed(lab: &Lab, fault: &Fault<'_>) {
    lab.exec(fault.host, fault.inject);
    let found = ask(lab, fault.from, fault.to);
    found.assert_first(fault.id, &lab.netns(fault.netns)).run_fix();
    ask(lab, fault.from, fault.to).assert_healthy();
}

/// At once: most of a diagnosis is waiting.
const AT_ONCE: usize = 4;

/// What a probe of the lab asks for, as `diagnose` takes it.
fn asked(step: &Step) -> (String, Vec<String>) {
    let rest = match *step {
        Step::Ping { to, .. } => vec!["--to", to],
        Step::Get { url, .. } | Step::Idle { url, .. } => {
            vec!["--to", url.split_once('/').map_or(url, |(to, _)| to)]
        }
        Step::Lookup { name, .. } => vec!["--to", name.trim_end_matches('.'), "--proto", "dns"],
        Step::Query { server, .. } => vec!["--to", server, "--proto", "dns"],
    };
    (step.from().to_owned(), rest.into_iter().map(str::to_owned).collect())
}

#[test]
fn a_healthy_lab_is_healthy_from_and_to_everywhere() {
    let lab = Lab::cluster();
    let spec = Spec::find("cluster").expect("a lab");
    let healthy = spec.probes.iter().filter(|p| p.expected == Expected::Healthy);
    let probes: Vec<_> = healthy.collect();
    assert!(probes.len() >= 33, "{}", probes.len());
    let own = probes.iter().flat_map(|p| p.steps).map(asked);
    let hosts = ["p1", "p2", "p3", "p4", "p5", "pc", "dns", "n1", "n2"];
    let pods = ["10.244.1.2", "10.244.2.2"];
    // Who shares p1's prefix but not its link is not reached from there, and so gets no answer.
    let is_connected = |(from, to): &(&str, &str)| (*from, *to) != ("pc", "10.244.1.2");
    let pairs = hosts.iter().flat_map(|from| pods.map(|to| (*from, to)));
    let pairs = pairs
        .filter(is_connected)
        .map(|(from, to)| (from.to_owned(), vec!["--to".to_owned(), to.to_owned()]));
    let all: BTreeSet<_> = own.chain(pairs).collect();
    let next = Mutex::new(all.into_iter());
    let work = || {
        while let Some((from, rest)) = { next.lock().expect("no worker panics here").next() } {
            let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
            ask(&lab, &from, &rest).assert_healthy();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
}

#[test]
fn faults_are_named_and_their_fixes_heal() {
    let lab = Lab::cluster();
    for fault in [
        Fault {
            host: "n1",
            inject: "sysctl -qw net.ipv4.ip_forward=0",
            from: "p1",
            to: &["--to", "10.244.2.2"],
            id: "ip-forward-disabled",
            netns: "n1",
        },
        Fault {
            host: "n1",
            inject: "ip link set veth-p2 down",
            from: "p1",
            to: &["--to", "10.244.1.3"],
            id: "veth-host-down",
            netns: "n1",
        },
        Fault {
            host: "n1",
            inject: "ip route replace blackhole 10.244.2.0/25",
            from: "p1",
            to: &["--to", "10.244.2.2"],
            id: "route-blackhole",
            netns: "n1",
        },
        Fault {
            host: "n1",
            inject: "iptables -P FORWARD DROP; iptables -F FLANNEL-FWD",
            from: "p1",
            to: &["--to", "10.244.2.2"],
            id: "forward-policy-drop",
            netns: "n1",
        },
        Fault {
            host: "n2",
            inject: "ip link set flannel.1 down",
            from: "p1",
            to: &["--to", "10.244.2.2"],
            id: "vxlan-link-down-remote",
            netns: "n2",
        },
        Fault {
            host: "n2",
            inject: "sysctl -qw net.ipv4.conf.flannel/1.rp_filter=1; \
                     ip route add 10.244.1.0/24 dev eth0 table 77; \
                     ip rule add to 10.244.1.0/24 lookup 77 priority 50",
            from: "p1",
            to: &["--to", "10.244.2.2"],
            // The strict rp_filter that drops them as well takes none amiss once the rule is passed by.
            id: "policy-rule-hijack",
            netns: "n2",
        },
    ] {
        assert_found_and_healed(&lab, &fault);
    }
}

#[test]
fn faults_of_a_link_are_named_and_their_fixes_heal() {
    let lab = Lab::cluster();
    let to = &["--to", "10.244.1.3"][..];
    for (host, inject, id) in [
        (
            "n1",
            "nft 'table netdev edge { chain in { type filter hook ingress device veth-p1 \
             priority 0; icmp type echo-request ip daddr 10.244.1.3 drop; }; }'",
            "firewall-drop",
        ),
        (
            "n1",
            "ip link set veth-p1 type bridge_slave locked on; \
             bridge fdb show brport veth-p1 | grep -v permanent | while read mac rest; do \
             bridge fdb del $mac dev veth-p1 master; done",
            "bridge-port-locked",
        ),
        ("n1", "ip link set veth-p2 type bridge_slave bcast_flood off", "bridge-port-no-flood"),
        ("n1", "tc qdisc add dev veth-p2 root tbf rate 8bit burst 100b limit 100", "qdisc-loss"),
    ] {
        // Both: whoever is remembered is asked again after a while, and tells where it is by that.
        lab.exec("p2", "ip neigh flush dev eth0");
        lab.exec("p1", "ip neigh flush dev eth0");
        assert_found_and_healed(&lab, &Fault { host, inject, from: "p1", to, id, netns: host });
    }
    // The neighbour is known, and the port that leads there gone.
    lab.exec("p1", "ping -c1 -W1 10.244.1.3");
    let (host, inject, id) = ("n1", "ip link set veth-p2 nomaster", "veth-detached-from-bridge");
    assert_found_and_healed(&lab, &Fault { host, inject, from: "p1", to, id, netns: host });
    // Only one direction is in the zone.
    let fault = Fault {
        host: "n1",
        inject: "iptables -t raw -A PREROUTING -i eth0 -j CT --zone 7",
        from: "p1",
        to: &["--to", "203.0.113.10:80"],
        id: "conntrack-zone-mismatch",
        netns: "n1",
    };
    assert_found_and_healed(&lab, &fault);
    // A chain that somebody has emptied.
    lab.exec("n1", "iptables -t nat -F KUBE-SEP-P2");
    let found = ask(&lab, "p1", &["--to", "10.96.45.102:80"]);
    found.assert_first("nat-chain-empty", &lab.netns("n1"));
    let rule = "-p tcp -m tcp -j DNAT --to-destination 10.244.1.3:8080";
    lab.exec("n1", &format!("iptables -t nat -A KUBE-SEP-P2 {rule}"));
    // One of two endpoints is left to a half of the connections, and the other half to nobody.
    let fault = Fault {
        host: "n1",
        inject: "iptables -t nat -D KUBE-SVC-WEB -j KUBE-SEP-P3",
        from: "p1",
        to: &["--to", "10.96.45.100:80"],
        id: "svc-endpoint-rule-missing",
        netns: "n1",
    };
    assert_found_and_healed(&lab, &fault);
    // The receiver of tunnel packets, which does not see how they are sent.
    let ran = lab.run("break", &["vxlan-port-mismatch"]);
    assert!(ran.ok, "{}", ran.stderr);
    let view = lab.netns("n2");
    let to = &["--to", "10.244.2.2", "--view", &view][..];
    let (host, inject) = ("n2", "true");
    let id = "vxlan-port-mismatch";
    assert_found_and_healed(&lab, &Fault { host, inject, from: "p1", to, id, netns: "n2" });
    // Two have one address, and the wrong one was heard.
    let mac = lab.exec("p5", "ip -br link show eth0 | awk '{ print $3 }'");
    let learn = format!("ip neigh replace 10.244.1.3 lladdr {} dev eth0 nud reachable", mac.trim());
    lab.exec("p1", &learn);
    let fault = Fault {
        host: "p5",
        inject: "ip addr add 10.244.1.3/24 dev eth0",
        from: "p1",
        to: &["--to", "10.244.1.3:8080"],
        id: "duplicate-address",
        netns: "p5",
    };
    assert_found_and_healed(&lab, &fault);
}

#[test]
fn a_node_without_an_endpoint_of_its_own_says_whom_to_ask() {
    let lab = Lab::cluster();
    let found = ask(&lab, "ext", &["--to", "192.168.50.12:30081"]);
    found.assert_first("svc-no-local-endpoints", &lab.netns("n2"));
    let fix = found.first()["fix"].as_array().expect("fix");
    let is_advice = |line: &Value| line.as_str().is_some_and(|line| line.starts_with('#'));
    assert!(fix.iter().all(is_advice), "{fix:?}");
    assert!(found.first()["fix"].to_string().contains("192.168.50.11"), "n1 has one: {fix:?}");
    ask(&lab, "ext", &["--to", "192.168.50.11:30081"]).assert_healthy();
}

#[test]
fn what_cannot_be_asked_is_refused_in_one_line() {
    for args in [
        &["--from", "no-such-netns-here", "--to", "10.0.0.1"][..],
        &["--from", "host"],
        &["--from", "host", "--to", "not an address"],
        &["--from", "host", "--to", "127.0.0.1", "--proto", "tcp"],
    ] {
        let output = diagnose(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
        assert!(output.stdout.is_empty());
    }
}
