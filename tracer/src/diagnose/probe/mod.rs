//! Probes of our own, sent from inside any namespace: small enough to harm nothing, chosen so that
//! their packets can be told from everybody else's.
//!
//! Each probe runs on a scratch thread inside the namespace and reports when it has sent and what
//! came of it; whoever waits may call it off.

mod dns;
mod echo;
mod errors;
mod socket;
mod stream;

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::case::{Method, Outcome, Probed, Purpose};
use crate::net::{Inum, setns};

pub use dns::candidates;

/// What to send.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How.
    pub method: Method,
    /// Why.
    pub purpose: Purpose,
    /// From which namespace.
    pub netns: Inum,
    /// To whom.
    pub to: IpAddr,
    /// Destination port, 0 for ICMP.
    pub dport: u16,
    /// Source port, if it has to be a certain one.
    pub sport: Option<u16>,
    /// Length of the IP packet, and DF, for echoes.
    pub size: Option<u32>,
    /// Names to ask for, in turn, for DNS; over TCP the one whose answer was cut off.
    pub questions: Vec<String>,
    /// For their IPv6 addresses.
    pub asks_v6: bool,
    /// How long to wait for an answer.
    pub timeout: Duration,
}

/// What a probe reports, with its number.
#[derive(Debug)]
pub enum Report {
    /// It sends now, from this source port (or with this identifier).
    Sends(usize, u16),
    /// It is over.
    Done(usize, Box<Probed>),
}

/// Probes under way.
#[derive(Debug, Default)]
pub struct Running {
    called_off: Arc<AtomicBool>,
}

impl Running {
    /// Starts a probe inside the namespace that `netns` is open on. Its last report is `Done`.
    pub fn start(&self, netns: Arc<File>, number: usize, plan: Plan, to: UnboundedSender<Report>) {
        let wait = Wait {
            deadline: Instant::now() + plan.timeout,
            called_off: Arc::clone(&self.called_off),
        };
        std::thread::spawn(move || {
            let mut probed = plan.blank();
            let sends = |sport| _ = to.send(Report::Sends(number, sport));
            let sent = setns::run_in(&*netns, || Ok(plan.run(&wait, &sends, &mut probed)));
            if let Err(error) | Ok(Err(error)) = sent {
                probed.outcome = Outcome::Local(error.raw_os_error().unwrap_or(libc::EIO));
            }
            // Nobody waits for it any more: nothing to be done.
            let _ = to.send(Report::Done(number, Box::new(probed)));
        });
    }

    /// Ends them all soon: what has no answer by now counts as unanswered.
    pub fn call_off(&self) {
        self.called_off.store(true, Ordering::Relaxed);
    }

    /// Whether they have been told to end.
    pub fn is_called_off(&self) -> bool {
        self.called_off.load(Ordering::Relaxed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.call_off();
    }
}

impl Plan {
    /// Its outcome before anything came of it.
    fn blank(&self) -> Probed {
        Probed {
            method: self.method,
            purpose: self.purpose,
            netns: self.netns,
            to: self.to,
            dport: self.dport,
            sport: self.sport.unwrap_or(0),
            size: self.size,
            question: self.questions.first().cloned(),
            rtt: None,
            outcome: Outcome::Timeout,
        }
    }

    fn run(&self, wait: &Wait, sends: &dyn Fn(u16), probed: &mut Probed) -> io::Result<()> {
        match self.method {
            Method::Icmp => echo::run(self, wait, sends, probed),
            Method::Tcp => stream::run(self, wait, sends, probed),
            Method::Udp => dns::datagram(self, wait, sends, probed),
            Method::Dns => dns::run(self, wait, sends, probed),
        }
    }

    fn aim(&self) -> SocketAddr {
        SocketAddr::new(self.to, self.dport)
    }
}

/// Until when to wait.
#[derive(Clone, Debug)]
struct Wait {
    deadline: Instant,
    called_off: Arc<AtomicBool>,
}

impl Wait {
    /// The same, but not longer than `limit` from now.
    fn at_most(&self, limit: Duration) -> Self {
        let deadline = self.deadline.min(Instant::now() + limit);
        Self { deadline, called_off: Arc::clone(&self.called_off) }
    }

    fn is_over(&self) -> bool {
        self.called_off.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }
}

/// The way in for `crate::fuzz`: addresses in a DNS message.
#[cfg(test)]
pub(crate) mod fuzz {
    use super::{Outcome, dns};

    pub(crate) fn dns(answer: &[u8]) -> usize {
        let id = answer.get(..2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
        let asked = simple_dns::Packet::parse(answer).ok();
        let name = asked.and_then(|a| Some(a.questions.first()?.qname.to_string()));
        match dns::decode(answer, id, &name.unwrap_or_default()) {
            Some(Outcome::Dns { addresses, .. }) => addresses.len(),
            _ => 0,
        }
    }
}
