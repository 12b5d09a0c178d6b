//! Long lists of policy routing rules.

use std::time::Duration;

use super::evidence::human;
use super::{Check, Evidence};
use crate::diagnose::finding::Finding;
use crate::net::Inum;

pub(super) const CHECK: Check = Check {
    explains: &[(
        "slow-routing-rules",
        "Policy routing rules (ip rule) are tried one after the other until one leads to a route, \
         for every packet that is forwarded and for every connection that begins. Thousands of \
         them, one for each pod or address, cost each packet as much as thousands of firewall rules.",
    )],
    find,
};

/// Fewer cost less than a hop.
const MANY: usize = 1000;
/// A look-up that takes longer than this is felt.
const FELT: Duration = Duration::from_micros(40);

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    evidence.namespaces().into_iter().filter_map(|netns| long(evidence, netns)).collect()
}

fn long(evidence: &Evidence<'_>, netns: Inum) -> Option<Finding> {
    let is_v6 = evidence.tuples().iter().any(|t| t.dst.is_ipv6());
    let rules = evidence.detail(netns)?.rules.iter().filter(|rule| rule.is_v6 == is_v6).count();
    if rules < MANY {
        return None;
    }
    let (time, n) = evidence.median_of_routes(netns)?;
    if time < FELT {
        return None;
    }
    let title = format!("Every packet is tried against up to {rules} routing rules");
    let finding = evidence.finding("slow-routing-rules", netns, title);
    Some(
        finding
            .fact(format!("ip rule: {rules} rules"))
            .fact(format!("{} until the route was chosen (median of {n} packets)", human(time)))
            .fix(
                "delete the rules that nobody needs any more, put those of most packets first, or \
                 let one rule by a mark (fwmark) stand for many",
            ),
    )
}
