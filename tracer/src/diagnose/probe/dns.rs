//! DNS queries for A and AAAA records, and datagrams to other UDP ports.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, TYPE};

use super::socket::{self, Ready};
use super::{Plan, Wait, errors};
use crate::diagnose::case::{Outcome, Probed};
use crate::net::detail::Resolver;

const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
/// A question that is not answered is asked once more.
const AGAIN: Duration = Duration::from_millis(1500);

/// Asks for each name in turn until one exists.
pub(super) fn run(
    plan: &Plan,
    wait: &Wait,
    sends: &dyn Fn(u16),
    probed: &mut Probed,
) -> io::Result<()> {
    let socket = connected(plan, sends, probed)?;
    for (number, name) in (1..).zip(&plan.questions) {
        probed.question = Some(name.clone());
        let sent = Instant::now();
        probed.outcome = ask(&socket, number, (name, plan.asks_v6), wait)?;
        match &probed.outcome {
            Outcome::Dns { rcode, addresses } => {
                probed.rtt = Some(sent.elapsed());
                if !(*rcode == NXDOMAIN || *rcode == 0 && addresses.is_empty()) {
                    return Ok(());
                }
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// One datagram; whatever comes back is an answer.
pub(super) fn datagram(
    plan: &Plan,
    wait: &Wait,
    sends: &dyn Fn(u16),
    probed: &mut Probed,
) -> io::Result<()> {
    let socket = connected(plan, sends, probed)?;
    let sent = Instant::now();
    socket::send(&socket, b"pkttrace")?;
    match socket::wait(&socket, libc::POLLIN, wait)? {
        Ready::No => {}
        Ready::Error => probed.outcome = errors::take(&socket).unwrap_or(Outcome::Timeout),
        Ready::Yes => {
            probed.outcome = Outcome::Answered;
            probed.rtt = Some(sent.elapsed());
        }
    }
    Ok(())
}

fn connected(plan: &Plan, sends: &dyn Fn(u16), probed: &mut Probed) -> io::Result<OwnedFd> {
    let socket = socket::open(plan.to, libc::SOCK_DGRAM, 0)?;
    if let Some(port) = plan.sport {
        socket::bind(&socket, plan.to, port)?;
    }
    socket::connect(&socket, plan.aim())?;
    probed.sport = socket::port(&socket);
    sends(probed.sport);
    Ok(socket)
}

fn ask(
    socket: &OwnedFd,
    number: u16,
    (name, is_v6): (&str, bool),
    wait: &Wait,
) -> io::Result<Outcome> {
    let query = encode(number, name, if is_v6 { TYPE::AAAA } else { TYPE::A })?;
    let mut answer = vec![0; 4096];
    while !wait.is_over() {
        socket::send(socket, &query)?;
        let turn = wait.at_most(AGAIN);
        loop {
            match socket::wait(socket, libc::POLLIN, &turn)? {
                Ready::No => break,
                Ready::Error => return Ok(errors::take(socket).unwrap_or(Outcome::Timeout)),
                Ready::Yes => {}
            }
            let n = socket::receive(socket, &mut answer)?.unwrap_or(0);
            if let Some(outcome) = decode(&answer[..n], number, name) {
                return Ok(outcome);
            }
        }
    }
    Ok(Outcome::Timeout)
}

/// The same question on a connection (RFC 7766), as it is asked again where an answer was cut off.
pub(super) fn by_tcp(socket: &OwnedFd, name: &str, wait: &Wait) -> io::Result<Outcome> {
    let query = encode(1, name, TYPE::A)?;
    let len = u16::try_from(query.len()).unwrap_or(0).to_be_bytes();
    socket::send(socket, &[&len, &query[..]].concat())?;
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while socket::wait(socket, libc::POLLIN, wait)? == Ready::Yes {
        match socket::receive(socket, &mut part)? {
            Some(0) => break,
            Some(n) => answer.extend_from_slice(&part[..n]),
            None => {}
        }
        let wanted = answer.get(..2).map(|l| usize::from(u16::from_be_bytes([l[0], l[1]])));
        if wanted.is_some_and(|wanted| answer.len() >= wanted + 2) {
            return Ok(decode(&answer[2..], 1, name).unwrap_or(Outcome::Silent { asked: true }));
        }
    }
    Ok(Outcome::Silent { asked: true })
}

/// A query for a record of `name`.
fn encode(id: u16, name: &str, kind: TYPE) -> io::Result<Vec<u8>> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    let name = Name::new(name).map_err(invalid)?;
    let mut query = Packet::new_query(id);
    query.set_flags(PacketFlag::RECURSION_DESIRED);
    let (kind, class) = (QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN));
    query.questions.push(Question::new(name, kind, class, false));
    query.build_bytes_vec().map_err(invalid)
}

/// What the answer to that question says; `None` for what is none.
pub(super) fn decode(answer: &[u8], id: u16, name: &str) -> Option<Outcome> {
    let answer = match Packet::parse(answer) {
        Ok(answer) => answer,
        // Something that nobody can read is no answer to those who ask, either.
        Err(_) => {
            let is_ours = answer.get(..2) == Some(&id.to_be_bytes()[..]);
            return is_ours.then(|| Outcome::Dns { rcode: SERVFAIL, addresses: Vec::new() });
        }
    };
    let is_its = |q: &Question<'_>| {
        let asked = name.trim_end_matches('.');
        q.qname.to_string().trim_end_matches('.').eq_ignore_ascii_case(asked)
    };
    let is_answer = answer.has_flags(PacketFlag::RESPONSE) && answer.id() == id;
    if !is_answer || !answer.questions.iter().all(is_its) {
        return None;
    }
    if answer.has_flags(PacketFlag::TRUNCATION) {
        return Some(Outcome::Truncated);
    }
    let addresses = answer.answers.iter().filter_map(|record| match &record.rdata {
        RData::A(a) => Some(IpAddr::from(a.address.to_be_bytes())),
        RData::AAAA(a) => Some(IpAddr::from(a.address.to_be_bytes())),
        _ => None,
    });
    Some(Outcome::Dns { rcode: answer.rcode() as u8, addresses: addresses.collect() })
}

/// The names to ask for, in turn, as the C library's resolver does (resolv.conf(5)).
#[must_use]
pub fn candidates(resolver: &Resolver, name: &str) -> Vec<String> {
    if let Some(absolute) = name.strip_suffix('.') {
        return vec![absolute.to_owned()];
    }
    let mut names: Vec<_> = resolver.search.iter().map(|s| format!("{name}.{s}")).collect();
    let has_enough_dots = name.matches('.').count() >= usize::from(resolver.ndots);
    names.insert(if has_enough_dots { 0 } else { names.len() }, name.to_owned());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_list_and_ndots_are_obeyed() {
        let resolver = Resolver {
            search: vec!["a.b".to_owned(), "b".to_owned()],
            ndots: 2,
            ..Resolver::default()
        };
        assert_eq!(candidates(&resolver, "web"), ["web.a.b", "web.b", "web"]);
        assert_eq!(candidates(&resolver, "x.y.z"), ["x.y.z", "x.y.z.a.b", "x.y.z.b"]);
        assert_eq!(candidates(&resolver, "web."), ["web"]);
    }

    #[test]
    fn answers_are_decoded() {
        let mut answer = encode(1, "ab.c", TYPE::A).unwrap();
        answer[2] = 0x80;
        answer[7] = 1;
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 1]);
        let one = vec!["10.0.0.1".parse().unwrap()];
        let read = |answer: &[u8], name| decode(answer, 1, name);
        assert_eq!(read(&answer, "AB.c."), Some(Outcome::Dns { rcode: 0, addresses: one }));
        assert_eq!(read(&answer, "other.c"), None, "an answer to something else");
        assert_eq!(decode(&answer, 2, "ab.c"), None, "or to somebody else");
        answer[2] |= 2;
        assert_eq!(read(&answer, "ab.c"), Some(Outcome::Truncated));
        answer[2] &= !2;
        answer[3] = 2;
        assert!(matches!(read(&answer, "ab.c"), Some(Outcome::Dns { rcode: 2, .. })));
        assert!(matches!(read(&answer[..20], "ab.c"), Some(Outcome::Dns { rcode: 2, .. })));
        assert!(encode(1, &"a".repeat(64), TYPE::A).is_err());
    }
}
