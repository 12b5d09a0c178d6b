//! A small resolver: the search list and `ndots` of the host's own `resolv.conf`, 1 s for an
//! answer, one attempt, A records only.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_millis(1200);
const PORT: u16 = 53;
const ID: u16 = 0x1234;
const NXDOMAIN: u8 = 3;
const SERVFAIL: u8 = 2;

/// Resolves `name` as a program on that host would.
pub(super) fn lookup(etc_dir: &Path, name: &str) -> io::Result<()> {
    let own = fs::read_to_string(etc_dir.join("resolv.conf"));
    let config = Config::parse(&own.or_else(|_| fs::read_to_string("/etc/resolv.conf"))?);
    let server = config.server.ok_or_else(|| io::Error::other("resolv.conf names no server"))?;
    let mut last = None;
    for candidate in config.candidates(name) {
        let answer = ask(server, 0, &candidate)?;
        match outcome(&answer) {
            Ok(()) => return Ok(()),
            Err(e) => last = Some(io::Error::other(format!("{server} says {e} to {candidate}"))),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("there is no name to ask for")))
}

/// Asks `server` for a name of the cluster; whatever it answers will do.
pub(super) fn query(server: IpAddr, sport: u16) -> io::Result<()> {
    ask(server, sport, "web.default.svc.cluster.local").map(drop)
}

fn ask(server: IpAddr, sport: u16, name: &str) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, sport))?;
    socket.connect(SocketAddr::new(server, PORT))?;
    let describe = |e: io::Error| match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            io::Error::new(ErrorKind::TimedOut, format!("no answer from {server} in {WAIT:?}"))
        }
        _ => io::Error::new(e.kind(), format!("{server}: {e}")),
    };
    socket.send(&encode(name)?).map_err(describe)?;
    let deadline = Instant::now() + WAIT;
    let mut answer = vec![0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let n = socket.recv(&mut answer).map_err(describe)?;
        if n >= 12 && answer[..2] == ID.to_be_bytes() {
            answer.truncate(n);
            return Ok(answer);
        }
    }
}

/// A query for the A record of `name`.
fn encode(name: &str) -> io::Result<Vec<u8>> {
    let [id_hi, id_lo] = ID.to_be_bytes();
    let mut query = vec![id_hi, id_lo, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let len = u8::try_from(label.len()).ok().filter(|len| *len < 64);
        query.push(len.ok_or_else(|| io::Error::other(format!("label `{label}` is too long")))?);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    Ok(query)
}

/// Whether the answer has records.
fn outcome(answer: &[u8]) -> Result<(), String> {
    let records = u16::from_be_bytes([answer[6], answer[7]]);
    match answer[3] & 0xf {
        0 if records > 0 => Ok(()),
        0 => Err("no such record".to_owned()),
        SERVFAIL => Err("SERVFAIL".to_owned()),
        NXDOMAIN => Err("NXDOMAIN".to_owned()),
        code => Err(format!("error {code}")),
    }
}

#[derive(Debug, Default)]
struct Config {
    server: Option<IpAddr>,
    search: Vec<String>,
    ndots: usize,
}

impl Config {
    fn parse(text: &str) -> Self {
        let mut config = Self { ndots: 1, ..Self::default() };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if config.server.is_none() => {
                    config.server = words.next().and_then(|ip| ip.parse().ok());
                }
                Some("search") => config.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let ndots = words.find_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    config.ndots = ndots.unwrap_or(config.ndots);
                }
                _ => {}
            }
        }
        config
    }

    /// The names to ask for, in turn.
    fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let mut names: Vec<_> = self.search.iter().map(|s| format!("{name}.{s}")).collect();
        let has_enough_dots = name.matches('.').count() >= self.ndots;
        names.insert(if has_enough_dots { 0 } else { names.len() }, name.to_owned());
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_list_and_ndots_are_those_of_resolv_conf() {
        let config = Config::parse(
            "# c\nnameserver 10.96.0.10\nnameserver 10.0.0.1\nsearch a.b b\noptions timeout:1 ndots:2\n",
        );
        assert_eq!(config.server, Some("10.96.0.10".parse().unwrap()));
        assert_eq!(config.candidates("web"), ["web.a.b", "web.b", "web"]);
        assert_eq!(config.candidates("x.y.z"), ["x.y.z", "x.y.z.a.b", "x.y.z.b"]);
        assert_eq!(config.candidates("web."), ["web"]);
    }

    #[test]
    fn query_encodes_labels() {
        let query = encode("ab.c").unwrap();
        assert_eq!(query[12..], [2, b'a', b'b', 1, b'c', 0, 0, 1, 0, 1]);
        assert!(encode(&"x".repeat(64)).is_err());
    }
}
