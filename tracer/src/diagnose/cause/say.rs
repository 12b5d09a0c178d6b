//! A cause in words.

use std::net::SocketAddr;

use super::undo::Alteration;
use crate::diagnose::Rule;
use crate::diagnose::case::{Case, Way};
use crate::diagnose::finding::{Finding, Scenario, Severity, Where};
use crate::diagnose::place::is_link_local;
use crate::diagnose::remedy::{Path, Remedy, Step, full, past};
use crate::diagnose::rules::located;
use crate::diagnose::show;
use crate::diagnose::walk::{Nat, RuleRef};
use crate::firewall::{self, Match, Target};
use crate::net::Inum;
use crate::net::detail::Route;

const TAKES_HOST: &str = "translation-takes-host";
const HIDES_SOURCE: &str = "translation-hides-source";
const DIVERTS: &str = "policy-rule-hijack";
const WRONG_SOURCE: &str = "route-wrong-source";
const UNTRACKED: &str = "conntrack-untracked";

pub(in crate::diagnose) const RULE: Rule =
    Rule { id: TAKES_HOST, covers: &[TAKES_HOST, HIDES_SOURCE], check: super::hidden };

/// The finding for what is to blame. What was found without knowing it is its consequence.
pub(super) fn finding(
    case: &Case<'_>,
    way: &Way,
    alteration: &Alteration,
    known: &[Finding],
) -> Option<Finding> {
    let consequence = known.iter().find(|f| f.severity == Severity::Error);
    let found = match alteration {
        Alteration::Translated(nat, rule) => translated(case, nat, rule),
        Alteration::Sourced(netns, route) => sourced(case, way, (*netns, route))?,
        // What is blamed on that rule already says what came of it.
        Alteration::Untracked(_, rule) if known.iter().any(|f| is_by(f, rule)) => return None,
        Alteration::Untracked(netns, rule) => untracked(case, (*netns, rule), consequence),
        Alteration::Diverted(netns, rule) => {
            let text = show::rule(rule);
            // Where the rule is meant so, and only its table's gateway is gone, it is not told.
            let mut told = known.iter();
            let told = told.find(|f| f.id == DIVERTS && f.place.netns == Some(*netns))?;
            let mut found = told.clone();
            found.severity = Severity::Error;
            found.confidence = crate::diagnose::Confidence::Certain;
            found = found.rather(alteration.exempted(case, way));
            found.fact(format!("ip rule: {text}"))
        }
    };
    Some(with_proof(found, consequence, way))
}

fn is_by(finding: &Finding, rule: &RuleRef) -> bool {
    finding.severity == Severity::Error && finding.place.rule.as_ref() == Some(&rule.text)
}

/// Two findings about one cause.
pub(super) fn is_same(a: &Finding, b: &Finding) -> bool {
    a.id == b.id && a.place.netns == b.place.netns && a.place.route == b.place.route
}

fn with_proof(found: Finding, consequence: Option<&Finding>, way: &Way) -> Finding {
    let asked = way.request.ask.dst;
    let mut found =
        found.fact(format!("without it the way to {asked} is clear, there and back")).depth(0);
    if let Some(consequence) = consequence.filter(|c| c.id != found.id) {
        found = found
            .fact(format!("what comes of it: {}", consequence.title))
            .journeys(consequence.journeys.iter().copied());
    }
    found
}

fn translated(case: &Case<'_>, nat: &Nat, rule: &RuleRef) -> Finding {
    let node = case.state.netns_name(nat.netns);
    let (before, after) = (nat.before, nat.after);
    let mut place = Where::netns(case.state, nat.netns);
    place.table = Some(rule.table.clone());
    place.chain = Some(rule.chain.clone());
    place.rule = Some(rule.text.clone());
    if !nat.kind.is_destination() {
        let title = format!(
            "{node} masquerades what {} sends to {}: it arrives from {}, a source address that is \
             not the sender's",
            before.src, before.dst, after.src
        );
        let advice = format!(
            "for good, except {} from that rule of {node}: traffic inside of the cluster keeps its \
             source",
            before.dst
        );
        let finding = Finding::error(HIDES_SOURCE, case.scenario(), title)
            .at(place)
            .fact(format!("{} {}", rule.chain, rule.text));
        return finding.fixes(kept(case, nat, rule)).fix(advice);
    }
    let (from, to) =
        (SocketAddr::new(before.dst, before.dport), SocketAddr::new(after.dst, after.dport));
    let title = format!(
        "{node} takes what is meant for {from}, a real host's address: a rule of its own translates \
         it to {to}"
    );
    let asked = asks_for(case, nat, rule);
    if let Some((chain, own)) = asked {
        place.chain = Some(chain.to_owned());
        place.rule = Some(own.text.clone());
    }
    let whose = asked.and_then(|(_, own)| own.comment.clone()).or_else(|| rule.comment.clone());
    let whose = whose.map_or_else(|| "whoever wrote that rule".to_owned(), |w| format!("{w:?}"));
    Finding::error(TAKES_HOST, Scenario::Service, title)
        .at(place)
        .facts(asked.map(|(chain, own)| format!("{chain} {}", own.text)))
        .fact(format!("{} {}", rule.chain, rule.text))
        .fix(format!("take {} out of {whose}: it is the address of another host", before.dst))
}

/// Lets what goes from pod to pod by the rule: all of the cluster's, where its network is known.
fn kept(case: &Case<'_>, nat: &Nat, rule: &RuleRef) -> Option<Step> {
    let (table, chain, own) = located::located(case, nat.netns, rule)?;
    let (src, dst) = (nat.before.src, nat.before.dst);
    let node = case.netns(nat.netns)?;
    let mut nets = case.cluster_networks(node);
    let whole = nets.find(|net| show::covers(*net, src) && show::covers(*net, dst));
    let ends = whole.map_or(((src, full(src)), (dst, full(dst))), |net| (net, net));
    Some(past(nat.netns, (table, chain, own?), ends))
}

/// Pods reach each other, and one does not see who the other is.
pub(super) fn masked(case: &Case<'_>, (nat, rule): (&Nat, &RuleRef), journey: u64) -> Finding {
    let mut finding = translated(case, nat, rule);
    finding.title = format!(
        "{} masquerades what the pod {} sends to the pod {}, which sees {} instead: it can neither \
         allow nor log who asks",
        case.state.netns_name(nat.netns),
        nat.before.src,
        nat.before.dst,
        nat.after.src
    );
    let seen = format!("seen: {} became {}", nat.before, nat.after);
    finding.severity(Severity::Warning).fact(seen).journeys([journey])
}

/// A route names a source that answers do not come back to.
fn sourced(case: &Case<'_>, way: &Way, (netns, route): (Inum, &Route)) -> Option<Finding> {
    let here = case.netns(netns)?;
    let (src, text) = (route.prefsrc?, show::route(here, route));
    let dev = route.hops.first()?.dev?;
    let own = here.devices.get(&dev)?.addresses.iter().map(|(a, _)| *a);
    let better = own.into_iter().find(|a| a.is_ipv4() == src.is_ipv4() && !is_link_local(*a))?;
    let (node, dev) = (&here.name, case.dev_name(netns, dev));
    let title = format!(
        "{node} sends to {} from {src}, which its route {text} names as source, though {dev} has {better}: \
         the answer takes another way back",
        way.request.ask.dst
    );
    let path = Path { src: Some(better), ..Path::of(here, route) };
    let finding = Finding::error(WRONG_SOURCE, case.scenario(), title)
        .at(Where::netns(case.state, netns).dev(&dev).route(&text))
        .fact(format!("ip route of {node}: {text} src {src}"))
        .fix(Remedy::Route(path).at(netns));
    Some(finding)
}

/// A rule keeps it from conntrack, and so its answer is not known as one.
fn untracked(
    case: &Case<'_>,
    (netns, rule): (Inum, &RuleRef),
    consequence: Option<&Finding>,
) -> Finding {
    let node = case.state.netns_name(netns);
    let title = format!(
        "{node} keeps it from conntrack ({}), so that what is let through as an answer, or is \
         translated, is not",
        rule.text
    );
    let mut place = Where::netns(case.state, netns);
    place.table = Some(rule.table.clone());
    place.chain = Some(rule.chain.clone());
    place.rule = Some(rule.text.clone());
    let finding = Finding::error(UNTRACKED, case.scenario(), title)
        .at(place)
        .fact(format!("{} of {node}: {}", rule.table, rule.text))
        .fix(located::delete(case, netns, rule));
    // Who wrote it means it: the answer alone let through is less.
    let narrower = consequence.map(|c| c.narrower.clone()).unwrap_or_default();
    narrower.into_iter().fold(finding, Finding::rather)
}

/// The rule that leads packets to this very address to the one that translates.
fn asks_for<'a>(
    case: &Case<'a>,
    nat: &Nat,
    rule: &RuleRef,
) -> Option<(&'a str, &'a firewall::Rule)> {
    let dst = nat.before.dst;
    let is_host = |m: &Match| match m {
        Match::Dst { nets, not: false } => {
            nets.iter().any(|(a, len)| *a == dst && *len == if dst.is_ipv4() { 32 } else { 128 })
        }
        _ => false,
    };
    let leads = |target: &Target| match target {
        Target::Jump(to) | Target::Goto(to) => *to == rule.chain || rule.via.contains(to),
        _ => false,
    };
    let tables = &case.detail(nat.netns)?.firewall.tables;
    let table = tables.iter().find(|t| t.flavour == rule.flavour && t.name == rule.table)?;
    let rules = table.chains.iter().flat_map(|c| c.rules.iter().map(move |r| (c.name.as_str(), r)));
    let mut asking = rules.filter(|(_, r)| r.matches.iter().any(is_host) && leads(&r.target));
    asking.next()
}
