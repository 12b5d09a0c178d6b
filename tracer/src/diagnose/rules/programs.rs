//! tc filters, XDP and IPsec policies that drop.

use super::met::each;
use super::{Case, Finding, Rule};
use crate::diagnose::remedy::{FilterKind, Link, Remedy, Step};
use crate::diagnose::walk::{Effect, ObstacleKind as Kind};
use crate::diagnose::{Confidence, Drop, Met, Where};
use crate::net::Netns;
use crate::net::detail::TcFilter;

pub(super) const RULE: Rule = Rule {
    id: "program-drop",
    covers: &[
        "program-drop",
        "tc-ingress-drop",
        "tc-egress-drop",
        "qdisc-loss",
        "xdp-drop-on-veth",
        "xdp-native-drop-on-veth",
        "xfrm-policy-block",
    ],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = each(case, one);
    findings.extend(case.drops().filter_map(|d| dropped(case, &d)));
    findings
}

fn one(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let netns = met.netns(case)?;
    let node = &netns.name;
    Some(match &met.obstacle.kind {
        Kind::XdpProgram { dev, xdp } => {
            let dev = case.dev_name(netns.inum, *dev);
            let (id, word) = xdp_mode(xdp.mode);
            let title = format!("an XDP program at {dev} in {node} drops what it receives");
            suspect(case, met, met.finding(case, id, title))
                .fact(format!("ip link of {node}: {dev} runs XDP program {}", xdp.prog))
                .fix(met.remedy(Remedy::link(&dev, Link::NoXdp(word))))
        }
        Kind::TcProgram { filter } if filter.is_queue() => queue(case, met, netns, filter)?,
        Kind::TcProgram { filter } => {
            let dev = case.dev_name(netns.inum, filter.dev);
            let (id, side) = tc_side(filter.is_ingress);
            let title = format!("a tc filter at the {side} of {dev} in {node} drops the packet");
            suspect(case, met, met.finding(case, id, title))
                .fact(filter_fact(node, &dev, filter))
                .fix(filter_del(netns, &dev, filter))
        }
        Kind::IpsecPolicy { policy } => {
            let (src, dst) = (
                crate::diagnose::show::prefix(policy.src),
                crate::diagnose::show::prefix(policy.dst),
            );
            let title = format!("an IPsec policy of {node} does not let {src} to {dst} through");
            let selector = format!(
                "src {} dst {} dir {}",
                full(policy.src),
                full(policy.dst),
                policy.direction
            );
            met.finding(case, "xfrm-policy-block", title)
                .fact(format!("ip xfrm policy of {node}: {selector}"))
                .fix(met.remedy(Remedy::DelXfrm(policy.clone())))
        }
        _ => return None,
    })
}

/// A queueing discipline that loses or holds back packets by design: told where nothing else is in
/// the way.
fn queue(case: &Case<'_>, met: &Met<'_>, netns: &Netns, qdisc: &TcFilter) -> Option<Finding> {
    let is_first = case.obstacles().all(|m| {
        !m.obstacle.stops()
            || matches!(&m.obstacle.kind, Kind::TcProgram { filter } if filter.is_queue())
    });
    if !is_first {
        return None;
    }
    let (node, dev) = (&netns.name, case.dev_name(netns.inum, qdisc.dev));
    let dropped = case.grown(netns.inum, &format!("qdisc.{dev}.drops"));
    let counters = netns.detail.as_ref().map(|d| &d.counters);
    let waiting = counters.and_then(|c| c.get(&format!("qdisc.{dev}.qlen"))).copied().unwrap_or(0);
    let title =
        format!("the {} queue of {dev} in {node} loses or holds back what is sent", qdisc.kind);
    let mut finding = met
        .finding(case, "qdisc-loss", title)
        .fact(format!("tc qdisc show dev {dev} in {node}: {}", qdisc.kind));
    if dropped > 0 {
        finding = finding.fact(format!("it has dropped {dropped} packets meanwhile"));
    }
    if waiting > 0 {
        finding = finding.fact(format!("{waiting} packets wait in it"));
    }
    if dropped + waiting > 0 && !met.obstacle.stops() {
        finding.confidence = Confidence::Likely;
    }
    Some(finding.fix(met.remedy(Remedy::DelQueue { dev })).explain(
        "A queueing discipline like netem, tbf or htb limits, delays or loses by design what a \
         device sends: packets are dropped or wait there, and neither firewall nor routing shows it.",
    ))
}

/// What a program does is not known from configuration. It is likely to drop when nothing else on
/// the whole way stops the packet.
fn suspect(case: &Case<'_>, met: &Met<'_>, finding: Finding) -> Finding {
    let is_clear = case.obstacles().all(|m| !m.obstacle.stops());
    if met.obstacle.effect == Effect::MayStop && is_clear {
        return finding.confidence(Confidence::Likely).fact("nothing else is in the way");
    }
    finding
}

fn xdp_mode(mode: u8) -> (&'static str, &'static str) {
    match mode {
        1 => ("xdp-native-drop-on-veth", "xdpdrv"),
        3 => ("xdp-native-drop-on-veth", "xdpoffload"),
        _ => ("xdp-drop-on-veth", "xdpgeneric"),
    }
}

fn tc_side(is_ingress: bool) -> (&'static str, &'static str) {
    if is_ingress { ("tc-ingress-drop", "ingress") } else { ("tc-egress-drop", "egress") }
}

fn filter_fact(node: &str, dev: &str, filter: &TcFilter) -> String {
    let (_, side) = tc_side(filter.is_ingress);
    format!("tc filter show dev {dev} {side} in {node}: {} {}", filter.kind, filter.text)
}

fn filter_del(netns: &Netns, dev: &str, filter: &TcFilter) -> Step {
    let kind = match (filter.kind.as_str(), filter.place) {
        ("tcx", _) => FilterKind::Tcx,
        (_, Some((pref, _))) => FilterKind::Filter(pref),
        (_, None) => return look(netns, dev, filter.is_ingress),
    };
    let is_ingress = filter.is_ingress;
    Remedy::DelFilter { dev: dev.to_owned(), is_ingress, kind }.at(netns.inum)
}

/// Which filter it is cannot be said: all of them are more than is meant.
fn look(netns: &Netns, dev: &str, is_ingress: bool) -> Step {
    let (_, side) = tc_side(is_ingress);
    let node = &netns.name;
    format!("# delete the filter that drops; in {node}: tc filter show dev {dev} {side}").into()
}

fn full((addr, len): (std::net::IpAddr, u8)) -> String {
    format!("{addr}/{len}")
}

fn dropped(case: &Case<'_>, drop: &Drop<'_>) -> Option<Finding> {
    let netns = case.netns(drop.hop.netns)?;
    let dev = drop.dev()?;
    let node = &netns.name;
    let device = netns.devices.values().find(|d| d.name == dev)?;
    let place = Where::netns(case.state, netns.inum).dev(dev);
    let base = |id, title: String| {
        Finding::error(id, case.scenario(), title)
            .at(place)
            .fact(drop.fact())
            .journeys([drop.journey.id])
            .depth(case.depth_of(drop))
    };
    match (drop.reason, drop.function) {
        ("TC_INGRESS" | "TC_EGRESS", _) => {
            let is_ingress = drop.reason == "TC_INGRESS";
            let (id, side) = tc_side(is_ingress);
            let finding =
                base(id, format!("a tc filter at the {side} of {dev} in {node} drops the packet"));
            let filters: Vec<_> = case
                .detail(netns.inum)
                .map(|d| {
                    d.tc.iter()
                        .filter(|f| f.dev == device.ifindex && f.is_ingress == is_ingress)
                        .collect()
                })
                .unwrap_or_default();
            let finding = finding.facts(filters.iter().map(|f| filter_fact(node, dev, f)));
            let filter = filters.iter().find(|f| f.drops).or(filters.first());
            let del =
                filter.map_or_else(|| look(netns, dev, is_ingress), |f| filter_del(netns, dev, f));
            Some(finding.fix(del))
        }
        ("NOT_SPECIFIED" | "XDP", "do_xdp_generic" | "veth_xdp_rcv_skb") | ("XDP", _) => {
            let (id, word) = xdp_mode(device.xdp.map_or(2, |x| x.mode));
            let finding =
                base(id, format!("an XDP program at {dev} in {node} drops what it receives"));
            Some(
                finding
                    .facts(
                        device.xdp.map(|x| {
                            format!("ip link of {node}: {dev} runs XDP program {}", x.prog)
                        }),
                    )
                    .fix(Remedy::link(dev, Link::NoXdp(word)).at(netns.inum)),
            )
        }
        ("XFRM_POLICY", _) => Some(
            base(
                "xfrm-policy-block",
                format!("an IPsec policy of {node} does not let the packet through"),
            )
            .fix(format!("# look at the policies of {node}: ip xfrm policy")),
        ),
        _ => None,
    }
}
