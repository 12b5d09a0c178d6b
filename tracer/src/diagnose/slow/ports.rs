//! Translations that run out of ports, or race for an entry.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::{Check, Evidence};
use crate::diagnose::finding::{Confidence, Finding};
use crate::diagnose::remedy::{ChainAt, Edit, Spec, Spot};
use crate::event::{Proto, Tuple};
use crate::firewall::{Chain, Flavour, Rule, Table, Target};
use crate::journey::{Fate, Hook};
use crate::net::Inum;

pub(super) const CHECK: Check = Check {
    explains: &[
        (
            "slow-snat-ports",
            "Connections that leave by one translated address and port range to the same target \
             need a port each. When the range is used up, new ones are dropped in POSTROUTING \
             (conntrack's insert_failed), though no rule drops them: some connections work, others \
             time out until old entries expire.",
        ),
        (
            "slow-local-ports",
            "Every connection to the same address and port needs a local port of its own, from \
             net.ipv4.ip_local_port_range. One that its client has closed keeps it for another minute \
             (TIME-WAIT). When all are taken, connecting fails (cannot assign requested address), and \
             before that the search for a free one takes longer and longer.",
        ),
        (
            "slow-dns-race",
            "A resolver asks for the IPv4 and the IPv6 address at once, two datagrams from one port. \
             Where their destination is translated (a Service's address), both make an entry of \
             conntrack for the same connection, and the one that comes second is dropped \
             (insert_failed). The resolver asks again after five seconds.",
        ),
    ],
    find,
};

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let translated = evidence.namespaces().into_iter().filter_map(|netns| ports(evidence, netns));
    translated.chain(own_ports(evidence)).collect()
}

/// The usual range of local ports.
const USUAL: &str = "32768 60999";

const RESERVED: &str = "ipv4/ip_local_reserved_ports";

/// How many of the `ports` are in a list of single ones and ranges.
fn kept_back(list: &str, ports: &RangeInclusive<u16>) -> u64 {
    let count = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first = first.parse::<u16>().ok()?.max(*ports.start());
        let last = last.parse::<u16>().ok()?.min(*ports.end());
        Some((first..=last).len() as u64)
    };
    list.split(',').filter_map(count).sum()
}

/// The client's own ports towards the target are used up.
fn own_ports(evidence: &Evidence<'_>) -> Option<Finding> {
    const PATH: &str = "ipv4/ip_local_port_range";
    let target = evidence.target.as_ref()?;
    let end = SocketAddr::new(target.addr?, target.port?);
    let used = *evidence.detail(target.netns)?.connections.get(&end)?;
    let range = evidence.sysctl(target.netns, PATH)?.trim();
    let mut ends = range.split_whitespace().map(|n| n.parse::<u16>().ok());
    let ports = ends.next()??..=ends.next()??;
    let reserved = evidence.sysctl(target.netns, RESERVED).unwrap_or_default().trim();
    let kept = kept_back(reserved, &ports);
    let size = (ports.len() as u64).saturating_sub(kept).max(1);
    // Those that wait may be taken again at once.
    let is_reused = evidence.sysctl(target.netns, "ipv4/tcp_tw_reuse").map(str::trim) == Some("1");
    if is_reused || u64::from(used) * 100 < size * 90 {
        return None;
    }
    let title = format!("Connections to {end} have used up {used} of {size} local ports");
    let netns = evidence.netns(target.netns)?;
    let finding = evidence.finding("slow-local-ports", target.netns, title).fact(format!(
        "{used} connections to {end} hold a port, those in TIME-WAIT among them, of {size} that there are"
    ));
    let finding = match size < 28_000 {
        true if kept > 0 => finding.sysctl(netns, RESERVED, reserved).fix(format!(
            "shorten net.ipv4.ip_local_reserved_ports in {}: it keeps {kept} of the {} ports of \
             net.ipv4.ip_local_port_range from being used",
            netns.name,
            ports.len()
        )),
        true => finding.wrong_sysctl(netns, PATH, range, USUAL),
        false => finding.sysctl(netns, PATH, range),
    };
    Some(finding.fix(
        "keep connections open and use them again (keep-alive, a pool): a port is taken for a minute \
         after its connection is closed",
    ))
}

/// The first source translation of a namespace that has a range of ports, and that range.
fn ranged<'a>(
    evidence: &'a Evidence<'_>,
    netns: Inum,
) -> Option<(&'a Table, &'a Chain, &'a Rule, String)> {
    let tables = &evidence.detail(netns)?.firewall.tables;
    let mut chains = tables.iter().flat_map(|t| t.chains.iter().map(move |c| (t, c)));
    chains.find_map(|(table, chain)| {
        chain.rules.iter().find_map(|rule| Some((table, chain, rule, range(table, rule)?)))
    })
}

/// The hooks at which followed packets were dropped by netfilter.
pub(super) fn dropped_at(evidence: &Evidence<'_>, netns: Inum) -> Vec<Hook> {
    let here = evidence
        .journeys
        .iter()
        .filter(|j| j.fate == Fate::Dropped && j.hops.last().is_some_and(|hop| hop.netns == netns));
    here.filter_map(|j| j.dropped.as_ref()?.hook).collect()
}

/// The port range of a source translation, in its tool's words.
fn range(table: &Table, rule: &Rule) -> Option<String> {
    let translates = matches!(rule.target, Target::Snat { .. } | Target::Masquerade);
    if !translates || table.name.is_empty() {
        return None;
    }
    let after = |word: &str| rule.text.split(word).nth(1).map(str::trim_start);
    let is_range = |text: &str| {
        let (first, last) = text.split_once('-')?;
        let last: u32 = last.parse().ok()?;
        Some(last.checked_sub(first.parse().ok()?)? + 1)
    };
    let word = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
    let text = match table.flavour {
        Flavour::Nft => word(after("masquerade to :").or_else(|| after("snat to "))?),
        _ => word(after("--to-ports ").or_else(|| after("--to-source "))?),
    };
    let ports = text.rsplit(':').next()?.to_owned();
    is_range(&ports).filter(|n| *n < 28_000).map(|_| ports)
}

fn ports(evidence: &Evidence<'_>, netns: Inum) -> Option<Finding> {
    let failed = evidence.grown(netns, "ct.insert_failed");
    let unclaimed = dropped_at(evidence, netns).into_iter().filter(|h| *h == Hook::Postrouting);
    let unclaimed = unclaimed.count();
    if failed == 0 && unclaimed == 0 {
        return None;
    }
    let Some((table, chain, rule, ports)) = ranged(evidence, netns) else {
        return race(evidence, netns, failed);
    };
    let title = format!("The source ports {ports} of a translation are used up");
    let mut finding = evidence.finding("slow-snat-ports", netns, title);
    finding.place =
        finding.place.hook(Hook::Postrouting).rule(&table.name, &chain.name, Some(rule));
    finding = finding.fact(format!("{}/{}: {}", table.name, chain.name, rule.text)).fact(format!(
        "conntrack could not enter {failed} connections in {:.1} s (insert_failed)",
        evidence.span.as_secs_f64()
    ));
    if unclaimed > 0 {
        finding = finding.fact(format!(
            "{unclaimed} packets of the flow were dropped at POSTROUTING, and no rule drops there"
        ));
    }
    let at = ChainAt::of(table, chain);
    Some(match without_range(table, rule, &ports) {
        Some(text) => {
            let spec = Spec::of_text(&at, &text);
            finding.fix(at.edit(Edit::Replace(Spot::of(rule), spec)).at(netns))
        }
        None => finding.fix("give the translation a wider range of ports, or none"),
    })
}

/// Questions for both addresses of a name, of which conntrack has room for one.
fn race(evidence: &Evidence<'_>, netns: Inum, failed: u64) -> Option<Finding> {
    let is_dns = |t: &Tuple| t.proto == Proto::Udp && t.dport == 53;
    if failed == 0 || !evidence.tuples().iter().any(is_dns) {
        return None;
    }
    let title = "Questions for a name's two addresses race for one entry of conntrack".to_owned();
    let finding = evidence.finding("slow-dns-race", netns, title).fact(format!(
        "conntrack could not enter {failed} connections in {:.1} s (insert_failed), and no \
         translation is short of ports",
        evidence.span.as_secs_f64()
    ));
    Some(finding.confidence(Confidence::Likely).fix(
        "ask one after the other (resolv.conf: options single-request-reopen; a pod's dnsConfig), \
         or ask a cache on the node whose address is not translated (NodeLocal DNSCache)",
    ))
}

/// The rule, free to take any port.
fn without_range(table: &Table, rule: &Rule, ports: &str) -> Option<String> {
    let text = match table.flavour {
        Flavour::Nft => rule.text.replace(&format!(" to :{ports}"), ""),
        _ => rule.text.replace(&format!(" --to-ports {ports}"), ""),
    };
    let text = text.replace(&format!(":{ports}"), "");
    (text != rule.text).then_some(text)
}
