//! What `diagnose` finds: the ids of its rules, and the named faults of the labs.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::Entry;
use crate::diagnose::{RULES, rules, slow};
use crate::lab::Fault;

/// Every id once: a fault of the lab in its own words, with the rule that tells it.
pub(super) fn entries() -> Vec<Entry> {
    let faults = Fault::all().map(|f| (f.id, f));
    let faults: BTreeMap<&str, &Fault> = faults.collect();
    let ids = RULES.iter().flat_map(|r| r.covers.iter().chain([&r.id]).map(move |id| (*id, r)));
    let mut rules: BTreeMap<&str, _> = ids.collect();
    let mut list: Vec<Entry> = faults
        .values()
        .map(|fault| {
            let rule = rules.remove(fault.id);
            let why = rule.and_then(|_| rules::explain(fault.id)).or_else(|| slow_by(fault.id));
            let what = sentence(fault.title);
            let broken = format!(
                "One would suspect it in {}; lab `{}` shows it: `pkttrace lab break {}`.",
                fault.scenario, fault.lab, fault.id
            );
            Entry {
                why: Cow::Borrowed(why.unwrap_or_else(|| explained_by(fault))),
                look: Cow::Owned(look(fault)),
                ..finding(fault.id, what, broken)
            }
        })
        .collect();
    list.extend(rules.into_iter().map(|(id, rule)| {
        let what = match id == rule.id {
            true => "A cause, or an observation, that `pkttrace diagnose` names.".to_owned(),
            false => format!("A case of `{}` that `pkttrace diagnose` tells apart.", rule.id),
        };
        let where_ = "It is met in pods, containers and plain namespaces alike.".to_owned();
        let why = Cow::Borrowed(rules::explain(id).unwrap_or_default());
        Entry { why, ..finding(id, what, where_) }
    }));
    let unshown = slow::explanations().filter(|(id, _)| !faults.contains_key(id));
    list.extend(unshown.map(|(id, why)| {
        let what = "A reason why a connection is slow, which `pkttrace diagnose --slow` names.";
        let where_ = "It is met in pods, containers and plain namespaces alike.".to_owned();
        let look = Cow::Borrowed("pkttrace diagnose --slow --from NETNS --to ADDRESS:PORT");
        Entry { why: Cow::Borrowed(why), look, ..finding(id, what.to_owned(), where_) }
    }));
    list
}

fn finding(id: &'static str, what: String, kubernetes: String) -> Entry {
    Entry {
        word: Cow::Borrowed(id),
        aliases: &[],
        group: "",
        what: Cow::Owned(what),
        why: Cow::Borrowed(""),
        kubernetes: Cow::Owned(kubernetes),
        look: Cow::Borrowed("pkttrace diagnose --from NETNS --to ADDRESS"),
    }
}

/// A fault that is told by a more general finding, or by none since nothing is wrong.
fn explained_by(fault: &Fault) -> &'static str {
    match fault.kind {
        crate::lab::FaultKind::Fault => {
            "`pkttrace diagnose` tells it by what it does to packets, under a more general id."
        }
        crate::lab::FaultKind::Trap => {
            "It looks like a fault and is none: `pkttrace diagnose` says nothing about it."
        }
    }
}

/// What `diagnose --slow` says of a fault: of those of a kind, by what their ids begin with.
fn slow_by(fault: &str) -> Option<&'static str> {
    let is_it =
        |id: &str| fault.strip_prefix(id).is_some_and(|r| r.is_empty() || r.starts_with('-'));
    slow::explanations().find(|(id, _)| is_it(id)).map(|(_, why)| why)
}

fn look(fault: &Fault) -> String {
    let target = &fault.target;
    let slow = if fault.is_slow() { "--slow " } else { "" };
    let to = format!("{slow}--from {} --to {} --proto {}", target.from, target.to, target.proto);
    match target.sport {
        Some(port) => format!("pkttrace diagnose {to} --sport {port}"),
        None => format!("pkttrace diagnose {to}"),
    }
}

fn sentence(text: &str) -> String {
    // The name of a host of the lab stays as it is.
    let is_name =
        text.split([' ', '\'']).next().is_some_and(|w| w.contains(|c: char| c.is_ascii_digit()));
    let mut letters = text.chars();
    let first = letters.next().filter(|_| !is_name).into_iter().flat_map(char::to_uppercase);
    let text: String = if is_name { text.to_owned() } else { first.chain(letters).collect() };
    if text.ends_with(['.', ')']) { text } else { text + "." }
}

#[cfg(test)]
mod tests {
    use super::super::lookup;
    use super::*;

    #[test]
    fn sentences_begin_with_a_capital_but_for_names() {
        assert_eq!(sentence("the Service has no endpoints"), "The Service has no endpoints.");
        assert_eq!(sentence("n1's FORWARD policy is DROP"), "n1's FORWARD policy is DROP.");
    }

    #[test]
    fn every_id_is_explained() {
        let ids = RULES.iter().flat_map(|r| r.covers.iter().chain([&r.id]).copied());
        for id in ids.chain(Fault::all().map(|f| f.id)) {
            let entry = lookup(id).unwrap_or_else(|| panic!("{id} is not explained"));
            assert_eq!(entry.word, id);
        }
    }
}
