//! Rules that every packet walks through.

use std::time::Duration;

use super::evidence::human;
use super::passage::{Passage, passages};
use super::{Check, Evidence};
use crate::diagnose::finding::{Confidence, Finding, Severity};
use crate::diagnose::remedy::{ChainAt, Edit, Spec, Spot};
use crate::firewall::{Chain, Firewall, Rule, Table, Target};
use crate::net::Inum;

pub(super) const CHECK: Check = Check {
    explains: &[(
        "slow-rule-chain",
        "Rules of iptables (and of nftables without sets) are tried one after the other, by every \
         packet that comes to them: ten thousand rules cost each packet some hundred microseconds, \
         in each direction. Only the first packet of a connection has to be decided; the others can \
         be let past by a match on conntrack's state. Sets (ipset, nft sets and maps) and IPVS \
         look an address up in one step, however many there are.",
    )],
    find,
};

/// Fewer cost less than a hop.
pub(super) const MANY: usize = 500;
/// A hook that takes longer than this is felt.
const FELT: Duration = Duration::from_micros(30);
/// The same where only the first packet of a connection meets it.
const FELT_ONCE: Duration = Duration::from_micros(500);
/// About what one rule costs that does not match.
const RULE_NS: u64 = 20;
/// Deeper nesting is refused by the kernel.
const MAX_DEPTH: usize = 16;

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for passage in passages(evidence) {
        let Some(detail) = evidence.detail(passage.netns) else { continue };
        let of = |is_first| {
            let walked = Walked::of(&detail.firewall, &passage, is_first);
            judge(evidence, &passage, &walked)
        };
        // What every packet meets, the first one meets too.
        let Some(finding) = of(false).or_else(|| of(true)) else { continue };
        if !found.iter().any(|f| f.place == finding.place) {
            found.push(finding);
        }
    }
    found
}

/// What a packet goes through at a hook.
pub(super) struct Walked<'a> {
    /// The first of a connection; else one of a connection that is known.
    is_first: bool,
    /// Rules that it is tried against.
    pub(super) rules: Vec<(&'a Table, &'a Chain, &'a Rule)>,
    /// The part of them behind one rule that jumps, or in a base chain itself, that is the longest.
    longest: Option<(&'a Table, &'a Chain, Option<&'a Rule>, usize)>,
}

impl<'a> Walked<'a> {
    pub(super) fn of(fw: &'a Firewall, passage: &Passage<'_>, is_first: bool) -> Self {
        let passed = passage.traverse(fw, is_first);
        let is_met = |rule: &Rule| {
            passed.hits.iter().any(|h| h.rule.is_some_and(|met| std::ptr::eq(met, rule)))
        };
        let mut walked = Self { is_first, rules: Vec::new(), longest: None };
        for table in fw.tables.iter().filter(|t| passage.meets(&t.family)) {
            // Known connections do not see the rules of `nat`.
            let is_seen = |c: &&Chain| is_first || c.kind != "nat";
            let base = |c: &&Chain| c.hook == Some(passage.hook) && is_seen(c);
            for chain in table.chains.iter().filter(base) {
                walked.chain(table, chain, &is_met, 0);
            }
        }
        walked
    }

    /// Counts the rules of a chain and of those that it jumps to, as far as the packet gets.
    fn chain(
        &mut self,
        table: &'a Table,
        chain: &'a Chain,
        is_met: &dyn Fn(&Rule) -> bool,
        depth: usize,
    ) -> usize {
        let (mut count, mut own) = (0, 0);
        for rule in &chain.rules {
            (count, own) = (count + 1, own + 1);
            self.rules.push((table, chain, rule));
            if !is_met(rule) {
                continue;
            }
            match &rule.target {
                Target::Jump(name) | Target::Goto(name) if depth < MAX_DEPTH => {
                    let Some(next) = table.chains.iter().find(|c| c.name == *name) else {
                        continue;
                    };
                    let behind = self.chain(table, next, is_met, depth + 1);
                    self.note(table, chain, Some(rule), behind);
                    count += behind;
                }
                Target::Accept | Target::Drop | Target::Return => break,
                _ => {}
            }
        }
        if depth == 0 {
            self.note(table, chain, None, own);
        }
        count
    }

    /// Of jumps in a row, the innermost that leads to all of it is kept.
    fn note(&mut self, table: &'a Table, chain: &'a Chain, rule: Option<&'a Rule>, count: usize) {
        if self.longest.is_none_or(|(.., most)| count > most) {
            self.longest = Some((table, chain, rule, count));
        }
    }
}

fn judge(evidence: &Evidence<'_>, passage: &Passage<'_>, walked: &Walked<'_>) -> Option<Finding> {
    let (netns, hook) = (passage.netns, passage.hook);
    let (table, chain, jump, behind) = walked.longest.filter(|(.., n)| *n >= MANY)?;
    let seen = evidence.median_at(passage, walked.is_first);
    if walked.is_first && seen.is_none() {
        // Without many of them nobody waits for what only first packets meet.
        return None;
    }
    let guessed = Duration::from_nanos(walked.rules.len() as u64 * RULE_NS);
    let takes = seen.map_or(guessed, |(time, _)| time);
    if takes < if walked.is_first { FELT_ONCE } else { FELT } {
        return None;
    }
    let inner = jump.and_then(|rule| rule.leads_to()).unwrap_or(&chain.name);
    let title = format!(
        "Every {} is tried against {behind} rules of chain {inner} at {}, in vain",
        if walked.is_first { "new connection" } else { "packet" },
        hook.name().to_uppercase()
    );
    let mut finding = evidence.finding("slow-rule-chain", netns, title);
    finding.place = finding.place.hook(hook).rule(&table.name, inner, jump);
    if seen.is_none() {
        finding = finding.confidence(Confidence::Likely).severity(Severity::Warning);
    }
    finding = finding.fact(format!(
        "{} rules are walked at {} by {}, {behind} of them from {}/{inner}",
        walked.rules.len(),
        hook.name().to_uppercase(),
        if walked.is_first {
            "the first packet of a connection"
        } else {
            "a packet of a known connection"
        },
        table.name,
    ));
    finding = finding.fact(match seen {
        Some((time, n)) => format!(
            "{} in this hook (median of {n} packets): {} ns a rule",
            human(time),
            time.as_nanos() / walked.rules.len().max(1) as u128
        ),
        None => format!("at some {RULE_NS} ns a rule that is {} a packet", human(guessed)),
    });
    finding = finding.fact(as_a_set(walked.rules.len(), behind, takes));
    if let Some(fact) = counted(evidence, netns, table, chain, jump) {
        finding = finding.fact(fact);
    }
    Some(match walked.is_first {
        true => finding.fix(
            "replace the list by a set (ipset, nft set or map): kube-proxy does in its modes \
             nftables and ipvs",
        ),
        false => remedy(finding, netns, (table, chain, jump)),
    })
}

/// What the same list would cost as one look-up.
fn as_a_set(rules: usize, behind: usize, takes: Duration) -> String {
    let left = rules.saturating_sub(behind) + 1;
    let nanos = takes.as_nanos() * left as u128 / rules.max(1) as u128;
    let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    format!(
        "as an ipset, an nft map or IPVS these {behind} would be one look-up: {left} steps, some {}",
        human(takes)
    )
}

/// How often the jump was taken meanwhile.
fn counted(
    evidence: &Evidence<'_>,
    netns: Inum,
    table: &Table,
    chain: &Chain,
    jump: Option<&Rule>,
) -> Option<String> {
    let grown = evidence.grown_at(netns, (table, chain, Some(jump?)))?;
    Some(format!("{grown} packets were sent into it in {:.1} s", evidence.span.as_secs_f64()))
}

fn remedy(
    finding: Finding,
    netns: Inum,
    (table, chain, jump): (&Table, &Chain, Option<&Rule>),
) -> Finding {
    let only_new = jump.and_then(|rule| {
        let at = ChainAt::of(table, chain);
        let spec = Spec::of_text(&at, &for_new_connections(&rule.text, table)?);
        Some(at.edit(Edit::Replace(Spot::of(rule), spec)).at(netns))
    });
    match only_new {
        Some(step) => finding.fix(step).fix(
            "only the first packet of a connection walks the chain then; a manager that writes \
             these rules has to write them so",
        ),
        None => finding.fix(
            "put a rule in front that accepts what conntrack knows (ct state \
             established,related), or replace the list by a set (ipset, nft set or map)",
        ),
    }
}

/// The jump, for first packets alone.
fn for_new_connections(text: &str, table: &Table) -> Option<String> {
    use crate::firewall::Flavour;
    match table.flavour {
        Flavour::IptablesNft | Flavour::IptablesLegacy if !text.contains("--ctstate") => {
            let at = text.rfind(" -j ").or_else(|| text.rfind(" -g "))?;
            Some(format!("{} -m conntrack --ctstate NEW{}", &text[..at], &text[at..]))
        }
        Flavour::Nft if !text.contains("ct state") => Some(format!("ct state new {text}")),
        _ => None,
    }
}
