//! Real container software in namespaces of its own: Docker Engine, and the CNI plugins that
//! Kubernetes nodes run.

mod real_support;

use pkttrace_tests::{Journey, Site, Tracer, icmp, tcp};
use real_support::cni::Pod;
use real_support::docker::Engine;
use serde_json::json;

/// A Docker host `dock`, and `ext` outside.
fn docker_site() -> Site {
    let site = Site::new(&["dock", "ext"]);
    site.wire(("dock", "eth0", "198.18.7.1/24"), ("ext", "eth0", "198.18.7.2/24"));
    site
}

fn last_owner(journey: &Journey) -> &str {
    journey.owners().last().copied().unwrap_or_default()
}

#[test]
fn docker_containers_have_names_and_their_networks_do_what_docker_says() {
    let site = docker_site();
    let engine = Engine::start(&site, "dock");
    for network in ["one", "two"] {
        engine.run(&["network", "create", network]);
    }
    let [web, client, other, late] = ["web", "client", "other", "late"].map(|n| site.netns(n));
    engine.run(&[
        "run",
        "-d",
        "--name",
        &web,
        "--network",
        "one",
        "-p",
        "8080:80",
        "box",
        "httpd",
        "-f",
        "-h",
        "/bin",
    ]);
    engine.idle(&client, "one");
    engine.idle(&other, "two");
    site.until("ext", "curl -sS -m 2 -o /dev/null 198.18.7.1:8080/sh");

    // A published port: DNAT on the way in, back on the way out.
    let tracer = Tracer::start(&site, &["--dst", "198.18.7.1", "--dport", "8080"]);
    site.exec("ext", "curl -sS -m 10 -o /dev/null 198.18.7.1:8080/sh");
    tracer.await_journeys(1, &tcp("S."));
    let run = tracer.finish();
    let syn = run.one(&tcp("S").at("ext"));
    let address = engine.address(&web);
    let after = format!("198.18.7.2:* > {address}:80");
    syn.assert_nat("dnat", "dock/eth0/PREROUTING", "198.18.7.2:* > 198.18.7.1:8080", &after);
    assert_eq!((syn.fate(), last_owner(syn)), ("delivered", web.as_str()), "{syn}");
    let answer = run.one(&tcp("S."));
    assert_eq!(answer.owners()[0], web, "{answer}");
    let before = format!("{address}:80 > 198.18.7.2:*");
    answer.assert_nat("un-dnat", "dock/POSTROUTING", &before, "198.18.7.1:8080 > 198.18.7.2:*");

    // Out of the container's network: MASQUERADE; found by the container's name.
    let tracer = Tracer::start(&site, &["--container", &client, "--proto", "icmp"]);
    engine.run(&["exec", &client, "ping", "-c1", "198.18.7.2"]);
    let run = tracer.finish();
    let request = run.one(&icmp(8));
    assert_eq!(request.owners()[0], client, "{request}");
    request.assert_fate("delivered", "ext").assert_order(&["dock/eth0/POSTROUTING=masquerade"]);

    // Into the other network: dropped where Docker isolates them.
    let tracer = Tracer::start(&site, &["--container", &client, "--proto", "icmp"]);
    let to = engine.address(&other);
    assert!(!engine.attempt(&["exec", &client, "ping", "-c1", "-W1", &to]).ok);
    let run = tracer.finish();
    let request = run.first(&icmp(8));
    assert_eq!((request.fate(), request.end()), ("dropped", "dock"), "{request}");
    let drop = &request.json["drop"];
    assert_eq!((&drop["reason"], &drop["hook"]), (&json!("NETFILTER_DROP"), &json!("forward")));

    // A container that comes while the tracer runs.
    let tracer = Tracer::start(&site, &["--dst", "198.18.7.2", "--proto", "icmp"]);
    engine.idle(&late, "two");
    engine.run(&["exec", "-d", &late, "ping", "-c", "60", "198.18.7.2"]);
    tracer.await_journey("from the new container", |j| j.owners().first() == Some(&late.as_str()));
}

#[test]
fn pods_that_cni_plugins_connect_have_names() {
    let site = Site::new(&["node", "ext", "pod"]);
    site.wire(("node", "eth0", "198.18.8.1/24"), ("ext", "eth0", "198.18.8.2/24"));
    site.exec("node", "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1");
    let ipam = json!({
        "type": "host-local", "dataDir": pkttrace_tests::Place::scratch(&site).join("ipam"),
        "ranges": [[{"subnet": "10.88.8.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]
    });
    let namespace = site.netns("shop");
    let pod = Pod::add(
        &site,
        ("node", "pod"),
        (&namespace, "web"),
        vec![
            json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
                   "hairpinMode": true, "ipam": ipam}),
            json!({"type": "portmap", "capabilities": {"portMappings": true}, "runtimeConfig":
                   {"portMappings": [{"hostPort": 8088, "containerPort": 80, "protocol": "tcp"}]}}),
            json!({"type": "firewall", "backend": "iptables"}),
        ],
    );
    let name = format!("{namespace}/web");

    // Out: the bridge plugin's masquerading, found by the pod's name.
    let tracer = Tracer::start(&site, &["--pod", &name, "--proto", "icmp"]);
    site.exec("pod", "ping -n -c1 -W5 198.18.8.2");
    let run = tracer.finish();
    let request = run.one(&icmp(8));
    assert_eq!(request.owners()[0], name, "{request}");
    assert!(request.path().starts_with("eth0@shop/web → "), "{request}");
    request.assert_fate("delivered", "ext").assert_order(&[
        "pod/eth0/xmit",
        "node/cni0/PREROUTING",
        "node/cni0>eth0/FORWARD=accept",
        "node/eth0/POSTROUTING=masquerade",
    ]);
    let reply = run.one(&icmp(0));
    assert_eq!(last_owner(reply), name, "{reply}");

    // In: the portmap plugin's hostPort.
    let tracer = Tracer::start(&site, &["--dst", "198.18.8.1", "--dport", "8088"]);
    assert!(!site.attempt("ext", "curl -sS -m 5 198.18.8.1:8088").ok, "nobody listens");
    let run = tracer.finish();
    let syn = run.first(&tcp("S").at("ext"));
    let after = format!("198.18.8.2:* > {}:80", pod.address());
    syn.assert_nat("dnat", "node/eth0/PREROUTING", "198.18.8.2:* > 198.18.8.1:8088", &after);
    assert_eq!(last_owner(syn), name, "{syn}");
}
