//! Lab `perf`: each of its faults makes something slow that is measured, is named first by
//! `diagnose --slow` at its place, and is healed; what is only busy there is called healthy.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pkttrace_tests::{Diagnosis, Lab, Ran, binary, is_fast, side_by_side};
use serde_json::Value;

/// In a fast run, one of so many.
const FAST_STEP: usize = 5;

/// How long a busy machine may be too slow for what is measured.
const LIMIT: Duration = Duration::from_secs(40);

/// The traffic that a fault slows down, until this is dropped.
struct Load(Child);

impl Load {
    fn start(lab: &Lab, id: &str) -> Self {
        let args = ["lab", "load", id, "--duration", "2m", "--prefix", lab.prefix()];
        let load = Command::new(binary()).args(args).stderr(Stdio::null()).spawn();
        Self(load.expect("lab load starts"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn faults() -> Vec<Value> {
    let ran = Command::new(binary()).args(["lab", "list", "--faults", "-o", "json"]).output();
    let list: Value = serde_json::from_slice(&ran.expect("lab list starts").stdout).expect("JSON");
    let all = list["faults"].as_array().expect("a list").iter();
    all.filter(|fault| fault["scenario"] == "perf").cloned().collect()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn eventually(lab: &Lab, job: &str, name: &str) -> Ran {
    let deadline = Instant::now() + LIMIT;
    loop {
        let ran = lab.run(job, &[name]);
        if ran.ok || Instant::now() > deadline {
            return ran;
        }
    }
}

fn ask(lab: &Lab, fault: &Value) -> Diagnosis {
    let _load = Load::start(lab, text(fault, "id"));
    let target = &fault["target"];
    let from = text(target, "from").rsplit('-').next().unwrap_or_default();
    let (from, to, proto) = (lab.netns(from), text(target, "to"), text(target, "proto"));
    let flow = ["--from", &from, "--to", to, "--proto", proto];
    Diagnosis::of(&[&["--slow", "--duration", "2s"], &flow[..]].concat())
}

/// Whether a finding names the fault: by its id, or by what it begins with where there are several
/// of a kind.
fn is_named(fault: &Value, finding: &Value) -> bool {
    let (id, found) = (text(fault, "id"), text(finding, "id"));
    id == found || id.strip_prefix(found).is_some_and(|rest| rest.starts_with('-'))
}

fn is_at(lab: &Lab, fault: &Value, finding: &Value) -> bool {
    let (place, seen) = (&fault["where"], &finding["where"]);
    seen["netns"] == lab.netns(text(place, "host")).as_str()
        && (place["dev"].is_null() || place["dev"] == seen["dev"])
}

/// Runs what of the fix is commands; `false` if it is advice only.
fn run_fix(finding: &Value) -> bool {
    let lines = finding["fix"].as_array().expect("a fix").iter().filter_map(Value::as_str);
    let commands: Vec<&str> = lines.filter(|line| !line.starts_with('#')).collect();
    for command in &commands {
        let status = Command::new("sh").args(["-c", command]).status().expect("sh starts");
        assert!(status.success(), "{command}");
    }
    !commands.is_empty()
}

/// What is wrong with one fault.
fn cycle(fault: &Value) -> Result<(), String> {
    let (lab, id) = (Lab::up("perf", &[]), text(fault, "id"));
    let must = |what: &str, ran: Ran| match ran.ok {
        true => Ok(()),
        false => Err(format!("{id}: {what}: {}{}", ran.stdout, ran.stderr)),
    };
    must("break", lab.run("break", &[id]))?;
    must("symptom", eventually(&lab, "symptom", id))?;
    let found = ask(&lab, fault);
    let first = found.first();
    if !is_named(fault, first) || first["severity"] != "error" || !is_at(&lab, fault, first) {
        return Err(format!("{id}: {:#}", found.json));
    }
    if !run_fix(first) {
        must("fix", lab.run("fix", &[id]))?;
    }
    let fails = fault["probes"]["fails"].as_array().into_iter().flatten();
    fails.filter_map(Value::as_str).try_for_each(|name| {
        let healed = eventually(&lab, "probe", name);
        must(&format!("after {}", first["fix"]), healed)
    })
}

#[test]
fn every_slow_fault_shows_is_named_first_and_heals() {
    let faults = faults();
    assert_eq!(faults.len(), 20);
    let step = if is_fast() { FAST_STEP } else { 1 };
    let chosen: Vec<&Value> = faults.iter().step_by(step).collect();
    let (left, right) = chosen.split_at(chosen.len() / 2);
    let failures = side_by_side(&[left, right], |halves| {
        halves.copied().flatten().filter_map(|fault| cycle(fault).err()).collect::<Vec<_>>()
    })
    .concat();
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

/// A shaper and a policer that nobody reaches, rules that only first packets walk, translation with
/// all ports, offloads off where little or nothing comes by, and counters of yesterday.
const HARMLESS: &[(&str, &str)] = &[
    ("node", "tc qdisc add dev lo root tbf rate 1mbit burst 4kb latency 1ms"),
    ("node", "ping -q -f -c 300 -s 1400 127.0.0.1 >/dev/null; true"),
    ("node", "tc qdisc add dev vw root tbf rate 80gbit burst 64mb latency 50ms"),
    ("node", "ethtool -K vp tx-checksum-ip-generic off >/dev/null"),
    (
        "node",
        "nft add table ip q && nft add chain ip q f '{ type filter hook forward priority 0; }' \
         && nft add rule ip q f limit rate over 4000 mbytes/second counter drop",
    ),
    ("node", "iptables -t nat -A POSTROUTING -o vw -p udp -j MASQUERADE"),
    ("node", "iptables -I FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT"),
    (
        "node",
        "(echo '*filter'; echo ':SVC - [0:0]'; echo '-A FORWARD -j SVC'; \
          for n in $(seq 1 3000); do echo \"-A SVC -d 10.96.$((n / 200)).$((n % 200)) -j REJECT\"; done; \
          echo COMMIT) | iptables-restore --noflush",
    ),
];

#[test]
fn busy_labs_are_healthy() {
    let lab = Lab::up("perf", &[]);
    // What overflowed yesterday.
    assert!(lab.run("break", &["slow-socket-buffer"]).ok);
    let _ = lab.run("symptom", &["slow-socket-buffer"]);
    assert!(lab.run("fix", &[]).ok);
    for (host, command) in HARMLESS {
        lab.exec(host, command);
    }
    // Several faults slow the same traffic down.
    let mut traffic = faults();
    traffic.sort_by_key(|fault| fault["probes"]["fails"].to_string());
    traffic.dedup_by_key(|fault| fault["probes"]["fails"].to_string());
    // A reader that gets no processor loses datagrams indeed.
    traffic.retain(|fault| fault["id"] != "slow-socket-buffer");
    assert!(traffic.len() >= 10);
    let failures: Vec<String> = traffic
        .iter()
        .step_by(if is_fast() { FAST_STEP } else { 1 })
        .map(|fault| (text(fault, "id").to_owned(), ask(&lab, fault)))
        .filter(|(_, found)| !found.loud().is_empty())
        .map(|(id, found)| format!("the traffic of {id}: {:#}", found.json))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
