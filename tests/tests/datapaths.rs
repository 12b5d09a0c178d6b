//! A packet through every datapath that the kernel here has, from the sender through two routers to
//! the receiver: one journey, or several that are linked. `PKTTRACE_OUT` names a directory that is
//! given what each came to, `datapaths.json`.

use std::fmt::Write as _;
use std::path::Path;

use pkttrace_tests::{Journey, Run, Site, Tracer, icmp};
use serde_json::json;

/// A way from router `n1` to router `n2`.
struct Way {
    name: &'static str,
    /// Makes device `t0` of a router; `{me}` and `{peer}` are 1 and 2 or the other way round.
    make: &'static str,
    /// How many tunnels the packet is in.
    tunnels: usize,
    /// The kernel goes on with another packet: linked journeys will do.
    is_rebuilt: bool,
    /// Bytes that the packet carries.
    size: u32,
}

const fn tunnel(name: &'static str, make: &'static str) -> Way {
    Way { name, make, tunnels: 1, is_rebuilt: false, size: 56 }
}

const fn device(name: &'static str, make: &'static str) -> Way {
    Way { tunnels: 0, ..tunnel(name, make) }
}

/// Pings, 2 s each, until a way carries.
const TRIES: usize = 8;

const ENDS: &str = "local 192.168.7.{me} remote 192.168.7.{peer}";

/// What is numbered by its sender and its receiver.
const ESP: &str = "mode tunnel if_id 42";

const WAYS: &[Way] = &[
    tunnel("vxlan", "ip link add t0 type vxlan id 3 dstport 8472 {ends}"),
    tunnel("vxlan, another port", "ip link add t0 type vxlan id 3 dstport 9999 {ends}"),
    tunnel("geneve", "ip link add t0 type geneve id 3 remote 192.168.7.{peer}"),
    tunnel("ipip", "ip link add t0 type ipip {ends}"),
    tunnel("sit", "ip link add t0 type sit mode any {ends}"),
    tunnel("gre", "ip link add t0 type gre {ends}"),
    tunnel("gre, key, checksum, sequence", "ip link add t0 type gre key 5 csum seq {ends}"),
    tunnel("gretap", "ip link add t0 type gretap {ends}"),
    tunnel("ip6tnl", "ip link add t0 type ip6tnl mode any local fd77::{me} remote fd77::{peer}"),
    tunnel("ip6gre", "ip link add t0 type ip6gre local fd77::{me} remote fd77::{peer}"),
    Way {
        tunnels: 2,
        ..tunnel(
            "vxlan in vxlan",
            "ip link add t1 type vxlan id 4 dstport 4789 {ends} && ip link set t1 up && \
             ip addr add 192.168.8.{me}/24 dev t1 && \
             ip link add t0 type vxlan id 3 dstport 8472 local 192.168.8.{me} \
             remote 192.168.8.{peer}",
        )
    },
    Way {
        tunnels: 2,
        ..tunnel(
            "ipip in vxlan",
            "ip link add t1 type vxlan id 4 dstport 4789 {ends} && ip link set t1 up && \
             ip addr add 192.168.8.{me}/24 dev t1 && \
             ip link add t0 type ipip local 192.168.8.{me} remote 192.168.8.{peer}",
        )
    },
    device("vlan", "ip link add link eth0 name t0 type vlan id 5"),
    device(
        "vlan, tag in the frame",
        "ip link add link eth0 name t0 type vlan id 5 reorder_hdr off",
    ),
    device(
        "qinq",
        "ip link add link eth0 name t1 type vlan id 5 && ip link set t1 up && \
         ip link add link t1 name t0 type vlan id 7",
    ),
    device("macvlan", "ip link add link eth0 name t0 type macvlan"),
    device("ipvlan, l2", "ip link add link eth0 name t0 type ipvlan mode l2"),
    // What such a device sends is routed once more, by the one below it.
    device(
        "ipvlan, l3",
        "ip link add link eth0 name t0 type ipvlan mode l3 && \
         ip route add 10.{peer}.0.0/24 via 192.168.7.{peer} dev eth0 metric 77",
    ),
    device(
        "bond",
        "ip link add t0 type bond mode active-backup && ip link set eth1 down && \
         ip link set eth1 master t0",
    ),
    device(
        "bridge",
        "ip link add t0 type bridge && ip link set eth1 up && ip link set eth1 master t0",
    ),
    device(
        "netkit",
        "[ {me} = 2 ] || ip link add t0 type netkit mode l2 peer name t0 netns {other}",
    ),
    Way {
        is_rebuilt: true,
        size: 3000,
        ..device("fragments", "ip link add link eth0 name t0 type macvlan")
    },
    Way {
        is_rebuilt: true,
        size: 3000,
        ..tunnel("fragments in vxlan", "ip link add t0 type vxlan id 3 dstport 8472 {ends}")
    },
    Way {
        is_rebuilt: true,
        ..device(
            "wireguard",
            "ip link add t0 type wireguard && umask 77 && d=/tmp/{site} && mkdir -p $d && \
             for n in 1 2; do [ -e $d/$n ] || wg genkey > $d/$n; done && \
             wg set t0 listen-port 51820 private-key $d/{me} peer $(wg pubkey < $d/{peer}) \
             allowed-ips 0.0.0.0/0 endpoint 192.168.7.{peer}:51820",
        )
    },
    Way {
        is_rebuilt: true,
        ..device(
            "ipsec",
            "ip link add t0 type xfrm dev eth0 if_id 42 && \
             for way in '{me} {peer} out' '{peer} {me} in'; do set -- $way; \
             ip xfrm state add src 192.168.7.$1 dst 192.168.7.$2 proto esp spi $1 reqid 1 {esp} \
             auth 'hmac(sha256)' 0x00112233445566778899aabbccddeeff enc 'ecb(cipher_null)' '' && \
             ip xfrm policy add dir $3 tmpl src 192.168.7.$1 dst 192.168.7.$2 proto esp reqid 1 \
             mode tunnel if_id 42 || exit 1; done && \
             ip xfrm policy add dir fwd tmpl src 192.168.7.{peer} dst 192.168.7.{me} proto esp \
             reqid 1 mode tunnel if_id 42",
        )
    },
];

/// `a` behind router `n1`, `b` behind router `n2`, the routers on two wires.
fn routers() -> Site {
    let site = Site::new(&["a", "n1", "n2", "b"]);
    site.wire(("a", "eth0", "10.1.0.2/24"), ("n1", "va", "10.1.0.1/24"));
    site.wire(("b", "eth0", "10.2.0.2/24"), ("n2", "vb", "10.2.0.1/24"));
    site.wire(("n1", "eth0", "192.168.7.1/24"), ("n2", "eth0", "192.168.7.2/24"));
    site.wire(("n1", "eth1", "192.168.9.1/24"), ("n2", "eth1", "192.168.9.2/24"));
    site.exec("a", "ip route add default via 10.1.0.1");
    site.exec("b", "ip route add default via 10.2.0.1");
    for n in 0..WAYS.len() {
        site.exec("b", &format!("ip addr add {}/24 dev eth0", address(n)));
    }
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

/// The receiver's address for a way: one trace sees them all.
fn address(way: usize) -> String {
    format!("10.2.0.{}", 128 + way)
}

impl Way {
    /// Leads the way of both routers through it; what the kernel here says where it cannot make it.
    fn open(&self, site: &Site) -> Result<(), String> {
        for (me, peer) in [(1, 2), (2, 1)] {
            let fill = |text: &str| {
                text.replace("{ends}", ENDS)
                    .replace("{esp}", ESP)
                    .replace("{me}", &me.to_string())
                    .replace("{peer}", &peer.to_string())
                    .replace("{other}", &site.netns(&format!("n{peer}")))
                    .replace("{site}", &site.netns("keys"))
            };
            let host = format!("n{me}");
            let made = site.attempt(&host, &fill(self.make));
            if !made.ok {
                self.close(site);
                return Err(made.stderr.trim().to_owned());
            }
        }
        for (me, peer) in [(1, 2), (2, 1)] {
            let route = format!(
                "ip addr add 10.77.0.{me}/24 dev t0 && ip link set t0 up && \
                 ip route replace 10.{peer}.0.0/24 via 10.77.0.{peer} dev t0"
            );
            site.exec(&format!("n{me}"), &route);
        }
        Ok(())
    }

    /// Neighbours, addresses and keys have to be found first.
    ///
    /// # Errors
    ///
    /// What the routers say when nothing comes through it.
    fn settle(&self, site: &Site) -> Result<(), String> {
        if (0..TRIES).any(|_| site.attempt("a", "ping -n -c1 -W2 10.2.0.2").ok) {
            return Ok(());
        }
        let told = ["n1", "n2"].map(|router| {
            let all = "ip -d -s link; ip route; ip neigh; cat /proc/net/xfrm_stat; ip xfrm state";
            site.attempt(router, all).stdout
        });
        Err(format!("nothing comes through\n{}", told.join("\n")))
    }

    fn close(&self, site: &Site) {
        for host in ["n1", "n2"] {
            site.attempt(
                host,
                "ip link del t0; ip link del t1; ip xfrm state flush; ip xfrm policy flush; \
                 ip link set eth1 up; ip route flush root 10.0.0.0/8 metric 77",
            );
        }
        let _ = std::fs::remove_dir_all(Path::new("/tmp").join(site.netns("keys")));
    }

    /// What became of the request.
    ///
    /// # Errors
    ///
    /// What is wrong with that.
    fn judge(&self, run: &Run, to: &str) -> Result<String, String> {
        let all = run.all(&icmp(8).to(to));
        let seen = || all.iter().map(ToString::to_string).collect::<String>();
        let arrived: Vec<_> =
            all.iter().filter(|j| j.fate() == "delivered" && j.end() == "b").collect();
        // Fragments arrive, and what is put together from them: that is who arrives.
        let whole = arrived.iter().copied().filter(|j| j.json["parent"]["kind"] == "reassembly");
        let whole: Vec<_> = whole.collect();
        let [last] = (if whole.is_empty() { arrived } else { whole })[..] else {
            return Err(format!("not one journey arrives\n{}", seen()));
        };
        let (first, links) = lineage(run, last)?;
        let is_said = |j: &Journey, why: &str| j.json["gaps"].to_string().contains(why);
        if self.is_rebuilt && is_said(first, "joined-midway") {
            let has_first_half =
                all.iter().any(|j| j.start() == "a" && is_said(j, "identity-ended"));
            return match has_first_half {
                true => Ok("halves, said".to_owned()),
                false => Err(format!("begins in {}\n{}", first.start(), seen())),
            };
        }
        if first.start() != "a" {
            return Err(format!("begins in {}\n{}", first.start(), seen()));
        }
        if !links.is_empty() {
            return match self.is_rebuilt {
                true => Ok(format!("linked: {}", links.join(", "))),
                false => Err(format!("not one journey but {links:?}\n{}", seen())),
            };
        }
        for (router, stage) in [("n1", "encap"), ("n2", "decap")] {
            let seen = last.hops_at(&format!("{router}/{stage}")).len();
            if seen != self.tunnels {
                return Err(format!("{seen} {stage} hops in {router}\n{last}"));
            }
        }
        if all.len() == 1 { Ok("whole".to_owned()) } else { Err(format!("more\n{}", seen())) }
    }
}

/// The journey that a packet set out in, and how those between are linked, the last one first.
fn lineage<'a>(run: &'a Run, last: &'a Journey) -> Result<(&'a Journey, Vec<String>), String> {
    let mut links = Vec::new();
    let mut at = last;
    loop {
        let parent = &at.json["parent"];
        let is_second_half = at.json["gaps"][0]["why"] == "joined-midway" && parent.is_null();
        if at.json["complete"] != true && !is_second_half {
            return Err(format!("not complete: {}\n{at}", at.json["gaps"]));
        }
        let Some(id) = parent["id"].as_str() else { return Ok((at, links)) };
        let found = run.journeys.iter().find(|j| j.id() == id);
        at = found.ok_or(format!("no journey {id}, which is the parent of\n{at}"))?;
        links.push(parent["kind"].as_str().unwrap_or_default().to_owned());
        if links.len() > run.journeys.len() {
            return Err(format!("a circle of journeys at\n{at}"));
        }
    }
}

#[test]
fn a_packet_is_one_journey_or_linked_ones_on_every_datapath() {
    let site = routers();
    let options = ["--dst", "10.2.0.128/25", "--proto", "icmp", "--no-replies"];
    let tracer = Tracer::start(&site, &options);
    let mut absent = Vec::new();
    let mut failures = String::new();
    for (n, way) in WAYS.iter().enumerate() {
        if let Err(why) = way.open(&site) {
            eprintln!("{}: not here: {why}", way.name);
            absent.push(n);
            continue;
        }
        match way.settle(&site) {
            Ok(()) => {
                site.attempt("a", &format!("ping -n -c1 -W5 -s {} {}", way.size, address(n)));
            }
            Err(why) => {
                let _ = writeln!(failures, "{}: {why}", way.name);
                absent.push(n);
            }
        }
        way.close(&site);
    }
    let run = tracer.finish();
    let mut rows = Vec::new();
    for (n, way) in WAYS.iter().enumerate() {
        let is = if absent.contains(&n) {
            "–".to_owned()
        } else {
            way.judge(&run, &address(n)).unwrap_or_else(|wrong| {
                let _ = writeln!(failures, "{}: {wrong}", way.name);
                "wrong".to_owned()
            })
        };
        eprintln!("{}: {is}", way.name);
        rows.push(json!({ "datapath": way.name, "is": is }));
    }
    if let Some(out) = std::env::var_os("PKTTRACE_OUT") {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let report = json!({ "kernel": kernel.trim(), "datapaths": rows });
        let path = Path::new(&out).join("datapaths.json");
        std::fs::write(path, format!("{report:#}\n")).expect("PKTTRACE_OUT is a directory");
    }
    // VXLAN, VLANs and macvlan are in every kernel that these tests are for.
    let tried = WAYS.len() - absent.len();
    assert!(tried >= 6, "only {tried} of {} datapaths could be made", WAYS.len());
    assert!(failures.is_empty(), "{failures}");
}
