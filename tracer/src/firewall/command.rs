//! The commands that change a rule, ready for a shell.

use super::iptables::rule::split;
use super::{Chain, Flavour, Policy, Rule, Table};

/// Matches with a state of the kernel's in them: a rule that has one is never found by its words
/// (iptables-nft compares the data of the match whole), only by its number.
const UNEQUAL: [&str; 7] =
    ["connlimit", "hashlimit", "limit", "quota", "rateest", "recent", "statistic"];

/// The command that deletes `rule`. nftables deletes by handle; of a rule whose handle is not
/// known, the command lists the chain with its handles.
#[must_use]
pub fn delete_command(table: &Table, chain: &Chain, rule: &Rule) -> String {
    if is_nft(table) {
        let place = place(table, chain);
        return match rule.handle {
            Some(handle) => format!("nft delete rule {place} handle {handle}"),
            None => format!("nft -a list chain {place}"),
        };
    }
    // iptables-save escapes for iptables-restore, which is not enough for a shell.
    let words = split(&rule.text);
    let is_plain = !words.windows(2).any(|w| w[0] == "-m" && UNEQUAL.contains(&w[1].as_str()));
    let spec: Vec<String> = match is_plain {
        true => words.iter().skip(2).map(|w| quote(w)).collect(),
        false => vec![rule.number.to_string()],
    };
    let chain = quote(&chain.name);
    format!("{} -t {} -D {chain} {}", table.command, table.name, spec.join(" "))
        .trim_end()
        .to_owned()
}

/// The command that puts another rule, in the words of the table's own tool as [`Rule::text`] has
/// them, in the place of `rule`. `None` where nothing tells which one that is.
#[must_use]
pub fn replace_command(table: &Table, chain: &Chain, rule: &Rule, text: &str) -> Option<String> {
    if is_nft(table) {
        let place = place(table, chain);
        return Some(format!("nft replace rule {place} handle {} {}", rule.handle?, quote(text)));
    }
    let words = split(text);
    let spec: Vec<String> = words.iter().skip(2).map(|w| quote(w)).collect();
    let (command, table, chain) = (&table.command, &table.name, quote(&chain.name));
    Some(format!("{command} -t {table} -R {chain} {} {}", rule.number, spec.join(" ")))
}

/// The command that puts a rule first in `chain`. `spec` is in the words of the table's own tool:
/// `-s 10.0.0.0/8 -j ACCEPT`, quoted for a shell where necessary, or `ip saddr 10.0.0.0/8 accept`.
#[must_use]
pub fn insert_command(table: &Table, chain: &Chain, spec: &str) -> String {
    if is_nft(table) {
        return format!("nft insert rule {} {}", place(table, chain), quote(spec));
    }
    format!("{} -t {} -I {} {spec}", table.command, table.name, quote(&chain.name))
}

/// The command that sets the policy of a hooked chain.
#[must_use]
pub fn policy_command(table: &Table, chain: &Chain, policy: Policy) -> String {
    if is_nft(table) {
        let policy = match policy {
            Policy::Accept => "accept",
            Policy::Drop => "drop",
        };
        return format!("nft chain {} '{{ policy {policy}; }}'", place(table, chain));
    }
    let policy = match policy {
        Policy::Accept => "ACCEPT",
        Policy::Drop => "DROP",
    };
    let option = match table.name.as_str() {
        "filter" => String::new(),
        name => format!(" -t {name}"),
    };
    format!("{}{option} -P {} {policy}", table.command, quote(&chain.name))
}

/// `ebtables-nft` keeps its rules in nftables, and `nft` deletes those by handle too.
fn is_nft(table: &Table) -> bool {
    matches!(table.flavour, Flavour::Nft | Flavour::Ebtables)
}

fn place(table: &Table, chain: &Chain) -> String {
    format!("{} {} {}", table.family, quote(&table.name), quote(&chain.name))
}

/// A word as a POSIX shell reads it back.
fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,@%+=!".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
