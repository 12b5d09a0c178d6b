//! Kubernetes Services, by the rules that kube-proxy writes: where clients reach them.
//!
//! In iptables mode comments name the Service, in nftables mode comments or chains do; `firewall`
//! knows both. Headless Services have no rules, and kube-proxy's IPVS mode keeps no names: neither
//! can be found.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cli::filter::Network;
use crate::firewall::{self, Firewall};
use crate::net::{self, Netns, NetworkState};

/// A Service, as a node's rules know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Where clients reach it: cluster, external and load balancer addresses, and with a NodePort
    /// those of the node.
    pub places: BTreeSet<Place>,
}

impl Service {
    /// Its addresses.
    pub fn networks(&self) -> impl Iterator<Item = Network> + '_ {
        let addresses: BTreeSet<IpAddr> = self.places.iter().map(|p| p.addr).collect();
        addresses.into_iter().map(Network::host)
    }
}

/// An address and port of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Address.
    pub addr: IpAddr,
    /// IP protocol number.
    pub proto: u8,
    /// Port number.
    pub port: u16,
}

/// Services by `NS/NAME`.
pub type Services = BTreeMap<String, Service>;

/// The Service `NS/NAME`, by the rules of the node's own namespace and of those that forward
/// (nodes of a lab, nodes that are containers).
///
/// # Errors
///
/// When no rule tells of it, with names that come near.
pub fn find(state: &NetworkState, spec: &str) -> anyhow::Result<Service> {
    let mut services = Services::new();
    let mut unread = Vec::new();
    let forwards = |n: &&Netns| n.inum == state.own || n.forwards_v4 || n.forwards_v6;
    for netns in state.netns.values().filter(forwards) {
        match firewall::read_in(&netns.path, netns.inum) {
            Ok(rules) => {
                enter(&rules, netns, &mut services);
                unread.extend(rules.unread);
            }
            Err(error) => log::debug!("rules of {}: {error}", netns.name),
        }
    }
    if let Some(service) = services.remove(spec) {
        return Ok(service);
    }
    let near = net::near(spec, services.keys().map(String::as_str));
    match (near.is_empty(), services.is_empty(), unread.first()) {
        (false, ..) => anyhow::bail!("no Service {spec:?}; did you mean {}?", near.join(", ")),
        (true, false, _) => anyhow::bail!(
            "no Service {spec:?} among the {} that rules here tell of; a headless one has none: its \
             pods are found by --pod or --dst",
            services.len()
        ),
        (true, true, Some(why)) => anyhow::bail!("no Service {spec:?}: {why}"),
        (true, true, None) => anyhow::bail!(
            "no Service {spec:?}: no kube-proxy rules on this node (`iptables-save | grep KUBE-SERVICES`)"
        ),
    }
}

/// Enters the Services that the rules of a namespace tell of.
fn enter(rules: &Firewall, netns: &Netns, services: &mut Services) {
    let own = || netns.devices.values().flat_map(|d| &d.addresses).map(|(addr, _)| *addr);
    for found in rules.services() {
        // `NS/NAME:PORT`.
        let name = found.name.split(':').next().unwrap_or_default();
        if !name.contains('/') {
            continue;
        }
        let places = &mut services.entry(name.to_owned()).or_default().places;
        let place = |addr| Place { addr, proto: found.proto, port: found.port };
        match found.addr {
            Some(addr) => _ = places.insert(place(addr)),
            None => places.extend(own().map(place)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::parsed;
    use crate::net::Device;

    fn services(rules: &Firewall) -> Services {
        let addresses =
            vec![("192.0.2.1".parse().unwrap(), 24), ("2001:db8::1".parse().unwrap(), 64)];
        let eth0 = Device { ifindex: 2, addresses, ..Device::default() };
        let netns = Netns { devices: [(2, eth0)].into(), ..Netns::default() };
        let mut services = Services::new();
        enter(rules, &netns, &mut services);
        services
    }

    fn places(services: &Services, name: &str) -> Vec<String> {
        let places = services[name].places.iter();
        places.map(|p| format!("{} {} {}", p.addr, p.proto, p.port)).collect()
    }

    #[test]
    fn every_address_and_port_of_a_service_is_found() {
        let v4 = r#"*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SVC-B - [0:0]
:KUBE-EXT-A - [0:0]
-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m comment --comment "shop/web:dns cluster IP" -m udp --dport 53 -j KUBE-SVC-A
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "shop/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-B
-A KUBE-SERVICES -d 203.0.113.9/32 -p tcp -m comment --comment "shop/web:http loadbalancer IP" -m tcp --dport 80 -j KUBE-EXT-A
-A KUBE-SERVICES -d 203.0.113.8/32 -p tcp -m comment --comment "shop/web:http external IP" -m tcp --dport 80 -j KUBE-EXT-A
-A KUBE-NODEPORTS -p tcp -m comment --comment "shop/web:http" -m tcp --dport 30080 -j KUBE-EXT-A
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
*filter
:KUBE-SERVICES - [0:0]
-A KUBE-SERVICES -d 10.96.4.4/32 -p tcp -m comment --comment "shop/api:http has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
COMMIT
"#;
        let v6 = r#"*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
-A KUBE-SERVICES -d fd00::10/128 -p udp -m comment --comment "shop/web:dns cluster IP" -m udp --dport 53 -j KUBE-SVC-A
COMMIT
"#;
        let services = services(&parsed(&[("ip", v4), ("ip6", v6)], ""));
        assert_eq!(
            places(&services, "shop/web"),
            [
                "10.96.0.10 6 80",
                "10.96.0.10 17 53",
                "192.0.2.1 6 30080",
                "203.0.113.8 6 80",
                "203.0.113.9 6 80",
                "2001:db8::1 6 30080",
                "fd00::10 17 53",
            ]
        );
        assert_eq!(places(&services, "shop/api"), ["10.96.4.4 6 80"]);
        assert_eq!(services.len(), 2);
    }

    #[test]
    fn maps_of_the_nftables_mode_name_them_too() {
        let text = r#"table ip kube-proxy {
	map service-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
		comment "ClusterIP, ExternalIP and LoadBalancer IP traffic"
		elements = { 172.30.0.41 . tcp . 80 : goto service-ULMVA6XW-ns1/svc1/tcp/p80,
			     192.0.2.7 . tcp . 80 : goto external-ULMVA6XW-ns1/svc1/tcp/p80 }
	}
	map service-nodeports {
		type inet_proto . inet_service : verdict
		elements = { tcp . 30080 : goto external-ULMVA6XW-ns1/svc1/tcp/p80 }
	}
	chain service-ULMVA6XW-ns1/svc1/tcp/p80 {
		ip daddr 172.30.0.41 tcp dport 80 ip saddr != 10.0.0.0/8 jump mark-for-masquerade
		numgen random mod 2 vmap { 0 : goto endpoint-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/8080, 1 : goto endpoint-X-ns1/svc1/tcp/p80__10.180.0.2/8080 }
	}
}
"#;
        let services = services(&parsed(&[], text));
        let expected =
            ["172.30.0.41 6 80", "192.0.2.1 6 30080", "192.0.2.7 6 80", "2001:db8::1 6 30080"];
        assert_eq!(places(&services, "ns1/svc1"), expected);
    }

    #[test]
    fn other_rules_tell_of_no_service() {
        let text = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 80 -j ACCEPT\nCOMMIT\n";
        assert!(services(&parsed(&[("ip", text)], "table ip x { chain y { } }\n")).is_empty());
    }
}
