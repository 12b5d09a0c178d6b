//! Drops that were seen, and that no walk foretold: the rule that drops such a packet.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Blocked, RULE, is_untranslated};
use crate::diagnose::rules::{lengths, located::place_of};
use crate::diagnose::walk::{Leg, RuleRef, reference};
use crate::diagnose::{Case, Confidence, Direction, Drop, Finding, Met, Where};
use crate::event::Tcp;
use crate::firewall::{self, Flavour, Stateful};
use crate::journey::{Hook, Journey, Layer};

/// A drop that was seen and that no walk foretold.
pub(super) fn unforeseen(case: &Case<'_>, drop: &Drop<'_>, known: &[Finding]) -> Option<Finding> {
    if known.iter().any(|f| f.place.netns == Some(drop.hop.netns)) {
        return None;
    }
    // The walk of the error about a length foretold it.
    let is_told =
        |m: Met<'_>| m.obstacle.leg == Leg::Error && m.obstacle.place.netns == drop.hop.netns;
    if lengths::is_about_length(drop.journey) && case.obstacles().any(is_told) {
        return None;
    }
    let hook = drop.hop.hook.or_else(|| drop.journey.dropped.as_ref().and_then(|d| d.hook));
    let rule = attribute(case, drop, hook);
    let Some(rule) = rule else { return Some(anonymous(case, drop, hook)) };
    if is_untranslated(case, (drop.hop.netns, hook), &rule) {
        return None;
    }
    let blocked = Blocked {
        netns: drop.hop.netns,
        hook,
        is_reject: drop.icmp().is_some(),
        rule,
        direction: drop.direction,
        firewall: case.detail(drop.hop.netns).map(|d| &d.firewall),
        dst: drop.tuple().map(|t| (t.dst, t.dport)),
        tuples: drop.tuple().into_iter().collect(),
        leg: if lengths::is_about_length(drop.journey) { Leg::Error } else { Leg::Packet },
    };
    let (id, title) = match lengths::is_about_length(drop.journey) {
        true => (lengths::SILENCED, blocked.silences(case)),
        false => blocked.name(case),
    };
    let mut at = Where::netns(case.state, drop.hop.netns);
    at.dev = drop.dev().map(str::to_owned);
    let finding = Finding::error(id, case.scenario(), title)
        .at(at)
        .fact(drop.fact())
        .facts(is_half_seen(case, drop).then(|| {
            let way = answers_elsewhere(case, drop).map_or("", |j| j.path.as_str());
            format!("conntrack there has not seen the answers, which take another way: {way}")
        }))
        .journeys([drop.journey.id])
        .depth(case.depth_of(drop));
    Some(blocked.fill(case, finding))
}

/// What makes the kernel itself drop in a hook (a redirect that it does not send, a source that it
/// may not route, a packet that conntrack refuses): a drop without a rule follows from it.
const CAUSES: &[&str] = &[
    "bridge-nf-call-iptables-off",
    "dns-same-node-bridge-nf-off",
    "nodeport-route-localnet-off",
    "checksum-corrupted",
    "dns-checksum-corrupted",
    // `ip_vs_leave` answers with an ICMP error and has the packet dropped.
    "ipvs-no-destination",
];

/// The rule that gives packets another source has but these ports for it.
fn few_ports(case: &Case<'_>, drop: &Drop<'_>, hook: Option<Hook>) -> Option<(RuleRef, String)> {
    if hook != Some(Hook::Postrouting) || drop.function == "nft_do_chain" {
        return None;
    }
    let walks = case.ways.iter().flat_map(|w| w.walks());
    let mut nat = walks.flat_map(|(_, w)| &w.nat).filter(|n| n.netns == drop.hop.netns);
    let rule = nat.find(|n| !n.kind.is_destination())?.rule.as_ref()?;
    let is_range = |word: &&str| {
        let ends = word.rsplit(':').next().and_then(|ports| ports.split_once('-'));
        ends.is_some_and(|(a, b)| a.parse::<u16>().is_ok() && b.parse::<u16>().is_ok())
    };
    let range = rule.text.split_whitespace().find(is_range)?;
    let ports = range.rsplit(':').next().unwrap_or(range).to_owned();
    Some((rule.clone(), ports))
}

/// Dropped in a hook by what cannot be named.
fn anonymous(case: &Case<'_>, drop: &Drop<'_>, hook: Option<Hook>) -> Finding {
    let node = &drop.hop.netns_name;
    if let Some((rule, ports)) = few_ports(case, drop, hook) {
        let title = format!(
            "{node} has no port left to masquerade the connection: its rule allows {ports} alone, \
             and others to the same destination have them"
        );
        let mut place = place_of(case, drop.hop.netns, &rule);
        place.hook = hook.map(Hook::name);
        return Finding::error("ephemeral-ports-exhausted", case.scenario(), title)
            .confidence(Confidence::Likely)
            .at(place)
            .fact(drop.fact())
            .fact(format!("{} of {node}: {}", rule.table, rule.text))
            .fix(format!("# give that rule of {node} more ports than {ports}, or none of its own"))
            .journeys([drop.journey.id])
            .depth(case.depth_of(drop));
    }
    let at = hook.map_or("a netfilter hook", Hook::title);
    let mut place = Where::netns(case.state, drop.hop.netns);
    place.dev = drop.dev().map(str::to_owned);
    place.hook = hook.map(Hook::name);
    let what = if drop.function == "nft_do_chain" {
        "a rule of nftables or iptables-nft"
    } else {
        "a rule of iptables-legacy, or NAT or conntrack themselves,"
    };
    Finding::error(RULE.id, case.scenario(), format!("{what} in {node} drops the packet at {at}"))
        .confidence(Confidence::Likely)
        .at(place)
        .fact(drop.fact())
        .fix(format!("# look at the rules of {node}: nft list ruleset"))
        .journeys([drop.journey.id])
        .depth(case.depth_of(drop))
        .follows(CAUSES)
}

/// The client goes on with a connection whose answers take another way: to conntrack here, which
/// waits for the answer to the SYN, what follows that is invalid.
fn is_half_seen(case: &Case<'_>, drop: &Drop<'_>) -> bool {
    drop.direction == Direction::Request
        && drop.journey.first.is_some_and(|h| h.tcp().is_some_and(|t| t.flags & Tcp::SYN == 0))
        && answers_elsewhere(case, drop).is_some()
}

/// An answer to the packet that arrived without coming by where that was dropped.
fn answers_elsewhere<'a>(case: &'a Case<'_>, drop: &Drop<'_>) -> Option<&'a Journey> {
    let is_its = |i: &usize| case.journeys[*i].id == drop.journey.id;
    let flow = case.flows.iter().find(|flow| flow.forward.iter().any(is_its))?;
    let mut answers = case.packets(flow, Direction::Reply).peekable();
    let arrived = *answers.peek()?;
    let comes_by = |j: &Journey| j.hops.iter().any(|h| h.netns == drop.hop.netns);
    answers.all(|j| !comes_by(j)).then_some(arrived)
}

/// The rule by which the configuration says that this packet ends there.
fn attribute(case: &Case<'_>, drop: &Drop<'_>, hook: Option<Hook>) -> Option<RuleRef> {
    if let Some(rule) = &drop.hop.rule {
        return Some(named(rule));
    }
    let (netns, detail) = (case.netns(drop.hop.netns)?, case.detail(drop.hop.netns)?);
    let tuple = drop.tuple()?;
    let locals: BTreeSet<IpAddr> =
        netns.devices.values().flat_map(|d| &d.addresses).map(|(a, _)| *a).collect();
    let dev = drop.hop.dev.as_ref();
    let master = drop.hop.master.as_deref();
    let is_bridged = drop.hop.layer == Some(Layer::Bridge);
    let inside = dev.map(|d| d.name.as_str());
    let out = drop.hop.out_dev.as_ref().map(|d| d.name.as_str()).or_else(|| {
        // The drop itself names one device alone.
        let is_out = matches!(hook?, Hook::Forward | Hook::Output | Hook::Postrouting);
        drop.route().filter(|_| is_out && !is_bridged)?.dev.as_ref().map(|d| d.name.as_str())
    });
    let flags = drop.journey.first.and_then(|h| h.tcp().map(|t| t.flags)).unwrap_or(Tcp::SYN);
    let packet = firewall::Packet {
        src: tuple.src,
        dst: tuple.dst,
        proto: tuple.proto.number(),
        sport: if tuple.proto.is_icmp() { 0 } else { tuple.sport },
        dport: if tuple.proto.is_icmp() { 0 } else { tuple.dport },
        icmp: drop.journey.first.and_then(|h| h.icmp().map(|i| (i.kind, i.code))),
        tcp_flags: flags,
        mark: drop.hop.mark,
        // What is sent on a connection that is made has an ACK, as its answers have.
        ct: if drop.direction == Direction::Request && flags & Tcp::ACK == 0 {
            Stateful::New
        } else if is_half_seen(case, drop) {
            Stateful::Invalid
        } else {
            Stateful::Established
        },
        orig_dst: drop.journey.first.map(|h| (h.tuple.dst, h.tuple.dport)),
        is_dnat: drop.journey.nat.iter().any(|n| n.kind.is_destination()),
        is_fragment: false,
        frame: firewall::Frame::default(),
    };
    let at = firewall::At {
        hook: hook?,
        is_bridged,
        iif: if is_bridged { master } else { inside },
        oif: if is_bridged { master } else { out },
        phys_in: if is_bridged { inside } else { None },
        phys_out: if is_bridged { out } else { None },
        locals: &locals,
    };
    let fw = &detail.firewall;
    let at_device =
        |dev, is_ingress| firewall::traverse_device(fw, &packet, &at, (dev, is_ingress));
    let at_devices =
        [inside.map(|dev| at_device(dev, true)), out.or(inside).map(|dev| at_device(dev, false))];
    let met = std::iter::once(firewall::traverse(fw, &packet, &at))
        .chain(at_devices.into_iter().flatten());
    let hit = |traversal: firewall::Traversal<'_>| match traversal.end {
        firewall::End::Drop(hit) | firewall::End::Reject(hit, _) => Some(reference(&hit)),
        firewall::End::Queue(_) | firewall::End::Accept => {
            traversal.maybe.into_iter().next().map(|hit| reference(&hit))
        }
    };
    met.filter_map(hit).next()
}

fn named(rule: &crate::journey::Rule) -> RuleRef {
    RuleRef {
        flavour: Flavour::IptablesNft,
        family: "ip".to_owned(),
        table: rule.table.clone(),
        command: "iptables".to_owned(),
        via: Vec::new(),
        chain: rule.chain.clone(),
        number: None,
        handle: rule.handle,
        text: rule.text.clone(),
        comment: rule.comment.clone(),
        counter: None,
    }
}
