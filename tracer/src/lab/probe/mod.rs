//! Probes: what a user of the lab would try, in small clients of our own with short timeouts. They
//! run inside the lab's namespaces and tell why they failed.

mod dns;
mod http;
mod icmp;
mod measure;

use std::io;
use std::time::Duration;

use self::measure::At;
use super::{Error, Prefix};
use crate::net::setns;

pub use measure::Measure;

/// Something to try, made of steps that must all work.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    pub name: &'static str,
    /// Who does what.
    pub what: &'static str,
    pub expected: Expected,
    pub steps: &'static [Step],
    /// What has to be good enough, and the host that measures it.
    pub measure: Option<(&'static str, Measure)>,
}

/// In which labs a probe works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// In every healthy one.
    Healthy,
    /// In a healthy one that was made with IPv6.
    WithIpv6,
    /// It is there to tell faults apart, and may fail without one.
    Either,
}

/// One attempt from inside host `from`. A URL is `ADDRESS:PORT/PATH`.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// An ICMP echo; with a `size`, of that many bytes and not to be fragmented.
    Ping { from: &'static str, to: &'static str, size: u16 },
    /// An HTTP request, `times` in a row, or at once where the server is `is_slow`.
    Get { from: &'static str, url: &'static str, times: u8, is_slow: bool, body_has: &'static str },
    /// A name, through the host's own `resolv.conf`.
    Lookup { from: &'static str, name: &'static str },
    /// A DNS query straight to a server; any answer will do. A `sport` of 0 is any.
    Query { from: &'static str, server: &'static str, sport: u16 },
    /// An HTTP request on a connection that has been silent for a while.
    Idle { from: &'static str, url: &'static str, seconds: u8 },
}

pub(crate) const fn ping(from: &'static str, to: &'static str) -> Step {
    Step::Ping { from, to, size: 0 }
}

pub(crate) const fn get(from: &'static str, url: &'static str) -> Step {
    get_times(1, from, url)
}

pub(crate) const fn get_times(times: u8, from: &'static str, url: &'static str) -> Step {
    Step::Get { from, url, times, is_slow: false, body_has: "" }
}

pub(crate) const fn get_slow(times: u8, from: &'static str, url: &'static str) -> Step {
    Step::Get { from, url, times, is_slow: true, body_has: "" }
}

pub(crate) const fn get_body(
    from: &'static str,
    url: &'static str,
    body_has: &'static str,
) -> Step {
    Step::Get { from, url, times: 1, is_slow: false, body_has }
}

pub(crate) const fn lookup(from: &'static str, name: &'static str) -> Step {
    Step::Lookup { from, name }
}

pub(crate) const fn query(from: &'static str, server: &'static str, sport: u16) -> Step {
    Step::Query { from, server, sport }
}

impl Probe {
    pub(crate) const fn healthy(
        name: &'static str,
        what: &'static str,
        steps: &'static [Step],
    ) -> Self {
        Self { name, what, expected: Expected::Healthy, steps, measure: None }
    }

    pub(crate) const fn ipv6(
        name: &'static str,
        what: &'static str,
        steps: &'static [Step],
    ) -> Self {
        Self { name, what, expected: Expected::WithIpv6, steps, measure: None }
    }

    pub(crate) const fn other(
        name: &'static str,
        what: &'static str,
        steps: &'static [Step],
    ) -> Self {
        Self { name, what, expected: Expected::Either, steps, measure: None }
    }

    pub(crate) const fn measured(
        name: &'static str,
        what: &'static str,
        from: &'static str,
        measure: Measure,
    ) -> Self {
        Self { measure: Some((from, measure)), ..Self::other(name, what, &[]) }
    }

    /// Tries all steps in turn.
    ///
    /// # Errors
    ///
    /// The first step that fails, and why.
    pub fn run(&self, prefix: &Prefix) -> Result<(), Error> {
        self.steps.iter().try_for_each(|step| step.run(prefix))?;
        self.measure_by(prefix, Measure::check)
    }

    /// Makes the traffic of what it measures for so long; `false` if it measures nothing.
    ///
    /// # Errors
    ///
    /// That a host cannot be entered.
    pub fn load(&self, prefix: &Prefix, span: Duration) -> Result<bool, Error> {
        self.measure_by(prefix, |what, at| what.load(at, span))?;
        Ok(self.measure.is_some())
    }

    fn measure_by(
        &self,
        prefix: &Prefix,
        job: impl FnOnce(Measure, At<'_>) -> io::Result<()> + Send,
    ) -> Result<(), Error> {
        let Some((host, what)) = self.measure else { return Ok(()) };
        let netns = prefix.netns_path(host);
        setns::run_in_path(&netns, || job(what, At { prefix, host }))
            .map_err(Error::netns(prefix.netns(host), what.describe()))
    }
}

impl Step {
    /// The host that it starts from.
    #[must_use]
    pub fn from(&self) -> &'static str {
        match *self {
            Self::Ping { from, .. }
            | Self::Get { from, .. }
            | Self::Lookup { from, .. }
            | Self::Query { from, .. }
            | Self::Idle { from, .. } => from,
        }
    }

    fn run(&self, prefix: &Prefix) -> Result<(), Error> {
        let from = self.from();
        let netns = prefix.netns_path(from);
        setns::run_in_path(&netns, || self.attempt(prefix))
            .map_err(Error::netns(prefix.netns(from), self.describe()))
    }

    fn attempt(&self, prefix: &Prefix) -> io::Result<()> {
        match *self {
            Self::Ping { to, size, .. } => icmp::ping(parse(to)?, size),
            Self::Get { from, url, times, is_slow: true, .. } => {
                http::get_at_once(&prefix.netns_path(from), &http::Url::parse(url)?, times)
            }
            Self::Get { url, times, body_has, .. } => {
                let url = http::Url::parse(url)?;
                (0..times).try_for_each(|_| http::get(&url, body_has))
            }
            Self::Lookup { from, name } => dns::lookup(&prefix.etc_dir(from), name),
            Self::Query { server, sport, .. } => dns::query(parse(server)?, sport),
            Self::Idle { url, seconds, .. } => http::get_idle(&http::Url::parse(url)?, seconds),
        }
    }

    /// For `cannot …`.
    fn describe(&self) -> String {
        match *self {
            Self::Ping { to, size: 0, .. } => format!("ping {to}"),
            Self::Ping { to, size, .. } => format!("ping {to} with {size} bytes, unfragmented"),
            Self::Get { url, times: 1, .. } => format!("fetch {url}"),
            Self::Get { url, times, .. } => format!("fetch {url} {times} times"),
            Self::Lookup { name, .. } => format!("resolve {name}"),
            Self::Query { server, sport: 0, .. } => format!("query DNS server {server}"),
            Self::Query { server, sport, .. } => {
                format!("query DNS server {server} from port {sport}")
            }
            Self::Idle { url, seconds, .. } => format!("fetch {url} after {seconds} s of silence"),
        }
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    let bad = |_| io::Error::new(io::ErrorKind::InvalidInput, format!("`{text}` does not parse"));
    text.parse().map_err(bad)
}
