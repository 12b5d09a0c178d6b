//! Routes and policy routing rules.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::wire::{self, Netlink, addr, attributes, attributes_after, text, u8_at, u16_at, u32_at};
use crate::net::detail::{NextHop, Prefix, Route, RouteLimits, RouteType, RoutingRule, RuleAction};

/// `struct rtmsg` and `struct fib_rule_hdr`.
const HEADER: usize = 12;
const RTM_NEWROUTE: u16 = libc::RTM_NEWROUTE;
const RTM_NEWRULE: u16 = libc::RTM_NEWRULE;
const RTA_NH_ID: u16 = 30;
const FIB_RULE_INVERT: u32 = 2;

/// All routes of the calling thread's namespace.
pub(super) fn routes(netlink: &mut Netlink) -> io::Result<Vec<Route>> {
    let mut routes = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let answer = netlink.dump(libc::RTM_GETROUTE, &header(family))?;
        let messages = answer.messages().filter(|(kind, _)| *kind == RTM_NEWROUTE);
        routes.extend(messages.filter_map(|(_, body)| route(body)));
    }
    Ok(routes)
}

/// All policy routing rules, by ascending priority, in the kernel's order where that is equal.
pub(super) fn rules(netlink: &mut Netlink) -> io::Result<Vec<RoutingRule>> {
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let answer = match netlink.dump(libc::RTM_GETRULE, &header(family)) {
            Ok(answer) => answer,
            // A kernel without IPv6, or without policy routing for it.
            Err(_) if family == libc::AF_INET6 => continue,
            Err(error) => return Err(error),
        };
        let messages = answer.messages().filter(|(kind, _)| *kind == RTM_NEWRULE);
        rules.extend(messages.filter_map(|(_, body)| rule(body)));
    }
    rules.sort_by_key(|rule| rule.priority);
    Ok(rules)
}

fn header(family: i32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = family as u8;
    header
}

/// A body of `RTM_NEWROUTE`; `None` for other families and for the routing cache.
pub(crate) fn route(body: &[u8]) -> Option<Route> {
    const RTM_F_CLONED: u32 = 0x200;
    let family = u8_at(body, 0)?;
    let flags = u32_at(body, 8)?;
    if flags & RTM_F_CLONED != 0 {
        return None;
    }
    let mut dst = any(family)?;
    let mut single = NextHop { flags, weight: 1, ..NextHop::default() };
    let mut route = Route {
        kind: route_type(u8_at(body, 7)?),
        table: u8_at(body, 4)?.into(),
        protocol: u8_at(body, 5)?,
        scope: u8_at(body, 6)?,
        ..Route::to((dst, u8_at(body, 1)?), Vec::new())
    };
    for (kind, value) in attributes_after(body, HEADER) {
        match kind {
            libc::RTA_DST => dst = addr(value)?,
            libc::RTA_OIF => single.dev = u32_at(value, 0),
            libc::RTA_GATEWAY => single.via = addr(value),
            libc::RTA_VIA => single.via = via(value),
            libc::RTA_PRIORITY => route.metric = u32_at(value, 0)?,
            libc::RTA_PREFSRC => route.prefsrc = addr(value),
            libc::RTA_TABLE => route.table = u32_at(value, 0)?,
            libc::RTA_METRICS => (route.mtu, route.limits) = limits(value),
            libc::RTA_MULTIPATH => route.hops = hops(value),
            RTA_NH_ID => route.nexthop = u32_at(value, 0),
            _ => {}
        }
    }
    route.dst.0 = dst;
    if route.hops.is_empty() && single.dev.is_some() {
        route.hops.push(single);
    }
    Some(route)
}

/// `struct rtnexthop` and its attributes, one after the other.
fn hops(mut bytes: &[u8]) -> Vec<NextHop> {
    let mut hops = Vec::new();
    while let Some(length) = u16_at(bytes, 0).map(usize::from) {
        let (Some(head), Some(rest)) = (bytes.get(..8), bytes.get(8..length)) else { break };
        let mut hop = NextHop {
            via: None,
            dev: u32_at(head, 4).filter(|dev| *dev != 0),
            flags: head[2].into(),
            weight: u32::from(head[3]) + 1,
        };
        for (kind, value) in attributes(rest) {
            match kind {
                libc::RTA_GATEWAY => hop.via = addr(value),
                libc::RTA_VIA => hop.via = via(value),
                _ => {}
            }
        }
        hops.push(hop);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

/// `struct rtvia`: a gateway of another family than the route's.
fn via(value: &[u8]) -> Option<IpAddr> {
    addr(value.get(2..)?)
}

/// `RTAX_*`: the MTU, and the other limits.
fn limits(metrics: &[u8]) -> (Option<u32>, RouteLimits) {
    const RTAX_MTU: u16 = 2;
    const RTAX_WINDOW: u16 = 3;
    const RTAX_CWND: u16 = 7;
    const RTAX_ADVMSS: u16 = 8;
    const RTAX_INITCWND: u16 = 11;
    const RTAX_RTO_MIN: u16 = 13;
    const RTAX_INITRWND: u16 = 14;
    let of = |wanted| {
        let value = attributes(metrics).find(|(kind, _)| *kind == wanted)?.1;
        u32_at(value, 0).filter(|limit| *limit > 0)
    };
    let limits = RouteLimits {
        window: of(RTAX_WINDOW),
        cwnd: of(RTAX_CWND),
        advmss: of(RTAX_ADVMSS),
        initcwnd: of(RTAX_INITCWND),
        initrwnd: of(RTAX_INITRWND),
        rto_min: of(RTAX_RTO_MIN),
    };
    (of(RTAX_MTU), limits)
}

fn any(family: u8) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::UNSPECIFIED.into()),
        libc::AF_INET6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

fn route_type(kind: u8) -> RouteType {
    match kind {
        libc::RTN_UNICAST => RouteType::Unicast,
        libc::RTN_LOCAL => RouteType::Local,
        libc::RTN_BROADCAST => RouteType::Broadcast,
        libc::RTN_MULTICAST => RouteType::Multicast,
        libc::RTN_BLACKHOLE => RouteType::Blackhole,
        libc::RTN_UNREACHABLE => RouteType::Unreachable,
        libc::RTN_PROHIBIT => RouteType::Prohibit,
        libc::RTN_THROW => RouteType::Throw,
        other => RouteType::Other(other),
    }
}

/// A body of `RTM_NEWRULE`.
pub(crate) fn rule(body: &[u8]) -> Option<RoutingRule> {
    let family = u8_at(body, 0)?;
    let (dst_len, src_len) = (u8_at(body, 1)?, u8_at(body, 2)?);
    let mut parts = RuleParts { table: u8_at(body, 4)?.into(), ..RuleParts::default() };
    let is_v6 = i32::from(family) == libc::AF_INET6;
    let mut rule = RoutingRule {
        src: prefix(family, src_len),
        dst: prefix(family, dst_len),
        invert: u32_at(body, 8)? & FIB_RULE_INVERT != 0,
        ..RoutingRule::plain(0, is_v6, RuleAction::Other)
    };
    if let Some(tos) = u8_at(body, 3).filter(|tos| *tos != 0) {
        parts.other.push(format!("tos 0x{tos:02x}"));
    }
    for (kind, value) in attributes_after(body, HEADER) {
        rule_attribute(&mut rule, &mut parts, kind, value);
    }
    rule.mark = parts.mark.map(|mark| (mark, parts.mask.unwrap_or(u32::MAX)));
    rule.action = action(u8_at(body, 7)?, &parts);
    rule.other = (!parts.other.is_empty()).then(|| parts.other.join(" "));
    Some(rule)
}

/// What becomes part of a rule only together.
#[derive(Default)]
struct RuleParts {
    table: u32,
    mark: Option<u32>,
    mask: Option<u32>,
    suppress: Option<u32>,
    other: Vec<String>,
}

/// `FRA_*` of `linux/fib_rules.h`.
fn rule_attribute(rule: &mut RoutingRule, parts: &mut RuleParts, kind: u16, value: &[u8]) {
    let number = || u32_at(value, 0).unwrap_or(0);
    let range = || {
        let (from, to) = (u16_at(value, 0).unwrap_or(0), u16_at(value, 2).unwrap_or(0));
        if from == to { from.to_string() } else { format!("{from}-{to}") }
    };
    match kind {
        1 => set_addr(&mut rule.dst, value),
        2 => set_addr(&mut rule.src, value),
        3 => rule.iif = Some(text(value)),
        6 => rule.priority = number(),
        10 => parts.mark = Some(number()),
        12 => parts.other.push("tun_id".to_owned()),
        13 if number() != u32::MAX => {
            parts.other.push(format!("suppress_ifgroup {}", number()));
        }
        14 => parts.suppress = Some(number()).filter(|length| *length != u32::MAX),
        15 => parts.table = number(),
        16 => parts.mask = Some(number()),
        17 => rule.oif = Some(text(value)),
        19 if u8_at(value, 0) == Some(1) => parts.other.push("l3mdev".to_owned()),
        20 => {
            let end = u32_at(value, 4).unwrap_or(0);
            parts.other.push(format!("uidrange {}-{end}", number()));
        }
        22 => parts.other.push(format!("ipproto {}", u8_at(value, 0).unwrap_or(0))),
        23 => parts.other.push(format!("sport {}", range())),
        24 => parts.other.push(format!("dport {}", range())),
        25 => parts.other.push(format!("dscp {}", u8_at(value, 0).unwrap_or(0))),
        26 => parts.other.push("flowlabel".to_owned()),
        _ => {}
    }
}

fn action(action: u8, parts: &RuleParts) -> RuleAction {
    match action {
        1 => RuleAction::Lookup(parts.table, parts.suppress),
        6 => RuleAction::End(RouteType::Blackhole),
        7 => RuleAction::End(RouteType::Unreachable),
        8 => RuleAction::End(RouteType::Prohibit),
        _ => RuleAction::Other,
    }
}

fn prefix(family: u8, length: u8) -> Option<Prefix> {
    any(family).filter(|_| length > 0).map(|addr| (addr, length))
}

fn set_addr(prefix: &mut Option<Prefix>, value: &[u8]) {
    if let (Some(prefix), Some(addr)) = (prefix, wire::addr(value)) {
        prefix.0 = addr;
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::attribute;
    use super::*;

    #[test]
    fn a_multipath_route_keeps_weights_and_flags() {
        let mut hop = attribute(5, &[10, 0, 0, 1]);
        let mut hops = vec![16, 0, 17, 2, 3, 0, 0, 0];
        hops.append(&mut hop);
        hops.extend([8, 0, 0, 0, 4, 0, 0, 0]);
        let mut body = vec![2, 16, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        body.extend(attribute(1, &[192, 168, 0, 0]));
        body.extend(attribute(6, &100_u32.to_ne_bytes()));
        body.extend(attribute(15, &1000_u32.to_ne_bytes()));
        body.extend(attribute(9, &hops));
        let route = route(&body).unwrap();
        assert_eq!(route.dst, ("192.168.0.0".parse().unwrap(), 16));
        assert_eq!((route.table, route.metric), (1000, 100));
        let gateway = Some("10.0.0.1".parse().unwrap());
        let first = NextHop { via: gateway, dev: Some(3), flags: 17, weight: 3 };
        let second = NextHop { dev: Some(4), weight: 1, ..NextHop::default() };
        assert_eq!(route.hops, [first, second]);
    }

    #[test]
    fn an_ipv4_route_via_an_ipv6_gateway_is_read() {
        let gateway: Ipv6Addr = "fe80::1".parse().unwrap();
        let via = [&10_u16.to_ne_bytes()[..], &gateway.octets()].concat();
        let mut body = vec![2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        body.extend(attribute(4, &7_u32.to_ne_bytes()));
        body.extend(attribute(18, &via));
        let route = route(&body).unwrap();
        assert_eq!(route.dst, (Ipv4Addr::UNSPECIFIED.into(), 0));
        assert_eq!(route.hops[0].via, Some(gateway.into()));
    }

    #[test]
    fn a_rule_keeps_what_it_matches_on() {
        let mut body = vec![2, 0, 24, 0, 0, 0, 0, 1, 2, 0, 0, 0];
        body.extend(attribute(2, &[10, 1, 0, 0]));
        body.extend(attribute(3, b"eth0\0"));
        body.extend(attribute(6, &50_u32.to_ne_bytes()));
        body.extend(attribute(10, &0x10_u32.to_ne_bytes()));
        body.extend(attribute(16, &0xf0_u32.to_ne_bytes()));
        body.extend(attribute(14, &0_u32.to_ne_bytes()));
        body.extend(attribute(15, &300_u32.to_ne_bytes()));
        body.extend(attribute(24, &[53, 0, 53, 0]));
        let rule = rule(&body).unwrap();
        assert_eq!(rule.priority, 50);
        assert_eq!(rule.src, Some(("10.1.0.0".parse().unwrap(), 24)));
        assert_eq!((rule.dst, rule.iif.as_deref()), (None, Some("eth0")));
        assert_eq!(rule.mark, Some((0x10, 0xf0)));
        assert!(rule.invert && !rule.is_v6);
        assert_eq!(rule.other.as_deref(), Some("dport 53"));
        assert_eq!(rule.action, RuleAction::Lookup(300, Some(0)));
    }
}
