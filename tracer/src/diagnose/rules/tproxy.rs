//! Packets that a rule gives to a transparent proxy of the node, and that routing leads elsewhere.

use super::{Case, Finding, Rule};
use crate::diagnose::{Drop, Where};
use crate::firewall;
use crate::net::Inum;
use crate::net::detail::RouteType;

pub(super) const RULE: Rule = Rule { id: "tproxy-not-local", covers: &["tproxy-not-local"], check };

/// What guides for such proxies name.
const USUAL_TABLE: u32 = 100;

fn check(case: &Case<'_>) -> Vec<Finding> {
    case.drops().filter_map(|drop| forwarded(case, &drop)).collect()
}

/// The packet was not dropped by what the configuration has behind that place.
pub(super) fn is_at(case: &Case<'_>, netns: Inum) -> bool {
    case.drops().any(|d| d.hop.netns == netns && forwarded(case, &d).is_some())
}

/// `ip_forward` drops what has a socket already: the proxy's, by the rule.
fn forwarded(case: &Case<'_>, drop: &Drop<'_>) -> Option<Finding> {
    let is_it = matches!(drop.function, "ip_forward" | "ip6_forward");
    if !is_it || drop.reason != "NOT_SPECIFIED" {
        return None;
    }
    let (netns, detail) = (case.netns(drop.hop.netns)?, case.detail(drop.hop.netns)?);
    let (table, chain, rule) = given(&detail.firewall)?;
    let (node, mark) = (&netns.name, mark(&rule.text));
    let local = detail
        .routes
        .iter()
        .find(|r| r.kind == RouteType::Local && r.dst.1 == 0 && !matches!(r.table, 253..=255));
    let to = local.map_or(USUAL_TABLE, |r| r.table);
    let lead = format!("ip rule add fwmark {mark} lookup {to}");
    let how = match local {
        Some(_) => lead,
        None => format!("ip route add local default dev lo table {to}, and {lead}"),
    };
    let title = format!(
        "{node} gives packets to a transparent proxy of its own and routes them on all the same: no \
         policy rule leads the mark {mark} to a local route"
    );
    let mut place = Where::netns(case.state, netns.inum);
    place.dev = drop.dev().map(str::to_owned);
    (place.table, place.chain) = (Some(table.name.clone()), Some(chain.name.clone()));
    place.rule = Some(rule.text.clone());
    let has = "no table but those of the kernel has a local default route";
    Some(
        Finding::error(RULE.id, case.scenario(), title)
            .at(place)
            .fact(drop.fact())
            .fact(format!("{} of {node}: {}", table.name, rule.text))
            .facts(local.is_none().then(|| has.to_owned()))
            .fix(format!("# in {node}: {how}"))
            .journeys([drop.journey.id])
            .depth(case.depth_of(drop)),
    )
}

/// The rule that gives packets to a proxy.
fn given(fw: &firewall::Firewall) -> Option<(&firewall::Table, &firewall::Chain, &firewall::Rule)> {
    let gives = |r: &&firewall::Rule| {
        r.text.contains("-j TPROXY") || r.text.split_whitespace().any(|word| word == "tproxy")
    };
    fw.tables.iter().find_map(|table| {
        table.chains.iter().find_map(|c| Some((table, c, c.rules.iter().find(gives)?)))
    })
}

/// The mark that the rule sets.
fn mark(text: &str) -> String {
    let mut words = text.split_whitespace();
    let of_nft = text.split_once("mark set ").and_then(|(_, rest)| rest.split_whitespace().next());
    let of_iptables = words.find(|word| *word == "--tproxy-mark").and_then(|_| words.next());
    of_iptables.or(of_nft).unwrap_or("of the rule").to_owned()
}

#[cfg(test)]
mod tests {
    use super::mark;

    #[test]
    fn the_mark_is_read_from_rules_of_both_kinds() {
        let iptables = "-A PREROUTING -p tcp -j TPROXY --on-port 3129 --tproxy-mark 0x1/0x1";
        assert_eq!(mark(iptables), "0x1/0x1");
        assert_eq!(mark("tcp dport 80 tproxy to :3129 meta mark set 0x2 accept"), "0x2");
    }
}
