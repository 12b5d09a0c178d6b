//! Answers that go elsewhere, addresses that are not one node's alone, and what guards or managers
//! have written: the cause by its kind, and a remedy that leaves all else alone.

use pkttrace_tests::{Diagnosis, Site, greeter, name_server_at, tun};

/// A client beyond a router, and a host with a pod or container on a bridge.
fn host() -> Site {
    let site = Site::new(&["cl", "gw", "h", "c"]);
    site.wire(("cl", "up0", "203.0.113.70/24"), ("gw", "out0", "203.0.113.1/24"));
    site.wire(("gw", "in0", "192.168.77.1/24"), ("h", "lan0", "192.168.77.9/24"));
    site.exec("cl", "ip route add default via 203.0.113.1");
    site.exec("gw", "sysctl -qw net.ipv4.ip_forward=1");
    site.exec(
        "h",
        "ip link add br7 type bridge && ip addr add 10.85.0.1/24 dev br7 && ip link set br7 up \
         && ip route add default via 192.168.77.1 \
         && sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=2",
    );
    site.plug("h", "br7", "c");
    site.exec("c", "ip addr add 10.85.0.5/24 dev e0 && ip route add default via 10.85.0.1");
    site
}

fn asked<'a>(from: &'a str, to: &'a str) -> [&'a str; 4] {
    ["--from", from, "--to", to]
}

#[test]
fn an_answer_that_a_vpn_takes_is_led_back() {
    let site = host();
    greeter(&site, "c", 8080);
    site.exec(
        "h",
        "iptables -t nat -A PREROUTING -p tcp --dport 80 -j DNAT --to-destination 10.85.0.5:8080",
    );
    let _vpn = tun(&site, "h", "vpn0");
    site.exec(
        "h",
        "ip addr add 10.86.0.5/24 dev vpn0 && ip route add 0.0.0.0/1 via 10.86.0.1 \
         && ip route add 128.0.0.0/1 via 10.86.0.1",
    );
    let from = site.netns("cl");
    let found = Diagnosis::of(&asked(&from, "192.168.77.9:80"));
    found.assert_first("reply-other-device", &site.netns("h")).run_fix();
    Diagnosis::of(&asked(&from, "192.168.77.9:80")).assert_healthy();
    let others = site.exec("h", "ip route get 203.0.113.71");
    assert!(others.contains("vpn0"), "all others go by the VPN still: {others}");
}

#[test]
fn a_network_that_takes_the_lan_leaves_one_address_of_it() {
    let site = host();
    greeter(&site, "c", 8080);
    greeter(&site, "cl", 8000);
    site.exec("h", "ip addr add 203.0.113.200/24 dev br7");
    let from = site.netns("h");
    let found = Diagnosis::of(&asked(&from, "203.0.113.70:8000"));
    found.assert_first("route-wrong-dev", &from).run_fix();
    Diagnosis::of(&asked(&from, "203.0.113.70:8000")).assert_healthy();
    Diagnosis::of(&asked(&from, "10.85.0.5:8080")).assert_healthy();
    assert!(site.exec("h", "ip route").contains("203.0.113.0/24 dev br7"), "the network stays");
}

/// Two nodes with a tunnel between them by a link of their own, and links to a router that knows
/// nothing of pods. `local`, `to`: what the tunnel ends have as theirs, and as each other's.
fn overlay([local_a, local_b]: [&str; 2], [to_a, to_b]: [&str; 2]) -> Site {
    let site = Site::new(&["r", "a", "b", "p"]);
    site.wire(("a", "back0", "10.87.9.1/24"), ("b", "back0", "10.87.9.2/24"));
    site.wire(("a", "pub0", "198.18.1.5/25"), ("r", "ra0", "198.18.1.1/25"));
    site.wire(("b", "pub0", "198.18.1.133/25"), ("r", "rb0", "198.18.1.129/25"));
    site.exec("r", "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0");
    let nodes =
        [("a", 1, 2, local_a, to_b, "198.18.1.1"), ("b", 2, 1, local_b, to_a, "198.18.1.129")];
    for (node, own, other, local, to, via) in nodes {
        site.exec(
            node,
            &format!(
                "ip link add ov0 type vxlan id 7 local {local} dev back0 dstport 8472 nolearning \
                 && ip link set ov0 address 02:00:00:00:87:0{own} up \
                 && ip addr add 10.87.{own}.0/32 dev ov0 \
                 && ip link add br7 type bridge && ip addr add 10.87.{own}.1/24 dev br7 \
                 && ip link set br7 up \
                 && ip neigh add 10.87.{other}.0 lladdr 02:00:00:00:87:0{other} dev ov0 nud permanent \
                 && bridge fdb add 02:00:00:00:87:0{other} dev ov0 dst {to} \
                 && ip route add default via {via} \
                 && ip route add 10.87.{other}.0/24 via 10.87.{other}.0 dev ov0 onlink \
                 && sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=1"
            ),
        );
    }
    site.plug("b", "br7", "p");
    site.exec("p", "ip addr add 10.87.2.7/24 dev e0 && ip route add default via 10.87.2.1");
    site
}

#[test]
fn a_route_that_names_another_devices_address_as_source() {
    let site = overlay(["10.87.9.1", "10.87.9.2"], ["10.87.9.1", "10.87.9.2"]);
    greeter(&site, "p", 80);
    let from = site.netns("a");
    Diagnosis::of(&asked(&from, "10.87.2.7:80")).assert_healthy();
    site.exec("a", "ip route replace 10.87.2.0/24 via 10.87.2.0 dev ov0 onlink src 198.18.1.5");
    let found = Diagnosis::of(&asked(&from, "10.87.2.7:80"));
    found.assert_first("route-wrong-source", &from).run_fix();
    Diagnosis::of(&asked(&from, "10.87.2.7:80")).assert_healthy();
}

#[test]
fn a_tunnel_whose_other_end_is_an_address_of_its_own() {
    let site = overlay(["10.0.2.15", "10.0.2.15"], ["10.0.2.15", "10.0.2.15"]);
    for node in ["a", "b"] {
        site.exec(node, "ip link add nat0 type bridge && ip addr add 10.0.2.15/24 dev nat0");
        site.exec(node, "ip link set nat0 up");
    }
    let found = Diagnosis::of(&asked(&site.netns("a"), "10.87.2.7"));
    found.assert_first("vxlan-fdb-wrong", &site.netns("a"));
    let title = found.first()["title"].as_str().unwrap_or_default();
    assert!(title.contains("10.0.2.15, which is an address of"), "{title}");
    let fix = found.first()["fix"].to_string();
    assert!(
        fix.contains("10.87.9.2") || fix.contains("198.18.1.133"),
        "an address of b's own: {fix}"
    );
}

/// A pod alone on its link, whose node answers for all its gateways.
fn routed_pod() -> Site {
    let site = Site::new(&["n", "p", "s"]);
    site.wire(("n", "cali7", "169.254.7.1/32"), ("p", "e0", "10.88.0.9/32"));
    site.wire(("n", "lan0", "192.168.88.2/24"), ("s", "e0", "192.168.88.9/24"));
    site.exec(
        "n",
        "ip route add 10.88.0.9 dev cali7 && ip route add default via 192.168.88.9 \
         && sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 \
            net.ipv4.conf.cali7.rp_filter=0 net.ipv4.conf.cali7.proxy_arp=1 \
            net.ipv4.neigh.cali7.proxy_delay=0",
    );
    site.exec("p", "ip route add 169.254.1.1 dev e0 && ip route add default via 169.254.1.1");
    site.exec("s", "ip route add default via 192.168.88.2");
    site
}

#[test]
fn a_guard_against_forged_sources_is_told_the_way_back() {
    let site = routed_pod();
    greeter(&site, "s", 80);
    site.exec("p", "ip addr add 172.31.88.4/32 dev e0");
    site.exec("p", "ip route replace default via 169.254.1.1 src 172.31.88.4");
    let guard = "-i cali+ -m rpfilter --validmark --invert -j DROP";
    site.exec("n", &format!("iptables -t raw -A PREROUTING {guard}"));
    let from = site.netns("p");
    let found = Diagnosis::of(&asked(&from, "192.168.88.9:80"));
    found.assert_first("rp-filter-strict-asymmetric", &site.netns("n")).run_fix();
    Diagnosis::of(&asked(&from, "192.168.88.9:80")).assert_healthy();
    assert!(site.exec("n", "iptables-save -t raw").contains("rpfilter"), "the guard stays");
}

#[test]
fn a_route_that_refuses_a_block_of_pods_stays() {
    let site = routed_pod();
    site.exec("n", "ip route del 10.88.0.9 && ip route add blackhole 10.88.0.0/26");
    let from = site.netns("s");
    let found = Diagnosis::of(&asked(&from, "10.88.0.9"));
    found.assert_first("route-blackhole", &site.netns("n")).run_fix();
    Diagnosis::of(&asked(&from, "10.88.0.9")).assert_healthy();
    let routes = site.exec("n", "ip route");
    assert!(routes.contains("blackhole 10.88.0.0/26"), "{routes}");
}

#[test]
fn an_answer_that_conntrack_was_kept_from_is_no_answer_to_a_policy() {
    let site = routed_pod();
    site.exec("n", "ip link add dns0 type bridge && ip addr add 169.254.25.7/32 dev dns0");
    site.exec("n", "ip link set dns0 up");
    name_server_at(&site, "n", ("169.254.25.7", 53), |name| match name {
        "one.test" => &[[10, 88, 0, 1]],
        _ => &[],
    });
    site.resolver("p", "nameserver 169.254.25.7\n");
    let ask = ["--from", &site.netns("p"), "--to", "one.test", "--proto", "dns"];
    site.exec(
        "n",
        "iptables -t raw -A PREROUTING -d 169.254.25.7 -p udp --dport 53 -j NOTRACK \
         && iptables -t raw -A OUTPUT -s 169.254.25.7 -p udp --sport 53 -j NOTRACK",
    );
    Diagnosis::of(&ask).assert_healthy();
    site.exec(
        "n",
        "iptables -A OUTPUT -o cali7 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT \
         && iptables -A OUTPUT -o cali7 -j DROP",
    );
    let found = Diagnosis::of(&ask);
    found.assert_first("conntrack-untracked", &site.netns("n")).run_fix();
    Diagnosis::of(&ask).assert_healthy();
    let rules = site.exec("n", "iptables-save");
    assert!(rules.contains("-j CT --notrack") || rules.contains("-j NOTRACK"), "{rules}");
    assert!(rules.contains("-A OUTPUT -o cali7 -j DROP"), "{rules}");
}

#[test]
fn a_dead_endpoint_that_a_client_sticks_to_is_no_hosts_address() {
    let site = host();
    greeter(&site, "c", 8080);
    site.exec(
        "h",
        "iptables -t nat -N SVC && iptables -t nat -N DEAD \
         && iptables -t nat -A PREROUTING -d 10.97.7.7/32 -p tcp --dport 80 -j SVC \
         && iptables -t nat -A SVC -m recent --rcheck --name DEAD -j DEAD \
         && iptables -t nat -A SVC -p tcp -j DNAT --to-destination 10.85.0.5:8080 \
         && iptables -t nat -A DEAD -p tcp -j DNAT --to-destination 10.85.0.77:8080 \
         && echo +203.0.113.70 > /proc/net/xt_recent/DEAD",
    );
    site.exec("gw", "ip route add 10.97.7.7 via 192.168.77.9");
    let found = Diagnosis::of(&asked(&site.netns("cl"), "10.97.7.7:80"));
    let (id, title) = (&found.first()["id"], found.first()["title"].as_str().unwrap_or_default());
    assert_ne!(id, "translation-takes-host", "{}", found.json);
    assert!(title.contains("10.85.0.77"), "{}", found.json);
}

#[test]
fn the_name_server_of_a_container_without_the_rules_that_lead_there() {
    let site = host();
    site.exec("c", "iptables -t nat -N DOCKER_OUTPUT");
    site.resolver("c", "nameserver 127.0.0.11\noptions ndots:0\n");
    name_server_at(&site, "c", ("127.0.0.11", 41_233), |name| match name {
        "db" => &[[10, 85, 0, 1]],
        _ => &[],
    });
    let ask = ["--from", &site.netns("c"), "--to", "db", "--proto", "dns"];
    let found = Diagnosis::of(&ask);
    found.assert_first("dns-server-down", &site.netns("c")).run_fix();
    Diagnosis::of(&ask).assert_healthy();
}

#[test]
fn answers_that_a_mark_delivers_on_the_way_are_spared_it() {
    let site = host();
    greeter(&site, "c", 443);
    // A transparent proxy's: what containers send is marked, and taken here.
    site.exec(
        "h",
        "iptables -t nat -A PREROUTING -p tcp --dport 8443 -j DNAT --to-destination 10.85.0.5:443 \
         && iptables -t mangle -A PREROUTING -i br7 -p tcp -j MARK --set-mark 9 \
         && ip rule add pref 900 fwmark 9 lookup 90 && ip route add local default dev lo table 90",
    );
    let from = site.netns("cl");
    let found = Diagnosis::of(&asked(&from, "192.168.77.9:8443"));
    found.assert_first("policy-rule-hijack", &site.netns("h")).run_fix();
    Diagnosis::of(&asked(&from, "192.168.77.9:8443")).assert_healthy();
    assert!(site.exec("h", "ip rule").contains("900:"), "all others are proxied still");
}

#[test]
fn a_redirection_to_where_nobody_takes_it_is_the_cause() {
    let site = host();
    greeter(&site, "cl", 8000);
    site.exec("gw", "ip route add 10.85.0.0/24 via 192.168.77.9");
    let redirect = "-p tcp -m tcp --dport 8000 -j REDIRECT --to-ports 2055";
    site.exec("h", &format!("iptables -t nat -A PREROUTING {redirect}"));
    let from = site.netns("c");
    let found = Diagnosis::of(&asked(&from, "203.0.113.70:8000"));
    found.assert_first("redirect-unserved", &site.netns("h")).run_fix();
    Diagnosis::of(&asked(&from, "203.0.113.70:8000")).assert_healthy();
    let rules = site.exec("h", "iptables -t nat -S PREROUTING");
    assert!(rules.contains(redirect), "all others are redirected still: {rules}");
}

#[test]
fn answers_kept_from_conntrack_are_not_translated_back() {
    let site = host();
    greeter(&site, "h", 80);
    site.exec(
        "h",
        "iptables -t nat -A PREROUTING -d 10.89.0.9 -p tcp --dport 80 -j DNAT --to 10.85.0.1:80 \
         && iptables -t raw -A OUTPUT -s 10.85.0.1 -p tcp --sport 80 -j CT --notrack",
    );
    let from = site.netns("c");
    let found = Diagnosis::of(&asked(&from, "10.89.0.9:80"));
    found.assert_first("conntrack-untracked", &site.netns("h")).run_fix();
    Diagnosis::of(&[&asked(&from, "10.89.0.9:80")[..], &["--proto", "tcp"]].concat())
        .assert_healthy();
}

#[test]
fn a_written_address_of_the_other_end_is_corrected() {
    let site = Site::new(&["n", "p"]);
    site.wire(("n", "vp", "10.88.0.1/32"), ("p", "e0", "10.88.0.2/32"));
    site.exec("n", "ip route add 10.88.0.2 dev vp");
    site.exec(
        "p",
        "ip route add 169.254.7.1 dev e0 && ip route add default via 169.254.7.1 \
         && ip neigh add 169.254.7.1 lladdr 02:77:00:00:00:01 dev e0 nud permanent",
    );
    let from = site.netns("p");
    let found = Diagnosis::of(&asked(&from, "10.88.0.1"));
    found.assert_first("neigh-stale-permanent", &from).run_fix();
    Diagnosis::of(&asked(&from, "10.88.0.1")).assert_healthy();
}

#[test]
fn one_network_behind_two_nodes_is_named_as_such() {
    let site = Site::new(&["a", "b", "pa", "pb"]);
    site.wire(("a", "up0", "192.168.78.1/24"), ("b", "up0", "192.168.78.2/24"));
    for (node, pod, addr) in [("a", "pa", "10.84.0.3/24"), ("b", "pb", "10.84.0.4/24")] {
        site.exec(
            node,
            "ip link add br7 type bridge && ip addr add 10.84.0.1/24 dev br7 && ip link set br7 up \
             && sysctl -qw net.ipv4.ip_forward=1",
        );
        site.plug(node, "br7", pod);
        site.exec(pod, &format!("ip addr add {addr} dev e0 && ip route add default via 10.84.0.1"));
    }
    let found = Diagnosis::of(&asked(&site.netns("pa"), "10.84.0.4"));
    found.assert_first("route-wrong-dev", &site.netns("a"));
    let title = found.first()["title"].as_str().unwrap_or_default();
    assert!(title.contains(&site.netns("b")) && title.contains("10.84.0.0/24"), "{title}");
}

#[test]
fn whoever_answers_for_an_address_of_another_device_is_named() {
    let site = Site::new(&["sw", "n1", "n2", "cl"]);
    site.exec("sw", "ip link add br9 type bridge && ip link set br9 up");
    for (host, addr) in [("n1", "10.83.1.11"), ("n2", "10.83.1.12"), ("cl", "10.83.1.50")] {
        site.plug("sw", "br9", host);
        site.exec(host, &format!("ip addr add {addr}/24 dev e0"));
    }
    for host in ["n1", "n2"] {
        let service = "ip link add vip0 type bridge && ip addr add 10.83.1.65/32 dev vip0";
        site.exec(host, &format!("{service} && ip link set vip0 up"));
    }
    site.exec("n1", "sysctl -qw net.ipv4.conf.all.arp_ignore=1");
    greeter(&site, "n1", 80);
    let found = Diagnosis::of(&asked(&site.netns("cl"), "10.83.1.65:80"));
    found.assert_first("duplicate-address", &site.netns("n2"));
    assert!(found.json.to_string().contains("arp_ignore=1"), "{:#}", found.json);
}
