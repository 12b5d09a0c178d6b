//! Datagrams that are answered from another address than the one that was asked.

use std::net::IpAddr;

use super::{Case, Finding, Rule};
use crate::diagnose::remedy::{Path, Remedy};
use crate::diagnose::walk::{Ask, End, Scope, What, walk};
use crate::diagnose::{Confidence, Direction, Method, Outcome, Way, Where};
use crate::net::Inum;

pub(super) const RULE: Rule =
    Rule { id: "udp-answer-other-address", covers: &["udp-answer-other-address"], check };

fn check(case: &Case<'_>) -> Vec<Finding> {
    let is_datagram = |p: &&crate::diagnose::Probed| {
        matches!(p.method, Method::Udp | Method::Dns) && p.outcome == Outcome::Timeout
    };
    let Some(probe) = case.failed().find(is_datagram) else { return Vec::new() };
    let ways = case.ways.iter().filter(|w| w.purpose == probe.purpose);
    ways.filter_map(|way| answered_from(case, way)).take(1).collect()
}

fn answered_from(case: &Case<'_>, way: &Way) -> Option<Finding> {
    let request = &way.request;
    let End::Delivered { netns: server, socket: Some(socket) } = &request.end else { return None };
    let asked = request.steps.last()?.tuple;
    let is_open = socket.proto == 17 && socket.addr.is_unspecified() && socket.peer.is_none();
    if request.stopped_at().is_some() || !is_open {
        return None;
    }
    let back = walk(case.state, &Scope::everything(), &Ask::udp(*server, asked.src, asked.sport));
    let from = back.tuple.src;
    let is_own = |addr: IpAddr| case.state.holders(addr).any(|n| n.inum == *server);
    if from == asked.dst || !is_own(from) || !is_own(asked.dst) || from.is_loopback() {
        return None;
    }
    // The answer that nobody waited for was counted where it came to.
    let refused = refused_in(case, way)?;
    let netns = case.netns(*server)?;
    let (node, dst, port) = (&netns.name, asked.dst, asked.dport);
    let title = format!(
        "{node} answers from {from} what it is asked at {dst} port {port}: who waits for {dst} takes no \
         answer from another address"
    );
    let client = case.state.netns_name(refused);
    let counter = counter(dst);
    let grown = case.grown(refused, counter);
    let route = back.steps.iter().find_map(|s| match &s.what {
        What::Route { route: Some(route), .. } => route.hops.first(),
        _ => None,
    });
    let path = route.and_then(|hop| {
        let dev = case.dev_name(*server, hop.dev?);
        Some(Path { src: Some(dst), ..Path::host(asked.src, hop.via, Some(&dev)) })
    });
    Some(
        Finding::error(RULE.id, case.scenario(), title)
            .confidence(Confidence::Certain)
            .at(Where::netns(case.state, *server))
            .fact(format!("{node} listens at {}:{port} (UDP), and has {dst} and {from}", socket.addr))
            .fact(format!("the route of {node} to {} has the source {from}", asked.src))
            .fact(format!("{counter} of {client} has grown by {grown}: an answer came that no socket waits for"))
            .fix(format!(
                "# bind the server in {node} to {dst} (or to each of its addresses), or ask {from}; until \
                 then, for this client:"
            ))
            .fixes(path.map(|path| Remedy::Route(path).at(*server)))
            .depth(case.depth(Direction::Request, request.steps.len())),
    )
}

fn counter(addr: IpAddr) -> &'static str {
    if addr.is_ipv4() { "UdpNoPorts" } else { "Udp6NoPorts" }
}

/// Where an answer came that no socket waits for: at the client, or where its source was translated.
fn refused_in(case: &Case<'_>, way: &Way) -> Option<Inum> {
    let counter = counter(way.request.tuple.dst);
    let mut passed = way.request.steps.iter().map(|s| s.netns);
    passed.find(|at| case.grown(*at, counter) > 0)
}

#[cfg(test)]
mod tests {
    use crate::diagnose::walk::tests::build::{inum, node};
    use crate::diagnose::{Diagnosis, Probed, Purpose, Target, conclude};

    use super::*;

    const PAIR: &str = "
        c: link e0 veth s/e0
        c: addr 10.70.0.9/24 dev e0
        s: addr 10.70.0.2/24 dev e0
        s: addr 10.70.0.3/24 dev e0
    ";

    fn concluded(more: &str, to: &str, refused: u64) -> Diagnosis {
        let mut state = node(&format!("{PAIR}\n{more}"));
        let (netns, to) = (inum(&state, "c"), to.parse().unwrap());
        let client = state.netns.get_mut(&netns).unwrap().detail.as_mut().unwrap();
        client.counters.insert("UdpNoPorts".to_owned(), refused);
        let probe = Probed {
            method: Method::Udp,
            purpose: Purpose::Reach,
            netns,
            to,
            dport: 5300,
            sport: 40_000,
            size: None,
            question: None,
            rtt: None,
            outcome: Outcome::Timeout,
        };
        let target = Target { netns, addr: Some(to), port: Some(5300), ..Target::default() };
        let target = Target { proto: Method::Udp, ..target };
        let mut case = Case::new(Some(target), vec![probe], &[], &state);
        case.before = [(netns, [("UdpNoPorts".to_owned(), 0)].into())].into();
        let ask = Ask::udp(netns, to, 5300);
        case.ways = Way::all(&state, &Scope::everything(), &ask, Purpose::Reach);
        conclude(&case)
    }

    fn is_told(diagnosis: &Diagnosis) -> bool {
        diagnosis.findings.iter().any(|f| f.id == RULE.id)
    }

    #[test]
    fn an_answer_from_the_first_address_is_told_to_whoever_asks_the_second() {
        let found = concluded("s: listen udp 0.0.0.0 5300", "10.70.0.3", 1);
        assert_eq!(found.findings[0].id, RULE.id, "{found:#?}");
        let fix = found.findings[0].fix.join("\n");
        assert!(fix.contains("route replace 10.70.0.9 dev e0 src 10.70.0.3"), "{fix}");
    }

    #[test]
    fn who_answers_from_where_it_was_asked_is_not_told() {
        assert!(!is_told(&concluded("s: listen udp 0.0.0.0 5300", "10.70.0.2", 1)));
        assert!(!is_told(&concluded("s: listen udp 10.70.0.3 5300", "10.70.0.3", 1)));
        // A server that says nothing: nothing came to the client.
        assert!(!is_told(&concluded("s: listen udp 0.0.0.0 5300", "10.70.0.3", 0)));
    }
}
