//! Services whose traffic policy is Local, on a node that has no pod of theirs: kube-proxy drops on
//! purpose what comes there, and to take its rule away leads nowhere.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::located::{delete, located};
use super::{Case, Finding, chains, kube_nft};
use crate::diagnose::remedy::{ChainAt, Edit, Foreign, Spec, Step, argv};
use crate::diagnose::walk::{RuleRef, Walk, What};
use crate::diagnose::{place, show};
use crate::firewall::{Chain, Rule, Table, Target};
use crate::journey::Hook;
use crate::net::{Inum, Netns};

/// The id of its findings.
pub(super) const ID: &str = "svc-no-local-endpoints";
/// What kube-proxy says in its rule.
const SAYS: &str = " has no local endpoints";
/// What it jumped to in order to drop, until 1.28.
const MARKS: &str = "KUBE-MARK-DROP";
/// Chains of what comes from outside, and of all of a Service: one hash each.
const KINDS: [&str; 4] = ["KUBE-EXT-", "KUBE-XLB-", "KUBE-SVC-", "KUBE-SVL-"];

/// A rule by which kube-proxy drops what has no endpoint on this node.
pub(super) fn says(rule: &RuleRef) -> bool {
    service(rule).is_some() || kube_nft::is_remote_service(rule)
}

/// The Service that such a rule names: `shop/web:http`.
fn service(rule: &RuleRef) -> Option<String> {
    let quoted = rule.text.split(SAYS).next().filter(|start| start.len() < rule.text.len());
    let comment = rule.comment.as_deref().and_then(|c| c.strip_suffix(SAYS));
    let text = comment.or_else(|| quoted?.rsplit(['"', '\'']).next())?;
    Some(text.trim().to_owned())
}

/// A packet is marked by one rule and dropped by its mark in another: the one that marked it, and
/// where.
pub(super) fn marked<'a>(
    case: &Case<'_>,
    walk: &'a Walk,
    (netns, rule): (Inum, &RuleRef),
) -> Option<(Hook, &'a RuleRef)> {
    if !rule.text.contains("mark") {
        return None;
    }
    let steps = walk.steps.iter().filter(|s| s.netns == netns);
    let hits = steps.filter_map(|s| match &s.what {
        What::Hook { hook, hits, .. } => Some((*hook, hits)),
        _ => None,
    });
    let mut all = hits.flat_map(|(hook, hits)| hits.iter().map(move |hit| (hook, hit)));
    all.find(|(_, hit)| {
        let own = located(case, netns, hit).and_then(|(_, _, own)| own);
        own.is_some_and(|own| own.leads_to() == Some(MARKS))
    })
}

/// One endpoint of the Service: its address, port, and who has it.
struct Endpoint {
    addr: IpAddr,
    port: Option<u16>,
    node: Option<Inum>,
}

/// The sentence that names the cause.
pub(super) fn title(
    case: &Case<'_>,
    (netns, rule): (Inum, &RuleRef),
    dst: Option<(IpAddr, u16)>,
) -> String {
    let node = case.state.netns_name(netns);
    let service = named(case, (netns, rule), dst)
        .map_or_else(|| "the Service".to_owned(), |s| format!("Service {s}"));
    format!(
        "{node} has no endpoint of {service} of its own and drops what comes to it: its {} is Local",
        policy(case, (netns, rule), dst)
    )
}

/// The Service, by the rule itself or, in nftables mode, by the map that it asks.
fn named(
    case: &Case<'_>,
    (netns, rule): (Inum, &RuleRef),
    dst: Option<(IpAddr, u16)>,
) -> Option<String> {
    service(rule).or_else(|| kube_nft::empty_service(case, netns, dst?))
}

/// Which policy of the Service it is.
fn policy(
    case: &Case<'_>,
    (netns, rule): (Inum, &RuleRef),
    dst: Option<(IpAddr, u16)>,
) -> &'static str {
    let is_own = rule.chain == "KUBE-SERVICES"
        || dst.is_some_and(|dst| kube_nft::is_cluster_ip(case, netns, dst.0));
    if is_own { "internalTrafficPolicy" } else { "externalTrafficPolicy" }
}

/// What heals it: new rules, where an endpoint is there that they do not know of; else whom to ask.
pub(super) fn fill(
    case: &Case<'_>,
    (netns, rule): (Inum, &RuleRef),
    dst: Option<(IpAddr, u16)>,
    mut finding: Finding,
) -> Finding {
    let name = named(case, (netns, rule), dst);
    let hashes = name.as_deref().map(|n| hashes(case, netns, n)).unwrap_or_default();
    let endpoints = endpoints(case, name.as_deref(), &hashes);
    let here = endpoints.iter().find(|e| e.node == Some(netns));
    let again = here.and_then(|here| lead_to(case, (netns, rule), &hashes, here));
    for e in &endpoints {
        let at = e.node.map_or_else(String::new, |n| format!(" of {}", case.state.netns_name(n)));
        finding = finding.fact(format!("an endpoint of it is {}{at}", shown(e)));
    }
    if let Some(commands) = again {
        return finding
            .fix("# the endpoint on this node is not in its rules: restart kube-proxy; until then:")
            .fixes(commands);
    }
    let node = case.state.netns_name(netns);
    finding = finding.fix(format!(
        "# dropped on purpose: start a pod of it on {node}, or make the one there ready (kubectl get \
         endpointslices -o wide)"
    ));
    let elsewhere: BTreeSet<Inum> = endpoints.iter().filter_map(|e| e.node).collect();
    let others = elsewhere.into_iter().filter_map(|n| Some(reached_at(case.netns(n)?, dst?.0)));
    let others: Vec<String> = others.collect();
    if !others.is_empty() {
        finding = finding.fix(format!("# or ask a node that has one: {}", others.join(", ")));
    }
    let (space, name) = name
        .as_deref()
        .and_then(|n| n.split(':').next()?.split_once('/'))
        .unwrap_or(("NAMESPACE", "SERVICE"));
    finding.fix(format!(
        "# or let every node take it: kubectl -n {space} patch service {name} -p \
         '{{\"spec\":{{\"{}\":\"Cluster\"}}}}'",
        policy(case, (netns, rule), dst)
    ))
}

fn shown(e: &Endpoint) -> String {
    match e.port {
        Some(port) => std::net::SocketAddr::new(e.addr, port).to_string(),
        None => e.addr.to_string(),
    }
}

/// A node's address in the network of the one that was asked, and its name.
fn reached_at(node: &Netns, asked: IpAddr) -> String {
    let mut addresses = node.devices.values().flat_map(|d| &d.addresses);
    match addresses.find(|a| show::covers(**a, asked)) {
        Some((addr, _)) => format!("{addr} ({})", node.name),
        None => node.name.clone(),
    }
}

/// What ends the names of the Service's chains.
fn hashes(case: &Case<'_>, netns: Inum, name: &str) -> BTreeSet<String> {
    let tables = case.detail(netns).into_iter().flat_map(|d| &d.firewall.tables);
    let rules = tables.filter(|t| t.name == "nat").flat_map(|t| &t.chains).flat_map(|c| &c.rules);
    let chains = rules.filter(|r| is_about(r, name)).filter_map(Rule::leads_to);
    chains.filter_map(|c| KINDS.iter().find_map(|k| c.strip_prefix(k))).map(str::to_owned).collect()
}

/// kube-proxy says in the rules of a Service which it is.
fn is_about(rule: &Rule, name: &str) -> bool {
    let rest = rule.comment.as_deref().and_then(|c| c.strip_prefix(name));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// Where the chains of the Service lead, on any node that is seen: their names are the same on all.
fn endpoints(case: &Case<'_>, name: Option<&str>, hashes: &BTreeSet<String>) -> Vec<Endpoint> {
    let mut found: Vec<Endpoint> = Vec::new();
    for table in case.state.netns.values().flat_map(nat_tables) {
        let all = table.chains.iter().flat_map(|c| &c.rules);
        let named = all.filter(|r| name.is_some_and(|name| is_about(r, name)));
        let led_to = hashes.iter().flat_map(|h| destinations(table, h));
        for (addr, port) in led_to.chain(named.filter_map(translation)) {
            if found.iter().all(|e| (e.addr, e.port) != (addr, port)) {
                let holder = case.state.holders(addr).next();
                let node = holder.map(|n| place::node_of(case.state, n.inum).unwrap_or(n.inum));
                found.push(Endpoint { addr, port, node });
            }
        }
    }
    found
}

fn translation(rule: &Rule) -> Option<(IpAddr, Option<u16>)> {
    match rule.target {
        Target::Dnat { addr: Some(addr), port } => Some((addr, port)),
        _ => None,
    }
}

fn nat_tables(netns: &Netns) -> impl Iterator<Item = &Table> {
    let tables = netns.detail.iter().flat_map(|d| &d.firewall.tables);
    tables.filter(|t| t.name == "nat")
}

/// What the Service's chains of one node translate to.
fn destinations(table: &Table, hash: &str) -> Vec<(IpAddr, Option<u16>)> {
    let named = |name: &str| table.chains.iter().find(|c| c.name == name);
    let mut open: Vec<&Chain> = KINDS.iter().filter_map(|k| named(&format!("{k}{hash}"))).collect();
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    while let Some(chain) = open.pop().filter(|_| seen.len() < 64) {
        if !seen.insert(chain.name.as_str()) {
            continue;
        }
        found.extend(chain.rules.iter().filter_map(translation));
        open.extend(chain.rules.iter().filter_map(|r| named(r.leads_to()?)));
    }
    found
}

/// What leads to an endpoint on this node, in place of the rule that drops.
fn lead_to(
    case: &Case<'_>,
    (netns, rule): (Inum, &RuleRef),
    hashes: &BTreeSet<String>,
    to: &Endpoint,
) -> Option<Vec<Step>> {
    let table = chains::nat_table(case, netns, to.addr)?;
    let of = |kind: &str| hashes.iter().map(|h| format!("{kind}{h}")).collect::<Vec<_>>();
    let outer = [of("KUBE-EXT-"), of("KUBE-XLB-")].concat();
    let outer = table.chains.iter().find(|c| outer.contains(&c.name))?;
    let is_it = |r: &Rule| translation(r) == Some((to.addr, to.port));
    let own = table.chains.iter().find(|c| c.hook.is_none() && c.rules.iter().any(is_it));
    let spec = match (own, to.port) {
        (Some(chain), _) => argv!["-j", Foreign(&chain.name)],
        (None, Some(port)) => {
            let to = std::net::SocketAddr::new(to.addr, port);
            argv!["-p", "tcp", "-j", "DNAT", "--to-destination", to]
        }
        (None, None) => argv!["-p", "tcp", "-j", "DNAT", "--to-destination", to.addr],
    };
    let add = ChainAt::of(table, outer).edit(Edit::Append(Spec(spec)));
    Some(vec![delete(case, netns, rule), add.at(netns)])
}

#[cfg(test)]
mod tests {
    use crate::diagnose::case::Outcome;
    use crate::diagnose::rules::cases::concluded;
    use crate::diagnose::walk::tests::ruled;
    use crate::net::NetworkState;

    const RULES: &str = r#"*nat
    :PREROUTING ACCEPT [0:0]
    :KUBE-NODEPORTS - [0:0]
    :KUBE-EXT-SHOP - [0:0]
    :KUBE-SVC-SHOP - [0:0]
    :KUBE-SEP-SHOP - [0:0]
    -A PREROUTING -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
    -A KUBE-NODEPORTS -p tcp -m comment --comment "shop/web:http" -m tcp --dport 31000 -j KUBE-EXT-SHOP
    -A KUBE-SVC-SHOP -m comment --comment "shop/web:http -> 10.1.2.2:8080" -j KUBE-SEP-SHOP
    -A KUBE-SEP-SHOP -p tcp -m comment --comment "shop/web:http" -m tcp -j DNAT --to-destination 10.1.2.2:8080
    COMMIT
    *filter
    :INPUT ACCEPT [0:0]
    -A INPUT -p tcp -m comment --comment "shop/web:http has no local endpoints" -m addrtype --dst-type LOCAL -m tcp --dport 31000 -j DROP
    COMMIT
    "#;

    fn found(state: &NetworkState) -> (Vec<&'static str>, Vec<String>) {
        let found = concluded(state, ("b", "192.0.2.11", 31_000), Outcome::Timeout).findings;
        let ids = found.iter().map(|f| f.id).collect();
        (ids, found.into_iter().next().map(|f| f.fix).unwrap_or_default())
    }

    #[test]
    fn who_has_no_endpoint_of_its_own_is_told_who_has() {
        let (ids, fix) = found(&ruled("", "a", RULES));
        assert_eq!(ids, ["svc-no-local-endpoints"], "{fix:?}");
        assert!(fix.iter().all(|f| f.starts_with('#')), "nothing heals it: {fix:?}");
        assert!(fix.iter().any(|f| f.contains("(b)")), "b has one: {fix:?}");
        let patch = "kubectl -n shop patch service web ";
        assert!(fix.iter().any(|f| f.contains(patch) && f.contains("externalTrafficPolicy")));
    }

    #[test]
    fn an_endpoint_that_the_rules_forgot_is_led_to() {
        let (ids, fix) = found(&ruled("", "a", &RULES.replace("10.1.2.2", "10.1.1.3")));
        assert_eq!(ids, ["svc-no-local-endpoints"]);
        let has = |text: &str| fix.iter().any(|f| !f.starts_with('#') && f.contains(text));
        assert!(has("-t nat -A KUBE-EXT-SHOP -j KUBE-SEP-SHOP") && has("-D INPUT "), "{fix:?}");
    }

    #[test]
    fn a_mark_is_traced_to_the_rule_that_set_it() {
        let marking = RULES
            .replace(":KUBE-SVC-SHOP", ":KUBE-MARK-DROP - [0:0]\n    :KUBE-SVC-SHOP")
            .replace(
                "-A KUBE-SVC-SHOP -m",
                "-A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000\n    -A KUBE-EXT-SHOP -m comment \
                 --comment \"shop/web:http has no local endpoints\" -j KUBE-MARK-DROP\n    -A KUBE-SVC-SHOP -m",
            )
            .replace(
                "-p tcp -m comment --comment \"shop/web:http has no local endpoints\" -m addrtype --dst-type LOCAL -m tcp --dport 31000 -j DROP",
                "-m mark --mark 0x8000/0x8000 -j DROP",
            );
        let (ids, fix) = found(&ruled("", "a", &marking));
        assert_eq!(ids, ["svc-no-local-endpoints"], "{fix:?}");
        // Another mark is another matter.
        let (ids, _) = found(&ruled(
            "",
            "a",
            &marking.replace("set-xmark 0x8000/0x8000", "set-xmark 0x1/0x1"),
        ));
        assert!(!ids.contains(&"svc-no-local-endpoints"), "{ids:?}");
    }
}
