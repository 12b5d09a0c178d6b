//! What is left of the world when one node looks at it (`--view`): labs put several nodes on one
//! kernel. Which namespaces those are is [`crate::net::view`]'s business.

use std::collections::BTreeSet;

use crate::journey::{Fate, Journey, path_of};
use crate::net::{Inum, NetworkState};

/// Leaves only what is in the view: a node does not see what happens on others.
pub fn restrict_state(state: &mut NetworkState, view: &BTreeSet<Inum>) {
    state.netns.retain(|inum, _| view.contains(inum));
}

/// Cuts journeys where they leave the view. Where a packet comes in again, that is another one
/// for this node; its hops are kept, the ones between are not.
#[must_use]
pub fn restrict_journeys(
    journeys: Vec<Journey>,
    view: &BTreeSet<Inum>,
    state: &NetworkState,
) -> Vec<Journey> {
    journeys.into_iter().filter_map(|j| restrict(j, view, state)).collect()
}

fn restrict(mut journey: Journey, view: &BTreeSet<Inum>, state: &NetworkState) -> Option<Journey> {
    if journey.hops.iter().all(|h| view.contains(&h.netns)) {
        return Some(journey);
    }
    let kept: Vec<Option<usize>> = journey
        .hops
        .iter()
        .scan(0, |next, h| {
            let at = view.contains(&h.netns).then_some(*next);
            *next += usize::from(at.is_some());
            Some(at)
        })
        .collect();
    if let Some(entered) = kept.iter().position(Option::is_some) {
        enter(&mut journey, entered);
    }
    let ends_inside = kept.last().is_some_and(Option::is_some);
    journey.hops.retain(|h| view.contains(&h.netns));
    if journey.hops.is_empty() {
        return None;
    }
    let moved = |hop: usize| kept.get(hop).copied().flatten();
    journey.nat.retain_mut(|n| moved(n.hop).map(|at| n.hop = at).is_some());
    journey.dropped = journey.dropped.and_then(|mut d| {
        d.hop = moved(d.hop)?;
        Some(d)
    });
    if !ends_inside {
        journey.fate = Fate::LeftNode;
        journey.dropped = None;
    }
    journey.path = path_of(&journey, state);
    Some(journey)
}

/// What the packet has become by the time it comes in is what it is for this node.
fn enter(journey: &mut Journey, at: usize) {
    let (before, rest) = journey.hops.split_at_mut(at);
    let last = |is_encap| {
        let mut changes = before.iter().rev().filter(|h| h.is_encap == is_encap);
        changes.find_map(|h| h.tuple)
    };
    if let (Some(first), Some(tuple)) = (journey.first.as_mut(), last(false)) {
        first.tuple = tuple;
    }
    if let Some(hop) = rest.first_mut().filter(|h| h.is_encap && h.tuple.is_none()) {
        hop.tuple = last(true);
    }
}
