//! A bounded memory of journeys, open and recently ended, by what their relatives are known by.

use std::{collections::VecDeque, net::IpAddr};

use foldhash::HashMap;
use tracer_common::Probe;

use crate::{
    event::{Event, Headers, L4, Proto, Tuple},
    net::Inum,
};

/// Journeys remembered at most; the oldest go first.
const MAX_TRACES: usize = 1 << 16;
/// Journeys remembered for one tuple: as many as a veth queues (`VETH_RING_SIZE`) before GRO merges
/// them.
const MAX_PER_KEY: usize = 256;
/// Tuples under which one journey is found (each translation adds one).
const MAX_KEYS: usize = 6;
/// How long an ended journey is remembered. Longer than the 3 s of failing neighbours, shorter
/// than it takes a busy host to come round to the same IP identification.
const KEEP_NS: u64 = 8_000_000_000;

/// What is remembered of a journey.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    pub(super) id: u64,
    pub(super) start_ns: u64,
    pub(super) last_ns: u64,
    /// Namespace of its first event.
    pub(super) netns: Inum,
    /// Namespace of its last event.
    pub(super) netns_now: Inum,
    /// Headers as first seen.
    pub(super) first: Headers,
    /// `skb->len` as first seen.
    pub(super) len: u32,
    pub(super) gso_size: u16,
    /// Its key as last seen, see [`Headers::key`].
    pub(super) key: Tuple,
    pub(super) head: u64,
    /// Where it was first seen, and where last.
    pub(super) birth: Probe,
    pub(super) probe: Probe,
    /// Device of its last event.
    pub(super) ifindex: u32,
    pub(super) is_open: bool,
    keys: Vec<Tuple>,
    /// What its fragments are known by, where it has no identification of its own.
    fragments: Option<Ident>,
}

/// Addresses, protocol and identification: what fragments of one packet have in common.
type Ident = (IpAddr, IpAddr, Proto, u32);

/// See the module.
#[derive(Default)]
pub(super) struct Recent {
    traces: HashMap<u64, Trace>,
    by_key: HashMap<Tuple, VecDeque<u64>>,
    by_head: HashMap<u64, u64>,
    by_ident: HashMap<Ident, u64>,
    /// In the order in which they began, with the time of the last look.
    ages: VecDeque<(u64, u64)>,
}

impl Recent {
    pub(super) fn trace(&self, id: u64) -> Option<&Trace> {
        self.traces.get(&id)
    }

    /// Journeys that have (or had) this key, newest first.
    pub(super) fn with_key(&self, key: &Tuple) -> impl Iterator<Item = &Trace> {
        let ids = self.by_key.get(key).into_iter().flat_map(|ids| ids.iter().rev());
        ids.filter_map(|id| self.traces.get(id))
    }

    /// The journey that last had this `skb->head`.
    pub(super) fn with_head(&self, head: u64) -> Option<&Trace> {
        self.by_head.get(&head).and_then(|id| self.traces.get(id))
    }

    /// The newest journey with this packet's identification.
    pub(super) fn with_ident(&self, headers: &Headers) -> Option<&Trace> {
        ident(headers).and_then(|i| self.by_ident.get(&i)).and_then(|id| self.traces.get(id))
    }

    /// Begins to remember the journey of `e`, whose followed headers are `first`. A clone leaves
    /// the head to its original, so that all clones of a flood have the same parent.
    pub(super) fn begin(&mut self, e: &Event, first: &Headers, is_clone: bool) {
        let key = first.key();
        self.traces.insert(
            e.journey,
            Trace {
                id: e.journey,
                start_ns: e.ktime_ns,
                last_ns: e.ktime_ns,
                netns: e.netns,
                netns_now: e.netns,
                first: *first,
                len: e.len,
                gso_size: e.gso_size,
                key,
                head: e.head,
                birth: e.probe,
                probe: e.probe,
                ifindex: e.ifindex,
                is_open: true,
                keys: Vec::with_capacity(1),
                fragments: None,
            },
        );
        self.ages.push_back((e.ktime_ns, e.journey));
        if !is_clone {
            self.by_head.insert(e.head, e.journey);
        }
        self.index(e.journey, first);
        if self.traces.len() > MAX_TRACES
            && let Some((_, oldest)) = self.ages.pop_front()
        {
            self.forget(oldest);
        }
    }

    /// Takes in a later event of a remembered journey.
    pub(super) fn update(&mut self, e: &Event, now: Option<&Headers>) {
        let Some(trace) = self.traces.get_mut(&e.journey) else { return };
        trace.last_ns = trace.last_ns.max(e.ktime_ns);
        trace.netns_now = e.netns;
        // Where it comes from is told behind what happened.
        if e.probe != Probe::Origin {
            (trace.probe, trace.ifindex) = (e.probe, e.ifindex);
        }
        trace.gso_size = trace.gso_size.max(e.gso_size);
        if trace.head != e.head && e.head != 0 {
            if self.by_head.get(&trace.head) == Some(&e.journey) {
                self.by_head.remove(&trace.head);
            }
            trace.head = e.head;
            self.by_head.insert(e.head, e.journey);
        }
        if let Some(now) = now
            && trace.key != now.key()
        {
            trace.key = now.key();
            self.index(e.journey, now);
        }
    }

    fn index(&mut self, id: u64, headers: &Headers) {
        let Some(trace) = self.traces.get_mut(&id) else { return };
        if let Some(ident) = ident(headers)
            && headers.fragment.is_none()
        {
            self.by_ident.insert(ident, id);
        }
        let key = headers.key();
        if trace.keys.len() >= MAX_KEYS || trace.keys.contains(&key) {
            return;
        }
        trace.keys.push(key);
        let ids = self.by_key.entry(key).or_default();
        ids.push_back(id);
        if ids.len() > MAX_PER_KEY {
            ids.pop_front();
        }
    }

    /// Remembers by which identification the fragments of a journey go, as one of them has told: a
    /// packet of IPv6 has none before it is cut up.
    pub(super) fn identify(&mut self, id: u64, fragment: &Headers) {
        let Some(trace) = self.traces.get_mut(&id).filter(|t| t.first.ip_id.is_none()) else {
            return;
        };
        trace.fragments = ident(fragment);
        if let Some(ident) = trace.fragments {
            self.by_ident.insert(ident, id);
        }
    }

    /// The journey has ended; it may still be a parent for a while.
    pub(super) fn end(&mut self, id: u64) {
        if let Some(trace) = self.traces.get_mut(&id) {
            trace.is_open = false;
        }
    }

    /// Forgets what ended long before `now_ns`.
    pub(super) fn age(&mut self, now_ns: u64) {
        while let Some((seen_ns, id)) = self.ages.front().copied() {
            if seen_ns.saturating_add(KEEP_NS) > now_ns {
                return;
            }
            self.ages.pop_front();
            match self.traces.get(&id) {
                Some(trace) if trace.is_open => self.ages.push_back((now_ns, id)),
                Some(trace) if trace.last_ns.saturating_add(KEEP_NS) > now_ns => {
                    self.ages.push_back((trace.last_ns.max(seen_ns + 1), id));
                }
                _ => self.forget(id),
            }
        }
    }

    fn forget(&mut self, id: u64) {
        let Some(trace) = self.traces.remove(&id) else { return };
        if self.by_head.get(&trace.head) == Some(&id) {
            self.by_head.remove(&trace.head);
        }
        if let Some(ident) = trace.fragments
            && self.by_ident.get(&ident) == Some(&id)
        {
            self.by_ident.remove(&ident);
        }
        for key in &trace.keys {
            if let Some(ids) = self.by_key.get_mut(key) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.by_key.remove(key);
                }
            }
            let ip_id = trace.first.ip_id.unwrap_or(0);
            let ident = (key.src, key.dst, key.proto, ip_id);
            if self.by_ident.get(&ident) == Some(&id) {
                self.by_ident.remove(&ident);
            }
        }
    }
}

/// `None` for what has no identification to tell packets apart by (Linux sends 0 with DF).
fn ident(headers: &Headers) -> Option<Ident> {
    let id = headers.ip_id.filter(|id| *id != 0)?;
    if matches!(headers.l4, L4::Arp(_)) {
        return None;
    }
    Some((headers.tuple.src, headers.tuple.dst, headers.tuple.proto, id))
}
