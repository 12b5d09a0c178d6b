//! Connections that conntrack forgets while they live.

use std::collections::BTreeSet;
use std::time::Duration;

use super::evidence::human;
use super::{Check, Evidence};
use crate::diagnose::case::Method;
use crate::diagnose::finding::{Confidence, Finding};
use crate::event::{CtInfo, Headers, Tcp};
use crate::journey::{self, Fate, Journey, Stage};
use crate::net::Inum;
use crate::net::meter::Connection;

pub(super) const CHECK: Check = Check {
    explains: &[(
        "slow-conntrack-timeout",
        "Connection tracking forgets a connection on which nothing was sent for a while \
         (nf_conntrack_tcp_timeout_established, five days by default). The next packet of it belongs \
         to nothing then: it is not translated, or dropped as invalid, and both ends wait until \
         one of them gives up. Connections that are kept open (pools, message brokers) hang at \
         their first request after a pause. Those that one end has closed for its part, and questions \
         in datagrams, are forgotten sooner (nf_conntrack_tcp_timeout_close_wait, a minute; \
         nf_conntrack_udp_timeout, half of one): an answer that takes longer does not come back.",
    )],
    find,
};

const PATH: &str = "netfilter/nf_conntrack_tcp_timeout_established";
/// Longer pauses than this are kept alive by most programs.
const SHORT: u64 = 3600;
/// What it is by default, seconds.
const USUAL: &str = "432000";
/// A single one may be what is left of a connection that ended.
const SOME: usize = 2;

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let kinds = [forgotten, half_closed, unanswered];
    let all = evidence.namespaces().into_iter();
    all.filter_map(|netns| kinds.iter().find_map(|kind| kind(evidence, netns))).collect()
}

/// A segment from within a connection that conntrack does not know, and that does not arrive.
fn is_forgotten(journey: &Journey, netns: Inum) -> bool {
    let tcp = journey.first.as_ref().and_then(Headers::tcp);
    let is_within = tcp.is_some_and(|tcp| {
        tcp.flags & (Tcp::SYN | Tcp::RST | Tcp::FIN) == 0 && tcp.payload_len > 0
    });
    let is_unknown = journey.hops.iter().any(|hop| {
        let is_here = hop.netns == netns && hop.stage == Stage::Netfilter;
        is_here && matches!(hop.ct, Some(CtInfo::New | CtInfo::Invalid))
    });
    is_within && is_unknown && !matches!(journey.fate, Fate::Delivered | Fate::LeftNode)
}

fn forgotten(evidence: &Evidence<'_>, netns: Inum) -> Option<Finding> {
    let is_now = evidence.sysctl(netns, PATH)?.trim();
    let seconds = is_now.parse::<u64>().ok().filter(|seconds| *seconds <= SHORT)?;
    let lost = evidence.journeys.iter().filter(|j| is_forgotten(j, netns)).count();
    if lost < SOME {
        return None;
    }
    let title = format!(
        "Connections are forgotten after {} without a packet, and hang then",
        human(Duration::from_secs(seconds))
    );
    let finding = evidence.finding("slow-conntrack-timeout", netns, title).fact(format!(
        "{lost} segments of connections that were open belonged to no entry of conntrack, and did not \
         arrive"
    ));
    Some(finding.wrong_sysctl(evidence.netns(netns)?, PATH, is_now, USUAL).fix(
        "or let the application send keep-alives more often than that; connections that hang now have \
         to be opened anew",
    ))
}

/// A timeout that is set shorter than it is by default.
fn shortened(evidence: &Evidence<'_>, netns: Inum, path: &str, usual: u64) -> Option<u64> {
    evidence.sysctl(netns, path)?.trim().parse().ok().filter(|seconds| *seconds < usual)
}

/// What a server still has to say to who has closed the connection for its part does not arrive.
fn half_closed(evidence: &Evidence<'_>, netns: Inum) -> Option<Finding> {
    const PATH: &str = "netfilter/nf_conntrack_tcp_timeout_close_wait";
    const USUAL: u64 = 60;
    let seconds = shortened(evidence, netns, PATH, USUAL)?;
    let (waiting, refused) = (waiting(evidence), refused(evidence, netns));
    let again = unheard(evidence);
    let is_lost = again >= SOME || waiting >= SOME && refused >= SOME as u64;
    if !is_lost {
        return None;
    }
    let title = format!(
        "Connections that one end has closed for its part are forgotten after {}",
        human(Duration::from_secs(seconds))
    );
    let finding = evidence
        .finding("slow-conntrack-timeout", netns, title)
        .fact(format!("{waiting} connections wait for an answer, and have sent all of their part"))
        .fact(format!(
            "{again} servers send theirs again and again; {refused} segments were refused as of no \
             connection (TcpOutRsts)"
        ));
    let (is_now, usual) = (seconds.to_string(), USUAL.to_string());
    Some(finding.wrong_sysctl(evidence.netns(netns)?, PATH, &is_now, &usual))
}

/// Connections whose answer is sent again and again.
fn unheard(evidence: &Evidence<'_>) -> usize {
    let all = evidence.connections();
    let is_lost = |(_, now, before): &&(Inum, Connection, Option<Connection>)| {
        let before = before.as_ref().map_or(0, |before| before.retransmits);
        now.may_answer && now.unsent > 0 && now.retransmits > before
    };
    all.iter().filter(is_lost).count()
}

/// Connections that wait for an answer at the end.
fn waiting(evidence: &Evidence<'_>) -> usize {
    let last = evidence.moments.last();
    let is_there = |netns: Inum, c: &Connection| {
        let reading = last.and_then(|moment| moment.get(&netns));
        reading.is_some_and(|r| r.connections.iter().any(|now| now.cookie == c.cookie))
    };
    let all = evidence.connections();
    all.iter().filter(|(netns, now, _)| now.awaits_answer && is_there(*netns, now)).count()
}

fn client(evidence: &Evidence<'_>) -> Option<Inum> {
    evidence.target.as_ref().map(|target| target.netns)
}

/// Segments that the namespace, or the client's, took for nobody's.
fn refused(evidence: &Evidence<'_>, netns: Inum) -> u64 {
    let ends: BTreeSet<Inum> = [Some(netns), client(evidence)].into_iter().flatten().collect();
    ends.into_iter().map(|at| evidence.grown(at, "TcpOutRsts")).sum()
}

/// Answers in datagrams come to nobody, and questions have none.
fn unanswered(evidence: &Evidence<'_>, netns: Inum) -> Option<Finding> {
    const PATH: &str = "netfilter/nf_conntrack_udp_timeout";
    const USUAL: u64 = 30;
    let is_udp = evidence.target.as_ref().is_some_and(|target| target.proto == Method::Udp);
    let seconds = shortened(evidence, netns, PATH, USUAL).filter(|_| is_udp)?;
    let client = client(evidence);
    let ends = [Some(netns), client];
    let stray = |at: Inum| evidence.grown(at, "UdpNoPorts");
    let (at, count) =
        ends.into_iter().flatten().map(|at| (at, stray(at))).max_by_key(|(_, count)| *count)?;
    let flows = journey::group(evidence.journeys);
    let arrives =
        |i: &usize| evidence.journeys[*i].hops.last().is_some_and(|hop| Some(hop.netns) == client);
    let answered = flows.iter().filter(|flow| flow.backward.iter().any(arrives)).count();
    if count < SOME as u64 || answered > 0 {
        return None;
    }
    let title = format!(
        "Questions in datagrams are forgotten after {}, and later answers come to nobody",
        human(Duration::from_secs(seconds))
    );
    let finding = evidence.finding("slow-conntrack-timeout", netns, title).fact(format!(
        "{count} datagrams came to {} for ports that nobody has (UdpNoPorts), and of {} questions none \
         was answered to whom it came from",
        evidence.netns(at).map_or("?", |n| &n.name),
        flows.len()
    ));
    let (is_now, usual) = (seconds.to_string(), USUAL.to_string());
    let finding = finding.confidence(Confidence::Likely);
    Some(finding.wrong_sysctl(evidence.netns(netns)?, PATH, &is_now, &usual))
}
