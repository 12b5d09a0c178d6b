//! Fragments that are not put together again.

use super::{Check, Evidence};
use crate::diagnose::finding::Finding;
use crate::net::Inum;

pub(super) const CHECK: Check = Check {
    explains: &[(
        "slow-reassembly",
        "A datagram that is longer than the path's MTU is sent in fragments, and lost as a whole when \
         one of them is. The receiver keeps those that wait for the rest in memory of \
         net.ipv4.ipfrag_high_thresh bytes at most: what finds no room is dropped, and all that \
         came of its datagram with it.",
    )],
    find,
};

/// Fewer are what is lost now and then.
const SOME: u64 = 5;
/// The counter, the limit in bytes, and what that usually is, by family.
const FAMILIES: [(&str, &str, u64); 2] = [
    ("IpReasmFails", "ipv4/ipfrag_high_thresh", 4_194_304),
    ("Ip6ReasmFails", "ipv6/ip6frag_high_thresh", 4_194_304),
];

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let here = |netns: Inum| FAMILIES.into_iter().filter_map(move |f| failed(evidence, netns, f));
    evidence.namespaces().into_iter().flat_map(here).collect()
}

fn failed(
    evidence: &Evidence<'_>,
    netns: Inum,
    (counter, path, usual): (&str, &str, u64),
) -> Option<Finding> {
    let failed = evidence.grown(netns, counter);
    if failed < SOME {
        return None;
    }
    let title = "Datagrams in fragments are not put together".to_owned();
    let finding = evidence
        .finding("slow-reassembly", netns, title)
        .fact(format!("{counter} grew by {failed} in {:.1} s", evidence.span.as_secs_f64()));
    let is_now = evidence.sysctl(netns, path).unwrap_or_default().trim();
    Some(match is_now.parse::<u64>() {
        Ok(most) if most < usual => {
            finding.wrong_sysctl(evidence.netns(netns)?, path, is_now, &usual.to_string())
        }
        _ => finding.fix(
            "send datagrams that fit into the path's MTU, or find out where their fragments are lost \
             (`pkttrace drops`)",
        ),
    })
}
