//! Packets that a firewall rule, or the policy of a chain, does not let through.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::met::{each, in_netns};
use super::{Case, Finding, Rule, in_front, kube_nft, service};
use crate::diagnose::case::{Purpose, REPLY_DEPTH};
use crate::diagnose::walk::{Leg, ObstacleKind as Kind, RuleRef};
use crate::diagnose::{Confidence, Direction, Drop, Met, Scenario, Where, place};
use crate::event::Tcp;
use crate::firewall::{self, Firewall, Flavour, Policy, Stateful, Table};
use crate::journey::{Hook, Layer};
use crate::net::Inum;

pub(super) const RULE: Rule = Rule {
    id: "firewall-drop",
    covers: &[
        "firewall-drop",
        "forward-policy-drop",
        "forward-policy-drop-remote",
        "svc-forward-policy-drop",
        "firewalld-forward-reject",
        "iptables-other-backend-drop",
        "conntrack-invalid-drop",
        "underlay-vxlan-input-drop",
        "input-drop",
        "output-drop",
        "netpol-ingress-drop",
        "netpol-ingress-reject",
        "netpol-ipset-stale",
        "netpol-port-mismatch",
        "dns-no-endpoints",
        "dns-udp-egress-blocked",
        "svc-no-endpoints",
        "nodeport-raw-firewall",
        "nodeport-forward-drop",
        "nodeport-lb-source-ranges",
        "docker-rules-flushed",
        "docker-user-drop",
        "docker-icc-off",
        "docker-isolation",
        "egress-upstream-drop",
    ],
    check,
    explain: "A rule of the node's firewall, or the policy at the end of a chain, drops the packet. \
              DROP is silent, REJECT tells the sender. FORWARD with policy DROP is normal beside \
              Docker and Kubernetes as long as their own rules accept their traffic first; when \
              those rules are flushed or reordered, the policy takes everything.",
};

/// Where a packet ended, and by which rule.
struct Blocked<'a> {
    netns: Inum,
    hook: Option<Hook>,
    rule: RuleRef,
    is_reject: bool,
    direction: Direction,
    firewall: Option<&'a Firewall>,
    dst: Option<(IpAddr, u16)>,
}

fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = each(case, walked);
    let stopped: BTreeSet<_> =
        findings.iter().filter(|f| !is_of_reply(f)).map(|f| (f.id, f.place.netns)).collect();
    // Rules of one kind take both directions: the one that takes the request is enough.
    findings.retain(|f| !is_of_reply(f) || !stopped.contains(&(f.id, f.place.netns)));
    for drop in case.drops().filter(|d| is_firewalls(d) && !is_beside(case, d)) {
        findings.extend(seen(case, &drop, &findings));
    }
    findings
}

fn is_of_reply(finding: &Finding) -> bool {
    finding.depth >= REPLY_DEPTH
}

fn walked(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    // What drops the error about a packet's length is told with the length.
    if met.obstacle.leg == Leg::Error {
        return None;
    }
    let (hook, rule, is_reject, why) = match &met.obstacle.kind {
        Kind::Filtered { hook, rule, is_reject } => (hook, rule, *is_reject, None),
        Kind::MayBeFiltered { hook, rule, why } => (hook, rule, false, Some(why)),
        _ => return None,
    };
    let netns = met.obstacle.place.netns;
    if is_untranslated(case, (netns, *hook), rule) {
        return None;
    }
    // What may drop is worth telling only where a drop was seen.
    let is_it = |d: &Drop<'_>| is_firewalls(d) && d.hop.netns == netns && !is_beside(case, d);
    let dropped = case.drops().find(is_it);
    // Nobody watches ARP: what may drop that is a guess.
    if why.is_some() && dropped.is_none() && met.obstacle.leg == Leg::Packet {
        return None;
    }
    let blocked = Blocked {
        netns,
        hook: *hook,
        rule: rule.clone(),
        is_reject,
        direction: met.direction,
        firewall: case.detail(netns).map(|d| &d.firewall),
        dst: Some((met.walk.ask.dst, met.walk.ask.dport)),
    };
    let (id, title) = blocked.name(case);
    let id = if met.way.purpose == Purpose::Upstream { "dns-upstream-unreachable" } else { id };
    let mut finding = invalid(case, met, blocked.fill(case, met.finding(case, id, title)));
    if let Some(drop) = dropped {
        finding = finding.fact(drop.fact()).journeys([drop.journey.id]);
        finding.confidence = if why.is_some() { Confidence::Likely } else { Confidence::Certain };
    }
    Some(finding)
}

/// By a rule, or by the queue that a rule hands packets to.
fn is_firewalls(drop: &Drop<'_>) -> bool {
    drop.reason == "NETFILTER_DROP" || in_front::is_queues(drop)
}

/// Of an echo where a port was asked for, which decides nothing: an address of which only ports are
/// open may refuse it.
fn is_beside(case: &Case<'_>, drop: &Drop<'_>) -> bool {
    let Some(first) = drop.journey.first else { return false };
    let is_echo = first.icmp().is_some_and(|i| matches!(i.kind, 8 | 128));
    let decides = case.probes.iter().any(|p| p.decides() && p.sent(&first.tuple));
    is_echo && !case.probes.is_empty() && !decides
}

/// A Service's address that was not translated goes where it was never meant to, and is dropped
/// there as any other, or as a Service that is none.
fn is_untranslated(case: &Case<'_>, (netns, hook): (Inum, Option<Hook>), rule: &RuleRef) -> bool {
    let mut met = case.obstacles().filter(|m| m.obstacle.place.netns == netns);
    let is_behind = hook != Some(Hook::Prerouting) && !service::says_no_endpoints(rule);
    is_behind
        && met.any(|m| {
            let is_it = matches!(m.obstacle.kind, Kind::Untranslated { .. });
            is_it && (m.obstacle.stops() || rule.table == kube_nft::TABLE)
        })
}

/// What the rule holds against the packet is that conntrack does not know its connection: what took
/// the other direction past conntrack is the cause.
fn invalid(case: &Case<'_>, met: &Met<'_>, mut finding: Finding) -> Finding {
    let obstacles = &met.walk.steps[met.step].obstacles;
    let untracked = obstacles.iter().find_map(|o| match &o.kind {
        Kind::Untracked { rule } => Some(rule.as_ref()),
        _ => None,
    });
    let (Some(untracked), Some(netns)) = (untracked, met.netns(case)) else { return finding };
    let node = &netns.name;
    let Some(rule) = untracked else {
        return finding.fact(format!(
            "conntrack of {node} has not seen the other direction, which takes another way"
        ));
    };
    finding.title = format!(
        "{node} keeps the request from conntrack, and drops the answer as one to nothing: {}",
        rule.text
    );
    let Where { netns: inum, netns_name, dev, .. } = finding.place;
    finding.place = Where {
        netns: inum,
        netns_name,
        dev,
        hook: [Hook::Prerouting, Hook::Output]
            .map(Hook::name)
            .into_iter()
            .find(|h| rule.chain.eq_ignore_ascii_case(h)),
        table: Some(rule.table.clone()),
        chain: Some(rule.chain.clone()),
        rule: Some(rule.text.clone()),
        ..Where::default()
    };
    finding.fix = vec![delete(case, netns.inum, rule)];
    finding.fact(format!("{} of {node}: {}", rule.table, rule.text))
}

/// A drop that was seen and that no walk foretold.
fn seen(case: &Case<'_>, drop: &Drop<'_>, known: &[Finding]) -> Option<Finding> {
    if known.iter().any(|f| f.place.netns == Some(drop.hop.netns)) {
        return None;
    }
    let hook = drop.hop.hook.or_else(|| drop.journey.dropped.as_ref().and_then(|d| d.hook));
    let rule = attribute(case, drop, hook);
    let Some(rule) = rule else { return Some(anonymous(case, drop, hook)) };
    if is_untranslated(case, (drop.hop.netns, hook), &rule) {
        return None;
    }
    let blocked = Blocked {
        netns: drop.hop.netns,
        hook,
        is_reject: drop.icmp().is_some(),
        rule,
        direction: drop.direction,
        firewall: case.detail(drop.hop.netns).map(|d| &d.firewall),
        dst: drop.tuple().map(|t| (t.dst, t.dport)),
    };
    let (id, title) = blocked.name(case);
    let mut at = Where::netns(case.state, drop.hop.netns);
    at.dev = drop.dev().map(str::to_owned);
    let finding = Finding::error(id, case.scenario(), title)
        .at(at)
        .fact(drop.fact())
        .journeys([drop.journey.id])
        .depth(case.depth_of(drop));
    Some(blocked.fill(case, finding))
}

/// What makes the kernel itself drop in a hook (a redirect that it does not send, a source that it
/// may not route, a packet that conntrack refuses): a drop without a rule follows from it.
const CAUSES: &[&str] = &[
    "bridge-nf-call-iptables-off",
    "dns-same-node-bridge-nf-off",
    "nodeport-route-localnet-off",
    "checksum-corrupted",
    "dns-checksum-corrupted",
    // `ip_vs_leave` answers with an ICMP error and has the packet dropped.
    "ipvs-no-destination",
];

/// Dropped in a hook by what cannot be named.
fn anonymous(case: &Case<'_>, drop: &Drop<'_>, hook: Option<Hook>) -> Finding {
    let node = &drop.hop.netns_name;
    let at = hook.map_or("a netfilter hook", Hook::title);
    let mut place = Where::netns(case.state, drop.hop.netns);
    place.dev = drop.dev().map(str::to_owned);
    place.hook = hook.map(Hook::name);
    let what = if drop.function == "nft_do_chain" {
        "a rule of nftables or iptables-nft"
    } else {
        "a rule of iptables-legacy, or NAT or conntrack themselves,"
    };
    Finding::error(RULE.id, case.scenario(), format!("{what} in {node} drops the packet at {at}"))
        .confidence(Confidence::Likely)
        .at(place)
        .fact(drop.fact())
        .fix(format!("# {}", in_netns(case, drop.hop.netns, "nft list ruleset")))
        .journeys([drop.journey.id])
        .depth(case.depth_of(drop))
        .follows(CAUSES)
}

/// The rule by which the configuration says that this packet ends there.
fn attribute(case: &Case<'_>, drop: &Drop<'_>, hook: Option<Hook>) -> Option<RuleRef> {
    if let Some(rule) = &drop.hop.rule {
        return Some(named(rule));
    }
    let (netns, detail) = (case.netns(drop.hop.netns)?, case.detail(drop.hop.netns)?);
    let tuple = drop.tuple()?;
    let locals: BTreeSet<IpAddr> =
        netns.devices.values().flat_map(|d| &d.addresses).map(|(a, _)| *a).collect();
    let dev = drop.hop.dev.as_ref();
    let master = drop.hop.master.as_deref();
    let is_bridged = drop.hop.layer == Some(Layer::Bridge);
    let inside = dev.map(|d| d.name.as_str());
    let out = drop.hop.out_dev.as_ref().map(|d| d.name.as_str()).or_else(|| {
        // The drop itself names one device alone.
        let is_out = matches!(hook?, Hook::Forward | Hook::Output | Hook::Postrouting);
        drop.route().filter(|_| is_out && !is_bridged)?.dev.as_ref().map(|d| d.name.as_str())
    });
    let flags = drop.journey.first.and_then(|h| h.tcp().map(|t| t.flags)).unwrap_or(Tcp::SYN);
    let packet = firewall::Packet {
        src: tuple.src,
        dst: tuple.dst,
        proto: tuple.proto.number(),
        sport: if tuple.proto.is_icmp() { 0 } else { tuple.sport },
        dport: if tuple.proto.is_icmp() { 0 } else { tuple.dport },
        icmp: drop.journey.first.and_then(|h| h.icmp().map(|i| (i.kind, i.code))),
        tcp_flags: flags,
        mark: drop.hop.mark,
        // What is sent on a connection that is made has an ACK, as its answers have.
        ct: if drop.direction == Direction::Request && flags & Tcp::ACK == 0 {
            Stateful::New
        } else {
            Stateful::Established
        },
        orig_dst: drop.journey.first.map(|h| (h.tuple.dst, h.tuple.dport)),
        is_dnat: drop.journey.nat.iter().any(|n| n.kind.is_destination()),
        is_fragment: false,
        frame: firewall::Frame::default(),
    };
    let at = firewall::At {
        hook: hook?,
        is_bridged,
        iif: if is_bridged { master } else { inside },
        oif: if is_bridged { master } else { out },
        phys_in: if is_bridged { inside } else { None },
        phys_out: if is_bridged { out } else { None },
        locals: &locals,
    };
    let fw = &detail.firewall;
    let at_device =
        |dev, is_ingress| firewall::traverse_device(fw, &packet, &at, (dev, is_ingress));
    let at_devices =
        [inside.map(|dev| at_device(dev, true)), out.or(inside).map(|dev| at_device(dev, false))];
    let met = std::iter::once(firewall::traverse(fw, &packet, &at))
        .chain(at_devices.into_iter().flatten());
    let hit = |traversal: firewall::Traversal<'_>| match traversal.end {
        firewall::End::Drop(hit) | firewall::End::Reject(hit, _) => Some(reference(&hit)),
        firewall::End::Queue(_) | firewall::End::Accept => {
            traversal.maybe.into_iter().next().map(|hit| reference(&hit))
        }
    };
    met.filter_map(hit).next()
}

fn reference(hit: &firewall::Hit<'_>) -> RuleRef {
    RuleRef {
        flavour: hit.table.flavour,
        family: hit.table.family.clone(),
        table: hit.table.name.clone(),
        command: hit.table.command.clone(),
        via: hit.via.iter().map(|c| (*c).to_owned()).collect(),
        chain: hit.chain.name.clone(),
        number: hit.rule.map(|r| r.number),
        handle: hit.rule.and_then(|r| r.handle),
        text: hit.rule.map_or_else(|| "policy drop".to_owned(), |r| r.text.clone()),
        comment: hit.rule.and_then(|r| r.comment.clone()),
        counter: hit.rule.and_then(|r| r.counter).or(hit.chain.counter),
    }
}

fn named(rule: &crate::journey::Rule) -> RuleRef {
    RuleRef {
        flavour: Flavour::IptablesNft,
        family: "ip".to_owned(),
        table: rule.table.clone(),
        command: "iptables".to_owned(),
        via: Vec::new(),
        chain: rule.chain.clone(),
        number: None,
        handle: rule.handle,
        text: rule.text.clone(),
        comment: rule.comment.clone(),
        counter: None,
    }
}

impl Blocked<'_> {
    fn is_policy(&self) -> bool {
        self.rule.number.is_none() && self.rule.handle.is_none()
    }

    /// The id that fits best, and a sentence.
    fn name(&self, case: &Case<'_>) -> (&'static str, String) {
        let node = case.state.netns_name(self.netns);
        let RuleRef { chain, table, text, comment, .. } = &self.rule;
        let said = comment.as_deref().map(|c| format!(" \"{c}\"")).unwrap_or_default();
        let what = if self.is_policy() {
            format!("the policy of {table}/{chain} in {node} drops")
        } else {
            let verb = match () {
                () if in_front::is_queue(text) => "hands to a queue that no program reads",
                () if self.is_reject => "rejects",
                () => "drops",
            };
            format!("a rule of {table}/{chain}{said} in {node} {verb}")
        };
        let way = if self.direction == Direction::Request { "the packet" } else { "the reply" };
        let title = match self.is_policy() {
            true => format!("{what} {way}: no rule before it accepts it"),
            false => format!("{what} {way}: {text}"),
        };
        (self.id(case), title)
    }

    fn id(&self, case: &Case<'_>) -> &'static str {
        let RuleRef { chain, table, text, flavour, .. } = &self.rule;
        let is_dns = case.scenario() == Scenario::Dns || self.dst.is_some_and(|d| d.1 == 53);
        let is_docker = case.is_docker_host(self.netns);
        if service::says_no_endpoints(&self.rule) {
            return if is_dns { "dns-no-endpoints" } else { "svc-no-endpoints" };
        }
        if in_front::is_queue(text) {
            return "queue-unserved";
        }
        if text.contains("INVALID") || text.contains("ct state invalid") {
            return "conntrack-invalid-drop";
        }
        if chain.starts_with("DOCKER-ISOLATION") {
            return "docker-isolation";
        }
        if chain == "DOCKER-USER" {
            return "docker-user-drop";
        }
        if is_docker && text.contains("-i docker0") && text.contains("-o docker0") {
            return "docker-icc-off";
        }
        if chain.contains("KUBE-PROXY-FIREWALL") || chain.starts_with("KUBE-FW-") {
            return "nodeport-lb-source-ranges";
        }
        let is_other_backend = *flavour == Flavour::IptablesLegacy
            && self.has(|t| has_kube(t) && t.flavour == Flavour::IptablesNft)
            || *flavour == Flavour::IptablesNft
                && self.has(|t| has_kube(t) && t.flavour == Flavour::IptablesLegacy);
        if is_other_backend && !self.has(|t| t.flavour == *flavour && has_kube(t)) {
            return "iptables-other-backend-drop";
        }
        if is_policy_chain(chain) {
            return self.network_policy(text, is_dns);
        }
        if self.is_beyond(case) {
            return "egress-upstream-drop";
        }
        let is_ingress = case.scenario() == Scenario::Ingress;
        match (self.hook, table.as_str()) {
            (Some(Hook::Prerouting), "raw") if is_ingress => "nodeport-raw-firewall",
            (Some(Hook::Input), _) if text.contains("8472") || text.contains("4789") => {
                "underlay-vxlan-input-drop"
            }
            (Some(Hook::Input), _) => "input-drop",
            (Some(Hook::Output), _) => "output-drop",
            (Some(Hook::Forward), _) if self.is_policy() => self.policy(case, is_docker),
            (Some(Hook::Forward), _) if self.is_reject && text.contains("prohibited") => {
                "firewalld-forward-reject"
            }
            (Some(Hook::Forward), _) if is_ingress && !is_docker => "nodeport-forward-drop",
            (Some(Hook::Forward), _) if is_dns => "dns-udp-egress-blocked",
            _ => RULE.id,
        }
    }

    /// A request for the outside is dropped where neither its node nor its destination is.
    fn is_beyond(&self, case: &Case<'_>) -> bool {
        let Some(target) = &case.target else { return false };
        let own = place::node_of(case.state, target.netns);
        case.scenario() == Scenario::Egress
            && self.direction == Direction::Request
            && own.is_some_and(|own| own != self.netns)
            && self.netns != target.netns
    }

    fn policy(&self, case: &Case<'_>, is_docker: bool) -> &'static str {
        let from = case.target.as_ref().map(|t| t.netns);
        let own = from.and_then(|f| place::node_of(case.state, f)).or(from);
        match () {
            () if is_docker => "docker-rules-flushed",
            () if case.scenario() == Scenario::Service => "svc-forward-policy-drop",
            () if own.is_some_and(|own| own != self.netns) => "forward-policy-drop-remote",
            () => "forward-policy-drop",
        }
    }

    fn network_policy(&self, text: &str, is_dns: bool) -> &'static str {
        // A rule that accepts the same pod at another port says what was meant.
        let has_port_rule = self.firewall.is_some_and(|fw| {
            let chains =
                fw.tables.iter().flat_map(|t| &t.chains).filter(|c| c.name == self.rule.chain);
            let mut rules = chains.flat_map(|c| &c.rules);
            rules.any(|r| {
                r.target == firewall::Target::Accept
                    && r.matches.iter().any(|m| matches!(m, firewall::Match::Dport { .. }))
                    && self.names_same(r)
            })
        });
        match () {
            () if is_dns && text.contains("53") => "dns-udp-egress-blocked",
            () if text.contains("match-set") || text.contains('@') => "netpol-ipset-stale",
            () if has_port_rule => "netpol-port-mismatch",
            () if self.is_reject => "netpol-ingress-reject",
            () => "netpol-ingress-drop",
        }
    }

    /// The rule is about the same destination.
    fn names_same(&self, rule: &firewall::Rule) -> bool {
        rule.matches.iter().any(|m| match m {
            firewall::Match::Dst { nets, .. } => {
                nets.iter().any(|(a, len)| *len == 32 && self.rule.text.contains(&a.to_string()))
            }
            _ => false,
        })
    }

    fn has(&self, is: impl Fn(&Table) -> bool) -> bool {
        self.firewall.is_some_and(|fw| fw.tables.iter().any(is))
    }

    fn fill(&self, case: &Case<'_>, mut finding: Finding) -> Finding {
        let rule = &self.rule;
        // A rule against fragments meets packets for a reason.
        if rule.text.contains("frag") {
            finding = finding.follows(&["vxlan-fragments-dropped"]);
        }
        finding.place.hook = self.hook.map(Hook::name);
        // A chain at devices has a hook of its own.
        let devices =
            located(case, self.netns, rule).and_then(|(_, chain, _)| chain.devices.as_ref());
        if let Some(devices) = devices {
            finding.place.hook = Some(if devices.is_ingress { "ingress" } else { "egress" });
        }
        finding.place.table = Some(rule.table.clone());
        finding.place.chain = Some(rule.chain.clone());
        finding.place.rule = (!self.is_policy()).then(|| rule.text.clone());
        let node = case.state.netns_name(self.netns);
        if is_policy_chain(&rule.chain)
            || rule.chain == "DOCKER-USER"
            || finding.id == "docker-isolation"
        {
            finding.scenario = Scenario::Policy;
        }
        finding = match self.is_policy() {
            true => finding.fact(format!("{} {} of {node}: policy DROP", rule.table, rule.chain)),
            false => finding.fact(format!("{} of {node}: {}", rule.table, rule.text)),
        };
        if let Some(counter) = rule.counter.filter(|c| c.packets > 0) {
            finding = finding.fact(format!("it has counted {} packets", counter.packets));
        }
        if finding.id == "docker-isolation" {
            return finding.fix("# networks of Docker are isolated on purpose: connect the container to the other network (docker network connect)");
        }
        if finding.id.ends_with("no-endpoints") {
            finding = finding.fix("# no pod is ready behind this Service: kubectl get endpointslices; fix its selector, or start its pods");
            // Rejecting is right as long as no endpoint is known.
            let again = self.dst.map(|dst| service::reconnect(case, self.netns, dst));
            let Some(again) = again.filter(|a| !a.is_empty()) else { return finding };
            finding = again.into_iter().fold(finding, Finding::fix);
        }
        if finding.id == "queue-unserved" {
            finding = finding.fix(in_front::QUEUE_ADVICE);
        }
        finding.fix(delete(case, self.netns, rule))
    }
}

fn has_kube(table: &Table) -> bool {
    table.chains.iter().any(|c| c.name.starts_with("KUBE-") || c.name.starts_with("FLANNEL"))
}

/// Chains that network policies are written into.
fn is_policy_chain(chain: &str) -> bool {
    ["KUBE-POD-FW-", "KUBE-NWPLCY-", "KUBE-ROUTER-", "cali-", "NETPOL", "WEAVE-NPC"]
        .iter()
        .any(|start| chain.starts_with(start))
}

/// The command that removes a rule, or lets a chain's policy accept.
pub(super) fn delete(case: &Case<'_>, netns: Inum, rule: &RuleRef) -> String {
    let found = located(case, netns, rule).map(|(table, chain, own)| match own {
        None => firewall::policy_command(table, chain, Policy::Accept),
        Some(own) => firewall::delete_command(table, chain, own),
    });
    match found {
        Some(command) => in_netns(case, netns, &command),
        None => format!("# remove from {}/{}: {}", rule.table, rule.chain, rule.text),
    }
}

/// The command that puts `text` in the place of a rule.
pub(super) fn replace(case: &Case<'_>, netns: Inum, rule: &RuleRef, text: &str) -> Option<String> {
    let (table, chain, own) = located(case, netns, rule)?;
    let command = firewall::replace_command(table, chain, own?, text)?;
    Some(in_netns(case, netns, &command))
}

/// A rule where it was read; without a rule, the chain whose policy it is.
pub(super) fn located<'a>(
    case: &Case<'a>,
    netns: Inum,
    rule: &RuleRef,
) -> Option<(&'a Table, &'a firewall::Chain, Option<&'a firewall::Rule>)> {
    let is_its =
        |t: &&Table| t.flavour == rule.flavour && t.family == rule.family && t.name == rule.table;
    let mut tables = case.detail(netns)?.firewall.tables.iter().filter(is_its);
    tables.find_map(|table| {
        let chain = table.chains.iter().find(|c| c.name == rule.chain)?;
        if rule.number.is_none() && rule.handle.is_none() {
            return Some((table, chain, None));
        }
        let own = chain.rules.iter().find(|r| {
            r.text == rule.text && (rule.number.is_none() || rule.number == Some(r.number))
        })?;
        Some((table, chain, Some(own)))
    })
}
