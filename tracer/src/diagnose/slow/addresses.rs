//! Addresses of a name that nobody answers at, and servers that wait for names themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::evidence::human;
use super::{Check, Evidence, Moment};
use crate::diagnose::case::{Method, Outcome};
use crate::diagnose::finding::{Confidence, Finding};
use crate::net::Inum;
use crate::net::detail::Socket;

pub(super) const CHECK: Check = Check {
    explains: &[
        (
            "slow-dead-address",
            "A name has several addresses, and one of them does not answer. A client that is given \
             that one first waits for its time-out (a minute or two, unless it has a shorter one of \
             its own) before it tries the next. With an IPv6 address in DNS and no way for IPv6 \
             that happens at every connection, since IPv6 goes first.",
        ),
        (
            "slow-server-names",
            "The server looks something up in DNS for each connection (often the client's name: sshd's \
             UseDNS, MySQL without skip-name-resolve, FTP and mail servers) and waits for a name \
             server that does not answer. Its own resolv.conf decides, not the client's.",
        ),
    ],
    find,
};

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let waiting = evidence.receivers().into_iter().filter_map(|r| waits(evidence, r));
    dead(evidence).into_iter().chain(waiting).collect()
}

/// What came of the connections to one address.
#[derive(Default)]
struct Tried {
    answered: usize,
    silent: usize,
    others: usize,
}

fn dead(evidence: &Evidence<'_>) -> Option<Finding> {
    let target = evidence.target.as_ref().filter(|t| t.name.is_some() && t.proto == Method::Tcp)?;
    let mut tried: BTreeMap<IpAddr, Tried> = BTreeMap::new();
    for probe in &evidence.probes {
        let tried = tried.entry(probe.to).or_default();
        match probe.outcome {
            _ if probe.is_answered() => tried.answered += 1,
            Outcome::Timeout => tried.silent += 1,
            // Refused at once: the next one is tried at once.
            _ => tried.others += 1,
        }
    }
    let is_dead = |t: &Tried| t.silent > 0 && t.answered + t.others == 0;
    let alive: Vec<IpAddr> =
        tried.iter().filter(|(_, t)| t.answered > 0).map(|(addr, _)| *addr).collect();
    // With a global address of its own, a client tries IPv6 first (RFC 6724); else last.
    let has_v6 = own_addresses(evidence, target.netns).any(is_global);
    let is_first = |addr: &IpAddr| {
        alive.iter().any(|other| other.is_ipv4() == addr.is_ipv4()) || addr.is_ipv6() == has_v6
    };
    let (addr, one) = tried.iter().find(|(addr, t)| is_dead(t) && is_first(addr))?;
    let other = alive.first()?;
    let name = target.name.as_deref()?;
    let title = format!("{name} has the address {addr}, which does not answer; {other} does");
    let kind = if addr.is_ipv6() { "IPv6 (AAAA)" } else { "IPv4 (A)" };
    let finding = evidence
        .finding("slow-dead-address", target.netns, title)
        .fact(format!("{} of {} connections to {addr}, {kind}: no answer", one.silent, one.silent))
        .fact(format!("connections to {other} are answered"));
    Some(finding.fix(format!(
        "`pkttrace diagnose --from {} --to {addr} …` says where it ends; until that is mended take \
         {addr} out of DNS",
        target.from
    )))
}

fn own_addresses<'a>(evidence: &'a Evidence<'_>, netns: Inum) -> impl Iterator<Item = IpAddr> + 'a {
    let devices = evidence.netns(netns).into_iter().flat_map(|n| n.devices.values());
    devices.flat_map(|d| d.addresses.iter().map(|(addr, _)| *addr))
}

/// Of 2000::/3.
fn is_global(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(v6) if v6.segments()[0] >> 13 == 1)
}

const DNS: u16 = 53;
/// A question that waits as long as this is not answered at once.
const LOOKS: usize = 3;

/// In the namespace of the listener, questions to a name server wait.
fn waits(evidence: &Evidence<'_>, (netns, history): (Inum, Vec<&Socket>)) -> Option<Finding> {
    let listener = history.last().filter(|s| i32::from(s.proto) == libc::IPPROTO_TCP)?;
    let sent = evidence.grown(netns, "UdpOutDatagrams");
    let came = evidence.grown(netns, "UdpInDatagrams");
    // A socket that is kept open asks nothing.
    if sent < LOOKS as u64 || came * 2 > sent {
        return None;
    }
    let (server, looks, all) = asked(evidence, netns)?;
    let listener = listener.process.as_ref();
    let who = listener
        .map_or_else(|| "The server".to_owned(), |(pid, name)| format!("{name} (PID {pid})"));
    let title = format!("{who} waits for the name server {server}, which does not answer");
    let share = evidence.span.mul_f64(looks as f64 / all.max(1) as f64);
    let file = evidence.detail(netns).and_then(|d| d.resolver.as_ref());
    let file = file.map_or("resolv.conf", |r| r.path.as_str());
    Some(
        evidence
            .finding("slow-server-names", netns, title)
            .confidence(Confidence::Likely)
            .fact(format!(
                "a question to {server} port {DNS} was waiting in {looks} of {all} looks, some {}",
                human(share.max(Duration::from_millis(1)))
            ))
            .fact(format!("{sent} datagrams were sent in its namespace, and {came} came"))
            .fix(format!(
                "let the server look up no names of its clients (UseDNS no, skip-name-resolve, …), or \
                 mend nameserver {server} in {file}"
            )),
    )
}

/// The name server whose answer is waited for, in how many looks, and how many there were.
fn asked(evidence: &Evidence<'_>, netns: Inum) -> Option<(IpAddr, usize, usize)> {
    let here: Vec<_> = evidence.moments.iter().filter_map(|m: &Moment| m.get(&netns)).collect();
    let questions = |sockets: &[Socket]| {
        let udp = sockets.iter().filter(|s| i32::from(s.proto) == libc::IPPROTO_UDP);
        let asks = udp.filter_map(|s| Some((s.port, s.peer.filter(|(_, port)| *port == DNS)?.0)));
        asks.collect::<BTreeSet<_>>()
    };
    let mut looks: BTreeMap<(u16, IpAddr), usize> = BTreeMap::new();
    for question in here.iter().flat_map(|reading| questions(&reading.sockets)) {
        *looks.entry(question).or_default() += 1;
    }
    let long: BTreeSet<IpAddr> =
        looks.iter().filter(|(_, n)| **n >= LOOKS).map(|((_, server), _)| *server).collect();
    let server = *long.first()?;
    let is_asked = |reading: &&&crate::net::meter::Reading| {
        questions(&reading.sockets).iter().any(|(_, addr)| *addr == server)
    };
    let count = here.iter().filter(is_asked).count();
    (count * 3 > here.len()).then_some((server, count, here.len()))
}
