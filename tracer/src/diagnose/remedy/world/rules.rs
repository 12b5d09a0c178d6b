//! Firewalls that change.

use super::super::rules::{ChainAt, Edit, Rules, Spec, Spot};
use crate::firewall::{self, Chain, Element, Firewall, Flavour, Policy, Rule, Table};
use crate::journey::Hook;

pub(super) fn edit(firewall: &mut Firewall, change: &Rules) -> Option<()> {
    let at = &change.at;
    let is_its = |t: &Table| t.flavour == at.flavour && t.family == at.family && t.name == at.table;
    if !firewall.tables.iter().any(is_its) {
        firewall.tables.push(made(at)?);
    }
    let table = firewall.tables.iter_mut().find(|t| is_its(t))?;
    match &change.edit {
        Edit::NewChain => {
            let name = at.chain.clone();
            table.chains.push(Chain {
                name,
                hook: None,
                devices: None,
                priority: 0,
                kind: String::new(),
                policy: None,
                counter: None,
                rules: Vec::new(),
            });
            return Some(());
        }
        Edit::AddElement { set, element } => {
            elements(table, set)?.push(element_of(element));
            return Some(());
        }
        Edit::DeleteElement { set, element } => {
            let gone = element_of(element);
            elements(table, set)?.retain(|e| e.key != gone.key);
            return Some(());
        }
        _ => {}
    }
    let new = match &change.edit {
        Edit::Replace(_, spec) | Edit::Insert(_, spec) | Edit::Append(spec) => {
            Some(rule(table, &at.chain, spec))
        }
        _ => None,
    };
    let chain = table.chains.iter_mut().find(|c| c.name == at.chain)?;
    match (&change.edit, new) {
        (Edit::Delete(spot), _) => drop(chain.rules.remove(position(chain, spot)?)),
        (Edit::Replace(spot, _), Some(rule)) => {
            let at = position(chain, spot)?;
            chain.rules[at] = rule;
        }
        (Edit::Insert(spot, _), Some(rule)) => {
            let at = spot.as_ref().map_or(Some(0), |spot| position(chain, spot))?;
            chain.rules.insert(at, rule);
        }
        (Edit::Append(_), Some(rule)) => chain.rules.push(rule),
        (Edit::Policy(policy), _) => chain.policy = Some(*policy),
        _ => return None,
    }
    for (at, rule) in chain.rules.iter_mut().enumerate() {
        rule.number = at + 1;
    }
    Some(())
}

/// What iptables makes when it is first asked to change it: the chains of table `nat`.
fn made(at: &ChainAt) -> Option<Table> {
    let is_iptables = matches!(at.flavour, Flavour::IptablesNft | Flavour::IptablesLegacy);
    if !is_iptables || at.table != "nat" {
        return None;
    }
    let hooks = [
        ("PREROUTING", Hook::Prerouting, -100),
        ("INPUT", Hook::Input, 100),
        ("OUTPUT", Hook::Output, -100),
        ("POSTROUTING", Hook::Postrouting, 100),
    ];
    let chain = |(name, hook, priority): (&str, Hook, i32)| Chain {
        name: name.to_owned(),
        hook: Some(hook),
        devices: None,
        priority,
        kind: "nat".to_owned(),
        policy: Some(Policy::Accept),
        counter: None,
        rules: Vec::new(),
    };
    Some(Table {
        flavour: at.flavour,
        family: at.family.clone(),
        name: at.table.clone(),
        command: at.command.clone(),
        chains: hooks.into_iter().map(chain).collect(),
        sets: Vec::new(),
    })
}

fn elements<'a>(table: &'a mut Table, set: &str) -> Option<&'a mut Vec<Element>> {
    table.sets.iter_mut().find(|s| s.name == set).map(|s| &mut s.elements)
}

fn element_of(spec: &Spec) -> Element {
    let words: Vec<String> = spec.0.raw().map(str::to_owned).collect();
    firewall::element_of(&words)
}

/// Where the rule is now: others before it may be gone, or new.
fn position(chain: &Chain, spot: &Spot) -> Option<usize> {
    let is_it = |r: &Rule| r.text == spot.text && (r.handle == spot.handle);
    let exact = |r: &Rule| is_it(r) && r.number == spot.number;
    let rules = &chain.rules;
    rules.iter().position(exact).or_else(|| rules.iter().position(is_it))
}

fn rule(table: &Table, chain: &str, spec: &Spec) -> Rule {
    let words: Vec<&str> = spec.0.raw().collect();
    firewall::rule_of(table, chain, &words)
}
