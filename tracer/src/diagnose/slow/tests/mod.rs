//! Checks on hand-made evidence: what no network of the integration tests shows.

mod ends;
mod lengths;
mod tables;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Evidence, Lookup, Moment, Timed, conclude};
use crate::diagnose::case::{Method, Target};
use crate::diagnose::finding::Severity;
use crate::event::{Headers, L4, PayloadHead, Proto, Tuple};
use crate::journey::{Hop, Journey, Stage};
use crate::net::detail::{Detail, Resolver, Socket};
use crate::net::meter::{Connection, Cpu, Reading};
use crate::net::{Device, Netns, NetworkState, Shared};

const APP: u32 = 7;

fn state(detail: Detail) -> NetworkState {
    let device = Device { ifindex: 2, name: "eth0".to_owned(), ..Device::default() };
    let netns = Netns {
        inum: APP,
        name: "app".to_owned(),
        path: "/run/netns/app".into(),
        devices: [(2, device)].into(),
        detail: Some(Shared::new(detail)),
        ..Netns::default()
    };
    NetworkState { netns: [(APP, netns)].into(), own: 1 }
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn evidence<'a>(state: &'a NetworkState, journeys: &'a [Journey]) -> Evidence<'a> {
    let target = Target {
        netns: APP,
        addr: Some(addr("192.0.2.9")),
        port: Some(80),
        proto: Method::Tcp,
        ..Target::default()
    };
    Evidence {
        target: Some(target),
        state,
        ways: Vec::new(),
        journeys,
        moments: Vec::new(),
        span: Duration::from_secs(4),
        after: BTreeMap::new(),
        cpus: (Vec::new(), Vec::new()),
        lookups: Vec::new(),
        tunnels: Default::default(),
        probes: Vec::new(),
        timed: Timed::default(),
    }
}

/// A packet of the flow, so that the namespace is on its way.
fn journey() -> Journey {
    let tuple = Tuple {
        src: addr("10.0.0.2"),
        dst: addr("192.0.2.9"),
        proto: Proto::Tcp,
        sport: 40_000,
        dport: 80,
    };
    let hop = Hop {
        netns: APP,
        dev: Some(crate::journey::Dev { ifindex: 2, name: "eth0".to_owned() }),
        ..Hop::at(Stage::Queue)
    };
    let headers = Headers {
        tuple,
        len: 60,
        ttl: Some(64),
        ip_id: None,
        fragment: None,
        dont_fragment: true,
        l4: L4::Unknown,
        payload: PayloadHead::default(),
    };
    Journey::of(headers, vec![hop])
}

fn connection() -> Connection {
    Connection {
        local: SocketAddr::new(addr("10.0.0.2"), 40_000),
        peer: SocketAddr::new(addr("192.0.2.9"), 80),
        may_answer: false,
        awaits_answer: false,
        process: Some((12, "client".to_owned())),
        unread: 0,
        receive_buffer: 131_072,
        send_buffer: 2_000_000,
        unsent: 0,
        held_back: 0,
        cookie: 1,
        is_app_limited: false,
        segments_in: 0,
        scales_window: true,
        mss: 1448,
        path_mtu: 1500,
        rtt: Duration::from_millis(80),
        min_rtt: Duration::from_millis(80),
        rto: Duration::from_millis(280),
        cwnd: 10,
        max_pacing: 0,
        retransmits: 0,
        acked: 100,
        received: 100,
        data_segments: 5,
        busy_us: 0,
        window_limited_us: 0,
        buffer_limited_us: 0,
        needless: 0,
        reorderings: 0,
        peer_window: 65_535,
    }
}

/// Packets of the flow that waited so long in the queue of eth0.
fn queued(wait: Duration) -> Vec<Journey> {
    let mut journey = journey();
    let queue = journey.hops[0].clone();
    let ktime_ns = queue.ktime_ns + wait.as_nanos() as u64;
    journey.hops.push(Hop { stage: Stage::Xmit, ktime_ns, ..queue });
    vec![journey; 8]
}

/// Takes connections at port 80.
fn listener() -> Socket {
    Socket {
        proto: 6,
        addr: addr("0.0.0.0"),
        port: 80,
        v6only: false,
        peer: None,
        queued: 0,
        limit: 128,
        drops: 0,
        dev: None,
        process: None,
    }
}

/// The connection as it was, in between, and as it is.
fn moments(all: impl IntoIterator<Item = Connection>) -> Vec<Moment> {
    let reading = |c| Reading { connections: vec![c], ..Reading::default() };
    all.into_iter().map(|c| [(APP, reading(c))].into()).collect()
}

fn ids(evidence: &Evidence<'_>, severity: Severity) -> Vec<&'static str> {
    let findings = conclude(evidence).findings;
    findings.into_iter().filter(|f| f.severity == severity).map(|f| f.id).collect()
}

#[test]
fn sixty_four_kilobytes_a_round_trip_are_a_window_without_scaling() {
    let sysctls = [("ipv4/tcp_window_scaling".to_owned(), "0".to_owned())].into();
    let state = state(Detail { sysctls, ..Detail::default() });
    let journeys = [journey()];
    let plain = Connection { scales_window: false, ..connection() };
    let later = Connection { received: 3_200_000, ..plain.clone() };
    let mut seen = evidence(&state, &journeys);
    seen.moments = moments([plain, later.clone()]);
    let found = conclude(&seen).findings;
    assert_eq!(found[0].id, "slow-window-scaling");
    assert!(found[0].fix[0].contains("net.ipv4.tcp_window_scaling=1"), "{:?}", found[0].fix);
    // The same with an application that does not read: that is what limits it.
    seen.moments = moments([connection(), Connection { unread: 90_000, ..later }]);
    assert_eq!(ids(&seen, Severity::Error), Vec::<&str>::new());
}

#[test]
fn a_buffer_that_may_not_grow_is_named_while_it_is_the_limit() {
    let setting = |path: &str, value: &str| [(path.to_owned(), value.to_owned())].into();
    let sysctls = setting("ipv4/tcp_rmem", "4096\t65536\t65536");
    let small = state(Detail { sysctls, ..Detail::default() });
    let journeys = [journey()];
    let receiver = Connection { receive_buffer: 65_536, ..connection() };
    let mut seen = evidence(&small, &journeys);
    seen.moments =
        moments([receiver.clone(), Connection { received: 1_600_000, ..receiver.clone() }]);
    let found = conclude(&seen).findings;
    assert_eq!(found[0].id, "slow-receive-buffer");
    let fix = &found[0].fix[0];
    assert!(fix.contains("net.ipv4.tcp_rmem") && fix.contains("4096 65536 6291456"), "{fix}");
    // It has room left: the application, or the sender, has no more.
    seen.moments = moments([receiver.clone(), Connection { received: 300_000, ..receiver }]);
    assert_eq!(ids(&seen, Severity::Error), Vec::<&str>::new());

    let sysctls = setting("ipv4/tcp_wmem", "4096 16384 65536");
    let small = state(Detail { sysctls, ..Detail::default() });
    let mut seen = evidence(&small, &journeys);
    let waits = Connection {
        acked: 3_000_000,
        busy_us: 4_000_000,
        buffer_limited_us: 3_000_000,
        ..connection()
    };
    seen.moments = moments([connection(), waits.clone()]);
    assert_eq!(ids(&seen, Severity::Error), ["slow-send-buffer"]);
    seen.moments = moments([connection(), Connection { buffer_limited_us: 100, ..waits }]);
    assert_eq!(ids(&seen, Severity::Error), Vec::<&str>::new());
}

#[test]
fn only_retransmissions_that_were_needed_are_loss() {
    let (state, journeys) = (state(Detail::default()), [journey()]);
    let lossy = Connection {
        retransmits: 9000,
        needless: 0,
        data_segments: 60_000,
        acked: 9_000_000,
        ..connection()
    };
    let mut seen = evidence(&state, &journeys);
    seen.moments = moments([connection(), lossy.clone()]);
    assert_eq!(ids(&seen, Severity::Error), ["slow-loss"]);
    let reordered = Connection { needless: 7500, reorderings: 1265, ..lossy };
    seen.moments = moments([connection(), reordered]);
    assert_eq!(ids(&seen, Severity::Error), Vec::<&str>::new());
    assert!(ids(&seen, Severity::Info).contains(&"slow-reordering"));
}

#[test]
fn a_long_way_beyond_the_node_is_no_fault_of_it() {
    let (state, journeys) = (state(Detail::default()), [journey()]);
    let mut seen = evidence(&state, &journeys);
    seen.moments = moments([connection(), Connection { acked: 4000, ..connection() }]);
    assert_eq!(ids(&seen, Severity::Error), Vec::<&str>::new());
    assert_eq!(ids(&seen, Severity::Info), ["slow-far-end"]);
}

fn lookup(name: &str, suffix: Option<&str>, millis: u64, rcode: Option<u8>) -> Lookup {
    Lookup {
        name: name.to_owned(),
        suffix: suffix.map(str::to_owned),
        is_v6: false,
        server: addr("10.96.0.10"),
        took: Duration::from_millis(millis),
        rcode,
        addresses: rcode.filter(|code| *code == 0).map(|_| addr("192.0.2.9")).into_iter().collect(),
        again: None,
    }
}

#[test]
fn a_search_domain_that_is_waited_for_in_vain_is_named() {
    let resolver = Resolver { path: "/etc/resolv.conf".to_owned(), ..Resolver::default() };
    let state = state(Detail { resolver: Some(resolver), ..Detail::default() });
    let mut seen = evidence(&state, &[]);
    seen.lookups = vec![
        lookup("api.example.svc.cluster.local", Some("svc.cluster.local"), 1, Some(3)),
        lookup("api.example.corp.test", Some("corp.test"), 2000, Some(2)),
        lookup("api.example", None, 3, Some(0)),
    ];
    let found = conclude(&seen).findings;
    assert_eq!(found[0].id, "slow-dns-search");
    assert!(found[0].title.contains("corp.test costs 2.00 s"), "{}", found[0].title);
    assert!(found[0].fix[0].contains("/etc/resolv.conf"), "{:?}", found[0].fix);
    // Where everything is late, or nothing comes, it is the server.
    seen.lookups = vec![lookup("api.example", None, 5000, None)];
    assert_eq!(conclude(&seen).findings[0].id, "slow-dns-server");
    seen.lookups = vec![lookup("api.example", None, 3, Some(0))];
    assert_eq!(conclude(&seen).findings, []);
}

#[test]
fn one_processor_that_does_it_all_is_seen_only_while_others_idle() {
    let state = state(Detail::default());
    let mut seen = evidence(&state, &[]);
    let busy = Cpu { packets: 100_000, ticks: 400, softirq: 360, ..Cpu::default() };
    let idle = Cpu { packets: 10, ticks: 400, idle: 380, ..Cpu::default() };
    seen.cpus = (vec![Cpu::default(); 2], vec![busy, idle]);
    assert_eq!(ids(&seen, Severity::Error), ["slow-one-cpu"]);
    seen.cpus = (vec![Cpu::default(); 2], vec![busy, Cpu { idle: 20, ..busy }]);
    assert_eq!(conclude(&seen).findings, []);
}

/// Counters of the namespace, before and after.
fn counted(counters: &[(&str, u64)]) -> Vec<Moment> {
    let reading = |of: fn(u64) -> u64| Reading {
        counters: counters.iter().map(|(name, n)| ((*name).to_owned(), of(*n))).collect(),
        ..Reading::default()
    };
    vec![[(APP, reading(|_| 0))].into(), [(APP, reading(|n| n))].into()]
}

#[test]
fn a_full_table_of_connections_and_long_chains_are_told_apart() {
    let journeys = [journey()];
    let sysctls = [("netfilter/nf_conntrack_buckets".to_owned(), "1024".to_owned())];
    let detail = |used| Detail {
        conntrack: Some((used, 65_536)),
        sysctls: sysctls.clone().into(),
        ..Detail::default()
    };
    let full = state(detail(65_500));
    let mut seen = evidence(&full, &journeys);
    seen.moments = counted(&[("ct.early_drop", 40), ("ct.chain_toolong", 3)]);
    assert_eq!(ids(&seen, Severity::Error), ["slow-conntrack-buckets", "slow-conntrack-full"]);
    seen.moments = counted(&[]);
    assert_eq!(ids(&seen, Severity::Error), Vec::<&str>::new());
    assert_eq!(ids(&seen, Severity::Warning), ["slow-conntrack-buckets"]);
    let small = state(detail(900));
    let mut seen = evidence(&small, &journeys);
    seen.moments = counted(&[]);
    assert_eq!(ids(&seen, Severity::Warning), Vec::<&str>::new());
}

#[test]
fn two_questions_for_one_entry_are_a_race_where_ports_are_plenty() {
    let state = state(Detail::default());
    let other = [journey()];
    let mut question = journey();
    if let Some(first) = &mut question.first {
        (first.tuple.proto, first.tuple.dport) = (Proto::Udp, 53);
    }
    let question = [question];
    let mut seen = evidence(&state, &question);
    seen.moments = counted(&[("ct.insert_failed", 2)]);
    assert_eq!(ids(&seen, Severity::Error), ["slow-dns-race"]);
    let mut seen = evidence(&state, &other);
    seen.moments = counted(&[("ct.insert_failed", 2)]);
    assert_eq!(ids(&seen, Severity::Error), Vec::<&str>::new());
}

#[test]
fn who_has_nothing_to_send_is_no_fault_of_the_network() {
    let (state, journeys) = (state(Detail::default()), [journey()]);
    let busy_us = |n| Connection {
        is_app_limited: true,
        data_segments: n,
        busy_us: 9_000 * u64::from(n),
        ..connection()
    };
    let mut seen = evidence(&state, &journeys);
    seen.moments = moments([1, 40, 80, 120].map(busy_us));
    assert_eq!(ids(&seen, Severity::Error), Vec::<&str>::new());
    assert!(ids(&seen, Severity::Info).contains(&"slow-application"));
    let waits = |n| Connection { unsent: 70_000, ..busy_us(n) };
    seen.moments = moments([1, 40, 80, 120].map(waits));
    assert!(!ids(&seen, Severity::Info).contains(&"slow-application"));
}

#[test]
fn one_late_answer_of_a_next_hop_is_chance_and_three_are_not() {
    let state = state(Detail::default());
    let waited = |millis: u64| {
        let mut journey = journey();
        let late = Hop { ktime_ns: millis * 1_000_000, ..journey.hops[0].clone() };
        journey.hops[0].stage = Stage::Neigh;
        journey.hops.push(late);
        journey
    };
    let found = |journeys: &[Journey]| ids(&evidence(&state, journeys), Severity::Warning);
    assert_eq!(found(&[waited(300), waited(1), waited(1)]), Vec::<&str>::new());
    assert_eq!(found(&[waited(300), waited(90), waited(400)]), ["slow-neighbour"]);
}

#[test]
fn the_backlog_and_the_budget_of_softirqs_are_told_apart() {
    let state = state(Detail::default());
    let mut seen = evidence(&state, &[]);
    let squeezed = Cpu { squeezed: 900, ..Cpu::default() };
    seen.cpus = (vec![Cpu::default()], vec![squeezed]);
    assert_eq!(ids(&seen, Severity::Info), ["slow-softirq-budget"]);
    seen.cpus.1[0].backlog_drops = 5;
    assert_eq!(ids(&seen, Severity::Warning), ["slow-backlog-drops"]);
    seen.cpus.1[0] = Cpu { squeezed: 20, ..Cpu::default() };
    assert_eq!(conclude(&seen).findings, []);
}

#[test]
fn what_was_timed_stands_for_journeys() {
    let state = state(Detail::default());
    let mut seen = evidence(&state, &[]);
    let queue = |sent: u64, backlog| crate::net::meter::Queue {
        dev: 2,
        name: "eth0".to_owned(),
        kind: "tbf".to_owned(),
        bytes: sent,
        overlimits: sent / 1000,
        backlog,
        ..Default::default()
    };
    let moment = |sent, backlog| -> Moment {
        [(APP, Reading { queues: vec![queue(sent, backlog)], ..Reading::default() })].into()
    };
    seen.moments = vec![moment(0, 0), moment(500_000, 40_000), moment(900_000, 0)];
    assert_eq!(conclude(&seen).findings, [], "nobody was timed there");
    seen.timed.devices = vec![(APP, 2)];
    seen.timed.queues = [((APP, 2), (Duration::from_millis(30), 50))].into();
    let found = conclude(&seen).findings;
    assert_eq!(found[0].id, "slow-shaper");
    assert!(found[0].evidence.iter().any(|f| f.contains("30.0 ms")), "{:?}", found[0].evidence);
}

#[test]
fn a_full_queue_drops_and_one_in_ten_thousand_is_no_fault() {
    let state = state(Detail::default());
    let journeys = [journey()];
    let mut seen = evidence(&state, &journeys);
    let moment = |packets, drops| -> Moment {
        let queue = crate::net::meter::Queue {
            dev: 2,
            name: "eth0".to_owned(),
            kind: "pfifo".to_owned(),
            packets,
            drops,
            ..Default::default()
        };
        [(APP, Reading { queues: vec![queue], ..Reading::default() })].into()
    };
    // What was dropped before is not counted.
    seen.moments = vec![moment(1000, 800), moment(9000, 1300)];
    let found = conclude(&seen).findings;
    assert_eq!((found[0].id, found[0].place.dev.as_deref()), ("slow-queue-drops", Some("eth0")));
    assert!(found[0].evidence[0].contains("500 packets dropped"), "{:?}", found[0].evidence);
    seen.moments = vec![moment(1000, 800), moment(900_000, 815)];
    assert_eq!(conclude(&seen).findings, []);
}

#[test]
fn a_short_segment_that_is_held_back_is_the_applications() {
    let (state, journeys) = (state(Detail::default()), [journey()]);
    let held = Connection {
        rtt: Duration::from_millis(40),
        min_rtt: Duration::from_micros(50),
        unsent: 2,
        held_back: 1,
        ..connection()
    };
    let mut seen = evidence(&state, &journeys);
    seen.moments = moments([1, 2, 3].map(|_| held.clone()));
    assert_eq!(ids(&seen, Severity::Warning), ["slow-nagle"]);
    // A bulk transfer keeps more than a segment back, and one that is answered at once nothing.
    let bulk = Connection { unsent: 900_000, held_back: 700_000, ..held.clone() };
    seen.moments = moments([1, 2, 3].map(|_| bulk.clone()));
    assert_eq!(ids(&seen, Severity::Warning), Vec::<&str>::new());
    let quick = Connection { rtt: Duration::from_micros(90), ..held };
    seen.moments = moments([1, 2, 3].map(|_| quick.clone()));
    assert_eq!(ids(&seen, Severity::Warning), Vec::<&str>::new());
}

#[test]
fn a_buffer_that_stays_as_it_is_is_the_applications_or_a_settings() {
    let journeys = [journey()];
    let fixed = |received| Connection { receive_buffer: 32_768, received, ..connection() };
    let plain = state(Detail::default());
    let mut seen = evidence(&plain, &journeys);
    // 14 kB in each round trip of 80 ms.
    seen.moments = moments([100, 350_000, 700_100].map(fixed));
    let found = conclude(&seen).findings;
    assert_eq!(found[0].id, "slow-receive-buffer");
    assert!(found[0].fix[0].contains("SO_RCVBUF"), "{:?}", found[0].fix);
    let sysctls = [("ipv4/tcp_moderate_rcvbuf".to_owned(), "0".to_owned())].into();
    let off = state(Detail { sysctls, ..Detail::default() });
    let mut seen = evidence(&off, &journeys);
    seen.moments = moments([100, 350_000, 700_100].map(fixed));
    let found = conclude(&seen).findings;
    assert!(found[0].fix[0].contains("net.ipv4.tcp_moderate_rcvbuf=1"), "{:?}", found[0].fix);
    // It grew: the kernel gives what is needed.
    let grown =
        |received| Connection { receive_buffer: 32_768 + received as u32, ..fixed(received) };
    seen.moments = moments([100, 350_000, 700_100].map(grown));
    assert_eq!(ids(&seen, Severity::Error), Vec::<&str>::new());
}

#[test]
fn questions_for_one_kind_of_address_that_nobody_answers_are_told_apart() {
    let state = state(Detail::default());
    let mut seen = evidence(&state, &[]);
    let v6 = |millis, rcode| Lookup {
        is_v6: true,
        addresses: Vec::new(),
        ..lookup("api.example", None, millis, rcode)
    };
    seen.lookups = vec![lookup("api.example", None, 2, Some(0)), v6(5000, None)];
    let found = conclude(&seen).findings;
    assert_eq!(found[0].id, "slow-dns-aaaa");
    // Both are asked at once: the longer one is waited for.
    assert!(found[0].title.contains("5.00 s"), "{}", found[0].title);
    seen.lookups = vec![lookup("api.example", None, 5000, None), v6(5000, None)];
    assert_eq!(conclude(&seen).findings[0].id, "slow-dns-server");
    seen.lookups = vec![lookup("api.example", None, 2, Some(0)), v6(3, Some(0))];
    assert_eq!(conclude(&seen).findings, []);
}

#[test]
fn fragments_without_room_are_named_with_the_setting() {
    let journeys = [journey()];
    let sysctls = [("ipv4/ipfrag_high_thresh".to_owned(), "8000".to_owned())].into();
    let small = state(Detail { sysctls, ..Detail::default() });
    let mut seen = evidence(&small, &journeys);
    seen.moments = counted(&[("IpReasmFails", 900)]);
    let found = conclude(&seen).findings;
    assert_eq!(found[0].id, "slow-reassembly");
    assert!(found[0].fix[0].contains("net.ipv4.ipfrag_high_thresh=4194304"), "{:?}", found[0].fix);
    seen.moments = counted(&[("IpReasmFails", 2)]);
    assert_eq!(conclude(&seen).findings, []);
}
