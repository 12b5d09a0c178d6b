//! What works, but badly: the answer comes, and a warning says what it hangs on.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use pkttrace_tests::{Diagnosis, Site, greeter};

/// Two nodes on one wire with a pod each, whose routes lead there and back.
fn nodes() -> Site {
    let site = Site::new(&["a", "b", "pa", "pb"]);
    site.wire(("a", "up0", "192.0.2.1/24"), ("b", "up0", "192.0.2.2/24"));
    for (node, pod, own, other) in [("a", "pa", 1, 2), ("b", "pb", 2, 1)] {
        site.exec(
            node,
            &format!(
                "ip link add br7 type bridge && ip addr add 10.91.{own}.1/24 dev br7 \
                 && ip link set br7 up && ip route add 10.91.{other}.0/24 via 192.0.2.{other} \
                 && sysctl -qw net.ipv4.ip_forward=1"
            ),
        );
        site.plug(node, "br7", pod);
        site.exec(
            pod,
            &format!(
                "ip addr add 10.91.{own}.7/24 dev e0 && ip route add default via 10.91.{own}.1"
            ),
        );
    }
    site
}

/// Connections that stay.
struct Held(Child);

impl Held {
    fn to(netns: &str, host: &str, port: u16, count: u32) -> Self {
        let script = format!(
            "import socket, sys\n\
             held = [socket.create_connection(('{host}', {port})) for _ in range({count})]\n\
             print('held', flush=True)\n\
             sys.stdin.read()"
        );
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns, "python3", "-c", &script]);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().expect("python3 starts");
        let mut said = String::new();
        let output = child.stdout.as_mut().expect("piped");
        BufReader::new(output).read_line(&mut said).expect("a line");
        assert_eq!(said, "held\n");
        Self(child)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        _ = self.0.wait();
    }
}

/// Works, with this warning and no other; what is printed mends it.
fn warned(asked: &[&str], id: &str, netns: &str) {
    Diagnosis::of(asked).assert_warned(id, netns).run_fix();
    Diagnosis::of(asked).assert_healthy();
}

#[test]
fn a_pod_that_is_masqueraded_to_another() {
    let site = nodes();
    greeter(&site, "pb", 8080);
    let (from, node) = (site.netns("pa"), site.netns("a"));
    let asked = ["--from", &from, "--to", "10.91.2.7:8080"];
    Diagnosis::of(&asked).assert_healthy();
    for rule in [
        "iptables -t nat -A POSTROUTING -s 10.91.1.0/24 ! -o br7 -j MASQUERADE",
        "iptables -t nat -F && nft add table ip mine && nft 'add chain ip mine out { type nat hook \
         postrouting priority 100; }' && nft add rule ip mine out ip saddr 10.91.0.0/16 masquerade",
    ] {
        site.exec("a", rule);
        warned(&asked, "translation-hides-source", &node);
    }
    // To elsewhere it still is, as is right.
    let rules = site.exec("a", "nft list chain ip mine out");
    assert!(rules.contains("masquerade"), "{rules}");
}

#[test]
fn two_nodes_behind_which_nobody_finds_back_may_masquerade() {
    let site = nodes();
    greeter(&site, "pb", 8080);
    site.exec("b", "ip route del 10.91.1.0/24");
    site.exec("a", "iptables -t nat -A POSTROUTING -s 10.91.1.0/24 ! -o br7 -j MASQUERADE");
    let from = site.netns("pa");
    Diagnosis::of(&["--from", &from, "--to", "10.91.2.7:8080"]).assert_healthy();
}

#[test]
fn ports_that_are_about_to_run_out() {
    let site = nodes();
    greeter(&site, "pb", 8080);
    let from = site.netns("pa");
    site.exec(
        "pa",
        "sysctl -qw net.ipv4.ip_local_port_range='20000 20499' net.ipv4.tcp_tw_reuse=0",
    );
    let asked = ["--from", &from, "--to", "10.91.2.7:8080"];
    Diagnosis::of(&asked).assert_healthy();
    let held = Held::to(&from, "10.91.2.7", 8080, 460);
    warned(&asked, "ephemeral-ports-exhausted", &from);
    drop(held);
}

#[test]
fn a_link_layer_address_that_moves_between_ports() {
    let site = nodes();
    let other = Site::new(&["x"]);
    let (at, there) = (site.netns("a"), other.netns("x"));
    // Silent by itself: the address moves when it says something.
    other.exec("x", "sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    site.exec(
        "a",
        &format!(
            "ip link add p-x type veth peer name e0 netns {there} \
             && ip link set p-x master br7 up && ip -n {there} link set e0 up"
        ),
    );
    let asked = ["--from", at.as_str(), "--to", "10.91.1.7"];
    Diagnosis::of(&asked).assert_healthy();
    let mac = site.exec("pa", "cat /sys/class/net/e0/address");
    other.exec("x", &format!("ip link set e0 address {}", mac.trim()));
    warned(&asked, "duplicate-mac", &there);
}
