//! Packets refused for their source address.

use std::net::IpAddr;

use super::{Case, Finding, Rule};
use crate::diagnose::Drop;
use crate::diagnose::finding::Where;
use crate::diagnose::remedy::{Remedy, sysctl_name};
use crate::net::Netns;
use crate::net::fib::{self, FibQuery};

pub(super) const RULE: Rule =
    Rule { id: "rp-filter-strict-asymmetric", covers: &["rp-filter-strict-asymmetric"], check };

fn check(case: &Case<'_>) -> Vec<Finding> {
    let drops = case.drops().filter(|d| d.reason == "IP_RPFILTER");
    drops.filter_map(|d| filtered(case, &d)).collect()
}

fn no_way_back(case: &Case<'_>, drop: &Drop<'_>, netns: &Netns, src: IpAddr) -> Finding {
    let title = format!("{} has no route back to {src}", netns.name);
    let mut place = Where::netns(case.state, netns.inum);
    place.dev = drop.dev().map(str::to_owned);
    Finding::error("route-return-missing", case.scenario(), title)
        .at(place)
        .fact(drop.fact())
        .journeys([drop.journey.id])
        .depth(case.depth_of(drop))
        .fixes(case.missing_route_fix(netns, Some(src)))
}

fn filtered(case: &Case<'_>, drop: &Drop<'_>) -> Option<Finding> {
    let netns = case.netns(drop.hop.netns)?;
    let dev = drop.dev()?;
    let src = drop.tuple()?.src;
    // No way back at all: that is the fault, and no setting of the filter heals it.
    if !fib::lookup(netns, &FibQuery::to(src)).is_success() {
        return Some(no_way_back(case, drop, netns, src));
    }
    let strict: Vec<String> = ["all", dev]
        .iter()
        .map(|c| format!("ipv4/conf/{c}/rp_filter"))
        .filter(|path| case.sysctl(netns.inum, path) == Some("1"))
        .collect();
    let named = strict.first().map_or_else(|| format!("ipv4/conf/{dev}/rp_filter"), Clone::clone);
    let name = sysctl_name(&named);
    let title = format!(
        "{} drops packets from {src} that come in by {dev}: {name}=1, and the way back is not {dev}",
        netns.name
    );
    let counted = case.grown(netns.inum, "TcpExtIPReversePathFilter");
    let counter = format!("TcpExtIPReversePathFilter of {} has grown by {counted}", netns.name);
    let finding = Finding::error(RULE.id, case.scenario(), title)
        .at(Where::netns(case.state, netns.inum).dev(dev).sysctl(&name))
        .fact(drop.fact())
        .facts(strict.iter().map(|p| format!("{} = 1 in {}", sysctl_name(p), netns.name)))
        .facts((counted > 0).then_some(counter))
        .journeys([drop.journey.id])
        .depth(case.depth_of(drop))
        .follows(&["reply-other-device"]);
    // Loose. The kernel takes the greater of `all` and the device's own setting.
    let loose = Remedy::sysctl(&format!("ipv4/conf/{dev}/rp_filter"), "2");
    Some(finding.fix(loose.at(netns.inum)))
}
