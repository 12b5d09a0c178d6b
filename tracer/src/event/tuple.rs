//! The tuple that names one direction of a flow.

use std::{fmt, net::IpAddr};

/// Transport protocol, or ARP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    /// ICMP for IPv4.
    Icmp,
    /// ICMP for IPv6.
    Icmp6,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ARP, which is no IP protocol.
    Arp,
    /// Another IP protocol, by number.
    Other(u8),
}

impl Proto {
    /// From the IP header's protocol number.
    #[must_use]
    pub fn from_ip(n: u8) -> Self {
        match n {
            1 => Self::Icmp,
            6 => Self::Tcp,
            17 => Self::Udp,
            58 => Self::Icmp6,
            132 => Self::Sctp,
            _ => Self::Other(n),
        }
    }

    /// The IP header's protocol number; 0 for ARP, which has none.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmp6 => 58,
            Self::Sctp => 132,
            Self::Arp => 0,
            Self::Other(n) => n,
        }
    }

    /// Has source and destination ports.
    #[must_use]
    pub fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Sctp)
    }

    /// ICMP of either family.
    #[must_use]
    pub fn is_icmp(self) -> bool {
        matches!(self, Self::Icmp | Self::Icmp6)
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Icmp => f.pad("icmp"),
            Self::Icmp6 => f.pad("icmp6"),
            Self::Tcp => f.pad("tcp"),
            Self::Udp => f.pad("udp"),
            Self::Sctp => f.pad("sctp"),
            Self::Arp => f.pad("arp"),
            Self::Other(n) => n.fmt(f),
        }
    }
}

/// One direction of a flow. An ICMP echo carries its identifier as both ports, so that the tuple
/// of the answer is the reverse of the question's; so does nothing else without ports (both 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Source; for ARP the sender's protocol address.
    pub src: IpAddr,
    /// Destination; for ARP the target's protocol address.
    pub dst: IpAddr,
    /// Protocol.
    pub proto: Proto,
    /// Source port or ICMP identifier.
    pub sport: u16,
    /// Destination port or ICMP identifier.
    pub dport: u16,
}

impl Tuple {
    /// The other direction.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, ..*self }
    }

    /// The same for both directions.
    #[must_use]
    pub fn undirected(&self) -> Self {
        (*self).min(self.reversed())
    }

    /// Source and destination port, where the protocol has them and they were seen.
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        (self.proto.has_ports() && (self.sport, self.dport) != (0, 0))
            .then_some((self.sport, self.dport))
    }

    /// The port numbers (or the ICMP identifier) were seen. Later fragments do not have them.
    #[must_use]
    pub fn has_l4(&self) -> bool {
        (self.sport, self.dport) != (0, 0)
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { src, dst, proto, .. } = self;
        match self.ports() {
            None => write!(f, "{proto} {src} > {dst}"),
            Some((sport, dport)) if src.is_ipv6() => {
                write!(f, "{proto} [{src}]:{sport} > [{dst}]:{dport}")
            }
            Some((sport, dport)) => write!(f, "{proto} {src}:{sport} > {dst}:{dport}"),
        }
    }
}
