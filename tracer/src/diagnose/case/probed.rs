//! What was asked, what was sent for it, and what came of that.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::event::{Proto, Tuple};
use crate::net::Inum;

/// What was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// `--from` as typed.
    pub from: String,
    /// `--to` as typed.
    pub to: String,
    /// The namespace that probes are sent from.
    pub netns: Inum,
    /// The name, if one was typed.
    pub name: Option<String>,
    /// The address, typed or resolved. For `--proto dns` the name server.
    pub addr: Option<IpAddr>,
    /// The port.
    pub port: Option<u16>,
    /// `--proto`, or what follows without it.
    pub proto: Method,
}

/// How a probe asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// ICMP or ICMPv6 echo.
    #[default]
    Icmp,
    /// TCP connect, then the start of an answer.
    Tcp,
    /// One UDP datagram.
    Udp,
    /// A DNS query over UDP, over TCP when the answer was truncated.
    Dns,
}

impl Method {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Dns => "dns",
        }
    }
}

/// What a probe was sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// To reach the target.
    Reach,
    /// Beside the one that decides: an echo where a port was asked for.
    Beside,
    /// To see whether a packet of full size with DF gets through.
    FullSize,
    /// To resolve the target's name.
    Resolve,
    /// Not ours: the DNS server's own question to the server that it asks.
    Upstream,
    /// Nothing was sent: the configuration is checked.
    Check,
}

/// One probe and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// How it asked.
    pub method: Method,
    /// Why.
    pub purpose: Purpose,
    /// From which namespace.
    pub netns: Inum,
    /// Whom.
    pub to: IpAddr,
    /// Destination port, 0 for ICMP.
    pub dport: u16,
    /// Source port, or identifier of an echo: chosen before it was sent, so that its packets are
    /// known.
    pub sport: u16,
    /// Length of its IP packet, for [`Purpose::FullSize`].
    pub size: Option<u32>,
    /// Name that was asked for, for DNS.
    pub question: Option<String>,
    /// From sending to the answer.
    pub rtt: Option<Duration>,
    /// What came of it.
    pub outcome: Outcome,
}

impl Probed {
    /// The target, or what lies before it, answered as it should.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        match &self.outcome {
            // Whether what was cut off comes over TCP is a probe of its own.
            Outcome::Answered | Outcome::Silent { asked: false } | Outcome::Truncated => true,
            Outcome::Dns { rcode, addresses } => *rcode == 0 && !addresses.is_empty(),
            Outcome::Silent { asked: true }
            | Outcome::Refused
            | Outcome::Reset
            | Outcome::Icmp { .. }
            | Outcome::Local(_)
            | Outcome::Timeout => false,
        }
    }

    /// Somebody took it, whatever the application makes of it: a completed handshake is one.
    #[must_use]
    pub fn was_reached(&self) -> bool {
        self.is_answered() || matches!(self.outcome, Outcome::Silent { .. })
    }

    /// What came of it, in a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let what = match self.method {
            Method::Icmp => format!("{} (ICMP echo)", self.to),
            Method::Tcp => format!("{} (TCP)", SocketAddr::new(self.to, self.dport)),
            Method::Udp => format!("{} (UDP)", SocketAddr::new(self.to, self.dport)),
            Method::Dns => format!("{} (DNS)", self.to),
        };
        let rtt =
            self.rtt.map(|t| format!(" in {:.1} ms", t.as_secs_f64() * 1e3)).unwrap_or_default();
        match &self.outcome {
            Outcome::Answered => format!("{what} answers{rtt}"),
            Outcome::Silent { asked: true } => {
                format!("{what} accepts the connection{rtt} and does not answer the request")
            }
            Outcome::Silent { asked: false } if self.method == Method::Udp => {
                format!("{what} takes the datagram, and sends no answer")
            }
            Outcome::Silent { asked: false } => {
                format!("{what} accepts the connection{rtt} and waits")
            }
            Outcome::Refused => format!("{what} refuses the connection"),
            Outcome::Reset => format!("{what} accepts the connection and resets it"),
            Outcome::Dns { rcode, addresses } => {
                let name = self.question.as_deref().unwrap_or_default();
                let said = match rcode {
                    0 if addresses.is_empty() => "that there is no IPv4 address",
                    0 => "an answer",
                    2 => "SERVFAIL",
                    3 => "NXDOMAIN",
                    5 => "REFUSED",
                    _ => "an error",
                };
                format!("{what} says {said} to {name}{rtt}")
            }
            Outcome::Truncated => {
                let name = self.question.as_deref().unwrap_or_default();
                format!("{what} says that its answer to {name} is too long for a datagram{rtt}")
            }
            Outcome::Icmp { kind, code, from, .. } => {
                let from = from.map(|a| format!(" from {a}")).unwrap_or_default();
                format!("{what}: ICMP error type {kind} code {code}{from}")
            }
            Outcome::Local(errno) => {
                let why = std::io::Error::from_raw_os_error(*errno).to_string();
                format!("{what}: {}", why.split(" (os error").next().unwrap_or_default())
            }
            Outcome::Timeout => format!("{what} does not answer"),
        }
    }

    /// It has to succeed for the target to count as reached.
    #[must_use]
    pub fn decides(&self) -> bool {
        // Who is told of a smaller MTU sends smaller packets.
        let is_told = matches!(
            self.outcome,
            Outcome::Icmp { mtu: Some(_), .. } | Outcome::Local(libc::EMSGSIZE)
        );
        self.purpose != Purpose::Beside && !(self.purpose == Purpose::FullSize && is_told)
    }

    /// Whether a tuple, as first seen, is that of its request.
    #[must_use]
    pub fn sent(&self, tuple: &Tuple) -> bool {
        let is_method = match self.method {
            Method::Icmp => tuple.proto.is_icmp(),
            Method::Tcp => tuple.proto == Proto::Tcp,
            Method::Udp | Method::Dns => {
                matches!(tuple.proto, Proto::Udp | Proto::Tcp)
            }
        };
        let ports =
            tuple.sport == self.sport && (self.method == Method::Icmp || tuple.dport == self.dport);
        is_method && ports && tuple.dst == self.to
    }
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer came: an echo reply, data, a datagram.
    Answered,
    /// TCP: connected, and nothing came in the time given to it. UDP: a socket took it.
    Silent {
        /// It had been asked something. Else it may well be waiting for that.
        asked: bool,
    },
    /// TCP: reset instead of an answer to the SYN.
    Refused,
    /// TCP: connected, then reset before anything came.
    Reset,
    /// DNS: an answer. 0 no error, 2 server failure, 3 no such name, 5 refused.
    Dns {
        /// Response code.
        rcode: u8,
        /// A records. None without an error: the name exists, and has no such record.
        addresses: Vec<IpAddr>,
    },
    /// DNS: an answer that was cut off, to be asked for again over TCP.
    Truncated,
    /// An ICMP error came back.
    Icmp {
        /// Type, in the numbers of its family.
        kind: u8,
        /// Code.
        code: u8,
        /// Who sent it.
        from: Option<IpAddr>,
        /// Next-hop MTU that it tells, bytes.
        mtu: Option<u32>,
    },
    /// The sending kernel refused with this errno: no packet left the socket.
    Local(i32),
    /// Nothing came.
    Timeout,
}
