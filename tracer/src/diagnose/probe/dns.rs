//! DNS queries for A records (RFC 1035), and datagrams to other UDP ports.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::socket::{self, Ready};
use super::{Plan, Wait, errors};
use crate::diagnose::case::{Outcome, Probed};
use crate::net::detail::Resolver;

const NXDOMAIN: u8 = 3;
const TYPE_A: u16 = 1;
/// A question that is not answered is asked once more.
const AGAIN: Duration = Duration::from_millis(1500);
const TRUNCATED: u8 = 2;

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
        probed.outcome = ask(&socket, plan, number, name, wait)?;
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

fn ask(socket: &OwnedFd, plan: &Plan, number: u16, name: &str, wait: &Wait) -> io::Result<Outcome> {
    let query = encode(number, name)?;
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
            if n < 12 || answer[..2] != number.to_be_bytes() {
                continue;
            }
            if answer[2] & TRUNCATED != 0 {
                return by_tcp(plan, &query, wait, socket::port(socket));
            }
            return Ok(decode(&answer[..n]));
        }
    }
    Ok(Outcome::Timeout)
}

/// The same question over TCP (RFC 7766), from the same port: its packets are this probe's too.
fn by_tcp(plan: &Plan, query: &[u8], wait: &Wait, sport: u16) -> io::Result<Outcome> {
    let socket = socket::open(plan.to, libc::SOCK_STREAM, 0)?;
    // Where that is taken, any other will do.
    let _ = socket::bind(&socket, plan.to, sport);
    socket::connect(&socket, plan.aim())?;
    match socket::wait(&socket, libc::POLLOUT, wait)? {
        Ready::No => return Ok(Outcome::Timeout),
        Ready::Error => return Ok(errors::take(&socket).unwrap_or(Outcome::Timeout)),
        Ready::Yes => {}
    }
    let len = u16::try_from(query.len()).unwrap_or(0).to_be_bytes();
    socket::send(&socket, &[&len, query].concat())?;
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while socket::wait(&socket, libc::POLLIN, wait)? == Ready::Yes {
        match socket::receive(&socket, &mut part)? {
            Some(0) => break,
            Some(n) => answer.extend_from_slice(&part[..n]),
            None => {}
        }
        let wanted = answer.get(..2).map(|l| usize::from(u16::from_be_bytes([l[0], l[1]])));
        if wanted.is_some_and(|wanted| answer.len() >= wanted + 2) {
            return Ok(decode(&answer[2..]));
        }
    }
    Ok(Outcome::Timeout)
}

/// A query for the A record of `name`.
fn encode(id: u16, name: &str) -> io::Result<Vec<u8>> {
    let [id_hi, id_lo] = id.to_be_bytes();
    let mut query = vec![id_hi, id_lo, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let len = u8::try_from(label.len()).ok().filter(|len| *len < 64);
        let too_long = || io::Error::from_raw_os_error(libc::ENAMETOOLONG);
        query.push(len.ok_or_else(too_long)?);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    Ok(query)
}

/// Response code and A records.
pub(super) fn decode(answer: &[u8]) -> Outcome {
    let rcode = answer.get(3).map_or(2, |b| b & 0xf);
    let addresses = records(answer).unwrap_or_default();
    Outcome::Dns { rcode, addresses }
}

fn records(answer: &[u8]) -> Option<Vec<IpAddr>> {
    let word = |at: usize| Some(u16::from_be_bytes([*answer.get(at)?, *answer.get(at + 1)?]));
    let mut at = 12;
    for _ in 0..word(4)? {
        at = skip_name(answer, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..word(6)? {
        at = skip_name(answer, at)?;
        let (kind, len) = (word(at)?, usize::from(word(at + 8)?));
        let data = answer.get(at + 10..at + 10 + len)?;
        if let (TYPE_A, [a, b, c, d]) = (kind, data) {
            found.push(IpAddr::from([*a, *b, *c, *d]));
        }
        at += 10 + len;
    }
    Some(found)
}

fn skip_name(answer: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *answer.get(at)? {
            0 => return Some(at + 1),
            len if len & 0xc0 == 0xc0 => return Some(at + 2),
            len => at += 1 + usize::from(len),
        }
    }
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
        let mut answer = encode(1, "ab.c").unwrap();
        answer[2] = 0x80;
        answer[7] = 1;
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 1]);
        let one = vec!["10.0.0.1".parse().unwrap()];
        assert_eq!(decode(&answer), Outcome::Dns { rcode: 0, addresses: one });
        answer[3] = 2;
        assert!(matches!(decode(&answer), Outcome::Dns { rcode: 2, .. }));
        assert!(matches!(decode(&answer[..20]), Outcome::Dns { rcode: 2, .. }));
    }
}
