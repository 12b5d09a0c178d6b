//! Where it happened: drops and rewrites at the place that made them, and nowhere else; and filters
//! that mean what their user means.

use pkttrace_tests::{Journey, Lab, Tracer, icmp, tcp, udp, version};
use serde_json::Value;

const PEER: &str = "10.244.1.3";

/// The hooks that hops of a journey name in a namespace.
fn hooks<'a>(journey: &'a Journey, netns: &str) -> Vec<&'a str> {
    let hops = journey.json["hops"].as_array().expect("hops");
    let there = hops.iter().filter(|hop| hop["netns"]["name"] == netns);
    let mut hooks: Vec<_> = there.filter_map(|hop| hop["hook"].as_str()).collect();
    hooks.dedup();
    hooks
}

/// Traces a ping from p1 to p2 that is dropped by what `command` makes in `host`.
fn dropped(host: &str, command: &str, options: &[&str]) -> (Lab, Journey) {
    let lab = Lab::cluster();
    lab.ping("p1", PEER);
    lab.exec(host, command);
    let fixed = ["--dst", PEER, "--proto", "icmp", "--no-replies"];
    let tracer = Tracer::start(&lab, &[&fixed, options].concat());
    lab.ping_fails("p1", PEER);
    let run = tracer.finish();
    // A ping that is told of the loss as it sends, as it is at egress, sends again.
    let journey = run.first(&icmp(8)).clone();
    (lab, journey)
}

#[test]
fn a_drop_in_input_is_one_of_input() {
    let nft = "nft add table ip f; \
               nft add chain ip f i '{ type filter hook input priority 0; }'; \
               nft add rule ip f i icmp type echo-request drop";
    for command in [nft, "iptables-legacy -A INPUT -p icmp -j DROP", "iptables-nft -P INPUT DROP"] {
        let (lab, journey) = dropped("p2", command, &[]);
        assert_eq!(journey.json["drop"]["hook"], "input", "{command}: {journey}");
        let hooks = hooks(&journey, &lab.netns("p2"));
        assert_eq!(hooks, ["prerouting", "input"], "{command}: {journey}");
        assert!(journey.path().contains("INPUT"), "{command}: {journey}");
    }
}

#[test]
fn a_drop_at_a_device_is_neither_of_prerouting_nor_of_postrouting() {
    let chain = |hook: &str| {
        format!(
            "nft add table netdev t; \
             nft add chain netdev t c '{{ type filter hook {hook} device eth0 priority 0; }}'; \
             nft add rule netdev t c icmp type echo-request drop comment at-the-device"
        )
    };
    let places: &[(&str, &str)] =
        // Chains at egress are of 5.16.
        if version() < (5, 16) { &[("p2", "ingress")] } else { &[("p2", "ingress"), ("p1", "egress")] };
    for (host, hook) in places {
        let (_lab, journey) = dropped(host, &chain(hook), &["--rules"]);
        assert_eq!(journey.json["drop"]["hook"], *hook, "{journey}");
        assert!(journey.path().contains(&hook.to_uppercase()), "{journey}");
        assert_eq!(journey.json["complete"], true, "{journey}");
        let rules: Vec<&Value> = journey.json["hops"]
            .as_array()
            .expect("hops")
            .iter()
            .filter(|hop| hop["rule"]["comment"] == "at-the-device")
            .collect();
        assert!(!rules.is_empty(), "{journey}");
    }
}

#[test]
fn a_rewrite_at_a_device_is_blamed_on_no_hook() {
    let lab = Lab::cluster();
    lab.exec(
        "n1",
        "nft add table netdev t; \
         nft add chain netdev t c '{ type filter hook ingress device cali1 priority 0; }'; \
         nft add rule netdev t c ip daddr 10.9.9.9 ip daddr set 10.244.1.2",
    );
    let tracer = Tracer::start(&lab, &["--dst", "10.9.9.9", "--no-replies"]);
    lab.attempt("pc", "ping -n -c1 -W1 10.9.9.9");
    let run = tracer.finish();
    let request = run.one(&icmp(8));
    let nat = request.json["nat"].as_array().expect("nat");
    assert_eq!(nat.len(), 1, "{request}");
    let hop = usize::try_from(nat[0]["hop"].as_u64().expect("a hop")).expect("small");
    let hop = &request.json["hops"][hop];
    assert!(hop["hook"].is_null() && hop["stage"] == "rx", "{request}");
}

fn address_of_n1(lab: &Lab) -> String {
    let shown = lab.exec("n1", "ip -4 -o addr show eth0 | grep -o 'inet [0-9.]*' | cut -d' ' -f2");
    shown.trim().to_owned()
}

#[test]
fn a_packet_is_followed_from_where_it_is_still_addressed_otherwise() {
    let lab = Lab::cluster();
    // As Docker publishes a port.
    lab.exec(
        "n1",
        "iptables-nft -t nat -N OWN; \
         iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j OWN; \
         iptables-nft -t nat -A OWN -p tcp --dport 8099 -j DNAT --to-destination 10.244.1.3:8080",
    );
    let node = address_of_n1(&lab);
    let tracer = Tracer::start(&lab, &["--dst", PEER, "--proto", "tcp"]);
    lab.get("n2", &format!("{node}:8099/"));
    let run = tracer.finish();
    let request = run.first(&tcp("S").to(&format!("{node} 8099")));
    request.assert_fate("delivered", "p2");
    assert_eq!(request.json["complete"], true, "{request}");
    assert_eq!(request.json["nat"][0]["kind"], "dnat", "{request}");
    // Asked for by what it has become, it is met in the middle, and says so.
    let tracer =
        Tracer::start(&lab, &["--netns", &lab.netns("p2"), "--proto", "tcp", "--no-replies"]);
    lab.get("n2", &format!("{node}:8099/"));
    let run = tracer.finish();
    let request = run.first(&tcp("S").to(&format!("{PEER} 8080")));
    assert_eq!(request.json["gaps"][0]["why"], "joined-midway", "{request}");
    assert!(request.json["gaps"][0]["after"].is_null(), "{request}");
}

#[test]
fn what_is_translated_without_a_rule_is_followed_from_where_it_enters() {
    let lab = Lab::cluster();
    lab.exec(
        "n1",
        "iptables-nft -t nat -A PREROUTING -p udp --dport 5399 \
         -j DNAT --to-destination 10.244.1.3:5399",
    );
    let node = address_of_n1(&lab);
    let send = format!(
        "python3 -c \"import socket; s = socket.socket(type=socket.SOCK_DGRAM); \
         s.bind(('', 4399)); s.sendto(b'x', ('{node}', 5399))\""
    );
    lab.exec("n2", &send);
    // The connection goes on as it began.
    lab.exec("n1", "iptables-nft -t nat -F PREROUTING");
    let tracer = Tracer::start(&lab, &["--dst", PEER, "--proto", "udp"]);
    lab.exec("n2", &send);
    let run = tracer.finish();
    let packet = run.first(&udp().to(&format!("{node} 5399")));
    assert_eq!(packet.json["complete"], true, "{packet}");
    assert_eq!(packet.json["nat"][0]["kind"], "dnat", "{packet}");
}

#[test]
fn errors_are_icmp_too() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--host", "10.244.1.2", "--proto", "icmp"]);
    lab.attempt("p1", "bash -c 'echo x > /dev/udp/10.244.1.3/4444'");
    let run = tracer.finish();
    run.first(&icmp(3).code(3)).assert_fate("delivered", "p1");
    run.none(&udp());
}

#[test]
fn silence_is_explained() {
    let lab = Lab::cluster();
    let options = ["--netns", &lab.netns("p1"), "--dst", "10.96.0.10", "--dport", "5353"];
    let tracer = Tracer::start(&lab, &options);
    lab.exec("p1", "getent ahostsv4 web.default.svc.cluster.local");
    let run = tracer.finish();
    assert_eq!(run.printed, 0, "{}", run.listing());
    assert!(run.stderr.contains("nothing matched: "), "{}", run.stderr);
    let near = run.stderr.lines().find(|line| line.contains("nearest: "));
    assert!(
        near.is_some_and(|line| line.ends_with("of udp to 10.96.0.10:53, not :5353")),
        "{}",
        run.stderr
    );
}
