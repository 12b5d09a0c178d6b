//! What is read of namespaces is what the kernel says, and what is made of it.

use std::process::Command;

use pkttrace::net::fib::{self, FibQuery, ReversePath};
use pkttrace::net::{Netns, NetworkState, What, inspect, snapshot};
use pkttrace_tests::{Lab, Tracer, binary, icmp};
use serde_json::Value;

/// All of the lab's hosts, read as deep as it goes.
fn read(lab: &Lab) -> NetworkState {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut state, _) = snapshot::take().await.unwrap();
        let prefix = lab.netns("");
        let skipped = inspect(&mut state, &|n| n.name.starts_with(&prefix), What::ALL).await;
        assert_eq!(skipped, []);
        state
    })
}

fn host<'a>(lab: &Lab, state: &'a NetworkState, name: &str) -> &'a Netns {
    let name = lab.netns(name);
    state.netns.values().find(|n| n.name == name).unwrap()
}

fn device(netns: &Netns, name: &str) -> u32 {
    netns.devices.values().find(|d| d.name == name).unwrap().ifindex
}

/// Device, gateway and source address of `ip route get`, or that there is no way.
fn route_get(lab: &Lab, host: &str, question: &str) -> Option<[Value; 3]> {
    let family = if question.contains(':') { "-6" } else { "-4" };
    let ran = lab.attempt(host, &format!("ip {family} -j route get {question}"));
    if !ran.ok {
        return None;
    }
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    let answer = &answer[0];
    // `ip` reports refusals of IPv6 as routes.
    if ["unreachable", "blackhole", "prohibit"].iter().any(|kind| answer["type"] == *kind) {
        return None;
    }
    Some(["dev", "gateway", "prefsrc"].map(|key| answer[key].clone()))
}

/// The same three of our own look-up, for a question in the words of `ip route get`.
fn looked_up(netns: &Netns, question: &str) -> Option<[Value; 3]> {
    let mut words = question.split_whitespace();
    let mut query = FibQuery::to(words.next().unwrap().parse().unwrap());
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        match key {
            "from" => query.src = Some(value.parse().unwrap()),
            "iif" => query.iif = Some(device(netns, value)),
            "oif" => query.oif = Some(device(netns, value)),
            "mark" => query.mark = value.parse().unwrap(),
            other => panic!("{other}"),
        }
    }
    let found = fib::lookup(netns, &query);
    let ifindex = found.dev.filter(|_| found.is_success())?;
    let is_local = found.kind == Some(pkttrace::net::detail::RouteType::Local);
    let dev = if is_local { "lo" } else { &netns.devices[&ifindex].name };
    let source = found.src.filter(|_| query.src.is_none());
    let text = |addr: Option<std::net::IpAddr>| addr.map_or(Value::Null, |a| a.to_string().into());
    Some([dev.into(), text(found.hop.and_then(|hop| hop.via)), text(source)])
}

#[test]
fn look_ups_agree_with_the_kernel() {
    let lab = Lab::cluster6();
    lab.exec(
        "n1",
        "ip rule add pref 100 fwmark 16/240 table 100 &&
         ip rule add pref 110 from 10.244.1.0/24 iif cni0 to 203.0.113.0/24 prohibit &&
         ip rule add pref 120 not from all fwmark 0 table 120 &&
         ip rule add pref 130 to 198.51.100.0/24 lookup 130 suppress_prefixlength 0 &&
         ip rule add pref 140 oif flannel.1 to 198.18.0.0/15 blackhole &&
         ip rule add pref 150 iif lo to 192.0.2.77 unreachable &&
         ip route add 203.0.113.0/25 via 10.244.1.3 dev cni0 table 100 &&
         ip route add throw 198.51.100.0/24 table 100 &&
         ip route add blackhole 172.16.0.0/12 && ip route add unreachable 172.17.0.0/16 &&
         ip route add 172.18.0.0/16 via 10.244.1.3 metric 50 &&
         ip route add 172.18.0.0/16 via 10.244.1.4 metric 20 &&
         ip route add 172.19.0.0/16 dev eth0 src 10.244.1.1 &&
         ip route add default via 10.244.1.9 dev cni0 table 130 &&
         ip route add 198.51.100.128/25 via 10.244.1.9 dev cni0 table 130 &&
         ip -6 rule add pref 100 fwmark 16 prohibit &&
         ip -6 route add blackhole 2001:db8:dead::/48 &&
         ip -6 route add 2001:db8:1::/48 dev cni0 metric 10",
    );
    let state = read(&lab);
    let n1 = host(&lab, &state, "n1");
    let questions = [
        "10.244.1.2",
        "10.244.1.1",
        "10.244.2.2",
        "192.168.50.12",
        "192.168.50.11",
        "203.0.113.9",
        "203.0.113.9 mark 16",
        "203.0.113.9 mark 31",
        "203.0.113.200 mark 16",
        "198.51.100.7 mark 16",
        "198.51.100.7",
        "198.51.100.200",
        "198.18.0.1",
        "198.18.0.1 oif flannel.1",
        "192.0.2.77",
        "192.0.2.78",
        "172.16.1.1",
        "172.17.1.1",
        "172.18.1.1",
        "172.19.1.1",
        "203.0.113.9 from 10.244.1.2 iif cni0",
        "192.0.2.77 from 10.244.1.2 iif cni0",
        "10.244.2.2 from 10.244.1.2 iif cni0",
        "172.18.1.1 from 10.244.1.2 iif cni0",
        "192.168.50.11 from 10.244.1.2 iif cni0",
        "127.0.0.1",
        "2001:db8:1::1",
        "2001:db8:dead::1",
        "2001:db8:1::1 mark 16",
        "::1",
    ];
    for question in questions {
        assert_eq!(looked_up(n1, question), route_get(&lab, "n1", question), "{question}");
    }
}

#[test]
fn reverse_paths_agree_with_the_kernel() {
    let lab = Lab::cluster();
    lab.exec("n1", "sysctl -qw net.ipv4.conf.cni0.rp_filter=1 net.ipv4.conf.eth0.rp_filter=2");
    let state = read(&lab);
    let n1 = host(&lab, &state, "n1");
    for (src, dev, verdict) in [
        ("10.244.1.2", "cni0", ReversePath::Pass),
        ("192.168.50.12", "cni0", ReversePath::Fails),
        ("192.168.50.11", "cni0", ReversePath::Own),
        ("10.244.2.2", "eth0", ReversePath::Pass),
        ("203.0.113.9", "eth0", ReversePath::Pass),
    ] {
        let ours = fib::rp_filter(n1, src.parse().unwrap(), device(n1, dev));
        let ran = lab.attempt("n1", &format!("ip route get 192.168.50.11 from {src} iif {dev}"));
        // Which check refused it is not told by every kernel.
        assert_eq!(ours, verdict, "{src} by {dev}");
        assert_eq!(ours == ReversePath::Pass, ran.ok, "{src} by {dev}: {}", ran.stderr);
    }
}

#[test]
fn a_node_is_read_as_its_tools_show_it() {
    let lab = Lab::cluster();
    lab.exec(
        "n1",
        "tc qdisc add dev cni0 clsact && tc filter add dev cni0 egress pref 7 u32 \
         match ip dst 203.0.113.9/32 action mirred egress redirect dev veth-p1 &&
         ip neigh add proxy 10.244.1.99 dev cni0 && bridge link set dev veth-p1 hairpin on &&
         bridge link set dev veth-p2 isolated on hairpin off",
    );
    lab.ping("p1", "10.244.1.3");
    let state = read(&lab);
    let n1 = host(&lab, &state, "n1");
    let detail = n1.detail.as_ref().unwrap();
    assert_eq!(detail.unread, Vec::<String>::new());
    let cni0 = device(n1, "cni0");
    let [p1, p2] = ["veth-p1", "veth-p2"].map(|name| n1.devices[&device(n1, name)].port.unwrap());
    assert!(p1.hairpin && !p1.isolated && p2.isolated && !p2.hairpin);
    let pod = host(&lab, &state, "p2");
    let mac = pod.devices[&device(pod, "eth0")].mac.unwrap();
    let entry = fib::fdb(n1, cni0, mac, None).unwrap();
    assert_eq!((entry.dev, entry.is_learned), (device(n1, "veth-p2"), true));
    let flannel = device(n1, "flannel.1");
    let n2 = host(&lab, &state, "n2");
    let far = n2.devices[&device(n2, "flannel.1")].mac.unwrap();
    let ends = fib::tunnel_ends(n1, flannel, far);
    assert_eq!(ends[0].remote, Some("192.168.50.12".parse().unwrap()));
    let gateway = fib::neighbour(n1, flannel, "10.244.2.0".parse().unwrap()).unwrap();
    assert_eq!(gateway.mac, Some(far));
    assert!(detail.neighbours.iter().any(|n| n.is_proxy && n.dev == cni0));
    let filter = detail.tc.iter().find(|filter| filter.dev == cni0).unwrap();
    assert_eq!(filter.text, "match cb007109/ffffffff at 16 action mirred");
    assert_eq!((filter.kind.as_str(), filter.is_ingress, filter.drops), ("u32", false, false));
    assert_eq!(filter.place, Some((7, 0x8000_0800)));
    assert_eq!(detail.sysctls["ipv4/conf/cni0/forwarding"], "1");
    assert!(detail.counters["if.cni0.rx_packets"] > 0);
    let listener = host(&lab, &state, "p2").detail.as_ref().unwrap();
    let server = listener.sockets.iter().find(|s| s.proto == 6).unwrap();
    assert!(server.process.is_some() && server.limit > 0, "{server:?}");
}

/// `pkttrace topology` with these options.
fn topology(options: &[&str]) -> String {
    let output = Command::new(binary()).arg("topology").args(options).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_map_of_a_node_shows_its_pods_and_nothing_else() {
    let lab = Lab::cluster();
    lab.exec("n1", "bridge link set dev veth-p2 isolated on");
    lab.exec("n1", "ip link set veth-p5 nomaster && ip link set cali1 down");
    let n1 = lab.netns("n1");
    let map: Value = serde_json::from_str(&topology(&["--view", &n1, "-o", "json"])).unwrap();
    assert_eq!((&map["schema"], &map["type"]), (&1.into(), &"topology".into()));
    let namespaces = map["namespaces"].as_array().unwrap();
    let names: Vec<&str> = namespaces.iter().map(|n| n["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["n1", "p1", "p2", "p5", "pc"].map(|host| lab.netns(host)));
    let device = |at: usize, name: &str| {
        let devices = namespaces[at]["devices"].as_array().unwrap();
        devices.iter().find(|d| d["name"] == name).unwrap()
    };
    assert_eq!(namespaces[0]["forwarding"]["ipv4"], true);
    let p1 = device(0, "veth-p1");
    assert_eq!((&p1["master"], &p1["peer"]["name"]), (&"cni0".into(), &"eth0".into()));
    assert_eq!(p1["peer"]["netns_name"], lab.netns("p1"));
    assert_eq!(device(0, "veth-p2")["port"]["isolated"], true);
    assert_eq!(device(0, "veth-p5")["marks"], serde_json::json!(["in no bridge"]));
    assert_eq!(device(0, "cali1")["marks"], serde_json::json!(["down"]));
    let tunnel = &device(0, "flannel.1")["tunnel"];
    assert_eq!((&tunnel["vni"], &tunnel["port"]), (&1.into(), &8472.into()));
    assert_eq!(tunnel["remotes"], serde_json::json!(["192.168.50.12"]));
    let routes = namespaces[0]["routes"].as_array().unwrap();
    let far = routes.iter().find(|r| r["dst"] == "10.244.2.0/24").unwrap();
    assert_eq!(far["via"], serde_json::json!(["via 10.244.2.0 dev flannel.1"]));
}

#[test]
fn every_form_of_the_map_holds_the_cables() {
    let lab = Lab::cluster();
    let n1 = lab.netns("n1");
    let tree = topology(&["--view", &n1]);
    let cable = format!("│  ├─ veth-p1 ↔ eth0@{} 10.244.1.2/24", lab.netns("p1"));
    assert!(tree.contains(&cable), "{tree}");
    assert!(!tree.contains(&lab.netns("p3")), "{tree}");
    let alone = topology(&["--netns", &n1]);
    assert!(alone.starts_with(&n1) && alone.matches("\n\n").count() == 1, "{alone}");
    let dot = topology(&["--view", &n1, "-o", "dot"]);
    assert_eq!(dot.matches("style=bold").count(), 4, "{dot}");
    assert_eq!(dot.matches('{').count(), dot.matches('}').count(), "{dot}");
    let html = topology(&["--view", &n1, "-o", "html"]);
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"), "{html}");
    assert!(!html.contains("http") && !html.contains("src="), "{html}");
    for line in html.split("href=\"#").skip(1) {
        let id = line.split('"').next().unwrap();
        let is_outside = !html.contains(&format!("id=\"{id}\""));
        assert!(!is_outside || line.contains(&lab.netns("fab")), "{id} is not on the page");
    }
}

#[test]
fn a_trace_names_the_routes() {
    let lab = Lab::cluster();
    lab.exec("n1", "ip rule add pref 90 from 10.244.1.0/24 to 10.244.2.0/24 table 90");
    lab.exec("n1", "ip route add 10.244.2.0/26 via 10.244.2.0 dev flannel.1 onlink table 90");
    lab.ping("p1", "10.244.2.2");
    let tracer = Tracer::start(&lab, &["--dst", "10.244.2.2", "--proto", "icmp"]);
    lab.ping("p1", "10.244.2.2");
    let run = tracer.finish();
    let request = run.one(&icmp(8));
    let routes = |host: &str| {
        let hops = request.hops_at(&format!("{host}/route"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let route = |hop: &Value| (text(&hop["route"]["dst"]), text(&hop["route"]["table"]));
        hops.into_iter().map(route).collect::<Vec<_>>()
    };
    let pair = |dst: &str, table: &str| (dst.to_owned(), table.to_owned());
    assert_eq!(routes("p1"), [pair("0.0.0.0/0", "main")]);
    assert_eq!(routes("n1"), [pair("10.244.2.0/26", "90"), pair("192.168.50.0/24", "main")]);
    assert_eq!(routes("n2"), [pair("192.168.50.12/32", "local"), pair("10.244.2.0/24", "main")]);
    assert_eq!(routes("p3"), [pair("10.244.2.2/32", "local")]);
}
