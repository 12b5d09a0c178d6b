//! Ports of the node itself that are meant to lead to a container or a pod, and do not: published
//! ports and NodePorts.

use std::net::{IpAddr, SocketAddr};

use super::chains::{is_alive, nat_chain, nat_table, orphans};
use super::located::{place_of, replace};
use super::{Case, Finding, Rule, kube_nft};
use crate::diagnose::place::is_link_local;
use crate::diagnose::remedy::{ChainAt, Edit, Foreign, Spec, Step, Word, argv, interface};
use crate::diagnose::walk::{Ask, RuleRef, Scope, walk};
use crate::diagnose::{Confidence, Drop, Met, Where, show};
use crate::event::Tuple;
use crate::firewall::{Chain, Match, Table, Target};
use crate::net::{Device, DeviceKind, Inum, Netns};

pub(super) const RULE: Rule = Rule {
    id: "port-not-published",
    covers: &[
        "port-not-published",
        "nodeport-rules-missing",
        "nodeport-not-on-loopback",
        "docker-nat-flushed",
        "docker-publish-loopback",
    ],
    check: |_| Vec::new(),
};

/// Ports that Kubernetes gives to NodePorts unless it is told otherwise
/// (`--service-node-port-range`).
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// Nobody listens at a port of the node that a rule was to translate.
pub(super) fn unpublished(case: &Case<'_>, drop: &Drop<'_>, port: u16) -> Option<Finding> {
    let netns = case.netns(drop.hop.netns)?;
    let tuple = drop.tuple()?;
    let proto = show::port_protocol(tuple.proto)?;
    let (id, title, chain, fixes) = if let Some((rule, text)) = only_local(case, netns, port) {
        let title = format!("port {port} of {} is published on 127.0.0.1 only", netns.name);
        let fixes = local(case, netns.inum, &rule, &text);
        ("docker-publish-loopback", title, Some((rule.chain.clone(), text)), fixes)
    } else if has_lost_nat(case, netns.inum) {
        let title = format!(
            "{} has no rule left that translates published ports: Docker's are flushed",
            netns.name
        );
        ("docker-nat-flushed", title, None, restore(case, netns, Some((proto, port))))
    } else if let Some((addr, to)) = unled(case, netns.inum, proto) {
        let title = format!(
            "no rule of {} translates port {port}: its filter lets in what is for {addr}:{to}, and nothing leads there",
            netns.name
        );
        let rule = published(case, netns.inum, (proto, port), SocketAddr::new(addr, to));
        let advice = "# start the container anew, so that Docker writes its rules; until then:";
        let fixes = vec![advice.into(), rule];
        ("docker-nat-flushed", title, None, fixes)
    } else if let Some(elsewhere) = translated_elsewhere(case, netns, &tuple) {
        return Some(not_on_loopback(case, drop, (&tuple, elsewhere)));
    } else if NODE_PORTS.contains(&port) && has_services(case, netns.inum) {
        let title = format!("no rule in {} translates NodePort {port}", netns.name);
        let fixes = node_port(case, netns.inum, (proto, port), tuple.dst);
        ("nodeport-rules-missing", title, None, fixes)
    } else {
        return None;
    };
    let mut place = Where::netns(case.state, netns.inum);
    place.table = Some("nat".to_owned());
    place.rule = chain.as_ref().map(|c| c.1.clone());
    place.chain = match (chain, id) {
        (Some((chain, _)), _) => Some(chain),
        (None, "nodeport-rules-missing") => Some("KUBE-NODEPORTS".to_owned()),
        (None, _) => Some("DOCKER".to_owned()),
    };
    let confidence = if id == "nodeport-rules-missing" && chain_of(case, netns.inum).is_none() {
        Confidence::Likely
    } else {
        Confidence::Certain
    };
    let fact = match &place.rule {
        Some(rule) => format!("nat of {}: {rule}", netns.name),
        None => format!("nat of {}: no rule for {proto} port {port}", netns.name),
    };
    let finding = Finding::error(id, case.scenario(), title)
        .confidence(confidence)
        .at(place)
        .fact(drop.fact())
        .fact(fact)
        .journeys([drop.journey.id])
        .depth(case.depth_of(drop));
    Some(finding.fixes(fixes))
}

/// An address of the node at which the port is translated that is not at this, a loopback address.
fn translated_elsewhere(case: &Case<'_>, netns: &Netns, tuple: &Tuple) -> Option<IpAddr> {
    if !tuple.dst.is_loopback() {
        return None;
    }
    let devices = netns.devices.values().flat_map(|d| &d.addresses).map(|(addr, _)| *addr);
    let usable = |a: &IpAddr| !a.is_loopback() && a.is_ipv4() == tuple.dst.is_ipv4();
    let mut others = devices.filter(usable).filter(|a| !is_link_local(*a));
    others.find(|addr| {
        let ask = Ask::like(netns.inum, &Tuple { dst: *addr, ..*tuple });
        let way = walk(case.state, &Scope::everything(), &ask);
        way.nat.iter().any(|n| n.kind.is_destination() && n.before.dst == *addr)
    })
}

fn not_on_loopback(
    case: &Case<'_>,
    drop: &Drop<'_>,
    (tuple, elsewhere): (&Tuple, IpAddr),
) -> Finding {
    let (node, here, port) = (case.state.netns_name(drop.hop.netns), tuple.dst, tuple.dport);
    let other = SocketAddr::new(elsewhere, port);
    let title = format!("port {port} of {node} is translated at {elsewhere}, and not at {here}");
    Finding::error("nodeport-not-on-loopback", case.scenario(), title)
        .at(Where::netns(case.state, drop.hop.netns))
        .fact(drop.fact())
        .fact(format!("by the rules of {node}, {other} leads to somebody else"))
        .journeys([drop.journey.id])
        .depth(case.depth_of(drop))
        .fix(format!(
            "# ask at {other}: loopback addresses are left out on purpose (kube-proxy in nftables \
             mode, --iptables-localhost-nodeports=false)"
        ))
}

fn has_services(case: &Case<'_>, netns: Inum) -> bool {
    let Some(detail) = case.detail(netns) else { return false };
    let mut tables = detail.firewall.tables.iter();
    tables.any(|t| {
        let has = |start: &str| t.chains.iter().any(|c| c.name.starts_with(start));
        (t.name == "nat" && (has("KUBE-SVC") || has("KUBE-SERVICES") || has("KUBE-NODEPORTS")))
            || t.name == "kube-proxy"
    })
}

/// The rule that publishes `port`, where all that do hold for a loopback address alone.
fn only_local(case: &Case<'_>, netns: &Netns, port: u16) -> Option<(RuleRef, String)> {
    let tables = &case.detail(netns.inum)?.firewall.tables;
    let chains = tables.iter().flat_map(|t| t.chains.iter().map(move |c| (t, c)));
    let mut rules =
        chains.flat_map(|(t, c)| c.rules.iter().map(move |r| (t, c, r))).filter(|(_, _, r)| {
            matches!(r.target, Target::Dnat { .. })
                && r.matches.iter().any(|m| match m {
                    Match::Dport { ranges, not: false } => ranges.contains(&(port, port)),
                    _ => false,
                })
        });
    let is_local = |rule: &crate::firewall::Rule| {
        rule.matches.iter().any(|m| match m {
            Match::Dst { nets, not: false } => nets.iter().all(|(a, _)| a.is_loopback()),
            _ => false,
        })
    };
    let (table, chain, rule) = rules.next()?;
    let is_it = is_local(rule) && rules.all(|(_, _, r)| is_local(r));
    is_it.then(|| (reference(table, chain, rule), rule.text.clone()))
}

/// A rule as findings name it.
pub(super) fn reference(table: &Table, chain: &Chain, rule: &crate::firewall::Rule) -> RuleRef {
    RuleRef {
        flavour: table.flavour,
        family: table.family.clone(),
        table: table.name.clone(),
        command: table.command.clone(),
        via: Vec::new(),
        chain: chain.name.clone(),
        number: Some(rule.number),
        handle: rule.handle,
        text: rule.text.clone(),
        comment: rule.comment.clone(),
        counter: rule.counter,
    }
}

/// The same rule for every address of the node.
fn local(case: &Case<'_>, netns: Inum, rule: &RuleRef, text: &str) -> Vec<Step> {
    let advice =
        "# if others may have it: publish the port without an address (docker run -p PORT:PORT)";
    let mut words: Vec<&str> = text.split(' ').collect();
    let plain = words.iter().position(|w| *w == "-d").map(|at| {
        words.drain(at..(at + 2).min(words.len()));
        words.join(" ")
    });
    let command = plain.and_then(|text| replace(case, netns, rule, &text));
    [advice.into()].into_iter().chain(command).collect()
}

/// Docker is on this node, and none of its rules that translate are.
pub(super) fn has_lost_nat(case: &Case<'_>, netns: Inum) -> bool {
    let Some(detail) = case.detail(netns).filter(|_| case.is_docker_host(netns)) else {
        return false;
    };
    let translates = |t: &Table| t.name == "nat" || t.name == "docker-bridges";
    let tables = detail.firewall.tables.iter().filter(|t| translates(t));
    let mut rules = tables.flat_map(|t| &t.chains).flat_map(|c| &c.rules);
    !rules.any(|r| matches!(r.target, Target::Dnat { .. } | Target::Masquerade))
}

/// The one port of a container that the filter lets in because it is published, and that no rule
/// translates to any more.
fn unled(case: &Case<'_>, netns: Inum, proto: &str) -> Option<(IpAddr, u16)> {
    let table = nat_table(case, netns, [0; 4].into()).filter(|_| case.is_docker_host(netns))?;
    let rules = || table.chains.iter().flat_map(|c| &c.rules);
    let is_jump = |t: &Target| matches!(t, Target::Jump(to) | Target::Goto(to) if to == "DOCKER");
    let leads = |to: &(IpAddr, u16)| {
        rules().any(|r| match r.target {
            Target::Dnat { addr, port } => addr == Some(to.0) && port.is_none_or(|p| p == to.1),
            _ => false,
        })
    };
    let mut open = containers(case, netns, proto);
    open.retain(|to| !leads(to));
    match open.as_slice() {
        [only] if rules().any(|r| is_jump(&r.target)) => Some(*only),
        _ => None,
    }
}

/// A published port is translated to another end than the one that the filter lets in for it: of
/// the two rules that Docker writes, one was changed, and the policy drops what comes of it.
pub(super) fn misled(case: &Case<'_>, met: &Met<'_>, netns: Inum) -> Option<Finding> {
    let mut nat = met.walk.nat.iter().filter(|n| n.netns == netns && n.step <= met.step);
    let nat = nat.rfind(|n| n.kind.is_destination())?;
    let rule = nat.rule.as_ref()?;
    let proto = show::port_protocol(nat.before.proto)?;
    let (addr, port) = unled(case, netns, proto).filter(|(addr, _)| is_alive(case, *addr))?;
    let (right, node) = (SocketAddr::new(addr, port), case.state.netns_name(netns));
    let wrong = SocketAddr::new(nat.after.dst, nat.after.dport);
    let is_gone = wrong.ip() != addr && !is_alive(case, wrong.ip());
    let id = if is_gone { "hostport-stale-pod" } else { "app-not-listening" };
    let title = format!(
        "port {} of {node} leads to {wrong}, and its filter lets in what is for {right}",
        nat.before.dport
    );
    let led = |text: &str| {
        let (before, rest) = text.split_once("--to-destination ")?;
        let behind = rest.split_once(' ').map(|(_, behind)| format!(" {behind}"));
        Some(format!("{before}--to-destination {right}{}", behind.unwrap_or_default()))
    };
    let command = led(&rule.text).and_then(|text| replace(case, netns, rule, &text));
    let advice = "# start the container anew, so that Docker writes its rules";
    Some(
        met.finding(case, id, title)
            .at(place_of(case, netns, rule))
            .fact(format!("{} {}", rule.chain, rule.text))
            .fact(format!("filter of {node}: accepts {proto} to {right}, where no rule leads"))
            .fix(command.unwrap_or_else(|| advice.into())),
    )
}

/// The rule that publishes a port of the node.
fn published(
    case: &Case<'_>,
    netns: Inum,
    (proto, port): (&'static str, u16),
    to: SocketAddr,
) -> Step {
    let spec = argv!["-p", proto, "-m", proto, "--dport", port].and(argv![
        "-j",
        "DNAT",
        "--to-destination",
        to
    ]);
    nat_chain(case, netns, to.ip(), "DOCKER").edit(Edit::Append(Spec(spec))).at(netns)
}

/// What Docker would write again, as far as its other rules tell.
pub(super) fn restore(
    case: &Case<'_>,
    netns: &Netns,
    asked: Option<(&'static str, u16)>,
) -> Vec<Step> {
    let any: IpAddr = [0; 4].into();
    let chain = |name| nat_chain(case, netns.inum, any, name);
    let append = |name, spec| chain(name).edit(Edit::Append(Spec(spec))).at(netns.inum);
    let mut steps: Vec<Step> =
        vec!["# systemctl restart docker: it writes its rules anew; until then:".into()];
    let has_chain = nat_table(case, netns.inum, any)
        .is_some_and(|t| t.chains.iter().any(|c| c.name == "DOCKER"));
    if !has_chain {
        steps.push(chain("DOCKER").edit(Edit::NewChain).at(netns.inum));
    }
    let local = || argv!["-m", "addrtype", "--dst-type", "LOCAL", "-j", "DOCKER"];
    steps.push(append("PREROUTING", local()));
    steps.push(append("OUTPUT", argv!["!", "-d", "127.0.0.0/8"].and(local())));
    for bridge in netns.devices.values().filter(|d| is_docker_bridge(case, netns.inum, d)) {
        for (addr, len) in bridge.addresses.iter().filter(|(a, _)| a.is_ipv4()) {
            let net = Word::prefix((show::network(*addr, *len), *len));
            let spec = argv!["-s", net, "!", "-o", interface(&bridge.name), "-j", "MASQUERADE"];
            steps.push(append("POSTROUTING", spec));
        }
    }
    let Some((proto, port)) = asked else { return steps };
    let open = containers(case, netns.inum, proto);
    steps.push(match open.as_slice() {
        [(addr, to)] => published(case, netns.inum, (proto, port), SocketAddr::new(*addr, *to)),
        _ => "# and for each published port one rule in DOCKER that translates it (-j DNAT \
              --to-destination CONTAINER:PORT)"
            .into(),
    });
    steps
}

/// Its own default one, or one that the rules left over are about.
pub(super) fn is_docker_bridge(case: &Case<'_>, netns: Inum, device: &Device) -> bool {
    let tables = case.detail(netns).into_iter().flat_map(|d| &d.firewall.tables);
    let chains = tables.filter(|t| t.name == "filter").flat_map(|t| &t.chains);
    let mut rules = chains.flat_map(|c| &c.rules);
    let is_named = |m: &Match| match m {
        Match::Iif { names, .. } | Match::Oif { names, .. } => names.contains(&device.name),
        _ => false,
    };
    device.kind == DeviceKind::Bridge
        && (device.name == "docker0" || rules.any(|r| r.matches.iter().any(is_named)))
}

/// Ports of containers that the filter lets in because they are published.
fn containers(case: &Case<'_>, netns: Inum, proto: &str) -> Vec<(IpAddr, u16)> {
    let number = if proto == "tcp" { 6 } else { 17 };
    let Some(detail) = case.detail(netns) else { return Vec::new() };
    let chains = detail.firewall.tables.iter().filter(|t| t.name == "filter");
    let chains = chains.flat_map(|t| &t.chains).filter(|c| c.name.starts_with("DOCKER"));
    let accepted = chains.flat_map(|c| &c.rules).filter(|r| r.target == Target::Accept);
    let mut found: Vec<(IpAddr, u16)> = accepted
        .filter_map(|rule| {
            let is_proto =
                |m: &Match| matches!(m, Match::Proto { number: n, not: false } if *n == number);
            rule.matches.iter().find(|m| is_proto(m))?;
            let addr = rule.matches.iter().find_map(|m| match m {
                Match::Dst { nets, not: false } => nets.first().filter(|n| n.1 == 32).map(|n| n.0),
                _ => None,
            })?;
            let port = rule.matches.iter().find_map(|m| match m {
                Match::Dport { ranges, not: false } => ranges.first().map(|r| r.0),
                _ => None,
            })?;
            Some((addr, port))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The chain of NodePorts, where there is one.
fn chain_of<'a>(case: &Case<'a>, netns: Inum) -> Option<&'a Chain> {
    nat_table(case, netns, [0; 4].into())?.chains.iter().find(|c| c.name == "KUBE-NODEPORTS")
}

/// The chain of a Service that lost its NodePort, where only one did.
fn node_port(
    case: &Case<'_>,
    netns: Inum,
    (proto, port): (&'static str, u16),
    addr: IpAddr,
) -> Vec<Step> {
    let advice = "# restart kube-proxy on this node: it writes the rules of all Services anew";
    let mut steps: Vec<Step> = vec![advice.into()];
    steps.extend(kube_nft::node_address(case, netns, (addr, port)));
    let Some(table) = nat_table(case, netns, addr) else { return steps };
    let lost: Vec<&str> = orphans(table)
        .map(|c| c.name.as_str())
        .filter(|n| n.starts_with("KUBE-EXT-") || n.starts_with("KUBE-XLB-"))
        .collect();
    match lost.as_slice() {
        [one] => {
            let spec = argv!["-p", proto, "-m", proto, "--dport", port, "-j", Foreign(one)];
            let at = ChainAt::named(table, "KUBE-NODEPORTS");
            steps.push(at.edit(Edit::Append(Spec(spec))).at(netns));
        }
        many => steps.extend(many.iter().map(|chain| {
            format!(
                "# or, if it is its Service: let KUBE-NODEPORTS lead {proto} port {port} to {chain}"
            )
            .into()
        })),
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::Outcome;
    use crate::diagnose::remedy::lines;
    use crate::diagnose::rules::cases::concluded;
    use crate::diagnose::walk::tests::{inum, ip, ruled};
    use crate::net::NetworkState;

    const DOCKER: &str = "*nat
        :PREROUTING ACCEPT [0:0]
        :POSTROUTING ACCEPT [0:0]
        :DOCKER - [0:0]
        -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
        -A POSTROUTING -s 10.1.1.0/24 ! -o br0 -j MASQUERADE
        -A DOCKER ! -i br0 -p tcp -m tcp --dport 8443 -j DNAT --to-destination 10.1.1.3:443
        COMMIT
        *filter
        :FORWARD DROP [0:0]
        :DOCKER - [0:0]
        -A FORWARD -o br0 -j DOCKER
        -A DOCKER -d 10.1.1.3/32 ! -i br0 -o br0 -p tcp -m tcp --dport 443 -j ACCEPT
        COMMIT
        ";

    fn read(state: &NetworkState) -> (Case<'_>, &Netns) {
        (Case::new(None, Vec::new(), &[], state), &state.netns[&inum(state, "a")])
    }

    #[test]
    fn flushed_rules_are_written_again_from_what_is_left() {
        let state = ruled("", "a", DOCKER);
        let (whole, a) = read(&state);
        assert!(!has_lost_nat(&whole, a.inum));
        let nat = |line: &str| {
            line.contains("PREROUTING -m") || line.contains("MASQ") || line.contains("DNAT")
        };
        let flushed: String =
            DOCKER.lines().filter(|l| !nat(l)).map(|l| format!("{l}\n")).collect();
        let state = ruled("", "a", &flushed);
        let (case, a) = read(&state);
        assert!(has_lost_nat(&case, a.inum));
        let commands = lines(&state, &restore(&case, a, Some(("tcp", 9443))));
        let has = |end: &str| commands.iter().any(|c| c.ends_with(end));
        assert!(has("-A POSTROUTING -s 10.1.1.0/24 ! -o br0 -j MASQUERADE"), "{commands:?}");
        assert!(has("--dport 9443 -j DNAT --to-destination 10.1.1.3:443"), "{commands:?}");
        assert!(!has("-N DOCKER"), "the chain is still there: {commands:?}");
    }

    #[test]
    fn a_published_port_that_leads_elsewhere_is_led_back() {
        let first = |to: &str| {
            let rules = DOCKER.replace("10.1.1.3:443", to);
            let state = ruled("x2: listen tcp 0.0.0.0 443", "a", &rules);
            let found = concluded(&state, ("b", "192.0.2.11", 8443), Outcome::Timeout).findings;
            found.into_iter().next().map(|f| (f.id, f.fix.join("\n"))).unwrap_or_default()
        };
        let right = "-R DOCKER 1 ! -i br0 -p tcp -m tcp --dport 8443 -j DNAT --to-destination \
                     10.1.1.3:443";
        // A namespace of somebody else that has only lo is not where the address was.
        let rules = DOCKER.replace("10.1.1.3:443", "10.1.1.99:443");
        let mut state = ruled("h: link v0 veth x1/v9\nh: del v0", "a", &rules);
        let h = inum(&state, "h");
        state.netns.get_mut(&h).unwrap().path = "/run/netns/h".into();
        let found = concluded(&state, ("b", "192.0.2.11", 8443), Outcome::Timeout).findings;
        assert_eq!(found.iter().find(|f| f.id == "veth-missing"), None);
        let (id, fix) = first("10.1.1.99:443");
        assert!(id == "hostport-stale-pod" && fix.contains(right), "{id}: {fix}");
        let (id, fix) = first("10.1.1.3:444");
        assert!(id == "app-not-listening" && fix.contains(right), "{id}: {fix}");
        // As it should be.
        let (id, fix) = first("10.1.1.3:443");
        assert!(!fix.contains("DNAT"), "{id}: {fix}");
    }

    #[test]
    fn a_port_of_loopback_alone_is_known_by_its_rule() {
        let rules =
            DOCKER.replace("-A DOCKER ! -i br0 -p", "-A DOCKER -d 127.0.0.1/32 ! -i br0 -p");
        let state = ruled("", "a", &rules);
        let (case, a) = read(&state);
        let (rule, text) = only_local(&case, a, 8443).unwrap();
        assert_eq!((rule.chain.as_str(), rule.number), ("DOCKER", Some(1)));
        let fix = lines(&state, &local(&case, a.inum, &rule, &text));
        let right =
            "-R DOCKER 1 ! -i br0 -p tcp -m tcp --dport 8443 -j DNAT --to-destination 10.1.1.3:443";
        assert!(fix.last().unwrap().ends_with(right), "{fix:?}");
        assert!(only_local(&case, a, 8444).is_none());
        let state = ruled("", "a", DOCKER);
        let (open, a) = read(&state);
        assert!(only_local(&open, a, 8443).is_none());
    }

    #[test]
    fn a_node_port_gets_its_chain_back_where_one_alone_lost_it() {
        let rules = "*nat
            :PREROUTING ACCEPT [0:0]
            :KUBE-NODEPORTS - [0:0]
            :KUBE-EXT-A - [0:0]
            -A PREROUTING -j KUBE-NODEPORTS
            -A KUBE-EXT-A -p tcp -m tcp -j DNAT --to-destination 10.1.1.3:8080
            COMMIT
            ";
        let state = ruled("", "a", rules);
        let (case, a) = read(&state);
        assert!(has_services(&case, a.inum));
        let fix = lines(&state, &node_port(&case, a.inum, ("tcp", 31_000), ip("192.0.2.11")));
        let right = "-A KUBE-NODEPORTS -p tcp -m tcp --dport 31000 -j KUBE-EXT-A";
        assert!(fix.last().unwrap().ends_with(right), "{fix:?}");
    }
}
