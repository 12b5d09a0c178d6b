//! Obstacles that need more than a line of `ip` to be made.

use super::*;
use crate::net::detail::{Detail, IpvsService, XfrmPolicy};
use crate::net::{Device, Netns};

fn netns<'a>(state: &'a mut NetworkState, name: &str) -> &'a mut Netns {
    let inum = inum(state, name);
    state.netns.get_mut(&inum).unwrap()
}

fn detail<'a>(state: &'a mut NetworkState, name: &str) -> &'a mut Detail {
    netns(state, name).detail.as_mut().unwrap()
}

fn device<'a>(state: &'a mut NetworkState, name: &str, dev: &str) -> &'a mut Device {
    netns(state, name).devices.values_mut().find(|d| d.name == dev).unwrap()
}

/// The route of `a` to the pods of `b`.
fn overlay_route(state: &mut NetworkState) -> &mut crate::net::detail::Route {
    let dst = (ip("10.1.2.0"), 24);
    detail(state, "a").routes.iter_mut().find(|r| r.dst == dst).unwrap()
}

#[test]
fn a_next_hop_without_link_or_without_device() {
    let mut state = cluster("");
    overlay_route(&mut state).hops[0].flags = 16;
    assert!(stops(&ping(&state, "x1", "10.1.2.2")).contains(&"DeadNextHop".to_owned()));
    let mut state = cluster("");
    overlay_route(&mut state).hops[0].dev = Some(99);
    assert_eq!(stops(&ping(&state, "x1", "10.1.2.2")), ["NoSuchDevice"]);
}

#[test]
fn ipsec_policies_block() {
    let policy = |direction: &str, blocks| XfrmPolicy {
        src: (ip("10.1.1.0"), 24),
        dst: (ip("10.1.2.0"), 24),
        direction: direction.into(),
        blocks,
        has_template: !blocks,
    };
    let mut state = cluster("");
    detail(&mut state, "a").xfrm.push(policy("fwd", true));
    assert_eq!(stops(&ping(&state, "x1", "10.1.2.2")), ["IpsecPolicy"]);
    assert_eq!(all(&ping(&state, "y1", "10.1.1.2")), Vec::<String>::new());
    // Wants what comes in to be encrypted, and it may be.
    let mut state = cluster("");
    detail(&mut state, "a").xfrm.push(policy("fwd", false));
    let walk = ping(&state, "x1", "10.1.2.2");
    assert_eq!((stops(&walk), all(&walk)), (vec![], vec!["IpsecPolicy".to_owned()]));
}

#[test]
fn a_full_table_of_connections() {
    let mut state = cluster("");
    detail(&mut state, "x1").conntrack = Some((1000, 1000));
    assert_eq!(all(&ping(&state, "x1", "10.1.1.3")), ["ConntrackFull"]);
    detail(&mut state, "x1").conntrack = Some((500, 1000));
    assert_eq!(all(&ping(&state, "x1", "10.1.1.3")), Vec::<String>::new());
    // A node's own, for what it forwards.
    for entries in [1000, 900] {
        detail(&mut state, "a").conntrack = Some((entries, 1000));
        let walk = ping(&state, "x1", "10.1.2.2");
        assert_eq!((stops(&walk), all(&walk)), (vec![], vec!["ConntrackFull".to_owned()]));
    }
    detail(&mut state, "a").conntrack = Some((899, 1000));
    assert_eq!(all(&ping(&state, "x1", "10.1.2.2")), Vec::<String>::new());
}

#[test]
fn sources_that_nobody_may_have() {
    let state = cluster("x1: addr 224.0.0.5/32 dev lo");
    let ask = Ask { src: Some(ip("224.0.0.5")), ..Ask::ping(inum(&state, "x1"), ip("10.1.2.2")) };
    let walk = walk(&state, &Scope::everything(), &ask);
    assert!(stops(&walk).contains(&"Martian".to_owned()), "{walk:#?}");
}

#[test]
fn a_rule_that_cannot_be_decided() {
    let rules = "*filter
        :FORWARD ACCEPT [0:0]
        -A FORWARD -m string --string secret --algo bm -j DROP
        COMMIT";
    let state = ruled("", "a", rules);
    let walk = ping(&state, "x1", "10.1.2.2");
    assert_eq!((stops(&walk), all(&walk)), (vec![], vec!["MayBeFiltered".to_owned()]));
}

#[test]
fn a_virtual_server_without_a_real_one() {
    let service = IpvsService {
        proto: 6,
        addr: ip("10.99.0.1"),
        port: 80,
        mark: 0,
        scheduler: "rr".into(),
        servers: vec![(ip("10.1.2.2"), 8080, 0)],
    };
    let mut state = cluster("a: addr 10.99.0.1/32 dev lo");
    detail(&mut state, "a").ipvs.push(service.clone());
    assert_eq!(stops(&tcp(&state, "x1", "10.99.0.1", 80)), ["NoRealServer"]);
    let servers = vec![(ip("10.1.2.2"), 8080, 1)];
    detail(&mut state, "a").ipvs = vec![IpvsService { servers, ..service }];
    assert_eq!(stops(&tcp(&state, "x1", "10.99.0.1", 80)), Vec::<String>::new());
}

#[test]
fn a_bridge_that_tells_vlans_apart() {
    let mut state = cluster("");
    device(&mut state, "a", "br0").bridge.as_mut().unwrap().vlan_filtering = true;
    let walk = ping(&state, "x1", "10.1.1.3");
    assert_eq!((stops(&walk), all(&walk)), (vec![], vec!["VlanFiltering".to_owned()]));
}

/// Written down for everybody, the address of somebody else: a frame that nobody takes.
#[test]
fn a_frame_for_another_device() {
    let state = cluster(
        "a: sysctl ipv4/conf/cal0/proxy_arp 0
         x5: neigh 169.254.1.1 mac 02:00:00:00:00:55 dev eth0 permanent",
    );
    let there = ping(&state, "x5", "10.1.2.2");
    assert_eq!(stops(&there), ["NotForMe"], "{there:#?}");
}

/// Translated on the way there; the answer takes another way, past what would translate it back.
#[test]
fn an_answer_past_its_translation() {
    let rules = "*nat
        :PREROUTING ACCEPT [0:0]
        :OUTPUT ACCEPT [0:0]
        -A PREROUTING -d 198.51.100.7/32 -p tcp -m tcp --dport 81 -j DNAT --to-destination 192.0.2.12:8080
        COMMIT";
    let more = "b: listen tcp 0.0.0.0 8080\nb: route 10.1.1.2 via 192.0.2.1 dev eth0
        gw: route 10.1.1.0/24 via 192.0.2.11 dev eth0\ngw: sysctl ipv4/ip_forward 1";
    let state = ruled(more, "a", rules);
    let there = tcp(&state, "x1", "198.51.100.7", 81);
    assert_eq!(there.nat.len(), 1, "{there:#?}");
    let back = answer(&state, &there);
    assert_eq!(stops(&back), Vec::<String>::new(), "it comes back through a: {back:#?}");
    let more = format!("{more}\nx1: link up1 veth sw/p-x1\nsw: set p-x1 master br
        x1: addr 192.0.2.99/24 dev up1\nb: route del 10.1.1.2\nb: route 10.1.1.2 via 192.0.2.99 dev eth0");
    let state = ruled(&more, "a", rules);
    let back = answer(&state, &tcp(&state, "x1", "198.51.100.7", 81));
    assert_eq!(stops(&back), ["AnswerFromElsewhere"], "{back:#?}");
}

/// Who does not ask sends to itself, unless it was told.
#[test]
fn a_sender_without_arp() {
    let state = cluster("x1: set eth0 noarp");
    assert!(stops(&ping(&state, "x1", "10.1.1.3")).contains(&"NoArp".to_owned()));
    let mac = crate::diagnose::show::mac(device(&mut cluster(""), "x2", "eth0").mac.unwrap());
    let told = format!("x1: set eth0 noarp\nx1: neigh 10.1.1.3 mac {mac} dev eth0 permanent");
    assert_eq!(stops(&ping(&cluster(&told), "x1", "10.1.1.3")), Vec::<String>::new());
}

/// A static entry for the gateway's own address takes its frames to a pod.
#[test]
fn the_bridges_own_address_led_away() {
    let mac = crate::diagnose::show::mac(device(&mut cluster(""), "a", "br0").mac.unwrap());
    let mut state = cluster(&format!("a: fdb {mac} dev va2"));
    assert_eq!(stops(&ping(&state, "x1", "10.1.2.2")), Vec::<String>::new(), "a local entry");
    detail(&mut state, "a").fdb.iter_mut().for_each(|e| e.state = 0x40);
    assert!(stops(&ping(&state, "x1", "10.1.2.2")).contains(&"FdbElsewhere".to_owned()));
}

/// On the link of another bridge by design: the asker's own prefix is what is wrong.
#[test]
fn a_prefix_that_takes_in_another_bridge() {
    let more = "a: link br1 bridge\na: addr 10.1.3.1/24 dev br1
        a: link vc1 veth z1/eth0 master br1\nz1: addr 10.1.3.2/24 dev eth0
        x1: addr 10.1.1.2/16 dev eth0";
    let there = ping(&cluster(more), "x1", "10.1.3.2");
    assert_eq!(stops(&there), ["NobodyAnswers"], "{there:#?}");
}

#[test]
fn queues_that_lose_by_design() {
    let queue = |kind: &str| {
        let mut state = cluster(&format!("a: tc va2 egress {kind}"));
        for filter in &mut detail(&mut state, "a").tc {
            (filter.text, filter.drops) = (format!("qdisc {kind}"), false);
        }
        let walk = ping(&state, "x1", "10.1.1.3");
        (stops(&walk).len(), all(&walk).len())
    };
    assert_eq!((queue("netem"), queue("blackhole")), ((0, 1), (1, 1)));
}

#[test]
fn a_locked_port_takes_known_addresses_alone() {
    let state = cluster("a: set va1 locked");
    let walk = ping(&state, "x1", "10.1.1.3");
    assert!(stops(&walk).contains(&"PortLocked".to_owned()), "{:?}", all(&walk));
    let walk = ping(&cluster("a: set va2 locked"), "x2", "10.1.1.1");
    assert!(stops(&walk).contains(&"PortLocked".to_owned()), "{:?}", all(&walk));
    // With an entry for what is behind it.
    let x1 = state.netns[&inum(&state, "x1")].devices.values().find(|d| d.name == "eth0").unwrap();
    let mac = crate::diagnose::show::mac(x1.mac.unwrap());
    let known = cluster(&format!("a: set va1 locked\na: fdb {mac} dev va1 master"));
    let walk = ping(&known, "x1", "10.1.1.3");
    assert!(!all(&walk).contains(&"PortLocked".to_owned()), "{:?}", all(&walk));
}

#[test]
fn macvlans_talk_in_mode_bridge() {
    let two = |mode: &str| {
        cluster(&format!(
            "m1: link mv0 macvlan a/eth0 mode bridge\nm1: addr 10.9.0.1/24 dev mv0\n\
             m2: link mv0 macvlan a/eth0 mode {mode}\nm2: addr 10.9.0.2/24 dev mv0"
        ))
    };
    let walk = ping(&two("private"), "m1", "10.9.0.2");
    assert!(stops(&walk).contains(&"SiblingsApart".to_owned()), "{:?}", all(&walk));
    let walk = ping(&two("bridge"), "m1", "10.9.0.2");
    assert!(!all(&walk).contains(&"SiblingsApart".to_owned()), "{:?}", all(&walk));
}
