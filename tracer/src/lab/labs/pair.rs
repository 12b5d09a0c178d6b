//! Lab `pair`: the smallest network there is.

use crate::lab::Error;
use crate::lab::probe::{Probe, get, ping};
use crate::lab::topology::{Choice, Link, Topology};

pub(super) const PROBES: &[Probe] = &[
    Probe::healthy("ping", "a pings b", &[ping("a", "10.0.0.2")]),
    Probe::healthy("tcp", "a fetches from b", &[get("a", "10.0.0.2:8080/")]),
    Probe::healthy("rev", "b fetches from a", &[get("b", "10.0.0.1:8080/")]),
    Probe::healthy("big", "b sends a 200 kB", &[get("a", "10.0.0.2:8080/big")]),
    Probe::ipv6("ping6", "a pings b over IPv6", &[ping("a", "fd00:10::2")]),
];

pub(super) fn topology(choice: Choice) -> Result<Topology, Error> {
    let mut lab = Topology::default();
    lab.hosts(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]);
    lab.links.push(Link::veth("a", "eth0", "b", 1500));
    lab.addresses(&[("a", "eth0", "10.0.0.1/24"), ("b", "eth0", "10.0.0.2/24")])?;
    if choice.ipv6 {
        lab.addresses(&[("a", "eth0", "fd00:10::1/64"), ("b", "eth0", "fd00:10::2/64")])?;
    }
    lab.servers(&["a tcp 0.0.0.0 8080 http", "b tcp 0.0.0.0 8080 http"])?;
    lab.datagram_servers(&["a", "b"])?;
    lab.tries = vec![
        ("lab exec a -- ping -c1 10.0.0.2", "a to b"),
        ("--host 10.0.0.2", "follow it, in another terminal"),
        ("lab healthy", "whether all of the lab works"),
    ];
    Ok(lab)
}
