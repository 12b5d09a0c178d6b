//! Connections that conntrack forgets while they live.

use std::time::Duration;

use super::evidence::human;
use super::{Check, Evidence};
use crate::diagnose::finding::Finding;
use crate::event::{CtInfo, Headers, Tcp};
use crate::journey::{Fate, Journey, Stage};
use crate::net::Inum;

pub(super) const CHECK: Check = Check {
    explains: &[(
        "slow-conntrack-timeout",
        "Connection tracking forgets a connection on which nothing was sent for a while \
         (nf_conntrack_tcp_timeout_established, five days by default). The next packet of it belongs \
         to nothing then: it is not translated, or dropped as invalid, and both ends wait until \
         one of them gives up. Connections that are kept open (pools, message brokers) hang at \
         their first request after a pause.",
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
    evidence.namespaces().into_iter().filter_map(|netns| forgotten(evidence, netns)).collect()
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
