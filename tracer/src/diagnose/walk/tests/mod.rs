//! The walk on hand-made nodes: a cluster as overlays make it, and one fault at a time.

pub(in crate::diagnose) mod build;
mod enter;
mod faults;
mod rare;
mod service;
pub(in crate::diagnose) mod vlans;
mod ways;

use super::*;
pub(in crate::diagnose) use build::inum;
use build::node;

/// Two nodes with a bridge and a VXLAN each, a switch between them, and the outside: other names
/// and addresses than any lab's.
const CLUSTER: &str = "
    sw: link br bridge
    sw: link p-a veth a/eth0 master br
    sw: link p-b veth b/eth0 master br
    sw: link p-gw veth gw/eth0 master br
    a: addr 192.0.2.11/24 dev eth0
    a: link br0 bridge mtu 1450
    a: addr 10.1.1.1/24 dev br0
    a: link vx0 vxlan id 9 local 192.0.2.11 port 8472 mtu 1450 mac 02:aa:00:00:00:01
    a: addr 10.1.1.0/32 dev vx0
    a: link va1 veth x1/eth0 master br0 hairpin mtu 1450
    a: link va2 veth x2/eth0 master br0 hairpin mtu 1450
    a: link cal0 veth x5/eth0 mtu 1450
    a: route default via 192.0.2.1 dev eth0
    a: route 10.1.2.0/24 via 10.1.2.0 dev vx0
    a: route 10.1.1.200 dev cal0
    a: neigh 10.1.2.0 mac 02:aa:00:00:00:02 dev vx0 permanent
    a: fdb 02:aa:00:00:00:02 dev vx0 dst 192.0.2.12
    a: sysctl ipv4/ip_forward 1
    a: sysctl bridge/bridge-nf-call-iptables 1
    a: sysctl ipv4/conf/cal0/proxy_arp 1
    b: addr 192.0.2.12/24 dev eth0
    b: link br0 bridge mtu 1450
    b: addr 10.1.2.1/24 dev br0
    b: link vx0 vxlan id 9 local 192.0.2.12 port 8472 mtu 1450 mac 02:aa:00:00:00:02
    b: addr 10.1.2.0/32 dev vx0
    b: link vb1 veth y1/eth0 master br0 mtu 1450
    b: route default via 192.0.2.1 dev eth0
    b: route 10.1.1.0/24 via 10.1.1.0 dev vx0
    b: neigh 10.1.1.0 mac 02:aa:00:00:00:01 dev vx0 permanent
    b: fdb 02:aa:00:00:00:01 dev vx0 dst 192.0.2.11
    b: sysctl ipv4/ip_forward 1
    b: sysctl bridge/bridge-nf-call-iptables 1
    x1: addr 10.1.1.2/24 dev eth0
    x1: route default via 10.1.1.1 dev eth0
    x1: listen tcp 0.0.0.0 8080
    x2: addr 10.1.1.3/24 dev eth0
    x2: route default via 10.1.1.1 dev eth0
    x2: listen tcp 0.0.0.0 8080 limit 128
    x5: addr 10.1.1.200/32 dev eth0
    x5: route 169.254.1.1 dev eth0
    x5: route default via 169.254.1.1 dev eth0
    y1: addr 10.1.2.2/24 dev eth0
    y1: route default via 10.1.2.1 dev eth0
    y1: listen tcp 0.0.0.0 8080
    y1: listen udp 0.0.0.0 53 limit 200000
    gw: addr 192.0.2.1/24 dev eth0
    gw: addr 198.51.100.7/32 dev lo
    gw: listen tcp 0.0.0.0 80
";

/// The cluster with more lines.
pub(in crate::diagnose) fn cluster(more: &str) -> NetworkState {
    node(&format!("{CLUSTER}\n{more}"))
}

/// The cluster with more lines, and rules in a namespace as `iptables-save` prints them.
pub(in crate::diagnose) fn ruled(more: &str, netns: &str, rules: &str) -> NetworkState {
    let mut state = cluster(more);
    let text: String = rules.lines().map(|l| format!("{}\n", l.trim())).collect();
    let inum = inum(&state, netns);
    let detail = state.netns.get_mut(&inum).unwrap().detail.as_mut().unwrap();
    detail.firewall.tables = crate::firewall::parse_iptables(&text);
    state
}

pub(in crate::diagnose) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ping(state: &NetworkState, from: &str, to: &str) -> Walk {
    walk(state, &Scope::everything(), &Ask::ping(inum(state, from), ip(to)))
}

fn tcp(state: &NetworkState, from: &str, to: &str, port: u16) -> Walk {
    walk(state, &Scope::everything(), &Ask::tcp(inum(state, from), ip(to), port))
}

fn answer(state: &NetworkState, request: &Walk) -> Walk {
    walk_reply(state, &Scope::everything(), request).expect("the request arrives")
}

/// What stops the walk, by the kinds' names.
fn stops(walk: &Walk) -> Vec<String> {
    let all = walk.obstacles().filter(|(_, o)| o.stops());
    all.map(|(_, o)| kind(&o.kind)).collect()
}

/// Everything that is in the way.
fn all(walk: &Walk) -> Vec<String> {
    walk.obstacles().map(|(_, o)| kind(&o.kind)).collect()
}

fn kind(kind: &ObstacleKind) -> String {
    let text = format!("{kind:?}");
    text.split([' ', '{']).next().unwrap_or_default().to_owned()
}
