//! What one node sees (`--view`), and whether answers find back through a translation.

use std::collections::BTreeSet;

use pkttrace_tests::{Diagnosis, Journey, Lab, Tracer, tcp};
use serde_json::Value;

/// The namespaces of a journey's hops, without the lab's prefix.
fn places(lab: &Lab, journey: &Journey) -> BTreeSet<String> {
    let prefix = lab.netns("");
    let names = journey.hops().iter().filter_map(|hop| hop["netns"]["name"].as_str());
    names.map(|name| name.strip_prefix(&prefix).unwrap_or(name).to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_node_sees_packets_leave_and_come() {
    let lab = Lab::cluster();
    let service = "10.96.45.103";
    lab.get("p1", service);
    for (node, pod) in [("n1", "p1"), ("n2", "p3")] {
        let view = lab.netns(node);
        let tracer = Tracer::start(&lab, &["--view", &view, "--port", "80"]);
        lab.get("p1", service);
        let of_pod = set(&[node, pod]);
        let is_answer = |j: &Journey| j.json["packet"]["tcp"]["flags"] == "S.";
        tracer.await_journey("an answer", is_answer);
        let run = tracer.finish();
        for journey in &run.journeys {
            assert!(places(&lab, journey).is_subset(&of_pod), "{}", journey.line());
        }
        let answer = run.one(&tcp("S."));
        if node == "n1" {
            let syn = run.one(&tcp("S"));
            syn.assert_fate("left-node", "n1");
            assert_eq!(syn.json["flow"]["dst"], service);
            // It begins where it comes in, with the addresses that it has there.
            assert_eq!((answer.start(), answer.fate()), ("n1", "delivered"));
            assert_eq!(answer.json["flow"]["src"], "10.244.2.2");
            assert_eq!(answer.json["hops"][0]["dev"]["name"], "eth0");
            assert!(answer.json["path"].as_str().unwrap().starts_with("eth0"));
        } else {
            answer.assert_fate("left-node", "n2");
        }
    }
}

#[test]
fn an_answer_says_whether_it_was_translated_back() {
    let lab = Lab::cluster();
    let service = "10.96.45.102";
    lab.get("p1", service);
    let un_nat = |is_working: bool| -> Value {
        let tracer = Tracer::start(&lab, &["--dst", service, "--dport", "80"]);
        if is_working {
            lab.get("p1", service);
        } else {
            lab.exec_fails("p1", &format!("curl -sS -m 1 http://{service}/"));
        }
        tracer.await_journey("an answer", |j| j.json["packet"]["tcp"]["flags"] == "S.");
        let run = tracer.finish();
        let answer = run.all(&tcp("S."))[0];
        assert_eq!(run.all(&tcp("S").at("p1"))[0].json["un_nat"], Value::Null);
        answer.json["un_nat"].clone()
    };
    let good = un_nat(true);
    assert_eq!((&good["expected"]["src"], &good["seen"]), (&service.into(), &true.into()));
    assert_eq!(good["expected"]["sport"], 80);
    // Frames between ports of the bridge no longer come by conntrack: the answer is a stranger's.
    lab.exec("n1", "sysctl -qw net.bridge.bridge-nf-call-iptables=0");
    let bad = un_nat(false);
    assert_eq!((&bad["expected"]["src"], &bad["seen"]), (&service.into(), &false.into()));
}

/// Who asks is on another node: the way begins where its packets come in.
#[test]
fn a_question_from_beyond_the_view_is_walked_from_where_it_comes_in() {
    let lab = Lab::cluster();
    let (view, from) = (lab.netns("n2"), lab.netns("p1"));
    let ask = || Diagnosis::of(&["--view", &view, "--from", &from, "--to", "10.244.2.2:8080"]);
    lab.exec("n2", "ip link set veth-p3 down");
    ask().assert_first("veth-host-down", &view).run_fix();
    ask().assert_healthy();
}
