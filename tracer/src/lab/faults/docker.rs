//! "A container cannot be reached, or reaches nothing", on the Docker host.

use super::Fault;
use super::op::{iptables, sysctl};

const fn fault(id: &'static str, title: &'static str) -> Fault {
    Fault::new("docker", id, title).probes(&["dpub", "degress"], &["dsame"]).target(
        "ext",
        "192.168.50.13:8080",
        "tcp",
    )
}

pub(super) const FAULTS: &[Fault] = &[
    fault("docker-rules-flushed", "Docker's rules in FORWARD are gone, its policy DROP is not")
        .probes(&["dpub", "degress", "dsame"], &[])
        .at("dh", "filter/FORWARD")
        .breaks(&[iptables("dh", "-F FORWARD")]),
    fault("docker-nat-flushed", "Docker's nat rules are gone")
        .at("dh", "nat")
        .breaks(&[iptables("dh", "-t nat -F")]),
    fault("docker-user-drop", "DOCKER-USER lets in one network only, and no answers from others")
        .at("dh", "filter/DOCKER-USER")
        .breaks(&[iptables("dh", "-I DOCKER-USER -i eth0 ! -s 10.0.0.0/8 -j DROP")]),
    fault("docker-icc-off", "containers of one network may not reach each other")
        .probes(&["dsame"], &["dpub", "degress"])
        .target("d1", "172.17.0.3:80", "tcp")
        .at("dh", "filter/FORWARD")
        .breaks(&[iptables("dh", "-I FORWARD -i docker0 -o docker0 -j DROP")]),
    fault("docker-isolation", "Docker keeps its networks apart: so it is by design, without a change")
        .probes(&["diso"], &["dpub", "degress", "dsame"])
        .target("d1", "172.18.0.2:80", "tcp")
        .at("dh", "filter/DOCKER-ISOLATION-STAGE-2"),
    fault("docker-publish-loopback", "the port is published on 127.0.0.1 only")
        .probes(&["dpub"], &["degress"])
        .at("dh", "nat/DOCKER")
        .breaks(&[iptables(
            "dh",
            "-t nat -R DOCKER 2 -d 127.0.0.1/32 ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
        )]),
    fault("docker-ip-forward-off", "the Docker host does not forward")
        .at("dh", "sysctl net.ipv4.ip_forward")
        .breaks(&[sysctl("dh", "net.ipv4.ip_forward", "0", "1")]),
];
