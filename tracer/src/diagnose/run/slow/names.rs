//! Name look-ups as the resolver library does them, timed.

use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::{done, plan};
use crate::diagnose::case::{Method, Outcome as Came, Probed, Target};
use crate::diagnose::probe::{Plan, Running};
use crate::diagnose::slow::{Again, Lookup};

/// How long a name server is waited for (resolv.conf(5): `timeout`).
const NAME_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the connection is that an answer needs that does not fit into a datagram: long enough
/// for a SYN that is sent again.
const AGAIN: Duration = Duration::from_secs(2);

/// A name as the resolver library looks it up: each candidate, of the first server that answers.
#[derive(Default)]
pub(super) struct Questions {
    pub(super) inside: Option<(Arc<File>, Target)>,
    pub(super) name: String,
    pub(super) candidates: Vec<String>,
    pub(super) servers: Vec<IpAddr>,
    pub(super) port: u16,
    /// Every server has its turn to be the first.
    pub(super) rotates: bool,
}

impl Questions {
    pub(super) async fn ask(mut self, to: UnboundedSender<Lookup>) {
        let Some((inside, target)) = &self.inside else { return };
        for candidate in &self.candidates {
            while let Some(server) = self.servers.first().copied() {
                let at = (server, self.port);
                // Both at once, as the resolver library does.
                let ask = |is_v6| look_up(target, inside, (candidate, &self.name, is_v6), at);
                let both = tokio::join!(ask(false), ask(true));
                let says = |lookup: &Lookup| lookup.rcode.is_some() || lookup.again.is_some();
                let is_answered = says(&both.0) || says(&both.1);
                let is_found = !(both.0.addresses.is_empty() && both.1.addresses.is_empty());
                // Nobody waits for it any more: nothing to be done.
                if to.send(both.0).is_err() || to.send(both.1).is_err() || is_found {
                    return self.ask_others(&to).await;
                }
                if is_answered {
                    break;
                }
                self.servers.remove(0);
            }
        }
    }
}

impl Questions {
    /// Where the servers take turns, the others are the first for other look-ups.
    async fn ask_others(&self, to: &UnboundedSender<Lookup>) {
        let Some((inside, target)) = self.inside.as_ref().filter(|_| self.rotates) else { return };
        let Some(candidate) = self.candidates.last() else { return };
        for server in self.servers.iter().skip(1) {
            let question = (candidate.as_str(), self.name.as_str(), false);
            let lookup = look_up(target, inside, question, (*server, self.port)).await;
            // Nobody waits for it any more: nothing to be done.
            if to.send(lookup).is_err() {
                return;
            }
        }
    }
}

/// A question that is asked again over TCP, as its answer did not fit into a datagram.
async fn ask_again(target: &Target, inside: &Arc<File>, (server, port): (IpAddr, u16)) -> Again {
    let plan = Plan { timeout: AGAIN, ..plan(target, Method::Tcp, server, port) };
    match carried_out(plan, inside).await {
        Some(probed) if probed.is_answered() => Again::Connected,
        Some(probed) if probed.outcome == Came::Timeout => Again::Silent,
        _ => Again::Refused,
    }
}

async fn carried_out(plan: Plan, inside: &Arc<File>) -> Option<Probed> {
    let (to, mut reports) = unbounded_channel();
    let running = Running::default();
    running.start(Arc::clone(inside), 0, plan, to);
    let mut answer = None;
    while let Some(report) = reports.recv().await {
        answer = answer.or(done(report));
    }
    answer
}

async fn look_up(
    target: &Target,
    inside: &Arc<File>,
    (candidate, name, is_v6): (&str, &str, bool),
    (server, port): (IpAddr, u16),
) -> Lookup {
    let questions = vec![candidate.to_owned()];
    let plan = plan(target, Method::Dns, server, port);
    let plan = Plan { questions, asks_v6: is_v6, timeout: NAME_TIMEOUT, ..plan };
    let sent = Instant::now();
    let answer = carried_out(plan, inside).await;
    let is_truncated = answer.as_ref().is_some_and(|p| p.outcome == Came::Truncated);
    let again = match is_truncated {
        true => Some(ask_again(target, inside, (server, port)).await),
        false => None,
    };
    let (rcode, addresses) = match answer.as_ref().map(|p| &p.outcome) {
        Some(Came::Dns { rcode, addresses }) => (Some(*rcode), addresses.clone()),
        _ => (None, Vec::new()),
    };
    let took = answer.and_then(|p| p.rtt).unwrap_or_else(|| sent.elapsed());
    let suffix = candidate.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
    let suffix = suffix.map(str::to_owned);
    Lookup { name: candidate.to_owned(), suffix, is_v6, server, took, rcode, addresses, again }
}
