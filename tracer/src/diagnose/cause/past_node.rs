//! A Service's address that is led past the node whose rules would translate it.

use std::net::IpAddr;

use crate::diagnose::Rule;
use crate::diagnose::case::{Case, Way};
use crate::diagnose::finding::{Confidence, Finding, Where};
use crate::diagnose::remedy::{Path, Remedy};
use crate::diagnose::show;
use crate::diagnose::walk::{RuleRef, What, reference};
use crate::event::Tuple;
use crate::firewall::{self, At, Packet};
use crate::journey::Hook;
use crate::net::{Device, Netns};

const ID: &str = "service-route-elsewhere";

pub(in crate::diagnose) const RULE: Rule = Rule { id: ID, covers: &[ID], check: |_| Vec::new() };

/// A node on a link of the asker's, and the devices of both there.
struct Beside<'a> {
    node: &'a Netns,
    dev: &'a Device,
    there: &'a Device,
    gateway: IpAddr,
}

/// Who asks has several devices, and its route leads out by one behind which nobody has or
/// translates the address.
pub(super) fn finding(case: &Case<'_>) -> Option<Finding> {
    case.ways.iter().find_map(|way| led_past(case, way))
}

fn led_past(case: &Case<'_>, way: &Way) -> Option<Finding> {
    let walk = &way.request;
    let asker = case.netns(walk.ask.from)?;
    let dst = walk.ask.dst;
    let is_nobodys = case.state.holders(dst).next().is_none() && walk.nat.is_empty();
    if walk.is_clear() || walk.ask.entry.is_some() || !is_nobodys {
        return None;
    }
    let (step, route) = walk.steps.iter().find_map(|step| match &step.what {
        What::Route { route: Some(route), .. } if step.netns == asker.inum => Some((step, route)),
        _ => None,
    })?;
    let left = asker.devices.get(&step.out_dev?)?;
    let mut nodes = beside(case, asker, dst).into_iter().filter(|b| b.dev.ifindex != left.ifindex);
    let (beside, rule) = nodes.find_map(|b| {
        let is_passed = walk.steps.iter().any(|s| s.netns == b.node.inum);
        let rule = translates(case, &b, &walk.tuple).filter(|_| !is_passed)?;
        Some((b, rule))
    })?;
    let (name, dev, node) = (&asker.name, &left.name, &beside.node.name);
    let title = format!(
        "{name} sends what is for {dst} out by {dev}, and not to {node}, whose rules translate that \
         address"
    );
    let text = show::route(asker, route);
    let path = Path::host(dst, Some(beside.gateway), Some(&beside.dev.name));
    Some(
        Finding::error(ID, case.scenario(), title)
            .confidence(Confidence::Certain)
            .at(Where::netns(case.state, asker.inum).dev(dev).route(&text))
            .fact(format!("ip route of {name}: {text}"))
            .fact(format!("{}/{} of {node}: {}", rule.table, rule.chain, rule.text))
            .fix(Remedy::Route(path).at(asker.inum))
            .fix(format!(
                "for good, a route of {name} for all Services (the cluster's service CIDR) via {} dev {}",
                beside.gateway, beside.dev.name
            )),
    )
}

/// The nodes that the asker's veths lead to.
fn beside<'a>(case: &Case<'a>, asker: &'a Netns, dst: IpAddr) -> Vec<Beside<'a>> {
    let found = asker.devices.values().filter(|d| d.up).filter_map(|dev| {
        let peer = dev.link?;
        let node = case.netns(peer.netns?).filter(|n| n.inum != asker.inum)?;
        let port = node.devices.get(&peer.ifindex)?;
        let there = port.master.and_then(|master| node.devices.get(&master)).unwrap_or(port);
        let is_near = |a: IpAddr| dev.addresses.iter().any(|net| show::covers(*net, a));
        let own = there.addresses.iter().map(|(a, _)| *a);
        let gateway = own.filter(|a| a.is_ipv4() == dst.is_ipv4()).find(|a| is_near(*a))?;
        Some(Beside { node, dev, there, gateway })
    });
    found.collect()
}

/// The rule by which the node would translate the packet, if it came in there.
fn translates(case: &Case<'_>, beside: &Beside<'_>, tuple: &Tuple) -> Option<RuleRef> {
    let detail = case.detail(beside.node.inum)?;
    let own = beside.dev.addresses.iter().find(|(a, _)| a.is_ipv4() == tuple.dst.is_ipv4())?;
    let packet = Packet {
        sport: tuple.sport,
        dport: tuple.dport,
        ..Packet::new(own.0, tuple.dst, tuple.proto.number())
    };
    let all = beside.node.devices.values().flat_map(|d| &d.addresses);
    let locals = all.map(|(a, _)| *a).collect();
    let at = At {
        hook: Hook::Prerouting,
        is_bridged: false,
        iif: Some(&beside.there.name),
        oif: None,
        phys_in: None,
        phys_out: None,
        locals: &locals,
    };
    let passed = firewall::traverse(&detail.firewall, &packet, &at);
    let found = passed.nat.iter().find(|t| t.kind.is_destination() && t.hit.is_certain)?;
    Some(reference(&found.hit))
}
