//! What the walk meets seldom, and what then is the cause all the same: two of the same address,
//! links that answer no question, loops, full tables, the family that is switched off.

use std::net::IpAddr;

use super::met::each;
use super::{Case, Finding, Rule, duplicate, plug, service};
use crate::diagnose::remedy::{ChainAt, Edit, Link, Path, Remedy, Spot, Step, sysctl_name};
use crate::diagnose::walk::{Effect, End, How, Nat, ObstacleKind as Kind, Place, Walk, What};
use crate::diagnose::{Confidence, Direction, Drop, Met, Severity, Where, show};
use crate::net::detail::{Route, RouteType};
use crate::net::fib::{self, FibQuery};
use crate::net::{DeviceKind, Mac, Netns};

pub(super) const RULE: Rule = Rule {
    id: "duplicate-address",
    covers: &[
        "duplicate-address",
        "duplicate-mac",
        "arp-filter",
        "arp-off",
        "proxy-arp-no-route",
        "frame-for-nobody",
        "link-no-carrier",
        "route-dead-nexthop",
        "routing-loop",
        "source-not-local",
        "ipv6-disabled",
        "ipv6-mtu-too-small",
        "ttl-too-low",
        "martian-source",
        "conntrack-table-full",
    ],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = each(case, one);
    // Of several ways that met the two, one may tell which of them was not meant.
    let is_told = findings.iter().any(|f| f.id == RULE.id && f.has_remedy());
    findings.retain(|f| !is_told || f.id != RULE.id || f.has_remedy());
    findings.extend(strained(case));
    let expired = case.drops().filter(|d| d.direction == Direction::Request);
    findings.extend(expired.filter_map(|d| short_lived(case, &d)).take(1));
    findings
}

/// What went well this time, by luck: an address that moves between ports, a table that has little
/// room left.
fn strained(case: &Case<'_>) -> Vec<Finding> {
    if case.target.is_none() || case.is_failing() {
        return Vec::new();
    }
    let is_luck = |met: &Met<'_>| {
        matches!(
            met.obstacle.kind,
            Kind::DuplicateAddress { .. } | Kind::DuplicateMac { .. } | Kind::ConntrackFull { .. }
        )
    };
    let found = case.obstacles().filter(is_luck).filter_map(|met| one(case, &met));
    found.map(|finding| finding.severity(Severity::Warning)).collect()
}

fn one(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let netns = met.netns(case)?;
    let node = &netns.name;
    let dev = met.obstacle.place.dev.map(|d| case.dev_name(netns.inum, d)).unwrap_or_default();
    Some(match &met.obstacle.kind {
        Kind::DuplicateAddress { addr, holders } => duplicate::address(case, met, *addr, holders),
        Kind::DuplicateMac { mac, holders } => duplicate::mac(case, met, *mac, holders),
        Kind::ArpFilter { sysctl } => {
            let name = sysctl_name(sysctl);
            let title = format!(
                "{node} does not answer ARP on {dev}: {name} is set, and its way back is another"
            );
            let is = case.sysctl(netns.inum, sysctl).unwrap_or("1");
            met.finding(case, "arp-filter", title).wrong_sysctl(netns, sysctl, is, "0")
        }
        Kind::NoArp { .. } => met
            .finding(case, "arp-off", format!("{dev} of {node} answers no ARP: it has NOARP set"))
            .fact(format!("ip link of {node}: {dev} NOARP"))
            .fix(met.remedy(Remedy::link(&dev, Link::Arp))),
        Kind::ProxyArpNoRoute { addr } => {
            if let Some(finding) = no_way_to_asker(case, met, netns) {
                return Some(finding);
            }
            let title = format!(
                "{node} does not answer for {addr} on {dev}: it has no route to it, and answers only \
                 for what it could forward to"
            );
            met.finding(case, "proxy-arp-no-route", title)
                .fact(format!("ip route get {addr} fails in {node}, or leads back to {dev}"))
                .fixes(case.missing_route_fix(netns, Some(*addr)))
        }
        Kind::NotForMe { frame, .. } | Kind::NobodyHasMac { mac: frame } => {
            if is_known(met) {
                return None;
            }
            let mac = show::mac(*frame);
            if let Some(nat) = gone(case, met) {
                let addr = nat.after.dst;
                let fact = format!(
                    "nobody behind {dev} of {node} has {addr}, nor the MAC {mac} that is still \
                     remembered for it"
                );
                return Some(super::service::stale(case, met, nat, fact));
            }
            if let Some(finding) = configured(case, met, netns, *frame) {
                return Some(finding);
            }
            let title = format!("nobody behind {dev} of {node} has the MAC {mac}");
            met.finding(case, "frame-for-nobody", title)
                .confidence(Confidence::Likely)
                .fact(format!("frames to {mac} come to {dev} of {node}"))
                .fix(format!(
                    "# forget who has that address where it is sent from: ip neigh flush to {}",
                    met.walk.tuple.dst
                ))
        }
        Kind::NoCarrier { .. } => met
            .finding(case, "link-no-carrier", format!("{dev} of {node} is up, and has no link"))
            .fact(format!("ip link of {node}: {dev} NO-CARRIER"))
            .fix("# look at the cable, the switch port, or the other end")
            .follows(DOWN),
        Kind::DeadNextHop { route, .. } => {
            let text = show::route(netns, route);
            let mut finding = met
                .finding(
                    case,
                    "route-dead-nexthop",
                    format!("the next hop of {node}'s route {text} is dead"),
                )
                .fact(format!("ip route of {node}: {text} dead"))
                .fix("# bring its device up, or lead the route elsewhere")
                .follows(DOWN);
            finding.place.route = Some(text);
            finding
        }
        Kind::TtlExceeded => routing_loop(case, met, node)?,
        Kind::SourceNotLocal { addr } => met
            .finding(
                case,
                "source-not-local",
                format!("{node} has no device with {addr}, the address to send from"),
            )
            .fix(format!("# give {node} the address {addr}, or send from another")),
        Kind::NoIpv6 { sysctl } => {
            let what = if dev.is_empty() { node.clone() } else { format!("{dev} of {node}") };
            met.finding(case, "ipv6-disabled", format!("IPv6 is switched off on {what}"))
                .wrong_sysctl(netns, sysctl, "1", "0")
                .fixes(readdressed(case, met, netns, &dev))
                .fix("# and give its devices the other IPv6 addresses and routes that they had")
        }
        Kind::MtuBelowIpv6 { mtu, .. } => {
            let title = format!("{dev} of {node} has no IPv6: its MTU of {mtu} is less than 1280");
            let right = mtu_beside(case, netns, met.obstacle.place.dev).max(1280);
            met.finding(case, "ipv6-mtu-too-small", title)
                .fact(format!("ip link of {node}: {dev} mtu {mtu}"))
                .fix(met.remedy(Remedy::link(&dev, Link::Mtu(right))))
                .fixes(readdressed(case, met, netns, &dev))
                .fix("# and give it the other IPv6 addresses and routes that it had")
        }
        Kind::Martian { addr } => service::from_loopback(case, met, *addr).unwrap_or_else(|| {
            let title = format!("{node} drops packets from {addr}: no link may carry that address");
            met.finding(case, "martian-source", title)
                .fix("# let the sender use an address of its own device")
        }),
        Kind::ConntrackFull { entries, limit } => {
            let refused =
                case.grown(netns.inum, "ct.drop") + case.grown(netns.inum, "ct.early_drop");
            let is_full = met.obstacle.effect == Effect::MayStop;
            let full = if is_full { "full" } else { "nearly full" };
            let title = format!("conntrack of {node} is {full}: {entries} of {limit} connections");
            let is_fact = refused > 0 || !case.is_failing();
            met.finding(case, "conntrack-table-full", title)
                .confidence(if is_fact { Confidence::Certain } else { Confidence::Possible })
                .fact(format!(
                    "nf_conntrack_count of {node} is {entries}, nf_conntrack_max {limit}"
                ))
                // One for the whole machine.
                .fix(
                    Remedy::sysctl(
                        "netfilter/nf_conntrack_max",
                        &limit.saturating_mul(2).to_string(),
                    )
                    .at(case.state.own),
                )
        }
        _ => return None,
    })
}

/// Ids of devices that are down: what has no link then.
const DOWN: &[&str] = &["link-down", "bridge-down", "veth-host-down", "veth-pod-down"];

/// A router answers no question of whom it has no way back to by that link.
fn no_way_to_asker(case: &Case<'_>, met: &Met<'_>, netns: &Netns) -> Option<Finding> {
    let asker = met.walk.steps[met.step].tuple.src;
    let dev = met.obstacle.place.dev?;
    if fib::lookup(netns, &FibQuery::to(asker)).dev == Some(dev) {
        return None;
    }
    let path = case.link_route(netns, asker)?;
    let title = format!(
        "{} has no route to {asker}, which asks it by {}: it answers only whom it can answer there",
        netns.name,
        case.dev_name(netns.inum, dev)
    );
    Some(
        met.finding(case, "route-return-missing", title)
            .fact(format!(
                "ip route get {asker} of {} does not lead to {}",
                netns.name,
                case.dev_name(netns.inum, dev)
            ))
            .fix(Remedy::Route(path).at(netns.inum)),
    )
}

/// The MTU of the other end of a veth, 1500 where there is none.
fn mtu_beside(case: &Case<'_>, netns: &Netns, dev: Option<u32>) -> u32 {
    let peer = dev.and_then(|d| netns.devices.get(&d)?.link);
    let other = peer.and_then(|p| case.state.device(p.netns.unwrap_or(netns.inum), p.ifindex));
    other.map_or(1500, |d| d.mtu)
}

/// A device that has lost its IPv6 addresses gets the one back that was asked for, and the way back
/// by whoever asked.
fn readdressed(case: &Case<'_>, met: &Met<'_>, netns: &Netns, dev: &str) -> Vec<Step> {
    let What::Neigh { addr: addr @ IpAddr::V6(_), .. } = met.walk.steps[met.step].what else {
        return remembered(case, netns, dev);
    };
    let step = &met.walk.steps[met.step];
    let Some(asker) = case.netns(step.netns).filter(|n| n.inum != netns.inum) else {
        return Vec::new();
    };
    let own = step.out_dev.and_then(|d| asker.devices.get(&d));
    let near = |net: &&(IpAddr, u8)| show::covers(**net, addr) && net.0 != addr;
    let Some((gateway, len)) = own.and_then(|d| d.addresses.iter().find(near)) else {
        return Vec::new();
    };
    let mut steps = vec![readd(dev, (addr, *len))];
    let outward = netns.devices.values().filter(|d| d.kind != DeviceKind::Loopback).count();
    if asker.forwards_v6 && outward == 1 {
        steps.push(Remedy::Route(Path::default(*gateway, Some(dev))));
    }
    steps.into_iter().map(|step| step.at(netns.inum)).collect()
}

/// An address that was there before, so that nobody has to be asked for it.
fn readd(dev: &str, net: (IpAddr, u8)) -> Remedy {
    Remedy::AddAddr { dev: dev.to_owned(), net, no_dad: true }
}

/// A device that has lost its IPv6 addresses gets those back that the others on its link remember:
/// as their gateway, or as the neighbour with its MAC. A pod gets its default route back, too.
fn remembered(case: &Case<'_>, netns: &Netns, dev: &str) -> Vec<Step> {
    let Some(device) = netns.devices.values().find(|d| d.name == dev) else { return Vec::new() };
    let is_lost = |a: IpAddr| {
        matches!(a, IpAddr::V6(a) if !a.is_unicast_link_local() && !a.is_multicast())
            && case.state.holders(a).next().is_none()
    };
    let mut steps: Vec<Remedy> = Vec::new();
    for (beside, own) in case.beside(netns, device) {
        let Some(detail) = beside.detail.as_deref() else { continue };
        let hops = detail.routes.iter().flat_map(|r| &r.hops);
        let gateways = hops.filter(|h| h.dev == Some(own.ifindex)).filter_map(|h| h.via);
        let entries = detail.neighbours.iter();
        let known =
            entries.filter(|e| e.dev == own.ifindex && e.mac.is_some() && e.mac == device.mac);
        for addr in gateways.chain(known.map(|e| e.addr)).filter(|a| is_lost(*a)) {
            let net = own.addresses.iter().find(|net| show::covers(**net, addr));
            let Some((there, len)) = net else { continue };
            steps.push(readd(dev, (addr, *len)));
            let outward = netns.devices.values().filter(|d| d.kind != DeviceKind::Loopback).count();
            if outward == 1 && beside.forwards_v6 {
                steps.push(Remedy::Route(Path::default(*there, Some(dev))));
            }
        }
    }
    let mut once: Vec<Remedy> = Vec::new();
    for step in steps {
        if !once.contains(&step) {
            once.push(step);
        }
    }
    once.into_iter().map(|step| step.at(netns.inum)).collect()
}

/// Why a frame goes to nobody is told already.
fn is_known(met: &Met<'_>) -> bool {
    let mut before = met.walk.obstacles().filter(|(i, _)| *i <= met.step);
    before.any(|(_, o)| {
        matches!(
            o.kind,
            Kind::WrongNeighbour { .. } | Kind::DuplicateMac { .. } | Kind::FdbElsewhere { .. }
        )
    })
}

/// The neighbour entry that somebody wrote, and by which the frame was addressed.
fn configured(case: &Case<'_>, met: &Met<'_>, at: &Netns, frame: Mac) -> Option<Finding> {
    let before = met.walk.steps[..=met.step].iter().rev();
    let (step, addr) = before.into_iter().find_map(|s| match s.what {
        What::Neigh { addr, mac, how: How::Configured, .. } if mac == Some(frame) => {
            Some((s, addr))
        }
        _ => None,
    })?;
    let (sender, dev) = (case.netns(step.netns)?, case.dev_name(step.netns, step.out_dev?));
    let place = Place { netns: step.netns, dev: step.out_dev };
    let (node, mac) = (&sender.name, show::mac(frame));
    let title = format!("{node} has a permanent neighbour entry for {addr} that is wrong");
    let mut finding = met
        .finding(case, "neigh-stale-permanent", title)
        .fact(format!("ip neigh of {node}: {addr} dev {dev} lladdr {mac} PERMANENT"));
    finding.place = Where::netns(case.state, step.netns).dev(&dev);
    // Alone on its link, whatever it sends to is the other end.
    let far = met.obstacle.place.dev.and_then(|dev| at.devices.get(&dev));
    let far = far.filter(|_| plug::is_pair(case.state, place)).and_then(|d| Some((d, d.mac?)));
    let Some((device, mac)) = far else {
        return Some(finding.fix(Remedy::DelNeigh { dev, addr }.at(step.netns)));
    };
    let fact = format!("ip link of {}: {} has {}", at.name, device.name, show::mac(mac));
    Some(finding.fact(fact).fix(Remedy::Neigh { dev, addr, mac }.at(step.netns)))
}

/// The translation to whom nobody is any more: the neighbour is remembered longer than it lives.
fn gone<'a>(case: &Case<'_>, met: &Met<'a>) -> Option<&'a Nat> {
    let dst = met.walk.steps.get(met.step)?.tuple.dst;
    let to_it = |n: &&Nat| n.kind.is_destination() && n.after.dst == dst && n.before.dst != dst;
    met.walk.nat.iter().rfind(to_it).filter(|_| case.state.holders(dst).next().is_none())
}

fn routing_loop(case: &Case<'_>, met: &Met<'_>, node: &str) -> Option<Finding> {
    if met.walk.end != End::Loop {
        return None;
    }
    let dst = met.walk.tuple.dst;
    let routes = met.walk.steps.iter().filter_map(|step| match &step.what {
        crate::diagnose::walk::What::Route { route: Some(route), .. } => {
            let at = case.netns(step.netns)?;
            Some(format!("ip route of {}: {}", at.name, show::route(at, route)))
        }
        _ => None,
    });
    let finding = met
        .finding(
            case,
            "routing-loop",
            format!("packets to {dst} go round in circles and come to {node} again"),
        )
        .facts(routes.take(6).collect::<Vec<_>>())
        // Where the default route leads back what should never have come to it.
        .follows(&["route-pod-cidr-missing", "route-return-missing"]);
    let Some((at, route, remedy)) = turned_back(case, met) else {
        return Some(finding.fix(format!(
            "# one of these routes to {dst} leads back: correct it on the node that has none of its own"
        )));
    };
    let text = show::route(at, route);
    let dev = finding.place.dev.clone().filter(|_| at.inum == met.obstacle.place.netns);
    let mut finding = finding.fix(remedy.at(at.inum));
    finding.title =
        format!("packets to {dst} go round in circles: {}'s route {text} sends them back", at.name);
    finding.place = Where::netns(case.state, at.inum).route(&text);
    finding.place.dev = dev;
    Some(finding)
}

/// Of the routes of a circle, the one on whose node there is a better way, and what takes it: the destination is on a link of that node, or a gateway there leads out of the circle.
fn turned_back<'a>(case: &Case<'a>, met: &'a Met<'_>) -> Option<(&'a Netns, &'a Route, Remedy)> {
    let dst = met.walk.tuple.dst;
    let routed = met.walk.steps.iter().filter_map(|step| match &step.what {
        What::Route { route: Some(route), is_input: true, .. } => {
            Some((case.netns(step.netns)?, &**route))
        }
        _ => None,
    });
    let mut tried: Vec<(&Netns, &Route)> = routed.collect();
    tried.reverse();
    let on_link = tried.iter().find(|(at, route)| {
        let all = at.detail.iter().flat_map(|d| &d.routes);
        let mut direct = all.filter(|r| *r != *route && r.dst.1 > 0 && show::covers(r.dst, dst));
        direct.any(|r| {
            r.kind == RouteType::Unicast && r.hops.first().is_some_and(|h| h.via.is_none())
        })
    });
    if let Some((at, route)) = on_link {
        return Some((at, route, Remedy::DelRoute(Path::of(at, route))));
    }
    tried.into_iter().find_map(|(at, route)| {
        let via = route.hops.first()?.via?;
        let remedy = case.route_by_others(at, dst, Some((route, via)))?;
        // The gateway that leads into the circle is no way out of it.
        let is_by = |path: &Path| path.hops.iter().any(|h| h.via == Some(via));
        let is_same =
            matches!(&remedy, Remedy::Route(path) | Remedy::DelRoute(path) if is_by(path));
        (!is_same).then_some((at, route, remedy))
    })
}

/// A packet that ran out of hops without a circle: it was sent with too few.
fn short_lived(case: &Case<'_>, drop: &Drop<'_>) -> Option<Finding> {
    const USUAL: u32 = 64;
    let is_expired = matches!(drop.function, "ip_forward" | "ip6_forward")
        && (drop.reason == "IP_INHDR" || matches!(drop.icmp(), Some((11 | 3, 0))));
    let mut walks = case.ways.iter().flat_map(super::super::Way::walks);
    let goes_round = |walk: &Walk| {
        let mut all = walk.obstacles();
        walk.end == End::Loop || all.any(|(_, o)| matches!(o.kind, Kind::TunnelToItself { .. }))
    };
    if !is_expired || walks.any(|(_, walk)| goes_round(walk)) {
        return None;
    }
    let netns = case.netns(drop.hop.netns)?;
    let src = drop.tuple()?.src;
    let finding = |title: String| {
        let mut place = Where::netns(case.state, netns.inum);
        place.dev = drop.dev().map(str::to_owned);
        Finding::error("ttl-too-low", case.scenario(), title)
            .at(place)
            .fact(drop.fact())
            .journeys([drop.journey.id])
            .depth(case.depth_of(drop))
    };
    let sender = case.state.holders(src).next();
    let path = "ipv4/ip_default_ttl";
    let set = sender.and_then(|n| Some((n, case.sysctl(n.inum, path)?)));
    if let Some((sender, ttl)) = set
        && ttl.parse::<u32>().is_ok_and(|ttl| ttl < USUAL)
        && src.is_ipv4()
    {
        let title = format!(
            "packets of {} run out of hops in {}: {} is {ttl}",
            sender.name,
            netns.name,
            sysctl_name(path)
        );
        let mut finding = finding(title).wrong_sysctl(sender, path, ttl, "64");
        let sysctl = finding.place.sysctl.take();
        finding.place = Where { sysctl, ..Where::netns(case.state, sender.inum) };
        return Some(finding);
    }
    // A rule on the way that writes the field.
    let passed = drop.journey.hops[..=drop.at].iter().map(|h| h.netns);
    let written = passed.into_iter().find_map(|inum| {
        let at = case.netns(inum)?;
        let tables = at.detail.iter().flat_map(|d| &d.firewall.tables);
        let all = tables.flat_map(|t| t.chains.iter().map(move |c| (t, c)));
        let mut rules = all.flat_map(|(t, c)| c.rules.iter().map(move |r| (t, c, r)));
        let found = rules.find(|(_, _, r)| writes_ttl(&r.text))?;
        Some((at, found))
    });
    let Some((at, (table, chain, rule))) = written else {
        let title = format!("packets from {src} come to {} with too few hops left", netns.name);
        return Some(finding(title).confidence(Confidence::Likely).fix(format!(
            "# whoever sends as {src}, or a rule before {}, sets their TTL too low: the usual is 64",
            netns.name
        )));
    };
    let title = format!("a rule of {} leaves packets too few hops: {}", at.name, rule.text);
    let delete = ChainAt::of(table, chain).edit(Edit::Delete(Spot::of(rule)));
    let mut finding = finding(title)
        .fact(format!("{} {} of {}: {}", table.name, chain.name, at.name, rule.text))
        .fix(delete.at(at.inum));
    finding.place = Where::netns(case.state, at.inum).rule(&table.name, &chain.name, Some(rule));
    Some(finding)
}

/// `ip ttl set 1` of nft, `-j TTL --ttl-set 1` of iptables, and those of IPv6.
fn writes_ttl(text: &str) -> bool {
    let written =
        ["ip ttl set ", "ip6 hoplimit set ", "--ttl-set ", "--ttl-dec ", "--hl-set ", "--hl-dec "];
    written.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_write_the_hops_left() {
        assert!(writes_ttl("ip ttl set 1"));
        assert!(writes_ttl("-A POSTROUTING -o eth0 -j TTL --ttl-set 1"));
        assert!(writes_ttl("ip6 hoplimit set 1"));
        assert!(!writes_ttl("ip ttl 1 drop"));
        assert!(!writes_ttl("-A INPUT -m ttl --ttl-eq 1 -j DROP"));
    }
}
