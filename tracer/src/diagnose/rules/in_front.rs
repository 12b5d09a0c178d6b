//! Rules that take packets before those that were meant for them: a translation in front of another
//! one, an ACCEPT in front of the masquerading, NOTRACK in front of all translation, a redirection
//! or a queue to a program that is not there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::located::{delete, located, place_of, replace};
use super::met::each;
use super::{Case, Finding, Rule, chains};
use crate::diagnose::remedy::{full, past};
use crate::diagnose::walk::{Nat, ObstacleKind as Kind, RuleRef, Step, Walk, What};
use crate::diagnose::{Drop, Met};
use crate::event::Tuple;
use crate::firewall::{self, Match, Target};
use crate::journey::{Hook, NatKind};
use crate::net::Inum;

pub(super) const RULE: Rule = Rule {
    id: "translation-in-front",
    covers: &[
        "translation-in-front",
        "redirect-unserved",
        "conntrack-untracked",
        "conntrack-zone-mismatch",
        "queue-unserved",
    ],
    check,
};

/// What heals a queue, beside not using it.
pub(super) const QUEUE_ADVICE: &str = "# start the program that reads this queue, or let packets \
                                       pass without it (--queue-bypass, queue flags bypass); until then:";

fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = each(case, unserved);
    findings.extend(each(case, other_zone));
    findings
}

/// One direction of a connection is in another zone of conntrack than the other: without the rule
/// that makes the difference, both are in the same.
fn other_zone(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let Kind::OtherZone { kept, sought } = &met.obstacle.kind else { return None };
    let netns = met.obstacle.place.netns;
    let node = case.state.netns_name(netns);
    let (rule, is_answers) = match (&sought.rule, &kept.rule) {
        (Some(rule), _) => (rule, true),
        (None, Some(rule)) => (rule, false),
        (None, None) => return None,
    };
    let title = format!(
        "conntrack of {node} keeps the connection in zone {} and looks for its answers in zone {}: they \
         are not translated back",
        kept.reply, sought.original
    );
    let finding = met
        .finding(case, "conntrack-zone-mismatch", title)
        .at(place_of(case, netns, rule))
        .facts(
            kept.rule
                .iter()
                .filter(|_| is_answers)
                .map(|r| format!("{} of {node}: {}", r.table, r.text)),
        )
        .fact(format!("{} of {node}: {}", rule.table, rule.text));
    // Without it the answer would be in zone 0, where the connection is not either.
    let same = rule.text.replace(&format!(" {}", sought.original), &format!(" {}", kept.reply));
    let aligned = is_answers && kept.reply != 0;
    let aligned = aligned.then(|| replace(case, netns, rule, &same)).flatten();
    Some(finding.fix(aligned.unwrap_or_else(|| delete(case, netns, rule))))
}

/// Redirected to a port of the node's own at which nobody listens.
fn unserved(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let netns = met.netns(case)?;
    let nat = met.walk.nat.iter().rfind(|n| n.kind.is_destination())?;
    let (port, why) = match &met.obstacle.kind {
        Kind::NoListener { port, .. } => (*port, "at which nobody listens"),
        Kind::ListensElsewhere { .. } if nat.kind == NatKind::Redirect => {
            (nat.after.dport, "where nobody takes what comes from elsewhere")
        }
        _ => return None,
    };
    let rule = nat.rule.as_ref().filter(|_| nat.netns == netns.inum)?;
    let before = &nat.before;
    let title = format!(
        "{} redirects {}:{} to its own port {port}, {why}",
        netns.name, before.dst, before.dport
    );
    let (src, dst) = (before.src, before.dst);
    let spared = located(case, nat.netns, rule).and_then(|(table, chain, own)| {
        let ends = ((src, full(src)), (dst, full(dst)));
        Some(past(nat.netns, (table, chain, own?), ends))
    });
    let finding = met
        .finding(case, "redirect-unserved", title)
        .at(place_of(case, nat.netns, rule))
        .fact(format!("{} of {}: {}", rule.table, netns.name, rule.text))
        .fact(format!("no socket of {} takes it at port {port}", netns.name))
        .rather(spared.into_iter().collect())
        .fix(format!("# start the program that is to listen at port {port}; until then:"));
    Some(finding.fix(delete(case, nat.netns, rule)))
}

/// A namespace redirects what is asked for to this port of its own.
pub(super) fn is_redirected(case: &Case<'_>, holder: Inum, port: u16) -> bool {
    let mut nat = case.ways.iter().flat_map(|way| &way.request.nat);
    nat.any(|n| (n.kind, n.netns, n.after.dport) == (NatKind::Redirect, holder, port))
}

/// The rule that keeps the conntrack of a namespace from seeing the request.
pub(super) fn untracked(walk: &Walk, netns: Inum) -> Option<&RuleRef> {
    walk.tracks.iter().find(|t| t.netns == netns && !t.is_tracked)?.untracked.as_ref()
}

/// Nothing translates it, since conntrack does not see it.
pub(super) fn not_tracked(case: &Case<'_>, met: &Met<'_>, rule: &RuleRef, what: &str) -> Finding {
    let netns = met.obstacle.place.netns;
    let node = case.state.netns_name(netns);
    let title = format!("{node} does not translate {what}: a rule keeps conntrack from seeing it");
    let finding = met.finding(case, "conntrack-untracked", title);
    by_notrack(case, (netns, rule), finding.confidence(crate::diagnose::Confidence::Certain))
}

/// A finding laid at the door of the rule that keeps a connection from conntrack, whichever
/// direction it was noticed in.
pub(super) fn by_notrack(
    case: &Case<'_>,
    (netns, rule): (Inum, &RuleRef),
    finding: Finding,
) -> Finding {
    let mut at = place_of(case, netns, rule);
    at.dev.clone_from(&finding.place.dev);
    let hooks = [Hook::Prerouting, Hook::Output].map(Hook::name);
    at.hook = hooks.into_iter().find(|h| rule.chain.eq_ignore_ascii_case(h));
    let node = case.state.netns_name(netns);
    Finding { place: at, steps: Vec::new(), narrower: Vec::new(), ..finding }
        .fact(format!("{} of {node}: {}", rule.table, rule.text))
        .fix(delete(case, netns, rule))
}

/// A rule that accepts in front of the one that would have masqueraded.
pub(super) fn kept_private(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let netns = met.obstacle.place.netns;
    let (step, hits) = met.walk.steps.iter().find_map(|s| match &s.what {
        What::Hook { hook: Hook::Postrouting, hits, .. } if s.netns == netns => Some((s, hits)),
        _ => None,
    })?;
    let rule = hits.iter().find(|rule| {
        let Some((_, _, Some(own))) = located(case, netns, rule) else { return false };
        let is_exception = own.target == Target::Accept
            || own.target == Target::Return
                && own.matches.iter().any(|m| matches!(m, Match::Src { .. } | Match::Dst { .. }));
        is_exception
            && without(case, step, Hook::Postrouting, rule, &step.tuple)
                .iter()
                .any(|t| matches!(t.0, NatKind::Masquerade | NatKind::Snat))
    })?;
    let node = case.state.netns_name(netns);
    let title = format!(
        "{node} would masquerade {}, but a rule in front of that takes the packet: {}",
        step.tuple.src, rule.text
    );
    Some(
        met.finding(case, "masquerade-missing", title)
            .confidence(crate::diagnose::Confidence::Certain)
            .at(place_of(case, netns, rule))
            .fact(format!("{} of {node}: {}", rule.table, rule.text))
            .fix(delete(case, netns, rule)),
    )
}

/// A translation to nobody, in front of one that leads to somebody.
pub(super) fn shadowed(case: &Case<'_>, met: &Met<'_>, nat: &Nat) -> Option<Finding> {
    let found = behind(case, nat)?;
    let Finding { id, title, place, evidence, steps, .. } = found;
    Some(met.finding(case, id, title).at(place).facts(evidence).fixes(steps))
}

/// The same, where what was met is no obstacle of the walk.
pub(super) fn behind(case: &Case<'_>, nat: &Nat) -> Option<Finding> {
    let rule = nat.rule.as_ref().filter(|_| nat.kind.is_destination())?;
    let mut walks = case.ways.iter().flat_map(|w| w.walks()).map(|(_, walk)| walk);
    let walk = walks.find(|w| w.nat.iter().any(|n| std::ptr::eq(n, nat)))?;
    let step = walk.steps.get(nat.step)?;
    let What::Hook { hook, .. } = &step.what else { return None };
    // Endpoints of one Service are no rules in front of each other.
    if walk.choices.iter().any(|c| c.step == nat.step) {
        return None;
    }
    let others = without(case, step, *hook, rule, &nat.before);
    let right = others.iter().find_map(|(kind, addr, port)| {
        let addr = (*addr).filter(|a| kind.is_destination() && *a != nat.after.dst)?;
        let port = port.unwrap_or(nat.before.dport);
        chains::is_alive(case, addr).then(|| format!("{addr}:{port}"))
    })?;
    let node = case.state.netns_name(nat.netns);
    let title = format!(
        "{}:{} should lead to {right}, but a rule in front of that leads to {}:{}: {}",
        nat.before.dst, nat.before.dport, nat.after.dst, nat.after.dport, rule.text
    );
    let finding = Finding::error(RULE.id, case.scenario(), title)
        .at(place_of(case, nat.netns, rule))
        .fact(format!("{} {}", rule.chain, rule.text))
        .fact(format!("without it, {node} translates to {right}"));
    Some(finding.fix(delete(case, nat.netns, rule)))
}

/// The translations that a packet would get at a step if a rule were not there.
fn without(
    case: &Case<'_>,
    step: &Step,
    hook: Hook,
    rule: &RuleRef,
    tuple: &Tuple,
) -> Vec<(NatKind, Option<IpAddr>, Option<u16>)> {
    let Some(detail) = case.detail(step.netns) else { return Vec::new() };
    let Some((_, _, Some(own))) = located(case, step.netns, rule) else { return Vec::new() };
    let devices = case.netns(step.netns).into_iter().flat_map(|n| n.devices.values());
    let locals: BTreeSet<IpAddr> = devices.flat_map(|d| &d.addresses).map(|(a, _)| *a).collect();
    let name = |dev: Option<u32>| dev.map(|d| case.dev_name(step.netns, d));
    let (iif, oif) = (name(step.dev), name(step.out_dev));
    let (sport, dport) = if tuple.proto.has_ports() { (tuple.sport, tuple.dport) } else { (0, 0) };
    let packet = firewall::Packet {
        sport,
        dport,
        tcp_flags: 2,
        ..firewall::Packet::new(tuple.src, tuple.dst, tuple.proto.number())
    };
    let at = firewall::At {
        hook,
        is_bridged: false,
        iif: iif.as_deref(),
        oif: oif.as_deref(),
        phys_in: None,
        phys_out: None,
        locals: &locals,
    };
    let passed = firewall::traverse_without(&detail.firewall, &packet, &at, own);
    let each = passed.nat.iter().flat_map(|t| t.to.iter().map(|to| (t.kind, to.0, to.1)));
    each.collect()
}

/// A packet for a queue that nobody reads is dropped by the queue (`nf_queue`, `__nf_queue`).
pub(super) fn is_queues(drop: &Drop<'_>) -> bool {
    drop.function.contains("nf_queue")
}

/// A rule that hands packets to a program.
pub(super) fn is_queue(text: &str) -> bool {
    let mut words = text.split_whitespace();
    words.any(|w| matches!(w, "NFQUEUE" | "queue" | "QUEUE"))
}
