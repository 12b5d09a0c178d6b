//! `pkttrace diagnose --slow` on networks that are slow, or only busy: a client, a router, a server,
//! each in a namespace of its own, real traffic between them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pkttrace_tests::{Diagnosis, Site};

const SERVER: &str = "10.81.2.2";

/// `app` 10.81.1.2, `node`, `web` 10.81.2.2.
fn routed() -> Site {
    let site = Site::new(&["app", "node", "web"]);
    site.wire(("app", "eth0", "10.81.1.2/24"), ("node", "va", "10.81.1.1/24"));
    site.wire(("web", "eth0", "10.81.2.2/24"), ("node", "vw", "10.81.2.1/24"));
    site.exec("app", "ip route add default via 10.81.1.1");
    site.exec("web", "ip route add default via 10.81.2.1");
    site.exec("node", "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0");
    site
}

/// Runs `work` on a thread inside a host until it is dropped.
struct Traffic {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    fn none() -> Self {
        Self { end: Arc::new(AtomicBool::new(false)), threads: Vec::new() }
    }

    /// `work` is called again and again.
    fn and(
        mut self,
        site: &Site,
        host: &str,
        begin: impl FnOnce() -> Box<dyn FnMut()> + Send + 'static,
    ) -> Self {
        let netns = File::open(format!("/run/netns/{}", site.netns(host))).expect("a namespace");
        let end = Arc::clone(&self.end);
        let (ready, is_ready) = std::sync::mpsc::channel();
        self.threads.push(std::thread::spawn(move || {
            // SAFETY: two integers; the file is open meanwhile.
            let entered = unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(entered, 0, "setns");
            let mut work = begin();
            ready.send(()).expect("the test waits");
            while !end.load(Ordering::Relaxed) {
                work();
            }
        }));
        is_ready.recv().expect("the thread begins");
        self
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

const PATIENCE: Duration = Duration::from_millis(200);

/// Takes connections and reads all that comes, at most `pace` bytes at once, with a pause after.
fn sink(port: u16, pause: Duration) -> Box<dyn FnMut()> {
    sink_on("0.0.0.0", port, pause)
}

fn sink_on(addr: &str, port: u16, pause: Duration) -> Box<dyn FnMut()> {
    let listener = TcpListener::bind((addr, port)).expect("a port");
    listener.set_nonblocking(true).expect("a listener");
    let mut open: Vec<TcpStream> = Vec::new();
    let mut buffer = vec![0; 65_536];
    Box::new(move || {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_read_timeout(Some(Duration::from_millis(5))).expect("a stream");
            stream.set_nonblocking(false).expect("a stream");
            open.push(stream);
        }
        open.retain_mut(|stream| match stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        });
        std::thread::sleep(if open.is_empty() { Duration::from_millis(1) } else { pause });
    })
}

/// Sends as fast as it goes.
fn bulk(port: u16) -> Box<dyn FnMut()> {
    bulk_to(SERVER, port)
}

fn bulk_to(server: &'static str, port: u16) -> Box<dyn FnMut()> {
    let mut stream: Option<TcpStream> = None;
    let data = vec![7; 65_536];
    Box::new(move || {
        if stream.is_none() {
            stream = TcpStream::connect((server, port)).ok();
        }
        let Some(open) = &mut stream else { return std::thread::sleep(PATIENCE) };
        open.set_write_timeout(Some(PATIENCE)).expect("a stream");
        let _ = open.write(&data);
    })
}

/// Answers every byte.
fn echo(port: u16) -> Box<dyn FnMut()> {
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("a port");
    listener.set_nonblocking(true).expect("a listener");
    let mut open: Vec<TcpStream> = Vec::new();
    Box::new(move || {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).expect("a stream");
            stream.set_read_timeout(Some(Duration::from_millis(5))).expect("a stream");
            open.push(stream);
        }
        let mut byte = [0];
        open.retain_mut(|stream| match stream.read(&mut byte) {
            Ok(0) => false,
            Ok(_) => stream.write_all(&byte).is_ok(),
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        });
        if open.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
    })
}

/// Round trips of one byte on one connection.
fn ping_pong(port: u16) -> Box<dyn FnMut()> {
    let mut stream: Option<TcpStream> = None;
    Box::new(move || {
        if stream.is_none() {
            stream = TcpStream::connect((SERVER, port)).ok();
        }
        let Some(open) = &mut stream else { return std::thread::sleep(PATIENCE) };
        open.set_read_timeout(Some(PATIENCE)).expect("a stream");
        let _ = open.write(&[1]);
        let _ = open.read(&mut [0]);
    })
}

fn ask(site: &Site, to: &str, proto: &str) -> Diagnosis {
    ask_for("3s", site, to, proto)
}

/// What shows in every packet is seen at once.
fn glance(site: &Site, to: &str) -> Diagnosis {
    ask_for("2s", site, to, "tcp")
}

fn ask_for(span: &str, site: &Site, to: &str, proto: &str) -> Diagnosis {
    let from = site.netns("app");
    Diagnosis::of(&["--slow", "--from", &from, "--to", to, "--proto", proto, "--duration", span])
}

fn assert_quiet(found: &Diagnosis) {
    assert!(found.loud().is_empty(), "{:#}", found.json);
}

/// The first finding's evidence, in one text.
fn evidence(found: &Diagnosis) -> String {
    found.first()["evidence"].to_string()
}

#[test]
fn a_long_chain_in_everybodys_way_is_named_and_let_past() {
    let site = routed();
    let _traffic =
        Traffic::none().and(&site, "web", || echo(8080)).and(&site, "app", || ping_pong(8080));
    let rules: String = (0..8000)
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
    assert!(evidence(&found).contains("8001 rules"), "{:#}", found.json);
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
    let _traffic =
        Traffic::none()
            .and(&site, "web", || sink(9000, Duration::ZERO))
            .and(&site, "app", || bulk(9000));
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
    let _traffic =
        Traffic::none()
            .and(&site, "web", || sink(9000, Duration::ZERO))
            .and(&site, "app", || bulk(9000));
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
    let netns = site.netns("web");
    let server = std::process::Command::new("ip")
        .args(["netns", "exec", &netns, "python3", "-c", BUSY_SERVER])
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut server = Child(server.expect("ip starts"));
    let mut said = [0; 5];
    let stdout = server.0.stdout.as_mut().expect("a pipe");
    stdout.read_exact(&mut said).expect("it listens");
    let procs = cgroup.0.join("cgroup.procs");
    std::fs::write(procs, server.0.id().to_string()).expect("it moves");
    let _traffic = Traffic::none().and(&site, "app", || ping_pong(8090));
    let found = ask(&site, "10.81.2.2:8090", "tcp");
    found.assert_first("slow-cpu-quota", &site.netns("web"));
    assert!(found.first()["title"].to_string().contains("python3"), "{:#}", found.json);
}
