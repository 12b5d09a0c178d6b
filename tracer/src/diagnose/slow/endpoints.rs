//! One of several endpoints, or of several next hops, that does not answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::{Check, Evidence};
use crate::diagnose::finding::Finding;
use crate::event::{Headers, Tcp};
use crate::journey::{self, Fate, Flow, Journey};

pub(super) const CHECK: Check = Check {
    explains: &[(
        "slow-dead-endpoint",
        "Connections to one address are spread over several endpoints (of a Service), or over several \
         next hops (of a multipath route), and one of them does not answer. Those that are led there \
         wait for their time-out, the others are quick: it looks like chance, and comes back with \
         every new connection.",
    )],
    find,
};

/// A first packet that was sent again has waited a second for its answer.
const TRIES: usize = 2;

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let flows = journey::group(evidence.journeys);
    let openings: Vec<Opening<'_>> =
        flows.iter().filter_map(|flow| Opening::of(evidence.journeys, flow)).collect();
    endpoint(evidence, &openings).or_else(|| next_hop(evidence, &openings)).into_iter().collect()
}

/// A connection that was begun.
struct Opening<'a> {
    first: &'a Journey,
    /// Where it was led to.
    end: SocketAddr,
    /// By whom.
    via: Option<IpAddr>,
    tries: usize,
    is_answered: bool,
}

impl<'a> Opening<'a> {
    fn of(journeys: &'a [Journey], flow: &Flow) -> Option<Self> {
        let sent = || {
            let forward = flow.forward.iter().map(|i| &journeys[*i]);
            forward.filter_map(|j| Some((j, j.first.as_ref().and_then(Headers::tcp)?)))
        };
        let opens = |tcp: &Tcp| tcp.flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN;
        let (first, opening) = sent().find(|(_, tcp)| opens(tcp))?;
        // Another connection from the same port has another number.
        let tries = sent().filter(|(_, tcp)| opens(tcp) && tcp.seq == opening.seq).count();
        // Answers may not have been followed; what follows upon one tells of it.
        let goes_on = sent().any(|(_, tcp)| !opens(tcp));
        let last = first.last_tuple.or(first.first.map(|headers| headers.tuple))?;
        Some(Self {
            first,
            end: SocketAddr::new(last.dst, last.dport),
            via: via(first),
            tries,
            is_answered: goes_on || !flow.backward.is_empty(),
        })
    }
}

/// The next hop: of its route, or whose link-layer address it waits for.
fn via(journey: &Journey) -> Option<IpAddr> {
    let of_route = journey.hops.iter().find_map(|hop| hop.route.as_ref()?.via);
    of_route.or_else(|| journey.hops.iter().find_map(|hop| Some(hop.neigh.as_ref()?.key)))
}

/// What came of the connections that were led to one of several.
#[derive(Default)]
struct Tried<'a> {
    answered: usize,
    silent: Vec<&'a Opening<'a>>,
}

/// The one that never answers while another one does.
fn dead<'a, K: Ord + Copy>(
    openings: &'a [Opening<'a>],
    key: impl Fn(&Opening<'a>) -> Option<K>,
) -> Option<(K, Tried<'a>, K)> {
    let mut tried: BTreeMap<K, Tried<'a>> = BTreeMap::new();
    for opening in openings {
        let Some(key) = key(opening) else { continue };
        let tried = tried.entry(key).or_default();
        match opening.is_answered {
            true => tried.answered += 1,
            false if opening.tries >= TRIES => tried.silent.push(opening),
            false => {}
        }
    }
    let alive = tried.iter().find(|(_, t)| t.answered > 0).map(|(key, _)| *key)?;
    let is_dead = |t: &Tried<'_>| t.answered == 0 && !t.silent.is_empty();
    let (key, one) = tried.into_iter().find(|(_, t)| is_dead(t))?;
    Some((key, one, alive))
}

fn endpoint(evidence: &Evidence<'_>, openings: &[Opening<'_>]) -> Option<Finding> {
    let (end, tried, alive) = dead(openings, |opening| Some(opening.end))?;
    let asked = tried.silent.first()?.first.first?.tuple;
    let asked = SocketAddr::new(asked.dst, asked.dport);
    // A name with several addresses is told by its addresses.
    if asked == end {
        return None;
    }
    let title = format!("{end}, one of the endpoints of {asked}, does not answer; {alive} does");
    silent(evidence, &tried, title, &end.ip().to_string())
}

fn next_hop(evidence: &Evidence<'_>, openings: &[Opening<'_>]) -> Option<Finding> {
    let (via, tried, alive) = dead(openings, |opening| opening.via)?;
    let title = format!("Connections by next hop {via} get no answer; those by {alive} do");
    silent(evidence, &tried, title, &via.to_string())
}

/// Where their packets ended.
fn silent(evidence: &Evidence<'_>, tried: &Tried<'_>, title: String, who: &str) -> Option<Finding> {
    let first = tried.silent.first()?.first;
    let last = first.hops.last()?;
    let count: usize = tried.silent.iter().map(|opening| opening.tries).sum();
    let mut finding = evidence.finding("slow-dead-endpoint", last.netns, title).fact(format!(
        "{count} first packets of {} connections were sent there, and nothing came back",
        tried.silent.len()
    ));
    let name = evidence.netns(last.netns).map_or("?", |n| &n.name);
    let drop = first.dropped.as_ref().filter(|_| first.fate == Fate::Dropped);
    finding = finding.fact(match drop {
        Some(drop) => {
            let hook =
                drop.hook.map_or_else(String::new, |h| format!(" at {}", h.name().to_uppercase()));
            format!("they were dropped in {name}{hook}: {}", drop.reason)
        }
        None => format!("they were last seen in {name}: {}", first.path),
    });
    if let Some(hook) = drop.and_then(|drop| drop.hook) {
        finding.place = finding.place.hook(hook);
    }
    if let Some(dev) = &last.dev {
        finding.place = finding.place.dev(&dev.name);
    }
    let from = evidence.target.as_ref().map_or("NETNS", |target| &target.from);
    Some(finding.fix(format!(
        "`pkttrace diagnose --from {from} --to {who} …` says why; until that is mended, take {who} out \
         of what leads to it (the Service's endpoints, the route's next hops)"
    )))
}
