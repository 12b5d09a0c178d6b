//! Rules to the hops at which a packet met them.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use super::lives::{Life, Lives};
use super::passages::{Passages, is_same};
use super::{BRIDGE_FAMILY, Step, Verdict, What};
use crate::event::Tuple;
use crate::firewall::Firewall;
use crate::journey::{self, Basis, Hook, Journey, NatKind, Rule, Stage};
use crate::net::Inum;

/// What was told and not yet asked for, with the rules as configured.
#[derive(Debug, Default)]
pub struct Attribution {
    passages: Passages,
    rules: BTreeMap<Inum, Index>,
    lives: BTreeMap<Inum, Lives>,
}

/// The rules of a namespace by the kernel's names for them.
#[derive(Debug, Default)]
struct Index {
    /// `NFPROTO_*`, table and handle to the rule.
    rules: HashMap<(u8, String, u64), Known>,
    /// `NFPROTO_*`, table and chain to the hook.
    hooks: HashMap<(u8, String, String), Hook>,
    /// The tables' lives when the rules were read.
    lives: Lives,
}

/// What is known of a rule by its configuration.
#[derive(Clone, Debug, Default)]
struct Known {
    text: String,
    comment: Option<String>,
    /// How it translates, if it does.
    nat: Option<NatKind>,
}

impl Index {
    fn new(firewall: &Firewall, lives: Lives) -> Self {
        let mut index = Self { lives, ..Self::default() };
        for table in &firewall.tables {
            let Some(family) = family(&table.family) else { continue };
            for chain in &table.chains {
                if let Some(hook) = chain.hook {
                    index.hooks.insert((family, table.name.clone(), chain.name.clone()), hook);
                }
                for rule in &chain.rules {
                    if let Some(handle) = rule.handle {
                        let known = Known {
                            text: rule.text.clone(),
                            comment: rule.comment.clone(),
                            nat: rule.target.nat_kind(),
                        };
                        index.rules.insert((family, table.name.clone(), handle), known);
                    }
                }
            }
        }
        index
    }

    /// The rule, if the table is still the one that was read: a new one of the same name gives
    /// its handles from 1 again.
    fn rule(&self, step: &Step, handle: u64) -> Option<&Known> {
        let known = self.rules.get(&(step.family, step.table.clone(), handle));
        known.filter(|_| self.lives.of(step.family, &step.table) == step.life)
    }

    /// The hook of a hooked chain; iptables' chains are named after theirs.
    fn hook(&self, step: &Step) -> Option<Hook> {
        let known = self.hooks.get(&(step.family, step.table.clone(), step.chain.clone()));
        known.copied().or_else(|| {
            [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting]
                .into_iter()
                .find(|hook| hook.title() == step.chain)
        })
    }
}

/// `NFPROTO_*` of a family's name.
fn family(name: &str) -> Option<u8> {
    Some(match name {
        "inet" => 1,
        "ip" => 2,
        "arp" => 3,
        "netdev" => 5,
        "bridge" => BRIDGE_FAMILY,
        "ip6" => 10,
        _ => return None,
    })
}

/// The steps of one packet in one hooked chain and those that it jumps to.
struct Traversal<'a> {
    hook: Option<Hook>,
    steps: &'a [Step],
}

impl Attribution {
    /// Takes over the rules of a namespace, which were read since its tables had these `lives`.
    pub fn set_rules(&mut self, netns: Inum, firewall: &Firewall, lives: Lives) {
        self.rules.insert(netns, Index::new(firewall, lives));
    }

    /// How often the tables of a namespace have been made anew, as far as was told.
    #[must_use]
    pub fn lives(&self, netns: Inum) -> Lives {
        self.lives.get(&netns).cloned().unwrap_or_default()
    }

    /// Adds what the namespace's nftables told.
    pub fn push(&mut self, netns: Inum, mut step: Step, own: &str) {
        step.life = self
            .lives
            .get(&netns)
            .map_or(Life::default(), |lives| lives.of(step.family, &step.table));
        self.passages.push(netns, step, own);
    }

    /// A table is gone: one that comes under its name has other rules.
    pub fn table_gone(&mut self, netns: Inum, family: u8, table: &str) {
        self.lives.entry(netns).or_default().end(family, table);
    }

    /// Something that was told was lost: any table may be another one by now.
    pub fn lost(&mut self, netns: Inum) {
        self.lives.entry(netns).or_default().end_all();
    }

    /// Forgets a namespace.
    pub fn forget(&mut self, netns: Inum) {
        self.passages.forget(netns);
        self.rules.remove(&netns);
        self.lives.remove(&netns);
    }

    /// Names the rules at the hops of `journey`.
    pub fn attribute(&mut self, journey: &mut Journey) {
        for stay in stays(journey) {
            self.attribute_stay(journey, &stay);
        }
    }

    fn attribute_stay(&mut self, journey: &mut Journey, stay: &Stay) {
        let hops = &journey.hops[stay.from..stay.to];
        let Some(first) = hops.first() else { return };
        let (netns, is_encap) = (first.netns, first.is_encap);
        let entries = hops.iter().filter(|h| {
            h.stage == Stage::Netfilter && matches!(h.hook, Some(Hook::Prerouting | Hook::Output))
        });
        let limit = entries.count().max(1);
        let packet = journey.first;
        let mut claimed = Vec::new();
        for (is_bridge, is_entry) in [(true, true), (true, false), (false, true), (false, false)] {
            claimed.extend(self.passages.claim(netns, limit, &stay.tuples, |passage| {
                (passage.family == BRIDGE_FAMILY) == is_bridge
                    && passage.is_entry == is_entry
                    // Of the outer packet, only the tuple is known.
                    && (is_encap || packet.is_some_and(|p| is_same(&p, &passage.headers)))
            }));
        }
        let none = Index::default();
        let index = self.rules.get(&netns).unwrap_or(&none);
        for passage in &claimed {
            let mut rest = traversals(&passage.steps, index);
            for at in stay.from..stay.to {
                let Some(hook) = journey.hops[at].hook else { continue };
                let mut seen: Vec<(&str, &str)> = Vec::new();
                // A chain that comes again is the next hop's.
                let here = rest.extract_if(.., |t| {
                    let Some(step) = t.steps.first() else { return true };
                    let base = (step.table.as_str(), step.chain.as_str());
                    let is_here = t.hook == Some(hook) && !seen.contains(&base);
                    if is_here {
                        seen.push(base);
                    }
                    is_here
                });
                let here: Vec<Traversal<'_>> = here.collect();
                let translations = journey.nat.iter_mut().filter(|nat| nat.hop == at);
                let kinds: Vec<&mut NatKind> = translations.map(|nat| &mut nat.kind).collect();
                name(&mut journey.hops[at], kinds, &here, index);
            }
            if let Some(dropped) = rest.iter().find(|t| ends_in_drop(t)) {
                name_drop(journey, stay, dropped, index);
            }
        }
        settle_drop(journey, stay);
    }
}

/// The hops from where a packet enters a namespace (or a tunnel there) to where it leaves it.
struct Stay {
    from: usize,
    to: usize,
    /// All tuples that it had there.
    tuples: Vec<Tuple>,
}

fn stays(journey: &Journey) -> Vec<Stay> {
    let mut stays: Vec<Stay> = Vec::new();
    let mut now = journey.first.map(|h| h.tuple);
    for (at, hop) in journey.hops.iter().enumerate() {
        let goes_on = at > 0 && {
            let last = &journey.hops[at - 1];
            last.netns == hop.netns && last.is_encap == hop.is_encap
        };
        // Where the outer tuple begins or ends, the old one is not that of this stay.
        let is_same = goes_on || hop.tuple.is_none() || (at == 0 && !hop.is_encap);
        let before = now.filter(|_| is_same);
        now = hop.tuple.or(now);
        let tuples = [before, now].into_iter().flatten();
        match stays.last_mut().filter(|_| goes_on) {
            Some(stay) => {
                stay.to = at + 1;
                stay.tuples.extend(tuples);
            }
            None => stays.push(Stay { from: at, to: at + 1, tuples: tuples.collect() }),
        }
    }
    stays
}

/// A hooked chain begins with the step that tells the headers.
fn traversals<'a>(steps: &'a [Step], index: &Index) -> Vec<Traversal<'a>> {
    let starts: Vec<usize> = (0..steps.len()).filter(|i| steps[*i].headers.is_some()).collect();
    let ends = starts.iter().skip(1).copied().chain([steps.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(from, to)| {
            let steps = &steps[*from..to];
            Traversal { hook: steps.first().and_then(|s| index.hook(s)), steps }
        })
        .collect()
}

fn ends_in_drop(traversal: &Traversal<'_>) -> bool {
    traversal.steps.last().is_some_and(|s| s.verdict == Verdict::Drop)
}

/// Writes what was met at a hop, and which of it decided: what dropped it, else what translated
/// it, else what accepted it last. A translation seen there is of the kind that its rule says:
/// `snat` to the device's own address and `masquerade` look alike.
fn name(
    hop: &mut journey::Hop,
    translations: Vec<&mut NatKind>,
    traversals: &[Traversal<'_>],
    index: &Index,
) {
    if traversals.is_empty() {
        return;
    }
    let met: Vec<(Rule, Option<NatKind>)> =
        traversals.iter().flat_map(|traversal| rules(traversal, index)).collect();
    let last = |is_it: &dyn Fn(&Rule, Option<NatKind>) -> bool| {
        met.iter().rev().find(|(rule, nat)| is_it(rule, *nat)).map(|(rule, _)| rule.clone())
    };
    let accepts = |r: &Rule| r.verdict == "accept" && r.handle.is_some();
    let mut decided = last(&|r, _| r.verdict == "drop");
    for kind in translations.into_iter().filter(|kind| !kind.is_undoing()) {
        let of_its_end = |nat: NatKind| nat.is_destination() == kind.is_destination();
        let is_it = |r: &Rule, nat: Option<NatKind>| accepts(r) && nat.is_some_and(of_its_end);
        // Rules that are not known (yet) are told by the table of iptables.
        let may_be = |r: &Rule, _| accepts(r) && r.text.is_empty() && r.table == "nat";
        decided = decided.or_else(|| last(&is_it)).or_else(|| last(&may_be));
        let said = met.iter().rev().find(|(rule, nat)| is_it(rule, *nat));
        *kind = said.and_then(|(_, nat)| *nat).unwrap_or(*kind);
    }
    hop.rule = decided
        .or_else(|| last(&|r, _| accepts(r)))
        .or_else(|| last(&|r, _| r.verdict == "accept"))
        .map(Box::new);
    hop.rules = met.into_iter().map(|(rule, _)| rule).collect();
}

/// The rules of a traversal, each with the chains that lead to it, and how it translates.
fn rules(traversal: &Traversal<'_>, index: &Index) -> Vec<(Rule, Option<NatKind>)> {
    let mut via: Vec<String> = Vec::new();
    let mut rules = Vec::new();
    for step in traversal.steps {
        // Where a chain was left, so were the jumps behind it.
        if let Some(depth) = via.iter().position(|chain| *chain == step.chain) {
            via.truncate(depth);
        }
        let (handle, known) = match step.what {
            What::Return => continue,
            What::Policy => {
                let policy = if step.verdict == Verdict::Drop { "drop" } else { "accept" };
                (None, Known { text: format!("policy {policy}"), ..Known::default() })
            }
            What::Rule(handle) => {
                (Some(handle), index.rule(step, handle).cloned().unwrap_or_default())
            }
        };
        let rule = Rule {
            table: step.table.clone(),
            chain: step.chain.clone(),
            handle,
            text: known.text,
            comment: known.comment,
            via: via.clone(),
            verdict: match &step.verdict {
                Verdict::Accept => "accept".to_owned(),
                Verdict::Drop => "drop".to_owned(),
                Verdict::Continue => "continue".to_owned(),
                Verdict::Return => "return".to_owned(),
                Verdict::Taken => "queue".to_owned(),
                Verdict::Chain(chain) => format!("jump {chain}"),
            },
            basis: Basis::Seen,
            is_legacy: false,
        };
        rules.push((rule, known.nat));
        if let Verdict::Chain(_) = &step.verdict {
            via.push(step.chain.clone());
        }
    }
    rules
}

/// The packet was dropped at a hook of which no hop is known: the drop itself names the rule, and
/// so the hook for certain.
fn name_drop(journey: &mut Journey, stay: &Stay, dropped: &Traversal<'_>, index: &Index) {
    let Some(point) = &mut journey.dropped else { return };
    if !(stay.from..stay.to).contains(&point.hop) {
        return;
    }
    point.hook = dropped.hook.or(point.hook);
    let hop = &mut journey.hops[point.hop];
    hop.hook = point.hook;
    name(hop, Vec::new(), std::slice::from_ref(dropped), index);
}

/// The drop names the rule too that the hop of its hook names.
fn settle_drop(journey: &mut Journey, stay: &Stay) {
    let Some(point) = &journey.dropped else { return };
    if !(stay.from..stay.to).contains(&point.hop) || journey.hops[point.hop].rule.is_some() {
        return;
    }
    let hops = journey.hops[stay.from..point.hop].iter().rev();
    let decided = hops.filter_map(|h| h.rule.as_ref()).find(|r| r.verdict == "drop").cloned();
    journey.hops[point.hop].rule = decided;
}
