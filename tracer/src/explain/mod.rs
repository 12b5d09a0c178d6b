//! `pkttrace explain WORD`: what a word of the output means, why one sees it, what it is in
//! Kubernetes, and where to look next.
//!
//! Words come from tables, one file each. Whoever has words of its own adds a row to [`TABLES`].

mod chains;
mod drops;
mod findings;
mod hop;
mod kube_nft;
mod primitives;
mod print;
mod segments;
mod stages;

use std::borrow::Cow;
use std::collections::BTreeSet;

pub use hop::hop;
pub use print::run;

use crate::net;

/// What there is to say about a word.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// The word; a `*` at its end stands for any continuation.
    pub word: Cow<'static, str>,
    /// Other words for it.
    pub aliases: &'static [&'static str],
    /// The table it is from.
    pub group: &'static str,
    /// What it is, in one sentence.
    pub what: Cow<'static, str>,
    /// Why one sees it.
    pub why: Cow<'static, str>,
    /// What it is, or who makes it, on a Kubernetes node.
    pub kubernetes: Cow<'static, str>,
    /// A command that shows more.
    pub look: Cow<'static, str>,
}

/// A table of words: its name and its entries.
#[derive(Clone, Copy)]
pub struct Table {
    /// Heading of the list of words.
    pub group: &'static str,
    /// Its entries, in the order in which they are listed.
    pub entries: fn() -> Vec<Entry>,
}

/// The table of chains.
const CHAINS: &str = "firewall chains";

/// All tables. The first one that knows a word explains it.
pub const TABLES: &[Table] = &[
    Table { group: "stages", entries: stages::stages },
    Table { group: "hooks", entries: stages::hooks },
    Table { group: "fates", entries: stages::fates },
    Table { group: "translations", entries: stages::translations },
    Table { group: "Linux networking", entries: primitives::entries },
    Table { group: "segments", entries: segments::entries },
    Table { group: "conntrack states", entries: stages::states },
    Table { group: CHAINS, entries: chains },
    Table { group: "drop reasons", entries: drops::entries },
    Table { group: "findings and faults", entries: findings::entries },
];

/// Those of every program that writes rules.
fn chains() -> Vec<Entry> {
    chains::entries().into_iter().chain(kube_nft::entries()).collect()
}

/// Explains a word, however it is capitalised. Exact words come before other spellings
/// (`TC_INGRESS` is a drop reason, `tc-ingress` a stage), those before patterns.
#[must_use]
pub fn lookup(word: &str) -> Option<Entry> {
    let typed = bare(word);
    let normal_typed = normal(word);
    let (mut spelled, mut pattern) = (None, None::<(usize, Entry)>);
    for entry in all() {
        for known in words(&entry) {
            let start = known.strip_suffix('*').map(normal);
            if bare(known) == typed {
                return Some(entry);
            } else if normal(known) == normal_typed {
                spelled = spelled.or_else(|| Some(entry.clone()));
            } else if let Some(start) = start.filter(|start| normal_typed.starts_with(start))
                // The longest pattern says the most.
                && pattern.as_ref().is_none_or(|(len, _)| *len < start.len())
            {
                pattern = Some((start.len(), entry.clone()));
            }
        }
    }
    spelled.or(pattern.map(|(_, entry)| entry))
}

/// The word of an entry and its other words.
fn words(entry: &Entry) -> Vec<&str> {
    std::iter::once(entry.word.as_ref()).chain(entry.aliases.iter().copied()).collect()
}

/// Every entry of every table.
fn all() -> impl Iterator<Item = Entry> {
    TABLES.iter().flat_map(|table| {
        (table.entries)().into_iter().map(|entry| Entry { group: table.group, ..entry })
    })
}

/// The words most like an unknown one.
#[must_use]
pub fn near(word: &str) -> Vec<String> {
    let known: Vec<Entry> = all().collect();
    let words: BTreeSet<&str> = known.iter().flat_map(words).collect();
    net::near(word.trim(), words.into_iter())
}

/// Lower case, without the kernel's prefix.
fn bare(word: &str) -> String {
    let word = word.trim().to_lowercase();
    word.strip_prefix("skb_drop_reason_").map_or(word.clone(), str::to_owned)
}

/// [`bare`], words joined by a dash.
fn normal(word: &str) -> String {
    bare(word).replace([' ', '_'], "-")
}

/// A row of a table; `group` is set by the table.
const fn entry(
    word: &'static str,
    aliases: &'static [&'static str],
    what: &'static str,
    why: &'static str,
    kubernetes: &'static str,
    look: &'static str,
) -> Entry {
    Entry {
        word: Cow::Borrowed(word),
        aliases,
        group: "",
        what: Cow::Borrowed(what),
        why: Cow::Borrowed(why),
        kubernetes: Cow::Borrowed(kubernetes),
        look: Cow::Borrowed(look),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_word_is_explained_once_and_in_full() {
        let mut seen = BTreeMap::new();
        for entry in all() {
            for word in words(&entry) {
                let before = seen.insert(bare(word), entry.word.clone());
                assert_eq!(before, None, "{word} twice");
            }
            for text in [&entry.what, &entry.why, &entry.kubernetes] {
                assert!(text.ends_with(['.', ')']), "{}: no sentence: {text:?}", entry.word);
            }
            assert!(!entry.look.is_empty(), "{}: nowhere to look", entry.word);
        }
    }

    #[test]
    fn all_that_a_report_says_is_known() {
        let schema: serde_json::Value = serde_json::from_str(crate::report::SCHEMA_TEXT).unwrap();
        let defs = &schema["$defs"];
        for values in [
            &defs["hop"]["properties"]["stage"]["enum"],
            &defs["journey"]["properties"]["fate"]["enum"],
            &defs["nat"]["properties"]["kind"]["enum"],
        ] {
            for word in values.as_array().expect("a list of words") {
                let word = word.as_str().unwrap();
                assert!(lookup(word).is_some(), "{word} is not explained");
            }
        }
        for hook in ["prerouting", "input", "forward", "output", "postrouting"] {
            assert_eq!(lookup(hook).unwrap().group, "hooks");
        }
    }

    #[test]
    fn case_prefixes_and_separators_do_not_matter() {
        for word in ["netfilter_drop", "SKB_DROP_REASON_NETFILTER_DROP", "Netfilter-Drop"] {
            assert_eq!(lookup(word).unwrap().word, "NETFILTER_DROP", "{word}");
        }
        assert_eq!(lookup("Network Namespace").unwrap().word, "netns");
        assert_eq!(lookup("TC_INGRESS").unwrap().group, "drop reasons");
        assert_eq!(lookup("tc-ingress").unwrap().group, "stages");
    }

    #[test]
    fn chains_with_a_hash_are_known_by_their_beginning() {
        for (word, found) in [
            ("KUBE-SVC-TCOU7JCQXEZGVUNU", "KUBE-SVC-*"),
            ("KUBE-SERVICES", "KUBE-SERVICES"),
            ("KUBE-ROUTER-FORWARD", "KUBE-ROUTER-*"),
            ("CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-*"),
            ("CNI-DN-0f3a", "CNI-HOSTPORT-*"),
            ("CNI-0f3a", "CNI-*"),
            ("cali-FORWARD", "cali-*"),
            ("DOCKER-ISOLATION-STAGE-2", "DOCKER-ISOLATION-STAGE-2"),
            ("service-O6YHTNFQ-default/websame/tcp/", "service-*"),
            ("service-not-translated", "service-not-translated"),
            ("firewall-drop", "firewall-drop"),
        ] {
            assert_eq!(lookup(word).unwrap().word, found, "{word}");
        }
    }

    #[test]
    fn an_unknown_word_has_neighbours() {
        assert_eq!(lookup("postruting"), None);
        assert_eq!(near("postruting")[0], "postrouting");
    }
}
