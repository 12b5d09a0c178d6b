//! From what the rules do with a packet to what is in its way; neighbour discovery, which they meet
//! outside of any connection, among it.

use std::net::IpAddr;

use super::conf::Conf;
use super::{Effect, Leg, Obstacle, ObstacleKind, Place, RuleRef};
use crate::firewall::{self, At, Hit, Stateful, Traversal};
use crate::journey::Hook;
use crate::net::Inum;

/// What the rules put in the way.
pub(super) fn filtered(
    hook: Option<Hook>,
    passed: &Traversal<'_>,
    ct: Stateful,
) -> Vec<(Effect, ObstacleKind)> {
    let certainty = |hit: &Hit<'_>| if hit.is_certain { Effect::Stops } else { Effect::MayStop };
    let drop = |hit: &Hit<'_>, is_reject| {
        let kind = ObstacleKind::Filtered { hook, rule: reference(hit), is_reject };
        (certainty(hit), kind)
    };
    let mut found = match &passed.end {
        firewall::End::Accept => Vec::new(),
        firewall::End::Drop(hit) => vec![drop(hit, false)],
        firewall::End::Reject(hit, _) => vec![drop(hit, true)],
        firewall::End::Queue(hit) => {
            vec![(Effect::MayStop, may_be(hook, hit, "a program decides"))]
        }
    };
    // An answer is not asked by what only a first packet meets.
    let is_open = ct == Stateful::New || !matches!(passed.end, firewall::End::Accept);
    for hit in passed.maybe.iter().filter(|_| is_open) {
        found.push((Effect::MayStop, may_be(hook, hit, "a condition is not known here")));
    }
    found
}

pub(super) fn may_be(hook: Option<Hook>, hit: &Hit<'_>, why: &str) -> ObstacleKind {
    ObstacleKind::MayBeFiltered { hook, rule: reference(hit), why: why.to_owned() }
}

/// The hit as plain data.
pub(in crate::diagnose) fn reference(hit: &Hit<'_>) -> RuleRef {
    let policy = || match hit.chain.policy {
        Some(firewall::Policy::Drop) => "policy drop".to_owned(),
        _ => "policy accept".to_owned(),
    };
    RuleRef {
        flavour: hit.table.flavour,
        family: hit.table.family.clone(),
        table: hit.table.name.clone(),
        command: hit.table.command.clone(),
        via: hit.via.iter().map(|c| (*c).to_owned()).collect(),
        chain: hit.chain.name.clone(),
        number: hit.rule.map(|r| r.number),
        handle: hit.rule.and_then(|r| r.handle),
        text: hit.rule.map_or_else(policy, |r| r.text.clone()),
        comment: hit.rule.and_then(|r| r.comment.clone()),
        counter: hit.rule.map_or(hit.chain.counter, |r| r.counter),
    }
}

/// A message of neighbour discovery: ICMPv6 type 135 asks, 136 answers.
#[derive(Clone, Copy)]
pub(super) struct Discovery {
    pub(super) kind: u8,
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
}

/// What the rules do with neighbour discovery at one hook. Conntrack leaves it alone
/// (`icmpv6_error` of nf_conntrack_proto_icmpv6.c).
pub(super) fn discovery_filters(
    conf: Conf<'_>,
    (netns, dev): (Inum, u32),
    hook: Hook,
    message: Discovery,
) -> Vec<Obstacle> {
    let Some(detail) = conf.detail(netns) else { return Vec::new() };
    let (locals, name) = (conf.locals(netns), Some(conf.name(netns, dev)));
    let is_in = hook == Hook::Input;
    let at = At {
        hook,
        is_bridged: false,
        iif: name.filter(|_| is_in),
        oif: name.filter(|_| !is_in),
        phys_in: None,
        phys_out: None,
        locals: &locals,
    };
    let packet = firewall::Packet {
        icmp: Some((message.kind, 0)),
        ct: Stateful::Untracked,
        ..firewall::Packet::new(message.src, message.dst, 58)
    };
    let passed = firewall::traverse(&detail.firewall, &packet, &at);
    let leg = if message.kind == 135 { Leg::Question } else { Leg::Answer };
    let place = Place { netns, dev: Some(dev) };
    let found = filtered(Some(hook), &passed, Stateful::Untracked).into_iter();
    found.map(|(effect, kind)| Obstacle { kind, effect, place, leg }).collect()
}
