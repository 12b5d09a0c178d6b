//! The hops in one line, as a person would say the way.
//!
//! Devices carry `@netns` where the packet enters another namespace; the first node after a pod
//! is the reader's own and goes without. Hooks of the two ends that changed nothing are left out,
//! and so are the outer packet's: they stay in the hops.

use super::{Dev, Hook, Hop, Journey, RouteKind, Stage, Verdict};
use crate::event::Proto;
use crate::net::{DeviceKind, Inum, NetworkState};

const ARROW: &str = " → ";

/// Writes the path of a journey whose other members are complete.
pub(crate) fn path(journey: &Journey, state: &NetworkState) -> String {
    let mut line = Line {
        state,
        text: String::with_capacity(128),
        last: None,
        routed: None,
        here: None,
        home: None,
    };
    for (n, hop) in journey.hops.iter().enumerate() {
        line.hop(journey, n, hop);
    }
    if line.text.is_empty() {
        line.place(&journey.hops);
    }
    if let Some(dropped) = &journey.dropped {
        line.word(&format!("✗ {}", dropped.reason), true);
    } else if journey.fate == super::Fate::InFlight {
        line.word("…", true);
    }
    line.text
}

impl Journey {
    /// Writes the path anew, when more is known by now than when it was written.
    pub fn retell(&mut self, state: &NetworkState) {
        self.path = path(self, state);
    }
}

struct Line<'a> {
    state: &'a NetworkState,
    text: String,
    /// The device written last, as long as no other one was.
    last: Option<(Inum, u32)>,
    /// The routing decision written last, until a hook follows.
    routed: Option<Routed>,
    /// The namespace written last.
    here: Option<Inum>,
    /// The first node after a pod.
    home: Option<Inum>,
}

/// A routing decision.
#[derive(PartialEq, Eq)]
struct Routed {
    netns: Inum,
    dev: u32,
    /// The device written before it.
    from: Option<(Inum, u32)>,
}

impl Line<'_> {
    fn hop(&mut self, journey: &Journey, n: usize, hop: &Hop) {
        match hop.stage {
            Stage::Rx | Stage::Queue | Stage::Xmit => self.device(hop),
            Stage::TcIngress | Stage::TcEgress => {
                self.device(hop);
                if hop.verdict == Some(Verdict::Drop) {
                    self.word(hop.stage.name(), false);
                }
            }
            Stage::Bridge => self.bridge(hop),
            Stage::Xdp => {
                self.device(hop);
                self.word("XDP", false);
            }
            Stage::Flowtable => self.word("flowtable", false),
            Stage::Netfilter => self.hook(journey, n, hop),
            Stage::Route => self.route(journey, n, hop),
            Stage::Neigh => {
                self.device(hop);
                let is_last = n + 1 == journey.hops.len();
                if let Some(neigh) = hop.neigh.filter(|neigh| is_last && neigh.is_waiting) {
                    self.word(&format!("waiting for {}", neigh.key), true);
                }
            }
            Stage::Decap if self.is_entering(hop) => self.device(hop),
            Stage::Encap
            | Stage::Decap
            | Stage::Socket
            | Stage::Tun
            | Stage::IcmpError
            | Stage::Drop
            | Stage::Free => {}
        }
    }

    /// A packet that met nothing worth a word, such as one put together from fragments at its
    /// destination: where it was.
    fn place(&mut self, hops: &[Hop]) {
        let dev = |hop: &Hop| hop.dev.clone().or_else(|| hop.out_dev.clone());
        if let Some((hop, dev)) = hops.iter().find_map(|hop| Some((hop, dev(hop)?))) {
            self.named(hop, &dev.name);
        }
    }

    fn is_entering(&self, hop: &Hop) -> bool {
        self.here != Some(hop.netns)
    }

    fn device(&mut self, hop: &Hop) {
        let Some(dev) = &hop.dev else { return };
        let place = Some((hop.netns, dev.ifindex));
        // br_netfilter routes a translated frame before it is seen on the bridge device.
        let is_late =
            hop.stage == Stage::Rx && self.routed.as_ref().is_some_and(|r| r.from == place);
        if self.last == place || is_late {
            return;
        }
        self.named(hop, &dev.name);
        self.last = place;
    }

    /// Writes a device's name, with its namespace where that is news.
    fn named(&mut self, hop: &Hop, name: &str) {
        let is_first = self.here.is_none();
        let is_home = !is_first && self.home.is_none() && is_node(self.state, hop.netns);
        if self.here == Some(hop.netns) || is_home {
            self.word(name, false);
        } else {
            self.word(&format!("{name}@{}", hop.netns_name), false);
        }
        if is_home || (is_first && is_node(self.state, hop.netns)) {
            self.home = Some(hop.netns);
        }
        self.here = Some(hop.netns);
    }

    /// The bridge itself, unless it was the last device named.
    fn bridge(&mut self, hop: &Hop) {
        let master = self.state.device(hop.netns, hop.out_dev.as_ref().map_or(0, |d| d.ifindex));
        let Some(master) = master.and_then(|d| d.master) else { return };
        if self.is_passed(hop.netns, master) {
            return;
        }
        if let Some(name) = &hop.master {
            self.named(hop, name);
            self.last = Some((hop.netns, master));
        }
    }

    fn is_passed(&self, netns: Inum, ifindex: u32) -> bool {
        self.last == Some((netns, ifindex))
    }

    fn hook(&mut self, journey: &Journey, n: usize, hop: &Hop) {
        let Some(hook) = hop.hook else { return };
        let is_news = hop.verdict == Some(Verdict::Drop)
            || hop.verdict == Some(Verdict::Stolen)
            || journey.nat.iter().any(|nat| nat.hop == n)
            || hop.rule.is_some();
        let is_start = self.here.is_none();
        let is_sending = is_start && hook != Hook::Prerouting;
        if !is_news && (hop.is_encap || is_sending || !is_node(self.state, hop.netns)) {
            return;
        }
        // br_netfilter runs PREROUTING before the frame is seen on the bridge device, and a packet
        // put together from fragments is first seen there.
        let is_first_here = (hop.layer.is_some() || is_start) && hook == Hook::Prerouting;
        if is_first_here || hook.is_netdev() {
            self.device(hop);
        }
        self.word(hook.title(), false);
        self.routed = None;
        for nat in journey.nat.iter().filter(|nat| nat.hop == n) {
            self.text.push(' ');
            self.text.push_str(&nat.kind.name().to_uppercase());
        }
    }

    /// Routing decisions of forwarded packets, and those that say no. A pod's choice of its only
    /// device and delivery to this namespace itself go without saying.
    fn route(&mut self, journey: &Journey, n: usize, hop: &Hop) {
        let Some(route) = &hop.route else { return };
        // ARP looks at the routes to learn whom it should answer for; nothing is routed.
        let is_arp = journey.first.is_some_and(|first| first.tuple.proto == Proto::Arp);
        let is_unsaid = hop.is_encap
            || is_arp
            || route.kind == RouteKind::Local
            || (n == 0 || !is_node(self.state, hop.netns)) && !after_change(journey, n);
        match (&route.dev, route.kind.is_success()) {
            (_, true) if is_unsaid => {}
            (Some(dev), true) => self.routed(hop.netns, dev),
            (None, true) => {}
            (_, false) => self.word(&format!("route {}", route.kind.name()), false),
        }
    }

    /// A decision that may have been asked for twice, for the bridge and for the node.
    fn routed(&mut self, netns: Inum, dev: &Dev) {
        if self.routed.as_ref().is_some_and(|r| (r.netns, r.dev) == (netns, dev.ifindex)) {
            return;
        }
        self.word(&format!("route {}", dev.name), false);
        // It may leave by the device that it came in by: that is a second visit.
        let from = self.last.take();
        self.routed = Some(Routed { netns, dev: dev.ifindex, from });
    }

    fn word(&mut self, word: &str, is_end: bool) {
        if !self.text.is_empty() {
            self.text.push_str(if is_end { " " } else { ARROW });
        }
        self.text.push_str(word);
    }
}

/// The packet was translated in this namespace before it was routed.
fn after_change(journey: &Journey, n: usize) -> bool {
    let netns = journey.hops[n].netns;
    journey.nat.iter().any(|nat| nat.hop < n && journey.hops[nat.hop].netns == netns)
}

/// A namespace that connects others: our own, or one with more than one device that carries
/// traffic. Forwarding sysctls do not tell, pods inherit them from their node. One with a macvlan or
/// ipvlan stands on the wire as a machine does, with no node before it.
pub(super) fn is_node(state: &NetworkState, netns: Inum) -> bool {
    let Some(netns) = state.netns.get(&netns) else { return false };
    let carrying = |d: &&crate::net::Device| {
        d.up && (matches!(d.kind, DeviceKind::Veth | DeviceKind::Bridge | DeviceKind::Vxlan)
            || d.kind == DeviceKind::Physical)
    };
    let stands_alone = |d: &crate::net::Device| matches!(&d.kind, DeviceKind::Other(kind) if kind == "macvlan" || kind == "ipvlan");
    netns.inum == state.own
        || netns.devices.values().any(stands_alone)
        || netns.devices.values().filter(carrying).count() > 1
}
