//! One end of a TCP connection over the time that it was watched.

use super::Evidence;
use crate::diagnose::finding::Finding;
use crate::net::Inum;
use crate::net::meter::Connection;

/// Less traffic tells nothing about limits.
pub(super) const SOME: u64 = 200_000;

/// One end of a connection.
pub(super) struct End<'a> {
    pub(super) evidence: &'a Evidence<'a>,
    pub(super) netns: Inum,
    pub(super) now: &'a Connection,
    pub(super) before: Option<&'a Connection>,
}

impl<'a> End<'a> {
    /// Those of the flow, as [`Evidence::connections`] gives them.
    pub(super) fn all(
        evidence: &'a Evidence<'a>,
        connections: &'a [(Inum, Connection, Option<Connection>)],
    ) -> Vec<Self> {
        let end = |(netns, now, before): &'a (Inum, Connection, Option<Connection>)| Self {
            evidence,
            netns: *netns,
            now,
            before: before.as_ref(),
        };
        connections.iter().map(end).collect()
    }

    pub(super) fn grown(&self, of: impl Fn(&Connection) -> u64) -> u64 {
        of(self.now).saturating_sub(self.before.map_or(0, &of))
    }

    pub(super) fn finding(&self, id: &'static str, title: String) -> Finding {
        self.evidence.finding(id, self.netns, title)
    }

    /// Share of the time with data under way in which the receiver's window was the limit.
    pub(super) fn window_limited(&self) -> f64 {
        let busy = self.grown(|c| c.busy_us);
        if busy == 0 { 0.0 } else { self.grown(|c| c.window_limited_us) as f64 / busy as f64 }
    }

    /// Bytes a second, in the direction of the data.
    pub(super) fn rate(&self, bytes: u64) -> u64 {
        (bytes as f64 / self.evidence.span.as_secs_f64().max(0.1)) as u64
    }

    pub(super) fn what(&self) -> String {
        format!("{} to {}", self.now.local, self.now.peer)
    }
}
