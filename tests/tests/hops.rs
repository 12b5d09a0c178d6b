//! What hops say beside the place: conntrack's entry, forwarding databases, neighbours.

use pkttrace_tests::{Lab, Tracer, icmp, udp};

/// Link-layer address of a device.
fn mac(lab: &Lab, host: &str, dev: &str) -> String {
    lab.exec(host, &format!("cat /sys/class/net/{dev}/address")).trim().to_owned()
}

#[test]
fn conntracks_entry_is_told_with_zone_mark_and_status() {
    let lab = Lab::cluster();
    lab.exec(
        "n1",
        "iptables -w -t raw -I PREROUTING -p udp -j CT --zone 7 && \
         iptables -w -t mangle -I PREROUTING -p udp -j CONNMARK --set-mark 0x2a",
    );
    let tracer = Tracer::start(&lab, &["--dst", "10.96.0.10", "--dport", "53"]);
    lab.probe("dnssvc");
    tracer.await_journeys(2, &udp());
    let run = tracer.finish();
    let question = run.first(&udp().at("p1"));
    let hop = question.hops_at("n1/cni0/PREROUTING")[0];
    let entry = &hop["conntrack"];
    assert_eq!(hop["ct"], "new", "{question}");
    assert_eq!((&entry["zone"], &entry["mark"]), (&7.into(), &42.into()), "{question}");
    let has = |entry: &serde_json::Value, status: &str| {
        entry["status"].as_array().is_some_and(|all| all.iter().any(|s| s == status))
    };
    assert!(has(entry, "dnat") && !has(entry, "confirmed"), "{question}");
    let answer = run.first(&udp().child("reply"));
    let hop = answer.hops_at("n1/flannel.1/PREROUTING")[0];
    assert_eq!((&hop["ct"], &hop["conntrack"]["zone"]), (&"established reply".into(), &7.into()));
    assert!(has(&hop["conntrack"], "confirmed") && has(&hop["conntrack"], "dnat"), "{answer}");
    assert!(has(&hop["conntrack"], "seen-reply"), "{answer}");
    // Where nothing tracks, nothing is told.
    assert!(question.hops_at("p1/eth0/OUTPUT")[0]["conntrack"].is_null(), "{question}");
    let listed = lab.exec("n1", "conntrack -L -p udp --orig-dst 10.96.0.10 2>/dev/null");
    assert!(listed.contains("mark=42") && listed.contains("zone=7"), "{listed}");
}

#[test]
fn an_answer_that_conntrack_finds_invalid_is_told() {
    let lab = Lab::cluster();
    lab.ping("p1", "10.244.1.3");
    // The answer comes in another zone than the question.
    lab.exec("n1", "iptables -w -t raw -I PREROUTING -p icmp -s 10.244.1.2 -j CT --zone 9");
    let tracer = Tracer::start(&lab, &["--dst", "10.244.1.3", "--proto", "icmp"]);
    let _ = lab.attempt("p1", "ping -n -c1 -W1 10.244.1.3");
    tracer.await_journeys(1, &icmp(0));
    let run = tracer.finish();
    assert_eq!(run.first(&icmp(8)).hops_at("n1/cni0/PREROUTING")[0]["ct"], "new");
    assert_eq!(run.first(&icmp(0)).hops_at("n1/cni0/PREROUTING")[0]["ct"], "invalid");
}

#[test]
fn a_bridge_hop_names_the_entry_that_led_to_the_port() {
    let lab = Lab::cluster();
    lab.ping("p1", "10.244.1.3");
    let tracer = Tracer::start(&lab, &["--dst", "10.244.1.3", "--proto", "icmp"]);
    lab.ping("p1", "10.244.1.3");
    tracer.await_journeys(1, &icmp(8));
    let run = tracer.finish();
    let request = run.first(&icmp(8));
    let hop = request.hops_at("n1/veth-p1>veth-p2/bridge")[0];
    let to = mac(&lab, "p2", "eth0");
    let fdb = serde_json::json!({
        "mac": to, "decision": "unicast", "port": "veth-p2", "remote": null, "entry": "learned",
    });
    assert_eq!(hop["fdb"], fdb, "{request}");
    let listed = lab.exec("n1", "bridge fdb show br cni0");
    assert!(listed.contains(&format!("{to} dev veth-p2 master cni0")), "{listed}");
    let frame = serde_json::json!({ "src": mac(&lab, "p1", "eth0"), "dst": to });
    assert_eq!(request.hops_at("n1/veth-p1/rx")[0]["frame"], frame, "{request}");
}

#[test]
fn a_frame_to_an_address_that_the_bridge_does_not_know_is_flooded() {
    let lab = Lab::cluster();
    let nobody = "02:00:5e:00:53:99";
    lab.exec("p1", &format!("ip neigh replace 10.244.1.3 lladdr {nobody} dev eth0 nud permanent"));
    let tracer = Tracer::start(&lab, &["--dst", "10.244.1.3", "--proto", "icmp"]);
    lab.ping_fails("p1", "10.244.1.3");
    tracer.await_journey("a flooded frame", |journey| {
        journey.hops().iter().any(|hop| {
            hop["stage"] == "bridge"
                && hop["fdb"]["decision"] == "unknown"
                && hop["fdb"]["mac"] == nobody
        })
    });
    drop(tracer.finish());
}

#[test]
fn a_tunnel_names_the_entry_of_the_remote_or_that_there_is_none() {
    let lab = Lab::cluster();
    lab.ping("p1", "10.244.2.2");
    let far = mac(&lab, "n2", "flannel.1");
    let options = ["--dst", "10.244.2.2", "--proto", "icmp"];
    let tracer = Tracer::start(&lab, &options);
    lab.ping("p1", "10.244.2.2");
    tracer.await_journeys(1, &icmp(8));
    let run = tracer.finish();
    let request = run.first(&icmp(8));
    let fdb = &request.hops_at("n1/flannel.1/encap")[0]["fdb"];
    assert_eq!((&fdb["decision"], &fdb["remote"]), (&"remote".into(), &"192.168.50.12".into()));
    assert_eq!((&fdb["mac"], &fdb["entry"]), (&far.as_str().into(), &"permanent".into()));

    lab.exec("n1", &format!("bridge fdb del {far} dev flannel.1"));
    let tracer = Tracer::start(&lab, &options);
    lab.ping_fails("p1", "10.244.2.2");
    tracer.await_journeys(1, &icmp(8).fate("dropped"));
    let run = tracer.finish();
    let request = run.first(&icmp(8));
    request.assert_drop("NO_TX_TARGET", "vxlan_xmit", "n1/flannel.1");
    let fdb = &request.hops_at("n1/drop")[0]["fdb"];
    assert_eq!(
        (&fdb["decision"], &fdb["mac"]),
        (&"none".into(), &far.as_str().into()),
        "{request}"
    );
}

#[test]
fn a_neighbour_answers_or_is_silent_at_its_hop() {
    let lab = Lab::cluster();
    lab.exec("p1", "ip neigh flush all");
    let tracer = Tracer::start(&lab, &["--src", "10.244.1.2", "--proto", "icmp"]);
    lab.ping("p1", "10.244.1.3");
    // The kernel leaves out a program that it interrupted itself: of one among many drops on a busy
    // node the end may not be seen.
    let (asked, dropped) = (icmp(8).to("10.244.1.99"), icmp(8).to("10.244.1.99").fate("dropped"));
    let is_told = (1..10).any(|n| {
        lab.ping_fails("p1", "10.244.1.99");
        tracer.await_journeys(n, &asked);
        !tracer.so_far().all(&dropped).is_empty()
    });
    assert!(is_told, "{}", tracer.so_far().listing());
    let run = tracer.finish();
    let answered = run.first(&icmp(8).to("10.244.1.3"));
    let neigh = &answered.hops_at("p1/eth0/neigh")[0]["neigh"];
    assert_eq!((&neigh["address"], &neigh["outcome"]), (&"10.244.1.3".into(), &"answered".into()));
    assert_eq!(neigh["mac"].as_str(), Some(mac(&lab, "p2", "eth0").as_str()), "{answered}");
    let silent = run.first(&dropped);
    let neigh = &silent.hops_at("p1/eth0/neigh")[0]["neigh"];
    assert_eq!((&neigh["outcome"], &neigh["mac"]), (&"silent".into(), &serde_json::Value::Null));
    assert!(neigh["waited_ns"].as_u64().is_some_and(|ns| ns > 1_000_000_000), "{silent}");
}
