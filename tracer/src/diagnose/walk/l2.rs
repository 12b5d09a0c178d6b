//! The link layer as a graph: whom a frame reaches through veth pairs and bridges, and what is in
//! its way to each of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::arp::{self, Message, Met};
use super::conf::Conf;
use super::stack::{below, is_macvlan, lower};
use super::vlan::{self, Vid};
use super::{Effect, Flood, Leg, Obstacle, ObstacleKind, Place, snoop};
use crate::journey::Hook;
use crate::net::detail::FdbEntry;
use crate::net::{Device, DeviceKind, Inum, Mac};

/// `BR_STATE_FORWARDING`.
pub(super) const FORWARDING: u8 = 3;
/// `NUD_PERMANENT | NUD_NOARP`: configured, not learned.
pub(super) const CONFIGURED: u16 = 0x80 | 0x40;
/// `NUD_NOARP`: configured, and not for the bridge itself.
pub(super) const STATIC: u16 = 0x40;

/// Where a frame arrives: a device whose namespace takes it for itself.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) at: (Inum, u32),
    pub(super) obstacles: Vec<Obstacle>,
}

/// Everything that a frame reaches.
#[derive(Clone, Debug, Default)]
pub(super) struct Domain {
    pub(super) arrivals: Vec<Arrival>,
    /// Devices by which it goes on to where nothing is known.
    pub(super) leaves: Vec<(Inum, u32)>,
}

/// A frame: to one address, or to everybody.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) to: Option<Mac>,
    pub(super) leg: Leg,
    /// What it says, where rules are to be asked about it.
    pub(super) arp: Option<Message>,
    /// The group that it is for, where it is not for everybody.
    pub(super) group: Option<IpAddr>,
}

impl Frame {
    pub(super) const QUESTION: Self = Self { to: None, leg: Leg::Question, arp: None, group: None };
}

/// A frame's way so far.
#[derive(Clone, Default)]
struct Trail {
    obstacles: Vec<Obstacle>,
    /// Its VLAN tag.
    tag: Option<u16>,
    /// Who put that on, or left it on.
    tagger: Option<(Inum, u32)>,
}

impl Trail {
    fn push(&mut self, obstacle: Obstacle) {
        self.obstacles.push(obstacle);
    }

    fn extend(&mut self, obstacles: impl IntoIterator<Item = Obstacle>) {
        self.obstacles.extend(obstacles);
    }
}

/// Sends `frame` out by `dev`.
pub(super) fn explore(conf: Conf<'_>, netns: Inum, dev: u32, frame: Frame) -> Domain {
    let own = conf.mac((netns, dev));
    let (seen, domain) = (BTreeSet::new(), Domain::default());
    let mut search = Search { conf, frame, own, seen, domain };
    search.send(netns, dev, &Trail::default());
    search.domain
}

/// Somebody with the address `mac` is reached by a frame that leaves by `dev`, whatever is in the
/// way; `None` when the frame also leaves the view, so that nobody knows.
pub(super) fn leads_to(conf: Conf<'_>, netns: Inum, dev: u32, mac: Mac) -> Option<bool> {
    let domain = explore(conf, netns, dev, Frame::QUESTION);
    let is_there = domain.arrivals.iter().any(|a| takes(conf, a.at, mac));
    if is_there || domain.leaves.is_empty() { Some(is_there) } else { None }
}

/// The device takes frames to `mac`.
pub(super) fn takes(conf: Conf<'_>, (netns, dev): (Inum, u32), mac: Mac) -> bool {
    let Some(device) = conf.device(netns, dev) else { return false };
    device.mac == Some(mac)
        || device.kind == DeviceKind::Bridge && conf.is_bridges_own(netns, device, mac)
}

/// The forwarding entry of a bridge for `mac` in VLAN `vid`, other than the addresses of its own
/// ports.
pub(super) fn fdb<'a>(
    conf: Conf<'a>,
    netns: Inum,
    bridge: u32,
    (mac, vid): (Mac, Vid),
) -> Option<&'a FdbEntry> {
    let entries = conf.detail(netns)?.fdb.iter().filter(|e| e.bridge == Some(bridge));
    let entries = entries.filter(|e| e.mac == mac && e.dev != bridge);
    let mut entries = entries.filter(|e| vid.is_none() || e.vlan == vid);
    entries.find(|e| conf.device(netns, e.dev).is_some_and(|p| p.mac != Some(mac)))
}

/// XDP programs and tc filters on the way in or out of a device. What a program does is not known
/// from configuration.
pub(super) fn programs(
    conf: Conf<'_>,
    netns: Inum,
    dev: &Device,
    is_ingress: bool,
) -> Vec<(Effect, ObstacleKind)> {
    let mut found = Vec::new();
    if let (true, Some(xdp)) = (is_ingress, dev.xdp) {
        found.push((Effect::MayStop, ObstacleKind::XdpProgram { dev: dev.ifindex, xdp }));
    }
    let filters = conf.detail(netns).map_or(&[][..], |d| &d.tc);
    for filter in filters.iter().filter(|f| f.dev == dev.ifindex && f.is_ingress == is_ingress) {
        let is_program = ["bpf", "tcx", "netkit"].contains(&filter.kind.as_str());
        let effect = match (filter.drops, filter.kind.as_str()) {
            (true, "matchall") => Effect::Stops,
            (true, _) => Effect::MayStop,
            (false, "blackhole") => Effect::Stops,
            (false, _) if is_program || filter.is_queue() => Effect::MayStop,
            (false, _) => continue,
        };
        found.push((effect, ObstacleKind::TcProgram { filter: filter.clone() }));
    }
    found
}

/// What a port of a bridge does to a frame that leaves by it.
pub(super) fn out_of_port(
    port: &Device,
    in_port: Option<&Device>,
    flood: Option<Flood>,
) -> Vec<ObstacleKind> {
    let Some(settings) = port.port else { return Vec::new() };
    let mut found = Vec::new();
    if settings.state != FORWARDING {
        found.push(ObstacleKind::PortState { port: port.ifindex, state: settings.state });
    }
    if let Some(from) = in_port {
        if from.ifindex == port.ifindex && !settings.hairpin {
            found.push(ObstacleKind::HairpinOff { port: port.ifindex });
        }
        let is_isolated = from.port.is_some_and(|p| p.isolated) && settings.isolated;
        if is_isolated && from.ifindex != port.ifindex {
            let (from, to) = (from.ifindex, port.ifindex);
            found.push(ObstacleKind::PortsIsolated { from, to });
        }
    }
    let is_off = match flood {
        Some(Flood::Broadcast) => !settings.broadcast_flood,
        Some(Flood::Multicast) => !settings.multicast_flood,
        Some(Flood::Unicast) => !settings.unicast_flood,
        None => false,
    };
    if let Some(flood) = flood.filter(|_| is_off) {
        found.push(ObstacleKind::FloodOff { port: port.ifindex, flood });
    }
    found
}

/// The locked port drops what comes in by it from `mac` (`br_handle_frame_finish`).
pub(super) fn locked(
    conf: Conf<'_>,
    netns: Inum,
    port: &Device,
    mac: Option<Mac>,
) -> Option<ObstacleKind> {
    let mac = mac.filter(|_| port.port.is_some_and(|p| p.locked))?;
    let mut entries = conf.detail(netns)?.fdb.iter();
    let is_known = entries.any(|e| e.mac == mac && e.dev == port.ifindex && e.bridge.is_some());
    (!is_known).then_some(ObstacleKind::PortLocked { port: port.ifindex, mac })
}

/// What keeps two macvlans on one device apart: only those in mode `bridge` are handed each other's
/// frames (`macvlan_queue_xmit`, `macvlan_multicast_rx`).
pub(super) fn apart(a: (Inum, &Device), b: (Inum, &Device)) -> Option<(Effect, ObstacleKind)> {
    let of = |(at, d): (Inum, &Device)| Some(((at, d.ifindex), d.macvlan?));
    let mut apart: Vec<_> =
        [a, b].into_iter().filter_map(of).filter(|(_, mode)| *mode != "bridge").collect();
    // The answer meets the same two the other way round.
    apart.sort_unstable();
    // The switch behind the device may send frames of mode `vepa` back.
    let is_certain = apart.iter().any(|(_, mode)| *mode == "private");
    let effect = if is_certain { Effect::Stops } else { Effect::MayStop };
    (!apart.is_empty()).then_some((effect, ObstacleKind::SiblingsApart { apart }))
}

struct Search<'a> {
    conf: Conf<'a>,
    frame: Frame,
    /// Source of the frame.
    own: Option<Mac>,
    seen: BTreeSet<(Inum, u32)>,
    domain: Domain,
}

impl<'a> Search<'a> {
    fn found(&self, netns: Inum, dev: u32, (effect, kind): (Effect, ObstacleKind)) -> Obstacle {
        let place = Place { netns, dev: Some(dev) };
        Obstacle { kind, effect, place, leg: self.frame.leg }
    }

    fn filters(&self, netns: Inum, met: Met) -> Vec<Obstacle> {
        let message = self.frame.arp.into_iter();
        message.flat_map(|message| arp::filters(self.conf, netns, met, message)).collect()
    }

    fn down(&self, netns: Inum, dev: &Device) -> Option<Obstacle> {
        let kind = match dev.kind {
            DeviceKind::Bridge => ObstacleKind::BridgeDown { bridge: dev.ifindex },
            _ => ObstacleKind::DeviceDown { dev: dev.ifindex },
        };
        (!dev.up).then(|| self.found(netns, dev.ifindex, (Effect::Stops, kind)))
    }

    /// Out by `dev`, with what was in the way so far.
    fn send(&mut self, netns: Inum, dev: u32, way: &Trail) {
        let Some(device) = self.conf.device(netns, dev) else { return };
        let mut way = way.clone();
        way.extend(self.down(netns, device));
        for program in programs(self.conf, netns, device, false) {
            way.push(self.found(netns, dev, program));
        }
        way.extend(self.filters(netns, Met::Device { dev, is_ingress: false }));
        if !is_macvlan(device) {
            // Devices on top of this one do not see what it sends itself.
            for (at, child) in self.conf.children(netns, dev) {
                let isolated = ObstacleKind::ParentIsolated { dev: child.ifindex, parent: dev };
                let mut way = way.clone();
                way.push(self.found(at, child.ifindex, (Effect::Stops, isolated)));
                if self.seen.insert((at, child.ifindex)) {
                    self.arrive(at, child.ifindex, way.obstacles);
                }
            }
        }
        match &device.kind {
            DeviceKind::Bridge => self.bridge(netns, device, None, way),
            DeviceKind::Veth => match self.conf.peer(netns, device) {
                Some((at, peer)) => self.receive(at, peer, way),
                None => self.domain.leaves.push((netns, dev)),
            },
            DeviceKind::Loopback => {}
            DeviceKind::Other(_) if is_macvlan(device) => self.send_by_lower(netns, device, &way),
            DeviceKind::Other(_) if way.tag.is_none() && below(netns, device).is_some() => {
                let Some((at, lower)) = below(netns, device) else { return };
                self.seen.insert((netns, dev));
                (way.tag, way.tagger) = (device.vlan, Some((netns, dev)));
                self.send(at, lower, &way);
            }
            DeviceKind::Physical | DeviceKind::Vxlan | DeviceKind::Other(_) => {
                self.domain.leaves.push((netns, dev));
            }
        }
    }

    fn send_by_lower(&mut self, netns: Inum, child: &Device, way: &Trail) {
        let Some((at, parent)) = lower(netns, child) else {
            self.domain.leaves.push((netns, child.ifindex));
            return;
        };
        self.seen.insert((netns, child.ifindex));
        for (sibling_at, sibling) in self.conf.children(at, parent) {
            if self.seen.insert((sibling_at, sibling.ifindex)) {
                let mut way = way.clone();
                let apart = apart((netns, child), (sibling_at, sibling));
                way.extend(apart.map(|found| self.found(netns, child.ifindex, found)));
                self.arrive(sibling_at, sibling.ifindex, way.obstacles);
            }
        }
        let Some(device) = self.conf.device(at, parent) else {
            self.domain.leaves.push((netns, child.ifindex));
            return;
        };
        if self.seen.insert((at, parent)) {
            let isolated = ObstacleKind::ParentIsolated { dev: child.ifindex, parent };
            let mut own = way.obstacles.clone();
            own.push(self.found(at, parent, (Effect::Stops, isolated)));
            self.arrive(at, parent, own);
        }
        match self.conf.peer(at, device) {
            Some((there, peer)) if device.kind == DeviceKind::Veth => {
                let mut way = way.clone();
                way.extend(self.down(at, device));
                self.receive(there, peer, way);
            }
            _ => self.domain.leaves.push((at, parent)),
        }
    }

    /// In by `dev`.
    fn receive(&mut self, netns: Inum, dev: &'a Device, mut way: Trail) {
        if !self.seen.insert((netns, dev.ifindex)) {
            return;
        }
        way.extend(self.down(netns, dev));
        for program in programs(self.conf, netns, dev, true) {
            way.push(self.found(netns, dev.ifindex, program));
        }
        way.extend(self.filters(netns, Met::Device { dev: dev.ifindex, is_ingress: true }));
        if let Some((at, child)) =
            way.tag.and_then(|tag| vlan::subinterface(self.conf, netns, dev.ifindex, tag))
        {
            (way.tag, way.tagger) = (None, None);
            self.receive(at, child, way);
            return;
        }
        if let Some(bridge) = self.conf.bridge_of(netns, dev) {
            self.bridge(netns, bridge, Some(dev), way);
            return;
        }
        if let Some(vid) = way.tag {
            let kind = ObstacleKind::UnknownTag { dev: dev.ifindex, vid, sent: way.tagger };
            way.push(self.found(netns, dev.ifindex, (Effect::Stops, kind)));
            let all = self.conf.all().flat_map(|n| n.devices.values().map(move |d| (n.inum, d)));
            for (at, child) in all {
                if below(at, child) == Some((netns, dev.ifindex)) {
                    self.arrive(at, child.ifindex, way.obstacles.clone());
                }
            }
        }
        for (at, child) in self.conf.children(netns, dev.ifindex) {
            if self.seen.insert((at, child.ifindex)) {
                self.arrive(at, child.ifindex, way.obstacles.clone());
            }
        }
        self.arrive(netns, dev.ifindex, way.obstacles);
    }

    fn arrive(&mut self, netns: Inum, dev: u32, obstacles: Vec<Obstacle>) {
        self.domain.arrivals.push(Arrival { at: (netns, dev), obstacles });
    }

    fn bridge(&mut self, netns: Inum, bridge: &'a Device, from: Option<&Device>, mut way: Trail) {
        let (vid, obstacle) =
            vlan::enter(self.conf, netns, bridge, from.unwrap_or(bridge), way.tag);
        let came_by = from.map_or(bridge.ifindex, |f| f.ifindex);
        if let Some(port) = from {
            way.extend(self.down(netns, bridge));
            if let Some(settings) = port.port.filter(|p| p.state != FORWARDING) {
                let kind = ObstacleKind::PortState { port: port.ifindex, state: settings.state };
                // Ports of a bridge that is down are all disabled: that follows from it.
                if bridge.up {
                    way.push(self.found(netns, port.ifindex, (Effect::Stops, kind)));
                }
            }
            let locked = locked(self.conf, netns, port, self.own);
            way.extend(locked.map(|kind| self.found(netns, came_by, (Effect::Stops, kind))));
            way.extend(self.filters(netns, Met::Bridge(Hook::Prerouting, Some(came_by), None)));
            way.extend(obstacle.map(|k| self.found(netns, came_by, (Effect::Stops, k))));
            if self.seen.insert((netns, bridge.ifindex)) {
                let mut up = self.out_of(netns, bridge, (came_by, bridge), (vid, &way));
                up.extend(self.filters(netns, Met::Bridge(Hook::Input, Some(came_by), None)));
                self.up(netns, bridge, up);
            }
        } else {
            way.extend(obstacle.map(|k| self.found(netns, came_by, (Effect::Stops, k))));
            self.seen.insert((netns, bridge.ifindex));
        }
        let entry = self.frame.to.and_then(|mac| fdb(self.conf, netns, bridge.ifindex, (mac, vid)));
        let flood = match (self.frame.to, entry) {
            (None, _) if self.frame.group.is_some() => Some(Flood::Multicast),
            (None, _) => Some(Flood::Broadcast),
            (Some(_), None) => Some(Flood::Unicast),
            (Some(_), Some(_)) => None,
        };
        let ports: Vec<&Device> = self.conf.ports(netns, bridge.ifindex).collect();
        for port in ports {
            if from.is_some_and(|f| f.ifindex == port.ifindex) {
                continue;
            }
            let mut way = self.out_of(netns, bridge, (came_by, port), (vid, &way));
            let hook = if from.is_some() { Hook::Forward } else { Hook::Output };
            let in_port = from.map(|f| f.ifindex);
            for hook in [hook, Hook::Postrouting] {
                let in_port = in_port.filter(|_| hook == Hook::Forward);
                way.extend(self.filters(netns, Met::Bridge(hook, in_port, Some(port.ifindex))));
            }
            if !bridge.up && from.is_none() {
                // Said already, by the device that sends.
            } else if bridge.up && port.up {
                let group = self.frame.group;
                let left_out =
                    group.and_then(|g| snoop::left_out(self.conf, netns, (bridge, port), g));
                for kind in out_of_port(port, from, flood).into_iter().chain(left_out) {
                    way.push(self.found(netns, port.ifindex, (Effect::Stops, kind)));
                }
            }
            if let Some(entry) = entry.filter(|e| e.dev != port.ifindex) {
                let effect =
                    if entry.state & CONFIGURED != 0 { Effect::Stops } else { Effect::MayStop };
                let kind =
                    ObstacleKind::FdbElsewhere { entry: entry.clone(), actual: Some(port.ifindex) };
                way.push(self.found(netns, port.ifindex, (effect, kind)));
            }
            self.send(netns, port.ifindex, &way);
        }
    }
    /// Out of a bridge by a port, with the tag that its VLAN has there.
    fn out_of(
        &self,
        netns: Inum,
        bridge: &Device,
        (from, port): (u32, &Device),
        (vid, way): (Vid, &Trail),
    ) -> Trail {
        let mut way = way.clone();
        let (tag, obstacle) = vlan::leave(self.conf, netns, bridge, (from, port), (vid, way.tag));
        if tag.is_some() && tag != way.tag {
            way.tagger = Some((netns, port.ifindex));
        }
        way.tag = tag;
        way.extend(obstacle.map(|k| self.found(netns, port.ifindex, (Effect::Stops, k))));
        way
    }

    /// To the bridge's own namespace: a tagged frame to the subinterface of that VLAN.
    fn up(&mut self, netns: Inum, bridge: &Device, mut way: Trail) {
        let Some(tag) = way.tag else {
            return self.arrive(netns, bridge.ifindex, way.obstacles);
        };
        if let Some((at, child)) = vlan::subinterface(self.conf, netns, bridge.ifindex, tag) {
            (way.tag, way.tagger) = (None, None);
            return self.receive(at, child, way);
        }
        let kind = ObstacleKind::UnknownTag { dev: bridge.ifindex, vid: tag, sent: way.tagger };
        way.push(self.found(netns, bridge.ifindex, (Effect::Stops, kind)));
        self.arrive(netns, bridge.ifindex, way.obstacles);
    }
}
