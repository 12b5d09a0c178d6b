//! `pkttrace drops`: its sums are those of what was sent, and of the kernel's own counters.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::process::Command;

use pkttrace_tests::{Lab, PinnedProgram, Reports, Verdict, version};
use serde_json::Value;

const NEAR: &str = "10.244.1.3";
const FAR: &str = "10.244.2.2";

/// Sends `n` datagrams of `len` bytes from a host; the kernel may refuse them, and is counted.
fn send(lab: &Lab, from: &str, to: &str, n: usize, len: usize, options: &[(i32, i32)]) {
    lab.inside(from, || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        for (option, value) in options {
            set(&socket, libc::IPPROTO_IP, *option, *value);
        }
        for _ in 0..n {
            let _ = socket.send_to(&vec![0; len], to);
        }
    });
}

fn set(socket: &impl std::os::fd::AsRawFd, level: i32, option: i32, value: i32) {
    // SAFETY: reads an integer of the length that is said.
    let rc = unsafe {
        let value = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), level, option, value, size_of::<i32>() as u32)
    };
    assert_eq!(rc, 0, "setsockopt: {}", std::io::Error::last_os_error());
}

/// A counter of a host by the name of `nstat`.
fn counter(lab: &Lab, host: &str, name: &str) -> u64 {
    let text = lab.exec(host, &format!("nstat -asz {name}"));
    let line = text.lines().find(|line| line.starts_with(name)).expect("the counter");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

/// How many packets all reports have in rows that are as described, in a host of the lab.
fn sum(lab: &Lab, reports: &[Value], host: &str, is_meant: impl Fn(&Value) -> bool) -> u64 {
    let netns = lab.netns(host);
    let rows = reports.iter().flat_map(|r| r["rows"].as_array().into_iter().flatten());
    rows.filter(|row| row["netns"]["name"] == *netns && is_meant(row))
        .map(|row| row["packets"].as_u64().expect("a number"))
        .sum()
}

/// Every row in a line.
fn listing(reports: &[Value]) -> String {
    let rows = reports.iter().flat_map(|r| r["rows"].as_array().into_iter().flatten());
    let line = |row: &Value| {
        let words = [&row["packets"], &row["reason"], &row["function"], &row["netns"]["name"]];
        let words = words.into_iter().chain([&row["dev"]["name"], &row["hook"]]);
        words.map(Value::to_string).collect::<Vec<_>>().join(" ")
    };
    rows.map(line).collect::<Vec<_>>().join("\n")
}

/// A drop that is caused, and what it must be counted as.
struct Case {
    what: &'static str,
    host: &'static str,
    /// Reasons by newer and older kernels, where the function is not enough.
    reasons: &'static [&'static str],
    functions: &'static [&'static str],
    hook: Option<&'static str>,
    packets: u64,
}

fn assert_case(lab: &Lab, reports: &[Value], case: &Case) {
    let is_among = |value: &Value, list: &[&str]| {
        list.is_empty() || value.as_str().is_some_and(|value| list.contains(&value))
    };
    let has_reasons = version() >= (6, 1);
    let packets = sum(lab, reports, case.host, |row| {
        (!has_reasons || is_among(&row["reason"], case.reasons))
            && is_among(&row["function"], case.functions)
            && case.hook.is_none_or(|hook| row["hook"] == hook)
    });
    assert_eq!(packets, case.packets, "{}:\n{}", case.what, listing(reports));
}

/// What the kernel itself counts is what was sent.
fn assert_counters(lab: &Lab, counters: &[(&str, &str, u64)]) {
    for (host, name, n) in counters {
        assert_eq!(counter(lab, host, name), *n, "{name} in {host}");
    }
}

/// How much a counter beside the rows grew in all reports.
fn told(lab: &Lab, reports: &[Value], host: &str, name: &str) -> u64 {
    let counters = reports.iter().flat_map(|r| r["counters"].as_array().into_iter().flatten());
    counters
        .filter(|c| c["name"] == name && c["netns"]["name"] == *lab.netns(host))
        .filter_map(|c| c["delta"].as_u64())
        .sum()
}

/// Sends `n` copies of a packet of that protocol to p2 from its node's end of the veth pair.
fn send_frames(lab: &Lab, protocol: u16, packet: &[u8], n: usize) {
    let mac = lab.exec("p2", "cat /sys/class/net/eth0/address");
    let mac: Vec<u8> = mac
        .trim()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("a hardware address"))
        .collect();
    lab.inside("n1", || {
        // SAFETY: plain calls; the descriptor is ours, and what it is given outlives the call.
        unsafe {
            let protocol = protocol.to_be();
            let socket = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0);
            assert!(socket >= 0, "a packet socket");
            let mut to: libc::sockaddr_ll = std::mem::zeroed();
            to.sll_family = libc::AF_PACKET as u16;
            to.sll_protocol = protocol;
            to.sll_ifindex = libc::if_nametoindex(c"veth-p2".as_ptr()).cast_signed();
            to.sll_halen = 6;
            to.sll_addr[..6].copy_from_slice(&mac);
            for _ in 0..n {
                let sent = libc::sendto(
                    socket,
                    packet.as_ptr().cast(),
                    packet.len(),
                    0,
                    (&raw const to).cast(),
                    size_of::<libc::sockaddr_ll>() as u32,
                );
                assert_eq!(sent, packet.len().cast_signed(), "{}", std::io::Error::last_os_error());
            }
            libc::close(socket);
        }
    });
}

/// From n1 to p2, with a protocol and, if it is wanted, the right checksum.
fn ip_packet(protocol: u8, is_sound: bool) -> [u8; 28] {
    let mut packet = [0_u8; 28];
    packet[0] = 0x45;
    packet[3] = 28;
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&[10, 244, 1, 1]);
    packet[16..20].copy_from_slice(&[10, 244, 1, 3]);
    let words = packet[..20].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&(if is_sound { sum } else { sum ^ 0x0101 }).to_be_bytes());
    packet
}

/// A socket that takes nothing of what comes to it: a classic filter that returns 0.
fn deaf_socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("a socket");
    let mut instruction = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut instruction };
    // SAFETY: the program and its instruction outlive the call.
    let rc = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as u32,
        )
    };
    assert_eq!(rc, 0, "SO_ATTACH_FILTER: {}", std::io::Error::last_os_error());
    socket
}

/// Sends `n` datagrams whose checksum is wrong.
fn send_damaged(lab: &Lab, from: &str, n: usize) {
    lab.inside(from, || {
        // SAFETY: plain calls; the descriptor is ours, and what it is given outlives the call.
        unsafe {
            let socket = libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW);
            assert!(socket >= 0, "a raw socket");
            let mut packet = [0_u8; 32];
            packet[0] = 0x45;
            packet[8] = 64;
            packet[9] = 17;
            packet[12..16].copy_from_slice(&[10, 244, 1, 1]);
            packet[16..20].copy_from_slice(&[10, 244, 1, 3]);
            packet[20..28].copy_from_slice(&[0x20, 0, 0x1f, 0x90, 0, 12, 0x12, 0x34]);
            let mut to: libc::sockaddr_in = std::mem::zeroed();
            to.sin_family = libc::AF_INET as u16;
            to.sin_addr.s_addr = u32::from_ne_bytes([10, 244, 1, 3]);
            for _ in 0..n {
                let sent = libc::sendto(
                    socket,
                    packet.as_ptr().cast(),
                    packet.len(),
                    0,
                    (&raw const to).cast(),
                    size_of::<libc::sockaddr_in>() as u32,
                );
                assert_eq!(sent, 32, "sendto: {}", std::io::Error::last_os_error());
            }
            libc::close(socket);
        }
    });
}

#[test]
fn sums_are_those_of_what_was_sent_for_each_reason() {
    let lab = Lab::cluster();
    lab.ping("p1", NEAR);
    lab.ping("p1", FAR);
    let run = Reports::start(&lab, &["drops", "--interval", "100ms"]);
    let mut cases = Vec::new();
    let mut expect = |what, host, reasons, functions, hook, packets| {
        cases.push(Case { what, host, reasons, functions, hook, packets });
    };

    send(&lab, "p1", "10.244.1.3:9999", 7, 10, &[]);
    expect(
        "nobody listens",
        "p2",
        &["NO_SOCKET"],
        &["__udp4_lib_rcv", "udp_rcv", "udp_queue_rcv_skb"],
        None,
        7,
    );

    lab.exec("n1", &format!("iptables -I FORWARD -d {FAR} -p udp --dport 7000 -j DROP"));
    send(&lab, "p1", &format!("{FAR}:7000"), 11, 10, &[]);
    expect("a rule in FORWARD", "n1", &["NETFILTER_DROP"], &[], Some("forward"), 11);

    lab.exec("p2", "iptables -I INPUT -p udp --dport 7001 -j DROP");
    send(&lab, "p1", &format!("{NEAR}:7001"), 13, 10, &[]);
    expect("a rule in INPUT", "p2", &["NETFILTER_DROP"], &[], Some("input"), 13);

    lab.exec("p1", "iptables -I OUTPUT -p udp --dport 7002 -j DROP");
    send(&lab, "p1", &format!("{NEAR}:7002"), 17, 10, &[]);
    expect("a rule in OUTPUT", "p1", &["NETFILTER_DROP"], &[], Some("output"), 17);

    lab.exec("p2", "iptables -t raw -I PREROUTING -p udp --dport 7003 -j DROP");
    send(&lab, "p1", &format!("{NEAR}:7003"), 19, 10, &[]);
    expect("a rule in PREROUTING", "p2", &["NETFILTER_DROP"], &[], Some("prerouting"), 19);

    send(&lab, "p1", &format!("{FAR}:7100"), 5, 10, &[(libc::IP_TTL, 1)]);
    expect("time to live", "n1", &["IP_INHDR"], &["ip_forward"], None, 5);

    lab.exec("n1", "ip route add blackhole 10.98.0.0/16");
    send(&lab, "p1", "10.98.0.1:7", 6, 10, &[]);
    expect("a blackhole route", "n1", &["NOT_SPECIFIED"], &["ip_error"], None, 6);

    lab.exec("n1", "ip link set flannel.1 mtu 1000");
    let probe = [(libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)];
    send(&lab, "p1", &format!("{FAR}:7101"), 8, 1200, &probe);
    lab.exec("n1", "ip link set flannel.1 mtu 1450");
    expect("MTU", "n1", &["PKT_TOO_BIG"], &["ip_forward"], None, 8);

    lab.exec(
        "n1",
        "sysctl -qw net.ipv4.conf.cni0.rp_filter=1; ip route add 10.244.1.2/32 dev eth0",
    );
    send(&lab, "p1", &format!("{FAR}:7102"), 9, 10, &[]);
    lab.exec(
        "n1",
        "ip route del 10.244.1.2/32 dev eth0; sysctl -qw net.ipv4.conf.cni0.rp_filter=0",
    );
    expect(
        "reverse path filter",
        "n1",
        &["IP_RPFILTER"],
        &["ip_rcv_finish_core", "ip_rcv_finish"],
        None,
        9,
    );

    // From the node itself: conntrack there would take them for invalid before.
    send_damaged(&lab, "n1", 10);
    expect(
        "checksum",
        "p2",
        &["UDP_CSUM"],
        &["__udp4_lib_rcv", "udp_rcv", "udp_queue_rcv_one_skb", "udp_queue_rcv_skb"],
        None,
        10,
    );

    lab.exec("p1", "ip neigh flush all; sysctl -qw net.ipv4.neigh.eth0.mcast_solicit=1 net.ipv4.neigh.eth0.retrans_time_ms=20");
    send(&lab, "p1", "10.244.1.77:7", 4, 10, &[]);
    expect("neighbour", "p1", &["NEIGH_FAILED"], &[], None, 4);

    lab.exec("n1", "tc qdisc add dev veth-p2 root tbf rate 8bit burst 100b limit 100");
    send(&lab, "p1", &format!("{NEAR}:7103"), 30, 60, &[]);
    let stats = lab.exec("n1", "tc -s qdisc show dev veth-p2");
    lab.exec("n1", "tc qdisc del dev veth-p2 root");
    let dropped = stats.split("dropped ").nth(1).and_then(|t| t.split(',').next());
    let dropped: u64 = dropped.and_then(|t| t.parse().ok()).expect("a count of tc");
    assert!(dropped > 20, "{stats}");
    run.wait("the queue's drops counted", |reports| {
        sum(&lab, reports, "n1", |row| row["dev"]["name"] == "veth-p2") >= dropped
    });

    let program = PinnedProgram::new(&lab, Verdict::XdpDrop);
    lab.exec("p2", &format!("ip link set dev eth0 xdpgeneric pinned {}", program.path()));
    send(&lab, "p1", &format!("{NEAR}:7104"), 12, 10, &[]);
    lab.exec("p2", "ip link set dev eth0 xdpgeneric off");
    expect(
        "XDP",
        "p2",
        &["XDP", "NOT_SPECIFIED"],
        &["do_xdp_generic", "netif_receive_generic_xdp"],
        None,
        12,
    );

    run.wait("the unanswered question counted", |reports| {
        sum(&lab, reports, "p1", |row| row["reason"] != "NETFILTER_DROP") >= 4
    });
    assert_counters(
        &lab,
        &[
            ("p2", "UdpNoPorts", 7),
            ("p2", "UdpInCsumErrors", 10),
            ("n1", "IpInHdrErrors", 5),
            ("n1", "IpFragFails", 8),
            ("n1", "TcpExtIPReversePathFilter", 9),
        ],
    );
    let (reports, _) = run.finish();
    for case in &cases {
        assert_case(&lab, &reports, case);
    }
    let example =
        reports.iter().flat_map(|r| r["rows"].as_array().into_iter().flatten()).find(|row| {
            row["hook"] == "forward"
                && row["netns"]["name"] == *lab.netns("n1")
                && !row["example"].is_null()
        });
    let example = &example.expect("an example of the rule's drops")["example"];
    assert_eq!(example["flow"]["dst"], FAR, "{example}");
    assert_eq!(example["flow"]["dport"], 7000, "{example}");
    assert_eq!(example["fate"], "dropped", "{example}");
    // Nothing of its way was followed.
    assert_eq!(example["gaps"][0]["why"], "joined-midway", "{example}");
    assert_eq!(example["complete"], false, "{example}");
}

#[test]
fn sums_hold_below_and_above_the_rules_too() {
    let lab = Lab::cluster();
    lab.ping("p1", NEAR);
    let run = Reports::start(&lab, &["drops", "--interval", "100ms"]);
    let mut cases = Vec::new();
    let mut expect = |what, host, reasons, functions, hook, packets| {
        cases.push(Case { what, host, reasons, functions, hook, packets });
    };

    // The first takes the only port that there is.
    lab.exec(
        "p1",
        "iptables -t nat -A POSTROUTING -p udp --dport 9001 -j MASQUERADE --to-ports 61000",
    );
    for _ in 0..9 {
        send(&lab, "p1", &format!("{NEAR}:9001"), 1, 10, &[]);
    }
    expect("conntrack", "p1", &["NETFILTER_DROP"], &[], Some("postrouting"), 8);

    let program = PinnedProgram::new(&lab, Verdict::TcShot);
    let filter = format!("tc filter add dev eth0 ingress bpf da pinned {}", program.path());
    lab.exec("p2", &format!("tc qdisc add dev eth0 clsact && {filter}"));
    send(&lab, "p1", &format!("{NEAR}:7105"), 14, 10, &[]);
    lab.exec("p2", "tc qdisc del dev eth0 clsact");
    expect("tc", "p2", &["TC_INGRESS"], &["__netif_receive_skb_core"], None, 14);

    send_frames(&lab, 0x0800, &ip_packet(17, false), 15);
    expect("IP header", "p2", &["IP_CSUM"], &["ip_rcv_core", "ip_rcv"], None, 15);

    send_frames(&lab, 0x0800, &ip_packet(253, true), 16);
    expect(
        "protocol",
        "p2",
        &["IP_NOPROTO"],
        &["ip_protocol_deliver_rcu", "ip_local_deliver_finish"],
        None,
        16,
    );

    let _deaf = lab.inside("p2", || deaf_socket("0.0.0.0:7106"));
    send(&lab, "p1", &format!("{NEAR}:7106"), 18, 10, &[]);
    expect("a socket's filter", "p2", &["SOCKET_FILTER"], &[], None, 18);

    run.wait("the last of them counted", |reports| {
        sum(&lab, reports, "p2", |row| row["reason"] != "NETFILTER_DROP") >= 14 + 15 + 16 + 18
    });
    assert_counters(&lab, &[("p2", "IpExtInCsumErrors", 15), ("p2", "IpInUnknownProtos", 16)]);
    let (reports, _) = run.finish();
    for case in &cases {
        assert_case(&lab, &reports, case);
    }
    assert_eq!(told(&lab, &reports, "p1", "ct.insert_failed"), 8, "conntrack's own count");
}

#[test]
fn a_full_socket_buffer_loses_as_many_as_the_kernel_counts() {
    let lab = Lab::cluster();
    lab.ping("p1", NEAR);
    let socket = lab.inside("p2", || UdpSocket::bind("0.0.0.0:8080").expect("a socket"));
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 4096);
    let run = Reports::start(&lab, &["drops", "--interval", "100ms", "--dst", NEAR]);
    send(&lab, "p1", "10.244.1.3:8080", 200, 500, &[]);
    socket.set_nonblocking(true).expect("a socket");
    run.wait("all that did not fit counted", |reports| {
        let lost = counter(&lab, "p2", "UdpRcvbufErrors");
        lost > 0 && sum(&lab, reports, "p2", |row| row["function"].is_string()) >= lost
    });
    let mut kept = 0;
    while socket.recv(&mut [0; 600]).is_ok() {
        kept += 1;
    }
    let lost = counter(&lab, "p2", "UdpRcvbufErrors");
    let (reports, _) = run.finish();
    assert_eq!(kept + lost, 200);
    assert_eq!(sum(&lab, &reports, "p2", |_| true), lost, "{}", listing(&reports));
    let told = told(&lab, &reports, "p2", "UdpRcvbufErrors");
    assert_eq!(told, lost, "the kernel's counter beside it");
}

#[test]
fn a_filter_and_a_narrower_table_count_the_same_packets() {
    let lab = Lab::cluster();
    lab.ping("p1", NEAR);
    let at_p2 = lab.netns("p2");
    let run = Reports::start(
        &lab,
        &["drops", "--by", "reason", "--netns", &at_p2, "--proto", "udp", "--dport", "9998"],
    );
    send(&lab, "p1", "10.244.1.3:9999", 3, 10, &[]);
    send(&lab, "p1", "10.244.1.3:9998", 5, 10, &[]);
    let (reports, stderr) = run.finish();
    let rows: Vec<&Value> =
        reports.iter().flat_map(|r| r["rows"].as_array().into_iter().flatten()).collect();
    let packets: u64 = rows.iter().filter_map(|row| row["packets"].as_u64()).sum();
    assert_eq!(packets, 5, "{rows:#?}");
    assert!(rows.iter().all(|row| row["netns"].is_null() && row["function"].is_null()));
    assert!(stderr.contains("5 packets dropped"), "{stderr}");
}

#[test]
fn what_is_no_ip_counts_where_it_is_dropped() {
    let lab = Lab::cluster();
    let at_p2 = lab.netns("p2");
    let dropped = || -> u64 {
        let count = lab.exec("p2", "cat /sys/class/net/eth0/statistics/rx_dropped");
        count.trim().parse().expect("a number")
    };
    let before = dropped();
    let run = Reports::start(&lab, &["drops", "--interval", "100ms", "--netns", &at_p2]);
    // An experimental protocol.
    send_frames(&lab, 0x88b5, &[7; 50], 13);
    let is_it = |row: &Value| row["function"] == "__netif_receive_skb_core";
    run.wait("all of them counted", |reports| sum(&lab, reports, "p2", is_it) >= 13);
    let (reports, _) = run.finish();
    assert_eq!(sum(&lab, &reports, "p2", is_it), 13, "{}", listing(&reports));
    assert!(dropped() - before >= 13, "the device's own count");
}

#[test]
fn rules_and_ways_are_those_of_the_examples() {
    let lab = Lab::cluster();
    lab.ping("p1", FAR);
    lab.exec(
        "n1",
        &format!(
            "iptables -I FORWARD -d {FAR} -p udp --dport 7000 -m comment --comment no-7000 -j DROP"
        ),
    );
    let args = ["drops", "--interval", "100ms", "--rules", "--dst", FAR, "--proto", "udp"];
    let run = Reports::start(&lab, &args);
    let ruled = |reports: &[Value]| {
        let mut rows = reports.iter().flat_map(|r| r["rows"].as_array().into_iter().flatten());
        rows.find(|row| !row["rule"].is_null()).cloned()
    };
    let mut sent = 0;
    while ruled(&run.so_far()).is_none() {
        assert!(sent < 1_000, "no rule: {:#?}", run.so_far());
        send(&lab, "p1", &format!("{FAR}:7000"), 1, 10, &[]);
        sent += 1;
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let row = ruled(&run.so_far()).expect("a row");
    assert_eq!(row["rule"]["comment"], "no-7000", "{row}");
    let path = row["example"]["path"].as_str().expect("a path");
    assert!(path.starts_with("eth0@") && path.contains("FORWARD"), "{path}");
    let (reports, _) = run.finish();
    assert_eq!(
        sum(&lab, &reports, "n1", |row| row["hook"] == "forward"),
        sent,
        "{}",
        listing(&reports)
    );
}

#[test]
fn prometheus_gets_the_same_numbers() {
    let lab = Lab::cluster();
    lab.ping("p1", NEAR);
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    let port = port.expect("a free port").port();
    let run = Reports::start(&lab, &["drops", "--interval", "50ms", "--listen", &port.to_string()]);
    send(&lab, "p1", "10.244.1.3:9999", 6, 10, &[]);
    run.wait("counted", |reports| {
        sum(&lab, reports, "p2", |row| row["packets"].as_u64() > Some(0)) >= 6
    });
    let connect = || TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    // Who says nothing, or nonsense without end, keeps nobody else waiting.
    let mut silent: Vec<TcpStream> = (0..8).map(|_| connect()).collect();
    let mut nonsense = connect();
    let _ = nonsense.write_all(&[0xff; 20_000]);
    let mut said = Vec::new();
    let _ = nonsense.read_to_end(&mut said);
    assert_eq!(said, b"", "an answer to nonsense");
    let mut client = connect();
    client.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
    let mut text = String::new();
    client.read_to_string(&mut text).expect("it answers");
    let netns = format!("netns=\"{}\"", lab.netns("p2"));
    let line = text.lines().find(|l| l.starts_with("pkttrace_drops_total{") && l.contains(&netns));
    assert!(line.is_some_and(|line| line.ends_with(" 6")), "{text}");
    // Nor are they kept for ever.
    assert_eq!(silent[0].read(&mut [0]).ok(), Some(0));
    let second = Command::new(pkttrace_tests::binary())
        .args(["drops", "--duration", "1s", "--listen", &port.to_string()])
        .output()
        .expect("pkttrace starts");
    assert_eq!(second.status.code(), Some(2), "the port is taken");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("cannot listen on 127.0.0.1") && said.lines().count() == 1, "{said}");
    let _ = run.finish();
}

#[test]
fn a_wrong_address_to_listen_on_is_one_line() {
    let output = Command::new(pkttrace_tests::binary())
        .args(["drops", "--listen", "nowhere"])
        .output()
        .expect("pkttrace starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ADDRESS:PORT"));
}

/// A socket keeps segments that came out of order in a tree, with a branch where the device was.
#[test]
fn segments_that_a_socket_kept_are_dropped_in_its_namespace() {
    let lab = Lab::cluster();
    lab.ping("p1", NEAR);
    // The client's own kernel knows nothing of its connection.
    lab.exec("p1", "iptables -I OUTPUT -p tcp --tcp-flags RST RST -j DROP");
    let listener = lab.inside("p2", || {
        let listener = std::net::TcpListener::bind("0.0.0.0:9000").expect("a listener");
        set(&listener, libc::SOL_SOCKET, libc::SO_RCVBUF, 20_000);
        listener
    });
    let run = Reports::start(&lab, &["drops", "--interval", "100ms"]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/out_of_order.py");
    lab.exec("p1", &format!("python3 {script} 10.244.1.2 {NEAR} 9000"));
    let is_pruned = |row: &Value| row["function"] == "tcp_prune_ofo_queue";
    if version() >= (6, 11) {
        run.wait("what was pruned counted", |reports| sum(&lab, reports, "p2", is_pruned) > 500);
    }
    let (reports, _) = run.finish();
    drop(listener);
    let rows = reports.iter().flat_map(|r| r["rows"].as_array().into_iter().flatten());
    for row in rows.filter(|row| is_pruned(row)) {
        let name = row["netns"]["name"].as_str().unwrap_or_default();
        assert!(!name.starts_with("net:["), "{row}");
        assert!(row["dev"].is_null() || row["dev"]["name"] == "eth0", "{row}");
    }
}
