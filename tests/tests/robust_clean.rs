//! It leaves nothing behind, ends when it is told to, and disturbs neither another tracer nor the
//! namespaces that it looks into.

mod robust_support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pkttrace_tests::{Lab, binary, is_fast};
use robust_support::objects::Objects;
use robust_support::{
    Cluster, Flood, Namespace, PATIENCE, Running, Tracer, fresh, wait_ready, wait_until,
};
use serde_json::Value;

/// Under a flood, what does not end by itself never ends. A machine that does other things too may
/// take a hundred times as long as one that does not.
const PROMPT: Duration = Duration::from_secs(300);

/// What is configured in the lab that a tracer might change.
fn configuration(lab: &Lab) -> String {
    let mut text = String::new();
    for host in ["n1", "n2", "p1", "p3", "fab"] {
        text += &lab.exec(host, "tc qdisc show; tc filter show; nft list tables");
    }
    text
}

/// A stream of datagrams through the Service until dropped.
struct Stream {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    fn start(lab: &Cluster, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (is_over, netns) = (Arc::clone(&stop), lab.netns("p1"));
        let to = lab.service;
        let thread = std::thread::spawn(move || {
            let mut flood = Flood { pause, ..Flood::new(6400) };
            while !is_over.load(Ordering::Relaxed) {
                flood.start(&netns, to).join().expect("a sender");
                flood.first += 6400;
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().expect("once").join();
    }
}

fn spawn(lab: &Cluster, options: &[&str]) -> Running {
    let mut command = Command::new(binary());
    command.args(lab.arguments(options)).args(["-o", "json"]).stdout(Stdio::null());
    Running::spawn(&mut command)
}

#[test]
fn sigkill_leaves_nothing_in_the_kernel() {
    let lab = Cluster::up();
    let before = configuration(&lab);
    let _stream = Stream::start(&lab, Duration::from_millis(2));
    // With tc, attaching takes the kernel a grace period a link: there is time to come between.
    let mut partly = 0;
    for wanted in [1, 12, 40, 150] {
        let running = spawn(&lab, &["--probes", "tp,nf,tc"]);
        let mut objects = Objects::default();
        wait_until("it loads", PATIENCE, || {
            objects = Objects::of(running.pid());
            objects.len() >= wanted
        });
        running.signal(libc::SIGKILL);
        let (status, ..) = running.wait(PATIENCE);
        assert_eq!(status.code(), None, "killed");
        partly += usize::from(objects.count(30) < 100);
        objects.await_gone();
    }
    assert!(partly > 1, "no kill came while it was attaching");
    for journeys in [0, 1, 100, 1000] {
        let tracer = lab.trace(&[]);
        wait_until("it is at work", PATIENCE, || tracer.lines() >= journeys);
        let objects = Objects::of(tracer.running.pid());
        assert!(objects.count(13) > 10 && objects.count(14) > 5 && objects.count(30) > 50);
        tracer.running.signal(libc::SIGKILL);
        assert_eq!(tracer.join().code, None);
        objects.await_gone();
    }
    assert_eq!(configuration(&lab), before);
}

#[test]
fn every_end_leaves_nothing_in_the_kernel() {
    let lab = Cluster::up();
    let before = configuration(&lab);
    let _stream = Stream::start(&lab, Duration::from_millis(2));
    for end in [&["-c", "3"][..], &["--duration", "200ms"]] {
        let tracer = lab.trace(end);
        let objects = Objects::of(tracer.running.pid());
        let ended = tracer.join();
        assert_eq!(ended.code, Some(0), "{end:?}: {}", ended.stderr);
        objects.await_gone();
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let tracer = lab.trace(&[]);
        let objects = Objects::of(tracer.running.pid());
        tracer.running.signal(signal);
        let ended = tracer.join();
        assert_eq!(ended.code, Some(0), "signal {signal}: {}", ended.stderr);
        assert!(ended.took < PROMPT, "signal {signal}: took {:?}", ended.took);
        objects.await_gone();
    }
    assert_eq!(configuration(&lab), before);
}

#[test]
fn a_signal_flushes_what_is_under_way() {
    let lab = Lab::cluster();
    let netns = lab.netns("p1");
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let options = ["--netns", &netns, "--proto", "icmp", "--dst", "10.244.1.77"];
        let tracer = Tracer::start(lab.scratch(), &options);
        let mut ping = Command::new("ip");
        ping.args(["netns", "exec", &netns, "ping", "-n", "-c1", "-W3", "10.244.1.77"]);
        let ping = Running::spawn(ping.stdout(Stdio::null()));
        // Nobody has this address: the packet waits three seconds for its neighbour.
        wait_until("the packet waits for its neighbour", PATIENCE, || {
            lab.exec("p1", "ip neigh show 10.244.1.77").contains("INCOMPLETE")
        });
        tracer.running.signal(signal);
        let ended = tracer.join();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.took < PROMPT, "took {:?}", ended.took);
        let mut fates = Vec::new();
        let summary = ended.journeys(|j| fates.push(j["fate"].as_str().unwrap_or("").to_owned()));
        assert_eq!((fates, &summary["journeys"]), (vec!["in-flight".to_owned()], &Value::from(1)));
        drop(ping);
        lab.exec("p1", "ip neigh flush dev eth0");
    }
}

/// A tracer on a pipe, and the pipe.
fn on_a_pipe(lab: &Lab, options: &[String]) -> (Running, BufReader<std::process::ChildStdout>) {
    let ready = fresh(lab.scratch()).with_extension("ready");
    let mut command = Command::new(binary());
    command.args(options).args(["-o", "json", "--ready-file"]).arg(&ready).stdout(Stdio::piped());
    let mut running = Running::spawn(&mut command);
    wait_ready(&mut running, &ready);
    let pipe = BufReader::new(running.child.stdout.take().expect("piped"));
    (running, pipe)
}

#[test]
fn a_closed_pipe_is_a_clean_end() {
    let lab = Cluster::up();
    let (running, mut pipe) = on_a_pipe(&lab, &lab.arguments(&[]));
    let stream = Stream::start(&lab, Duration::from_millis(20));
    let mut line = String::new();
    pipe.read_line(&mut line).expect("a journey");
    drop(pipe);
    let (status, stderr, took) = running.wait(PATIENCE);
    drop(stream);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(took < PROMPT, "took {took:?}");
    assert!(!stderr.contains("cannot"), "{stderr}");
    let journey: Value = serde_json::from_str(&line).expect("one JSON object");
    assert_eq!(journey["type"], "journey");
}

#[test]
fn a_closed_pipe_is_noticed_without_traffic() {
    let lab = Lab::up("pair", &[]);
    let netns = lab.netns("a");
    let (running, pipe) = on_a_pipe(&lab, &["--netns".to_owned(), netns]);
    drop(pipe);
    let (status, stderr, took) = running.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(took < PROMPT, "took {took:?}");
}

#[test]
fn count_and_duration_end_it_under_a_flood() {
    let lab = Cluster::up();
    let _stream = Stream::start(&lab, Duration::ZERO);
    for (end, least) in [(["-c", "10"], 10), (["--duration", "1s"], 1)] {
        for buffer in ["16M", "256M"] {
            let options = ["--max-journeys", "0", "--buffer", buffer];
            let start = Instant::now();
            let tracer = lab.trace(&[&options[..], &end].concat());
            let ready = start.elapsed();
            let ended = tracer.join();
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
            let mut journeys = 0;
            ended.journeys(|_| journeys += 1);
            println!(
                "{end:?} {buffer}: ready after {ready:?}, ended after {:?}, {journeys} journeys",
                ended.took
            );
            assert!(journeys >= least, "{end:?}: {journeys}");
            assert!(ended.took < PROMPT, "{end:?} {buffer}: took {:?}", ended.took);
        }
    }
    for buffer in ["16M", "256M"] {
        let options = ["--max-journeys", "0", "--buffer", buffer];
        let tracer = lab.trace(&options);
        wait_until("journeys under flood", PATIENCE, || tracer.lines() > 100);
        let ended = tracer.finish();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        println!("SIGINT {buffer}: ended after {:?}", ended.took);
        assert!(ended.took < PROMPT, "SIGINT {buffer}: took {:?}", ended.took);
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let lab = Cluster::up();
    let _stream = Stream::start(&lab, Duration::ZERO);
    let tracer = lab.trace(&["--max-journeys", "0", "--buffer", "512M"]);
    wait_until("journeys under flood", PATIENCE, || tracer.lines() > 100);
    let ended = tracer.insist();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    println!("ended {:?} after the first signal", ended.took);
    assert!(ended.took < PROMPT, "took {:?}", ended.took);
    ended.journeys(|_| {});
}

#[test]
fn two_tracers_see_the_same_whole_journeys() {
    let lab = Cluster::up();
    let tracers = [(); 2].map(|()| lab.trace(&[]));
    let flood = Flood { pause: Duration::from_millis(5), ..Flood::new(640) };
    assert_eq!(lab.flood(flood).join().expect("a sender"), 640);
    for tracer in &tracers {
        wait_until("every journey", PATIENCE, || tracer.lines() >= 640);
    }
    let seen = tracers.map(|tracer| {
        let ended = tracer.finish();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let mut seen = Vec::new();
        let summary = ended.journeys(|j| {
            assert_eq!(j["complete"], true, "{j}");
            let head = j["packet"]["payload_head"].as_str().expect("bytes").to_owned();
            // Waits for neighbours and the free are not seen at the same moment.
            let stages: Vec<String> = j["hops"]
                .as_array()
                .expect("hops")
                .iter()
                .filter(|h| h["stage"] != "free")
                .map(|h| {
                    format!(
                        "{} {} {} {}",
                        h["netns"]["name"], h["dev"]["name"], h["stage"], h["hook"]
                    )
                })
                .collect();
            seen.push((head, j["path"].as_str().expect("a path").to_owned(), stages));
        });
        assert_eq!(summary["refused_journeys"], 0);
        seen.sort();
        seen
    });
    assert_eq!(seen[0].len(), 640);
    assert_eq!(seen[0], seen[1]);
}

/// Two namespaces of the test's, joined by a veth pair `v0` with addresses in a network of its
/// own.
struct Pair {
    a: Namespace,
    b: Namespace,
    net: String,
}

impl Pair {
    fn new(prefix: &str, number: u8) -> Self {
        let net = format!("10.{}.{number}", 100 + std::process::id() % 100);
        let (a, b) = (format!("{prefix}-a{number}"), format!("{prefix}-b{number}"));
        let pair = Self { a: Namespace::add(a), b: Namespace::add(b), net };
        pair.a.ip(&["link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", &pair.b.0]);
        for (netns, host) in [(&pair.a, 1), (&pair.b, 2)] {
            netns.ip(&["addr", "add", &format!("{}.{host}/24", pair.net), "dev", "v0"]);
            netns.ip(&["link", "set", "v0", "up"]);
        }
        pair
    }

    fn address(&self, host: u8) -> String {
        format!("{}.{host}", self.net)
    }

    fn ping(&self, options: &[&str]) -> Running {
        let mut ping = Command::new("ip");
        ping.args(["netns", "exec", &self.b.0, "ping", "-n", &self.address(1)]).args(options);
        Running::spawn(ping.stdout(Stdio::null()))
    }
}

#[test]
fn a_namespace_deleted_while_traced_dies_at_once() {
    let lab = Lab::up("pair", &[]);
    let pair = Pair::new(lab.prefix(), 1);
    let target = pair.address(1);
    let tracer = Tracer::start(lab.scratch(), &["--host", &target]);
    let ping = pair.ping(&["-i", "0.002"]);
    wait_until("journeys", PATIENCE, || tracer.lines() > 20);
    let b = pair.b.0.clone();
    let Pair { a, b: _keep, .. } = pair;
    let start = Instant::now();
    a.delete();
    wait_until("the peer vanishes", PROMPT, || {
        let link = Command::new("ip").args(["-n", &b, "link", "show", "v0"]).output();
        !link.expect("ip starts").status.success()
    });
    println!("the peer was gone after {:?}", start.elapsed());
    drop(ping);
    let ended = tracer.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    // What still went into the namespace after its name was gone met none of our hooks there, and
    // says so; everything else is whole.
    ended.journeys(|j| {
        let hops = j["hops"].as_array().expect("hops");
        let is_gone =
            |h: &Value| h["netns"]["name"].as_str().is_some_and(|n| n.starts_with("net:["));
        assert!(j["complete"] == true || hops.iter().any(is_gone), "{j}");
    });
}

#[test]
fn a_namespace_made_while_tracing_is_traced_by_name() {
    let lab = Lab::up("pair", &[]);
    let net = format!("10.{}.2.1", 100 + std::process::id() % 100);
    let tracer = Tracer::start(lab.scratch(), &["--dst", &net, "--proto", "icmp", "--no-replies"]);
    let pair = Pair::new(lab.prefix(), 2);
    let start = Instant::now();
    let is_known = |j: &Value| {
        let hops = j["hops"].as_array().expect("hops");
        let is = |netns: &str, hook: &str| {
            hops.iter().any(|h| h["netns"]["name"] == netns && h["hook"] == hook)
        };
        is(&pair.b.0, "output") && is(&pair.a.0, "input")
    };
    wait_until("a journey with hooks and names", PATIENCE, || {
        let ping = pair.ping(&["-c1", "-W1"]);
        let _ = ping.wait(PATIENCE);
        let text = std::fs::read_to_string(&tracer.file).unwrap_or_default();
        text.lines().filter_map(|l| serde_json::from_str(l).ok()).any(|j| is_known(&j))
    });
    println!("known after {:?}", start.elapsed());
    let ended = tracer.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut last = Value::Null;
    ended.journeys(|j| last = j);
    assert!(is_known(&last), "once known, always known: {last}");
    let path = last["path"].as_str().expect("a path");
    assert!(path.contains(&pair.b.0) || path.contains(&pair.a.0), "{path}");
    assert!(
        last["hops"]
            .as_array()
            .expect("hops")
            .iter()
            .all(|h| h["dev"]["name"].as_str().is_none_or(|d| d == "v0"))
    );
}

/// Resident set in MiB, and CPU time used, of a process.
fn usage(pid: libc::pid_t) -> (u64, Duration) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a size");
    let resident: u64 = resident.trim().trim_end_matches(" kB").parse().expect("a number");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks: u64 = [11, 12].map(|n| fields[n].parse::<u64>().expect("ticks")).iter().sum();
    (resident / 1024, Duration::from_millis(ticks * 10))
}

#[test]
fn memory_is_bounded_under_a_flood() {
    let lab = Cluster::up();
    let tracer = {
        let options = lab.arguments(&["--max-journeys", "0", "-q"]);
        let ready = fresh(lab.scratch()).with_extension("ready");
        let mut command = Command::new(binary());
        command.args(&options).args(["-o", "json", "--ready-file"]).arg(&ready);
        let mut running = Running::spawn(command.stdout(Stdio::null()));
        wait_ready(&mut running, &ready);
        running
    };
    // Memory that grows with what was seen has not been bounded.
    let mut sizes = Vec::new();
    let mut flood = Flood::new(64_000);
    for _ in 0..if is_fast() { 4 } else { 12 } {
        lab.flood(flood).join().expect("a sender");
        flood.first += u64::from(flood.count);
        sizes.push(usage(tracer.pid()).0);
    }
    println!("MiB by the flood: {sizes:?}");
    let (first, second) = sizes.split_at(sizes.len() / 2);
    let (first, second) = (first.iter().max().expect("some"), second.iter().max().expect("some"));
    assert!(second <= &(first + first / 4 + 16), "{sizes:?}");
    assert!(*second < 512, "{sizes:?}");
    tracer.signal(libc::SIGINT);
    let (status, stderr, took) = tracer.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(took < PROMPT, "took {took:?}");
}

#[test]
fn waiting_costs_next_to_nothing() {
    let lab = Lab::up("pair", &[]);
    let tracer =
        Tracer::start(lab.scratch(), &["--netns", &lab.netns("a"), "--dst", "10.255.255.1"]);
    let before = usage(tracer.running.pid()).1;
    let span = Duration::from_secs(3);
    std::thread::sleep(span);
    let (resident, after) = usage(tracer.running.pid());
    let share = (after - before).as_secs_f64() / span.as_secs_f64();
    println!("idle: {:.1} % of a CPU, {resident} MiB", share * 100.0);
    assert!(share < 0.1, "{share}");
    assert_eq!(tracer.finish().code, Some(0));
}

#[test]
fn standard_output_carries_nothing_else() {
    let lab = Cluster::up();
    let (running, mut pipe) = on_a_pipe(&lab, &lab.arguments(&["-c", "3", "-vv"]));
    lab.flood(Flood::new(10)).join().expect("a sender");
    let mut text = String::new();
    pipe.read_to_string(&mut text).expect("text");
    let (status, stderr, _) = running.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{stderr}");
    let kinds: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON")["type"].clone())
        .collect();
    assert_eq!(kinds, ["journey", "journey", "journey", "summary"]);
}
