//! nf_tables' own form of rules and sets, put into nft's words. The words are a list and not a
//! text: what somebody called a chain, a set or a device, or wrote into a comment, is one word
//! whatever is in it.

mod compare;
mod datatype;
mod fields;
mod kind;
mod load;
mod reader;
mod register;
mod rule;
mod set;
mod statement;
mod symbols;
mod table;

#[cfg(test)]
pub(in crate::firewall) use table::objects;
pub(in crate::firewall) use table::read;
