//! Tunnel packets that come in and that no tunnel takes, as the receiver alone sees it: how they were
//! sent is in the packets, how they are waited for in its own configuration.

use super::{Case, Finding};
use crate::diagnose::remedy::Remedy;
use crate::diagnose::remedy::Step;
use crate::diagnose::{Drop, Where};
use crate::event::Tuple;
use crate::net::{Device, Netns, Vxlan};

/// What a drop of a tunnel packet says of the tunnel device that should have taken it.
pub(super) fn check(case: &Case<'_>, drop: &Drop<'_>) -> Option<Finding> {
    let netns = case.netns(drop.hop.netns).filter(|_| drop.hop.is_encap)?;
    let outer = drop.journey.hops[..=drop.at].iter().rev().filter(|h| h.is_encap);
    let outer = outer.filter(|h| h.netns == netns.inum).find_map(|h| h.tuple);
    let outer = outer.or_else(|| carrier(drop))?;
    let found = match drop.reason {
        "NO_SOCKET" => nobody(case, netns, &outer)?,
        "VXLAN_VNI_NOT_FOUND" => other_vni(case, netns, (drop, &outer))?,
        _ => return None,
    };
    Some(found.fact(drop.fact()).journeys([drop.journey.id]).depth(case.depth_of(drop)))
}

fn carrier(drop: &Drop<'_>) -> Option<Tuple> {
    drop.journey.hops.iter().filter(|h| h.is_encap).find_map(|h| h.tuple)
}

fn tunnels(netns: &Netns) -> impl Iterator<Item = (&Device, Vxlan)> {
    netns.devices.values().filter_map(|d| Some((d, d.vxlan?)))
}

fn finding(case: &Case<'_>, id: &'static str, title: String, at: (&Netns, &Device)) -> Finding {
    let place = Where::netns(case.state, at.0.inum).dev(&at.1.name);
    Finding::error(id, case.scenario(), title).at(place)
}

/// Nobody listens at the port: the device is down, or listens at another one.
fn nobody(case: &Case<'_>, netns: &Netns, outer: &Tuple) -> Option<Finding> {
    let (node, sent) = (&netns.name, outer.dport);
    if let Some((device, _)) = tunnels(netns).find(|(d, v)| v.port == sent && !d.up) {
        let dev = &device.name;
        let title = format!("{dev} of {node} is down");
        let repair = case.overlay_repair(netns);
        // What led through it went with it, and who is at the other ends is not seen from here.
        let agent = "# restart the overlay's agent on this node: it writes what went with the link";
        let advice = repair.is_empty().then(|| agent.to_owned());
        return Some(
            finding(case, "vxlan-link-down-remote", title, (netns, device))
                .fact(format!("ip link of {node}: {dev} is not UP"))
                .fact("a tunnel that is down does not listen at its UDP port")
                .fix(Remedy::up(dev).at(netns.inum))
                .fixes(repair)
                .fixes(advice),
        );
    }
    let (device, vxlan) = tunnels(netns).find(|(d, v)| d.up && v.port != sent)?;
    let dev = &device.name;
    let title = format!(
        "{} sends tunnel packets to UDP port {sent} of {node}, whose {dev} listens at {}",
        outer.src, vxlan.port
    );
    Some(
        finding(case, "vxlan-port-mismatch", title, (netns, device))
            .fact(format!("ip -d link of {node}: {dev} dstport {}", vxlan.port))
            .fix(format!(
                "# the other nodes decide: where they have {}, make that of {} anew instead",
                vxlan.port, outer.src
            ))
            .fixes(anew(case, netns, dev, |v| Vxlan { port: sent, ..v })),
    )
}

/// The packet carries a number that no tunnel at its port has.
fn other_vni(
    case: &Case<'_>,
    netns: &Netns,
    (drop, outer): (&Drop<'_>, &Tuple),
) -> Option<Finding> {
    let node = &netns.name;
    let sent = drop.journey.hops.iter().find_map(|h| h.tunnel.as_ref()?.vni);
    let mut here = tunnels(netns).filter(|(_, v)| v.port == outer.dport);
    let (device, vxlan) = here.find(|(_, v)| Some(v.vni) != sent)?;
    let (dev, has) = (&device.name, vxlan.vni);
    let what = sent.map_or_else(|| "another VNI".to_owned(), |sent| format!("VNI {sent}"));
    let title =
        format!("{} sends tunnel packets with {what} to {node}, whose {dev} has {has}", outer.src);
    let finding = finding(case, "vxlan-vni-mismatch", title, (netns, device))
        .fact(format!("ip -d link of {node}: {dev} id {has}"));
    let Some(sent) = sent else {
        let by = drop.dev().unwrap_or(dev);
        let look = format!("tcpdump -c1 -vni {by} udp port {}", vxlan.port);
        return Some(finding.fix(format!(
            "# make {dev} anew with the VNI that comes in ({look}), or that of {} with {has}: restart \
             the overlay's agent there, whose setting is wrong",
            outer.src
        )));
    };
    let advice = format!(
        "# the other nodes decide: where they have {has}, make that of {} anew instead",
        outer.src
    );
    Some(finding.fix(advice).fixes(anew(case, netns, dev, |v| Vxlan { vni: sent, ..v })))
}

/// Makes a tunnel device again, with what `set` changes.
pub(super) fn anew(
    case: &Case<'_>,
    netns: &Netns,
    dev: &str,
    set: impl Fn(Vxlan) -> Vxlan,
) -> Vec<Step> {
    let device = netns.devices.values().find(|d| d.name == dev);
    let Some((device, vxlan)) = device.and_then(|d| Some((d, d.vxlan?))) else {
        return Vec::new();
    };
    let local = case.outer_address(netns, device).or(vxlan.local);
    let mut steps = case.remake_tunnel(netns, device, set(Vxlan { local, ..vxlan }));
    steps.push(
        "# restarting the overlay's agent on this node does the same, once its setting is right"
            .into(),
    );
    steps
}
