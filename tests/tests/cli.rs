//! What a user meets before the first packet: errors in one line that say what to do, help, and
//! generated files. Nothing is wrong with a machine that refuses; everything is with one that
//! does not say why.

mod robust_support;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use pkttrace_tests::{Lab, binary};
use robust_support::{Flood, Tracer, wait_until};
use serde_json::Value;

/// Runs the program with these arguments.
fn run(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).stdin(Stdio::null()).output().expect("pkttrace starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// Asserts exit code 2, nothing on stdout, and one line on stderr with all of `words`.
#[track_caller]
fn assert_refused(output: &Output, words: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "exit code; stderr: {stderr}");
    assert_eq!(text(&output.stdout), "", "stdout");
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
    assert!(stderr.starts_with("pkttrace: ") && stderr.ends_with('\n'), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{word:?} is not in: {stderr}");
    }
    for noise in ["os error", "panicked", "Caused by", "error:", "[possible"] {
        assert!(!stderr.contains(noise), "{noise:?} is in: {stderr}");
    }
    // A cause is said once.
    let said: Vec<&str> = stderr.trim().split(": ").collect();
    let mut once = said.clone();
    once.dedup();
    assert_eq!(said, once, "{stderr}");
}

#[test]
fn what_was_typed_wrong_is_told_in_one_line() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["--dst", "10.0.0.300"], &["10.0.0.300", "--dst", "not an IP address"]),
        (&["--src", "web"], &["'web'", "--src", "names are not resolved"]),
        (&["--host", "10.0.0.0/33"], &["10.0.0.0/33", "--host", "between 0 and 32"]),
        (&["--host", "fd00::/x"], &["fd00::/x", "between 0 and 128"]),
        (&["--proto", "quic"], &["quic", "icmp6", "0 to 255"]),
        (&["--dport", "0"], &["--dport", "1..=65535"]),
        (&["--sport", "http"], &["--sport", "http"]),
        (&["-o", "xml"], &["xml", "--output", "use one of", "tree", "json"]),
        (&["-c", "0"], &["--count", "from 1 up"]),
        (&["--duration", "soon"], &["--duration", "10s"]),
        (&["--duration", "5 fortnights"], &["unknown unit", "ms, s, m or h"]),
        (&["--buffer", "1K"], &["--buffer", "256K to 1G"]),
        (&["--buffer", "2G"], &["--buffer", "256K to 1G"]),
        (&["--buffer", "big"], &["--buffer", "16M"]),
        (&["--buffer", "9M9"], &["--buffer"]),
        (&["--probes", "xdp"], &["xdp", "tp,nf,fn,tc"]),
        (&["--probes", "nf"], &["tp must be among"]),
        (&["--max-journeys", "many"], &["--max-journeys", "many"]),
        (&["--color", "maybe"], &["maybe", "use one of auto, always, never"]),
        (&["--dst"], &["--dst"]),
        (&["--frobnicate"], &["--frobnicate", "--help"]),
        (&["--dstt", "10.0.0.1"], &["--dstt", "'--dst'"]),
        (&["frob"], &["frob"]),
        (&["--exit-code"], &["--dropped"]),
        (&["-q", "-v"], &["--quiet", "--verbose"]),
        (&["completions", "tcl"], &["tcl", "bash", "zsh"]),
        (&["lab", "up", "castle"], &["castle", "cluster"]),
    ];
    for (arguments, words) in cases {
        let output = run(arguments);
        eprint!("{arguments:?}: {}", text(&output.stderr));
        assert_refused(&output, words);
    }
}

#[test]
fn filters_that_no_packet_passes_are_refused() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["--src", "10.0.0.1", "--dst", "fd00::1"], &["--src", "--dst", "IP versions"]),
        (&["--proto", "icmp", "--dport", "80"], &["no ports", "--dport"]),
        (&["--proto", "icmp6", "--dst", "10.0.0.1"], &["no packet can match"]),
        (&["--proto", "arp", "--host", "fd00::1"], &["no packet can match"]),
        (&["--proto", "arp", "--port", "80"], &["no packet can match"]),
        (
            &["--src", "10.0.0.1", "--dst", "10.0.0.2", "--host", "10.0.0.3"],
            &["no packet can match", "--host"],
        ),
        (&["--sport", "1", "--dport", "2", "--port", "3"], &["no packet can match", "--port 3"]),
    ];
    for (arguments, words) in cases {
        assert_refused(&run(arguments), words);
    }
}

#[test]
fn names_that_name_nothing_are_told_with_what_is_near() {
    let lab = Lab::up("pair", &[]);
    let netns = lab.netns("a");
    assert_refused(&run(&["--netns", "no-such-netns"]), &["--netns", "no-such-netns", "ip netns"]);
    assert_refused(&run(&["--netns", &format!("{netns}x")]), &["--netns", &netns]);
    assert_refused(&run(&["--netns", "/no/such"]), &["--netns", "/no/such", "No such file"]);
    assert_refused(&run(&["--netns", "/etc/hostname"]), &["--netns", "/etc/hostname"]);
    assert_refused(&run(&["--dev", "nosuchdev0"]), &["--dev", "nosuchdev0", "ip -br link"]);
    let output = run(&["--netns", &netns, "--dev", "eth9"]);
    assert_refused(&output, &["--dev", "eth9", "did you mean eth0"]);
}

#[test]
fn files_that_cannot_be_written_are_told() {
    let lab = Lab::up("pair", &[]);
    let missing = lab.scratch().join("no/such/dir/file");
    let missing = missing.to_str().expect("text");
    assert_refused(&run(&["-w", missing]), &["cannot create", missing, "No such file"]);
    let directory = lab.scratch().to_str().expect("text");
    assert_refused(&run(&["-w", directory]), &["cannot create", directory, "directory"]);
    assert_refused(&run(&["--ready-file", missing]), &["cannot create", missing]);
}

/// The program as another user, or in other surroundings: a shell line after `setup`.
fn run_in(setup: &str, arguments: &str) -> Output {
    let line = format!("{setup} exec {} {arguments}", binary().display());
    Command::new("unshare").args(["-m", "sh", "-ec", &line]).output().expect("unshare starts")
}

const NO_BTF: &str = "mount -t tmpfs none /sys/kernel/btf;";
const NO_TRACEFS: &str = "for m in /sys/kernel/debug/tracing /sys/kernel/tracing \
    /sys/kernel/debug; do while umount -l $m 2> /dev/null; do :; done; done;";
/// A network that no test uses.
const NOTHING: &str = "--dst 192.0.2.77 --duration 100ms";

#[test]
fn an_unprivileged_user_is_told_what_is_needed() {
    let program = ForAll::copy();
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program.0);
        command.args(arguments).output().expect("setpriv starts")
    };
    assert_refused(&as_nobody(&["--dst", "192.0.2.77"]), &["not permitted", "root", "CAP_BPF"]);
    // It wants to know what is missing, and gets it in full.
    let doctor = as_nobody(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(2));
    let out = text(&doctor.stdout);
    assert!(out.contains("root") && out.contains("cannot work"), "{out}");
    for harmless in [&["--help"][..], &["schema"], &["lab", "list"]] {
        assert_eq!(as_nobody(harmless).status.code(), Some(0), "{harmless:?}");
    }
}

/// A copy of the program that every user may run, since the build directory may be root's alone;
/// removed when dropped.
struct ForAll(std::path::PathBuf);

impl ForAll {
    fn copy() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let copy = std::env::temp_dir().join(format!("pkttrace-for-all-{}", std::process::id()));
        std::fs::copy(binary(), &copy).expect("a copy");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&copy, mode).expect("its mode");
        Self(copy)
    }
}

impl Drop for ForAll {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_kernel_without_type_information_is_told() {
    let words = ["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"];
    assert_refused(&run_in(NO_BTF, NOTHING), &words);
    let doctor = run_in(NO_BTF, "doctor");
    assert_eq!(doctor.status.code(), Some(2));
    let out = text(&doctor.stdout);
    assert!(out.contains("CONFIG_DEBUG_INFO_BTF") && out.contains("cannot work"), "{out}");
    assert_eq!(text(&doctor.stderr), "");
}

#[test]
fn tracefs_is_not_needed() {
    let output = run_in(NO_TRACEFS, NOTHING);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let doctor = run_in(NO_TRACEFS, "doctor -o json");
    let report: Value = serde_json::from_slice(&doctor.stdout).expect("one JSON object");
    assert_eq!(report["works"], true, "{report}");
    let facts = report["facts"].as_array().expect("facts");
    let tracefs = facts.iter().find(|f| f["what"] == "tracefs").expect("it is looked at");
    assert_eq!(tracefs["value"], "not mounted", "{report}");
    assert!(tracefs["hint"].as_str().expect("a hint").contains("not needed"), "{report}");
}

#[test]
fn a_full_disk_is_an_error_and_nothing_stays() {
    let cluster = robust_support::Cluster::up();
    let disk = cluster.scratch().join("disk");
    std::fs::create_dir(&disk).expect("a directory");
    let (file, ready) = (disk.join("out"), cluster.scratch().join("ready"));
    let setup = format!("mount -t tmpfs -o size=64k none {};", disk.display());
    let arguments = cluster.arguments(&["-o", "json"]).join(" ");
    let mut command = Command::new("unshare");
    let line = format!(
        "{setup} exec {} {arguments} -w {} --ready-file {}",
        binary().display(),
        file.display(),
        ready.display()
    );
    command.args(["-m", "sh", "-ec", &line]).stdout(Stdio::piped());
    let mut running = robust_support::Running::spawn(&mut command);
    robust_support::wait_ready(&mut running, &ready);
    cluster.flood(Flood::new(640)).join().expect("a sender");
    let (status, stderr, _) = running.wait(robust_support::PATIENCE);
    let output = Output { status, stdout: Vec::new(), stderr: stderr.into_bytes() };
    assert_refused(&output, &["cannot write", "/disk/out", "No space left"]);
}

#[test]
fn doctor_finds_this_machine_fit() {
    let output = run(&["doctor", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert_eq!(text(&output.stderr), "");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&report["schema"], &report["type"]), (&Value::from(1), &Value::from("doctor")));
    let probes = report["probes"].as_array().expect("probes");
    assert!(probes.len() > 10, "{report}");
    for probe in probes {
        let (by, why) = (&probe["attached_by"], &probe["why"]);
        assert!(by.is_string() != why.is_string(), "attached, or why not: {probe}");
    }
    let table = run(&["doctor"]);
    let table = text(&table.stdout);
    for word in
        ["kernel", "privileges", "type information", "tracefs", "net_dev_queue", "works here"]
    {
        assert!(table.contains(word), "{word:?} is not in:\n{table}");
    }
    assert!(table.lines().all(|l| l.chars().count() <= 160), "{table}");
}

/// Checks `value` against `schema`, as far as the schema language is used here.
fn check(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(path) = schema["$ref"].as_str() {
        let target = root.pointer(path.trim_start_matches('#')).ok_or(format!("no {path}"))?;
        return check(root, target, value, at);
    }
    for (word, alone) in [("oneOf", true), ("anyOf", false)] {
        let Some(choices) = schema[word].as_array() else { continue };
        let results: Vec<_> = choices.iter().map(|c| check(root, c, value, at)).collect();
        let fitting = results.iter().filter(|r| r.is_ok()).count();
        if fitting == 0 || (alone && fitting > 1) {
            return Err(format!("{at}: {fitting} of {word} fit: {results:?}"));
        }
    }
    let is_type = |name: &Value| match name.as_str().unwrap_or_default() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("type {other}"),
    };
    let fits = match &schema["type"] {
        Value::Null => true,
        Value::Array(names) => names.iter().any(is_type),
        name => is_type(name),
    };
    if !fits {
        return Err(format!("{at}: {value} is not {}", schema["type"]));
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        return Err(format!("{at}: {value} is none of {values:?}"));
    }
    if !schema["const"].is_null() && schema["const"] != *value {
        return Err(format!("{at}: {value} is not {}", schema["const"]));
    }
    if let Some(members) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            if !members.contains_key(name) {
                return Err(format!("{at}: no {name}"));
            }
        }
        let Some(properties) = schema["properties"].as_object() else { return Ok(()) };
        for (name, member) in members {
            let described = properties.get(name).ok_or(format!("{at}: {name} is not described"))?;
            check(root, described, member, &format!("{at}.{name}"))?;
        }
    }
    if !schema["items"].is_null() {
        for (n, item) in value.as_array().into_iter().flatten().enumerate() {
            check(root, &schema["items"], item, &format!("{at}[{n}]"))?;
        }
    }
    Ok(())
}

#[test]
fn what_it_prints_is_what_its_schema_says() {
    let output = run(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    let schema: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(schema["$schema"].as_str().expect("its language").contains("json-schema.org"));
    let lab = Lab::cluster();
    let netns = lab.netns("p1");
    let tracer = Tracer::start(lab.scratch(), &["--netns", &netns]);
    lab.ping("p1", "10.244.2.2");
    lab.get("p1", "10.96.45.100");
    lab.get_fails("p1", "10.244.1.3:9");
    lab.attempt("p1", "ping -n -c1 -W1 -t1 203.0.113.10");
    wait_until("journeys", robust_support::PATIENCE, || tracer.lines() > 10);
    let ended = tracer.finish();
    let mut journeys = 0;
    let mut drops = 0;
    let summary = ended.journeys(|j| {
        journeys += 1;
        drops += usize::from(!j["drop"].is_null());
        check(&schema, &schema, &j, "journey").unwrap_or_else(|e| panic!("{e} in {j}"));
        consistent(&j);
    });
    check(&schema, &schema, &summary, "summary").unwrap_or_else(|e| panic!("{e} in {summary}"));
    assert!(journeys > 10 && drops > 0, "{journeys} journeys, {drops} drops");
}

/// What the schema cannot say.
fn consistent(j: &Value) {
    let hops = j["hops"].as_array().expect("hops");
    assert!(!hops.is_empty(), "no hops: {j}");
    for (n, hop) in hops.iter().enumerate() {
        assert_eq!(hop["n"], n, "{j}");
    }
    let times: Vec<u64> = hops.iter().map(|h| h["t_ns"].as_u64().expect("a time")).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(j["complete"], j["gaps"] == Value::Array(Vec::new()), "{j}");
    assert_eq!(j["fate"] == "dropped", !j["drop"].is_null(), "{j}");
    if let Some(hop) = j["drop"]["hop"].as_u64() {
        let hop = &hops[usize::try_from(hop).expect("small")];
        assert_eq!(hop["stage"], "drop", "{j}");
    }
    for nat in j["nat"].as_array().expect("nat") {
        assert!(nat["hop"].as_u64().is_some_and(|n| (n as usize) < hops.len()), "{j}");
        assert_ne!(nat["before"], nat["after"], "{j}");
    }
}

#[test]
fn completions_are_scripts_of_their_shells() {
    for (shell, sign) in
        [("bash", "complete -F"), ("zsh", "#compdef pkttrace"), ("fish", "complete -c pkttrace")]
    {
        let output = run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = text(&output.stdout);
        assert!(script.contains(sign) && script.contains("ready-file"), "{shell}: {script}");
        if shell == "bash" && Path::new("/bin/bash").exists() {
            let mut bash = Command::new("bash");
            let status = bash.args(["-n", "-c", script]).status().expect("bash starts");
            assert!(status.success(), "bash does not take it");
        }
    }
}

#[test]
fn help_names_every_option_of_the_contract() {
    for arguments in [&["--help"][..], &["trace", "--help"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(text(&output.stderr), "");
        let help = text(&output.stdout);
        for option in [
            "--src",
            "--dst",
            "--host",
            "--sport",
            "--dport",
            "--port",
            "--proto",
            "--netns",
            "--container",
            "--pod",
            "--service",
            "--dev",
            "--explain",
            "--no-replies",
            "--dropped",
            "--output",
            "--write",
            "--count",
            "--duration",
            "--buffer",
            "--max-journeys",
            "--probes",
            "--ready-file",
            "--color",
            "--verbose",
            "--quiet",
            "--exit-code",
        ] {
            assert!(help.contains(option), "{option} is not in {arguments:?}:\n{help}");
        }
    }
    let help = run(&["--help"]);
    for command in ["lab", "doctor", "explain", "schema", "completions", "man"] {
        assert!(text(&help.stdout).contains(&format!("\n  {command} ")), "{command}");
    }
    let short = run(&["-h"]);
    assert_eq!(short.status.code(), Some(0));
    assert!(short.stdout.len() <= help.stdout.len());
}

#[test]
fn version_and_manual() {
    let version = run(&["--version"]);
    let words: Vec<&str> = text(&version.stdout).split_whitespace().collect();
    assert_eq!((words.len(), words[0]), (2, "pkttrace"));
    assert!(words[1].split('.').all(|n| n.parse::<u32>().is_ok()), "{words:?}");
    let manual = run(&["man"]);
    let page = text(&manual.stdout);
    assert!(page.contains(".TH pkttrace 1") && page.contains(".SH SYNOPSIS"), "{page}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    for command in ["schema", "man", "--help", "completions bash", "lab list", "doctor"] {
        let line = format!("{} {command} | true; echo ${{PIPESTATUS[0]}}", binary().display());
        let output = Command::new("bash").args(["-c", &line]).output().expect("bash starts");
        assert_eq!(text(&output.stdout).trim(), "0", "{command}");
        assert_eq!(text(&output.stderr), "", "{command}");
    }
}
