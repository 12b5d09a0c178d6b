//! Two of the same: an address on one link (which of them was reached by mistake, and what takes the
//! address away from it), or a network behind two nodes.

use std::net::IpAddr;

use super::{Case, Finding};
use crate::diagnose::remedy::{Link, Remedy, full, sysctl_name};
use crate::diagnose::walk::What;
use crate::diagnose::{Confidence, Drop, Met, Where, place, show};
use crate::event::{Proto, Tuple};
use crate::net::detail::Route;
use crate::net::{Device, DeviceKind, Inum, Mac, Netns};

/// A device of a namespace.
type Holder = (Inum, u32);

/// Two devices on one link have the IP address.
pub(super) fn address(case: &Case<'_>, met: &Met<'_>, addr: IpAddr, holders: &[Holder]) -> Finding {
    let title = format!("{} devices on one link have {addr}", holders.len());
    let mut finding = met
        .finding(case, "duplicate-address", title)
        .confidence(Confidence::Likely)
        .facts(holders.iter().map(|h| holds(case, *h, addr)));
    let Some((wrong, why)) = wrong(case, met, addr, holders) else {
        return finding.fix(format!("# take {addr} away from the one that it was not given to"));
    };
    finding = finding.facts([why]);
    if let Some((netns, device)) = wrong.first().and_then(|h| found(case, *h)) {
        finding.place = Where::netns(case.state, netns.inum).dev(&device.name);
    }
    for (netns, device) in wrong.iter().filter_map(|h| found(case, *h)) {
        let Some((device, len)) = having(netns, device, addr) else { continue };
        finding = finding.fix(Remedy::del_addr(&device.name, (addr, len)).at(netns.inum));
    }
    finding.fix(met.remedy(Remedy::ForgetNeigh { addr }))
}

/// The device that has the address, and the length of its network: whoever answers for it on one
/// device may have it on another.
fn having<'a>(netns: &'a Netns, device: &'a Device, addr: IpAddr) -> Option<(&'a Device, u8)> {
    let all = std::iter::once(device).chain(netns.devices.values());
    all.into_iter().find_map(|d| {
        let own = d.addresses.iter().find(|(a, _)| *a == addr)?;
        Some((d, own.1))
    })
}

/// It came by one device to whoever has the address on another and serves nothing there, while
/// somebody else on that link has the address too, and serves it: the wrong one answered ARP.
pub(super) fn mistaken(case: &Case<'_>, drop: &Drop<'_>, tuple: &Tuple) -> Option<Finding> {
    let (here, addr) = (case.netns(drop.hop.netns)?, tuple.dst);
    let came_by = here.devices.values().find(|d| Some(d.name.as_str()) == drop.dev())?;
    let has = |d: &&Device| d.addresses.iter().any(|(a, _)| *a == addr);
    let own = here.devices.values().find(has).filter(|d| d.ifindex != came_by.ifindex)?;
    let nets = || came_by.addresses.iter().filter(|net| net.0.is_ipv4() == addr.is_ipv4());
    let is_beside = |n: &&Netns| {
        let mut all = n.devices.values().flat_map(|d| &d.addresses);
        all.any(|(a, _)| *a != addr && nets().any(|net| *a != net.0 && show::covers(*net, *a)))
    };
    let takes = |n: &&Netns| {
        let mut sockets = n.detail.iter().flat_map(|d| &d.sockets);
        sockets.any(|s| {
            (s.proto, s.port) == (tuple.proto.number(), tuple.dport)
                && (s.addr == addr || s.addr.is_unspecified())
        })
    };
    let mut others = case.state.holders(addr).filter(|n| n.inum != here.inum);
    let server = others.find(|n| is_beside(n) && takes(n))?;
    let (node, dev, other) = (&here.name, &came_by.name, &server.name);
    let title = format!(
        "{node} took what was meant for {other}: it has {addr} as well, on {}, and answers ARP for it \
         on {dev}",
        own.name
    );
    let ignore = "ipv4/conf/all/arp_ignore";
    let is = case.sysctl(here.inum, ignore).unwrap_or("0");
    let finding = Finding::error("duplicate-address", case.scenario(), title)
        .confidence(Confidence::Likely)
        .at(Where::netns(case.state, here.inum).dev(&own.name))
        .fact(drop.fact())
        .fact(format!("nobody listens at port {} in {node}, but in {other}", tuple.dport))
        .fact(format!("{} of {node} is {is}", sysctl_name(ignore)))
        .journeys([drop.journey.id])
        .depth(case.depth_of(drop));
    let quiet = ["arp_ignore=1", "arp_announce=2"].map(|s| format!("net.ipv4.conf.all.{s}"));
    Some(finding.fix(format!(
        "# let {node} answer ARP only for the addresses of {dev} (sysctl -w {}; kube-proxy: strictARP), \
         or take {addr} away from it; then ip neigh flush to {addr} where it is asked from",
        quiet.join(" ")
    )))
}

/// The holders that were not meant, and the fact that says so.
fn wrong(
    case: &Case<'_>,
    met: &Met<'_>,
    addr: IpAddr,
    holders: &[Holder],
) -> Option<(Vec<Holder>, String)> {
    let tuple = met.walk.steps.get(met.step)?.tuple;
    let part = |is_meant: &dyn Fn(&Netns, &Device) -> bool| {
        let is_wrong = |h: &&Holder| found(case, **h).is_some_and(|(n, d)| !is_meant(n, d));
        let wrong: Vec<Holder> = holders.iter().filter(is_wrong).copied().collect();
        (!wrong.is_empty() && wrong.len() < holders.len()).then_some(wrong)
    };
    let names = |wrong: &[Holder]| {
        let names: Vec<String> = wrong.iter().map(|h| place(case, *h)).collect();
        names.join(", ")
    };
    let number = match tuple.proto {
        Proto::Tcp => Some(6),
        Proto::Udp => Some(17),
        _ => None,
    };
    if tuple.dst != addr {
        let wrong = part(&|netns, _| netns.forwards_v4 || addr.is_ipv6())?;
        let why = format!("a gateway has to forward: {} does not", names(&wrong));
        return Some((wrong, why));
    }
    let listens = |netns: &Netns, _: &Device| {
        let sockets = netns.detail.iter().flat_map(|d| &d.sockets);
        let is_it = |a: IpAddr| a == addr || a.is_unspecified();
        let mut its = sockets.filter(|s| Some(s.proto) == number && s.port == tuple.dport);
        its.any(|s| is_it(s.addr))
    };
    if let Some(wrong) = number.and_then(|_| part(&listens)) {
        let why = format!("nobody listens at port {} on {}", tuple.dport, names(&wrong));
        return Some((wrong, why));
    }
    // Beside another address of the same network it is the one that was added.
    let own =
        |_: &Netns, device: &Device| device.addresses.first().is_some_and(|(a, _)| *a == addr);
    let wrong = part(&own)?;
    let why = format!("it is not the first address on {}", names(&wrong));
    Some((wrong, why))
}

/// Two nodes have given their bridges the same network, and who is asked for is behind the other's.
pub(super) fn network(
    case: &Case<'_>,
    met: &Met<'_>,
    (netns, route): (&Netns, &Route),
    addr: IpAddr,
    elsewhere: &[Holder],
) -> Option<Finding> {
    let net = Some(route.dst).filter(|net| net.1 > 0 && net.1 < full(addr))?;
    let (here, own) = inner_bridge(case, netns, net)?;
    let far = elsewhere.iter().filter_map(|(n, _)| case.netns(*n));
    let (there, other) = far.filter_map(|n| inner_bridge(case, n, net)).find(|f| f.0 != here)?;
    let (node, far) = (case.state.netns_name(here), case.state.netns_name(there));
    let text = format!("{}/{}", net.0, net.1);
    let title = format!(
        "{} of {node} and {} of {far} both have the network {text}: {addr}, which is behind the other, \
         is looked for behind {node}'s own",
        own.name, other.name
    );
    let mut finding = met
        .finding(case, "route-wrong-dev", title)
        .fact(format!("ip addr of {node}: {} is in {text}", own.name))
        .fact(format!("ip addr of {far}: {} is in {text}", other.name))
        .fix(format!("# give one of the two another network (a pod CIDR, a subnet) than {text}"));
    finding.place = Where::netns(case.state, here).dev(&own.name).route(&text);
    Some(finding)
}

/// The bridge that has this network in a namespace, or in the node that a pod hangs on, with
/// nothing but pods behind it.
fn inner_bridge<'a>(
    case: &Case<'a>,
    netns: &Netns,
    net: (IpAddr, u8),
) -> Option<(Inum, &'a Device)> {
    let node = case.netns(place::node_of(case.state, netns.inum).unwrap_or(netns.inum))?;
    let has =
        |d: &&Device| d.addresses.iter().any(|(a, len)| (show::network(*a, *len), *len) == net);
    let is_bridge = |d: &&Device| d.kind == DeviceKind::Bridge;
    let bridge = node.devices.values().filter(is_bridge).find(has)?;
    let mut ports = node.devices.values().filter(|d| d.master == Some(bridge.ifindex));
    let is_pods = |port: &Device| {
        let pod = port.link.and_then(|link| link.netns);
        pod.is_some_and(|pod| place::node_of(case.state, pod) == Some(node.inum))
    };
    ports.all(is_pods).then_some((node.inum, bridge))
}

/// Two devices on one link have the link-layer address.
pub(super) fn mac(case: &Case<'_>, met: &Met<'_>, mac: Mac, holders: &[Holder]) -> Finding {
    let title = format!("{} devices on one link have the MAC {}", holders.len(), show::mac(mac));
    let mut finding = met
        .finding(case, "duplicate-mac", title)
        .confidence(Confidence::Likely)
        .facts(holders.iter().map(|h| format!("{} has {}", place(case, *h), show::mac(mac))));
    // Whoever is meant keeps it, as all others have it in their tables.
    let hop = met.walk.steps.get(met.step).and_then(|step| match step.what {
        What::Neigh { addr, .. } => Some(addr),
        _ => None,
    });
    let is_meant = |h: &Holder| {
        let mut addresses = found(case, *h).into_iter().flat_map(|(_, d)| &d.addresses);
        addresses.any(|(a, _)| Some(*a) == hop)
    };
    let other = holders.iter().find(|h| !is_meant(h)).or(holders.first());
    let Some((netns, device)) = other.and_then(|h| found(case, *h)) else { return finding };
    finding.place = Where::netns(case.state, netns.inum).dev(&device.name);
    let set = Remedy::link(&device.name, Link::Address(unused(case, mac)));
    let flush = Remedy::ForgetNeigh { addr: met.walk.tuple.dst };
    finding.fix(set.at(netns.inum)).fix(met.remedy(flush))
}

/// One like `mac` that nobody has, and that says of itself that it was given by hand.
fn unused(case: &Case<'_>, mac: Mac) -> Mac {
    let devices = || case.state.netns.values().flat_map(|n| n.devices.values());
    let mut other = mac;
    other[0] = (other[0] | 0x02) & 0xfe;
    while devices().any(|d| d.mac == Some(other)) || other == mac {
        other[5] = other[5].wrapping_add(1);
        if other[5] == mac[5] {
            other[4] = other[4].wrapping_add(1);
        }
    }
    other
}

fn found<'a>(case: &Case<'a>, (netns, dev): Holder) -> Option<(&'a Netns, &'a Device)> {
    let netns = case.netns(netns)?;
    Some((netns, netns.devices.get(&dev)?))
}

/// Who has the address, and where.
fn holds(case: &Case<'_>, holder: Holder, addr: IpAddr) -> String {
    let at = place(case, holder);
    let on = found(case, holder).and_then(|(netns, device)| {
        having(netns, device, addr).filter(|(own, _)| own.ifindex != device.ifindex)
    });
    match on {
        Some((own, _)) => format!("{at} answers ARP for {addr}, which is on {}", own.name),
        None => format!("{addr} is on {at}"),
    }
}

fn place(case: &Case<'_>, (netns, dev): Holder) -> String {
    format!("{} of {}", case.dev_name(netns, dev), case.state.netns_name(netns))
}
