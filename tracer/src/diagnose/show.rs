//! Configuration in the words of the tools that make it.

use std::net::IpAddr;

use crate::event::Proto;
use crate::net::Netns;
use crate::net::detail::{NextHop, Prefix, Route, RouteType, RoutingRule, RuleAction};

const TABLE_MAIN: u32 = 254;
const FLAG_ONLINK: u32 = 4;

/// `tcp` or `udp`, of which rules can name ports.
#[must_use]
pub fn port_protocol(proto: Proto) -> Option<&'static str> {
    match proto {
        Proto::Tcp => Some("tcp"),
        Proto::Udp => Some("udp"),
        _ => None,
    }
}

/// `10.244.2.0/24`, `default`, an address alone.
#[must_use]
pub fn prefix((addr, len): Prefix) -> String {
    let full = if addr.is_ipv4() { 32 } else { 128 };
    match len {
        0 if addr.is_unspecified() => "default".to_owned(),
        len if len == full => addr.to_string(),
        len => format!("{addr}/{len}"),
    }
}

/// A route as `ip route` takes it.
#[must_use]
pub fn route(netns: &Netns, route: &Route) -> String {
    let kind = match route.kind {
        RouteType::Unicast | RouteType::Other(_) => String::new(),
        other => format!("{} ", kind(other)),
    };
    let mut text = format!("{kind}{}", prefix(route.dst));
    match &route.hops[..] {
        [one] => text += &hop(netns, one),
        hops => hops.iter().for_each(|h| text += &format!(" nexthop{}", hop(netns, h))),
    }
    if route.table != TABLE_MAIN && route.table != 0 {
        text += &format!(" table {}", route.table);
    }
    if route.metric != 0 {
        text += &format!(" metric {}", route.metric);
    }
    text
}

/// A type of route, in the word of `ip route`.
#[must_use]
pub fn kind(kind: RouteType) -> &'static str {
    match kind {
        RouteType::Unicast | RouteType::Other(_) => "unicast",
        RouteType::Local => "local",
        RouteType::Broadcast => "broadcast",
        RouteType::Multicast => "multicast",
        RouteType::Blackhole => "blackhole",
        RouteType::Unreachable => "unreachable",
        RouteType::Prohibit => "prohibit",
        RouteType::Throw => "throw",
    }
}

/// A policy rule as `ip rule` takes it: with all that it asks for, as others may have its priority.
#[must_use]
pub fn rule(rule: &RoutingRule) -> String {
    let mut text = if rule.invert { "not ".to_owned() } else { String::new() };
    text += &format!("priority {}", rule.priority);
    for (word, net) in [("from", rule.src), ("to", rule.dst)] {
        text += &net.map(|net| format!(" {word} {}", prefix(net))).unwrap_or_default();
    }
    for (word, dev) in [("iif", &rule.iif), ("oif", &rule.oif)] {
        text += &dev.iter().map(|dev| format!(" {word} {dev}")).collect::<String>();
    }
    text +=
        &rule.mark.map(|(mark, mask)| format!(" fwmark {mark:#x}/{mask:#x}")).unwrap_or_default();
    text += &match rule.action {
        RuleAction::Lookup(table, suppress) => {
            let suppress = suppress.map(|n| format!(" suppress_prefixlength {n}"));
            format!(" table {table}{}", suppress.unwrap_or_default())
        }
        RuleAction::End(end) => format!(" {}", kind(end)),
        RuleAction::Other => String::new(),
    };
    text
}

/// [`route`] for `map`.
pub fn route_of(netns: &Netns) -> impl Fn(&Route) -> String {
    move |r| route(netns, r)
}

fn hop(netns: &Netns, hop: &NextHop) -> String {
    let via = hop.via.map(|via| format!(" via {via}")).unwrap_or_default();
    let name = hop.dev.and_then(|i| netns.devices.get(&i)).map(|d| &d.name);
    let dev = name.map(|name| format!(" dev {name}")).unwrap_or_default();
    let onlink = if hop.flags & FLAG_ONLINK != 0 { " onlink" } else { "" };
    format!("{via}{dev}{onlink}")
}

/// Whether `addr` lies in `prefix`.
#[must_use]
pub fn covers((net, len): Prefix, addr: IpAddr) -> bool {
    match (net, addr) {
        (IpAddr::V4(net), IpAddr::V4(addr)) => {
            len == 0 || (net.to_bits() ^ addr.to_bits()).leading_zeros() >= u32::from(len)
        }
        (IpAddr::V6(net), IpAddr::V6(addr)) => {
            len == 0 || (net.to_bits() ^ addr.to_bits()).leading_zeros() >= u32::from(len)
        }
        _ => false,
    }
}

/// The address of the network that `addr` is in.
#[must_use]
pub fn network(addr: IpAddr, len: u8) -> IpAddr {
    match addr {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            std::net::Ipv4Addr::from_bits(a.to_bits() & mask).into()
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            std::net::Ipv6Addr::from_bits(a.to_bits() & mask).into()
        }
    }
}

/// How a link-layer address is written.
#[must_use]
pub fn mac(mac: crate::net::Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}
