//! What a lab serves: one line per listening socket, `HOST PROTO ADDRESS PORT KIND`, in the state
//! directory's `servers` file. The daemon ([`super::serve`]) reads it; changing the file and
//! starting the daemon anew is how an application is broken.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::Error;

/// One listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub host: String,
    pub proto: Proto,
    pub addr: SocketAddr,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proto {
    Tcp,
    Udp,
}

/// How a socket behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Names the pod and the client; `/big` adds 200,000 bytes, `/slow` waits 4 s.
    Http,
    /// The cluster's DNS: knows the Services, asks the upstream server for the rest.
    Dns,
    /// The upstream DNS server.
    UpDns,
    /// Sends back all that comes.
    Echo,
    /// Reads and forgets.
    Sink,
    /// Sends as fast as it is read.
    Source,
    /// As a busy application does: takes one connection every 2 ms, says one line and closes it;
    /// takes what datagrams there are every 10 ms, and sends them back.
    Paced,
    /// Asks a name server for its client's name, waits for the answer, says one line.
    Named,
    /// As `Paced`, with a receive buffer for a few datagrams.
    Cramped,
    /// Never reads, and its queue holds as good as nothing.
    Stalled,
    /// Takes connections and never answers.
    Hang,
}

const KINDS: [(&str, Kind); 11] = [
    ("http", Kind::Http),
    ("dns", Kind::Dns),
    ("updns", Kind::UpDns),
    ("echo", Kind::Echo),
    ("sink", Kind::Sink),
    ("source", Kind::Source),
    ("paced", Kind::Paced),
    ("named", Kind::Named),
    ("cramped", Kind::Cramped),
    ("stalled", Kind::Stalled),
    ("hang", Kind::Hang),
];

impl FromStr for Server {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self, Error> {
        parse(line).ok_or_else(|| {
            Error::BadSpec(format!("`{line}` is not HOST tcp|udp ADDRESS PORT KIND"))
        })
    }
}

fn parse(line: &str) -> Option<Server> {
    let mut words = line.split_whitespace();
    let host = words.next()?.to_owned();
    let proto = match words.next()? {
        "tcp" => Proto::Tcp,
        "udp" => Proto::Udp,
        _ => return None,
    };
    let ip: IpAddr = words.next()?.parse().ok()?;
    let port = words.next()?.parse().ok()?;
    let kind = words.next()?;
    let kind = KINDS.iter().find(|(name, _)| *name == kind)?.1;
    let is_valid = match proto {
        Proto::Tcp => !matches!(kind, Kind::UpDns | Kind::Cramped),
        Proto::Udp => !matches!(kind, Kind::Http | Kind::Source | Kind::Named),
    };
    (is_valid && words.next().is_none()).then_some(Server {
        host,
        proto,
        addr: SocketAddr::new(ip, port),
        kind,
    })
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = KINDS.iter().find(|(_, kind)| *kind == self.kind);
        let kind = kind.map_or("", |(name, _)| name);
        let (ip, port) = (self.addr.ip(), self.addr.port());
        write!(f, "{} {} {ip} {port} {kind}", self.host, self.proto)
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Reads a `servers` file.
///
/// # Errors
///
/// The first line that is not a server.
pub fn parse_file(text: &str) -> Result<Vec<Server>, Error> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(str::parse).collect()
}

/// Writes a `servers` file.
#[must_use]
pub fn render_file(servers: &[Server]) -> String {
    servers.iter().map(|server| format!("{server}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_read_what_they_write() {
        for line in [
            "p1 tcp 0.0.0.0 8080 http",
            "dns udp 10.0.0.1 53 stalled",
            "ext udp 203.0.113.53 53 updns",
            "p2 tcp :: 8080 hang",
            "p2 udp :: 9000 echo",
            "p1 tcp 0.0.0.0 9000 source",
            "p1 udp 0.0.0.0 514 cramped",
        ] {
            assert_eq!(line.parse::<Server>().unwrap().to_string(), line);
        }
    }

    #[test]
    fn impossible_servers_are_refused() {
        for line in [
            "",
            "p1 tcp 0.0.0.0 8080",
            "p1 udp 0.0.0.0 80 http",
            "p1 udp 0.0.0.0 9000 source",
            "p1 tcp 0.0.0.0 514 cramped",
            "p1 tcp 0.0.0.0 80 http more",
            "p1 sctp 0.0.0.0 80 http",
            "p1 tcp 0.0.0.0 99999 http",
        ] {
            assert!(line.parse::<Server>().is_err(), "{line}");
        }
    }
}
