//! Packets that arrive where nobody takes them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::met::each;
use super::{Case, Finding, Rule, chains, docker, duplicate, in_front, met, not_local, service};
use crate::diagnose::remedy::{Edit, Remedy, Spec, argv, sysctl_name};
use crate::diagnose::walk::{Ask, End, ObstacleKind as Kind, Scope, walk};
use crate::diagnose::{Confidence, Drop, Met, Outcome, Severity, Where, place, show};
use crate::event::{Proto, Tuple};
use crate::net::detail::{RouteType, Socket};
use crate::net::fib::{self, FibQuery, TABLE_MAIN};
use crate::net::{Inum, Netns};

pub(super) const RULE: Rule = Rule {
    id: "app-not-listening",
    covers: &[
        "app-not-listening",
        "app-listens-localhost",
        "app-hung",
        "app-backlog-full",
        "dns-server-down",
        "dns-rcvbuf-full",
        "echo-ignored",
    ],
    check,
};

fn check(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = each(case, one);
    findings.extend(case.drops().filter_map(|d| no_socket(case, &d)));
    if !findings.iter().any(|f| matches!(f.id, "dns-rcvbuf-full" | "app-backlog-full")) {
        findings.extend(case.drops().filter_map(|d| no_room(case, &d)));
    }
    findings.extend(hung(case));
    findings
}

fn one(case: &Case<'_>, met: &Met<'_>) -> Option<Finding> {
    let netns = met.netns(case)?;
    let node = &netns.name;
    Some(match &met.obstacle.kind {
        Kind::ListensElsewhere { sockets } => elsewhere(case, met, netns, sockets)?,
        Kind::NoListener { .. } => {
            let tuple = met.walk.steps[met.step].tuple;
            // Without a drop that proves it: only of a pod, and of a way that is free up to it.
            let is_pod = place::node_of(case.state, netns.inum).is_some();
            let is_first =
                met.walk.stopped_at().is_some_and(|(_, o)| std::ptr::eq(o, met.obstacle));
            if !is_pod || !is_first {
                return None;
            }
            let finding = met.finding(case, RULE.id, String::new());
            nobody_listens(case, finding, netns.inum, &tuple)?
        }
        Kind::QueueFull { socket } => {
            let id = full(socket.proto, socket.port);
            let title = format!(
                "the queue of port {} in {node} is full: {} does not take what comes",
                socket.port,
                process(socket)
            );
            met.finding(case, id, title)
                .fact(queue_fact(node, socket))
                .fix(format!("# restart {} in {node}, or let it accept faster", process(socket)))
        }
        Kind::NotServed { socket } => {
            let title =
                format!("{} in {node} does not take connections from its queue", process(socket));
            met.finding(case, "app-hung", title)
                .confidence(Confidence::Likely)
                .fact(format!(
                    "{}: {} waiting to be accepted",
                    socket_fact(node, socket),
                    socket.queued
                ))
                .fix(format!("# restart {} in {node}", process(socket)))
        }
        Kind::EchoIgnored { sysctl } => {
            let name = sysctl_name(sysctl);
            let title = format!("{node} does not answer pings: {name} is set");
            met.finding(case, "echo-ignored", title).wrong_sysctl(netns, sysctl, "1", "0")
        }
        _ => return None,
    })
}

/// Somebody listens at the port, but takes what comes to another address, or by another device.
fn elsewhere(case: &Case<'_>, met: &Met<'_>, netns: &Netns, sockets: &[Socket]) -> Option<Finding> {
    let node = &netns.name;
    let port = sockets.first()?.port;
    let dst = met.walk.tuple.dst;
    let by = |dev| case.dev_name(netns.inum, dev);
    let only = |s: &Socket| s.dev.map(|d| format!("takes only what comes in by {}", by(d)));
    // It would take this, did it come in by the device that it is bound to.
    let deaf = sockets.iter().find(|s| s.dev.is_some_and(|d| s.takes(dst, port, d)));
    let all = if dst.is_ipv4() { "0.0.0.0" } else { "[::]" };
    let (title, fix) = match deaf.and_then(|s| Some((process(s), only(s)?))) {
        Some((who, only)) => (
            format!(
                "{who} in {node} {only} at port {port}, and this comes in by {}",
                met.obstacle.place.dev.map_or_else(|| "another device".to_owned(), by)
            ),
            format!("# let {who} listen without binding its socket to a device (SO_BINDTODEVICE)"),
        ),
        None => (
            format!(
                "nothing in {node} listens at port {port} of the address asked for, only at {}",
                list(sockets)
            ),
            format!(
                "# make the application in {node} listen at {all}:{port} (or at the pod's address)"
            ),
        ),
    };
    let bound = sockets.iter().filter_map(|s| Some(format!("{} {}", process(s), only(s)?)));
    let is_v6only = |s: &&Socket| s.v6only && s.addr.is_unspecified();
    let v6only = sockets.iter().filter(is_v6only).filter(|_| dst.is_ipv4());
    let led = in_front::is_redirected(case, netns.inum, port);
    Some(
        met.finding(case, "app-listens-localhost", title)
            .follows(if led { REDIRECTED } else { &[] })
            .facts(sockets.iter().map(|s| socket_fact(node, s)))
            .facts(bound)
            .facts(v6only.map(|s| format!("{} takes IPv6 only (IPV6_V6ONLY)", process(s))))
            .fix(fix),
    )
}

/// That nobody listens at a port to which a rule leads what was asked elsewhere.
const REDIRECTED: &[&str] = &["redirect-unserved"];

/// What a full queue is called.
fn full(proto: u8, port: u16) -> &'static str {
    if (proto, port) == (17, 53) { "dns-rcvbuf-full" } else { "app-backlog-full" }
}

/// The drop itself proves that the buffer is full: by the numbers there may be room for a packet
/// smaller than this one.
fn no_room(case: &Case<'_>, drop: &Drop<'_>) -> Option<Finding> {
    let tuple = drop.tuple()?;
    let is_asked = drop.direction == super::Direction::Request && !drop.hop.is_encap;
    if drop.reason != "SOCKET_RCVBUFF" || !is_asked || tuple.proto != Proto::Udp {
        return None;
    }
    let (node, port) = (&drop.hop.netns_name, tuple.dport);
    let sockets = case.detail(drop.hop.netns).map_or(&[][..], |d| &d.sockets);
    let socket = sockets.iter().find(|s| s.proto == 17 && s.port == port);
    let who = socket.map_or_else(|| "the application".to_owned(), process);
    let title =
        format!("the queue of port {port} in {node} is full: {who} does not take what comes");
    let finding =
        Finding::error(full(17, port), case.scenario(), title)
            .at(Where::netns(case.state, drop.hop.netns))
            .fact(drop.fact())
            .facts(socket.map(|s| {
                format!("{}: {} waiting, limit {}", socket_fact(node, s), s.queued, s.limit)
            }))
            .fix(format!("# restart {who} in {node}, or let it read faster"))
            .journeys([drop.journey.id])
            .depth(case.depth_of(drop));
    Some(finding)
}

/// The drop itself proves that nobody listens.
fn no_socket(case: &Case<'_>, drop: &Drop<'_>) -> Option<Finding> {
    let tuple = drop.tuple()?;
    if !drop.may_lack_socket() || drop.direction != super::Direction::Request || drop.hop.is_encap {
        return None;
    }
    let holder = drop.hop.netns;
    if drop.answers()
        || !is_meant(case, holder, &tuple)
        || is_answer(case, holder, &tuple)
        || met::is_met(case)
    {
        return None;
    }
    let taken = own_address(case, drop, &tuple).or_else(|| taken_before(case, drop, tuple));
    let taken = taken.or_else(|| not_local::own(case, drop, &tuple));
    if let Some(finding) = taken.or_else(|| duplicate::mistaken(case, drop, &tuple)) {
        return Some(finding);
    }
    let is_pod = place::node_of(case.state, holder).is_some();
    if !is_pod && let Some(finding) = docker::unpublished(case, drop, tuple.dport) {
        return Some(finding);
    }
    let finding = Finding::error(RULE.id, case.scenario(), String::new())
        .at(Where::netns(case.state, holder))
        .fact(drop.fact())
        .journeys([drop.journey.id])
        .depth(case.depth_of(drop));
    nobody_listens(case, finding, holder, &tuple)
}

/// It comes to the port that a probe was sent from: an answer that was not translated back, or that
/// comes from another address than the one that was asked.
fn is_answer(case: &Case<'_>, holder: Inum, tuple: &Tuple) -> bool {
    let mut sent = case.probes.iter().filter(|p| p.netns == holder);
    sent.any(|p| p.sport == tuple.dport && p.dport != tuple.dport && p.to != tuple.dst)
}

/// A node that gets what was meant to be translated has another fault.
fn is_meant(case: &Case<'_>, holder: Inum, tuple: &Tuple) -> bool {
    let is_asked = case
        .target
        .as_ref()
        .is_none_or(|t| t.addr == Some(tuple.dst) && t.port == Some(tuple.dport));
    is_asked || place::node_of(case.state, holder).is_some()
}

/// Completes a finding about a port that no socket takes packets for; none where somebody listens
/// there, but not for this.
fn nobody_listens(
    case: &Case<'_>,
    finding: Finding,
    holder: Inum,
    tuple: &Tuple,
) -> Option<Finding> {
    let node = case.state.netns_name(holder);
    let number = if tuple.proto == Proto::Udp { 17 } else { 6 };
    let all = case.detail(holder).map_or(&[][..], |d| &d.sockets);
    let of_proto = || all.iter().filter(|s| s.proto == number);
    let sockets: Vec<&Socket> = of_proto().filter(|s| s.port == tuple.dport).collect();
    let is_local = !sockets.is_empty() && sockets.iter().all(|s| s.addr.is_loopback());
    // Somebody listens at the port, but not for this: what the walk finds tells it.
    if !sockets.is_empty() && !is_local {
        return None;
    }
    let is_dns = tuple.dport == 53 || case.scenario() == super::Scenario::Dns;
    let (id, title) = match (is_local, is_dns) {
        (true, _) => (
            "app-listens-localhost",
            format!("port {} in {node} is bound to localhost only", tuple.dport),
        ),
        (false, true) => {
            ("dns-server-down", format!("no DNS server listens at port {} in {node}", tuple.dport))
        }
        (false, false) => (RULE.id, format!("nobody listens at port {} in {node}", tuple.dport)),
    };
    let open: Vec<&Socket> =
        of_proto().filter(|s| s.peer.is_none() && !s.addr.is_loopback() && s.port != 0).collect();
    let mut others: Vec<u16> = open.iter().map(|s| s.port).collect();
    others.dedup();
    let listening = format!(
        "listening in {node}: {}",
        if others.is_empty() { "nothing".to_owned() } else { format!("{others:?}") }
    );
    let fix = match is_local {
        true => format!("# make the application in {node} listen at 0.0.0.0:{}", tuple.dport),
        false => {
            format!("# start the application in {node}, or ask for the port that it listens at")
        }
    };
    let finding = Finding { id, title, ..finding }
        .facts(sockets.iter().map(|s| socket_fact(&node, s)))
        .fact(listening)
        .fix(fix)
        .follows(match in_front::is_redirected(case, holder, tuple.dport) {
            true => REDIRECTED,
            false => &["dns-resolvconf-empty", "dns-resolvconf-wrong-server"],
        });
    if let Some(finding) = embedded(case, holder, (tuple, all), &finding) {
        return Some(finding);
    }
    let wrong = service::wrong_port(case, holder, (tuple.dst, tuple.dport), &open, &finding);
    Some(wrong.filter(|_| !is_local).unwrap_or(finding))
}

/// Docker's own name server for a container: a socket at this address of the container's `lo`, at a
/// port of its own, to which rules in the container lead what is asked at port 53.
const EMBEDDED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// It listens, and nothing leads there.
fn embedded(
    case: &Case<'_>,
    holder: Inum,
    (tuple, all): (&Tuple, &[Socket]),
    finding: &Finding,
) -> Option<Finding> {
    let is_it = |s: &&Socket| s.addr == EMBEDDED && s.port != 0 && s.proto == tuple.proto.number();
    let socket = all.iter().find(is_it).filter(|_| (tuple.dst, tuple.dport) == (EMBEDDED, 53))?;
    let (node, at) = (case.state.netns_name(holder), SocketAddr::new(EMBEDDED, socket.port));
    let title = format!(
        "no rule of {node} leads {EMBEDDED}:53 to Docker's name server, which listens at {at}: what \
         Docker wrote into table nat of the container is gone"
    );
    let fact = socket_fact(&node, socket);
    let finding = Finding { title, steps: Vec::new(), ..finding.clone() }.fact(fact);
    let proto = if tuple.proto == Proto::Udp { "udp" } else { "tcp" };
    let asked = argv!["-d", EMBEDDED, "-p", proto, "-m", proto, "--dport", 53_u16];
    let lead = asked.and(argv!["-j", "DNAT", "--to-destination", at]);
    let chain = chains::nat_chain(case, holder, EMBEDDED, "OUTPUT");
    Some(
        finding
            .fix(chain.edit(Edit::Append(Spec(lead))).at(holder))
            .fix("# restarting the container writes these rules anew, those for TCP too"),
    )
}

/// The asker has the address itself, and so asks itself: somebody else has it too, and listens.
fn own_address(case: &Case<'_>, drop: &Drop<'_>, tuple: &Tuple) -> Option<Finding> {
    let here = case.netns(drop.hop.netns)?;
    let is_own = drop.journey.hops.first().is_some_and(|h| h.netns == here.inum);
    if !is_own || tuple.src != tuple.dst || tuple.dst.is_loopback() {
        return None;
    }
    let serves = |n: &&Netns| {
        let mut sockets = n.detail.iter().flat_map(|d| &d.sockets);
        n.inum != here.inum
            && sockets.any(|s| {
                s.proto == tuple.proto.number() && s.port == tuple.dport && !s.addr.is_loopback()
            })
    };
    let mut others = case.state.holders(tuple.dst).filter(serves);
    let (other, None) = (others.next()?, others.next()) else { return None };
    let (node, dst, port) = (&here.name, tuple.dst, tuple.dport);
    let title = format!(
        "{node} has {dst} itself, and so asks itself: {}, which listens at port {port}, has the same \
         address",
        other.name
    );
    let arrives = |addr: &IpAddr| {
        let walk = walk(case.state, &Scope::everything(), &Ask::ping(here.inum, *addr));
        matches!(walk.end, End::Delivered { netns, .. } if netns == other.inum)
            && walk.stopped_at().is_none()
    };
    let held = other.devices.values().flat_map(|d| &d.addresses).map(|(a, _)| *a);
    let mut held = held.filter(|a| *a != dst && a.is_ipv4() == dst.is_ipv4() && !a.is_loopback());
    let ask = match held.find(arrives) {
        Some(addr) => {
            format!("# ask {} by {addr}, or give one of the two another address", other.name)
        }
        None => format!("# give {node} or {} another address", other.name),
    };
    Some(
        Finding::error("duplicate-address", case.scenario(), title)
            .at(Where::netns(case.state, here.inum).dev(drop.dev().unwrap_or("lo")))
            .fact(drop.fact())
            .fact(format!("ip addr of {node} and of {}: {dst}", other.name))
            .journeys([drop.journey.id])
            .depth(case.depth_of(drop))
            .fix(ask),
    )
}

/// The address is on a node on the way as well, which so takes what it should forward: somebody it
/// has a route to holds the address too, and listens.
fn taken_before(case: &Case<'_>, drop: &Drop<'_>, tuple: Tuple) -> Option<Finding> {
    let here = case.netns(drop.hop.netns)?;
    let main = FibQuery { table: Some(TABLE_MAIN), ..FibQuery::to(tuple.dst) };
    let on = fib::lookup(here, &main).route.filter(|r| r.kind == RouteType::Unicast && r.dst.1 > 0);
    let on = on?;
    // Others on this kernel may have the same address and be nobody that it could reach.
    let real = case.netns(case.led_to(here, on, tuple.dst)?)?;
    let text = show::route(here, on);
    let number = if tuple.proto == crate::event::Proto::Udp { 17 } else { 6 };
    let mut sockets = real.detail.iter().flat_map(|d| &d.sockets);
    if !sockets.any(|s| s.proto == number && s.port == tuple.dport && !s.addr.is_loopback()) {
        return None;
    }
    let mut devices = here.devices.values();
    let (device, len) = devices.find_map(|d| {
        d.addresses.iter().find(|(a, _)| *a == tuple.dst).map(|(_, len)| (d, *len))
    })?;
    // Two on one link are told as such, with what clears the neighbours' tables.
    if on.hops.iter().any(|h| h.dev == Some(device.ifindex)) {
        return None;
    }
    let (node, dst, dev) = (&here.name, tuple.dst, &device.name);
    let title = format!("{node} has {dst}, the address of {}, as its own on {dev}", real.name);
    let mut place = Where::netns(case.state, here.inum);
    place.dev = Some(device.name.clone());
    Some(
        Finding::error("duplicate-address", case.scenario(), title)
            .at(place)
            .fact(drop.fact())
            .fact(format!("ip addr of {node}: {dst}/{len} dev {dev}"))
            .fact(format!("ip route of {node}: {text}"))
            .journeys([drop.journey.id])
            .depth(case.depth_of(drop))
            .fix(Remedy::del_addr(dev, (dst, len)).at(here.inum)),
    )
}

/// Connected, asked, and nothing came.
fn hung(case: &Case<'_>) -> Option<Finding> {
    let probe = case.failed().find(|p| p.outcome == Outcome::Silent { asked: true })?;
    let title =
        format!("the application at {} accepts connections and does not answer", case.aim());
    let servers = case.ways.iter().filter_map(|way| match &way.request.end {
        End::Delivered { netns, .. } => {
            Some((case.netns(*netns)?, way.request.steps.last()?.tuple.dport))
        }
        _ => None,
    });
    let server = servers.max_by_key(|(server, port)| is_waiting(server, *port));
    // A packet of the connection that was dropped says more.
    let is_dropped = case.drops().any(|d| d.reason != "NO_SOCKET");
    let severity = match server.map(|(server, port)| is_waiting(server, port)) {
        _ if is_dropped => Severity::Info,
        // Until it is asked what it understands, a server may well say nothing.
        Some(false) => Severity::Info,
        Some(true) => Severity::Error,
        None => Severity::Warning,
    };
    let mut finding = Finding::error("app-hung", case.scenario(), title)
        .severity(severity)
        .confidence(Confidence::Likely)
        .fact(probe.sentence())
        .fix("# look at that application: it is busy, stopped, or does not speak HTTP at this port")
        // Who cannot send long packets accepts, and answers nobody.
        .follows(&[
            "pmtud-blackhole",
            "mtu-mismatch",
            "underlay-mtu-blackhole",
            "vxlan-fragments-dropped",
        ])
        .depth(case.depth(super::Direction::Request, 9_000));
    finding.place.netns = server.map(|(n, _)| n.inum);
    finding.place.netns_name = server.map(|(n, _)| n.name.clone());
    Some(finding)
}

/// Connections wait to be accepted at that port.
fn is_waiting(server: &Netns, port: u16) -> bool {
    let mut sockets = server.detail.iter().flat_map(|d| &d.sockets);
    sockets.any(|s| (s.proto, s.port) == (6, port) && s.queued > 0)
}

fn list(sockets: &[Socket]) -> String {
    let list: Vec<String> = sockets.iter().map(|s| s.addr.to_string()).collect();
    list.join(", ")
}

fn process(socket: &Socket) -> String {
    socket
        .process
        .as_ref()
        .map_or_else(|| "the application".to_owned(), |(pid, name)| format!("{name} ({pid})"))
}

fn queue_fact(node: &str, socket: &Socket) -> String {
    format!("{}: {} waiting, limit {}", socket_fact(node, socket), socket.queued, socket.limit)
}

fn socket_fact(node: &str, socket: &Socket) -> String {
    let who =
        socket.process.as_ref().map(|(pid, name)| format!(" ({name}, {pid})")).unwrap_or_default();
    let at = SocketAddr::new(socket.addr, socket.port);
    format!("{node} listens at {at}{who}")
}
