//! What `iptables-save -c` prints, of either backend and family.

pub(super) mod rule;

use super::{Chain, Counter, Flavour, Policy, Table};
use crate::journey::Hook;

/// The tables in `text`. `family` is `ip` or `ip6`; `command` changes them.
pub(super) fn parse(text: &str, flavour: Flavour, family: &str, command: &str) -> Vec<Table> {
    let mut tables = Vec::new();
    let mut index = std::collections::HashMap::new();
    for line in lines(text) {
        if let Some(name) = line.strip_prefix('*') {
            index.clear();
            tables.push(Table {
                flavour,
                family: family.to_owned(),
                name: name.trim().to_owned(),
                command: command.to_owned(),
                chains: Vec::new(),
                sets: Vec::new(),
            });
            continue;
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some(declared) = line.strip_prefix(':') {
            if let Some(chain) = chain(declared, &table.name) {
                index.insert(chain.name.clone(), table.chains.len());
                table.chains.push(chain);
            }
            continue;
        }
        let (counter, spec) = counted(line);
        let Some(name) = spec.strip_prefix("-A ").and_then(|s| s.split(' ').next()) else {
            continue;
        };
        let Some(&at) = index.get(name) else { continue };
        let parsed = rule::parse(spec, &|chain| index.contains_key(chain));
        if let Some(chain) = table.chains.get_mut(at) {
            let number = chain.rules.len() + 1;
            chain.rules.push(super::Rule { number, counter, ..parsed });
        }
    }
    tables
}

/// Lines; a line break in quotes, such as in a comment, ends none.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |c| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match c {
            '"' if !was_escaped => is_quoted = !is_quoted,
            '\\' if is_quoted && !was_escaped => is_escaped = true,
            '\n' => return !is_quoted,
            _ => {}
        }
        false
    })
}

/// `INPUT ACCEPT [0:0]`, `KUBE-SERVICES - [0:0]`.
fn chain(declared: &str, table: &str) -> Option<Chain> {
    let mut words = declared.split_whitespace();
    let name = words.next()?;
    let policy = match words.next()? {
        "ACCEPT" => Some(Policy::Accept),
        "DROP" => Some(Policy::Drop),
        _ => None,
    };
    let hook = policy.and_then(|_| hook(name));
    Some(Chain {
        name: name.to_owned(),
        hook,
        devices: None,
        priority: hook.map_or(0, |hook| priority(table, hook)),
        kind: hook.map_or_else(String::new, |hook| kind(table, hook).to_owned()),
        policy,
        counter: policy.and_then(|_| counter(words.next()?)),
        rules: Vec::new(),
    })
}

fn hook(chain: &str) -> Option<Hook> {
    use Hook::{Forward, Input, Output, Postrouting, Prerouting};
    [Prerouting, Input, Forward, Output, Postrouting].into_iter().find(|h| h.title() == chain)
}

/// `enum nf_ip_hook_priorities`.
fn priority(table: &str, hook: Hook) -> i32 {
    match table {
        "raw" => -300,
        "mangle" => -150,
        "nat" if matches!(hook, Hook::Prerouting | Hook::Output) => -100,
        "nat" => 100,
        "security" => 50,
        _ => 0,
    }
}

fn kind(table: &str, hook: Hook) -> &'static str {
    match table {
        "nat" => "nat",
        "mangle" if hook == Hook::Output => "route",
        _ => "filter",
    }
}

/// A line and the `[packets:bytes]` before it.
fn counted(line: &str) -> (Option<Counter>, &str) {
    match line.strip_prefix('[').and_then(|_| line.split_once("] ")) {
        Some((count, spec)) => (counter(&format!("{count}]")), spec),
        None => (None, line),
    }
}

fn counter(word: &str) -> Option<Counter> {
    let (packets, bytes) = word.strip_prefix('[')?.strip_suffix(']')?.split_once(':')?;
    Some(Counter { packets: packets.parse().ok()?, bytes: bytes.parse().ok()? })
}
