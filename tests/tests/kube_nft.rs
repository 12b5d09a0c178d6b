//! Services as kube-proxy's nftables mode writes them: healthy ones, and each of its faults.

use pkttrace_tests::{Diagnosis, Lab};

fn up() -> Lab {
    Lab::up("cluster", &["--proxy", "nftables"])
}

fn ask(lab: &Lab, from: &str, to: &str) -> Diagnosis {
    let (from, view) = (lab.netns(from), lab.netns("n1"));
    Diagnosis::of(&["--view", &view, "--from", &from, "--to", to, "--proto", "tcp"])
}

fn said(found: &Diagnosis, field: &str) -> String {
    found.first()[field].to_string()
}

fn nft(lab: &Lab, commands: &str) {
    lab.exec("n1", &format!("nft '{commands}'"));
}

/// The element of a Service of the lab, and the chain that it leads to.
const WEBSAME: &str = "10.96.45.102 . tcp . 80";
const WEBSAME_CHAIN: &str = "service-O6YHTNFQ-default/websame/tcp/";

#[test]
fn services_of_the_nftables_mode_work_and_are_healthy() {
    let lab = up();
    for service in ["10.96.45.102", "10.96.45.103", "10.96.45.101"] {
        lab.get("p1", service);
    }
    lab.get("ext", "192.168.50.11:30080");
    lab.get("ext", "192.168.50.11:30081");
    for to in ["10.96.45.100:80", "10.96.45.102:80", "10.96.45.103:80"] {
        ask(&lab, "p1", to).assert_healthy();
    }
}

#[test]
fn a_service_without_endpoints_is_said_to_have_none() {
    let lab = up();
    nft(
        &lab,
        &format!(
            "delete element ip kube-proxy service-ips {{ {WEBSAME} }}; \
             add element ip kube-proxy no-endpoint-services \
             {{ {WEBSAME} comment \"default/websame\" : goto reject-chain }}"
        ),
    );
    ask(&lab, "p1", "10.96.45.102:80").assert_first("svc-no-endpoints", &lab.netns("n1"));
}

#[test]
fn a_lost_element_is_put_back_where_it_was() {
    let lab = up();
    nft(&lab, &format!("delete element ip kube-proxy service-ips {{ {WEBSAME} }}"));
    let found = ask(&lab, "p1", "10.96.45.102:80");
    found.assert_first("kube-proxy-rules-missing", &lab.netns("n1"));
    let fix = found.first()["fix"].to_string();
    assert!(fix.contains(WEBSAME) && fix.contains(WEBSAME_CHAIN), "{fix}");
    found.run_fix();
    ask(&lab, "p1", "10.96.45.102:80").assert_healthy();
}

#[test]
fn an_endpoint_that_is_gone_is_the_cause() {
    let lab = up();
    lab.exec("p2", "ip link set eth0 down");
    lab.exec("n1", "ip neigh flush dev cni0");
    let found = ask(&lab, "p1", "10.96.45.102:80");
    found.assert_first("veth-pod-down", &lab.netns("p2")).run_fix();
    ask(&lab, "p1", "10.96.45.102:80").assert_healthy();
}

#[test]
fn an_endpoint_that_moved_away_is_the_cause() {
    let lab = up();
    lab.exec("p2", "ip addr flush dev eth0 && ip addr add 10.244.1.77/24 dev eth0");
    lab.exec("n1", "ip neigh flush dev cni0");
    let found = ask(&lab, "p1", "10.96.45.102:80");
    found.assert_first("svc-endpoint-stale-ip", &lab.netns("n1"));
    assert!(said(&found, "title").contains("10.244.1.3"), "{:#}", found.json);
}

#[test]
fn a_port_that_the_service_lacks_is_said_with_those_it_has() {
    let lab = up();
    let found = ask(&lab, "p1", "10.96.45.102:81");
    found.assert_first("svc-port-unknown", &lab.netns("n1"));
    let title = said(&found, "title");
    assert!(title.contains("default/websame") && title.contains("port 80"), "{title}");
    assert!(!said(&found, "fix").contains("nft "), "no rule of kube-proxy is to blame");
}

#[test]
fn a_table_that_is_gone_is_missed() {
    let lab = up();
    nft(&lab, "delete table ip kube-proxy");
    let found = ask(&lab, "p1", "10.96.45.102:80");
    found.assert_first("kube-proxy-rules-missing", &lab.netns("n1"));
    assert_eq!(found.loud(), ["kube-proxy-rules-missing"], "{:#}", found.json);
}

#[test]
fn a_source_range_is_widened_by_the_asker_alone() {
    let lab = up();
    nft(
        &lab,
        "add chain ip kube-proxy firewall-X-default/websame/tcp/; \
         add rule ip kube-proxy firewall-X-default/websame/tcp/ ip saddr != { 192.0.2.0/24 } drop; \
         add element ip kube-proxy firewall-ips { 10.96.45.102 . tcp . 80 \
         comment \"default/websame\" : goto firewall-X-default/websame/tcp/ }",
    );
    let found = ask(&lab, "p1", "10.96.45.102:80");
    found.assert_first("nodeport-lb-source-ranges", &lab.netns("n1"));
    assert!(said(&found, "fix").contains("ip saddr 10.244.1.2"), "{:#}", found.json);
    found.run_fix();
    ask(&lab, "p1", "10.96.45.102:80").assert_healthy();
    let rules = lab.exec("n1", "nft list table ip kube-proxy");
    assert!(rules.contains("ip saddr != 192.0.2.0/24 drop"), "the range stays: {rules}");
}

#[test]
fn which_traffic_policy_is_local_is_told_apart() {
    let lab = up();
    nft(
        &lab,
        &format!(
            "delete element ip kube-proxy service-ips {{ {WEBSAME} }}; \
             add element ip kube-proxy no-endpoint-services \
             {{ {WEBSAME} comment \"default/websame\" : drop }}"
        ),
    );
    let found = ask(&lab, "p1", "10.96.45.102:80");
    found.assert_first("svc-no-local-endpoints", &lab.netns("n1"));
    assert!(said(&found, "title").contains("internalTrafficPolicy"), "{:#}", found.json);
    assert!(said(&found, "fix").contains("internalTrafficPolicy"), "{:#}", found.json);
}
