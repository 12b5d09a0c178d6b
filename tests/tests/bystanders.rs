//! What else is on the kernel changes no answer: faults and traps of every kind, diagnosed beside
//! namespaces that have nothing to do with them, and beside another lab with a fault of its own.

use std::collections::BTreeMap;
use std::process::Command;

use pkttrace_tests::{Lab, Site, binary, is_fast, side_by_side};
use serde_json::Value;

/// Of each kind the first, and one of so many after it.
const STEP: usize = 12;
/// In a fast run only the first.
const FAST_STEP: usize = 1000;

/// Faults and traps of lab `cluster`, of every kind and every part of the network.
fn sample() -> Vec<Value> {
    let mut list = Command::new(binary());
    let output = list.args(["lab", "list", "--faults", "-o", "json"]).output().expect("lab starts");
    let list: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let mut kinds: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for fault in list["faults"].as_array().expect("a list") {
        if fault["lab"] == "cluster" {
            let kind = format!("{} {}", fault["kind"], fault["scenario"]);
            kinds.entry(kind).or_default().push(fault.clone());
        }
    }
    assert!(kinds.len() > 10, "{:?}", kinds.keys());
    let step = if is_fast() { FAST_STEP } else { STEP };
    kinds.into_values().flat_map(|faults| faults.into_iter().step_by(step)).collect()
}

/// What is said of a fault, with hosts by the names that the lab gives them.
fn answer(lab: &Lab, fault: &Value) -> Value {
    let id = fault["id"].as_str().expect("an id");
    let broken = lab.run("break", &[id]);
    assert!(broken.ok, "{id}: {}", broken.stderr);
    let target = &fault["target"];
    let part = |field: &str| target[field].as_str().unwrap_or_default();
    let from = part("from").rsplit('-').next().unwrap_or_default();
    let mut diagnose = Command::new(binary());
    diagnose.args(["diagnose", "-o", "json", "--from", &lab.netns(from)]);
    diagnose.args(["--to", part("to"), "--proto", part("proto")]);
    if let Some(port) = target["sport"].as_u64() {
        diagnose.args(["--sport", &port.to_string()]);
    }
    let output = diagnose.output().expect("diagnose starts");
    assert!(lab.run("fix", &[]).ok, "{id}");
    let text = String::from_utf8_lossy(&output.stdout).replace(&format!("{}-", lab.prefix()), "");
    let found: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{id}: {e}: {text}"));
    let findings = found["findings"].as_array().expect("a list");
    let loud = findings.iter().filter(|f| f["severity"] != "info");
    let first = loud.clone().next().cloned().unwrap_or_default();
    let fix = first["fix"].as_array().into_iter().flatten().filter_map(Value::as_str);
    serde_json::json!({
        "verdict": found["verdict"],
        "loud": loud.map(|f| &f["id"]).collect::<Vec<_>>(),
        "netns": first["where"]["netns"],
        "chain": first["where"]["chain"],
        "commands": fix.filter(|line| !line.starts_with('#')).count(),
    })
}

fn answers(faults: &[Value]) -> BTreeMap<String, Value> {
    let all = side_by_side(faults, |faults| {
        let lab = Lab::cluster();
        let answer = |fault: &Value| (fault["id"].to_string(), answer(&lab, fault));
        faults.map(answer).collect::<Vec<_>>()
    });
    all.into_iter().flatten().collect()
}

/// Ten namespaces of nobody's: some with names and addresses as the lab has them.
fn strangers() -> Site {
    let site =
        Site::new(&["a", "b", "c", "down", "p2", "p9", "node", "no-address", "no-route", "box"]);
    site.exec("down", "ip link set lo down");
    site.exec("node", "ip link add cni0 type bridge && ip link set cni0 up");
    site.exec("node", "ip addr add 10.244.1.1/24 dev cni0");
    // Pods half made: without an address, and with one that leads nowhere.
    site.plug("node", "cni0", "no-address");
    site.plug("node", "cni0", "no-route");
    site.exec("no-route", "ip addr add 10.244.1.3/24 dev e0 && ip route flush table main");
    // A service in a sandbox, with the address of a pod.
    site.exec("box", "ip link add e0 type veth peer name e1 && ip link set e0 up");
    site.exec("box", "ip addr add 10.244.2.2/24 dev e0");
    site
}

#[test]
fn strangers_on_the_kernel_change_no_answer() {
    let faults = sample();
    let alone = answers(&faults);
    let strangers = strangers();
    let other = Lab::cluster();
    assert!(other.run("break", &["veth-missing"]).ok);
    let beside = answers(&faults);
    drop((strangers, other));
    let changed: Vec<_> = alone
        .iter()
        .filter(|(id, before)| beside[*id] != **before)
        .map(|(id, before)| format!("{id}: {before} became {}", beside[id]))
        .collect();
    assert!(changed.is_empty(), "{} of {}: {changed:#?}", changed.len(), alone.len());
    assert!(alone.values().any(|a| a["verdict"] == "broken"), "{alone:#?}");
    assert!(alone.values().any(|a| a["verdict"] == "healthy"), "{alone:#?}");
}
