//! Addresses that should have been translated: Services, NodePorts, published ports.

use std::net::{IpAddr, SocketAddr};

use super::met::each;
use super::{
    Case, Finding, Rule, chains, dns, in_front, kube_nft, located, not_local, ports, refusal,
    service,
};
use crate::diagnose::remedy::{ChainAt, Edit, Foreign, Spec, Word, argv, full, sysctl_name};
use crate::diagnose::walk::{ObstacleKind as Kind, RuleRef};
use crate::diagnose::{Confidence, Met, Method, Scenario, Where, place};
use crate::journey::Hook;
use crate::net::{Inum, Netns};

pub(super) const RULE: Rule = Rule {
    id: "service-not-translated",
    covers: &[
        "service-not-translated",
        "kube-proxy-rules-missing",
        "kube-proxy-jump-missing",
        "svc-host-output-jump-missing",
        "bridge-nf-call-iptables-off",
        "dns-same-node-bridge-nf-off",
        "nodeport-route-localnet-off",
        "ipvs-no-destination",
        "svc-reply-bypasses-node",
        ports::ID,
        not_local::ID,
    ],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    each(case, one)
}

fn one(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let netns = met.netns(case)?;
    let node = &netns.name;
    Some(match &met.obstacle.kind {
        Kind::Untranslated { dst, dport, unreached } => {
            return untranslated(case, met, netns, (*dst, *dport), unreached);
        }
        Kind::BypassesNat { sysctl, bridge } => {
            let name = sysctl_name(sysctl);
            let bridge = case.dev_name(netns.inum, *bridge);
            let is_dns = case.scenario() == Scenario::Dns;
            let id =
                if is_dns { "dns-same-node-bridge-nf-off" } else { "bridge-nf-call-iptables-off" };
            let title = format!(
                "answers between two pods on {bridge} are not translated back: {name} is 0 in {node}"
            );
            met.finding(case, id, title).wrong_sysctl(netns, sysctl, "0", "1")
        }
        Kind::RouteLocalnetOff { sysctl } => {
            let name = sysctl_name(sysctl);
            let title = format!("{node} does not route 127.0.0.0/8: {name} is 0");
            met.finding(case, "nodeport-route-localnet-off", title)
                .wrong_sysctl(netns, sysctl, "0", "1")
        }
        Kind::NoRealServer { service } => {
            let which = SocketAddr::new(service.addr, service.port);
            let title = format!("the IPVS service {which} in {node} has no server behind it");
            let fact = match service.servers.len() {
                0 => format!("ipvsadm -Ln of {node}: {which} has no real server"),
                n => {
                    format!("ipvsadm -Ln of {node}: all {n} real servers of {which} have weight 0")
                }
            };
            let mut finding = met.finding(case, "ipvs-no-destination", title).fact(fact);
            finding.place.hook = Some(Hook::Input.name());
            finding
                .fix("# no pod is ready behind this Service: fix its selector, or start its pods")
        }
        Kind::AnswerFromElsewhere { expected, got, bypassed } => {
            bypassed_by(case, met, (*expected, *got), *bypassed)
        }
        _ => return None,
    })
}

/// The answer takes a way on which nobody translates it back: it would come back through the node
/// that translated the request, if that were masqueraded there.
fn bypassed_by(
    case: &Case<'_>,
    met: &Met<'_>,
    (expected, got): (IpAddr, IpAddr),
    bypassed: Inum,
) -> Finding {
    let node = case.state.netns_name(bypassed);
    let title = format!(
        "the answer comes from {got} and not from {expected}: it bypasses {node}, which translated \
         the request and did not masquerade it"
    );
    let mut nats = met.way.request.nat.iter();
    let nat = nats.rfind(|n| n.netns == bypassed && n.kind.is_destination());
    let of_kube = |r: &RuleRef| r.table.starts_with("kube") || r.chain.starts_with("KUBE-");
    let is_kube = nat.and_then(|n| n.rule.as_ref()).is_some_and(of_kube);
    let masquerade = nat.map(|nat| {
        let (from, to) = (nat.after.src, nat.after.dst);
        let net = |addr| Word::net((addr, full(addr)));
        let spec = argv!["-s", net(from), "-d", net(to), "-j", "MASQUERADE"];
        let chain = chains::nat_chain(case, bypassed, from, "POSTROUTING");
        chain.edit(Edit::Append(Spec(spec))).at(bypassed)
    });
    met.finding(case, "svc-reply-bypasses-node", title)
        .at(Where::netns(case.state, bypassed))
        .fact(format!(
            "{} gets an answer from {got}, which it never asked",
            case.state.netns_name(met.obstacle.place.netns)
        ))
        .facts(nat.and_then(|n| n.rule.as_ref()).map(|r| format!("{}/{} of {node}: {}", r.table, r.chain, r.text)))
        .fix(if is_kube {
            "# restart kube-proxy, whose rules masquerade it (KUBE-POSTROUTING, masquerading); until then, for this client:"
        } else {
            "# masquerade what goes from that network to the server (NAT reflection); for this client:"
        })
        .fixes(masquerade)
        .follows(&["svc-hairpin-unmasqueraded", "masquerade-missing"])
}

/// A Service's address that nothing translated.
fn untranslated(
    case: &Case<'_>,
    met: &Met<'_>,
    netns: &Netns,
    (dst, dport): (IpAddr, u16),
    unreached: &[RuleRef],
) -> Option<Finding> {
    let node = &netns.name;
    // Nobody's address in resolv.conf, rules that say why there is no endpoint, and a ping are
    // other faults.
    let is_icmp = case.target.as_ref().is_some_and(|t| t.proto == Method::Icmp);
    if is_icmp || dns::nobodys(case) == Some(dst) || is_rejected(met) {
        return None;
    }
    let is_from_node = met.walk.ask.entry.is_none()
        && met.walk.ask.from == netns.inum
        && place::node_of(case.state, netns.inum).is_none();
    let (hook, has_other) =
        if is_from_node { ("OUTPUT", "PREROUTING") } else { ("PREROUTING", "OUTPUT") };
    if let Some(rule) = in_front::untracked(met.walk, netns.inum) {
        let what = format!("the address {dst}");
        return Some(in_front::not_tracked(case, met, rule, &what));
    }
    if unreached.is_empty()
        && let Some(finding) = ports::missing(case, met, netns, (dst, dport))
    {
        return Some(finding);
    }
    let reaching: Vec<&RuleRef> =
        unreached.iter().filter(|r| chains::leads(case, met, r)).collect();
    let reached_by = if is_from_node { Hook::Output } else { Hook::Prerouting };
    if reaching.is_empty()
        && let Some(finding) =
            kube_nft::untranslated(case, met, netns.inum, (dst, dport), reached_by)
    {
        return Some(finding);
    }
    let mut place = Where::netns(case.state, netns.inum);
    place.table = Some("nat".to_owned());
    let Some(first) = reaching.first() else {
        let title = format!("no rule in {node} translates {dst}:{dport}");
        let again = service::reconnect_all(case, netns.inum, dst);
        let has_portal = chains::nat_table(case, netns.inum, dst)
            .is_some_and(|t| t.chains.iter().any(|c| c.name == "KUBE-SERVICES"));
        place.chain = has_portal.then(|| "KUBE-SERVICES".to_owned());
        let fact = match has_portal {
            true => format!("nat of {node}: no rule for {dst} port {dport} in KUBE-SERVICES"),
            false => format!("{node} has no rules of kube-proxy at all"),
        };
        let confidence = match (again.is_empty(), has_portal) {
            (false, _) => Confidence::Certain,
            (true, true) => Confidence::Likely,
            (true, false) => Confidence::Possible,
        };
        let finding = met
            .finding(case, "kube-proxy-rules-missing", title)
            .confidence(confidence)
            .at(place)
            .fact(fact)
            .facts(unreached.iter().map(|r| format!("left over: {} {}", r.chain, r.text)))
            .fix("# restart kube-proxy on this node: it writes the rules of all Services anew");
        return Some(finding.fixes(again));
    };
    let id = if is_from_node { "svc-host-output-jump-missing" } else { "kube-proxy-jump-missing" };
    let title =
        format!("{node} has rules that translate {dst}:{dport}, but {hook} does not lead there");
    place.chain = Some(hook.to_owned());
    let table = located::located(case, netns.inum, first).map(|(table, ..)| table);
    let top = table.map_or_else(|| first.chain.clone(), |t| chains::outermost(t, &first.chain));
    let finding = met
        .finding(case, id, title)
        .at(place)
        .facts(reaching.iter().map(|r| format!("not reached from {hook}: {} {}", r.chain, r.text)));
    let (family, table) = (first.family.clone(), first.table.clone());
    let (flavour, command) = (first.flavour, first.command.clone());
    let at = ChainAt { flavour, family, table, chain: hook.to_owned(), command };
    let jump = match top.as_str() {
        "KUBE-SERVICES" => argv!["-m", "comment", "--comment", "kubernetes service portals"],
        // What is hooked in itself is reached already, and does not hold.
        "PREROUTING" | "OUTPUT" => {
            return Some(finding.fix(format!(
                "# {has_other} translates it and {hook} does not: add the rule there too"
            )));
        }
        _ => argv![],
    };
    let spec = Spec(jump.and(argv!["-j", Foreign(&top)]));
    Some(finding.fix(met.remedy(at.edit(Edit::Insert(None, spec)))))
}

/// Further on the same way kube-proxy itself rejects it: there is no endpoint.
fn is_rejected(met: &Met<'_>) -> bool {
    met.walk.obstacles().any(|(_, o)| match &o.kind {
        Kind::Filtered { rule, .. } => refusal::says_no_endpoints(rule),
        _ => false,
    })
}
