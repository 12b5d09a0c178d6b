//! Services whose rules lead nowhere: to an endpoint that is gone, to a port at which nobody
//! listens, or, for a ping, nowhere by nature. And what leads to their endpoints again.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::chains::{is_alive, nat_chain, nat_table, orphans, service_of, translates};
use super::located::{located, place_of, replace};
use super::refusal::RANGES;
use super::{Case, Finding, Rule, in_front, kube_nft};
use crate::diagnose::remedy::{ChainAt, Edit, Foreign, Spec, Step, Word, argv, full};
use crate::diagnose::walk::{Nat, RuleRef};
use crate::diagnose::{Met, Method, Scenario, Severity, Where, place};
use crate::firewall::{self, Chain, Match, Table, Target};
use crate::net::Inum;
use crate::net::detail::Socket;

pub(super) const RULE: Rule = Rule {
    id: "svc-endpoint-wrong",
    covers: &[
        "svc-endpoint-wrong",
        "svc-endpoint-stale-ip",
        "svc-endpoint-stale-ip-remote",
        "svc-one-endpoint-dead",
        "hostport-stale-pod",
        "svc-wrong-targetport",
        "svc-ping-unanswered",
        "svc-hairpin-unmasqueraded",
    ],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    ping(case).into_iter().collect()
}

/// The address of a Service was pinged.
fn ping(case: &Case<'_>) -> Option<Finding> {
    let target = case.target.as_ref().filter(|t| t.proto == Method::Icmp)?;
    let addr = target.addr.filter(|a| case.state.holders(*a).next().is_none())?;
    if !case.is_failing() {
        return None;
    }
    let node = place::node_of(case.state, target.netns).unwrap_or(target.netns);
    let services = case.detail(node)?.firewall.services();
    let service = services.iter().find(|s| s.addr == Some(addr))?;
    let title = format!(
        "{addr} is the address of Service {}, of which only ports are translated: it answers no ping",
        service.name
    );
    Some(
        Finding::error("svc-ping-unanswered", Scenario::Service, title)
            .severity(Severity::Warning)
            .at(Where::netns(case.state, node))
            .fact(format!("Service {} has port {}", service.name, service.port))
            .fix(format!("# ask for a port: --to {addr}:{}", service.port)),
    )
}

/// A pod that reaches itself by way of a Service gets its packets from its own address, unless they
/// are masqueraded on the way.
pub(super) fn hairpin(case: &Case<'_>, met: &Met<'_>, src: IpAddr) -> Option<Finding> {
    let pod = met.netns(case).filter(|n| n.inum == met.walk.ask.from)?;
    let nat = met.walk.nat.iter().find(|n| n.kind.is_destination() && n.after.dst == src)?;
    let rule = nat.rule.as_ref()?;
    let title = format!(
        "{} leads {} back to itself at {src}, and nothing masquerades that: it takes its own \
         address for a forgery",
        nat.before.dst, pod.name
    );
    Some(
        met.finding(case, "svc-hairpin-unmasqueraded", title)
            .at(Where { rule: None, ..place_of(case, nat.netns, rule) })
            .fact(format!("{} {}", rule.chain, rule.text))
            .fact(format!("no rule of {} masquerades {src} on its way to {src}", case.state.netns_name(nat.netns)))
            .fix("# restart kube-proxy: its rules for each endpoint mark what comes from it; until then:")
            .fix(masqueraded(case, nat)),
    )
}

/// What a host asks itself from a loopback address, and a rule leads elsewhere, needs a source that
/// may be on a link.
pub(super) fn from_loopback(case: &Case<'_>, met: &Met<'_>, src: IpAddr) -> Option<Finding> {
    let is_led = |n: &&Nat| n.kind.is_destination() && n.after.src == src;
    let nat = met.way.request.nat.iter().rfind(is_led).filter(|_| src.is_loopback())?;
    let rule = nat.rule.as_ref()?;
    let node = case.state.netns_name(nat.netns);
    let title = format!(
        "{node} leads what it asks from {src} to {}, and nothing masquerades that: no link may \
         carry that source",
        nat.after.dst
    );
    Some(
        met.finding(case, "masquerade-missing", title)
            .at(Where { rule: None, ..place_of(case, nat.netns, rule) })
            .fact(format!("{} {}", rule.chain, rule.text))
            .fact(format!("no rule of {node} masquerades {src} on its way to {}", nat.after.dst))
            .fix(masqueraded(case, nat))
            .fix("# or ask for an address of the node instead of the loopback one"),
    )
}

/// The source of what was led elsewhere becomes that of the node which did it.
fn masqueraded(case: &Case<'_>, nat: &Nat) -> Step {
    let net = |addr| Word::net((addr, full(addr)));
    let (src, dst) = (nat.after.src, nat.after.dst);
    let spec = Spec(argv!["-s", net(src), "-d", net(dst), "-j", "MASQUERADE"]);
    nat_chain(case, nat.netns, src, "POSTROUTING").edit(Edit::Insert(None, spec)).at(nat.netns)
}

/// An address that was translated to, and that nobody has; the fact says how that shows.
pub(super) fn stale(case: &Case<'_>, met: &Met<'_>, nat: &Nat, fact: String) -> Finding {
    let addr = nat.after.dst;
    let rule = nat.rule.as_ref();
    let is_renewed = rule.is_some_and(|r| is_followed(case, nat.netns, r));
    if let Some(finding) = in_front::shadowed(case, met, nat).filter(|_| !is_renewed) {
        return finding.fact(fact);
    }
    let is_published = rule.is_some_and(|r| is_port_mapping(&r.chain));
    let others = case.ways.iter().any(|w| w.purpose == met.way.purpose && w.request.is_clear());
    let is_here = nat.netns == met.obstacle.place.netns;
    let id = match (is_published, others, is_here) {
        (true, _, _) => "hostport-stale-pod",
        (_, true, _) => "svc-one-endpoint-dead",
        (_, false, true) => "svc-endpoint-stale-ip",
        (_, false, false) => "svc-endpoint-stale-ip-remote",
    };
    let before = nat.before.dst;
    let title =
        format!("{before} leads to {addr}, and nobody has that address: the endpoint is gone");
    outdated(case, met.finding(case, id, title).fact(fact), nat, addr)
}

/// The rule that leads to an endpoint that is gone: its place, and what heals it.
pub(super) fn outdated(case: &Case<'_>, finding: Finding, nat: &Nat, addr: IpAddr) -> Finding {
    let rule = nat.rule.as_ref();
    let mut finding = finding.facts(rule.map(|r| format!("{} {}", r.chain, r.text)));
    let step = rule.map(|rule| at_rule(case, &mut finding, nat.netns, rule, addr));
    let advice = "# the rules are outdated: restart kube-proxy (or the CNI plugin's portmap) on \
                  this node, or bring the pod back";
    finding.fix(advice).fixes(step.flatten())
}

/// Puts the finding where the rule is; what heals it.
fn at_rule(
    case: &Case<'_>,
    finding: &mut Finding,
    netns: Inum,
    rule: &RuleRef,
    gone: IpAddr,
) -> Option<Step> {
    finding.place = place_of(case, netns, rule);
    heal(case, netns, rule, gone)
}

/// Chains of the portmap plugin, of Docker, and of kubenet's host ports.
fn is_port_mapping(chain: &str) -> bool {
    ["CNI-", "DOCKER", "KUBE-HP"].iter().any(|start| chain.starts_with(start))
}

/// What makes a rule lead to somebody alive, as far as the other rules tell who that is.
fn heal(case: &Case<'_>, netns: Inum, rule: &RuleRef, gone: IpAddr) -> Option<Step> {
    let (table, chain, own) = located(case, netns, rule)?;
    let own = own?;
    if is_followed(case, netns, rule) {
        return Some(super::located::delete(case, netns, rule));
    }
    let Target::Dnat { port, .. } = own.target else { return None };
    // kube-proxy names the endpoint twice: the pod that reaches itself is masqueraded.
    let itself = chain.rules.iter().filter(|r| !matches!(r.target, Target::Dnat { .. }));
    let itself = itself.flat_map(|r| &r.matches).find_map(|m| match m {
        Match::Src { nets, not: false } => match nets.as_slice() {
            [(a, 32 | 128)] if *a != gone && !a.is_loopback() && is_alive(case, *a) => Some(*a),
            _ => None,
        },
        _ => None,
    });
    let named = || kube_nft::endpoint_of(&chain.name).filter(|(a, _)| is_alive(case, *a));
    let (addr, port) = match itself.map(|addr| (addr, port)).or_else(named) {
        Some(right) => right,
        None => siblings(table, chain).into_iter().find(|(a, _)| is_alive(case, *a))?,
    };
    let to = |addr: IpAddr, port: Option<u16>| match (addr, port) {
        (IpAddr::V6(a), Some(p)) => format!("[{a}]:{p}"),
        (a, Some(p)) => format!("{a}:{p}"),
        (a, None) => a.to_string(),
    };
    let Target::Dnat { port: old, .. } = own.target else { return None };
    replace(case, netns, rule, &own.text.replace(&to(gone, old), &to(addr, port)))
}

/// Another rule for the same packets comes behind it, which leads to somebody alive.
fn is_followed(case: &Case<'_>, netns: Inum, rule: &RuleRef) -> bool {
    let Some((_, chain, Some(own))) = located(case, netns, rule) else { return false };
    chain.rules.iter().any(|r| {
        r.number > own.number && r.matches == own.matches && leads_to_living(case, &r.target)
    })
}

fn leads_to_living(case: &Case<'_>, target: &Target) -> bool {
    matches!(target, Target::Dnat { addr: Some(addr), .. } if is_alive(case, *addr))
}

/// Where the chains beside this one translate to: the other endpoints of its Service.
fn siblings(table: &Table, chain: &Chain) -> Vec<(IpAddr, Option<u16>)> {
    let parents =
        table.chains.iter().filter(|c| c.rules.iter().any(|r| r.leads_to() == Some(&chain.name)));
    let beside: BTreeSet<&str> = parents
        .flat_map(|p| &p.rules)
        .filter_map(|r| r.leads_to().filter(|to| *to != chain.name))
        .collect();
    let chains = table.chains.iter().filter(|c| beside.contains(c.name.as_str()));
    let targets = chains.flat_map(|c| &c.rules).filter_map(|r| match r.target {
        Target::Dnat { addr: Some(addr), port } => Some((addr, port)),
        _ => None,
    });
    targets.collect()
}

/// The endpoint is there, and listens at another port than the one that rules translate to.
pub(super) fn wrong_port(
    case: &Case<'_>,
    holder: Inum,
    (addr, port): (IpAddr, u16),
    listening: &[&Socket],
    finding: &Finding,
) -> Option<Finding> {
    let mut nat = case.ways.iter().flat_map(|w| &w.request.nat);
    let nat = nat.find(|n| (n.after.dst, n.after.dport) == (addr, port) && n.before.dst != addr)?;
    let rule = nat.rule.as_ref()?;
    if let Some(shadowed) = in_front::behind(case, nat) {
        let facts = finding.evidence.clone();
        let shadowed = Finding { journeys: finding.journeys.clone(), ..shadowed };
        return Some(shadowed.facts(facts).depth(finding.depth));
    }
    let ports: BTreeSet<u16> = listening.iter().map(|s| s.port).collect();
    if ports.is_empty() {
        return None;
    }
    let id = if is_port_mapping(&rule.chain) { finding.id } else { "svc-wrong-targetport" };
    let pod = case.state.netns_name(holder);
    let list: Vec<String> = ports.iter().map(u16::to_string).collect();
    let title = format!(
        "{}:{} leads to port {port} of {pod}, which listens at {} and not there",
        nat.before.dst,
        nat.before.dport,
        list.join(", ")
    );
    let place = place_of(case, nat.netns, rule);
    let mut wrong = Finding { id, title, place, steps: Vec::new(), ..finding.clone() }
        .fact(format!("{} {}", rule.chain, rule.text))
        .fix("# set the Service's targetPort (or the published container port) to the port that the application listens at");
    if let (1, Some(right)) = (ports.len(), ports.first()) {
        let text = rule.text.replace(&format!("{addr}:{port}"), &format!("{addr}:{right}"));
        // In a map of nftables.
        let text = text.replace(&format!("{addr} . {port}"), &format!("{addr} . {right}"));
        wrong.steps.extend(replace(case, nat.netns, rule, &text));
    }
    Some(wrong)
}

/// What takes one more client into the source ranges of a load balancer's address: kube-proxy's
/// chain for it translates whom they let in, and what it leaves is dropped for that alone.
pub(super) fn admit(case: &Case<'_>, netns: Inum, (src, dst): (IpAddr, IpAddr)) -> Vec<Step> {
    let Some(table) = nat_table(case, netns, dst) else { return Vec::new() };
    let is_its = |r: &&crate::firewall::Rule| {
        let aim = Match::Dst { nets: vec![(dst, full(dst))], not: false };
        r.matches.contains(&aim)
    };
    let rules = table.chains.iter().flat_map(|c| &c.rules).filter(is_its);
    let ranges = rules.filter_map(firewall::Rule::leads_to).find(|to| to.starts_with(RANGES));
    let chain = ranges.and_then(|name| table.chains.iter().find(|c| c.name == name));
    let to = chain.and_then(|c| c.rules.iter().find_map(firewall::Rule::leads_to));
    let (Some(chain), Some(to)) = (chain, to) else { return Vec::new() };
    let spec = argv!["-s", Word::net((src, full(src))), "-j", Foreign(to)];
    vec![ChainAt::of(table, chain).edit(Edit::Insert(None, Spec(spec))).at(netns)]
}

/// Where kube-proxy has its Services.
const PORTAL: &str = "KUBE-SERVICES";
/// Where it has the node's own ports.
const NODE_PORTS: &str = "KUBE-NODEPORTS";

/// What leads to a Service's chain again, where that is still there.
pub(super) fn reconnect(case: &Case<'_>, netns: Inum, dst: (IpAddr, u16)) -> Vec<Step> {
    if kube_nft::table(case, netns, dst.0).is_some() {
        return kube_nft::reconnect(case, netns, dst);
    }
    reconnected(case, netns, dst.0, &|service| service == dst)
}

/// The same, for every Service that nothing leads to.
pub(super) fn reconnect_all(case: &Case<'_>, netns: Inum, dst: IpAddr) -> Vec<Step> {
    let mut steps = reconnected(case, netns, dst, &|_| true);
    let Some(table) = nat_table(case, netns, dst).filter(|_| !steps.is_empty()) else {
        return steps;
    };
    if orphans(table).any(|c| c.name == NODE_PORTS) {
        let spec = argv!["-m", "addrtype", "--dst-type", "LOCAL", "-j", NODE_PORTS];
        let at = ChainAt::named(table, PORTAL);
        steps.push(at.edit(Edit::Append(Spec(spec))).at(netns));
    }
    steps
}

fn reconnected(
    case: &Case<'_>,
    netns: Inum,
    dst: IpAddr,
    is_wanted: &dyn Fn((IpAddr, u16)) -> bool,
) -> Vec<Step> {
    let Some(table) = nat_table(case, netns, dst) else { return Vec::new() };
    if !table.chains.iter().any(|c| c.name == PORTAL) {
        return Vec::new();
    }
    let lost = unreached(table).filter(|(_, (addr, _, port))| is_wanted((*addr, *port)));
    lost.map(|(chain, (addr, proto, port))| {
        let spec = argv!["-d", Word::net((addr, full(addr))), "-p", proto, "-m", proto].and(argv![
            "--dport",
            port,
            "-j",
            Foreign(&chain.name)
        ]);
        ChainAt::named(table, PORTAL).edit(Edit::Insert(None, Spec(spec))).at(netns)
    })
    .collect()
}

/// Chains of Services that the portal does not lead to. Their NodePort's chain may.
fn unreached(table: &Table) -> impl Iterator<Item = (&Chain, (IpAddr, &'static str, u16))> {
    let portal = table.chains.iter().find(|c| c.name == PORTAL);
    let known: BTreeSet<&str> =
        portal.iter().flat_map(|c| &c.rules).filter_map(firewall::Rule::leads_to).collect();
    table.chains.iter().filter_map(move |chain| {
        let is_lost = chain.hook.is_none()
            && chain.name.starts_with("KUBE-SVC-")
            && !known.contains(chain.name.as_str())
            && translates(table, &chain.name);
        is_lost.then_some((chain, service_of(chain)?))
    })
}
