//! By which addresses and ports something is reached from elsewhere: what rules translate to it.
//!
//! A published port, a Service, any other rule that translates destinations: a packet on its way
//! to an address enters the node under another one, and is to be followed from there.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use tracer_common::Portal;

use crate::cli::filter::Network;
use crate::config::portal;
use crate::firewall::{self, Firewall, Match, Table, Target};
use crate::net::{Inum, Netns, NetworkState};

/// How deep chains are followed.
const MAX_DEPTH: usize = 16;

/// What is to be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Goal {
    /// Addresses.
    pub(super) networks: Vec<Network>,
    /// The port there, when one is asked for.
    pub(super) port: Option<u16>,
    /// The protocol, likewise.
    pub(super) proto: Option<u8>,
}

impl Goal {
    fn is_reached(&self, addr: IpAddr, port: u16, proto: u8) -> bool {
        self.networks.iter().any(|network| network.contains(addr))
            && self.port.is_none_or(|wanted| wanted == port)
            && self.proto.is_none_or(|wanted| wanted == proto)
    }
}

/// What a packet has to be to come to a rule; `None` is anything.
#[derive(Clone, Debug, Default)]
struct Way {
    addrs: Option<Vec<IpAddr>>,
    ports: Option<Vec<u16>>,
    protos: Option<Vec<u8>>,
}

/// The entrances of a goal, by the rules of the namespaces that forward.
pub(super) fn find(state: &NetworkState, goal: &Goal) -> Vec<Portal> {
    let forwards = |n: &&Netns| n.inum == state.own || n.forwards_v4 || n.forwards_v6;
    let mut found = BTreeSet::new();
    for netns in state.netns.values().filter(forwards) {
        match firewall::read_in(&netns.path, netns.inum) {
            Ok(rules) => found.extend(of_rules(&rules, netns, goal)),
            Err(error) => log::debug!("rules of {}: {error}", netns.name),
        }
    }
    found.into_iter().collect()
}

/// Addresses by which namespaces are reached, but those that other namespaces have as well: a
/// packet to them may be another's.
pub(super) fn addresses(state: &NetworkState, scope: &BTreeSet<Inum>) -> Vec<IpAddr> {
    let mut holders: BTreeMap<IpAddr, BTreeSet<Inum>> = BTreeMap::new();
    for netns in state.netns.values() {
        for (addr, _) in netns.devices.values().flat_map(|d| &d.addresses) {
            holders.entry(*addr).or_default().insert(netns.inum);
        }
    }
    let is_local = |addr: &IpAddr| match addr {
        IpAddr::V4(addr) => addr.is_loopback() || addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_loopback() || addr.is_unicast_link_local(),
    };
    let only = |(addr, inums): (IpAddr, BTreeSet<Inum>)| {
        (!is_local(&addr) && inums.is_subset(scope)).then_some(addr)
    };
    holders.into_iter().filter_map(only).collect()
}

fn of_rules(rules: &Firewall, netns: &Netns, goal: &Goal) -> BTreeSet<Portal> {
    let own: Vec<IpAddr> =
        netns.devices.values().flat_map(|d| &d.addresses).map(|(addr, _)| *addr).collect();
    let mut found = BTreeSet::new();
    for table in &rules.tables {
        let is_v6 = table.family == "ip6";
        let own: Vec<IpAddr> = own
            .iter()
            .filter(|a| table.family == "inet" || a.is_ipv6() == is_v6)
            .copied()
            .collect();
        for chain in table.chains.iter().filter(|chain| chain.hook.is_some()) {
            let mut search = Search { table, own: &own, goal, found: &mut found };
            search.chain(&chain.name, &Way::default(), &mut HashSet::new(), 0);
        }
    }
    // Services whose rules are maps.
    for service in rules.services() {
        let reaches = |(addr, port): &(IpAddr, u16)| goal.is_reached(*addr, *port, service.proto);
        if service.endpoints.iter().any(reaches) {
            let addrs = service.addr.map_or_else(|| own.clone(), |addr| vec![addr]);
            found.extend(addrs.iter().flat_map(|a| portals(*a, service.port, service.proto)));
        }
    }
    found
}

/// An entrance, and what stands for the later fragments of what goes there.
fn portals(addr: IpAddr, port: u16, proto: u8) -> [Portal; 2] {
    [portal(addr, port, proto), portal(addr, 0, 0)]
}

/// Looks for the rules of a table that translate to the goal, and for the ways to them.
struct Search<'a> {
    table: &'a Table,
    own: &'a [IpAddr],
    goal: &'a Goal,
    found: &'a mut BTreeSet<Portal>,
}

impl Search<'_> {
    fn chain(&mut self, name: &str, way: &Way, open: &mut HashSet<String>, depth: usize) {
        if depth == MAX_DEPTH || !open.insert(name.to_owned()) {
            return;
        }
        let chains: Vec<_> = self.table.chains.iter().filter(|c| c.name == name).collect();
        for rule in chains.into_iter().flat_map(|chain| &chain.rules) {
            let way = way.narrowed(&rule.matches, self.own);
            for target in rule.also.iter().chain([&rule.target]) {
                match target {
                    Target::Jump(to) | Target::Goto(to) => self.chain(to, &way, open, depth + 1),
                    Target::Dnat { addr: Some(addr), port } => self.enter(&way, *addr, *port),
                    _ => {}
                }
            }
        }
        open.remove(name);
    }

    /// Notes the entrances of a rule that translates.
    fn enter(&mut self, way: &Way, to: IpAddr, to_port: Option<u16>) {
        // TCP, UDP, SCTP, where the rule does not say.
        let protos = way.protos.clone().unwrap_or_else(|| vec![6, 17, 132]);
        let ports = way.ports.clone().or(to_port.map(|port| vec![port])).unwrap_or_default();
        let addrs = way.addrs.as_deref().unwrap_or(self.own);
        for proto in protos {
            for port in &ports {
                if self.goal.is_reached(to, to_port.unwrap_or(*port), proto) {
                    self.found.extend(addrs.iter().flat_map(|a| portals(*a, *port, proto)));
                }
            }
        }
    }
}

impl Way {
    /// What a packet has to be to meet a rule with these conditions, too.
    fn narrowed(&self, matches: &[Match], own: &[IpAddr]) -> Self {
        let mut way = self.clone();
        for condition in matches {
            match condition {
                Match::Dst { nets, not: false } => {
                    let is_host =
                        |(addr, len): &&(IpAddr, u8)| *len == if addr.is_ipv4() { 32 } else { 128 };
                    let hosts: Vec<_> =
                        nets.iter().filter(is_host).map(|(addr, _)| *addr).collect();
                    if hosts.len() == nets.len() {
                        way.addrs = Some(hosts);
                    }
                }
                Match::DstLocal { not: false } => {
                    way.addrs.get_or_insert_with(|| own.to_vec());
                }
                Match::Dport { ranges, not: false } => {
                    // A range is met at its beginning; more would be no entrance but a network.
                    let ports = ranges.iter().flat_map(|(from, to)| (*from..=*to).take(64));
                    way.ports = Some(ports.collect());
                }
                Match::Proto { number, not: false } => way.protos = Some(vec![*number]),
                _ => {}
            }
        }
        way
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Device;

    const DOCKER: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n\
        -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
        -A DOCKER -i docker0 -j RETURN\n\
        -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\n\
        -A DOCKER ! -i docker0 -p udp -m udp --dport 53 -j DNAT --to-destination 172.17.0.3:53\n\
        COMMIT\n";

    fn entrances(rules: &Firewall, network: &str, port: Option<u16>) -> Vec<(u8, u16)> {
        let addresses = vec![("192.0.2.1".parse().unwrap(), 24)];
        let eth0 = Device { ifindex: 2, addresses, ..Device::default() };
        let netns = Netns { devices: [(2, eth0)].into(), ..Netns::default() };
        let goal = Goal { networks: vec![network.parse().unwrap()], port, proto: None };
        let found = of_rules(rules, &netns, &goal);
        assert!(found.iter().all(|p| p.addr[0].to_ne_bytes() == [192, 0, 2, 1]), "{found:?}");
        found.iter().filter(|p| p.port != 0).map(|p| (p.proto, u16::from_be(p.port))).collect()
    }

    #[test]
    fn a_published_port_leads_to_its_container() {
        let rules = firewall::parsed(&[("ip", DOCKER)], "");
        assert_eq!(entrances(&rules, "172.17.0.2", None), [(6, 8080)]);
        assert_eq!(entrances(&rules, "172.17.0.2", Some(80)), [(6, 8080)]);
        assert_eq!(entrances(&rules, "172.17.0.2", Some(8080)), []);
        assert_eq!(entrances(&rules, "172.17.0.0/24", None), [(17, 53), (6, 8080)]);
        assert_eq!(entrances(&rules, "172.18.0.2", None), []);
    }

    #[test]
    fn an_address_that_two_namespaces_hold_is_no_way_to_one() {
        let netns = |inum, addrs: &[&str]| {
            let addresses = addrs.iter().map(|a| (a.parse().unwrap(), 24)).collect();
            let device = Device { ifindex: 2, addresses, ..Device::default() };
            (inum, Netns { inum, devices: [(2, device)].into(), ..Netns::default() })
        };
        let state = NetworkState {
            netns: [netns(1, &["10.0.0.2", "127.0.0.1", "10.0.9.9"]), netns(2, &["10.0.0.2"])]
                .into(),
            ..NetworkState::default()
        };
        let only: IpAddr = "10.0.9.9".parse().unwrap();
        assert_eq!(addresses(&state, &BTreeSet::from([1])), [only]);
        assert_eq!(addresses(&state, &BTreeSet::from([1, 2])).len(), 2);
    }
}
