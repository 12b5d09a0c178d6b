//! The way of the answer.

use super::conf::{Conf, Stacked};
use super::walker::{Next, Walker};
use super::{Ask, End, Scope, Walk, What};
use crate::net::NetworkState;

/// The way of the answer to `request`, translated back where `request` was translated: from where
/// that was delivered, or, when it left the view, back in by the device that it left by. `None`
/// when it came to neither.
#[must_use]
pub fn walk_reply(state: &NetworkState, scope: &Scope, request: &Walk) -> Option<Walk> {
    let stacked = Stacked::of(state, scope);
    let conf = Conf { state, scope, stacked: &stacked };
    let last = request.steps.last()?;
    let tuple = last.tuple.reversed();
    let from = match &request.end {
        End::Delivered { netns, .. } | End::LeftView { netns, .. } => *netns,
        End::Stopped { .. } | End::Loop | End::Unknown { .. } => return None,
    };
    let ask = Ask {
        from,
        src: Some(tuple.src),
        dst: tuple.dst,
        proto: tuple.proto.number(),
        sport: tuple.sport,
        dport: tuple.dport,
        mark: 0,
        len: request.ask.answer.unwrap_or(request.ask.len),
        df: request.ask.df || request.ask.answer.is_some(),
        is_reply: true,
        entry: None,
        ..request.ask.clone()
    };
    let mut walker = Walker::new(conf, &ask, Some(request), &[]);
    if let End::LeftView { netns, dev, next_hop } = request.end {
        walker.step(netns, Some(dev), None, What::Wire { next_hop });
        walker.flight.is_local = false;
        walker.flight.mac = conf.mac((netns, dev));
        walker.carry_back(request);
        return Some(walker.run(Next::Receive { netns, dev }));
    }
    Some(walker.run(Next::Output { netns: from }))
}

impl Walker<'_> {
    /// A tunnel that led out of the view leads back in: the answer is inside of it.
    fn carry_back(&mut self, request: &Walk) {
        let mut packed = Vec::new();
        for (at, step) in request.steps.iter().enumerate() {
            match step.what {
                What::Encap { vni, .. } => packed.push((at, vni)),
                What::Decap { .. } => drop(packed.pop()),
                _ => {}
            }
        }
        for (at, vni) in packed {
            // The step before is the packet as it was handed to the tunnel.
            let before = at.checked_sub(1).and_then(|at| request.steps.get(at));
            let Some(step) = before else { continue };
            let mut inner = self.flight.clone();
            inner.tuple = step.tuple.reversed();
            inner.vni = Some(vni);
            inner.mac = step.out_dev.and_then(|dev| self.conf.mac((step.netns, dev)));
            self.flight.is_reply = false;
            self.inside.push(inner);
        }
        // A tunnel is no conversation: either side sends to the tunnel's port.
        if !self.inside.is_empty() {
            let t = &mut self.flight.tuple;
            std::mem::swap(&mut t.sport, &mut t.dport);
        }
    }
}
