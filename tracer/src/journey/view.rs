//! What one node sees of a journey, where several share a kernel (`--view`).

use std::collections::BTreeSet;

use super::{Fate, Journey, path};
use crate::net::{Inum, NetworkState};

impl Journey {
    /// The journey with its hops in the namespaces of `view` alone; `None` when there is none.
    ///
    /// It begins where it is first seen there, with the addresses that it has by then. One that
    /// ends elsewhere has left the node. One that comes back is still the same journey: nothing
    /// tells where it has been.
    #[must_use]
    pub fn within(mut self, view: &BTreeSet<Inum>, state: &NetworkState) -> Option<Self> {
        let is_inside: Vec<bool> = self.hops.iter().map(|h| view.contains(&h.netns)).collect();
        if is_inside.iter().all(|inside| *inside) {
            return Some(self);
        }
        let begin = is_inside.iter().position(|inside| *inside)?;
        let end = is_inside.iter().rposition(|inside| *inside)?;
        // How many hops are kept before this one.
        let kept = |hop: usize| is_inside.iter().take(hop).filter(|inside| **inside).count();
        if let Some(first) = &mut self.first {
            let mut inner = self.hops[..=begin].iter().rev().filter(|hop| !hop.is_encap);
            first.tuple = inner.find_map(|hop| hop.tuple).unwrap_or(first.tuple);
        }
        if begin > 0 {
            self.start_ns = self.hops[begin].ktime_ns;
        }
        if end + 1 < is_inside.len() {
            self.end_ns = self.hops[end].ktime_ns;
            self.fate = Fate::LeftNode;
            self.dropped = None;
            let mut inner = self.hops[..=end].iter().rev().filter(|hop| !hop.is_encap);
            self.last_tuple = inner.find_map(|hop| hop.tuple).or(self.last_tuple);
        }
        if let Some(dropped) = &mut self.dropped {
            dropped.hop = kept(dropped.hop);
        }
        self.gaps.retain(|gap| {
            let at = |hop: Option<usize>| hop.and_then(|hop| is_inside.get(hop)) == Some(&true);
            at(Some(gap.before_hop)) || at(gap.before_hop.checked_sub(1))
        });
        self.gaps.iter_mut().for_each(|gap| gap.before_hop = kept(gap.before_hop));
        self.lost_events = self.gaps.iter().map(|gap| gap.events).sum();
        self.nat.retain(|nat| is_inside.get(nat.hop) == Some(&true));
        self.nat.iter_mut().for_each(|nat| nat.hop = kept(nat.hop));
        self.hops.retain(|hop| view.contains(&hop.netns));
        self.path = path::path(&self, state);
        Some(self)
    }
}
