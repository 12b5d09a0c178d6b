//! kube-proxy's nftables mode: Services are elements of maps that lead to chains, and what is not in
//! a map is rejected by the address alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::chains::service_of;
use super::{Case, Finding};
use crate::diagnose::remedy::{ChainAt, Edit, Spec, Step, argv, identifier};
use crate::diagnose::walk::RuleRef;
use crate::diagnose::{Confidence, Met, Where};
use crate::firewall::{Chain, Element, Flavour, Table};
use crate::journey::Hook;
use crate::net::Inum;

/// The table that kube-proxy writes (`kube-proxy/nftables/proxier.go`: `kubeProxyTable`).
pub(super) const TABLE: &str = "kube-proxy";
/// Address, protocol and port of each Service that has endpoints.
const SERVICES: &str = "service-ips";
/// The same of those that have none.
const EMPTY: &str = "no-endpoint-services";
/// The same of the node's own ports.
const EMPTY_PORTS: &str = "no-endpoint-nodeports";
/// The chains that ask for Services without endpoints.
const CHECKS: [&str; 2] = ["service-endpoints-check", "nodeport-endpoints-check"];
/// Addresses of the node at which its ports are Services.
const NODE_ADDRESSES: &str = "nodeport-ips";

/// Its table in a namespace.
pub(super) fn table<'a>(case: &Case<'a>, netns: Inum, addr: IpAddr) -> Option<&'a Table> {
    let family = if addr.is_ipv4() { "ip" } else { "ip6" };
    let mut tables = case.detail(netns)?.firewall.tables.iter();
    tables.find(|t| t.flavour == Flavour::Nft && t.name == TABLE && t.family == family)
}

/// The rule rejects because no endpoint is known.
pub(super) fn is_empty_service(rule: &RuleRef) -> bool {
    rule.table == TABLE && rule.via.iter().any(|c| CHECKS.contains(&c.as_str()))
}

/// The rule drops because no endpoint is known on this node: the map's own verdict, where for those
/// without any it leads to a chain that rejects.
pub(super) fn is_remote_service(rule: &RuleRef) -> bool {
    rule.table == TABLE && CHECKS.contains(&rule.chain.as_str())
}

/// The rule refuses what came to a Service and was not translated: that is what failed.
pub(super) fn is_leftover(rule: &RuleRef) -> bool {
    rule.table == TABLE && rule.chain == "cluster-ips-check"
}

/// The Service without endpoints that an address, or a port of the node, belongs to:
/// `shop/web:http`.
pub(super) fn empty_service(
    case: &Case<'_>,
    netns: Inum,
    (addr, port): (IpAddr, u16),
) -> Option<String> {
    let table = table(case, netns, addr)?;
    let elements = |set| table.set(set).into_iter().flat_map(|set| &set.elements);
    let (port, addr) = (port.to_string(), addr.to_string());
    let is_own = |e: &&Element| e.key.last() == Some(&port);
    let by_addr = elements(EMPTY).filter(|e| e.key.first() == Some(&addr));
    let mut own = by_addr.chain(elements(EMPTY_PORTS)).filter(is_own);
    own.find_map(|element| element.comment.clone())
}

/// A Service's address that no element of the maps leads on.
pub(super) fn untranslated(
    case: &Case<'_>,
    met: &Met<'_>,
    netns: Inum,
    dst: (IpAddr, u16),
    hook: Hook,
) -> Option<Finding> {
    let table = table(case, netns, dst.0)?;
    let node = case.state.netns_name(netns);
    let mut place = Where::netns(case.state, netns);
    place.table = Some(table.name.clone());
    let (lost, steps) = (unhooked(table, hook), reconnect(case, netns, dst));
    let (id, title) = if let Some(chain) = &lost {
        place.chain = Some(chain.clone());
        let title = format!("chain {chain} of {node} does not lead to the rules of the Services");
        ("kube-proxy-jump-missing", title)
    } else {
        place.chain = Some("services".to_owned());
        let title = format!("no rule in {node} translates {}:{}", dst.0, dst.1);
        ("kube-proxy-rules-missing", title)
    };
    let fact = match &lost {
        Some(chain) => format!("{TABLE} of {node}: no jump to services in {chain}"),
        None => format!("{TABLE} of {node}: {} port {} is not in {SERVICES}", dst.0, dst.1),
    };
    let is_known = lost.is_some() || !steps.is_empty();
    let finding = met
        .finding(case, id, title)
        .confidence(if is_known { Confidence::Certain } else { Confidence::Likely })
        .at(place)
        .fact(fact)
        .fix("# restart kube-proxy on this node: it writes the rules of all Services anew")
        .fixes(steps);
    Some(finding)
}

/// What leads to the chain of a Service again, where that is still there.
pub(super) fn reconnect(case: &Case<'_>, netns: Inum, (addr, port): (IpAddr, u16)) -> Vec<Step> {
    let Some(table) = table(case, netns, addr) else { return Vec::new() };
    let mut steps = Vec::new();
    for hook in [Hook::Prerouting, Hook::Output] {
        let jump = Spec(argv!["jump", "services"]);
        let lead = |c: String| ChainAt::named(table, &c).edit(Edit::Append(jump));
        steps.extend(unhooked(table, hook).map(lead));
    }
    let sets = ChainAt::named(table, "services");
    for (chain, proto) in chains_of(table, (addr, port)) {
        let key = argv![addr, ".", proto, ".", port];
        let parts: Vec<&str> = key.raw().filter(|word| *word != ".").collect();
        let has = |set| has_element(table, set, &parts);
        if has(EMPTY) {
            let (set, element) = (EMPTY.to_owned(), Spec(key.clone()));
            steps.push(sets.clone().edit(Edit::DeleteElement { set, element }));
        }
        if !has(SERVICES) {
            let (set, to) = (SERVICES.to_owned(), argv![":", "goto", identifier(&chain.name)]);
            let element = Spec(key.clone().and(to));
            steps.push(sets.clone().edit(Edit::AddElement { set, element }));
        }
    }
    steps.into_iter().map(|step| step.at(netns)).collect()
}

/// The chains of a Service, each with its protocol. Those that name no address (since 1.33) are its,
/// where nothing leads to them, by the name of the Service, or as no other is left.
fn chains_of(table: &Table, (addr, port): (IpAddr, u16)) -> Vec<(&Chain, &'static str)> {
    let chains = table.chains.iter().filter(|c| c.name.starts_with("service-"));
    let named = chains.clone().filter_map(|c| Some((c, service_of(c)?)));
    let named: Vec<_> =
        named.filter(|(_, s)| (s.0, s.2) == (addr, port)).map(|(c, s)| (c, s.1)).collect();
    if !named.is_empty() {
        return named;
    }
    let elements = || table.sets.iter().flat_map(|set| &set.elements);
    let rules = table.chains.iter().flat_map(|c| &c.rules).filter_map(|r| r.leads_to());
    let values = elements().filter_map(|e| e.value.last().map(String::as_str));
    let used: BTreeSet<&str> = values.chain(rules).collect();
    let lost = chains.filter(|c| !used.contains(c.name.as_str()));
    let lost: Vec<_> = lost.filter_map(|c| Some((c, path(&c.name)?))).collect();
    let own = addr.to_string();
    let at_own = |e: &&Element| e.key.len() == 3 && e.key.first() == Some(&own);
    let known: BTreeSet<[&str; 2]> = elements()
        .filter(at_own)
        .filter_map(|e| path(e.value.last()?))
        .map(|[space, name, _]| [space, name])
        .collect();
    let by_name = lost.iter().filter(|(_, [space, name, _])| known.contains(&[*space, *name]));
    let by_name: Vec<_> = by_name.collect();
    let found = match (&by_name[..], &lost[..]) {
        ([only], _) => *only,
        ([], [only]) if known.is_empty() && is_alone(table, &own) => only,
        _ => return Vec::new(),
    };
    let (chain, [.., proto]) = found;
    let protos = ["tcp", "udp", "sctp"].into_iter();
    protos.filter(|p| p == proto).map(|p| (*chain, p)).collect()
}

/// Of all addresses of Services, this is the only one that no map has.
fn is_alone(table: &Table, addr: &str) -> bool {
    let addresses = |set| table.set(set).into_iter().flat_map(|set| &set.elements);
    let has = |set, word: &str| addresses(set).any(|e| e.key.first().is_some_and(|k| k == word));
    let mut left = addresses("cluster-ips").filter_map(|e| e.key.first());
    left.all(|word| (word == addr) != (has(SERVICES, word) || has(EMPTY, word)))
        && has("cluster-ips", addr)
}

/// Namespace, name and protocol in `service-ULMVA6XW-default/web/tcp/http`.
fn path(chain: &str) -> Option<[&str; 3]> {
    let mut parts = chain.strip_prefix("service-")?.split_once('-')?.1.split('/');
    Some([parts.next()?, parts.next()?, parts.next()?])
}

/// The address is a Service's own: what is refused there follows its internalTrafficPolicy.
pub(super) fn is_cluster_ip(case: &Case<'_>, netns: Inum, addr: IpAddr) -> bool {
    let addr_text = addr.to_string();
    table(case, netns, addr).is_some_and(|t| has_element(t, "cluster-ips", &[&addr_text]))
}

/// The rule refuses whom the Service's source ranges leave out.
pub(super) fn is_source_range(rule: &RuleRef) -> bool {
    rule.table == TABLE && rule.chain.starts_with("firewall-")
}

/// What makes an address of the node one for its Services' ports, where it is none.
pub(super) fn node_address(case: &Case<'_>, netns: Inum, dst: (IpAddr, u16)) -> Option<Step> {
    let table = table(case, netns, dst.0)?;
    let port = dst.1.to_string();
    let mut ports = table.set("service-nodeports").into_iter().flat_map(|set| &set.elements);
    let has_port = ports.any(|element| element.key.last() == Some(&port));
    if !has_port || has_element(table, NODE_ADDRESSES, &[&dst.0.to_string()]) {
        return None;
    }
    let (set, element) = (NODE_ADDRESSES.to_owned(), Spec(argv![dst.0]));
    let at = ChainAt::named(table, "services");
    Some(at.edit(Edit::AddElement { set, element }).at(netns))
}

/// The endpoint that the name of its chain tells: `endpoint-HASH-ns/name/tcp/port__10.0.0.1/8080`.
pub(super) fn endpoint_of(chain: &str) -> Option<(IpAddr, Option<u16>)> {
    let (addr, port) = chain.strip_prefix("endpoint-")?.rsplit_once("__")?.1.rsplit_once('/')?;
    // A colon is no part of a chain's name: addresses of IPv6 have points there.
    let addr = addr.parse().or_else(|_| addr.replace('.', ":").parse()).ok()?;
    Some((addr, Some(port.parse().ok()?)))
}

/// The chain of type `nat` at a hook that does not lead to the Services.
fn unhooked(table: &Table, hook: Hook) -> Option<String> {
    let mut chains = table.chains.iter().filter(|c| c.hook == Some(hook) && c.kind == "nat");
    chains
        .find(|c| !c.rules.iter().any(|r| r.leads_to() == Some("services")))
        .map(|c| c.name.clone())
}

fn has_element(table: &Table, set: &str, key: &[&str]) -> bool {
    table.set(set).is_some_and(|set| set.elements.iter().any(|e| e.key == key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::remedy::lines;
    use crate::diagnose::walk::tests::{cluster, inum, ip};
    use crate::net::NetworkState;

    const RULES: &str = "table ip kube-proxy {
        set nodeport-ips {
            type ipv4_addr
            elements = { 192.0.2.99 }
        }
        map service-ips {
            type ipv4_addr . inet_proto . inet_service : verdict
            elements = { 10.99.0.2 . tcp . 80 : goto service-B }
        }
        map no-endpoint-services {
            type ipv4_addr . inet_proto . inet_service : verdict
            elements = { 10.99.0.1 . tcp . 80 comment \"p/a:http\" : goto reject-chain }
        }
        map service-nodeports {
            type inet_proto . inet_service : verdict
            elements = { tcp . 31000 comment \"p/a:http\" : goto service-A }
        }
        chain service-A {
            ip daddr 10.99.0.1 tcp dport 80 ip saddr != 10.1.0.0/16 jump mark-for-masquerade # handle 4
        }
        chain services {
            ip daddr . meta l4proto . th dport vmap @service-ips # handle 5
        }
        chain nat-prerouting {
            type nat hook prerouting priority dstnat; policy accept;
        }
        chain nat-output {
            type nat hook output priority -100; policy accept;
            jump services # handle 9
        }
    }";

    fn state() -> NetworkState {
        let mut state = cluster("");
        let a = inum(&state, "a");
        let detail = state.netns.get_mut(&a).unwrap().detail.as_mut().unwrap();
        detail.firewall = crate::firewall::parsed(&[], RULES);
        state
    }

    #[test]
    fn what_leads_to_a_service_is_added_where_it_is_missing() {
        let state = state();
        let case = Case::new(None, Vec::new(), &[], &state);
        let a = inum(&state, "a");
        let commands = reconnect(&case, a, (ip("10.99.0.1"), 80));
        let commands = lines(&state, &commands);
        let has = |text: &str| commands.iter().any(|c| c.contains(text));
        assert!(has("add rule ip kube-proxy nat-prerouting jump services"), "{commands:?}");
        assert!(has("delete element ip kube-proxy no-endpoint-services { 10.99.0.1 . tcp . 80 }"));
        assert!(has("service-ips { 10.99.0.1 . tcp . 80 : goto service-A }"), "{commands:?}");
        assert_eq!(commands.len(), 3, "{commands:?}");
        let other = reconnect(&case, a, (ip("10.99.0.2"), 80));
        assert_eq!(other.len(), 1, "its element is there: {other:?}");
    }

    #[test]
    fn an_address_of_the_node_is_added_for_known_ports_alone() {
        let state = state();
        let case = Case::new(None, Vec::new(), &[], &state);
        let a = inum(&state, "a");
        let fix = node_address(&case, a, (ip("192.0.2.11"), 31_000)).unwrap();
        let fix = lines(&state, &[fix]).remove(0);
        assert!(fix.contains("add element ip kube-proxy nodeport-ips { 192.0.2.11 }"), "{fix}");
        assert_eq!(node_address(&case, a, (ip("192.0.2.11"), 31_001)), None);
        assert_eq!(node_address(&case, a, (ip("192.0.2.99"), 31_000)), None);
    }

    #[test]
    fn the_name_of_a_chain_tells_its_endpoint() {
        let of = |name| endpoint_of(name);
        let v4 = "endpoint-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80";
        assert_eq!(of(v4), Some((ip("10.180.0.1"), Some(80))));
        let v6 = "endpoint-2CRNCTTE-ns4/svc4/tcp/p80__fd00.ffff.0.0.0.0.0.1/80";
        assert_eq!(of(v6), Some((ip("fd00:ffff::1"), Some(80))));
        assert_eq!(of("service-A"), None);
    }
}
