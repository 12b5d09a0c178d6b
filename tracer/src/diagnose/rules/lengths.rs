//! Packets too long for the way: small ones get through, and large ones vanish.

use super::located::{delete, located};
use super::met::each;
use super::{Case, Finding, Rule};
use crate::diagnose::remedy::{Link, Remedy, Step, allow, sysctl_name};
use crate::diagnose::walk::{Leg, Obstacle, ObstacleKind as Kind, RuleRef, What};
use crate::diagnose::{
    Confidence, Direction, Drop, Met, Probed, Purpose, Severity, Where, overlay,
};
use crate::journey::Journey;
use crate::net::{DeviceKind, Netns};

/// Length of a frame's header.
const ETH_HLEN: u32 = 14;
/// A rule keeps senders from hearing that they send too much.
pub(super) const SILENCED: &str = "pmtud-blackhole";

pub(super) const RULE: Rule = Rule {
    id: "mtu-mismatch",
    covers: &[
        "mtu-mismatch",
        "underlay-mtu-blackhole",
        "pmtud-blackhole",
        "vxlan-fragments-dropped",
    ],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = each(case, too_long);
    if findings.is_empty() {
        findings.extend(fragments(case));
    }
    if findings.is_empty() {
        findings.extend(case.drops().filter_map(|d| dropped(case, &d)));
    }
    if findings.is_empty() {
        findings.extend(lost(case));
    }
    findings
}

/// "Fragmentation needed", or "packet too big".
pub(super) fn is_about_length(journey: &Journey) -> bool {
    let Some(headers) = journey.first else { return false };
    headers.icmp().is_some_and(|icmp| match headers.tuple.src.is_ipv4() {
        true => (icmp.kind, icmp.code) == (3, 4),
        false => icmp.kind == 2,
    })
}

/// Dropped without a word where a veth pair or a bridge hands it on (`__is_skb_forwardable`,
/// `br_dev_queue_push_xmit`): longer than the other end, or the port, takes.
fn dropped(case: &Case<'_>, drop: &Drop<'_>) -> Option<Finding> {
    let is_pair = drop.function.starts_with("__dev_forward_skb");
    if !is_pair && !matches!(drop.function, "br_nf_dev_queue_xmit" | "br_dev_queue_push_xmit") {
        return None;
    }
    // With the frame's header, except where the bridge has not put that on yet.
    let header = if drop.function == "br_nf_dev_queue_xmit" { 0 } else { ETH_HLEN };
    let (netns, len) = (case.netns(drop.hop.netns)?, drop.hop.len.checked_sub(header)?);
    let device = netns.devices.values().find(|d| Some(d.name.as_str()) == drop.dev())?;
    let other = device.link.filter(|_| is_pair);
    let known = match other {
        Some(peer) => {
            case.netns(peer.netns?).and_then(|n| Some((n, n.devices.get(&peer.ifindex)?)))
        }
        None => Some((netns, device)),
    };
    let id = if drop.hop.is_encap { "underlay-mtu-blackhole" } else { RULE.id };
    let place = |n: &Netns, d: &str| Where::netns(case.state, n.inum).dev(d);
    let fill = |finding: Finding| {
        finding.fact(drop.fact()).journeys([drop.journey.id]).depth(case.depth_of(drop))
    };
    let Some((at, narrow)) = known else {
        // Beyond the view: what it takes is not known, and it may be down.
        let title = format!(
            "what {} of {} leads to does not take packets of {len} bytes, and the sender is not told",
            device.name, netns.name
        );
        let finding = Finding::error(id, case.scenario(), title).confidence(Confidence::Likely);
        let advice = format!("# on the other side of {}: give its device MTU {len}", device.name);
        let is_long = len >= 1000 && device.carrier;
        return is_long.then(|| fill(finding.at(place(netns, &device.name)).fix(advice)));
    };
    if narrow.mtu == 0 || len <= narrow.mtu {
        return None;
    }
    let (name, mtu) = (&narrow.name, narrow.mtu);
    let title = format!(
        "{name} of {} has MTU {mtu}, too small for packets of {len} bytes, and the sender is not told",
        at.name
    );
    let set = Remedy::link(name, Link::Mtu(len));
    let finding = Finding::error(id, case.scenario(), title)
        .at(place(at, name))
        .fact(format!("ip link of {}: {name} mtu {mtu}", at.name));
    Some(fill(finding).fix(set.at(at.inum)))
}

fn too_long(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let Kind::TooLong { dev, mtu, len, tells_sender: false } = met.obstacle.kind else {
        return None;
    };
    let netns = met.netns(case)?;
    let node = &netns.name;
    let dev = case.dev_name(netns.inum, dev);
    let has = format!("ip link of {node}: {dev} mtu {mtu}");
    if let Some(finding) = refused_word(case, met, (node, &dev, mtu)) {
        return Some(finding.fact(has).facts(long_sender(case, met, mtu)));
    }
    if let Some((error, rule)) = silenced(met) {
        let dropper = case.state.netns_name(error.place.netns);
        let by =
            if error.place.netns == netns.inum { String::new() } else { format!(" of {dropper}") };
        let title = format!(
            "{node} cannot tell senders that {dev} takes no more than {mtu} bytes: a rule{by} drops the ICMP error"
        );
        let mut finding = met
            .finding(case, SILENCED, title)
            .fact(has)
            .fact(format!("{} of {dropper}: {}", rule.table, rule.text))
            .facts(long_sender(case, met, mtu))
            .fix(delete(case, error.place.netns, rule));
        let spared = located(case, error.place.netns, rule).and_then(|at| {
            let word = met.walk.steps[met.step].tuple.reversed();
            allow(error.place.netns, at, (word, false, Leg::Error))
        });
        finding = spared.into_iter().fold(finding, Finding::rather);
        finding.place = Where { dev: None, ..Where::netns(case.state, error.place.netns) };
        finding.place.table = Some(rule.table.clone());
        finding.place.chain = Some(rule.chain.clone());
        finding.place.rule = Some(rule.text.clone());
        return Some(finding);
    }
    let id = if is_outside(met) { "underlay-mtu-blackhole" } else { RULE.id };
    let title = format!(
        "{dev} of {node} has MTU {mtu}, too small for packets of {len} bytes, and the sender is not told"
    );
    let set = Remedy::link(&dev, Link::Mtu(len));
    Some(met.finding(case, id, title).fact(has).fix(met.remedy(set)))
}

/// The ICMP error comes in where its source is not expected.
fn refused_word(
    case: &Case<'_>,
    met: &Met<'_>,
    (node, dev, mtu): (&str, &str, u32),
) -> Option<Finding> {
    let mut here = met.walk.steps[met.step].obstacles.iter().filter(|o| o.leg == Leg::Error);
    let (error, sysctl, src) = here.find_map(|o| match &o.kind {
        Kind::ReversePath { sysctl, src, .. } => Some((o, sysctl, *src)),
        _ => None,
    })?;
    let at = case.netns(error.place.netns)?;
    let by = case.dev_name(at.inum, error.place.dev?);
    let name = sysctl_name(sysctl);
    let title = format!(
        "{node} cannot tell senders that {dev} takes no more than {mtu} bytes: {} drops the ICMP \
         error from {src}, as {name} is set and the way back is not {by}",
        at.name
    );
    let mut finding = met.finding(case, SILENCED, title);
    finding = finding.follows(&["rp-filter-strict-asymmetric"]);
    finding.place = Where::netns(case.state, at.inum).dev(&by);
    let is = case.sysctl(at.inum, sysctl).unwrap_or("1");
    let loose = Remedy::sysctl(&format!("ipv4/conf/{by}/rp_filter"), "2");
    Some(finding.sysctl(at, sysctl, is).fix(loose.at(at.inum)))
}

/// The rule that keeps the ICMP error from being sent, at the same step.
fn silenced<'a>(met: &Met<'a>) -> Option<(&'a Obstacle, &'a RuleRef)> {
    met.walk.steps[met.step].obstacles.iter().find_map(|o| match &o.kind {
        Kind::Filtered { rule, .. } if o.leg == Leg::Error => Some((o, rule)),
        _ => None,
    })
}

/// The sender, whose device takes more than the way.
fn long_sender(case: &Case<'_>, met: &Met<'_>, mtu: u32) -> Option<String> {
    let from = case.netns(met.walk.ask.from)?;
    let src = met.walk.tuple.src;
    let holds = |a: &(std::net::IpAddr, u8)| a.0 == src;
    let dev = from.devices.values().find(|d| d.addresses.iter().any(holds))?;
    (dev.mtu > mtu).then(|| format!("ip link of {}: {} mtu {}", from.name, dev.name, dev.mtu))
}

/// The packet is inside a tunnel packet there.
fn is_outside(met: &Met<'_>) -> bool {
    let steps = &met.walk.steps[..=met.step];
    let count = |is: fn(&What) -> bool| steps.iter().filter(|s| is(&s.what)).count();
    count(|w| matches!(w, What::Encap { .. })) > count(|w| matches!(w, What::Decap { .. }))
}

/// Packets of full size fail, and tunnel packets are cut on the way.
fn fragments(case: &Case<'_>) -> Option<Finding> {
    long_failed(case)?;
    let cuts = || {
        case.obstacles().filter(|m| {
            m.way.purpose == Purpose::FullSize
                && is_outside(m)
                && matches!(m.obstacle.kind, Kind::Fragmented { .. })
        })
    };
    // Of what comes from beyond, only the answers are cut here.
    let first = cuts().find(|m| m.direction == Direction::Request).or_else(|| cuts().next())?;
    let Kind::Fragmented { dev, mtu, len } = first.obstacle.kind else { return None };
    let netns = first.netns(case)?;
    let name = case.dev_name(netns.inum, dev);
    let title = format!(
        "{} of {} has MTU {mtu}: tunnel packets of {len} bytes are cut there, and the fragments do not arrive",
        name, netns.name
    );
    let mut finding = first
        .finding(case, "vxlan-fragments-dropped", title)
        .severity(Severity::Error)
        .confidence(Confidence::Likely)
        .facts(case.failed().filter(|p| p.purpose == Purpose::FullSize).map(long_sentence));
    let created = case.grown(netns.inum, "IpFragCreates");
    if created > 0 {
        finding = finding.fact(format!("IpFragCreates of {} has grown by {created}", netns.name))
    }
    for met in cuts() {
        let Kind::Fragmented { dev, mtu, len } = met.obstacle.kind else { continue };
        let Some(netns) = met.netns(case) else { continue };
        let text =
            format!("ip link of {}: {} mtu {mtu}", netns.name, case.dev_name(netns.inum, dev));
        finding = finding.fact(text);
        let inner = met.walk.ask.len;
        let step = shrink(netns, mtu, len.saturating_sub(inner));
        let is_new = |step: &Step| !finding.steps.contains(step);
        let step = step.filter(is_new);
        finding = finding.fixes(step);
    }
    Some(finding.fix(
        "# and give the pods' devices the tunnel's MTU (restart the overlay's agent and the pods), or \
         give the nodes' devices the network's",
    ))
}

/// Makes the tunnel fit into the device below it: what is too long then is told to its sender.
fn shrink(netns: &Netns, mtu: u32, overhead: u32) -> Option<Step> {
    let tunnel = overlay::tunnel(netns)?;
    let fits = mtu.checked_sub(overhead)?;
    Some(Remedy::link(&tunnel.name, Link::Mtu(fits)).at(netns.inum))
}

/// Nothing that is known is too small: the network between is.
fn lost(case: &Case<'_>) -> Option<Finding> {
    let long = long_failed(case)?;
    let way = case.ways.iter().find(|w| {
        w.purpose == Purpose::FullSize
            && w.request.ask.from == long.netns
            && w.request.stopped_at().is_none()
    })?;
    let mut steps = way.walks().flat_map(|(_, walk)| &walk.steps);
    let packed = steps.find(|s| matches!(s.what, What::Encap { .. }));
    let id = if packed.is_some() { "underlay-mtu-blackhole" } else { RULE.id };
    let size = long.size.unwrap_or(0);
    let here = packed.map_or(long.netns, |s| s.netns);
    let netns = case.netns(here)?;
    let title = format!(
        "small packets get through from {} to {}, packets of {size} bytes do not, and nobody says why",
        case.state.netns_name(long.netns),
        long.to
    );
    let mut place = Where::netns(case.state, here);
    let tunnel = overlay::tunnel(netns).filter(|_| packed.is_some());
    place.dev = tunnel.map(|d| d.name.clone());
    let advice = match tunnel {
        Some(d) => format!(
            "# find the longest that passes (ping -M do -s BYTES), then on every node give {} the MTU \
             BYTES + 28",
            d.name
        ),
        None => {
            "# find the longest that passes (ping -M do -s BYTES), and where the way gets narrow"
                .to_owned()
        }
    };
    let is_tunnelled = netns.devices.values().any(|d| d.kind == DeviceKind::Vxlan);
    Some(
        Finding::error(id, case.scenario(), title)
            .confidence(if is_tunnelled { Confidence::Likely } else { Confidence::Possible })
            .at(place)
            .fact(long_sentence(long))
            .fix(advice),
    )
}

/// A packet of full size that failed where all others succeeded.
fn long_failed<'a>(case: &'a Case<'_>) -> Option<&'a Probed> {
    if case.failed().any(|p| p.purpose != Purpose::FullSize) {
        return None;
    }
    case.failed().next()
}

fn long_sentence(probe: &Probed) -> String {
    format!("{}: {} bytes, DF", probe.sentence(), probe.size.unwrap_or(0))
}
