//! Routes that limit the connections that go by them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::end::{End, SOME};
use super::evidence::{bits, human};
use super::{Check, Evidence};
use crate::diagnose::finding::Finding;
use crate::diagnose::show;
use crate::diagnose::walk::What;
use crate::net::Inum;
use crate::net::detail::Route;
use crate::net::fib::{self, FibQuery};
use crate::net::meter::Connection;

pub(super) const CHECK: Check = Check {
    explains: &[(
        "slow-route-limit",
        "A route may carry limits for the TCP connections that go by it: the window that they offer \
         (window), or the segments that they have under way (cwnd, where it is locked). Whatever the \
         link could do, no more than that moves in a round trip. Where they begin with few segments \
         (initcwnd, initrwnd) short answers take several round trips; where the first \
         retransmission has to wait (rto_min) each lost last segment costs that long.",
    )],
    find,
};

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let connections = evidence.connections();
    let ends = End::all(evidence, &connections);
    let routes = own_routes(evidence);
    let own: Vec<(&End<'_>, &Route)> = ends
        .iter()
        .flat_map(|end| {
            let its = routes.iter().filter(move |(netns, _)| *netns == end.netns);
            its.map(move |(_, route)| (end, *route))
        })
        .collect();
    // Several connections of a flow tell the same: the first one that does is enough.
    let windows = own.iter().find_map(|(end, route)| window(end, route, &ends));
    let senders = own.iter().find_map(|(end, route)| congestion(end, route));
    let late = own.iter().find_map(|(end, route)| retransmission(end, route));
    windows.into_iter().chain(senders).chain(late).collect()
}

/// The routes by which the ends of the flow send, each with its end's namespace.
pub(super) fn own_routes<'a>(evidence: &'a Evidence<'_>) -> Vec<(Inum, &'a Route)> {
    let walks = evidence.ways.iter().flat_map(|way| way.walks());
    let walked = walks.filter_map(|(_, walk)| {
        let netns = walk.steps.first()?.netns;
        walk.steps.iter().take_while(|step| step.netns == netns).find_map(|step| match &step.what {
            What::Route { route: Some(route), is_input: false, .. } => Some((netns, &**route)),
            _ => None,
        })
    });
    // An end that a walk does not reach (a program's tunnel is in between).
    let seen = senders(evidence).into_iter().filter_map(|(netns, to)| {
        Some((netns, fib::lookup(evidence.netns(netns)?, &FibQuery::to(to)).route?))
    });
    let mut routes: Vec<(Inum, &Route)> = walked.collect();
    for found in seen {
        if !routes.contains(&found) {
            routes.push(found);
        }
    }
    routes
}

/// The namespaces in which followed packets were made, and whom they were for.
fn senders(evidence: &Evidence<'_>) -> BTreeSet<(Inum, IpAddr)> {
    let made = evidence.journeys.iter().filter(|j| evidence.is_asked_for(j)).filter_map(|j| {
        let (tuple, netns) = (j.first?.tuple, j.hops.first()?.netns);
        let devices = evidence.netns(netns)?.devices.values();
        let is_own = devices.flat_map(|d| &d.addresses).any(|(addr, _)| *addr == tuple.src);
        is_own.then_some((netns, tuple.dst))
    });
    made.collect()
}

/// The other end of a connection, where it is seen.
fn other_end<'a>(of: &End<'_>, ends: &'a [End<'a>]) -> Option<&'a End<'a>> {
    ends.iter().find(|end| (end.now.local, end.now.peer) == (of.now.peer, of.now.local))
}

/// A receiver that may offer no more.
fn window(end: &End<'_>, route: &Route, ends: &[End<'_>]) -> Option<Finding> {
    let most = route.limits.window?;
    let received = end.grown(|c| c.received);
    let rtt = end.now.rtt.max(end.now.min_rtt);
    let a_window = end.rate(received) as f64 * rtt.as_secs_f64();
    let history = end.evidence.history(end.netns, end.now);
    let is_read = history.iter().all(|c| c.unread < most / 2);
    let is_limit = match other_end(end, ends) {
        Some(sender) => sender.window_limited() > 0.2 && a_window > f64::from(most) * 0.2,
        None => a_window > f64::from(most) * 0.5,
    };
    if received <= SOME || !is_read || !is_limit {
        return None;
    }
    let title = format!("A route keeps the receiver's window small (window {most})");
    let fact = format!(
        "{}: {:.0} kB received in each round trip of {}, {}",
        end.what(),
        a_window / 1e3,
        human(rtt),
        bits(end.rate(received))
    );
    Some(limited("slow-route-limit", end, route, (title, format!("window {most}"))).fact(fact))
}

/// A sender that may have no more under way.
fn congestion(end: &End<'_>, route: &Route) -> Option<Finding> {
    let most = route.limits.cwnd?;
    let history = end.evidence.history(end.netns, end.now);
    let waits = |c: &&&Connection| c.held_back > c.mss && c.cwnd <= most;
    let waiting = history.iter().filter(waits).count();
    if history.len() < 3 || waiting * 4 < history.len() * 3 {
        return None;
    }
    let title = format!("A route keeps the congestion window at {most} segments");
    let fact = format!(
        "{}: {} segments under way at most while data waited in {waiting} of {} looks, {}",
        end.what(),
        end.now.cwnd,
        history.len(),
        bits(end.rate(end.grown(|c| c.acked)))
    );
    Some(limited("slow-route-limit", end, route, (title, format!("cwnd {most}"))).fact(fact))
}

/// A sender that has to wait before it sends again what was lost.
fn retransmission(end: &End<'_>, route: &Route) -> Option<Finding> {
    /// The kernel's own is 200 ms.
    const LONG: u32 = 1000;
    let least = route.limits.rto_min.filter(|least| *least >= LONG)?;
    let waits = Duration::from_millis(least.into());
    let again = end.grown(|c| c.retransmits.into());
    let timeouts = end.evidence.grown(end.netns, "TcpExtTCPTimeouts");
    let is_its = end.now.rto * 10 >= waits * 9 && end.now.rtt * 4 < waits;
    if again == 0 || timeouts == 0 || !is_its {
        return None;
    }
    let wait = human(waits);
    let title = format!("A route lets what was lost wait {wait} before it is sent again (rto_min)");
    let fact = format!(
        "{}: {again} segments sent again, some of {timeouts} time-outs here; one takes {} at a round \
         trip of {}",
        end.what(),
        human(end.now.rto),
        human(end.now.rtt)
    );
    let limit = format!("rto_min {least}ms");
    let finding = limited("slow-route-limit", end, route, (title, limit)).fact(fact);
    Some(finding.follows(&["slow-policer", "slow-rule-drops", "slow-queue-drops", "slow-shaper"]))
}

/// A finding at a route.
fn limited(
    id: &'static str,
    end: &End<'_>,
    route: &Route,
    (title, limit): (String, String),
) -> Finding {
    at_route(end.evidence.finding(id, end.netns, title), end.evidence, (end.netns, route), &limit)
}

/// With that route as its place, and how it is changed.
pub(super) fn at_route(
    mut finding: Finding,
    evidence: &Evidence<'_>,
    (netns, route): (Inum, &Route),
    limit: &str,
) -> Finding {
    let Some(netns) = evidence.netns(netns) else { return finding };
    let text = format!("{} {limit}", show::route(netns, route));
    finding.place = finding.place.route(&text);
    finding.fact(format!("ip route in {}: {text}", netns.name)).fix(format!(
        "`ip route replace` that route in {} without `{limit}`; connections that exist keep it",
        netns.name
    ))
}
