//! What a new connection sends before anything of it is acknowledged, and routes that keep that small.

use std::collections::BTreeSet;
use std::time::Duration;

use super::evidence::human;
use super::limits::{at_route, own_routes};
use super::{Check, Evidence};
use crate::diagnose::finding::{Confidence, Finding};
use crate::event::{Headers, Tcp};
use crate::journey::{self, Flow, Journey, Lineage};
use crate::net::Inum;
use crate::net::detail::Route;

/// It finds what [`super::limits`] explains.
pub(super) const CHECK: Check = Check { explains: &[], find };

/// Connections that have to tell the same.
const ENOUGH: usize = 3;
/// Segments that a connection begins with by default, and gets room for.
const USUAL: u32 = 10;
/// A pause that costs less is none.
const ROUND: Duration = Duration::from_millis(5);

/// The data that one end of a connection sent at first.
struct Flight {
    sender: Inum,
    receiver: Option<Inum>,
    bytes: u32,
    /// The longest segment that both ends take.
    segment: u32,
    /// Until more could be sent.
    pause: Duration,
    /// How much then came at once.
    next: u32,
}

/// Routes that let connections begin with fewer segments than is usual, which new ones were seen to
/// wait for.
fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let flights = Flight::all(evidence);
    let found = own_routes(evidence).into_iter().find_map(|(netns, route)| {
        let limits = &route.limits;
        let sends = |flight: &&Flight| flight.sender == netns;
        let receives = |flight: &&Flight| flight.receiver == Some(netns);
        let sender = limits.initcwnd.map(|most| ("initcwnd", most));
        let receiver = limits.initrwnd.map(|most| ("initrwnd", most));
        begins(evidence, (netns, route), sender, flights.iter().filter(sends))
            .or_else(|| begins(evidence, (netns, route), receiver, flights.iter().filter(receives)))
    });
    found.or_else(|| unseen(evidence, &flights)).into_iter().collect()
}

/// Fewer segments than this, and always the same, is a limit and no chance.
const FEW: u32 = 4;

/// The sender is not seen, so its routes are not either: its connections all begin with as few
/// segments, and go on a round trip later, with more.
fn unseen(evidence: &Evidence<'_>, flights: &[Flight]) -> Option<Finding> {
    let connections = evidence.connections();
    let rtt =
        connections.iter().map(|(_, now, _)| now.min_rtt).filter(|rtt| !rtt.is_zero()).min()?;
    let ends: BTreeSet<Inum> = connections.iter().map(|(netns, ..)| *netns).collect();
    let far: Vec<&Flight> = flights.iter().filter(|f| !ends.contains(&f.sender)).collect();
    let first = far.first()?;
    let segments = first.bytes.div_ceil(first.segment.max(1));
    let is_limited = |f: &&&Flight| {
        let is_a_round = f.pause * 10 > rtt * 7 && f.pause * 10 < rtt * 16;
        f.is_full(segments) && is_a_round && f.next > f.bytes
    };
    let count = far.iter().filter(is_limited).count();
    if segments > FEW || count < ENOUGH || count * 10 < far.len() * 9 {
        return None;
    }
    let receiver = first.receiver.filter(|netns| ends.contains(netns)).or(ends.first().copied())?;
    let title = format!(
        "The other end begins each connection with {segments} segment{} ({USUAL} are usual)",
        if segments == 1 { "" } else { "s" }
    );
    let finding = evidence.finding("slow-route-limit", receiver, title).fact(format!(
        "{count} of {} connections brought {} bytes and more only {} later, a round trip",
        far.len(),
        first.bytes,
        human(first.pause)
    ));
    Some(finding.confidence(Confidence::Likely).fix(
        "look at the other end: `ip route` there has initcwnd on the route back (or initrwnd on the \
         one here), or a small tcp_rmem keeps the first window small",
    ))
}

fn begins<'a>(
    evidence: &Evidence<'_>,
    at: (Inum, &Route),
    limit: Option<(&str, u32)>,
    flights: impl Iterator<Item = &'a Flight>,
) -> Option<Finding> {
    let (name, most) = limit.filter(|(_, most)| *most < USUAL)?;
    let mut stopped: Vec<&Flight> = flights.filter(|flight| flight.is_full(most)).collect();
    stopped.sort_by_key(|flight| flight.pause);
    let middle = stopped.get(stopped.len() / 2).filter(|_| stopped.len() >= ENOUGH)?;
    let what = if most == 1 { "segment" } else { "segments" };
    let title =
        format!("A route lets connections begin with {most} {what} ({name}, {USUAL} is usual)");
    let fact = format!(
        "{} connections sent {} bytes and waited {} (median) before they sent more",
        stopped.len(),
        middle.bytes,
        human(middle.pause)
    );
    let finding = evidence.finding("slow-route-limit", at.0, title).fact(fact);
    Some(at_route(finding, evidence, at, &format!("{name} {most}")))
}

impl Flight {
    fn all(evidence: &Evidence<'_>) -> Vec<Self> {
        let flows = journey::group(evidence.journeys);
        flows.iter().filter_map(|flow| Self::of(evidence.journeys, flow)).collect()
    }

    /// As many whole segments as this, and no more: what ends earlier is all that there was to send.
    fn is_full(&self, segments: u32) -> bool {
        /// Options take room in each segment.
        const OPTIONS: u32 = 40;
        let most = self.segment.saturating_mul(segments);
        let least = self.segment.saturating_sub(OPTIONS).saturating_mul(segments);
        self.pause >= ROUND && (least..=most).contains(&self.bytes)
    }

    fn of(journeys: &[Journey], flow: &Flow) -> Option<Self> {
        let all = || flow.forward.iter().chain(&flow.backward).map(|i| &journeys[*i]);
        let segment = all().filter_map(|j| j.first.as_ref().and_then(Headers::tcp)?.mss).min()?;
        // As it was sent: not the pieces that it is cut into on its way.
        let is_whole = |j: &&Journey| j.parent.is_none_or(|p| p.kind == Lineage::Reply);
        let sent = all().filter(is_whole);
        let mut sent: Vec<(&Journey, &Tcp)> =
            sent.filter_map(|j| Some((j, j.first.as_ref()?.tcp()?))).collect();
        sent.sort_by_key(|(journey, _)| journey.start_ns);
        // Who talks first asks for little; it is the longer side that waits.
        let (longest, _) = sent.iter().max_by_key(|(_, tcp)| tcp.payload_len)?;
        let (from, sender) = (longest.first?.tuple.src, longest.hops.first()?.netns);
        let is_own = |journey: &Journey| journey.first.is_some_and(|h| h.tuple.src == from);
        let back = sent.iter().find(|(journey, _)| !is_own(journey));
        let receiver = back.and_then(|(journey, _)| Some(journey.hops.first()?.netns));
        // Behind a tunnel the same packet begins once more.
        let here = |journey: &Journey| journey.hops.first().is_some_and(|h| h.netns == sender);
        let data = sent.iter().filter(|(_, tcp)| tcp.payload_len > 0);
        let data = data.skip_while(|(journey, _)| !is_own(journey));
        let mut bursts: Vec<(u32, u64, u64)> = Vec::new();
        for (journey, tcp) in data {
            // It was asked for more.
            if !is_own(journey) {
                break;
            }
            if !here(journey) {
                continue;
            }
            let (at, length) = (journey.start_ns, tcp.payload_len);
            let is_over = bursts.len() == 2;
            match bursts.last_mut() {
                Some((bytes, _, last)) if at.saturating_sub(*last) < ROUND.as_nanos() as u64 => {
                    (*bytes, *last) = (*bytes + length, at);
                }
                _ if is_over => break,
                _ => bursts.push((length, at, at)),
            }
        }
        let [(bytes, _, last), (next, again, _)] = bursts[..] else { return None };
        let pause = Duration::from_nanos(again.saturating_sub(last));
        Some(Self { sender, receiver, bytes, segment: segment.into(), pause, next })
    }
}
