//! What came of a probe by what was seen of its packets, where its own socket cannot know.

use crate::diagnose::Direction;
use crate::diagnose::case::{Case, Drop, Method, Outcome, Probed, Purpose};
use crate::event::{Proto, Tcp};
use crate::journey::{Fate, Flow, Journey};

/// The outcomes of the case's probes.
pub(super) fn outcomes(case: &Case<'_>) -> Vec<Outcome> {
    case.probes.iter().map(|probe| outcome(case, probe)).collect()
}

fn outcome(case: &Case<'_>, probe: &Probed) -> Outcome {
    let flow = case.flow_of(probe).filter(|_| probe.purpose == Purpose::Reach);
    match (probe.method, &probe.outcome, flow) {
        // Whoever collects datagrams answers none.
        (Method::Udp, Outcome::Timeout, Some(flow)) if is_taken(case, flow) => {
            Outcome::Silent { asked: false }
        }
        // The client is through with its handshake, and the server is not.
        (Method::Tcp, Outcome::Silent { asked: false }, Some(flow)) if is_half(case, flow) => {
            Outcome::Timeout
        }
        (_, as_heard, _) => as_heard.clone(),
    }
}

/// A socket took the datagram, and nothing was sent because of it.
fn is_taken(case: &Case<'_>, flow: &Flow) -> bool {
    let mut sent = case.packets(flow, Direction::Request);
    let Some(taken) = sent.find(|j| j.fate == Fate::Delivered) else { return false };
    let asked = taken.last_tuple.or(taken.first.map(|h| h.tuple));
    let answers = |j: &Journey| {
        let tuple = j.first.map(|h| h.tuple).filter(|t| t.proto == Proto::Udp);
        tuple.zip(asked).is_some_and(|(t, asked)| (t.dst, t.dport) == (asked.src, asked.sport))
    };
    let refused = |counter| taken.hops.iter().any(|h| case.grown(h.netns, counter) > 0);
    flow.backward.is_empty()
        && !case.journeys.iter().any(answers)
        // From another address than was asked, it is counted where nobody waits for it.
        && !["UdpNoPorts", "Udp6NoPorts"].into_iter().any(refused)
}

/// All that the client sent after its SYN was dropped by rules.
fn is_half(case: &Case<'_>, flow: &Flow) -> bool {
    let is_later = |j: &&Journey| {
        let tcp = j.first.and_then(|h| h.tcp().copied());
        tcp.is_some_and(|t| t.flags & (Tcp::SYN | Tcp::ACK) == Tcp::ACK)
    };
    let is_dropped =
        |j: &Journey| Drop::of(j, Direction::Request).is_some_and(|d| d.reason == "NETFILTER_DROP");
    let mut later = case.packets(flow, Direction::Request).filter(is_later).peekable();
    later.peek().is_some() && later.all(is_dropped)
}
