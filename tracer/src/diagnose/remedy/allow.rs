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
/// `None` where rules cannot name them.
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

/// What a rule can name of a packet: its protocol, and with it the server's port. A ping asks whether
/// two hosts reach each other at all, and so stands for all that they say to each other.
enum What {
    Everything,
    Port(&'static str, &'static str, u16),
}

fn what(tuple: &Tuple, is_answer: bool) -> Option<What> {
    let proto = match tuple.proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
        Proto::Icmp | Proto::Icmp6 => return Some(What::Everything),
        _ => return None,
    };
    Some(match is_answer {
        true => What::Port(proto, "sport", tuple.sport),
        false => What::Port(proto, "dport", tuple.dport),
    })
}

fn iptables(tuple: &Tuple, is_answer: bool) -> Option<Argv> {
    let net = |addr| Word::net((addr, full(addr)));
    let argv = argv!["-s", net(tuple.src), "-d", net(tuple.dst)];
    let ports = match what(tuple, is_answer)? {
        What::Everything => argv![],
        What::Port(proto, side, port) => {
            argv!["-p", proto, "-m", proto, Word::from("--").then(side), port]
        }
    };
    Some(argv.and(ports).and(argv!["-j", "ACCEPT"]))
}

fn nft(tuple: &Tuple, is_answer: bool) -> Option<Argv> {
    let ip = if tuple.src.is_ipv4() { "ip" } else { "ip6" };
    let argv = argv![ip, "saddr", tuple.src, ip, "daddr", tuple.dst];
    let ports = match what(tuple, is_answer)? {
        What::Everything => argv![],
        What::Port(proto, side, port) => argv![proto, side, port],
    };
    Some(argv.and(ports).and(argv!["accept"]))
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
