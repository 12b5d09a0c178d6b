//! A namespace that has to forward and may not.

use super::met::is_astray;
use super::{Case, Finding, Rule};
use crate::diagnose::Drop;
use crate::diagnose::finding::Where;
use crate::diagnose::remedy::{Remedy, sysctl_name};
use crate::journey::Stage;

pub(super) const RULE: Rule = Rule {
    id: "ip-forward-disabled",
    covers: &["ip-forward-disabled", "docker-ip-forward-off"],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    case.drops()
        .filter(|d| {
            d.function == "ip_error" && d.reason == "IP_INADDRERRORS" && !is_astray(case, d)
        })
        .filter_map(|d| forbidden(case, &d))
        .collect()
}

fn forbidden(case: &Case<'_>, drop: &Drop<'_>) -> Option<Finding> {
    let netns = case.netns(drop.hop.netns)?;
    // Its own packet has come home to it: it is no router, and whoever sent that back is told.
    let first = drop.journey.hops.first();
    if first.is_some_and(|h| h.netns == netns.inum && h.stage != Stage::Rx) {
        return None;
    }
    let dev = drop.dev().unwrap_or_default();
    let known = setting(case, drop, dev);
    let path = known.as_deref().unwrap_or("ipv4/ip_forward");
    let name = sysctl_name(path);
    let id = if case.is_docker_host(netns.inum) { "docker-ip-forward-off" } else { RULE.id };
    let mut finding = Finding::error(
        id,
        case.scenario(),
        format!("{} does not forward packets that come in by {dev}: {name} is 0", netns.name),
    )
    .at(Where::netns(case.state, netns.inum).dev(dev).sysctl(&name))
    .fact(drop.fact())
    .journeys([drop.journey.id])
    .depth(case.depth_of(drop))
    .follows(&["routing-loop", "route-wrong-nexthop"])
    .fix(Remedy::sysctl(path, "1").at(netns.inum));
    if known.is_some() {
        finding = finding.fact(format!("{name} = 0 in {}", netns.name));
    }
    let counted = case.grown(netns.inum, "IpInAddrErrors");
    if counted > 0 {
        finding = finding.fact(format!("IpInAddrErrors of {} has grown by {counted}", netns.name));
    }
    Some(finding)
}

/// The setting that is 0: the global one, else the device's own.
fn setting(case: &Case<'_>, drop: &Drop<'_>, dev: &str) -> Option<String> {
    let inum = drop.hop.netns;
    let is_off = |path: &str| case.sysctl(inum, path) == Some("0");
    if is_off("ipv4/ip_forward") || case.netns(inum).is_some_and(|n| !n.forwards_v4) {
        return Some("ipv4/ip_forward".to_owned());
    }
    let own = format!("ipv4/conf/{dev}/forwarding");
    is_off(&own).then_some(own)
}
