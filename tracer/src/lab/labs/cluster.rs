//! Lab `cluster`: two Kubernetes nodes joined by flannel's VXLAN, a Docker host, and the world
//! outside, all on one switch.

use super::{docker_rules, kube_nft_rules, kube_rules};
use crate::lab::Error;
use crate::lab::topology::{Choice, FdbEntry, Link, Neighbour, Proxy, Resolver, Rules, Topology};

/// MTU of what is inside the overlay: the underlay's 1500 less VXLAN's 50.
const POD_MTU: u32 = 1450;
const SEARCH: &str = "default.svc.cluster.local svc.cluster.local cluster.local";

/// Pods on a node's bridge.
const PODS: [(&str, &str, &str); 6] = [
    ("n1", "veth-p1", "p1"),
    ("n1", "veth-p2", "p2"),
    ("n1", "veth-p5", "p5"),
    ("n2", "veth-p3", "p3"),
    ("n2", "veth-p4", "p4"),
    ("n2", "veth-dns", "dns"),
];

/// Containers of the Docker host, and the bridge of the network that each is in.
const CONTAINERS: [(&str, &str, &str); 3] =
    [("veth-d1", "d1", "docker0"), ("veth-d3", "d3", "docker0"), ("veth-d2", "d2", "br-mynet")];

/// Each node's end of the overlay. The MAC spells the VTEP's address (10.244.N.0) as the CNI
/// plugins do, so the other node's entries for it are known before it exists, and stay right when
/// the device is made anew.
const VTEPS: [Vtep; 2] = [
    Vtep {
        node: "n1",
        ip: "192.168.50.11",
        vtep_ip: "10.244.1.0",
        cidr: "10.244.1.0/24",
        mac: "0a:58:0a:f4:01:00",
    },
    Vtep {
        node: "n2",
        ip: "192.168.50.12",
        vtep_ip: "10.244.2.0",
        cidr: "10.244.2.0/24",
        mac: "0a:58:0a:f4:02:00",
    },
];

struct Vtep {
    node: &'static str,
    ip: &'static str,
    vtep_ip: &'static str,
    cidr: &'static str,
    mac: &'static str,
}

pub(super) fn topology(choice: Choice) -> Result<Topology, Error> {
    let mut lab = Topology::default();
    lab.hosts(&[
        ("n1", "node 1: eth0 192.168.50.11, cni0 10.244.1.1, flannel.1"),
        ("n2", "node 2: eth0 192.168.50.12, cni0 10.244.2.1, flannel.1"),
        ("fab", "the switch between n1, n2, dh and ext"),
        ("ext", "gateway 192.168.50.1, and the outside: 203.0.113.10, DNS 203.0.113.53"),
        ("p1", "pod on n1, 10.244.1.2"),
        ("p2", "pod on n1, 10.244.1.3"),
        ("p3", "pod on n2, 10.244.2.2"),
        ("p4", "pod on n2, 10.244.2.3"),
        ("p5", "pod on n1, 10.244.1.5 (spare: serves no http)"),
        ("pc", "pod on n1, 10.244.1.200, routed as Calico does"),
        ("dns", "cluster DNS on n2, 10.244.2.53 (Service 10.96.0.10)"),
        ("dh", "Docker host 192.168.50.13, docker0 and br-mynet"),
        ("d1", "container on docker0, 172.17.0.2 (published as dh:8080)"),
        ("d2", "container on br-mynet, 172.18.0.2"),
        ("d3", "container on docker0, 172.17.0.3"),
    ]);
    add_links(&mut lab)?;
    add_addresses(&mut lab)?;
    add_routes(&mut lab)?;
    add_overlay(&mut lab)?;
    add_sysctls(&mut lab);
    for vtep in &VTEPS {
        let text = kube_rules::render(vtep.node, vtep.cidr, choice.proxy);
        lab.rules.push(Rules { host: vtep.node, text });
        if choice.proxy == Proxy::Nftables {
            let text = kube_nft_rules::render(vtep.node, vtep.ip, vtep.cidr);
            lab.nft.push(Rules { host: vtep.node, text });
        }
    }
    lab.rules.push(Rules { host: "dh", text: docker_rules::RULES.to_owned() });
    for host in ["p1", "p2", "p3", "p4", "pc"] {
        lab.resolvers.push(Resolver { host, nameserver: "10.96.0.10", search: SEARCH });
    }
    add_servers(&mut lab)?;
    if choice.ipv6 {
        add_ipv6(&mut lab)?;
    }
    lab.tries = vec![
        ("lab exec p1 -- ping -c1 10.244.2.2", "pod p1 on n1 to pod p3 on n2, through VXLAN"),
        ("lab exec p1 -- curl -s 10.96.45.100", "pod to Service, p2 or p3 answers"),
        ("lab healthy", "whether all of the lab works"),
        ("lab list --faults", "what `lab break` can break, to find out why"),
        ("--dst 10.244.2.2", "follow what goes to p3, in another terminal"),
    ];
    Ok(lab)
}

fn add_links(lab: &mut Topology) -> Result<(), Error> {
    lab.links.push(Link::bridge("fab", "sw0", 1500));
    let ports = [("port-n1", "n1"), ("port-n2", "n2"), ("port-dh", "dh"), ("port-ext", "ext")];
    for (port, host) in ports {
        lab.links.push(Link::veth("fab", port, host, 1500).port_of("sw0"));
    }
    for node in ["n1", "n2"] {
        lab.links.push(Link::bridge(node, "cni0", POD_MTU));
    }
    for vtep in &VTEPS {
        let link = Link::vxlan(vtep.node, "flannel.1", vtep.ip, POD_MTU);
        lab.links.push(Link { mac: Some(vtep.mac.parse()?), ..link });
    }
    for (node, dev, pod) in PODS {
        lab.links.push(Link::veth(node, dev, pod, POD_MTU).port_of("cni0").hairpin());
    }
    let cali = Link::veth("n1", "cali1", "pc", POD_MTU);
    lab.links.push(Link { mac: Some("ee:ee:ee:ee:ee:ee".parse()?), ..cali });
    for bridge in ["docker0", "br-mynet"] {
        lab.links.push(Link::bridge("dh", bridge, 1500));
    }
    for (dev, host, bridge) in CONTAINERS {
        lab.links.push(Link::veth("dh", dev, host, 1500).port_of(bridge));
    }
    Ok(())
}

fn add_addresses(lab: &mut Topology) -> Result<(), Error> {
    lab.addresses(&[
        ("n1", "eth0", "192.168.50.11/24"),
        ("n1", "cni0", "10.244.1.1/24"),
        ("n1", "flannel.1", "10.244.1.0/32"),
        ("n2", "eth0", "192.168.50.12/24"),
        ("n2", "cni0", "10.244.2.1/24"),
        ("n2", "flannel.1", "10.244.2.0/32"),
        ("ext", "eth0", "192.168.50.1/24"),
        ("ext", "lo", "203.0.113.10/32"),
        ("ext", "lo", "203.0.113.53/32"),
        ("p1", "eth0", "10.244.1.2/24"),
        ("p2", "eth0", "10.244.1.3/24"),
        ("p5", "eth0", "10.244.1.5/24"),
        ("pc", "eth0", "10.244.1.200/32"),
        ("p3", "eth0", "10.244.2.2/24"),
        ("p4", "eth0", "10.244.2.3/24"),
        ("dns", "eth0", "10.244.2.53/24"),
        ("dh", "eth0", "192.168.50.13/24"),
        ("dh", "docker0", "172.17.0.1/16"),
        ("dh", "br-mynet", "172.18.0.1/16"),
        ("d1", "eth0", "172.17.0.2/16"),
        ("d2", "eth0", "172.18.0.2/16"),
        ("d3", "eth0", "172.17.0.3/16"),
    ])
}

fn add_routes(lab: &mut Topology) -> Result<(), Error> {
    lab.routes(&[
        ("n1", "default via 192.168.50.1"),
        ("n2", "default via 192.168.50.1"),
        ("dh", "default via 192.168.50.1"),
        ("p1", "default via 10.244.1.1"),
        ("p2", "default via 10.244.1.1"),
        ("p5", "default via 10.244.1.1"),
        ("p3", "default via 10.244.2.1"),
        ("p4", "default via 10.244.2.1"),
        ("dns", "default via 10.244.2.1"),
        ("pc", "169.254.1.1 dev eth0"),
        ("pc", "default via 169.254.1.1 dev eth0"),
        ("n1", "10.244.1.200 dev cali1"),
        ("n1", "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink"),
        ("n2", "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink"),
        ("d1", "default via 172.17.0.1"),
        ("d3", "default via 172.17.0.1"),
        ("d2", "default via 172.18.0.1"),
    ])
}

/// Each node knows the other's VTEP, as flannel writes it down.
fn add_overlay(lab: &mut Topology) -> Result<(), Error> {
    let [one, two] = &VTEPS;
    let bad = |_| Error::BadSpec("a VTEP's address does not parse".to_owned());
    for (here, there) in [(one, two), (two, one)] {
        let (host, dev, mac) = (here.node, "flannel.1", there.mac.parse()?);
        let ip = there.vtep_ip.parse().map_err(bad)?;
        let remote = there.ip.parse().map_err(bad)?;
        lab.neighbours.push(Neighbour { host, dev, ip, mac });
        lab.fdb.push(FdbEntry { host, dev, mac, remote });
    }
    Ok(())
}

fn add_sysctls(lab: &mut Topology) {
    for node in ["n1", "n2"] {
        lab.sysctls(
            node,
            &[
                ("net.ipv4.ip_forward", "1"),
                ("net.ipv4.conf.all.route_localnet", "1"),
                ("net.bridge.bridge-nf-call-iptables", "1"),
            ],
        );
    }
    lab.sysctls("dh", &[("net.ipv4.ip_forward", "1"), ("net.bridge.bridge-nf-call-iptables", "1")]);
    lab.sysctls(
        "n1",
        &[("net.ipv4.conf.cali1.proxy_arp", "1"), ("net.ipv4.neigh.cali1.proxy_delay", "0")],
    );
}

fn add_servers(lab: &mut Topology) -> Result<(), Error> {
    lab.servers(&[
        "p1 tcp 0.0.0.0 8080 http",
        "p2 tcp 0.0.0.0 8080 http",
        "p3 tcp 0.0.0.0 8080 http",
        "p4 tcp 0.0.0.0 8080 http",
        "pc tcp 0.0.0.0 8080 http",
        "dns udp 0.0.0.0 53 dns",
        "dns tcp 0.0.0.0 53 dns",
        "ext tcp 0.0.0.0 80 http",
        "ext udp 203.0.113.53 53 updns",
        "n1 tcp 0.0.0.0 6443 http",
        "n1 tcp 0.0.0.0 10250 http",
        "d1 tcp 0.0.0.0 80 http",
        "d2 tcp 0.0.0.0 80 http",
        "d3 tcp 0.0.0.0 80 http",
    ])?;
    lab.datagram_servers(&["p1", "p2", "p3", "p4", "p5", "pc", "d1", "d2", "d3"])
}

/// IPv6 beside IPv4: the same plan in fd00::/8, routed between the nodes over the underlay, no
/// NAT, so the outside has routes back.
fn add_ipv6(lab: &mut Topology) -> Result<(), Error> {
    lab.addresses(&[
        ("n1", "eth0", "fd00:192:168:50::11/64"),
        ("n1", "cni0", "fd00:10:244:1::1/64"),
        ("n2", "eth0", "fd00:192:168:50::12/64"),
        ("n2", "cni0", "fd00:10:244:2::1/64"),
        ("ext", "eth0", "fd00:192:168:50::1/64"),
        ("ext", "lo", "fd00:203:0:113::10/128"),
        ("p1", "eth0", "fd00:10:244:1::2/64"),
        ("p2", "eth0", "fd00:10:244:1::3/64"),
        ("p5", "eth0", "fd00:10:244:1::5/64"),
        ("pc", "eth0", "fd00:10:244:1::200/128"),
        ("p3", "eth0", "fd00:10:244:2::2/64"),
        ("p4", "eth0", "fd00:10:244:2::3/64"),
        ("dns", "eth0", "fd00:10:244:2::53/64"),
        ("dh", "eth0", "fd00:192:168:50::13/64"),
        ("dh", "docker0", "fd00:172:17::1/64"),
        ("dh", "br-mynet", "fd00:172:18::1/64"),
        ("d1", "eth0", "fd00:172:17::2/64"),
        ("d2", "eth0", "fd00:172:18::2/64"),
        ("d3", "eth0", "fd00:172:17::3/64"),
    ])?;
    lab.routes(&[
        ("n1", "default via fd00:192:168:50::1"),
        ("n2", "default via fd00:192:168:50::1"),
        ("dh", "default via fd00:192:168:50::1"),
        ("n1", "fd00:10:244:2::/64 via fd00:192:168:50::12"),
        ("n2", "fd00:10:244:1::/64 via fd00:192:168:50::11"),
        ("n1", "fd00:10:244:1::200 dev cali1"),
        // cali1's link-local address, made from its hardware address.
        ("pc", "default via fe80::ecee:eeff:feee:eeee dev eth0"),
        ("p1", "default via fd00:10:244:1::1"),
        ("p2", "default via fd00:10:244:1::1"),
        ("p5", "default via fd00:10:244:1::1"),
        ("p3", "default via fd00:10:244:2::1"),
        ("p4", "default via fd00:10:244:2::1"),
        ("dns", "default via fd00:10:244:2::1"),
        ("d1", "default via fd00:172:17::1"),
        ("d3", "default via fd00:172:17::1"),
        ("d2", "default via fd00:172:18::1"),
        ("ext", "fd00:10:244:1::/64 via fd00:192:168:50::11"),
        ("ext", "fd00:10:244:2::/64 via fd00:192:168:50::12"),
        ("ext", "fd00:172:17::/64 via fd00:192:168:50::13"),
        ("ext", "fd00:172:18::/64 via fd00:192:168:50::13"),
    ])?;
    for router in ["n1", "n2", "dh"] {
        lab.sysctls(router, &[("net.ipv6.conf.all.forwarding", "1")]);
    }
    Ok(())
}
