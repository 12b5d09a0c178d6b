//! A name's way through the resolver: what was really asked for, and how an answer came or not.

use std::net::IpAddr;

use crate::diagnose::Rule;
use crate::diagnose::case::{Case, Method, Outcome, Probed, Purpose};
use crate::diagnose::finding::{Finding, Scenario, Where};
use crate::diagnose::walk::{Nat, RuleRef};

const SEARCH: &str = "dns-search-takes-name";
const BY_TCP: &str = "dns-tcp-unreachable";
const WRITTEN: &str = "name-hosts-file";

pub(in crate::diagnose) const RULE: Rule =
    Rule { id: SEARCH, covers: &[SEARCH, BY_TCP, WRITTEN], check: |_| Vec::new() };

/// What the conversation with the name servers says, where the target was not reached.
pub(super) fn finding(case: &Case<'_>) -> Option<Finding> {
    searched(case).or_else(|| cut_off(case)).or_else(|| written(case))
}

/// `/etc/hosts` gives the name an address that is not reached; the name server has another one.
fn written(case: &Case<'_>) -> Option<Finding> {
    let target = case.target.as_ref()?;
    let name = target.name.as_deref()?;
    let hosts = case.detail(target.netns)?.hosts.as_ref()?;
    let taken = hosts.address(name).filter(|addr| target.addr == Some(*addr))?;
    let beside = || case.probes.iter().filter(|p| p.purpose == Purpose::Beside);
    let (_, own) = beside().filter_map(told).next()?;
    let own = *own.first().filter(|_| !own.contains(&taken))?;
    let reached = beside().find(|p| p.to == own && p.was_reached());
    let (path, node) = (&hosts.path, case.state.netns_name(target.netns));
    let title = format!(
        "{path} of {node} gives {name} the address {taken}, which is not reached; the name server says \
         {own}, and is not asked"
    );
    Some(
        Finding::error(WRITTEN, Scenario::Dns, title)
            .confidence(crate::diagnose::Confidence::Likely)
            .at(Where::netns(case.state, target.netns))
            .fact(format!("{path}: {taken} {name}"))
            .facts(beside().find(|p| told(p).is_some()).map(Probed::sentence))
            .facts(reached.map(Probed::sentence))
            .fix(format!(
                "in {path}: give {name} the address {own}, or take the line out (a container's file is \
                 written when it is made: make it anew)"
            )),
    )
}

/// What a name server has found for a question.
fn told(probe: &Probed) -> Option<(&str, &[IpAddr])> {
    match (&probe.outcome, &probe.question) {
        (Outcome::Dns { rcode: 0, addresses }, Some(question)) if !addresses.is_empty() => {
            Some((question, addresses))
        }
        _ => None,
    }
}

/// The search list's answer leads to one host, the name itself to another.
fn searched(case: &Case<'_>) -> Option<Finding> {
    let target = case.target.as_ref()?;
    let name = target.name.as_deref()?.trim_end_matches('.');
    let told_as =
        |purpose| case.probes.iter().filter(move |p| p.purpose == purpose).filter_map(told);
    let (question, addresses) = told_as(Purpose::Resolve).next()?;
    let domain = question.strip_prefix(name)?.strip_prefix('.')?;
    let (_, own) = told_as(Purpose::Beside).find(|(q, _)| *q == name)?;
    let (taken, own) = (addresses.first()?, own.first().filter(|a| !addresses.contains(a))?);
    let reached = case.probes.iter().filter(|p| p.purpose == Purpose::Beside && p.to == *own);
    let reached: Vec<&Probed> = reached.filter(|p| p.was_reached()).collect();
    let asker = case.netns(target.netns)?;
    let resolver = asker.detail.as_ref()?.resolver.as_ref()?;
    let title = format!(
        "{name} was taken for {question}: the domain {domain} of the search list answers it with \
         {taken}, before the name itself ({own}) is asked for"
    );
    let certainty = match reached.is_empty() {
        true => crate::diagnose::Confidence::Likely,
        false => crate::diagnose::Confidence::Certain,
    };
    Some(
        Finding::error(SEARCH, Scenario::Dns, title)
            .confidence(certainty)
            .at(Where::netns(case.state, target.netns))
            .fact(format!(
                "resolv.conf of {}: search {}, ndots:{}",
                asker.name,
                resolver.search.join(" "),
                resolver.ndots
            ))
            .facts(reached.first().map(|p| p.sentence()))
            .fix(format!(
                "ask for {name}. (with a final dot), or take {domain} out of the search list in \
                 resolv.conf, or set ndots:1 (in Kubernetes: dnsConfig of the pod)"
            )),
    )
}

/// The answer was too long for a datagram, and nobody takes the question over TCP.
fn cut_off(case: &Case<'_>) -> Option<Finding> {
    let cut = case.probes.iter().find(|p| p.outcome == Outcome::Truncated)?;
    let is_again = |p: &&Probed| {
        p.method == Method::Tcp && (p.to, p.dport) == (cut.to, cut.dport) && p.question.is_some()
    };
    let again = case.probes.iter().filter(is_again).find(|p| !p.is_answered())?;
    let name = cut.question.as_deref().unwrap_or_default();
    let title = format!(
        "the answer to {name} is truncated, and the server that gave it cannot be asked over TCP: \
         port {} of {} is there for UDP only",
        cut.dport, cut.to
    );
    let mut place = Where::netns(case.state, cut.netns);
    let mut finding =
        Finding::error(BY_TCP, Scenario::Dns, title).fact(cut.sentence()).fact(again.sentence());
    if let Some((nat, rule)) = only_by_udp(case, cut, again) {
        place = Where::netns(case.state, nat.netns);
        (place.table, place.chain) = (Some(rule.table.clone()), Some(rule.chain.clone()));
        place.rule = Some(rule.text.clone());
        let to = nat.after.dst;
        finding = finding.fact(format!(
            "{} {}: UDP is translated to {to}, and no rule translates TCP",
            rule.chain, rule.text
        ));
    }
    Some(finding.at(place).fix(format!(
        "let {} be asked at port {}/TCP too: in Kubernetes add the TCP port to the Service \
         (kube-dns), else let the server, or the rule that translates, take TCP",
        cut.to, cut.dport
    )))
}

/// The rule that translates the datagram, where nothing translates the connection.
fn only_by_udp<'a>(
    case: &'a Case<'_>,
    cut: &Probed,
    again: &Probed,
) -> Option<(&'a Nat, &'a RuleRef)> {
    let of = |probe: &Probed| {
        let number = if probe.method == Method::Tcp { 6 } else { 17 };
        let is_its = move |a: &crate::diagnose::walk::Ask| {
            (a.dst, a.proto, a.dport) == (probe.to, number, probe.dport)
        };
        let way = case.ways.iter().find(|w| is_its(&w.request.ask))?;
        way.request.nat.iter().find(|n| n.kind.is_destination())
    };
    let nat = of(cut).filter(|_| of(again).is_none())?;
    Some((nat, nat.rule.as_ref()?))
}
