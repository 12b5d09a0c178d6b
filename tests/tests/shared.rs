//! What several share: a route its gateways, a port its processes, a link its devices, an address
//! its holders. Part of it is dead, or the wrong one answers.

use pkttrace_tests::{Diagnosis, Program, Site, greeter};

/// A client, a router, and two gateways on its other link, of which `ga` leads to a server.
fn fork() -> Site {
    let site = Site::new(&["cl", "rt", "ga", "gb", "sv"]);
    site.wire(("cl", "e0", "10.94.0.2/24"), ("rt", "in0", "10.94.0.1/24"));
    site.exec(
        "rt",
        "ip link add br1 type bridge && ip addr add 10.94.1.1/24 dev br1 && ip link set br1 up \
         && sysctl -qw net.ipv4.ip_forward=1 net.ipv4.fib_multipath_hash_policy=1",
    );
    for (gateway, last) in [("ga", 11), ("gb", 12)] {
        site.plug("rt", "br1", gateway);
        site.exec(gateway, &format!("ip addr add 10.94.1.{last}/24 dev e0"));
    }
    site.wire(("ga", "out0", "10.94.2.1/24"), ("sv", "e0", "10.94.2.9/24"));
    site.exec("ga", "sysctl -qw net.ipv4.ip_forward=1 && ip route add 10.94.0.0/24 via 10.94.1.1");
    site.exec("cl", "ip route add default via 10.94.0.1");
    site.exec("sv", "ip route add default via 10.94.2.1");
    greeter(&site, "sv", 2022);
    site
}

#[test]
fn a_route_of_nexthop_objects_is_what_they_are() {
    let site = fork();
    let (from, router) = (site.netns("cl"), site.netns("rt"));
    let ask = ["--from", &from, "--to", "10.94.2.9:2022"];
    site.exec(
        "rt",
        "ip nexthop add id 11 via 10.94.1.11 dev br1 && ip nexthop add id 12 via 10.94.1.12 dev br1 \
         && ip nexthop add id 13 blackhole && ip nexthop add id 20 group 11/12,250",
    );
    site.exec("rt", "ip route add 10.94.2.0/23 nhid 11 && ip route add 10.94.2.0/24 nhid 13");
    Diagnosis::of(&ask).assert_first("route-blackhole", &router).run_fix();
    Diagnosis::of(&ask).assert_healthy();
    assert!(!site.exec("rt", "ip route").contains("10.94.2.0/24"), "it is found by its object");
    site.exec("rt", "ip route add 10.94.2.0/24 nhid 20");
    let found = Diagnosis::of(&ask);
    found.assert_first("route-wrong-nexthop", &router).run_fix();
    Diagnosis::of(&ask).assert_healthy();
    // Then routes name nothing but the object.
    site.exec("rt", "ip route del 10.94.2.0/24 && sysctl -qw net.ipv4.nexthop_compat_mode=0");
    site.exec("rt", "ip nexthop add id 21 group 11 && ip route add 10.94.2.0/24 nhid 21");
    Diagnosis::of(&ask).assert_healthy();
}

#[test]
fn a_process_that_does_not_accept_has_its_share_of_the_port() {
    let site = Site::switched("10.94.3");
    let serve = "def bound(backlog):\n \
          s = socket.socket()\n \
          s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n \
          s.bind(('', 2022))\n \
          s.listen(backlog)\n \
          return s\n\
         def greet(s):\n \
          while True:\n  \
           client, _ = s.accept()\n  \
           client.sendall(b'220 ready')\n\
         lively = bound(64)\n\
         threading.Thread(target=greet, args=(lively,), daemon=True).start()\n";
    let from = site.netns("cl");
    let ask = ["--from", &from, "--to", "10.94.3.9:2022"];
    let also = "also = bound(64)\n\
         threading.Thread(target=greet, args=(also,), daemon=True).start()";
    let both = Program::run(&site, "sv", &format!("{serve}{also}"));
    Diagnosis::of(&ask).assert_healthy();
    drop(both);
    let _half = Program::run(&site, "sv", &format!("{serve}deaf = bound(0)"));
    let _held = Program::run(
        &site,
        "cl",
        "held = [socket.socket() for _ in range(32)]\n\
         for s in held:\n \
          s.setblocking(False)\n \
          s.connect_ex(('10.94.3.9', 2022))",
    );
    site.until("sv", "ss -Hltn sport = :2022 | awk '$2 > $3 { full = 1 } END { exit !full }'");
    Diagnosis::of(&ask).assert_first("app-backlog-full", &site.netns("sv"));
}

#[test]
fn of_two_devices_on_one_link_the_one_with_the_address_is_judged() {
    let site = Site::switched("10.94.4");
    let server = site.netns("sv");
    site.exec("sw", &format!("ip link add p-sv1 type veth peer name e1 netns {server}"));
    site.exec("sw", "ip link set p-sv1 master br0 up");
    site.exec(
        "sv",
        "ip addr add 10.94.4.19/24 dev e1 && ip link set e1 up \
         && sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.e1.rp_filter=2 \
         net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2",
    );
    greeter(&site, "sv", 2022);
    let from = site.netns("cl");
    let ask = ["--from", &from, "--to", "10.94.4.19:2022"];
    Diagnosis::of(&ask).assert_healthy();
    site.exec("cl", "ip neigh flush all");
    site.exec("sv", "sysctl -qw net.ipv4.conf.e1.rp_filter=1");
    Diagnosis::of(&ask).assert_first("rp-filter-strict-asymmetric", &server).run_fix();
    Diagnosis::of(&ask).assert_healthy();
}

#[test]
fn an_address_that_has_moved_is_asked_for_anew() {
    let site = Site::switched("10.94.5");
    site.exec("sw", "ip addr add 10.94.5.1/24 dev br0");
    site.exec("sv", "ip addr add 10.94.5.100/24 dev e0");
    greeter(&site, "sv", 2022);
    let from = site.netns("cl");
    let ask = ["--from", &from, "--to", "10.94.5.100:2022"];
    // As long as it is thought to be reachable, nobody asks.
    site.exec(
        "cl",
        &format!(
            "sysctl -qw net.ipv4.neigh.e0.base_reachable_time_ms=9000000 \
             && ip neigh replace 10.94.5.100 lladdr {} dev e0 nud reachable",
            site.exec("sw", "cat /sys/class/net/br0/address").trim()
        ),
    );
    Diagnosis::of(&ask).assert_first("neigh-stale-permanent", &from).run_fix();
    Diagnosis::of(&ask).assert_healthy();
    let forwards = site.exec("sw", "cat /proc/sys/net/ipv4/ip_forward");
    assert_eq!(forwards.trim(), "0", "the old holder is no router");
}

#[test]
fn who_has_the_address_itself_asks_itself() {
    let site = Site::new(&["c", "h"]);
    site.wire(("c", "e0", "10.94.6.5/24"), ("h", "pod0", "10.94.6.1/24"));
    site.exec("h", "ip addr add 10.94.6.5/32 dev lo");
    greeter(&site, "h", 2022);
    let from = site.netns("c");
    let found = Diagnosis::of(&["--from", &from, "--to", "10.94.6.5:2022"]);
    found.assert_first("duplicate-address", &from);
    // By none of its addresses: it takes what comes from its own for a forgery.
    let fix = found.first()["fix"].to_string();
    assert!(fix.contains("another address"), "{fix}");
}

#[test]
fn an_address_without_the_rule_of_its_siblings_answers_by_another_device() {
    let site = Site::new(&["cl", "net", "nd"]);
    site.wire(("cl", "e0", "10.94.9.5/24"), ("net", "c0", "10.94.9.1/24"));
    site.wire(("nd", "e0", "10.94.7.10/24"), ("net", "f0", "10.94.7.1/24"));
    site.wire(("nd", "e1", "10.94.8.10/24"), ("net", "f1", "10.94.8.1/24"));
    site.exec("cl", "ip route add default via 10.94.9.1");
    site.exec(
        "net",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.f0.rp_filter=1 net.ipv4.conf.f1.rp_filter=1",
    );
    site.exec(
        "nd",
        "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.e0.rp_filter=0 \
         net.ipv4.conf.e1.rp_filter=0 && ip route add default via 10.94.7.1 \
         && ip route add default via 10.94.8.1 dev e1 table 2 \
         && ip addr add 10.94.8.11/24 dev e1 && ip rule add from 10.94.8.11 table 2 priority 1536",
    );
    greeter(&site, "nd", 2022);
    let from = site.netns("cl");
    Diagnosis::of(&["--from", &from, "--to", "10.94.8.11:2022"]).assert_healthy();
    let ask = ["--from", &from, "--to", "10.94.8.10:2022"];
    Diagnosis::of(&ask).assert_first("reply-other-device", &site.netns("nd")).run_fix();
    Diagnosis::of(&ask).assert_healthy();
    let strict = site.exec("net", "cat /proc/sys/net/ipv4/conf/f0/rp_filter");
    assert_eq!(strict.trim(), "1", "who refuses it stays as strict");
}

/// Two hosts with a container each, on one link by a tunnel whose devices are in namespaces of
/// their own, as an overlay of Docker's has them.
fn overlay() -> Site {
    let site = Site::new(&["h1", "h2", "o1", "o2", "c1", "c2"]);
    site.wire(("h1", "e0", "10.94.10.1/24"), ("h2", "e0", "10.94.10.2/24"));
    for (own, other) in [(1, 2), (2, 1)] {
        let (host, inside, pod) = (format!("h{own}"), format!("o{own}"), format!("c{own}"));
        let there = site.netns(&inside);
        site.exec(
            &host,
            &format!(
                "ip link add vx0 type vxlan id 4097 dstport 4789 nolearning proxy \
                 && ip link set vx0 netns {there}"
            ),
        );
        site.exec(
            &inside,
            "ip link add br0 type bridge && ip link set br0 up && ip link set vx0 master br0 up",
        );
        site.plug(&inside, "br0", &pod);
        site.exec(
            &pod,
            &format!(
                "ip link set e0 address 02:42:0a:00:09:0{own} mtu 1450 \
                 && ip addr add 10.94.11.{own}/24 dev e0"
            ),
        );
        let mac = format!("02:42:0a:00:09:0{other}");
        site.exec(
            &inside,
            &format!(
                "ip neigh add 10.94.11.{other} lladdr {mac} dev vx0 nud permanent \
                 && bridge fdb add {mac} dev vx0 dst 10.94.10.{other} self permanent"
            ),
        );
    }
    greeter(&site, "c2", 2022);
    site
}

#[test]
fn a_tunnel_device_sends_in_the_namespace_that_it_was_made_in() {
    let site = overlay();
    let from = site.netns("c1");
    let ask = ["--from", &from, "--to", "10.94.11.2:2022"];
    Diagnosis::of(&ask).assert_healthy();
    site.exec("h2", "iptables -A INPUT -p tcp -j ACCEPT && iptables -P INPUT DROP");
    Diagnosis::of(&ask).assert_first("input-drop", &site.netns("h2")).run_fix();
    Diagnosis::of(&ask).assert_healthy();
    assert!(site.exec("h2", "iptables -S INPUT").contains("-P INPUT DROP"), "the policy stays");
}
