//! Netfilter: the rules at a hook, the translations they make, and conntrack, which undoes them
//! for the answer.

use std::net::IpAddr;

use super::address::source_on;
use super::hole::{emptied, hole};
use super::verdict::{filtered, may_be, reference};
use super::walker::Walker;
use super::{Effect, Nat, ObstacleKind, RuleRef, Track, What, obstacle};
use crate::event::{Proto, Tuple};
use crate::firewall::{self, At, Firewall, Hit, Match, Stateful, Target, Translation, Traversal};
use crate::journey::{Hook, NatKind};
use crate::net::Inum;
use crate::net::fib::contains;

/// The devices of a traversal, as interface indices.
#[derive(Clone, Copy, Default)]
pub(super) struct Devs {
    pub(super) iif: Option<u32>,
    pub(super) oif: Option<u32>,
    /// Bridge ports that the frame comes in and leaves by.
    pub(super) ports: (Option<u32>, Option<u32>),
    /// On behalf of a bridge.
    pub(super) is_bridged: bool,
    /// Towards this next hop, which decides about a masquerading address.
    pub(super) hop: Option<IpAddr>,
}

impl Walker<'_> {
    /// Takes the packet through `hook`. The packet goes on even if it is dropped there: what would
    /// drop it is now on the trail.
    pub(super) fn hook(&mut self, netns: Inum, hook: Hook, devs: Devs) {
        let Some(detail) = self.conf.detail(netns) else { return };
        let fw = &detail.firewall;
        let is_first = matches!(hook, Hook::Prerouting | Hook::Output);
        let is_new = is_first && self.flight.track.is_none() && !self.flight.is_reply;
        if is_first {
            self.track(netns);
        }
        let locals = self.conf.locals(netns);
        let name = |dev: Option<u32>| dev.map(|d| self.conf.name(netns, d));
        let at = At {
            hook,
            is_bridged: devs.is_bridged,
            iif: name(devs.iif),
            oif: name(devs.oif),
            phys_in: name(devs.ports.0),
            phys_out: name(devs.ports.1),
            locals: &locals,
        };
        let packet = self.flight.for_rules();
        let passed = firewall::traverse(fw, &packet, &at);
        let hits = passed.hits.iter().map(reference).collect();
        let what = What::Hook { hook, hits, is_bridged: devs.is_bridged };
        let step = self.step(netns, devs.iif, devs.oif, what);
        self.verdict(netns, hook, &passed);
        self.flight.mark = passed.packet.mark;
        self.untrack(netns, &passed);
        if is_first && self.flight.ct != Stateful::Untracked {
            self.zone(netns, &passed.hits);
        }
        if is_new && self.flight.ct == Stateful::New {
            self.room(netns);
        }
        match self.flight.ct {
            Stateful::New if hook != Hook::Forward => self.translate(netns, hook, devs, &passed),
            Stateful::Established | Stateful::Related => self.translate_back(netns, hook),
            Stateful::New | Stateful::Invalid | Stateful::Untracked => {}
        }
        if let Some(last) = self.walk.steps.get_mut(step) {
            last.tuple = self.flight.tuple;
        }
    }

    /// The rules of family `bridge` (and ebtables) for a frame between two ports.
    pub(super) fn bridge_hook(
        &mut self,
        netns: Inum,
        hook: Hook,
        ports: (Option<u32>, Option<u32>),
    ) {
        let Some(detail) = self.conf.detail(netns) else { return };
        let fw = &detail.firewall;
        if !fw.tables.iter().any(|t| t.family == "bridge") {
            return;
        }
        let locals = self.conf.locals(netns);
        let name = |dev: Option<u32>| dev.map(|d| self.conf.name(netns, d));
        let at = At {
            hook,
            is_bridged: true,
            iif: name(ports.0),
            oif: name(ports.1),
            phys_in: name(ports.0),
            phys_out: name(ports.1),
            locals: &locals,
        };
        let passed = firewall::traverse_bridge(fw, &self.flight.for_rules(), &at);
        let hits = passed.hits.iter().map(reference).collect();
        self.step(netns, ports.0, ports.1, What::Hook { hook, hits, is_bridged: true });
        self.verdict(netns, hook, &passed);
    }

    /// The chains at a device itself, in front of all other hooks or behind them. Conntrack has not
    /// seen what comes in.
    pub(super) fn device_hook(&mut self, netns: Inum, dev: u32, is_ingress: bool) {
        let Some(detail) = self.conf.detail(netns) else { return };
        let locals = self.conf.locals(netns);
        let name = self.conf.name(netns, dev);
        let at = At {
            hook: if is_ingress { Hook::Prerouting } else { Hook::Postrouting },
            is_bridged: false,
            iif: is_ingress.then_some(name),
            oif: (!is_ingress).then_some(name),
            phys_in: None,
            phys_out: None,
            locals: &locals,
        };
        let mut packet = self.flight.for_rules();
        if is_ingress {
            packet.ct = Stateful::Invalid;
        }
        let passed = firewall::traverse_device(&detail.firewall, &packet, &at, (name, is_ingress));
        for (effect, kind) in filtered(None, &passed, Stateful::New) {
            self.hinder(effect, netns, Some(dev), kind);
        }
    }

    fn verdict(&mut self, netns: Inum, hook: Hook, passed: &Traversal<'_>) {
        let found = filtered(Some(hook), passed, self.flight.ct);
        for (effect, kind) in found {
            self.hinder(effect, netns, None, kind);
        }
        let is_dropped_as_invalid =
            self.flight.ct == Stateful::Invalid && !matches!(passed.end, firewall::End::Accept);
        if is_dropped_as_invalid {
            let rule = self.untracked_by(netns);
            self.hinder(Effect::Stops, netns, None, ObstacleKind::Untracked { rule });
        }
    }

    /// Conntrack at the first hook of a namespace.
    fn track(&mut self, netns: Inum) {
        if self.flight.track.is_some() {
            return;
        }
        let tuple = self.flight.tuple;
        if self.flight.is_reply
            && let Some(request) = self.request
        {
            let known =
                request.tracks.iter().position(|t| t.netns == netns && t.now.reversed() == tuple);
            let (ct, at) = match known.and_then(|at| Some((at, request.tracks.get(at)?))) {
                Some((at, track)) if track.is_tracked => (Stateful::Established, Some(at)),
                // The answer to something that was never seen: conntrack takes the middle of a
                // connection for invalid (nf_conntrack_tcp_packet, icmp_new), a datagram for new.
                _ if tuple.proto == Proto::Udp => (Stateful::New, None),
                _ => (Stateful::Invalid, None),
            };
            self.flight.ct = ct;
            self.flight.track = at;
            return;
        }
        self.flight.ct = if self.flight.is_reply { Stateful::Established } else { Stateful::New };
        self.flight.track = Some(self.walk.tracks.len());
        self.flight.orig = Some(tuple);
        self.walk.tracks.push(Track {
            netns,
            orig: tuple,
            now: tuple,
            is_tracked: true,
            untracked: None,
            zone: super::Zone::default(),
        });
    }

    /// There has to be room for a connection that conntrack does not know yet.
    fn room(&mut self, netns: Inum) {
        let Some((entries, limit)) = self.conf.detail(netns).and_then(|d| d.conntrack) else {
            return;
        };
        let effect = match obstacle::is_used_up(entries, limit, 99) {
            true => Effect::MayStop,
            false if obstacle::is_used_up(entries, limit, 90) => Effect::Degrades,
            false => return,
        };
        self.hinder(effect, netns, None, ObstacleKind::ConntrackFull { entries, limit });
    }

    /// The rule that kept conntrack from seeing the request here.
    fn untracked_by(&self, netns: Inum) -> Option<RuleRef> {
        let tracks = &self.request?.tracks;
        tracks.iter().find(|t| t.netns == netns && !t.is_tracked)?.untracked.clone()
    }

    fn untrack(&mut self, netns: Inum, passed: &Traversal<'_>) {
        if passed.packet.ct != Stateful::Untracked {
            return;
        }
        self.flight.ct = Stateful::Untracked;
        let rule = self.conf.detail(netns).and_then(|d| notrack(&d.firewall, self.flight.tuple));
        if self.flight.is_reply {
            let tuple = self.flight.tuple;
            let (orig, now, zone) = (tuple, tuple, super::Zone::default());
            let untracked = rule;
            self.walk.tracks.push(Track { netns, orig, now, is_tracked: false, untracked, zone });
        } else if let Some(track) = self.flight.track.and_then(|at| self.walk.tracks.get_mut(at)) {
            (track.is_tracked, track.untracked) = (false, rule);
        }
    }

    fn translate(&mut self, netns: Inum, hook: Hook, devs: Devs, passed: &Traversal<'_>) {
        let is_destination = matches!(hook, Hook::Prerouting | Hook::Output);
        let fits = |t: &&Translation<'_>| {
            matches!(t.kind, NatKind::Dnat | NatKind::Redirect) == is_destination
        };
        let ways: Vec<_> = passed
            .nat
            .iter()
            .filter(fits)
            .flat_map(|t| {
                let to = if t.to.is_empty() { &[(None, None)][..] } else { &t.to };
                to.iter().map(move |to| (t, *to))
            })
            .collect();
        let before = self.flight.tuple;
        let settled = &mut self.flight.is_translated;
        let settled = if is_destination { &mut settled.0 } else { &mut settled.1 };
        // The first hook settles it, also when no rule held (`nf_nat_initialized`).
        let is_done = std::mem::replace(settled, true);
        if ways.is_empty() && !is_done && is_destination {
            self.emptied(netns, passed);
        }
        if ways.is_empty() || is_done {
            return;
        }
        let hole = self.hole(netns, passed).filter(|_| is_destination);
        let taken = self.choose(ways.len() + usize::from(hole.is_some()), |at| {
            ways.get(at).map_or_else(|| "no endpoint".to_owned(), |(_, to)| endpoint(*to))
        });
        let Some((chosen, (addr, port))) = ways.get(taken).copied() else {
            if let Some((rule, percent)) = hole {
                let kind = ObstacleKind::Unspread { rule, percent };
                self.hinder(Effect::Stops, netns, None, kind);
            }
            return;
        };
        self.flight.mark = chosen.packet.mark;
        let mut after = before;
        if is_destination {
            after.dst = addr.unwrap_or_else(|| self.redirected(netns, hook, devs, before));
            after.dport = port.unwrap_or(before.dport);
        } else {
            let own = || source_on(self.conf, netns, devs.oif?, devs.hop.unwrap_or(before.dst));
            after.src = addr.or_else(own).unwrap_or(before.src);
            after.sport = port.unwrap_or(before.sport);
        }
        if !chosen.hit.is_certain && ways.len() == 1 {
            let kind = may_be(Some(hook), &chosen.hit, "whether it translates is not certain");
            self.hinder(Effect::Degrades, netns, None, kind);
        }
        let rule = reference(&chosen.hit);
        if chosen.kind == NatKind::Snat && !self.conf.is_local(netns, after.src) {
            let kind = ObstacleKind::ForeignSource { addr: after.src, rule: rule.clone() };
            self.hinder(Effect::MayStop, netns, devs.oif, kind);
        }
        self.translated(netns, chosen.kind, after, Some(rule));
    }

    /// The chain that should translate is empty, and nobody takes the packet as it is.
    fn emptied(&mut self, netns: Inum, passed: &Traversal<'_>) {
        let t = self.flight.tuple;
        let is_nobodys = self.conf.holders(t.dst).is_empty() && super::conf::is_private(t.dst);
        let sockets = self.conf.detail(netns).map_or(&[][..], |d| &d.sockets);
        let mut listening = sockets.iter().filter(|s| s.proto == t.proto.number());
        let is_mute = self.conf.is_local(netns, t.dst) && !listening.any(|s| s.port == t.dport);
        if !is_nobodys && !is_mute {
            return;
        }
        if let Some((jump, chain, asked)) = emptied(&passed.hits) {
            let kind = ObstacleKind::EmptyChain { jump, chain, asked };
            self.hinder(Effect::Stops, netns, None, kind);
        }
    }

    /// A share of the connections to an address that is nobody's, or this namespace's own port, that
    /// no rule translates. What somebody else holds may well be meant to get there untranslated.
    fn hole(&self, netns: Inum, passed: &Traversal<'_>) -> Option<(RuleRef, u8)> {
        let dst = self.flight.tuple.dst;
        let is_nobodys = self.conf.holders(dst).is_empty() && super::conf::is_private(dst);
        (is_nobodys || self.conf.is_local(netns, dst)).then(|| hole(&passed.hits)).flatten()
    }

    fn redirected(&self, netns: Inum, hook: Hook, devs: Devs, t: Tuple) -> IpAddr {
        let lo = if t.dst.is_ipv4() {
            IpAddr::from([127, 0, 0, 1])
        } else {
            IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16])
        };
        let input = || source_on(self.conf, netns, devs.iif?, t.src);
        if hook == Hook::Output { lo } else { input().unwrap_or(lo) }
    }

    /// The answer: its destination at the first hooks, its source at the last ones
    /// (`nf_nat_packet` with `HOOK2MANIP`).
    fn translate_back(&mut self, netns: Inum, hook: Hook) {
        let track = self.flight.track.and_then(|at| self.request?.tracks.get(at));
        let Some(orig) = track.map(|t| t.orig.reversed()) else { return };
        let mut after = self.flight.tuple;
        let kind = if matches!(hook, Hook::Prerouting | Hook::Output) {
            (after.dst, after.dport) = (orig.dst, orig.dport);
            NatKind::UnSnat
        } else if matches!(hook, Hook::Postrouting | Hook::Input) {
            (after.src, after.sport) = (orig.src, orig.sport);
            NatKind::UnDnat
        } else {
            return;
        };
        if after != self.flight.tuple {
            self.translated(netns, kind, after, None);
        }
    }

    pub(super) fn translated(
        &mut self,
        netns: Inum,
        kind: NatKind,
        after: Tuple,
        rule: Option<RuleRef>,
    ) {
        let before = self.flight.tuple;
        self.flight.tuple = after;
        let step = self.walk.steps.len().saturating_sub(1);
        self.walk.nat.push(Nat { step, netns, kind, before, after, rule });
        if self.request.is_none()
            && let Some(track) = self.flight.track.and_then(|at| self.walk.tracks.get_mut(at))
        {
            track.now = after;
        }
    }
}

/// The first rule that takes packets like this from conntrack, as far as addresses tell.
fn notrack(fw: &Firewall, t: Tuple) -> Option<RuleRef> {
    let fits = |m: &Match| match m {
        Match::Src { nets, not } => nets.iter().any(|n| contains(*n, t.src)) != *not,
        Match::Dst { nets, not } => nets.iter().any(|n| contains(*n, t.dst)) != *not,
        _ => true,
    };
    let chains = fw.tables.iter().flat_map(|t| t.chains.iter().map(move |c| (t, c)));
    let rules = chains.flat_map(|(t, c)| c.rules.iter().map(move |r| (t, c, r)));
    let is_notrack =
        |r: &firewall::Rule| r.target == Target::Notrack || r.also.contains(&Target::Notrack);
    let mut found = rules.filter(|(_, _, r)| is_notrack(r) && r.matches.iter().all(fits));
    let (table, chain, rule) = found.next()?;
    Some(reference(&Hit { table, chain, rule: Some(rule), via: Vec::new(), is_certain: true }))
}

fn endpoint((addr, port): (Option<IpAddr>, Option<u16>)) -> String {
    match (addr, port) {
        (Some(IpAddr::V6(a)), Some(p)) => format!("[{a}]:{p}"),
        (Some(a), Some(p)) => format!("{a}:{p}"),
        (Some(a), None) => a.to_string(),
        (None, Some(p)) => format!(":{p}"),
        (None, None) => "chosen by the kernel".to_owned(),
    }
}
