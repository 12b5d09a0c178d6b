//! Name look-ups as the resolver library does them, timed.

use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::{done, plan};
use crate::diagnose::case::{Method, Outcome as Came, Target};
use crate::diagnose::probe::{Plan, Running};
use crate::diagnose::slow::Lookup;

/// How long a name server is waited for (resolv.conf(5): `timeout`).
const NAME_TIMEOUT: Duration = Duration::from_secs(5);

/// A name as the resolver library looks it up: each candidate, of the first server that answers.
#[derive(Default)]
pub(super) struct Questions {
    pub(super) inside: Option<(Arc<File>, Target)>,
    pub(super) name: String,
    pub(super) candidates: Vec<String>,
    pub(super) servers: Vec<IpAddr>,
    pub(super) port: u16,
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
                let is_answered = both.0.rcode.is_some() || both.1.rcode.is_some();
                let is_found = !(both.0.addresses.is_empty() && both.1.addresses.is_empty());
                // Nobody waits for it any more: nothing to be done.
                if to.send(both.0).is_err() || to.send(both.1).is_err() || is_found {
                    return;
                }
                if is_answered {
                    break;
                }
                self.servers.remove(0);
            }
        }
    }
}

async fn look_up(
    target: &Target,
    inside: &Arc<File>,
    (candidate, name, is_v6): (&str, &str, bool),
    (server, port): (IpAddr, u16),
) -> Lookup {
    let (to, mut reports) = unbounded_channel();
    let running = Running::default();
    let questions = vec![candidate.to_owned()];
    let plan = plan(target, Method::Dns, server, port);
    let plan = Plan { questions, asks_v6: is_v6, timeout: NAME_TIMEOUT, ..plan };
    let sent = Instant::now();
    running.start(Arc::clone(inside), 0, plan, to);
    let mut answer = None;
    while let Some(report) = reports.recv().await {
        answer = answer.or(done(report));
    }
    let (rcode, addresses) = match answer.as_ref().map(|p| &p.outcome) {
        Some(Came::Dns { rcode, addresses }) => (Some(*rcode), addresses.clone()),
        _ => (None, Vec::new()),
    };
    let took = answer.and_then(|p| p.rtt).unwrap_or_else(|| sent.elapsed());
    let suffix = candidate.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
    let suffix = suffix.map(str::to_owned);
    Lookup { name: candidate.to_owned(), suffix, is_v6, server, took, rcode, addresses }
}
