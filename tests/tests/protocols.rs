//! One exchange of each protocol, all of its packets.

use pkttrace_tests::{Journey, Lab, Run, Tracer, arp, fin, icmp, icmp6, packets, tcp, udp};

/// Each answer's relation to its question.
fn assert_answered(run: &Run, question: &Journey, answer: &Journey) {
    answer.assert_child_of(question, "reply");
    assert_eq!(question.json["flow"]["src"], answer.json["flow"]["dst"], "{}", run.listing());
}

#[test]
fn icmp_tells_type_id_and_sequence() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--dst", "10.244.1.3", "--proto", "icmp"]);
    lab.exec("p1", "ping -n -c3 -i0.2 -W5 10.244.1.3");
    let run = tracer.finish();
    let requests = run.all(&icmp(8));
    let replies = run.all(&icmp(0));
    assert_eq!((requests.len(), replies.len()), (3, 3), "{}", run.listing());
    for (n, (request, reply)) in requests.iter().zip(&replies).enumerate() {
        let (asked, told) = (&request.json["packet"]["icmp"], &reply.json["packet"]["icmp"]);
        assert_eq!((&asked["seq"], &asked["id"]), (&told["seq"], &told["id"]), "{request}{reply}");
        assert_eq!(asked["seq"], n + 1, "{request}");
        assert_answered(&run, request, reply);
    }
    run.assert_no_drops();
}

#[test]
fn every_segment_of_an_http_exchange_is_followed() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--dst", "10.244.1.3", "--dport", "8080"]);
    lab.get("p1", "10.244.1.3:8080/");
    // Either end may close first; the last acknowledgement settles it.
    tracer.await_journeys(1, &fin().at("p1"));
    tracer.await_journeys(1, &fin().at("p2"));
    let run = tracer.finish();
    let syn = run.one(&tcp("S").at("p1"));
    let syn_ack = run.one(&tcp("S.").at("p2"));
    assert_answered(&run, syn, syn_ack);
    let request = run.one(&tcp("P.").root().at("p1"));
    request.assert_fate("delivered", "p2");
    let response = run.first(&tcp("P.").at("p2"));
    response.assert_child_of(request, "reply").assert_fate("delivered", "p1");
    for end in ["p1", "p2"] {
        let fin = run.one(&fin().root().at(end));
        fin.assert_fate("delivered", if end == "p1" { "p2" } else { "p1" });
    }
    // A slow machine repeats what has arrived.
    for again in run.all(&packets().child("retransmit")) {
        let is_first = |j: &&Journey| j.json["id"] == again.json["parent"]["id"];
        let first = run.journeys.iter().find(is_first).expect("it repeats one of these");
        let same = |j: &Journey| (j.start().to_owned(), j.json["packet"]["tcp"]["seq"].clone());
        assert_eq!(same(first), same(again), "{}", run.listing());
    }
    run.none(&packets().fate("in-flight"));
    run.assert_no_drops();
}

#[test]
fn a_dns_exchange_is_a_question_and_its_answer() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--dst", "10.96.0.10", "--proto", "udp"]);
    lab.exec("p1", "getent ahostsv4 web.default.svc.cluster.local");
    tracer.await_journeys(1, &udp().from("10.244.2.53 53"));
    let run = tracer.finish();
    let answer = run.first(&udp().from("10.244.2.53 53"));
    // A resolver that has to wait asks once more, from another port.
    let is_asked = |j: &&&Journey| j.json["flow"]["sport"] == answer.json["flow"]["dport"];
    let questions = run.all(&udp().to("10.96.0.10 53"));
    let question = questions.iter().find(is_asked).expect("it was asked from this port");
    question.assert_fate("delivered", "dns").assert_order(&[
        "p1/eth0/xmit",
        "n1/cni0/PREROUTING=dnat",
        "n1/encap",
        "n2/decap",
        "dns/eth0/INPUT=accept",
    ]);
    answer.assert_fate("delivered", "p1").assert_order(&["n1/cni0/POSTROUTING=un-dnat"]);
    answer.assert_child_of(question, "reply");
    run.assert_no_drops();
}

#[test]
fn a_broadcast_arp_request_is_flooded_as_clones_and_answered() {
    let lab = Lab::cluster();
    let tracer =
        Tracer::start(&lab, &["--proto", "arp", "--src", "10.244.1.2", "--dst", "10.244.1.5"]);
    lab.ping("p1", "10.244.1.5");
    tracer.await_journeys(1, &arp("reply").at("p5"));
    let run = tracer.finish();
    let request = run.first(&arp("request").root().at("p1"));
    request.assert_order(&["p1/eth0/queue", "p1/eth0/xmit", "n1/veth-p1/rx"]);
    let ports = run.all(&arp("request").child("clone"));
    let asked = ports.iter().find(|j| j.end() == "p5").expect("p5 is asked");
    asked.assert_order(&["n1/veth-p5/xmit", "p5/eth0/rx"]);
    let reply = run.first(&arp("reply").at("p5"));
    reply.assert_child_of(asked, "reply");
    reply.assert_order(&["p5/eth0/xmit", "n1/veth-p5/rx", "n1/veth-p1/xmit", "p1/eth0/rx"]);
    assert_eq!(request.json["packet"]["arp"]["op"], "request", "{request}");
    assert_eq!(request.json["flow"]["src"], "10.244.1.2", "{request}");
    run.assert_no_drops();
}

#[test]
fn ipv6_is_followed_like_ipv4() {
    let lab = Lab::cluster6();
    lab.ping("p1", "fd00:10:244:2::2");
    let tracer = Tracer::start(&lab, &["--dst", "fd00:10:244:2::2", "--proto", "icmp6"]);
    lab.ping("p1", "fd00:10:244:2::2");
    let run = tracer.finish();
    let request = run.one(&icmp6(128));
    request.assert_fate("delivered", "p3").assert_order(&[
        "p1/route=eth0",
        "p1/eth0/OUTPUT=accept",
        "p1/eth0/POSTROUTING=accept",
        "p1/eth0/xmit",
        "n1/veth-p1/rx",
        "n1/cni0/rx",
        "n1/route=eth0",
        "n1/cni0>eth0/FORWARD=accept",
        "n1/eth0/POSTROUTING=accept",
        "n1/eth0/xmit",
        "fab/port-n1>port-n2/bridge",
        "n2/eth0/PREROUTING=accept",
        "n2/eth0>cni0/FORWARD=accept",
        "n2/cni0/POSTROUTING=accept",
        "n2/veth-p3/xmit",
        "p3/eth0/rx",
        "p3/eth0/INPUT=accept",
    ]);
    let reply = run.one(&icmp6(129));
    reply.assert_child_of(request, "reply").assert_fate("delivered", "p1");
    reply.assert_order(&["p3/eth0/xmit", "n2/cni0>eth0/FORWARD", "n1/veth-p1/xmit", "p1/eth0/rx"]);
    run.assert_no_drops();
}

#[test]
fn ipv6_neighbour_discovery_is_a_solicitation_and_its_advertisement() {
    let lab = Lab::cluster6();
    lab.exec("p1", "ip -6 neigh flush all");
    let tracer = Tracer::start(&lab, &["--host", "fd00:10:244:1::3", "--proto", "icmp6"]);
    lab.ping("p1", "fd00:10:244:1::3");
    tracer.await_journeys(1, &icmp6(136).at("p2"));
    let run = tracer.finish();
    run.one(&icmp6(128)).assert_fate("delivered", "p2");
    run.one(&icmp6(129)).assert_fate("delivered", "p1");
    let advert = run.first(&icmp6(136).at("p2"));
    advert.assert_order(&["p2/eth0/xmit", "n1/veth-p2/rx", "n1/veth-p1/xmit", "p1/eth0/rx"]);
    run.assert_no_drops();
}

#[test]
fn a_table_of_ipv6_without_a_route_is_not_taken_for_a_route() {
    let lab = Lab::up("bridge", &["--ipv6"]);
    let tracer = Tracer::start(&lab, &["--dst", "fd00:77::1", "--no-replies"]);
    let _ = lab.attempt("p1", "ping -n -c 1 -W 1 fd00:77::1");
    let pick = icmp6(128);
    tracer.await_journeys(1, &pick);
    let request = tracer.finish().first(&pick).clone();
    let routes = |host: &str| -> Vec<String> {
        let hops = request.hops_at(&format!("{host}/route"));
        hops.iter().map(|h| h["route"]["type"].as_str().unwrap_or_default().to_owned()).collect()
    };
    // It looks into table local first.
    assert_eq!(routes("n1"), ["unicast"], "{request}");
    assert_eq!(routes("gw"), ["none"], "{request}");
    let groups = request.hops().iter().filter_map(|h| h["neigh"]["address"].as_str());
    assert!(groups.into_iter().all(|a| !a.starts_with("ff02")), "{request}");
}

#[test]
fn tcp_over_ipv6_is_followed() {
    let lab = Lab::cluster6();
    let tracer = Tracer::start(&lab, &["--dst", "fd00:10:244:1::3", "--proto", "tcp"]);
    lab.get("p1", "[fd00:10:244:1::3]:8080/");
    tracer.await_journeys(1, &tcp("S."));
    let run = tracer.finish();
    let syn = run.one(&tcp("S"));
    syn.assert_fate("delivered", "p2").assert_order(&["p1/eth0/xmit", "n1/veth-p2/xmit"]);
    run.one(&tcp("S.")).assert_child_of(syn, "reply").assert_fate("delivered", "p1");
    run.assert_no_drops();
}

#[test]
fn the_fragments_of_a_datagram_belong_to_it() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--dst", "10.244.2.2", "--proto", "icmp"]);
    lab.exec("p1", "ping -n -c1 -W5 -s 4000 10.244.2.2");
    let run = tracer.finish();
    // The first of these is the one that was sent; each namespace that tracks connections puts it
    // together once more.
    let wholes: Vec<_> =
        run.all(&icmp(8)).into_iter().filter(|j| j.json["packet"]["fragment"].is_null()).collect();
    let whole = wholes.first().expect("it is seen in one piece");
    assert_eq!(whole.json["packet"]["len"], 4028, "{whole}");
    let is_of = |j: &&&Journey| j.json["parent"]["id"] == whole.json["id"];
    let fragments = run.all(&packets().child("fragment"));
    let pieces: Vec<_> = fragments.iter().filter(is_of).collect();
    assert_eq!(pieces.len(), 3, "{}", run.listing());
    if !run.is_crowded {
        pieces[0].assert_order(&["p1/eth0/xmit", "n1/veth-p1/rx"]);
        let arrived = wholes.iter().find(|j| j.end() == "p3").expect("it is put together in p3");
        arrived.assert_fate("delivered", "p3");
        assert_eq!(arrived.json["parent"]["kind"], "reassembly", "{arrived}");
    }
    run.assert_no_drops();
}

#[test]
fn large_segments_cross_the_overlay_in_one_piece() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--dst", "10.244.2.2", "--dport", "8080"]);
    let body = lab.get("p1", "10.244.2.2:8080/big");
    assert!(body.len() >= 200_000, "{}", body.len());
    tracer.await_journeys(1, &fin().at("p1"));
    let run = tracer.finish();
    let data: Vec<_> = run
        .all(&packets().root().at("p3"))
        .into_iter()
        .filter(|j| j.json["packet"]["tcp"]["payload_len"].as_u64() > Some(0))
        .collect();
    let sent: u64 =
        data.iter().filter_map(|j| j.json["packet"]["tcp"]["payload_len"].as_u64()).sum();
    assert!(sent >= 200_000, "{sent} bytes\n{}", run.listing());
    assert!(data.iter().any(|j| j.json["packet"]["len"].as_u64() > Some(1500)), "no GSO packet");
    // Where the tunnel ends, GRO joins segments that wait to the one before them (`gro_cells`):
    // that goes on with all.
    let is_joined = |j: &&Journey| j.end() == "n1" && !j.hops_at("n1/eth0/INPUT").is_empty();
    let (joined, whole): (Vec<_>, Vec<_>) = data.into_iter().partition(|j| is_joined(j));
    assert!(!whole.is_empty(), "none came through\n{}", run.listing());
    for journey in whole {
        journey.assert_order(&["p3/eth0/xmit", "n2/encap", "n1/decap", "p1/eth0/rx"]);
        assert_eq!(journey.fate(), "delivered", "{journey}");
    }
    for journey in joined {
        journey.assert_order(&["p3/eth0/xmit", "n2/encap", "n1/eth0/INPUT=accept"]);
        assert_eq!(journey.fate(), "delivered", "{journey}");
    }
    run.assert_no_drops();
}
