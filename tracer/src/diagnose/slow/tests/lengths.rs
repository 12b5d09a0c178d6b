//! Packets that are too long, pieces that are too small, and addresses at which nobody answers.

use super::*;
use crate::diagnose::case::{Outcome, Probed, Purpose};
use crate::journey::{DropPoint, Fate};
use crate::net::meter::Feature;
use crate::net::{DeviceKind, Peer, Xdp};

fn probe(to: &str, outcome: Outcome) -> Probed {
    Probed {
        method: Method::Tcp,
        purpose: Purpose::Reach,
        netns: APP,
        to: addr(to),
        dport: 80,
        sport: 40_000,
        size: None,
        question: None,
        rtt: None,
        outcome,
    }
}

fn own_address(state: &mut NetworkState, own: &str) {
    let netns = state.netns.get_mut(&APP).unwrap();
    netns.devices.get_mut(&2).unwrap().addresses.push((addr(own), 64));
}

#[test]
fn an_address_of_a_name_at_which_nobody_answers_is_named() {
    let mut state = state(Detail::default());
    let first = |state: &NetworkState, probes: &[Probed]| {
        let mut seen = evidence(state, &[]);
        seen.target.as_mut().unwrap().name = Some("api.example".to_owned());
        seen.probes = probes.to_vec();
        conclude(&seen).findings.first().map(|f| (f.id, f.title.clone()))
    };
    let (dead, alive) =
        (probe("2001:db8::9", Outcome::Timeout), probe("192.0.2.9", Outcome::Answered));
    // Without an address of its own the client tries IPv6 last.
    assert_eq!(first(&state, &[dead.clone(), alive.clone()]), None);
    own_address(&mut state, "2001:db8::2");
    let (id, title) = first(&state, &[dead.clone(), alive.clone()]).unwrap();
    assert_eq!(id, "slow-dead-address");
    assert!(title.contains("2001:db8::9, which does not answer"), "{title}");
    // Refused at once, answered now and then, or none that answers: nobody waits for the next one.
    let refused = probe("2001:db8::9", Outcome::Refused);
    let came = probe("2001:db8::9", Outcome::Answered);
    for probes in [&[refused, alive.clone()][..], &[dead.clone(), came, alive], &[dead]] {
        assert_eq!(first(&state, probes), None, "{probes:?}");
    }
    // One of several of the same kind.
    let turns = [probe("192.0.2.8", Outcome::Timeout), probe("192.0.2.9", Outcome::Answered)];
    assert_eq!(first(&state, &turns).unwrap().0, "slow-dead-address");
}

fn too_big() -> Journey {
    let drop = DropPoint { reason: "PKT_TOO_BIG".to_owned(), function: None, hook: None, hop: 0 };
    Journey { fate: Fate::Dropped, dropped: Some(drop), ..journey() }
}

#[test]
fn a_sender_that_does_not_hear_that_its_packets_are_too_long_is_told_from_one_that_does() {
    let state = state(Detail::default());
    let again = [too_big(), too_big(), too_big()];
    let found = conclude(&evidence(&state, &again)).findings;
    assert_eq!(found[0].id, "slow-path-mtu");
    assert_eq!(found[0].place.dev.as_deref(), Some("eth0"));
    // One is how a sender learns.
    let mut seen = evidence(&state, &again[..1]);
    seen.moments = counted(&[("IpFragFails", 1)]);
    assert_eq!(ids(&seen, Severity::Error), Vec::<&str>::new());
}

#[test]
fn fragments_of_a_tunnel_are_told_from_datagrams_of_others() {
    let mut state = state(Detail::default());
    let journeys = [journey()];
    let figures = || {
        let mut all = counted(&[("IpFragCreates", 5000)]);
        let sent = |n| Connection { data_segments: n, ..connection() };
        for (moment, n) in all.iter_mut().zip([5, 4000]) {
            moment.get_mut(&APP).unwrap().connections = vec![sent(n)];
        }
        all
    };
    let mut seen = evidence(&state, &journeys);
    seen.moments = figures();
    assert_eq!(ids(&seen, Severity::Error), Vec::<&str>::new());
    state.netns.get_mut(&APP).unwrap().devices.get_mut(&2).unwrap().kind = DeviceKind::Vxlan;
    let mut seen = evidence(&state, &journeys);
    seen.moments = figures();
    assert_eq!(ids(&seen, Severity::Error), ["slow-fragmentation"]);
}

#[test]
fn a_send_buffer_that_stays_small_is_told_from_one_that_grows() {
    let (state, journeys) = (state(Detail::default()), [journey()]);
    let mut seen = evidence(&state, &journeys);
    let sent = |send_buffer, n: u32| Connection {
        send_buffer,
        acked: 100_000 * u64::from(n),
        busy_us: 1_000_000 * u64::from(n),
        buffer_limited_us: 900_000 * u64::from(n),
        ..connection()
    };
    seen.moments = moments([sent(32_768, 1), sent(32_768, 3), sent(32_768, 5)]);
    assert_eq!(ids(&seen, Severity::Error), ["slow-send-buffer"]);
    seen.moments = moments([sent(32_768, 1), sent(65_536, 3), sent(131_072, 5)]);
    assert_eq!(ids(&seen, Severity::Error), Vec::<&str>::new());
}

/// Packets of 1,450 bytes left the device, which has this state.
fn cut(change: impl FnOnce(&mut Device, &mut Device)) -> Vec<(&'static str, Option<String>)> {
    let mut state = state(Detail::default());
    let mut device =
        Device { mtu: 1500, kind: DeviceKind::Veth, ..state.netns[&APP].devices[&2].clone() };
    device.link = Some(Peer { netns: Some(APP), ifindex: 3 });
    let mut peer = Device { ifindex: 3, name: "va".to_owned(), ..device.clone() };
    change(&mut device, &mut peer);
    state.netns.get_mut(&APP).unwrap().devices = [(2, device), (3, peer)].into();
    let (journeys, mut seen) = ([journey()], None);
    let seen = seen.insert(evidence(&state, &journeys));
    seen.moments = counted(&[("if.eth0.tx_packets", 40_000), ("if.eth0.tx_bytes", 58_000_000)]);
    let fixed = Feature { is_changeable: false, is_wanted: true, is_active: false };
    let features = [("tx-tcp-segmentation".to_owned(), fixed)].into();
    seen.moments[0].get_mut(&APP).unwrap().features = [(2, features)].into();
    let found = conclude(seen).findings.into_iter();
    found.filter(|f| f.severity == Severity::Error).map(|f| (f.id, f.place.dev)).collect()
}

#[test]
fn what_keeps_a_device_from_segmenting_is_named() {
    let small = cut(|device, _| (device.gso_segments, device.gso_max) = (1, 65_536));
    assert_eq!(small, [("slow-offload", Some("eth0".to_owned()))]);
    let native = cut(|_, peer| peer.xdp = Some(Xdp { mode: 1, prog: 7 }));
    assert_eq!(native, [("slow-offload", Some("va".to_owned()))]);
    // A generic one takes whole pieces; so does who has room for them.
    assert_eq!(cut(|_, peer| peer.xdp = Some(Xdp { mode: 2, prog: 7 })), []);
    assert_eq!(cut(|device, _| (device.gso_segments, device.gso_max) = (65_535, 65_536)), []);
}
