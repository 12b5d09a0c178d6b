//! Changes of a firewall, and the command of the table's own tool for each.
//!
//! `nft` joins its arguments and parses them again: a name that is no identifier of its grammar
//! would be read as something else, and so is never printed. `iptables` takes each word as it is.

use super::argv::{Argv, Foreign, Word, argv};
use crate::firewall::{self, Chain, Flavour, Policy, Rule, Table};

/// Matches with a state of the kernel's in them: a rule that has one is never found by its words
/// (iptables-nft compares the data of the match whole), only by its number.
const UNEQUAL: [&str; 7] =
    ["connlimit", "hashlimit", "limit", "quota", "rateest", "recent", "statistic"];

/// A chain, as its tool finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainAt {
    /// Whose.
    pub flavour: Flavour,
    /// `ip`, `inet`, …
    pub family: String,
    /// Table.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// The command that changes it.
    pub command: String,
}

/// A change of one chain, or of one set of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Where.
    pub at: ChainAt,
    /// What.
    pub edit: Edit,
}

/// A rule in its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Position, from 1.
    pub number: usize,
    /// Handle of nftables.
    pub handle: Option<u64>,
    /// As its tool prints it.
    pub text: String,
}

/// What to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Takes a rule away.
    Delete(Spot),
    /// Puts another rule in the place of one.
    Replace(Spot, Spec),
    /// Puts a rule in front of one; of all, where none is named.
    Insert(Option<Spot>, Spec),
    /// Puts a rule behind all others.
    Append(Spec),
    /// What happens at the end of the chain.
    Policy(Policy),
    /// Makes the chain.
    NewChain,
    /// Adds an element to a set of the table.
    AddElement { set: String, element: Spec },
    /// Takes an element out of a set of the table.
    DeleteElement { set: String, element: Spec },
}

/// A rule without its place, in the words of the table's own tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec(pub Argv);

impl ChainAt {
    /// A chain that was read.
    #[must_use]
    pub fn of(table: &Table, chain: &Chain) -> Self {
        Self::named(table, &chain.name)
    }

    /// A chain of a table that was read.
    #[must_use]
    pub fn named(table: &Table, chain: &str) -> Self {
        Self {
            flavour: table.flavour,
            family: table.family.clone(),
            table: table.name.clone(),
            chain: chain.to_owned(),
            command: table.command.clone(),
        }
    }

    /// With what is to be changed.
    #[must_use]
    pub fn edit(self, edit: Edit) -> super::Remedy {
        super::Remedy::Rules(Rules { at: self, edit })
    }

    /// `ebtables-nft` keeps its rules in nftables, and `nft` deletes those by handle too.
    #[must_use]
    pub fn is_nft(&self) -> bool {
        matches!(self.flavour, Flavour::Nft | Flavour::Ebtables)
    }

    fn nft(&self, verb: &'static str, what: &'static str) -> Argv {
        let (family, table) = (identifier(&self.family), identifier(&self.table));
        argv!["nft", verb, what, family, table]
    }

    fn iptables(&self) -> Argv {
        argv![Foreign(&self.command), "-t", Foreign(&self.table)]
    }

    fn name(&self) -> Word {
        Foreign(&self.chain).into()
    }
}

impl Spot {
    /// Of a rule that was read.
    #[must_use]
    pub fn of(rule: &Rule) -> Self {
        Self { number: rule.number, handle: rule.handle, text: rule.text.clone() }
    }
}

impl Spec {
    /// A rule as its tool prints it, perhaps changed by a word: `-A CHAIN …` of `iptables-save`, a
    /// statement of nft.
    #[must_use]
    pub fn of_text(at: &ChainAt, text: &str) -> Self {
        if at.is_nft() {
            return Self(argv![Word::from(Foreign(text)).only_if(is_statement(text))]);
        }
        let words = firewall::split(text);
        let words = words.iter().skip(2);
        Self(Argv::of(words.map(|w| Word::from(Foreign(w)).only_if(!runs(w)))))
    }
}

/// The command of an edit, in the namespace of the table.
#[must_use]
pub(super) fn command(change: &Rules) -> Argv {
    let at = &change.at;
    if let (Flavour::Ebtables, Edit::Insert(Some(spot), spec)) = (at.flavour, &change.edit) {
        return super::ebtables::insert((&at.table, &at.chain, spot.number), &spec.0);
    }
    if at.is_nft() { nft(at, &change.edit) } else { iptables(at, &change.edit) }
}

fn nft(at: &ChainAt, edit: &Edit) -> Argv {
    let chain = identifier(&at.chain);
    // A rule without a handle is none that can be named.
    let handle = |spot: &Spot| {
        let number = spot.handle.map_or_else(|| Word::from("").only_if(false), Word::from);
        argv!["handle", number]
    };
    match edit {
        Edit::Delete(spot) => at.nft("delete", "rule").with(chain).and(handle(spot)),
        Edit::Replace(spot, spec) => {
            at.nft("replace", "rule").with(chain).and(handle(spot)).and(spec.0.clone())
        }
        Edit::Insert(Some(spot), spec) => {
            at.nft("insert", "rule").with(chain).and(handle(spot)).and(spec.0.clone())
        }
        Edit::Insert(None, spec) => at.nft("insert", "rule").with(chain).and(spec.0.clone()),
        Edit::Append(spec) => at.nft("add", "rule").with(chain).and(spec.0.clone()),
        Edit::Policy(policy) => {
            let text = match policy {
                Policy::Accept => "{ policy accept; }",
                Policy::Drop => "{ policy drop; }",
            };
            let (family, table) = (identifier(&at.family), identifier(&at.table));
            argv!["nft", "chain", family, table, chain, text]
        }
        Edit::NewChain => at.nft("add", "chain").with(chain),
        Edit::AddElement { set, element } => {
            let set = argv![identifier(set), "{"];
            at.nft("add", "element").and(set).and(element.0.clone()).with("}")
        }
        Edit::DeleteElement { set, element } => {
            let set = argv![identifier(set), "{"];
            at.nft("delete", "element").and(set).and(element.0.clone()).with("}")
        }
    }
}

fn iptables(at: &ChainAt, edit: &Edit) -> Argv {
    let tool = at.iptables();
    match edit {
        Edit::Delete(spot) => tool.with("-D").with(at.name()).and(rule_or_number(spot)),
        Edit::Replace(spot, spec) => {
            tool.with("-R").with(at.name()).with(spot.number).and(spec.0.clone())
        }
        Edit::Insert(Some(spot), spec) => {
            tool.with("-I").with(at.name()).with(spot.number).and(spec.0.clone())
        }
        Edit::Insert(None, spec) => tool.with("-I").with(at.name()).and(spec.0.clone()),
        Edit::Append(spec) => tool.with("-A").with(at.name()).and(spec.0.clone()),
        Edit::Policy(policy) => tool.with("-P").with(at.name()).with(match policy {
            Policy::Accept => "ACCEPT",
            Policy::Drop => "DROP",
        }),
        Edit::NewChain => tool.with("-N").with(at.name()),
        // iptables has no sets of its own.
        Edit::AddElement { .. } | Edit::DeleteElement { .. } => {
            argv![Word::from("").only_if(false)]
        }
    }
}

/// What `-D` finds a rule by.
fn rule_or_number(spot: &Spot) -> Argv {
    // iptables-save escapes for iptables-restore, which is not enough for a shell.
    let words = firewall::split(&spot.text);
    let is_found = !words.windows(2).any(|w| w[0] == "-m" && UNEQUAL.contains(&w[1].as_str()));
    let spec = Argv::of(words.iter().skip(2).map(|w| Word::from(Foreign(w)).only_if(!runs(w))));
    match is_found && spec.words().is_some() && words.len() > 2 {
        true => spec,
        false => argv![spot.number],
    }
}

/// An option of iptables' own that names a program to run (`--modprobe`).
fn runs(word: &str) -> bool {
    // Long options may be cut short.
    let name = word.split('=').next().unwrap_or(word);
    word.starts_with("-M") || name.len() > 3 && "--modprobe".starts_with(name)
}

/// A device's name for `-i` and `-o` of iptables, where a sign at the end means any rest.
#[must_use]
pub fn interface(dev: &str) -> Word {
    Word::from(Foreign(dev)).only_if(!dev.ends_with('+') && !dev.starts_with('!'))
}

/// A name in nft's grammar (`src/scanner.l`: `string`).
#[must_use]
pub(crate) fn identifier(name: &str) -> Word {
    let mut chars = name.chars();
    let is_start = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '.');
    let is_rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
    let is_name = chars.next().is_some_and(is_start) && chars.all(is_rest);
    Word::from(Foreign(name)).only_if(is_name)
}

/// A statement of nft's and nothing behind it: no other command, no comment, no open quotes.
fn is_statement(text: &str) -> bool {
    let mut is_open = false;
    for c in text.chars() {
        match c {
            '"' => is_open = !is_open,
            ';' | '\n' | '\r' | '#' | '$' | '\\' if !is_open => return false,
            _ => {}
        }
    }
    !is_open
}

/// What it changes.
pub(super) fn effect(change: &Rules) -> String {
    let ChainAt { table, chain, .. } = &change.at;
    match &change.edit {
        Edit::Delete(spot) => format!("deletes from {table}/{chain}: {}", spot.text),
        Edit::Replace(spot, _) => format!("corrects in {table}/{chain}: {}", spot.text),
        Edit::Insert(Some(spot), spec) => {
            format!("puts into {table}/{chain}, before \"{}\": {}", spot.text, spec.0.joined())
        }
        Edit::Insert(None, spec) => {
            format!("puts in front of {table}/{chain}: {}", spec.0.joined())
        }
        Edit::Append(spec) => format!("adds to {table}/{chain}: {}", spec.0.joined()),
        Edit::Policy(policy) => format!("sets the policy of {table}/{chain} to {policy:?}"),
        Edit::NewChain => format!("makes chain {chain} in {table}"),
        Edit::AddElement { set, element } => {
            format!("adds to set {set} of {table}: {}", element.0.joined())
        }
        Edit::DeleteElement { set, element } => {
            format!("takes out of set {set} of {table}: {}", element.0.joined())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(flavour: Flavour, chain: &str) -> ChainAt {
        let word = |w: &str| w.to_owned();
        let (family, table) = (word("ip"), word("filter"));
        ChainAt { flavour, family, table, chain: word(chain), command: word("iptables") }
    }

    fn line(at: ChainAt, edit: Edit) -> Option<String> {
        command(&Rules { at, edit }).line()
    }

    fn spot(text: &str) -> Spot {
        Spot { number: 3, handle: Some(7), text: text.to_owned() }
    }

    #[test]
    fn a_name_that_nft_would_parse_is_not_said() {
        let nft = |chain| line(at(Flavour::Nft, chain), Edit::Delete(spot("drop")));
        assert_eq!(nft("c-1").as_deref(), Some("nft delete rule ip filter c-1 handle 7"));
        for hostile in ["x; add table ip pwned", "-f", "a b", "$x", "a{", ""] {
            assert_eq!(nft(hostile), None, "{hostile}");
        }
    }

    #[test]
    fn a_comment_ends_no_statement() {
        let spec = |text| Spec::of_text(&at(Flavour::Nft, "c"), text).0.line();
        assert!(spec(r#"ip saddr 10.0.0.1 accept comment "a; b""#).is_some());
        assert_eq!(spec(r#"accept comment "a" ; add table ip pwned; ""#), None);
        assert_eq!(spec("accept\nadd table ip pwned"), None);
        assert_eq!(spec(r#"accept comment ""#), None);
    }

    #[test]
    fn a_rule_of_iptables_runs_nothing() {
        let spec = r#"-A FORWARD -m comment --comment "x" --modprobe=/tmp/x -j DROP"#;
        let found = line(at(Flavour::IptablesNft, "FORWARD"), Edit::Delete(spot(spec)));
        assert_eq!(found.as_deref(), Some("iptables -t filter -D FORWARD 3"));
        let spec = r#"-A FORWARD -m comment --comment "a $(id) 'b" -j DROP"#;
        let found = line(at(Flavour::IptablesNft, "FORWARD"), Edit::Delete(spot(spec)));
        let words = r"iptables -t filter -D FORWARD -m comment --comment 'a $(id) '\''b' -j DROP";
        assert_eq!(found.as_deref(), Some(words));
    }
}
