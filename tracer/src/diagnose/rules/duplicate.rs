//! Two of the same address on one link: which of them was reached by mistake, and what takes the
//! address away from it.

use std::net::IpAddr;

use super::{Case, Finding};
use crate::diagnose::remedy::{Link, Remedy};
use crate::diagnose::walk::What;
use crate::diagnose::{Confidence, Met, Where, show};
use crate::event::Proto;
use crate::net::{Device, Inum, Mac, Netns};

/// A device of a namespace.
type Holder = (Inum, u32);

/// Two devices on one link have the IP address.
pub(super) fn address(case: &Case<'_>, met: &Met<'_>, addr: IpAddr, holders: &[Holder]) -> Finding {
    let title = format!("{} devices on one link have {addr}", holders.len());
    let mut finding = met
        .finding(case, "duplicate-address", title)
        .confidence(Confidence::Likely)
        .facts(holders.iter().map(|h| format!("{addr} is on {}", place(case, *h))));
    let Some((wrong, why)) = wrong(case, met, addr, holders) else {
        return finding.fix(format!("# take {addr} away from the one that it was not given to"));
    };
    finding = finding.facts([why]);
    if let Some((netns, device)) = wrong.first().and_then(|h| found(case, *h)) {
        finding.place = Where::netns(case.state, netns.inum).dev(&device.name);
    }
    for (netns, device) in wrong.iter().filter_map(|h| found(case, *h)) {
        let len = device.addresses.iter().find(|(a, _)| *a == addr).map_or(32, |(_, len)| *len);
        finding = finding.fix(Remedy::del_addr(&device.name, (addr, len)).at(netns.inum));
    }
    finding.fix(met.remedy(Remedy::ForgetNeigh { addr }))
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

fn place(case: &Case<'_>, (netns, dev): Holder) -> String {
    format!("{} of {}", case.dev_name(netns, dev), case.state.netns_name(netns))
}
