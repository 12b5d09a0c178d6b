//! The narrowest that heals: the asked flow is let through in front of what stops it, and nothing
//! else changes.

use std::net::IpAddr;

use super::argv::{Argv, Word, argv, full};
use super::rules::{ChainAt, Edit, Spec, Spot};
use super::{Remedy, Step};
use crate::diagnose::walk::{Leg, RuleRef};
use crate::event::{Proto, Tuple};
use crate::firewall::{Chain, Rule, Table};
use crate::net::detail::{Prefix, RoutingRule, RuleAction};
use crate::net::{Inum, NetworkState};

const TABLE_MAIN: u32 = 254;

/// A rule where it is; without a rule, the chain whose policy it is.
pub(crate) fn locate<'a>(
    state: &'a NetworkState,
    netns: Inum,
    rule: &RuleRef,
) -> Option<(&'a Table, &'a Chain, Option<&'a Rule>)> {
    let is_its =
        |t: &&Table| t.flavour == rule.flavour && t.family == rule.family && t.name == rule.table;
    let detail = state.netns.get(&netns)?.detail.as_deref()?;
    detail.firewall.tables.iter().filter(is_its).find_map(|table| {
        let chain = table.chains.iter().find(|c| c.name == rule.chain)?;
        if rule.number.is_none() && rule.handle.is_none() {
            return Some((table, chain, None));
        }
        let own = chain.rules.iter().find(|r| {
            r.text == rule.text && (rule.number.is_none() || rule.number == Some(r.number))
        })?;
        Some((table, chain, Some(own)))
    })
}

/// Accepts a packet before the rule; before the policy of the chain, where there is none. `None`
/// where rules cannot name it.
pub(crate) fn allow(
    netns: Inum,
    (table, chain, rule): (&Table, &Chain, Option<&Rule>),
    (tuple, is_answer, leg): (Tuple, bool, Leg),
) -> Option<Vec<Step>> {
    let at = ChainAt::of(table, chain);
    // What chains that translate, or at devices, accept says nothing about the packet's way on.
    if !matches!(at.family.as_str(), "ip" | "ip6" | "inet" | "bridge") || chain.kind == "nat" {
        return None;
    }
    let spec = match (leg, at.is_nft()) {
        // Only rules of a bridge meet ARP as they meet packets.
        (Leg::Question, _) if tuple.dst.is_ipv4() => asked(&at, "request")?,
        (Leg::Answer, _) if tuple.dst.is_ipv4() => asked(&at, "reply")?,
        (Leg::Packet, true) => nft(&tuple, is_answer)?,
        (Leg::Packet, false) => iptables(&tuple, is_answer)?,
        // Who has an address is asked with the same two messages for every packet.
        (Leg::Question, true) => argv!["icmpv6", "type", "nd-neighbor-solicit", "accept"],
        (Leg::Answer, true) => argv!["icmpv6", "type", "nd-neighbor-advert", "accept"],
        (Leg::Question, false) => discovery("135"),
        (Leg::Answer, false) => discovery("136"),
        // To whoever sent it: the word quotes the packet, and says nothing else.
        (Leg::Error, true) => too_long_nft(tuple.dst),
        (Leg::Error, false) => too_long_iptables(tuple.dst),
    };
    let edit = match rule {
        Some(rule) => Edit::Insert(Some(Spot::of(rule)), Spec(spec)),
        None => Edit::Append(Spec(spec)),
    };
    Some(vec![at.edit(edit).at(netns)])
}

/// Takes what goes from one network to the other past the rule, and past all others behind it.
pub(crate) fn past(
    netns: Inum,
    (table, chain, rule): (&Table, &Chain, &Rule),
    (src, dst): (Prefix, Prefix),
) -> Step {
    let at = ChainAt::of(table, chain);
    let ip = if src.0.is_ipv4() { "ip" } else { "ip6" };
    let (src, dst) = (Word::net(src), Word::net(dst));
    let spec = match at.is_nft() {
        true => argv![ip, "saddr", src, ip, "daddr", dst, "accept"],
        false => argv!["-s", src, "-d", dst, "-j", "ACCEPT"],
    };
    at.edit(Edit::Insert(Some(Spot::of(rule)), Spec(spec))).at(netns)
}

fn asked(at: &ChainAt, operation: &'static str) -> Option<Argv> {
    let is_seen = at.family == "bridge" && at.is_nft();
    is_seen.then(|| argv!["arp", "operation", operation, "accept"])
}

fn discovery(kind: &'static str) -> Argv {
    argv!["-p", "ipv6-icmp", "-m", "icmp6", "--icmpv6-type", kind, "-j", "ACCEPT"]
}

fn too_long_nft(sender: IpAddr) -> Argv {
    match sender {
        IpAddr::V4(_) => {
            let word =
                argv!["icmp", "type", "destination-unreachable", "icmp", "code", "frag-needed"];
            argv!["ip", "daddr", sender].and(word).with("accept")
        }
        IpAddr::V6(_) => {
            argv!["ip6", "daddr", sender, "icmpv6", "type", "packet-too-big", "accept"]
        }
    }
}

fn too_long_iptables(sender: IpAddr) -> Argv {
    let word = match sender {
        IpAddr::V4(_) => argv!["-p", "icmp", "-m", "icmp", "--icmp-type", "3/4"],
        IpAddr::V6(_) => argv!["-p", "ipv6-icmp", "-m", "icmp6", "--icmpv6-type", "2"],
    };
    argv!["-d", Word::net((sender, full(sender)))].and(word).and(argv!["-j", "ACCEPT"])
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
pub(crate) fn main_first(netns: Inum, before: &RoutingRule, dst: IpAddr) -> Vec<Step> {
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
