//! Packets that come in from beyond what is known.

use super::*;
use crate::event::{Proto, Tuple};
use crate::net::Inum;

/// Node `b` and its pods, alone.
fn alone(state: &NetworkState) -> Scope {
    Scope::only(["b", "y1"].map(|name| inum(state, name)))
}

fn device(state: &NetworkState, netns: Inum, name: &str) -> u32 {
    let devices = &state.netns[&netns].devices;
    devices.values().find(|d| d.name == name).unwrap_or_else(|| panic!("no {name}")).ifindex
}

fn entering(state: &NetworkState, src: &str, tunnel: Option<(Tuple, u32)>) -> Ask {
    let b = inum(state, "b");
    let entry = Some(Entry { dev: device(state, b, "eth0"), tunnel });
    Ask { src: Some(ip(src)), entry, ..Ask::tcp(b, ip("10.1.2.2"), 8080) }
}

fn outer() -> Tuple {
    let (src, dst) = (ip("192.0.2.11"), ip("192.0.2.12"));
    Tuple { src, dst, proto: Proto::Udp, sport: 50_000, dport: 8472 }
}

#[test]
fn a_stranger_comes_in_and_is_answered_to_where_it_is() {
    let state = cluster("");
    let there = walk(&state, &alone(&state), &entering(&state, "192.0.2.1", None));
    assert_eq!(all(&there), Vec::<String>::new(), "{there:#?}");
    let y1 = inum(&state, "y1");
    assert!(matches!(there.end, End::Delivered { netns, .. } if netns == y1), "{there:#?}");
    assert_eq!(there.tuple.src, ip("192.0.2.1"));
    let back = walk_reply(&state, &alone(&state), &there).expect("it arrives");
    assert_eq!(stops(&back), Vec::<String>::new(), "{back:#?}");
    assert!(matches!(back.end, End::LeftView { .. }), "{back:#?}");
}

#[test]
fn what_comes_in_is_judged_as_input_and_not_as_output() {
    let state = cluster("b: sysctl ipv4/ip_forward 0");
    let there = walk(&state, &alone(&state), &entering(&state, "192.0.2.1", None));
    assert_eq!(stops(&there), ["ForwardingOff"]);
    assert!(!there.steps.iter().any(|s| matches!(s.what, What::Socket)), "{there:#?}");
}

#[test]
fn a_tunnel_that_leads_in_is_unpacked() {
    let ask = |state: &NetworkState| entering(state, "10.1.1.2", Some((outer(), 9)));
    let state = cluster("");
    let there = walk(&state, &alone(&state), &ask(&state));
    assert!(there.is_clear() && all(&there).is_empty(), "{there:#?}");
    assert!(there.steps.iter().any(|s| matches!(s.what, What::Decap { vni: 9 })));
    let back = walk_reply(&state, &alone(&state), &there).expect("it arrives");
    assert!(back.steps.iter().any(|s| matches!(s.what, What::Encap { .. })), "{back:#?}");

    let state = cluster("b: set vx0 down");
    let there = walk(&state, &alone(&state), &ask(&state));
    assert_eq!(stops(&there).first().map(String::as_str), Some("TunnelDown"), "{there:#?}");
}
