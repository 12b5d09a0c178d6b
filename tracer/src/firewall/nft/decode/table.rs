//! A table with all that is in it.

use std::collections::{HashMap, HashSet};

use super::rule;
use super::set::{Info, Sets};
use crate::firewall::words::c_text;
use crate::firewall::{Chain, Counter, Devices, Flavour, Policy, Rule, Table};
use crate::journey::Hook;
use crate::net::nftables::{Attrs, Objects, Reader, user_data};

/// Elements of one set that are read; of a larger one the rest may hold anything.
const MAX_ELEMENTS: usize = 500_000;

/// Reads the tables with these families and names, which were told a moment ago; why one could not
/// be read is added to `unread`.
pub(in crate::firewall) fn read(
    names: &[(&'static str, String)],
    unread: &mut Vec<String>,
) -> Vec<Table> {
    let mut reader = match Reader::open() {
        Ok(reader) => reader,
        Err(error) => {
            unread.push(format!("nftables rules: {error}"));
            return Vec::new();
        }
    };
    let mut chains: HashMap<&str, Objects> = HashMap::new();
    let mut tables = Vec::new();
    for (family, name) in names {
        if !chains.contains_key(family) {
            match reader.chains(family) {
                Ok(all) => drop(chains.insert(family, all)),
                Err(error) => {
                    unread.push(format!("nftables chains of family {family}: {error}"));
                    continue;
                }
            }
        }
        let Some(all) = chains.get(family) else { continue };
        match table(&mut reader, (family, name), all) {
            Ok(table) => tables.push(table),
            Err(error) => unread.push(format!("nftables table {family} {name}: {error}")),
        }
    }
    tables
}

fn table(
    reader: &mut Reader,
    (family, name): (&str, &str),
    chains: &Objects,
) -> std::io::Result<Table> {
    let mut found: Vec<Chain> = chains.of_table(name).filter_map(|c| chain(family, c)).collect();
    let index: HashMap<String, usize> =
        found.iter().enumerate().map(|(at, chain)| (chain.name.clone(), at)).collect();
    let sets = sets(reader, family, name)?;
    let rules = reader.rules(family, name)?;
    for object in rules.of_table(name) {
        // `NFTA_RULE_CHAIN`
        let at = object.text(2).and_then(|chain| index.get(&chain).copied());
        if let Some(chain) = at.and_then(|at| found.get_mut(at)) {
            let number = chain.rules.len() + 1;
            chain.rules.push(Rule { number, ..rule_of(family, &sets, object) });
        }
    }
    let mut table = Table {
        flavour: Flavour::Nft,
        family: family.to_owned(),
        name: name.to_owned(),
        command: "nft".to_owned(),
        chains: found,
        sets: sets.into_named(),
    };
    super::super::claim(&mut table);
    Ok(table)
}

/// `NFTA_RULE_HANDLE`, `EXPRESSIONS`, `USERDATA`.
fn rule_of(family: &str, sets: &Sets, object: Attrs<'_>) -> Rule {
    let comment = object.get(7).and_then(|data| user_data(data, 0)).map(c_text);
    let statements = rule::read(family, sets, object.nested(4));
    Rule { handle: object.be64(3), ..super::super::rule::read(&statements, comment) }
}

fn sets(reader: &mut Reader, family: &str, table: &str) -> std::io::Result<Sets> {
    let all = reader.sets(family, table)?;
    let mut found = Sets::default();
    for object in all.of_table(table) {
        let Some(mut info) = Info::new(object) else { continue };
        // One that is gone by now, or too large: it may hold anything.
        match reader.elements(family, table, info.name()) {
            Ok(answer) => {
                // `NFTA_SET_ELEM_LIST_ELEMENTS`
                let lists = answer.all().flat_map(|message| message.nested(3).list());
                let mut count = 0;
                info.take(lists.take(MAX_ELEMENTS).inspect(|_| count += 1));
                if count == MAX_ELEMENTS {
                    info.cut();
                }
            }
            Err(error) => {
                log::debug!("elements of set {} of table {family} {table}: {error}", info.name());
                info.cut();
            }
        }
        found.add(info);
    }
    Ok(found)
}

/// `NFTA_CHAIN_NAME`, `HOOK`, `POLICY`, `TYPE`, `COUNTERS`.
fn chain(family: &str, object: Attrs<'_>) -> Option<Chain> {
    let mut chain = Chain {
        name: object.text(3)?,
        hook: None,
        devices: None,
        priority: 0,
        kind: String::new(),
        policy: None,
        counter: None,
        rules: Vec::new(),
    };
    if !object.has(4) {
        return Some(chain);
    }
    let hook = object.nested(4);
    let number = u8::try_from(hook.be32(1)?).ok()?;
    (chain.hook, chain.devices) = match (family, number) {
        ("netdev", 0) | ("inet", 5) => (None, Some(devices(hook, true))),
        ("netdev", _) => (None, Some(devices(hook, false))),
        // `NF_ARP_IN`, `NF_ARP_OUT`, `NF_ARP_FORWARD`
        ("arp", 0) => (Some(Hook::Input), None),
        ("arp", 1) => (Some(Hook::Output), None),
        ("arp", _) => (Some(Hook::Forward), None),
        _ => (Hook::from_wire(number), None),
    };
    chain.priority = hook.be_i32(2).unwrap_or(0);
    chain.kind = object.text(7).unwrap_or_default();
    chain.policy = Some(if object.be32(5) == Some(0) { Policy::Drop } else { Policy::Accept });
    // `NFTA_COUNTER_BYTES`, `NFTA_COUNTER_PACKETS`
    let counter = object.nested(8);
    chain.counter =
        counter.be64(2).zip(counter.be64(1)).map(|(packets, bytes)| Counter { packets, bytes });
    Some(chain)
}

/// `NFTA_HOOK_DEV`, or the names in `NFTA_HOOK_DEVS`.
fn devices(hook: Attrs<'_>, is_ingress: bool) -> Devices {
    let listed = hook.nested(4).all().map(|(_, name)| c_text(name));
    let names: HashSet<String> = hook.text(3).into_iter().chain(listed).collect();
    let mut names: Vec<String> = names.into_iter().collect();
    names.sort_unstable();
    Devices { is_ingress, names }
}

/// The way in for `crate::fuzz`: the attributes of one object, taken for one of every kind. How
/// many it could be.
#[cfg(test)]
pub(in crate::firewall) fn objects(input: &[u8]) -> usize {
    let object = Attrs::of(input);
    let mut sets = Sets::default();
    let set = Info::new(object).map(|mut info| {
        info.take(object.nested(3).list());
        let words = info.words().len();
        sets.add(info);
        words
    });
    let of_family = |family| {
        let rule = rule_of(family, &sets, object);
        usize::from(chain(family, object).is_some()) + usize::from(!rule.text.is_empty())
    };
    set.unwrap_or(0) + ["ip", "netdev", "arp"].map(of_family).iter().sum::<usize>()
}
