//! Every fault of `pkttrace lab break` shows its symptom and is undone; every trap is healthy.

use std::time::{Duration, Instant};

use pkttrace_tests::{Lab, Ran, is_fast, side_by_side};
use serde_json::Value;

/// What these show is how it is meant to be: no repair makes it work.
const BY_DESIGN: [&str; 2] = ["docker-isolation", "macvlan-host-isolation"];
/// In a fast run, one of so many faults.
const FAST_STEP: usize = 6;

/// Devices take a moment to carry again, and a busy machine may answer late.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs a job again until it succeeds, or for too long.
fn eventually(lab: &Lab, job: &str, args: &[&str]) -> Ran {
    let deadline = Instant::now() + LIMIT;
    loop {
        let ran = lab.run(job, args);
        if ran.ok || Instant::now() > deadline {
            return ran;
        }
    }
}

/// What `lab list --faults -o json` says, hosts by their own names, whichever lab they are in.
fn faults(lab: &Lab) -> Vec<Value> {
    let ran = lab.run("list", &["--faults", "-o", "json"]);
    assert!(ran.ok, "{}", ran.stderr);
    let text = ran.stdout.replace(&format!("{}-", lab.prefix()), "");
    let list: Value = serde_json::from_str(&text).expect("one JSON object");
    assert_eq!((&list["schema"], &list["type"]), (&1.into(), &"faults".into()));
    // What is slow is the suite `slow`'s.
    let all = list["faults"].as_array().expect("a list").iter();
    all.filter(|fault| fault["lab"] == "cluster").cloned().collect()
}

fn text<'a>(fault: &'a Value, field: &str) -> &'a str {
    fault[field].as_str().expect("text")
}

fn names<'a>(fault: &'a Value, which: &str) -> Vec<&'a str> {
    let names = fault["probes"][which].as_array().expect("a list");
    names.iter().map(|name| name.as_str().expect("text")).collect()
}

/// Breaks, sees the symptom, repairs, sees that all of it works again; what is wrong with that.
fn cycle(lab: &Lab, fault: &Value) -> Result<(), String> {
    let id = text(fault, "id");
    let must = |what: &str, ran: Ran| match ran.ok {
        true => Ok(ran),
        false => Err(format!("{id}: {what}: {}{}", ran.stdout, ran.stderr)),
    };
    let made = must("break", lab.run("break", &[id]))?;
    let target = format!("--from {}", lab.netns(text(&fault["target"], "from")));
    if !made.stdout.contains(&target) {
        return Err(format!("{id}: break does not say `{target}`: {}", made.stdout));
    }
    let symptom = must("symptom", eventually(lab, "symptom", &[id]));
    must("fix", lab.run("fix", &[id]))?;
    symptom?;
    for name in names(fault, "fails").into_iter().filter(|_| !BY_DESIGN.contains(&id)) {
        must("after the repair", eventually(lab, "probe", &[name]))?;
    }
    must("after the repair", eventually(lab, "healthy", &[])).map(drop)
}

/// The configuration of every host, without what differs from one device or run to the next.
/// Empty tables stay in the kernel once something has used them.
const CONFIGURATION: &str = r"
    ip -o link | sed -E 's/^[0-9]+: //; s/@\S+//; s/link\/.*//; s/qlen [0-9]+//'
    ip -o -4 addr | awk '{print $2, $4}'
    ip -4 route show table all; ip rule; ip -4 neigh show nud permanent
    bridge -d link | grep -oE 'state [a-z]+|(hairpin|isolated) [a-z]+'
    bridge fdb | grep dst
    for i in nft legacy; do iptables-$i-save 2>/dev/null | grep -E '^-A|^:\S+ (-|DROP)'; done | sed 's/ \[.*//'
    nft list tables | grep flt; ipset list -n; tc qdisc | grep clsact; ip link | grep xdp
    sysctl -a 2>/dev/null | grep -E 'ip_forward |ip_local_port|rp_filter|arp_ignore|route_localnet|proxy_arp |bridge-nf-call'
    ethtool -k eth0 2>/dev/null | grep -E '^(tx-check|tcp-seg|generic)'
    cat /etc/resolv.conf
    true
";

fn configuration(lab: &Lab) -> Vec<(String, Vec<String>)> {
    let hosts = ["n1", "n2", "fab", "p1", "p2", "p3", "p5", "pc", "dns", "dh", "d1"];
    let of = |host: &str| {
        let output = lab.exec(host, CONFIGURATION);
        let mut lines: Vec<String> = output.lines().map(|l| l.trim().to_owned()).collect();
        lines.sort();
        (host.to_owned(), lines)
    };
    hosts.into_iter().map(of).collect()
}

/// Every fault's cycle, in labs that are afterwards as they were built.
fn all_with(iptables: &str) {
    let lab = Lab::cluster_with(iptables);
    let faults = faults(&lab);
    assert_eq!(faults.len(), 108);
    let step = if is_fast() { FAST_STEP } else { 1 };
    let faults: Vec<_> = faults.into_iter().step_by(step).collect();
    let failures = side_by_side(&faults, |faults| {
        let lab = Lab::cluster_with(iptables);
        let before = configuration(&lab);
        let failures: Vec<_> = faults.filter_map(|fault| cycle(&lab, fault).err()).collect();
        for (built, now) in before.iter().zip(configuration(&lab)) {
            assert_eq!(built, &now, "a repair left something behind; {failures:?}");
        }
        failures
    });
    let failures = failures.concat();
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        faults.len(),
        failures.join("\n")
    );
}

#[test]
fn every_fault_shows_and_heals_with_iptables_nft() {
    all_with("nft");
}

#[test]
fn every_fault_shows_and_heals_with_iptables_legacy() {
    all_with("legacy");
}

/// The way of a user who has found the cause: repairs by hand, then tidies up.
#[test]
fn a_lab_repaired_by_hand_is_fixed_all_the_same() {
    let lab = Lab::cluster();
    let repairs = [
        ("veth-host-down", "n1", "ip link set veth-p2 up"),
        ("pod-ip-missing-client", "p1", "ip addr add 10.244.1.2/24 dev eth0"),
        ("neigh-stale-permanent", "p1", "ip neigh del 10.244.1.3 dev eth0"),
        ("xdp-drop-on-veth", "p2", "ip link set dev eth0 xdpgeneric off"),
        ("tc-ingress-drop", "n1", "tc qdisc del dev veth-p2 clsact"),
        ("netpol-ipset-stale", "n1", "iptables-nft -F KUBE-ROUTER-FORWARD; ipset destroy"),
        ("route-blackhole", "n1", "ip route del blackhole 10.244.2.0/24"),
        ("policy-rule-hijack", "n1", "ip rule del pref 100; ip route flush table 100"),
        ("pod-ip-on-host-lo", "n2", "ip addr del 10.244.1.2/32 dev lo"),
        ("checksum-corrupted", "n1", "nft delete table ip flt"),
        ("nodeport-raw-firewall", "n1", "iptables-nft -t raw -F"),
        ("macvlan-host-isolation", "p5", "ip link del mv0"),
    ];
    for (id, host, repair) in repairs {
        for (job, args) in [("break", &[id][..]), ("fix", &[]), ("healthy", &[])] {
            let ran =
                if job == "healthy" { eventually(&lab, job, args) } else { lab.run(job, args) };
            assert!(ran.ok, "{id}: {job}: {}{}", ran.stdout, ran.stderr);
            if job == "break" {
                lab.exec(host, repair);
            }
        }
    }
}

#[test]
fn faults_are_made_and_undone_one_by_one() {
    let lab = Lab::cluster();
    let refused = |job: &str, args: &[&str], why: &str| {
        let ran = lab.run(job, args);
        assert_eq!((ran.code, ran.stderr.lines().count()), (Some(2), 1), "{}", ran.stderr);
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    };
    refused("break", &["vxlan-fdb-mising"], "vxlan-fdb-missing");
    refused("fix", &["veth-host-down"], "no fault is");
    assert!(lab.run("fix", &[]).ok, "nothing to do is no error");

    // Two that share n1's rules, and one beside them.
    for id in ["netpol-ingress-drop", "masquerade-missing", "veth-pod-down"] {
        assert!(lab.run("break", &[id]).ok, "{id}");
    }
    refused("break", &["masquerade-missing"], "already");
    refused("fix", &["lo-down"], "active is netpol-ingress-drop");
    assert!(lab.run("fix", &["netpol-ingress-drop"]).ok);
    assert_eq!(lab.run("probe", &["egress"]).code, Some(1), "the other fault is there still");
    assert_eq!(lab.run("symptom", &["netpol-ingress-drop"]).code, Some(0), "p2 is down still");
    assert_eq!(lab.run("symptom", &["lo-down"]).code, Some(1), "it was never made");
    let ran = lab.run("fix", &[]);
    assert!(ran.ok && ran.stdout.contains("veth-pod-down is undone"), "{}", ran.stdout);
    let ran = eventually(&lab, "healthy", &[]);
    assert!(ran.ok, "{}", ran.stdout);
}

#[test]
fn faults_belong_to_their_lab() {
    let lab = Lab::up("pair", &[]);
    let ran = lab.run("break", &["veth-host-down"]);
    assert_eq!((ran.code, ran.stderr.lines().count()), (Some(2), 1), "{}", ran.stderr);
    assert!(ran.stderr.contains("lab `cluster`"), "{}", ran.stderr);
}

#[test]
fn a_broken_lab_goes_down() {
    let lab = Lab::cluster();
    for id in ["veth-missing", "app-backlog-full", "route-blackhole"] {
        assert!(lab.run("break", &[id]).ok, "{id}");
    }
    // What cannot be made is not active either.
    let ran = lab.run("break", &["tc-egress-drop"]);
    assert_eq!((ran.code, ran.stderr.contains("veth-p2")), (Some(2), true), "{}", ran.stderr);
    let ran = lab.run("fix", &["tc-egress-drop"]);
    assert!(ran.stderr.contains("is not active"), "{}", ran.stderr);
    let start = Instant::now();
    let ran = lab.run("down", &[]);
    assert!(ran.ok && start.elapsed() < 4 * LIMIT, "{}", ran.stderr);
    assert!(!std::path::Path::new(&format!("/run/netns/{}", lab.netns("n1"))).exists());
}
