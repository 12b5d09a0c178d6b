//! The word that a packet is too long ("fragmentation needed", "packet too big") on its way back to
//! the sender, and what it meets there: rules of hosts and of bridges, and what looks at its source.

use std::net::IpAddr;

use super::address::{bad_source, source_on};
use super::verdict::filtered;
use super::walker::Walker;
use super::{Effect, Leg, Obstacle, ObstacleKind, Place, Step, What};
use crate::firewall::{self, At, Packet, Stateful};
use crate::journey::Hook;
use crate::net::Inum;

/// A hook that it passes: in by one device, out by the other.
#[derive(Clone, Copy)]
struct Passed {
    netns: Inum,
    hook: Hook,
    iif: Option<u32>,
    oif: Option<u32>,
    /// In a bridge, by its own rules, from port to port.
    is_bridged: bool,
}

impl Walker<'_> {
    /// What keeps the sender from hearing of it when the router `netns` sends it by `dev`. It goes
    /// back where the packet came from.
    pub(super) fn unheard(&self, netns: Inum, dev: u32) -> Option<Obstacle> {
        let dst = self.flight.tuple.src;
        let src = source_on(self.conf, netns, dev, dst)?;
        let (proto, icmp) = if dst.is_ipv4() { (1, (3, 4)) } else { (58, (2, 0)) };
        let word =
            Packet { icmp: Some(icmp), ct: Stateful::Related, ..Packet::new(src, dst, proto) };
        let sent = [Hook::Output, Hook::Postrouting];
        let sent =
            sent.map(|hook| Passed { netns, hook, iif: None, oif: Some(dev), is_bridged: false });
        let own = sent.into_iter().find_map(|at| self.stops_word(at, &word));
        // Inside of a tunnel it goes to the tunnel's end, which tells its own senders.
        if own.is_some() || !self.inside.is_empty() {
            return own;
        }
        self.passed_through().rev().find_map(|step| {
            passed(step).into_iter().find_map(|at| {
                let dst = match at.hook {
                    Hook::Prerouting if !at.is_bridged => self.left_as(step),
                    _ => step.tuple.src,
                };
                let stops = || self.stops_word(at, &Packet { dst, ..word });
                self.strange_source(at, (src, dst)).or_else(stops)
            })
        })
    }

    /// Whoever takes it looks for a way back to the router that sends it.
    fn strange_source(&self, at: Passed, (src, dst): (IpAddr, IpAddr)) -> Option<Obstacle> {
        let dev = at.iif.filter(|_| at.hook == Hook::Prerouting && !at.is_bridged)?;
        let kind = bad_source(self.conf, at.netns, dev, (src, dst), 0)?;
        let place = Place { netns: at.netns, dev: Some(dev) };
        let is_filter = matches!(kind, ObstacleKind::ReversePath { .. });
        is_filter.then_some(Obstacle { kind, effect: Effect::Stops, place, leg: Leg::Error })
    }

    /// The source that the packet had when it left: what comes back is for that, until it is
    /// translated.
    fn left_as(&self, step: &Step) -> IpAddr {
        let src = step.tuple.src;
        let own = self.walk.nat.iter().filter(|n| n.netns == step.netns && n.before.src == src);
        own.map(|n| n.after.src).next_back().unwrap_or(src)
    }

    /// The steps at which it was routed or bridged so far, not those of a tunnel around it.
    fn passed_through(&self) -> impl DoubleEndedIterator<Item = &Step> {
        let mut depth = 0_usize;
        let mut found = Vec::new();
        for step in &self.walk.steps {
            match step.what {
                What::Encap { .. } => depth += 1,
                What::Decap { .. } => depth = depth.saturating_sub(1),
                What::Route { is_input: false, .. }
                | What::Forward
                | What::Hook { is_bridged: true, .. }
                    if depth == 0 =>
                {
                    found.push(step);
                }
                _ => {}
            }
        }
        found.into_iter()
    }

    fn stops_word(&self, at: Passed, word: &Packet) -> Option<Obstacle> {
        let detail = self.conf.detail(at.netns)?;
        let name = |dev: Option<u32>| dev.map(|dev| self.conf.name(at.netns, dev));
        let locals = self.conf.locals(at.netns);
        let hook = At {
            hook: at.hook,
            is_bridged: at.is_bridged,
            iif: name(at.iif),
            oif: name(at.oif),
            phys_in: name(at.iif.filter(|_| at.is_bridged)),
            phys_out: name(at.oif.filter(|_| at.is_bridged)),
            locals: &locals,
        };
        let passed = match at.is_bridged {
            true => firewall::traverse_bridge(&detail.firewall, word, &hook),
            false => firewall::traverse(&detail.firewall, word, &hook),
        };
        let mut stops = filtered(Some(at.hook), &passed, Stateful::Related).into_iter();
        let is_drop = |kind: &ObstacleKind| matches!(kind, ObstacleKind::Filtered { .. });
        let (effect, kind) = stops.find(|(_, kind)| is_drop(kind))?;
        let place = Place { netns: at.netns, dev: None };
        Some(Obstacle { kind, effect, place, leg: Leg::Error })
    }
}

/// The hooks of a namespace that sent, forwarded or bridged the packet.
fn passed(step: &Step) -> Vec<Passed> {
    let (netns, came, back) = (step.netns, step.dev, step.out_dev);
    let is_bridged = matches!(step.what, What::Hook { .. });
    let on = match step.what {
        // On behalf of IP's rules the bridge itself is both devices.
        What::Hook { .. } if came == back => Vec::new(),
        What::Hook { hook: Hook::Output, .. } => {
            vec![(Hook::Prerouting, back, None), (Hook::Input, back, None)]
        }
        What::Hook { hook: Hook::Input, .. } => {
            vec![(Hook::Output, None, came), (Hook::Postrouting, None, came)]
        }
        What::Hook { hook, .. } if hook != Hook::Forward => Vec::new(),
        What::Hook { .. } | What::Forward => vec![
            (Hook::Prerouting, back, None),
            (Hook::Forward, back, came),
            (Hook::Postrouting, None, came),
        ],
        _ => vec![(Hook::Prerouting, back, None), (Hook::Input, back, None)],
    };
    let on = on.into_iter();
    on.map(|(hook, iif, oif)| Passed { netns, hook, iif, oif, is_bridged }).collect()
}
