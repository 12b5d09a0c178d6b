//! Waiting for a link-layer address.

use std::net::IpAddr;
use std::time::Duration;

use super::evidence::human;
use super::names::by_rule;
use super::{Check, Evidence, Segment};
use crate::diagnose::finding::{Finding, Severity, Where};
use crate::diagnose::walk::{Leg, Obstacle, What};
use crate::net::Inum;

pub(super) const CHECK: Check = Check {
    explains: &[(
        "slow-neighbour",
        "Before the first packet the sender asks for the next hop's link-layer address, and \
         packets wait for the answer. Who answers for others (proxy ARP, as Calico's routed pods \
         need it) waits up to proxy_delay hundredths of a second by default, so that the real \
         owner may answer first; each time the entry is forgotten, the next packet pays for it.",
    )],
    find,
};

/// A question on a link takes microseconds.
const LONG: Duration = Duration::from_millis(20);

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    evidence.namespaces().into_iter().filter_map(|netns| waited(evidence, netns)).collect()
}

fn waited(evidence: &Evidence<'_>, netns: Inum) -> Option<Finding> {
    let times = evidence.times(netns, Segment::Neighbour, None);
    let long: Vec<Duration> = times.into_iter().filter(|t| *t > LONG).collect();
    let longest = *long.last()?;
    let fact = format!(
        "{} packets waited for the next hop's address, the longest {}",
        long.len(),
        human(longest)
    );
    proxy(evidence, netns, &fact).or_else(|| late(evidence, netns, &long, fact))
}

/// Who answers for others does so after a delay that is set.
fn proxy(evidence: &Evidence<'_>, netns: Inum, fact: &str) -> Option<Finding> {
    let (there, dev, asked) = answerer(evidence, netns)?;
    let name = evidence.name(there, dev);
    let (family, setting, protocol) = match asked {
        IpAddr::V4(_) => ("ipv4", "proxy_arp", "ARP"),
        IpAddr::V6(_) => ("ipv6", "proxy_ndp", "neighbour discovery"),
    };
    let path = format!("{family}/neigh/{name}/proxy_delay");
    let delay: u32 = evidence.sysctl(there, &path)?.trim().parse().ok().filter(|d| *d > 0)?;
    let is_proxy = ["all", &name].iter().any(|dev| {
        evidence.sysctl(there, &format!("{family}/conf/{dev}/{setting}")).map(str::trim)
            == Some("1")
    });
    if !is_proxy {
        return None;
    }
    let title = format!("{name} answers {protocol} for others only after a delay");
    let mut finding = evidence.finding("slow-neighbour", there, title).fact(fact.to_owned());
    finding.place = finding.place.dev(&name);
    Some(
        finding
            .fact(format!("{setting} is on, proxy_delay is {delay} (hundredths of a second)"))
            .wrong_sysctl(evidence.netns(there)?, &path, &delay.to_string(), "0"),
    )
}

/// One late answer is a busy machine.
const OFTEN: usize = 3;

/// The next hop answers late, whoever it is.
fn late(evidence: &Evidence<'_>, netns: Inum, long: &[Duration], fact: String) -> Option<Finding> {
    if long.len() < OFTEN {
        return None;
    }
    let dropped = limited(evidence, netns);
    if let Some((place, rule)) = dropped {
        let title = "A rule drops some of the questions for a link-layer address".to_owned();
        let mut finding = evidence.finding("slow-neighbour", netns, title).fact(fact).fact(rule);
        finding.place = place;
        return Some(finding.fix(
            "let that rule pass more of them: each that is dropped is asked again after a second",
        ));
    }
    let title = "The next hop tells its link-layer address late".to_owned();
    let finding = evidence.finding("slow-neighbour", netns, title).fact(fact);
    Some(finding.severity(Severity::Warning).fix(
        "look at the next hop: it answers ARP or neighbour discovery late, or loses the first \
         questions (`ip neigh` shows INCOMPLETE meanwhile)",
    ))
}

/// The rule that may drop the questions that are asked on the flow's way, or their answers.
fn limited(evidence: &Evidence<'_>, netns: Inum) -> Option<(Where, String)> {
    let walks = evidence.ways.iter().flat_map(|way| way.walks());
    let of_steps = walks.flat_map(|(_, walk)| {
        walk.obstacles().filter(|(step, _)| walk.steps.get(*step).is_some_and(|s| s.netns == netns))
    });
    let about = |o: &&Obstacle| matches!(o.leg, Leg::Question | Leg::Answer);
    of_steps.map(|(_, o)| o).filter(about).find_map(|o| by_rule(evidence, o))
}

/// Who answers the question that this namespace asks on the flow's way, and what is asked.
fn answerer(evidence: &Evidence<'_>, netns: Inum) -> Option<(Inum, u32, IpAddr)> {
    let walks = evidence.ways.iter().flat_map(|way| way.walks());
    let mut steps = walks.flat_map(|(_, walk)| &walk.steps).filter(|step| step.netns == netns);
    steps.find_map(|step| match step.what {
        What::Neigh { answers: Some((there, dev)), addr, .. } => Some((there, dev, addr)),
        _ => None,
    })
}
