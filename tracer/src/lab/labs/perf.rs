//! Lab `perf`: a node that routes between a client as Calico connects it, two servers, and a far
//! one behind a link of 40 ms each way. What is slow in it can be measured.

use std::time::Duration;

use crate::lab::Error;
use crate::lab::probe::{Measure, Probe, get, lookup, ping};
use crate::lab::topology::{Choice, Link, Resolver, Rules, Topology};

const DELAY: Duration = Duration::from_millis(40);

/// The first part tells whether the lab works. What measures needs the machine for itself, so it
/// does not run with the rest; on a healthy lab it is as fast as is asked for, by far.
pub(super) const PROBES: &[Probe] = &[
    Probe::healthy("reach", "app pings web", &[ping("app", "10.50.2.2")]),
    Probe::healthy("beside", "peer pings web", &[ping("peer", "10.50.2.2")]),
    Probe::healthy("tcp", "app fetches from web", &[get("app", "10.50.2.2:80/")]),
    Probe::healthy("far", "app pings far", &[ping("app", "192.0.2.9")]),
    Probe::healthy("dns", "app resolves web", &[lookup("app", "web")]),
    Probe::ipv6("reach6", "app pings web over IPv6", &[ping("app", "fd00:10:50:2::2")]),
    Probe::ipv6("far6", "app pings far over IPv6", &[ping("app", "fd00:192:0:2::9")]),
    Probe::measured(
        "rtt",
        "round trips from app to web",
        "app",
        Measure::RoundTrip { to: "10.50.2.2:8080", most: Duration::from_micros(250) },
    ),
    Probe::measured(
        "upload",
        "app sends to web",
        "app",
        Measure::Upload { to: "10.50.2.2:9000", least: 40_000_000 },
    ),
    Probe::measured(
        "download",
        "app receives from far",
        "app",
        Measure::Download { to: "192.0.2.9:9001", least: 2_000_000 },
    ),
    Probe::measured(
        "farload",
        "app sends to far",
        "app",
        Measure::Upload { to: "192.0.2.9:9000", least: 2_000_000 },
    ),
    Probe::measured(
        "byapp",
        "app sends to web, compared with peer",
        "app",
        Measure::Compare { to: "10.50.2.2:9000", other: ("peer", "10.50.2.2:9000"), least: 75 },
    ),
    Probe::measured(
        "toweb",
        "app sends to web, compared with app to peer",
        "app",
        Measure::Compare { to: "10.50.2.2:9000", other: ("app", "10.50.3.2:9000"), least: 75 },
    ),
    Probe::measured(
        "logs",
        "web takes bursts of datagrams from app",
        "app",
        Measure::Burst { to: "10.50.2.2:514", at_once: 100, least: 90 },
    ),
    Probe::measured(
        "questions",
        "web answers datagrams from app, each from another port",
        "app",
        Measure::Questions { to: "10.50.2.2:9002", least: 90 },
    ),
    Probe::measured(
        "connect",
        "app connects to web 40 times at once",
        "app",
        Measure::Connect { to: "10.50.2.2:8443", at_once: 40, most: Duration::from_millis(700) },
    ),
    Probe::measured(
        "first",
        "app connects to web when it knows no neighbour",
        "app",
        Measure::FirstPacket { to: "10.50.2.2:8080", most: Duration::from_millis(80) },
    ),
    Probe::measured(
        "lookup",
        "app resolves web fast",
        "app",
        Measure::Lookup { name: "web", most: Duration::from_millis(400) },
    ),
];

pub(super) fn topology(choice: Choice) -> Result<Topology, Error> {
    let mut lab = Topology::default();
    lab.hosts(&[
        ("app", "client, 10.50.1.2"),
        ("node", "router: va, vw, vp, wan0"),
        ("web", "server, 10.50.2.2"),
        ("peer", "the other server, and name server, 10.50.3.2"),
        ("far", "server 192.0.2.9 behind the long link, and 203.0.113.53, which is silent"),
    ]);
    lab.links.push(Link::veth("node", "va", "app", 1500));
    lab.links.push(Link::veth("node", "vw", "web", 1500));
    lab.links.push(Link::veth("node", "vp", "peer", 1500));
    lab.links.push(Link::long("node", "wan0", "far", DELAY));
    lab.addresses(&[
        ("app", "eth0", "10.50.1.2/32"),
        ("node", "vw", "10.50.2.1/24"),
        ("node", "vp", "10.50.3.1/24"),
        ("node", "wan0", "192.0.2.1/24"),
        ("web", "eth0", "10.50.2.2/24"),
        ("peer", "eth0", "10.50.3.2/24"),
        ("far", "wan0", "192.0.2.9/24"),
        ("far", "lo", "203.0.113.53/32"),
    ])?;
    lab.routes(&[
        ("app", "169.254.1.1 dev eth0"),
        ("app", "default via 169.254.1.1 dev eth0"),
        ("node", "10.50.1.2 dev va"),
        ("node", "default via 192.0.2.9"),
        ("web", "default via 10.50.2.1"),
        ("peer", "default via 10.50.3.1"),
        ("far", "default via 192.0.2.1"),
    ])?;
    lab.sysctls(
        "node",
        &[
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv4.conf.va.proxy_arp", "1"),
            ("net.ipv4.neigh.va.proxy_delay", "0"),
        ],
    );
    lab.sysctls("web", &[("net.core.somaxconn", "4096")]);
    lab.sysctls("app", &[("net.ipv4.tcp_rmem", RMEM), ("net.ipv4.tcp_wmem", WMEM)]);
    lab.rules.push(Rules { host: "node", text: "*filter\nCOMMIT\n*nat\nCOMMIT\n".to_owned() });
    let search = "default.svc.cluster.local svc.cluster.local cluster.local";
    lab.resolvers.push(Resolver { host: "app", nameserver: "10.50.3.2", search });
    lab.servers(&[
        "web tcp 0.0.0.0 80 http",
        "web tcp 0.0.0.0 8080 echo",
        "web tcp 0.0.0.0 8443 paced",
        "web tcp 0.0.0.0 9000 sink",
        "web udp 0.0.0.0 514 paced",
        "web udp 0.0.0.0 9002 echo",
        "peer tcp 0.0.0.0 9000 sink",
        "peer udp 0.0.0.0 53 dns",
        "far tcp 0.0.0.0 9000 sink",
        "far tcp 0.0.0.0 9001 source",
        "far udp 203.0.113.53 53 hang",
    ])?;
    if choice.ipv6 {
        add_ipv6(&mut lab)?;
    }
    lab.tries = vec![
        ("lab list --faults", "what `lab break` can make slow, to find out why"),
        ("lab probe rtt", "one of the measurements; without a name, all there are"),
        ("lab healthy", "whether all of the lab works"),
    ];
    Ok(lab)
}

fn add_ipv6(lab: &mut Topology) -> Result<(), Error> {
    lab.addresses(&[
        ("app", "eth0", "fd00:10:50:1::2/64"),
        ("node", "va", "fd00:10:50:1::1/64"),
        ("node", "vw", "fd00:10:50:2::1/64"),
        ("node", "vp", "fd00:10:50:3::1/64"),
        ("node", "wan0", "fd00:192:0:2::1/64"),
        ("web", "eth0", "fd00:10:50:2::2/64"),
        ("peer", "eth0", "fd00:10:50:3::2/64"),
        ("far", "wan0", "fd00:192:0:2::9/64"),
    ])?;
    lab.sysctls("node", &[("net.ipv6.conf.all.forwarding", "1")]);
    lab.routes(&[
        ("app", "default via fd00:10:50:1::1"),
        ("web", "default via fd00:10:50:2::1"),
        ("peer", "default via fd00:10:50:3::1"),
        ("far", "default via fd00:192:0:2::1"),
    ])
}

/// The kernel's own defaults: the machine may have others.
pub(in crate::lab) const RMEM: &str = "4096 131072 6291456";
pub(in crate::lab) const WMEM: &str = "4096 16384 4194304";
