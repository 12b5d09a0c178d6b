//! Collects events by journey, decides when a journey is over, and hands it out.
//!
//! Time is the events' own and what the caller says; memory is bounded by the open journeys.

use std::{cmp::Reverse, collections::BinaryHeap};

use foldhash::HashMap;
use tracer_common::{Detail, Probe, event::NfDetail};

use super::{
    Fate, GapCause, Hook, Journey, Lineage, Names, Parent, UnNat,
    conntracked::Conntracked,
    device::{leaves_node, swallows},
    fate::holds,
    forwarding, lineage, midway, path, prefix,
    recent::Recent,
    walk::{Ending, Walk},
    watch::Watch,
};
use crate::{
    event::{Event, Packet, Proto},
    net::NetworkState,
};

/// Tunables of a [`Builder`]; the defaults are meant for use.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long events may come late behind the last one of their journey.
    pub reorder_ns: u64,
    /// A journey whose last event was its delivery is over after this silence: the receiving end
    /// of TCP frees without a tracepoint.
    pub settle_ns: u64,
    /// Any journey is over after this silence. Longer than the 3.1 s of a failing neighbour.
    pub idle_ns: u64,
    /// Events kept of one journey: a packet in a bridge loop would have no end.
    pub max_events: usize,
    /// Open journeys; above this the most silent ones are handed out unfinished.
    pub max_open: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            reorder_ns: 20_000_000,
            settle_ns: 50_000_000,
            idle_ns: 10_000_000_000,
            max_events: 1024,
            max_open: 1 << 17,
        }
    }
}

/// A journey under way.
struct Open {
    events: Vec<Event>,
    last_ns: u64,
    /// `seq` of the event that said that nothing follows.
    end: Option<u16>,
    has_socket: bool,
    parent: Option<Parent>,
    /// The journey that it goes on in.
    continues: Option<Parent>,
    /// Others were made of it: its clones, segments or fragments.
    has_parts: bool,
    /// Events beyond [`Options::max_events`].
    surplus: u32,
    /// Events were lost while it was open, and it is not known whose they are.
    may_lack: bool,
}

/// Builds journeys from events.
pub struct Builder {
    options: Options,
    open: HashMap<u64, Open>,
    recent: Recent,
    conntracked: Conntracked,
    watch: Watch,
    /// As of the last look, CLOCK_MONOTONIC.
    now_ns: u64,
    /// Journeys that are over.
    ready: Vec<u64>,
    /// When to look at a journey again. One entry for each open journey; it is not moved when an
    /// event comes but looked up when it is due.
    deadlines: BinaryHeap<Reverse<(u64, u64)>>,
    /// Events that were lost, of journeys that are not handed out yet.
    lost: HashMap<u64, u64>,
    /// Lost events of journeys that were handed out before: their late ends.
    lost_late: u64,
    /// Journeys that came to nothing worth telling.
    dismissed: u64,
    /// Buffers to use again.
    spare: Vec<Vec<Event>>,
}

impl Builder {
    /// An empty builder.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            open: HashMap::default(),
            recent: Recent::default(),
            conntracked: Conntracked::default(),
            watch: Watch::default(),
            now_ns: 0,
            ready: Vec::new(),
            deadlines: BinaryHeap::new(),
            lost: HashMap::default(),
            lost_late: 0,
            dismissed: 0,
            spare: Vec::new(),
        }
    }

    /// How many journeys are open.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// From now on (CLOCK_MONOTONIC) packets are seen only where they begin and are dropped.
    pub fn watch_thins(&mut self, now_ns: u64) {
        self.watch.thins(now_ns);
    }

    /// From now on they are seen wherever there are probe points.
    pub fn watch_is_whole(&mut self, now_ns: u64) {
        self.watch.is_whole(now_ns);
    }

    /// Takes in an event. Events of one journey may come out of order.
    pub fn push(&mut self, event: Event) {
        let id = event.journey;
        self.conntracked.note(&event);
        if self.recent.trace(id).is_some_and(|t| !t.is_open) {
            // Handed out already: a datagram that its application reads late.
            return;
        }
        let open = self.open.entry(id).or_insert_with(|| {
            self.deadlines
                .push(Reverse((event.ktime_ns.saturating_add(self.options.settle_ns), id)));
            Open {
                events: self.spare.pop().unwrap_or_else(|| Vec::with_capacity(24)),
                last_ns: event.ktime_ns,
                end: None,
                has_socket: false,
                parent: None,
                continues: None,
                has_parts: false,
                surplus: 0,
                may_lack: false,
            }
        });
        open.last_ns = open.last_ns.max(event.ktime_ns);
        open.has_socket |=
            matches!(event.probe, Probe::CgSocket | Probe::TcpSocket | Probe::CopyToUser);
        if event.is_end() {
            open.end = Some(event.seq);
        }
        let headers = event.followed();
        if let (None, Some(headers)) = (self.recent.trace(id), headers) {
            open.parent = lineage::parent(&self.recent, &event, headers);
            if let Some(whole) = open.parent.filter(|p| p.kind == Lineage::Fragment) {
                self.recent.identify(whole.id, headers);
            }
            let is_clone = open.parent.is_some_and(|p| p.kind == Lineage::Clone);
            self.recent.begin(&event, headers, is_clone);
        } else if event.probe != Probe::Reused {
            self.recent.update(&event, headers);
        }
        if let Detail::Origin(origin) = &event.detail {
            open.parent = lineage::told(&self.recent, &event, origin).or(open.parent);
        }
        // What becomes of a packet that a driver used up, or that was found gone, may be yet to come.
        let may_go_on = event.probe == Probe::Reused || open.ends_in_driver(&event);
        open.add(event, self.options.max_events);
        if may_go_on {
            let due_ns = event.ktime_ns.saturating_add(self.options.reorder_ns);
            self.deadlines.push(Reverse((due_ns, id)));
        } else if open.is_whole() {
            self.ready.push(id);
        }
        if event.is_birth() || event.probe == Probe::Origin {
            self.succeed(&event);
        }
    }

    /// Tells those journeys that they go on in this new one.
    fn succeed(&mut self, e: &Event) {
        let is_large = e.probe == Probe::Rx && e.gso_size > 0;
        let told = self.open.get(&e.journey).and_then(|open| open.parent);
        let mut parent = told.filter(|p| p.kind.is_succession());
        if let Some(part) = told.filter(|p| p.kind.is_part()) {
            self.open.get_mut(&part.id).into_iter().for_each(|open| open.has_parts = true);
        }
        if !is_large && parent.is_none() {
            return;
        }
        let mut elders: Vec<u64> = parent.iter().map(|p| p.id).collect();
        if is_large || parent.is_some_and(|p| p.kind == Lineage::Merge) {
            let parts = lineage::merged(&self.recent, e.journey);
            let merged = parts.first().map(|id| Parent { id: *id, kind: Lineage::Merge });
            // Merged as it was before it was cut up, it looks like that packet; it is not that.
            if parent.is_none_or(|p| p.kind == Lineage::Rebuild) && merged.is_some() {
                (parent, elders) = (merged, Vec::new());
            }
            elders.extend(parts);
        }
        let Some(parent) = parent else { return };
        if parent.kind == Lineage::Reassembly
            && let Some(whole) = self.recent.trace(e.journey)
        {
            elders.extend(lineage::fragments(&self.recent, e, &whole.first));
        }
        if let Some(open) = self.open.get_mut(&e.journey) {
            open.parent = Some(parent);
        }
        let due_ns = e.ktime_ns.saturating_add(self.options.reorder_ns);
        for id in elders {
            if let Some(elder) = self.open.get_mut(&id) {
                elder.continues = Some(Parent { id: e.journey, kind: parent.kind });
                self.deadlines.push(Reverse((due_ns, id)));
            }
        }
    }

    /// Events of a journey were lost. Others of it may still be on their way here.
    pub fn lose(&mut self, journey: u64, events: u64) {
        if self.recent.trace(journey).is_some_and(|t| !t.is_open) {
            self.lost_late += events;
        } else {
            *self.lost.entry(journey).or_default() += events;
        }
    }

    /// Events were lost, and it is not known whose: they may be of any journey that is open.
    pub fn lose_unknown(&mut self) {
        self.open.values_mut().for_each(|open| open.may_lack = true);
    }

    /// Lost events that no journey lacks: they came when it had been handed out.
    #[must_use]
    pub fn lost_late(&self) -> u64 {
        self.lost_late
    }

    /// Lost events of journeys that are not handed out, once everything is that came.
    #[must_use]
    pub fn lost_untold(&self) -> u64 {
        self.lost.values().sum()
    }

    /// Journeys that are none to tell of: a free that was no drop, and nothing else.
    #[must_use]
    pub fn dismissed(&self) -> u64 {
        self.dismissed
    }

    /// Journeys of which no event arrived at all, once everything is handed out.
    #[must_use]
    pub fn unheard(&self) -> u64 {
        self.lost.len() as u64
    }

    /// Hands out the journeys that are over at `now_ns` (CLOCK_MONOTONIC, as the events have it),
    /// by their begin.
    pub fn take_finished(
        &mut self,
        now_ns: u64,
        state: &NetworkState,
        names: &dyn Names,
    ) -> Vec<Journey> {
        self.now_ns = self.now_ns.max(now_ns);
        let mut finished = Vec::new();
        for id in std::mem::take(&mut self.ready) {
            finished.extend(self.finish(id, state, names, false));
        }
        while let Some(Reverse((due_ns, id))) = self.deadlines.peek().copied() {
            let is_crowded = self.open.len() > self.options.max_open;
            if due_ns > now_ns && !is_crowded {
                break;
            }
            self.deadlines.pop();
            let Some(open) = self.open.get(&id) else { continue };
            let is_thin = !self.watch.covers(open.last_ns, now_ns);
            match open.due(&self.options, now_ns, state, is_thin) {
                Some(later_ns) if !is_crowded => self.deadlines.push(Reverse((later_ns, id))),
                Some(_) => finished.extend(self.finish(id, state, names, false)),
                None => finished.extend(self.finish(id, state, names, true)),
            }
        }
        self.recent.age(now_ns);
        in_order(finished)
    }

    /// Hands out everything, also what is still under way.
    pub fn flush(&mut self, state: &NetworkState, names: &dyn Names) -> Vec<Journey> {
        self.ready.clear();
        let mut finished = Vec::with_capacity(self.open.len());
        while let Some(Reverse((_, id))) = self.deadlines.pop() {
            finished.extend(self.finish(id, state, names, false));
        }
        in_order(finished)
    }

    /// Hands out one journey; `is_overdue` when nothing more is waited for.
    fn finish(
        &mut self,
        id: u64,
        state: &NetworkState,
        names: &dyn Names,
        is_overdue: bool,
    ) -> Option<Journey> {
        let mut open = self.open.remove(&id)?;
        open.events.sort_by_key(|e| e.seq);
        open.events.dedup_by_key(|e| e.seq);
        if open.parent.is_none() {
            open.parent = self.late_parent(&open.events);
        }
        self.recent.end(id);
        let lost = self.lost.remove(&id).unwrap_or(0);
        let is_new = open.events.first().is_some_and(Event::is_birth);
        let until_ns = open.might_go_on_until(self.now_ns);
        let is_thin = !self.watch.covers(open.events.first().map_or(0, |e| e.ktime_ns), until_ns);
        let mut walk = Walk::new(state, names, &self.conntracked, open.is_reply());
        walk.is_thin = is_thin;
        let mut journey = build(&open, lost, walk);
        if let Some(journey) = &mut journey {
            if open.vanishes(journey, state, is_overdue) {
                journey.add_gap(journey.hops.len(), GapCause::IdentityEnded);
            }
            if is_thin {
                self.watch.mark(journey, until_ns);
            } else {
                journey.un_nat = self.un_nat(journey);
            }
        }
        self.dismissed += u64::from(is_new && journey.is_none());
        if self.spare.len() < 256 {
            open.events.clear();
            self.spare.push(open.events);
        }
        journey
    }

    /// Whether an answer was translated back. It goes wrong where answers take another way than
    /// the questions, past the node that translated.
    fn un_nat(&self, answer: &Journey) -> Option<UnNat> {
        let parent = answer.parent.filter(|p| p.kind == Lineage::Reply)?;
        let question = self.recent.trace(parent.id)?;
        // The key leaves out what echo requests have no ports for; it is what answers were found by.
        if question.key == question.first.key() {
            return None;
        }
        let expected = question.first.tuple.reversed();
        let is_home = answer.hops.last().is_some_and(|hop| hop.netns == question.netns);
        let seen = if answer.last_tuple == Some(expected) {
            Some(true)
        } else if is_home || matches!(answer.fate, Fate::Delivered | Fate::LeftNode) {
            Some(false)
        } else {
            None
        };
        Some(UnNat { expected, seen })
    }

    /// Looks for the parent once more: its own events may have come late.
    fn late_parent(&self, events: &[Event]) -> Option<Parent> {
        let (event, headers) = events.iter().find_map(|e| Some((e, e.followed()?)))?;
        lineage::parent(&self.recent, event, headers)
    }
}

fn in_order(mut journeys: Vec<Journey>) -> Vec<Journey> {
    journeys.sort_by_key(|j| (j.start_ns, j.id));
    journeys
}

impl Open {
    fn add(&mut self, event: Event, max_events: usize) {
        if self.events.len() < max_events {
            self.events.push(event);
        } else {
            self.surplus += 1;
            // The end must not be among what is left out.
            if event.is_end()
                && let Some(last) = self.events.last_mut()
            {
                *last = event;
            }
        }
    }

    /// The driver that the packet was handed to last uses it up.
    fn ends_in_driver(&self, e: &Event) -> bool {
        e.probe == Probe::Consume && self.events.last().is_some_and(|e| e.probe == Probe::Xmit)
    }

    /// The packet ended where nobody has use for it, and nothing that was seen was made of it: it
    /// must be another one by now.
    fn vanishes(&self, journey: &Journey, state: &NetworkState, is_overdue: bool) -> bool {
        if self.continues.is_some() || self.has_parts {
            return false;
        }
        let last = self.events.iter().rfind(|e| e.probe != Probe::Reused);
        let is_gone = self.events.last().is_some_and(|e| e.probe == Probe::Reused);
        let is_used_up = match self.events.as_slice() {
            [.., handed, used] => {
                used.probe == Probe::Consume
                    && handed.probe == Probe::Xmit
                    && !swallows(state, handed)
            }
            _ => false,
        };
        match journey.fate {
            Fate::Consumed => is_gone || is_used_up,
            Fate::InFlight => is_overdue && last.is_some_and(|e| e.probe == Probe::Xmit),
            Fate::Delivered | Fate::LeftNode | Fate::Dropped => false,
        }
    }

    /// When the last event of it was, or might have been.
    fn might_go_on_until(&self, now_ns: u64) -> u64 {
        if self.end.is_some() { self.last_ns } else { self.last_ns.max(now_ns) }
    }

    fn is_reply(&self) -> bool {
        self.parent.is_some_and(|p| p.kind == Lineage::Reply)
    }

    /// The end was seen and so was everything before it.
    fn is_whole(&self) -> bool {
        self.end
            .is_some_and(|end| self.events.len() + self.surplus as usize == usize::from(end) + 1)
    }

    /// When to look again; `None` when it is over. `is_thin`: not all points are attached.
    fn due(
        &self,
        options: &Options,
        now_ns: u64,
        state: &NetworkState,
        is_thin: bool,
    ) -> Option<u64> {
        let quiet_ns = if self.end.is_some() || self.continues.is_some() {
            options.reorder_ns
        } else if self.is_settled(state, is_thin) {
            options.settle_ns
        } else {
            options.idle_ns
        };
        let due_ns = self.last_ns.saturating_add(quiet_ns);
        (due_ns > now_ns).then_some(due_ns)
    }

    /// What was seen last is as good as an end: a socket has the packet, a local protocol, or
    /// hardware.
    fn is_settled(&self, state: &NetworkState, is_thin: bool) -> bool {
        let Some(last) = self.events.iter().max_by_key(|e| e.seq) else { return false };
        if self.has_socket {
            return true;
        }
        match (last.probe, &last.detail) {
            (Probe::NfLast | Probe::HookExit, Detail::Nf(NfDetail { hook, .. })) => {
                Hook::from_wire(*hook) == Some(Hook::Input) && !last.is_encap()
            }
            (Probe::Xmit, _) => leaves_node(state, last),
            (Probe::Queue, _) if is_thin => leaves_node(state, last),
            // Without the hooks of INPUT: what has arrived where its destination is, if its end is
            // not to be seen.
            (Probe::Rx, _) => last.followed().filter(|_| !last.is_encap()).is_some_and(|h| {
                (is_thin || h.tuple.proto == Proto::Tcp)
                    && holds(state, last.netns, h.tuple.dst)
                    && state.device(last.netns, last.ifindex).is_some_and(|d| d.master.is_none())
            }),
            _ => false,
        }
    }
}

/// A journey from its events, which are in order.
fn build(open: &Open, lost: u64, mut walk: Walk<'_>) -> Option<Journey> {
    let (head, tail) = (open.events.first()?, open.events.last()?);
    // The late end of a journey that is long over, and forgotten.
    let is_epilogue = |e: &Event| {
        matches!(e.probe, Probe::Reused | Probe::Consume | Probe::CopyToUser) && !e.is_birth()
    };
    if open.events.iter().all(is_epilogue) {
        return None;
    }
    let state = walk.state;
    walk.follow(&open.events);
    let ending = if open.end.is_some() { Ending::Seen } else { Ending::Unseen };
    let (fate, dropped) = walk.end(ending);
    let fate = match open.continues {
        Some(_) if fate == Fate::InFlight => Fate::Consumed,
        _ => fate,
    };
    // A free that is all that was seen of a packet is worth a word when it was a drop.
    if open.events.len() == 1 && head.probe == Probe::Kfree && fate != Fate::Dropped {
        return None;
    }
    let lost = u32::try_from(lost).unwrap_or(u32::MAX).max(u32::from(tail.lost));
    let lost_events = walk.close_gaps(lost, open.surplus);
    // `Reused` comes whenever the address is met again: the packet was gone by then.
    let last = open.events.iter().rfind(|e| e.probe != Probe::Reused).unwrap_or(head);
    let shown = open.events.iter().find_map(|e| Some((e, e.followed()?)));
    let mut journey = Journey {
        id: head.journey,
        start_ns: head.ktime_ns,
        end_ns: last.ktime_ns.max(head.ktime_ns),
        first: shown.map(|(_, headers)| *headers),
        quoted: shown
            .and_then(|(e, _)| e.packet.as_ref().and_then(Packet::quoted))
            .map(|h| h.tuple),
        last_tuple: walk.tuple,
        // Met at its end, the skb has lost its headers already.
        len: shown.map_or(head.len, |(e, h)| if e.is_end() { e.len.max(h.len) } else { e.len }),
        mss: open.events.iter().filter_map(|e| e.followed()?.tcp()?.mss).min(),
        parent: open.parent,
        continues: open.continues,
        fate,
        dropped,
        lost_events,
        gaps: walk.gaps,
        nat: walk.nat,
        hops: walk.hops,
        un_nat: None,
        path: String::new(),
    };
    if midway::is_joined(&journey, state) {
        journey.add_gap(0, GapCause::JoinedMidway);
    }
    if open.may_lack {
        journey.add_gap(journey.hops.len(), GapCause::EventsLost);
    }
    let first = journey.first.map(|headers| headers.tuple);
    prefix::name_routes(&mut journey.hops, first, state);
    forwarding::decide(&mut journey.hops, state, false);
    journey.path = path::path(&journey, state);
    Some(journey)
}
