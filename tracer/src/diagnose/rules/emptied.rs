//! Chains that should translate, and that somebody has emptied.

use std::net::{IpAddr, SocketAddr};

use super::located::located;
use super::met::{each, is_left};
use super::{Case, Finding, Rule, chains};
use crate::diagnose::remedy::{ChainAt, Edit, Foreign, Remedy, Spec, argv};
use crate::diagnose::walk::{ObstacleKind as Kind, RuleRef};
use crate::diagnose::{Met, Where};
use crate::event::Proto;
use crate::firewall::{Table, Target};

pub(super) const RULE: Rule = Rule { id: "nat-chain-empty", covers: &["nat-chain-empty"], check };

fn check(case: &Case<'_>) -> Vec<Finding> {
    each(case, one)
}

fn one(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let Kind::EmptyChain { jump, chain, asked } = &met.obstacle.kind else { return None };
    if !is_left(met) {
        return None;
    }
    let netns = met.obstacle.place.netns;
    let node = case.state.netns_name(netns);
    let tuple = met.walk.steps.get(met.step)?.tuple;
    let aim = match tuple.proto.has_ports() {
        true => SocketAddr::new(tuple.dst, tuple.dport).to_string(),
        false => tuple.dst.to_string(),
    };
    let of = asked.as_deref().or(jump.comment.as_deref());
    let whose = of.map(|c| format!(" ({c})")).unwrap_or_default();
    let title = format!("chain {chain} of {node} is empty: nothing translates {aim}{whose}");
    let mut place = Where::netns(case.state, netns);
    place.table = Some(jump.table.clone());
    place.chain = Some(chain.clone());
    place.rule = Some(jump.text.clone());
    let finding = met
        .finding(case, RULE.id, title)
        .at(place)
        .fact(format!("{} of {node}: {}", jump.table, jump.text))
        .fact(format!("{} of {node}: chain {chain} has no rule", jump.table));
    let (table, ..) = located(case, netns, jump)?;
    let refilled = refill(case, table, (jump, chain, of), tuple.proto);
    let is_known = !refilled.is_empty();
    let advice = format!(
        "# where {aim} leads is not on this node any more: let whoever wrote {chain} write it again \
         (restart kube-proxy; for a host port, delete its pod{})",
        of.map(|c| format!(": {c}")).unwrap_or_default(),
    );
    let add = |spec| ChainAt::named(table, chain).edit(Edit::Append(spec));
    let steps = refilled.into_iter().map(add).map(|step: Remedy| met.remedy(step));
    Some(finding.fixes(steps).fixes((!is_known).then_some(advice)))
}

/// The rules that the chain should have, without `-A CHAIN`: where the comment of the jump names the
/// endpoint, or chains of the same Service are left that nothing leads to.
fn refill(
    case: &Case<'_>,
    table: &Table,
    (jump, chain, of): (&RuleRef, &str, Option<&str>),
    proto: Proto,
) -> Vec<Spec> {
    let named = jump.comment.as_deref().and_then(endpoint);
    if let Some(to) = named.filter(|to| chains::is_alive(case, to.ip())) {
        let proto = if proto == Proto::Udp { "udp" } else { "tcp" };
        return vec![Spec(argv!["-p", proto, "-j", "DNAT", "--to-destination", to])];
    }
    let Some(name) = of.and_then(|c| c.split_whitespace().next()) else { return Vec::new() };
    let is_its = |comment: &str| comment.split_whitespace().next() == Some(name);
    let left = chains::orphans(table).filter(|c| c.name != chain);
    let left = left.filter(|c| {
        let mut comments = c.rules.iter().filter_map(|r| r.comment.as_deref());
        let leads = c.rules.iter().any(|r| matches!(r.target, Target::Dnat { .. }));
        leads && comments.any(is_its)
    });
    let names: Vec<&str> = left.map(|c| c.name.as_str()).collect();
    let led = |(at, name): (usize, &&str)| {
        let left = names.len() - at;
        let chance = (left > 1).then(|| format!("{:.5}", 1.0 / left as f64));
        let share = argv![].and_if(chance, |chance| {
            argv!["-m", "statistic", "--mode", "random", "--probability", Foreign(&chance)]
        });
        Spec(share.and(argv!["-j", Foreign(name)]))
    };
    names.iter().enumerate().map(led).collect()
}

/// `shop/web:http -> 10.244.1.5:8080`, as kube-proxy says in its rules.
fn endpoint(comment: &str) -> Option<SocketAddr> {
    let to = comment.rsplit_once("-> ")?.1;
    to.parse()
        .ok()
        .filter(|to: &SocketAddr| !matches!(to.ip(), IpAddr::V4(a) if a.is_unspecified()))
}

#[cfg(test)]
mod tests {
    use crate::diagnose::case::Outcome;
    use crate::diagnose::rules::cases::concluded;
    use crate::diagnose::walk::tests::ruled;

    const RULES: &str = r#"*nat
    :PREROUTING ACCEPT [0:0]
    :PORTS - [0:0]
    :MAPPED - [0:0]
    :SVC - [0:0]
    :SEP - [0:0]
    -A PREROUTING -m addrtype --dst-type LOCAL -j PORTS
    -A PREROUTING -d 10.99.0.7/32 -p tcp -m comment --comment "shop/web:http cluster IP" -m tcp --dport 80 -j SVC
    -A PORTS -p tcp -m comment --comment "dnat name: net id: abc" -m tcp --dport 31000 -j MAPPED
    -A MAPPED -p tcp -j DNAT --to-destination 10.1.1.3:80
    -A SVC -m comment --comment "shop/web:http -> 10.1.1.3:80" -j SEP
    -A SEP -p tcp -m comment --comment "shop/web:http" -j DNAT --to-destination 10.1.1.3:80
    COMMIT
    "#;

    fn first(gone: &str, aim: (&'static str, &str, u16)) -> (&'static str, Vec<String>) {
        assert!(RULES.contains(gone));
        let state = ruled("x2: listen tcp 0.0.0.0 80", "a", &RULES.replace(gone, ""));
        let found = concluded(&state, aim, Outcome::Timeout).findings;
        found.into_iter().next().map(|f| (f.id, f.fix)).unwrap_or(("", Vec::new()))
    }

    #[test]
    fn an_emptied_chain_is_told_with_what_it_was_for() {
        let gone = "-A MAPPED -p tcp -j DNAT --to-destination 10.1.1.3:80";
        let (id, fix) = first(gone, ("b", "192.0.2.11", 31_000));
        assert_eq!(id, "nat-chain-empty", "{fix:?}");
        assert!(fix[0].starts_with('#') && fix[0].contains("id: abc"), "{fix:?}");
    }

    #[test]
    fn an_emptied_chain_of_a_service_is_filled_again() {
        let gone = "-A SVC -m comment --comment \"shop/web:http -> 10.1.1.3:80\" -j SEP";
        let (id, fix) = first(gone, ("x1", "10.99.0.7", 80));
        assert_eq!(id, "nat-chain-empty", "{fix:?}");
        assert!(fix[0].contains("-t nat -A SVC -j SEP"), "{fix:?}");
        let gone = "-A SEP -p tcp -m comment --comment \"shop/web:http\" -j DNAT --to-destination 10.1.1.3:80";
        let (id, fix) = first(gone, ("x1", "10.99.0.7", 80));
        assert_eq!(id, "nat-chain-empty", "{fix:?}");
        assert!(fix[0].contains("-A SEP -p tcp -j DNAT --to-destination 10.1.1.3:80"), "{fix:?}");
    }

    #[test]
    fn full_chains_and_chains_of_other_ports_are_not_told() {
        let full = ruled("", "a", RULES);
        let ids = |state: &_, aim| -> Vec<&'static str> {
            concluded(state, aim, Outcome::Timeout).findings.iter().map(|f| f.id).collect()
        };
        assert!(!ids(&full, ("b", "192.0.2.11", 31_000)).contains(&"nat-chain-empty"));
        let empty = RULES.replace("-A MAPPED -p tcp -j DNAT --to-destination 10.1.1.3:80", "");
        let empty = ruled("", "a", &empty);
        assert!(!ids(&empty, ("b", "192.0.2.11", 31_001)).contains(&"nat-chain-empty"));
    }
}
