//! Routing of what is made here, and the source address it gets.

use std::net::{IpAddr, SocketAddr};

use super::address::{no_ipv6, unverified};
use super::conf::is_private;
use super::hooks::Devs;
use super::verdict::reference;
use super::walker::{Next, Walker};
use super::{Effect, ObstacleKind, RuleRef, What, obstacle, siblings};
use crate::firewall::{Hit, Match, Target};
use crate::journey::Hook;
use crate::net::detail::{NextHop, Route, RouteType, RoutingRule};
use crate::net::fib::{FibQuery, TABLE_MAIN, contains};
use crate::net::{DeviceKind, Inum};

/// `RTNH_F_DEAD`, `RTNH_F_LINKDOWN`.
const UNUSABLE: u32 = 1 | 16;
/// Fewer ports than this for connections run out under any load.
const FEW_PORTS: u32 = 256;

/// A route that was found, and the hop of it that is taken.
pub(super) struct Way<'a> {
    pub(super) route: &'a Route,
    pub(super) hop: NextHop,
}

impl<'a> Walker<'a> {
    /// A locally made packet: source address, route, OUTPUT, and the route again if that changed
    /// the destination or the mark (`ip_route_me_harder`).
    pub(super) fn output(&mut self, netns: Inum) -> Next {
        if self.walk.steps.is_empty() {
            self.step(netns, None, None, What::Socket);
            self.sender(netns);
        }
        let Some(way) = self.route(netns, None) else { return self.stop() };
        if !self.flight.has_src {
            let Some(src) = self.conf.lookup(netns, &self.query(None)).and_then(|f| f.src) else {
                return self.no_source(netns);
            };
            self.flight.tuple.src = src;
            self.flight.has_src = true;
            if self.inside.is_empty() {
                self.walk.tuple = self.flight.tuple;
            }
            if let Some(step) = self.walk.steps.last_mut() {
                step.tuple.src = src;
            }
        }
        if let Some((dev, kind)) = unverified(self.conf, netns, self.flight.tuple.src) {
            self.hinder(Effect::Stops, netns, Some(dev), kind);
        }
        let Some(way) = self.route_again(netns, way) else { return self.stop() };
        let before = (self.flight.tuple, self.flight.mark);
        let oif = self.out_dev(netns, &way);
        let devs = Devs { oif, ..Devs::default() };
        self.hook(netns, Hook::Output, devs);
        let way = if (self.flight.tuple, self.flight.mark) == before {
            way
        } else {
            let Some(way) = self.route(netns, None) else { return self.stop() };
            way
        };
        self.ipsec(netns, "out");
        let Some(dev) = self.out_dev(netns, &way) else { return self.stop() };
        self.loopback_source(netns, dev);
        self.local_length(netns, &way, dev);
        Next::Emit { netns, iif: None, dev, hop: way.hop.via }
    }

    /// What the sender itself may lack.
    fn sender(&mut self, netns: Inum) {
        let tuple = self.flight.tuple;
        let is_v6_off = tuple.dst.is_ipv6() && self.conf.netns(netns).is_some_and(|n| !n.has_ipv6);
        if is_v6_off {
            let sysctl = "ipv6/conf/all/disable_ipv6".to_owned();
            self.hinder(Effect::Stops, netns, None, ObstacleKind::NoIpv6 { sysctl });
        }
        if let Some(src) = self.walk.ask.src
            && !self.flight.is_reply
            && !self.conf.is_local(netns, src)
        {
            let kind = ObstacleKind::SourceNotLocal { addr: src };
            self.hinder(Effect::Stops, netns, None, kind);
        }
        let range = self.conf.detail(netns).and_then(|d| {
            let text = d.sysctls.get("ipv4/ip_local_port_range")?;
            let mut ports = text.split_whitespace().map(str::parse::<u16>);
            Some((ports.next()?.ok()?, ports.next()?.ok()?))
        });
        if let Some((first, last)) = range
            && tuple.proto.has_ports()
            && !self.flight.is_reply
        {
            let end = SocketAddr::new(tuple.dst, tuple.dport);
            let counted = self.conf.detail(netns).and_then(|d| d.connections.get(&end));
            let used = counted.copied().unwrap_or(0);
            let all = u32::from(last.saturating_sub(first)) + 1;
            let is_few = all <= FEW_PORTS;
            if is_few || obstacle::is_used_up(used.into(), all.into(), 90) {
                let kind = ObstacleKind::FewPorts { is_few, used };
                self.hinder(Effect::Degrades, netns, None, kind);
            }
        }
    }

    /// The look-up with the source that was selected: policy rules may ask for it (`ip_route_connect`
    /// looks up twice).
    fn route_again(&mut self, netns: Inum, first: Way<'a>) -> Option<Way<'a>> {
        let second = self.conf.lookup(netns, &self.query(None)).and_then(|found| found.route);
        if second == Some(first.route) {
            return Some(first);
        }
        self.walk.steps.pop();
        self.route(netns, None)
    }

    fn query(&self, iif: Option<u32>) -> FibQuery {
        let t = &self.flight.tuple;
        let src = self.flight.has_src.then_some(t.src);
        FibQuery { src, iif, mark: self.flight.mark, ..FibQuery::to(t.dst) }
    }

    /// Looks up the destination and leaves a step; `None` when nothing leads there. `iif` is the
    /// input device of a packet that came in.
    pub(super) fn route(&mut self, netns: Inum, iif: Option<u32>) -> Option<Way<'a>> {
        let query = self.query(iif);
        let dst = self.flight.tuple.dst;
        let is_input = iif.is_some();
        let found = self.conf.lookup(netns, &query)?;
        let rule = found.rule;
        let Some(route) = found.route else {
            let rule_step = rule.cloned().map(Box::new);
            let what = What::Route { route: None, rule: rule_step, next_hop: None, is_input };
            self.step(netns, iif, None, what);
            match (rule, found.kind) {
                (Some(rule), Some(kind)) => {
                    let rule = Box::new(rule.clone());
                    let kind = ObstacleKind::RuleRefuses { rule, kind };
                    self.hinder(Effect::Stops, netns, None, kind);
                }
                _ => self.no_route(netns, dst),
            }
            return None;
        };
        let usable: Vec<&NextHop> = route.hops.iter().filter(|h| h.flags & UNUSABLE == 0).collect();
        let hops = if usable.is_empty() { route.hops.iter().collect() } else { usable };
        let taken = self.choose(hops.len(), |at| hop_text(hops.get(at).copied()));
        let hop = hops.get(taken).copied().cloned().unwrap_or_default();
        let what = What::Route {
            route: Some(Box::new(route.clone())),
            rule: rule.cloned().map(Box::new),
            next_hop: hop.via.or((route.kind == RouteType::Unicast).then_some(dst)),
            is_input,
        };
        self.step(netns, iif, hop.dev, what);
        self.judge_route(netns, dst, route, rule, &hop);
        let refuses = matches!(
            route.kind,
            RouteType::Blackhole | RouteType::Unreachable | RouteType::Prohibit
        );
        if refuses {
            let kind = ObstacleKind::RouteRefuses { route: route.clone() };
            self.hinder(Effect::Stops, netns, None, kind);
            return None;
        }
        Some(Way { route, hop })
    }

    fn judge_route(
        &mut self,
        netns: Inum,
        dst: IpAddr,
        route: &Route,
        rule: Option<&RoutingRule>,
        hop: &NextHop,
    ) {
        if hop.flags & UNUSABLE != 0 {
            let kind = ObstacleKind::DeadNextHop { route: route.clone(), hop: hop.clone() };
            self.hinder(Effect::Stops, netns, hop.dev, kind);
        }
        let query = FibQuery { table: Some(TABLE_MAIN), ..FibQuery::to(dst) };
        let main = self.conf.lookup(netns, &query).and_then(|found| found.route);
        if let Some(rule) = rule
            && !matches!(route.table, 253..=255)
            && main.map(|m| &m.hops) != Some(&route.hops)
        {
            let (rule, taken, main) = (rule.clone(), route.clone(), main.cloned());
            let kind = ObstacleKind::Diverted {
                rule: Box::new(rule),
                taken: Box::new(taken),
                main: main.map(Box::new),
            };
            self.hinder(Effect::MayStop, netns, None, kind);
        }
        // What the main table knows better, a rule has hidden: that is said already.
        let is_hidden = main.is_some_and(|m| m.dst.1 > 0) && !matches!(route.table, 253..=255);
        self.flight.is_by_default = route.dst.1 == 0 && !is_hidden;
        if route.dst.1 == 0 && is_private(dst) {
            self.lost_subnet(netns, dst);
        }
    }

    /// A private destination by the default route: nobody's, or missing a route of its own.
    pub(super) fn by_default(&mut self, netns: Inum, iif: Option<u32>) {
        let dst = self.flight.tuple.dst;
        if !self.flight.is_by_default || !is_private(dst) {
            return;
        }
        let found = self.conf.lookup(netns, &self.query(iif));
        let Some(route) = found.and_then(|f| f.route) else { return };
        // Only a namespace that routes, or holds what is asked for elsewhere, can lack a route.
        let is_router = self.conf.netns(netns).is_some_and(|n| {
            let outward = n.devices.values().filter(|d| d.kind != DeviceKind::Loopback);
            (n.forwards_v4 || n.forwards_v6) && outward.count() > 1
        });
        if !is_router {
            return;
        }
        let holder = self.conf.holders(dst).first().copied();
        let kind = ObstacleKind::OnlyDefaultRoute { dst, route: Box::new(route.clone()), holder };
        self.hinder(Effect::MayStop, netns, None, kind);
        if holder.is_some() {
            return;
        }
        let dport = self.flight.tuple.dport;
        let (unreached, has_siblings) = self.translators(netns, dst, dport);
        let effect = if unreached.is_empty() { Effect::MayStop } else { Effect::Stops };
        let has_siblings = has_siblings || siblings::has_siblings(self.conf, netns, dst);
        if has_siblings || !unreached.is_empty() {
            self.hinder(effect, netns, None, ObstacleKind::Untranslated { dst, dport, unreached });
        }
    }

    /// Rules for exactly this destination in translating tables, and whether there are such rules
    /// for its neighbours (the same /16, or /112).
    fn translators(&self, netns: Inum, dst: IpAddr, dport: u16) -> (Vec<RuleRef>, bool) {
        let Some(detail) = self.conf.detail(netns) else { return (Vec::new(), false) };
        let near = if dst.is_ipv4() { 16 } else { 112 };
        let host = if dst.is_ipv4() { 32 } else { 128 };
        let mut found = Vec::new();
        let mut has_siblings = false;
        let nat = detail
            .firewall
            .tables
            .iter()
            .filter(|t| t.name == "nat" || t.chains.iter().any(|c| c.kind == "nat"));
        for (table, chain) in nat.flat_map(|t| t.chains.iter().map(move |c| (t, c))) {
            for rule in chain.rules.iter().filter(|r| r.target != Target::Return) {
                let hosts = rule.matches.iter().find_map(|m| match m {
                    Match::Dst { nets, not: false } => Some(nets),
                    _ => None,
                });
                let Some(hosts) = hosts else { continue };
                has_siblings |=
                    hosts.iter().any(|(a, len)| *len == host && contains((dst, near), *a));
                let port = rule.matches.iter().all(|m| match m {
                    Match::Dport { ranges, not: false } => {
                        ranges.iter().any(|(a, b)| (*a..=*b).contains(&dport))
                    }
                    _ => true,
                });
                if port && hosts.contains(&(dst, host)) {
                    let via = Vec::new();
                    let hit = Hit { table, chain, rule: Some(rule), via, is_certain: true };
                    found.push(reference(&hit));
                }
            }
        }
        (found, has_siblings)
    }

    /// A device that is down took its route with it: the destination is on its subnet.
    fn lost_subnet(&mut self, netns: Inum, dst: IpAddr) {
        let Some(ns) = self.conf.netns(netns) else { return };
        for dev in ns.devices.values().filter(|d| !d.up) {
            if dev.addresses.iter().any(|a| contains(*a, dst)) {
                let kind = match dev.kind {
                    DeviceKind::Bridge => ObstacleKind::BridgeDown { bridge: dev.ifindex },
                    _ => ObstacleKind::DeviceDown { dev: dev.ifindex },
                };
                self.hinder(Effect::Stops, netns, Some(dev.ifindex), kind);
            }
        }
    }

    fn no_route(&mut self, netns: Inum, dst: IpAddr) {
        let Some(ns) = self.conf.netns(netns) else { return };
        let Some(detail) = ns.detail.as_deref() else { return };
        self.lost_subnet(netns, dst);
        let is_v6 = dst.is_ipv6();
        if is_v6 && self.lost_ipv6(netns) {
            return;
        }
        // A link that is down has lost its routes, the default one among them.
        let outward = ns.devices.values().filter(|d| d.kind != DeviceKind::Loopback);
        let mut any_up = false;
        let able: Vec<_> =
            outward.filter(|d| d.addresses.iter().any(|(a, _)| a.is_ipv6() == is_v6)).collect();
        any_up |= able.iter().any(|d| d.up);
        let effect = if any_up { Effect::MayStop } else { Effect::Stops };
        for dev in able.iter().filter(|d| !d.up) {
            let kind = ObstacleKind::DeviceDown { dev: dev.ifindex };
            self.hinder(effect, netns, Some(dev.ifindex), kind);
        }
        if let Some(lo) = self.conf.loopback(netns).filter(|lo| !lo.up && dst.is_loopback()) {
            let kind = ObstacleKind::DeviceDown { dev: lo.ifindex };
            self.hinder(Effect::Stops, netns, Some(lo.ifindex), kind);
        }
        let has_default = detail
            .routes
            .iter()
            .any(|r| r.dst.1 == 0 && r.dst.0.is_ipv6() == is_v6 && r.kind == RouteType::Unicast);
        if !any_up && self.flight.is_local && !self.has_address(netns, is_v6) {
            self.no_source(netns);
        } else if any_up || able.is_empty() {
            self.hinder(Effect::Stops, netns, None, ObstacleKind::NoRoute { dst, has_default });
        }
    }

    /// Devices that have lost what they had of IPv6, their routes among it.
    fn lost_ipv6(&mut self, netns: Inum) -> bool {
        let devices = self.conf.netns(netns).into_iter().flat_map(|n| n.devices.values());
        let outward = devices.filter(|d| d.kind != DeviceKind::Loopback && d.up);
        let lost: Vec<_> =
            outward.filter_map(|d| Some((d.ifindex, no_ipv6(self.conf, netns, d)?))).collect();
        // Said already, of the namespace as a whole.
        if self.conf.netns(netns).is_some_and(|n| !n.has_ipv6) {
            return true;
        }
        for (dev, kind) in &lost {
            self.hinder(Effect::Stops, netns, Some(*dev), kind.clone());
        }
        !lost.is_empty()
    }

    fn has_address(&self, netns: Inum, is_v6: bool) -> bool {
        let devices = self.conf.netns(netns).into_iter().flat_map(|n| n.devices.values());
        let mut addresses = devices.flat_map(|d| &d.addresses).filter(|(a, _)| !a.is_loopback());
        addresses.any(|(a, _)| a.is_ipv6() == is_v6)
    }

    fn no_source(&mut self, netns: Inum) -> Next {
        let devices = self.conf.netns(netns).into_iter().flat_map(|n| n.devices.values());
        let devices = devices.filter(|d| d.kind != DeviceKind::Loopback).map(|d| d.ifindex);
        let kind = ObstacleKind::NoSource { devices: devices.collect() };
        self.hinder(Effect::Stops, netns, None, kind);
        self.stop()
    }

    /// The device of the way: `lo` for what is for this namespace itself.
    pub(super) fn out_dev(&mut self, netns: Inum, way: &Way<'_>) -> Option<u32> {
        if way.route.kind == RouteType::Local {
            return self.conf.loopback(netns).map(|lo| lo.ifindex);
        }
        let dev = way.hop.dev?;
        if self.conf.device(netns, dev).is_none() {
            let kind = ObstacleKind::NoSuchDevice { route: Box::new(way.route.clone()), dev };
            self.hinder(Effect::Stops, netns, None, kind);
            return None;
        }
        Some(dev)
    }

    /// A packet from 127.0.0.0/8 may leave only with `route_localnet` (`__mkroute_output`).
    fn loopback_source(&mut self, netns: Inum, dev: u32) {
        let is_out = self.conf.device(netns, dev).is_some_and(|d| d.kind != DeviceKind::Loopback);
        let src = self.flight.tuple.src;
        if !is_out || !src.is_ipv4() || !src.is_loopback() {
            return;
        }
        let (value, sysctl) = self.conf.conf_max(netns, dev, "route_localnet");
        if value == 0 {
            let kind = ObstacleKind::RouteLocalnetOff { sysctl };
            self.hinder(Effect::Stops, netns, Some(dev), kind);
        }
    }

    /// Too long for the way that is known to the sender itself: it is told at once, or cuts.
    fn local_length(&mut self, netns: Inum, way: &Way<'_>, dev: u32) {
        let Some(mtu) = self.conf.device(netns, dev).map(|d| d.mtu) else { return };
        let mtu = way.route.mtu.filter(|m| *m > 0).map_or(mtu, |m| m.min(mtu));
        let len = self.flight.len;
        if mtu == 0 || len <= mtu {
            return;
        }
        let kind = if self.flight.df {
            ObstacleKind::TooLong { dev, mtu, len, tells_sender: true }
        } else {
            ObstacleKind::Fragmented { dev, mtu, len }
        };
        self.hinder(Effect::Degrades, netns, Some(dev), kind);
        self.flight.len = mtu;
    }

    /// IPsec policies of this direction.
    pub(super) fn ipsec(&mut self, netns: Inum, direction: &str) {
        let Some(detail) = self.conf.detail(netns) else { return };
        let t = self.flight.tuple;
        let fits = |p: &&crate::net::detail::XfrmPolicy| {
            p.direction == direction && contains(p.src, t.src) && contains(p.dst, t.dst)
        };
        let Some(policy) = detail.xfrm.iter().find(fits) else { return };
        let effect = match (policy.blocks, policy.has_template && direction != "out") {
            (true, _) => Effect::Stops,
            (false, true) => Effect::MayStop,
            (false, false) => return,
        };
        let kind = ObstacleKind::IpsecPolicy { policy: policy.clone() };
        self.hinder(effect, netns, None, kind);
    }
}

fn hop_text(hop: Option<&NextHop>) -> String {
    match hop {
        Some(NextHop { via: Some(via), .. }) => format!("via {via}"),
        Some(NextHop { dev: Some(dev), .. }) => format!("dev {dev}"),
        _ => String::new(),
    }
}
