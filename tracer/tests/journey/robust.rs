//! What must hold for any input: no panic, no dependence on the order of arrival, bounded memory.

use pkttrace::{
    event::Event,
    journey::{Builder, GapCause, Journey, Options, group},
    net::NetworkState,
    render::{self, Format, Style},
    report::{self, Context, Summary},
};
use tracer_common::event::{LONG_LEN, SHORT_LEN};

use super::{
    scenarios,
    support::{self, Kernel, network},
};

/// A small generator (xorshift64*), so that a failing input can be found again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

fn build(records: &[Vec<u8>], kernel: &Kernel, state: &NetworkState) -> Vec<Journey> {
    let mut builder = Builder::new(Options::default());
    for record in records {
        builder.push(Event::decode(record).expect("a record"));
    }
    builder.flush(state, kernel)
}

#[test]
fn the_order_of_arrival_does_not_matter_within_a_journey() {
    let state = network::cluster();
    let mut random = Random(11);
    for file in scenarios::ALL {
        let (records, kernel) = support::records(&support::scenario(file));
        let mut shuffled = records.clone();
        for i in (1..shuffled.len()).rev() {
            shuffled.swap(i, random.below(i as u64 + 1) as usize);
        }
        let show = |journeys: Vec<Journey>| -> Vec<String> {
            let show = |j: &Journey| format!("{} {:?} {} {}", j.id, j.fate, j.path, j.nat.len());
            journeys.iter().map(show).collect()
        };
        let (before, after) = (build(&records, &kernel, &state), build(&shuffled, &kernel, &state));
        assert_eq!(show(before), show(after), "{file}");
    }
}

#[test]
fn no_events_make_the_way_to_the_terminal_panic() {
    let state = network::cluster();
    let mut random = Random(7);
    let mut builder = Builder::new(Options { max_events: 40, ..Options::default() });
    let mut renderers: Vec<_> = Format::ALL
        .iter()
        .map(|f| render::new(*f, Style { has_color: true, width: Some(80), ..Style::default() }))
        .collect();
    let mut journeys = Vec::new();
    for round in 0..40_000_u64 {
        builder.push(Event::decode(&noise(&mut random, round)).expect("a known probe"));
        if round % 64 == 0 {
            journeys.extend(builder.take_finished(round * 50_000, &state, &Kernel::default()));
        }
    }
    journeys.extend(builder.flush(&state, &Kernel::default()));
    assert!(journeys.len() > 1000, "{}", journeys.len());
    let mut out = Vec::new();
    for journey in &journeys {
        let report = report::Journey::from(journey, &Context::default());
        for renderer in &mut renderers {
            renderer.journey(&report, &mut out).expect("a Vec takes everything");
        }
    }
    let flows = group(&journeys);
    let grouped: usize = flows.iter().map(|f| f.forward.len() + f.backward.len()).sum();
    assert_eq!(grouped, journeys.len());
    for renderer in &mut renderers {
        renderer.summary(&Summary::new(), &mut out).expect("a Vec takes everything");
    }
}

/// A record of random content, plausible enough to get far.
fn noise(random: &mut Random, round: u64) -> Vec<u8> {
    let len = if random.below(3) == 0 { SHORT_LEN } else { LONG_LEN };
    let mut bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
    let journey = round / 20 + random.below(12);
    bytes[..8].copy_from_slice(&(round * 50_000).to_ne_bytes());
    bytes[8..16].copy_from_slice(&journey.to_ne_bytes());
    bytes[24..32].copy_from_slice(&random.below(50).to_ne_bytes());
    let inums = [101_u32, 102, 201, 202, 203, 999];
    bytes[32..36].copy_from_slice(&inums[random.below(6) as usize].to_ne_bytes());
    bytes[36..40].copy_from_slice(&(random.below(9) as u32).to_ne_bytes());
    bytes[48..50].copy_from_slice(&(random.below(24) as u16).to_ne_bytes());
    bytes[50] = random.below(19) as u8 + 1;
    if len == LONG_LEN {
        bytes[SHORT_LEN] = [0x45, 0x60][random.below(2) as usize];
        bytes[SHORT_LEN + 9] = [1, 6, 17][random.below(3) as usize];
        bytes[SHORT_LEN + 12..SHORT_LEN + 20].fill(random.below(3) as u8);
    }
    bytes[64..72].iter_mut().for_each(|b| *b &= 7);
    bytes
}

#[test]
fn a_packet_in_a_loop_is_bounded_and_its_end_is_kept() {
    let text = "packet a = udp 10.244.1.2:1 > 10.244.1.3:2 data=5 ip_id=1\n".to_owned()
        + &"at 1 1 rx n1/veth-p1 a\n".repeat(100)
        + "at 2 1 kfree n1/veth-p1 reason=IP_INHDR fn=ip_forward\n";
    let (records, kernel) = support::records(&text);
    let mut builder = Builder::new(Options { max_events: 10, ..Options::default() });
    for record in &records {
        builder.push(Event::decode(record).expect("a record"));
    }
    let journeys = builder.take_finished(3_000, &network::cluster(), &kernel);
    let [journey] = &journeys[..] else { panic!("{} journeys", journeys.len()) };
    assert_eq!(journey.hops.len(), 10);
    assert_eq!(journey.lost_events, 91);
    assert_eq!(journey.dropped.as_ref().map(|d| d.reason.as_str()), Some("IP_INHDR"));
}

#[test]
fn lost_events_are_marked_in_their_journey_though_none_of_it_follows() {
    let text = "packet a = udp 10.244.1.2:1 > 10.244.1.3:2 data=5 ip_id=1\n\
                packet b = udp 10.244.1.2:1 > 10.244.1.3:2 data=5 ip_id=2\n\
                at 1 1 rx n1/veth-p1 a\nat 2 2 rx n1/veth-p1 b\n";
    let (records, kernel) = support::records(text);
    let mut builder = Builder::new(Options::default());
    for record in &records {
        builder.push(Event::decode(record).expect("a record"));
    }
    builder.lose(1, 3);
    builder.lose(99, 2);
    let journeys = builder.flush(&network::cluster(), &kernel);
    let [a, b] = &journeys[..] else { panic!("{} journeys", journeys.len()) };
    let gaps = |journey: &Journey| -> Vec<_> {
        let lost = journey.gaps.iter().filter(|gap| gap.why == GapCause::EventsLost);
        lost.map(|gap| (gap.before_hop, gap.events)).collect()
    };
    assert_eq!((gaps(a), a.lost_events), (vec![(a.hops.len(), 3)], 3));
    assert_eq!((gaps(b), b.lost_events), (vec![], 0));
    // Of one nothing arrived at all; what another one loses when it is told already, it lacks not.
    assert_eq!((builder.unheard(), builder.lost_late(), builder.lost_untold()), (1, 0, 2));
    builder.lose(1, 1);
    assert_eq!((builder.unheard(), builder.lost_late(), builder.lost_untold()), (1, 1, 2));
}

#[test]
fn too_many_open_journeys_are_handed_out_unfinished() {
    let text: String = (1..=20)
        .map(|n| format!("packet p{n} = udp 10.244.1.2:1 > 10.244.1.3:2 ip_id={n}\nat {n} {n} rx n1/veth-p1 p{n}\n"))
        .collect();
    let (records, kernel) = support::records(&text);
    let mut builder = Builder::new(Options { max_open: 5, ..Options::default() });
    for record in &records {
        builder.push(Event::decode(record).expect("a record"));
    }
    let finished = builder.take_finished(21_000, &network::cluster(), &kernel);
    assert_eq!((finished.len(), builder.open_count()), (15, 5));
    assert_eq!(finished[0].id, 1);
}

#[test]
fn a_service_flow_holds_both_directions_and_both_addresses() {
    let (records, kernel) = support::records(&support::scenario("cluster_ip_dnat_and_reply.txt"));
    let journeys = build(&records, &kernel, &network::cluster());
    let flows = group(&journeys);
    assert_eq!(flows.len(), 1);
    assert_eq!((&flows[0].forward[..], &flows[0].backward[..]), (&[0][..], &[1][..]));
    let (records, kernel) = support::records(&support::scenario("masquerade_and_reply.txt"));
    let journeys = build(&records, &kernel, &network::cluster());
    assert_eq!(group(&journeys).len(), 2, "the ping and the TCP connection");
}
