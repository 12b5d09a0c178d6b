//! Lists at a device that every packet is handed along: filters of tc, and packet sockets.

use std::time::Duration;

use super::evidence::human;
use super::{Check, Evidence};
use crate::diagnose::finding::Finding;
use crate::net::Inum;

pub(super) const CHECK: Check = Check {
    explains: &[
        (
            "slow-filter-list",
            "Filters of tc (u32, bpf, flower, …) at a device are tried one after the other, in order of \
             their preference, by every packet that comes in or goes out there. Thousands of them, \
             one for each address, cost each packet some hundred microseconds. Hashed u32 tables, one \
             program of BPF with a map, or a set of nftables find an address in one step.",
        ),
        (
            "slow-packet-sockets",
            "Every packet of a device is handed to each packet socket that listens there (captures, \
             DHCP clients, monitoring agents) before anybody else gets it. A few cost little; hundreds \
             that are left open cost each packet more than the rest of its way.",
        ),
    ],
    find,
};

/// Fewer cost less than a hop.
const MANY_FILTERS: usize = 500;
const MANY_SOCKETS: usize = 100;
/// What takes longer than this is felt.
const FELT: Duration = Duration::from_micros(25);

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let devices = evidence.devices();
    let found = devices.into_iter().flat_map(|place| {
        [filters(evidence, place, true), filters(evidence, place, false), sockets(evidence, place)]
    });
    found.flatten().collect()
}

fn filters(
    evidence: &Evidence<'_>,
    (netns, dev): (Inum, u32),
    is_ingress: bool,
) -> Option<Finding> {
    let all = evidence.detail(netns)?.tc.iter();
    let its = |f: &&crate::net::detail::TcFilter| {
        (f.dev, f.is_ingress) == (dev, is_ingress) && !f.is_queue()
    };
    let count = all.filter(its).count();
    if count < MANY_FILTERS {
        return None;
    }
    let (time, seen) = evidence.median_of_device((netns, dev), is_ingress)?;
    if time < FELT {
        return None;
    }
    let name = evidence.name(netns, dev);
    let way = if is_ingress { "ingress" } else { "egress" };
    let title =
        format!("Every packet is tried against up to {count} filters at the {way} of {name}");
    let mut finding = evidence
        .finding("slow-filter-list", netns, title)
        .fact(format!("tc filter show dev {name} {way}: {count} filters"))
        .fact(format!("{} there (median of {seen} packets)", human(time)));
    finding.place = finding.place.dev(&name);
    Some(finding.fix(format!(
        "delete the filters of {name} that nobody needs any more, hash them (u32 divisor), or let one \
         program look addresses up in a map"
    )))
}

fn sockets(evidence: &Evidence<'_>, (netns, dev): (Inum, u32)) -> Option<Finding> {
    let taps = &evidence.moments.last()?.get(&netns)?.taps;
    let (here, anywhere) = (taps.get(&dev), taps.get(&0));
    let count = [here, anywhere].into_iter().flatten().map(|t| t.count).sum::<usize>();
    if count < MANY_SOCKETS {
        return None;
    }
    let (time, seen) = evidence.median_of_device((netns, dev), true)?;
    if time < FELT {
        return None;
    }
    let name = evidence.name(netns, dev);
    let holder = [here, anywhere].into_iter().flatten().find_map(|taps| taps.process.as_ref());
    let who = holder.map_or_else(String::new, |(pid, name)| format!(", of {name} (PID {pid})"));
    let title = format!("Every packet of {name} is handed to {count} packet sockets{who}");
    let mut finding = evidence
        .finding("slow-packet-sockets", netns, title)
        .fact(format!("/proc/net/packet: {count} sockets take all that {name} receives or sends"))
        .fact(format!("{} before anybody else gets it (median of {seen} packets)", human(time)));
    finding.place = finding.place.dev(&name);
    Some(finding.fix("end the captures and agents that left them open (`ss -0 -p` lists them)"))
}
