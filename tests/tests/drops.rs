//! Packets that the kernel drops: each named with its reason, its function and its place.

use pkttrace_tests::{
    Journey, Lab, PinnedProgram, Run, Tracer, Verdict, arp, icmp, icmp6, packets, tcp, udp, version,
};

const FAR: &str = "10.244.2.2";
const FAR6: &str = "fd00:10:244:2::2";
const NEAR: &str = "10.244.1.3";

/// Traces one ping from p1 that is not answered.
fn lost_ping(lab: &Lab, to: &str) -> Run {
    let tracer = Tracer::start(lab, &["--dst", to, "--proto", "icmp"]);
    lab.ping_fails("p1", to);
    tracer.finish()
}

/// A ping to the other node after `command` was run on n1.
fn lost_on_n1(command: &str) -> Run {
    let lab = Lab::cluster();
    lab.ping("p1", FAR);
    lab.exec("n1", command);
    lost_ping(&lab, FAR)
}

/// What a path ends in, with the reason that this kernel gives.
fn cross(request: &Journey) -> String {
    format!(" ✗ {}", request.json["drop"]["reason"].as_str().unwrap_or_default())
}

/// The error that the drop of `request` made the node send.
fn assert_error(run: &Run, request: &Journey, kind: u8, code: u8) {
    let told = request.hops_at("/icmp-error");
    assert_eq!(told.len(), 1, "{request}");
    assert_eq!(told[0]["icmp_error"]["type"], kind, "{request}");
    assert_eq!(told[0]["icmp_error"]["code"], code, "{request}");
    // `icmp:icmp_send` is of 6.1; before, a function probe says the same.
    let by = if version() >= (6, 1) { "tp" } else { "fn" };
    assert_eq!(told[0]["source"], serde_json::json!([by]), "{request}");
    let error = run.one(&icmp(kind).code(code).at("n1"));
    error.assert_child_of(request, "icmp-error").assert_fate("delivered", "p1");
}

#[test]
fn forwarding_off_drops_after_the_route_was_found() {
    let run = lost_on_n1("sysctl -qw net.ipv4.ip_forward=0");
    let request = run.one(&icmp(8));
    request.assert_drop("IP_INADDRERRORS", "ip_error", "n1/cni0").assert_absent("n1//FORWARD");
    assert!(request.path().ends_with(&cross(request)), "{request}");
}

#[test]
fn no_route_drops_and_tells_the_sender() {
    let run = lost_on_n1("ip route del 10.244.2.0/24 && ip route del default");
    let request = run.one(&icmp(8));
    request.assert_drop("IP_INNOROUTES", "ip_error", "n1/cni0").assert_order(&["n1/route=none"]);
    assert_error(&run, request, 3, 0);
}

#[test]
fn a_blackhole_route_drops_silently() {
    let run = lost_on_n1("ip route replace blackhole 10.244.2.0/24");
    let request = run.one(&icmp(8));
    request.assert_drop("NOT_SPECIFIED", "ip_error", "n1/cni0");
    request.assert_order(&["n1/route=blackhole", "n1/drop"]).assert_absent("n1/icmp-error");
}

#[test]
fn an_unreachable_route_drops_and_tells_the_sender() {
    let run = lost_on_n1("ip route replace unreachable 10.244.2.0/24");
    let request = run.one(&icmp(8));
    request.assert_drop("NOT_SPECIFIED", "ip_error", "n1/cni0");
    request.assert_order(&["n1/route=unreachable", "n1/icmp-error", "n1/drop"]);
    assert_error(&run, request, 3, 1);
}

#[test]
fn a_reverse_path_filter_drops_where_the_packet_came_in() {
    let filter = "sysctl -qw net.ipv4.conf.cni0.rp_filter=1";
    let run = lost_on_n1(&format!("{filter} && ip route add 10.244.1.2/32 dev eth0"));
    let request = run.one(&icmp(8));
    request.assert_drop("IP_RPFILTER", "ip_rcv_finish_core", "n1/cni0");
}

#[test]
fn an_expired_ttl_drops_in_forwarding_and_tells_the_sender() {
    let lab = Lab::cluster();
    lab.ping("p1", FAR);
    let tracer = Tracer::start(&lab, &["--dst", FAR, "--proto", "icmp"]);
    lab.exec_fails("p1", &format!("ping -n -c1 -W1 -t1 {FAR}"));
    let run = tracer.finish();
    let request = run.one(&icmp(8));
    request.assert_drop("IP_INHDR", "ip_forward", "n1/cni0");
    assert_error(&run, request, 11, 0);
}

#[test]
fn a_tunnel_without_forwarding_entry_drops_in_the_tunnel_device() {
    let lab = Lab::cluster();
    lab.ping("p1", FAR);
    lab.exec("n1", "bridge fdb del 0a:58:0a:f4:02:00 dev flannel.1 dst 192.168.50.12");
    let run = lost_ping(&lab, FAR);
    let request = run.one(&icmp(8));
    request.assert_drop("NO_TX_TARGET", "vxlan_xmit", "n1/flannel.1");
    request.assert_order(&["n1/flannel.1/POSTROUTING", "n1/flannel.1/xmit", "n1/flannel.1/drop"]);
    request.assert_absent("n1/encap");
}

/// A rule in n1's FORWARD, met by a packet that br_netfilter shows it.
fn lost_to_rule(iptables: &str, target: &str) -> Run {
    let lab = Lab::cluster_with(iptables);
    lab.ping("p1", NEAR);
    lab.exec("n1", &format!("iptables-{iptables} -I FORWARD -d {NEAR} -j {target}"));
    lost_ping(&lab, NEAR)
}

fn assert_dropped_by_rule(request: &Journey, function: &str) {
    request.assert_drop("NETFILTER_DROP", function, "n1");
    assert_eq!(request.json["drop"]["hook"], "forward", "{request}");
    request.assert_order(&["n1/cni0/PREROUTING=accept", "n1/cni0>cni0/FORWARD=drop", "n1/drop"]);
    let way = "eth0@p1 → veth-p1 → cni0 → PREROUTING → FORWARD".to_owned();
    request.assert_path(&(way + &cross(request)));
    assert_named_by_functions(request, "n1/cni0>cni0/FORWARD");
}

/// Function probes alone name the table and what it said, `--rules` is not needed. Not where
/// nf_tables frees the packet itself (6.7): its function then returns without one.
fn assert_named_by_functions(request: &Journey, forward: &str) {
    let hop = request.hops_at(forward)[0];
    let is_probed = hop["source"].as_array().is_some_and(|by| by.contains(&"fn".into()));
    if is_probed && request.json["drop"]["function"] == "nf_hook_slow" {
        let named = [&hop["table"], &hop["chain"], &hop["verdict"]];
        assert_eq!(named, ["filter", "FORWARD", "drop"], "{hop:#}");
    }
}

#[test]
fn a_rule_of_iptables_nft_drops_in_its_hook() {
    let run = lost_to_rule("nft", "DROP");
    assert_dropped_by_rule(run.one(&icmp(8)), "nft_do_chain");
}

#[test]
fn a_rule_of_iptables_legacy_drops_in_its_hook() {
    let run = lost_to_rule("legacy", "DROP");
    assert_dropped_by_rule(run.one(&icmp(8)), "nf_hook_slow");
}

#[test]
fn a_rule_of_ip6tables_legacy_drops_in_its_hook() {
    let lab = Lab::cluster6();
    lab.ping("p1", FAR6);
    lab.exec("n1", &format!("ip6tables-legacy -w 60 -I FORWARD -d {FAR6} -j DROP"));
    let tracer = Tracer::start(&lab, &["--dst", FAR6, "--proto", "icmp6"]);
    lab.ping_fails("p1", FAR6);
    let run = tracer.finish();
    let request = run.one(&icmp6(128));
    request.assert_drop("NETFILTER_DROP", "nf_hook_slow", "n1");
    assert_eq!(request.json["drop"]["hook"], "forward", "{request}");
    request.assert_order(&["n1/route=eth0", "n1/cni0>eth0/FORWARD=drop", "n1/drop"]);
    assert_named_by_functions(request, "n1/cni0>eth0/FORWARD");
}

#[test]
fn a_rejecting_rule_drops_and_tells_the_sender() {
    for (iptables, function) in [("nft", "nft_do_chain"), ("legacy", "nf_hook_slow")] {
        let run = lost_to_rule(iptables, "REJECT");
        let request = run.one(&icmp(8));
        request.assert_drop("NETFILTER_DROP", function, "n1");
        let error = run.one(&icmp(3).code(3).at("n1"));
        error.assert_child_of(request, "icmp-error").assert_fate("delivered", "p1");
    }
}

#[test]
fn a_native_nftables_rule_drops_in_its_hook() {
    let lab = Lab::cluster();
    lab.ping("p1", FAR);
    lab.exec(
        "n1",
        "nft add table ip t && nft 'add chain ip t c { type filter hook forward priority 0 ; }'",
    );
    lab.exec("n1", &format!("nft add rule ip t c ip daddr {FAR} drop"));
    let run = lost_ping(&lab, FAR);
    let request = run.one(&icmp(8));
    request.assert_drop("NETFILTER_DROP", "nft_do_chain", "n1");
    assert_eq!(request.json["drop"]["hook"], "forward", "{request}");
    request.assert_order(&["n1/route=flannel.1", "n1/cni0>flannel.1/FORWARD=drop"]);
}

#[test]
fn a_closed_tcp_port_drops_at_the_pod_and_answers_with_a_reset() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--dst", NEAR, "--port", "9999"]);
    lab.get_fails("p1", "10.244.1.3:9999/");
    let run = tracer.finish();
    let syn = run.one(&tcp("S"));
    syn.assert_drop("NO_SOCKET", "tcp_v4_rcv", "p2/eth0").assert_order(&["p2/eth0/INPUT=accept"]);
    run.one(&tcp("R.")).assert_child_of(syn, "reply").assert_fate("delivered", "p1");
}

#[test]
fn a_closed_udp_port_drops_at_the_pod_and_tells_the_sender() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--dst", NEAR]);
    lab.exec("p1", "bash -c 'echo x > /dev/udp/10.244.1.3/9999'");
    tracer.await_journeys(1, &icmp(3).code(3));
    let run = tracer.finish();
    let datagram = run.one(&udp().to("10.244.1.3 9999"));
    datagram.assert_drop("NO_SOCKET", "__udp4_lib_rcv", "p2/eth0");
    let error = run.one(&icmp(3).code(3));
    error.assert_child_of(datagram, "icmp-error").assert_fate("delivered", "p1");
}

/// The kernel asks three times, a second apart, before it gives up.
#[test]
fn a_neighbour_that_does_not_answer_drops_at_the_sender() {
    let lab = Lab::cluster();
    let tracer = Tracer::start(&lab, &["--dst", "10.244.1.99"]);
    lab.exec_fails("p1", "ping -n -c1 -W10 10.244.1.99");
    tracer.await_journeys(1, &icmp(8));
    let run = tracer.finish();
    let request = run.one(&icmp(8));
    request.assert_drop("NEIGH_FAILED", "neigh_invalidate", "p1/eth0");
    let waits = request.hops_at("p1/eth0/neigh");
    if !run.is_crowded {
        assert_eq!(waits.len(), 1, "{request}");
        assert_eq!(waits[0]["neigh"]["address"], "10.244.1.99", "{request}");
    }
    request.assert_absent("p1/eth0/queue");
    let asked = run.all(&arp("request").root().to("10.244.1.99"));
    assert_eq!(asked.len(), 3, "{}", run.listing());
    run.none(&arp("reply"));
}

#[test]
fn an_xdp_program_drops_before_the_stack() {
    let lab = Lab::cluster();
    lab.ping("p1", NEAR);
    let program = PinnedProgram::new(&lab, Verdict::XdpDrop);
    lab.exec("p2", &format!("ip link set dev eth0 xdpgeneric pinned {}", program.path()));
    let run = lost_ping(&lab, NEAR);
    let request = run.one(&icmp(8));
    request.assert_drop("NOT_SPECIFIED", "netif_receive_generic_xdp", "p2/eth0");
    request.assert_order(&["n1/veth-p2/xmit", "p2/drop"]).assert_absent("p2//PREROUTING");
}

fn lost_to_tc(direction: &str, dev: &str) -> Run {
    let lab = Lab::cluster();
    lab.ping("p1", NEAR);
    let program = PinnedProgram::new(&lab, Verdict::TcShot);
    lab.exec("n1", &format!("tc qdisc add dev {dev} clsact"));
    let filter = format!("tc filter add dev {dev} {direction} bpf da pinned {}", program.path());
    lab.exec("n1", &filter);
    lost_ping(&lab, NEAR)
}

#[test]
fn a_tc_program_drops_on_ingress() {
    let run = lost_to_tc("ingress", "veth-p1");
    let request = run.one(&icmp(8));
    request.assert_drop("TC_INGRESS", "__netif_receive_skb_core", "n1/veth-p1");
    request.assert_order(&["p1/eth0/xmit", "n1/drop"]).assert_absent("n1//PREROUTING");
}

#[test]
fn a_tc_program_drops_on_egress() {
    let run = lost_to_tc("egress", "veth-p2");
    let request = run.one(&icmp(8));
    request.assert_drop("TC_EGRESS", "__dev_queue_xmit", "n1/veth-p2");
    request.assert_order(&["n1/veth-p1/rx", "n1/drop"]).assert_absent("p2/eth0/rx");
}

/// As root, by a raw socket, and as others do, by a ping socket.
#[test]
fn an_answered_ping_is_never_a_drop() {
    let lab = Lab::cluster();
    lab.exec("p1", "sysctl -qw net.ipv4.ping_group_range='0 2147483647'");
    let tracer = Tracer::start(&lab, &["--src", "10.244.1.2"]);
    for to in [NEAR, FAR, "10.244.1.1", "203.0.113.10", "10.244.1.5"] {
        lab.exec("p1", &format!("ping -n -c2 -i0.2 -W5 {to}"));
        lab.exec("p1", &format!("setpriv --reuid=65534 --clear-groups ping -n -c1 -W5 {to}"));
        lab.exec("p1", &format!("ping -n -c1 -W5 -s 4000 {to}"));
    }
    let run = tracer.finish();
    assert!(run.all(&packets()).len() >= 40, "{}", run.listing());
    run.assert_no_drops();
}

#[test]
fn a_copy_that_a_bridge_sends_out_is_dropped_at_forward() {
    let lab = Lab::up("bridge", &["--ipv6"]);
    lab.exec(
        "n1",
        "nft add table inet shut && \
         nft add chain inet shut front '{ type filter hook forward priority 0; policy drop; }'",
    );
    let tracer = Tracer::start(&lab, &["--src", "fd00:10:244:1::2", "--rules"]);
    let _ = lab.attempt("p1", "ping -n -c 1 -W 1 fd00:10:244:1::99");
    let is_copy = |j: &Journey| j.json["fate"] == "dropped" && j.json["parent"]["kind"] == "clone";
    tracer.await_journey("a copy for another port", is_copy);
    let run = tracer.finish();
    for copy in run.journeys.iter().filter(|j| is_copy(j)) {
        assert_eq!(copy.json["drop"]["hook"], "forward", "{copy}");
        let hop = copy.hops_at("n1/FORWARD")[0].clone();
        assert_eq!((&hop["layer"], &hop["verdict"]), (&"bridge".into(), &"drop".into()), "{copy}");
    }
}
