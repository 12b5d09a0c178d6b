//! Answers that are longer than what was seen: the full segments of a connection that works, as
//! long as both ends have agreed on, walked back to whoever asked.
//!
//! A probe asks for little, and hears the start of an answer. Only what is certain by the
//! configuration counts here, and nothing where the sender would find out by itself.

use super::ask;
use crate::diagnose::Direction;
use crate::diagnose::case::{Case, Method, Outcome, Probed, Purpose, Way};
use crate::diagnose::walk::{Ask, Effect, End, ObstacleKind as Kind, Walk};
use crate::event::Tcp;
use crate::journey::{Fate, Flow};
use crate::net::Inum;

/// Length of the headers in front of a segment.
const V4_HEADERS: u32 = 40;
const V6_HEADERS: u32 = 60;

/// A long answer that cannot come, as a probe that failed, and its ways.
pub(super) fn lost(case: &Case<'_>) -> Option<(Probed, Vec<Way>)> {
    let connected = case
        .probes
        .iter()
        .filter(|p| p.method == Method::Tcp && p.purpose == Purpose::Reach && p.was_reached());
    connected.into_iter().find_map(|probe| {
        let flow = case.flow_of(probe)?;
        let size = agreed(case, flow)?;
        let ask = question(probe, size);
        let ways = ask::both(case, &ask, Purpose::FullSize);
        let is_hole = |way: &Way| {
            way.request.is_clear()
                && way.reply.as_ref().is_some_and(|reply| swallows(case, (flow, probe), reply))
        };
        let long =
            Probed { outcome: Outcome::Timeout, size: Some(size), rtt: None, ..probe.clone() };
        let long = Probed { purpose: Purpose::FullSize, ..long };
        ways.iter().any(is_hole).then_some((long, ways))
    })
}

fn question(probe: &Probed, size: u32) -> Ask {
    let ask = ask::question(probe.method, probe.netns, probe.to, probe.dport, None);
    Ask { sport: probe.sport, answer: Some(size), ..ask }
}

/// The longest packet that the server sends in this connection: what the client announced, as it
/// arrived. `None` where nothing is known, and where the server lets packets be cut.
fn agreed(case: &Case<'_>, flow: &Flow) -> Option<u32> {
    let announced = case.packets(flow, Direction::Request).filter_map(|j| j.mss).min()?;
    let mut answers = case.packets(flow, Direction::Reply).filter_map(|j| j.first);
    let first = answers.find(|h| h.tcp().is_some_and(|t| t.flags & Tcp::SYN != 0))?;
    let is_v4 = first.tuple.src.is_ipv4();
    let headers = if is_v4 { V4_HEADERS } else { V6_HEADERS };
    (!is_v4 || first.dont_fragment).then_some(u32::from(announced) + headers)
}

/// The answer is dropped for its length, and the server neither hears of it nor finds out.
fn swallows(case: &Case<'_>, (flow, probe): (&Flow, &Probed), reply: &Walk) -> bool {
    let server = reply.ask.from;
    let is_seen = matches!(reply.end, End::Delivered { netns, .. } if netns == probe.netns);
    // It probes by itself, or lets its segments be cut: what it sets DF on at first is the SYN's
    // answer alone.
    let is_off = |path| case.sysctl(server, path).is_some_and(|value| value == "0");
    let is_cut = reply.ask.dst.is_ipv4() && !is_off("ipv4/ip_no_pmtu_disc");
    if !is_seen || is_cut || !is_off("ipv4/tcp_mtu_probing") {
        return false;
    }
    let narrowest = reply.obstacles().find_map(|(_, o)| match o.kind {
        Kind::TooLong { mtu, tells_sender: false, .. } if o.effect == Effect::Stops => Some(mtu),
        _ => None,
    });
    narrowest.is_some_and(|mtu| !has_passed(case, flow, mtu) && !echoed(case, reply, server, mtu))
}

/// A longer packet of the server's came to the client.
fn has_passed(case: &Case<'_>, flow: &Flow, mtu: u32) -> bool {
    let mut answers = case.packets(flow, Direction::Reply);
    answers.any(|j| j.fate == Fate::Delivered && j.first.is_some_and(|h| h.len > mtu))
}

/// A longer echo of the server's was answered by whom the answer goes to.
fn echoed(case: &Case<'_>, reply: &Walk, server: Inum, mtu: u32) -> bool {
    case.probes.iter().any(|p| {
        (p.netns, p.to) == (server, reply.ask.dst)
            && p.size.is_some_and(|size| size > mtu)
            && p.is_answered()
    })
}

/// What was not sent is not told as sent.
pub(super) fn forget(probes: &mut Vec<Probed>) {
    probes.retain(|p| p.method != Method::Tcp || p.purpose != Purpose::FullSize);
}
