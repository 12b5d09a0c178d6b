//! Services, read back from what kube-proxy made of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::{Service, destination, port, protocol};
use crate::firewall::words;
use crate::firewall::{Chain, Element, Elements, Firewall, Flavour, MapKind, Rule, Table, Target};

type Key = (String, Option<IpAddr>, u8, u16);

/// All Services, by name, address, protocol and port.
pub(super) fn all(fw: &Firewall) -> Vec<Service> {
    let mut found: BTreeMap<Key, Service> = BTreeMap::new();
    let mut add = |service: Service| {
        let key = (service.name.clone(), service.addr, service.proto, service.port);
        let known = found.entry(key).or_insert_with(|| Service {
            endpoints: Vec::new(),
            has_no_endpoints: false,
            ..service.clone()
        });
        known.endpoints.extend(service.endpoints);
        known.endpoints.sort_unstable();
        known.endpoints.dedup();
        known.has_no_endpoints |= service.has_no_endpoints;
    };
    for table in &fw.tables {
        match (table.flavour, table.name.as_str()) {
            (Flavour::Nft, "kube-proxy") => of_nftables(table).into_iter().for_each(&mut add),
            (Flavour::Nft | Flavour::Ebtables, _) => {}
            (_, "nat") => of_nat(table).into_iter().for_each(&mut add),
            (_, "filter") => of_filter(table).into_iter().for_each(&mut add),
            _ => {}
        }
    }
    found.into_values().collect()
}

/// A rule of `KUBE-SERVICES` and the like, without its endpoints.
fn of_rule(rule: &Rule, has_no_endpoints: bool) -> Option<Service> {
    // `default/web:http cluster IP`, `default/web:http has no endpoints`, `default/web:http`
    let name = rule.comment.as_deref()?.split(' ').next()?;
    Some(Service {
        name: name.to_owned(),
        addr: destination(rule),
        proto: protocol(rule)?,
        port: port(rule)?,
        endpoints: Vec::new(),
        has_no_endpoints,
    })
}

fn rules<'a>(table: &'a Table, names: &[&str]) -> Vec<&'a Rule> {
    let chains = table.chains.iter().filter(|c| names.contains(&c.name.as_str()));
    chains.flat_map(|c| &c.rules).collect()
}

fn of_nat(table: &Table) -> Vec<Service> {
    let chains = index(table);
    rules(table, &["KUBE-SERVICES", "KUBE-NODEPORTS"])
        .into_iter()
        .filter_map(|rule| {
            let endpoints = endpoints(rule.leads_to()?, &chains);
            Some(Service { endpoints, ..of_rule(rule, false)? })
        })
        .collect()
}

/// Services without endpoints have their rules in `filter`.
fn of_filter(table: &Table) -> Vec<Service> {
    rules(table, &["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS"])
        .into_iter()
        .filter(|rule| matches!(rule.target, Target::Reject(_) | Target::Drop))
        .filter_map(|rule| of_rule(rule, true))
        .collect()
}

fn index(table: &Table) -> HashMap<&str, &Chain> {
    table.chains.iter().map(|c| (c.name.as_str(), c)).collect()
}

/// All destinations that a chain and those that it leads to translate to.
fn endpoints(chain: &str, chains: &HashMap<&str, &Chain>) -> Vec<(IpAddr, u16)> {
    let mut found = BTreeSet::new();
    let mut seen = HashSet::new();
    let mut open = vec![chain.to_owned()];
    while let Some(name) = open.pop() {
        let Some(chain) = chains.get(name.as_str()) else { continue };
        if !seen.insert(name) {
            continue;
        }
        for rule in &chain.rules {
            match &rule.target {
                Target::Dnat { addr: Some(addr), port } => {
                    found.insert((*addr, port.unwrap_or(0)));
                }
                Target::Jump(to) | Target::Goto(to) => open.push(to.clone()),
                Target::Map(map) => {
                    let Elements::Here(elements) = &map.elements else { continue };
                    for Element { value, .. } in elements {
                        match (map.kind, value.as_slice()) {
                            (MapKind::Dnat { port }, [addr, rest @ ..]) => {
                                let own = rest.last().and_then(|port| port.parse().ok());
                                let addr = addr.parse().ok();
                                found.extend(addr.map(|a| (a, own.or(port).unwrap_or(0))));
                            }
                            (MapKind::Verdict, [_, to]) => open.push(to.clone()),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
    }
    found.into_iter().collect()
}

/// The maps of kube-proxy's nftables mode.
fn of_nftables(table: &Table) -> Vec<Service> {
    let chains = index(table);
    let mut found = Vec::new();
    for map in &table.sets {
        let has_addr = match map.name.as_str() {
            "service-ips" | "no-endpoint-services" => true,
            "service-nodeports" | "no-endpoint-nodeports" => false,
            _ => continue,
        };
        let has_no_endpoints = map.name.starts_with("no-endpoint");
        for element in &map.elements {
            found.extend(of_element(element, has_addr, has_no_endpoints, &chains));
        }
    }
    found
}

/// `10.96.0.1 . tcp . 443 comment "default/kubernetes:https" : goto service-…-default/kubernetes/tcp/https`
fn of_element(
    element: &Element,
    has_addr: bool,
    has_no_endpoints: bool,
    chains: &HashMap<&str, &Chain>,
) -> Option<Service> {
    let mut key = element.key.iter();
    let addr = if has_addr { Some(key.next()?.parse().ok()?) } else { None };
    let proto = words::protocol(key.next()?)?;
    let port = key.next()?.parse().ok()?;
    let chain = element.value.last()?;
    let name = element.comment.clone().or_else(|| name_of(chain)).unwrap_or_default();
    let endpoints = if has_no_endpoints { Vec::new() } else { endpoints(chain, chains) };
    Some(Service { name, addr, proto, port, endpoints, has_no_endpoints })
}

/// `service-2QRHZV4L-default/kubernetes/tcp/https` is `default/kubernetes:https`.
fn name_of(chain: &str) -> Option<String> {
    let path = chain.splitn(3, '-').nth(2)?;
    let mut parts = path.split('/');
    let (namespace, name, _proto) = (parts.next()?, parts.next()?, parts.next()?);
    match parts.next() {
        Some(port) if !port.is_empty() => Some(format!("{namespace}/{name}:{port}")),
        _ => Some(format!("{namespace}/{name}")),
    }
}
