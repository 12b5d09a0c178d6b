//! What lies beyond the node, as far as it can be told from here: a next hop that answers no
//! question, and answers that say no.

use std::net::IpAddr;

use super::met::each;
use super::{Case, Finding, Rule, neighbours, service};
use crate::diagnose::case::{Purpose, REPLY_DEPTH};
use crate::diagnose::remedy::{Path, Remedy, Step};
use crate::diagnose::walk::{End, ObstacleKind as Kind};
use crate::diagnose::{
    Confidence, Met, Method, Outcome, Probed, Scenario, Severity, Where, place, show,
};
use crate::event::L4;
use crate::journey::{Fate, Journey};

pub(super) const RULE: Rule =
    Rule { id: "refused-beyond-node", covers: &["refused-beyond-node"], check };

/// `NUD_FAILED`: asked in vain.
const FAILED: u16 = 0x20;
const SERVFAIL: u8 = 2;

fn check(case: &Case<'_>) -> Vec<Finding> {
    if !case.is_failing() {
        return one_sided(case).into_iter().collect();
    }
    let mut findings = each(case, silent_hop);
    findings.extend(case.failed().filter_map(|p| refused(case, p)));
    findings.extend(upstream(case));
    findings
}

/// A next hop on a link that leads out of what can be seen, and that does not answer.
fn silent_hop(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let Kind::ResolutionFailed { addr, state } = met.obstacle.kind else { return None };
    let netns = met.netns(case)?;
    let node = &netns.name;
    let dev = met.obstacle.place.dev.map(|d| case.dev_name(netns.inum, d)).unwrap_or_default();
    let here =
        |d: &super::super::Drop<'_>| d.function == "neigh_invalidate" && d.hop.netns == netns.inum;
    let drop = case.drops().find(here);
    if drop.is_none() && state != FAILED {
        return None;
    }
    let translated = met.walk.nat.iter().rfind(|n| n.after.dst == addr && n.before.dst != addr);
    let finding = if let Some(nat) = translated {
        let fact = format!("nobody on {dev} of {node} answers for {addr}");
        service::stale(case, met, nat, fact)
    } else if let Some((route, true)) = neighbours::route_before(met) {
        let text = show::route(netns, route);
        let title = format!(
            "the next hop {addr} of {node}'s route {text} does not answer on {dev}: it is down, or \
             the route is wrong"
        );
        let mut finding = met
            .finding(case, "route-wrong-nexthop", title)
            .fact(format!("ip route of {node}: {text}"))
            .fix(format!("# bring {addr} back, or lead the route to whoever took its place:"));
        finding.place.route = Some(text);
        let known = neighbours::wrong_hop(case, met, netns, (route, addr));
        let is_by = |path: &Path| path.hops.iter().any(|h| h.via == Some(addr));
        let is_same = |step: &Step| matches!(step.remedy(), Some(Remedy::Route(p)) if is_by(p));
        finding.fixes(known.into_iter().filter(|step| !is_same(step)))
    } else {
        met.finding(
            case,
            "neighbour-silent",
            format!("nobody on {dev} of {node} answers for {addr}"),
        )
        .fix(format!("# {addr} has to be up on the network behind {dev}, or the address is wrong"))
    };
    let finding = finding
        .confidence(Confidence::Likely)
        .fact(format!("ip neigh of {node}: {addr} dev {dev} {}", state_name(state)));
    Some(match drop {
        Some(drop) => finding.fact(drop.fact()).journeys([drop.journey.id]),
        None => finding,
    })
}

fn state_name(state: u16) -> &'static str {
    if state == FAILED { "FAILED" } else { "INCOMPLETE" }
}

/// What an answer says that is no answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum No {
    Host,
    Route,
    Port,
    Prohibited,
    TooFar,
}

/// Who says no, and how.
struct Refusal<'a> {
    journey: &'a Journey,
    from: IpAddr,
    no: No,
}

/// A probe that somebody out of view refused.
fn refused(case: &Case<'_>, probe: &Probed) -> Option<Finding> {
    let flow = case.flow_of(probe)?;
    let mut answers = flow.backward.iter().map(|i| &case.journeys[*i]);
    let refusal = answers.find_map(|j| refusal(j, probe))?;
    if case.state.holders(refusal.from).next().is_some() {
        return None;
    }
    let to = sent_to(case, probe);
    if refusal.no == No::Host
        && let Some(finding) = stale(case, probe, &refusal, to)
    {
        return Some(finding);
    }
    let from = refusal.from;
    let (id, title) = match refusal.no {
        No::Host => {
            (RULE.id, format!("{from}, beyond this node, finds nobody who answers for {to}"))
        }
        No::Route => (RULE.id, format!("{from}, beyond this node, has no route to {to}")),
        No::Prohibited => {
            (RULE.id, format!("a firewall at {from}, beyond this node, rejects what goes to {to}"))
        }
        No::TooFar => {
            (RULE.id, format!("the way to {to} goes round in circles: its TTL ended at {from}"))
        }
        No::Port if probe.method == Method::Dns => {
            ("dns-server-down", format!("no DNS server listens at port {} of {from}", probe.dport))
        }
        No::Port => {
            ("app-not-listening", format!("nobody listens at the port asked for of {from}"))
        }
    };
    let look = match refusal.no {
        No::Port => {
            format!("# start the application at {from}, or ask for the port that it listens at")
        }
        _ => format!("# where {from} is: pkttrace diagnose --from host --to {to}"),
    };
    Some(fill(case, probe, &refusal, Finding::error(id, case.scenario(), title)).fix(look))
}

fn fill(case: &Case<'_>, probe: &Probed, refusal: &Refusal<'_>, finding: Finding) -> Finding {
    let journey = refusal.journey;
    let said = journey.first.map(|h| h.tuple.to_string()).unwrap_or_default();
    let entry = journey.hops.first();
    let mut at = Where::netns(case.state, entry.map_or(probe.netns, |h| h.netns));
    at.dev = entry.and_then(|h| h.dev.as_ref()).map(|d| d.name.clone());
    finding
        .confidence(Confidence::Likely)
        .at(at)
        .fact(probe.sentence())
        .fact(format!("the answer {said} came in by {}", journey.path))
        .journeys([journey.id])
        .depth(REPLY_DEPTH - 1)
}

/// What an ICMP error or a reset says about the probe.
fn refusal<'a>(journey: &'a Journey, probe: &Probed) -> Option<Refusal<'a>> {
    let headers = journey.first?;
    let is_v4 = headers.tuple.src.is_ipv4();
    let no = match headers.l4 {
        L4::Icmp(icmp) => match (is_v4, icmp.kind, icmp.code) {
            (true, 3, 1) | (false, 1, 3) => No::Host,
            (true, 3, 0) | (false, 1, 0) => No::Route,
            (true, 3, 3) | (false, 1, 4) => No::Port,
            (true, 3, 9 | 10 | 13) | (false, 1, 1) => No::Prohibited,
            (true, 11, 0) | (false, 3, 0) => No::TooFar,
            _ => return None,
        },
        // RST.
        L4::Tcp(tcp) if tcp.flags & 0x04 != 0 && probe.outcome == Outcome::Refused => No::Port,
        _ => return None,
    };
    (journey.fate == Fate::Delivered).then_some(Refusal { journey, from: headers.tuple.src, no })
}

/// The address that the probe's packet left with, translations included.
fn sent_to(case: &Case<'_>, probe: &Probed) -> IpAddr {
    let sent = case.flow_of(probe).and_then(|f| f.forward.first());
    let nat = sent.and_then(|i| case.journeys[*i].nat.iter().rfind(|n| n.kind.is_destination()));
    nat.map_or(probe.to, |n| n.after.dst)
}

/// What this node translated to is gone.
fn stale(case: &Case<'_>, probe: &Probed, refusal: &Refusal<'_>, to: IpAddr) -> Option<Finding> {
    let mut nats = case.ways.iter().flat_map(|w| &w.request.nat);
    let nat = nats.find(|n| n.after.dst == to && n.before.dst != to)?;
    let same = |p: &&Probed| (p.method, p.to, p.dport) == (probe.method, probe.to, probe.dport);
    let is_one_of_many = case.probes.iter().filter(same).any(Probed::is_answered);
    let id = match is_one_of_many {
        true => "svc-one-endpoint-dead",
        false => "svc-endpoint-stale-ip-remote",
    };
    let title = format!(
        "{} leads to {to}, and {} says that nobody has that address: the endpoint is gone",
        nat.before.dst, refusal.from
    );
    let finding = fill(case, probe, refusal, Finding::error(id, case.scenario(), title));
    Some(service::outdated(case, finding, nat, to))
}

/// The name server says that it could not find out, and it is out of view.
fn upstream(case: &Case<'_>) -> Option<Finding> {
    let is_servfail = |p: &&Probed| matches!(p.outcome, Outcome::Dns { rcode: SERVFAIL, .. });
    let probe = case.failed().find(is_servfail)?;
    let is_in_view = case.probes.iter().any(|p| p.purpose == Purpose::Upstream)
        || case.ways.iter().any(|w| matches!(w.request.end, End::Delivered { .. }));
    if is_in_view {
        return None;
    }
    let server = sent_to(case, probe);
    let name = probe.question.as_deref().unwrap_or_default();
    let title = format!(
        "the DNS server {server}, beyond this node, says SERVFAIL to {name}: whom it asks does not \
         answer it"
    );
    let node = place::node_of(case.state, probe.netns).unwrap_or(probe.netns);
    Some(
        Finding::error("dns-upstream-unreachable", Scenario::Dns, title)
            .confidence(Confidence::Likely)
            .at(Where::netns(case.state, node))
            .fact(probe.sentence())
            .fact("it is reached and it answers: what fails is its own question".to_owned())
            .fix(format!(
                "# on the node of {server}: pkttrace diagnose --from ITS-POD --to {name} --proto dns, \
                 or look at its log and at the servers that it forwards to"
            )),
    )
}

/// Everything got through, because this side was told to send smaller packets. Whether the other
/// side is told cannot be seen from here.
fn one_sided(case: &Case<'_>) -> Option<Finding> {
    let probe = case.probes.iter().find(|p| p.purpose == Purpose::FullSize && p.is_answered())?;
    let way = case.ways.iter().find(|w| matches!(w.request.end, End::LeftView { .. }))?;
    let from = case.netns(probe.netns).filter(|_| way.request.ask.from == probe.netns)?;
    let holds = |(a, _): &(IpAddr, u8)| *a == way.request.tuple.src;
    let own = from.devices.values().find(|d| d.addresses.iter().any(holds))?;
    let size = probe.size.filter(|size| *size < own.mtu)?;
    let (sender, to, src) = (&from.name, probe.to, way.request.tuple.src);
    let title = format!(
        "{} of {sender} takes {} bytes, the way to {to} only {size}: {sender} is told, whether the \
         other side is cannot be seen from here",
        own.name, own.mtu
    );
    Some(
        Finding::error("pmtud-blackhole", case.scenario(), title)
            .severity(Severity::Info)
            .confidence(Confidence::Possible)
            .at(Where::netns(case.state, from.inum).dev(&own.name))
            .fact(probe.sentence())
            .fact("where the other node's firewall eats the ICMP error, long answers never come")
            .fix(format!(
                "# if long answers hang, on the node of {to}: pkttrace diagnose --from ITS-POD --to {src}"
            )),
    )
}
