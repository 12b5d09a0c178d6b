//! Names the routes of a finished journey from the namespaces' configuration.
//!
//! What was seen wins: a prefix is named only when the configured route leads where the packet
//! really went. Where it does not (it has changed since, or more is matched on than is known),
//! nothing is named.

use super::{Hop, Route, RouteKind, Stage};
use crate::event::Tuple;
use crate::net::detail::{NextHop, RouteType};
use crate::net::fib::{self, FibQuery, FibResult};
use crate::net::{DeviceKind, Inum, Netns, NetworkState};

/// Rules that every namespace has: local, main, default.
const USUAL_RULES: [u32; 3] = [0, 32_766, 32_767];

/// Fills in prefix and table of the routing decisions, as far as they are certain.
pub(super) fn name_routes(hops: &mut [Hop], first: Option<Tuple>, state: &NetworkState) {
    let mut tuple = first;
    let mut input: Option<(Inum, u32)> = None;
    for hop in hops {
        tuple = hop.tuple.or(tuple);
        match (hop.stage, &hop.dev) {
            (Stage::Rx, Some(dev)) => input = Some((hop.netns, up(state, hop.netns, dev.ifindex))),
            // The outer packet is sent here.
            (Stage::Encap, _) => input = None,
            _ => {}
        }
        let (Some(tuple), Some(netns)) = (tuple, state.netns.get(&hop.netns)) else { continue };
        let iif = input.filter(|(inum, _)| *inum == hop.netns).map(|(_, dev)| dev);
        let query = FibQuery {
            dst: Some(tuple.dst),
            src: Some(tuple.src),
            iif,
            mark: hop.mark,
            ..FibQuery::default()
        };
        let Some(route) = &mut hop.route else { continue };
        if let Some(priority) = name(route, netns, &query)
            && hop.note.is_none()
            && !USUAL_RULES.contains(&priority)
        {
            hop.note = Some(format!("by policy routing rule {priority}"));
        }
    }
}

/// The device that a packet comes in by, to routing: the bridge above a port.
fn up(state: &NetworkState, netns: Inum, ifindex: u32) -> u32 {
    let master = state.device(netns, ifindex).and_then(|d| d.master);
    let is_bridge = |m: &u32| state.device(netns, *m).is_some_and(|d| d.kind == DeviceKind::Bridge);
    master.filter(is_bridge).unwrap_or(ifindex)
}

/// Names one route; returns the priority of the rule that led to it, where that is certain.
fn name(route: &mut Route, netns: &Netns, query: &FibQuery) -> Option<u32> {
    // Without rules of its own, a namespace keeps both tables as one, which goes by the name of
    // main (`fib_trie_unmerge`); what is delivered here came from local.
    if route.kind == RouteKind::Local && route.table == Some(fib::TABLE_MAIN) {
        let local = FibQuery { table: Some(fib::TABLE_LOCAL), ..*query };
        if agrees(route, &fib::lookup(netns, &local)) {
            route.table = Some(fib::TABLE_LOCAL);
        }
    }
    let ruled = fib::lookup(netns, query);
    let by_rules = ruled.table.is_some_and(|table| route.table.is_none_or(|t| t == table))
        && agrees(route, &ruled);
    let restricted;
    let found = if by_rules {
        &ruled
    } else {
        // Which table decided was seen; why it was asked is not known.
        restricted = fib::lookup(netns, &FibQuery { table: Some(route.table?), ..*query });
        if !agrees(route, &restricted) {
            return None;
        }
        &restricted
    };
    route.dst = route.dst.or(found.route.map(|found| found.dst));
    route.table = route.table.or(found.table);
    ruled.rule.filter(|_| by_rules).map(|rule| rule.priority)
}

/// Whether what is configured leads where the packet was seen to go.
fn agrees(route: &Route, found: &FibResult<'_>) -> bool {
    let Some(configured) = found.route.filter(|_| found.doubts.is_empty()) else { return false };
    let is_seen = |hop: &NextHop| {
        route.dev.as_ref().is_none_or(|dev| hop.dev == Some(dev.ifindex)) && hop.via == route.via
    };
    match (route.kind, configured.kind) {
        (RouteKind::Unicast, RouteType::Unicast) => configured.hops.iter().any(is_seen),
        (RouteKind::Local, RouteType::Local | RouteType::Broadcast)
        | (RouteKind::Blackhole, RouteType::Blackhole)
        | (RouteKind::Unreachable, RouteType::Unreachable)
        | (RouteKind::Prohibit, RouteType::Prohibit) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::journey::Dev;
    use crate::net::detail::{self, Detail, RoutingRule, RuleAction};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn netns() -> Netns {
        let route = |dst: &str, length, table, via: Option<&str>, dev| {
            let hop = NextHop { via: via.map(ip), dev: Some(dev), flags: 0, weight: 1 };
            detail::Route { table, ..detail::Route::to((ip(dst), length), vec![hop]) }
        };
        let rule = |priority, table| RoutingRule {
            mark: (priority == 100).then_some((1, u32::MAX)),
            ..RoutingRule::plain(priority, false, RuleAction::Lookup(table, None))
        };
        let detail = Detail {
            routes: vec![
                route("0.0.0.0", 0, 254, Some("192.0.2.1"), 2),
                route("10.244.1.0", 24, 254, None, 3),
                route("0.0.0.0", 0, 7, Some("192.0.2.9"), 2),
            ],
            rules: vec![rule(100, 7), rule(32_766, 254)],
            ..Detail::default()
        };
        Netns { detail: Some(crate::net::Shared::new(detail)), ..Netns::default() }
    }

    fn seen(via: Option<&str>, ifindex: u32, table: Option<u32>) -> Route {
        let dev = Some(Dev { ifindex, name: String::new() });
        Route { dst: None, via: via.map(ip), dev, table, kind: RouteKind::Unicast }
    }

    #[test]
    fn a_route_is_named_when_it_leads_where_the_packet_went() {
        let mut route = seen(None, 3, None);
        assert_eq!(name(&mut route, &netns(), &FibQuery::to(ip("10.244.1.7"))), Some(32_766));
        assert_eq!((route.dst, route.table), (Some((ip("10.244.1.0"), 24)), Some(254)));
    }

    #[test]
    fn a_route_that_contradicts_what_was_seen_is_not_named() {
        for mut route in [seen(None, 2, None), seen(Some("192.0.2.7"), 3, Some(254))] {
            let before = route.clone();
            assert_eq!(name(&mut route, &netns(), &FibQuery::to(ip("10.244.1.7"))), None);
            assert_eq!(route, before);
        }
    }

    #[test]
    fn what_is_delivered_came_from_table_local_though_both_are_one() {
        let mut netns = netns();
        let detail = netns.detail.as_mut().unwrap();
        let mut own = detail.routes[1].clone();
        (own.dst, own.kind, own.table) = ((ip("10.244.1.1"), 32), RouteType::Local, 255);
        detail.routes.push(own);
        let mut route = Route { kind: RouteKind::Local, ..seen(None, 3, Some(254)) };
        name(&mut route, &netns, &FibQuery::to(ip("10.244.1.1")));
        assert_eq!((route.dst, route.table), (Some((ip("10.244.1.1"), 32)), Some(255)));
    }

    #[test]
    fn the_table_that_was_seen_to_decide_is_asked() {
        // The mark was changed after the decision, so that the rules lead elsewhere now.
        let mut route = seen(Some("192.0.2.9"), 2, Some(7));
        assert_eq!(name(&mut route, &netns(), &FibQuery::to(ip("203.0.113.9"))), None);
        assert_eq!(route.dst, Some((ip("0.0.0.0"), 0)));
        let marked = FibQuery { mark: 1, ..FibQuery::to(ip("203.0.113.9")) };
        let mut route = seen(Some("192.0.2.9"), 2, None);
        assert_eq!(name(&mut route, &netns(), &marked), Some(100));
        assert_eq!(route.table, Some(7));
    }
}
