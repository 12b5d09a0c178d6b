//! Endpoints, ports, entries and lists that are used up, forgotten, too long or silent.

use super::*;
use crate::diagnose::slow::Again;
use crate::event::{CtInfo, Tcp};
use crate::journey::{Dev, Fate, Hook};
use crate::net::DeviceKind;
use crate::net::detail::TcFilter;
use crate::net::meter::{Connecting, Queue, Quota, Taps};

/// A segment of the connection with this port of the client's, led to `end`.
fn segment(sport: u16, end: &str, flags: u8) -> Journey {
    let mut journey = journey();
    let headers = journey.first.as_mut().unwrap();
    let payload_len = if flags & Tcp::SYN == 0 { 100 } else { 0 };
    headers.l4 = L4::Tcp(Tcp { seq: 1, ack: 0, flags, payload_len, mss: None });
    headers.tuple.sport = sport;
    journey.last_tuple = Some(Tuple { dst: addr(end), ..headers.tuple });
    journey
}

/// Its answer.
fn answer(to: &Journey) -> Journey {
    let mut answer = to.clone();
    let headers = answer.first.as_mut().unwrap();
    headers.l4 =
        L4::Tcp(Tcp { seq: 1, ack: 2, flags: Tcp::SYN | Tcp::ACK, payload_len: 0, mss: None });
    let back = to.last_tuple.unwrap().reversed();
    (headers.tuple, answer.last_tuple) = (back, Some(to.first.unwrap().tuple.reversed()));
    answer
}

fn numbered(all: &[Journey]) -> Vec<Journey> {
    let number = |(n, journey): (usize, &Journey)| Journey {
        id: n as u64 + 1,
        start_ns: n as u64,
        ..journey.clone()
    };
    all.iter().enumerate().map(number).collect()
}

#[test]
fn an_endpoint_that_never_answers_while_another_does_is_named() {
    let state = state(Detail::default());
    let (one, two) = (segment(1, "10.0.9.1", Tcp::SYN), segment(2, "10.0.9.2", Tcp::SYN));
    let silent = [two.clone(), two.clone()];
    let found = |all: &[Journey]| ids(&evidence(&state, &numbered(all)), Severity::Error);
    let dead = [&[one.clone(), answer(&one)], &silent[..]].concat();
    let journeys = numbered(&dead);
    let first = conclude(&evidence(&state, &journeys)).findings.remove(0);
    assert_eq!(first.id, "slow-dead-endpoint");
    assert!(
        first.title.starts_with("10.0.9.2:80, one of the endpoints of 192.0.2.9:80"),
        "{first:?}"
    );
    // It answers now and then; nobody answers; its answer may still come.
    let other = segment(3, "10.0.9.2", Tcp::SYN);
    assert_eq!(found(&[&dead[..], &[other.clone(), answer(&other)]].concat()), Vec::<&str>::new());
    assert_eq!(found(&silent), Vec::<&str>::new());
    assert_eq!(found(&[one.clone(), answer(&one), two.clone()]), Vec::<&str>::new());
    // Answered, though its answer was not followed; another connection from the same port.
    let goes_on = segment(2, "10.0.9.2", Tcp::ACK);
    assert_eq!(found(&[&dead[..], &[goes_on]].concat()), Vec::<&str>::new());
    let mut anew = two.clone();
    anew.first.as_mut().unwrap().l4 =
        L4::Tcp(Tcp { seq: 9, ack: 0, flags: Tcp::SYN, payload_len: 0, mss: None });
    assert_eq!(found(&[one.clone(), answer(&one), two, anew]), Vec::<&str>::new());
}

#[test]
fn local_ports_that_are_used_up_are_told_with_their_range() {
    let detail = |used| Detail {
        sysctls: [("ipv4/ip_local_port_range".to_owned(), "40000 40099".to_owned())].into(),
        connections: [(SocketAddr::new(addr("192.0.2.9"), 80), used)].into(),
        ..Detail::default()
    };
    let full = state(detail(97));
    let found = conclude(&evidence(&full, &[])).findings;
    assert_eq!(found[0].id, "slow-local-ports");
    assert!(found[0].title.contains("97 of 100"), "{}", found[0].title);
    assert!(found[0].fix[0].contains("net.ipv4.ip_local_port_range="), "{:?}", found[0].fix);
    let some = state(detail(60));
    assert_eq!(conclude(&evidence(&some, &[])).findings, []);
}

#[test]
fn connections_that_conntrack_forgets_are_told_from_new_ones() {
    let path = "netfilter/nf_conntrack_tcp_timeout_established";
    let kept = |seconds: &str| {
        let sysctls = [(path.to_owned(), seconds.to_owned())].into();
        state(Detail { sysctls, ..Detail::default() })
    };
    let lost = |flags, ct| {
        let mut lost = segment(1, "192.0.2.9", flags);
        let hop = Hop { ct: Some(ct), hook: Some(Hook::Prerouting), ..Hop::at(Stage::Netfilter) };
        lost.hops.push(Hop { netns: APP, ..hop });
        Journey { fate: Fate::Dropped, ..lost }
    };
    let (short, usual) = (kept("60"), kept("432000"));
    let forgotten = [lost(Tcp::ACK, CtInfo::Invalid), lost(Tcp::ACK, CtInfo::Invalid)];
    let found = conclude(&evidence(&short, &forgotten)).findings;
    assert_eq!(found[0].id, "slow-conntrack-timeout");
    assert!(found[0].fix[0].contains("timeout_established=432000"), "{:?}", found[0].fix);
    assert_eq!(conclude(&evidence(&usual, &forgotten)).findings, []);
    let new = [lost(Tcp::SYN, CtInfo::New), lost(Tcp::SYN, CtInfo::New)];
    assert_eq!(conclude(&evidence(&short, &new)).findings, []);
}

#[test]
fn a_sender_that_paces_itself_is_named_while_data_waits() {
    let (state, journeys) = (state(Detail::default()), [journey()]);
    let paced = |acked| Connection {
        max_pacing: 500_000,
        acked,
        unsent: 90_000,
        held_back: 80_000,
        ..connection()
    };
    let mut seen = evidence(&state, &journeys);
    // Half a megabyte a second.
    seen.moments = moments([100, 1_000_000, 2_000_100].map(paced));
    assert_eq!(ids(&seen, Severity::Error), ["slow-pacing"]);
    let idle = |acked| Connection { unsent: 0, held_back: 0, ..paced(acked) };
    seen.moments = moments([100, 1_000_000, 2_000_100].map(idle));
    assert_eq!(ids(&seen, Severity::Error), Vec::<&str>::new());
    seen.moments = moments([100, 100_000, 200_100].map(paced));
    assert_eq!(ids(&seen, Severity::Error), Vec::<&str>::new());
}

#[test]
fn an_answer_that_needs_tcp_and_a_server_that_has_its_turn_are_told() {
    let state = state(Detail::default());
    let mut seen = evidence(&state, &[]);
    let truncated = |again| Lookup { again: Some(again), ..lookup("api.example", None, 3, None) };
    seen.lookups = vec![truncated(Again::Silent)];
    assert_eq!(conclude(&seen).findings[0].id, "slow-dns-truncated");
    seen.lookups = vec![truncated(Again::Connected)];
    assert_eq!(conclude(&seen).findings, []);
    // Questions for both kinds of the first server, one of the second.
    let v6 = Lookup { is_v6: true, ..lookup("api.example", None, 2, Some(0)) };
    let second = Lookup { server: addr("10.96.0.11"), ..lookup("api.example", None, 5000, None) };
    seen.lookups = vec![lookup("api.example", None, 2, Some(0)), v6, second];
    let found = conclude(&seen).findings;
    assert_eq!(found[0].id, "slow-dns-server");
    assert!(found[0].title.contains("10.96.0.11 does not answer"), "{}", found[0].title);
}

/// Packets that take so long from the device to what comes next.
fn coming_in(micros: u64) -> Vec<Journey> {
    let mut journey = journey();
    let dev = Some(Dev { ifindex: 2, name: "eth0".to_owned() });
    let next =
        Hop { ktime_ns: micros * 1000, netns: APP, dev: dev.clone(), ..Hop::at(Stage::Route) };
    journey.hops = vec![Hop { netns: APP, dev, ..Hop::at(Stage::Rx) }, next];
    vec![journey; 9]
}

#[test]
fn filters_and_packet_sockets_of_a_device_are_felt_when_there_are_many() {
    let filter = |n| TcFilter {
        dev: 2,
        is_ingress: true,
        kind: "u32".to_owned(),
        text: String::new(),
        place: Some((1, n)),
        drops: false,
    };
    let filters =
        |count| state(Detail { tc: (0..count).map(filter).collect(), ..Detail::default() });
    let (many, few) = (filters(2000), filters(30));
    let (slow, quick) = (coming_in(90), coming_in(3));
    let found = conclude(&evidence(&many, &slow)).findings;
    assert_eq!((found[0].id, found[0].place.dev.as_deref()), ("slow-filter-list", Some("eth0")));
    assert_eq!(conclude(&evidence(&many, &quick)).findings, []);
    assert_eq!(conclude(&evidence(&few, &slow)).findings, []);

    let taps = |count| -> Vec<Moment> {
        let taps = Taps { count, process: Some((9, "agent".to_owned())) };
        vec![[(APP, Reading { taps: [(2, taps)].into(), ..Reading::default() })].into()]
    };
    let plain = state(Detail::default());
    let mut seen = evidence(&plain, &slow);
    seen.moments = taps(800);
    let found = conclude(&seen).findings;
    assert_eq!(found[0].id, "slow-packet-sockets");
    assert!(found[0].title.contains("agent (PID 9)"), "{}", found[0].title);
    seen.moments = taps(3);
    assert_eq!(conclude(&seen).findings, []);
}

/// The namespace with a device of another kind on the way.
fn with_device(kind: DeviceKind) -> NetworkState {
    let mut state = state(Detail::default());
    let device = state.netns.get_mut(&APP).unwrap().devices.get_mut(&2).unwrap();
    (device.kind, device.queue_length) = (kind, 4);
    state
}

#[test]
fn a_program_behind_a_tunnel_is_named_with_its_queue_and_its_limit() {
    let state = with_device(DeviceKind::Other("tun".to_owned()));
    let journeys = [journey()];
    let mut seen = evidence(&state, &journeys);
    seen.tunnels = [("eth0".to_owned(), vec![(77, "openvpn".to_owned())])].into();
    seen.moments = counted(&[("if.eth0.tx_dropped", 40)]);
    let found = conclude(&seen).findings;
    assert_eq!(found[0].id, "slow-queue-drops");
    assert!(found[0].title.contains("openvpn (PID 77)"), "{}", found[0].title);
    assert!(found[0].fix[0].contains("txqueuelen 1000"), "{:?}", found[0].fix);

    let quota = |throttled| -> Moment {
        let quota =
            Quota { cgroup: "/vpn".to_owned(), periods: throttled, throttled, throttled_us: 1 };
        [(APP, Reading { quotas: [(77, vec![quota])].into(), ..Reading::default() })].into()
    };
    seen.moments = vec![quota(0), quota(30)];
    assert_eq!(ids(&seen, Severity::Error), ["slow-cpu-quota"]);
    seen.tunnels.clear();
    assert_eq!(conclude(&seen).findings, []);
}

#[test]
fn a_bridge_sends_out_as_much_as_came_in_unless_it_floods() {
    let mut state = with_device(DeviceKind::Bridge);
    let netns = state.netns.get_mut(&APP).unwrap();
    for n in 3..9 {
        let name = format!("v{n}");
        let port = Device { ifindex: n, name, master: Some(2), ..Device::default() };
        netns.devices.insert(n, port);
    }
    let at = |n: u32| {
        let dev = Some(Dev { ifindex: n, name: format!("v{n}") });
        Hop { netns: APP, dev, ..Hop::at(Stage::Xmit) }
    };
    let mut copied = journey();
    copied.hops.extend((3..9).map(at));
    let mut passed = journey();
    passed.hops.extend((3..5).map(at));
    let counters = |out: u64| {
        let out = |n: u32| (format!("if.v{n}.tx_packets"), out);
        let all = (4..9).map(out).chain([("if.v3.rx_packets".to_owned(), 5000)]);
        let after = all.collect::<BTreeMap<_, _>>();
        let before = after.keys().map(|name| (name.clone(), 0)).collect();
        let reading = |counters| Reading { counters, ..Reading::default() };
        vec![[(APP, reading(before))].into(), [(APP, reading(after))].into()]
    };
    let found = |journey: &Journey, out| {
        let journeys = [journey.clone()];
        let mut seen = evidence(&state, &journeys);
        seen.moments = counters(out);
        ids(&seen, Severity::Error)
    };
    assert_eq!(found(&copied, 5000), ["slow-bridge-flood"]);
    // Each port has its own traffic; others' frames are flooded.
    assert_eq!(found(&copied, 1000), Vec::<&str>::new());
    assert_eq!(found(&passed, 5000), Vec::<&str>::new());
}

#[test]
fn a_long_queue_that_tcp_fills_now_and_then_is_no_fault() {
    let mut state = with_device(DeviceKind::Other("tun".to_owned()));
    let netns = state.netns.get_mut(&APP).unwrap();
    netns.devices.get_mut(&2).unwrap().queue_length = 1000;
    let journeys = [journey()];
    let mut seen = evidence(&state, &journeys);
    seen.moments = counted(&[("if.eth0.tx_dropped", 8), ("if.eth0.tx_packets", 90_000)]);
    assert_eq!(conclude(&seen).findings, []);
    seen.moments = counted(&[("if.eth0.tx_dropped", 800), ("if.eth0.tx_packets", 90_000)]);
    let found = conclude(&seen).findings;
    assert_eq!(found[0].id, "slow-queue-drops");
    assert!(found[0].fix[0].contains("read faster"), "{:?}", found[0].fix);
}

#[test]
fn a_class_that_others_fill_is_no_fault_of_the_flow() {
    let state = state(Detail::default());
    let found = |kind: &str, wait| {
        let journeys = queued(wait);
        let mut seen = evidence(&state, &journeys);
        let moment = |overlimits| -> Moment {
            let (name, kind) = ("eth0".to_owned(), kind.to_owned());
            let drops = overlimits / 2;
            let queue =
                Queue { dev: 2, name, kind, overlimits, drops, bytes: drops, ..Queue::default() };
            [(APP, Reading { queues: vec![queue], ..Reading::default() })].into()
        };
        seen.moments = vec![moment(0), moment(900)];
        ids(&seen, Severity::Error)
    };
    assert_eq!(found("htb", Duration::from_micros(7)), Vec::<&str>::new());
    assert_eq!(found("htb", Duration::from_millis(9)), ["slow-shaper"]);
    // One queue for all.
    assert_eq!(found("tbf", Duration::from_micros(7)), ["slow-shaper"]);
}

/// Looks at a server of port 80 every 100 ms: whom it connects to, and what its client got so far.
fn looks(all: &[(Option<u16>, u64)]) -> Vec<Moment> {
    let listener = Socket { process: Some((5, "api".to_owned())), ..listener() };
    let look = |(port, acked): &(Option<u16>, u64)| {
        let asked = port.map(|port| Connecting {
            local: SocketAddr::new(addr("192.0.2.9"), port),
            peer: SocketAddr::new(addr("10.0.7.7"), 5432),
            pid: Some(5),
        });
        let client = connection();
        let server = Connection { local: client.peer, peer: client.local, acked: *acked, ..client };
        let reading = Reading {
            sockets: vec![listener.clone()],
            connecting: asked.into_iter().collect(),
            connections: vec![server],
            ..Reading::default()
        };
        [(APP, reading)].into()
    };
    all.iter().map(look).collect()
}

#[test]
fn a_server_that_waits_for_another_is_told_from_one_that_serves_meanwhile() {
    let state = state(Detail::default());
    let found = |all: &[(Option<u16>, u64)]| {
        let mut seen = evidence(&state, &[]);
        seen.moments = looks(all);
        seen.timed.delivered = [APP].into();
        seen.span = Duration::from_millis(100 * all.len() as u64);
        ids(&seen, Severity::Error)
    };
    let waiting = |port: u16, acked: u64| [(Some(port), acked); 6];
    let stuck = [waiting(1, 0), waiting(2, 9), waiting(3, 18)].concat();
    assert_eq!(found(&stuck), ["slow-upstream"]);
    // Something else in it tries, again and again; a far one that answers; nobody asks it anything.
    let busy: Vec<_> = (0..18).map(|n| (Some(1), n * 9)).collect();
    assert_eq!(found(&busy), Vec::<&str>::new());
    let far: Vec<_> = (0..18_u16).map(|n| (Some(n / 2), u64::from(n / 2))).collect();
    assert_eq!(found(&far), Vec::<&str>::new());
    assert_eq!(found(&[waiting(1, 0), waiting(1, 0)].concat()), Vec::<&str>::new());
}
