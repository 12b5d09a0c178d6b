//! Chains that translate: what leads to them, where they lead, and whether anybody is there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Case;
use super::located::located;
use crate::diagnose::Met;
use crate::diagnose::remedy::ChainAt;
use crate::diagnose::walk::RuleRef;
use crate::firewall::{Chain, Flavour, Match, Rule, Table, Target};
use crate::net::Inum;

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
        open.extend(chain.rules.iter().filter_map(Rule::leads_to));
    }
    false
}

/// Chains that translate and that nothing leads to.
pub(super) fn orphans(table: &Table) -> impl Iterator<Item = &Chain> {
    let used: BTreeSet<&str> =
        table.chains.iter().flat_map(|c| &c.rules).filter_map(Rule::leads_to).collect();
    table.chains.iter().filter(move |c| {
        c.hook.is_none() && !used.contains(c.name.as_str()) && translates(table, &c.name)
    })
}

/// The outermost chain above `chain` that is not hooked in.
pub(super) fn outermost(table: &Table, chain: &str) -> String {
    let mut top = chain.to_owned();
    for _ in 0..table.chains.len() {
        let above = table
            .chains
            .iter()
            .find(|c| c.hook.is_none() && c.rules.iter().any(|r| r.leads_to() == Some(&top)));
        match above {
            Some(above) => top.clone_from(&above.name),
            None => break,
        }
    }
    top
}

/// A chain of iptables' table nat, as this namespace uses it.
pub(super) fn nat_chain(case: &Case<'_>, netns: Inum, addr: IpAddr, chain: &str) -> ChainAt {
    if let Some(table) = nat_table(case, netns, addr) {
        return ChainAt::named(table, chain);
    }
    let (family, command) = if addr.is_ipv4() { ("ip", "iptables") } else { ("ip6", "ip6tables") };
    ChainAt {
        flavour: Flavour::IptablesNft,
        family: family.to_owned(),
        table: "nat".to_owned(),
        chain: chain.to_owned(),
        command: command.to_owned(),
    }
}

/// Whether a rule for the address translates it, there or in the chain that it leads to: others
/// only mark what comes along.
pub(super) fn leads(case: &Case<'_>, met: &Met<'_>, rule: &RuleRef) -> bool {
    let netns = met.obstacle.place.netns;
    let Some((table, _, Some(own))) = located(case, netns, rule) else { return true };
    match &own.target {
        Target::Jump(to) | Target::Goto(to) => translates(table, to),
        Target::Dnat { .. } | Target::Redirect { .. } | Target::Map(_) => true,
        _ => false,
    }
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

/// Somebody has the address, or a packet gets there.
pub(super) fn is_alive(case: &Case<'_>, addr: IpAddr) -> bool {
    case.state.holders(addr).next().is_some()
        || case.ways.iter().any(|w| {
            w.request.is_clear() && w.request.ask.dst != addr && {
                w.request.nat.last().is_some_and(|n| n.after.dst == addr)
            }
        })
}
