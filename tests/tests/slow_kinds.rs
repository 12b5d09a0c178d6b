//! `pkttrace diagnose --slow` where routes, endpoints, rules for a few packets, or lists at a device
//! make a flow slow.

mod slow_support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use pkttrace_tests::Site;
use slow_support::*;

/// Longer than a SYN that is sent again takes.
const LONG: Duration = Duration::from_millis(2500);

/// Connects again and again, and waits for each.
fn connect(site: &Site, traffic: Traffic, to: &'static str) -> Traffic {
    traffic.and(site, "app", move || {
        let to: SocketAddr = to.parse().expect("an address");
        Box::new(move || {
            let _ = TcpStream::connect_timeout(&to, LONG);
            std::thread::sleep(Duration::from_millis(20));
        })
    })
}

fn several(site: &Site, to: &'static str) -> Traffic {
    let server = Traffic::none().and(site, "web", || echo(8080));
    (0..4).fold(server, |traffic, _| connect(site, traffic, to))
}

/// Runs a file of commands, each after the other.
fn batch(site: &Site, host: &str, tool: &str, commands: &str) {
    let file = std::env::temp_dir().join(format!("{}-batch", site.netns(host)));
    std::fs::write(&file, commands).expect("a file");
    site.exec(host, &format!("{tool} -batch {}", file.display()));
    let _ = std::fs::remove_file(&file);
}

#[test]
fn a_route_that_asks_for_short_segments_is_named() {
    let site = routed();
    let default = "ip route replace default via 10.81.2.1";
    site.exec("web", &format!("{default} advmss 300"));
    let traffic = load(&site);
    let found = glance(&site, "10.81.2.2:9000");
    assert_eq!(found.first()["id"], "slow-small-segments", "{:#}", found.json);
    assert_eq!(found.first()["where"]["netns"], site.netns("web").as_str(), "{:#}", found.json);
    assert!(found.first()["title"].to_string().contains("advmss 300"), "{:#}", found.json);
    drop(traffic);

    // Limits that nobody reaches, and segments as the outside takes them where links nearby take more.
    for (host, dev) in [("app", "eth0"), ("node", "va"), ("node", "vw"), ("web", "eth0")] {
        site.exec(host, &format!("ip link set {dev} mtu 9000"));
    }
    site.exec("web", &format!("{default} window 16777216 mtu 1400 advmss 1360 cwnd 5000"));
    let _traffic = load(&site);
    assert_quiet(&glance(&site, "10.81.2.2:9000"));
}

#[test]
fn the_one_of_several_endpoints_that_is_dead_is_named() {
    let site = routed();
    site.exec("web", "ip addr add 10.81.2.3/24 dev eth0");
    site.exec("web", "iptables -A INPUT -d 10.81.2.3 -p tcp -j DROP");
    let nat = "iptables -t nat -A PREROUTING -d 10.96.0.20 -p tcp --dport 8080";
    let half = "-m statistic --mode random --probability 0.5";
    site.exec("node", &format!("{nat} {half} -j DNAT --to-destination 10.81.2.2:8080"));
    site.exec("node", &format!("{nat} -j DNAT --to-destination 10.81.2.3:8080"));
    let _traffic = several(&site, "10.96.0.20:8080");
    let found = ask(&site, "10.96.0.20:8080", "tcp");
    found.assert_first("slow-dead-endpoint", &site.netns("web"));
    assert!(found.first()["title"].to_string().contains("10.81.2.3:8080, one of"));
    site.exec("web", "iptables -F INPUT");
    assert_quiet(&ask(&site, "10.96.0.20:8080", "tcp"));
}

#[test]
fn a_rule_that_drops_what_asks_for_ecn_is_named() {
    let site = routed();
    site.exec("app", "sysctl -qw net.ipv4.tcp_ecn=1");
    site.exec(
        "node",
        "nft add table ip q && nft add chain ip q f '{ type filter hook forward priority 0; }' \
         && nft add rule ip q f 'tcp flags & (syn | ecn | cwr) == (syn | ecn | cwr)' counter drop",
    );
    let _traffic = several(&site, "10.81.2.2:8080");
    let found = ask(&site, "10.81.2.2:8080", "tcp");
    found.assert_first("slow-rule-drops", &site.netns("node"));
    assert!(found.first()["where"]["rule"].to_string().contains("ecn"), "{:#}", found.json);
}

#[test]
fn a_rule_that_lets_few_questions_of_arp_by_is_named() {
    let site = routed();
    site.exec(
        "node",
        "nft add table arp q && nft add chain arp q i '{ type filter hook input priority 0; }' \
         && nft add rule arp q i iifname va arp operation request limit rate over 1/second burst 1 \
         packets counter drop",
    );
    let app = site.netns("app");
    let _traffic = Traffic::none().and(&site, "web", || echo(8080)).and(&site, "app", move || {
        Box::new(move || {
            let flush = ["-n", &app, "neigh", "flush", "dev", "eth0"];
            let _ = std::process::Command::new("ip").args(flush).status();
            let to = SocketAddr::new(SERVER.parse().expect("an address"), 8080);
            let _ = TcpStream::connect_timeout(&to, LONG);
        })
    });
    let found = ask_for("6s", &site, "10.81.2.2:8080", "tcp");
    let first = found.first();
    assert_eq!(first["id"], "slow-neighbour", "{:#}", found.json);
    assert_eq!(first["where"]["netns"], site.netns("node").as_str(), "{:#}", found.json);
    assert!(first["where"]["rule"].to_string().contains("limit rate"), "{:#}", found.json);
}

#[test]
fn filters_of_a_device_and_rules_that_search_packets_are_felt() {
    let site = routed();
    let filters: String = (0..12_000)
        .map(|n| {
            let (prio, n) = (n / 3000 + 1, n % 3000);
            format!(
                "filter add dev va ingress protocol ip prio {prio} u32 match ip dst \
                 172.{prio}.{}.{}/32 flowid 1:1\n",
                n / 250,
                n % 250
            )
        })
        .collect();
    site.exec("node", "tc qdisc add dev va clsact");
    batch(&site, "node", "tc", &filters);
    let traffic = talk(&site);
    let found = glance(&site, "10.81.2.2:8080");
    found.assert_first("slow-filter-list", &site.netns("node"));
    assert_eq!(found.first()["where"]["dev"], "va", "{:#}", found.json);
    assert!(evidence(&found).contains("12000 filters"), "{:#}", found.json);
    site.exec("node", "tc qdisc del dev va clsact");
    drop(traffic);

    for n in 0..20 {
        let search = format!("-m string --algo kmp --to 65535 --string signature-{n}");
        site.exec("node", &format!("iptables -A FORWARD {search} -j DROP"));
    }
    let traffic = load(&site);
    let found = glance(&site, "10.81.2.2:9000");
    found.assert_first("slow-costly-rule", &site.netns("node"));
    assert!(found.first()["where"]["rule"].to_string().contains("string"), "{:#}", found.json);
    drop(traffic);
    // Short packets are searched in no time.
    site.exec("node", "iptables -F FORWARD");
    site.exec("node", "iptables -A FORWARD -m string --algo bm --to 80 --string sig -j DROP");
    let _traffic = talk(&site);
    assert_quiet(&glance(&site, "10.81.2.2:8080"));
}

#[test]
fn a_rule_at_a_device_and_ports_that_are_kept_back_are_named() {
    let site = routed();
    site.exec(
        "node",
        "nft add table netdev q && nft add chain netdev q i '{ type filter hook ingress device va \
         priority 0; }' && nft add rule netdev q i meta l4proto tcp numgen random mod 100 lt 5 counter drop",
    );
    let traffic = load(&site);
    let found = ask(&site, "10.81.2.2:9000", "tcp");
    found.assert_first("slow-rule-drops", &site.netns("node"));
    assert_eq!(found.first()["where"]["dev"], "va", "{:#}", found.json);
    assert!(found.first()["where"]["rule"].to_string().contains("numgen"), "{:#}", found.json);
    drop(traffic);

    site.exec("node", "nft delete table netdev q");
    site.exec("app", "sysctl -qw net.ipv4.ip_local_reserved_ports=22,32768-60983");
    let traffic = several(&site, "10.81.2.2:8080");
    let found = ask(&site, "10.81.2.2:8080", "tcp");
    found.assert_first("slow-local-ports", &site.netns("app"));
    assert!(
        found.first()["fix"].to_string().contains("ip_local_reserved_ports"),
        "{:#}",
        found.json
    );
    drop(traffic);
}

/// Asks and waits for the answer, on one connection.
fn patient(port: u16) -> Box<dyn FnMut()> {
    let mut server = TcpStream::connect((SERVER, port)).expect("a server");
    server.set_read_timeout(Some(LONG)).expect("a stream");
    Box::new(move || {
        let _ = server.write(b"x");
        let _ = server.read(&mut [0; 64]);
        std::thread::sleep(Duration::from_millis(5));
    })
}

/// Answers each byte once it has tried to connect to `to`.
fn behind(to: &'static str) -> Box<dyn FnMut()> {
    let listener = std::net::TcpListener::bind(("0.0.0.0", 8080)).expect("a port");
    listener.set_nonblocking(true).expect("a listener");
    let to: SocketAddr = to.parse().expect("an address");
    let mut client = None;
    Box::new(move || {
        client = client.take().or_else(|| Some(listener.accept().ok()?.0));
        let Some(open) = &mut client else { return std::thread::sleep(Duration::from_millis(5)) };
        open.set_nonblocking(false).expect("a stream");
        open.set_read_timeout(Some(Duration::from_millis(50))).expect("a stream");
        match open.read(&mut [0; 64]) {
            Ok(0) => client = None,
            Ok(_) => {
                let _ = TcpStream::connect_timeout(&to, Duration::from_millis(900));
                let _ = open.write(b"x");
            }
            Err(_) => {}
        }
    })
}

#[test]
fn a_server_that_waits_for_what_does_not_answer_is_named() {
    let site = routed();
    site.exec("node", "iptables -A FORWARD -p tcp --dport 5432 -j DROP");
    let _traffic =
        Traffic::none()
            .and(&site, "web", || behind("10.81.1.2:5432"))
            .and(&site, "app", || patient(8080));
    let found = ask_for("5s", &site, "10.81.2.2:8080", "tcp");
    found.assert_first("slow-upstream", &site.netns("web"));
    assert!(found.first()["title"].to_string().contains("10.81.1.2:5432"), "{:#}", found.json);
    // Refused at once: nobody waits.
    site.exec("node", "iptables -F FORWARD");
    assert_quiet(&ask_for("5s", &site, "10.81.2.2:8080", "tcp"));
}

#[test]
fn the_class_that_a_filter_leads_to_is_named() {
    let site = routed();
    for words in [
        "qdisc add dev vw root handle 1: htb default 10",
        "class add dev vw parent 1: classid 1:10 htb rate 90gbit",
        "class add dev vw parent 1: classid 1:20 htb rate 8mbit",
        "filter add dev vw parent 1: protocol ip u32 match ip dport 9000 0xffff flowid 1:20",
    ] {
        site.exec("node", &format!("tc {words}"));
    }
    let _traffic = load(&site);
    let found = ask(&site, "10.81.2.2:9000", "tcp");
    found.assert_first("slow-shaper", &site.netns("node"));
    assert!(found.first()["title"].to_string().contains("htb class 1:20"), "{:#}", found.json);
    assert!(found.first()["title"].to_string().contains("8.0 Mbit/s"), "{:#}", found.json);
    assert!(evidence(&found).contains("a filter leads there: u32 match"), "{:#}", found.json);
    // It goes into the wide one by default.
    site.exec("node", "tc filter del dev vw parent 1:");
    assert_quiet(&ask(&site, "10.81.2.2:9000", "tcp"));
}

#[test]
fn a_route_that_locks_the_congestion_window_is_named() {
    let site = routed();
    site.exec("app", "ip route replace default via 10.81.1.1 cwnd lock 2");
    let traffic = Traffic::none().and(&site, "web", || sink(9000, Duration::ZERO));
    // It holds from the second connection to an address on (`ip tcp_metrics`).
    site.exec("app", "bash -c 'echo first > /dev/tcp/10.81.2.2/9000'");
    site.exec("app", "timeout 10 sh -c 'until ip tcp_metrics | grep -q cwnd; do sleep .05; done'");
    let traffic = traffic.and(&site, "app", || bulk(9000));
    let found = glance(&site, "10.81.2.2:9000");
    found.assert_first("slow-route-limit", &site.netns("app"));
    assert!(found.first()["title"].to_string().contains("2 segments"), "{:#}", found.json);
    drop(traffic);
    site.exec("app", "ip route replace default via 10.81.1.1 && ip tcp_metrics flush all");
    let _traffic = load(&site);
    assert_quiet(&glance(&site, "10.81.2.2:9000"));
}

#[test]
fn the_next_hop_of_several_that_forwards_nothing_is_named() {
    let site = Site::new(&["app", "one", "two", "web"]);
    for (n, router) in [(1, "one"), (2, "two")] {
        let (dev, net) = (format!("eth{n}"), format!("10.81.{n}."));
        site.wire(("app", &dev, &format!("{net}2/24")), (router, "lan0", &format!("{net}1/24")));
        site.wire(
            ("web", &dev, &format!("10.82.{n}.2/24")),
            (router, "wan0", &format!("10.82.{n}.1/24")),
        );
        site.exec(router, &format!("ip route add 10.83.0.2 via 10.82.{n}.2"));
        site.exec(router, "ip route add 10.81.9.2 via 10.81.1.2 || true");
    }
    site.exec("web", "ip addr add 10.83.0.2/32 dev lo && ip route add 10.81.9.2 via 10.82.1.1");
    site.exec("one", "sysctl -qw net.ipv4.ip_forward=1");
    site.exec(
        "app",
        "ip addr add 10.81.9.2/32 dev lo && sysctl -qw net.ipv4.fib_multipath_hash_policy=1 \
         && ip route add 10.83.0.2 src 10.81.9.2 nexthop via 10.81.1.1 nexthop via 10.81.2.1",
    );
    let _traffic = several(&site, "10.83.0.2:8080");
    let found = ask_for("4s", &site, "10.83.0.2:8080", "tcp");
    assert_eq!(found.first()["id"], "slow-dead-endpoint", "{:#}", found.json);
    assert!(found.first()["title"].to_string().contains("10.81.2.1"), "{:#}", found.json);
}

#[test]
fn one_address_behind_two_ports_of_a_bridge_is_named() {
    let site = Site::new(&["node", "app", "web", "twin"]);
    site.exec("node", "ip link add br0 type bridge && ip link set br0 up");
    for (n, host) in [(1, "app"), (2, "web"), (3, "twin")] {
        site.plug("node", "br0", host);
        site.exec(host, &format!("ip addr add 10.81.2.{n}/24 dev e0"));
    }
    site.exec("web", "ip link set e0 address 02:00:00:00:00:77");
    let talks = |site: &Site| {
        talk(site).and(site, "twin", || {
            let socket = std::net::UdpSocket::bind("10.81.2.3:0").expect("a port");
            socket.set_broadcast(true).expect("a socket");
            Box::new(move || {
                let _ = socket.send_to(b"here", "10.81.2.255:9");
                std::thread::sleep(Duration::from_millis(30));
            })
        })
    };
    let traffic = talks(&site);
    assert_quiet(&ask(&site, "10.81.2.2:8080", "tcp"));
    drop(traffic);
    site.exec("twin", "ip link set e0 address 02:00:00:00:00:77");
    let _traffic = talks(&site);
    let found = ask(&site, "10.81.2.2:8080", "tcp");
    found.assert_first("slow-duplicate-mac", &site.netns("node"));
    assert!(evidence(&found).contains(&site.netns("twin")), "{:#}", found.json);
}

/// A server that may have few open files, until it is dropped.
struct Cramped(std::process::Child);

impl Cramped {
    fn serve(site: &Site, host: &str, files: u32) -> Self {
        const SCRIPT: &str = "import select,socket,time
server=socket.create_server(('0.0.0.0',8080),backlog=5); all=[]
while 1:
    for s in select.select([server]+all,[],[],1)[0]:
        try:
            if s is server: all.append(s.accept()[0])
            elif not s.recv(99): all.remove(s); s.close()
        except OSError: time.sleep(.05)";
        let netns = site.netns(host);
        let limit = format!("--nofile={files}");
        let mut command = std::process::Command::new("ip");
        command.args(["netns", "exec", &netns, "prlimit", &limit, "python3", "-c", SCRIPT]);
        Self(command.spawn().expect("a server"))
    }
}

impl Drop for Cramped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_that_may_open_no_more_files_is_named() {
    let site = routed();
    let _server = Cramped::serve(&site, "web", 16);
    let held = Traffic::none().and(&site, "app", || {
        let to: SocketAddr = "10.81.2.2:8080".parse().expect("an address");
        let mut open = Vec::new();
        let mut one_more = move || match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(stream) => open.push(stream),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        };
        while TcpStream::connect(to).is_err() {
            one_more();
        }
        Box::new(one_more)
    });
    let found = ask(&site, "10.81.2.2:8080", "tcp");
    found.assert_first("slow-open-files", &site.netns("web"));
    assert!(found.first()["title"].to_string().contains("may have 16"), "{:#}", found.json);
    drop(held);
}

#[test]
fn one_of_two_uplinks_that_is_checked_strictly_is_named_and_healed() {
    let site = Site::new(&["app", "node", "web"]);
    site.wire(("app", "eth1", "10.81.1.2/24"), ("node", "a1", "10.81.1.1/24"));
    site.wire(("app", "eth2", "10.81.3.2/24"), ("node", "a2", "10.81.3.1/24"));
    site.wire(("web", "eth0", "10.81.2.2/24"), ("node", "vw", "10.81.2.1/24"));
    site.exec("web", "ip route add default via 10.81.2.1");
    site.exec(
        "app",
        "ip addr add 10.81.9.2/32 dev lo && sysctl -qw net.ipv4.fib_multipath_hash_policy=1 && ip \
         route add default src 10.81.9.2 nexthop via 10.81.1.1 nexthop via 10.81.3.1",
    );
    site.exec(
        "node",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 \
         net.ipv4.conf.a1.rp_filter=1 net.ipv4.conf.a2.rp_filter=1 && ip route add 10.81.9.2 via 10.81.1.2",
    );
    let _traffic = several(&site, "10.81.2.2:8080");
    let found = ask(&site, "10.81.2.2:8080", "tcp");
    found.assert_first("rp-filter-strict-asymmetric", &site.netns("node"));
    let fix = found.first()["fix"][0].as_str().expect("a command").to_owned();
    let ran = std::process::Command::new("sh").args(["-c", &fix]).status().expect("sh");
    assert!(ran.success(), "{fix}");
    // Questions for the gateway's address were refused as well; what waits for it is not over yet.
    site.exec(
        "app",
        "timeout 20 sh -c 'until ip neigh show 10.81.3.1 | grep -q lladdr; do sleep .05; done'",
    );
    assert_quiet(&ask(&site, "10.81.2.2:8080", "tcp"));
}

#[test]
fn one_address_at_two_ports_and_answers_that_are_forgotten_are_named() {
    let site = Site::new(&["node", "app", "web", "twin"]);
    site.exec("node", "ip link add br0 type bridge && ip link set br0 up");
    for (n, host) in [(1, "app"), (2, "web"), (2, "twin")] {
        site.plug("node", "br0", host);
        site.exec(host, &format!("ip addr add 10.81.2.{n}/24 dev e0"));
    }
    let traffic = talk(&site);
    let found = glance(&site, "10.81.2.2:8080");
    found.assert_first("slow-duplicate-address", &site.netns("node"));
    drop((traffic, site));

    // A translated question whose answer takes longer than its entry lives.
    let site = routed();
    site.exec("node", "iptables -t nat -A POSTROUTING -s 10.81.1.2 -j MASQUERADE");
    site.exec("node", "sysctl -qw net.netfilter.nf_conntrack_udp_timeout=1");
    let answers = || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:5060").expect("a port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut late = std::collections::VecDeque::new();
        let work = move || {
            if let Ok((_, from)) = socket.recv_from(&mut [0; 9]) {
                late.push_back((std::time::Instant::now(), from));
            }
            while late.front().is_some_and(|(at, _)| at.elapsed() > Duration::from_millis(2200)) {
                let _ = late.pop_front().map(|(_, from)| socket.send_to(b"late", from));
            }
        };
        Box::new(work) as Box<dyn FnMut()>
    };
    let asks = || {
        let mut open = Vec::new();
        let work = move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a port");
            let _ = socket.send_to(b"ask", "10.81.2.2:5060");
            open.push(socket);
            std::thread::sleep(PATIENCE);
        };
        Box::new(work) as Box<dyn FnMut()>
    };
    let _traffic = Traffic::none().and(&site, "web", answers).and(&site, "app", asks);
    let found = ask_for("5s", &site, "10.81.2.2:5060", "udp");
    found.assert_first("slow-conntrack-timeout", &site.netns("node"));
    assert!(found.first()["where"]["sysctl"].to_string().contains("udp_timeout"));
}
