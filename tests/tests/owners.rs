//! Filters by name, names that mean harm, and `explain`.

#[path = "real_support/cache.rs"]
mod cache;

use std::process::Command;

use cache::CacheFile;
use pkttrace_tests::{Lab, Place as _, Ran, Site, Tracer, binary, icmp, tcp, udp};
use serde_json::json;

fn pkttrace(args: &[&str]) -> (Ran, Option<i32>) {
    let output = Command::new(binary()).args(args).output().expect("pkttrace starts");
    let code = output.status.code();
    (output.into(), code)
}

#[test]
fn a_service_is_followed_by_its_name() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--service", "default/webrem", "--explain"]);
    lab.get("p1", "10.96.45.103/");
    lab.get("p1", "10.96.45.102/");
    tracer.await_journeys(1, &tcp("S."));
    let run = tracer.finish();
    let syn = run.one(&tcp("S"));
    syn.assert_nat(
        "dnat",
        "n1/PREROUTING",
        "10.244.1.2:* > 10.96.45.103:80",
        "10.244.1.2:* > 10.244.2.2:8080",
    );
    for hop in syn.hops() {
        assert!(hop["explain"].as_str().is_some_and(|s| s.ends_with('.')), "{hop}");
    }
}

#[test]
fn a_service_is_followed_by_all_its_ports_and_by_its_node_port() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--service", "kube-system/kube-dns"]);
    lab.probe("dnssvc");
    lab.exec("p1", "bash -c 'exec 3<>/dev/tcp/10.96.0.10/53'");
    tracer.await_journeys(1, &udp().to("10.96.0.10"));
    tracer.await_journeys(1, &tcp("S").to("10.96.0.10"));
    drop(tracer.finish());
    let tracer = Tracer::start(&lab, &["--service", "default/webrem"]);
    lab.get("ext", "192.168.50.12:30080");
    lab.get("p1", "10.96.45.102");
    lab.get("p1", "10.96.45.103");
    tracer.await_journeys(2, &tcp("S"));
    let run = tracer.finish();
    let asked: Vec<_> =
        run.all(&tcp("S").root()).iter().map(|j| j.json["flow"]["dst"].clone()).collect();
    assert_eq!(asked, ["192.168.50.12", "10.96.45.103"]);
    let _ = run.first(&tcp("S.").child("reply"));
}

#[test]
fn names_that_lead_nowhere_are_told_with_those_near() {
    let lab = Lab::cluster();
    let (ran, code) = pkttrace(&["--service", "default/webrum"]);
    assert_eq!(code, Some(2));
    assert!(
        ran.stderr.contains("did you mean") && ran.stderr.contains("default/webrem"),
        "{ran:?}"
    );
    drop(lab);
    for args in [["--container", "no-such-container"], ["--pod", "no/such-pod"]] {
        let (ran, code) = pkttrace(&args);
        assert_eq!((code, ran.stderr.lines().count()), (Some(2), 1), "{ran:?}");
        assert!(ran.stderr.contains(args[1]), "{ran:?}");
    }
    let (ran, code) = pkttrace(&["--pod", "web"]);
    assert!(code == Some(2) && ran.stderr.contains("NAMESPACE/NAME"), "{ran:?}");
}

#[test]
fn a_pods_name_cannot_write_to_the_terminal() {
    let site = Site::new(&["a", "b"]);
    site.wire(("a", "eth0", "198.18.9.1/24"), ("b", "eth0", "198.18.9.2/24"));
    let (name, namespace) = ("evil\u{1b}[2J\u{7}", site.netns("ns"));
    let _entry = CacheFile::new(
        &format!("net-{}-eth0", site.netns("a")),
        &json!({
            "kind": "cniCacheV1", "containerId": site.netns("a"), "ifName": "eth0",
            "networkName": "net", "netns": format!("/run/netns/{}", site.netns("a")),
            "cniArgs": [["K8S_POD_NAMESPACE", namespace], ["K8S_POD_NAME", name]],
        }),
    );
    for format in ["tree", "line", "table"] {
        let out = site.scratch().join(format);
        let ready = site.scratch().join(format!("{format}.ready"));
        let mut child = Command::new(binary())
            .args(["--pod", &format!("{namespace}/{name}"), "--proto", "icmp", "-c1", "-q"])
            .args(["--color", "never", "--explain", "-o", format, "--ready-file"])
            .arg(&ready)
            .arg("-w")
            .arg(&out)
            .spawn()
            .expect("pkttrace starts");
        site.until("a", &format!("test -e {}", ready.display()));
        site.exec("a", "ping -n -c1 -W5 198.18.9.2");
        assert!(child.wait().expect("it ends").success());
        let text = std::fs::read_to_string(&out).expect("output");
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{format}: {text:?}");
        if format == "tree" {
            assert!(text.contains(&format!("pod {namespace}/evil\\u{{1b}}[2J\\u{{7}}")), "{text}");
        }
    }
    // JSON has escapes of its own, and the name in full.
    let tracer = Tracer::start(&site, &["--src", "198.18.9.1", "--proto", "icmp"]);
    site.exec("a", "ping -n -c1 -W5 198.18.9.2");
    let run = tracer.finish();
    assert_eq!(run.one(&icmp(8)).owners()[0], format!("{namespace}/{name}"));
}

#[test]
fn words_are_explained_and_unknown_ones_suggest_others() {
    let (ran, code) = pkttrace(&["explain", "skb_drop_reason_netfilter_drop"]);
    assert!(code == Some(0) && ran.stdout.contains("NetworkPolicy"), "{ran:?}");
    let (ran, code) = pkttrace(&["explain", "postruting"]);
    assert_eq!((code, ran.stdout.as_str()), (Some(2), ""));
    assert!(ran.stderr.contains("did you mean postrouting"), "{ran:?}");
    let (ran, code) = pkttrace(&["explain", "-o", "json", "KUBE-SEP-ABC"]);
    let entry: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!((code, &entry["word"]), (Some(0), &json!("KUBE-SEP-*")));
    let (ran, _) = pkttrace(&["explain"]);
    for word in ["KUBE-SERVICES", "masquerade", "veth", "IP_RPFILTER", "left-node"] {
        assert!(ran.stdout.split_whitespace().any(|w| w == word), "{word} is not listed");
    }
}

/// A process in a network namespace and in a cgroup, as a runtime would place it.
struct Placed {
    child: std::process::Child,
    cgroup: std::path::PathBuf,
}

impl Placed {
    fn new(site: &Site, host: &str, scope: &str) -> Self {
        let root = std::path::Path::new("/sys/fs/cgroup");
        // Version 2, or one hierarchy of version 1.
        let root = match root.join("cgroup.procs").exists() {
            true => root.to_owned(),
            false => root.join("pids"),
        };
        let cgroup = root.join(site.prefix()).join(scope);
        std::fs::create_dir_all(&cgroup).expect("a cgroup");
        let child = Command::new("ip")
            .args(["netns", "exec", &site.netns(host), "sleep", "600"])
            .spawn()
            .expect("ip starts");
        let placed = Self { child, cgroup };
        let procs = placed.cgroup.join("cgroup.procs");
        std::fs::write(procs, placed.child.id().to_string()).expect("the process moves");
        placed
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for dir in self.cgroup.ancestors().take(2) {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

#[test]
fn a_container_that_no_file_tells_of_goes_by_its_id() {
    let site = Site::new(&["a", "b"]);
    site.wire(("a", "eth0", "198.18.10.1/24"), ("b", "eth0", "198.18.10.2/24"));
    let id = format!("{:0>64x}", 0xc0ff_ee00_0000_0000_u64 + u64::from(std::process::id()));
    let id = id.chars().rev().collect::<String>();
    let _placed = Placed::new(&site, "a", &format!("crio-{id}.scope"));
    // `ip netns exec` enters the namespace a moment after it has been started.
    site.until("b", &format!("ip netns pids {} | grep -q .", site.netns("a")));
    let tracer = Tracer::start(&site, &["--container", &id[..10], "--proto", "icmp"]);
    site.exec("a", "ping -n -c1 -W5 198.18.10.2");
    let run = tracer.finish();
    assert_eq!(run.one(&icmp(8)).owners()[0], &id[..12]);
}
