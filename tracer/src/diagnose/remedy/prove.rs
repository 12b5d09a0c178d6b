//! Whether a remedy heals, and whether it harms: the asked flow and those beside it are walked on
//! the changed configuration, both ways.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Step;
use super::allow::{allow, locate, main_first};
use super::beside::beside;
use super::world::World;
use crate::diagnose::case::{Case, Direction, Purpose, Way};
use crate::diagnose::walk::{Ask, End, ObstacleKind as Kind, Scope, Walk};
use crate::net::{Inum, NetworkState};

/// The devices by which the ways of a packet leave the view.
type Exits = Vec<Option<(Inum, u32)>>;

/// Behind what was let through, so many more obstacles are.
const BEHIND: usize = 4;

/// What is walked again for each remedy.
pub(super) struct Proof<'a> {
    case: &'a Case<'a>,
    scope: Scope,
    /// What was asked, or fails.
    asked: Vec<(Ask, Purpose)>,
    /// What works now, and by which devices it leaves the view.
    working: Vec<(Ask, Exits)>,
    /// How many ways of what was asked lead nowhere now.
    stopped: usize,
    /// What was asked was seen to work: nothing has to be cleared.
    is_working: bool,
}

impl<'a> Proof<'a> {
    pub(super) fn of(case: &'a Case<'a>) -> Self {
        let scope = match case.view.is_empty() {
            true => Scope::everything(),
            false => Scope::only(case.view.iter().copied()),
        };
        let mut asked: Vec<(Ask, Purpose)> = Vec::new();
        for way in &case.ways {
            let ask = (way.request.ask.clone(), way.purpose);
            // Who asks from beyond the view: nothing of its way can be walked, healed or not.
            let is_beyond = !case.view.is_empty() && way.request.steps.is_empty();
            let is_it = !is_beyond && (case.target.is_some() || !way.is_clear());
            if is_it && !asked.contains(&ask) {
                asked.push(ask);
            }
        }
        let mut proof =
            Self { case, scope, asked, working: Vec::new(), stopped: 0, is_working: false };
        proof.stopped = proof.stopped_in(case.state);
        let all = beside(case, &proof.asked);
        let askers: BTreeSet<Inum> = proof.asked.iter().map(|(ask, _)| ask.from).collect();
        let works = |ask: Ask| {
            let exits = proof.exits(case.state, &ask)?;
            // What is for whoever asks, who is seen, and leaves all the same, does not get there.
            let is_lost = exits.iter().any(Option::is_some)
                && case.state.holders(ask.dst).any(|n| askers.contains(&n.inum));
            (!is_lost).then_some((ask, exits))
        };
        proof.working = all.into_iter().filter_map(works).collect();
        proof
    }

    /// Of what works already, only slowly: a way that the model cannot follow to its end is none
    /// that a remedy has to clear.
    pub(super) fn of_working(case: &'a Case<'a>) -> Self {
        Self { is_working: true, ..Self::of(case) }
    }

    fn ways(&self, state: &NetworkState, ask: &Ask, purpose: Purpose) -> Vec<Way> {
        Way::all(state, &self.scope, ask, purpose)
    }

    fn is_clear(&self, state: &NetworkState, ask: &Ask) -> bool {
        self.exits(state, ask).is_some()
    }

    /// Where a packet leaves the view, if it is clear on all its ways.
    fn exits(&self, state: &NetworkState, ask: &Ask) -> Option<Exits> {
        let exit = |way: &Way| {
            way.is_clear().then_some(match way.request.end {
                End::LeftView { netns, dev, .. } => Some((netns, dev)),
                _ => None,
            })
        };
        self.ways(state, ask, Purpose::Check).iter().map(exit).collect()
    }

    /// These steps, and what is in the way behind them let through or led past in the narrowest way
    /// too; `None` where that does not heal.
    pub(super) fn completed(&self, steps: &[Step]) -> Option<Vec<Step>> {
        let mut steps = steps.to_vec();
        for _ in 0..BEHIND {
            let world = World::of(self.case.state).with(&steps);
            let asked = self.asked.iter();
            let mut ways = asked.flat_map(|(ask, purpose)| self.ways(&world.state, ask, *purpose));
            let Some(way) = ways.find(|way| !way.is_clear()) else { return Some(steps) };
            let more =
                way.walks().find_map(|(direction, walk)| past(&world.state, walk, direction));
            let more: Vec<Step> = more?.into_iter().filter(|s| !steps.contains(s)).collect();
            if more.is_empty() {
                return None;
            }
            steps.extend(more);
        }
        None
    }

    fn stopped_in(&self, state: &NetworkState) -> usize {
        let ways = self.asked.iter().flat_map(|(ask, purpose)| self.ways(state, ask, *purpose));
        ways.filter(|way| !way.is_clear()).count()
    }

    /// All that was asked is clear with these steps done; where nobody asked, more of it than now.
    pub(super) fn heals<'s>(&self, steps: impl IntoIterator<Item = &'s Step>) -> bool {
        let steps: Vec<&Step> = steps.into_iter().collect();
        if steps.iter().any(|s| matches!(s.remedy(), Some(super::Remedy::Resolver { .. }))) {
            return self.resolves(&steps);
        }
        let world = World::of(self.case.state).with(steps);
        let stopped = self.stopped_in(&world.state);
        stopped == 0
            || self.is_working && stopped <= self.stopped
            || self.case.target.is_none() && stopped < self.stopped
    }

    /// Whoever is asked for names then can be asked.
    fn resolves(&self, steps: &[&Step]) -> bool {
        use super::{Remedy, Resolv};
        let to = |step: &&Step| match step.remedy() {
            Some(Remedy::Resolver { edit, .. }) => match edit {
                Resolv::AddServer(to) | Resolv::ReplaceServer { to, .. } => Some(*to),
                Resolv::Search(_) => None,
            },
            _ => None,
        };
        let Some(from) = self.case.target.as_ref().map(|t| t.netns) else { return true };
        let servers: BTreeSet<IpAddr> = steps.iter().filter_map(to).collect();
        let world = World::of(self.case.state).with(steps.iter().copied());
        servers.iter().all(|to| self.is_clear(&world.state, &Ask::udp(from, *to, 53)))
    }

    /// Something that works now stops working with these steps done, or goes another way out.
    pub(super) fn harms<'s>(&self, steps: impl IntoIterator<Item = &'s Step>) -> bool {
        let world = World::of(self.case.state).with(steps);
        let is_same = |(ask, exits): &(Ask, Exits)| {
            self.exits(&world.state, ask).is_some_and(|now| now == *exits)
        };
        !self.working.iter().all(is_same)
    }
}

/// The narrowest way past the first thing that leads a packet astray or stops it.
fn past(state: &NetworkState, walk: &Walk, direction: Direction) -> Option<Vec<Step>> {
    let stop = walk.stopped_at().map(|(at, _)| at)?;
    let before = walk.obstacles().take_while(|(at, _)| *at <= stop);
    before.into_iter().find_map(|(at, obstacle)| {
        let tuple = walk.steps.get(at)?.tuple;
        let netns = obstacle.place.netns;
        match &obstacle.kind {
            Kind::Filtered { rule, .. } => {
                let at = locate(state, netns, rule)?;
                allow(netns, at, (tuple, direction == Direction::Reply, obstacle.leg))
            }
            Kind::Diverted { rule, main: Some(_), .. } | Kind::RuleRefuses { rule, .. } => {
                Some(main_first(netns, rule, tuple.dst))
            }
            _ => None,
        }
    })
}
