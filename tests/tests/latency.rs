//! `pkttrace latency`: times are those that the packets took.

use std::collections::BTreeMap;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pkttrace_tests::{Lab, Reports, binary, version};
use serde_json::Value;

const NEAR: &str = "10.244.1.3";
const FAR: &str = "10.244.2.2";

/// The segments of the only report.
fn segments(reports: &[Value]) -> &Vec<Value> {
    assert_eq!(reports.len(), 1, "one object");
    assert_eq!(
        (&reports[0]["schema"], &reports[0]["type"]),
        (&Value::from(1), &Value::from("latency"))
    );
    reports[0]["segments"].as_array().expect("a list")
}

/// The segment of this name that begins at a device of a host.
fn segment<'a>(
    lab: &Lab,
    all: &'a [Value],
    name: &str,
    host: &str,
    dev: &str,
) -> Option<&'a Value> {
    let netns = lab.netns(host);
    all.iter()
        .find(|s| s["segment"] == name && s["netns"]["name"] == *netns && s["dev"]["name"] == dev)
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} of {value}"))
}

/// Slows down what leaves a host by a device: a packet waits about `ms` for the one before it.
fn slow_down(lab: &Lab, host: &str, dev: &str, ms: u64) {
    // 1000 bytes in `ms` milliseconds; the burst holds one packet.
    let rate = 8_000_000 / ms;
    lab.exec(
        host,
        &format!("tc qdisc add dev {dev} root tbf rate {rate}bit burst 1100 limit 100000"),
    );
}

/// Pings that come in pairs: each waits for the one before it where they are slowed down.
fn pings(lab: &Lab, n: u32, size: u32) -> f64 {
    let text = lab.exec("p1", &format!("ping -n -q -c{n} -i0.002 -s{size} -W5 {NEAR}"));
    let line = text.lines().find(|l| l.starts_with("rtt")).expect("the summary of ping");
    let average = line.split('/').nth(4).and_then(|a| a.parse().ok());
    average.expect("an average")
}

#[test]
fn a_delay_shows_in_its_segment_alone_and_whole_ways_are_those_of_ping() {
    let lab = Lab::cluster();
    lab.ping("p1", NEAR);
    slow_down(&lab, "n1", "veth-p2", 20);
    let run = Reports::start(
        &lab,
        &["latency", "--duration", "100s", "--continuous", "--host", NEAR, "--proto", "icmp"],
    );
    let average_ms = pings(&lab, 100, 930);
    let (reports, _) = run.finish();
    let all = segments(&reports);
    // And why that is.
    let found = reports[0]["findings"].as_array().expect("a list");
    let shaper = found.iter().find(|f| f["id"] == "slow-shaper");
    let place = &shaper.unwrap_or_else(|| panic!("{found:#?}"))["where"];
    assert_eq!((&place["netns"], &place["dev"]), (&lab.netns("n1").into(), &"veth-p2".into()));
    let qdisc = segment(&lab, all, "qdisc", "n1", "veth-p2").expect("the queue");
    assert!(number(qdisc, "count") > 40, "{qdisc}");
    let mean = number(qdisc, "sum_ns") as f64 / number(qdisc, "count") as f64;
    assert!(mean > 1e6, "{qdisc}");
    for other in all.iter().filter(|s| s["segment"] != "qdisc" && s["segment"] != "end-to-end") {
        assert!(number(other, "p50_ns") < 1_000_000, "{other}");
    }
    let whole = |host: &str, dev: &str| {
        let s = segment(&lab, all, "end-to-end", host, dev).expect("the whole way");
        number(s, "sum_ns") as f64 / number(s, "count") as f64 / 1e6
    };
    let both_ms = whole("p1", "eth0") + whole("p2", "eth0");
    let off = (both_ms - average_ms).abs() / average_ms;
    assert!(off < 0.05, "{both_ms} ms against ping's {average_ms} ms");
}

#[test]
fn counts_and_buckets_are_those_of_the_packets() {
    let lab = Lab::cluster();
    lab.ping("p1", NEAR);
    let profile = if version() >= (6, 4) { "path" } else { "waits" };
    let run = Reports::start(
        &lab,
        &[
            "latency",
            "--duration",
            "100s",
            "--continuous",
            "--profile",
            profile,
            "--host",
            NEAR,
            "--proto",
            "icmp",
        ],
    );
    lab.exec("p1", &format!("ping -n -q -c50 -i0.002 -W5 {NEAR}"));
    let (reports, _) = run.finish();
    let all = segments(&reports);
    for (name, host, dev) in [("veth", "p1", "eth0"), ("veth", "p2", "eth0")] {
        let s = segment(&lab, all, name, host, dev).unwrap_or_else(|| panic!("{name} of {host}"));
        assert_eq!(number(s, "count"), 50, "{s}");
    }
    if profile == "path" {
        for (name, host) in [("output", "p1"), ("input", "p2"), ("output", "p2"), ("input", "p1")] {
            let s = segment(&lab, all, name, host, "eth0")
                .unwrap_or_else(|| panic!("{name} of {host}"));
            assert_eq!(number(s, "count"), 50, "{s}");
        }
    }
    for s in all {
        let buckets = s["buckets"].as_array().expect("a list");
        let sum: u64 = buckets.iter().map(|b| b[1].as_u64().expect("a count")).sum();
        assert_eq!(sum, number(s, "count"), "{s}");
        let order = ["p50_ns", "p90_ns", "p99_ns", "max_ns"].map(|name| number(s, name));
        assert!(order.is_sorted(), "{s}");
    }
}

#[test]
fn hooks_alone_are_timed_where_they_alone_are_asked_for() {
    if version() < (6, 4) {
        return;
    }
    const HOOKS: [&str; 8] = [
        "prerouting",
        "input",
        "forward",
        "output",
        "postrouting",
        "route",
        "ip-output",
        "end-to-end",
    ];
    let lab = Lab::cluster();
    lab.ping("p1", NEAR);
    let run = Reports::start(
        &lab,
        &[
            "latency",
            "--duration",
            "100s",
            "--continuous",
            "--profile",
            "netfilter",
            "--host",
            NEAR,
            "--proto",
            "icmp",
        ],
    );
    lab.exec("p1", &format!("ping -n -q -c20 -i0.002 -W5 {NEAR}"));
    let (reports, _) = run.finish();
    let all = segments(&reports);
    let others: Vec<&Value> =
        all.iter().filter(|s| !HOOKS.contains(&s["segment"].as_str().unwrap_or("?"))).collect();
    assert!(others.is_empty(), "{others:#?}");
    for (name, host) in [("output", "p1"), ("input", "p2"), ("output", "p2"), ("input", "p1")] {
        let s =
            segment(&lab, all, name, host, "eth0").unwrap_or_else(|| panic!("{name} of {host}"));
        assert_eq!(number(s, "count"), 20, "{s}");
    }
    assert!(reports[0]["missed"].is_u64(), "{}", reports[0]);
}

/// The median time from one hop to the next of the journeys, by where they are.
fn by_timeline(lab: &Lab, journeys: &[Value], from: (&str, &str), to: (&str, &str)) -> Vec<u64> {
    let is_at = |hop: &Value, (host, stage): (&str, &str)| {
        hop["stage"] == stage && hop["netns"]["name"] == *lab.netns(host)
    };
    let times = journeys.iter().filter_map(|journey| {
        let hops = journey["hops"].as_array()?;
        let first = hops.iter().find(|hop| is_at(hop, from))?;
        let second =
            hops.iter().find(|hop| is_at(hop, to) && hop["n"].as_u64() > first["n"].as_u64())?;
        Some(second["t_ns"].as_u64()? - first["t_ns"].as_u64()?)
    });
    let mut times: Vec<u64> = times.collect();
    times.sort_unstable();
    times
}

#[test]
fn a_wait_is_as_long_as_in_the_timelines_of_the_same_packets() {
    let lab = Lab::cluster();
    lab.ping("p1", NEAR);
    slow_down(&lab, "n1", "veth-p2", 4);
    let timing = Reports::start(
        &lab,
        &[
            "latency",
            "--duration",
            "100s",
            "--continuous",
            "--dst",
            NEAR,
            "--no-replies",
            "--proto",
            "udp",
        ],
    );
    let tracing = Reports::start(&lab, &["--dst", NEAR, "--proto", "udp", "--no-replies"]);
    lab.inside("p1", || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        for _ in 0..40 {
            socket.send_to(&[0; 930], (NEAR, 9)).expect("it is taken");
        }
    });
    // All but the first wait for the one before.
    tracing.wait("every datagram at its end", |lines| {
        let is_ours = |line: &&Value| line.to_string().contains(&lab.netns("p1"));
        lines.iter().filter(is_ours).count() >= 40
    });
    let (journeys, _) = tracing.finish();
    let (reports, _) = timing.finish();
    let qdisc = segment(&lab, segments(&reports), "qdisc", "n1", "veth-p2").expect("the queue");
    let seen = by_timeline(&lab, &journeys, ("n1", "queue"), ("n1", "xmit"));
    // A packet that finds the queue empty is not in it.
    let waited: Vec<u64> = seen.into_iter().filter(|ns| *ns > 100_000).collect();
    assert!(waited.len() > 20, "{waited:?}");
    let truth = waited.iter().sum::<u64>() as f64 / waited.len() as f64;
    let buckets = qdisc["buckets"].as_array().expect("a list");
    let pairs = buckets.iter().filter_map(|b| Some((b[0].as_u64()?, b[1].as_u64()?)));
    let long: Vec<(u64, u64)> = pairs.filter(|(ns, _)| *ns > 100_000).collect();
    let count: u64 = long.iter().map(|(_, n)| n).sum();
    let sum: f64 = long.iter().map(|(ns, n)| *ns as f64 * 1.0156 * *n as f64).sum();
    let told = sum / count as f64;
    assert!((told - truth).abs() / truth < 0.05, "{told} ns against {truth} ns");
}

#[test]
fn a_segment_that_got_slower_is_named_and_the_rest_is_noise() {
    let lab = Lab::cluster();
    lab.ping("p1", NEAR);
    let file = lab.scratch().join("before.json");
    let file = file.to_str().expect("our own names are text");
    let filter = ["--duration", "100s", "--continuous", "--host", NEAR, "--proto", "icmp"];
    let run = Reports::start(&lab, &[&["latency", "--save", file], &filter[..]].concat());
    pings(&lab, 100, 930);
    let _ = run.finish();
    let run = Reports::start(&lab, &[&["latency", "--baseline", file], &filter[..]].concat());
    slow_down(&lab, "n1", "veth-p2", 5);
    pings(&lab, 100, 930);
    let (reports, _) = run.finish();
    let findings = reports[0]["findings"].as_array().expect("a list");
    let end_to_end: Vec<&Value> = findings
        .iter()
        .filter(|f| {
            f["id"] == "slow-segment"
                && f["title"].as_str().is_some_and(|t| t.contains("end-to-end"))
        })
        .collect();
    assert!(!end_to_end.is_empty(), "{findings:#?}");
    let netns = lab.netns("p1");
    assert!(end_to_end.iter().any(|f| f["where"]["netns"] == *netns), "{findings:#?}");
    let explained = Command::new(binary()).args(["explain", "slow-segment"]).output();
    assert!(explained.expect("pkttrace starts").status.success());
}

#[test]
fn connections_are_told_with_what_limits_them() {
    let lab = Lab::cluster();
    lab.get("p1", &format!("{NEAR}:8080/"));
    let run = Reports::start(
        &lab,
        &["latency", "--duration", "100s", "--continuous", "--proto", "tcp", "--host", NEAR],
    );
    // Held open, so that it is there at the end.
    let stream = lab.inside("p1", || {
        use std::io::Write as _;
        let mut stream = std::net::TcpStream::connect((NEAR, 8080)).expect("a connection");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").expect("it is taken");
        stream
    });
    let (reports, _) = run.finish();
    let own = stream.local_addr().expect("an address").to_string();
    let tcp = reports[0]["tcp"].as_array().expect("a list");
    let ends: BTreeMap<&str, &Value> =
        tcp.iter().filter_map(|t| Some((t["src"].as_str()?, t))).collect();
    let told = ends.get(own.as_str()).unwrap_or_else(|| panic!("{own} in {tcp:#?}"));
    assert_eq!(told["netns"]["name"], *lab.netns("p1"));
    assert_eq!(told["dst"], format!("{NEAR}:8080"));
    assert!(told["limited"].is_string(), "{told}");
}

#[test]
fn a_page_is_whole_and_has_a_plot_for_each_segment() {
    let lab = Lab::cluster();
    let page = lab.scratch().join("page.html");
    let ready = lab.scratch().join("ready");
    let mut child = Command::new(binary())
        .args(["latency", "--duration", "2s", "--host", NEAR, "-o", "html", "-w"])
        .arg(&page)
        .arg("--ready-file")
        .arg(&ready)
        .spawn()
        .expect("pkttrace starts");
    while !ready.exists() {
        assert!(child.try_wait().expect("a child of ours").is_none(), "it ended early");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    lab.ping("p1", NEAR);
    assert!(child.wait().expect("a child of ours").success());
    let text = std::fs::read_to_string(&page).expect("the page");
    assert!(text.starts_with("<!doctype html>") && text.ends_with("</html>\n"));
    assert!(text.matches("<svg").count() > 2, "{text}");
    assert_eq!(text.matches("<svg").count(), text.matches("</svg>").count());
}

/// Receives a datagram: its first byte, and the kernel's time stamp of it since the epoch.
fn receive(socket: &UdpSocket) -> Option<(u8, Duration)> {
    let (mut data, mut control) = ([0_u8; 1500], [0_u64; 16]);
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: a message of parts that outlive the calls; the control messages are walked with the
    // kernel's own macros, and a time stamp is as long as it says.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        if libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) <= 0 {
            return None;
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        assert!(!header.is_null() && (*header).cmsg_type == libc::SCM_TIMESTAMPNS, "a time stamp");
        let at: libc::timespec = std::ptr::read_unaligned(libc::CMSG_DATA(header).cast());
        Some((data[0], Duration::new(at.tv_sec as u64, at.tv_nsec as u32)))
    }
}

#[test]
fn whole_ways_are_those_of_a_sockets_own_time_stamps() {
    let lab = Lab::cluster();
    lab.ping("p1", NEAR);
    slow_down(&lab, "n1", "veth-p2", 4);
    let receiver = lab.inside("p2", || UdpSocket::bind("0.0.0.0:7000").expect("a socket"));
    receiver.set_read_timeout(Some(Duration::from_secs(3))).expect("a socket");
    let on: libc::c_int = 1;
    // SAFETY: an integer that outlives the call.
    let set = unsafe {
        let (value, len) = ((&raw const on).cast(), size_of::<libc::c_int>() as u32);
        libc::setsockopt(receiver.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, value, len)
    };
    assert_eq!(set, 0, "SO_TIMESTAMPNS");
    let filter = ["--dst", NEAR, "--dport", "7000", "--proto", "udp", "--no-replies"];
    let run = Reports::start(
        &lab,
        &[&["latency", "--duration", "100s", "--continuous"][..], &filter].concat(),
    );
    let sent: Vec<Duration> = lab.inside("p1", || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        let send = |n: u8| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            socket.send_to(&[n; 930], (NEAR, 7000)).expect("it is taken");
            now
        };
        (0..40).map(send).collect()
    });
    let took: Vec<Duration> = std::iter::from_fn(|| receive(&receiver))
        .take(sent.len())
        .map(|(n, at)| at.saturating_sub(sent[usize::from(n)]))
        .collect();
    let (reports, _) = run.finish();
    assert_eq!(took.len(), sent.len());
    let truth = took.iter().sum::<Duration>().as_nanos() as f64 / took.len() as f64;
    let whole = segment(&lab, segments(&reports), "end-to-end", "p1", "eth0").expect("the way");
    // The kernel leaves a run out where the same program is interrupted.
    let count = number(whole, "count");
    assert!((30..=40).contains(&count), "{whole}");
    let told = number(whole, "sum_ns") as f64 / count as f64;
    assert!((told - truth).abs() / truth < 0.05, "{told} ns against {truth} ns");
}

#[test]
fn rules_take_as_long_as_in_the_timelines_and_no_other_segment_does() {
    if version() < (6, 4) {
        return;
    }
    let lab = Lab::cluster();
    lab.ping("p1", FAR);
    let rules: String = (0..6000)
        .map(|n| format!("-A LONG -d 10.{}.{}.1/32 -j DROP\n", 99 + n / 200, n % 200))
        .collect();
    let file = lab.scratch().join("rules");
    let text = format!("*filter\n:LONG - [0:0]\n-I FORWARD -j LONG\n{rules}COMMIT\n");
    std::fs::write(&file, text).expect("a file");
    lab.exec("n1", &format!("iptables-restore --noflush < {}", file.display()));
    let filter = ["--dst", FAR, "--dport", "7000", "--proto", "udp", "--no-replies"];
    let timing = Reports::start(
        &lab,
        &[&["latency", "--duration", "100s", "--continuous", "--profile", "path"][..], &filter]
            .concat(),
    );
    let tracing = Reports::start(&lab, &filter);
    lab.inside("p1", || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        for _ in 0..60 {
            socket.send_to(&[0; 30], (FAR, 7000)).expect("it is taken");
        }
    });
    tracing.wait("every datagram at its end", |lines| lines.len() >= 60);
    let (journeys, _) = tracing.finish();
    let (reports, _) = timing.finish();
    let seen = by_timeline(&lab, &journeys, ("n1", "route"), ("n1", "netfilter"));
    assert!(seen.len() >= 40, "{seen:?}");
    let truth = seen[seen.len() / 2] as f64;
    let all = segments(&reports);
    let is_it = |s: &&Value| s["segment"] == "forward" && s["netns"]["name"] == *lab.netns("n1");
    let forward = all.iter().find(is_it).unwrap_or_else(|| panic!("{all:#?}"));
    let told = number(forward, "p50_ns") as f64;
    assert!((told - truth).abs() / truth < 0.05, "{told} ns against {truth} ns");
    for other in all.iter().filter(|s| !is_it(s) && s["segment"] != "end-to-end") {
        assert!(number(other, "p50_ns") < number(forward, "p50_ns") / 3, "{other} {forward}");
    }
}

#[test]
fn what_tcp_sends_again_is_told() {
    let lab = Lab::cluster();
    lab.ping("p1", NEAR);
    lab.exec("p2", "iptables -I INPUT -p tcp --dport 7999 -j DROP");
    let run =
        Reports::start(&lab, &["latency", "--duration", "100s", "--host", NEAR, "--port", "7999"]);
    // The first SYN is sent again after a second.
    let patience = Duration::from_millis(1500);
    lab.inside("p1", || {
        let to = std::net::SocketAddr::new(NEAR.parse().expect("an address"), 7999);
        assert!(TcpStream::connect_timeout(&to, patience).is_err());
    });
    let (reports, _) = run.finish();
    let all = reports[0]["retransmissions"].as_array().expect("a list");
    assert_eq!((all.len(), &reports[0]["retransmitted"]), (1, &Value::from(1)), "{all:#?}");
    let one = &all[0];
    assert_eq!((&one["cause"], &one["dst"]), (&"syn".into(), &format!("{NEAR}:7999").into()));
    assert_eq!(one["netns"]["name"], *lab.netns("p1"), "{one}");
}
