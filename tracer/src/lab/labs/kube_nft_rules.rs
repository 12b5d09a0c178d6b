//! The rules of kube-proxy's nftables mode on a node: one table whose maps lead to a chain for each
//! Service, which holds one rule that translates to an endpoint drawn at random.

/// Addresses and ports of the pods that serve.
const P1: &str = "10.244.1.2 . 8080";
const P2: &str = "10.244.1.3 . 8080";
const P3: &str = "10.244.2.2 . 8080";

struct Service {
    /// What kube-proxy hashes, then namespace, name, protocol and port's name.
    id: &'static str,
    proto: &'static str,
    /// The Service's own address and port; weblocal has none here, as in the other modes.
    ip: Option<(&'static str, u16)>,
    node_port: Option<u16>,
    /// `externalTrafficPolicy: Local`.
    is_local: bool,
    endpoints: &'static [&'static str],
}

const fn service(
    id: &'static str,
    ip: &'static str,
    port: u16,
    endpoints: &'static [&'static str],
) -> Service {
    Service { id, proto: "tcp", ip: Some((ip, port)), node_port: None, is_local: false, endpoints }
}

const SERVICES: [Service; 8] = [
    service("ULMVA6XW-default/web/tcp/", "10.96.45.100", 80, &[P2, P3]),
    service("O6YHTNFQ-default/websame/tcp/", "10.96.45.102", 80, &[P2]),
    Service {
        node_port: Some(30080),
        ..service("4AT6LBPK-default/webrem/tcp/", "10.96.45.103", 80, &[P3])
    },
    service("5T7ANFLS-default/self/tcp/", "10.96.45.101", 80, &[P1]),
    Service {
        proto: "udp",
        ..service("NWBZK7IH-kube-system/kube-dns/udp/dns", "10.96.0.10", 53, &["10.244.2.53 . 53"])
    },
    service("I3G2KJPV-kube-system/kube-dns/tcp/dns-tcp", "10.96.0.10", 53, &["10.244.2.53 . 53"]),
    service("2QRHZV4L-default/kubernetes/tcp/https", "10.96.0.1", 443, &["192.168.50.11 . 6443"]),
    Service {
        node_port: Some(30081),
        is_local: true,
        ip: None,
        ..service("RDINZFO5-default/weblocal/tcp/", "", 0, &[P2])
    },
];

/// The table of `node`, whose address is `node_ip` and whose pods have addresses in `cidr`.
pub(super) fn render(node: &str, node_ip: &str, cidr: &str) -> String {
    let (mut ips, mut ports, mut empty_ports) = (Vec::new(), Vec::new(), Vec::new());
    let (mut addresses, mut hairpins, mut chains) = (Vec::new(), Vec::new(), String::new());
    for service in &SERVICES {
        let Service { id, proto, ip, node_port, is_local, endpoints } = service;
        if let Some((ip, port)) = ip {
            ips.push(format!("{ip} . {proto} . {port} : goto service-{id}"));
            if !addresses.contains(&(*ip).to_owned()) {
                addresses.push((*ip).to_owned());
            }
        }
        if let Some(port) = node_port {
            ports.push(format!("{proto} . {port} : goto external-{id}"));
            if *is_local && node != "n1" {
                let name = id.split(['-', '/']).skip(1).take(2).collect::<Vec<_>>().join("/");
                empty_ports.push(format!("{proto} . {port} comment \"{name}\" : drop"));
            }
        }
        for endpoint in *endpoints {
            let (addr, port) = endpoint.split_once(" . ").unwrap_or((endpoint, "0"));
            let key = format!("{addr} . {addr} . {proto} . {port}");
            if addr.starts_with("10.244.") && !hairpins.contains(&key) {
                hairpins.push(key);
            }
        }
        chains.push_str(&service_chains(node, service, cidr));
    }
    FRAME
        .replace("{CLUSTER_IPS}", &addresses.join(", "))
        .replace("{NODE_IP}", node_ip)
        .replace("{HAIRPINS}", &hairpins.join(", "))
        .replace("{SERVICES}", &elements(&ips))
        .replace("{NODE_PORTS}", &elements(&ports))
        .replace("{EMPTY_PORTS}", &elements(&empty_ports))
        .replace("{CHAINS}", &chains)
}

fn elements(all: &[String]) -> String {
    if all.is_empty() { String::new() } else { format!("elements = {{ {} }}", all.join(", ")) }
}

fn service_chains(node: &str, service: &Service, cidr: &str) -> String {
    let Service { id, proto, node_port, is_local, endpoints, .. } = service;
    let rule = {
        let numbered = endpoints.iter().enumerate().map(|(n, to)| format!("{n} : {to}"));
        let map: Vec<String> = numbered.collect();
        let count = endpoints.len();
        format!(
            "meta l4proto {proto} dnat ip to numgen random mod {count} map {{ {} }}",
            map.join(", ")
        )
    };
    let mut text = format!("\tchain service-{id} {{\n\t\t{rule}\n\t}}\n");
    if node_port.is_none() {
        return text;
    }
    if !is_local {
        text += &format!(
            "\tchain external-{id} {{\n\t\tmeta mark set meta mark | 0x00004000 comment \"masquerade\"\n\
             \t\tgoto service-{id}\n\t}}\n"
        );
        return text;
    }
    text += &format!(
        "\tchain external-{id} {{\n\
         \t\tip saddr {cidr} goto service-{id} comment \"short-circuit pod traffic\"\n\
         \t\tfib saddr type local meta mark set meta mark | 0x00004000 comment \"masquerade local traffic\"\n\
         \t\tfib saddr type local goto service-{id} comment \"short-circuit local traffic\"\n"
    );
    if node == "n1" {
        text += &format!("\t\tgoto local-{id}\n\t}}\n\tchain local-{id} {{\n\t\t{rule}\n");
    }
    text + "\t}\n"
}

const FRAME: &str = r#"table ip kube-proxy {
	comment "rules for kube-proxy"
	set cluster-ips {
		type ipv4_addr
		comment "Active ClusterIPs"
		elements = { {CLUSTER_IPS} }
	}
	set nodeport-ips {
		type ipv4_addr
		comment "IPs that accept NodePort traffic"
		elements = { {NODE_IP} }
	}
	set hairpin-connections {
		type ipv4_addr . ipv4_addr . inet_proto . inet_service
		comment "service hairpin connections"
		elements = { {HAIRPINS} }
	}
	map no-endpoint-services {
		type ipv4_addr . inet_proto . inet_service : verdict
		comment "vmap to drop or reject packets to services with no endpoints"
	}
	map no-endpoint-nodeports {
		type inet_proto . inet_service : verdict
		comment "vmap to drop or reject packets to service nodeports with no endpoints"
		{EMPTY_PORTS}
	}
	map firewall-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
		comment "destinations that are subject to LoadBalancerSourceRanges"
	}
	map service-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
		comment "ClusterIP, ExternalIP and LoadBalancer IP traffic"
		{SERVICES}
	}
	map service-nodeports {
		type inet_proto . inet_service : verdict
		comment "NodePort traffic"
		{NODE_PORTS}
	}
	chain filter-prerouting-pre-dnat {
		type filter hook prerouting priority dstnat - 10; policy accept;
		ct state new jump firewall-check
	}
	chain filter-output-pre-dnat {
		type filter hook output priority -110; policy accept;
		ct state new jump firewall-check
	}
	chain filter-input {
		type filter hook input priority filter; policy accept;
		ct state new jump nodeport-endpoints-check
		ct state new jump service-endpoints-check
	}
	chain filter-forward {
		type filter hook forward priority filter; policy accept;
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}
	chain filter-output {
		type filter hook output priority filter; policy accept;
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}
	chain nat-prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		jump services
	}
	chain nat-output {
		type nat hook output priority -100; policy accept;
		jump services
	}
	chain nat-postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		jump masquerading
	}
	chain nodeport-endpoints-check {
		ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
	}
	chain service-endpoints-check {
		ip daddr . meta l4proto . th dport vmap @no-endpoint-services
	}
	chain firewall-check {
		ip daddr . meta l4proto . th dport vmap @firewall-ips
	}
	chain services {
		ip daddr @cluster-ips ip saddr != 10.244.0.0/16 meta mark set meta mark | 0x00004000 comment "masquerade clusterIP traffic from outside cluster"
		ip daddr . meta l4proto . th dport vmap @service-ips
		ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
	}
	chain masquerading {
		meta mark & 0x00004000 != 0x00000000 meta mark set meta mark ^ 0x00004000 masquerade fully-random
		ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
	}
	chain cluster-ips-check {
		ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"
		ip daddr 10.96.0.0/16 drop comment "Drop traffic to unallocated ClusterIPs"
	}
	chain reject-chain {
		comment "helper for @no-endpoint-services / @no-endpoint-nodeports"
		reject
	}
{CHAINS}}
"#;
