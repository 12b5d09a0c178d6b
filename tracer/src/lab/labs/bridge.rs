//! Lab `bridge`: one node, its pods on a bridge, and the world behind a gateway.

use crate::lab::Error;
use crate::lab::probe::{Probe, get, ping};
use crate::lab::topology::{Choice, Link, Rules, Topology};

const PODS: [(&str, &str); 3] = [("p1", "veth-p1"), ("p2", "veth-p2"), ("p3", "veth-p3")];

pub(super) const PROBES: &[Probe] = &[
    Probe::healthy(
        "same",
        "p1 reaches p2",
        &[ping("p1", "10.244.1.3"), get("p1", "10.244.1.3:8080/")],
    ),
    Probe::healthy("same3", "p1 fetches from p3", &[get("p1", "10.244.1.4:8080/")]),
    Probe::healthy("samebig", "p2 sends p1 200 kB", &[get("p1", "10.244.1.3:8080/big")]),
    Probe::healthy("egress", "p1 reaches 203.0.113.10", &[get("p1", "203.0.113.10:80/")]),
    Probe::healthy("egress2", "p2 reaches 203.0.113.10", &[get("p2", "203.0.113.10:80/")]),
    Probe::healthy("host2pod", "n1 fetches from p1", &[get("n1", "10.244.1.2:8080/")]),
    Probe::healthy("pod2host", "p1 pings n1", &[ping("p1", "10.244.1.1")]),
    Probe::healthy("gateway", "n1 pings gw", &[ping("n1", "192.168.50.1")]),
    Probe::ipv6("same6", "p1 pings p2 over IPv6", &[ping("p1", "fd00:10:244:1::3")]),
    Probe::ipv6("egress6", "p1 pings the outside over IPv6", &[ping("p1", "fd00:203:0:113::10")]),
];

pub(super) fn topology(choice: Choice) -> Result<Topology, Error> {
    let mut lab = Topology::default();
    lab.hosts(&[
        ("n1", "node: eth0 192.168.50.11, cni0 10.244.1.1"),
        ("gw", "gateway 192.168.50.1, and the outside: 203.0.113.10"),
        ("p1", "pod 10.244.1.2"),
        ("p2", "pod 10.244.1.3"),
        ("p3", "pod 10.244.1.4"),
    ]);
    lab.links.push(Link::veth("gw", "eth0", "n1", 1500));
    lab.links.push(Link::bridge("n1", "cni0", 1500));
    for (pod, dev) in PODS {
        lab.links.push(Link::veth("n1", dev, pod, 1500).port_of("cni0").hairpin());
    }
    lab.addresses(&[
        ("gw", "eth0", "192.168.50.1/24"),
        ("gw", "lo", "203.0.113.10/32"),
        ("n1", "eth0", "192.168.50.11/24"),
        ("n1", "cni0", "10.244.1.1/24"),
        ("p1", "eth0", "10.244.1.2/24"),
        ("p2", "eth0", "10.244.1.3/24"),
        ("p3", "eth0", "10.244.1.4/24"),
    ])?;
    lab.routes(&[
        ("n1", "default via 192.168.50.1"),
        ("p1", "default via 10.244.1.1"),
        ("p2", "default via 10.244.1.1"),
        ("p3", "default via 10.244.1.1"),
    ])?;
    lab.sysctls("n1", &[("net.ipv4.ip_forward", "1")]);
    lab.rules.push(Rules { host: "n1", text: MASQUERADE.to_owned() });
    if choice.ipv6 {
        add_ipv6(&mut lab)?;
    }
    for (pod, _) in PODS {
        lab.servers.push(format!("{pod} tcp 0.0.0.0 8080 http").parse()?);
    }
    lab.servers(&["gw tcp 0.0.0.0 80 http"])?;
    lab.datagram_servers(&PODS.map(|(pod, _)| pod))?;
    lab.tries = vec![
        ("lab exec p1 -- ping -c1 10.244.1.3", "pod to pod, over the bridge"),
        ("lab exec p1 -- ping -c1 203.0.113.10", "pod to the outside, masqueraded"),
        ("--dst 203.0.113.10", "follow it, in another terminal"),
    ];
    Ok(lab)
}

const MASQUERADE: &str = "*nat
-A POSTROUTING -s 10.244.1.0/24 ! -o cni0 -m comment --comment \"pods to the outside\" -j MASQUERADE
COMMIT
";

fn add_ipv6(lab: &mut Topology) -> Result<(), Error> {
    lab.addresses(&[
        ("gw", "eth0", "fd00:192:168:50::1/64"),
        ("gw", "lo", "fd00:203:0:113::10/128"),
        ("n1", "eth0", "fd00:192:168:50::11/64"),
        ("n1", "cni0", "fd00:10:244:1::1/64"),
        ("p1", "eth0", "fd00:10:244:1::2/64"),
        ("p2", "eth0", "fd00:10:244:1::3/64"),
        ("p3", "eth0", "fd00:10:244:1::4/64"),
    ])?;
    lab.routes(&[
        ("n1", "default via fd00:192:168:50::1"),
        ("gw", "fd00:10:244:1::/64 via fd00:192:168:50::11"),
        ("p1", "default via fd00:10:244:1::1"),
        ("p2", "default via fd00:10:244:1::1"),
        ("p3", "default via fd00:10:244:1::1"),
    ])?;
    lab.sysctls("n1", &[("net.ipv6.conf.all.forwarding", "1")]);
    Ok(())
}
