//! What only IPv6 has: addresses that have to be verified first, routers that answer solicitations
//! for others only entry by entry, and routes that come by advertisements.

use std::net::IpAddr;

use crate::diagnose::Confidence;
use crate::diagnose::Rule;
use crate::diagnose::case::{Case, Met};
use crate::diagnose::finding::Finding;
use crate::diagnose::remedy::Remedy;
use crate::diagnose::rules::met::each;
use crate::diagnose::walk::{ObstacleKind as Kind, RuleRef};
use crate::net::{DeviceKind, Inum, Netns};

pub(in crate::diagnose) const RULE: Rule = Rule {
    id: "ipv6-address-unverified",
    covers: &["ipv6-address-unverified", "ndp-proxy-missing", "mld-group-missing"],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    each(case, one)
}

fn one(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let netns = met.netns(case)?;
    match &met.obstacle.kind {
        Kind::Unverified { addr, is_failed } => Some(unverified(case, met, (*addr, *is_failed))),
        Kind::ProxyNdpOff { addr, sysctl } => {
            Some(no_proxy(case, met, netns, (*addr, sysctl.as_deref())))
        }
        Kind::NotInGroup { port, group, silenced, .. } => {
            Some(left_out(case, met, netns, (*port, *group, silenced.as_ref())))
        }
        _ => None,
    }
}

fn unverified(case: &Case<'_>, met: &Met<'_>, (addr, is_failed): (IpAddr, bool)) -> Finding {
    let place = met.obstacle.place;
    let node = case.state.netns_name(place.netns);
    let dev = place.dev.map(|d| case.dev_name(place.netns, d)).unwrap_or_default();
    let state = if is_failed { "dadfailed" } else { "tentative" };
    let title = match is_failed {
        true => format!(
            "{node} does not use its address {addr} on {dev}: duplicate address detection failed \
             (dadfailed)"
        ),
        false => format!(
            "{node} does not use its address {addr} on {dev} yet: duplicate address detection is \
             not over (tentative)"
        ),
    };
    let mut finding = met
        .finding(case, RULE.id, title)
        .confidence(if is_failed { Confidence::Certain } else { Confidence::Likely })
        .fact(format!("ip -6 addr of {node}: {addr} dev {dev} {state}"));
    for (other, dev) in others(case, (place.netns, place.dev), addr) {
        finding = finding.fact(format!("{other} has {addr} as well, on {dev}"));
    }
    if let Some((bridge, port)) = mirror(case, (place.netns, place.dev)).filter(|_| is_failed) {
        finding = finding
            .fact(format!(
                "{port} of {} is in hairpin mode: what {node} asks the link comes back to it",
                bridge.name
            ))
            .fix(format!(
                "turn hairpin mode of {port} in {} off (bridge link set dev PORT hairpin off), or \
                 let {node} tell its own questions (enhanced_dad=1)",
                bridge.name
            ));
    }
    finding.fix(format!(
        "then set {addr} on {dev} of {node} anew: the kernel verifies an address once"
    ))
}

/// Who else has the address.
fn others(case: &Case<'_>, at: (Inum, Option<u32>), addr: IpAddr) -> Vec<(String, String)> {
    let holders = case.state.holders(addr).filter(|n| n.inum != at.0);
    let on = |n: &Netns| {
        let mut devices = n.devices.values();
        let found = devices.find(|d| d.addresses.iter().any(|(a, _)| *a == addr));
        found.map(|d| d.name.clone()).unwrap_or_default()
    };
    holders.map(|n| (n.name.clone(), on(n))).collect()
}

/// The bridge's port at the other end of a device, where it sends frames back to where they came
/// from.
fn mirror<'a>(case: &Case<'a>, (netns, dev): (Inum, Option<u32>)) -> Option<(&'a Netns, &'a str)> {
    let link = case.state.device(netns, dev?)?.link?;
    let bridge = case.netns(link.netns?)?;
    let port = bridge.devices.get(&link.ifindex)?;
    port.port.filter(|p| p.hairpin).map(|_| (bridge, port.name.as_str()))
}

fn no_proxy(
    case: &Case<'_>,
    met: &Met<'_>,
    router: &Netns,
    (addr, sysctl): (IpAddr, Option<&str>),
) -> Finding {
    let node = &router.name;
    let dev = met.obstacle.place.dev.map(|d| case.dev_name(router.inum, d)).unwrap_or_default();
    let title = format!(
        "{addr} is asked for on the link of {dev}, and {node}, which has it behind it, does not \
         answer neighbour solicitations for it: no proxy NDP entry"
    );
    let detail = case.detail(router.inum);
    let mut entries = detail.iter().flat_map(|d| &d.neighbours);
    let has_entry =
        entries.any(|n| n.is_proxy && n.addr == addr && Some(n.dev) == met.obstacle.place.dev);
    let mut finding = met.finding(case, "ndp-proxy-missing", title);
    if let Some(path) = sysctl {
        finding = finding.wrong_sysctl(router, path, "0", "1");
    }
    if !has_entry {
        finding = finding
            .fact(format!("ip -6 neigh show proxy dev {dev} of {node} lacks {addr}"))
            .fix(Remedy::ProxyNeigh { dev: dev.clone(), addr }.at(router.inum))
            .fix(format!(
                "for many addresses behind it, a proxy for their network (ndppd) on {node}"
            ));
    }
    finding
}

/// Who is asked for is never heard of by the bridge.
fn left_out(
    case: &Case<'_>,
    met: &Met<'_>,
    netns: &Netns,
    (port, group, silenced): (u32, IpAddr, Option<&(Inum, Box<RuleRef>)>),
) -> Finding {
    let node = &netns.name;
    let name = |dev: u32| case.dev_name(netns.inum, dev);
    let port_name = name(port);
    let master = netns.devices.get(&port).and_then(|d| d.master);
    let bridge = master.map(name).unwrap_or_default();
    let title = format!(
        "the bridge {bridge} of {node} snoops (MLD) and has heard nobody behind {port_name} join \
         the multicast group {group}: neighbour solicitations for its address do not get there"
    );
    let join = Remedy::Join { bridge: bridge.clone(), port: port_name.clone(), group };
    let mut finding = met
        .finding(case, "mld-group-missing", title)
        .confidence(Confidence::Certain)
        .fact(format!("ip -d link of {node}: {bridge} mcast_snooping 1, and somebody queries"))
        .fact(format!("bridge mdb of {node}: {port_name} is not in {group}"))
        .fix(join.at(netns.inum));
    if let Some((host, rule)) = silenced {
        let host = case.state.netns_name(*host);
        finding = finding
            .fact(format!("{host} drops its own MLD reports: {} {}", rule.table, rule.text))
            .fix(format!(
                "for all its groups: let {host} send ICMPv6 types 131, 132 and 143 before that \
                 rule of {}/{}",
                rule.table, rule.chain
            ));
    }
    finding.place.dev = Some(bridge);
    finding
}

/// Devices of a router that has no way to `dst`, and ignores the advertisements that told it one:
/// with forwarding on, `accept_ra` has to be 2.
pub(in crate::diagnose) fn ignored_router(netns: &Netns, dst: IpAddr) -> Vec<String> {
    let Some(detail) = netns.detail.as_deref().filter(|_| dst.is_ipv6()) else { return Vec::new() };
    let is = |dev: &str, key: &str, value: &str| {
        detail.sysctls.get(&format!("ipv6/conf/{dev}/{key}")).is_some_and(|v| v == value)
    };
    let heard = |dev: u32| detail.v6_addresses.iter().any(|a| a.dev == dev && a.is_learned);
    let devices = netns.devices.values().filter(|d| d.kind != DeviceKind::Loopback);
    let deaf = devices.filter(|d| heard(d.ifindex) && is(&d.name, "accept_ra", "1"));
    deaf.filter(|d| is(&d.name, "forwarding", "1"))
        .map(|d| {
            format!(
                "{} of {} has an address by router advertisement, but with forwarding on and \
                 accept_ra = 1 its kernel ignores advertisements, and the default route that came \
                 by them is gone: accept_ra = 2 takes them all the same",
                d.name, netns.name
            )
        })
        .collect()
}
