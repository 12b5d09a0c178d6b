//! What was done to a packet on its way, and the same configuration without it.

use std::net::IpAddr;

use crate::diagnose::case::{Case, Direction, Way};
use crate::diagnose::remedy::{Remedy, Step, main_first};
use crate::diagnose::walk::{End, Nat, ObstacleKind, RuleRef, Scope, Walk, What};
use crate::firewall::{self, Target};
use crate::journey::NatKind;
use crate::net::detail::{Route, RoutingRule, RuleAction};
use crate::net::{Inum, NetworkState};

/// Tables that every namespace has: `default`, `main`, `local`.
const OWN_TABLES: std::ops::RangeInclusive<u32> = 253..=255;
/// More are not tried: each is walked again.
const MOST: usize = 16;
/// Neighbours that answered once: `NUD_REACHABLE`, `STALE`, `DELAY`, `PROBE`, `PERMANENT`.
const ANSWERED: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;

/// What changed a packet, or its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Alteration {
    /// A rule gave it another destination or source.
    Translated(Box<Nat>, RuleRef),
    /// A policy rule chose a table for it.
    Diverted(Inum, RoutingRule),
    /// The sender's route gave it a source that its device does not have.
    Sourced(Inum, Box<Route>),
    /// Rules kept conntrack from seeing it: the first of them.
    Untracked(Inum, RuleRef),
}

impl Alteration {
    /// All that may have been done on a way, in the order of the way.
    pub(super) fn on(case: &Case<'_>, way: &Way) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        // A redirection is for this node itself: where nobody takes it here, that is the cause.
        for nat in way.request.nat.iter().filter(|n| n.kind != NatKind::Redirect) {
            let translated = |rule| Self::Translated(Box::new(nat.clone()), rule);
            found.extend(nat.rule.clone().map(translated));
        }
        for step in way.walks().flat_map(|(_, walk)| &walk.steps) {
            let is_v6 = step.tuple.dst.is_ipv6();
            let rules = case.detail(step.netns).map_or(&[][..], |d| &d.rules);
            for rule in rules.iter().filter(|r| r.is_v6 == is_v6 && diverts(r)) {
                let alteration = Self::Diverted(step.netns, rule.clone());
                if !found.contains(&alteration) {
                    found.push(alteration);
                }
            }
        }
        found.extend(sourced(case, way));
        for track in way.walks().flat_map(|(_, walk)| &walk.tracks) {
            let untracked = track.untracked.clone();
            let untracked = untracked.map(|rule| Self::Untracked(track.netns, rule));
            found.extend(untracked.filter(|u| !found.contains(u)));
        }
        found.truncate(MOST);
        found
    }

    /// The configuration as if it did nothing.
    pub(super) fn undone(&self, state: &NetworkState) -> Option<NetworkState> {
        let mut state = state.clone();
        match self {
            Self::Translated(nat, rule) => {
                let detail = state.netns.get_mut(&nat.netns)?.detail.as_mut()?;
                find(&mut detail.firewall.tables, rule)?.target = Target::Accept;
            }
            Self::Diverted(netns, rule) => {
                let detail = state.netns.get_mut(netns)?.detail.as_mut()?;
                let at = detail.rules.iter().position(|r| r == rule)?;
                detail.rules.remove(at);
            }
            Self::Sourced(netns, route) => {
                let detail = state.netns.get_mut(netns)?.detail.as_mut()?;
                detail.routes.iter_mut().find(|r| *r == &**route)?.prefsrc = None;
            }
            // One for each direction: half of them undone heals nothing.
            Self::Untracked(netns, _) => {
                let detail = state.netns.get_mut(netns)?.detail.as_mut()?;
                let chains = detail.firewall.tables.iter_mut().flat_map(|t| &mut t.chains);
                for rule in chains.flat_map(|c| &mut c.rules) {
                    if rule.target == Target::Notrack {
                        rule.target = Target::Continue;
                    }
                }
            }
        }
        Some(state)
    }

    /// What may be looked at.
    pub(super) fn scope(case: &Case<'_>) -> Scope {
        match case.view.is_empty() {
            true => Scope::everything(),
            false => Scope::only(case.view.iter().copied()),
        }
    }

    /// Policy rules by which what was asked, or its answer, or both are spared, and nothing else; none
    /// where that is not enough.
    pub(super) fn exempted(&self, case: &Case<'_>, way: &Way) -> Vec<Step> {
        let Self::Diverted(netns, rule) = self else { return Vec::new() };
        let here = way.walks().flat_map(|(_, walk)| &walk.steps).filter(|s| s.netns == *netns);
        let mut ends: Vec<IpAddr> = Vec::new();
        for addr in here.flat_map(|s| [s.tuple.dst, s.tuple.src]) {
            if addr.is_ipv6() == rule.is_v6 && !ends.contains(&addr) {
                ends.push(addr);
            }
        }
        let alone = ends.iter().map(|addr| vec![*addr]);
        let pairs = ends.iter().flat_map(|a| ends.iter().map(move |b| (*a, *b)));
        let pairs = pairs.filter(|(a, b)| a < b).map(|(a, b)| vec![a, b]);
        let spare = |spared: Vec<IpAddr>| -> Vec<Step> {
            spared.into_iter().flat_map(|addr| main_first(*netns, rule, addr)).collect()
        };
        let mut tried = alone.chain(pairs).take(MOST).map(spare);
        tried.find(|steps| Self::is_enough(case, way, *netns, steps)).unwrap_or_default()
    }

    /// Whether these policy rules make the way lead there and back.
    fn is_enough(case: &Case<'_>, way: &Way, netns: Inum, steps: &[Step]) -> bool {
        let mut state = case.state.clone();
        let Some(detail) = state.netns.get_mut(&netns).and_then(|n| n.detail.as_mut()) else {
            return false;
        };
        for step in steps {
            let Some(Remedy::AddRule(rule)) = step.remedy() else { return false };
            let at = detail.rules.partition_point(|r| r.priority <= rule.priority);
            detail.rules.insert(at, rule.clone());
        }
        let ways = Way::all(&state, &Self::scope(case), &way.request.ask, way.purpose);
        !steps.is_empty() && !ways.is_empty() && ways.iter().all(leads)
    }

    /// Whether all the ways of what was asked lead there and back without it.
    pub(super) fn is_to_blame(&self, case: &Case<'_>, way: &Way) -> bool {
        let Some(state) = self.undone(case.state) else { return false };
        let ways = Way::all(&state, &Self::scope(case), &way.request.ask, way.purpose);
        !ways.is_empty() && ways.iter().all(|w| leads(w) && self.leads_to_somebody(case, w))
    }

    /// What is not translated any more goes to its first destination: somebody has to be there.
    fn leads_to_somebody(&self, case: &Case<'_>, way: &Way) -> bool {
        // Another rule takes its place: what was asked is translated all the same, to somebody else.
        if let Self::Translated(nat, _) = self
            && nat.kind.is_destination()
            && way.request.nat.iter().any(|n| n.kind.is_destination() && n.before == nat.before)
        {
            return false;
        }
        let mut obstacles = way.request.obstacles();
        match (&way.request.end, self) {
            // Sockets that could not be read may be anybody's.
            (End::Delivered { .. }, _) => {
                obstacles.all(|(_, o)| !matches!(o.kind, ObstacleKind::NoListener { .. }))
            }
            (End::LeftView { netns, dev, .. }, Self::Translated(nat, _)) => {
                nat.kind.is_destination() && is_somebody(case, (*netns, *dev), nat.before.dst)
            }
            // What becomes of it beyond is not known, so nothing is proved.
            _ => false,
        }
    }
}

/// Whether a way leads there, and back to whoever asked.
pub(super) fn leads(way: &Way) -> bool {
    let is_back = |walk: &Walk| match (&walk.end, &way.request.ask.entry) {
        (End::Delivered { netns, .. }, None) => *netns == way.request.ask.from,
        (End::LeftView { netns, dev, .. }, Some(entry)) => {
            (*netns, *dev) == (way.request.ask.from, entry.dev)
        }
        _ => false,
    };
    way.walks().all(|(direction, walk)| {
        walk.is_clear() && (direction == Direction::Request || is_back(walk))
    }) && way.reply.is_some()
}

/// Whether the way leads there and back as soon as the reverse path filter that stops it is loose.
pub(super) fn is_healed_by_loose_filter(case: &Case<'_>, way: &Way) -> bool {
    let mut stopped = way.walks().filter_map(|(_, walk)| walk.stopped_at());
    let Some((_, obstacle)) = stopped.next() else { return false };
    let ObstacleKind::ReversePath { strict: true, back: Some(_), .. } = obstacle.kind else {
        return false;
    };
    let at = obstacle.place;
    let mut state = case.state.clone();
    let dev = at.dev.map(|dev| case.dev_name(at.netns, dev)).unwrap_or_default();
    let detail = state.netns.get_mut(&at.netns).and_then(|n| n.detail.as_mut());
    let Some(detail) = detail else { return false };
    detail.sysctls.insert(format!("ipv4/conf/{dev}/rp_filter"), "2".to_owned());
    let ways = Way::all(&state, &Alteration::scope(case), &way.request.ask, way.purpose);
    !ways.is_empty() && ways.iter().all(leads)
}

/// The route by which the sender sends, where it says from which address, and that is on another
/// device.
fn sourced(case: &Case<'_>, way: &Way) -> Option<Alteration> {
    let ask = &way.request.ask;
    let mut routes = way.request.steps.iter().filter(|s| s.netns == ask.from);
    let route = routes.find_map(|step| match &step.what {
        What::Route { route: Some(route), is_input: false, .. } => Some(route),
        _ => None,
    })?;
    let (src, dev) = (route.prefsrc?, route.hops.first()?.dev?);
    let device = case.state.device(ask.from, dev)?;
    let is_own = device.addresses.iter().any(|(a, _)| *a == src);
    (ask.src.is_none() && !is_own).then(|| Alteration::Sourced(ask.from, route.clone()))
}

fn diverts(rule: &RoutingRule) -> bool {
    match rule.action {
        RuleAction::Lookup(table, _) => !OWN_TABLES.contains(&table),
        RuleAction::End(_) => true,
        RuleAction::Other => false,
    }
}

/// A rule where it was read.
fn find<'a>(tables: &'a mut [firewall::Table], rule: &RuleRef) -> Option<&'a mut firewall::Rule> {
    let is_its = |t: &&mut firewall::Table| {
        t.flavour == rule.flavour && t.family == rule.family && t.name == rule.table
    };
    let chains = tables.iter_mut().filter(is_its).flat_map(|t| &mut t.chains);
    let rules = chains.filter(|c| c.name == rule.chain).flat_map(|c| &mut c.rules);
    rules
        .into_iter()
        .find(|r| Some(r.number) == rule.number && r.handle == rule.handle && r.text == rule.text)
}

/// Somebody beyond the device has the address: a neighbour that answered, a gateway, or a name
/// server that is in use.
fn is_somebody(case: &Case<'_>, (netns, dev): (Inum, u32), addr: IpAddr) -> bool {
    let Some(detail) = case.detail(netns) else { return false };
    let answered = detail.neighbours.iter().any(|n| {
        (n.dev, n.addr) == (dev, addr) && n.mac.is_some() && !n.is_proxy && n.state & ANSWERED != 0
    });
    let is_gateway = detail.routes.iter().flat_map(|r| &r.hops).any(|h| h.via == Some(addr));
    let mut resolvers =
        case.state.netns.values().filter_map(|n| n.detail.as_ref()?.resolver.as_ref());
    answered || is_gateway || resolvers.any(|r| r.nameservers.contains(&addr))
}
