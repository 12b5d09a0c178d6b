//! What the rules do with a packet: all chains at one hook, in the kernel's order.
//!
//! Pure and three-valued: a condition that is not modelled may hold or not, and what depends on it
//! is reported as possible, not as certain.

mod basics;
mod condition;
mod form;
mod frame;
mod lookup;
mod other;
#[cfg(test)]
mod shapes;
#[cfg(test)]
mod tests;
mod truth;
mod walk;

use std::collections::BTreeSet;
use std::net::IpAddr;

use self::form::Form;
pub(in crate::firewall) use self::lookup::address;
use self::truth::Truth;
use self::walk::{State, Walk};
use super::{Chain, Firewall, Rule, Stateful, Table};
use crate::journey::{Hook, NatKind};
use crate::net::Mac;

/// A packet as rules see it at a hook. Ports and marks are in host order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source.
    pub src: IpAddr,
    /// Destination; its family decides between `ip` and `ip6`.
    pub dst: IpAddr,
    /// IP protocol number.
    pub proto: u8,
    /// Source port, 0 without ports.
    pub sport: u16,
    /// Destination port, 0 without ports.
    pub dport: u16,
    /// ICMP type and code.
    pub icmp: Option<(u8, u8)>,
    /// TCP flags: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32.
    pub tcp_flags: u8,
    /// `skb->mark`.
    pub mark: u32,
    /// What conntrack says of it.
    pub ct: Stateful,
    /// Destination of the connection before translation, if it is tracked.
    pub orig_dst: Option<(IpAddr, u16)>,
    /// The connection's destination is translated.
    pub is_dnat: bool,
    /// A fragment, not the first.
    pub is_fragment: bool,
    /// The frame around it.
    pub frame: Frame,
}

impl Packet {
    /// The first packet of a connection, of which nothing else is known. `proto` is the IP header's
    /// protocol number.
    #[must_use]
    pub fn new(src: IpAddr, dst: IpAddr, proto: u8) -> Self {
        Self {
            src,
            dst,
            proto,
            sport: 0,
            dport: 0,
            icmp: None,
            tcp_flags: 0,
            mark: 0,
            ct: Stateful::New,
            orig_dst: None,
            is_dnat: false,
            is_fragment: false,
            frame: Frame::default(),
        }
    }
}

/// The frame around a packet, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Source.
    pub src: Option<Mac>,
    /// Destination.
    pub dst: Option<Mac>,
    /// It is no packet of IP but ARP: its operation, 1 asks and 2 answers. The packet's addresses
    /// are then those of who asks or answers, and whom that is about or for.
    pub arp: Option<u16>,
}

/// Where a packet meets the rules.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// Which hook.
    pub hook: Hook,
    /// The frame is bridged, and `br_netfilter` shows it to the rules of IP.
    pub is_bridged: bool,
    /// Input device; for a bridged frame, the bridge.
    pub iif: Option<&'a str>,
    /// Output device; for a bridged frame, the bridge.
    pub oif: Option<&'a str>,
    /// Bridge port it came in by.
    pub phys_in: Option<&'a str>,
    /// Bridge port it leaves by.
    pub phys_out: Option<&'a str>,
    /// All addresses of this namespace.
    pub locals: &'a BTreeSet<IpAddr>,
}

/// A rule, or a chain's policy, that a packet meets.
#[derive(Clone, Debug)]
pub struct Hit<'a> {
    /// Its table.
    pub table: &'a Table,
    /// Its chain.
    pub chain: &'a Chain,
    /// The rule; `None` is the chain's policy.
    pub rule: Option<&'a Rule>,
    /// Chains jumped through to get there, outermost first, without `chain`.
    pub via: Vec<&'a str>,
    /// It is certain that the packet meets it: no condition on the way was left open.
    pub is_certain: bool,
}

/// What becomes of a packet at a hook.
#[derive(Clone, Debug)]
pub enum End<'a> {
    /// Goes on.
    Accept,
    /// Dropped, whatever is not modelled. A hit that is not certain is only one of the rules that
    /// may do it.
    Drop(Hit<'a>),
    /// Dropped and answered: with what, in the rule's words.
    Reject(Hit<'a>, String),
    /// Handed to a program.
    Queue(Hit<'a>),
}

/// A translation that a packet gets, or one of several that it may get.
#[derive(Clone, Debug)]
pub struct Translation<'a> {
    /// The rule that translates.
    pub hit: Hit<'a>,
    /// What kind.
    pub kind: NatKind,
    /// New address and port, `None` where it stays or is chosen by the kernel; more than one where
    /// the rule's map holds several.
    pub to: Vec<(Option<IpAddr>, Option<u16>)>,
    /// The packet on this way, with the mark it has then and the first of `to` applied.
    pub packet: Packet,
}

/// What all chains at a hook do with a packet.
#[derive(Clone, Debug)]
pub struct Traversal<'a> {
    /// Rules that match or may match, in the order that the packet meets them.
    pub hits: Vec<Hit<'a>>,
    /// Translations; several are alternatives, such as the endpoints of a Service. Of a packet that
    /// is dropped at this hook: those that it would get if it were not.
    pub nat: Vec<Translation<'a>>,
    /// What becomes of it.
    pub end: End<'a>,
    /// The packet behind the hook: its mark, its state (`NOTRACK`), and its addresses where only
    /// one translation is possible.
    pub packet: Packet,
    /// If it may go on: rules and policies that may drop, reject or queue it all the same, because
    /// a condition is not modelled.
    pub maybe: Vec<Hit<'a>>,
}

/// Takes `packet` through the chains of IP (`ip` or `ip6`, and `inet`) at `at.hook`.
#[must_use]
pub fn traverse<'a>(fw: &'a Firewall, packet: &Packet, at: &At<'_>) -> Traversal<'a> {
    let family = if packet.dst.is_ipv4() { "ip" } else { "ip6" };
    run(Walk::new(fw, at), packet, chains(fw, at.hook, &[family, "inet"]))
}

/// The same, as if the rule `skip` of `fw` were not there.
#[must_use]
pub fn traverse_without<'a>(
    fw: &'a Firewall,
    packet: &Packet,
    at: &At<'_>,
    skip: &'a Rule,
) -> Traversal<'a> {
    let family = if packet.dst.is_ipv4() { "ip" } else { "ip6" };
    let walk = Walk { skip: Some(skip), ..Walk::new(fw, at) };
    run(walk, packet, chains(fw, at.hook, &[family, "inet"]))
}

/// Takes the frame around `packet` through the chains of family `bridge`, nft and ebtables, at
/// `at.hook`; `at.iif` and `at.oif` are the bridge's ports.
#[must_use]
pub fn traverse_bridge<'a>(fw: &'a Firewall, packet: &Packet, at: &At<'_>) -> Traversal<'a> {
    run(Walk::new(fw, at), packet, chains(fw, at.hook, &["bridge"]))
}

/// Takes an ARP message through the chains of family `arp` (arptables among them) at `at.hook`.
#[must_use]
pub fn traverse_arp<'a>(fw: &'a Firewall, packet: &Packet, at: &At<'_>) -> Traversal<'a> {
    run(Walk::new(fw, at), packet, chains(fw, at.hook, &["arp"]))
}

/// Takes `packet` through the chains at the device `dev`, ingress (since 4.2, family `inet` 5.10)
/// or egress (5.16): in front of all other hooks, or behind them.
#[must_use]
pub fn traverse_device<'a>(
    fw: &'a Firewall,
    packet: &Packet,
    at: &At<'_>,
    (dev, is_ingress): (&str, bool),
) -> Traversal<'a> {
    let is_here = |chain: &Chain| {
        let devices = chain.devices.as_ref().filter(|d| d.is_ingress == is_ingress);
        devices.is_some_and(|d| d.names.iter().any(|name| name == dev))
    };
    // `nft_do_chain_inet_ingress` leaves alone what is not IP.
    let sees = |table: &Table| table.family == "netdev" || packet.frame.arp.is_none();
    let tables = fw.tables.iter().filter(|table| sees(table));
    let all = tables.flat_map(|table| table.chains.iter().map(move |chain| (table, chain)));
    let mut found: Vec<_> = all.filter(|(_, chain)| is_here(chain)).collect();
    found.sort_by_key(|(_, chain)| chain.priority);
    run(Walk::new(fw, at), packet, found.into_iter())
}

fn run<'a>(
    mut walk: Walk<'a, '_>,
    packet: &Packet,
    chains: impl Iterator<Item = (&'a Table, &'a Chain)>,
) -> Traversal<'a> {
    let mut state = State { forms: vec![Form::new(packet)], is_certain: true };
    let mut end = None;
    for (table, chain) in chains {
        // What is dropped is still told how it would have been translated.
        if end.is_some() && chain.kind != "nat" {
            continue;
        }
        // Translated packets, and those of known connections, do not see the rules of `nat`.
        let (seen, past): (Vec<Form>, Vec<Form>) = match chain.kind.as_str() {
            "nat" => state.forms.into_iter().partition(meets_nat),
            _ => (state.forms, Vec::new()),
        };
        if seen.is_empty() {
            state = State { forms: past, ..state };
            continue;
        }
        let is_sure = past.is_empty() && seen.iter().all(|f| !f.is_ct_unknown);
        let is_certain = state.is_certain && (is_sure || chain.kind != "nat");
        let ends_before = walk.ends.len();
        let before = State { forms: [&past[..], &seen[..]].concat(), is_certain: state.is_certain };
        let out = walk.base(table, chain, State { forms: seen, is_certain });
        let may_have_ended = walk.ends.len() > ends_before;
        let mut forms = past;
        forms.extend(out.accepted);
        if forms.is_empty() {
            end = end.or(Some(out.end.unwrap_or(End::Accept)));
            state = before;
            continue;
        }
        state = State { forms, is_certain: state.is_certain && !may_have_ended };
    }
    let packet = match state.forms.as_slice() {
        [] => packet.clone(),
        [one] => one.packet.clone(),
        [first, ..] => Packet { mark: first.packet.mark, ct: first.packet.ct, ..packet.clone() },
    };
    let Walk { hits, nat, ends: maybe, .. } = walk;
    let end = end.unwrap_or(End::Accept);
    let maybe = if matches!(end, End::Accept) { maybe } else { Vec::new() };
    Traversal { hits, nat, end, packet, maybe }
}

fn meets_nat(form: &Form) -> bool {
    !form.is_translated && (form.packet.ct == Stateful::New || form.is_ct_unknown)
}

/// The chains at a hook in the kernel's order. All chains of type `nat` run from one hook function
/// whatever their own priority says, and only their order among themselves follows it
/// (`nf_nat_register_fn`, since 4.18).
fn chains<'a>(
    fw: &'a Firewall,
    hook: Hook,
    families: &[&str],
) -> impl Iterator<Item = (&'a Table, &'a Chain)> + use<'a> {
    let mut found: Vec<_> = fw
        .tables
        .iter()
        .filter(|table| families.contains(&table.family.as_str()))
        .flat_map(|table| table.chains.iter().map(move |chain| (table, chain)))
        .filter(|(_, chain)| chain.hook == Some(hook))
        .collect();
    found.sort_by_key(|(_, chain)| {
        let place = match (chain.kind.as_str(), hook) {
            ("nat", Hook::Prerouting | Hook::Output) => -100,
            ("nat", _) => 100,
            _ => chain.priority,
        };
        (place, chain.priority)
    });
    found.into_iter()
}
