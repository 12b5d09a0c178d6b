//! The filter, written once into `.rodata` before loading: the verifier removes unused arms.

/// An address prefix, in network order, 32 bits a word; IPv4 uses the first word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Prefix {
    /// Address, already masked.
    pub addr: [u32; 4],
    /// Mask.
    pub mask: [u32; 4],
}

/// Bits of [`Filter::terms`]: which members are in force.
pub mod terms {
    /// `--src`
    pub const SRC: u32 = 1;
    /// `--dst`
    pub const DST: u32 = 1 << 1;
    /// `--host`
    pub const HOST: u32 = 1 << 2;
    /// `--sport`
    pub const SPORT: u32 = 1 << 3;
    /// `--dport`
    pub const DPORT: u32 = 1 << 4;
    /// `--port`
    pub const PORT: u32 = 1 << 5;
    /// `--proto N`
    pub const PROTO: u32 = 1 << 6;
    /// `--netns`: the packet is first seen in one of the namespaces of the scope map.
    pub const NETNS: u32 = 1 << 7;
    /// `--dev`: the packet is first seen on one of the devices of the scope map.
    pub const DEV: u32 = 1 << 8;
    /// Follow replies too (absent with `--no-replies`).
    pub const REPLIES: u32 = 1 << 9;
    /// IPv4 may match.
    pub const IPV4: u32 = 1 << 10;
    /// IPv6 may match.
    pub const IPV6: u32 = 1 << 11;
    /// ARP may match.
    pub const ARP: u32 = 1 << 12;
    /// Look inside VXLAN (there are VXLAN devices on this node).
    pub const VXLAN: u32 = 1 << 13;
    /// `--service`: the destination is one of the Service's portals.
    pub const SERVICE: u32 = 1 << 14;
    /// The destination that is asked for is reached by way of entrances, too: addresses and ports
    /// that are translated to it.
    pub const ENTRANCES: u32 = 1 << 15;
    /// The namespaces of the scope have entrances and addresses: packets to and from there may be
    /// met first anywhere.
    pub const SURROUNDINGS: u32 = 1 << 16;
}

/// Bits of what keeps a packet from matching.
pub mod miss {
    /// `--src`
    pub const SRC: u32 = 1;
    /// `--dst`
    pub const DST: u32 = 1 << 1;
    /// `--host`
    pub const HOST: u32 = 1 << 2;
    /// `--sport`, `--dport`, `--port`
    pub const PORT: u32 = 1 << 3;
    /// `--proto`
    pub const PROTO: u32 = 1 << 4;
    /// `--service`
    pub const SERVICE: u32 = 1 << 5;
    /// `--netns`, `--container`, `--pod`, `--dev`
    pub const SCOPE: u32 = 1 << 6;
    /// How many there are.
    pub const COUNT: u32 = 7;
}

/// A packet that one term kept from matching.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct NearMiss {
    /// Its tuple, in the direction that is asked about.
    pub key: crate::FlowKey,
    /// The term, see [`miss`].
    pub term: u32,
    /// 4 or 6.
    pub family: u32,
}

const _: () = assert!(size_of::<NearMiss>() == 48);

/// Where a Service is reached. With neither port nor protocol it stands for later fragments, which
/// have no ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct Portal {
    /// Network order; IPv4 uses the first word.
    pub addr: [u32; 4],
    /// Network order as read into a native integer.
    pub port: u16,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub reserved: u8,
}

const _: () = assert!(size_of::<Portal>() == 20);

/// What to follow.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Filter {
    /// See [`terms`].
    pub terms: u32,
    /// IP protocol for [`terms::PROTO`]; the ICMP of the other family is not implied.
    pub proto: u32,
    /// Source.
    pub src: Prefix,
    /// Destination.
    pub dst: Prefix,
    /// Either end.
    pub host: Prefix,
    /// Source port, network order as read into a native integer.
    pub sport: u16,
    /// Destination port, likewise.
    pub dport: u16,
    /// Either port, likewise.
    pub port: u16,
    /// UDP destination ports that carry VXLAN, likewise; 0 marks unused.
    pub vxlan_ports: [u16; 4],
    /// Zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<Filter>() == 8 + 3 * 32 + 16);
