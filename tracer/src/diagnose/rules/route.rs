//! Routing decisions that end a packet's way.

use std::net::IpAddr;

use super::met::is_astray;
use super::{Case, Finding, Rule};
use crate::diagnose::finding::Where;
use crate::diagnose::remedy::{Path, Remedy, Step, full};
use crate::diagnose::{Direction, Drop, show};
use crate::journey::RouteKind;
use crate::net::Netns;
use crate::net::detail::{Route, RouteType};
use crate::net::fib::{self, FibQuery, TABLE_MAIN};

pub(super) const RULE: Rule = Rule {
    id: "route-missing",
    covers: &[
        "route-missing",
        "route-blackhole",
        "route-unreachable",
        "route-prohibit",
        "route-pod-cidr-missing-no-default",
        "node-default-route-missing",
    ],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    case.drops().filter(|d| d.function == "ip_error").filter_map(|d| refused(case, &d)).collect()
}

fn refused(case: &Case<'_>, drop: &Drop<'_>) -> Option<Finding> {
    let netns = case.netns(drop.hop.netns)?;
    let dst = drop.tuple()?.dst;
    let decided = drop.route().map(|r| r.kind);
    match (drop.reason, decided) {
        ("IP_INNOROUTES" | "IP_OUTNOROUTES", _)
            if is_astray(case, drop) || is_ruled_out(netns, drop) =>
        {
            None
        }
        ("IP_INNOROUTES" | "IP_OUTNOROUTES", _) => Some(missing(case, drop, netns)),
        (_, Some(RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit)) => {
            let kind = decided?;
            let route = refusing(case, netns, kind, dst);
            let id = match kind {
                RouteKind::Blackhole => "route-blackhole",
                RouteKind::Unreachable => "route-unreachable",
                _ => "route-prohibit",
            };
            let text = route.map(show::route_of(netns));
            let title = format!("{}: a {} route takes packets to {dst}", netns.name, kind.name());
            let mut place = Where::netns(case.state, netns.inum);
            place.dev = drop.dev().map(str::to_owned);
            place.route.clone_from(&text);
            let finding = Finding::error(id, case.scenario(), title)
                .at(place)
                .fact(drop.fact())
                .facts(text.iter().map(|t| format!("ip route of {}: {t}", netns.name)))
                .journeys([drop.journey.id])
                .depth(case.depth_of(drop));
            Some(match route {
                Some(route) => past(case, (netns, route), dst, finding),
                None => finding.fix(format!("# remove the {} route to {dst}", kind.name())),
            })
        }
        _ => None,
    }
}

/// What leads past a route that refuses. One that is there for all that have no route of their own (a
/// block of pods) is meant so: a longer route wins over it.
pub(super) fn past(
    case: &Case<'_>,
    (netns, refusing): (&Netns, &Route),
    dst: IpAddr,
    finding: Finding,
) -> Finding {
    let behind = case.route_behind(netns, dst, Some(refusing));
    let wins = |step: &&Step| match step.remedy() {
        Some(Remedy::Route(path)) => path.table == refusing.table && path.dst.1 > refusing.dst.1,
        _ => false,
    };
    let narrower = behind.iter().filter(wins).cloned().collect();
    // A gateway for everything where only this one destination is refused.
    let instead = behind.iter().filter_map(|step| instead(refusing, dst, step)).collect();
    finding
        .rather(narrower)
        .rather(instead)
        .fix(Remedy::DelRoute(Path::of(netns, refusing)).at(netns.inum))
        .fixes(behind)
}

/// What leads to one destination alone, where `behind` leads more there than is refused.
fn instead(refusing: &Route, dst: IpAddr, behind: &Step) -> Option<Step> {
    let (Step::Do(netns, Remedy::Route(path)), true) = (behind, refusing.table == TABLE_MAIN)
    else {
        return None;
    };
    let is_wide = path.table == TABLE_MAIN && path.dst.1 < refusing.dst.1;
    let metric = if refusing.dst.1 == full(dst) { refusing.metric } else { 0 };
    let path = Path { dst: (dst, full(dst)), metric, ..path.clone() };
    is_wide.then(|| Remedy::Route(path).at(*netns))
}

/// A policy rule refuses the packet (its `unreachable` is counted as a missing route), or keeps it
/// from the table that has the route: the walk says so.
fn is_ruled_out(netns: &Netns, drop: &Drop<'_>) -> bool {
    let Some(tuple) = drop.tuple() else { return false };
    let dev = drop.dev().and_then(|name| netns.devices.values().find(|d| d.name == name));
    let Some(dev) = dev else { return false };
    let query = FibQuery::input(tuple.src, tuple.dst, dev.ifindex);
    let main = FibQuery { table: Some(TABLE_MAIN), ..FibQuery::to(tuple.dst) };
    let found = fib::lookup(netns, &query);
    !found.is_success() && (found.rule.is_some() || fib::lookup(netns, &main).is_success())
}

/// The most specific route of that kind which covers `dst`.
fn refusing<'a>(case: &Case<'a>, netns: &Netns, kind: RouteKind, dst: IpAddr) -> Option<&'a Route> {
    let wanted = match kind {
        RouteKind::Blackhole => RouteType::Blackhole,
        RouteKind::Unreachable => RouteType::Unreachable,
        _ => RouteType::Prohibit,
    };
    let routes = case.detail(netns.inum)?.routes.iter();
    routes.filter(|r| r.kind == wanted && show::covers(r.dst, dst)).max_by_key(|r| r.dst.1)
}

fn missing(case: &Case<'_>, drop: &Drop<'_>, netns: &Netns) -> Finding {
    let dst = drop.tuple().map_or_else(|| "the destination".to_owned(), |t| t.dst.to_string());
    let is_cluster = drop.tuple().is_some_and(|t| case.is_pod_address(t.dst));
    let has_default = case
        .detail(netns.inum)
        .is_some_and(|d| d.routes.iter().any(|r| r.dst.1 == 0 && r.kind == RouteType::Unicast));
    let id = match (is_cluster, has_default) {
        _ if drop.direction == Direction::Reply => "route-return-missing",
        (true, _) => "route-pod-cidr-missing-no-default",
        (false, false) if case.detail(netns.inum).is_some() => "node-default-route-missing",
        (false, _) => RULE.id,
    };
    let title = match id {
        "node-default-route-missing" => {
            format!("{} has no default route, and none to {dst}", netns.name)
        }
        _ => format!("{} has no route to {dst}", netns.name),
    };
    let counted = case.grown(netns.inum, "IpExtInNoRoutes");
    let counter = format!("IpExtInNoRoutes of {} has grown by {counted}", netns.name);
    let mut place = Where::netns(case.state, netns.inum);
    place.dev = drop.dev().map(str::to_owned);
    let fixes = case.missing_route_fix(netns, drop.tuple().map(|t| t.dst));
    let finding = Finding::error(id, case.scenario(), title)
        .at(place)
        .fact(drop.fact())
        .facts((counted > 0).then_some(counter))
        .journeys([drop.journey.id])
        .depth(case.depth_of(drop))
        .follows(&["route-wrong-nexthop"]);
    finding.fixes(fixes)
}
