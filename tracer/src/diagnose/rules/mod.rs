//! The rules, one file each: what is wrong, why, and what heals it. The list is read from top to
//! bottom; its order means nothing, see [`super::engine`].

use super::{Case, Direction, Finding, Rule, Scenario};

mod beside;
mod beyond;
#[cfg(test)]
mod cases;
mod chains;
mod checksum;
mod conntrack;
mod delivery;
mod devices;
mod dns;
mod docker;
mod duplicate;
mod egress;
mod emptied;
mod explain;
mod filtered;
mod forwarding;
mod hole;
mod in_front;
mod kube_nft;
mod lengths;
mod local_endpoint;
pub(super) mod located;
pub(super) mod met;
mod neighbours;
mod not_local;
mod other_address;
mod paths;
mod plug;
mod ports;
mod programs;
mod rare;
mod refusal;
mod reverse_path;
mod route;
mod service;
mod tproxy;
mod translation;
mod tunnel;
pub(super) mod unexplained;
mod unheard;
mod vlan;

/// Every rule.
pub const RULES: &[Rule] = &[
    forwarding::RULE,
    route::RULE,
    paths::RULE,
    reverse_path::RULE,
    filtered::RULE,
    tproxy::RULE,
    translation::RULE,
    in_front::RULE,
    hole::RULE,
    emptied::RULE,
    service::RULE,
    docker::RULE,
    dns::RULE,
    egress::RULE,
    checksum::RULE,
    conntrack::RULE,
    devices::RULE,
    neighbours::RULE,
    tunnel::RULE,
    programs::RULE,
    lengths::RULE,
    delivery::RULE,
    other_address::RULE,
    beyond::RULE,
    rare::RULE,
    vlan::RULE,
    super::cause::RULE,
    super::cause::ipv6::RULE,
    super::cause::elsewhere::RULE,
    super::cause::names::RULE,
    super::cause::past_node::RULE,
    unexplained::DROP,
    unexplained::NO_REPLY,
    unexplained::SILENT,
];

/// The rule that an id belongs to.
#[must_use]
pub fn find(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|r| r.id == id).or_else(|| RULES.iter().find(|r| r.covers.contains(&id)))
}

/// Whether a finding of this id is about packets that are too long for a way.
#[must_use]
pub fn is_about_length(id: &str) -> bool {
    lengths::RULE.covers.contains(&id)
}

/// Why a fault breaks connections: for `pkttrace explain`, and for findings that do not say it
/// better.
#[must_use]
pub fn explain(id: &str) -> Option<&'static str> {
    explain::texts().find(|(ids, _)| ids.contains(&id)).map(|(_, text)| *text)
}

#[cfg(test)]
mod routed;
#[cfg(test)]
mod tests;

#[cfg(test)]
mod names {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_kebab_case_and_belong_to_one_rule() {
        let mut seen = BTreeSet::new();
        for rule in RULES {
            for id in rule.covers.iter().chain([&rule.id]).collect::<BTreeSet<_>>() {
                let is_kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                assert!(id.chars().all(is_kebab), "{id}");
                assert!(seen.insert(*id), "{id} is claimed twice");
            }
        }
    }
    #[test]
    fn each_id_is_explained_once() {
        let explained = || explain::texts().flat_map(|(ids, _)| ids.iter().copied());
        let ids = RULES.iter().flat_map(|r| r.covers.iter().copied().chain([r.id]));
        let ids: BTreeSet<&str> = ids.collect();
        assert_eq!(explained().collect::<BTreeSet<_>>(), ids);
        assert_eq!(explained().count(), ids.len());
    }
}
