//! The narrowest that heals: the asked flow is let through in front of what stops it, and nothing
//! else changes.

use super::argv::{Argv, Word, argv, full};
use super::rules::{ChainAt, Edit, Spec, Spot};
use super::{Remedy, Step};
use crate::event::{Proto, Tuple};
use crate::firewall::{Chain, Rule, Table};
use crate::net::Inum;
use crate::net::detail::{RoutingRule, RuleAction};

const TABLE_MAIN: u32 = 254;

/// Accepts these packets before the rule; before the policy of the chain, where there is none.
/// `None` where the protocol has no name in rules.
pub(crate) fn allow(
    netns: Inum,
    (table, chain, rule): (&Table, &Chain, Option<&Rule>),
    packets: &[(Tuple, bool)],
) -> Option<Vec<Step>> {
    let at = ChainAt::of(table, chain);
    // What chains of other families and hooks accept says nothing about the packet's way on.
    if !matches!(at.family.as_str(), "ip" | "ip6" | "inet") || chain.kind == "nat" {
        return None;
    }
    let step = |(tuple, is_answer): &(Tuple, bool)| {
        let spec = match at.is_nft() {
            true => nft(tuple, *is_answer)?,
            false => iptables(tuple, *is_answer)?,
        };
        let edit = match rule {
            Some(rule) => Edit::Insert(Some(Spot::of(rule)), Spec(spec)),
            None => Edit::Append(Spec(spec)),
        };
        Some(at.clone().edit(edit).at(netns))
    };
    packets.iter().map(step).collect()
}

/// The name of a protocol in rules, and whether they can name its ports.
fn protocol(proto: Proto, is_nft: bool) -> Option<(&'static str, bool)> {
    Some(match proto {
        Proto::Tcp => ("tcp", true),
        Proto::Udp => ("udp", true),
        Proto::Icmp => ("icmp", false),
        Proto::Icmp6 if is_nft => ("icmpv6", false),
        Proto::Icmp6 => ("ipv6-icmp", false),
        _ => return None,
    })
}

fn iptables(tuple: &Tuple, is_answer: bool) -> Option<Argv> {
    let (proto, has_ports) = protocol(tuple.proto, false)?;
    let net = |addr| Word::net((addr, full(addr)));
    let argv = argv!["-s", net(tuple.src), "-d", net(tuple.dst), "-p", proto];
    let (option, port) =
        if is_answer { ("--sport", tuple.sport) } else { ("--dport", tuple.dport) };
    let ports = has_ports.then(|| argv!["-m", proto, option, port]).unwrap_or_default();
    Some(argv.and(ports).and(argv!["-j", "ACCEPT"]))
}

fn nft(tuple: &Tuple, is_answer: bool) -> Option<Argv> {
    let (proto, has_ports) = protocol(tuple.proto, true)?;
    let ip = if tuple.src.is_ipv4() { "ip" } else { "ip6" };
    let argv = argv![ip, "saddr", tuple.src, ip, "daddr", tuple.dst];
    let (option, port) = if is_answer { ("sport", tuple.sport) } else { ("dport", tuple.dport) };
    let what = match has_ports {
        true => argv![proto, option, port],
        false => argv!["meta", "l4proto", proto],
    };
    Some(argv.and(what).and(argv!["accept"]))
}

/// A policy rule in front of one: packets to this address by table main.
pub(crate) fn main_first(netns: Inum, before: &RoutingRule, dst: std::net::IpAddr) -> Vec<Step> {
    let Some(priority) = before.priority.checked_sub(1).filter(|p| *p > 0) else {
        return Vec::new();
    };
    let rule = RoutingRule {
        priority,
        is_v6: dst.is_ipv6(),
        src: None,
        dst: Some((dst, full(dst))),
        iif: None,
        oif: None,
        mark: None,
        invert: false,
        other: None,
        action: RuleAction::Lookup(TABLE_MAIN, None),
    };
    vec![Remedy::AddRule(rule).at(netns)]
}
