//! Rules that see ARP: those of families `arp` (arptables), `bridge` (ebtables) and `netdev`. A
//! question that one of them drops looks like an address that nobody has.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::conf::Conf;
use super::verdict::filtered;
use super::{Leg, Obstacle, Place};
use crate::firewall::{self, At, Stateful};
use crate::journey::Hook;
use crate::net::{Inum, Mac};

/// An ARP message of IPv4.
#[derive(Clone, Copy)]
pub(super) struct Message {
    /// Whose addresses it tells.
    from: (IpAddr, Option<Mac>),
    /// Whom it asks about, or whom it answers.
    to: (IpAddr, Option<Mac>),
    leg: Leg,
}

/// Where a message meets rules. Devices are interface indices.
#[derive(Clone, Copy)]
pub(super) enum Met {
    /// Sent or received by a host.
    Host(Hook, u32),
    /// In a bridge, between these ports.
    Bridge(Hook, Option<u32>, Option<u32>),
    /// At a device: what comes in, or what goes out.
    Device { dev: u32, is_ingress: bool },
}

impl Message {
    /// Who has `addr`? `None` for IPv6, which does not use ARP.
    pub(super) fn question(asker: Option<IpAddr>, own: Option<Mac>, addr: IpAddr) -> Option<Self> {
        let asker = asker.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let message = Self { from: (asker, own), to: (addr, None), leg: Leg::Question };
        (asker.is_ipv4() && addr.is_ipv4()).then_some(message)
    }

    /// The answer by who has `mac`.
    pub(super) fn answered_by(self, mac: Mac) -> Self {
        Self { from: (self.to.0, Some(mac)), to: self.from, leg: Leg::Answer }
    }

    fn packet(self) -> firewall::Packet {
        let is_question = self.leg == Leg::Question;
        let everybody = Some([0xff; 6]);
        firewall::Packet {
            ct: Stateful::Untracked,
            frame: firewall::Frame {
                src: self.from.1,
                dst: if is_question { everybody } else { self.to.1 },
                arp: Some(if is_question { 1 } else { 2 }),
            },
            ..firewall::Packet::new(self.from.0, self.to.0, 0)
        }
    }
}

/// What the rules do with a message there.
pub(super) fn filters(conf: Conf<'_>, netns: Inum, met: Met, message: Message) -> Vec<Obstacle> {
    let Some(detail) = conf.detail(netns) else { return Vec::new() };
    let fw = &detail.firewall;
    let name = |dev: Option<u32>| dev.map(|d| conf.name(netns, d));
    let (hook, iif, oif) = match met {
        Met::Host(Hook::Output, dev) => (Hook::Output, None, Some(dev)),
        Met::Host(hook, dev) => (hook, Some(dev), None),
        Met::Bridge(hook, iif, oif) => (hook, iif, oif),
        Met::Device { dev, is_ingress: true } => (Hook::Prerouting, Some(dev), None),
        Met::Device { dev, is_ingress: false } => (Hook::Postrouting, None, Some(dev)),
    };
    let (iif, oif) = (name(iif), name(oif));
    let locals = BTreeSet::new();
    let is_bridged = matches!(met, Met::Bridge(..));
    let at = At { hook, is_bridged, iif, oif, phys_in: iif, phys_out: oif, locals: &locals };
    let packet = message.packet();
    let (passed, hook, dev) = match met {
        Met::Host(_, dev) => (firewall::traverse_arp(fw, &packet, &at), Some(hook), Some(dev)),
        Met::Bridge(..) => (firewall::traverse_bridge(fw, &packet, &at), Some(hook), None),
        Met::Device { dev, is_ingress } => {
            let device = (conf.name(netns, dev), is_ingress);
            (firewall::traverse_device(fw, &packet, &at, device), None, Some(dev))
        }
    };
    let place = Place { netns, dev };
    let found = filtered(hook, &passed, Stateful::New).into_iter();
    found.map(|(effect, kind)| Obstacle { kind, effect, place, leg: message.leg }).collect()
}
