//! `--rules` on what Kubernetes, CNI plugins and Docker write: each hop names the rule that
//! `iptables-save` shows, with iptables-nft (as the kernel tells) and with iptables-legacy
//! (computed from the packet as observed).

use pkttrace_tests::{Journey, Lab, Pick, Tracer, icmp, tcp};
use serde_json::Value;

/// A cluster with the rules of one flavour.
struct Bed {
    lab: Lab,
    flavour: &'static str,
}

impl Bed {
    fn new(flavour: &'static str) -> Self {
        Self { lab: Lab::cluster_with(flavour), flavour }
    }

    /// Runs iptables of this flavour on a host, with these arguments.
    fn iptables(&self, host: &str, rules: &[&str]) {
        for rule in rules {
            self.lab.exec(host, &format!("iptables-{} -w {rule}", self.flavour));
        }
    }

    /// Traces what `traffic` makes, and returns the one packet that `pick` means.
    fn traced(&self, options: &[&str], pick: &Pick, traffic: impl FnOnce()) -> Journey {
        let tracer = Tracer::start(&self.lab, &[options, &["--rules"]].concat());
        traffic();
        tracer.await_journeys(1, pick);
        tracer.finish().first(pick).clone()
    }

    /// Asserts that a hop names a rule that `iptables-save` of its host prints just so, with the
    /// chains that lead to it and its comment.
    fn assert_rule(&self, journey: &Journey, at: &str, rule: &str, via: &[&str]) {
        let hops = journey.hops_at(at);
        let hop = hops.first().unwrap_or_else(|| panic!("no hop {at}: {journey}"));
        let told = &hop["rule"];
        assert_eq!(told["text"], rule, "{at}: {journey}");
        let basis = if self.flavour == "nft" { "seen" } else { "computed" };
        assert_eq!(told["basis"], basis, "{at}: {journey}");
        let chain = rule.split(' ').nth(1).unwrap_or_default();
        assert_eq!((&hop["chain"], &told["chain"]), (&chain.into(), &chain.into()), "{at}");
        let chains: Vec<&str> =
            told["via"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert_eq!(chains, via, "{at}: {journey}");
        let comment = rule.split_once("--comment \"").and_then(|(_, rest)| rest.split('"').next());
        assert_eq!(told["comment"].as_str(), comment, "{at}: {journey}");
        let table = hop["table"].as_str().unwrap_or_default();
        let host = at.split('/').next().unwrap_or_default();
        let saved = self.lab.exec(host, &format!("iptables-{}-save -t {table}", self.flavour));
        assert!(saved.lines().any(|line| line == rule), "{rule} is not in\n{saved}");
    }

    /// A packet to p3 on the other node that a rule of n1 keeps: the drop names it.
    fn assert_kept(&self, rule: &str, add: &str, via: &[&str]) {
        self.lab.ping("p1", "10.244.2.2");
        self.iptables("n1", &[add]);
        let options = ["--dst", "10.244.2.2", "--proto", "icmp"];
        let fails = || self.lab.ping_fails("p1", "10.244.2.2");
        let request = self.traced(&options, &icmp(8), fails);
        assert_eq!(request.json["drop"]["hook"], "forward");
        for at in ["n1/cni0>flannel.1/FORWARD", "n1/drop"] {
            self.assert_rule(&request, at, rule, via);
        }
    }
}

/// Each with both flavours.
macro_rules! cases {
    ($($name:ident,)+) => {
        mod nft {
            $( #[test] fn $name() { super::$name(&super::Bed::new("nft")); } )+
        }
        mod legacy {
            $( #[test] fn $name() { super::$name(&super::Bed::new("legacy")); } )+
        }
    };
}

cases! {
    a_cluster_ip_names_the_way_to_its_endpoint,
    a_node_port_names_the_rules_on_its_way,
    a_source_range_of_a_load_balancer_names_its_rule,
    a_host_port_names_the_rules_of_portmap,
    a_masqueraded_packet_names_its_rule,
    a_network_policy_that_drops_names_its_rule_and_comment,
    a_network_policy_that_rejects_names_its_rule_and_its_answer,
    a_reject_names_its_rule,
    a_policy_that_drops_is_named,
    a_rule_of_docker_user_is_named,
    the_isolation_of_docker_networks_is_named,
}

fn a_cluster_ip_names_the_way_to_its_endpoint(bed: &Bed) {
    let syn = bed.traced(&["--dst", "10.96.45.103"], &tcp("S").at("p1"), || {
        bed.lab.get("p1", "10.96.45.103");
    });
    let rule = "-A KUBE-SEP-P3 -p tcp -m tcp -j DNAT --to-destination 10.244.2.2:8080";
    let via = ["PREROUTING", "KUBE-SERVICES", "KUBE-SVC-WEBREM"];
    bed.assert_rule(&syn, "n1/cni0/PREROUTING", rule, &via);
    let rule = "-A FLANNEL-FWD -s 10.244.0.0/16 -j ACCEPT";
    bed.assert_rule(&syn, "n1/cni0>flannel.1/FORWARD", rule, &["FORWARD"]);
}

fn a_node_port_names_the_rules_on_its_way(bed: &Bed) {
    let options = ["--dst", "192.168.50.12", "--dport", "30080"];
    let syn = bed.traced(&options, &tcp("S").at("ext"), || {
        bed.lab.get("ext", "192.168.50.12:30080");
    });
    let rule = "-A KUBE-SEP-P3 -p tcp -m tcp -j DNAT --to-destination 10.244.2.2:8080";
    let via =
        ["PREROUTING", "KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXT-WEBREM", "KUBE-SVC-WEBREM"];
    bed.assert_rule(&syn, "n2/eth0/PREROUTING", rule, &via);
    let rule = "-A KUBE-POSTROUTING -j MASQUERADE --random-fully";
    bed.assert_rule(&syn, "n2/cni0/POSTROUTING", rule, &["POSTROUTING"]);
}

fn a_source_range_of_a_load_balancer_names_its_rule(bed: &Bed) {
    let rule = "-A KUBE-PROXY-FIREWALL -m conntrack --ctorigdst 192.168.50.11 --ctorigdstport 30080 \
                -m comment --comment \"traffic not accepted by KUBE-FW\" -j DROP";
    bed.iptables("n1", &[rule]);
    let options = ["--dst", "192.168.50.11", "--dport", "30080"];
    let syn = bed.traced(&options, &tcp("S").at("ext"), || {
        bed.lab.exec_fails("ext", "curl -sS -m 1 http://192.168.50.11:30080/");
    });
    syn.assert_fate("dropped", "n1");
    bed.assert_rule(&syn, "n1/drop", rule, &["FORWARD"]);
}

fn a_host_port_names_the_rules_of_portmap(bed: &Bed) {
    let options = ["--dst", "192.168.50.11", "--dport", "8088"];
    let syn = bed.traced(&options, &tcp("S").at("ext"), || {
        bed.lab.get("ext", "192.168.50.11:8088");
    });
    let rule = "-A CNI-DN-P2 -p tcp -m tcp --dport 8088 -j DNAT --to-destination 10.244.1.3:8080";
    let via = ["PREROUTING", "CNI-HOSTPORT-DNAT"];
    bed.assert_rule(&syn, "n1/eth0/PREROUTING", rule, &via);
}

fn a_masqueraded_packet_names_its_rule(bed: &Bed) {
    let options = ["--dst", "203.0.113.10", "--proto", "icmp"];
    let request = bed.traced(&options, &icmp(8), || bed.lab.ping("p1", "203.0.113.10"));
    let rule = "-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully";
    bed.assert_rule(&request, "n1/eth0/POSTROUTING", rule, &["POSTROUTING"]);
}

fn a_network_policy_that_drops_names_its_rule_and_comment(bed: &Bed) {
    let rule = "-A KUBE-ROUTER-FORWARD -s 10.244.1.2/32 -p icmp -m comment --comment \
                \"shop/deny-web: a default deny\" -j DROP";
    bed.assert_kept(rule, rule, &["FORWARD"]);
}

fn a_network_policy_that_rejects_names_its_rule_and_its_answer(bed: &Bed) {
    bed.lab.ping("p3", "10.244.1.3");
    let rule = "-A KUBE-POD-FW-P2 -m comment --comment \"rule to REJECT traffic destined for POD\" \
                -j REJECT --reject-with icmp-port-unreachable";
    let lead =
        "-I KUBE-ROUTER-FORWARD -d 10.244.1.3/32 -m conntrack --ctstate NEW -j KUBE-POD-FW-P2";
    bed.iptables("n1", &["-N KUBE-POD-FW-P2", rule, lead]);
    let options = ["--dst", "10.244.1.3", "--proto", "icmp", "--rules"];
    let tracer = Tracer::start(&bed.lab, &options);
    bed.lab.ping_fails("p3", "10.244.1.3");
    tracer.await_journeys(1, &icmp(3).code(3));
    let run = tracer.finish();
    let request = run.first(&icmp(8));
    bed.assert_rule(request, "n1/drop", rule, &["FORWARD", "KUBE-ROUTER-FORWARD"]);
    let answer = run.first(&icmp(3).code(3));
    answer.assert_child_of(request, "icmp-error").assert_fate("delivered", "p3");
}

fn a_reject_names_its_rule(bed: &Bed) {
    let rule = "-A FORWARD -p icmp -j REJECT --reject-with icmp-host-prohibited";
    bed.assert_kept(rule, &rule.replacen("-A", "-I", 1), &[]);
}

fn a_policy_that_drops_is_named(bed: &Bed) {
    bed.lab.ping("p1", "10.244.2.2");
    bed.iptables("n1", &["-P FORWARD DROP", "-F FLANNEL-FWD"]);
    let options = ["--dst", "10.244.2.2", "--proto", "icmp"];
    let request = bed.traced(&options, &icmp(8), || bed.lab.ping_fails("p1", "10.244.2.2"));
    let hops = request.hops_at("n1/drop");
    assert_eq!(hops[0]["rule"]["text"], "policy drop", "{request}");
    assert_eq!((&hops[0]["table"], &hops[0]["chain"]), (&"filter".into(), &"FORWARD".into()));
}

fn a_rule_of_docker_user_is_named(bed: &Bed) {
    bed.iptables("dh", &["-I DOCKER-USER -i eth0 -s 203.0.113.0/24 -j DROP"]);
    bed.lab.exec("ext", "ip route add 172.17.0.0/16 via 192.168.50.13");
    let options = ["--src", "203.0.113.10", "--dst", "172.17.0.3", "--proto", "icmp"];
    let request = bed.traced(&options, &icmp(8), || {
        bed.lab.exec_fails("ext", "ping -n -c1 -W1 -I 203.0.113.10 172.17.0.3");
    });
    let rule = "-A DOCKER-USER -s 203.0.113.0/24 -i eth0 -j DROP";
    bed.assert_rule(&request, "dh/drop", rule, &["FORWARD"]);
}

fn the_isolation_of_docker_networks_is_named(bed: &Bed) {
    let options = ["--src", "172.17.0.2", "--dst", "172.18.0.2", "--proto", "icmp"];
    let request = bed.traced(&options, &icmp(8), || bed.lab.ping_fails("d1", "172.18.0.2"));
    let rule = "-A DOCKER-ISOLATION-STAGE-2 -o br-mynet -j DROP";
    let via = ["FORWARD", "DOCKER-ISOLATION-STAGE-1"];
    bed.assert_rule(&request, "dh/drop", rule, &via);
}
