//! What diagnosis asks of the rules: which Services, which published ports, which rule.

mod services;
mod stale;

use std::net::IpAddr;

use super::{Chain, Firewall, Match, Rule, Table, Target};

/// A Service as kube-proxy wrote it into the rules; IPVS has none here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `namespace/name:port`, as kube-proxy comments it.
    pub name: String,
    /// Cluster, external or load balancer address; `None` for a NodePort.
    pub addr: Option<IpAddr>,
    /// IP protocol number.
    pub proto: u8,
    /// Port of the Service, or the NodePort.
    pub port: u16,
    /// Where it leads, sorted.
    pub endpoints: Vec<(IpAddr, u16)>,
    /// A rule rejects or drops it for want of endpoints.
    pub has_no_endpoints: bool,
}

/// A port that Docker or the portmap plugin publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// On which address of the node; `None` for all.
    pub addr: Option<IpAddr>,
    /// IP protocol number.
    pub proto: u8,
    /// Port on the node.
    pub port: u16,
    /// Where it leads.
    pub to: (IpAddr, u16),
    /// The chain that says so: `DOCKER`, `CNI-DN-…`, `CNI-HOSTPORT-DNAT`.
    pub chain: String,
}

impl Firewall {
    /// Services of kube-proxy (iptables and nftables mode), by name.
    #[must_use]
    pub fn services(&self) -> Vec<Service> {
        services::all(self)
    }

    /// Published ports of Docker and the CNI portmap plugin.
    #[must_use]
    pub fn published(&self) -> Vec<Published> {
        let mut found: Vec<_> = self
            .tables
            .iter()
            .flat_map(|table| table.chains.iter().map(move |chain| (table, chain)))
            .filter(|(table, chain)| publishes(table, chain))
            .flat_map(|(_, chain)| chain.rules.iter().filter_map(|rule| published(chain, rule)))
            .collect();
        found.dedup();
        found
    }

    /// The chains of this name (more than one flavour may have it); `family` is `ip`, `ip6`,
    /// `inet`, …
    #[must_use]
    pub fn chains(&self, family: &str, table: &str, chain: &str) -> Vec<(&Table, &Chain)> {
        let tables = self.tables.iter().filter(|t| t.family == family && t.name == table);
        tables
            .flat_map(|t| t.chains.iter().map(move |c| (t, c)))
            .filter(|x| x.1.name == chain)
            .collect()
    }

    /// The rule that nftables knows by `handle` (rules of iptables-nft have one too).
    #[must_use]
    pub fn rule_by_handle(
        &self,
        family: &str,
        table: &str,
        chain: &str,
        handle: u64,
    ) -> Option<(&Table, &Chain, &Rule)> {
        self.chains(family, table, chain)
            .into_iter()
            .find_map(|(t, c)| c.rules.iter().find(|r| r.handle == Some(handle)).map(|r| (t, c, r)))
    }
}

/// Chains of Docker (with iptables, and its own tables with nftables since 29) and of portmap.
fn publishes(table: &Table, chain: &Chain) -> bool {
    chain.name == "DOCKER"
        || chain.name.starts_with("CNI-DN-")
        || chain.name == "CNI-HOSTPORT-DNAT"
        || table.name == "docker-bridges"
}

fn published(chain: &Chain, rule: &Rule) -> Option<Published> {
    let Target::Dnat { addr: Some(addr), port: Some(to_port) } = rule.target else { return None };
    Some(Published {
        addr: destination(rule),
        proto: protocol(rule)?,
        port: port(rule)?,
        to: (addr, to_port),
        chain: chain.name.clone(),
    })
}

/// The one address that the rule is about.
fn destination(rule: &Rule) -> Option<IpAddr> {
    rule.matches.iter().find_map(|m| match m {
        Match::Dst { nets, not: false } => match nets.as_slice() {
            [(addr, len)] if *len == if addr.is_ipv4() { 32 } else { 128 } => Some(*addr),
            _ => None,
        },
        _ => None,
    })
}

fn protocol(rule: &Rule) -> Option<u8> {
    rule.matches.iter().find_map(|m| match m {
        Match::Proto { number, not: false } => Some(*number),
        _ => None,
    })
}

/// The one destination port that the rule is about.
fn port(rule: &Rule) -> Option<u16> {
    rule.matches.iter().find_map(|m| match m {
        Match::Dport { ranges, not: false } => match ranges.as_slice() {
            [(first, last)] if first == last => Some(*first),
            _ => None,
        },
        _ => None,
    })
}
