//! The class of a queueing discipline that holds the flow back.

use super::Evidence;
use super::evidence::bits;
use crate::diagnose::finding::Finding;
use crate::diagnose::remedy::quote;
use crate::net::Inum;
use crate::net::meter::{Class, Queue};

/// A class whose packets waited, and the one around it (or itself) whose ceiling they met.
pub(super) struct Held {
    pub(super) class: Class,
    pub(super) limit: Class,
}

/// The one that the flow's packets wait in, where it can be no other.
pub(super) fn held(evidence: &Evidence<'_>, netns: Inum, queue: &Queue) -> Option<Held> {
    let all = grown(evidence, netns, queue.dev);
    let is_leaf = |class: &&Class| !all.iter().any(|other| other.parent == class.id);
    let waited = |class: &&Class| class.bytes > 0 && (class.backlog > 0 || class.overlimits > 0);
    let mut waiting: Vec<&Class> = all.iter().filter(is_leaf).filter(waited).collect();
    if waiting.len() > 1 {
        let own = moved(evidence);
        waiting.retain(|class| class.bytes > own / 2);
    }
    let [class] = waiting[..] else { return None };
    Some(Held { class: class.clone(), limit: limit(evidence, &all, class).clone() })
}

/// Bytes of the flow, in the direction of its data.
fn moved(evidence: &Evidence<'_>) -> u64 {
    let grown = evidence.connections().into_iter().map(|(_, now, before)| {
        let (acked, received) = before.map_or((0, 0), |b| (b.acked, b.received));
        now.acked.saturating_sub(acked).max(now.received.saturating_sub(received))
    });
    grown.max().unwrap_or(0)
}

/// The classes of a device with what they counted meanwhile, and the most that waited.
fn grown(evidence: &Evidence<'_>, netns: Inum, dev: u32) -> Vec<Class> {
    let seen: Vec<&Class> = evidence
        .moments
        .iter()
        .filter_map(|moment| moment.get(&netns))
        .flat_map(|reading| reading.classes.iter().filter(|class| class.dev == dev))
        .collect();
    let last = evidence.moments.last().and_then(|moment| moment.get(&netns));
    let now = last.into_iter().flat_map(|r| r.classes.iter().filter(|class| class.dev == dev));
    let growth = |now: &Class| {
        let mut its = seen.iter().filter(|class| class.id == now.id);
        let most = its.clone().map(|class| class.backlog).max().unwrap_or(0);
        let before = its.next()?;
        Some(Class {
            bytes: now.bytes.saturating_sub(before.bytes),
            drops: now.drops.saturating_sub(before.drops),
            overlimits: now.overlimits.saturating_sub(before.overlimits),
            backlog: most,
            ..now.clone()
        })
    };
    now.filter_map(growth).collect()
}

/// Of the class and those around it, the one that is used up; the narrowest, where none is.
fn limit<'a>(evidence: &Evidence<'_>, all: &'a [Class], class: &'a Class) -> &'a Class {
    let around = |of: &&'a Class| all.iter().find(|other| other.id == of.parent);
    let way: Vec<&Class> = std::iter::successors(Some(class), around).take(all.len()).collect();
    let seconds = evidence.span.as_secs_f64().max(0.1);
    let is_used = |class: &&&Class| class.bytes as f64 / seconds > class.ceiling as f64 * 0.6;
    let narrowest = |class: &&&Class| class.ceiling;
    let used = way.iter().filter(is_used).min_by_key(narrowest);
    used.or_else(|| way.iter().min_by_key(narrowest)).copied().unwrap_or(class)
}

impl Held {
    /// What it allows and what came of it, and why the flow is in it.
    pub(super) fn tell(
        &self,
        evidence: &Evidence<'_>,
        (netns, queue): (Inum, &Queue),
        finding: Finding,
    ) -> Finding {
        let Self { class, limit } = self;
        let seconds = evidence.span.as_secs_f64().max(0.1);
        let mut finding = finding.fact(format!(
            "class {} has {} of its own and at most {}; it sent {}, had to wait {} times, dropped {} \
             packets",
            id(class.id),
            bits(class.rate),
            bits(class.ceiling),
            bits((class.bytes as f64 / seconds) as u64),
            class.overlimits,
            class.drops
        ));
        if limit.id != class.id {
            let all = bits((limit.bytes as f64 / seconds) as u64);
            finding = finding.fact(format!(
                "it is in class {}, which has at most {} for all that is in it, and sent {all}",
                id(limit.id),
                bits(limit.ceiling)
            ));
        }
        let first = evidence.moments.first().and_then(|moment| moment.get(&netns));
        let filters = first.into_iter().flat_map(|reading| &reading.steering);
        let its = filters.filter(|f| (f.dev, f.class) == (queue.dev, class.id));
        finding = finding.facts(its.take(3).map(|f| format!("a filter leads there: {}", f.text)));
        if queue.default == Some(class.id) {
            finding = finding.fact(format!(
                "{} is the default: it takes what no filter leads to another class",
                id(class.id)
            ));
        }
        finding
    }

    /// How it is raised.
    pub(super) fn advice(&self, evidence: &Evidence<'_>, netns: Inum, queue: &Queue) -> String {
        let limit = &self.limit;
        let parent = if limit.parent == u32::MAX { queue.handle } else { limit.parent };
        format!(
            "raise that class (`tc class change dev {} parent {} classid {} {} rate … ceil …` in {}), \
             or lead the flow to another one (`tc filter`)",
            quote(&queue.name),
            id(parent),
            id(limit.id),
            queue.kind,
            quote(evidence.netns(netns).map_or("?", |n| &n.name))
        )
    }
}

/// As tc writes it.
pub(super) fn id(class: u32) -> String {
    match class & 0xffff {
        0 => format!("{:x}:", class >> 16),
        minor => format!("{:x}:{minor:x}", class >> 16),
    }
}
