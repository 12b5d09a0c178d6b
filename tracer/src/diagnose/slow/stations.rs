//! Link-layer addresses that a bridge learns now behind one port and now behind another, or that two
//! devices have.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Check, Evidence};
use crate::diagnose::finding::Finding;
use crate::diagnose::show;
use crate::diagnose::walk::What;
use crate::net::meter::Station;
use crate::net::{Device, DeviceKind, Inum, Mac};

pub(super) const CHECK: Check = Check {
    explains: &[
        (
            "slow-duplicate-address",
            "Two devices on one link have the same IP address. Both answer when its link-layer address \
             is asked for, and the last answer is taken: connections go to the one or to the other, \
             and hang or are refused at the one that was not meant.",
        ),
        (
            "slow-duplicate-mac",
            "A bridge sends frames for an address to the port behind which it saw that address last. \
         Where two devices have the same address, or frames come round in a loop, the port changes with \
         every frame that either of them sends, and what is for one goes to the other meanwhile: \
         connections hang for moments, and go on when the right one has sent something. Who is sent \
         nothing soon has nothing to say, and then all of it goes astray.",
        ),
    ],
    find,
};

/// One is a device that was moved.
const CHANGES: usize = 2;

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let own = own(evidence);
    let namespaces = evidence.namespaces().into_iter();
    let moving = namespaces.filter_map(|netns| moving(evidence, netns, &own));
    moving.chain(twice(evidence)).collect()
}

/// The address that is asked for, at two devices behind ports of one bridge.
fn twice(evidence: &Evidence<'_>) -> Option<Finding> {
    let addr = evidence.target.as_ref()?.addr?;
    let has = |device: &Device| device.up && device.addresses.iter().any(|(own, _)| *own == addr);
    let bridges = evidence.devices().into_iter().filter_map(|(netns, dev)| {
        let device = evidence.state.device(netns, dev)?;
        // Networks of several VLANs may have the same addresses.
        let is_one = device.bridge.is_none_or(|bridge| !bridge.vlan_filtering);
        (device.kind == DeviceKind::Bridge && is_one).then_some((netns, device))
    });
    let (netns, bridge, ports) = bridges
        .map(|(netns, bridge)| (netns, bridge, behind(evidence, (netns, bridge.ifindex), has)))
        .find(|(.., ports)| ports.len() > 1)?;
    let name = &bridge.name;
    let title = format!("{} devices behind ports of {name} have {addr}", ports.len());
    let mut finding = evidence.finding("slow-duplicate-address", netns, title);
    for port_of in &ports {
        finding = finding.fact(format!("{addr} is behind {}", port(evidence, netns, *port_of)));
    }
    finding.place = finding.place.dev(name);
    Some(finding.fix(format!("take {addr} away from those that it was not given to (ip addr del)")))
}

/// The ports of a bridge with such a device at their other end.
fn behind(
    evidence: &Evidence<'_>,
    (netns, bridge): (Inum, u32),
    is: impl Fn(&Device) -> bool,
) -> Vec<u32> {
    let all = evidence.netns(netns).into_iter().flat_map(|n| n.devices.values());
    let ports = all.filter(|port| port.master == Some(bridge));
    let its = ports.filter(|port| {
        let there = port.link.and_then(|link| evidence.state.device(link.netns?, link.ifindex));
        there.is_some_and(&is)
    });
    its.map(|port| port.ifindex).collect()
}

/// The addresses of the devices that the flow's packets come by, and of its next hops.
fn own(evidence: &Evidence<'_>) -> BTreeSet<Mac> {
    let devices = evidence.devices().into_iter();
    let devices = devices.filter_map(|(netns, dev)| evidence.state.device(netns, dev)?.mac);
    let walks = evidence.ways.iter().flat_map(|way| way.walks());
    let asked = walks.flat_map(|(_, walk)| &walk.steps).filter_map(|step| match step.what {
        What::Neigh { mac, .. } => mac,
        _ => None,
    });
    devices.chain(asked).collect()
}

fn moving(evidence: &Evidence<'_>, netns: Inum, own: &BTreeSet<Mac>) -> Option<Finding> {
    let readings = || evidence.moments.iter().filter_map(move |moment| moment.get(&netns));
    let stations: BTreeSet<&Station> = readings().flat_map(|r| r.stations.keys()).collect();
    let its = stations.into_iter().filter(|(_, mac, _)| own.contains(mac));
    let ports = |station: &Station| -> Vec<u32> {
        let mut ports: Vec<u32> =
            readings().filter_map(|r| r.stations.get(station)).copied().collect();
        ports.dedup();
        ports
    };
    its.map(|station| (station, ports(station)))
        .find_map(|(station, ports)| astray(evidence, netns, station, &ports))
}

/// The address was behind these ports, in order.
fn astray(
    evidence: &Evidence<'_>,
    netns: Inum,
    &(bridge, mac, vlan): &Station,
    ports: &[u32],
) -> Option<Finding> {
    let mut behind: BTreeSet<u32> = ports.iter().copied().collect();
    let right = right(evidence, netns, bridge, mac).filter(|_| vlan.is_none());
    let is_wrong = right.is_some_and(|right| behind.iter().any(|port| *port != right));
    if ports.len() <= CHANGES && !is_wrong {
        return None;
    }
    behind.extend(right);
    let (name, mac) = (evidence.name(netns, bridge), show::mac(mac));
    let described: Vec<String> = behind.into_iter().map(|p| port(evidence, netns, p)).collect();
    let title = match right {
        Some(_) => format!("Two devices behind ports of {name} have the address {mac}"),
        None => format!("{name} learns {mac} now behind one port and now behind another"),
    };
    let seen: BTreeSet<u32> = ports.iter().copied().collect();
    let seen: Vec<String> = seen.into_iter().map(|port| evidence.name(netns, port)).collect();
    let mut finding = evidence
        .finding("slow-duplicate-mac", netns, title)
        .fact(format!("{mac} is the address behind {}", described.join(" and ")))
        .fact(format!(
            "{name} learned it behind {} in {:.1} s, and changed its mind {} times",
            seen.join(" and "),
            evidence.span.as_secs_f64(),
            ports.len().saturating_sub(1)
        ));
    finding.place = finding.place.dev(&name);
    Some(finding.fix(format!(
        "give one of the two devices another link-layer address (`ip link set DEV address …`); where \
         only one has {mac}, look for a loop between those ports"
    )))
}

/// Of several ports with that address behind them, the one where the flow's own end is.
fn right(evidence: &Evidence<'_>, netns: Inum, bridge: u32, mac: Mac) -> Option<u32> {
    let ends: BTreeSet<IpAddr> = evidence.tuples().iter().map(|tuple| tuple.dst).collect();
    let has = |device: &Device| device.mac == Some(mac);
    let is_end = |device: &Device| device.addresses.iter().any(|(addr, _)| ends.contains(addr));
    let all = behind(evidence, (netns, bridge), has);
    let its = behind(evidence, (netns, bridge), |device| has(device) && is_end(device));
    // Where both are its ends, nothing goes astray.
    match its[..] {
        [port] if all.len() > 1 => Some(port),
        _ => None,
    }
}

/// A port, with the device at its other end where that is seen.
fn port(evidence: &Evidence<'_>, netns: Inum, port: u32) -> String {
    let name = evidence.name(netns, port);
    let link = evidence.state.device(netns, port).and_then(|device| device.link);
    let Some((there, dev)) = link.and_then(|peer| Some((peer.netns?, peer.ifindex))) else {
        return name;
    };
    let at = evidence.netns(there).map_or("?", |n| &n.name);
    format!("{name} ({} in {at})", evidence.name(there, dev))
}
