//! Netfilter hooks: the first and the last function of a traversal make one hop.

use tracer_common::event::NfDetail;

use super::{
    Hook, Hop, Layer, Sources, Stage, Verdict,
    assemble::{Place, Walk},
};
use crate::{event::Event, net::Inum};

/// A hook whose first function has run and whose last one has not been seen yet.
pub(super) struct Traversal {
    pub(super) hop: usize,
    hook: Hook,
    netns: Inum,
    pf: u8,
    /// `br_netfilter` ran this hook already and takes the packet past it (`ip_sabotage_in`): not
    /// a traversal, unless the last function runs or the packet is dropped here.
    is_shadow: bool,
}

impl Walk<'_> {
    pub(super) fn nf_first(&mut self, e: &Event, d: &NfDetail) {
        self.close_traversal();
        let Some(hop) = self.nf_hop(e, d) else { return };
        let Some(hook) = hop.hook else { return };
        let is_shadow =
            hook == Hook::Prerouting && hop.layer.is_none() && self.has_bridge_prerouting;
        if hook == Hook::Prerouting && hop.layer.is_some() {
            self.has_bridge_prerouting = true;
        }
        let at = self.hops.len();
        self.traversal = Some(Traversal { hop: at, hook, netns: e.netns, pf: d.pf, is_shadow });
        self.hops.push(hop);
    }

    pub(super) fn nf_last(&mut self, e: &Event, d: &NfDetail) {
        let hook = Hook::from_wire(d.hook);
        let is_open = self
            .traversal
            .as_ref()
            .is_some_and(|t| Some(t.hook) == hook && t.netns == e.netns && t.pf == d.pf);
        if is_open && let Some(open) = self.traversal.take() {
            if let Some(hop) = self.hops.get_mut(open.hop) {
                hop.sources.add(Sources::NF);
                hop.verdict = Some(Verdict::Accept);
                hop.ct = e.ct.or(hop.ct);
                hop.mark = e.mark;
            }
            self.passed(open.hook);
            return;
        }
        self.close_traversal();
        let Some(hop) = self.nf_hop(e, d) else { return };
        if hop.layer.is_some() && hook == Some(Hook::Prerouting) {
            self.has_bridge_prerouting = true;
        }
        self.hops.push(Hop { verdict: Some(Verdict::Accept), ..hop });
        if let Some(hook) = hook {
            self.passed(hook);
        }
    }

    /// The hop of a traversal, after the routing decision that it implies.
    fn nf_hop(&mut self, e: &Event, d: &NfDetail) -> Option<Hop> {
        let hook = Hook::from_wire(d.hook)?;
        let is_bridged = self.port.as_ref().is_some_and(|p| p.netns == e.netns);
        if !is_bridged {
            self.route_for_hook(e, d, hook);
        }
        // A locally made packet has no input device; the kernel's own idea of it at POSTROUTING
        // is then the output device once more.
        let input = if hook == Hook::Postrouting && d.in_ifindex == d.out_ifindex {
            0
        } else {
            d.in_ifindex
        };
        Some(Hop {
            dev: self.dev(e.netns, input),
            out_dev: self.dev(e.netns, d.out_ifindex),
            layer: is_bridged.then_some(Layer::Bridge),
            hook: Some(hook),
            ..self.hop(e, Stage::Netfilter)
        })
    }

    fn passed(&mut self, hook: Hook) {
        if hook == Hook::Input {
            self.place = Place::Local;
        }
    }

    /// The packet was seen behind the open hook, so the hook accepted it.
    pub(super) fn close_traversal(&mut self) {
        self.drop_shadow();
        let Some(open) = self.traversal.take() else { return };
        if let Some(hop) = self.hops.get_mut(open.hop) {
            hop.verdict = Some(Verdict::Accept);
        }
        self.passed(open.hook);
    }

    /// Forgets a traversal that `br_netfilter` cut short.
    pub(super) fn drop_shadow(&mut self) {
        if self.traversal.as_ref().is_some_and(|t| t.is_shadow && t.hop + 1 == self.hops.len()) {
            self.traversal = None;
            self.hops.pop();
            self.observed_at = self.observed_at.min(self.hops.len().saturating_sub(1));
        }
    }

    /// The hook that the packet is in.
    pub(super) fn open_hook(&self) -> Option<Hook> {
        self.traversal.as_ref().map(|t| t.hook)
    }

    /// Settles the verdict of the open hook, if there is one, and names it.
    pub(super) fn decide(&mut self, verdict: Verdict) -> Option<Hook> {
        let open = self.traversal.take()?;
        self.hops.get_mut(open.hop)?.verdict = Some(verdict);
        Some(open.hook)
    }

    /// The hook that dropped a packet between hooks that were seen: the one that comes after the
    /// last of them. `INPUT` and `POSTROUTING` have none after them; there, conntrack's
    /// confirmation runs behind our last function.
    pub(super) fn infer_hook(&self) -> Option<Hook> {
        let last = self.hops.iter().rev().find(|h| {
            matches!(h.stage, Stage::Netfilter | Stage::Route | Stage::Rx | Stage::Decap)
        });
        let Some(hop) = last else { return Some(Hook::Output) };
        match (hop.stage, &hop.route) {
            (Stage::Route, Some(route)) => Some(match route.kind {
                super::RouteKind::Local => Hook::Input,
                _ if self.has_entered(hop.netns) => Hook::Forward,
                _ => Hook::Output,
            }),
            (Stage::Rx, _) if self.port.is_none() && self.has_bridge_prerouting => {
                Some(self.after_prerouting(hop))
            }
            (Stage::Rx, _) => Some(Hook::Prerouting),
            (Stage::Netfilter, _) => hop.hook.map(|hook| match hook {
                Hook::Prerouting => self.after_prerouting(hop),
                Hook::Forward | Hook::Output => Hook::Postrouting,
                Hook::Input | Hook::Postrouting => hook,
            }),
            _ => None,
        }
    }

    /// `INPUT` when the destination is the namespace's own, else `FORWARD`.
    fn after_prerouting(&self, hop: &Hop) -> Hook {
        let is_own = || {
            let dst = self.outer.or(self.tuple).map(|t| t.dst);
            let netns = self.state.netns.get(&hop.netns);
            dst.zip(netns).is_some_and(|(dst, netns)| {
                netns.devices.values().any(|d| d.addresses.iter().any(|(a, _)| *a == dst))
            })
        };
        if hop.layer.is_none() && is_own() { Hook::Input } else { Hook::Forward }
    }

    /// The packet came into this namespace from a device.
    fn has_entered(&self, netns: Inum) -> bool {
        self.hops.iter().any(|h| h.stage == Stage::Rx && h.netns == netns)
    }
}
