//! The headers of a packet, as far as the bytes of an event reach.

use std::net::{IpAddr, Ipv6Addr};

use super::Tuple;

/// A packet as seen from its network header on.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// The outermost headers.
    pub headers: Headers,
    /// A packet inside this one.
    pub inner: Option<Inner>,
}

/// A packet inside another.
#[derive(Clone, Copy, Debug)]
pub enum Inner {
    /// Carried by a tunnel, or by several.
    Carried {
        /// The outermost tunnel.
        by: Carrier,
        /// The innermost packet; `None` when the bytes do not reach it or it is not IP or ARP.
        headers: Option<Headers>,
    },
    /// Quoted by an ICMP error: the packet that caused it, as it looked where the error was made.
    Quoted(Headers),
}

impl Packet {
    /// The packet inside the tunnel.
    #[must_use]
    pub fn tunnelled(&self) -> Option<&Headers> {
        match &self.inner {
            Some(Inner::Carried { headers, .. }) => headers.as_ref(),
            Some(Inner::Quoted(_)) | None => None,
        }
    }

    /// The packet that this ICMP error is about.
    #[must_use]
    pub fn quoted(&self) -> Option<&Headers> {
        match &self.inner {
            Some(Inner::Quoted(headers)) => Some(headers),
            Some(Inner::Carried { .. }) | None => None,
        }
    }

    /// The outermost tunnel.
    #[must_use]
    pub fn carrier(&self) -> Option<Carrier> {
        match self.inner {
            Some(Inner::Carried { by, .. }) => Some(by),
            Some(Inner::Quoted(_)) | None => None,
        }
    }
}

/// A tunnel, as its header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carrier {
    /// As `ip link` calls devices of its kind.
    pub kind: &'static str,
    /// Virtual network identifier, or the key of GRE.
    pub vni: Option<u32>,
}

/// Network and transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Addresses, protocol, ports.
    pub tuple: Tuple,
    /// Length by the IP header, itself included. For ARP 28.
    pub len: u32,
    /// Time to live or hop limit; `None` for ARP.
    pub ttl: Option<u8>,
    /// Identification: of the IPv4 header, or of an IPv6 fragment header.
    pub ip_id: Option<u32>,
    /// The packet is a fragment.
    pub fragment: Option<Fragment>,
    /// IPv4 "don't fragment".
    pub dont_fragment: bool,
    /// Transport header.
    pub l4: L4,
    /// First bytes behind the transport header.
    pub payload: PayloadHead,
}

impl Headers {
    /// The ICMP header.
    #[must_use]
    pub fn icmp(&self) -> Option<&Icmp> {
        if let L4::Icmp(icmp) = &self.l4 { Some(icmp) } else { None }
    }

    /// The TCP header.
    #[must_use]
    pub fn tcp(&self) -> Option<&Tcp> {
        if let L4::Tcp(tcp) = &self.l4 { Some(tcp) } else { None }
    }

    /// What a request and its answer are matched by: the tuple, but for neighbour discovery
    /// (whose questions go to a multicast address) the address asked about takes the place of
    /// the one that a tuple would have.
    #[must_use]
    pub fn key(&self) -> Tuple {
        let Some(Icmp { kind, target: Some(target), .. }) = self.icmp() else { return self.tuple };
        match kind {
            135 => Tuple { dst: IpAddr::V6(*target), ..self.tuple },
            136 => Tuple { src: IpAddr::V6(*target), ..self.tuple },
            _ => self.tuple,
        }
    }
}

/// Place of a fragment in its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Bytes before it.
    pub offset: u16,
    /// More follow.
    pub more: bool,
}

/// Transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP.
    Tcp(Tcp),
    /// UDP, with its length field.
    Udp {
        /// Header and payload, bytes.
        len: u16,
    },
    /// ICMP of either family.
    Icmp(Icmp),
    /// ARP.
    Arp(Arp),
    /// Another protocol, a later fragment, or beyond the bytes of the event.
    Unknown,
}

/// TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; 0 when the bytes end before it.
    pub ack: u32,
    /// Flag bits, FIN lowest.
    pub flags: u8,
    /// Bytes of payload.
    pub payload_len: u32,
    /// The longest segment that its sender takes, where it says so: with its SYN.
    pub mss: Option<u16>,
}

impl Tcp {
    /// Flag bits.
    pub const FIN: u8 = 1;
    /// Flag bits.
    pub const SYN: u8 = 2;
    /// Flag bits.
    pub const RST: u8 = 4;
    /// Flag bits.
    pub const PSH: u8 = 8;
    /// Flag bits.
    pub const ACK: u8 = 16;

    /// How much of the sequence space it takes: 0 for a pure acknowledgement.
    #[must_use]
    pub fn span(&self) -> u32 {
        self.payload_len + u32::from(self.flags & (Self::SYN | Self::FIN) != 0)
    }
}

/// ICMP or ICMPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Identifier of an echo.
    pub id: Option<u16>,
    /// Sequence number of an echo.
    pub seq: Option<u16>,
    /// Address that neighbour discovery is about.
    pub target: Option<Ipv6Addr>,
    /// Next-hop MTU of "fragmentation needed" and "packet too big".
    pub mtu: Option<u32>,
}

impl Icmp {
    /// It quotes the packet that caused it.
    #[must_use]
    pub fn is_error(&self, is_v6: bool) -> bool {
        if is_v6 { (1..=4).contains(&self.kind) } else { matches!(self.kind, 3 | 4 | 5 | 11 | 12) }
    }

    /// An echo request, an ARP-like question: something that expects an answer.
    #[must_use]
    pub fn is_request(&self, is_v6: bool) -> bool {
        if is_v6 { matches!(self.kind, 128 | 133 | 135) } else { matches!(self.kind, 8 | 13) }
    }
}

/// ARP for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub op: u16,
    /// Sender's link-layer address.
    pub sender: [u8; 6],
    /// Target's link-layer address.
    pub target: [u8; 6],
}

/// The first bytes of the payload, as many as were reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PayloadHead {
    bytes: [u8; 8],
    len: u8,
}

impl PayloadHead {
    /// Takes at most eight bytes.
    #[must_use]
    pub fn new(payload: &[u8]) -> Self {
        let len = payload.len().min(8);
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(&payload[..len]);
        Self { bytes, len: len as u8 }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}
