//! `pkttrace diagnose --slow` on networks that are slow, or only busy: a client, a router, a server,
//! each in a namespace of its own, real traffic between them.

mod slow_support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use pkttrace_tests::Site;
use slow_support::*;

#[test]
fn a_long_chain_in_everybodys_way_is_named_and_let_past() {
    let site = routed();
    let _traffic = talk(&site);
    // Fast machines try some 5 ns at a rule.
    let rules: String = (0..20_000)
        .map(|n| {
            format!(
                "-A SVC -d 10.{}.{}.1/32 -p tcp -m tcp --dport 80 -j REJECT\n",
                99 + n / 200,
                n % 200
            )
        })
        .collect();
    let saved = format!("*filter\n:SVC - [0:0]\n-A FORWARD -j SVC\n{rules}COMMIT\n");
    let file = std::env::temp_dir().join(format!("{}-rules", site.netns("node")));
    std::fs::write(&file, saved).expect("a file");
    site.exec("node", &format!("iptables-legacy-restore < {}", file.display()));
    let _ = std::fs::remove_file(&file);
    let found = ask(&site, "10.81.2.2:8080", "tcp");
    found.assert_first("slow-rule-chain", &site.netns("node"));
    assert!(evidence(&found).contains("20001 rules"), "{:#}", found.json);
    let fix = found.first()["fix"][0].as_str().expect("a command").to_owned();
    assert!(fix.contains("--ctstate NEW"), "{fix}");
    site.exec("app", "true");
    let ran = std::process::Command::new("sh").args(["-c", &fix]).status().expect("sh");
    assert!(ran.success(), "{fix}");
    assert_quiet(&ask(&site, "10.81.2.2:8080", "tcp"));
}

#[test]
fn a_shaper_is_told_from_a_policer() {
    let site = routed();
    let _traffic = load(&site);
    site.exec("node", "tc qdisc add dev vw root tbf rate 8mbit burst 64kb latency 30ms");
    let found = ask(&site, "10.81.2.2:9000", "tcp");
    found.assert_first("slow-shaper", &site.netns("node"));
    assert_eq!(found.first()["where"]["dev"], "vw", "{:#}", found.json);
    assert!(found.first()["title"].to_string().contains("8.0 Mbit/s"), "{:#}", found.json);
    site.exec("node", "tc qdisc del dev vw root");

    site.exec(
        "node",
        "nft add table ip q && nft add chain ip q f '{ type filter hook forward priority 0; }' \
         && nft add rule ip q f ip saddr 10.81.1.2 limit rate over 2 mbytes/second counter drop",
    );
    let found = ask(&site, "10.81.2.2:9000", "tcp");
    found.assert_first("slow-policer", &site.netns("node"));
    assert_eq!(found.first()["where"]["chain"], "f", "{:#}", found.json);
}

#[test]
fn what_overflows_at_the_server_is_the_servers() {
    let site = routed();
    let _traffic = Traffic::none()
        .and(&site, "web", || {
            let socket = UdpSocket::bind(("0.0.0.0", 514)).expect("a port");
            let size: libc::c_int = 8192;
            // SAFETY: an integer that outlives the call.
            unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVBUF,
                    (&raw const size).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                );
            }
            socket.set_nonblocking(true).expect("a socket");
            Box::new(move || {
                std::thread::sleep(Duration::from_millis(20));
                while socket.recv(&mut [0; 512]).is_ok() {}
            })
        })
        .and(&site, "app", || {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("a port");
            Box::new(move || {
                for _ in 0..100 {
                    let _ = socket.send_to(&[1; 300], (SERVER, 514));
                }
                std::thread::sleep(Duration::from_millis(40));
            })
        });
    let found = ask(&site, "10.81.2.2:514", "udp");
    found.assert_first("slow-socket-buffer", &site.netns("web"));

    site.exec("web", "sysctl -qw net.core.somaxconn=2");
    let _more = Traffic::none()
        .and(&site, "web", || {
            let listener = TcpListener::bind(("0.0.0.0", 8443)).expect("a port");
            listener.set_nonblocking(true).expect("a listener");
            Box::new(move || {
                std::thread::sleep(Duration::from_millis(25));
                drop(listener.accept());
            })
        })
        .and(&site, "app", || {
            Box::new(|| {
                let to = std::net::SocketAddr::new(SERVER.parse().expect("an address"), 8443);
                let all = (0..8).map(|_| {
                    std::thread::spawn(move || {
                        TcpStream::connect_timeout(&to, Duration::from_millis(300))
                    })
                });
                for thread in all.collect::<Vec<_>>() {
                    let _ = thread.join();
                }
            })
        });
    let found = ask(&site, "10.81.2.2:8443", "tcp");
    found.assert_first("slow-accept-queue", &site.netns("web"));
    assert_eq!(found.first()["where"]["sysctl"], "net.core.somaxconn", "{:#}", found.json);
}

#[test]
fn a_range_of_ports_that_is_used_up_is_widened() {
    let site = routed();
    site.exec(
        "node",
        "iptables-nft -t nat -A POSTROUTING -o vw -p udp -j MASQUERADE --to-ports 61000-61003",
    );
    let _traffic = Traffic::none()
        .and(&site, "web", || {
            let socket = UdpSocket::bind(("0.0.0.0", 53)).expect("a port");
            socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
            Box::new(move || {
                if let Ok((_, from)) = socket.recv_from(&mut [0; 512]) {
                    let _ = socket.send_to(b"x", from);
                }
            })
        })
        .and(&site, "app", || {
            Box::new(|| {
                let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("a port");
                socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket");
                let _ = socket.send_to(b"x", (SERVER, 53));
                let _ = socket.recv(&mut [0; 64]);
            })
        });
    let found = ask(&site, "10.81.2.2:53", "udp");
    found.assert_first("slow-snat-ports", &site.netns("node"));
    found.run_fix();
    assert_quiet(&ask(&site, "10.81.2.2:53", "udp"));
}

#[test]
fn who_answers_for_others_late_is_named() {
    let site = Site::new(&["app", "node", "web"]);
    site.wire(("app", "eth0", "10.81.1.2/32"), ("node", "va", "10.81.9.1/32"));
    site.wire(("web", "eth0", "10.81.2.2/24"), ("node", "vw", "10.81.2.1/24"));
    site.exec("app", "ip route add 169.254.1.1 dev eth0 && ip route add default via 169.254.1.1");
    site.exec("web", "ip route add default via 10.81.2.1");
    site.exec("node", "ip route add 10.81.1.2 dev va && ip route add blackhole default");
    site.exec("node", "ip route replace default dev vw");
    site.exec("node", "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.va.proxy_arp=1");
    site.exec("node", "sysctl -qw net.ipv4.neigh.va.proxy_delay=60");
    let app = site.netns("app");
    let _traffic = Traffic::none().and(&site, "web", || echo(8080)).and(&site, "app", move || {
        Box::new(move || {
            let flush = ["-n", &app, "neigh", "flush", "dev", "eth0"];
            let _ = std::process::Command::new("ip").args(flush).status();
            let to = std::net::SocketAddr::new(SERVER.parse().expect("an address"), 8080);
            let _ = TcpStream::connect_timeout(&to, Duration::from_secs(2));
        })
    });
    let found = ask(&site, "10.81.2.2:8080", "tcp");
    found.assert_first("slow-neighbour", &site.netns("node"));
    assert_eq!(found.first()["where"]["dev"], "va", "{:#}", found.json);
}

#[test]
fn busy_is_not_slow() {
    let site = routed();
    // What was lost before anybody asked, and rules that only first packets see.
    site.exec("node", "tc qdisc add dev lo root tbf rate 1mbit burst 4kb latency 1ms");
    site.exec("node", "ping -q -f -c 200 -s 1400 127.0.0.1 || true");
    let rules: String = (0..3000)
        .map(|n| format!("-A SVC -d 10.{}.{}.1/32 -p tcp -j REJECT\n", 99 + n / 200, n % 200))
        .collect();
    let saved = format!(
        "*filter\n:SVC - [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A FORWARD -j SVC\n{rules}COMMIT\n"
    );
    let file = std::env::temp_dir().join(format!("{}-rules", site.netns("node")));
    std::fs::write(&file, saved).expect("a file");
    site.exec("node", &format!("iptables-nft-restore < {}", file.display()));
    let _ = std::fs::remove_file(&file);
    let _traffic = Traffic::none()
        .and(&site, "web", || sink(9000, Duration::ZERO))
        .and(&site, "web", || sink(9001, Duration::from_millis(50)))
        .and(&site, "app", || bulk(9000))
        .and(&site, "app", || bulk(9001));
    assert_quiet(&ask(&site, "10.81.2.2:9000", "tcp"));
    let slow_reader = ask(&site, "10.81.2.2:9001", "tcp");
    assert_quiet(&slow_reader);
    let said = slow_reader.json["findings"].to_string();
    assert!(said.contains("slow-reader"), "{:#}", slow_reader.json);
}

#[test]
fn a_tunnel_that_computes_no_checksums_is_told_to() {
    let site = routed();
    for (host, peer, own) in
        [("app", "10.81.2.2", "10.82.0.1/24"), ("web", "10.81.1.2", "10.82.0.2/24")]
    {
        site.exec(
            host,
            &format!(
                "ip link add vx type vxlan id 7 remote {peer} dstport 4789 dev eth0 \
                 && ip addr add {own} dev vx && ip link set vx up"
            ),
        );
    }
    site.exec("app", "ethtool -K vx tx-checksum-ip-generic off");
    let _traffic =
        Traffic::none()
            .and(&site, "web", || sink(9000, Duration::ZERO))
            .and(&site, "app", || bulk_to("10.82.0.2", 9000));
    let found = ask(&site, "10.82.0.2:9000", "tcp");
    found.assert_first("slow-offload", &site.netns("app"));
    assert_eq!(found.first()["where"]["dev"], "vx", "{:#}", found.json);
    found.run_fix();
    assert_quiet(&ask(&site, "10.82.0.2:9000", "tcp"));
}

/// A connection for each byte.
fn short_lived(port: u16) -> Box<dyn FnMut()> {
    Box::new(move || {
        let to = std::net::SocketAddr::new(SERVER.parse().expect("an address"), port);
        let Ok(mut stream) = TcpStream::connect_timeout(&to, PATIENCE) else { return };
        stream.set_read_timeout(Some(PATIENCE)).expect("a stream");
        let _ = stream.write(&[1]);
        let _ = stream.read(&mut [0]);
    })
}

#[test]
fn lists_that_first_packets_or_routes_walk_are_named() {
    let site = routed();
    let (echo, short) = (|| echo(8080), || short_lived(8080));
    let _traffic = Traffic::none().and(&site, "web", echo).and(&site, "app", short);
    // Dearer than those of addresses: 40,000 take a millisecond and more.
    let rules: String = (0..40_000)
        .map(|n| format!("-A SVC -p tcp -m tcp --dport {} -j RETURN\n", n % 8000 + 1))
        .collect();
    let saved = format!(
        "*nat\n:SVC - [0:0]\n-A PREROUTING -j SVC\n-A POSTROUTING -o vw -j MASQUERADE\n{rules}COMMIT\n"
    );
    let file = std::env::temp_dir().join(format!("{}-nat", site.netns("node")));
    std::fs::write(&file, saved).expect("a file");
    site.exec("node", &format!("iptables-legacy-restore < {}", file.display()));
    let found = glance(&site, "10.81.2.2:8080");
    found.assert_first("slow-rule-chain", &site.netns("node"));
    assert_eq!(found.first()["where"]["chain"], "SVC", "{:#}", found.json);
    assert!(evidence(&found).contains("first packet of a connection"), "{:#}", found.json);
    site.exec("node", "iptables-legacy -t nat -F PREROUTING");

    // The last one first: each goes to the head of the kernel's list.
    let rules: String = (0..10_000)
        .map(|n| {
            let pref = 20_000 - n;
            format!("rule add from 10.{}.{}.1 table 100 pref {pref}\n", 90 + n / 250, n % 250)
        })
        .collect();
    std::fs::write(&file, rules).expect("a file");
    site.exec("node", &format!("ip -batch {}", file.display()));
    let _ = std::fs::remove_file(&file);
    let found = glance(&site, "10.81.2.2:8080");
    found.assert_first("slow-routing-rules", &site.netns("node"));
}

#[test]
fn a_hop_with_a_small_mtu_is_named_and_widened() {
    let site = Site::new(&["app", "node", "next", "web"]);
    site.wire(("app", "eth0", "10.81.1.2/24"), ("node", "va", "10.81.1.1/24"));
    site.wire(("node", "vn", "10.81.3.1/24"), ("next", "vp", "10.81.3.2/24"));
    site.wire(("web", "eth0", "10.81.2.2/24"), ("next", "vw", "10.81.2.1/24"));
    site.exec("app", "ip route add default via 10.81.1.1");
    site.exec("web", "ip route add default via 10.81.2.1");
    site.exec("node", "ip route add 10.81.2.0/24 via 10.81.3.2 && ip link set vn mtu 576");
    site.exec("next", "ip route add 10.81.1.0/24 via 10.81.3.1 && ip link set vp mtu 576");
    for host in ["node", "next"] {
        site.exec(host, "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0");
    }
    let _traffic = load(&site);
    let found = glance(&site, "10.81.2.2:9000");
    let first = found.first();
    assert_eq!(first["id"], "slow-small-mtu", "{:#}", found.json);
    let place = (&first["where"]["netns"], &first["where"]["dev"]);
    let ends = [("node", "vn"), ("next", "vp")].map(|(host, dev)| (site.netns(host), dev));
    assert!(ends.iter().any(|(netns, dev)| place == (&netns.as_str().into(), &(*dev).into())));
    found.run_fix();
    assert_quiet(&glance(&site, "10.81.2.2:9000"));
}

#[test]
fn offloads_of_ipv6_and_of_what_lies_in_a_tunnel_are_known() {
    let site = routed();
    for (host, own, gate, dev) in
        [("app", "fd81:1::2", "fd81:1::1", "va"), ("web", "fd81:2::2", "fd81:2::1", "vw")]
    {
        site.exec("node", &format!("ip addr add {gate}/64 dev {dev} nodad"));
        site.exec(host, &format!("ip addr add {own}/64 dev eth0 nodad"));
        site.exec(host, &format!("ip route add default via {gate}"));
    }
    site.exec("node", "sysctl -qw net.ipv6.conf.all.forwarding=1");
    site.exec("app", "ethtool -K eth0 tx-tcp6-segmentation off");
    let traffic = Traffic::none().and(&site, "web", || sink_on("::", 9000, Duration::ZERO)).and(
        &site,
        "app",
        || bulk_to("fd81:2::2", 9000),
    );
    let found = glance(&site, "[fd81:2::2]:9000");
    found.assert_first("slow-offload", &site.netns("app"));
    assert!(evidence(&found).contains("tx-tcp6-segmentation off"), "{:#}", found.json);
    found.run_fix();
    assert_quiet(&glance(&site, "[fd81:2::2]:9000"));
    drop(traffic);

    let ends = [("app", "10.81.2.2", "10.82.0.1/24"), ("web", "10.81.1.2", "10.82.0.2/24")];
    for (host, peer, own) in ends {
        let add = format!("ip link add vx type vxlan id 7 remote {peer} dstport 4789 dev eth0");
        site.exec(host, &format!("{add} && ip addr add {own} dev vx && ip link set vx up"));
    }
    let off = "ethtool -K eth0 tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off";
    site.exec("app", off);
    let _traffic =
        Traffic::none()
            .and(&site, "web", || sink(9000, Duration::ZERO))
            .and(&site, "app", || bulk_to("10.82.0.2", 9000));
    let found = glance(&site, "10.82.0.2:9000");
    found.assert_first("slow-offload", &site.netns("app"));
    assert_eq!(found.first()["where"]["dev"], "eth0", "{:#}", found.json);
}

/// A cgroup of our own that may run for a fiftieth of the time; `None` where there is no controller.
struct Limited(std::path::PathBuf);

impl Limited {
    fn new(name: &str) -> Option<Self> {
        let (v1, v2) =
            (std::path::Path::new("/sys/fs/cgroup/cpu"), std::path::Path::new("/sys/fs/cgroup"));
        let (root, file, value) = match v1.exists() {
            true => (v1, "cpu.cfs_quota_us", "2000"),
            false => (v2, "cpu.max", "2000 100000"),
        };
        let dir = root.join(name);
        std::fs::create_dir(&dir).ok()?;
        let limited = Self(dir);
        std::fs::write(limited.0.join(file), value).ok().map(|()| limited)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Answers each byte after four milliseconds of work.
const BUSY_SERVER: &str = "
import socket, time
s = socket.create_server(('0.0.0.0', 8090))
print('ready', flush=True)
while True:
    c = s.accept()[0]
    while c.recv(1):
        end = time.process_time() + 0.004
        while time.process_time() < end: pass
        c.send(b'x')
";

struct Child(std::process::Child);

impl Child {
    /// Runs a program of Python inside a host, until it has said that it is ready.
    fn python(site: &Site, host: &str, script: &str) -> Self {
        let child = std::process::Command::new("ip")
            .args(["netns", "exec", &site.netns(host), "python3", "-c", script])
            .stdout(std::process::Stdio::piped())
            .spawn();
        let mut child = Self(child.expect("ip starts"));
        let stdout = child.0.stdout.as_mut().expect("a pipe");
        stdout.read_exact(&mut [0; 5]).expect("it is ready");
        child
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_that_its_cpu_limit_stops_is_no_slow_network() {
    let site = routed();
    let Some(cgroup) = Limited::new(&site.netns("web")) else {
        eprintln!("left out: no cgroup controller of processors here");
        return;
    };
    let server = Child::python(&site, "web", BUSY_SERVER);
    let procs = cgroup.0.join("cgroup.procs");
    std::fs::write(procs, server.0.id().to_string()).expect("it moves");
    let _traffic = Traffic::none().and(&site, "app", || ping_pong(8090));
    let found = ask(&site, "10.81.2.2:8090", "tcp");
    found.assert_first("slow-cpu-quota", &site.netns("web"));
    assert!(found.first()["title"].to_string().contains("python3"), "{:#}", found.json);
}

/// Takes what comes to queue 7 of netfilter, and lets it by after six milliseconds.
const SLOW_VERDICTS: &str = "
import socket, struct, time
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
s.bind((0, 0))
def attribute(kind, value):
    return struct.pack('=HH', 4 + len(value), kind) + value + bytes(-len(value) % 4)
def send(kind, body):
    body = struct.pack('=BBH', 0, 0, socket.htons(7)) + body
    s.send(struct.pack('=IHHII', 16 + len(body), 3 << 8 | kind, 1, 0, 0) + body)
send(2, attribute(1, struct.pack('!BBH', 1, 0, socket.AF_INET)))
send(2, attribute(2, struct.pack('!IB', 64, 1)))
print('ready', flush=True)
while True:
    data = s.recv(65536)
    while data:
        length, kind = struct.unpack('=IH', data[:6])
        if kind == 3 << 8:
            time.sleep(0.006)
            send(1, attribute(2, struct.pack('!I', 1) + data[24:28]))
        data = data[length + 3 & ~3:]
";

#[test]
fn a_program_that_decides_late_and_a_device_that_takes_no_pieces_are_named() {
    let site = routed();
    let traffic = talk(&site);
    let program = Child::python(&site, "node", SLOW_VERDICTS);
    site.exec("node", "iptables -A FORWARD -s 10.81.1.2 -j NFQUEUE --queue-num 7");
    let found = glance(&site, "10.81.2.2:8080");
    found.assert_first("slow-verdict", &site.netns("node"));
    assert!(found.first()["where"]["rule"].to_string().contains("NFQUEUE"), "{:#}", found.json);
    site.exec("node", "iptables -F FORWARD");
    drop((traffic, program));

    let _traffic = load(&site);
    site.exec("app", "ip link set eth0 gso_max_segs 1");
    let found = glance(&site, "10.81.2.2:9000");
    found.assert_first("slow-offload", &site.netns("app"));
    assert!(evidence(&found).contains("gso_max_segs 1,"), "{:#}", found.json);
    site.exec("app", "ip link set eth0 gso_max_segs 65535");
    assert_quiet(&glance(&site, "10.81.2.2:9000"));
}

#[test]
fn a_tunnel_whose_packets_are_cut_on_their_way_is_made_narrower() {
    let site = Site::new(&["app", "one", "core", "two", "web"]);
    site.wire(("app", "eth0", "10.81.1.2/24"), ("one", "va", "10.81.1.1/24"));
    site.wire(("web", "eth0", "10.81.2.2/24"), ("two", "vw", "10.81.2.1/24"));
    site.wire(("one", "ul", "10.81.8.2/24"), ("core", "c1", "10.81.8.1/24"));
    site.wire(("two", "ul", "10.81.9.2/24"), ("core", "c2", "10.81.9.1/24"));
    site.exec("app", "ip link set eth0 mtu 1450 && ip route add default via 10.81.1.1");
    site.exec("web", "ip link set eth0 mtu 1450 && ip route add default via 10.81.2.1");
    site.exec("two", "ip link set ul mtu 1400");
    site.exec("core", "ip link set c2 mtu 1400 && sysctl -qw net.ipv4.ip_forward=1");
    for (node, own, other, via, pods) in [
        ("one", "10.81.8.2", "10.81.9.2", "10.81.8.1", "10.81.2"),
        ("two", "10.81.9.2", "10.81.8.2", "10.81.9.1", "10.81.1"),
    ] {
        site.exec(
            node,
            &format!("ip route add default via {via} && sysctl -qw net.ipv4.ip_forward=1"),
        );
        let remote = format!("local {own} remote {other} dstport 4789");
        site.exec(node, &format!("ip link add vx type vxlan id 7 {remote}"));
        let tunnel = if node == "one" { "10.82.0.1" } else { "10.82.0.2" };
        let next = if node == "one" { "10.82.0.2" } else { "10.82.0.1" };
        site.exec(node, &format!("ip addr add {tunnel}/24 dev vx && ip link set vx mtu 1450 up"));
        site.exec(node, &format!("ip route add {pods}.0/24 via {next}"));
    }
    let _traffic = load(&site);
    let found = glance(&site, "10.81.2.2:9000");
    found.assert_first("slow-fragmentation", &site.netns("core"));
    assert_eq!(found.first()["where"]["dev"], "c2", "{:#}", found.json);
    found.run_fix();
    assert_quiet(&glance(&site, "10.81.2.2:9000"));
}

/// Knows one name, with an address of each kind.
const NAME_SERVER: &str = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('10.81.2.2', 53))
print('ready', flush=True)
records = {1: socket.inet_aton('10.81.2.2'), 28: socket.inet_pton(socket.AF_INET6, '2001:db8:2::2')}
while True:
    data, to = s.recvfrom(2048)
    end = data.index(0, 12) + 5
    record = records[data[end - 3]]
    head = data[:2] + bytes([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]) + data[12:end]
    answer = bytes([0xc0, 12, 0, data[end - 3], 0, 1, 0, 0, 0, 30, 0, len(record)])
    s.sendto(head + answer + record, to)
";

#[test]
fn an_address_of_a_name_that_leads_nowhere_is_named() {
    let site = routed();
    site.exec("node", "ip addr add 2001:db8:1::1/64 dev va nodad");
    site.exec("node", "sysctl -qw net.ipv6.conf.all.forwarding=1");
    site.exec("node", "ip route add 2001:db8:2::2 dev vw && ip -6 neigh add 2001:db8:2::2 dev vw lladdr 02:00:00:00:00:09");
    site.exec("app", "ip addr add 2001:db8:1::2/64 dev eth0 nodad");
    site.exec("app", "ip -6 route add default via 2001:db8:1::1");
    site.resolver("app", "nameserver 10.81.2.2\n");
    let _server = Child::python(&site, "web", NAME_SERVER);
    let _traffic = talk(&site);
    let found = ask_for("5s", &site, "api.shop.test:8080", "tcp");
    found.assert_first("slow-dead-address", &site.netns("app"));
    assert!(found.first()["title"].to_string().contains("2001:db8:2::2"), "{:#}", found.json);
    site.exec("app", "ip addr del 2001:db8:1::2/64 dev eth0");
    assert_quiet(&ask_for("2s", &site, "api.shop.test:8080", "tcp"));
}
