//! The word that a packet is too long ("fragmentation needed", "packet too big") on its way back to
//! the sender, and the rules that it meets there.

use std::net::IpAddr;

use super::address::source_on;
use super::verdict::filtered;
use super::walker::Walker;
use super::{Leg, Obstacle, ObstacleKind, Place, Step, What};
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
}

impl Walker<'_> {
    /// The rule that keeps the sender from hearing of it when the router `netns` sends it by `dev`.
    /// It goes back where the packet came from.
    pub(super) fn unheard(&self, netns: Inum, dev: u32) -> Option<Obstacle> {
        let dst = self.flight.tuple.src;
        let src = source_on(self.conf, netns, dev, dst)?;
        let (proto, icmp) = if dst.is_ipv4() { (1, (3, 4)) } else { (58, (2, 0)) };
        let word =
            Packet { icmp: Some(icmp), ct: Stateful::Related, ..Packet::new(src, dst, proto) };
        let sent = [Hook::Output, Hook::Postrouting];
        let sent = sent.map(|hook| Passed { netns, hook, iif: None, oif: Some(dev) });
        let own = sent.into_iter().find_map(|at| self.stops_word(at, &word));
        // Inside of a tunnel it goes to the tunnel's end, which tells its own senders.
        if own.is_some() || !self.inside.is_empty() {
            return own;
        }
        self.routed().rev().find_map(|step| {
            passed(step).into_iter().find_map(|at| {
                let dst = match at.hook {
                    Hook::Prerouting => self.left_as(step),
                    _ => step.tuple.src,
                };
                self.stops_word(at, &Packet { dst, ..word })
            })
        })
    }

    /// The source that the packet had when it left: what comes back is for that, until it is
    /// translated.
    fn left_as(&self, step: &Step) -> IpAddr {
        let src = step.tuple.src;
        let own = self.walk.nat.iter().filter(|n| n.netns == step.netns && n.before.src == src);
        own.map(|n| n.after.src).next_back().unwrap_or(src)
    }

    /// The steps at which it was routed so far, not those of a tunnel around it.
    fn routed(&self) -> impl DoubleEndedIterator<Item = &Step> {
        let mut depth = 0_usize;
        let mut found = Vec::new();
        for step in &self.walk.steps {
            match step.what {
                What::Encap { .. } => depth += 1,
                What::Decap { .. } => depth = depth.saturating_sub(1),
                What::Route { is_input: false, .. } | What::Forward if depth == 0 => {
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
            is_bridged: false,
            iif: name(at.iif),
            oif: name(at.oif),
            phys_in: None,
            phys_out: None,
            locals: &locals,
        };
        let passed = firewall::traverse(&detail.firewall, word, &hook);
        let mut stops = filtered(Some(at.hook), &passed, Stateful::Related).into_iter();
        let is_drop = |kind: &ObstacleKind| matches!(kind, ObstacleKind::Filtered { .. });
        let (effect, kind) = stops.find(|(_, kind)| is_drop(kind))?;
        let place = Place { netns: at.netns, dev: None };
        Some(Obstacle { kind, effect, place, leg: Leg::Error })
    }
}

/// The hooks of a namespace that sent, or forwarded, the packet.
fn passed(step: &Step) -> Vec<Passed> {
    let (netns, back) = (step.netns, step.out_dev);
    let on = match step.what {
        What::Forward => vec![
            (Hook::Prerouting, back, None),
            (Hook::Forward, back, step.dev),
            (Hook::Postrouting, None, step.dev),
        ],
        _ => vec![(Hook::Prerouting, back, None), (Hook::Input, back, None)],
    };
    on.into_iter().map(|(hook, iif, oif)| Passed { netns, hook, iif, oif }).collect()
}
