//! Classes, routes, addresses and open files.

use super::*;
use crate::event::Tcp;
use crate::net::detail::{NextHop, Route, RouteLimits, RoutingRule, RuleAction, Socket};
use crate::net::meter::{Class, Files, Queue, Steering};

fn queue(overlimits: u64) -> Queue {
    let (name, kind) = ("eth0".to_owned(), "htb".to_owned());
    let default = Some(0x1_0010);
    Queue { dev: 2, name, kind, overlimits, drops: overlimits, default, ..Queue::default() }
}

fn class(minor: u32, ceiling: u64, sent: u64) -> Class {
    let overlimits = if minor == 0x20 { sent / 1000 } else { 0 };
    let (id, parent) = (0x1_0000 | minor, 0x1_0000);
    Class {
        dev: 2,
        id,
        parent,
        rate: ceiling,
        ceiling,
        bytes: sent,
        overlimits,
        ..Class::default()
    }
}

#[test]
fn of_several_classes_the_one_that_waits_is_named_with_what_leads_there() {
    let state = state(Detail::default());
    let journeys = [journey()];
    let mut seen = evidence(&state, &journeys);
    let moment = |overlimits, classes: Vec<Class>| -> Moment {
        let to = Steering { dev: 2, class: 0x1_0020, text: "u32 match port 80".to_owned() };
        let queues = vec![queue(overlimits)];
        [(APP, Reading { queues, classes, steering: vec![to], ..Reading::default() })].into()
    };
    let classes = |sent: u64| vec![class(0x10, 900_000_000, sent * 9), class(0x20, 250_000, sent)];
    seen.moments = vec![moment(0, classes(0)), moment(90, classes(1_000_000))];
    let found = conclude(&seen).findings.remove(0);
    assert_eq!(found.title, "A rate limit of 2.0 Mbit/s (htb class 1:20) on eth0 shapes the flow");
    let says = found.evidence.join("\n");
    assert!(says.contains("a filter leads there: u32 match port 80"), "{says}");
    assert!(found.fix[0].contains("parent 1: classid 1:20"), "{:?}", found.fix);
    // Inside another one whose ceiling is met.
    let inside = |sent: u64| {
        let outer = Class { parent: u32::MAX, ..class(1, 260_000, sent) };
        vec![outer, Class { parent: 0x1_0001, ..class(0x20, 900_000_000, sent) }]
    };
    seen.moments = vec![moment(0, inside(0)), moment(90, inside(1_000_000))];
    let found = conclude(&seen).findings.remove(0);
    assert!(found.title.contains("(htb class 1:1)"), "{}", found.title);
}

/// A namespace whose route to everywhere has these limits.
fn routed(limits: RouteLimits) -> NetworkState {
    let hop = NextHop { dev: Some(2), ..NextHop::default() };
    let route = Route { limits, ..Route::to((addr("0.0.0.0"), 0), vec![hop]) };
    let rule = RoutingRule::plain(32_766, false, RuleAction::Lookup(254, None));
    let mut state = state(Detail { routes: vec![route], rules: vec![rule], ..Detail::default() });
    let device = state.netns.get_mut(&APP).unwrap().devices.get_mut(&2).unwrap();
    device.addresses = vec![(addr("10.0.0.2"), 24)];
    (device.up, device.carrier) = (true, true);
    state
}

/// Connections that send `first` bytes at once and the next ones after a round trip of 40 ms.
fn flights(first: u32) -> Vec<Journey> {
    let mut all = Vec::new();
    for n in 1..5_u16 {
        let packet = |at_ms: u64, flags, payload_len, mss| {
            let mut journey = journey();
            let headers = journey.first.as_mut().unwrap();
            headers.tuple.sport = 40_000 + n;
            headers.l4 = L4::Tcp(Tcp { seq: 1, ack: 1, flags, payload_len, mss });
            journey.start_ns = (u64::from(n) * 300 + at_ms) * 1_000_000;
            journey.id = u64::from(n) * 10 + at_ms;
            journey
        };
        all.push(packet(0, Tcp::SYN, 0, Some(1460)));
        all.push(packet(41, Tcp::ACK, first, None));
        all.push(packet(82, Tcp::ACK, 5000, None));
    }
    all
}

#[test]
fn a_route_that_lets_connections_begin_small_is_named_when_they_wait_for_it() {
    let one = routed(RouteLimits { initcwnd: Some(1), ..RouteLimits::default() });
    let (stopped, small) = (flights(1448), flights(300));
    let found = conclude(&evidence(&one, &stopped)).findings.remove(0);
    assert_eq!(found.id, "slow-route-limit");
    assert!(found.title.contains("1 segment (initcwnd"), "{}", found.title);
    // It had no more to say; the route allows what is usual.
    assert_eq!(conclude(&evidence(&one, &small)).findings, []);
    let usual = routed(RouteLimits { initcwnd: Some(10), ..RouteLimits::default() });
    assert_eq!(conclude(&evidence(&usual, &stopped)).findings, []);
}

#[test]
fn a_route_that_lets_losses_wait_is_named_when_something_was_lost() {
    let slow = routed(RouteLimits { rto_min: Some(2000), ..RouteLimits::default() });
    let journeys = [journey()];
    let mut seen = evidence(&slow, &journeys);
    let now = |retransmits| Connection {
        retransmits,
        rtt: Duration::from_millis(1),
        min_rtt: Duration::from_millis(1),
        rto: Duration::from_millis(2010),
        ..connection()
    };
    let watched = |lost: u32| -> Vec<Moment> {
        let mut all = moments([now(0), now(lost), now(lost)]);
        let last = all.last_mut().unwrap().get_mut(&APP).unwrap();
        last.counters.insert("TcpExtTCPTimeouts".to_owned(), lost.into());
        all
    };
    seen.moments = watched(4);
    let found = conclude(&seen).findings.remove(0);
    assert!(found.title.contains("wait 2.00 s"), "{}", found.title);
    seen.moments = watched(0);
    assert_eq!(conclude(&seen).findings, []);
}

#[test]
fn packets_of_other_ports_tell_nothing_of_a_wait() {
    let state = state(Detail::default());
    let mut others = queued(Duration::from_millis(9));
    for journey in &mut others {
        let tuple = &mut journey.first.as_mut().unwrap().tuple;
        (tuple.sport, tuple.dport) = (50_000, 5001);
        journey.last_tuple = Some(*tuple);
    }
    let journeys = [queued(Duration::from_micros(7)), others].concat();
    let mut seen = evidence(&state, &journeys);
    let moment =
        |n| -> Moment { [(APP, Reading { queues: vec![queue(n)], ..Reading::default() })].into() };
    seen.moments = vec![moment(0), moment(900)];
    assert_eq!(conclude(&seen).findings, []);
}

#[test]
fn a_server_without_room_for_another_file_is_named_while_connections_wait() {
    let state = state(Detail::default());
    let found = |open, queued| {
        let mut seen = evidence(&state, &[]);
        let listener = Socket { queued, process: Some((5, "api".to_owned())), ..listener() };
        let files = Files { open, most: 16 };
        let reading = || Reading {
            sockets: vec![listener.clone()],
            files: [(5, files)].into(),
            ..Reading::default()
        };
        seen.moments = (0..4).map(|_| [(APP, reading())].into()).collect();
        seen.timed.delivered = [APP].into();
        ids(&seen, Severity::Error)
    };
    assert_eq!(found(16, 3), ["slow-open-files"]);
    assert_eq!(found(16, 0), Vec::<&str>::new());
    assert_eq!(found(12, 3), Vec::<&str>::new());
}

#[test]
fn a_sender_out_of_sight_that_always_begins_small_is_told() {
    let state = routed(RouteLimits::default());
    let come = |first: u32| -> Vec<Journey> {
        let mut all = flights(first);
        for journey in &mut all {
            // From the other end, first seen on a router.
            let headers = journey.first.as_mut().unwrap();
            headers.tuple = headers.tuple.reversed();
            journey.hops[0].netns = 99;
        }
        all
    };
    let found = |journeys: &[Journey]| {
        let mut seen = evidence(&state, journeys);
        let rtt = Duration::from_millis(41);
        let (min_rtt, segments_in) = (rtt, 9);
        let client = Connection { rtt, min_rtt, segments_in, ..connection() };
        seen.timed.tuples = [Tuple { sport: 0, ..journey().first.unwrap().tuple }].into();
        seen.moments = moments([client.clone(), client]);
        ids(&seen, Severity::Error)
    };
    assert_eq!(found(&come(2896)), ["slow-route-limit"]);
    // That was all it had to say at first.
    assert_eq!(found(&come(700)), Vec::<&str>::new());
}

#[test]
fn who_waits_for_an_answer_that_conntrack_forgot_is_told_from_who_just_waits() {
    let path = "netfilter/nf_conntrack_tcp_timeout_close_wait".to_owned();
    let state = state(Detail { sysctls: [(path, "1".to_owned())].into(), ..Detail::default() });
    let journeys = [journey()];
    let found = |refused: u64| {
        let mut seen = evidence(&state, &journeys);
        let reading = |refused: u64| {
            let waiting = |port, cookie| Connection {
                local: SocketAddr::new(addr("10.0.0.2"), port),
                awaits_answer: true,
                cookie,
                ..connection()
            };
            let connections = vec![waiting(40_000, 1), waiting(40_001, 2)];
            let counters = [("TcpOutRsts".to_owned(), refused)].into();
            [(APP, Reading { connections, counters, ..Reading::default() })].into()
        };
        // Of any port.
        seen.timed.tuples = [Tuple { sport: 0, ..journey().first.unwrap().tuple }].into();
        seen.moments = vec![reading(0), reading(refused)];
        ids(&seen, Severity::Error)
    };
    assert_eq!(found(5), ["slow-conntrack-timeout"]);
    assert_eq!(found(0), Vec::<&str>::new());
}
