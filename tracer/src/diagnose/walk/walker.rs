//! The walker: a packet, where it is, and the trail it leaves. Each part of the kernel's path is a
//! file of its own that says what comes next.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::conf::Conf;
use super::flight::Flight;
use super::{Ask, Choice, Effect, End, Leg, Obstacle, ObstacleKind, Place, Step, Walk, What};
use crate::event::Tuple;
use crate::net::Inum;

/// Longer ways are loops: a packet of TTL 64 through a bridge in every hop stays below.
const MAX_STEPS: usize = 600;

/// What happens to the packet next.
#[derive(Clone, Debug)]
pub(super) enum Next {
    /// Made here: source, route, OUTPUT.
    Output { netns: Inum },
    /// Routed: POSTROUTING, neighbour, and out by `dev`.
    Emit { netns: Inum, iif: Option<u32>, dev: u32, hop: Option<IpAddr> },
    /// As a frame, to the driver of `dev`.
    Xmit { netns: Inum, dev: u32, hop: Option<IpAddr> },
    /// As a frame, received by `dev`.
    Receive { netns: Inum, dev: u32 },
    /// As a packet with `dev` as its input device; `port` of the bridge `dev` received the frame.
    Ip { netns: Inum, dev: u32, port: Option<u32> },
    /// For this namespace.
    Input { netns: Inum, dev: u32, port: Option<u32> },
    /// It is over.
    Over(End),
}

/// A packet under way through the configuration.
pub(super) struct Walker<'a> {
    pub(super) conf: Conf<'a>,
    pub(super) walk: Walk,
    pub(super) flight: Flight,
    /// Packets inside the one under way, the outermost last.
    pub(super) inside: Vec<Flight>,
    /// The walk that this one answers.
    pub(super) request: Option<&'a Walk>,
    /// Where which packet was received, to notice that it goes round.
    pub(super) seen: BTreeSet<(Inum, u32, Tuple, usize)>,
    /// Which alternatives to take, as far as they are prescribed.
    script: &'a [usize],
}

impl<'a> Walker<'a> {
    pub(super) fn new(
        conf: Conf<'a>,
        ask: &Ask,
        request: Option<&'a Walk>,
        script: &'a [usize],
    ) -> Self {
        let walk = Walk::nowhere(ask);
        let flight = Flight::new(ask, walk.tuple);
        Self { conf, walk, flight, inside: Vec::new(), request, seen: BTreeSet::new(), script }
    }

    /// Goes from `next` to the end.
    pub(super) fn run(mut self, mut next: Next) -> Walk {
        loop {
            if self.walk.steps.len() > MAX_STEPS {
                next = Next::Over(End::Loop);
            }
            next = match next {
                Next::Output { netns } => self.output(netns),
                Next::Emit { netns, iif, dev, hop } => self.emit(netns, iif, dev, hop),
                Next::Xmit { netns, dev, hop } => self.xmit(netns, dev, hop),
                Next::Receive { netns, dev } => self.receive(netns, dev),
                Next::Ip { netns, dev, port } => self.ip_receive(netns, dev, port),
                Next::Input { netns, dev, port } => self.input(netns, dev, port),
                Next::Over(end) => {
                    self.walk.end = end;
                    self.forget_what_worked();
                    return self.walk;
                }
            };
        }
    }

    /// Leaves a step on the trail.
    pub(super) fn step(
        &mut self,
        netns: Inum,
        dev: Option<u32>,
        out_dev: Option<u32>,
        what: What,
    ) -> usize {
        let tuple = self.flight.tuple;
        self.walk.steps.push(Step { netns, dev, out_dev, what, tuple, obstacles: Vec::new() });
        self.walk.steps.len() - 1
    }

    /// Something is in the way at the last step.
    pub(super) fn hinder(
        &mut self,
        effect: Effect,
        netns: Inum,
        dev: Option<u32>,
        kind: ObstacleKind,
    ) {
        let place = Place { netns, dev };
        self.hinder_with(Obstacle { kind, effect, place, leg: Leg::Packet });
    }

    /// The same, for an obstacle that is ready. One that was met before, as an address resolution
    /// and then the packet itself meet it, is not said twice.
    pub(super) fn hinder_with(&mut self, obstacle: Obstacle) {
        let is_known = self.walk.obstacles().any(|(_, o)| {
            o.kind == obstacle.kind && o.place == obstacle.place && o.effect == obstacle.effect
        });
        if let (false, Some(step)) = (is_known, self.walk.steps.last_mut()) {
            step.obstacles.push(obstacle);
        }
    }

    /// Ends at the last step, which holds what stops it.
    pub(super) fn stop(&self) -> Next {
        Next::Over(End::Stopped { step: self.walk.steps.len().saturating_sub(1) })
    }

    /// Takes one of `count` ways: the prescribed one, else the first.
    pub(super) fn choose(&mut self, count: usize, text: impl Fn(usize) -> String) -> usize {
        if count < 2 {
            return 0;
        }
        let at = self.walk.choices.len();
        let taken = self.script.get(at).copied().unwrap_or(0).min(count - 1);
        let step = self.walk.steps.len().saturating_sub(1);
        self.walk.choices.push(Choice { step, taken: (taken, count), text: text(taken) });
        taken
    }

    /// What only might have led astray did not, when the packet arrived where it was to go.
    fn forget_what_worked(&mut self) {
        let End::Delivered { netns, .. } = self.walk.end else { return };
        // An answer that somebody else takes did not.
        let is_for = |request: &Walk| request.ask.from == netns && request.ask.entry.is_none();
        if self.request.is_some_and(|request| !is_for(request)) {
            return;
        }
        for step in &mut self.walk.steps {
            step.obstacles.retain(|o| {
                !matches!(
                    o.kind,
                    ObstacleKind::OnlyDefaultRoute { .. } | ObstacleKind::Diverted { .. }
                )
            });
        }
    }
}

/// More ways than this are not told apart.
const MAX_WALKS: usize = 32;

/// Walks every combination of alternatives, the last one changing first.
pub(super) fn every(one: impl Fn(&[usize]) -> Walk) -> Vec<Walk> {
    let mut walks: Vec<Walk> = Vec::new();
    let mut script: Vec<usize> = Vec::new();
    loop {
        let walk = one(&script);
        let taken: Vec<_> = walk.choices.iter().map(|c| c.taken).collect();
        walks.push(walk);
        let last = taken.iter().rposition(|(at, of)| at + 1 < *of);
        let Some(last) = last.filter(|_| walks.len() < MAX_WALKS) else { return walks };
        script = taken.iter().take(last + 1).map(|(at, _)| *at).collect();
        if let Some(at) = script.last_mut() {
            *at += 1;
        }
    }
}
