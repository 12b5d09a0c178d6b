//! Segmentation and checksums done packet by packet.

use std::collections::BTreeSet;

use super::{Check, Evidence};
use crate::diagnose::finding::{Finding, Severity};
use crate::diagnose::remedy::{Link, Remedy, quote};
use crate::net::meter::Features;
use crate::net::{Device, DeviceKind, Inum};

pub(super) const CHECK: Check = Check {
    explains: &[
        (
            "slow-offload",
            "TCP hands the network pieces of up to 64 KiB that are cut into packets as late as \
             possible. A device on the way that cannot segment, or not compute checksums (without \
             which it may not segment either; for what lies in a tunnel, a kind of its own), makes the kernel cut them before: each packet then \
             walks through the rest of the way by itself. On a tunnel (VXLAN) that is most of the \
             way.",
        ),
        (
            "slow-small-mtu",
            "A device in the middle of the way takes shorter packets than both ends: every piece \
             is cut to its size, and each packet costs the same however short it is.",
        ),
    ],
    find,
};

/// A second: fewer packets are no load.
const BUSY: u64 = 2_000;
/// Without any of them nothing is segmented late.
const NEEDED: [&str; 4] =
    ["tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6", "tx-scatter-gather"];
/// And without that of its own kind.
const OF_IPV4: &str = "tx-tcp-segmentation";
const OF_IPV6: &str = "tx-tcp6-segmentation";
/// Likewise for what lies inside a tunnel, by the tunnel's kind.
const OF_TUNNELS: [(&[&str], &[&str]); 4] = [
    (&["vxlan", "geneve"], &["tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"]),
    (
        &["gre", "gretap", "ip6gre", "ip6gretap"],
        &["tx-gre-segmentation", "tx-gre-csum-segmentation"],
    ),
    (&["ipip", "sit"], &["tx-ipxip4-segmentation"]),
    (&["ip6tnl"], &["tx-ipxip6-segmentation"]),
];

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let needed = needed(evidence);
    let devices = evidence.devices().into_iter();
    let mut found: Vec<Finding> = devices.filter_map(|at| off(evidence, at, &needed)).collect();
    found.extend(small(evidence));
    found
}

/// What the flow's packets need of each device to stay in one piece.
fn needed(evidence: &Evidence<'_>) -> Vec<&'static str> {
    let tuples = evidence.tuples();
    let mut needed = NEEDED.to_vec();
    needed.extend(tuples.iter().any(|t| t.dst.is_ipv4()).then_some(OF_IPV4));
    needed.extend(tuples.iter().any(|t| t.dst.is_ipv6()).then_some(OF_IPV6));
    let is_on_way = |kinds: &[&str]| {
        evidence.devices().iter().any(|(netns, dev)| {
            let device = evidence.state.device(*netns, *dev);
            device.is_some_and(|d| match &d.kind {
                DeviceKind::Vxlan => kinds.contains(&"vxlan"),
                DeviceKind::Other(kind) => kinds.contains(&kind.as_str()),
                _ => false,
            })
        })
    };
    let tunnels = OF_TUNNELS.iter().filter(|(kinds, _)| is_on_way(kinds));
    needed.extend(tunnels.flat_map(|(_, names)| names.iter()));
    needed
}

/// What a device sends one packet at a time.
struct Cut<'a> {
    netns: Inum,
    device: &'a Device,
    features: &'a Features,
    fact: String,
}

fn off(evidence: &Evidence<'_>, place: (Inum, u32), needed: &[&'static str]) -> Option<Finding> {
    let cut = cut(evidence, place)?;
    let names = lost(cut.features, needed);
    let found = switched(evidence, &cut, &names).or_else(|| small_pieces(evidence, &cut));
    found.or_else(|| beside_a_program(evidence, &cut, needed))
}

fn cut<'a>(evidence: &'a Evidence<'_>, (netns, dev): (Inum, u32)) -> Option<Cut<'a>> {
    let device = evidence.state.device(netns, dev)?;
    let features = evidence.moments.first()?.get(&netns)?.features.get(&dev)?;
    let grown = |what: &str| evidence.grown(netns, &format!("if.{}.{what}", device.name));
    let (packets, bytes) = (grown("tx_packets"), grown("tx_bytes"));
    let seconds = evidence.span.as_secs_f64();
    // Long pieces get through, or nothing much was sent.
    let mean = bytes.checked_div(packets)?;
    let is_busy = packets as f64 / seconds > BUSY as f64;
    let is_cut = mean * 10 > u64::from(device.mtu) * 8 && mean < u64::from(device.mtu) + 100;
    let fact = format!(
        "{} sent {packets} packets in {seconds:.1} s, {mean} bytes each: cut to its MTU of {} before \
         they came to it",
        device.name, device.mtu
    );
    (is_busy && is_cut).then_some(Cut { netns, device, features, fact })
}

impl Cut<'_> {
    fn finding(&self, evidence: &Evidence<'_>, title: &str) -> Finding {
        let mut finding = evidence.finding("slow-offload", self.netns, title.to_owned());
        finding.place = finding.place.dev(&self.device.name);
        finding.fact(self.fact.clone())
    }
}

/// Somebody switched it off.
fn switched(evidence: &Evidence<'_>, cut: &Cut<'_>, names: &[&'static str]) -> Option<Finding> {
    let name = &cut.device.name;
    // What was asked for and is not there is beyond the driver, or (tun) beyond who holds it open.
    let was_switched = |name: &&&str| cut.features.get(**name).is_some_and(|f| !f.is_wanted);
    names.iter().find(was_switched)?;
    let title = format!("Offload is off on {name}: {}", names.join(", "));
    let off = names.iter().map(|feature| format!("ethtool -k {name}: {feature} off"));
    let on = names
        .iter()
        .filter(was_switched)
        .map(|feature| Remedy::Offload { dev: name.clone(), feature, on: true }.at(cut.netns));
    Some(cut.finding(evidence, &title).facts(off).fixes(on.collect::<Vec<_>>()))
}

/// Pieces of so few packets are hardly pieces.
const FEW: u32 = 4;

/// The device takes no longer pieces.
fn small_pieces(evidence: &Evidence<'_>, cut: &Cut<'_>) -> Option<Finding> {
    let Device { name, mtu, gso_max: bytes, gso_segments: count, .. } = cut.device;
    // 0 is what was not told.
    let is_small = (1..FEW).contains(count) || (1..mtu.saturating_mul(FEW)).contains(bytes);
    is_small.then(|| {
        let title = format!("{name} takes pieces of {count} segments and {bytes} bytes at most");
        cut.finding(evidence, &title)
            .fact(format!("ip -d link: gso_max_segs {count}, gso_max_size {bytes} on {name}"))
            .fix(format!(
                "ip link set dev {} gso_max_segs 65535 gso_max_size 65536, where it was set",
                quote(name)
            ))
    })
}

/// A veth segments nothing while its peer runs a native XDP program, which sees one packet at a time.
fn beside_a_program(
    evidence: &Evidence<'_>,
    cut: &Cut<'_>,
    needed: &[&'static str],
) -> Option<Finding> {
    const NATIVE: u8 = 1;
    let is_off = |name: &&&str| cut.features.get(**name).is_some_and(|f| !f.is_active);
    // Nobody can switch it on meanwhile.
    let segments = needed.iter().filter(|name| [OF_IPV4, OF_IPV6].contains(*name));
    let names: Vec<_> = segments.filter(is_off).collect();
    names.first()?;
    let link = cut.device.link.filter(|_| cut.device.kind == DeviceKind::Veth)?;
    let peer = evidence.state.device(link.netns?, link.ifindex)?;
    let program = peer.xdp.filter(|xdp| xdp.mode == NATIVE)?.prog;
    let title =
        format!("A native XDP program on {} keeps {} from segmenting", peer.name, cut.device.name);
    let mut finding = evidence.finding("slow-offload", link.netns?, title).fact(cut.fact.clone());
    finding.place = finding.place.dev(&peer.name);
    let off = names.iter().map(|feature| format!("ethtool -k {}: {feature} off", cut.device.name));
    Some(finding.facts(off).fact(format!("ip link: {} runs XDP program {program}", peer.name)).fix(
        format!(
            "detach XDP program {program} from {}, or run it as a tc program there, which sees \
             packets before they are cut",
            peer.name
        ),
    ))
}

/// Offloads that the device could do and does not.
fn lost(features: &Features, needed: &[&'static str]) -> Vec<&'static str> {
    let of = |name: &str| features.get(name).filter(|f| f.is_changeable);
    let is_lost = |name: &&str| of(name).is_some_and(|f| !f.is_active);
    // One kind of checksum is enough.
    let has_checksum = NEEDED.iter().filter(|name| name.starts_with("tx-checksum"));
    let has_checksum =
        has_checksum.into_iter().any(|name| features.get(*name).is_some_and(|f| f.is_active));
    let is_needed = |name: &&str| !(name.starts_with("tx-checksum") && has_checksum);
    needed.iter().copied().filter(is_lost).filter(is_needed).collect()
}

/// A device in the middle with less room than the ends have.
fn small(evidence: &Evidence<'_>) -> Option<Finding> {
    let devices = evidence.devices();
    let mtu = |(netns, dev): &(Inum, u32)| {
        let device = evidence.state.device(*netns, *dev)?;
        (device.kind != DeviceKind::Loopback).then_some((device.mtu, *netns, device.name.clone()))
    };
    let request = &evidence.ways.first()?.request;
    let ends: BTreeSet<Inum> =
        [request.steps.first()?.netns, request.steps.last()?.netns].into_iter().collect();
    let all: Vec<_> = devices.iter().filter_map(mtu).collect();
    let of_ends = all.iter().filter(|(_, netns, _)| ends.contains(netns)).map(|(mtu, ..)| *mtu);
    let least = of_ends.min()?;
    let (mtu, netns, name) =
        all.iter().filter(|(_, netns, _)| !ends.contains(netns)).min_by_key(|(mtu, ..)| *mtu)?;
    // A tunnel's header is no fault, half the length is.
    if *mtu * 2 > least {
        return None;
    }
    let title = format!("{name} takes packets of {mtu} bytes, the ends send {least}");
    let mut finding = evidence.finding("slow-small-mtu", *netns, title);
    finding.place = finding.place.dev(name);
    finding = finding
        .severity(Severity::Warning)
        .fact(format!("MTU {mtu} on {name}, {least} at the ends"));
    // Both ends of a link have it: what one lets out the other has to take.
    for (_, netns, name) in all.iter().filter(|(m, n, _)| m == mtu && !ends.contains(n)) {
        finding = finding.fix(Remedy::link(name, Link::Mtu(least)).at(*netns));
    }
    Some(finding)
}
