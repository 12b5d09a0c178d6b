//! Steps to passages: what one packet met from where it entered a namespace (or was made there)
//! to where it left it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::Step;
use crate::event::{Headers, L4, Tuple};
use crate::net::Inum;

/// Passages kept per namespace: those of packets that nobody follows are never asked for.
const KEPT: usize = 50_000;

/// One packet's way through the rules of a namespace.
#[derive(Clone, Debug)]
pub(super) struct Passage {
    /// As it entered.
    pub(super) headers: Headers,
    /// `NFPROTO_*` of the table that began it: inet, or bridge.
    pub(super) family: u8,
    /// It began where packets enter a namespace or are made. Else the kernel has given a packet
    /// another name on its way: it does when a bridge hands a frame up, since the name depends on
    /// the input device.
    pub(super) is_entry: bool,
    /// In order, without those of the own table.
    pub(super) steps: Vec<Step>,
    /// The kernel's name for the packet, and whether it is a bridge's.
    name: (u8, u32),
    is_claimed: bool,
}

/// The passages of one namespace.
#[derive(Debug, Default)]
struct Netns {
    passages: VecDeque<Passage>,
    /// How many have left the front.
    dropped: u64,
    /// The latest passage of each of the kernel's names, counted from the first ever.
    latest: HashMap<(u8, u32), u64>,
    /// Those that were not claimed, by how they began, counted likewise, in order. Packets that
    /// nobody follows are traced too: a journey must not look through theirs.
    open: HashMap<Tuple, VecDeque<u64>>,
}

impl Netns {
    fn begin(&mut self, passage: Passage) {
        let number = self.dropped + self.passages.len() as u64;
        self.open.entry(passage.headers.tuple).or_default().push_back(number);
        self.latest.insert(passage.name, number);
        self.passages.push_back(passage);
    }

    /// Lets go of the oldest one.
    fn drop_front(&mut self) {
        let Some(front) = self.passages.pop_front() else { return };
        let number = self.dropped;
        self.dropped += 1;
        if !front.is_claimed {
            self.close(&front.headers.tuple, number);
        }
        if self.latest.get(&front.name) == Some(&number) {
            self.latest.remove(&front.name);
        }
    }

    /// Nobody is to ask for it any more.
    fn close(&mut self, tuple: &Tuple, number: u64) {
        let Some(open) = self.open.get_mut(tuple) else { return };
        // Nearly always the first.
        if let Some(at) = open.iter().position(|n| *n == number) {
            open.remove(at);
        }
        if open.is_empty() {
            self.open.remove(tuple);
        }
    }
}

impl Passage {
    /// The hooked chain that `step` begins has been passed already: it is another packet's.
    fn has(&self, step: &Step) -> bool {
        self.is_claimed
            || self
                .steps
                .iter()
                .any(|s| s.headers.is_some() && (&s.table, &s.chain) == (&step.table, &step.chain))
    }
}

/// All passages that journeys may still ask for.
#[derive(Debug, Default)]
pub(super) struct Passages(BTreeMap<Inum, Netns>);

impl Passages {
    /// Adds a step; `own` is the name of the table that switches tracing on, whose first step in
    /// a hook begins a passage.
    pub(super) fn push(&mut self, netns: Inum, step: Step, own: &str) {
        let is_own = step.table == own;
        let is_late = is_own && super::table::is_late(&step.chain);
        let is_entry = is_own && !is_late;
        if !is_own && step.table.starts_with(super::TABLE_PREFIX) {
            return; // another tracer's
        }
        let netns = self.0.entry(netns).or_default();
        let name = (u8::from(step.family == super::BRIDGE_FAMILY), step.id);
        let at = netns.latest.get(&name).and_then(|at| at.checked_sub(netns.dropped));
        let latest = at.and_then(|at| netns.passages.get_mut(at as usize));
        // Behind a translation it may be met for the first time.
        let is_met = |passage: &Passage| {
            !passage.is_claimed && step.headers.is_some_and(|h| is_same(&h, &passage.headers))
        };
        let begins = match (is_late, latest.as_deref()) {
            (true, latest) => !latest.is_some_and(is_met),
            (false, latest) => is_entry || latest.is_none_or(|passage| passage.has(&step)),
        };
        match (step.headers, latest) {
            (Some(headers), _) if begins => {
                netns.begin(Passage {
                    headers,
                    family: step.family,
                    is_entry: is_own,
                    steps: if is_own { Vec::new() } else { vec![step] },
                    name,
                    is_claimed: false,
                });
            }
            (_, Some(latest)) if !is_own => latest.steps.push(step),
            _ => {}
        }
        if netns.passages.len() > KEPT {
            netns.drop_front();
        }
    }

    /// Takes the first `limit` passages that began with one of `tuples` and are those of the
    /// packet that `same` recognises. Translation of ports leaves an ICMP identifier that both
    /// sides count as ports.
    pub(super) fn claim(
        &mut self,
        netns: Inum,
        limit: usize,
        tuples: &[Tuple],
        same: impl Fn(&Passage) -> bool,
    ) -> Vec<Passage> {
        let Some(netns) = self.0.get_mut(&netns) else { return Vec::new() };
        let mut numbers: Vec<u64> =
            tuples.iter().filter_map(|t| netns.open.get(t)).flatten().copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut claimed = Vec::new();
        for number in numbers {
            if claimed.len() == limit {
                break;
            }
            let at = number.checked_sub(netns.dropped).and_then(|at| usize::try_from(at).ok());
            let passage = at.and_then(|at| netns.passages.get_mut(at)).filter(|p| same(p));
            let Some(passage) = passage else { continue };
            passage.is_claimed = true;
            let passage = passage.clone();
            netns.close(&passage.headers.tuple, number);
            claimed.push(passage);
        }
        while netns.passages.front().is_some_and(|p| p.is_claimed) {
            netns.drop_front();
        }
        claimed
    }

    /// Forgets a namespace.
    pub(super) fn forget(&mut self, netns: Inum) {
        self.0.remove(&netns);
    }
}

/// Whether headers may be those of one packet, before and after translation.
pub(super) fn is_same(a: &Headers, b: &Headers) -> bool {
    a.ip_id == b.ip_id
        && match (&a.l4, &b.l4) {
            (L4::Tcp(a), L4::Tcp(b)) => (a.seq, a.ack, a.flags) == (b.seq, b.ack, b.flags),
            (L4::Icmp(a), L4::Icmp(b)) => (a.kind, a.code, a.seq) == (b.kind, b.code, b.seq),
            (L4::Udp { len: a_len }, L4::Udp { len: b_len }) => {
                let (x, y) = (a.payload.as_slice(), b.payload.as_slice());
                let common = x.len().min(y.len());
                a_len == b_len && x[..common] == y[..common]
            }
            _ => true,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{PayloadHead, Proto};
    use crate::nftrace::{Life, Verdict, What};

    const OWN: &str = "pkttrace_1";
    const PACKETS: u32 = 2_000;
    /// So many are under way at once; the kernel's names are used again by the next ones.
    const NAMES: u32 = 24;
    /// The hooked chains that each passes, and how many rules it meets in each.
    const CHAINS: [(&str, u64); 3] = [("PREROUTING", 3), ("FORWARD", 2), ("POSTROUTING", 1)];

    /// Numbers that look random and are the same in every run.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(self.0 >> 33).unwrap() % sides
        }
    }

    /// All have the same tuple, as those of a flow under load have.
    fn headers(packet: u32) -> Headers {
        let tuple = Tuple {
            src: "10.244.1.2".parse().unwrap(),
            dst: "10.96.0.10".parse().unwrap(),
            proto: Proto::Udp,
            sport: 4000,
            dport: 53,
        };
        Headers {
            tuple,
            len: 28,
            ttl: Some(64),
            ip_id: Some(packet),
            fragment: None,
            dont_fragment: false,
            l4: L4::Udp { len: 8 },
            payload: PayloadHead::default(),
        }
    }

    /// What nftables tells of a packet, in order; a rule's handle says whose it is.
    fn told(packet: u32) -> Vec<Step> {
        let step = |table: &str, chain: &str, what, headers| Step {
            id: packet % NAMES,
            family: 2,
            table: table.to_owned(),
            chain: chain.to_owned(),
            what,
            verdict: Verdict::Continue,
            iif: 1,
            oif: 0,
            headers,
            life: Life::default(),
        };
        let mut steps = vec![step(OWN, "in", What::Policy, Some(headers(packet)))];
        for (chain, rules) in CHAINS {
            for rule in 0..rules {
                let shown = (rule == 0).then(|| headers(packet));
                let handle = u64::from(packet) * 10 + rule;
                steps.push(step("filter", chain, What::Rule(handle), shown));
            }
        }
        steps.reverse();
        steps
    }

    #[test]
    fn no_packet_of_a_flow_under_load_gets_the_rules_of_another() {
        let (mut passages, mut dice) = (Passages::default(), Dice(7));
        let mut waiting: Vec<u32> = (0..PACKETS).rev().collect();
        let mut under_way: Vec<(u32, Vec<Step>)> = Vec::new();
        let mut over: Vec<u32> = Vec::new();
        let mut claimed = 0;
        while !(waiting.is_empty() && under_way.is_empty() && over.is_empty()) {
            // A name is given again only when its packet is through.
            let is_free = |n: &u32| under_way.iter().all(|(other, _)| other % NAMES != n % NAMES);
            if dice.roll(3) == 0 && waiting.last().is_some_and(is_free) {
                under_way.extend(waiting.pop().map(|packet| (packet, told(packet))));
            }
            if !under_way.is_empty() {
                let at = dice.roll(under_way.len());
                if let Some(step) = under_way[at].1.pop() {
                    passages.push(1, step, OWN);
                } else {
                    over.push(under_way.swap_remove(at).0);
                }
            }
            // Journeys end later, and in another order.
            if over.len() > 40 || (waiting.is_empty() && under_way.is_empty() && !over.is_empty()) {
                let packet = over.swap_remove(dice.roll(over.len()));
                let asked = headers(packet);
                let found = passages.claim(1, 1, &[asked.tuple], |p| is_same(&asked, &p.headers));
                let [passage] = &found[..] else { panic!("packet {packet}: {found:?}") };
                let owners: Vec<u64> = passage
                    .steps
                    .iter()
                    .filter_map(|s| {
                        if let What::Rule(handle) = s.what { Some(handle / 10) } else { None }
                    })
                    .collect();
                assert_eq!(owners, [u64::from(packet); 6]);
                claimed += 1;
            }
        }
        assert_eq!(claimed, PACKETS);
        let netns = &passages.0[&1];
        assert!(netns.passages.is_empty(), "nothing is kept");
        assert!(netns.open.is_empty() && netns.latest.is_empty(), "nothing is kept");
    }

    #[test]
    fn a_packet_may_be_met_first_behind_a_translation() {
        let mut passages = Passages::default();
        let late = |packet| {
            let mut step = told(packet).pop().unwrap();
            (step.chain, step.headers) = ("late_in".to_owned(), Some(headers(packet)));
            step
        };
        // Met before already; then another one by the same name.
        let [first, second] = [1, 1 + NAMES];
        for step in [told(first).pop().unwrap(), late(first), late(second)] {
            passages.push(1, step, OWN);
        }
        let begun: Vec<_> =
            passages.0[&1].passages.iter().map(|p| (p.headers.ip_id, p.is_entry)).collect();
        assert_eq!(begun, [(Some(first), true), (Some(second), true)]);
    }

    #[test]
    fn packets_that_nobody_follows_are_kept_for_a_while_only() {
        let mut passages = Passages::default();
        let kept = u32::try_from(KEPT).unwrap();
        for packet in 0..kept + 10 {
            let mut headers = headers(packet);
            headers.tuple.sport = (packet % 60_000) as u16;
            let mut first = told(packet).remove(CHAINS.len() * 2);
            (first.id, first.headers) = (packet, Some(headers));
            passages.push(1, first, OWN);
        }
        let netns = &passages.0[&1];
        assert_eq!((netns.passages.len(), netns.dropped), (KEPT, 10));
        assert_eq!(netns.open.values().map(VecDeque::len).sum::<usize>(), KEPT);
        assert!(!netns.open.contains_key(&Tuple { sport: 3, ..headers(0).tuple }));
    }
}
