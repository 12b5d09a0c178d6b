//! Servers that wait for a connection of their own before they answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::evidence::human;
use super::{Check, Evidence, Moment};
use crate::diagnose::finding::{Confidence, Finding};
use crate::net::Inum;
use crate::net::detail::Socket;
use crate::net::meter::{Connecting, Reading};

pub(super) const CHECK: Check = Check {
    explains: &[(
        "slow-upstream",
        "Before it answers, the server connects to something else (a database, a backend, a log \
         collector), which does not answer: it waits until it gives up, and its client waits with \
         it. While it does, nothing moves on the client's connections. What lies between the \
         server and what it connects to is the cause.",
    )],
    find,
};

/// A handshake over any distance is done by then.
const LONG: Duration = Duration::from_millis(400);

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    evidence
        .receivers()
        .into_iter()
        .filter_map(|(netns, history)| {
            let listener = history.last().filter(|s| i32::from(s.proto) == libc::IPPROTO_TCP)?;
            waits(evidence, netns, listener)
        })
        .collect()
}

/// What the listener's process had asked for at one moment, and what its clients had got of it by then.
struct Look {
    asked: Vec<Connecting>,
    answered: BTreeMap<SocketAddr, u64>,
}

impl Look {
    /// Until the next one a client got something, or the server closed its connection.
    fn answers(&self, next: &Self) -> bool {
        let is_left = |(peer, acked)| next.answered.get(peer).is_some_and(|now| now == acked);
        !self.answered.iter().all(is_left)
    }
}

fn look(reading: &Reading, listener: &Socket, pid: u32) -> Look {
    let asked = reading.connecting.iter().filter(|c| c.pid == Some(pid)).cloned();
    let clients = reading.connections.iter().filter(|c| c.local.port() == listener.port);
    Look { asked: asked.collect(), answered: clients.map(|c| (c.peer, c.acked)).collect() }
}

fn waits(evidence: &Evidence<'_>, netns: Inum, listener: &Socket) -> Option<Finding> {
    let (pid, program) = listener.process.as_ref()?;
    let here: Vec<&Reading> =
        evidence.moments.iter().filter_map(|m: &Moment| m.get(&netns)).collect();
    let looks: Vec<Look> = here.iter().map(|reading| look(reading, listener, *pid)).collect();
    let peer = silent(&here, &looks, evidence.span)?;
    let (mut waiting, mut moving) = (0, 0);
    for pair in looks.windows(2) {
        let [before, now] = pair else { continue };
        let is_same = before.asked == now.asked && now.asked.iter().any(|c| c.peer == peer);
        // It serves others meanwhile: nobody waits for that connection.
        if is_same && before.answers(now) {
            return None;
        }
        waiting += usize::from(is_same && !before.answered.is_empty());
        moving += usize::from(before.answered != now.answered);
    }
    if waiting * 3 < looks.len() || moving < 2 {
        return None;
    }
    let title = format!("{program} (PID {pid}) waits for {peer}, which does not answer");
    let share = evidence.span.mul_f64(waiting as f64 / looks.len() as f64);
    Some(
        evidence
            .finding("slow-upstream", netns, title)
            .confidence(Confidence::Likely)
            .fact(format!(
                "it was connecting to {peer} in {waiting} of {} looks, some {}, and its clients \
                 got nothing meanwhile",
                looks.len(),
                human(share)
            ))
            .fix(format!(
                "`pkttrace diagnose --from {} --to {peer} --proto tcp` says where that ends",
                evidence.netns(netns).map_or("?", |n| &n.name)
            )),
    )
}

/// Whom it asks for a connection longer than any handshake takes, and never has one.
fn silent(here: &[&Reading], looks: &[Look], span: Duration) -> Option<SocketAddr> {
    let mut counts: BTreeMap<&Connecting, u32> = BTreeMap::new();
    for asked in looks.iter().flat_map(|look| &look.asked) {
        *counts.entry(asked).or_default() += 1;
    }
    let answered: BTreeSet<SocketAddr> =
        here.iter().flat_map(|r| &r.connections).map(|c| c.peer).collect();
    let each = span / u32::try_from(looks.len()).unwrap_or(u32::MAX).max(1);
    let long = counts.into_iter().filter(|(c, n)| each * *n >= LONG && !answered.contains(&c.peer));
    long.max_by_key(|(_, n)| *n).map(|(c, _)| c.peer)
}
