//! By which addresses and ports something is reached from elsewhere: what rules and IPVS translate
//! to it, and what connection tracking does already.
//!
//! A published port, a Service, any other rule that translates destinations: a packet on its way
//! to an address enters the node under another one, and is to be followed from there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use tracer_common::Portal;

use crate::cli::filter::Network;
use crate::config::portal;
use crate::firewall::{
    self, By, Chain, Elements, Field, Firewall, Map, MapKind, Match, Table, Target,
};
use crate::net::detail::IpvsService;
use crate::net::inspect::conntrack::{Entry, translated_here};
use crate::net::inspect::virtual_servers_here;
use crate::net::setns::run_in_path;
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

/// The entrances of a goal, by what the namespaces that forward translate.
pub(super) fn find(state: &NetworkState, goal: &Goal) -> Vec<Portal> {
    let forwards = |n: &&Netns| n.inum == state.own || n.forwards_v4 || n.forwards_v6;
    let mut found = BTreeSet::new();
    for netns in state.netns.values().filter(forwards) {
        match firewall::read_in(&netns.path, netns.inum) {
            Ok(rules) => found.extend(of_rules(&rules, netns, goal)),
            Err(error) => log::debug!("rules of {}: {error}", netns.name),
        }
        match run_in_path(&netns.path, || Ok((virtual_servers_here(), translated_here()))) {
            Ok((servers, connections)) => {
                found.extend(of_servers(&servers.unwrap_or_default(), goal));
                found.extend(of_connections(&connections.unwrap_or_default(), goal));
            }
            Err(error) => log::debug!("translations of {}: {error}", netns.name),
        }
    }
    found.into_iter().collect()
}

/// By IPVS; what goes by a mark has no address of its own.
fn of_servers(services: &[IpvsService], goal: &Goal) -> Vec<Portal> {
    let leads = |service: &&IpvsService| {
        let reaches =
            |(addr, port, _): &(IpAddr, u16, u32)| goal.is_reached(*addr, *port, service.proto);
        service.mark == 0 && service.servers.iter().any(reaches)
    };
    services.iter().filter(leads).flat_map(|s| portals(s.addr, s.port, s.proto)).collect()
}

/// By connections that are translated now, whatever made them so.
fn of_connections(connections: &[Entry], goal: &Goal) -> BTreeSet<Portal> {
    let portals_of = |entry: &Entry| {
        let proto = Some(entry.original.proto).filter(|proto| proto.has_ports())?.number();
        let (addr, port) = entry.new_destination()?;
        let (dst, dport) = (entry.original.dst, entry.original.dport);
        goal.is_reached(addr, port, proto).then(|| portals(dst, dport, proto))
    };
    connections.iter().filter_map(portals_of).flatten().collect()
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
        let mut chains: HashMap<&str, Vec<&Chain>> = HashMap::new();
        for chain in &table.chains {
            chains.entry(&chain.name).or_default().push(chain);
        }
        for chain in table.chains.iter().filter(|chain| chain.hook.is_some()) {
            let mut search = Search { table, chains: &chains, own: &own, goal, found: &mut found };
            search.chain(&chain.name, &Way::default(), &mut HashSet::new(), 0);
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
    /// Its chains, by name.
    chains: &'a HashMap<&'a str, Vec<&'a Chain>>,
    own: &'a [IpAddr],
    goal: &'a Goal,
    found: &'a mut BTreeSet<Portal>,
}

impl Search<'_> {
    fn chain(&mut self, name: &str, way: &Way, open: &mut HashSet<String>, depth: usize) {
        if depth == MAX_DEPTH || !open.insert(name.to_owned()) {
            return;
        }
        let chains = self.chains.get(name).into_iter().flatten();
        for rule in chains.flat_map(|chain| &chain.rules) {
            let way = way.narrowed(&rule.matches, self.own);
            for target in rule.also.iter().chain([&rule.target]) {
                match target {
                    Target::Jump(to) | Target::Goto(to) => self.chain(to, &way, open, depth + 1),
                    Target::Dnat { addr: Some(addr), port } => self.enter(&way, *addr, *port),
                    Target::Map(map) => self.map(map, &way, open, depth),
                    _ => {}
                }
            }
        }
        open.remove(name);
    }

    /// Goes on with every value of a map.
    fn map(&mut self, map: &Map, way: &Way, open: &mut HashSet<String>, depth: usize) {
        let elements = match &map.elements {
            Elements::Here(elements) => elements.as_slice(),
            Elements::Named(name) => self.table.set(name).map_or(&[][..], |set| &set.elements),
        };
        for element in elements {
            let way = way.by_key(&map.by, &element.key);
            match (map.kind, element.value.as_slice()) {
                (MapKind::Verdict, [verb, to]) if verb == "jump" || verb == "goto" => {
                    self.chain(to, &way, open, depth + 1);
                }
                (MapKind::Dnat { port }, value) => {
                    if let (Some(addr), own) = firewall::map_destination(value) {
                        self.enter(&way, addr, own.or(port));
                    }
                }
                _ => {}
            }
        }
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
    /// What a packet has to be to be in an element with this key, too.
    fn by_key(&self, by: &By, key: &[String]) -> Self {
        let mut way = self.clone();
        let By::Fields(fields) = by else { return way };
        if fields.len() != key.len() {
            return way;
        }
        for (field, word) in fields.iter().zip(key) {
            match field {
                Field::Daddr => way.addrs = word.parse().ok().map(|addr| vec![addr]).or(way.addrs),
                Field::L4proto => {
                    way.protos =
                        firewall::protocol_number(word).map(|proto| vec![proto]).or(way.protos);
                }
                Field::Dport(proto) => {
                    way.ports = word.parse().ok().map(|port| vec![port]).or(way.ports);
                    way.protos = proto.map(|proto| vec![proto]).or(way.protos);
                }
                _ => {}
            }
        }
        way
    }

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
    use crate::event::{Proto, Tuple};
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
    fn what_maps_lead_to_is_entered_by_their_keys() {
        let text = "table ip own {\n\tmap places {\n\t\ttype inet_service : ipv4_addr . inet_service\n\
            \t\telements = { 8099 : 172.17.0.2 . 80, 8100 : 172.17.0.3 . 80 }\n\t}\n\
            \tmap ways {\n\t\ttype ipv4_addr . inet_proto . inet_service : verdict\n\
            \t\telements = { 192.0.2.1 . udp . 53 : goto dns }\n\t}\n\
            \tchain pre {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n\
            \t\tip daddr . meta l4proto . th dport vmap @ways\n\
            \t\tip daddr 192.0.2.1 dnat ip to tcp dport map @places\n\t}\n\
            \tchain dns {\n\t\tdnat to 172.17.0.2:5353\n\t}\n}\n";
        let rules = firewall::parsed(&[], text);
        assert_eq!(entrances(&rules, "172.17.0.2", None), [(17, 53), (6, 8099)]);
        assert_eq!(entrances(&rules, "172.17.0.3", None), [(6, 8100)]);
    }

    #[test]
    fn ipvs_and_connections_lead_to_it_too() {
        let goal = Goal { networks: vec!["10.244.1.3".parse().unwrap()], ..Goal::default() };
        let addr = |text: &str| text.parse::<IpAddr>().unwrap();
        let servers = vec![(addr("10.244.1.3"), 8080, 1)];
        let (proto, addr1, mark) = (6, addr("10.96.0.9"), 0);
        let service =
            IpvsService { proto, addr: addr1, port: 80, mark, scheduler: "rr".to_owned(), servers };
        let marked = IpvsService { mark: 7, ..service.clone() };
        let [by_server, _] = portals(addr1, 80, 6);
        assert!(of_servers(&[service], &goal).contains(&by_server));
        assert!(of_servers(&[marked], &goal).is_empty());
        let original =
            Tuple { src: addr("192.0.2.9"), dst: addr1, proto: Proto::Tcp, sport: 4000, dport: 80 };
        let to = Tuple { dst: addr("10.244.1.3"), dport: 8080, ..original };
        let entry = Entry { original, reply: to.reversed(), status: 0, mark: 0, zone: 0 };
        assert!(of_connections(&[entry], &goal).contains(&by_server));
        let straight = Entry { reply: original.reversed(), ..entry };
        assert!(of_connections(&[straight], &goal).is_empty());
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
