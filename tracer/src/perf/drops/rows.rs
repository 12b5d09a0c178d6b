//! From the kernel's counts to rows: what is told apart, and what one row adds up.

use std::collections::BTreeMap;

use tracer_common::perf::{DropCount, DropKey, hook};

use super::noise::{self, Of};
use crate::cli::drops::By;
use crate::journey::Names;
use crate::perf::Node;
use crate::render;
use crate::report::{Dev, DropRow, Drops, Folded, Journey, Netns, Other, Owner};

/// Functions by which netfilter drops, where there are no reasons.
const NETFILTER: [&str; 4] = ["nf_hook_slow", "nft_do_chain", "ipt_do_table", "ip6t_do_table"];

/// Examples that wait for their row at most.
const WAITING: usize = 256;

/// What a drop is, named when it is first seen: a namespace may be gone when it is printed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct What {
    pub(super) reason: Option<String>,
    pub(super) function: Option<String>,
    pub(super) netns: Option<Netns>,
    pub(super) owner: Option<Owner>,
    pub(super) dev: Option<Dev>,
    pub(super) hook: Option<&'static str>,
    /// What reason and function mean; before 5.17 the function alone.
    meaning: Option<&'static str>,
}

impl What {
    fn of(key: &DropKey, node: &Node, names: &impl Names) -> Self {
        let reason = names.drop_reason(key.reason);
        let function = names.symbol(key.location);
        let is_netfilter = reason.as_deref() == Some("NETFILTER_DROP")
            || function.as_deref().is_some_and(|f| NETFILTER.contains(&f));
        Self {
            hook: hook_name(key.hook).filter(|_| is_netfilter),
            netns: (key.netns != 0).then(|| node.netns(key.netns)),
            owner: node.owner(key.netns).cloned(),
            dev: node.dev(key.netns, key.ifindex),
            meaning: meaning(reason.as_deref(), function.as_deref()),
            reason,
            function,
        }
    }

    /// Only what is told apart.
    fn by(mut self, by: &[By]) -> Self {
        let is_told = |what| by.contains(&what);
        let has_reason = self.reason.is_some();
        self.reason = self.reason.filter(|_| is_told(By::Reason));
        self.function = self.function.filter(|_| is_told(By::Function));
        self.netns = self.netns.filter(|_| is_told(By::Netns));
        self.owner = self.owner.filter(|_| is_told(By::Owner) || is_told(By::Netns));
        self.dev = self.dev.filter(|_| is_told(By::Dev));
        self.hook = self.hook.filter(|_| is_told(By::Hook));
        // A function alone means little where it drops for several reasons.
        let is_known = self.reason.is_some() || !has_reason;
        let means = || meaning(self.reason.as_deref(), self.function.as_deref());
        self.meaning = is_known.then(means).flatten();
        self
    }

    /// Whether the drop in which a journey ended is one of these, as far as they are told apart.
    fn fits(&self, journey: &Journey) -> bool {
        let (Some(drop), Some(hop)) = (&journey.drop, journey.hops.last()) else { return false };
        let is = |told: &Option<String>, is: Option<&str>| {
            told.as_ref().is_none_or(|told| Some(told.as_str()) == is)
        };
        is(&self.reason, Some(&drop.reason))
            && is(&self.function, drop.function.as_deref())
            && self.hook.is_none_or(|hook| drop.hook.as_deref().is_none_or(|is| is == hook))
            && self.netns.as_ref().is_none_or(|netns| netns.inum == hop.netns.inum)
            && match (&self.dev, &hop.dev) {
                (Some(told), Some(is)) => told.index == is.index,
                _ => true,
            }
    }

    fn row(&self) -> DropRow {
        DropRow {
            meaning: self.meaning.map(str::to_owned),
            reason: self.reason.clone(),
            function: self.function.clone(),
            netns: self.netns.clone(),
            owner: self.owner.clone(),
            dev: self.dev.clone(),
            hook: self.hook.map(str::to_owned),
            ..DropRow::default()
        }
    }
}

/// What a drop means, by its function alone where the kernel has no reasons.
fn meaning(reason: Option<&str>, function: Option<&str>) -> Option<&'static str> {
    match reason {
        Some(reason) => render::meaning(reason, function),
        None => render::meaning("NOT_SPECIFIED", Some(function?)),
    }
}

/// Whether packets are first met where this drops them: everywhere else something came before.
pub(super) fn is_where_they_begin(key: &DropKey, node: &Node, names: &impl Names) -> bool {
    What::of(key, node, names).hook == hook_name(hook::OUTPUT)
}

fn hook_name(hook: u8) -> Option<&'static str> {
    match hook {
        hook::PREROUTING => Some("prerouting"),
        hook::INPUT => Some("input"),
        hook::FORWARD => Some("forward"),
        hook::OUTPUT => Some("output"),
        hook::POSTROUTING => Some("postrouting"),
        _ => None,
    }
}

/// Where the drops of one of the kernel's keys go.
#[derive(Clone, Copy, Debug)]
enum Place {
    Row(usize),
    Noise(&'static str),
}

/// What was counted under one of the kernel's keys up to now.
#[derive(Debug)]
struct Counted {
    place: Place,
    packets: u64,
    bytes: u64,
}

/// All that was dropped so far.
pub(super) struct Table {
    by: Vec<By>,
    /// Noise has rows too.
    with_noise: bool,
    counted: BTreeMap<DropKey, Counted>,
    rows: Vec<(What, DropRow)>,
    other: Other,
    missed: u64,
    /// Examples that have no row yet.
    waiting: Vec<Journey>,
}

impl Table {
    pub(super) fn new(by: Vec<By>, with_noise: bool) -> Self {
        Self {
            by,
            with_noise,
            counted: BTreeMap::new(),
            rows: Vec::new(),
            other: Other::default(),
            missed: 0,
            waiting: Vec::new(),
        }
    }

    /// A packet that was dropped, as an example of its row.
    pub(super) fn example(
        &mut self,
        key: &DropKey,
        journey: Journey,
        node: &Node,
        names: &impl Names,
    ) {
        if let Place::Row(row) = self.place(key, node, names) {
            let known = &mut self.rows[row].1.example;
            // One whose whole way is known says more.
            if known.as_ref().is_none_or(|known| known.hops.len() <= 1) {
                *known = Some(Box::new(journey));
            }
        }
    }

    /// Packets that were dropped with the way that they came, as examples of their rows. A row may
    /// come later than they do.
    pub(super) fn ways(&mut self, journeys: Vec<Journey>) {
        self.waiting.extend(journeys);
        let surplus = self.waiting.len().saturating_sub(WAITING);
        self.waiting.drain(..surplus);
        for journey in std::mem::take(&mut self.waiting) {
            match self.rows.iter_mut().find(|(what, _)| what.fits(&journey)) {
                Some((_, row)) => {
                    let rule = journey.hops.last().and_then(|hop| hop.rule.clone());
                    if self.by.contains(&By::Rule) {
                        row.rule = rule.or(row.rule.take());
                    }
                    row.example = Some(Box::new(journey));
                }
                None => self.waiting.push(journey),
            }
        }
    }

    /// Takes over what was counted up to now: rows get what came since the last time.
    pub(super) fn take(
        &mut self,
        counts: &[(DropKey, DropCount)],
        drops: &mut Drops,
        node: &Node,
        names: &impl Names,
    ) {
        let offset = crate::bpf::clock_offset_ns();
        let unix = |ns: u64| ns.saturating_add_signed(offset);
        for (_, row) in &mut self.rows {
            (row.packets, row.bytes) = (0, 0);
        }
        self.name_late(node);
        let mut folded: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (key, count) in counts.iter().filter(|(_, count)| count.packets > 0) {
            self.place(key, node, names);
            let Some(counted) = self.counted.get_mut(key) else { continue };
            let packets = count.packets.saturating_sub(counted.packets);
            let bytes = count.bytes.saturating_sub(counted.bytes);
            (counted.packets, counted.bytes) = (count.packets, count.bytes);
            match counted.place {
                Place::Noise(why) => *folded.entry(why).or_default() += packets,
                Place::Row(at) => {
                    let row = &mut self.rows[at].1;
                    let first = unix(count.first_ns);
                    row.packets += packets;
                    row.bytes += bytes;
                    row.total += packets;
                    row.first_ns = if row.first_ns == 0 { first } else { row.first_ns.min(first) };
                    row.last_ns = row.last_ns.max(unix(count.last_ns));
                }
            }
        }
        let folded = folded.into_iter().filter(|(_, packets)| *packets > 0);
        drops.folded =
            folded.map(|(why, packets)| Folded { why: why.to_owned(), packets }).collect();
        drops.rows = self.sorted(|row| row.packets);
    }

    /// A namespace may be known only after the first drop in it, and its devices later still.
    fn name_late(&mut self, node: &Node) {
        for (what, row) in &mut self.rows {
            let Some(netns) = &mut what.netns else { continue };
            if node.state().netns.contains_key(&netns.inum) {
                *netns = node.netns(netns.inum);
                let owner = node.owner(netns.inum).cloned();
                what.owner = owner.or(what.owner.take());
                if let Some(dev) = &mut what.dev
                    && let Some(known) = node.dev(netns.inum, dev.index)
                {
                    *dev = known;
                }
                (row.netns, row.owner, row.dev) =
                    (what.netns.clone(), what.owner.clone(), what.dev.clone());
            }
        }
    }

    /// The drops for which the kernel side had no room, and the runs that it missed, since the
    /// last time.
    pub(super) fn take_other(&mut self, other: &DropCount, missed: u64, drops: &mut Drops) {
        drops.other = Other {
            packets: other.packets.saturating_sub(self.other.packets),
            bytes: other.bytes.saturating_sub(self.other.bytes),
        };
        drops.missed = missed.saturating_sub(self.missed);
        (self.other, self.missed) = (Other { packets: other.packets, bytes: other.bytes }, missed);
    }

    /// The rows with something to count, most of it first.
    fn sorted(&self, count: impl Fn(&DropRow) -> u64) -> Vec<DropRow> {
        let rows = self.rows.iter().map(|(_, row)| row);
        let mut rows: Vec<DropRow> = rows.filter(|row| count(row) > 0).cloned().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(count(row)));
        rows
    }

    /// Every row so far, the largest first.
    pub(super) fn all(&self) -> Vec<DropRow> {
        self.sorted(|row| row.total)
    }

    fn place(&mut self, key: &DropKey, node: &Node, names: &impl Names) -> Place {
        if let Some(counted) = self.counted.get(key) {
            return counted.place;
        }
        let what = What::of(key, node, names);
        let of = match key {
            DropKey { protocol_be: [0, 0], ifindex: 0, .. } => Of::NoPacket,
            DropKey { to_group: 1, .. } => Of::Group,
            _ => Of::Packet,
        };
        let why = noise::why(what.reason.as_deref(), what.function.as_deref(), of);
        let place = match why.filter(|_| !self.with_noise) {
            Some(why) => Place::Noise(why),
            None => Place::Row(self.row(what.by(&self.by))),
        };
        self.counted.insert(*key, Counted { place, packets: 0, bytes: 0 });
        place
    }

    fn row(&mut self, what: What) -> usize {
        if let Some(at) = self.rows.iter().position(|(known, _)| *known == what) {
            return at;
        }
        let row = what.row();
        self.rows.push((what, row));
        self.rows.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(reason: Option<&str>, function: &str) -> What {
        What {
            reason: reason.map(str::to_owned),
            function: Some(function.to_owned()),
            ..What::default()
        }
    }

    #[test]
    fn a_function_tells_what_a_drop_means_where_there_are_no_reasons() {
        let all = |reason, function| what(reason, function).by(&By::ALL).row().meaning;
        let old = all(None, "ip_error").expect("it is known");
        assert_eq!(Some(old), all(Some("NOT_SPECIFIED"), "ip_error"));
        assert_eq!(all(None, "no_such_function"), None);
        // Where there is a reason that nobody asked to see, the function alone says too little.
        let told = what(Some("IP_RPFILTER"), "ip_error").by(&[By::Function]).row();
        assert_eq!((told.reason, told.meaning), (None, None));
    }
}
