//! What conntrack keeps of a packet's connection, as it was when a hook had the packet.

use tracer_common::event::{CT_READ, EventHeader};

/// Bits of `enum ip_conntrack_status`, by the names that `ct status` of nftables and the
/// kernel's header use. What only says that a translation has been set up (`IPS_*_NAT_DONE`) is
/// left out.
const STATUS: [(u16, &str); 12] = [
    (1, "expected"),
    (1 << 1, "seen-reply"),
    (1 << 2, "assured"),
    (1 << 3, "confirmed"),
    (1 << 4, "snat"),
    (1 << 5, "dnat"),
    (1 << 6, "seq-adjust"),
    (1 << 9, "dying"),
    (1 << 10, "fixed-timeout"),
    (1 << 13, "helper"),
    (1 << 14, "offload"),
    (1 << 15, "hw-offload"),
];

/// Part of a conntrack entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Zone, 0 unless rules say otherwise.
    pub zone: u16,
    /// `ct mark`.
    pub mark: u32,
    /// `IPS_*`.
    status: u16,
}

impl Connection {
    /// From an event; `None` when no connection is attached, or where the kernel does not say
    /// how it keeps them.
    #[must_use]
    pub fn from_wire(header: &EventHeader) -> Option<Self> {
        let EventHeader { ct, ct_zone, ct_mark, ct_status, .. } = *header;
        let is_read = ct & CT_READ != 0;
        is_read.then_some(Self { zone: ct_zone, mark: ct_mark, status: ct_status })
    }

    /// The bits that are set, by name.
    pub fn status(self) -> impl Iterator<Item = &'static str> {
        STATUS.iter().filter(move |(bit, _)| self.status & bit != 0).map(|(_, name)| *name)
    }
}
