//! While nothing matches, packets are watched only where they begin and are dropped.

use std::cell::Cell;
use std::net::UdpSocket;
use std::time::Duration;

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
/// what a route says of the device whose address it is for, where INPUT alone tells of the route, nor
/// into which tunnel device a packet went that was not seen on its way into it.
fn steps(journey: &Journey) -> Vec<String> {
    let hops = journey.hops().iter().zip(journey.trail());
    let asked = hops.filter(|(hop, _)| hop["stage"] != "neigh");
    asked
        .map(|(hop, place)| match &place.split_once('=') {
            Some((route, _)) if hop["route"]["type"] == "local" => format!("{route}=local"),
            _ if hop["stage"] == "encap" => hop["ns"].to_string(),
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

/// Asserts of equal packets, the first of which ended the quiet time, that it says what it lacks, and
/// [`assert_known`].
fn assert_late(all: &[&Journey], fate: &str, host: &str) {
    assert!(!is_whole(all[0]), "{}", all[0]);
    assert_known(all, fate, host);
}

/// Asserts of equal packets, the last of which is whole, that each is whole or says that it is not, and
/// shows nothing that those which are whole do not. Of the end of one that is not whole nothing may be
/// known.
fn assert_known(all: &[&Journey], fate: &str, host: &str) {
    let whole = all.last().expect("at least one");
    assert!(is_whole(whole), "{whole}");
    let way = steps(whole);
    for journey in all {
        let is_known = journey.fate() == fate && journey.end() == host;
        assert!(is_known || !is_whole(journey) && journey.fate() == "in-flight", "{journey}");
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
    let answers = run.all(&icmp(0));
    let is_copy = |answer: &&&Journey| answer.json["parent"]["kind"] == "clone";
    let answers: Vec<_> = answers.iter().filter(|answer| !is_copy(answer)).copied().collect();
    // Where all is slow, everything is watched again before the answer begins.
    assert_known(&answers[1..], "delivered", "p1");
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

/// Equal datagrams from p1 to p3, each sent when the one before it has been read: the kernel takes
/// the same memory for many of them. To a port of their own: what is armed does not wait in a namespace,
/// and other labs have the same addresses.
struct Exchange {
    sender: UdpSocket,
    reader: UdpSocket,
    sent: Cell<usize>,
}

impl Exchange {
    fn of(lab: &Lab) -> Self {
        let reader = lab.inside("p3", || UdpSocket::bind((FAR, 0))).expect("a socket");
        reader.set_read_timeout(Some(Duration::from_secs(180))).expect("a time");
        let sender = lab.inside("p1", || UdpSocket::bind("0.0.0.0:0")).expect("a socket");
        Self { sender, reader, sent: Cell::new(0) }
    }

    fn port(&self) -> u16 {
        self.reader.local_addr().expect("it is bound").port()
    }

    fn run(&self, count: usize) {
        for _ in 0..count {
            let to = (FAR, self.port());
            self.sender.send_to(b"like all the others", to).expect("it leaves");
            self.reader.recv(&mut [0; 64]).expect("it arrives");
        }
        self.sent.set(self.sent.get() + count);
    }
}

#[test]
fn packets_that_nothing_tells_apart_are_told_apart_while_ends_are_not_seen() {
    let lab = Lab::cluster();
    let datagrams = Exchange::of(&lab);
    let (p3, port) = (lab.netns("p3"), datagrams.port().to_string());
    let filter = ["--proto", "udp", "--dport", &port];
    let quiet = |more: &[&str]| Tracer::staged(&lab, &[&filter[..], more].concat());
    // Met first as the sender's own, and as what the receiver gets.
    let tracers = [quiet(&["--armed"]), quiet(&[]), quiet(&["--netns", &p3])];
    tracers.iter().for_each(|tracer| tracer.await_links(|n| n <= 3));
    datagrams.run(300);
    tracers.iter().for_each(|tracer| until_whole(tracer, &udp(), || datagrams.run(1)));
    let sent = datagrams.sent.get();
    for tracer in tracers {
        tracer.await_journeys(sent, &udp());
        let run = tracer.finish();
        let all = run.all(&udp());
        assert_eq!(all.len(), sent, "{}", run.stderr);
        for journey in &all {
            let parent = &journey.json["parent"];
            assert!(parent.is_null(), "{parent}: {journey}");
            let is_known = journey.fate() == "delivered" && journey.end() == "p3";
            assert!(is_known || !is_whole(journey) && journey.fate() == "in-flight", "{journey}");
        }
    }
}

#[test]
fn an_armed_trace_waits_with_few_points_and_then_shows_all() {
    let lab = Lab::cluster();
    let datagrams = Exchange::of(&lab);
    let port = datagrams.port().to_string();
    let armed = Tracer::staged(&lab, &["--armed", "--proto", "udp", "--dport", &port]);
    armed.await_links(|n| n <= 3);
    until_whole(&armed, &udp(), || datagrams.run(1));
    let run = armed.finish();
    assert_late(&run.all(&udp()), "delivered", "p3");
}
