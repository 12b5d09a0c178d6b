//! Name servers that are none, and name servers that cannot ask their own.

use std::net::IpAddr;

use super::{Case, Finding, Rule, chains};
use crate::diagnose::case::Purpose;
use crate::diagnose::remedy::{Remedy, Resolv, Step};
use crate::diagnose::walk::{Ask, End, Nat, ObstacleKind as Kind, Scope, Walk, walk};
use crate::diagnose::{Confidence, Direction, Method, Outcome, Scenario, Where, place};
use crate::journey::Fate;
use crate::net::detail::Resolver;
use crate::net::discover::HOST;
use crate::net::{Inum, Netns};

pub(super) const RULE: Rule = Rule {
    id: "dns-server-wrong",
    covers: &[
        "dns-server-wrong",
        "dns-resolvconf-wrong-server",
        "dns-nodelocal-missing",
        "dns-upstream-unreachable",
        "dns-resolvconf-empty",
        "dns-name-unknown",
        "dns-server-error",
        "dns-server-silent",
    ],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    if !case.is_failing() {
        return Vec::new();
    }
    if let Some(finding) = no_server(case) {
        return vec![finding];
    }
    let found = wrong_server(case).into_iter().chain(upstream(case));
    let found = found.chain(unknown(case)).chain(asks_itself(case)).chain(refuses(case));
    found.chain(silent(case)).collect()
}

/// `resolv.conf` names no server at all.
fn no_server(case: &Case<'_>) -> Option<Finding> {
    let target = case.target.as_ref()?;
    let (netns, resolver) = (case.netns(target.netns)?, resolver(case)?);
    let asked = case.failed().find(|p| p.method == Method::Dns && p.to.is_loopback())?;
    if !resolver.nameservers.is_empty() {
        return None;
    }
    let node = place::node_of(case.state, netns.inum).unwrap_or(netns.inum);
    let right = service(case, node, asked.to).or_else(|| elsewhere(case, netns, asked.to));
    let finding = Finding::error(
        "dns-resolvconf-empty",
        Scenario::Dns,
        format!("{} has no name server: {} names none", netns.name, resolver.path),
    )
    .confidence(Confidence::Certain)
    .at(Where::netns(case.state, netns.inum))
    .fact(format!("{} has no line \"nameserver\"", resolver.path))
    .fact(asked.sentence())
    .facts(right.map(|(addr, what)| format!("{what} is at {addr}")))
    .fix("# in a cluster: set clusterDNS of the kubelet, or dnsPolicy of the pod, and start the pod anew");
    Some(match right {
        Some((right, _)) => finding.fix(written(netns, resolver, Resolv::AddServer(right))),
        None => finding,
    })
}

/// Every server that was asked says that there is no such name, or none with an address.
fn unknown(case: &Case<'_>) -> Option<Finding> {
    let target = case.target.as_ref()?;
    let name = target.name.as_ref()?;
    let says_no =
        |p: &&crate::diagnose::Probed| matches!(&p.outcome, Outcome::Dns { rcode: 0 | 3, .. });
    let said = case.failed().find(says_no)?;
    let is_bare = matches!(&said.outcome, Outcome::Dns { rcode: 0, .. });
    let title = match is_bare {
        true => format!("{} knows {name}, but no IPv4 address of it", said.to),
        false => format!("{} knows no name {name}", said.to),
    };
    let resolver = resolver(case);
    let netns = case.netns(target.netns)?;
    let finding = Finding::error("dns-name-unknown", Scenario::Dns, title)
        .confidence(Confidence::Certain)
        .at(Where::netns(case.state, target.netns))
        .fact(said.sentence())
        .facts(resolver.map(|r| {
            let search =
                if r.search.is_empty() { "nothing".to_owned() } else { r.search.join(" ") };
            format!("{}: search {search}, ndots {}", r.path, r.ndots)
        }));
    let beside = resolver.filter(|r| r.search.is_empty()).and_then(|own| {
        let other = others(case, netns)?.find(|r| !r.search.is_empty())?;
        Some((own, other.search.clone()))
    });
    Some(match beside {
        Some((own, search)) => finding
            .fact(format!("other pods of this node search {}", search.join(" ")))
            .fix("# the names of the cluster are found by its search list: dnsPolicy ClusterFirst")
            .fix(written(netns, own, Resolv::Search(search))),
        None => finding.fix(
            "# ask for a name that exists: look at its spelling, its namespace (kubectl get \
             services -A), and the zone on the DNS server",
        ),
    })
}

/// The server was given its own address as the server to ask: its questions go in a circle.
fn asks_itself(case: &Case<'_>) -> Option<Finding> {
    let own = |p: &&crate::diagnose::Probed| {
        let is_here = |n: &Netns| n.inum == p.netns;
        let is_own = p.to.is_loopback() || case.state.holders(p.to).any(is_here);
        p.purpose == Purpose::Upstream && is_own
    };
    let asked = case.probes.iter().find(own)?;
    let server = case.state.netns_name(asked.netns);
    let path = case.detail(asked.netns).and_then(|d| d.resolver.as_ref());
    let path = path.filter(|r| r.nameservers.contains(&asked.to));
    let title = format!("the DNS server in {server} asks itself: {} is its own address", asked.to);
    Some(
        Finding::error("dns-server-error", Scenario::Dns, title)
            .confidence(Confidence::Certain)
            .at(Where::netns(case.state, asked.netns))
            .fact(format!("what {server} is asked and does not know it asks {}:{}", asked.to, asked.dport))
            .facts(path.map(|r| format!("{}: nameserver {}", r.path, asked.to)))
            .fix(format!(
                "# give the DNS server in {server} the address of another one to ask (a loopback address in \
                 the resolv.conf that it was given is its own, not the node's)"
            )),
    )
}

/// The server answers, and will not or cannot say.
fn refuses(case: &Case<'_>) -> Option<Finding> {
    let is_no = |p: &&crate::diagnose::Probed| {
        p.purpose != Purpose::Upstream
            && matches!(p.outcome, Outcome::Dns { rcode, .. } if !matches!(rcode, 0 | 3))
    };
    let said = case.failed().find(is_no)?;
    let asks_on = case.failed().any(|p| p.purpose == Purpose::Upstream);
    if asks_on || case.drops().next().is_some() {
        return None;
    }
    let holder = ends(case).next().unwrap_or(said.netns);
    let server = case.state.netns_name(holder);
    Some(
        Finding::error(
            "dns-server-error",
            Scenario::Dns,
            format!("the DNS server in {server} was reached: {}", said.sentence()),
        )
        .confidence(Confidence::Certain)
        .at(Where::netns(case.state, holder))
        .fact(said.sentence())
        .fix(format!(
            "# the network is not in the way: look at the log and the zones of the DNS server in \
             {server}, whom it lets ask (REFUSED) and whom it asks itself (SERVFAIL)"
        )),
    )
}

/// Where the queries arrive, by the configuration.
fn ends<'a>(case: &'a Case<'_>) -> impl Iterator<Item = Inum> + 'a {
    let asked = case.ways.iter().filter(|w| w.purpose != Purpose::Upstream);
    asked.filter_map(|w| match &w.request.end {
        End::Delivered { netns, .. } => Some(*netns),
        _ => None,
    })
}

/// The query arrived, a server is there, and it says nothing.
fn silent(case: &Case<'_>) -> Option<Finding> {
    let failed = |p: &&crate::diagnose::Probed| {
        p.method == Method::Dns && p.purpose != Purpose::Upstream && p.outcome == Outcome::Timeout
    };
    let asked = case.failed().find(failed)?;
    let flow = case.flow_of(asked)?;
    let holder = ends(case).next()?;
    let mut came = case.packets(flow, Direction::Request);
    let came = came
        .find(|j| j.fate == Fate::Delivered && j.hops.last().is_some_and(|h| h.netns == holder))?;
    let is_stopped =
        case.ways.iter().flat_map(|w| w.walks()).any(|(_, w)| w.stopped_at().is_some());
    // A stub may listen at another port than the one that is asked (Docker's, by a rule).
    let arrived = case.ways.iter().filter(|w| w.purpose == asked.purpose);
    let arrived = arrived.filter_map(|w| w.request.steps.last()).map(|s| s.tuple.dport).next();
    let port = arrived.unwrap_or(asked.dport);
    let is_bound = |s: &crate::net::detail::Socket| s.proto == 17 && s.port == port;
    let socket = case.detail(holder)?.sockets.iter().find(|s| is_bound(s))?;
    if !flow.backward.is_empty() || is_stopped || case.drops().next().is_some() {
        return None;
    }
    let server = case.state.netns_name(holder);
    Some(
        Finding::error(
            "dns-server-silent",
            Scenario::Dns,
            format!("the DNS server in {server} gets the queries and does not answer them"),
        )
        .confidence(Confidence::Likely)
        .at(Where::netns(case.state, holder))
        .fact(asked.sentence())
        .fact(format!("{server} listens at {}:{}, {} waiting", socket.addr, socket.port, socket.queued))
        .fix(format!("# restart the DNS server in {server}, or look at its log: it is stopped, busy, or waits for another"))
        .journeys([came.id])
        .follows(&["udp-answer-other-address"]),
    )
}

/// The name server of the prober's `resolv.conf` that was asked and is nobody's.
pub(super) fn nobodys(case: &Case<'_>) -> Option<IpAddr> {
    let server = asked_server(case)?;
    // To another port alone where Docker answers for its networks (127.0.0.11).
    let is_other = |n: &Nat| (n.after.dst, n.after.dport) != (n.before.dst, n.before.dport);
    let leads_on = |w: &Walk| w.nat.iter().any(|n| n.before.dst == server && is_other(n));
    let is_translated = case.ways.iter().any(|w| leads_on(&w.request));
    if server.is_loopback() {
        // The stub of systemd-resolved, for example, is on the node and not in its pods.
        let own = case.detail(case.target.as_ref()?.netns)?;
        let serves =
            own.sockets.iter().any(|s| s.proto == 17 && (s.port == 53 || s.addr == server));
        return (!serves && !is_translated).then_some(server);
    }
    let is_held = case.state.holders(server).next().is_some();
    let stopped = case.obstacles().any(|m| match &m.obstacle.kind {
        Kind::NobodyAnswers { addr, .. } => *addr == server,
        Kind::Untranslated { dst, unreached, .. } => {
            *dst == server && !unreached.iter().any(|r| chains::leads(case, &m, r))
        }
        _ => false,
    });
    (!is_held && !is_translated && (stopped || is_link_local(server))).then_some(server)
}

/// The first name server of `resolv.conf`, where it was what was asked, in vain.
fn asked_server(case: &Case<'_>) -> Option<IpAddr> {
    let resolver = resolver(case)?;
    let mut asked = case.failed().filter(|p| p.method == Method::Dns);
    asked.find_map(|p| {
        let is_silent = !matches!(p.outcome, Outcome::Dns { .. });
        (is_silent && resolver.nameservers.contains(&p.to)).then_some(p.to)
    })
}

fn resolver<'a>(case: &Case<'a>) -> Option<&'a Resolver> {
    case.detail(case.target.as_ref()?.netns)?.resolver.as_ref()
}

fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

fn wrong_server(case: &Case<'_>) -> Option<Finding> {
    let server = nobodys(case)?;
    let (target, resolver) = (case.target.as_ref()?, resolver(case)?);
    let netns = case.netns(target.netns)?;
    let node = place::node_of(case.state, netns.inum).unwrap_or(netns.inum);
    let node_name = case.state.netns_name(node);
    let is_cache = is_link_local(server);
    let beside = resolver.nameservers.iter().find(|a| **a != server);
    let beside = beside.map(|a| (*a, "the next name server of the same file"));
    let right = service(case, node, server).or(beside).or_else(|| elsewhere(case, netns, server));
    let right = right.filter(|(addr, _)| is_reached(case, netns.inum, *addr));
    let stub = right.is_none().then(|| stub_of(case, node, server)).flatten();
    let (id, title) = if is_cache {
        let title = format!(
            "{} asks a DNS cache at {server}, and no device of {node_name} has that address",
            netns.name
        );
        ("dns-nodelocal-missing", title)
    } else {
        let title = format!("{} asks {server} for names, and no DNS is there", netns.name);
        ("dns-resolvconf-wrong-server", title)
    };
    let finding = Finding::error(id, Scenario::Dns, title)
        .confidence(if right.is_some() { Confidence::Certain } else { Confidence::Likely })
        .at(Where::netns(case.state, netns.inum))
        .fact(format!("{}: nameserver {server}", resolver.path))
        .facts(right.map(|(addr, what)| format!("{what} is at {addr}")))
        .fact(match &stub {
            Some(who) => format!("{who} listens at {server} of {node_name}, for {node_name} alone"),
            None => format!("no device and no rule that translates has {server}"),
        });
    let finding = if is_cache {
        finding.fix("# start the cache on this node (node-local-dns), or let the kubelet name the Service instead")
    } else if stub.is_some() {
        finding.fix(format!(
            "# in {}: put the servers that {node_name} itself asks (resolvectl dns, \
             /run/systemd/resolve/resolv.conf) for {server}, or start the container with --dns",
            resolver.path
        ))
    } else {
        finding.fix("# in a cluster: set clusterDNS of the kubelet, and start the pod anew")
    };
    Some(match right {
        Some((right, _)) => {
            let edit = Resolv::ReplaceServer { from: server, to: right };
            finding.fix(written(netns, resolver, edit))
        }
        None => finding,
    })
}

/// A query is delivered there, or leaves what is seen.
fn is_reached(case: &Case<'_>, netns: Inum, server: IpAddr) -> bool {
    let way = walk(case.state, &Scope::everything(), &Ask::udp(netns, server, 53));
    let is_there = match &way.end {
        End::Delivered { socket, .. } => socket.is_some(),
        End::LeftView { .. } => true,
        End::Stopped { .. } | End::Loop | End::Unknown { .. } => false,
    };
    is_there && !server.is_loopback() && way.stopped_at().is_none()
}

/// Who listens on the node at a loopback address that one of its pods was given.
fn stub_of(case: &Case<'_>, node: Inum, server: IpAddr) -> Option<String> {
    let mut sockets = case.detail(node)?.sockets.iter();
    let socket = sockets.find(|s| {
        let is_there = s.addr == server || s.addr.is_unspecified();
        s.proto == 17 && s.port == 53 && server.is_loopback() && is_there
    })?;
    let name = socket.process.as_ref().map(|(pid, name)| format!("{name} ({pid})"));
    Some(name.unwrap_or_else(|| "a stub".to_owned()))
}

/// The DNS Service that the node's rules know.
fn service(case: &Case<'_>, node: Inum, not: IpAddr) -> Option<(IpAddr, &'static str)> {
    let services = case.detail(node)?.firewall.services();
    let is_dns = |s: &&crate::firewall::Service| s.port == 53 && !s.endpoints.is_empty();
    let mut found = services.iter().filter(is_dns).filter_map(|s| s.addr);
    found.find(|a| *a != not && a.is_ipv4() == not.is_ipv4()).map(|a| (a, "the DNS Service"))
}

/// The name server of most others.
fn elsewhere(case: &Case<'_>, own: &Netns, not: IpAddr) -> Option<(IpAddr, &'static str)> {
    let node = place::node_of(case.state, own.inum)?;
    // Whoever has no file of its own reads the node's, which is no pod's to follow unless it leads
    // to somebody.
    let is_there = |a: &IpAddr| {
        case.state.holders(*a).next().is_some()
            || case.detail(node).is_some_and(|d| {
                d.firewall.services().iter().any(|s| s.addr == Some(*a) && s.port == 53)
            })
    };
    let servers: Vec<IpAddr> =
        others(case, own)?.filter_map(|r| r.nameservers.first().copied()).collect();
    let known = servers.iter().find(|a| **a != not && is_there(a));
    let any = || servers.iter().find(|a| **a != not && !is_nodes(case, **a));
    known.or_else(any).map(|a| (*a, "the name server of other pods of this node"))
}

/// The machine's own `resolv.conf` names it.
fn is_nodes(case: &Case<'_>, addr: IpAddr) -> bool {
    let mut all = case.state.netns.values().filter_map(|n| n.detail.as_ref()?.resolver.as_ref());
    all.any(|r| r.path == "/etc/resolv.conf" && r.nameservers.contains(&addr))
}

/// What the other pods of its node have.
fn others<'a>(
    case: &'a Case<'_>,
    own: &Netns,
) -> Option<impl Iterator<Item = &'a Resolver> + use<'a>> {
    let (node, own) = (place::node_of(case.state, own.inum)?, own.inum);
    let beside = case.state.netns.values();
    let beside =
        beside.filter(move |n| n.inum != own && place::node_of(case.state, n.inum) == Some(node));
    Some(beside.filter_map(|n| n.detail.as_ref()?.resolver.as_ref()))
}

/// What writes the file, where it is known to be this namespace's own and no link that a container
/// has made leads elsewhere: the one that `ip netns exec` shows, or the node's.
fn written(netns: &Netns, resolver: &Resolver, edit: Resolv) -> Step {
    let file = std::path::Path::new(&resolver.path);
    let name = netns.path.file_name().filter(|_| netns.path.starts_with("/run/netns"));
    let own = name.map(|name| std::path::Path::new("/etc/netns").join(name).join("resolv.conf"));
    let is_own = own.is_some_and(|own| own == file);
    let is_nodes = netns.name == HOST && file.starts_with("/etc");
    if is_own || is_nodes {
        return Remedy::Resolver { file: resolver.path.clone(), edit }.at(netns.inum);
    }
    let what = match edit {
        Resolv::AddServer(addr) => format!("add \"nameserver {addr}\""),
        Resolv::ReplaceServer { from, to } => format!("put \"nameserver {to}\" for {from}"),
        Resolv::Search(domains) => format!("add \"search {}\"", domains.join(" ")),
    };
    format!("# in the resolv.conf of {}: {what}", netns.name).into()
}

/// The server's own question was not answered, and nothing in particular is known to be in its way.
fn upstream(case: &Case<'_>) -> Option<Finding> {
    let has_failed = case.failed().any(|p| {
        p.purpose != Purpose::Upstream && matches!(p.outcome, Outcome::Dns { rcode: 2, .. })
    });
    let probe = case.failed().find(|p| p.purpose == Purpose::Upstream).filter(|_| has_failed)?;
    let is_explained = case
        .ways
        .iter()
        .filter(|w| w.purpose == Purpose::Upstream)
        .any(|w| w.walks().any(|(_, walk)| walk.stopped_at().is_some()));
    if is_explained || case.drops().next().is_some() {
        return None;
    }
    let server = case.state.netns_name(probe.netns);
    let title =
        format!("the DNS server in {server} gets no answer from {}, which it asks", probe.to);
    Some(
        Finding::error("dns-upstream-unreachable", Scenario::Dns, title)
            .confidence(Confidence::Likely)
            .at(Where::netns(case.state, probe.netns))
            .fact(probe.sentence())
            .fix(format!(
                "# ping {} from {server}; then look at that server, or let DNS ask another one",
                probe.to
            )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::walk::tests::{cluster, inum, ip};
    use crate::diagnose::{Diagnosis, Probed, Target, conclude};
    use crate::net::NetworkState;

    const NAME: &str = "web.shop";

    /// What is concluded when `x1`, which has this resolver, asks for a name and is told this.
    fn told(resolver: Resolver, to: &str, outcome: Outcome) -> Diagnosis {
        let mut state: NetworkState = cluster("");
        let (x1, x2) = (inum(&state, "x1"), inum(&state, "x2"));
        let path = |name: &str| format!("/etc/netns/{name}/resolv.conf");
        let other = Resolver {
            path: path("x2"),
            nameservers: vec![ip("10.1.2.2")],
            search: vec!["svc.test".to_owned()],
            ndots: 5,
            ..Resolver::default()
        };
        let own = Resolver { path: path("x1"), ..resolver };
        for (netns, resolver) in [(x1, own), (x2, other)] {
            let detail = state.netns.get_mut(&netns).and_then(|n| n.detail.as_mut()).unwrap();
            detail.resolver = Some(resolver);
        }
        let target = Target {
            netns: x1,
            name: Some(NAME.to_owned()),
            addr: Some(ip(to)),
            port: Some(53),
            proto: Method::Dns,
            ..Target::default()
        };
        let probe = Probed {
            method: Method::Dns,
            purpose: Purpose::Reach,
            netns: x1,
            to: ip(to),
            dport: 53,
            sport: 40_000,
            size: None,
            question: Some(NAME.to_owned()),
            rtt: None,
            outcome,
        };
        conclude(&Case::new(Some(target), vec![probe], &[], &state))
    }

    fn resolver(search: &[&str]) -> Resolver {
        let search = search.iter().map(|s| (*s).to_owned()).collect();
        Resolver { nameservers: vec![ip("10.1.2.2")], search, ndots: 1, ..Resolver::default() }
    }

    fn said(rcode: u8, addresses: &[&str]) -> Outcome {
        Outcome::Dns { rcode, addresses: addresses.iter().map(|a| ip(a)).collect() }
    }

    #[test]
    fn a_name_that_no_server_knows_is_told_and_a_lost_search_list_given_back() {
        let found = told(resolver(&["svc.test"]), "10.1.2.2", said(3, &[])).findings;
        assert_eq!(found[0].id, "dns-name-unknown");
        assert!(found[0].fix.iter().all(|f| f.starts_with('#')), "{found:#?}");
        let found = told(resolver(&[]), "10.1.2.2", said(3, &[])).findings;
        let fix = found[0].fix.last().unwrap();
        assert!(fix.ends_with(" sh /etc/netns/x1/resolv.conf 'search svc.test'"), "{fix}");
        let bare = told(resolver(&["svc.test"]), "10.1.2.2", said(0, &[])).findings;
        assert!(bare[0].title.contains("no IPv4 address"), "{bare:#?}");
        assert!(told(resolver(&[]), "10.1.2.2", said(0, &["10.1.1.3"])).findings.is_empty());
    }

    #[test]
    fn a_server_that_will_not_say_was_reached() {
        let found = told(resolver(&[]), "10.1.2.2", said(5, &[])).findings;
        assert_eq!(found[0].id, "dns-server-error");
        assert!(found[0].title.contains("REFUSED"), "{found:#?}");
    }

    #[test]
    fn a_file_without_a_server_gets_that_of_the_others() {
        let none = Resolver { nameservers: Vec::new(), ..resolver(&[]) };
        let found = told(none, "127.0.0.1", Outcome::Timeout).findings;
        assert_eq!(found[0].id, "dns-resolvconf-empty");
        let fix = found[0].fix.last().unwrap();
        assert!(fix.ends_with(" sh /etc/netns/x1/resolv.conf 'nameserver 10.1.2.2'"), "{fix}");
    }

    #[test]
    fn a_server_on_loopback_has_to_be_there() {
        let stub = Resolver { nameservers: vec![ip("127.0.0.53")], ..resolver(&[]) };
        let found = told(stub, "127.0.0.53", Outcome::Timeout).findings;
        assert_eq!(found[0].id, "dns-resolvconf-wrong-server");
        assert!(found[0].fix.iter().any(|f| f.ends_with(" 127.0.0.53 10.1.2.2")), "{found:#?}");
    }
}
