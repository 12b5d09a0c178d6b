//! While nothing matches packets are watched only where they begin and end: what is told of one
//! that comes then is part of what all probe points tell, says that it is not whole, and claims
//! nothing that they refute.

use pkttrace::{
    event::Event,
    journey::{Builder, Fate, GapCause, Hop, Journey, Options},
};

use super::{
    scenarios,
    support::{self, network},
};

/// What of a scenario is seen then.
fn thin(text: &str) -> String {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["at", _, _, probe, rest @ ..] = &words[..] else { return Some(line.to_owned()) };
        match *probe {
            "xmit" | "fib" | "neigh" | "icmp-send" | "tcp-socket" | "copy" | "nf-last" => None,
            "nf" | "nf-first" if !rest.contains(&"OUTPUT") => None,
            "nf" => Some(line.replacen(" nf ", " nf-first ", 1)),
            _ => Some(line.to_owned()),
        }
    };
    text.lines().filter_map(line).map(|line| line + "\n").collect()
}

fn build(text: &str, is_thin: bool) -> Vec<Journey> {
    let (records, kernel) = support::records(text);
    let mut builder = Builder::new(Options::default());
    if is_thin {
        builder.watch_thins(0);
    }
    for record in &records {
        builder.push(Event::decode(record).expect("a record"));
    }
    builder.flush(&network::cluster(), &kernel)
}

/// What may be compared of a hop.
fn key(hop: &Hop) -> String {
    let dev = hop.dev.as_ref().map(|dev| dev.ifindex);
    format!("{:?} {} {dev:?} {:?}", hop.stage, hop.netns, hop.hook)
}

/// The hook of a drop may be unknown.
fn is_part(hop: &Hop, whole: &[Hop]) -> bool {
    whole.iter().any(|w| key(hop) == key(w) || hop.hook.is_none() && key(hop) == key(&unhooked(w)))
}

fn unhooked(hop: &Hop) -> Hop {
    let mut hop = hop.clone();
    hop.hook = None;
    hop
}

#[test]
fn nothing_is_told_that_all_points_refute() {
    let mut compared = 0;
    for file in scenarios::ALL {
        let text = support::scenario(file);
        let whole = build(&text, false);
        for journey in build(&thin(&text), true) {
            let why = format!("{file} journey {}\n{journey:#?}", journey.id);
            let Some(full) = whole.iter().find(|j| j.id == journey.id) else { continue };
            assert!(journey.gaps.iter().any(|gap| gap.why == GapCause::LateAttach), "{why}");
            for hop in &journey.hops {
                assert!(is_part(hop, &full.hops), "{} is made up: {why}", key(hop));
                let verdict = full.hops.iter().find(|f| key(f) == key(hop)).map(|f| f.verdict);
                let agrees = hop.verdict.is_none() || verdict == Some(hop.verdict);
                assert!(agrees, "the verdict of {}: {why}", key(hop));
            }
            // Where it went is not always seen; that it is under way or freed is then all there is.
            let is_weaker = matches!(journey.fate, Fate::InFlight | Fate::Consumed);
            assert!(journey.fate == full.fate || is_weaker, "the fate: {why}");
            let hook = |j: &Journey| j.dropped.as_ref().map(|d| d.hook);
            let agrees = hook(&journey).flatten().is_none() || hook(&journey) == hook(full);
            assert!(agrees, "the hook of the drop: {why}");
            let kinds = |j: &Journey| j.nat.iter().map(|n| (n.kind, n.after)).collect::<Vec<_>>();
            let agrees = kinds(&journey).iter().all(|nat| kinds(full).contains(nat));
            assert!(agrees, "the translations: {why}");
            compared += 1;
        }
    }
    assert!(compared > 50, "only {compared} journeys");
}

#[test]
fn a_journey_says_where_points_were_missing() {
    let text = "packet a = udp 10.244.1.2:1 > 10.244.1.3:2 data=5 ip_id=1\n\
                at 10 1 queue p1/eth0 a\nat 20 1 rx n1/veth-p1 a\nat 40 1 rx n1/cni0 a\n\
                at 50 1 kfree n1/cni0 reason=IP_INHDR fn=ip_forward\n";
    let (records, kernel) = support::records(text);
    let mut builder = Builder::new(Options::default());
    builder.watch_thins(5_000);
    builder.watch_is_whole(30_000);
    for record in &records {
        builder.push(Event::decode(record).expect("a record"));
    }
    let journeys = builder.take_finished(60_000, &network::cluster(), &kernel);
    let gaps: Vec<_> = journeys[0].gaps.iter().map(|gap| (gap.before_hop, gap.why)).collect();
    assert_eq!(gaps, [(1, GapCause::LateAttach), (2, GapCause::LateAttach)]);
    assert!(!journeys[0].is_complete());
}

#[test]
fn what_is_under_way_when_points_go_is_not_whole() {
    let text = "packet a = udp 10.244.1.2:1 > 10.244.1.3:2 data=5 ip_id=1\n\
                at 10 1 queue p1/eth0 a\n";
    let (records, kernel) = support::records(text);
    let mut builder = Builder::new(Options::default());
    for record in &records {
        builder.push(Event::decode(record).expect("a record"));
    }
    builder.watch_thins(20_000);
    let journeys = builder.take_finished(20_000_000_000, &network::cluster(), &kernel);
    assert_eq!(journeys[0].gaps.last().map(|gap| gap.why), Some(GapCause::LateAttach));
}
