//! Answers that go, or come from, elsewhere than the question needs.

use std::net::IpAddr;

use super::undo::{Alteration, leads};
use crate::diagnose::Rule;
use crate::diagnose::case::{Case, Direction, Purpose, Way};
use crate::diagnose::finding::{Confidence, Finding, Severity, Where};
use crate::diagnose::remedy::{Path, Remedy};
use crate::diagnose::rules::unexplained;
use crate::diagnose::show;
use crate::diagnose::walk::{Ask, End, Nat, What};
use crate::journey::Fate;
use crate::net::detail::RoutingRule;
use crate::net::{Inum, Netns};

const OTHER_DEVICE: &str = "reply-other-device";
const EXCEPTED: &str = "masquerade-excepts-target";

pub(in crate::diagnose) const RULE: Rule =
    Rule { id: OTHER_DEVICE, covers: &[OTHER_DEVICE, EXCEPTED], check: |_| Vec::new() };

/// Whether what was asked left the node, and what came of it there.
pub(super) fn finding(case: &Case<'_>, known: &[Finding]) -> Option<Finding> {
    let asked = || case.ways.iter().filter(|w| w.purpose == Purpose::Reach);
    let astray = || asked().find_map(|way| answered_astray(case, way));
    asked()
        .find_map(|way| other_device(case, way).or_else(|| excepted(case, way)))
        .or_else(|| (!is_explained(known)).then(astray).flatten())
}

/// Something is known that stops packets, besides that they were seen to end.
fn is_explained(known: &[Finding]) -> bool {
    let is_open = |f: &Finding| unexplained::IDS.contains(&f.id);
    known.iter().any(|f| f.severity == Severity::Error && !is_open(f))
}

/// Nothing is in the way of the question, nor of the answer: but that leaves the node by another
/// device than the question came in by, and so does not come to who asked, who is seen as well.
fn answered_astray(case: &Case<'_>, way: &Way) -> Option<Finding> {
    let reply = way.reply.as_ref().filter(|_| way.is_clear())?;
    let End::LeftView { netns, dev, .. } = reply.end else { return None };
    let came = way.request.steps.iter().find(|s| s.netns == netns)?.dev?;
    if way.request.ask.entry.is_some() || netns == way.request.ask.from || came == dev {
        return None;
    }
    let (node, came_by, left) =
        (case.state.netns_name(netns), case.dev_name(netns, came), case.dev_name(netns, dev));
    let here = case.netns(netns)?;
    let (to, route) = reply.steps.iter().rev().find_map(|step| match &step.what {
        What::Route { route: Some(route), .. } if step.netns == netns => {
            Some((step.tuple.dst, route))
        }
        _ => None,
    })?;
    let text = show::route(here, route);
    let title = format!(
        "{node} answers {to} by {left}, by its route {text}, and not by {came_by}, by which the \
         question came in (asymmetric routing): the answer does not arrive"
    );
    let finding = Finding::error(OTHER_DEVICE, case.scenario(), title)
        .confidence(Confidence::Likely)
        .at(Where::netns(case.state, netns).dev(&left).route(&text))
        .fact(format!("ip route of {node}: {text}"))
        .fact(format!("nothing is in the way of the question, which comes in by {came_by}"))
        .journeys(seen_to_leave(case, way.purpose, Direction::Reply));
    let back = back(here, came, to).map(|path| Remedy::Route(path).at(netns));
    Some(finding.fixes(back).fix(format!(
        "for all clients: mark connections that come in by {came_by} (CONNMARK), restore the mark on \
         their answers, and route marked packets by {came_by} (ip rule add fwmark …)"
    )))
}

/// A route to one address by this device: on its link, or by the gateway that others go by.
fn back(here: &Netns, dev: u32, to: IpAddr) -> Option<Path> {
    let device = here.devices.get(&dev)?;
    let is_on_link = device.addresses.iter().any(|net| show::covers(*net, to));
    let routes = here.detail.iter().flat_map(|d| &d.routes);
    let hops = routes.filter(|r| r.dst.0.is_ipv4() == to.is_ipv4()).flat_map(|r| &r.hops);
    let via = hops.filter(|h| h.dev == Some(dev)).find_map(|h| h.via);
    match (is_on_link, via) {
        (true, _) => Some(Path::host(to, None, Some(&device.name))),
        (false, Some(via)) => Some(Path::host(to, Some(via), Some(&device.name))),
        (false, None) => None,
    }
}

/// The question came in by one device, and the answer left by another one, to nobody's use.
fn other_device(case: &Case<'_>, way: &Way) -> Option<Finding> {
    let entry = way.request.ask.entry.as_ref()?;
    let reply = way.reply.as_ref().filter(|_| way.request.is_clear())?;
    let End::LeftView { netns, dev, .. } = reply.end else { return None };
    if netns != way.request.ask.from || dev == entry.dev || !reply.is_clear() {
        return None;
    }
    let seen = seen_to_leave(case, way.purpose, Direction::Reply)?;
    let (node, came, left) =
        (case.state.netns_name(netns), case.dev_name(netns, entry.dev), case.dev_name(netns, dev));
    let title = format!(
        "{node} answers by {left} what came in by {came}: the answer takes another way than the \
         question (asymmetric routing), and does not arrive"
    );
    let routed = reply
        .steps
        .iter()
        .rev()
        .find(|s| s.netns == netns && matches!(s.what, What::Route { route: Some(_), .. }));
    let mut finding = Finding::error(OTHER_DEVICE, case.scenario(), title)
        .confidence(Confidence::Likely)
        .at(Where::netns(case.state, netns).dev(&left))
        .journeys([seen]);
    if let Some(step) = routed
        && let What::Route { route: Some(route), .. } = &step.what
        && let Some(here) = case.netns(netns)
    {
        finding = finding.fact(format!("ip route of {node}: {}", show::route(here, route)));
        for rule in blind(case, netns, way.request.ask.dst, step.tuple.src) {
            finding = finding.fact(format!(
                "ip rule of {node}: {}, which does not see the answer: that has the source {} while \
                 it is routed, and is translated back afterwards",
                show::rule(rule),
                step.tuple.src
            ));
        }
    }
    Some(finding.fix(format!(
        "mark connections that come in by {came} (CONNMARK), restore the mark on their answers, \
         and route marked packets by {came} (ip rule add fwmark …)"
    )))
}

/// Policy rules that ask for the address asked as source, where the answer has another one when it
/// is routed.
fn blind<'a>(
    case: &Case<'a>,
    netns: Inum,
    asked: IpAddr,
    routed: IpAddr,
) -> impl Iterator<Item = &'a RoutingRule> {
    let rules = case.detail(netns).map_or(&[][..], |d| &d.rules);
    rules.iter().filter(move |r| {
        r.src.is_some_and(|net| show::covers(net, asked) && !show::covers(net, routed))
    })
}

/// A packet of that direction left the node: its journey.
fn seen_to_leave(case: &Case<'_>, purpose: Purpose, direction: Direction) -> Option<u64> {
    let flows = case.failed().filter(|p| p.purpose == purpose).filter_map(|p| case.flow_of(p));
    let mut packets = flows.flat_map(|flow| case.packets(flow, direction).collect::<Vec<_>>());
    packets.find(|j| j.fate == Fate::LeftNode).map(|j| j.id)
}

/// It left to a neighbour with the sender's own address, while what goes to others is masqueraded.
fn excepted(case: &Case<'_>, way: &Way) -> Option<Finding> {
    let walk = way.request.is_clear().then_some(&way.request)?;
    let End::LeftView { netns, dev, next_hop } = walk.end else { return None };
    let (src, dst) = (walk.steps.last()?.tuple.src, walk.ask.dst);
    let is_direct = next_hop.is_none_or(|hop| hop == dst) && walk.steps.last()?.tuple.dst == dst;
    let device = case.state.device(netns, dev)?;
    let is_known = device.addresses.iter().any(|net| show::covers(*net, src));
    let has_answer = case.failed().filter_map(|p| case.flow_of(p)).any(|f| !f.backward.is_empty());
    if !is_direct || is_known || src != walk.tuple.src || walk.ask.from == netns || has_answer {
        return None;
    }
    let seen = seen_to_leave(case, way.purpose, Direction::Request)?;
    let (other, nat) = masqueraded(case, &walk.ask, netns)?;
    let rule = nat.rule.as_ref()?;
    let node = case.state.netns_name(netns);
    let title = format!(
        "{node} does not masquerade what {src} sends to {dst}, as it does for other destinations: \
         {dst} gets it with a source address that it has no way back to"
    );
    let mut place = Where::netns(case.state, netns).dev(&device.name);
    place.table = Some(rule.table.clone());
    place.chain = Some(rule.chain.clone());
    place.rule = Some(rule.text.clone());
    Some(
        Finding::error(EXCEPTED, case.scenario(), title)
            .confidence(Confidence::Likely)
            .at(place)
            .fact(format!("{} {}: holds for {other}, and not for {dst}", rule.chain, rule.text))
            .fact(format!("the request left {node} by {} from {src}", device.name))
            .journeys([seen])
            .fix(format!(
                "take {dst} (its network) out of what that rule excepts (an IP pool or address set \
                 that covers the LAN), or give {dst} a route to {src} by {node}"
            )),
    )
}

/// A destination beyond the node that would be masqueraded on its way there, and how.
fn masqueraded(case: &Case<'_>, ask: &Ask, netns: Inum) -> Option<(IpAddr, Nat)> {
    // Networks for documentation: nobody has them, and they lie behind the default route.
    const EXAMPLES: [&str; 4] = ["192.0.2.254", "198.51.100.254", "203.0.113.254", "2001:db8::fe"];
    let scope = Alteration::scope(case);
    let examples = EXAMPLES.iter().filter_map(|a| a.parse::<IpAddr>().ok());
    let mut beyond = examples
        .filter(|a| a.is_ipv4() == ask.dst.is_ipv4())
        .filter(|a| case.state.holders(*a).next().is_none());
    beyond.find_map(|dst| {
        let ask = Ask { dst, ..ask.clone() };
        let ways = Way::all(case.state, &scope, &ask, Purpose::Check);
        let nat = ways.iter().filter(|w| leads(w)).flat_map(|w| &w.request.nat);
        let mut sources = nat.filter(|n| n.netns == netns && !n.kind.is_destination());
        Some((dst, sources.next()?.clone()))
    })
}
