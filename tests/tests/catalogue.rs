//! The whole catalogue of faults and traps, diagnosed: each cause named at its place, each printed
//! fix run as it stands, and nothing said about what only looks broken.
//!
//! `PKTTRACE_OUT` names a directory that is given the results, `catalogue-COLUMN.json` each: what
//! `docs/diagnosis.md` is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use pkttrace::diagnose::{remedy, rules};
use pkttrace_tests::{Lab, binary, is_fast, side_by_side};
use serde_json::Value;

/// What the node cannot know, so that the fix is advice: id and what is missing.
const ADVICE: &[(&str, &str)] = &[
    ("app-backlog-full", "what keeps the application from accepting"),
    ("app-hung", "what keeps the application busy"),
    ("app-listens-localhost", "how the application is configured"),
    ("app-not-listening", "which application belongs there"),
    ("dns-no-endpoints", "which pods should serve DNS"),
    ("dns-nodelocal-missing", "how the cache is started"),
    ("dns-rcvbuf-full", "what keeps the name server busy"),
    ("dns-server-down", "how the name server is started"),
    ("docker-isolation", "networks are apart on purpose"),
    ("docker-nat-flushed", "Docker writes its rules when it starts"),
    ("docker-publish-loopback", "whether the port was meant for this node alone"),
    ("egress-upstream-drop", "somebody else's firewall"),
    ("hostport-stale-pod", "which pod should be there now"),
    ("kube-proxy-rules-missing", "the Services: kube-proxy writes them"),
    ("macvlan-host-isolation", "it is how macvlan works"),
    ("netpol-ipset-stale", "which pods the policy selects"),
    ("nodeport-rules-missing", "the Service: kube-proxy writes it"),
    ("pod-ip-missing-client", "the address that the pod was given"),
    ("svc-endpoint-stale-ip", "which pods serve it now"),
    ("svc-endpoint-stale-ip-remote", "which pods serve it now"),
    ("svc-no-endpoints", "which pods should serve it"),
    ("svc-one-endpoint-dead", "which pods serve it now"),
    ("svc-wrong-targetport", "the port that was meant"),
    ("veth-missing", "the plugin makes the pair when the pod is made anew"),
];

/// Two faults on one way: what is healed first must not hide the other for good.
const PAIRS: &[(&str, &str)] = &[
    ("ip-forward-disabled", "veth-host-down"),
    ("ip-forward-disabled", "vxlan-fdb-missing"),
    ("ip-forward-disabled", "route-blackhole"),
    ("route-blackhole", "vxlan-link-down-remote"),
    ("vxlan-fdb-missing", "forward-policy-drop-remote"),
    ("vxlan-neigh-missing", "route-return-missing"),
    ("vxlan-port-mismatch", "route-unreachable"),
    ("forward-policy-drop", "vxlan-mac-changed"),
    ("underlay-vxlan-input-drop", "ip-forward-disabled"),
    ("bridge-down", "ip-forward-disabled"),
    ("pod-arp-ignore", "bridge-port-isolated"),
    ("bridge-port-blocking", "neigh-stale-permanent"),
];

/// In a fast run, one of so many.
const FAST_STEP: usize = 9;

/// What a healed path may take to work again: devices come up, neighbours are asked anew. Where
/// only part of the fix is commands it stays broken, and waiting longer shows nothing.
fn heals(is_advice: bool) -> Duration {
    let is_slow = std::env::var_os("PKTTRACE_TEST_PATIENCE").is_some();
    Duration::from_secs(if is_slow || !is_advice { 60 } else { 6 })
}

/// A fault of the list.
struct Fault<'a>(&'a Value);

impl<'a> Fault<'a> {
    fn text(&self, field: &str) -> &'a str {
        self.0[field].as_str().unwrap_or_default()
    }

    fn id(&self) -> &'a str {
        self.text("id")
    }

    fn is_trap(&self) -> bool {
        self.text("kind") == "trap"
    }

    /// Fault or trap, and the part of the network that it is in.
    fn kind(&self) -> (&'a str, &'a str) {
        (self.text("kind"), self.text("scenario"))
    }

    /// Diagnoses what the fault is about.
    fn diagnose(&self, lab: &Lab, view: Option<&str>) -> Value {
        let target = &self.0["target"];
        let part = |field: &str| target[field].as_str().unwrap_or_default().to_owned();
        let sport = target["sport"].as_u64().map(|p| p.to_string());
        let from = part("from");
        let from = lab.netns(&from);
        let mut diagnose = Command::new(binary());
        diagnose.args(["diagnose", "-o", "json", "--from", &from]);
        diagnose.args(["--to", &part("to"), "--proto", &part("proto")]);
        sport.iter().for_each(|port| _ = diagnose.args(["--sport", port]));
        view.iter().for_each(|host| _ = diagnose.args(["--view", &lab.netns(host)]));
        let output = diagnose.output().expect("diagnose starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{}: {e}: {stderr}", self.id()))
    }

    /// Whether a finding names it: by its own id, or by that of the rule that covers it.
    fn is_named_by(&self, finding: &Value) -> bool {
        let id = finding["id"].as_str().unwrap_or_default();
        id == self.id()
            || rules::find(self.id()).is_some_and(|rule| rule.id == id)
            || rules::find(id).is_some_and(|rule| rule.covers.contains(&self.id()))
    }

    /// Whether a finding is where the fault was made.
    fn is_at(&self, lab: &Lab, finding: &Value) -> bool {
        let (place, seen) = (&self.0["where"], &finding["where"]);
        let host = place["host"].as_str().unwrap_or_default();
        let is_host = seen["netns"] == lab.netns(host).as_str() || seen["netns"] == host;
        is_host && (place["dev"].is_null() || seen["dev"].is_null() || place["dev"] == seen["dev"])
    }
}

fn list(lab: &Lab) -> Value {
    let ran = lab.run("list", &["--faults", "-o", "json"]);
    // Hosts by their own names, whichever lab they will be looked for in.
    let text = ran.stdout.replace(&format!("{}-", lab.prefix()), "");
    serde_json::from_str(&text).expect("one JSON object")
}

fn all(list: &Value) -> Vec<Fault<'_>> {
    let all = list["faults"].as_array().expect("a list").iter();
    // What is slow is the suite `slow`'s.
    all.filter(|fault| fault["lab"] == "cluster").map(Fault).collect()
}

fn chosen(list: &Value) -> Vec<Fault<'_>> {
    all(list).into_iter().step_by(if is_fast() { FAST_STEP } else { 1 }).collect()
}

fn loud(found: &Value) -> Vec<String> {
    let findings = found["findings"].as_array().into_iter().flatten();
    findings
        .filter(|f| f["severity"] != "info")
        .map(|f| f["id"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// What a diagnosis of one fault was worth.
#[derive(Default)]
struct Row {
    /// In a word or two, the same in every run.
    result: String,
    wrong: Vec<String>,
}

/// What came of it, and by which id where that is a more general one.
fn result(fault: &Fault<'_>, found: &str, what: &str) -> String {
    if found == fault.id() { what.to_owned() } else { format!("{what}, as {found}") }
}

/// Breaks the lab, diagnoses, heals by what is printed, mends.
fn row(backend: &str, fault: &Fault<'_>) -> Row {
    let id = fault.id();
    // A lab of its own: what a printed fix adds stays, and could heal the next fault too.
    let lab = &Lab::cluster_with(backend);
    let broken = lab.run("break", &[id]);
    assert!(broken.ok, "{id}: {}", broken.stderr);
    let found = fault.diagnose(lab, None);
    let first = &found["findings"][0];
    let mut row = Row::default();
    if fault.is_trap() {
        "quiet".clone_into(&mut row.result);
        if !loud(&found).is_empty() {
            row.wrong.push(format!("{id} is no fault: {:?}", loud(&found)));
        }
    } else if !fault.is_named_by(first) {
        row.wrong.push(format!("{id}: found {:?}", loud(&found)));
    } else {
        if !fault.is_at(lab, first) {
            row.wrong.push(format!("{id}: at {}", first["where"]));
        }
        row.wrong.extend(unproved(id, first));
        let healed = heal(lab, fault, first);
        let id = first["id"].as_str().unwrap_or_default();
        row.result = result(fault, id, healed.as_deref().unwrap_or("still broken"));
        row.wrong.extend(healed.err());
    }
    row
}

/// What is printed to be run has to be the proved remedies, for a shell, and nothing else.
fn unproved(id: &str, finding: &Value) -> Option<String> {
    let list = |key: &str| finding[key].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let said: Vec<String> =
        list("fix").iter().map(text).filter(|line| !line.starts_with('#')).collect();
    let proved = list("remedies").into_iter().filter(|r| r["proved"] == true);
    let words = |remedy: Value| {
        let argv = remedy["argv"].as_array().cloned().unwrap_or_default();
        argv.iter().map(|word| remedy::quote(&text(word))).collect::<Vec<_>>().join(" ")
    };
    let mut proved: Vec<String> = proved.map(words).collect();
    proved.dedup();
    (said != proved).then(|| format!("{id}: {said:?} is not {proved:?}"))
}

/// Runs the fix of a finding with a shell, as people do.
fn heal(lab: &Lab, fault: &Fault<'_>, finding: &Value) -> Result<&'static str, String> {
    let id = fault.id();
    let lines = finding["fix"].as_array().ok_or(format!("{id}: no fix"))?.iter();
    let script: Vec<&str> = lines.filter_map(Value::as_str).collect();
    if script.is_empty() {
        return Err(format!("{id}: no fix"));
    }
    let ran = Command::new("bash").args(["-c", &script.join("\n")]).output();
    let stderr = String::from_utf8_lossy(&ran.expect("bash starts").stderr).into_owned();
    let is_advice = ADVICE.iter().any(|(known, _)| *known == id);
    let until = Instant::now() + heals(is_advice);
    // The symptom is gone when `lab symptom` exits with 1.
    while lab.run("symptom", &[id]).code != Some(1) {
        if Instant::now() > until {
            return match is_advice && script.iter().any(|line| line.starts_with('#')) {
                true => Ok("advice"),
                false => Err(format!("{id}: still broken after {script:?}: {stderr}")),
            };
        }
        // Advice heals nothing by itself, so there is nothing to wait for.
        if script.iter().all(|line| line.starts_with('#')) {
            return match is_advice {
                true => Ok("advice"),
                false => Err(format!("{id}: only advice: {script:?}")),
            };
        }
    }
    Ok("healed")
}

fn rows<'a>(backend: &str, faults: &[Fault<'a>]) -> BTreeMap<&'a str, Row> {
    let rows = side_by_side(faults, |faults| -> Vec<_> {
        faults.map(|fault| (fault.id(), row(backend, fault))).collect()
    });
    rows.into_iter().flatten().collect()
}

/// Asserts that nothing is wrong, and leaves the results for the table.
fn settle(column: &str, rows: &BTreeMap<&str, Row>) {
    let wrong: Vec<&String> = rows.values().flat_map(|r| &r.wrong).collect();
    assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), rows.len());
    let Some(out) = std::env::var_os("PKTTRACE_OUT").filter(|_| !is_fast()) else { return };
    let results: BTreeMap<_, _> = rows.iter().map(|(id, row)| (id, &row.result)).collect();
    let path = Path::new(&out).join(format!("catalogue-{column}.json"));
    let text = serde_json::to_string_pretty(&results).expect("JSON");
    std::fs::write(path, text).expect("PKTTRACE_OUT is a directory");
}

fn whole(backend: &str) {
    let lab = Lab::cluster_with(backend);
    let faults = list(&lab);
    settle(backend, &rows(backend, &chosen(&faults)));
}

/// Of every kind the first and each sixth one after it.
fn sixth(list: &Value) -> Vec<Fault<'_>> {
    let mut kinds: BTreeMap<_, Vec<Fault<'_>>> = BTreeMap::new();
    for fault in all(list) {
        kinds.entry(fault.kind()).or_default().push(fault);
    }
    kinds.into_values().flat_map(|faults| faults.into_iter().step_by(6)).collect()
}

/// `PKTTRACE_TEST_SHARE=I/N`: which one of how many shares of the sixth, from 0. Kernels in
/// emulation take one each; who runs the whole beside it takes none.
fn share() -> Option<(usize, usize)> {
    let text = std::env::var("PKTTRACE_TEST_SHARE").ok()?;
    let share = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    Some(share.expect("PKTTRACE_TEST_SHARE is I/N"))
}

/// For other kernels; beside the whole it only says what it takes.
#[test]
fn a_sixth_of_the_catalogue_is_named_and_healed() {
    let lab = Lab::cluster();
    let list = list(&lab);
    let sixth = sixth(&list);
    let kinds = |faults: &[Fault<'_>]| -> BTreeSet<String> {
        faults.iter().map(|f| format!("{:?}", f.kind())).collect()
    };
    let (all, count) = (all(&list), all(&list).len());
    assert_eq!(kinds(&sixth), kinds(&all));
    assert!((count / 6..count / 3).contains(&sixth.len()), "{} of {count}", sixth.len());
    if let Some((first, step)) = share() {
        let mine: Vec<_> = sixth.into_iter().skip(first).step_by(step).collect();
        assert!(!mine.is_empty());
        settle("sixth", &rows("nft", &mine));
    }
}

#[test]
fn every_fault_is_named_and_healed_with_iptables_nft() {
    whole("nft");
}

#[test]
fn every_fault_is_named_and_healed_with_iptables_legacy() {
    whole("legacy");
}

/// The node itself, and its pods.
const ON_N1: &[&str] = &["n1", "p1", "p2", "p5", "pc"];

/// What says that the cause is not on this node.
const BEYOND: &[&str] = &["no-reply-beyond-node", "refused-beyond-node"];

/// Whether one node's view has the cause: its own named, others as lying beyond it, traps as none.
fn seen_by_n1<'a>(lab: &Lab, fault: &Fault<'a>) -> (&'a str, Row) {
    assert!(lab.run("break", &[fault.id()]).ok, "{}", fault.id());
    let found = fault.diagnose(lab, Some("n1"));
    let (first, host) = (&found["findings"][0], fault.0["where"]["host"].as_str());
    let id = first["id"].as_str().unwrap_or("nothing");
    let is_ours = ON_N1.contains(&host.unwrap_or_default());
    let is_right = match (fault.is_trap(), is_ours) {
        (true, _) => loud(&found).is_empty(),
        (false, true) => fault.is_named_by(first),
        (false, false) => fault.is_named_by(first) || BEYOND.contains(&id),
    };
    let wrong = (!is_right).then(|| format!("{}: {:?} in {found:#}", fault.id(), loud(&found)));
    let result = match (fault.is_trap(), BEYOND.contains(&id)) {
        (true, _) => "quiet".to_owned(),
        (false, true) => "beyond".to_owned(),
        (false, false) => result(fault, id, "named"),
    };
    assert!(lab.run("fix", &[]).ok, "{}", fault.id());
    (fault.id(), Row { result, wrong: wrong.into_iter().collect() })
}

/// One node's view: causes on it are named, others as lying beyond it; traps stay traps.
#[test]
fn one_node_names_its_own_faults_and_says_when_they_are_beyond() {
    let lab = Lab::cluster();
    let list = list(&lab);
    // A node sends from itself and its pods.
    let sends =
        |fault: &Fault<'_>| ON_N1.contains(&fault.0["target"]["from"].as_str().unwrap_or_default());
    let faults: Vec<_> = chosen(&list).into_iter().filter(sends).collect();
    let rows = side_by_side(&faults, |faults| -> Vec<_> {
        let lab = Lab::cluster();
        faults.map(|fault| seen_by_n1(&lab, fault)).collect()
    });
    settle("n1", &rows.into_iter().flatten().collect());
}

#[test]
fn of_two_faults_both_come_to_light() {
    let lab = Lab::cluster();
    let faults = list(&lab);
    let all = all(&faults);
    let find = |id: &str| all.iter().find(|f| f.id() == id).unwrap_or_else(|| panic!("{id}"));
    let mut wrong = Vec::new();
    let named = |found: &Value, fault: &Fault<'_>| {
        let mut findings = found["findings"].as_array().into_iter().flatten();
        findings.any(|f| fault.is_named_by(f))
    };
    for (a, b) in PAIRS.iter().step_by(if is_fast() { 4 } else { 1 }) {
        let (one, two) = (find(a), find(b));
        let is_made = lab.run("break", &[a]).ok && lab.run("break", &[b]).ok;
        assert!(is_made, "{a} and {b}");
        let found = one.diagnose(&lab, None);
        let (sees_one, mut sees_two) = (named(&found, one), named(&found, two));
        if sees_one && !sees_two {
            assert!(lab.run("fix", &[a]).ok, "{a}");
            sees_two = named(&two.diagnose(&lab, None), two);
        }
        if !sees_one && !sees_two {
            wrong.push(format!("{a} and {b}: neither in {:?}", loud(&found)));
        } else if !sees_two {
            wrong.push(format!("{b} is hidden by {a}"));
        } else if !sees_one {
            assert!(lab.run("fix", &[b]).ok, "{b}");
            if !named(&one.diagnose(&lab, None), one) {
                wrong.push(format!("{a} is hidden by {b}"));
            }
        }
        assert!(lab.run("fix", &[]).ok, "{a} and {b}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Nothing is wrong with a healthy node, whether it is probed or only looked at.
#[test]
fn a_node_that_is_well_is_not_accused() {
    let lab = Lab::cluster();
    let mut check = Command::new(binary());
    check.args(["diagnose", "-o", "json", "--duration", "300ms", "--view", &lab.netns("n1")]);
    let output = check.output().expect("diagnose starts");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(loud(&found), [""; 0], "{found:#}");
    let is_told = |line: &Value| line.as_str().is_some_and(|l| l.starts_with("the ways of 4 pods"));
    assert!(found["checked"].as_array().expect("a list").iter().any(is_told), "{found:#}");
    // And what is wrong is seen without a probe.
    assert!(lab.run("break", &["veth-host-down"]).ok);
    let output = check.output().expect("diagnose starts");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(loud(&found).contains(&"veth-host-down".to_owned()), "{found:#}");
}
