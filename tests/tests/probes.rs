//! The probe matrix: every probe point, by what it is attached on this kernel, whether the lab's
//! traffic came by it, and what a packet that the filter rejects costs there, as a ratio to a
//! program that does nothing and is attached in the same way: told, not judged, for a processor may
//! be shared or emulated. `PKTTRACE_OUT` names a directory that is given the tables.

mod probes_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use aya::sys::{Stats, enable_stats};
use pkttrace_tests::{Lab, Tracer, binary, icmp};
use serde_json::{Value, json};

use probes_support::empty::{Empty, Kind};
use probes_support::{Cost, costs};

/// What a probe point runs, and whether the traffic below must come by it when it is attached.
struct Row {
    probe: &'static str,
    programs: &'static [&'static str],
    must_hit: bool,
}

const fn row(probe: &'static str, programs: &'static [&'static str], must_hit: bool) -> Row {
    Row { probe, programs, must_hit }
}

/// Names as the kernel keeps them: fifteen characters at most.
const ROWS: [Row; 27] = [
    row("tp:netif_receive_skb", &["rx"], true),
    row("tp:net_dev_queue", &["queue"], true),
    row("tp:net_dev_start_xmit", &["xmit"], true),
    row("tp:kfree_skb", &["kfree"], true),
    row("tp:consume_skb", &["consume"], true),
    row("tp:fib_table_lookup", &["fib"], true),
    row("tp:fib6_table_lookup", &["fib6"], true),
    row("tp:neigh_create", &["neigh_create"], true),
    row("tp:neigh_event_send_done", &["neigh_done"], true),
    // Only an entry that is being removed is reported so.
    row("tp:neigh_event_send_dead", &["neigh_dead"], false),
    row("tp:icmp_send", &["icmp_send"], true),
    row("tp:tcp_probe", &["tcp_socket"], true),
    row("tp:skb_copy_datagram_iovec", &["copy_to_user"], true),
    row("cg:ingress", &["cg_socket"], true),
    row("nf", &["nf_output", "nf_last"], true),
    row("fn:nf_hook_slow", &["fn_hook_enter", "fn_hook_exit", "kp_hook_enter"], true),
    row("fn:ipt_do_table", &["fn_ipt", "kp_ipt"], true),
    row("fn:ip6t_do_table", &["fn_ip6t", "kp_ip6t"], true),
    row("fn:nft_do_chain", &["fn_nft", "kp_nft"], true),
    row("fn:nf_conntrack_in", &["fn_conntrack", "kp_conntrack"], true),
    row("fn:__nf_conntrack_confirm", &["fn_confirm", "kp_confirm"], true),
    row("fn:ip_finish_output2", &["fn_output", "kp_output"], true),
    row("fn:skb_clone", &["fn_clone", "kp_clone"], true),
    // Copies are made of what drivers and crypto must not share: not here.
    row("fn:skb_copy", &["fn_copy"], false),
    row("fn:pskb_expand_head", &["fn_expand"], true),
    row("fn:icmp_glue_bits", &["fn_icmp", "kp_icmp"], true),
    row("fn:br_flood", &["fn_flood", "kp_flood"], true),
];

/// Rounds of traffic; the cheapest of each program counts, the others met an interrupt.
const ROUNDS: usize = 3;

/// Runs in a round from which their mean says something: of fewer, one that met an interrupt is most
/// of it.
const ENOUGH: u64 = 30;

/// All backends, tc on every device.
const ALL: &str = "tp,nf,fn,tc";

/// No packet of the lab has it.
const REJECTING: [&str; 2] = ["--dst", "203.0.113.250"];

/// What `doctor` says of each probe point.
fn doctor() -> Vec<Value> {
    let output = Command::new(binary()).args(["doctor", "-o", "json"]).output();
    let output = output.expect("pkttrace starts");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["works"], true, "{report:#}");
    report["probes"].as_array().expect("probes").clone()
}

/// One packet of each kind that some probe point is for.
fn traffic(lab: &Lab) {
    lab.ping("p1", "10.244.2.2");
    lab.ping("p1", "10.244.1.3");
    lab.ping("p1", "203.0.113.10");
    // A neighbour that must be asked for by a flooded broadcast.
    lab.ping_fails("p1", "10.244.1.77");
    lab.get("p1", "10.244.1.3:8080/");
    lab.ping("p1", "fd00:10:244:2::2");
    // An ICMP error by the first router.
    lab.exec_fails("p1", "ping -n -c1 -W1 -t1 203.0.113.10");
}

#[test]
fn every_probe_point_that_is_attached_is_hit() {
    let lab = Lab::cluster6();
    // Beside the lab's own rules, which are nftables': tables of the legacy kind.
    for iptables in ["iptables-legacy", "ip6tables-legacy"] {
        lab.exec("n2", &format!("{iptables} -w 60 -I FORWARD -j ACCEPT"));
    }
    let probes = doctor();
    // Released when dropped; nothing of the node's settings changes.
    let statistics = enable_stats(Stats::RunTime).expect("run time statistics (5.8)");
    let tracer = Tracer::start(&lab, &["--proto", "icmp", "--probes", "tp,nf,fn"]);
    traffic(&lab);
    tracer.await_journeys(1, &icmp(0).from("203.0.113.10"));
    let runs = costs(tracer.pid());
    drop(statistics);
    let run = tracer.finish();
    assert!(!run.journeys.is_empty());

    let mut table = Vec::new();
    let mut silent = Vec::new();
    for row in &ROWS {
        let is_row = |p: &&Value| {
            let name = p["probe"].as_str().unwrap_or_default();
            name == row.probe || (row.probe == "nf" && name.starts_with("nf:"))
        };
        let said = probes.iter().find(is_row);
        let by = said.map_or(&Value::Null, |p| &p["attached_by"]);
        let why = said.map_or(&Value::Null, |p| &p["why"]);
        let hits: u64 =
            row.programs.iter().filter_map(|name| runs.get(*name)).map(|c| c.runs).sum();
        if by.is_string() && row.must_hit && hits == 0 {
            silent.push(row.probe);
        }
        if said.is_some() && by.is_null() {
            assert!(why.is_string(), "{} is not attached and nobody says why", row.probe);
        }
        table.push(json!({ "probe": row.probe, "by": by, "why": why, "hits": hits }));
    }
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let report = json!({ "kernel": kernel.trim(), "probes": table });
    if let Some(out) = std::env::var_os("PKTTRACE_OUT") {
        let path = Path::new(&out).join("probes.json");
        std::fs::write(&path, format!("{report:#}\n")).expect("PKTTRACE_OUT is a directory");
    }
    assert!(silent.is_empty(), "attached but never hit: {silent:?} of {report:#}\n{runs:?}");
}

/// Packets of each kind that some probe point is for, without pauses: what is seldom called finds
/// its code and maps out of the processor's caches, which says nothing of the program.
fn flood(lab: &Lab) {
    lab.exec("p1", "ping -n -q -f -c400 10.244.2.2");
    lab.exec("p1", "ping -n -q -f -c400 10.244.1.3");
    lab.exec("p1", "for n in 1 2 3 4 5; do curl -sSg -m 10 http://10.244.2.2:8080/; done");
    lab.get("p1", "10.244.2.2:8080/big");
}

/// The cheapest round of each.
struct Cheapest<K>(BTreeMap<K, f64>);

impl<K: Ord> Cheapest<K> {
    fn add(&mut self, key: K, cost: Cost) {
        if let Some(ns) = cost.ns_per_run().filter(|_| cost.runs >= ENOUGH) {
            let least = self.0.entry(key).or_insert(ns);
            *least = least.min(ns);
        }
    }
}

/// A tracer that rejects all, and the milliseconds that attaching took.
fn rejecting(lab: &Lab, probes: &str) -> (Tracer, u128) {
    let started = Instant::now();
    let tracer = Tracer::start(lab, &[&REJECTING[..], &["--probes", probes]].concat());
    (tracer, started.elapsed().as_millis())
}

/// Ends it; what is said of its times.
fn let_go((tracer, attach_ms): (Tracer, u128), probes: &str) -> Value {
    let ending = Instant::now();
    let run = tracer.finish();
    let detach_ms = ending.elapsed().as_millis();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.journeys.is_empty(), "the filter rejects all: {}", run.listing());
    assert_eq!(run.summary["events"], 0, "a rejected packet is reported: {}", run.summary);
    json!({ "probes": probes, "attach_ms": attach_ms, "detach_ms": detach_ms })
}

#[test]
fn no_probe_point_reports_a_rejected_packet() {
    let lab = Lab::cluster();
    // Beside the lab's own rules, which are nftables': a table of the legacy kind.
    lab.exec("n2", "iptables-legacy -w 60 -I FORWARD -j ACCEPT");
    flood(&lab);
    let mut times = vec![let_go(rejecting(&lab, "auto"), "auto")];
    let empties = Empty::all(&lab);
    // Released when dropped; nothing of the node's settings changes.
    let statistics = enable_stats(Stats::RunTime).expect("run time statistics (5.8)");
    let (tracer, attach_ms) = rejecting(&lab, ALL);
    let mut nothing = Cheapest::<Kind>(BTreeMap::new());
    let mut programs = Cheapest::<String>(BTreeMap::new());
    for _ in 0..ROUNDS {
        let before: Vec<_> = empties.iter().map(Empty::cost).collect();
        let before_programs = costs(tracer.pid());
        flood(&lab);
        for (empty, before) in empties.iter().zip(before) {
            nothing.add(empty.kind, empty.cost().since(before));
        }
        for (name, cost) in costs(tracer.pid()) {
            let before = before_programs.get(&name).copied().unwrap_or_default();
            programs.add(name, cost.since(before));
        }
    }
    drop(statistics);
    times.push(let_go((tracer, attach_ms), ALL));

    let mut table = Vec::new();
    for (name, ns) in &programs.0 {
        let kind = Kind::of(name);
        let ratio = nothing.0.get(&kind).map(|nothing| ns / nothing);
        // A kretprobe is of the point of its kprobe.
        let entry = name.replacen("kr_", "kp_", 1);
        let point = ROWS.iter().find(|row| row.programs.contains(&entry.as_str()));
        let point = point.map_or("tc", |row| row.probe);
        let ratio = ratio.map(|ratio| (ratio * 10.0).round() / 10.0);
        table.push(json!({ "probe": point, "program": name, "ns": ns.round(), "ratio": ratio }));
    }
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let report = json!({ "kernel": kernel.trim(), "programs": table, "times": times });
    if let Some(out) = std::env::var_os("PKTTRACE_OUT") {
        let path = Path::new(&out).join("costs.json");
        std::fs::write(&path, format!("{report:#}\n")).expect("PKTTRACE_OUT is a directory");
    }
    println!("{report:#}");
    let is_measured = |name: &str| programs.0.contains_key(name);
    assert!(["rx", "queue", "xmit"].into_iter().all(is_measured), "too few packets: {report:#}");
    assert!(nothing.0.contains_key(&Kind::Tracepoint), "nothing to compare with: {report:#}");
}
