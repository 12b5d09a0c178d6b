//! Names that take long to resolve.

use std::time::Duration;

use super::evidence::human;
use super::{Check, Evidence, Lookup};
use crate::diagnose::finding::Finding;
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
    let late: Vec<&Lookup> = evidence.lookups.iter().filter(|l| l.took > LATE).collect();
    let total: Duration = evidence.lookups.iter().map(|l| l.took).sum();
    if late.is_empty() {
        return Vec::new();
    }
    // What comes with a search domain and leads to no address is waited for in vain.
    let in_vain = |l: &&&Lookup| l.suffix.is_some() && !l.has_address;
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

/// One fact for each try.
fn tries(finding: Finding, evidence: &Evidence<'_>) -> Finding {
    finding.facts(evidence.lookups.iter().map(|l| {
        let came = match l.rcode {
            None => "no answer".to_owned(),
            Some(0) if l.has_address => "an address".to_owned(),
            Some(0) => "no address".to_owned(),
            Some(2) => "SERVFAIL".to_owned(),
            Some(3) => "NXDOMAIN".to_owned(),
            Some(5) => "REFUSED".to_owned(),
            Some(code) => format!("rcode {code}"),
        };
        format!("{} asked of {}: {came} after {}", l.name, l.server, human(l.took))
    }))
}

fn file(evidence: &Evidence<'_>, netns: Inum) -> String {
    let resolver = evidence.detail(netns).and_then(|d| d.resolver.as_ref());
    resolver.map_or_else(|| "resolv.conf".to_owned(), |r| r.path.clone())
}

fn search(evidence: &Evidence<'_>, netns: Inum, vain: &[&Lookup], total: Duration) -> Finding {
    let mut domains: Vec<&str> = vain.iter().filter_map(|l| l.suffix.as_deref()).collect();
    domains.dedup();
    let lost: Duration = vain.iter().map(|l| l.took).sum();
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
