//! Events as the rest of the user side sees them: decoded once from the bytes of the ring buffer
//! (or of a recording), with the packet's headers parsed.
//!
//! Nothing here allocates, does I/O or resolves a name; that is left until a journey is finished.

mod connection;
mod decode;
mod packet;
mod parse;
mod tunnel;
mod tuple;

pub use connection::Connection;
pub use decode::DecodeError;
pub use packet::{Arp, Carrier, Fragment, Headers, Icmp, Inner, L4, Packet, PayloadHead, Tcp};
pub use tuple::{Proto, Tuple};

use tracer_common::{
    Detail, Probe,
    event::{CT_ATTACHED, flags},
};

use crate::net::Inum;

/// One observation of an skb at a probe point.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub ktime_ns: u64,
    /// Identity of the journey, given by the kernel side.
    pub journey: u64,
    /// `skb->head`; compared for equality only, to find clones.
    pub head: u64,
    /// Number of this event in its journey.
    pub seq: u16,
    /// How many events of this journey the ring had refused so far.
    pub lost: u16,
    /// CPU that wrote it.
    pub cpu: u16,
    /// Where it was seen.
    pub probe: Probe,
    /// See [`tracer_common::event::flags`].
    pub flags: u8,
    /// How many tunnels the followed packet is in.
    pub tunnels: u16,
    /// Network namespace.
    pub netns: Inum,
    /// `skb->dev`, 0 if there is none.
    pub ifindex: u32,
    /// `skb->len`.
    pub len: u32,
    /// `skb->mark`.
    pub mark: u32,
    /// `skb->protocol` in host order.
    pub protocol: u16,
    /// Segment size of a GSO packet, else 0.
    pub gso_size: u16,
    /// `skb->pkt_type`.
    pub pkt_type: u8,
    /// What conntrack says of the packet; `None` before it has looked.
    pub ct: Option<CtInfo>,
    /// What conntrack keeps of its connection; only at netfilter hooks.
    pub connection: Option<Connection>,
    /// What the probe adds.
    pub detail: Detail,
    /// The headers, when the event carries packet bytes that make sense. With
    /// [`Event::is_encap`] they are those of the outer packet.
    pub packet: Option<Packet>,
}

impl Event {
    /// The first event of its journey.
    #[must_use]
    pub fn is_birth(&self) -> bool {
        self.flags & flags::BIRTH != 0
    }

    /// Another skb shares (or has shared) the data.
    #[must_use]
    pub fn is_cloned(&self) -> bool {
        self.flags & flags::CLONED != 0
    }

    /// The packet bytes are those of an outer header.
    #[must_use]
    pub fn is_encap(&self) -> bool {
        self.flags & flags::ENCAP != 0
    }

    /// Nothing more will come of this journey.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.flags & flags::END != 0
            || matches!(self.probe, Probe::Kfree | Probe::Consume | Probe::Reused)
    }

    /// The headers of the packet that is followed: inside the tunnel where there is one. `None`
    /// when the event has no packet bytes or they do not reach into the tunnel, or when they are
    /// another packet's.
    #[must_use]
    pub fn followed(&self) -> Option<&Headers> {
        if self.probe == Probe::Reused {
            return None;
        }
        let packet = self.packet.as_ref()?;
        if self.is_encap() { packet.tunnelled() } else { Some(&packet.headers) }
    }
}

/// `enum ip_conntrack_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtInfo {
    /// Part of a known connection, in the direction of its first packet.
    Established,
    /// Begins a connection expected by another, or is an ICMP error about one.
    Related,
    /// Begins a connection.
    New,
    /// Part of a known connection, against the direction of its first packet.
    Reply,
    /// Related, in the reply direction.
    RelatedReply,
    /// Exempt from tracking.
    Untracked,
    /// Conntrack looked and found it to belong to nothing: an answer to no question, or a header
    /// that cannot be right. Never on the wire, but concluded where conntrack is known to look.
    Invalid,
}

impl CtInfo {
    /// From `EventHeader::ct`.
    #[must_use]
    pub fn from_wire(ct: u8) -> Option<Self> {
        let attached = ct & CT_ATTACHED != 0;
        match ct & 7 {
            0 if attached => Some(Self::Established),
            1 if attached => Some(Self::Related),
            2 if attached => Some(Self::New),
            3 if attached => Some(Self::Reply),
            4 if attached => Some(Self::RelatedReply),
            7 => Some(Self::Untracked),
            _ => None,
        }
    }

    /// The direction is against that of the connection's first packet.
    #[must_use]
    pub fn is_reply(self) -> bool {
        matches!(self, Self::Reply | Self::RelatedReply)
    }

    /// The name that `conntrack` expressions of nftables use, with the direction where it matters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Related => "related",
            Self::New => "new",
            Self::Reply => "established reply",
            Self::RelatedReply => "related reply",
            Self::Untracked => "untracked",
            Self::Invalid => "invalid",
        }
    }
}
