//! The tuple that names one direction of a connection.

/// One direction of a flow. Addresses and ports are in network order as on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Source; IPv4 takes the first word, the rest is zero.
    pub saddr: [u32; 4],
    /// Destination.
    pub daddr: [u32; 4],
    /// Source port as read from the wire into a native integer; the identifier for ICMP echo.
    pub sport: u16,
    /// Destination port, likewise.
    pub dport: u16,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl FlowKey {
    /// The other direction.
    #[must_use]
    #[inline(always)]
    pub fn reversed(&self) -> Self {
        Self {
            saddr: self.daddr,
            daddr: self.saddr,
            sport: self.dport,
            dport: self.sport,
            proto: self.proto,
            reserved: [0; 3],
        }
    }
}

const _: () = assert!(size_of::<FlowKey>() == 40);
