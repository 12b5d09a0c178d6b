//! What `nft -a -y list ruleset` prints, for tests: the kernel is asked itself.

use super::{element, rule, token};
use crate::firewall::{Chain, Devices, Element, Flavour, Policy, Rule, Set, Table};
use crate::journey::Hook;

/// The tables in `text`.
pub(in crate::firewall) fn parse(text: &str) -> Vec<Table> {
    let mut lines = Lines { lines: text.lines() };
    let mut tables = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(head) = line.strip_prefix("table ")
            && let Some(table) = table(head, &mut lines)
        {
            tables.push(table);
        }
    }
    tables
}

struct Lines<'a> {
    lines: std::str::Lines<'a>,
}

impl<'a> Lines<'a> {
    /// The next line, trimmed.
    fn next(&mut self) -> Option<&'a str> {
        self.lines.next().map(str::trim)
    }

    /// Goes past the end of a block whose first line was read.
    fn skip_block(&mut self) {
        let mut depth = 1;
        while let Some(line) = self.next().filter(|_| depth > 0) {
            depth += i32::from(opens_block(line)) - i32::from(line == "}");
            if depth == 0 {
                return;
            }
        }
    }
}

fn opens_block(line: &str) -> bool {
    strip_handle(line).0.ends_with('{')
}

/// `ip filter { # handle 1`
fn table(head: &str, lines: &mut Lines<'_>) -> Option<Table> {
    let mut words = head.split_whitespace();
    let (family, name) = (words.next()?, words.next()?);
    let mut table = Table {
        flavour: Flavour::Nft,
        family: family.to_owned(),
        name: name.to_owned(),
        command: "nft".to_owned(),
        chains: Vec::new(),
        sets: Vec::new(),
    };
    while let Some(line) = lines.next() {
        if line == "}" {
            break;
        }
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("chain"), Some(name)) => table.chains.push(chain(name, lines)),
            (Some("set" | "map"), Some(name)) => {
                table.sets.push(Set {
                    name: name.to_owned(),
                    elements: elements(lines),
                    is_whole: true,
                });
            }
            _ if opens_block(line) => lines.skip_block(),
            _ => {}
        }
    }
    super::claim(&mut table);
    Some(table)
}

fn chain(name: &str, lines: &mut Lines<'_>) -> Chain {
    let mut chain = Chain {
        name: name.to_owned(),
        hook: None,
        devices: None,
        priority: 0,
        kind: String::new(),
        policy: None,
        counter: None,
        rules: Vec::new(),
    };
    while let Some(line) = lines.next() {
        if line == "}" {
            break;
        }
        if line.starts_with("type ") && line.contains(" hook ") && chain.rules.is_empty() {
            base(&mut chain, line);
        } else if !line.is_empty() && !is_property(line) {
            let (text, handle) = strip_handle(line);
            let number = chain.rules.len() + 1;
            chain.rules.push(Rule { number, handle, ..rule::parse(text) });
        }
    }
    chain
}

/// A line that is about the chain, not a rule.
fn is_property(line: &str) -> bool {
    line.starts_with("comment \"") || line.starts_with("flags ") || line.starts_with("policy ")
}

/// `type filter hook forward priority 0; policy accept;`
fn base(chain: &mut Chain, line: &str) {
    let words: Vec<&str> = line.split([' ', ';']).filter(|w| !w.is_empty()).collect();
    let after = |key: &str| {
        let at = words.iter().position(|w| *w == key)?;
        words.get(at + 1).copied()
    };
    chain.kind = after("type").unwrap_or_default().to_owned();
    chain.hook = after("hook")
        .and_then(|hook| (0..5).filter_map(Hook::from_wire).find(|h| h.name() == hook));
    chain.devices = devices(&words);
    chain.priority = after("priority").and_then(|p| p.parse().ok()).unwrap_or(0);
    chain.policy = match after("policy") {
        Some("drop") => Some(Policy::Drop),
        _ => Some(Policy::Accept),
    };
}

/// `hook ingress device "eth0"`, `hook egress devices = { eth0, eth1 }`
fn devices(words: &[&str]) -> Option<Devices> {
    let hook = words.iter().position(|w| *w == "hook")?;
    let is_ingress = match *words.get(hook + 1)? {
        "ingress" => true,
        "egress" => false,
        _ => return None,
    };
    let listed = words.iter().skip(hook + 2).take_while(|w| **w != "priority");
    let name = |word: &&str| word.trim_matches(['"', ',', '{', '}']).to_owned();
    let names = listed.filter(|w| !matches!(**w, "device" | "devices" | "=")).map(name);
    Some(Devices { is_ingress, names: names.filter(|n| !n.is_empty()).collect() })
}

/// The elements of a set or map, each as nft prints it.
fn elements(lines: &mut Lines<'_>) -> Vec<Element> {
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if line == "}" {
            break;
        }
        let Some(first) = line.strip_prefix("elements = {") else { continue };
        let mut all = first.to_owned();
        while !all.trim_end().ends_with('}') {
            let Some(more) = lines.next() else { break };
            all.push(' ');
            all.push_str(more);
        }
        let inner = all.trim_end().strip_suffix('}').unwrap_or(&all);
        found = element::all(&token::split(inner));
    }
    found
}

/// A line and the handle that `-a` puts behind it.
fn strip_handle(line: &str) -> (&str, Option<u64>) {
    match line.rsplit_once(" # handle ") {
        Some((text, handle)) => (text.trim_end(), handle.trim().parse().ok()),
        None => (line, None),
    }
}
