//! The DNS server's own questions: where it says SERVFAIL, what counts is what becomes of those.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, sleep_until};

use super::{Node, ask};
use crate::cli::filter::FilterArgs;
use crate::config::Config;
use crate::diagnose::case::{Method, Outcome, Probed, Purpose};
use crate::diagnose::probe::{Plan, Report, Running};
use crate::journey::{self, Journey};
use crate::net::{Inum, setns};
use crate::source::Capture;

/// How often the ring is looked at.
const TICK: Duration = Duration::from_millis(2);
/// Servers give up on theirs after a few seconds; the first packets come at once.
const LIMIT: Duration = Duration::from_secs(2);
/// How long their packets are followed after the answer.
const SETTLE: Duration = Duration::from_millis(60);
/// Journeys of a second capture are numbered from here on.
const NUMBERS: u64 = 1 << 32;
const SERVFAIL: u8 = 2;

/// Whether a DNS server failed on behalf of others.
pub(super) fn is_wanted(probes: &[Probed]) -> bool {
    probes.iter().any(is_servfail)
}

fn is_servfail(probe: &Probed) -> bool {
    matches!(probe.outcome, Outcome::Dns { rcode: SERVFAIL, .. })
}

/// Asks once more while following what the server asks: each question becomes a probe, with its
/// packets.
pub(super) async fn follow(
    node: &Node,
    probes: &mut Vec<Probed>,
    journeys: &mut Vec<Journey>,
) -> Result<()> {
    let Some(asked) = probes.iter().find(|p| is_servfail(p)).cloned() else { return Ok(()) };
    let aim = (asked.netns, asked.to, asked.dport);
    for server in ask::answerers(&node.state, &node.view, aim) {
        let mut seen = question(node, &asked, server).await?;
        for journey in &mut seen {
            journey.id += NUMBERS;
            if let Some(parent) = journey.parent.as_mut() {
                parent.id += NUMBERS;
            }
        }
        let own = node.state.netns.get(&server);
        let is_own = |addr: IpAddr| {
            let mut held =
                own.into_iter().flat_map(|n| n.devices.values().flat_map(|d| &d.addresses));
            addr.is_loopback() || held.any(|(a, _)| *a == addr)
        };
        probes.extend(questions(&seen, (server, asked.dport), is_own));
        journeys.extend(seen);
    }
    Ok(())
}

/// One query to the server, and the packets that it sends meanwhile to other servers.
async fn question(node: &Node, asked: &Probed, server: Inum) -> Result<Vec<Journey>> {
    let Some(from) = node.state.netns.get(&asked.netns) else { return Ok(Vec::new()) };
    let filter = FilterArgs {
        dport: Some(asked.dport),
        netns: Some(server.to_string()),
        ..FilterArgs::default()
    };
    let inside = setns::open(&from.path, from.inum).context("cannot enter --from")?;
    let mut capture = Capture::start(&Config::capture(&filter)?).await?;
    let (to, mut reports) = unbounded_channel();
    let running = Running::default();
    let plan = Plan {
        method: Method::Dns,
        purpose: asked.purpose,
        netns: asked.netns,
        to: asked.to,
        dport: asked.dport,
        sport: None,
        size: None,
        questions: asked.question.iter().cloned().collect(),
        asks_v6: false,
        timeout: LIMIT,
    };
    running.start(Arc::new(inside), 0, plan, to);
    let mut next = Instant::now();
    let mut until = next + LIMIT;
    while Instant::now() < until {
        tokio::select! {
            biased;
            Some(report) = reports.recv() => {
                if matches!(report, Report::Done(..)) {
                    until = Instant::now() + SETTLE;
                }
            }
            () = capture.follow_change() => {}
            () = sleep_until(next) => {
                capture.turn();
                next = Instant::now() + TICK;
            }
        }
    }
    Ok(capture.end().await?.journeys)
}

/// What the server asked, as probes of its own: not what it was asked meanwhile, nor what it
/// answers late.
fn questions(
    seen: &[Journey],
    (server, port): (Inum, u16),
    is_own: impl Fn(IpAddr) -> bool,
) -> Vec<Probed> {
    let flows = journey::group(seen);
    let first = |i: &usize| seen.get(*i)?.first.map(|h| h.tuple);
    let mut found: Vec<Probed> = Vec::new();
    for flow in &flows {
        let Some(tuple) = flow.forward.first().and_then(first) else { continue };
        let is_known = found.iter().any(|p| (p.to, p.dport) == (tuple.dst, tuple.dport));
        if is_known || tuple.dport != port || !is_own(tuple.src) {
            continue;
        }
        let outcome = if flow.backward.is_empty() { Outcome::Timeout } else { Outcome::Answered };
        found.push(Probed {
            method: Method::Dns,
            purpose: Purpose::Upstream,
            netns: server,
            to: tuple.dst,
            dport: tuple.dport,
            sport: tuple.sport,
            size: None,
            question: None,
            rtt: None,
            outcome,
        });
    }
    found
}
