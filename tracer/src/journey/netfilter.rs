//! Netfilter hooks: the first and the last function of a traversal make one hop.

use std::net::{IpAddr, Ipv4Addr};

use tracer_common::{
    Probe,
    event::{NfDetail, StepDetail, step},
};

use super::{
    Hook, Hop, Layer, Stage, Verdict,
    fate::holds,
    walk::{Place, Traversal, Walk, source},
};
use crate::{
    event::{CtInfo, Event},
    net::Inum,
};

const NF_DROP: u8 = 0;
const NF_ACCEPT: u8 = 1;

/// A name as the kernel side copied it, marked where it was cut off.
fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    // The kernel ends what it cuts off, too: a name that fills the place may be longer.
    if end + 1 >= bytes.len() { format!("{text}…") } else { text.into_owned() }
}

/// That conntrack looked, and what it found where the hop does not say so itself.
fn conntrack(e: &Event, d: &StepDetail) -> &'static str {
    match e.ct {
        _ if d.verdict != NF_ACCEPT => "conntrack refuses",
        // An answer to no packet that it has seen, or a header that cannot be right.
        None => "conntrack invalid",
        Some(CtInfo::Untracked) => "untracked",
        Some(_) => "conntrack",
    }
}

impl Walk<'_> {
    pub(super) fn nf_first(&mut self, e: &Event, d: &NfDetail) {
        // The hook was seen being entered already: its first function is part of that.
        if e.probe == Probe::NfFirst
            && let Some(open) = self.traversal.as_ref().filter(|t| t.is(e, d))
            && let Some(hop) = self.hops.get_mut(open.hop)
        {
            hop.sources.add(source(e.probe));
            return;
        }
        self.divert(e, d);
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

    /// What is sent on out of `INPUT`, IPVS took there: it is the only one that does
    /// (`ip_vs_in_hook`, `ip_vs_nat_xmit`).
    fn divert(&mut self, e: &Event, d: &NfDetail) {
        let is_sent = matches!(Hook::from_wire(d.hook), Some(Hook::Output | Hook::Postrouting));
        let open = self.traversal.as_ref().filter(|t| t.hook == Hook::Input && t.netns == e.netns);
        if let Some(hop) = open.filter(|_| is_sent).and_then(|t| self.hops.get_mut(t.hop)) {
            hop.steps.push("IPVS".to_owned());
            self.decide(Verdict::Stolen);
        }
    }

    pub(super) fn nf_last(&mut self, e: &Event, d: &NfDetail) {
        let hook = Hook::from_wire(d.hook);
        let ct = e.ct.or_else(|| self.conntracked.is_invalid(e, d).then_some(CtInfo::Invalid));
        let is_open = self.traversal.as_ref().is_some_and(|t| t.is(e, d));
        if is_open && let Some(open) = self.traversal.take() {
            if let Some(hop) = self.hops.get_mut(open.hop) {
                hop.sources.add(source(e.probe));
                hop.verdict = Some(Verdict::Accept);
                hop.ct = ct.or(hop.ct);
                hop.connection = e.connection.or(hop.connection);
                hop.mark = e.mark;
            }
            self.passed(open.hook);
            return;
        }
        // Its last function was seen already; now the hook has returned. A function of OUTPUT that
        // translated has the packet routed again in between.
        let mut hops = self.hops.iter_mut().rev();
        if e.probe == Probe::HookExit
            && let Some(hop) = hops.find(|hop| hop.stage != Stage::Route)
            && (hop.stage, hop.hook, hop.netns) == (Stage::Netfilter, hook, e.netns)
        {
            hop.sources.add(source(e.probe));
            return;
        }
        self.divert(e, d);
        self.close_traversal();
        let Some(hop) = self.nf_hop(e, d) else { return };
        if hop.layer.is_some() && hook == Some(Hook::Prerouting) {
            self.has_bridge_prerouting = true;
        }
        self.hops.push(Hop { verdict: Some(Verdict::Accept), ct, ..hop });
        if let Some(hook) = hook {
            self.passed(hook);
        }
    }

    /// A function of the hook has returned.
    pub(super) fn nf_step(&mut self, e: &Event, d: &StepDetail) {
        let at = self.traversal.as_ref().map_or(self.hops.len().wrapping_sub(1), |t| t.hop);
        let Some(hop) = self.hops.get_mut(at) else { return };
        if hop.stage != Stage::Netfilter || hop.netns != e.netns {
            return;
        }
        hop.sources.add(source(e.probe));
        let (table, chain) = (name(&d.table), name(&d.chain));
        let mut tables = hop.tables;
        // Where the chain is called like its hook, saying so twice tells nothing.
        let is_hooks_own = hop.hook.is_some_and(|hook| chain == hook.title());
        let label = match d.kind {
            step::CONNTRACK => conntrack(e, d).to_owned(),
            step::CONFIRM if d.verdict == NF_ACCEPT => "confirmed".to_owned(),
            step::CONFIRM => "conntrack clash".to_owned(),
            _ if table.is_empty() => "a table".to_owned(),
            _ if chain.is_empty() || is_hooks_own => table.clone(),
            _ => format!("{table}/{chain}"),
        };
        if !matches!(d.kind, step::CONNTRACK | step::CONFIRM) && !table.is_empty() {
            // The one that decides; one that accepts only as long as no other has run.
            tables = tables.saturating_add(1);
            if d.verdict != NF_ACCEPT || tables == 1 {
                hop.table = Some(table);
                // A table of iptables starts with the chain that is called like the hook.
                let own = || hop.hook.map(|hook| hook.title().to_owned());
                hop.chain = if chain.is_empty() { own() } else { Some(chain) };
            } else {
                hop.table = None;
                hop.chain = None;
            }
        }
        hop.tables = tables;
        hop.steps.push(label);
        hop.ct = e.ct.or(hop.ct);
        hop.connection = e.connection.or(hop.connection);
        if d.verdict == NF_DROP {
            hop.verdict = Some(Verdict::Drop);
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
    /// confirmation runs behind our last function. Of a packet that was not seen before it is known
    /// only where there is one choice: what has no device yet is made here; a copy that a bridge was
    /// about to send out of a port has been through PREROUTING as what it was copied from.
    pub(super) fn infer_hook(&self, e: &Event, is_at_port: bool) -> Option<Hook> {
        let last = self.hops.iter().rev().find(|h| {
            matches!(h.stage, Stage::Netfilter | Stage::Route | Stage::Rx | Stage::Decap)
        });
        let Some(hop) = last else {
            let is_made_here = (e.ifindex == 0).then_some(Hook::Output);
            return if is_at_port { Some(Hook::Forward) } else { is_made_here };
        };
        match (hop.stage, &hop.route) {
            (Stage::Route, Some(route)) => Some(match route.kind {
                super::RouteKind::Local => Hook::Input,
                _ if self.has_entered(hop.netns) => Hook::Forward,
                _ => Hook::Output,
            }),
            (Stage::Rx, _) if self.port.is_none() && self.has_bridge_prerouting => {
                self.after_prerouting(hop)
            }
            (Stage::Rx, _) => Some(Hook::Prerouting),
            (Stage::Netfilter, _) => match hop.hook? {
                Hook::Prerouting => self.after_prerouting(hop),
                Hook::Forward | Hook::Output => Some(Hook::Postrouting),
                hook => Some(hook),
            },
            _ => None,
        }
    }

    /// `INPUT` when the destination is the namespace's own, else `FORWARD`; groups may be both.
    fn after_prerouting(&self, hop: &Hop) -> Option<Hook> {
        if hop.layer.is_some() {
            return Some(Hook::Forward);
        }
        let dst = self.outer.or(self.tuple)?.dst;
        if holds(self.state, hop.netns, dst) {
            return Some(Hook::Input);
        }
        let is_group = dst.is_multicast() || dst == IpAddr::V4(Ipv4Addr::BROADCAST);
        (!is_group).then_some(Hook::Forward)
    }

    /// What is known where the packet is handed to its neighbour: a route, if none was seen.
    pub(super) fn output(&mut self, e: &Event, d: &NfDetail) {
        self.close_traversal();
        self.route_for_hook(e, d, Hook::Postrouting);
    }

    /// The packet came into this namespace from a device.
    fn has_entered(&self, netns: Inum) -> bool {
        self.hops.iter().any(|h| h.stage == Stage::Rx && h.netns == netns)
    }
}
