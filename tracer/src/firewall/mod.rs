//! Firewall rules of every flavour, as configured: nftables, iptables-nft, iptables-legacy,
//! ebtables, and the ipsets they ask.

mod destinations;
mod evaluate;
mod infer;
mod ipset;
mod iptables;
mod model;
mod nft;
mod query;
mod read;
#[cfg(test)]
mod tests;
mod tool;
mod words;

use std::net::IpAddr;

pub use destinations::Destinations;
pub use evaluate::{
    At, End, Frame, Hit, Packet, Translation, Traversal, traverse, traverse_arp, traverse_bridge,
    traverse_device, traverse_without,
};
pub use infer::infer;
pub(crate) use iptables::rule::split;
pub use model::{
    By, Chain, Counter, Devices, Element, Elements, Firewall, Flavour, Ipset, Map, MapKind, Match,
    Policy, Rule, Set, Stateful, Table, Target,
};
pub use nft::field::Field;
pub use query::{Published, Service};
pub use read::{has_legacy_here, read_here, read_in};

/// The number of an IP protocol, by the name or number that rules have for it.
pub(crate) fn protocol_number(word: &str) -> Option<u8> {
    words::protocol(word)
}

/// Address and port that a map of `dnat` has for an element.
pub(crate) fn map_destination(value: &[String]) -> (Option<IpAddr>, Option<u16>) {
    evaluate::address(value)
}

/// The element that these words of nft mean.
pub(crate) fn element_of(words: &[String]) -> Element {
    nft::element::one(words)
}

/// The rule that a tool makes of these words, in a chain of a table that was read.
pub(crate) fn rule_of(table: &Table, chain: &str, words: &[&str]) -> Rule {
    if matches!(table.flavour, Flavour::Nft | Flavour::Ebtables) {
        return nft::rule::parse(&words.join(" "));
    }
    let quoted = words.iter().map(|word| iptables::rule::quoted(word)).collect::<Vec<_>>();
    let is_chain = |name: &str| table.chains.iter().any(|c| c.name == name);
    iptables::rule::parse(&format!("-A {chain} {}", quoted.join(" ")), &is_chain)
}

/// What `iptables-save` prints for each family and what `nft list ruleset` does, as rules.
#[cfg(test)]
pub(crate) fn parsed(saved: &[(&str, &str)], ruleset: &str) -> Firewall {
    let of_family = |(family, text): &(&str, &str)| {
        iptables::parse(text, Flavour::IptablesNft, family, "iptables")
    };
    let tables = saved.iter().flat_map(of_family).chain(nft::text::parse(ruleset)).collect();
    Firewall { tables, ..Firewall::default() }
}

/// What `iptables-save` prints, as rules: for the tests of those who ask them.
#[cfg(test)]
pub(crate) fn parse_iptables(text: &str) -> Vec<Table> {
    iptables::parse(text, Flavour::IptablesNft, "ip", "iptables")
}

/// The ways in for `crate::fuzz`.
#[cfg(test)]
pub(crate) mod fuzz {
    /// What attributes of nf_tables could mean.
    pub(crate) fn nftables(input: &[u8]) -> bool {
        super::nft::objects(input) > 0
    }

    pub(crate) fn ipset(text: &str) -> bool {
        !super::ipset::parse(text).is_empty()
    }
}
