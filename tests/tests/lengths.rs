//! Answers too long for the way back: the question is small, and its own way takes all that is sent
//! there.

use pkttrace_tests::{Diagnosis, Site, greeter};

/// A client behind a router that masquerades, a narrow link, and a server that sends full segments.
fn narrow() -> Site {
    let site = Site::new(&["cl", "home", "isp", "sv"]);
    site.wire(("cl", "e0", "10.95.1.2/24"), ("home", "lan0", "10.95.1.1/24"));
    site.wire(("home", "wan0", "10.95.2.2/30"), ("isp", "cust0", "10.95.2.1/30"));
    site.wire(("isp", "core0", "10.95.3.1/24"), ("sv", "e0", "10.95.3.9/24"));
    for router in ["home", "isp"] {
        site.exec(router, "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0");
    }
    site.exec("home", "ip link set wan0 mtu 1400 && ip route add default via 10.95.2.1");
    site.exec("home", "iptables -t nat -A POSTROUTING -o wan0 -j MASQUERADE");
    site.exec("isp", "ip link set cust0 mtu 1400");
    site.exec("cl", "ip route add default via 10.95.1.1");
    site.exec("sv", "ip route add default via 10.95.3.1");
    site
}

/// The question, and what is asked for.
fn ask(site: &Site) -> [String; 4] {
    ["--from".to_owned(), site.netns("cl"), "--to".to_owned(), "10.95.3.9:8443".to_owned()]
}

fn diagnose(site: &Site) -> Diagnosis {
    let ask = ask(site);
    Diagnosis::of(&ask.each_ref().map(String::as_str))
}

const SILENT_ROUTER: &str =
    "iptables -A OUTPUT -p icmp --icmp-type destination-unreachable -j DROP";

#[test]
fn a_router_that_may_not_complain_swallows_long_answers() {
    let site = narrow();
    greeter(&site, "sv", 8443);
    diagnose(&site).assert_healthy();
    site.exec("isp", SILENT_ROUTER);
    diagnose(&site).assert_first("pmtud-blackhole", &site.netns("isp")).run_fix();
    let rules = site.exec("isp", "iptables -S OUTPUT");
    assert!(rules.contains("-j DROP") && rules.contains("-d 10.95.3.9/32"), "{rules}");
    diagnose(&site).assert_healthy();
}

#[test]
fn a_server_that_drops_all_icmp_does_not_hear_of_it() {
    let site = narrow();
    greeter(&site, "sv", 8443);
    site.exec(
        "sv",
        "nft add table ip guard && nft 'add chain ip guard in { type filter hook input priority 0; }' \
         && nft add rule ip guard in ip protocol icmp drop",
    );
    diagnose(&site).assert_first("pmtud-blackhole", &site.netns("sv")).run_fix();
    diagnose(&site).assert_healthy();
}

#[test]
fn a_bridge_drops_what_the_router_says_to_the_server() {
    let site = Site::new(&["cl", "rt", "sw", "sv"]);
    site.exec("sw", "ip link add br0 type bridge && ip link set br0 up");
    for (host, addr) in [("rt", "10.95.6.1/24"), ("sv", "10.95.6.9/24")] {
        site.plug("sw", "br0", host);
        site.exec(host, &format!("ip addr add {addr} dev e0"));
    }
    site.wire(("cl", "e0", "10.95.7.2/24"), ("rt", "in0", "10.95.7.1/24"));
    site.exec("rt", "sysctl -qw net.ipv4.ip_forward=1 && ip link set in0 mtu 1400");
    site.exec("cl", "ip link set e0 mtu 1400 && ip route add default via 10.95.7.1 advmss 1460");
    site.exec("sv", "ip route add default via 10.95.6.1");
    greeter(&site, "sv", 8443);
    let from = site.netns("cl");
    let ask = ["--from", &from, "--to", "10.95.6.9:8443"];
    Diagnosis::of(&ask).assert_healthy();
    site.exec(
        "sw",
        "nft add table bridge guard && nft 'add chain bridge guard fwd0 { type filter hook forward \
         priority 0; }' && nft 'add rule bridge guard fwd0 iifname \"p-rt\" ip protocol icmp drop'",
    );
    Diagnosis::of(&ask).assert_first("pmtud-blackhole", &site.netns("sw")).run_fix();
    Diagnosis::of(&ask).assert_healthy();
}

#[test]
fn a_server_that_does_not_expect_the_router_does_not_hear_of_it() {
    let site = narrow();
    // The router complains from an address that the server would answer elsewhere.
    site.exec("isp", "ip addr flush dev core0 && ip addr add 10.95.77.1/32 dev core0");
    site.exec("isp", "ip route add 10.95.3.0/24 dev core0 src 10.95.77.1");
    let far = Site::new(&["far"]);
    let there = far.netns("far");
    site.exec("sv", &format!("ip link add e1 type veth peer name e0 netns {there}"));
    site.exec("sv", "ip addr add 10.95.8.2/24 dev e1 && ip link set e1 up");
    far.exec("far", "ip addr add 10.95.8.1/24 dev e0 && ip link set e0 up");
    site.exec(
        "sv",
        "ip route replace 10.95.2.0/24 dev e0 && ip route replace default via 10.95.8.1",
    );
    site.exec("isp", "sysctl -qw net.ipv4.conf.core0.proxy_arp=1");
    greeter(&site, "sv", 8443);
    site.exec("sv", "sysctl -qw net.ipv4.conf.e0.rp_filter=2");
    diagnose(&site).assert_healthy();
    site.exec("sv", "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.e0.rp_filter=1");
    diagnose(&site).assert_first("pmtud-blackhole", &site.netns("sv")).run_fix();
    diagnose(&site).assert_healthy();
}

#[test]
fn a_bridge_port_that_is_too_narrow_swallows_them_without_a_word() {
    let site = Site::switched("10.95.4");
    site.exec("sw", "ip link set p-cl mtu 1300");
    greeter(&site, "sv", 8443);
    let from = site.netns("cl");
    let ask = ["--from", &from, "--to", "10.95.4.9:8443"];
    Diagnosis::of(&ask).assert_first("mtu-mismatch", &site.netns("sw")).run_fix();
    Diagnosis::of(&ask).assert_healthy();
}

#[test]
fn what_is_never_sent_meets_no_hole() {
    for (host, heal) in [
        ("home", "iptables -t mangle -A FORWARD -o wan0 -p tcp --syn -j TCPMSS --set-mss 1300"),
        (
            "home",
            "nft add table inet mss && nft 'add chain inet mss f { type filter hook forward \
             priority mangle; }' && nft add rule inet mss f tcp flags syn tcp option maxseg size \
             set rt mtu",
        ),
        ("cl", "ip route replace default via 10.95.1.1 advmss 1200"),
        ("sv", "ip route replace default via 10.95.3.1 mtu 1400"),
        ("sv", "sysctl -qw net.ipv4.tcp_mtu_probing=1"),
        ("sv", "sysctl -qw net.ipv4.ip_no_pmtu_disc=1"),
    ] {
        let site = narrow();
        site.exec("isp", SILENT_ROUTER);
        site.exec(host, heal);
        greeter(&site, "sv", 8443);
        diagnose(&site).assert_healthy();
    }
}

#[test]
fn long_frames_of_one_end_are_none_that_the_other_asked_for() {
    let site = Site::switched("10.95.5");
    site.exec("sw", "ip link set p-sv mtu 9000");
    site.exec("sv", "ip link set e0 mtu 9000");
    greeter(&site, "sv", 8443);
    let from = site.netns("cl");
    for to in ["10.95.5.9:8443", "10.95.5.9"] {
        Diagnosis::of(&["--from", &from, "--to", to]).assert_healthy();
    }
}
