//! A translation of what comes in, which what the host itself sends never meets.

use super::located::place_of;
use super::{Case, Finding, chains};
use crate::diagnose::Drop;
use crate::diagnose::remedy::{Edit, Spec, Step};
use crate::diagnose::walk::{RuleRef, reference};
use crate::event::Tuple;
use crate::firewall::{self, At, Flavour, Packet};
use crate::journey::Hook;
use crate::net::{Inum, Netns};

pub(super) const ID: &str = "translation-not-local";

/// Nobody listens at the port of the host's own address that it asks itself; for all others a rule
/// in PREROUTING leads it on.
pub(super) fn own(case: &Case<'_>, drop: &Drop<'_>, tuple: &Tuple) -> Option<Finding> {
    let here = case.netns(drop.hop.netns)?;
    let is_its = |p: &crate::diagnose::Probed| {
        p.netns == here.inum && (p.to, p.dport) == (tuple.dst, tuple.dport)
    };
    let is_own = case.probes.iter().any(is_its) && !tuple.dst.is_loopback();
    let rule = is_own.then(|| for_others(case, here, tuple)).flatten()?;
    let (node, dst, port) = (&here.name, tuple.dst, tuple.dport);
    let title = format!(
        "{dst} port {port} is translated for others only: what {node} itself sends there passes OUTPUT, \
         and the rule is in PREROUTING"
    );
    let finding = Finding::error(ID, case.scenario(), title)
        .at(place_of(case, here.inum, &rule))
        .fact(drop.fact())
        .fact(format!("{}/{} of {node}: {}", rule.table, rule.chain, rule.text))
        .fact(format!("nobody listens at port {port} in {node}"))
        .journeys([drop.journey.id])
        .depth(case.depth_of(drop));
    Some(match same_in_output(case, here.inum, &rule, tuple) {
        Some(step) => finding.fix(step),
        None => finding.fix(
            "translate it in OUTPUT too (nft: a chain of type nat at hook output) as that rule does, or \
             ask for what it leads to",
        ),
    })
}

/// The rule that would translate the packet, if it came in by the device of that address.
fn for_others(case: &Case<'_>, here: &Netns, tuple: &Tuple) -> Option<RuleRef> {
    let detail = case.detail(here.inum)?;
    let has = |addresses: &[(std::net::IpAddr, u8)]| addresses.iter().any(|(a, _)| *a == tuple.dst);
    let device = here.devices.values().find(|d| has(&d.addresses))?;
    let locals = here.devices.values().flat_map(|d| &d.addresses).map(|(a, _)| *a).collect();
    let at = At {
        hook: Hook::Prerouting,
        is_bridged: false,
        iif: Some(&device.name),
        oif: None,
        phys_in: None,
        phys_out: None,
        locals: &locals,
    };
    let packet = Packet {
        sport: tuple.sport,
        dport: tuple.dport,
        ..Packet::new(tuple.src, tuple.dst, tuple.proto.number())
    };
    let passed = firewall::traverse(&detail.firewall, &packet, &at);
    let found = passed.nat.iter().find(|t| t.kind.is_destination())?;
    Some(reference(&found.hit))
}

/// The same rule in OUTPUT: of iptables, where it does not ask for the device that packets come by.
fn same_in_output(case: &Case<'_>, netns: Inum, rule: &RuleRef, tuple: &Tuple) -> Option<Step> {
    let is_iptables = matches!(rule.flavour, Flavour::IptablesNft | Flavour::IptablesLegacy);
    let asks_device = rule.text.split_whitespace().any(|word| word == "-i");
    if !is_iptables || rule.chain != "PREROUTING" || asks_device {
        return None;
    }
    let chain = chains::nat_chain(case, netns, tuple.dst, "OUTPUT");
    let spec = Spec::of_text(&chain, &rule.text);
    Some(chain.edit(Edit::Append(spec)).at(netns))
}
