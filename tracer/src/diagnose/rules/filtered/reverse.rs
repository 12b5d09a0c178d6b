//! Rules that do what `rp_filter` does: drop what comes from an address whose way back is another
//! one (`-m rpfilter`, `fib saddr . iif`). Calico and firewalld write them.

use super::RuleRef;
use crate::diagnose::remedy::{Remedy, allow};
use crate::diagnose::rules::located::{located, place_of};
use crate::diagnose::rules::reverse_path;
use crate::diagnose::walk::Leg;
use crate::diagnose::{Case, Confidence, Drop, Finding, Met};
use crate::net::Inum;
use crate::net::fib::{self, FibQuery};

const EXPLAIN: &str = "The rule takes a packet only from the device by which this node would answer \
                       its source address, whatever the setting rp_filter says: it is there against \
                       forged sources. A pod that sends from an address of which its node knows \
                       nothing (a VPN in it, a second address, an address of its own network) looks \
                       like one that forges. What heals is a route for that address by the device, \
                       or that the rule's owner is told that the address is the pod's.";

/// It looks at the way back, and nothing else.
fn is_reverse_path(text: &str) -> bool {
    text.contains("-m rpfilter") || text.contains("fib saddr . ") && text.contains("oif")
}

/// What was dropped by such a rule, where the way back really is another one.
pub(super) fn path(
    case: &Case<'_>,
    met: &Met<'_>,
    (netns, rule): (Inum, &RuleRef),
    drop: &Drop<'_>,
) -> Option<Finding> {
    let here = case.netns(netns).filter(|_| is_reverse_path(&rule.text))?;
    let (tuple, dev) = (drop.tuple()?, drop.dev()?);
    let found = fib::lookup(here, &FibQuery::to(tuple.src));
    let back = found.dev.map(|d| case.dev_name(netns, d));
    if back.as_deref() == Some(dev) {
        return None;
    }
    let (node, src) = (&here.name, tuple.src);
    let way = back.unwrap_or_else(|| "nowhere".to_owned());
    let title = format!(
        "a rule of {node} drops what comes from {src} by {dev}, since the way back to it is {way} \
         (reverse path): {}",
        rule.text
    );
    let mut place = place_of(case, netns, rule);
    place.dev = Some(dev.to_owned());
    let finding = met
        .finding(case, reverse_path::RULE.id, title)
        .confidence(Confidence::Certain)
        .at(place)
        .explain(EXPLAIN)
        .fact(format!("{} of {node}: {}", rule.table, rule.text))
        .fact(format!("the route of {node} to {src} leads to {way}"))
        .fact(drop.fact())
        .journeys([drop.journey.id]);
    let known = case.link_route(here, src).map(|path| Remedy::Route(path).at(netns));
    let finding = finding.rather(known.into_iter().collect());
    // The rule is a guard: it stays.
    let at = located(case, netns, rule)?;
    let through = allow(netns, at, (tuple, false, Leg::Packet));
    Some(through.into_iter().fold(finding, Finding::rather).fix(format!(
        "# or tell the network plugin that {src} is that pod's (Calico: allowedSourcePrefixes)"
    )))
}
