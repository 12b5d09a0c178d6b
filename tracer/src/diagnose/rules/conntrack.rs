//! Connections that conntrack still translates as rules did that are gone.

use std::net::IpAddr;

use super::{Case, Finding, Rule};
use crate::diagnose::remedy::Remedy;
use crate::diagnose::{Direction, Method, Probed, Scenario, Where, show, walk};
use crate::firewall::Destinations;
use crate::journey::{Hook, Hop, Nat};
use crate::net::Inum;

pub(super) const RULE: Rule =
    Rule { id: "conntrack-stale", covers: &["conntrack-stale", "dns-stale-udp-conntrack"], check };

fn check(case: &Case<'_>) -> Vec<Finding> {
    let found = case.failed().filter_map(|p| stale(case, p).or_else(|| untouched(case, p)));
    found.collect()
}

/// Of connections that began before there were rules for them, nothing is translated ever after.
/// UDP has no other beginning than the first packet that conntrack saw.
fn untouched(case: &Case<'_>, probe: &Probed) -> Option<Finding> {
    let proto = match probe.method {
        Method::Udp | Method::Dns => "udp",
        Method::Icmp | Method::Tcp => return None,
    };
    let flow = case.flow_of(probe)?;
    let journey = case.packets(flow, Direction::Request).next()?;
    let to_probed = |n: &&walk::Nat| n.kind.is_destination() && n.before.dst == probe.to;
    let nat = case.ways.iter().find_map(|w| w.request.nat.iter().find(to_probed))?;
    let rule = nat.rule.as_ref()?;
    // It came by the place where that is done, and went on as it was.
    let is_behind = |h: &Hop| {
        h.netns == nat.netns
            && matches!(h.hook, Some(Hook::Input | Hook::Forward | Hook::Postrouting))
    };
    let at = journey.hops.iter().position(is_behind)?;
    if journey.nat.iter().any(|n| n.kind.is_destination()) {
        return None;
    }
    let node = case.state.netns_name(nat.netns);
    let (before, sport) = (&nat.before, journey.first?.tuple.sport);
    let title = format!(
        "conntrack of {node} knows {proto} port {sport} of {} since before there was a rule for {}: \
         its packets are not translated",
        before.src, before.dst
    );
    let forget = Remedy::Forget { proto, to: (before.dst, before.dport), now: before.dst };
    Some(
        Finding::error(id(case), case.scenario(), title)
            .at(Where::netns(case.state, nat.netns))
            .fact(format!("{} of {node}: {}", rule.chain, rule.text))
            .fact(format!("seen in {node}: it went on to {} untranslated", before.dst))
            .fact(probe.sentence())
            .fix(forget.at(nat.netns))
            .journeys([journey.id])
            .depth(case.depth(Direction::Request, at.saturating_sub(1))),
    )
}

fn id(case: &Case<'_>) -> &'static str {
    if case.scenario() == Scenario::Dns { "dns-stale-udp-conntrack" } else { RULE.id }
}

fn stale(case: &Case<'_>, probe: &Probed) -> Option<Finding> {
    let flow = case.flow_of(probe)?;
    let (journey, nat, netns) = case.packets(flow, Direction::Request).find_map(|journey| {
        let old = |nat: &&Nat| {
            let netns = journey.hops.get(nat.hop).map(|h| h.netns)?;
            (nat.kind.is_destination() && !is_by_rule(case, netns, nat.after.dst)?).then_some(netns)
        };
        journey.nat.iter().find_map(|nat| Some((journey, nat, old(&nat)?)))
    })?;
    let proto = show::port_protocol(nat.before.proto)?;
    let node = case.state.netns_name(netns);
    let (before, after) = (&nat.before, nat.after.dst);
    let title = format!(
        "conntrack of {node} still leads {proto} port {} of {} to {after}, which no rule does any more",
        before.sport, before.src
    );
    let forget = Remedy::Forget { proto, to: (before.dst, before.dport), now: after };
    Some(
        Finding::error(id(case), case.scenario(), title)
            .at(Where::netns(case.state, netns))
            .fact(format!("seen in {node}: {before} became {}", nat.after))
            .fact(format!("no rule of {node} translates to {after}"))
            .fact(probe.sentence())
            .fix(forget.at(netns))
            .journeys([journey.id])
            .depth(case.depth(Direction::Request, nat.hop)),
    )
}

/// Whether a rule there translates to this address; `None` when the rules are not known.
fn is_by_rule(case: &Case<'_>, netns: Inum, to: IpAddr) -> Option<bool> {
    let detail = case.detail(netns)?;
    if detail.firewall.tables.is_empty() {
        return None;
    }
    let is_local =
        case.netns(netns)?.devices.values().any(|d| d.addresses.iter().any(|(a, _)| *a == to));
    let by_ipvs = detail.ipvs.iter().flat_map(|s| &s.servers).any(|s| s.0 == to);
    Some(is_local || by_ipvs || Destinations::of(&detail.firewall).may_be(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::walk::tests::{inum, ip, ruled};

    #[test]
    fn what_a_rule_leads_to_is_not_stale() {
        let rules = "*nat
            :PREROUTING ACCEPT [0:0]
            -A PREROUTING -d 10.99.0.53/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.1.2.2:53
            COMMIT
            ";
        let state = ruled("", "a", rules);
        let case = Case::new(None, Vec::new(), &[], &state);
        let a = inum(&state, "a");
        assert_eq!(is_by_rule(&case, a, ip("10.1.2.2")), Some(true));
        assert_eq!(is_by_rule(&case, a, ip("10.1.2.22")), Some(false));
        assert_eq!(is_by_rule(&case, a, ip("10.1.1.1")), Some(true), "an address of its own");
        // Rules that were not read prove nothing.
        assert_eq!(is_by_rule(&case, inum(&state, "b"), ip("10.1.2.22")), None);
    }
}
