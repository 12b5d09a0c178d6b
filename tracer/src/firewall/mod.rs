//! Firewall rules of every flavour, as configured: nftables, iptables-nft, iptables-legacy,
//! ebtables, and the ipsets they ask.

mod command;
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

pub use command::{delete_command, insert_command, policy_command, replace_command};
pub use destinations::Destinations;
pub use evaluate::{
    At, End, Frame, Hit, Packet, Translation, Traversal, traverse, traverse_arp, traverse_bridge,
    traverse_device, traverse_without,
};
pub use infer::infer;
pub use model::{
    Chain, Counter, Devices, Firewall, Flavour, Ipset, Match, Policy, Rule, Stateful, Table, Target,
};
pub use query::{Published, Service};
pub use read::{has_legacy_here, read_here, read_in};

/// What `iptables-save` prints for each family and what `nft list ruleset` does, as rules.
#[cfg(test)]
pub(crate) fn parsed(saved: &[(&str, &str)], ruleset: &str) -> Firewall {
    let of_family = |(family, text): &(&str, &str)| {
        iptables::parse(text, Flavour::IptablesNft, family, "iptables")
    };
    let tables = saved.iter().flat_map(of_family).chain(nft::parse(ruleset)).collect();
    Firewall { tables, ..Firewall::default() }
}

/// What `iptables-save` prints, as rules: for the tests of those who ask them.
#[cfg(test)]
pub(crate) fn parse_iptables(text: &str) -> Vec<Table> {
    iptables::parse(text, Flavour::IptablesNft, "ip", "iptables")
}
