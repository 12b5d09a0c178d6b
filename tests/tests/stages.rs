//! While nothing matches, packets are watched only where they begin and end.

use std::net::UdpSocket;

use pkttrace_tests::{Journey, Lab, Pick, Tracer, icmp, udp};

const FAR: &str = "10.244.2.2";
const BEYOND: &str = "10.244.2.3";

/// Why a journey is not whole.
fn gaps(journey: &Journey) -> Vec<&str> {
    let gaps = journey.json["gaps"].as_array().expect("always there");
    gaps.iter().filter_map(|gap| gap["why"].as_str()).collect()
}

fn is_whole(journey: &Journey) -> bool {
    gaps(journey).is_empty()
}

/// Its hops, but for waits for a neighbour, which depend on how long nobody has asked. By which
/// device a hook sends a packet is not known where the packet's end alone tells of the hook, nor is
/// what a route says of the device whose address it is for, where INPUT alone tells of the route.
fn steps(journey: &Journey) -> Vec<String> {
    let hops = journey.hops().iter().zip(journey.trail());
    let asked = hops.filter(|(hop, _)| hop["stage"] != "neigh");
    asked
        .map(|(hop, place)| match &place.split_once('=') {
            Some((route, _)) if hop["route"]["type"] == "local" => format!("{route}=local"),
            _ if hop["hook"].is_null() => place,
            _ => without_exit(&place),
        })
        .collect()
}

/// `n1/cni0>eth0/FORWARD` as `n1/cni0/FORWARD`.
fn without_exit(place: &str) -> String {
    let exit = place.split_once('>').and_then(|(to, from)| Some((to, from.split_once('/')?.1)));
    exit.map_or_else(|| place.to_owned(), |(to, hook)| format!("{to}/{hook}"))
}

/// Sends datagrams from p1.
fn send(lab: &Lab, to: &str) {
    let sent = lab.inside("p1", || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        (0..8).try_for_each(|_| socket.send_to(b"x", (to, 9)).map(|_| ()))
    });
    sent.expect("datagrams leave");
}

/// Sends packets until the newest one is watched all the way.
fn until_whole(tracer: &Tracer, pick: &Pick, send: impl Fn()) {
    for _ in 0..1_000 {
        let before = tracer.so_far().all(pick).len();
        send();
        tracer.await_journeys(before + 1, pick);
        if tracer.so_far().all(pick).last().is_some_and(|newest| is_whole(newest)) {
            return;
        }
    }
    panic!("no {pick} is whole\n{}", tracer.so_far().listing());
}

/// Asserts of equal packets, the first of which came after a quiet time, that each is whole or says
/// that it is not, and shows nothing that those which are whole do not.
fn assert_late(all: &[&Journey], fate: &str, host: &str) {
    let [first, .., whole] = all else { panic!("fewer than two") };
    assert!(!is_whole(first), "{first}");
    let way = steps(whole);
    for journey in all {
        assert_eq!((journey.fate(), journey.end()), (fate, host), "{journey}");
        if is_whole(journey) {
            assert_eq!(steps(journey), way, "{journey}");
            continue;
        }
        assert!(gaps(journey).iter().all(|why| *why == "late-attach"), "{journey}");
        let mut rest = way.iter();
        for step in steps(journey) {
            assert!(rest.any(|s| *s == step), "{step} is not what\n{whole} shows:\n{journey}");
        }
    }
}

#[test]
fn the_first_packets_after_a_quiet_time_say_what_they_lack_and_then_they_are_whole() {
    let lab = Lab::cluster();
    lab.exec("n1", &format!("iptables-nft -w 60 -I FORWARD -d {BEYOND} -j DROP"));
    // Of this lab alone: others have the same addresses.
    let p1 = lab.netns("p1");
    let drops = Tracer::staged(&lab, &["--netns", &p1, "--dst", BEYOND, "--proto", "udp"]);
    let warm = Tracer::at(&lab, "p1", &["--dst", BEYOND, "--proto", "udp"]);
    let all = warm.links();
    // Last: as soon as it is ready, and for a while, everything is watched.
    let pings = Tracer::staged(&lab, &["--netns", &p1, "--dst", FAR, "--proto", "icmp"]);
    lab.ping("p1", FAR);
    pings.await_journeys(1, &icmp(0));
    let few = all / 2;
    pings.await_links(|n| n <= few);
    drops.await_links(|n| n <= few);
    assert_eq!(warm.links(), all, "--warm lets go of nothing");
    until_whole(&pings, &icmp(8), || lab.ping("p1", FAR));
    until_whole(&drops, &udp(), || send(&lab, BEYOND));
    let run = pings.finish();
    let requests = run.all(&icmp(8));
    assert!(is_whole(requests[0]), "{}", requests[0]);
    assert_eq!(steps(requests[0]), steps(requests[requests.len() - 1]));
    assert_late(&requests[1..], "delivered", "p3");
    for answer in run.all(&icmp(0)) {
        assert_eq!((answer.fate(), answer.end()), ("delivered", "p1"), "{answer}");
    }
    assert!(run.stderr.contains("--warm keeps them"), "{}", run.stderr);
    let run = drops.finish();
    let all = run.all(&udp());
    assert_late(&all, "dropped", "n1");
    for journey in &all {
        let hook = &journey.json["drop"]["hook"];
        assert!(hook == "forward" || hook.is_null() && !is_whole(journey), "{journey}");
    }
    let run = warm.finish();
    let all = run.all(&udp());
    assert!(!all.is_empty() && all.iter().all(|journey| is_whole(journey)), "{}", run.listing());
}
