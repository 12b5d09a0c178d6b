//! nftables: rules in nft's own words, which the kernel's form of them is put into, as plain data.

mod condition;
mod decode;
pub(super) mod element;
pub(super) mod field;
mod lookup;
pub(super) mod rule;
mod statement;
#[cfg(test)]
pub(super) mod text;
pub(super) mod token;
mod values;

#[cfg(test)]
pub(super) use decode::objects;
pub(super) use decode::read;

use super::{Flavour, Table};

/// ebtables-nft names its chains in capitals; native tables of this name hardly do.
fn claim(table: &mut Table) {
    let is_ebtables =
        table.family == "bridge" && matches!(table.name.as_str(), "filter" | "nat" | "broute");
    if is_ebtables && table.chains.iter().any(|c| c.hook.is_some_and(|h| h.title() == c.name)) {
        table.flavour = Flavour::Ebtables;
    }
}
