//! "A pod cannot reach another one of the same node": veth, bridge, pod, application, policy.

use super::Fault;
use super::op::{Edit, Op, iptables, link, serve_tcp, sysctl};
use crate::lab::addr::Mac;
use crate::lab::netlink::{Hook, LinkChange};
use crate::lab::server::Kind;

const fn fault(id: &'static str, title: &'static str) -> Fault {
    Fault::new("same-node", id, title)
}

/// p1 cannot reach p2 at all.
const fn no_ping(id: &'static str, title: &'static str) -> Fault {
    fault(id, title).probes(&["same"], &["cross"]).target("p1", "10.244.1.3", "icmp")
}

/// p1 can ping p2 and not fetch from it.
const fn no_tcp(id: &'static str, title: &'static str) -> Fault {
    fault(id, title).probes(&["sametcp"], &["sameping", "cross"]).target(
        "p1",
        "10.244.1.3:8080",
        "tcp",
    )
}

const fn program(host: &'static str, dev: &'static str, hook: Hook) -> Op {
    Op::Program { host, dev, hook, on: true }
}

/// The chain that kube-router makes for a pod with a policy.
const POD_CHAIN: Op = iptables("n1", "-N KUBE-POD-FW-P2");
const TO_POD_CHAIN: Op = iptables(
    "n1",
    "-A KUBE-ROUTER-FORWARD -d 10.244.1.3/32 -m conntrack --ctstate NEW -j KUBE-POD-FW-P2",
);

pub(super) const FAULTS: &[Fault] = &[
    no_ping("veth-host-down", "the node's end of p2's veth is down")
        .on("n1", "veth-p2")
        .breaks(&[link("n1", "veth-p2", LinkChange::Down)]),
    no_ping("veth-pod-down", "eth0 inside p2 is down")
        .on("p2", "eth0")
        .breaks(&[link("p2", "eth0", LinkChange::Down)]),
    no_ping("veth-detached-from-bridge", "p2's veth is up but not a port of cni0")
        .on("n1", "veth-p2")
        .breaks(&[link("n1", "veth-p2", LinkChange::NoMaster)]),
    no_ping("veth-missing", "p2 has no veth at all")
        .at("p2", "no veth")
        .breaks(&[Op::DelLink { host: "n1", dev: "veth-p2" }]),
    fault("bridge-down", "the bridge cni0 of n1 is down")
        .probes(&["same", "cross", "egress"], &["loc"])
        .target("p1", "10.244.1.3", "icmp")
        .on("n1", "cni0")
        .breaks(&[link("n1", "cni0", LinkChange::Down)]),
    fault("pod-ip-missing-client", "p1 has no address")
        .probes(&["same", "cross"], &["loc"])
        .target("p1", "10.244.1.3", "icmp")
        .on("p1", "eth0")
        .by("address 10.244.1.2/24")
        .breaks(&[Op::DelAddress { host: "p1", dev: "eth0", cidr: "10.244.1.2/24" }]),
    no_ping("neigh-stale-permanent", "p1 has a permanent neighbour entry for p2 with a wrong MAC")
        .on("p1", "eth0")
        .by("neighbour 10.244.1.3")
        .breaks(&[Op::SetNeighbour {
            host: "p1",
            dev: "eth0",
            ip: "10.244.1.3",
            mac: Mac([2, 0, 0, 0, 0, 0x99]),
        }]),
    no_ping("bridge-port-isolated", "the bridge ports of p1 and p2 are isolated from each other")
        .at("n1", "bridge port flag isolated")
        .breaks(&[
            link("n1", "veth-p1", LinkChange::Isolated(true)),
            link("n1", "veth-p2", LinkChange::Isolated(true)),
        ]),
    no_ping("bridge-port-blocking", "p2's bridge port is not in state forwarding")
        .on("n1", "veth-p2")
        .by("bridge port state")
        .breaks(&[link("n1", "veth-p2", LinkChange::Forwarding(false))]),
    no_ping("pod-arp-ignore", "p2 does not answer ARP")
        .at("p2", "sysctl net.ipv4.conf.all.arp_ignore")
        .breaks(&[sysctl("p2", "net.ipv4.conf.all.arp_ignore", "8", "0")]),
    fault("lo-down", "lo inside p1 is down")
        .probes(&["loc"], &["same", "cross"])
        .target("p1", "127.0.0.1:8080", "tcp")
        .on("p1", "lo")
        .breaks(&[link("p1", "lo", LinkChange::Down)]),
    no_tcp("app-listens-localhost", "the application in p2 listens on 127.0.0.1 only")
        .at("p2", "tcp port 8080")
        .breaks(&[serve_tcp("p2", 8080, Edit::Loopback)]),
    no_tcp("app-not-listening", "nothing listens on p2's port")
        .at("p2", "tcp port 8080")
        .breaks(&[serve_tcp("p2", 8080, Edit::Stop)]),
    no_tcp("app-backlog-full", "the application in p2 accepts nothing and its queue is full")
        .at("p2", "tcp port 8080")
        .breaks(&[
            serve_tcp("p2", 8080, Edit::Become(Kind::Stalled)),
            Op::Connect { host: "p1", to: "10.244.1.3:8080", times: 3 },
        ]),
    no_tcp("app-hung", "the application in p2 takes connections and never answers")
        .at("p2", "tcp port 8080")
        .breaks(&[serve_tcp("p2", 8080, Edit::Become(Kind::Hang))]),
    no_ping("xdp-drop-on-veth", "a generic XDP program on p2's eth0 drops everything")
        .on("p2", "eth0")
        .by("xdpgeneric program")
        .breaks(&[program("p2", "eth0", Hook::XdpGeneric)]),
    no_ping("xdp-native-drop-on-veth", "a native XDP program on p2's eth0 drops everything")
        .on("p2", "eth0")
        .by("xdpdrv program")
        .breaks(&[program("p2", "eth0", Hook::XdpDriver)]),
    no_ping("tc-ingress-drop", "a tc program drops all that p2 sends")
        .on("n1", "veth-p2")
        .by("clsact ingress filter")
        .breaks(&[program("n1", "veth-p2", Hook::TcIngress)]),
    no_ping("tc-egress-drop", "a tc program drops all that goes to p2")
        .on("n1", "veth-p2")
        .by("clsact egress filter")
        .breaks(&[program("n1", "veth-p2", Hook::TcEgress)]),
    no_ping("netpol-ingress-drop", "a network policy drops all connections to p2")
        .at("n1", "filter/KUBE-POD-FW-P2")
        .breaks(&[
            POD_CHAIN,
            TO_POD_CHAIN,
            iptables(
                "n1",
                r#"-A KUBE-POD-FW-P2 -m comment --comment "default-deny ingress" -j DROP"#,
            ),
        ]),
    no_ping("netpol-ingress-reject", "a network policy rejects all connections to p2")
        .at("n1", "filter/KUBE-POD-FW-P2")
        .breaks(&[
            POD_CHAIN,
            TO_POD_CHAIN,
            iptables(
                "n1",
                r#"-A KUBE-POD-FW-P2 -m comment --comment "rule to REJECT traffic destined for POD" -j REJECT"#,
            ),
        ]),
    no_ping("netpol-ipset-stale", "a network policy allows a set of sources that lacks p1")
        .at("n1", "ipset KUBE-SRC-AAAA")
        .breaks(&[
            Op::AddIpset { host: "n1", name: "KUBE-SRC-AAAA", member: "10.244.1.77" },
            iptables(
                "n1",
                "-A KUBE-ROUTER-FORWARD -d 10.244.1.3/32 -m conntrack --ctstate NEW -m set ! --match-set KUBE-SRC-AAAA src -j DROP",
            ),
        ]),
    fault("netpol-port-mismatch", "a network policy allows port 80, and p2 listens on 8080")
        .probes(&["sametcp"], &["cross"])
        .target("p1", "10.244.1.3:8080", "tcp")
        .at("n1", "filter/KUBE-ROUTER-FORWARD")
        .breaks(&[
            iptables("n1", "-A KUBE-ROUTER-FORWARD -d 10.244.1.3/32 -p tcp --dport 80 -j ACCEPT"),
            iptables(
                "n1",
                "-A KUBE-ROUTER-FORWARD -d 10.244.1.3/32 -m conntrack --ctstate NEW -j DROP",
            ),
        ]),
    fault("macvlan-host-isolation", "a macvlan above n1's eth0 never reaches n1 itself")
        .probes(&["mvhost"], &["mvpeer"])
        .target("n1", "192.168.50.55", "icmp")
        .on("p5", "mv0")
        .breaks(&[
            Op::AddMacvlan { host: "n1", parent: "eth0", into: "p5", dev: "mv0" },
            Op::AddAddress { host: "p5", dev: "mv0", cidr: "192.168.50.55/24" },
            link("p5", "mv0", LinkChange::Up),
        ]),
];
