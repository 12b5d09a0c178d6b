//! What can be tried in lab `cluster`. The first part works in a healthy lab; the rest is for
//! telling faults apart, or is meant to fail (Docker's isolation).

use crate::lab::probe::{Probe, Step, get, get_body, get_slow, get_times, lookup, ping, query};

const SERVICE_NAME: &str = "web.default.svc.cluster.local";

const P1_PINGS_P2: Step = ping("p1", "10.244.1.3");
const P1_GETS_P2: Step = get("p1", "10.244.1.3:8080/");
const P1_PINGS_P3: Step = ping("p1", "10.244.2.2");
const P1_GETS_P3: Step = get("p1", "10.244.2.2:8080/");

pub(super) const PROBES: &[Probe] = &[
    Probe::healthy("same", "p1 reaches p2, same node", &[P1_PINGS_P2, P1_GETS_P2]),
    Probe::healthy("samerev", "p2 fetches from p1", &[get("p2", "10.244.1.2:8080/")]),
    Probe::healthy("cross", "p1 reaches p3, other node", &[P1_PINGS_P3, P1_GETS_P3]),
    Probe::healthy("crossrev", "p3 fetches from p1", &[get("p3", "10.244.1.2:8080/")]),
    Probe::healthy(
        "crosssrc",
        "p3 sees p1's own address",
        &[get_body("p1", "10.244.2.2:8080/", "client=10.244.1.2\n")],
    ),
    Probe::healthy("big", "p3 sends p1 200 kB", &[get("p1", "10.244.2.2:8080/big")]),
    Probe::healthy("bigrev", "p1 sends p3 200 kB", &[get("p3", "10.244.1.2:8080/big")]),
    Probe::healthy("dns", "p1 resolves a Service", &[lookup("p1", SERVICE_NAME)]),
    Probe::healthy("dnsshort", "p1 resolves a short name", &[lookup("p1", "web")]),
    Probe::healthy("dnsext", "p1 resolves a name outside", &[lookup("p1", "www.example.test.")]),
    Probe::healthy("dnsnode2", "p3 resolves a Service", &[lookup("p3", SERVICE_NAME)]),
    Probe::healthy("svcsame", "Service backed by p2", &[get("p1", "10.96.45.102:80/")]),
    Probe::healthy("svcrem", "Service backed by p3", &[get("p1", "10.96.45.103:80/")]),
    Probe::healthy(
        "svcweb",
        "Service backed by p2 and p3, 8 times",
        &[get_times(8, "p1", "10.96.45.100:80/")],
    ),
    Probe::healthy("svcself", "Service backed by p1 itself", &[get("p1", "10.96.45.101:80/")]),
    Probe::healthy("svcapi", "Service of the API server", &[get("p1", "10.96.0.1:443/")]),
    Probe::healthy("svcnode", "Service from the node", &[get("n1", "10.96.45.103:80/")]),
    Probe::healthy("nodeport", "NodePort on n1", &[get("ext", "192.168.50.11:30080/")]),
    Probe::healthy("nodeport2", "NodePort on n2", &[get("ext", "192.168.50.12:30080/")]),
    Probe::healthy("nplocal", "NodePort, policy Local", &[get("ext", "192.168.50.11:30081/")]),
    Probe::healthy("nplo", "NodePort on 127.0.0.1", &[get("n1", "127.0.0.1:30080/")]),
    Probe::healthy("hostport", "hostPort on n1", &[get("ext", "192.168.50.11:8088/")]),
    Probe::healthy("egress", "p1 to the outside", &[get("p1", "203.0.113.10:80/")]),
    Probe::healthy("egress2", "p3 to the outside", &[get("p3", "203.0.113.10:80/")]),
    Probe::healthy("pod2host", "p1 to its node", &[get("p1", "10.244.1.1:10250/")]),
    Probe::healthy("pod2node2", "p3 to the other node", &[get("p3", "192.168.50.11:10250/")]),
    Probe::healthy("host2pod", "n1 to its pod p1", &[get("n1", "10.244.1.2:8080/")]),
    Probe::healthy("loc", "p1 to itself", &[get("p1", "127.0.0.1:8080/")]),
    Probe::healthy("cali", "p3 to the Calico pod", &[get("p3", "10.244.1.200:8080/")]),
    Probe::healthy("calirev", "the Calico pod to p3", &[get("pc", "10.244.2.2:8080/")]),
    Probe::healthy("dpub", "published port of d1", &[get("ext", "192.168.50.13:8080/")]),
    Probe::healthy("degress", "d1 to the outside", &[get("d1", "203.0.113.10:80/")]),
    Probe::healthy("dsame", "d1 to d3, same network", &[get("d1", "172.17.0.3:80/")]),
    Probe::ipv6("same6", "p1 to p2 over IPv6", &[get("p1", "[fd00:10:244:1::3]:8080/")]),
    Probe::ipv6("cross6", "p1 to p3 over IPv6", &[ping("p1", "fd00:10:244:2::2")]),
    Probe::ipv6("cali6", "p3 to the Calico pod over IPv6", &[ping("p3", "fd00:10:244:1::200")]),
    Probe::ipv6("egress6", "p1 to the outside over IPv6", &[ping("p1", "fd00:203:0:113::10")]),
    Probe::other(
        "same5",
        "p1 reaches p2, 5 times",
        &[
            P1_PINGS_P2,
            P1_GETS_P2,
            P1_PINGS_P2,
            P1_GETS_P2,
            P1_PINGS_P2,
            P1_GETS_P2,
            P1_PINGS_P2,
            P1_GETS_P2,
            P1_PINGS_P2,
            P1_GETS_P2,
        ],
    ),
    Probe::other("sameping", "p1 pings p2", &[P1_PINGS_P2]),
    Probe::other("sametcp", "p1 fetches from p2", &[P1_GETS_P2]),
    Probe::other("samebig", "p2 sends p1 200 kB", &[get("p1", "10.244.1.3:8080/big")]),
    Probe::other("samebigr", "p1 sends p2 200 kB", &[get("p2", "10.244.1.2:8080/big")]),
    Probe::other(
        "samebigping",
        "p1 pings p2 with 1400 bytes, DF",
        &[Step::Ping { from: "p1", to: "10.244.1.3", size: 1400 }],
    ),
    Probe::other("crossping", "p1 pings p3", &[P1_PINGS_P3]),
    Probe::other("crosstcp", "p1 fetches from p3", &[P1_GETS_P3]),
    Probe::other("dnsdirect", "p1 asks the DNS pod", &[query("p1", "10.244.2.53", 0)]),
    Probe::other("dnssvc", "p1 asks the DNS Service", &[query("p1", "10.96.0.10", 0)]),
    Probe::other(
        "dnsfixed",
        "p1 asks the DNS Service from port 5353",
        &[query("p1", "10.96.0.10", 5353)],
    ),
    Probe::other(
        "svcport",
        "a Service on a port it does not have",
        &[get("p1", "10.96.45.102:8080/")],
    ),
    Probe::other(
        "nplocal2",
        "NodePort, policy Local, node without endpoint",
        &[get("ext", "192.168.50.12:30081/")],
    ),
    Probe::other(
        "egresspar",
        "p1 to the outside, 4 slow answers at once",
        &[get_slow(4, "p1", "203.0.113.10:80/slow")],
    ),
    Probe::other("node2node", "n1 pings n2", &[ping("n1", "192.168.50.12")]),
    Probe::other("diso", "d1 to d2, isolated networks", &[get("d1", "172.18.0.2:80/")]),
    Probe::other("dlan", "d1 to 172.17.5.5", &[get("d1", "172.17.5.5:80/")]),
    Probe::other("dupcidr", "p1 pings 10.244.1.22", &[ping("p1", "10.244.1.22")]),
    Probe::other("mvhost", "n1 pings a macvlan of its own", &[ping("n1", "192.168.50.55")]),
    Probe::other("mvpeer", "n2 pings a macvlan on n1", &[ping("n2", "192.168.50.55")]),
    Probe::other(
        "idle",
        "a connection of p1 that is silent for 3 s",
        &[Step::Idle { from: "p1", url: "10.96.45.103:80/", seconds: 3 }],
    ),
];
