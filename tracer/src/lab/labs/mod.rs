//! The labs: each a name, a topology and the probes that tell whether it works.

mod bridge;
mod cluster;
mod cluster_probes;
mod docker_rules;
mod kube_nft_rules;
mod kube_rules;
mod pair;
mod perf;

use super::Error;
pub(in crate::lab) use perf::{RMEM, WMEM};

use super::probe::Probe;
use super::topology::{Choice, Topology};

/// A lab that can be made.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub name: &'static str,
    pub summary: &'static str,
    pub probes: &'static [Probe],
    build: fn(Choice) -> Result<Topology, Error>,
}

/// All labs, the smallest first.
pub const LABS: [Spec; 4] = [
    Spec {
        name: "pair",
        summary: "two namespaces joined by a veth pair",
        probes: pair::PROBES,
        build: pair::topology,
    },
    Spec {
        name: "bridge",
        summary: "a node with three pods on a bridge, masqueraded behind a gateway",
        probes: bridge::PROBES,
        build: bridge::topology,
    },
    Spec {
        name: "perf",
        summary: "a router between a client, two servers and a far one, for what is slow",
        probes: perf::PROBES,
        build: perf::topology,
    },
    Spec {
        name: "cluster",
        summary: "two Kubernetes nodes (flannel VXLAN, kube-proxy rules, DNS) and a Docker host",
        probes: cluster_probes::PROBES,
        build: cluster::topology,
    },
];

impl Spec {
    /// The lab of that name.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownLab`], naming those there are.
    pub fn find(name: &str) -> Result<&'static Self, Error> {
        const { &LABS }.iter().find(|lab| lab.name == name).ok_or_else(|| Error::UnknownLab {
            name: name.to_owned(),
            known: LABS.map(|lab| lab.name).join(", "),
        })
    }

    /// What the lab consists of.
    ///
    /// # Errors
    ///
    /// [`Error::BadSpec`] for a mistake in the lab's tables.
    pub fn topology(&self, choice: Choice) -> Result<Topology, Error> {
        let mut topology = (self.build)(choice)?;
        for host in topology.host_names() {
            topology.base_sysctls(host, choice.ipv6);
        }
        if choice.ipv6 {
            topology.serve_dual_stack();
        }
        Ok(topology)
    }
}

/// What a new namespace would otherwise take over from the machine that the lab runs on, or what
/// must be in place before the first device is.
const BASE_SYSCTLS: [(&str, &str); 6] = [
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.all.route_localnet", "0"),
    ("net.ipv4.conf.all.arp_ignore", "0"),
    ("net.ipv4.conf.all.arp_announce", "0"),
];

/// Without duplicate address detection an address is usable at once.
const IPV6_ON: [(&str, &str); 4] = [
    ("net.ipv6.conf.all.disable_ipv6", "0"),
    ("net.ipv6.conf.default.disable_ipv6", "0"),
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
];

const IPV6_OFF: [(&str, &str); 2] =
    [("net.ipv6.conf.all.disable_ipv6", "1"), ("net.ipv6.conf.default.disable_ipv6", "1")];

impl Topology {
    fn base_sysctls(&mut self, host: &'static str, ipv6: bool) {
        let family: &[_] = if ipv6 { &IPV6_ON } else { &IPV6_OFF };
        let rows = BASE_SYSCTLS.iter().chain(family);
        let rows = rows.map(|&(key, value)| super::topology::Sysctl { host, key, value });
        self.base_sysctls.extend(rows);
    }

    /// What listens on every IPv4 address listens on every IPv6 address as well.
    fn serve_dual_stack(&mut self) {
        for server in &mut self.servers {
            if server.addr.ip().is_unspecified() {
                server.addr.set_ip(std::net::Ipv6Addr::UNSPECIFIED.into());
            }
        }
    }
}

#[cfg(test)]
mod tests;
