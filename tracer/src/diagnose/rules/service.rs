//! Services whose rules lead nowhere: to an endpoint that is gone, to a port at which nobody
//! listens, or, for a ping, nowhere by nature. And what leads to their endpoints again.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::located::{located, place_of, replace};
use super::{Case, Finding, Rule, in_front, kube_nft, local_endpoint};
use crate::diagnose::remedy::{ChainAt, Edit, Foreign, Spec, Step, Word, argv, full};
use crate::diagnose::walk::{Nat, RuleRef};
use crate::diagnose::{Met, Method, Scenario, Severity, Where, place};
use crate::firewall::{Chain, Flavour, Match, Table, Target};
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
    let mut place = Where::netns(case.state, nat.netns);
    place.table = Some(rule.table.clone());
    place.chain = Some(rule.chain.clone());
    let own = Word::net((src, full(src)));
    let spec = Spec(argv!["-s", own.clone(), "-d", own, "-j", "MASQUERADE"]);
    let masquerade = super::egress::nat_chain(case, nat.netns, src, "POSTROUTING")
        .edit(Edit::Insert(None, spec));
    Some(
        met.finding(case, "svc-hairpin-unmasqueraded", title)
            .at(place)
            .fact(format!("{} {}", rule.chain, rule.text))
            .fact(format!("no rule of {} masquerades {src} on its way to {src}", case.state.netns_name(nat.netns)))
            .fix("# restart kube-proxy: its rules for each endpoint mark what comes from it; until then:")
            .fix(masquerade.at(nat.netns)),
    )
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

/// Somebody has the address, or a packet gets there.
pub(super) fn is_alive(case: &Case<'_>, addr: IpAddr) -> bool {
    case.state.holders(addr).next().is_some()
        || case.ways.iter().any(|w| {
            w.request.is_clear() && w.request.ask.dst != addr && {
                w.request.nat.last().is_some_and(|n| n.after.dst == addr)
            }
        })
}

/// Where the chains beside this one translate to: the other endpoints of its Service.
fn siblings(table: &Table, chain: &Chain) -> Vec<(IpAddr, Option<u16>)> {
    let parents = table.chains.iter().filter(|c| c.rules.iter().any(|r| jumps_to(r, &chain.name)));
    let beside: BTreeSet<&str> = parents
        .flat_map(|p| &p.rules)
        .filter_map(|r| jump(r).filter(|to| *to != chain.name))
        .collect();
    let chains = table.chains.iter().filter(|c| beside.contains(c.name.as_str()));
    let targets = chains.flat_map(|c| &c.rules).filter_map(|r| match r.target {
        Target::Dnat { addr: Some(addr), port } => Some((addr, port)),
        _ => None,
    });
    targets.collect()
}

fn jump(rule: &crate::firewall::Rule) -> Option<&str> {
    match &rule.target {
        Target::Jump(to) | Target::Goto(to) => Some(to),
        _ => None,
    }
}

fn jumps_to(rule: &crate::firewall::Rule, chain: &str) -> bool {
    jump(rule) == Some(chain)
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

/// The table of iptables that translates, of the family of `addr`.
pub(super) fn nat_table<'a>(case: &Case<'a>, netns: Inum, addr: IpAddr) -> Option<&'a Table> {
    let family = if addr.is_ipv4() { "ip" } else { "ip6" };
    let of_iptables =
        |t: &&Table| matches!(t.flavour, Flavour::IptablesNft | Flavour::IptablesLegacy);
    let mut tables = case.detail(netns)?.firewall.tables.iter().filter(of_iptables);
    let is_nat = |t: &&Table| t.name == "nat" && t.family == family;
    // Two flavours may be there: the one with more in it is in use.
    let rules = |t: &&Table| t.chains.iter().map(|c| c.rules.len()).sum::<usize>();
    tables.by_ref().filter(is_nat).max_by_key(rules)
}

/// Packets that enter the chain may be translated there or in what it leads to.
pub(super) fn translates(table: &Table, chain: &str) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![chain]);
    while let Some(name) = open.pop() {
        if !seen.insert(name) {
            continue;
        }
        let Some(chain) = table.chains.iter().find(|c| c.name == name) else { continue };
        if chain.rules.iter().any(|r| matches!(r.target, Target::Dnat { .. })) {
            return true;
        }
        open.extend(chain.rules.iter().filter_map(jump));
    }
    false
}

/// Chains that translate and that nothing leads to.
pub(super) fn orphans(table: &Table) -> impl Iterator<Item = &Chain> {
    let used: BTreeSet<&str> =
        table.chains.iter().flat_map(|c| &c.rules).filter_map(jump).collect();
    table.chains.iter().filter(move |c| {
        c.hook.is_none() && !used.contains(c.name.as_str()) && translates(table, &c.name)
    })
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
    let ranges = rules.filter_map(jump).find(|to| to.starts_with(RANGES));
    let chain = ranges.and_then(|name| table.chains.iter().find(|c| c.name == name));
    let to = chain.and_then(|c| c.rules.iter().find_map(jump));
    let (Some(chain), Some(to)) = (chain, to) else { return Vec::new() };
    let spec = argv!["-s", Word::net((src, full(src))), "-j", Foreign(to)];
    vec![ChainAt::of(table, chain).edit(Edit::Insert(None, Spec(spec))).at(netns)]
}

/// The Service that a chain is about: kube-proxy names its address again where it marks packets
/// for masquerading.
pub(super) fn service_of(chain: &Chain) -> Option<(IpAddr, &'static str, u16)> {
    chain.rules.iter().find_map(|rule| {
        let find = |pick: &dyn Fn(&Match) -> Option<u32>| rule.matches.iter().find_map(pick);
        let addr = rule.matches.iter().find_map(|m| match m {
            Match::Dst { nets, not: false } => match nets.as_slice() {
                [(addr, 32 | 128)] => Some(*addr),
                _ => None,
            },
            _ => None,
        })?;
        let proto = find(&|m| match m {
            Match::Proto { number, not: false } => Some(u32::from(*number)),
            _ => None,
        })?;
        let port = find(&|m| match m {
            Match::Dport { ranges, not: false } => match ranges.as_slice() {
                [(a, b)] if a == b => Some(u32::from(*a)),
                _ => None,
            },
            _ => None,
        })?;
        let proto = match proto {
            6 => "tcp",
            17 => "udp",
            132 => "sctp",
            _ => return None,
        };
        Some((addr, proto, u16::try_from(port).ok()?))
    })
}

/// A rule by which kube-proxy refuses what has no endpoint, or none on this node.
pub(super) fn says_no_endpoints(rule: &RuleRef) -> bool {
    rule.text.contains("has no endpoints")
        || rule.comment.as_deref().is_some_and(|c| c.contains("has no endpoints"))
        || kube_nft::is_empty_service(rule)
        || local_endpoint::says(rule)
}

/// A rule by which kube-proxy refuses a Service's address in place of translating it.
pub(super) fn refuses(rule: &RuleRef) -> bool {
    says_no_endpoints(rule) || is_source_range(rule)
}

/// A rule for clients that the source ranges of a load balancer leave out.
pub(super) fn is_source_range(rule: &RuleRef) -> bool {
    kube_nft::is_source_range(rule)
        || rule.chain.contains("KUBE-PROXY-FIREWALL")
        || rule.chain.starts_with(RANGES)
}

/// Where kube-proxy has its Services.
const PORTAL: &str = "KUBE-SERVICES";
/// What the chains of source ranges are named by.
const RANGES: &str = "KUBE-FW-";
/// And those of the node's own ports.
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
    let known: BTreeSet<&str> = portal.iter().flat_map(|c| &c.rules).filter_map(jump).collect();
    table.chains.iter().filter_map(move |chain| {
        let is_lost = chain.hook.is_none()
            && chain.name.starts_with("KUBE-SVC-")
            && !known.contains(chain.name.as_str())
            && translates(table, &chain.name);
        is_lost.then_some((chain, service_of(chain)?))
    })
}

/// The outermost chain above `chain` that is not hooked in.
pub(super) fn outermost(table: &Table, chain: &str) -> String {
    let mut top = chain.to_owned();
    for _ in 0..table.chains.len() {
        let above = table
            .chains
            .iter()
            .find(|c| c.hook.is_none() && c.rules.iter().any(|r| jumps_to(r, &top)));
        match above {
            Some(above) => top.clone_from(&above.name),
            None => break,
        }
    }
    top
}
