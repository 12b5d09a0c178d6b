//! Names that take long to resolve.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::evidence::human;
use super::{Again, Check, Evidence, Lookup};
use crate::diagnose::finding::{Finding, Where};
use crate::diagnose::walk::{Obstacle, ObstacleKind};
use crate::event::Proto;
use crate::net::Inum;

pub(super) const CHECK: Check = Check {
    explains: &[
        (
            "slow-dns-search",
            "A name with fewer dots than ndots is tried with each domain of the search list first. \
             A domain whose name servers do not answer, or answer late, costs its time-out at \
             every look-up before the real name is asked for; Kubernetes writes ndots:5, so nearly \
             every outside name goes that way. A dot at the end of a name, or ndots:1, skips the \
             list.",
        ),
        (
            "slow-dns-aaaa",
            "A resolver asks for a name's IPv4 and IPv6 addresses at once, and waits for both answers. \
             A name server (or a firewall in front of it) that drops questions for the one instead of \
             answering that there is none costs its time-out, five seconds, at every look-up.",
        ),
        (
            "slow-dns-truncated",
            "An answer that does not fit into a datagram comes with a mark (truncated), and the \
             resolver asks again over TCP, port 53. Where that is dropped on the way, or the server \
             does not take it, names with many addresses or long records take many seconds or fail, \
             while short answers come at once.",
        ),
        (
            "slow-dns-server",
            "The name server answers late, or a server of the list does not answer, so that the \
             resolver library waits five seconds before it asks the next one.",
        ),
    ],
    find,
};

/// A name server nearby answers in milliseconds.
const LATE: Duration = Duration::from_millis(400);

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let Some(target) = &evidence.target else { return Vec::new() };
    if let Some(finding) = truncated(evidence, target.netns) {
        return vec![finding];
    }
    let late: Vec<&Lookup> = evidence.lookups.iter().filter(|l| l.took > LATE).collect();
    let total = waited(evidence.lookups.iter());
    if late.is_empty() {
        return Vec::new();
    }
    if let Some(finding) = one_kind(evidence, target.netns, &late, total) {
        return vec![finding];
    }
    // What comes with a search domain and leads to no address is waited for in vain.
    let in_vain = |l: &&&Lookup| l.suffix.is_some() && l.addresses.is_empty();
    let vain: Vec<&Lookup> = late.iter().filter(in_vain).copied().collect();
    let has_quick = |l: &Lookup| {
        evidence.lookups.iter().any(|o| o.server == l.server && o.rcode.is_some() && o.took < LATE)
    };
    let finding = match vain.first() {
        Some(first) if has_quick(first) => search(evidence, target.netns, &vain, total),
        _ => server(evidence, target.netns, &late, total),
    };
    vec![finding]
}

/// An answer that needs a connection, which does not come about.
fn truncated(evidence: &Evidence<'_>, netns: Inum) -> Option<Finding> {
    let is_lost = |l: &&Lookup| l.again.is_some_and(|again| again != Again::Connected);
    let lost = evidence.lookups.iter().find(is_lost)?;
    let server = lost.server;
    let what = match lost.again {
        Some(Again::Silent) => "does not come about",
        _ => "is refused",
    };
    let title = format!(
        "Answers of {server} do not fit into a datagram, and the connection for them (TCP port 53) {what}"
    );
    let mut finding = evidence.finding("slow-dns-truncated", netns, title);
    let to_server = evidence.ways.iter().filter(|way| {
        let tuple = way.request.tuple;
        (tuple.proto, tuple.dst) == (Proto::Tcp, server)
    });
    let walks = to_server.flat_map(|way| way.walks());
    let mut obstacles = walks.flat_map(|(_, walk)| walk.obstacles().map(|(_, o)| o));
    if let Some((place, fact)) = obstacles.find_map(|o| by_rule(evidence, o)) {
        finding = finding.at(place).fact(fact);
    }
    Some(tries(finding, evidence).fix(format!(
        "let TCP port 53 through to {server}, or let the server serve TCP; larger datagrams (options \
         edns0 in {}) put it off only",
        file(evidence, netns)
    )))
}

/// The rule that an obstacle is, as a place and a fact.
pub(super) fn by_rule(evidence: &Evidence<'_>, obstacle: &Obstacle) -> Option<(Where, String)> {
    let (hook, rule) = match &obstacle.kind {
        ObstacleKind::Filtered { hook, rule, .. }
        | ObstacleKind::MayBeFiltered { hook, rule, .. } => (*hook, rule),
        _ => return None,
    };
    let mut place = Where::netns(evidence.state, obstacle.place.netns);
    (place.table, place.chain) = (Some(rule.table.clone()), Some(rule.chain.clone()));
    place.hook = hook.map(|hook| hook.name());
    place.rule = rule.number.map(|_| rule.text.clone());
    let name = evidence.netns(obstacle.place.netns).map_or("?", |n| &n.name);
    let text = format!("{} {}/{} in {name}: {}", rule.family, rule.table, rule.chain, rule.text);
    Some((place, text))
}

/// How long all of it takes: questions for both addresses are asked at once.
fn waited<'a>(lookups: impl Iterator<Item = &'a Lookup>) -> Duration {
    let mut longest: BTreeMap<(&str, IpAddr), Duration> = BTreeMap::new();
    for lookup in lookups {
        let took = longest.entry((&lookup.name, lookup.server)).or_default();
        *took = lookup.took.max(*took);
    }
    longest.into_values().sum()
}

/// Questions for one family are answered at once, and those for the other are not.
fn one_kind(
    evidence: &Evidence<'_>,
    netns: Inum,
    late: &[&Lookup],
    total: Duration,
) -> Option<Finding> {
    let is_quick = |l: &Lookup| l.rcode.is_some() && l.took < LATE;
    let server = late.first()?.server;
    let its = || evidence.lookups.iter().filter(|l| l.server == server);
    let of = |is_v6: bool| its().filter(move |l| l.is_v6 == is_v6);
    let slow = [true, false].into_iter().find(|is_v6| {
        late.iter().all(|l| l.is_v6 == *is_v6) && of(!is_v6).all(is_quick) && of(!is_v6).count() > 0
    })?;
    let first = late.first()?;
    let (kind, other) = if slow { ("AAAA", "A") } else { ("A", "AAAA") };
    let title = format!(
        "The name server {} answers no questions for {kind} records in time: a look-up takes {}",
        first.server,
        human(total)
    );
    let finding = evidence.finding("slow-dns-aaaa", netns, title);
    let finding = tries(finding, evidence).fix(format!(
        "let {} answer that there is no {kind} record, as it answers for {other}; or what drops those \
         questions on the way let them by",
        first.server
    ));
    let file = file(evidence, netns);
    Some(match slow {
        true => finding.fix(format!("until then: `options no-aaaa` in {file} (glibc 2.36)")),
        false => finding,
    })
}

/// One fact for each try.
fn tries(finding: Finding, evidence: &Evidence<'_>) -> Finding {
    finding.facts(evidence.lookups.iter().map(|l| {
        let came = match l.rcode {
            None if l.again.is_some() => "an answer that does not fit".to_owned(),
            None => "no answer".to_owned(),
            Some(0) if !l.addresses.is_empty() => "an address".to_owned(),
            Some(0) => "no address".to_owned(),
            Some(2) => "SERVFAIL".to_owned(),
            Some(3) => "NXDOMAIN".to_owned(),
            Some(5) => "REFUSED".to_owned(),
            Some(code) => format!("rcode {code}"),
        };
        let kind = if l.is_v6 { "AAAA" } else { "A" };
        format!("{} ({kind}) asked of {}: {came} after {}", l.name, l.server, human(l.took))
    }))
}

fn file(evidence: &Evidence<'_>, netns: Inum) -> String {
    let resolver = evidence.detail(netns).and_then(|d| d.resolver.as_ref());
    resolver.map_or_else(|| "resolv.conf".to_owned(), |r| r.path.clone())
}

fn search(evidence: &Evidence<'_>, netns: Inum, vain: &[&Lookup], total: Duration) -> Finding {
    let mut domains: Vec<&str> = vain.iter().filter_map(|l| l.suffix.as_deref()).collect();
    domains.dedup();
    let lost = waited(vain.iter().copied());
    let domains = domains.join(", ");
    let title = format!(
        "The search domain {domains} costs {} of a look-up of {}",
        human(lost),
        human(total)
    );
    let finding = evidence.finding("slow-dns-search", netns, title);
    tries(finding, evidence).fix(format!(
        "remove {domains} from the search line of {}, or set ndots:1 there (a pod's dnsConfig), or mend the name servers of {domains}",
        file(evidence, netns)
    ))
}

fn server(evidence: &Evidence<'_>, netns: Inum, late: &[&Lookup], total: Duration) -> Finding {
    let server = late[0].server;
    let is_silent = late[0].rcode.is_none();
    let what = if is_silent { "does not answer" } else { "answers late" };
    let title = format!("The name server {server} {what}: a look-up takes {}", human(total));
    let finding = evidence.finding("slow-dns-server", netns, title);
    tries(finding, evidence).fix(match is_silent {
        true => format!("remove nameserver {server} from {}, or mend it", file(evidence, netns)),
        false => format!("look at {server}: its own upstream, its load, its CPU limit"),
    })
}
