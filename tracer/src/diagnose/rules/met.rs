//! From an obstacle that the walk met to a finding: what all rules over obstacles share.

use super::refusal;
use crate::diagnose::case::{Case, Direction, Drop, Met};
use crate::diagnose::finding::{Confidence, Finding, Severity, Where};
use crate::diagnose::remedy::{Remedy, Step};
use crate::diagnose::walk::{Effect, End, Leg, Obstacle, ObstacleKind};
use crate::journey::{Fate, Lineage};
use crate::net::Netns;

/// Asks `rule` about every obstacle that may have to do with a failure.
pub(in crate::diagnose) fn each<'a>(
    case: &'a Case<'_>,
    rule: impl Fn(&Case<'_>, &Met<'a>) -> Option<Finding>,
) -> Vec<Finding> {
    if !case.is_failing() {
        return Vec::new();
    }
    case.obstacles()
        .filter(|m| !is_refuted(case, m) && !is_untranslated(m) && !is_refused(m))
        .filter_map(|m| rule(case, &m))
        .collect()
}

/// A packet came out of an empty chain as it went in: what it meets then follows.
pub(super) fn is_met(case: &Case<'_>) -> bool {
    case.obstacles().any(|m| is_left(&m))
}

/// The obstacle is such a chain, and a fault: kube-proxy leaves empty, and refuses by a rule of its
/// own, what has no endpoint.
pub(super) fn is_left(met: &Met<'_>) -> bool {
    let is_meant = |kind: &ObstacleKind| match kind {
        ObstacleKind::Filtered { rule, .. } => refusal::says_no_endpoints(rule),
        _ => false,
    };
    matches!(met.obstacle.kind, ObstacleKind::EmptyChain { .. })
        && !met.walk.obstacles().any(|(_, o)| is_meant(&o.kind))
}

/// The packet came here only by another namespace's default route or neighbour entry, or
/// untranslated: the cause is there.
pub(super) fn is_astray(case: &Case<'_>, drop: &Drop<'_>) -> bool {
    case.obstacles().any(|m| {
        let led_astray = matches!(
            m.obstacle.kind,
            ObstacleKind::OnlyDefaultRoute { .. }
                | ObstacleKind::Untranslated { .. }
                | ObstacleKind::Unspread { .. }
                | ObstacleKind::Diverted { .. }
                | ObstacleKind::WrongNeighbour { .. }
        );
        m.direction == drop.direction
            && (is_left(&m) || led_astray && m.obstacle.place.netns != drop.hop.netns)
    })
}

/// Behind the place where it was not translated, a packet to a Service meets only what it was never
/// meant to meet.
fn is_untranslated(met: &Met<'_>) -> bool {
    let mut all = met.walk.obstacles();
    let at = all.find(|(_, o)| matches!(o.kind, ObstacleKind::Untranslated { .. })).map(|(i, _)| i);
    let is_left = |obstacle| {
        let is_share = matches!(obstacle, &Obstacle { kind: ObstacleKind::Unspread { .. }, .. });
        is_share || is_left(&Met { obstacle, ..*met })
    };
    let mut left_over = met.walk.obstacles().filter(|(_, o)| is_left(o));
    if let Some((at, _)) = left_over.next() {
        return met.step > at;
    }
    let is_default = matches!(met.obstacle.kind, ObstacleKind::OnlyDefaultRoute { .. });
    let is_it = matches!(met.obstacle.kind, ObstacleKind::Untranslated { .. });
    at.is_some_and(|at| !is_it && (is_default || met.step > at))
}

/// Behind the rule by which kube-proxy refuses what it does not translate, a packet is where it was
/// never meant to come.
fn is_refused(met: &Met<'_>) -> bool {
    met.walk.obstacles().any(|(at, o)| {
        let refuses =
            matches!(&o.kind, ObstacleKind::Filtered { rule, .. } if refusal::refuses(rule));
        refuses && at < met.step
    })
}

/// A request that arrived was not stopped on its way, whatever the configuration seems to say.
fn is_refuted(case: &Case<'_>, met: &Met<'_>) -> bool {
    let has_choice = case.ways.iter().filter(|w| w.purpose == met.way.purpose).count() > 1;
    let End::Delivered { netns, .. } = met.walk.end else { return false };
    if has_choice || met.obstacle.leg == Leg::Error || met.obstacle.effect == Effect::Degrades {
        return false;
    }
    let is_delivery = met.step + 1 == met.walk.steps.len();
    let mut flows = case.failed().filter(|p| p.purpose == met.way.purpose);
    !is_delivery
        && flows.any(|probe| {
            let Some(flow) = case.flow_of(probe) else { return false };
            let seen =
                if met.direction == Direction::Request { &flow.forward } else { &flow.backward };
            seen.iter().map(|i| &case.journeys[*i]).any(|j| {
                // Of a connection whose long packets are lost, the short ones prove nothing.
                let is_it = probe.size.is_none_or(|size| j.first.is_some_and(|h| h.len >= size));
                let is_error = j.parent.is_some_and(|p| p.kind == Lineage::IcmpError);
                is_it
                    && !is_error
                    && j.fate == Fate::Delivered
                    && j.hops.last().is_some_and(|h| h.netns == netns)
            })
        })
}

impl Met<'_> {
    /// A finding about it: its place, depth, certainty and journeys.
    pub(in crate::diagnose) fn finding(
        &self,
        case: &Case<'_>,
        id: &'static str,
        title: String,
    ) -> Finding {
        let place = &self.obstacle.place;
        let mut at = Where::netns(case.state, place.netns);
        at.dev = place.dev.map(|dev| case.dev_name(place.netns, dev));
        let confidence = match self.obstacle.effect {
            Effect::Stops => Confidence::Certain,
            Effect::MayStop | Effect::Degrades => Confidence::Possible,
        };
        let severity = match self.obstacle.effect {
            Effect::Stops | Effect::MayStop => Severity::Error,
            Effect::Degrades => Severity::Info,
        };
        let journeys = case.failed().filter_map(|p| case.flow_of(p)).flat_map(|f| {
            let list = if self.direction == Direction::Request { &f.forward } else { &f.backward };
            list.first().map(|i| case.journeys[*i].id)
        });
        Finding::error(id, case.scenario(), title)
            .severity(severity)
            .confidence(confidence)
            .at(at)
            .journeys(journeys.take(3))
            .depth(self.depth)
    }

    /// The namespace that it is in.
    pub(in crate::diagnose) fn netns<'a>(&self, case: &Case<'a>) -> Option<&'a Netns> {
        case.netns(self.obstacle.place.netns)
    }

    /// A change there.
    pub(super) fn remedy(&self, remedy: Remedy) -> Step {
        remedy.at(self.obstacle.place.netns)
    }
}
