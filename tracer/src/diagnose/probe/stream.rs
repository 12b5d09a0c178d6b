//! TCP: connects, and reads the start of an answer.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::socket::{self, Ready};
use super::{Plan, Wait, dns, errors};
use crate::diagnose::case::{Outcome, Probed};

/// How long a server may take to speak first. Most wait for us; what counts is that it accepts.
const GREETING: Duration = Duration::from_millis(100);

pub(super) fn run(
    plan: &Plan,
    wait: &Wait,
    sends: &dyn Fn(u16),
    probed: &mut Probed,
) -> io::Result<()> {
    let socket = socket::open(plan.to, libc::SOCK_STREAM, 0)?;
    if let Some(port) = plan.sport {
        socket::set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        socket::bind(&socket, plan.to, port)?;
    }
    let start = Instant::now();
    // The port is chosen here and not by `bind`, which would take one that a connection to
    // somebody else may share.
    let begun = socket::connect(&socket, plan.aim());
    probed.sport = socket::port(&socket);
    sends(probed.sport);
    if let Err(error) = begun {
        probed.outcome = errors::of_errno(error.raw_os_error().unwrap_or(libc::EIO));
        return Ok(());
    }
    match socket::wait(&socket, libc::POLLOUT, wait)? {
        Ready::No => return Ok(()),
        Ready::Error => {
            probed.outcome = errors::take(&socket).unwrap_or(Outcome::Timeout);
            return Ok(());
        }
        Ready::Yes => {}
    }
    probed.rtt = Some(start.elapsed());
    probed.outcome = match plan.questions.first() {
        Some(name) => dns::by_tcp(&socket, name, wait)?,
        None => converse(&socket, plan, wait)?,
    };
    Ok(())
}

/// Hears whether the server speaks first, else says what the port suggests and hears what comes.
/// Who greets and hangs up never reads what it is told, and its kernel resets the connection then:
/// so it is not told anything before it had its turn.
fn converse(socket: &OwnedFd, plan: &Plan, wait: &Wait) -> io::Result<Outcome> {
    if let Some(heard) = hear(socket, &wait.at_most(GREETING))? {
        return Ok(heard);
    }
    if !speaks_http(plan.dport) {
        return Ok(Outcome::Silent { asked: false });
    }
    let request = format!("GET / HTTP/1.0\r\nHost: {}\r\n\r\n", plan.aim());
    // What waits by now is heard below, an error too.
    let _ = socket::send(socket, request.as_bytes());
    Ok(hear(socket, wait)?.unwrap_or(Outcome::Silent { asked: true }))
}

/// What comes in time. What came before a reset was received all the same.
fn hear(socket: &OwnedFd, patience: &Wait) -> io::Result<Option<Outcome>> {
    if socket::wait(socket, libc::POLLIN, patience)? == Ready::No {
        return Ok(None);
    }
    Ok(Some(match socket::receive(socket, &mut [0; 512]) {
        // An end without a word is an answer too: the application is there.
        Ok(Some(_)) => Outcome::Answered,
        // An ICMP error waits, and nothing else.
        Ok(None) => errors::take(socket).unwrap_or(Outcome::Reset),
        Err(e) => errors::of_errno(e.raw_os_error().unwrap_or(libc::EIO)),
    }))
}

/// Ports at which an HTTP server is to be expected: anything else may take a request amiss.
fn speaks_http(port: u16) -> bool {
    matches!(port, 80 | 81 | 3000 | 5000 | 8000..=8099 | 8180 | 8888 | 9090)
}
