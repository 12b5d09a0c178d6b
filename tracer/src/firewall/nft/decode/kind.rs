//! nft's types of values.

/// A type of nft's (`enum datatypes`), as far as its values are written in a way of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Verdict,
    Nfproto,
    /// Numbers of any size, in host byte order unless a field says otherwise.
    Integer,
    /// The same in network byte order.
    NetInteger,
    Hex,
    Ipv4,
    Ipv6,
    Ether,
    EtherType,
    ArpOp,
    Protocol,
    Port,
    IcmpType,
    TcpFlags,
    Seconds,
    Mark,
    IfIndex,
    CtState,
    CtDir,
    CtStatus,
    Icmpv6Type,
    PktType,
    IcmpCode,
    Icmpv6Code,
    IcmpxCode,
    Dscp,
    FibType,
    Boolean,
    IfName,
    Text,
}

impl Kind {
    /// By nft's number (`include/datatype.h`), stable since sets carry it.
    fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Verdict,
            2 => Self::Nfproto,
            5 => Self::Text,
            7 => Self::Ipv4,
            8 => Self::Ipv6,
            6 | 9 => Self::Ether,
            10 => Self::EtherType,
            11 => Self::ArpOp,
            12 => Self::Protocol,
            13 => Self::Port,
            14 => Self::IcmpType,
            15 => Self::TcpFlags,
            18 => Self::Seconds,
            19 => Self::Mark,
            20 => Self::IfIndex,
            26 => Self::CtState,
            27 => Self::CtDir,
            28 => Self::CtStatus,
            29 => Self::Icmpv6Type,
            31 => Self::PktType,
            32 => Self::IcmpCode,
            33 => Self::Icmpv6Code,
            34 => Self::IcmpxCode,
            36 => Self::Dscp,
            38 => Self::FibType,
            39 => Self::Boolean,
            41 => Self::IfName,
            _ => Self::Integer,
        }
    }

    /// The parts of a set's key: six bits each where several are concatenated.
    pub(super) fn all_of(number: u32) -> Vec<Self> {
        if number == VERDICT {
            return vec![Self::Verdict];
        }
        let parts = (0..5).rev().map(|at| number >> (6 * at) & 0x3f);
        parts.skip_while(|part| *part == 0).map(Self::from_number).collect()
    }

    /// Bytes of a value, where the type alone says.
    pub(super) fn size(self) -> Option<usize> {
        Some(match self {
            Self::Verdict => 0,
            Self::Nfproto
            | Self::Protocol
            | Self::IcmpType
            | Self::Icmpv6Type
            | Self::TcpFlags
            | Self::CtDir
            | Self::PktType
            | Self::IcmpCode
            | Self::Icmpv6Code
            | Self::IcmpxCode
            | Self::Dscp
            | Self::Boolean => 1,
            Self::EtherType | Self::ArpOp | Self::Port => 2,
            Self::Ipv4
            | Self::Mark
            | Self::IfIndex
            | Self::CtState
            | Self::CtStatus
            | Self::FibType
            | Self::Seconds => 4,
            Self::Ether => 6,
            Self::Ipv6 | Self::IfName => 16,
            Self::Integer | Self::NetInteger | Self::Hex | Self::Text => return None,
        })
    }

    /// Values are kept in network byte order.
    pub(super) fn is_network_order(self) -> bool {
        !matches!(
            self,
            Self::Integer
                | Self::Mark
                | Self::IfIndex
                | Self::CtState
                | Self::CtStatus
                | Self::FibType
                | Self::Seconds
        )
    }

    /// Each bit has a name.
    pub(super) fn is_bits(self) -> bool {
        matches!(self, Self::TcpFlags | Self::CtState | Self::CtStatus)
    }

    /// Ranges that are a prefix are written as one.
    pub(super) fn has_prefixes(self) -> bool {
        matches!(self, Self::Ipv4 | Self::Ipv6)
    }
}

/// `NFT_DATA_VERDICT`
const VERDICT: u32 = 0xffff_ff00;
