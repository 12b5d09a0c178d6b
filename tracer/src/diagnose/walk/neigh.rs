//! The next hop's link-layer address: the entry that there is, or the question and the answer that
//! would make one.

use std::net::{IpAddr, Ipv6Addr};

use super::address::{bad_source, forwarding_off, no_ipv6, source_on, unverified, way_back};
use super::arp::{self, Message, Met};
use super::conf::Conf;
use super::l2::{self, CONFIGURED, Domain, Frame};
use super::stack::{below, is_macvlan, lower};
use super::verdict::{Discovery, discovery_filters};
use super::walker::Walker;
use super::{Effect, How, Leg, Obstacle, ObstacleKind, Place, What, snoop};
use crate::journey::Hook;
use crate::net::detail::{Neighbour, RouteType};
use crate::net::fib::{FibQuery, contains};
use crate::net::{Device, DeviceKind, Inum, Mac};

/// `NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE`: learned, and used.
const LEARNED: u16 = 0x02 | 0x04 | 0x08 | 0x10;

/// `NUD_PERMANENT`.
const PERMANENT: u16 = 0x80;

/// A device whose links have neighbours, so that it has to ask for them.
fn is_ethernet(device: &Device) -> bool {
    let is_macvlan = matches!(&device.kind, DeviceKind::Other(kind) if kind == "macvlan");
    is_macvlan || matches!(device.kind, DeviceKind::Veth | DeviceKind::Bridge)
}

/// Somebody who answers, or would.
struct Answer {
    at: (Inum, u32),
    mac: Mac,
    obstacles: Vec<Obstacle>,
}

impl Answer {
    fn stops(&self) -> usize {
        self.obstacles.iter().filter(|o| o.stops()).count()
    }
}

impl Walker<'_> {
    /// Finds the address of the frame to `addr` by `dev` and leaves a step. `false` when the walk
    /// cannot go on.
    pub(super) fn resolve(&mut self, netns: Inum, device: &Device, addr: IpAddr) -> bool {
        let dev = device.ifindex;
        self.flight.own_mac = device.mac;
        self.flight.mac = None;
        self.flight.written_mac = None;
        if device.kind == DeviceKind::Loopback || device.is_noarp && !is_ethernet(device) {
            return true;
        }
        let neighbours = self.conf.detail(netns).map_or(&[][..], |d| &d.neighbours);
        let entry = neighbours.iter().find(|n| n.dev == dev && n.addr == addr && !n.is_proxy);
        let neigh = |mac, how, answers| What::Neigh { addr, mac, how, answers };
        // What is not asked for gets the sender's own address (`arp_constructor`).
        let is_usable = |state: u16| !device.is_noarp || state & PERMANENT != 0;
        let known = entry.and_then(|e| Some((e.mac?, e.state))).filter(|(_, s)| is_usable(*s));
        if device.is_noarp && known.is_none() {
            self.step(netns, None, Some(dev), neigh(None, How::Unknown, None));
            self.hinder(Effect::Stops, netns, Some(dev), ObstacleKind::NoArp { dev });
        }
        if device.kind == DeviceKind::Vxlan && !self.floods(netns, dev) {
            return self.resolve_in_tunnel(netns, dev, addr, known);
        }
        let asker = self.asker(netns, dev, addr);
        let arp = Message::question(asker, device.mac, addr);
        let group = match addr {
            IpAddr::V6(addr) => Some(snoop::solicited(addr)),
            IpAddr::V4(_) => None,
        };
        let question = Frame { arp, group, ..Frame::QUESTION };
        let domain = l2::explore(self.conf, netns, dev, question);
        let mut answers = self.answers(netns, dev, addr, &domain);
        // Of two that do not answer, the device that has the address should.
        let has = |a: &Answer| {
            let device = self.conf.device(a.at.0, a.at.1);
            device.is_some_and(|d| d.addresses.iter().any(|(own, _)| *own == addr))
        };
        answers.sort_by_key(|a| (a.stops(), !has(a)));
        let actual = answers.first().map(|a| (a.mac, a.at));
        match known {
            Some((mac, state)) if state & (CONFIGURED | LEARNED) != 0 => {
                let is_right = answers.is_empty() || answers.iter().any(|a| a.mac == mac);
                let how = if state & CONFIGURED != 0 { How::Configured } else { How::Learned };
                let at = answers.iter().find(|a| a.mac == mac).map(|a| a.at);
                let goes_to = if is_right { Some(mac) } else { actual.map(|a| a.0) };
                self.step(netns, None, Some(dev), neigh(goes_to, how, at.or(actual.map(|a| a.1))));
                (self.flight.mac, self.flight.written_mac) = (goes_to, Some(mac));
                if !is_right {
                    let mut others = domain.arrivals.iter().map(|a| a.at);
                    let is_others = others.any(|at| self.conf.mac(at) == Some(mac));
                    let effect = match is_others || state & CONFIGURED != 0 {
                        true => Effect::Stops,
                        false => Effect::MayStop,
                    };
                    let entry = (addr, mac, state);
                    self.wrong_neighbour((netns, dev), effect, entry, actual.map(|a| a.0));
                }
            }
            _ => {
                let at = actual.map(|a| a.1);
                let how = if at.is_some() { How::Asked } else { How::Unknown };
                let mac = actual.map(|a| a.0);
                self.step(netns, None, Some(dev), neigh(mac, how, at));
                self.flight.mac = mac;
                if !self.asked(netns, dev, addr, entry, &domain, &answers) {
                    return false;
                }
            }
        }
        self.duplicates(netns, dev, addr, &domain, &answers);
        true
    }

    fn wrong_neighbour(
        &mut self,
        (netns, dev): (Inum, u32),
        effect: Effect,
        (addr, has, state): (IpAddr, Mac, u16),
        actual: Option<Mac>,
    ) {
        let is_permanent = state & CONFIGURED != 0;
        let kind = ObstacleKind::WrongNeighbour { addr, has, actual, is_permanent };
        self.hinder(effect, netns, Some(dev), kind);
    }

    /// What came of asking.
    fn asked(
        &mut self,
        netns: Inum,
        dev: u32,
        addr: IpAddr,
        entry: Option<&Neighbour>,
        domain: &Domain,
        answers: &[Answer],
    ) -> bool {
        if let Some(best) = answers.first() {
            for obstacle in &best.obstacles {
                self.hinder_with(obstacle.clone());
            }
            return true;
        }
        let place = Place { netns, dev: Some(dev) };
        let is_elsewhere = |at: &(Inum, u32)| at.0 != netns;
        let elsewhere: Vec<_> = self.conf.holders(addr).into_iter().filter(is_elsewhere).collect();
        // Nobody in view answers: somebody out of view may, unless who holds it is in view.
        if self.asks_by_tunnel(netns, dev, addr, &elsewhere)
            || self.asks_through_tunnel(addr, domain, &elsewhere)
        {
            return true;
        }
        if !domain.leaves.is_empty() && elsewhere.is_empty() {
            if let Some(entry) = entry {
                let kind = ObstacleKind::ResolutionFailed { addr, state: entry.state };
                self.hinder(Effect::MayStop, netns, Some(dev), kind);
            }
            return true;
        }
        let mut on_links = elsewhere.clone();
        on_links.retain(|at| self.is_on_a_link(*at, addr));
        let is_unplugged = on_links.into_iter().any(|far| self.unplugged((netns, dev), far));
        for &far in elsewhere.iter().filter(|_| !is_unplugged) {
            self.cut_off(netns, dev, addr, far);
        }
        let arrivals = domain.arrivals.iter().filter(|_| addr.is_ipv6() && elsewhere.is_empty());
        let mute: Vec<_> = arrivals
            .filter_map(|a| {
                let device = self.conf.device(a.at.0, a.at.1)?;
                Some((a.at, no_ipv6(self.conf, a.at.0, device)?))
            })
            .collect();
        // On a link of many that have no IPv6, it is not said which of them should.
        if let [(at, kind)] = &mute[..] {
            let place = Place { netns: at.0, dev: Some(at.1) };
            let kind = kind.clone();
            self.hinder_with(Obstacle { kind, effect: Effect::Stops, place, leg: Leg::Answer });
        }
        if !is_unplugged {
            for obstacle in self.silent_routers(domain, netns, addr) {
                self.hinder_with(obstacle);
            }
        }
        // The node's own is no pod, even where all else on the node is in namespaces.
        let own = self.conf.state.own;
        let bare = self.conf.all().filter(|n| n.inum != own && is_bare(n));
        let bare = bare.map(|n| n.inum).collect();
        let unaddressed = self.unaddressed(netns, addr, domain);
        let kind = ObstacleKind::NobodyAnswers { addr, elsewhere, bare, unaddressed };
        self.hinder_with(Obstacle { kind, effect: Effect::Stops, place, leg: Leg::Question });
        false
    }

    /// Ends of the link, no routers and no bridges, that have no address of the family of `addr`:
    /// one of them may be the one that is asked for.
    fn unaddressed(&self, netns: Inum, addr: IpAddr, domain: &Domain) -> Vec<(Inum, u32)> {
        let has_none = |at: &(Inum, u32)| {
            let Some(ns) = self.conf.netns(at.0).filter(|n| n.inum != netns) else { return false };
            let mut outward = ns.devices.values().filter(|d| d.kind != DeviceKind::Loopback);
            let Some(only) = outward.next().filter(|d| d.ifindex == at.1) else { return false };
            let is_same = |(a, _): &&(IpAddr, u8)| a.is_ipv4() == addr.is_ipv4();
            let is_global = |(a, _): &&(IpAddr, u8)| match a {
                IpAddr::V4(_) => true,
                IpAddr::V6(a) => !a.is_unicast_link_local(),
            };
            outward.next().is_none()
                && only.kind != DeviceKind::Bridge
                && !only.addresses.iter().filter(is_same).any(|a| is_global(&a))
        };
        domain.arrivals.iter().map(|a| a.at).filter(has_none).collect()
    }

    /// A tunnel that floods takes the question to its ends, as it does the packet: what stops the
    /// one stops the other, and is found by walking on to the end that has the address.
    fn asks_by_tunnel(
        &mut self,
        netns: Inum,
        dev: u32,
        addr: IpAddr,
        elsewhere: &[(Inum, u32)],
    ) -> bool {
        let is_tunnel = |(at, dev): (Inum, u32)| {
            self.conf.device(at, dev).is_some_and(|d| d.kind == DeviceKind::Vxlan)
        };
        let end = elsewhere.iter().copied().find(|at| is_tunnel(*at));
        let Some(end) = end.filter(|_| is_tunnel((netns, dev))) else { return false };
        let mac = self.conf.mac(end);
        self.flight.mac = mac;
        if let Some(step) = self.walk.steps.last_mut() {
            step.what = What::Neigh { addr, mac, how: How::Asked, answers: Some(end) };
        }
        // An entry that was learned may lead right while the question is flooded elsewhere.
        if let Some((entry, actual)) = self.wrong_flood(netns, dev, end) {
            let kind = ObstacleKind::WrongTunnelEntry { entry, actual };
            let place = Place { netns, dev: Some(dev) };
            self.hinder_with(Obstacle { kind, effect: Effect::Stops, place, leg: Leg::Question });
        }
        mac.is_some()
    }

    /// A tunnel joins the link to the one that the holder is on: the question goes through it, or the
    /// tunnel's end answers by what it was told.
    fn asks_through_tunnel(
        &mut self,
        addr: IpAddr,
        domain: &Domain,
        elsewhere: &[(Inum, u32)],
    ) -> bool {
        let vnis = |domain: &Domain| -> Vec<u32> {
            let ends = domain.leaves.iter().filter_map(|at| self.conf.device(at.0, at.1));
            ends.filter_map(|d| Some(d.vxlan?.vni)).collect()
        };
        let here = vnis(domain);
        let is_joined = |at: &&(Inum, u32)| {
            let there = l2::explore(self.conf, at.0, at.1, Frame::QUESTION);
            vnis(&there).iter().any(|vni| here.contains(vni))
        };
        let end = elsewhere.iter().find(|at| !here.is_empty() && is_joined(at)).copied();
        let Some(mac) = end.and_then(|at| self.conf.mac(at)) else { return false };
        self.flight.mac = Some(mac);
        if let Some(step) = self.walk.steps.last_mut() {
            step.what = What::Neigh { addr, mac: Some(mac), how: How::Asked, answers: end };
        }
        true
    }

    /// Why the holder is not on this link: its veth's other end is a port of no bridge, or of
    /// another one, beside the bridge that the question went through.
    fn cut_off(&mut self, netns: Inum, dev: u32, addr: IpAddr, (at, holder): (Inum, u32)) {
        let Some(device) = self.conf.device(at, holder) else { return };
        // What hangs on a bridge is the lowest device.
        let on_top = is_macvlan(device).then(|| lower(at, device)).flatten();
        let (at, holder) = on_top.or(below(at, device)).unwrap_or((at, holder));
        let Some(device) = self.conf.device(at, holder) else { return };
        let Some((host, end)) = self.conf.peer(at, device) else { return };
        // Routed to, by itself or by another bridge: no port of this one by design.
        let way = self.conf.lookup(host, &FibQuery::to(addr));
        if way.is_some_and(|found| found.dev == Some(end.ifindex) || found.dev == end.master) {
            return;
        }
        let asker = self.conf.device(netns, dev);
        let bridge = asker.and_then(|d| {
            if d.kind == DeviceKind::Bridge && netns == host {
                return Some(d.ifindex);
            }
            let (there, port) = self.conf.peer(netns, d)?;
            (there == host).then(|| self.conf.bridge_of(there, port)).flatten().map(|b| b.ifindex)
        });
        let Some(bridge) = bridge.filter(|b| end.master != Some(*b)) else { return };
        if let Some(other) = end.master.filter(|own| self.is_apart(host, *own, (bridge, addr))) {
            let kind = ObstacleKind::BridgesApart { bridge, other };
            return self.hinder(Effect::Stops, host, Some(bridge), kind);
        }
        let kind = ObstacleKind::NotAPort { dev: end.ifindex, bridge };
        self.hinder(Effect::Stops, host, Some(end.ifindex), kind);
    }

    /// The address is not alone on its device, so that others of its network are beside it.
    fn is_on_a_link(&self, (at, dev): (Inum, u32), addr: IpAddr) -> bool {
        let full = if addr.is_ipv4() { 32 } else { 128 };
        let device = self.conf.device(at, dev);
        device.is_some_and(|d| d.addresses.iter().any(|(a, len)| *a == addr && *len < full))
    }

    /// The bridge `own` of `host` has no address, and several that are on it are of one network with
    /// `addr`: a switch that others of that network should be joined to.
    fn is_apart(&self, host: Inum, own: u32, (bridge, addr): (u32, IpAddr)) -> bool {
        let has_none = |b: u32| {
            self.conf.device(host, b).is_some_and(|d| {
                d.kind == DeviceKind::Bridge && !d.addresses.iter().any(|(a, _)| a.is_ipv4())
            })
        };
        let ends = |b: u32| {
            let ports = self.conf.ports(host, b);
            let peers = ports.filter_map(|p| self.conf.peer(host, p));
            peers.flat_map(|(_, d)| &d.addresses).filter(|net| contains(**net, addr)).count()
        };
        has_none(own) && ends(own) > 1 && ends(bridge) > 0
    }

    /// Routers on the link that would answer for what lies behind them, were they told to. Who asks
    /// does not answer itself.
    fn silent_routers(&self, domain: &Domain, asker: Inum, addr: IpAddr) -> Vec<Obstacle> {
        let mut found = Vec::new();
        for arrival in &domain.arrivals {
            let (netns, dev) = arrival.at;
            if addr.is_ipv6() {
                found.extend(self.silent_proxy(arrival.at, asker, addr));
                continue;
            }
            let Some(device) = self.conf.device(netns, dev) else { continue };
            let routes = self.conf.netns(netns).is_some_and(|n| n.forwards_v4);
            let is_shared = device.kind == DeviceKind::Bridge
                || device.addresses.iter().any(|a| a.1 < 32 && a.0.is_ipv4());
            if netns == asker || !routes || is_shared || !addr.is_ipv4() {
                continue;
            }
            let place = Place { netns, dev: Some(dev) };
            let (is_on, _) = self.conf.conf_max(netns, dev, "proxy_arp");
            let kind = if is_on == 0 {
                let sysctl = format!("ipv4/conf/{}/proxy_arp", device.name);
                ObstacleKind::ProxyArpOff { sysctl, addr }
            } else {
                ObstacleKind::ProxyArpNoRoute { addr }
            };
            found.push(Obstacle { kind, effect: Effect::Stops, place, leg: Leg::Answer });
            found.extend(arrival.obstacles.iter().cloned());
        }
        found
    }

    /// A router that has a route of its own to an address that is asked for on the link.
    fn silent_proxy(&self, at: (Inum, u32), asker: Inum, addr: IpAddr) -> Option<Obstacle> {
        let (netns, dev) = at;
        let router = self.conf.netns(netns).filter(|n| n.forwards_v6 && netns != asker)?;
        let query = FibQuery { iif: Some(dev), ..FibQuery::to(addr) };
        let found = self.conf.lookup(router.inum, &query)?;
        let is_its = found.route.is_some_and(|r| r.dst.1 > 0 && r.kind == RouteType::Unicast);
        if !is_its || found.dev == Some(dev) {
            return None;
        }
        let kind = ObstacleKind::ProxyNdpOff { addr, sysctl: proxy_ndp_off(self.conf, at) };
        let place = Place { netns, dev: Some(dev) };
        Some(Obstacle { kind, effect: Effect::Stops, place, leg: Leg::Answer })
    }

    fn duplicates(
        &mut self,
        netns: Inum,
        dev: u32,
        addr: IpAddr,
        domain: &Domain,
        answers: &[Answer],
    ) {
        // One host may answer by several of its devices: it is reached by each of them.
        let mut open: Vec<_> = answers.iter().filter(|a| a.stops() == 0).collect();
        open.sort_by_key(|a| a.at);
        open.dedup_by_key(|a| a.at.0);
        let macs: std::collections::BTreeSet<_> = open.iter().map(|a| a.mac).collect();
        // Two devices of one namespace answer for the same host, whichever is faster.
        let hosts: std::collections::BTreeSet<_> = open.iter().map(|a| a.at.0).collect();
        if macs.len() > 1 && hosts.len() > 1 {
            let holders = open.iter().map(|a| a.at).collect();
            let kind = ObstacleKind::DuplicateAddress { addr, holders };
            self.hinder(Effect::MayStop, netns, Some(dev), kind);
        }
        let Some(mac) = self.flight.mac else { return };
        let same = |at: &(Inum, u32)| self.conf.mac(*at) == Some(mac);
        let mut holders: Vec<_> = domain.arrivals.iter().map(|a| a.at).filter(same).collect();
        if self.conf.mac((netns, dev)) == Some(mac) {
            holders.push((netns, dev));
        }
        // What lies on another device has its address from that, and is no second host.
        let mut seen = std::collections::BTreeSet::new();
        holders.retain(|at| seen.insert(self.conf.lowest(*at)));
        if holders.len() > 1 {
            let kind = ObstacleKind::DuplicateMac { mac, holders };
            self.hinder(Effect::MayStop, netns, Some(dev), kind);
        }
    }

    /// Everybody on the link who has the address or answers for it.
    fn answers(&self, netns: Inum, dev: u32, addr: IpAddr, domain: &Domain) -> Vec<Answer> {
        let asker = self.asker(netns, dev, addr);
        let mut found = Vec::new();
        for arrival in &domain.arrivals {
            let Some(why_not) = answers_for(self.conf, arrival.at, addr, asker) else { continue };
            let Some(mac) = self.conf.mac(arrival.at) else { continue };
            let mut obstacles = arrival.obstacles.clone();
            snoop::explain(self.conf, arrival.at, &mut obstacles);
            let place = Place { netns: arrival.at.0, dev: Some(arrival.at.1) };
            let answer = |kind| Obstacle { kind, effect: Effect::Stops, place, leg: Leg::Answer };
            obstacles.extend(why_not.into_iter().map(answer));
            let question = Message::question(asker, self.conf.mac((netns, dev)), addr);
            let answer = question.map(|question| question.answered_by(mac));
            let (near, far) = ((netns, dev), arrival.at);
            for (message, from, to) in [(question, near, far), (answer, far, near)] {
                let Some(message) = message else { continue };
                for (hook, (at, dev)) in [(Hook::Output, from), (Hook::Input, to)] {
                    let met = Met::Host(hook, dev);
                    obstacles.extend(arp::filters(self.conf, at, met, message));
                }
            }
            if let (IpAddr::V6(target), Some(asker)) = (addr, asker) {
                obstacles.extend(self.discovery((netns, dev), arrival.at, target, asker));
            }
            obstacles.extend(self.way_back(arrival.at, (netns, dev), answer));
            found.push(Answer { at: arrival.at, mac, obstacles });
        }
        found
    }

    /// What the rules of both ends do with the question and the answer of neighbour discovery.
    fn discovery(
        &self,
        from: (Inum, u32),
        to: (Inum, u32),
        target: Ipv6Addr,
        asker: IpAddr,
    ) -> Vec<Obstacle> {
        let question = Discovery { kind: 135, src: asker, dst: snoop::solicited(target) };
        let answer = Discovery { kind: 136, src: target.into(), dst: asker };
        let met = [
            (from, Hook::Output, question),
            (to, Hook::Input, question),
            (to, Hook::Output, answer),
            (from, Hook::Input, answer),
        ];
        let met = met.into_iter();
        met.flat_map(|(at, hook, message)| discovery_filters(self.conf, at, hook, message))
            .collect()
    }

    /// The source address of the question (`arp_solicit` with `arp_announce` 0).
    fn asker(&self, netns: Inum, dev: u32, addr: IpAddr) -> Option<IpAddr> {
        let src = self.flight.tuple.src;
        if self.flight.is_local && self.conf.is_local(netns, src) {
            return Some(src);
        }
        source_on(self.conf, netns, dev, addr)
    }

    /// What is in the way of the answer.
    fn way_back(&self, from: (Inum, u32), to: (Inum, u32), arp: Option<Message>) -> Vec<Obstacle> {
        let frame = Frame { to: self.conf.mac(to), leg: Leg::Answer, arp, group: None };
        let domain = l2::explore(self.conf, from.0, from.1, frame);
        let back = domain.arrivals.into_iter().find(|a| a.at == to);
        back.map_or_else(Vec::new, |a| a.obstacles)
    }

    /// The device floods what it has no entry for.
    fn floods(&self, netns: Inum, dev: u32) -> bool {
        let vxlan = self.conf.device(netns, dev).and_then(|d| d.vxlan);
        let fdb = self.conf.detail(netns).map_or(&[][..], |d| &d.fdb);
        vxlan.is_some_and(|v| v.remote.is_some())
            || fdb.iter().any(|e| e.dev == dev && e.mac == [0; 6] && e.remote.is_some())
    }

    /// A tunnel that cannot ask needs an entry.
    fn resolve_in_tunnel(
        &mut self,
        netns: Inum,
        dev: u32,
        addr: IpAddr,
        known: Option<(Mac, u16)>,
    ) -> bool {
        let ends = self.conf.holders(addr);
        let is_end = |at: &&(Inum, u32)| {
            at.0 != netns
                && self.conf.device(at.0, at.1).is_some_and(|d| d.kind == DeviceKind::Vxlan)
        };
        let end = ends.iter().find(is_end).copied();
        let actual = end.and_then(|at| self.conf.mac(at));
        let usable = known.filter(|(_, state)| state & (CONFIGURED | LEARNED) != 0);
        let how = if usable.is_some() { How::Configured } else { How::Unknown };
        let mac = actual.or(usable.map(|u| u.0));
        self.step(netns, None, Some(dev), What::Neigh { addr, mac, how, answers: end });
        self.flight.mac = mac;
        self.flight.written_mac = usable.map(|u| u.0);
        match (usable, actual) {
            (Some((has, state)), Some(actual)) if has != actual => {
                let entry = (addr, has, state | CONFIGURED);
                self.wrong_neighbour((netns, dev), Effect::Stops, entry, Some(actual));
            }
            (Some(_), _) => {}
            (None, _) => {
                let kind = ObstacleKind::NoNeighbour { addr };
                self.hinder(Effect::Stops, netns, Some(dev), kind);
            }
        }
        mac.is_some()
    }
}

/// Nothing but `lo` is left in it, though it is no mere file: a container without its link.
fn is_bare(netns: &crate::net::Netns) -> bool {
    netns.devices.values().all(|d| d.kind == DeviceKind::Loopback)
}

/// The namespace of `at` has the address, or answers for it: what keeps it from doing so. `None`
/// when the address is no business of its.
fn answers_for(
    conf: Conf<'_>,
    at: (Inum, u32),
    addr: IpAddr,
    asker: Option<IpAddr>,
) -> Option<Vec<ObstacleKind>> {
    let (netns, dev) = at;
    let device = conf.device(netns, dev)?;
    let has = |d: &Device| d.addresses.iter().any(|(a, _)| *a == addr);
    if addr.is_ipv6() {
        let unverified = || unverified(conf, netns, addr).map(|(_, kind)| kind);
        return match has(device) {
            true => Some(unverified().into_iter().collect()),
            false => proxies6(conf, at, addr).then(Vec::new),
        };
    }
    if !has(device) && !conf.is_local(netns, addr) {
        return proxies(conf, at, addr, asker).then(Vec::new);
    }
    let mut found = Vec::new();
    if device.is_noarp {
        found.push(ObstacleKind::NoArp { dev });
    }
    let (value, sysctl) = conf.conf_max(netns, dev, "arp_ignore");
    let on_subnet = || {
        let own = device.addresses.iter().filter(|(a, _)| *a == addr);
        own.clone().any(|p| asker.is_none_or(|a| contains(*p, a)))
    };
    // arp_ignore() of net/ipv4/arp.c; 3 asks for the address's scope, which is not known here.
    let ignores = match value {
        1 => !has(device),
        2 => !on_subnet(),
        8 => true,
        _ => false,
    };
    if ignores {
        found.push(ObstacleKind::ArpIgnore { sysctl, value });
    }
    let Some(asker) = asker else { return Some(found) };
    let (filters, sysctl) = conf.conf_max(netns, dev, "arp_filter");
    if filters != 0 && way_back(conf, netns, asker, addr) != Some(dev) {
        found.push(ObstacleKind::ArpFilter { sysctl });
    }
    // arp_process() asks ip_route_input_noref(), which validates the asker's address.
    found.extend(bad_source(conf, netns, dev, (asker, addr), 0));
    Some(found)
}

/// An entry `ip -6 neigh add proxy`, where `proxy_ndp` has them looked at (`ndisc_recv_ns`).
fn proxies6(conf: Conf<'_>, (netns, dev): (Inum, u32), addr: IpAddr) -> bool {
    let Some(detail) = conf.detail(netns) else { return false };
    let has_entry = detail.neighbours.iter().any(|n| n.is_proxy && n.addr == addr && n.dev == dev);
    has_entry && proxy_ndp_off(conf, (netns, dev)).is_none()
}

/// The setting by which a device does not answer for others.
fn proxy_ndp_off(conf: Conf<'_>, (netns, dev): (Inum, u32)) -> Option<String> {
    let own = format!("ipv6/conf/{}/proxy_ndp", conf.name(netns, dev));
    let is_on = |path: &str| conf.sysctl(netns, path).is_some_and(|v| v != 0);
    (!is_on("ipv6/conf/all/proxy_ndp") && !is_on(&own)).then_some(own)
}

/// `proxy_arp`, or an entry `ip neigh add proxy`, and a route that does not lead back
/// (`arp_fwd_proxy`).
fn proxies(conf: Conf<'_>, (netns, dev): (Inum, u32), addr: IpAddr, asker: Option<IpAddr>) -> bool {
    let Some(detail) = conf.detail(netns) else { return false };
    let has_entry = detail.neighbours.iter().any(|n| n.is_proxy && n.addr == addr && n.dev == dev);
    let is_on = conf.conf_max(netns, dev, "proxy_arp").0 != 0;
    if !(has_entry || is_on) || forwarding_off(conf, netns, dev, addr).is_some() {
        return false;
    }
    let query = FibQuery { src: asker, iif: Some(dev), ..FibQuery::to(addr) };
    let Some(found) = conf.lookup(netns, &query) else { return false };
    let leads_away = found.dev != Some(dev);
    let is_valid = asker.is_none_or(|a| bad_source(conf, netns, dev, (a, addr), 0).is_none());
    found.kind == Some(RouteType::Unicast) && leads_away && is_valid
}
