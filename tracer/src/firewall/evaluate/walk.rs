//! The walk through one chain and those that it jumps to.

use super::basics::Context;
use super::condition::rule_holds;
use super::form::Form;
use super::lookup::{self, Choice};
use super::{At, End, Hit, Translation, Truth};
use crate::firewall::{Chain, Firewall, Map, MapKind, Policy, Rule, Table, Target};
use crate::journey::NatKind;

/// The kernel refuses deeper nesting (`NFT_JUMP_STACK_SIZE`; x_tables sizes its stack alike).
const MAX_DEPTH: usize = 16;

/// A packet on its way: its possible forms, and whether it certainly gets here.
#[derive(Clone)]
pub(super) struct State {
    pub(super) forms: Vec<Form>,
    pub(super) is_certain: bool,
}

/// What may happen in a chain.
#[derive(Default)]
pub(super) struct Outcome<'a> {
    /// It comes to the chain's end, or returns.
    falls: Option<State>,
    /// It is accepted, translated or not.
    pub(super) accepted: Vec<Form>,
    /// It is dropped, rejected or queued: the last rule or policy that may.
    pub(super) end: Option<End<'a>>,
}

/// One run over all chains at a hook.
pub(super) struct Walk<'a, 'b> {
    pub(super) fw: &'a Firewall,
    pub(super) at: &'b At<'b>,
    pub(super) hits: Vec<Hit<'a>>,
    pub(super) nat: Vec<Translation<'a>>,
    /// Rules and policies that may end the packet's way.
    pub(super) ends: Vec<Hit<'a>>,
    /// A rule that is taken for not there.
    pub(super) skip: Option<&'a Rule>,
}

/// A chain being walked.
struct Frame<'a> {
    table: &'a Table,
    chain: &'a Chain,
    via: Vec<&'a str>,
    state: State,
    /// Forms in which it may have returned.
    returned: Vec<Form>,
    out: Outcome<'a>,
    /// Whether it may have ended in here: if not, it certainly comes out as it came in.
    may_end: bool,
}

impl<'a, 'b> Walk<'a, 'b> {
    pub(super) fn new(fw: &'a Firewall, at: &'b At<'b>) -> Self {
        Self { fw, at, hits: Vec::new(), nat: Vec::new(), ends: Vec::new(), skip: None }
    }

    /// Walks a hooked chain, its policy included.
    pub(super) fn base(&mut self, table: &'a Table, chain: &'a Chain, state: State) -> Outcome<'a> {
        let mut out = self.chain(table, chain, Vec::new(), state);
        let Some(left) = out.falls.take() else { return out };
        if chain.policy == Some(Policy::Drop) {
            let is_certain = left.is_certain;
            let hit = Hit { table, chain, rule: None, via: Vec::new(), is_certain };
            self.ends.push(hit.clone());
            out.end = Some(End::Drop(hit));
        } else {
            out.accepted.extend(left.forms);
        }
        out
    }

    fn chain(
        &mut self,
        table: &'a Table,
        chain: &'a Chain,
        via: Vec<&'a str>,
        state: State,
    ) -> Outcome<'a> {
        let enters_certainly = state.is_certain;
        let mut frame = Frame {
            table,
            chain,
            via,
            state,
            returned: Vec::new(),
            out: Outcome::default(),
            may_end: false,
        };
        let mut reaches_end = true;
        let skip = self.skip;
        for rule in chain.rules.iter().filter(|r| !skip.is_some_and(|s| std::ptr::eq(*r, s))) {
            let context = Context { fw: self.fw, table, at: self.at };
            let truth = rule_holds(rule, &frame.state.forms, context);
            if truth == Truth::No {
                continue;
            }
            self.hits.push(frame.hit(rule, truth));
            if !self.apply(&mut frame, rule, truth) {
                reaches_end = false;
                break;
            }
        }
        let mut forms = frame.returned;
        if reaches_end {
            join(&mut forms, &frame.state.forms);
        }
        if !forms.is_empty() {
            let is_certain = enters_certainly && !frame.may_end;
            frame.out.falls = Some(State { forms, is_certain });
        }
        frame.out
    }

    /// Does what the rule does; `false` if no packet that gets here goes on to the next rule.
    fn apply(&mut self, frame: &mut Frame<'a>, rule: &'a Rule, truth: Truth) -> bool {
        let before = frame.state.clone();
        for effect in &rule.also {
            effect_on(&mut frame.state.forms, effect);
        }
        let goes_on = match &rule.target {
            Target::Continue => true,
            effect @ (Target::SetMark { .. } | Target::Notrack) => {
                effect_on(&mut frame.state.forms, effect);
                true
            }
            Target::Other(words) if is_about_mark(words) => {
                effect_on(&mut frame.state.forms, &rule.target);
                true
            }
            Target::Map(map) => self.map(frame, rule, truth, map),
            target => self.decide(frame, rule, truth, target),
        };
        if truth == Truth::Yes {
            return goes_on;
        }
        // It may have gone past: as it was, or as the rule made it.
        let made = std::mem::replace(&mut frame.state, before);
        if goes_on {
            frame.state.is_certain &= made.is_certain;
            join(&mut frame.state.forms, &made.forms);
        } else {
            frame.state.is_certain = false;
        }
        true
    }

    /// A target that may end the chain, applied to all forms of the frame.
    fn decide(
        &mut self,
        frame: &mut Frame<'a>,
        rule: &'a Rule,
        truth: Truth,
        target: &Target,
    ) -> bool {
        let hit = frame.hit(rule, truth);
        match target {
            Target::Accept => {
                frame.may_end = true;
                frame.out.accepted.extend(frame.state.forms.iter().cloned());
            }
            Target::Drop => self.end(frame, hit.clone(), End::Drop(hit)),
            Target::Reject(with) => self.end(frame, hit.clone(), End::Reject(hit, with.clone())),
            Target::Queue => self.end(frame, hit.clone(), End::Queue(hit)),
            Target::Return => join(&mut frame.returned, &frame.state.forms),
            Target::Jump(name) => return self.jump(frame, hit, name, truth, false),
            Target::Goto(name) => return self.jump(frame, hit, name, truth, true),
            Target::Dnat { addr, port } => {
                self.translate(frame, hit, NatKind::Dnat, vec![(*addr, *port)]);
            }
            Target::Snat { addr, port } => {
                self.translate(frame, hit, NatKind::Snat, vec![(*addr, *port)]);
            }
            Target::Masquerade => {
                self.translate(frame, hit, NatKind::Masquerade, vec![(None, None)]);
            }
            Target::Redirect { port } => {
                self.translate(frame, hit, NatKind::Redirect, vec![(None, *port)]);
            }
            Target::Continue | Target::SetMark { .. } | Target::Notrack => return true,
            Target::Map(_) | Target::Other(_) => return self.unknown(frame, hit),
        }
        false
    }

    /// A rule that may do anything.
    fn unknown(&mut self, frame: &mut Frame<'a>, hit: Hit<'a>) -> bool {
        self.ends.push(Hit { is_certain: false, ..hit });
        frame.may_end = true;
        frame.state.is_certain = false;
        frame.out.accepted.extend(frame.state.forms.iter().cloned());
        true
    }

    fn end(&mut self, frame: &mut Frame<'a>, hit: Hit<'a>, end: End<'a>) {
        frame.may_end = true;
        self.ends.push(hit);
        frame.out.end = Some(end);
    }

    fn jump(
        &mut self,
        frame: &mut Frame<'a>,
        hit: Hit<'a>,
        name: &str,
        truth: Truth,
        is_goto: bool,
    ) -> bool {
        let next = frame.table.chains.iter().find(|c| c.name == name);
        let Some(next) = next.filter(|_| frame.via.len() < MAX_DEPTH) else {
            return self.unknown(frame, hit);
        };
        let mut via = frame.via.clone();
        via.push(&frame.chain.name);
        let is_certain = frame.state.is_certain && truth == Truth::Yes;
        let state = State { forms: frame.state.forms.clone(), is_certain };
        let inner = self.chain(frame.table, next, via, state);
        let may_end = !inner.accepted.is_empty()
            || inner.end.is_some()
            || inner.falls.as_ref().is_none_or(|f| f.is_certain != is_certain);
        frame.may_end |= may_end;
        frame.out.accepted.extend(inner.accepted);
        frame.out.end = inner.end.or(frame.out.end.take());
        let Some(left) = inner.falls else { return false };
        if is_goto {
            join(&mut frame.returned, &left.forms);
            return false;
        }
        // A jump that may not happen still leaves it certain that the packet comes by here.
        frame.state = State { forms: left.forms, is_certain: frame.state.is_certain && !may_end };
        true
    }

    fn translate(
        &mut self,
        frame: &mut Frame<'a>,
        hit: Hit<'a>,
        kind: NatKind,
        to: Vec<(Option<std::net::IpAddr>, Option<u16>)>,
    ) {
        frame.may_end = true;
        let mut made = Vec::new();
        for form in &frame.state.forms {
            made.extend(to.iter().map(|to| translated(form, kind, *to, self.at)));
        }
        if let Some(first) = made.first() {
            self.nat.push(Translation { hit, kind, to, packet: first.packet.clone() });
        }
        frame.out.accepted.extend(made);
    }

    /// A map: of verdicts, or of addresses to translate to.
    fn map(&mut self, frame: &mut Frame<'a>, rule: &'a Rule, truth: Truth, map: &'a Map) -> bool {
        let context = Context { fw: self.fw, table: frame.table, at: self.at };
        let forms = frame.state.forms.iter();
        let choice = forms.map(|form| lookup::map(map, form, context)).reduce(both).flatten();
        let Some(choice) = choice else {
            let hit = frame.hit(rule, truth);
            return self.unknown(frame, hit);
        };
        if choice.values.is_empty() {
            // No element: the rule does not match after all.
            self.hits.pop();
            return true;
        }
        if !choice.is_complete
            && let Some(hit) = self.hits.last_mut()
        {
            hit.is_certain = false;
        }
        match map.kind {
            MapKind::Dnat { port } => {
                self.map_address(frame, rule, truth, (NatKind::Dnat, port), &choice)
            }
            MapKind::Snat { port } => {
                self.map_address(frame, rule, truth, (NatKind::Snat, port), &choice)
            }
            MapKind::Verdict => self.map_verdict(frame, rule, truth, choice),
        }
    }

    fn map_address(
        &mut self,
        frame: &mut Frame<'a>,
        rule: &'a Rule,
        truth: Truth,
        (kind, port): (NatKind, Option<u16>),
        choice: &Choice<'_>,
    ) -> bool {
        let to = choice.values.iter().map(|(_, value)| {
            let (addr, own) = lookup::address(value);
            (addr, own.or(port))
        });
        let to = to.collect();
        let truth = if choice.is_complete { truth } else { Truth::Maybe };
        let hit = frame.hit(rule, truth);
        self.translate(frame, hit, kind, to);
        frame.state.is_certain &= choice.is_complete;
        !choice.is_complete
    }

    /// Each verdict that may be chosen starts from the same state; the way on is all of theirs.
    fn map_verdict(
        &mut self,
        frame: &mut Frame<'a>,
        rule: &'a Rule,
        truth: Truth,
        choice: Choice<'_>,
    ) -> bool {
        let before = frame.state.clone();
        let mut on: Option<State> = (!choice.is_complete).then(|| before.clone());
        let mut is_certain = before.is_certain;
        for (chosen, verdict) in choice.values {
            let Some(target) = verdict_target(verdict) else {
                let hit = frame.hit(rule, Truth::Maybe);
                self.unknown(frame, hit);
                is_certain = false;
                continue;
            };
            frame.state = before.clone();
            let truth = truth.min(chosen);
            if self.decide(frame, rule, truth, &target) {
                is_certain &= frame.state.is_certain;
                match &mut on {
                    Some(on) => join(&mut on.forms, &frame.state.forms),
                    None => on = Some(frame.state.clone()),
                }
            } else {
                is_certain = false;
            }
        }
        let Some(on) = on else { return false };
        frame.state = State { is_certain, ..on };
        true
    }
}

impl<'a> Frame<'a> {
    fn hit(&self, rule: &'a Rule, truth: Truth) -> Hit<'a> {
        Hit {
            table: self.table,
            chain: self.chain,
            rule: Some(rule),
            via: self.via.clone(),
            is_certain: self.state.is_certain && truth == Truth::Yes,
        }
    }
}

/// `goto X`, `jump X`, `accept`, …
fn verdict_target(words: &[String]) -> Option<Target> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Some(match words.as_slice() {
        ["accept"] => Target::Accept,
        ["drop"] => Target::Drop,
        ["return"] => Target::Return,
        ["continue" | "break"] => Target::Continue,
        ["queue"] => Target::Queue,
        ["jump", chain] => Target::Jump((*chain).to_owned()),
        ["goto", chain] => Target::Goto((*chain).to_owned()),
        _ => return None,
    })
}

/// A map asked for two forms of the packet: what both may choose.
fn both<'a>(a: Option<Choice<'a>>, b: Option<Choice<'a>>) -> Option<Choice<'a>> {
    let (mut a, b) = (a?, b?);
    let is_same = a.values == b.values;
    if !is_same {
        a.is_complete &= b.is_complete;
        for (_, value) in b.values {
            if !a.values.iter().any(|(_, v)| *v == value) {
                a.values.push((Truth::Maybe, value));
            }
        }
        for (truth, _) in &mut a.values {
            *truth = Truth::Maybe;
        }
    }
    Some(a)
}

/// Rules that set the mark to what only the kernel knows.
fn is_about_mark(words: &str) -> bool {
    ["CONNMARK ", "HMARK ", "MARK ", "meta mark "].iter().any(|w| words.starts_with(w))
}

fn effect_on(forms: &mut [Form], effect: &Target) {
    for form in forms {
        match effect {
            Target::SetMark { value, mask } => form.set_mark(*value, *mask),
            Target::Notrack => {
                form.packet.ct = crate::firewall::Stateful::Untracked;
                form.is_ct_unknown = false;
            }
            Target::Other(_) => form.mark_unknown = u32::MAX,
            _ => {}
        }
    }
}

/// Adds forms that the packet may have as well. Lists of one length hold the same packets with
/// other marks, and are merged.
fn join(forms: &mut Vec<Form>, others: &[Form]) {
    if forms.len() == others.len() {
        let merged = forms.drain(..).zip(others).map(|(a, b)| a.or(b)).collect();
        *forms = merged;
    } else {
        forms.extend(others.iter().cloned());
    }
}

fn translated(
    form: &Form,
    kind: NatKind,
    (addr, port): (Option<std::net::IpAddr>, Option<u16>),
    at: &At<'_>,
) -> Form {
    let mut form = form.clone();
    form.is_translated = true;
    let packet = &mut form.packet;
    if !kind.is_destination() {
        packet.src = addr.unwrap_or(packet.src);
        packet.sport = port.unwrap_or(packet.sport);
        form.is_src_unknown = addr.is_none();
        return form;
    }
    packet.orig_dst = packet.orig_dst.or(Some((packet.dst, packet.dport)));
    packet.is_dnat = true;
    packet.dport = port.unwrap_or(packet.dport);
    match addr {
        Some(addr) => packet.dst = addr,
        // A locally made packet is redirected to loopback (`nf_nat_redirect_ipv4`).
        None if kind == NatKind::Redirect && at.hook == crate::journey::Hook::Output => {
            packet.dst = if packet.dst.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            };
        }
        None => form.is_dst_unknown = true,
    }
    form
}
