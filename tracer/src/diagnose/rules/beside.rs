//! What a packet meets where it came only because of a node before: one leg of a multipath route, or
//! an answer that leaves by another device than its siblings' do.

use std::net::IpAddr;

use super::{Case, Finding};
use crate::diagnose::remedy::{Path, Remedy, full};
use crate::diagnose::routing::without;
use crate::diagnose::walk::{Ask, End, Leg, ObstacleKind as Kind, Scope, Step, What, walk};
use crate::diagnose::{Confidence, Direction, Met, Where, show};
use crate::net::detail::{Route, RoutingRule, RuleAction};
use crate::net::fib::{self, FibQuery};
use crate::net::{Inum, Netns};

/// The node before is the cause of what is met here.
pub(super) fn before(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    match met.obstacle.kind {
        Kind::NoRoute { .. } | Kind::ForwardingOff { .. } => leg(case, met),
        Kind::ReversePath { .. } if met.obstacle.leg == Leg::Packet => unruled(case, met),
        _ => None,
    }
}

/// A multipath route has a gateway that leads nowhere, beside one that gets there.
fn leg(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let lost = met.obstacle.place.netns;
    let dst = met.walk.steps.get(met.step)?.tuple.dst;
    let shared = |step: &Step| match &step.what {
        What::Route { route: Some(route), next_hop: Some(via), .. } if step.netns != lost => {
            Some((step.netns, (**route).clone(), *via)).filter(|(_, r, _)| r.hops.len() > 1)
        }
        _ => None,
    };
    let (at, route, via) = met.walk.steps[..met.step].iter().rev().find_map(shared)?;
    let is_there = case.state.holders(via).any(|n| n.inum == lost);
    let left = without(&route, via)?;
    // Who gets there itself only has to pass it on.
    if !is_there || arrives(case, lost, dst) || !is_led(case, met, (at, &left)) {
        return None;
    }
    let (node, gateway) = (case.netns(at)?, case.state.netns_name(lost));
    let text = show::route(node, &route);
    let title = format!(
        "{} leads a share of its packets to {via}, which is {gateway} and has no way on to {dst}: {text}",
        node.name
    );
    let mut finding = met
        .finding(case, "route-wrong-nexthop", title)
        .confidence(Confidence::Certain)
        .fact(format!("ip route of {}: {text}", node.name))
        .fact(format!("the other gateways of that route lead to {dst}"))
        .fix(Remedy::Route(Path::of(node, &left)).at(at));
    finding.place = Where::netns(case.state, at).route(&text);
    Some(finding)
}

fn arrives(case: &Case<'_>, from: Inum, dst: IpAddr) -> bool {
    let way = walk(case.state, &Scope::everything(), &Ask::ping(from, dst));
    matches!(way.end, End::Delivered { .. } | End::LeftView { .. }) && way.stopped_at().is_none()
}

/// A way by one of the other gateways is clear.
fn is_led(case: &Case<'_>, met: &Met<'_>, (at, left): (Inum, &Route)) -> bool {
    let mut others = case.ways.iter().filter(|w| w.purpose == met.way.purpose && w.is_clear());
    others.any(|way| {
        let walks = [Some(&way.request), way.reply.as_ref()];
        walks.into_iter().flatten().flat_map(|w| &w.steps).any(|step| {
            let What::Route { next_hop: Some(via), .. } = step.what else { return false };
            step.netns == at && left.hops.iter().any(|hop| hop.via == Some(via))
        })
    })
}

/// An answer leaves by another device than the question came in by, and is not taken there; others
/// beside it have a policy rule to a table that leads back by the right one.
fn unruled(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    if met.direction != Direction::Reply {
        return None;
    }
    let before = met.walk.steps[..met.step].iter().rev();
    let mut routed = before.filter(|s| matches!(s.what, What::Route { route: Some(_), .. }));
    let step = routed.find(|s| s.netns != met.obstacle.place.netns)?;
    let (node, tuple) = (case.netns(step.netns)?, step.tuple);
    let came = met.way.request.steps.iter().find(|s| s.netns == node.inum)?.dev?;
    if step.out_dev? == came {
        return None;
    }
    let rule = sibling(node, (tuple.src, tuple.dst), came)?;
    let own = RoutingRule { src: Some((tuple.src, full(tuple.src))), ..rule.clone() };
    let (by, left) = (case.dev_name(node.inum, came), case.dev_name(node.inum, step.out_dev?));
    let title = format!(
        "{} answers for {} by {left}, and not by {by}, by which the question came in: it has no \
         policy rule for that address, as it has for others",
        node.name, tuple.src
    );
    let mut finding = met
        .finding(case, "reply-other-device", title)
        .fact(format!("ip rule of {}: {}", node.name, show::rule(rule)))
        .fact(format!(
            "{} drops what comes from there",
            case.state.netns_name(met.obstacle.place.netns)
        ))
        .fix(Remedy::AddRule(own).at(node.inum));
    finding.place = Where::netns(case.state, node.inum).dev(&left);
    Some(finding)
}

/// The rule by which what others beside `src` send goes back by `dev`.
fn sibling(node: &Netns, (src, dst): (IpAddr, IpAddr), dev: u32) -> Option<&RoutingRule> {
    let rules = node.detail.iter().flat_map(|d| &d.rules);
    let mut rules = rules.filter(|r| {
        let is_plain = !r.invert && r.iif.is_none() && r.mark.is_none() && r.other.is_none();
        let is_beside = |(net, len)| {
            let near = if src.is_ipv4() { 24 } else { 64 };
            net != src && len >= near && show::covers((show::network(net, near), near), src)
        };
        is_plain && r.src.is_some_and(is_beside)
    });
    rules.find(|r| {
        let RuleAction::Lookup(table, _) = r.action else { return false };
        let query = FibQuery { table: Some(table), ..FibQuery::to(dst) };
        fib::lookup(node, &query).dev == Some(dev)
    })
}
