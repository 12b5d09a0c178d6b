//! Services whose rules leave a part of the connections to no endpoint.

use std::collections::BTreeSet;

use super::located::{located, replace};
use super::met::each;
use super::{Case, Finding, Rule, chains};
use crate::diagnose::remedy::{ChainAt, Edit, Foreign, Spec, argv};
use crate::diagnose::walk::{ObstacleKind as Kind, RuleRef};
use crate::diagnose::{Met, Where};
use crate::firewall::{self, Flavour, Match, Table, Target};

pub(super) const RULE: Rule =
    Rule { id: "svc-endpoint-rule-missing", covers: &["svc-endpoint-rule-missing"], check };

fn check(case: &Case<'_>) -> Vec<Finding> {
    each(case, one)
}

fn one(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let Kind::Unspread { rule, percent } = &met.obstacle.kind else { return None };
    let netns = met.netns(case)?;
    let (node, before) = (&netns.name, met.walk.tuple);
    let title = format!(
        "{percent} % of the connections to {}:{} are translated to no endpoint: the rules of {} in \
         {node} leave them over",
        before.dst, before.dport, rule.chain
    );
    let mut place = Where::netns(case.state, netns.inum);
    (place.table, place.chain) = (Some(rule.table.clone()), Some(rule.chain.clone()));
    let (table, chain, own) = located(case, netns.inum, rule)?;
    let finding = met
        .finding(case, RULE.id, title)
        .at(place)
        .facts(chain.rules.iter().map(|r| format!("{} of {node}: {}", table.name, r.text)))
        .fact(format!("no rule behind them in {} takes the rest", chain.name))
        .fix("# restart kube-proxy on this node: it writes the rules of all Services anew; until then:");
    let command = match lost(case, table, chain) {
        Some(to) => {
            let spec = Spec(argv!["-j", Foreign(&to)]);
            Some(met.remedy(ChainAt::of(table, chain).edit(Edit::Append(spec))))
        }
        None => whole(own?, rule).and_then(|text| replace(case, netns.inum, rule, &text)),
    };
    Some(finding.fixes(command))
}

/// The chain of an endpoint of the same Service that no rule leads to any more.
fn lost(case: &Case<'_>, table: &Table, chain: &firewall::Chain) -> Option<String> {
    if table.flavour == Flavour::Nft {
        return None;
    }
    let endpoint = |c: &firewall::Chain| {
        c.rules.iter().find_map(|r| match r.target {
            Target::Dnat { addr: Some(addr), port } => Some((addr, port, r.comment.clone())),
            _ => None,
        })
    };
    let led_to: BTreeSet<&str> = chain.rules.iter().filter_map(|r| r.leads_to()).collect();
    let named = table.chains.iter().filter(|c| led_to.contains(c.name.as_str()));
    let known: Vec<_> = named.filter_map(endpoint).collect();
    let is_alike = |c: &&firewall::Chain| {
        let own = endpoint(c).filter(|(addr, ..)| chains::is_alive(case, *addr));
        own.is_some_and(|(addr, port, comment)| {
            known.iter().any(|k| (k.1, &k.2) == (port, &comment) && k.0 != addr)
        })
    };
    let mut orphans = chains::orphans(table).filter(is_alike).map(|c| c.name.clone());
    // Of several, none can be told to be this Service's.
    let first = orphans.next()?;
    orphans.next().is_none().then_some(first)
}

/// The rule, taking all that comes to it.
fn whole(own: &firewall::Rule, rule: &RuleRef) -> Option<String> {
    if let Target::Map(_) = &own.target {
        return renumbered(&rule.text);
    }
    let probability = own.matches.iter().find_map(|m| match m {
        Match::Random { probability } => Some(probability),
        _ => None,
    })?;
    let chance = format!("-m statistic --mode random --probability {probability} ");
    rule.text.contains(&chance).then(|| rule.text.replace(&chance, ""))
}

/// The map of nftables with as many numbers as it has elements.
fn renumbered(text: &str) -> Option<String> {
    let (start, rest) = text.split_once(" mod ")?;
    let (_, rest) = rest.split_once(' ')?;
    let (words, elements) = rest.split_once('{')?;
    let (elements, end) = elements.rsplit_once('}')?;
    let verdicts: Vec<&str> =
        elements.split(',').filter_map(|e| Some(e.split_once(" : ")?.1.trim())).collect();
    let numbered: Vec<String> =
        verdicts.iter().enumerate().map(|(i, verdict)| format!("{i} : {verdict}")).collect();
    let (count, list) = (verdicts.len(), numbered.join(", "));
    (count > 0).then(|| format!("{start} mod {count} {words}{{ {list} }}{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::case::Outcome;
    use crate::diagnose::rules::cases::concluded;
    use crate::diagnose::walk::tests::ruled;

    const RULES: &str = r#"*nat
    :PREROUTING ACCEPT [0:0]
    :KUBE-SERVICES - [0:0]
    :KUBE-SVC-BOTH - [0:0]
    :KUBE-SEP-NEAR - [0:0]
    :KUBE-SEP-FAR - [0:0]
    -A PREROUTING -j KUBE-SERVICES
    -A KUBE-SERVICES -d 10.99.0.3/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-BOTH
    -A KUBE-SVC-BOTH -m statistic --mode random --probability 0.5 -j KUBE-SEP-NEAR
    -A KUBE-SVC-BOTH -j KUBE-SEP-FAR
    -A KUBE-SEP-NEAR -p tcp -m tcp -j DNAT --to-destination 10.1.1.3:8080
    -A KUBE-SEP-FAR -p tcp -m tcp -j DNAT --to-destination 10.1.2.2:8080
    COMMIT
    "#;
    const REST: &str = "-A KUBE-SVC-BOTH -j KUBE-SEP-FAR\n";

    fn found(rules: &str) -> Vec<Finding> {
        concluded(&ruled("", "a", rules), ("x1", "10.99.0.3", 80), Outcome::Timeout).findings
    }

    #[test]
    fn a_share_without_an_endpoint_is_named_and_given_one() {
        let all = found(RULES);
        assert!(!all.iter().any(|f| f.id == RULE.id), "all are taken: {all:#?}");
        let holes = found(&RULES.replace(REST, ""));
        assert_eq!(holes[0].id, RULE.id, "{holes:#?}");
        assert!(holes[0].title.starts_with("50 %"), "{}", holes[0].title);
        let add = "iptables -t nat -A KUBE-SVC-BOTH -j KUBE-SEP-FAR";
        assert!(holes[0].fix.iter().any(|f| f.ends_with(add)), "{:?}", holes[0].fix);
    }

    #[test]
    fn without_another_endpoint_the_last_rule_takes_all() {
        let rules = RULES
            .replace(REST, "")
            .replace(":KUBE-SEP-FAR - [0:0]\n", "")
            .replace("-A KUBE-SEP-FAR -p tcp -m tcp -j DNAT --to-destination 10.1.2.2:8080\n", "");
        let found = found(&rules);
        assert_eq!(found[0].id, RULE.id, "{found:#?}");
        let whole = |f: &String| f.contains("-R KUBE-SVC-BOTH 1") && !f.contains("statistic");
        assert!(found[0].fix.iter().any(whole), "{:?}", found[0].fix);
    }

    #[test]
    fn a_map_is_numbered_anew() {
        let text = "numgen random mod 3 vmap { 0 : goto endpoint-A, 2 : goto endpoint-C }";
        let right = "numgen random mod 2 vmap { 0 : goto endpoint-A, 1 : goto endpoint-C }";
        assert_eq!(renumbered(text).as_deref(), Some(right));
        assert_eq!(renumbered("numgen random mod 3 vmap @endpoints"), None);
    }
}
