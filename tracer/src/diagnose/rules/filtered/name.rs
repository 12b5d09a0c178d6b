//! What a rule that drops is there for, as far as its place and its words tell: the id, the title
//! and what heals it.

use super::{Blocked, RULE};
use crate::diagnose::case::Purpose;
use crate::diagnose::remedy::{Step, allow};
use crate::diagnose::rules::located::{delete, located};
use crate::diagnose::rules::{conntrack, in_front, kube_nft, local_endpoint, refusal, service};
use crate::diagnose::walk::RuleRef;
use crate::diagnose::{Case, Direction, Finding, Probed, Scenario, Severity, place, show};
use crate::firewall::{self, Flavour, Table};
use crate::journey::Hook;

impl Blocked<'_> {
    pub(super) fn is_policy(&self) -> bool {
        self.rule.number.is_none() && self.rule.handle.is_none()
    }

    /// The id that fits best, and a sentence.
    pub(super) fn name(&self, case: &Case<'_>) -> (&'static str, String) {
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
        match self.id(case) {
            local_endpoint::ID => (
                local_endpoint::ID,
                local_endpoint::title(case, (self.netns, &self.rule), self.dst),
            ),
            id if id.ends_with("no-endpoints") => (id, self.empty(case).unwrap_or(title)),
            id => (id, title),
        }
    }

    /// The Service that has no endpoints, where the rule itself does not name it: in nftables mode
    /// one rule rejects for all.
    fn empty(&self, case: &Case<'_>) -> Option<String> {
        let service = kube_nft::empty_service(case, self.netns, self.dst?)?;
        let node = case.state.netns_name(self.netns);
        Some(format!("Service {service} has no endpoints: {node} refuses what comes to it"))
    }

    /// What is dropped is the word that a packet was too long.
    pub(super) fn silences(&self, case: &Case<'_>) -> String {
        let node = case.state.netns_name(self.netns);
        let text = &self.rule.text;
        format!("{node} drops what tells senders that their packets are too long: {text}")
    }

    fn id(&self, case: &Case<'_>) -> &'static str {
        let RuleRef { chain, table, text, flavour, .. } = &self.rule;
        let is_dns = case.scenario() == Scenario::Dns || self.dst.is_some_and(|d| d.1 == 53);
        let is_docker = case.is_docker_host(self.netns);
        if local_endpoint::says(&self.rule) {
            return local_endpoint::ID;
        }
        if refusal::says_no_endpoints(&self.rule) {
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
        if refusal::is_source_range(&self.rule) {
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
            () if is_docker && self.is_containers(case) => "docker-rules-flushed",
            () if case.scenario() == Scenario::Service => "svc-forward-policy-drop",
            () if own.is_some_and(|own| own != self.netns) => "forward-policy-drop-remote",
            () => "forward-policy-drop",
        }
    }

    /// One of the two is on a network of Docker's: its policy takes what others forward as well.
    fn is_containers(&self, case: &Case<'_>) -> bool {
        let Some(netns) = case.netns(self.netns) else { return true };
        let chains = || self.firewall.into_iter().flat_map(|fw| &fw.tables).flat_map(|t| &t.chains);
        let is_named = |dev: &str| {
            let rules = chains().filter(|c| c.name.starts_with("DOCKER")).flat_map(|c| &c.rules);
            rules.into_iter().any(|r| r.text.split_whitespace().any(|word| word == dev))
        };
        let is_its = |name: &str| name == "docker0" || name.starts_with("br-") || is_named(name);
        let nets = netns.devices.values().filter(|d| is_its(&d.name)).flat_map(|d| &d.addresses);
        let nets: Vec<_> = nets.collect();
        let is_on = |addr| nets.iter().any(|net| show::covers(**net, addr));
        self.tuples.is_empty() || self.tuples.iter().any(|t| is_on(t.src) || is_on(t.dst))
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

    pub(super) fn fill(&self, case: &Case<'_>, mut finding: Finding) -> Finding {
        let rule = &self.rule;
        // A rule against fragments meets packets for a reason.
        if rule.text.contains("frag") {
            finding = finding.follows(&["vxlan-fragments-dropped"]);
        }
        if kube_nft::is_leftover(rule) {
            finding = finding.follows(conntrack::RULE.covers);
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
        let reached = |p: &Probed| p.purpose == Purpose::Reach && p.was_reached();
        if limits(rule) && case.probes.iter().any(reached) {
            finding = finding.severity(Severity::Warning).fact(
                "the rule limits how much comes in a time; other connections of this diagnosis got \
                 through",
            );
        }
        if finding.id == "docker-isolation" {
            return finding.fix("# networks of Docker are isolated on purpose: connect the container to the other network (docker network connect)");
        }
        if finding.id == local_endpoint::ID {
            return local_endpoint::fill(case, (self.netns, rule), self.dst, finding);
        }
        if finding.id.ends_with("no-endpoints") {
            finding = finding.fix("# no pod is ready behind this Service: kubectl get endpointslices; fix its selector, or start its pods");
            // Rejecting is right as long as no endpoint is known.
            let again = self.dst.map(|dst| service::reconnect(case, self.netns, dst));
            let Some(again) = again.filter(|a| !a.is_empty()) else { return finding };
            finding = finding.fixes(again);
        }
        if finding.id == "queue-unserved" {
            finding = finding.fix(in_front::QUEUE_ADVICE);
        }
        if let (Some(dst), "nodeport-lb-source-ranges") = (self.dst, finding.id) {
            let clients = self.tuples.iter().map(|t| t.src);
            let admitted = clients.map(|src| service::admit(case, self.netns, (src, dst.0)));
            finding = admitted.fold(finding, Finding::rather);
        }
        finding = self.allowing(case).into_iter().fold(finding, Finding::rather);
        if finding.id == "nodeport-lb-source-ranges" {
            finding = finding.fix("# kube-proxy writes it anew: add the client's network to loadBalancerSourceRanges of the Service");
        }
        // All the others that it keeps out are kept out on purpose.
        if kube_nft::is_source_range(rule) {
            return finding;
        }
        finding.fix(delete(case, self.netns, rule))
    }

    /// What lets through this packet and nothing else, as it comes to the rules or as they have
    /// translated it.
    fn allowing(&self, case: &Case<'_>) -> Vec<Vec<Step>> {
        let Some(at) = located(case, self.netns, &self.rule) else { return Vec::new() };
        let is_answer = self.direction == Direction::Reply;
        let tuples = self.tuples.iter();
        tuples.filter_map(|t| allow(self.netns, at, (*t, is_answer, self.leg))).collect()
    }
}

fn has_kube(table: &Table) -> bool {
    table.chains.iter().any(|c| c.name.starts_with("KUBE-") || c.name.starts_with("FLANNEL"))
}

/// The rule drops what is too much of a kind: `pkttrace` asks several times at once, to meet every
/// endpoint.
fn limits(rule: &RuleRef) -> bool {
    const BY_COUNT: [&str; 5] = ["connlimit", "hashlimit", "recent", "limit", "ct count"];
    rule.number.is_some() && BY_COUNT.iter().any(|by| rule.text.contains(by))
}

/// Chains that network policies are written into.
fn is_policy_chain(chain: &str) -> bool {
    ["KUBE-POD-FW-", "KUBE-NWPLCY-", "KUBE-ROUTER-", "cali-", "NETPOL", "WEAVE-NPC"]
        .iter()
        .any(|start| chain.starts_with(start))
}
