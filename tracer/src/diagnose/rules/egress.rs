//! To the outside: with whose source address, and from which port.

use std::net::IpAddr;

use super::chains::{nat_chain, nat_table};
use super::{Case, Direction, Finding, Rule, docker, in_front, located};
use crate::diagnose::remedy::{Edit, Remedy, Spec, Step, Word, argv, full, interface};
use crate::diagnose::walk::{End, ObstacleKind as Kind, RuleRef, Walk};
use crate::diagnose::{Confidence, Met, Outcome, Scenario, Severity, Way, Where, place, show};
use crate::firewall::{Match, Target};
use crate::journey::NatKind;
use crate::net::{Inum, Netns};

pub(super) const RULE: Rule = Rule {
    id: "source-not-translated",
    covers: &[
        "source-not-translated",
        "masquerade-missing",
        "masquerade-wrong-cidr",
        "masquerade-wrong-oif",
        "snat-wrong-address",
        "ephemeral-ports-exhausted",
    ],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = ports(case).into_iter().collect();
    if case.is_failing() {
        findings.extend(case.ways.iter().filter_map(|way| untranslated(case, way)));
        findings.extend(case.obstacles().filter_map(|met| foreign(case, &met)));
    }
    findings
}

/// A request left its node with its private source, and the answer does not find back.
fn untranslated(case: &Case<'_>, way: &Way) -> Option<Finding> {
    let walk = &way.request;
    let src = walk.tuple.src;
    let is_source = |k: NatKind| matches!(k, NatKind::Masquerade | NatKind::Snat);
    if walk.nat.iter().any(|n| is_source(n.kind)) || answer_came(case, way) {
        return None;
    }
    let met = case.obstacles().find(|m| {
        std::ptr::eq(m.way, way) && matches!(m.obstacle.kind, Kind::PrivateSource { .. })
    });
    let lost = lost_answer(case, way, src);
    let node = match (&met, lost) {
        (Some(met), _) => met.obstacle.place.netns,
        (None, Some(_)) => place::node_of(case.state, walk.ask.from)?,
        (None, None) => return None,
    };
    let netns = case.netns(node)?;
    if let (Some(met), Some(rule)) = (&met, in_front::untracked(walk, node)) {
        return Some(in_front::not_tracked(case, met, rule, &format!("the source {src}")));
    }
    if let Some(finding) = met.as_ref().and_then(|met| in_front::kept_private(case, met)) {
        return Some(finding);
    }
    let uplink = leaves_by(walk, node)?;
    let dev = case.dev_name(node, uplink);
    let (id, unfit) = cause(case, netns, src, &dev);
    let title = match id {
        "masquerade-wrong-cidr" => format!(
            "{} masquerades other sources than {src}, which leaves by {dev} as it is",
            netns.name
        ),
        "masquerade-wrong-oif" => format!(
            "{} masquerades what leaves by another device than {dev}, by which {src} leaves as it is",
            netns.name
        ),
        _ => format!(
            "{} sends packets of {src} out by {dev} with that private source: no rule masquerades them, and no answer finds back",
            netns.name
        ),
    };
    // What never got anywhere proves nothing about its source.
    let is_stopped = met.is_some() && walk.stopped_at().is_some();
    let confidence = match (lost, is_stopped && unfit.is_none()) {
        (Some(_), _) => Confidence::Certain,
        (None, true) => Confidence::Possible,
        (None, false) => Confidence::Likely,
    };
    let step = walk.steps.iter().position(|s| s.netns == node).unwrap_or(0);
    let mut at = Where::netns(case.state, node);
    at.table = Some("nat".to_owned());
    at.chain = Some(unfit.as_ref().map_or_else(|| "POSTROUTING".to_owned(), |r| r.0.clone()));
    at.rule = unfit.as_ref().map(|r| r.1.clone());
    let finding = Finding::error(id, case.scenario(), title)
        .confidence(confidence)
        .at(at)
        .facts(unfit.iter().map(|r| format!("does not hold: {}", r.1)))
        .facts(lost.map(|n| format!("{} has no way back to {src}", case.state.netns_name(n))))
        .depth(case.depth(Direction::Request, step));
    if id == "docker-nat-flushed" {
        return Some(finding.fixes(docker::restore(case, netns, None)));
    }
    let agent =
        "# or let the network plugin's agent (flanneld, ip-masq-agent) write its rules anew";
    Some(finding.fix(masquerade(case, netns, src, &dev)).fix(agent))
}

fn answer_came(case: &Case<'_>, way: &Way) -> bool {
    let asked = case.probes.iter().filter(|p| {
        p.purpose == way.purpose && p.to == way.request.ask.dst && p.netns == way.request.ask.from
    });
    asked.into_iter().all(crate::diagnose::Probed::is_answered)
}

/// Who got the request and cannot answer to its source: nobody of the cluster.
fn lost_answer(case: &Case<'_>, way: &Way, src: IpAddr) -> Option<Inum> {
    let is_egress = case.scenario() == Scenario::Egress;
    if !is_egress && !is_hidden(case, way, src) {
        return None;
    }
    let reply = way.reply.as_ref()?;
    reply.obstacles().find_map(|(_, o)| match &o.kind {
        Kind::NoRoute { dst, .. } if *dst == src => Some(o.place.netns),
        Kind::OnlyDefaultRoute { dst, .. } if *dst == src && is_egress => Some(o.place.netns),
        _ => None,
    })
}

/// The node of the sender is one that hides its own from its neighbours: a host of Docker, or one
/// with a rule that was to translate the source, and does not hold. The request has to have arrived:
/// elsewhere nothing is known of the way back.
fn is_hidden(case: &Case<'_>, way: &Way, src: IpAddr) -> bool {
    let node = place::node_of(case.state, way.request.ask.from).and_then(|n| case.netns(n));
    let Some(node) = node.filter(|_| matches!(way.request.end, End::Delivered { .. })) else {
        return false;
    };
    // From a bridge of its own to elsewhere: what comes in to a published port is not hidden.
    let sender = case.netns(way.request.ask.from).into_iter().flat_map(|n| n.devices.values());
    let mut ends = sender.filter_map(|d| node.devices.get(&d.link?.ifindex));
    let inside = ends.find_map(|port| node.devices.get(&port.master?));
    let (Some(inside), Some(uplink)) = (inside, leaves_by(&way.request, node.inum)) else {
        return false;
    };
    let is_led = way.request.nat.iter().any(|n| n.kind.is_destination());
    let is_other = node.devices.get(&uplink).is_some_and(|d| d.master.is_none());
    if is_led || !is_other || uplink == inside.ifindex {
        return false;
    }
    let rule = cause(case, node, src, &case.dev_name(node.inum, uplink)).1;
    rule.is_some()
        || case.is_docker_host(node.inum) && docker::is_docker_bridge(case, node.inum, inside)
}

/// The last device by which it leaves `netns`.
fn leaves_by(walk: &Walk, netns: Inum) -> Option<u32> {
    walk.steps.iter().rev().filter(|s| s.netns == netns).find_map(|s| s.out_dev)
}

/// Which fault it is, and the rule that was meant to do it: its chain and its text.
fn cause(
    case: &Case<'_>,
    netns: &Netns,
    src: IpAddr,
    dev: &str,
) -> (&'static str, Option<(String, String)>) {
    if docker::has_lost_nat(case, netns.inum) {
        return ("docker-nat-flushed", None);
    }
    let Some(table) = nat_table(case, netns.inum, src) else { return ("masquerade-missing", None) };
    let is_own = |net: &(IpAddr, u8)| {
        netns.devices.values().flat_map(|d| &d.addresses).any(|(a, _)| show::covers(*net, *a))
    };
    let mut found = ("masquerade-missing", None);
    for (chain, rule) in table.chains.iter().flat_map(|c| c.rules.iter().map(move |r| (c, r))) {
        if !matches!(rule.target, Target::Masquerade | Target::Snat { .. }) {
            continue;
        }
        let source = rule.matches.iter().find_map(|m| match m {
            Match::Src { nets, not: false } => Some(nets),
            _ => None,
        });
        let covers = source.is_some_and(|nets| nets.iter().any(|n| show::covers(*n, src)));
        let other_dev = rule.matches.iter().any(|m| match m {
            Match::Oif { names, not: false } => !names.iter().any(|n| fits(n, dev)),
            _ => false,
        });
        let text = || Some((chain.name.clone(), rule.text.clone()));
        if covers && other_dev {
            return ("masquerade-wrong-oif", text());
        }
        // What is about another network of this node is not what was meant.
        let is_foreign = source.is_some_and(|nets| !nets.iter().any(is_own));
        if is_foreign && !covers && !other_dev {
            found = ("masquerade-wrong-cidr", text());
        }
    }
    found
}

/// A device name as rules have it: `eth0`, `eth+`.
fn fits(name: &str, dev: &str) -> bool {
    name.strip_suffix(['+', '*']).map_or(name == dev, |start| dev.starts_with(start))
}

/// The rule that flannel and others write.
fn masquerade(case: &Case<'_>, netns: &Netns, src: IpAddr, dev: &str) -> Step {
    let devices = netns.devices.values();
    let near = devices.flat_map(|d| &d.addresses).find(|p| p.1 < 32 && show::covers(**p, src));
    let near = near.map(|(a, len)| (show::network(*a, *len), *len));
    let cluster = case.cluster_networks(netns).find(|n| show::covers(*n, src));
    let source = cluster.or(near).unwrap_or((src, full(src)));
    let spec = argv!["-s", Word::prefix(source)]
        .and_if(cluster, |net| argv!["!", "-d", Word::prefix(net)])
        .and(argv!["-o", interface(dev), "-j", "MASQUERADE"]);
    nat_chain(case, netns.inum, src, "POSTROUTING").edit(Edit::Append(Spec(spec))).at(netns.inum)
}

/// The source becomes an address that nobody has, so that the answer ends at nobody.
fn foreign(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let Kind::ForeignSource { addr, rule } = &met.obstacle.kind else { return None };
    let netns = met.netns(case)?;
    if case.state.holders(*addr).next().is_some() || answer_came(case, met.way) {
        return None;
    }
    let is_lost = met.way.reply.iter().flat_map(Walk::obstacles).any(
        |(_, o)| matches!(&o.kind, Kind::NobodyAnswers { addr: silent, .. } if silent == addr),
    );
    let node = &netns.name;
    let title = format!("{node} translates the source to {addr}, which it does not have");
    let mut finding = met
        .finding(case, "snat-wrong-address", title)
        .confidence(if is_lost { Confidence::Certain } else { Confidence::Likely })
        .fact(format!("{} {}: {}", rule.table, rule.chain, rule.text))
        .fact(format!("ip addr of {node} lacks {addr}"));
    finding.place.table = Some(rule.table.clone());
    finding.place.chain = Some(rule.chain.clone());
    finding.place.rule = Some(rule.text.clone());
    let src = met.walk.tuple.src;
    Some(finding.fix(instead(case, met, rule, src, *addr)))
}

/// Without the rule, where another one translates; else with the node's own address.
fn instead(case: &Case<'_>, met: &Met<'_>, rule: &RuleRef, src: IpAddr, wrong: IpAddr) -> Step {
    let netns = met.obstacle.place.netns;
    let own = rule.text.replace(&format!("SNAT --to-source {wrong}"), "MASQUERADE");
    let has_other = nat_table(case, netns, src).is_some_and(|table| {
        table.chains.iter().flat_map(|c| &c.rules).any(|r| {
            matches!(r.target, Target::Masquerade)
                && r.matches.iter().any(|m| match m {
                    Match::Src { nets, not: false } => nets.iter().any(|n| show::covers(*n, src)),
                    _ => false,
                })
        })
    });
    let replaced = || {
        let is_changed = own != rule.text;
        is_changed.then(|| located::replace(case, netns, rule, &own)).flatten()
    };
    if has_other { None } else { replaced() }.unwrap_or_else(|| located::delete(case, netns, rule))
}

/// Too few local ports for the connections of a namespace.
fn ports(case: &Case<'_>) -> Option<Finding> {
    let exhausted = case.failed().find(|p| p.outcome == Outcome::Local(libc::EADDRNOTAVAIL));
    let few = case.obstacles().find_map(|m| match m.obstacle.kind {
        Kind::FewPorts { is_few, used, .. } => {
            Some((m.obstacle.place.netns, (is_few, used), m.walk.tuple.dst))
        }
        _ => None,
    });
    let netns = case.netns(few.map(|f| f.0).or(exhausted.map(|p| p.netns))?)?;
    if few.is_none() && !has_source(case, netns, exhausted?.to) {
        return None;
    }
    let range = case.sysctl(netns.inum, "ipv4/ip_local_port_range").unwrap_or("32768 60999");
    let range: Vec<&str> = range.split_whitespace().collect();
    let name = "net.ipv4.ip_local_port_range";
    let title = match (exhausted, few) {
        (Some(p), _) => {
            format!("{} has no local port left for a connection to {}", netns.name, p.to)
        }
        (None, Some((_, (false, used), dst))) => format!(
            "{} has {used} connections to {dst}, and the local ports {} for all of them",
            netns.name,
            range.join(" to ")
        ),
        (None, _) => format!(
            "{} has only the local ports {} for all its connections",
            netns.name,
            range.join(" to ")
        ),
    };
    let mut place = Where::netns(case.state, netns.inum);
    place.sysctl = Some(name.to_owned());
    let finding = Finding::error("ephemeral-ports-exhausted", case.scenario(), title)
        .severity(if exhausted.is_some() { Severity::Error } else { Severity::Warning })
        .at(place)
        .fact(format!("{name} = {} in {}", range.join(" "), netns.name))
        .facts(exhausted.map(crate::diagnose::Probed::sentence));
    let widen = |range| Remedy::sysctl("ipv4/ip_local_port_range", range).at(netns.inum);
    Some(match few {
        Some((_, (true, _), _)) => finding.fix(widen("32768 60999")),
        _ => finding
            .fix("# let the application keep its connections, or give it more source addresses")
            .fix(widen("1024 65535")),
    })
}

/// The kernel also says so when there is no address to send from.
fn has_source(case: &Case<'_>, netns: &Netns, to: IpAddr) -> bool {
    let walks = case.ways.iter().map(|w| &w.request).filter(|w| w.ask.from == netns.inum);
    walks.into_iter().any(|w| w.ask.dst == to && w.stopped_at().is_none())
}
