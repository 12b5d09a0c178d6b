//! Every lab's tables fit together.

use std::collections::HashSet;

use super::*;
use crate::lab::probe::Expected;
use crate::lab::topology::{LinkKind, Proxy};

fn topologies() -> impl Iterator<Item = (&'static Spec, Choice, Topology)> {
    let choices = [
        Choice::default(),
        Choice { ipv6: true, proxy: Proxy::Iptables },
        Choice { ipv6: false, proxy: Proxy::Nftables },
    ];
    LABS.iter()
        .flat_map(move |lab| choices.map(|choice| (lab, choice, lab.topology(choice).unwrap())))
}

#[test]
fn every_part_belongs_to_a_host() {
    for (lab, _, t) in topologies() {
        let hosts: HashSet<&str> = t.host_names().into_iter().collect();
        assert_eq!(hosts.len(), t.hosts.len(), "{}: host names repeat", lab.name);
        // A host name without `-` keeps PREFIX-HOST unambiguous.
        assert!(hosts.iter().all(|host| !host.contains('-')));
        let used = (t.links.iter().flat_map(|link| link.ends().map(|(host, _)| host)))
            .chain(t.addresses.iter().map(|address| address.host))
            .chain(t.routes.iter().map(|route| route.host))
            .chain(t.neighbours.iter().map(|neighbour| neighbour.host))
            .chain(t.fdb.iter().map(|entry| entry.host))
            .chain(t.base_sysctls.iter().chain(&t.sysctls).map(|sysctl| sysctl.host))
            .chain(t.rules.iter().chain(&t.nft).map(|rules| rules.host))
            .chain(t.resolvers.iter().map(|resolver| resolver.host))
            .chain(t.servers.iter().map(|server| server.host.as_str()));
        for host in used {
            assert!(hosts.contains(host), "{}: no host {host}", lab.name);
        }
    }
}

#[test]
fn every_device_exists_once_and_before_it_is_used() {
    for (lab, _, t) in topologies() {
        let mut devices: HashSet<(&str, &str)> =
            t.hosts.iter().map(|host| (host.name, "lo")).collect();
        for link in &t.links {
            if let Some(master) = link.master {
                assert!(devices.contains(&(link.host, master)), "{}: {link:?}", lab.name);
            }
            if let LinkKind::Vxlan { underlay_dev, .. } = link.kind {
                assert!(devices.contains(&(link.host, underlay_dev)), "{}: {link:?}", lab.name);
            }
            for end in link.ends() {
                assert!(end.1.len() < 16, "{}: {end:?} is too long for the kernel", lab.name);
                assert!(devices.insert(end), "{}: {end:?} twice", lab.name);
            }
        }
        let used = (t.addresses.iter().map(|a| (a.host, a.dev)))
            .chain(t.neighbours.iter().map(|n| (n.host, n.dev)))
            .chain(t.fdb.iter().map(|e| (e.host, e.dev)));
        for used in used {
            assert!(devices.contains(&used), "{}: no device {used:?}", lab.name);
        }
        for route in &t.routes {
            if let Some(dev) = &route.route.dev {
                assert!(devices.contains(&(route.host, dev.as_str())), "{}: {route:?}", lab.name);
            }
        }
    }
}

#[test]
fn addresses_are_unique() {
    for (lab, _, t) in topologies() {
        let mut seen = HashSet::new();
        for address in &t.addresses {
            assert!(seen.insert(address.cidr.ip), "{}: {address:?} twice", lab.name);
        }
    }
}

#[test]
fn ipv6_is_there_only_when_chosen() {
    for (lab, choice, t) in topologies() {
        let has_ipv6 = t.addresses.iter().any(|address| address.cidr.ip.is_ipv6());
        assert_eq!(has_ipv6, choice.ipv6, "{}", lab.name);
        let listens = t.servers.iter().any(|server| server.addr.is_ipv6());
        assert_eq!(listens, choice.ipv6, "{}", lab.name);
    }
}

#[test]
fn probes_start_from_hosts_and_have_one_name_each() {
    for lab in &LABS {
        let hosts = lab.topology(Choice::default()).unwrap().host_names();
        let mut names = HashSet::new();
        for probe in lab.probes {
            assert!(names.insert(probe.name), "{}: probe {} twice", lab.name, probe.name);
            if let Some((host, what)) = probe.measure {
                assert!(hosts.contains(&host), "{}: {what:?}", lab.name);
            }
            for step in probe.steps {
                assert!(hosts.contains(&step.from()), "{}: {step:?}", lab.name);
            }
        }
    }
}

#[test]
fn cluster_has_the_33_probes_of_a_healthy_lab() {
    let cluster = Spec::find("cluster").unwrap();
    let healthy = cluster.probes.iter().filter(|p| p.expected == Expected::Healthy);
    assert_eq!(healthy.count(), 33);
}

#[test]
fn only_the_node_with_an_endpoint_serves_policy_local() {
    let render = |node, cidr| kube_rules::render(node, cidr, Proxy::Iptables);
    let (one, two) = (render("n1", "10.244.1.0/24"), render("n2", "10.244.2.0/24"));
    assert!(one.contains("-A KUBE-EXT-LOCAL -j KUBE-SEP-P2") && one.contains("CNI-DN-P2 -p tcp"));
    assert!(!two.contains("-A KUBE-EXT-LOCAL") && !two.contains("-A CNI-DN-P2"));
    assert!(two.contains("has no local endpoints"));
    for rules in [one, two] {
        assert_eq!(rules.matches("COMMIT\n").count(), 2);
        assert!(!rules.contains('{'), "an unfilled place");
    }
}

#[test]
fn an_unknown_lab_names_those_there_are() {
    let error = Spec::find("clutser").unwrap_err().to_string();
    assert!(error.contains("pair, bridge, perf, cluster"), "{error}");
}
