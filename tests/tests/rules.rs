//! `--rules`: the rules that a packet met, against what iptables and nftables themselves say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pkttrace::net::setns;
use pkttrace_tests::{Journey, Lab, Pick, Tracer, icmp, udp};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(180);

/// Traces what `traffic` makes, and returns the one packet that `pick` means.
fn traced(lab: &Lab, options: &[&str], pick: &Pick, traffic: impl FnOnce()) -> Journey {
    let tracer = Tracer::start(lab, &[options, &["--rules"]].concat());
    traffic();
    tracer.await_journeys(1, pick);
    tracer.finish().first(pick).clone()
}

#[test]
fn rules_of_nft_itself_are_named_as_nft_prints_them() {
    let lab = Lab::cluster();
    lab.exec(
        "n1",
        "nft add table inet guard && \
         nft add chain inet guard front '{ type filter hook forward priority 10; }' && \
         nft add set inet guard bad '{ type ipv4_addr; elements = { 10.244.2.2, 10.9.9.9 }; }' && \
         nft add rule inet guard front ip daddr @bad icmp type echo-request drop \
            comment '\"kept by the guard\"'",
    );
    let options = ["--dst", "10.244.2.2", "--proto", "icmp"];
    let request = traced(&lab, &options, &icmp(8), || lab.ping_fails("p1", "10.244.2.2"));
    let hop = request.hops_at("n1/drop")[0].clone();
    let rule = &hop["rule"];
    assert_eq!((&hop["table"], &hop["chain"]), (&"guard".into(), &"front".into()), "{request}");
    assert_eq!(rule["comment"], "kept by the guard", "{request}");
    let text = rule["text"].as_str().unwrap_or_default();
    assert!(text.starts_with("ip daddr @bad icmp type echo-request drop"), "{text}");
    let handle = rule["handle"].as_u64().expect("a handle");
    let listed = lab.exec("n1", "nft -a list chain inet guard front");
    assert!(listed.contains(&format!("# handle {handle}")), "{listed}");
}

#[test]
fn the_rule_that_translates_is_named_whatever_accepts_behind_it() {
    let lab = Lab::cluster();
    lab.exec(
        "n1",
        "nft add table ip elsewhere && \
         nft add chain ip elsewhere pre '{ type nat hook prerouting priority dstnat - 1; }' && \
         nft add rule ip elsewhere pre ip daddr 10.96.66.6 counter dnat to 10.244.2.2 \
            comment '\"to p3\"' && \
         nft add chain ip elsewhere post '{ type nat hook postrouting priority srcnat - 1; }' && \
         nft add rule ip elsewhere post ip daddr 10.244.2.2 snat to 10.244.1.0 && \
         nft add table inet lax && \
         nft add chain inet lax pre '{ type filter hook prerouting priority filter; }' && \
         nft add rule inet lax pre accept comment '\"anything\"'",
    );
    let options = ["--dst", "10.96.66.6", "--proto", "icmp"];
    let request = traced(&lab, &options, &icmp(8), || lab.ping("p1", "10.96.66.6"));
    let hop = request.hops_at("n1/cni0/PREROUTING=dnat")[0].clone();
    assert_eq!(hop["rule"]["table"], "elsewhere", "{request}");
    assert_eq!(hop["rule"]["comment"], "to p3", "{request}");
    // That address is flannel.1's own, so that it looks like masquerading.
    assert_eq!(request.json["nat"][1]["kind"], "snat", "{request}");
    assert!(request.json["path"].as_str().is_some_and(|p| p.contains("POSTROUTING SNAT")));
}

#[test]
fn rules_of_a_table_made_anew_are_not_called_by_the_old_ones() {
    let lab = Lab::cluster();
    let load = |verdict: &str| {
        lab.exec(
            "n1",
            &format!(
                "nft 'add table inet reload; delete table inet reload; add table inet reload; \
                 add chain inet reload front {{ type filter hook forward priority -10; }}; \
                 add rule inet reload front icmp type echo-request {verdict} comment \"{verdict}\"'"
            ),
        )
    };
    load("accept");
    let options = ["--dst", "10.244.2.2", "--proto", "icmp", "--no-replies", "--rules"];
    let tracer = Tracer::start(&lab, &options);
    for _ in 0..3 {
        // The new rule has the old one's handle, and has not been read when the packet meets it.
        load("drop");
        lab.ping_fails("p1", "10.244.2.2");
        load("accept");
        lab.ping("p1", "10.244.2.2");
    }
    let met = |journey: &Journey| {
        let rules = journey.hops_at("n1/FORWARD")[0]["rules"].as_array().cloned();
        let rules = rules.unwrap_or_default().into_iter().filter(|r| r["table"] == "reload");
        rules.filter(|r| r["handle"].is_u64()).collect::<Vec<Value>>()
    };
    let _ = lab.attempt("p1", "ping -n -c 12 -i 0.3 -W 1 10.244.2.2");
    tracer.await_journey("the rule by its comment", |journey| {
        met(journey).iter().any(|rule| rule["comment"] == "accept")
    });
    let run = tracer.finish();
    let requests = run.all(&icmp(8));
    assert!(requests.len() > 6);
    for request in requests {
        let rules = met(request);
        let [rule] = &rules[..] else { panic!("{rules:?} {request}") };
        let is_told = !rule["comment"].is_null();
        assert!(!is_told || rule["comment"] == rule["verdict"], "{request}");
    }
}

#[test]
fn the_table_goes_with_the_process_however_it_ends() {
    let lab = Lab::cluster();
    let has_table = |pid: u32| {
        lab.exec("n1", "nft list tables").lines().any(|l| l == format!("table inet pkttrace_{pid}"))
    };
    let options = ["--dst", "10.244.2.2", "--rules"];
    let tracer = Tracer::start(&lab, &options);
    let pid = tracer.pid();
    assert!(has_table(pid));
    let _ = tracer.finish();
    assert!(!has_table(pid), "left behind after SIGINT");
    let tracer = Tracer::start(&lab, &options);
    let pid = tracer.pid();
    assert!(has_table(pid));
    tracer.kill();
    let deadline = Instant::now() + PATIENCE;
    while has_table(pid) {
        assert!(Instant::now() < deadline, "left behind after SIGKILL");
    }
}

#[test]
fn nothing_is_told_of_packets_that_do_not_match() {
    let lab = Lab::cluster();
    let (told, n1) = (lab.scratch().join("told"), lab.netns("n1"));
    let mut monitor = Command::new("ip")
        .args(["netns", "exec", &n1, "nft", "monitor", "trace"])
        .stdout(File::create(&told).expect("a file"))
        .spawn()
        .expect("ip starts");
    let tracer = Tracer::start(&lab, &["--dst", "10.244.2.2", "--rules"]);
    let read = || std::fs::read_to_string(&told).expect("what was told");
    let deadline = Instant::now() + PATIENCE;
    // A monitor does not say when it listens.
    while !read().contains("ip daddr 10.244.2.2") {
        assert!(Instant::now() < deadline, "nothing was told of what matches");
        lab.ping("p1", "10.244.2.53");
        lab.ping("p1", "10.244.2.2");
    }
    lab.ping("p1", "10.244.2.53");
    lab.ping("p1", "10.244.2.2");
    tracer.await_journeys(2, &icmp(8));
    monitor.kill().expect("a child of ours");
    monitor.wait().expect("a child of ours");
    let (told, run) = (read(), tracer.finish());
    assert!(!told.contains("10.244.2.53"), "{told}");
    // Inside the tunnel, and at its other end.
    for host in ["n1/FORWARD", "n2/FORWARD"] {
        let hops = run.first(&icmp(8)).hops_at(host);
        assert!(hops.iter().any(|hop| hop["rule"].is_object()), "{host}: {}", run.first(&icmp(8)));
    }
}

#[test]
fn rules_that_come_later_are_traced() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--src", "10.244.1.2", "--proto", "icmp", "--rules"]);
    // p1 has no rules at all when the trace begins.
    lab.exec("p1", "nft add table inet late");
    let table = format!("table inet pkttrace_{}", tracer.pid());
    let deadline = Instant::now() + PATIENCE;
    while !lab.exec("p1", "nft list tables").lines().any(|line| line == table) {
        assert!(Instant::now() < deadline, "tracing never began in p1");
    }
    lab.exec(
        "p1",
        "nft add chain inet late out '{ type filter hook output priority 0; }' && \
         nft add rule inet late out icmp type echo-request drop comment '\"too late\"'",
    );
    // Some of them before the new rule has been read.
    let _ = lab.attempt("p1", "ping -n -c 12 -i 0.3 -W 1 10.244.1.3");
    tracer.await_journey("a drop that names the rule", |journey| {
        let hops = journey.hops_at("p1/drop");
        hops.first().is_some_and(|hop| hop["rule"]["comment"] == "too late")
    });
    drop(tracer.finish());
}

/// Services on n1, each with one endpoint: p2's sink.
const SERVICES: u16 = 5_000;
/// Packets, each from a port of its own.
const PACKETS: u16 = 1_000;
const FIRST_PORT: u16 = 20_000;

#[test]
fn a_translation_that_no_rule_makes_any_more_is_called_stale() {
    let lab = Lab::cluster();
    let lead_to = |how: &str, pod: &str| {
        let rule = "-d 10.96.77.7 -p udp --dport 7 -j DNAT --to-destination";
        lab.exec("n1", &format!("iptables -w 60 -t nat {how} {rule} {pod}:7"));
    };
    // Not connected: a refusal would be told at the next datagram, which would not be sent.
    let bind = || UdpSocket::bind("0.0.0.0:0");
    let path = Path::new("/run/netns").join(lab.netns("p1"));
    let client = setns::run_in_path(&path, bind).expect("a socket of p1");
    let ask = |bytes: &[u8]| _ = client.send_to(bytes, "10.96.77.7:7").expect("sent");
    lead_to("-I PREROUTING", "10.244.1.5");
    ask(b"to the first");
    lead_to("-D PREROUTING", "10.244.1.5");
    lead_to("-I PREROUTING", "10.244.1.3");

    let met = |journey: &Journey| {
        let nat = journey.json["nat"].as_array().expect("translations").first().cloned()?;
        let hop = &journey.json["hops"][usize::try_from(nat["hop"].as_u64()?).ok()?];
        Some((nat["after"]["dst"].clone(), hop["note"].as_str().unwrap_or_default().to_owned()))
    };
    let tracer = Tracer::start(&lab, &["--dst", "10.96.77.7", "--rules"]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Nothing is called stale while rules are being read.
            let deadline = Instant::now() + PATIENCE;
            while !is_over.load(Ordering::Relaxed) && Instant::now() < deadline {
                ask(b"still to the first");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let stale = "stale: no rule leads to 10.244.1.5 any more".to_owned();
        tracer.await_journey("stale", |j| met(j) == Some(("10.244.1.5".into(), stale.clone())));
        is_over.store(true, Ordering::Relaxed);
    });
    // Who asks for the first time meets the rule as it is.
    lab.exec("p1", "bash -c 'echo x > /dev/udp/10.96.77.7/7'");
    let is_led = |j: &Journey| met(j).filter(|(to, _)| to == "10.244.1.3").map(|(_, note)| note);
    tracer.await_journey("to the second", |j| is_led(j).is_some());
    let run = tracer.finish();
    assert!(run.journeys.iter().filter_map(is_led).all(|note| !note.contains("stale")));
}

/// ClusterIP of Service `n`.
fn service(n: u16) -> String {
    format!("10.97.{}.{}", n / 250, n % 250 + 1)
}

/// As kube-proxy writes them.
fn services() -> String {
    let mut text = "*nat\n".to_owned();
    for n in 0..SERVICES {
        writeln!(text, ":KUBE-SVC-{n} - [0:0]\n:KUBE-SEP-{n} - [0:0]").expect("a string");
    }
    for n in 0..SERVICES {
        let ip = service(n);
        writeln!(
            text,
            "-A KUBE-SERVICES -d {ip}/32 -p udp -m comment --comment \"many/s{n}:u cluster IP\" \
             -m udp --dport 80 -j KUBE-SVC-{n}\n\
             -A KUBE-SVC-{n} -j KUBE-SEP-{n}\n\
             -A KUBE-SEP-{n} -p udp -m udp -j DNAT --to-destination 10.244.1.3:9001"
        )
        .expect("a string");
    }
    text + "COMMIT\n"
}

/// `nft monitor trace` in a namespace, its output in a file.
struct Monitor(Child);

impl Monitor {
    fn start(lab: &Lab, out: &Path) -> Self {
        let file = File::create(out).expect("a scratch file");
        let child = Command::new("ip")
            .args(["netns", "exec", &lab.netns("n1"), "nft", "monitor", "trace"])
            .stdout(file)
            .stdin(Stdio::null())
            .spawn()
            .expect("nft starts");
        Self(child)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a packet met: table, chain, verdict of each rule, in order.
type Met = Vec<(String, String, String)>;

/// By source port, what nftables itself says.
fn monitored(text: &str) -> BTreeMap<u16, Met> {
    let mut met: BTreeMap<u16, Met> = BTreeMap::new();
    let mut port_of: BTreeMap<&str, Option<u16>> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let ["trace", "id", id, _, table, chain, what, ..] = words[..] else { continue };
        if what == "packet:" {
            let port = line
                .split_once("udp sport ")
                .and_then(|(_, rest)| rest.split(' ').next().and_then(|port| port.parse().ok()));
            port_of.insert(id, port);
            continue;
        }
        let Some(port) = port_of.get(id).copied().flatten() else { continue };
        let verdict = match what {
            "rule" => line.rsplit_once("(verdict ").map_or("", |(_, v)| v.trim_end_matches(')')),
            "policy" => words.get(7).copied().unwrap_or_default(),
            _ => continue,
        };
        if !table.starts_with("pkttrace_") {
            let step = (table.to_owned(), chain.to_owned(), verdict.replace("goto", "jump"));
            met.entry(port).or_default().push(step);
        }
    }
    met
}

/// What a journey says of n1.
fn told(journey: &Journey) -> Met {
    let hops = journey
        .hops()
        .iter()
        .filter(|hop| hop["netns"]["name"].as_str().is_some_and(|name| name.ends_with("-n1")));
    let rules = hops.flat_map(|hop| hop["rules"].as_array().cloned().unwrap_or_default());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    rules.map(|r| (text(&r["table"]), text(&r["chain"]), text(&r["verdict"]))).collect()
}

/// Sends one datagram to each of [`PACKETS`] Services, as slowly as nft can follow.
fn send(lab: &Lab, done: impl Fn(u16) + Sync) {
    let path = Path::new("/run/netns").join(lab.netns("p1"));
    setns::run_in_path(&path, || {
        for n in 0..PACKETS {
            let socket = UdpSocket::bind(("10.244.1.2", FIRST_PORT + n))?;
            socket.send_to(b"one of many", (service(n * (SERVICES / PACKETS)), 80))?;
            done(n);
        }
        Ok(())
    })
    .expect("p1 sends");
}

#[test]
fn a_thousand_packets_through_five_thousand_services_agree_with_nft_and_conntrack() {
    let lab = Lab::cluster();
    lab.ping("p1", "10.244.1.3");
    let rules = lab.scratch().join("services");
    std::fs::write(&rules, services()).expect("a scratch file");
    lab.exec("n1", &format!("iptables-nft-restore -w --noflush {}", rules.display()));
    // The entries shall still be there when they are asked for.
    lab.exec("n1", "sysctl -qw net.netfilter.nf_conntrack_udp_timeout=600");
    let log = lab.scratch().join("monitor");
    let tracer = Tracer::start(
        &lab,
        &["--dst", "10.97.0.0/16", "--proto", "udp", "--no-replies", "--rules"],
    );
    let _monitor = Monitor::start(&lab, &log);
    // It is ready when it tells of a packet: one that matches, and does not come from p1.
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&log).expect("its output").contains("trace id") {
        assert!(Instant::now() < deadline, "nft monitor tells nothing");
        lab.attempt("p2", "bash -c 'echo > /dev/udp/10.97.0.1/80'");
    }
    send(&lab, |n| {
        let port = format!("udp sport {} ", FIRST_PORT + n);
        while n % 20 == 19 && !std::fs::read_to_string(&log).is_ok_and(|t| t.contains(&port)) {
            assert!(Instant::now() < deadline + 2 * PATIENCE, "nft monitor has stopped");
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let pick = udp().at("p1");
    tracer.await_journeys(usize::from(PACKETS), &pick);
    let run = tracer.finish();
    let conntrack = lab.exec("n1", "conntrack -L -p udp -o extended 2>/dev/null");
    let expected = monitored(&std::fs::read_to_string(&log).expect("its output"));
    let mut ports = BTreeSet::new();
    for journey in run.all(&pick) {
        let flow = &journey.json["flow"];
        let port = flow["sport"].as_u64().and_then(|p| u16::try_from(p).ok()).expect("a port");
        ports.insert(port);
        assert_eq!(Some(&told(journey)), expected.get(&port), "{journey}");
        let nat = &journey.json["nat"][0]["after"];
        let dst = flow["dst"].as_str().unwrap_or_default();
        let entry = format!("src=10.244.1.2 dst={dst} sport={port} dport=80");
        let reply = format!("src={} dst=10.244.1.2", nat["dst"].as_str().unwrap_or_default());
        let line = conntrack.lines().find(|l| l.contains(&entry));
        assert!(line.is_some_and(|l| l.contains(&reply)), "{entry}: {line:?} {nat}");
        let n = (port - FIRST_PORT) * (SERVICES / PACKETS);
        let dnat =
            format!("-A KUBE-SEP-{n} -p udp -m udp -j DNAT --to-destination 10.244.1.3:9001");
        let hop = journey.hops_at("n1/cni0/PREROUTING=dnat");
        assert_eq!(hop[0]["rule"]["text"], dnat, "{journey}");
        let rules = hop[0]["rules"].as_array().cloned().unwrap_or_default();
        let comment = format!("many/s{n}:u cluster IP");
        assert!(rules.iter().any(|r| r["comment"] == comment.as_str()), "{journey}");
    }
    assert_eq!(ports.len(), usize::from(PACKETS));
}
