//! Kinds of faults, and of what only looks like one, that users of other networks have reported.

use std::path::Path;

use pkttrace_tests::{Diagnosis, Program, Site, greeter, greeter_by, name_server_at};

/// A client and a server on a bridge, by the addresses .2 and .9.
fn switched() -> Site {
    let site = Site::switched("10.96.1");
    greeter(&site, "sv", 2022);
    site
}

/// A client, a router and a server.
fn routed() -> Site {
    let site = Site::new(&["cl", "rt", "sv"]);
    site.wire(("cl", "e0", "10.96.2.2/24"), ("rt", "in0", "10.96.2.1/24"));
    site.wire(("rt", "out0", "10.96.3.1/24"), ("sv", "e0", "10.96.3.9/24"));
    site.exec("rt", "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0");
    site.exec("cl", "ip route add default via 10.96.2.1");
    site.exec("sv", "ip route add default via 10.96.3.1");
    greeter(&site, "sv", 2022);
    site
}

#[test]
fn a_bridges_guard_is_passed_by_what_was_asked_alone() {
    let site = switched();
    let from = site.netns("cl");
    let ask = ["--from", &from, "--to", "10.96.1.9:2022"];
    site.exec(
        "sw",
        "nft add table bridge guard && nft 'add chain bridge guard fwd0 { type filter hook forward \
         priority 0; }' && nft 'add rule bridge guard fwd0 iifname \"p-cl\" ip saddr != 10.96.1.77 drop'",
    );
    Diagnosis::of(&ask).assert_first("firewall-drop", &site.netns("sw")).run_fix();
    Diagnosis::of(&ask).assert_healthy();
    let rules = site.exec("sw", "nft list table bridge guard");
    assert!(rules.contains("!= 10.96.1.77 drop") && rules.contains("dport 2022 accept"), "{rules}");
}

#[test]
fn ebtables_reads_what_was_put_before_its_rule() {
    let site = switched();
    let from = site.netns("cl");
    let ask = ["--from", &from, "--to", "10.96.1.9:2022"];
    site.exec("sw", "ebtables -N I-port -P RETURN && ebtables -A FORWARD -i p-cl -j I-port");
    site.exec(
        "sw",
        "ebtables -A I-port -s 02:00:00:00:00:77 -j RETURN && ebtables -A I-port -j DROP",
    );
    Diagnosis::of(&ask).assert_first("firewall-drop", &site.netns("sw")).run_fix();
    Diagnosis::of(&ask).assert_healthy();
    let rules = site.exec("sw", "ebtables -L I-port");
    assert!(rules.contains("-p ARP") && rules.contains("-j DROP"), "{rules}");
}

#[test]
fn who_is_through_with_the_handshake_alone_is_not_connected() {
    let site = routed();
    site.wire(("cl", "back0", "10.96.4.2/24"), ("sv", "back1", "10.96.4.9/24"));
    site.exec("sv", "ip route add 10.96.2.2/32 dev back1 via 10.96.4.2");
    let from = site.netns("cl");
    let ask = ["--from", &from, "--to", "10.96.3.9:2022"];
    site.exec("cl", "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.back0.rp_filter=0");
    Diagnosis::of(&ask).assert_healthy();
    site.exec("rt", "iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP");
    Diagnosis::of(&ask).assert_first("conntrack-invalid-drop", &site.netns("rt")).run_fix();
    Diagnosis::of(&ask).assert_healthy();
}

#[test]
fn what_collects_datagrams_answers_none() {
    let site = routed();
    let from = site.netns("cl");
    let ask = ["--from", &from, "--to", "10.96.3.9:8125", "--proto", "udp"];
    let script = "held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nheld.bind(('', 8125))";
    let held = Program::run(&site, "sv", script);
    Diagnosis::of(&ask).assert_healthy();
    drop(held);
    Diagnosis::of(&ask).assert_first("app-not-listening", &site.netns("sv"));
}

#[test]
fn a_line_of_the_hosts_file_is_believed_before_any_server() {
    let site = routed();
    site.exec("rt", "ip addr add 10.96.9.53/32 dev lo");
    name_server_at(&site, "rt", ("10.96.9.53", 53), |name| match name {
        "db" => &[[10, 96, 3, 9]],
        _ => &[],
    });
    site.resolver("cl", "nameserver 10.96.9.53\n");
    let file = Path::new("/etc/netns").join(site.netns("cl")).join("hosts");
    std::fs::write(&file, "127.0.0.1 localhost\n10.96.3.77 db db-1 # linked\n").expect("a file");
    let from = site.netns("cl");
    let ask = ["--from", &from, "--to", "db:2022"];
    Diagnosis::of(&ask).assert_first("name-hosts-file", &from);
    std::fs::write(&file, "127.0.0.1 localhost\n10.96.3.9 db\n").expect("a file");
    site.exec("rt", "ip addr del 10.96.9.53/32 dev lo");
    Diagnosis::of(&ask).assert_healthy();
    site.exec("rt", "ip addr add 10.96.9.53/32 dev lo");
    // The server is asked first: nobody reads the line.
    std::fs::write(&file, "10.96.3.77 db\n").expect("a file");
    std::fs::write(file.with_file_name("nsswitch.conf"), "hosts: dns files\n").expect("a file");
    Diagnosis::of(&ask).assert_healthy();
}

#[test]
fn a_stub_of_the_host_is_none_of_its_containers() {
    let site = Site::new(&["h", "c", "net"]);
    site.exec(
        "h",
        "ip link add br7 type bridge && ip addr add 10.96.20.1/24 dev br7 && ip link set br7 up \
         && sysctl -qw net.ipv4.ip_forward=1",
    );
    site.plug("h", "br7", "c");
    site.exec("c", "ip addr add 10.96.20.4/24 dev e0 && ip route add default via 10.96.20.1");
    site.wire(("h", "up0", "10.96.21.2/24"), ("net", "e0", "10.96.21.1/24"));
    site.exec("net", "ip route add 10.96.20.0/24 via 10.96.21.2");
    name_server_at(&site, "h", ("127.0.0.53", 53), |_| &[[10, 96, 21, 1]]);
    for host in ["h", "c"] {
        site.resolver(host, "nameserver 127.0.0.53\n");
    }
    let from = site.netns("c");
    let found = Diagnosis::of(&["--from", &from, "--to", "repo:2022"]);
    found.assert_first("dns-resolvconf-wrong-server", &from);
    let fix = found.first()["fix"].to_string();
    assert!(fix.contains("resolvectl") && !fix.contains("awk"), "no server is made up: {fix}");
}

#[test]
fn a_name_server_that_asks_itself_is_named() {
    let site = switched();
    site.resolver("cl", "nameserver 10.96.1.9\n");
    site.resolver("sv", "nameserver 127.0.0.1\n");
    let script = "server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         server.bind(('', 53))\n\
         def forward(query, client):\n \
          asks = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n \
          asks.settimeout(1)\n \
          asks.sendto(query, ('127.0.0.1', 53))\n \
          try: asks.recv(512)\n \
          except OSError: server.sendto(query[:2] + b'\\x81\\x82' + query[4:], client)\n\
         def serve():\n \
          while True:\n  \
           query, client = server.recvfrom(512)\n  \
           if client[0] != '127.0.0.1':\n   \
            threading.Thread(target=forward, args=(query, client), daemon=True).start()\n\
         threading.Thread(target=serve, daemon=True).start()";
    let _server = Program::run(&site, "sv", script);
    let from = site.netns("cl");
    let found = Diagnosis::of(&["--from", &from, "--to", "repo.example:443"]);
    found.assert_first("dns-server-error", &site.netns("sv"));
    let title = found.first()["title"].to_string();
    assert!(title.contains("asks itself: 127.0.0.1"), "{title}");
}

#[test]
fn ports_that_wait_are_opened_together() {
    let site = Site::new(&["cl", "sw", "sv"]);
    site.exec("sw", "ip link add br0 type bridge stp_state 1 forward_delay 3000");
    site.exec("sw", "ip link set br0 up");
    for (host, addr) in [("cl", "10.96.22.2/24"), ("sv", "10.96.22.9/24")] {
        site.plug("sw", "br0", host);
        site.exec(host, &format!("ip addr add {addr} dev e0"));
    }
    greeter(&site, "sv", 2022);
    let from = site.netns("cl");
    let ask = ["--from", &from, "--to", "10.96.22.9:2022"];
    let found = Diagnosis::of(&ask);
    assert_eq!(found.loud(), ["bridge-port-blocking"], "{:#}", found.json);
    found.run_fix();
    Diagnosis::of(&ask).assert_healthy();
}

#[test]
fn what_is_given_to_a_proxy_is_led_to_it() {
    let site = routed();
    site.exec(
        "rt",
        "iptables -t mangle -A PREROUTING -p tcp --dport 2022 -j TPROXY --on-port 3129 \
         --tproxy-mark 0x1/0x1 && ip route add local default dev lo table 77",
    );
    let script = "proxy = socket.socket()\n\
         proxy.setsockopt(socket.SOL_IP, 19, 1)\n\
         proxy.bind(('', 3129))\n\
         proxy.listen(9)\n\
         def greet():\n \
          while True: proxy.accept()[0].sendall(b'220 ready')\n\
         threading.Thread(target=greet, daemon=True).start()";
    let _proxy = Program::run(&site, "rt", script);
    let from = site.netns("cl");
    let ask = ["--from", &from, "--to", "10.96.3.9:2022"];
    let found = Diagnosis::of(&ask);
    found.assert_first("tproxy-not-local", &site.netns("rt"));
    let fix = found.first()["fix"].to_string();
    assert!(fix.contains("ip rule add fwmark 0x1/0x1 lookup 77"), "{fix}");
    site.exec("rt", "ip rule add fwmark 0x1/0x1 lookup 77");
    Diagnosis::of(&ask).assert_healthy();
}

#[test]
fn a_rule_that_masquerades_has_ports_of_its_own() {
    let site = routed();
    site.exec(
        "rt",
        "iptables -t nat -A POSTROUTING -o out0 -p tcp -j MASQUERADE --to-ports 40000-40015",
    );
    let from = site.netns("cl");
    let ask = ["--from", &from, "--to", "10.96.3.9:2022"];
    assert_eq!(Diagnosis::of(&ask).loud(), ["translation-hides-source"]);
    let script = "held = []\n\
         for _ in range(32):\n \
          s = socket.socket()\n \
          s.setblocking(False)\n \
          s.connect_ex(('10.96.3.9', 2022))\n \
          held.append(s)";
    let _held = Program::run(&site, "cl", script);
    Diagnosis::of(&ask).assert_first("ephemeral-ports-exhausted", &site.netns("rt"));
}

#[test]
fn dockers_policy_takes_what_others_forward() {
    let site = routed();
    site.exec(
        "rt",
        "ip link add docker0 type bridge && ip addr add 10.96.30.1/24 dev docker0 \
         && ip link set docker0 up && iptables -N DOCKER && iptables -P FORWARD DROP \
         && iptables -A FORWARD -o docker0 -j DOCKER && iptables -A FORWARD -i docker0 -j ACCEPT",
    );
    let from = site.netns("cl");
    let ask = ["--from", &from, "--to", "10.96.3.9:2022"];
    let found = Diagnosis::of(&ask);
    found.assert_first("forward-policy-drop", &site.netns("rt")).run_fix();
    Diagnosis::of(&ask).assert_healthy();
    assert!(site.exec("rt", "iptables -S FORWARD").contains("-P FORWARD DROP"), "it stays");
}

#[test]
fn what_a_host_sends_itself_does_not_meet_prerouting() {
    let site = routed();
    site.exec(
        "rt",
        "iptables -t nat -A PREROUTING -d 10.96.2.1/32 -p tcp --dport 80 -j DNAT --to-destination \
         10.96.3.9:2022",
    );
    Diagnosis::of(&["--from", &site.netns("cl"), "--to", "10.96.2.1:80"]).assert_healthy();
    let own = site.netns("rt");
    let ask = ["--from", own.as_str(), "--to", "10.96.2.1:80"];
    Diagnosis::of(&ask).assert_first("translation-not-local", &own).run_fix();
    Diagnosis::of(&ask).assert_healthy();
}

#[test]
fn a_services_address_has_to_come_to_the_node() {
    let site = routed();
    site.exec(
        "rt",
        "iptables -t nat -A PREROUTING -d 10.97.0.7/32 -p tcp --dport 80 -j DNAT --to-destination \
         10.96.3.9:2022",
    );
    let other = Site::new(&["net"]);
    let there = other.netns("net");
    site.exec("cl", &format!("ip link add net1 type veth peer name e0 netns {there}"));
    site.exec("cl", "ip addr add 10.98.0.2/24 dev net1 && ip link set net1 up");
    other.exec("net", "ip addr add 10.98.0.1/24 dev e0 && ip link set e0 up");
    let from = site.netns("cl");
    let ask = ["--from", &from, "--to", "10.97.0.7:80"];
    Diagnosis::of(&ask).assert_healthy();
    site.exec("cl", "ip route replace default via 10.98.0.1");
    site.exec("cl", "ip route add 10.96.0.0/16 via 10.96.2.1");
    Diagnosis::of(&ask).assert_first("service-route-elsewhere", &from).run_fix();
    Diagnosis::of(&ask).assert_healthy();
}

#[test]
fn tunnel_ends_of_one_mac_take_each_other_for_themselves() {
    let site = Site::new(&["a", "b"]);
    site.wire(("a", "up0", "192.0.2.1/24"), ("b", "up0", "192.0.2.2/24"));
    for (host, own, other) in [("a", 1, 2), ("b", 2, 1)] {
        site.exec(
            host,
            &format!(
                "ip link add vx0 address 02:aa:00:00:00:01 type vxlan id 7 dstport 8472 dev up0 \
                 local 192.0.2.{own} remote 192.0.2.{other} && ip addr add 10.99.0.{own}/24 dev vx0 \
                 && ip link set vx0 up && ip neigh add 10.99.0.{other} lladdr 02:aa:00:00:00:01 dev vx0"
            ),
        );
    }
    let found = Diagnosis::of(&["--from", &site.netns("a"), "--to", "10.99.0.2"]);
    found.assert_first("duplicate-mac", &site.netns("b"));
}

#[test]
fn a_rule_that_counts_is_met_by_many_questions() {
    let site = routed();
    site.exec(
        "rt",
        "nft add table ip lb && nft 'add chain ip lb pre { type nat hook prerouting priority dstnat; }' \
         && nft add rule ip lb pre ip daddr 10.96.2.1 tcp dport 80 dnat to numgen inc mod 3 map \
         '{ 0 : 10.96.3.9, 1 : 10.96.3.10, 2 : 10.96.3.11 }' : 2022",
    );
    site.exec("sv", "ip addr add 10.96.3.10/24 dev e0 && ip addr add 10.96.3.11/24 dev e0");
    let seen = "-A FORWARD -i in0 -p tcp --syn -m recent --name many";
    site.exec("rt", &format!("iptables {seen} --set"));
    site.exec("rt", &format!("iptables {seen} --update --seconds 30 --hitcount 6 -j REJECT"));
    let found = Diagnosis::of(&["--from", &site.netns("cl"), "--to", "10.96.2.1:80"]);
    assert_eq!(found.json["healthy"], true, "{:#}", found.json);
}

#[test]
fn a_socket_that_is_bound_to_another_device_says_which() {
    let site = routed();
    greeter_by(&site, "rt", "out0", 5201);
    Diagnosis::of(&["--from", &site.netns("sv"), "--to", "10.96.3.1:5201"]).assert_healthy();
    let found = Diagnosis::of(&["--from", &site.netns("cl"), "--to", "10.96.2.1:5201"]);
    found.assert_first("app-listens-localhost", &site.netns("rt"));
    let first = found.first().to_string();
    assert!(first.contains("comes in by out0") && first.contains("SO_BINDTODEVICE"), "{first}");
    assert!(!first.contains("0.0.0.0:5201 (or"), "it listens there already: {first}");
}

#[test]
fn what_a_host_leads_elsewhere_from_its_loopback_is_masqueraded() {
    let site = routed();
    site.exec(
        "rt",
        "sysctl -qw net.ipv4.conf.all.route_localnet=1 && iptables -t nat -A OUTPUT -d 127.0.0.1/32 \
         -p tcp --dport 30080 -j DNAT --to-destination 10.96.3.9:2022",
    );
    let node = site.netns("rt");
    let asked = ["--from", node.as_str(), "--to", "127.0.0.1:30080"];
    Diagnosis::of(&asked).assert_first("masquerade-missing", &node).run_fix();
    Diagnosis::of(&asked).assert_healthy();
}
