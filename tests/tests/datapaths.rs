//! A packet through every tunnel that the kernel here has: one journey, from the sender into the
//! tunnel and out of it to the receiver.

use std::fmt::Write as _;

use pkttrace_tests::{Run, Site, Tracer, icmp};

/// A way from router `n1` to router `n2`.
struct Way {
    name: &'static str,
    /// Makes device `t0` of a router; `{me}` and `{peer}` are 1 and 2 or the other way round.
    make: &'static str,
    /// How many tunnels the packet is in.
    tunnels: usize,
}

const fn way(name: &'static str, make: &'static str) -> Way {
    Way { name, make, tunnels: 1 }
}

const ENDS: &str = "local 192.168.7.{me} remote 192.168.7.{peer}";

const WAYS: &[Way] = &[
    way("vxlan", "ip link add t0 type vxlan id 3 dstport 8472 {ends}"),
    way("vxlan-port", "ip link add t0 type vxlan id 3 dstport 9999 {ends}"),
    way("geneve", "ip link add t0 type geneve id 3 remote 192.168.7.{peer}"),
    way("ipip", "ip link add t0 type ipip {ends}"),
    way("sit", "ip link add t0 type sit mode any {ends}"),
    way("gre", "ip link add t0 type gre {ends}"),
    way("gre-options", "ip link add t0 type gre key 5 csum seq {ends}"),
    way("gretap", "ip link add t0 type gretap {ends}"),
    way("ip6tnl", "ip link add t0 type ip6tnl mode any local fd77::{me} remote fd77::{peer}"),
    way("ip6gre", "ip link add t0 type ip6gre local fd77::{me} remote fd77::{peer}"),
    Way {
        name: "vxlan-in-vxlan",
        make: "ip link add t1 type vxlan id 4 dstport 4789 {ends} && ip link set t1 up && \
               ip addr add 192.168.8.{me}/24 dev t1 && \
               ip link add t0 type vxlan id 3 dstport 8472 local 192.168.8.{me} \
               remote 192.168.8.{peer}",
        tunnels: 2,
    },
    Way {
        name: "ipip-in-vxlan",
        make: "ip link add t1 type vxlan id 4 dstport 4789 {ends} && ip link set t1 up && \
               ip addr add 192.168.8.{me}/24 dev t1 && \
               ip link add t0 type ipip local 192.168.8.{me} remote 192.168.8.{peer}",
        tunnels: 2,
    },
    // The tags are in the frame.
    Way {
        name: "vlan",
        make: "ip link add link eth0 name t0 type vlan id 5 reorder_hdr off",
        tunnels: 0,
    },
    Way {
        name: "qinq",
        make: "ip link add link eth0 name t1 type vlan id 5 && ip link set t1 up && \
               ip link add link t1 name t0 type vlan id 7",
        tunnels: 0,
    },
    Way { name: "macvlan", make: "ip link add link eth0 name t0 type macvlan", tunnels: 0 },
];

/// `a` behind router `n1`, `b` behind router `n2`, the routers on one wire.
fn routers() -> Site {
    let site = Site::new(&["a", "n1", "n2", "b"]);
    site.wire(("a", "eth0", "10.1.0.2/24"), ("n1", "va", "10.1.0.1/24"));
    site.wire(("b", "eth0", "10.2.0.2/24"), ("n2", "vb", "10.2.0.1/24"));
    site.wire(("n1", "eth0", "192.168.7.1/24"), ("n2", "eth0", "192.168.7.2/24"));
    site.exec("a", "ip route add default via 10.1.0.1");
    site.exec("b", "ip route add default via 10.2.0.1");
    for (n, router) in [(1, "n1"), (2, "n2")] {
        site.exec(
            router,
            &format!(
                "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 \
                 net.ipv4.conf.default.rp_filter=0 && ip addr add fd77::{n}/64 dev eth0 nodad"
            ),
        );
    }
    site
}

impl Way {
    /// Leads the way of both routers through it; false where the kernel has no such device.
    fn open(&self, site: &Site) -> bool {
        for (me, peer) in [(1, 2), (2, 1)] {
            let fill = |text: &str| {
                text.replace("{ends}", ENDS)
                    .replace("{me}", &me.to_string())
                    .replace("{peer}", &peer.to_string())
            };
            let (host, made) = (format!("n{me}"), fill(self.make));
            if !site.attempt(&host, &made).ok {
                self.close(site);
                return false;
            }
            let route = "ip addr add 10.77.0.{me}/24 dev t0 && ip link set t0 up && \
                         ip route replace 10.{peer}.0.0/24 via 10.77.0.{peer}";
            site.exec(&host, &fill(route));
        }
        site.until("a", "ping -n -c1 -W5 10.2.0.2");
        true
    }

    fn close(&self, site: &Site) {
        for host in ["n1", "n2"] {
            site.attempt(host, "ip link del t0; ip link del t1");
        }
    }

    /// What is wrong with the request's journey, empty if nothing is.
    fn judge(&self, run: &Run) -> String {
        let mut wrong = String::new();
        let requests = run.all(&icmp(8));
        let [request] = requests[..] else {
            return format!("{} journeys\n{}", requests.len(), run.listing());
        };
        if request.fate() != "delivered" || request.end() != "b" {
            let _ = write!(wrong, "{} at {}; ", request.fate(), request.end());
        }
        if request.json["complete"] != true {
            wrong.push_str("not complete; ");
        }
        for (router, stage) in [("n1", "encap"), ("n2", "decap")] {
            let seen = request.hops_at(&format!("{router}/{stage}")).len();
            if seen != self.tunnels {
                let _ = write!(wrong, "{seen} {stage} hops in {router}; ");
            }
        }
        if wrong.is_empty() { wrong } else { format!("{wrong}\n{request}") }
    }
}

#[test]
fn a_packet_is_one_journey_through_every_tunnel() {
    let site = routers();
    let mut failures = String::new();
    let mut tried = 0;
    for way in WAYS {
        if !way.open(&site) {
            eprintln!("{}: not in this kernel", way.name);
            continue;
        }
        let tracer =
            Tracer::start(&site, &["--dst", "10.2.0.2", "--proto", "icmp", "--no-replies"]);
        site.exec("a", "ping -n -c1 -W5 10.2.0.2");
        let run = tracer.finish();
        way.close(&site);
        let wrong = way.judge(&run);
        eprintln!("{}: {}", way.name, if wrong.is_empty() { "whole" } else { &wrong });
        if !wrong.is_empty() {
            let _ = writeln!(failures, "{}: {wrong}", way.name);
        }
        tried += 1;
    }
    // VXLAN and macvlan are in every kernel that these tests are for.
    assert!(tried >= 4, "only {tried} of {} datapaths could be made", WAYS.len());
    assert!(failures.is_empty(), "{failures}");
}
