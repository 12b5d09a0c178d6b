//! It cannot lie: among many packets at once, none gets a hop of another's, and what is said to
//! be complete is.

mod robust_support;

use std::collections::{BTreeMap, HashMap};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use pkttrace_tests::is_fast;
use robust_support::{Cluster, Flood, Namespace, PATIENCE, Running, Tracer, ip, wait_until};
use serde_json::Value;

/// Floods one after the other: side by side they would only take each other's CPU.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// One hop as every packet on the same way must have it, and by how much it is longer than the
/// payload (0 where the event does not know).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Step {
    what: String,
    overhead: i64,
}

/// The steps of a journey. Waits for neighbours depend on what was asked before, and the end is
/// judged by itself.
fn steps(journey: &Value, payload: u32) -> Vec<Step> {
    let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
    let hops = journey["hops"].as_array().expect("hops");
    let is_step =
        |hop: &&Value| !matches!(hop["stage"].as_str(), Some("neigh" | "free" | "drop" | "socket"));
    let mut steps = Vec::new();
    for hop in hops.iter().filter(is_step) {
        let what = [
            text(&hop["netns"]["name"]),
            text(&hop["dev"]["name"]),
            text(&hop["out_dev"]["name"]),
            text(&hop["stage"]),
            text(&hop["layer"]),
            text(&hop["hook"]),
            text(&hop["route"]["dev"]),
            hop["encap"].to_string(),
        ]
        .join(" ");
        let len = hop["len"].as_i64().unwrap_or(0);
        steps.push(Step { what, overhead: if len == 0 { 0 } else { len - i64::from(payload) } });
    }
    steps
}

/// What a flood came to.
#[derive(Debug, Default)]
struct Verdict {
    delivered: u64,
    dropped: BTreeMap<String, u64>,
    in_flight: u64,
    incomplete: u64,
    refused: u64,
    lies: Vec<String>,
}

impl Verdict {
    fn lie(&mut self, what: &str, journey: &Value) {
        if self.lies.len() < 5 {
            let mut hops = String::new();
            for hop in journey["hops"].as_array().into_iter().flatten() {
                hops += &format!(
                    "\n    {:>9} {} {} {} {} len {}",
                    hop["t_ns"],
                    hop["netns"]["name"],
                    hop["dev"]["name"],
                    hop["stage"],
                    hop["hook"],
                    hop["len"]
                );
            }
            let mut head = journey.clone();
            head["hops"] = Value::Null;
            self.lies.push(format!("{what}: {head}{hops}"));
        } else {
            self.lies.push(what.to_owned());
        }
    }

    #[track_caller]
    fn assert_truth(&self) {
        let shown: Vec<&String> = self.lies.iter().take(5).collect();
        assert!(self.lies.is_empty(), "{} lies, such as {shown:#?}", self.lies.len());
    }
}

/// The way of a packet that is alone.
fn reference(lab: &Cluster) -> (Vec<Step>, String) {
    let tracer = lab.trace(&["-c", "5"]);
    let slow = Flood { pause: Duration::from_millis(20), ..Flood::new(1) };
    for n in 0..5 {
        lab.flood(slow).join().expect("a sender");
        wait_until("a slow packet's journey", PATIENCE, || tracer.lines() > n);
    }
    let mut ways = HashMap::new();
    let ended = tracer.join();
    ended.journeys(|j| {
        assert_eq!(j["fate"], "delivered", "{j}");
        assert_eq!(j["complete"], true, "{j}");
        let path = j["path"].as_str().expect("a path").to_owned();
        *ways.entry((steps(&j, 16), path)).or_insert(0) += 1;
    });
    // The first packets may find neighbours to be asked for; the way is what most have gone.
    let (way, _) = ways.into_iter().max_by_key(|(_, n)| *n).expect("five journeys");
    for wanted in ["encap", "decap", "prerouting", "postrouting"] {
        assert!(way.0.iter().any(|s| s.what.contains(wanted)), "no {wanted} in {:#?}", way.0);
    }
    way
}

/// Floods the Service and judges every journey.
fn flood(lab: &Cluster, flood: Flood, options: &[&str]) -> Verdict {
    let (way, path) = reference(lab);
    let tracer = lab.trace(&[&["--max-journeys", "0"], options].concat());
    let sent = lab.flood(flood).join().expect("a sender");
    settle(&tracer);
    let ended = tracer.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    judge(&ended, flood, sent, &way, &path)
}

/// Waits until it writes nothing more, and is not kept from it: none of its threads wants a processor.
fn settle(tracer: &Tracer) {
    let len = || std::fs::metadata(&tracer.file).map_or(0, |m| m.len());
    let (mut before, mut quiet) = (len(), 0);
    wait_until("the tracer has caught up", PATIENCE * 3, || {
        std::thread::sleep(Duration::from_millis(90));
        let now = len();
        quiet = if now == before && !tracer.running.is_busy() { quiet + 1 } else { 0 };
        before = now;
        quiet >= 5
    });
}

fn judge(
    ended: &robust_support::Ended,
    flood: Flood,
    sent: u64,
    way: &[Step],
    path: &str,
) -> Verdict {
    let mut verdict = Verdict::default();
    let mut seen = HashMap::new();
    let mut journeys = 0;
    let summary = ended.journeys(|j| {
        journeys += 1;
        let head = j["packet"]["payload_head"].as_str().unwrap_or_default();
        let Ok(id) = u64::from_str_radix(head, 16) else {
            return verdict.lie("a journey of no packet", &j);
        };
        if !flood.alike && !(flood.first..flood.first + u64::from(flood.count)).contains(&id) {
            return verdict.lie("a packet that was never sent", &j);
        }
        if !flood.alike
            && let Some(other) = seen.insert(id, j["id"].to_string())
        {
            verdict.lie(&format!("the packet has another journey, {other}"), &j);
        }
        if !j["parent"].is_null() {
            verdict.lie("a packet of its own has a parent", &j);
        }
        one(&mut verdict, &j, &steps(&j, flood.len(id)), way, path);
    });
    verdict.refused = summary["refused_journeys"].as_u64().expect("a number");
    assert_eq!(summary["journeys"], journeys, "the summary counts what was printed");
    if journeys + verdict.refused != sent {
        let what = format!("{sent} sent, {journeys} journeys, {} refused", verdict.refused);
        verdict.lie(&what, &summary);
    }
    let lost = summary["lost_events"].as_u64().expect("a number");
    if lost == 0 && verdict.incomplete > 0 {
        verdict.lie("incomplete journeys, but no lost event", &summary);
    }
    println!(
        "{} sent, {} delivered, dropped {:?}, {} in flight, {} incomplete, {} refused, {} events, {lost} lost",
        sent,
        verdict.delivered,
        verdict.dropped,
        verdict.in_flight,
        verdict.incomplete,
        verdict.refused,
        summary["events"]
    );
    verdict
}

/// Judges one journey against the way that it must have gone.
fn one(verdict: &mut Verdict, j: &Value, steps: &[Step], way: &[Step], path: &str) {
    if j["complete"] != true {
        verdict.incomplete += 1;
        // What it has must still be its own, in order.
        let mut rest = way.iter();
        if !steps.iter().all(|s| rest.any(|w| w == s)) {
            verdict.lie("an incomplete journey with strange hops", j);
        }
        return;
    }
    match j["fate"].as_str() {
        Some("delivered") => {
            verdict.delivered += 1;
            if steps != way {
                verdict.lie("delivered, but not by the way there is", j);
            } else if j["path"] != path {
                verdict.lie("a path that is not the way", j);
            }
        }
        Some("dropped") => {
            let reason = j["drop"]["reason"].as_str().unwrap_or("none").to_owned();
            *verdict.dropped.entry(reason.clone()).or_insert(0) += 1;
            let whole = reason == "SOCKET_RCVBUFF";
            if !way.starts_with(steps) || (whole && steps != way) {
                verdict.lie("dropped, but not on the way", j);
            }
        }
        Some("in-flight") => {
            verdict.in_flight += 1;
            if !way.starts_with(steps) {
                verdict.lie("in flight, but not on the way", j);
            }
        }
        _ => verdict.lie("a fate that it cannot have", j),
    }
}

#[test]
fn ten_thousand_datagrams_are_ten_thousand_journeys() {
    let _alone = alone();
    let lab = Cluster::up();
    let verdict = flood(&lab, Flood::new(10_000), &["--buffer", "256M"]);
    verdict.assert_truth();
    assert!(verdict.delivered > 100, "{verdict:?}");
}

#[test]
fn lengths_of_all_hops_are_those_of_the_packet() {
    let _alone = alone();
    let lab = Cluster::up();
    let lengths = Flood { spread: 997, ..Flood::new(10_000) };
    flood(&lab, lengths, &["--buffer", "256M"]).assert_truth();
}

#[test]
fn a_ring_that_is_always_full_refuses_and_does_not_lie() {
    let _alone = alone();
    let lab = Cluster::up();
    let verdict = flood(&lab, Flood::new(10_000), &["--buffer", "256K"]);
    verdict.assert_truth();
    assert!(verdict.refused > 0, "{verdict:?}");
}

#[test]
fn packets_that_nothing_tells_apart_have_journeys_of_their_own() {
    let _alone = alone();
    let lab = Cluster::up();
    let alike = Flood { alike: true, pause: Duration::from_millis(2), ..Flood::new(5_000) };
    flood(&lab, alike, &["--buffer", "256M"]).assert_truth();
}

#[test]
fn a_hundred_thousand_datagrams_as_fast_as_they_go() {
    if is_fast() {
        println!("left out: PKTTRACE_TEST_FAST is set");
        return;
    }
    let _alone = alone();
    let lab = Cluster::up();
    flood(&lab, Flood::new(100_000), &["--buffer", "256M"]).assert_truth();
}

/// A packet capture in a namespace of the lab.
fn capture(lab: &Cluster, host: &str) -> Running {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &lab.netns(host)]);
    command.args(["tcpdump", "-i", "any", "-nn", "-w", "/dev/null"]).stdout(Stdio::null());
    Running::spawn(&mut command)
}

#[test]
fn packet_captures_beside_it_change_nothing() {
    let _alone = alone();
    let lab = Cluster::up();
    let count = if is_fast() { 10_000 } else { 100_000 };
    let captures = [capture(&lab, "n1"), capture(&lab, "p3")];
    for capture in &captures {
        // Its packet socket is there once it is listed in its namespace.
        let listed = format!("/proc/{}/net/packet", capture.pid());
        wait_until("tcpdump listens", PATIENCE, || {
            std::fs::read_to_string(&listed).is_ok_and(|text| text.lines().count() > 1)
        });
    }
    flood(&lab, Flood::new(count), &["--buffer", "256M"]).assert_truth();
}

#[test]
fn namespaces_that_come_and_go_change_nothing() {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    let _alone = alone();
    let lab = Cluster::up();
    let count = if is_fast() { 10_000 } else { 100_000 };
    let stop = Arc::new(AtomicBool::new(false));
    let churn = std::thread::spawn({
        let (stop, prefix) = (Arc::clone(&stop), lab.prefix().to_owned());
        move || {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                let (a, b) =
                    (format!("{prefix}-churn{rounds}a"), format!("{prefix}-churn{rounds}b"));
                let (a, b) = (Namespace::add(a), Namespace::add(b));
                ip(&[
                    "-n", &a.0, "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns",
                    &b.0,
                ]);
                a.ip(&["link", "set", "v0", "up"]);
                b.ip(&["link", "set", "v0", "up"]);
                drop((a, b));
                rounds += 1;
            }
            rounds
        }
    });
    let flooded = AssertUnwindSafe(|| flood(&lab, Flood::new(count), &["--buffer", "256M"]));
    let verdict = catch_unwind(flooded);
    // Whatever came of it: its namespaces would stay.
    stop.store(true, Ordering::Relaxed);
    assert!(churn.join().expect("churn") > 0);
    verdict.unwrap_or_else(|panic| resume_unwind(panic)).assert_truth();
}

/// The events of every journey, as they come from the kernel.
mod events {
    use std::collections::{HashMap, HashSet};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use pkttrace::bpf::{Backends, Counters};
    use pkttrace::cli::filter::FilterArgs;
    use pkttrace::config::Config;
    use pkttrace::event::{Event, Headers, L4, PayloadHead, Proto};
    use pkttrace::source::Live;

    /// What no hop of a packet may change: neither NAT nor a tunnel touches it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Mark {
        proto: Proto,
        ip_id: Option<u32>,
        /// Sequence and acknowledgement of TCP.
        tcp: Option<u32>,
        payload: Option<PayloadHead>,
    }

    impl Mark {
        fn of(headers: &Headers) -> Self {
            let is_tcp = matches!(headers.l4, L4::Tcp(_));
            Self {
                proto: headers.tuple.proto,
                // A segment of a larger packet has its own.
                ip_id: headers.ip_id.filter(|_| !is_tcp),
                tcp: headers.tcp().map(|tcp| tcp.seq),
                payload: (!is_tcp).then_some(headers.payload),
            }
        }
    }

    /// What one event says.
    #[derive(Debug)]
    struct Seen {
        seq: u16,
        ktime_ns: u64,
        is_birth: bool,
        is_end: bool,
        mark: Option<Mark>,
        text: String,
    }

    /// All events of a run.
    #[derive(Debug, Default)]
    pub(super) struct Events {
        journeys: HashMap<u64, Vec<Seen>>,
        pub(super) counters: Counters,
    }

    impl Events {
        fn take(&mut self, e: &Event) {
            let seen = Seen {
                seq: e.seq,
                ktime_ns: e.ktime_ns,
                is_birth: e.is_birth(),
                is_end: e.is_end(),
                mark: e.followed().map(Mark::of),
                text: format!(
                    "{} {:?} cpu {} netns {} if {} len {} flags {:#x} head {:x} {:?}",
                    e.seq,
                    e.probe,
                    e.cpu,
                    e.netns,
                    e.ifindex,
                    e.len,
                    e.flags,
                    e.head,
                    e.followed().map(|h| (h.tuple, Mark::of(h)))
                ),
            };
            self.journeys.entry(e.journey).or_default().push(seen);
        }

        pub(super) fn len(&self) -> usize {
            self.journeys.len()
        }

        /// Everything that cannot be true; `alike` where packets may have the same mark.
        pub(super) fn lies(&mut self) -> Vec<String> {
            let mut lies = Vec::new();
            let mut marks = HashSet::new();
            for (id, events) in &mut self.journeys {
                events.sort_by_key(|e| e.seq);
                let what = lie(events);
                if let Some(what) = what {
                    let text: Vec<&str> = events.iter().map(|e| e.text.as_str()).collect();
                    lies.push(format!("journey {id:#x}: {what}\n    {}", text.join("\n    ")));
                }
                let mark = events.iter().find_map(|e| e.mark);
                if let Some(Mark { payload: Some(payload), .. }) = mark {
                    let payload = format!("{payload:?}");
                    if !marks.insert(payload.clone()) {
                        lies.push(format!("a second journey of {payload}"));
                    }
                }
            }
            lies
        }
    }

    /// What about these events, in order, cannot be true.
    fn lie(events: &[Seen]) -> Option<String> {
        let first = events.first()?;
        if !first.is_birth {
            return Some("it has no beginning".to_owned());
        }
        let mark = events.iter().find_map(|e| e.mark);
        for (n, e) in events.iter().enumerate() {
            let before = n.checked_sub(1).and_then(|n| events.get(n));
            if usize::from(e.seq) != n {
                return Some(format!("event {n} has number {}", e.seq));
            }
            if e.is_birth && n > 0 {
                return Some(format!("event {n} begins it again"));
            }
            if e.is_end && n + 1 < events.len() {
                return Some(format!("it goes on after its end, event {n}"));
            }
            if before.is_some_and(|b| b.ktime_ns > e.ktime_ns) {
                return Some(format!("event {n} is older than the one before"));
            }
            if e.mark.is_some() && e.mark != mark {
                return Some(format!("event {n} is another packet's"));
            }
        }
        None
    }

    /// Follows what `args` says while `traffic` runs, and until nothing has come for a while.
    pub(super) fn collect(
        args: &FilterArgs,
        ring_bytes: u32,
        traffic: impl FnOnce() + Send,
    ) -> Events {
        let capture = Config::capture(args).expect("a filter");
        let config = Config {
            ring_bytes,
            max_journeys: 0,
            backends: Backends { func: false, tc: false, ..capture.backends },
            ..capture
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let mut live = runtime.block_on(Live::start(&config)).expect("it starts").live;
        let is_over = AtomicBool::new(false);
        let mut events = Events::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                traffic();
                is_over.store(true, Ordering::Release);
            });
            let mut last = Instant::now();
            while !is_over.load(Ordering::Acquire) || last.elapsed() < Duration::from_millis(500) {
                if live.drain(|e| events.take(&e)).events > 0 {
                    last = Instant::now();
                } else {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        events.counters = live.counters().expect("counters");
        runtime.block_on(live.stop());
        events
    }
}

fn assert_true(events: &mut events::Events) {
    let lies = events.lies();
    println!("{} journeys, {:?}", events.len(), events.counters);
    let shown: String = lies.iter().take(3).map(|l| format!("{l}\n")).collect();
    assert!(lies.is_empty(), "{} lies, such as\n{shown}", lies.len());
    let (admitted, lost) = (events.counters.admitted, events.counters.lost_events);
    assert_eq!((events.len() as u64, lost), (admitted, 0), "journeys and lost events");
}

fn to_service(lab: &Cluster, proto: &str) -> pkttrace::cli::filter::FilterArgs {
    pkttrace::cli::filter::FilterArgs {
        dst: lab.service.to_string().parse().ok(),
        proto: proto.parse().ok(),
        no_replies: proto == "udp",
        ..Default::default()
    }
}

#[test]
fn every_event_carries_its_own_packet() {
    let _alone = alone();
    let lab = Cluster::up();
    let mut events = events::collect(&to_service(&lab, "udp"), 256 << 20, || {
        lab.flood(Flood::new(10_000)).join().expect("a sender");
    });
    assert_true(&mut events);
    let accounted = events.counters.admitted + events.counters.refused();
    assert_eq!(accounted, 10_000);
}

#[test]
fn no_journey_holds_two_segments_of_tcp() {
    let _alone = alone();
    let lab = Cluster::up();
    let service = lab.service;
    lab.get("p1", &service.to_string());
    let requests = if is_fast() { 200 } else { 1000 };
    let get = format!("for n; do curl -s -m 20 -o /dev/null {service} || exit; done");
    let storm = format!("seq {requests} | xargs -P 16 -n 20 sh -c '{get}' sh");
    let mut events = events::collect(&to_service(&lab, "tcp"), 256 << 20, || {
        lab.exec("p1", &storm);
    });
    assert_true(&mut events);
    assert!(events.len() > requests * 5, "{} journeys", events.len());
}

#[test]
fn a_journey_that_is_long_over_does_not_come_back() {
    if is_fast() {
        println!("left out: PKTTRACE_TEST_FAST is set");
        return;
    }
    let _alone = alone();
    let lab = Cluster::up();
    let tracer = lab.trace(&["--max-journeys", "0", "--buffer", "128M"]);
    let first = Flood::new(10_000);
    let mut sent = lab.flood(first).join().expect("a sender");
    settle(&tracer);
    // Longer than ended journeys are remembered; their addresses are taken again only now.
    std::thread::sleep(Duration::from_secs(10));
    let second = Flood { first: first.first + 10_000, ..first };
    sent += lab.flood(second).join().expect("a sender");
    settle(&tracer);
    let ended = tracer.finish();
    let mut journeys = 0;
    let summary = ended.journeys(|j| {
        journeys += 1;
        assert!(j["packet"]["payload_head"].is_string(), "a journey of no packet: {j}");
        assert_eq!(j["complete"], true, "{j}");
    });
    let refused = summary["refused_journeys"].as_u64().expect("a number");
    assert_eq!(journeys + refused, sent, "{summary}");
}
