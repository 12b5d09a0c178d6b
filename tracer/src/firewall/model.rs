//! The rules of one namespace as plain data: close enough to their own tools' words to be shown,
//! and parsed far enough to be asked what they do with a packet ([`super::evaluate`]).

use std::net::IpAddr;

use super::nft::field::Field;
use crate::journey::{Hook, NatKind};

/// All rules of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// Tables.
    pub tables: Vec<Table>,
    /// Sets of `ipset(8)`.
    pub ipsets: Vec<Ipset>,
    /// Which flavours could be read: no table of a flavour that is not named here proves nothing.
    pub read: Vec<Flavour>,
    /// Why the others could not be read, one sentence each.
    pub unread: Vec<String>,
}

/// Who owns a table, and so with which command it is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flavour {
    /// Native nftables (`nft`).
    Nft,
    /// `iptables-nft`, `ip6tables-nft`: kept in nftables, owned by iptables.
    IptablesNft,
    /// `iptables-legacy`, `ip6tables-legacy`.
    IptablesLegacy,
    /// `ebtables` (nft or legacy).
    Ebtables,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Whose.
    pub flavour: Flavour,
    /// `ip`, `ip6`, `inet`, `bridge`, `arp`, `netdev`.
    pub family: String,
    /// Name: `filter`, `nat`, …
    pub name: String,
    /// The command that changes it on this system: `nft`, `iptables`, `ip6tables-legacy`, …
    pub command: String,
    /// Chains in the order of their own tool.
    pub chains: Vec<Chain>,
    /// Named sets and maps of nftables.
    pub sets: Vec<Set>,
}

/// A named set or map of nftables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Its elements.
    pub elements: Vec<Element>,
    /// These are all.
    pub is_whole: bool,
}

/// An element of a set or map of nftables; each word as nft prints it, names of devices in quotes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// The parts of its key: `10.96.0.1`, `tcp`, `443`; `*` is any.
    pub key: Vec<String>,
    /// What a map has for it: `goto`, `service-…`; or `10.244.1.2`, `.`, `8080`.
    pub value: Vec<String>,
    /// Its comment.
    pub comment: Option<String>,
}

/// The set or map that a rule asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elements {
    /// A named one of the same table.
    Named(String),
    /// One without a name.
    Here(Vec<Element>),
}

/// A look-up in a map of nftables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// What its values are.
    pub kind: MapKind,
    /// What it is asked for.
    pub by: By,
    /// Where.
    pub elements: Elements,
    /// The statement in nft's words.
    pub text: String,
}

/// What is done with the value of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// It is the verdict.
    Verdict,
    /// It is the new destination; with this port, where the value has none.
    Dnat { port: Option<u16> },
    /// It is the new source.
    Snat { port: Option<u16> },
}

/// What a map is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Fields of the packet.
    Fields(Vec<Field>),
    /// A number below `of`, plus `offset`, that only the kernel knows (`numgen`, `jhash`).
    Number { of: u64, offset: u64 },
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Name.
    pub name: String,
    /// Where it is hooked in; `None` for a chain that is only jumped to.
    pub hook: Option<Hook>,
    /// `ingress` and `egress` chains (families `netdev` and `inet`): their devices.
    pub devices: Option<Devices>,
    /// Priority at its hook; lower runs first. iptables' own: raw -300, mangle -150, nat -100
    /// (dstnat) and 100 (srcnat), filter 0, security 50.
    pub priority: i32,
    /// `filter`, `nat`, `route`.
    pub kind: String,
    /// What happens at its end.
    pub policy: Option<Policy>,
    /// Packets and bytes that met the policy.
    pub counter: Option<Counter>,
    /// In order.
    pub rules: Vec<Rule>,
}

/// What a chain at devices is hooked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// What comes in by them, not what goes out.
    pub is_ingress: bool,
    /// Their names.
    pub names: Vec<String>,
}

/// What happens at the end of a hooked chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Goes on.
    Accept,
    /// Dropped.
    Drop,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Position in its chain, from 1.
    pub number: usize,
    /// nftables handle, where there is one (iptables-nft rules have one too).
    pub handle: Option<u64>,
    /// As its own tool prints it, without counters: `-A FORWARD -s 10.0.0.0/8 -j DROP` as
    /// `iptables-save` does, or nft's statement.
    pub text: String,
    /// Its comment.
    pub comment: Option<String>,
    /// What it has counted.
    pub counter: Option<Counter>,
    /// All have to hold.
    pub matches: Vec<Match>,
    /// What it does before `target`: an nftables rule may set marks and still decide.
    pub also: Vec<Target>,
    /// What it does.
    pub target: Target,
}

impl Rule {
    /// The chain that it goes on with.
    #[must_use]
    pub fn leads_to(&self) -> Option<&str> {
        match &self.target {
            Target::Jump(to) | Target::Goto(to) => Some(to),
            _ => None,
        }
    }
}

/// A condition. `not` negates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// Source address in one of the prefixes.
    Src { nets: Vec<(IpAddr, u8)>, not: bool },
    /// Destination address in one of the prefixes.
    Dst { nets: Vec<(IpAddr, u8)>, not: bool },
    /// Input device; a trailing `+` (iptables) or `*` (nft) matches any rest.
    Iif { names: Vec<String>, not: bool },
    /// Output device.
    Oif { names: Vec<String>, not: bool },
    /// The bridge port that it came in by (`-m physdev --physdev-in`).
    PhysIn { name: String, not: bool },
    /// The bridge port that it leaves by.
    PhysOut { name: String, not: bool },
    /// IP protocol number.
    Proto { number: u8, not: bool },
    /// Source port in one of the ranges.
    Sport { ranges: Vec<(u16, u16)>, not: bool },
    /// Destination port in one of the ranges.
    Dport { ranges: Vec<(u16, u16)>, not: bool },
    /// ICMP type and code.
    Icmp { kind: u8, code: Option<u8>, not: bool },
    /// One of these conntrack states.
    CtState { states: Vec<Stateful>, not: bool },
    /// `skb->mark & mask == value`.
    Mark { value: u32, mask: u32, not: bool },
    /// Destination address is one of this namespace (`addrtype`, `fib daddr type local`).
    DstLocal { not: bool },
    /// Source address is one of this namespace.
    SrcLocal { not: bool },
    /// Destination address is of one of these types (`addrtype`, `fib daddr type`), in small letters.
    DstType { kinds: Vec<String>, not: bool },
    /// Source address is of one of these types.
    SrcType { kinds: Vec<String>, not: bool },
    /// Original destination address and port of the connection (`--ctorigdst`, `ct original`).
    CtOrigDst { nets: Vec<(IpAddr, u8)>, port: Option<u16>, not: bool },
    /// The connection was translated (`ct status dnat`, `--ctstate DNAT`).
    CtDnat { not: bool },
    /// An ipset: its name and the directions (`src`, `dst`).
    Set { name: String, dirs: Vec<String>, not: bool },
    /// A set of nftables, and which fields are looked up in it.
    In { fields: Vec<Field>, set: Elements, not: bool },
    /// TCP flags: mask and value.
    TcpFlags { mask: u8, value: u8, not: bool },
    /// True for this share of connections, 0 to 1, as text (`statistic mode random`).
    Random { probability: String },
    /// A fragment (not the first one).
    Fragment { not: bool },
    /// IPv6 (`meta nfproto`).
    Ipv6 { not: bool },
    /// Bridged, not routed (`--physdev-is-bridged`).
    Bridged { not: bool },
    /// Something that is not modelled, in its own words: may hold or not.
    Other(String),
}

/// Conntrack state as rules ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stateful {
    /// First packet of a connection.
    New,
    /// Of a connection seen in both directions.
    Established,
    /// Belongs to another connection.
    Related,
    /// Fits no connection.
    Invalid,
    /// Not tracked (`NOTRACK`).
    Untracked,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Ends the traversal of this hooked chain.
    Accept,
    /// Drops.
    Drop,
    /// Drops and answers: with what, in the rule's words (`icmp-port-unreachable`, `tcp-reset`).
    Reject(String),
    /// Goes on in a chain and comes back.
    Jump(String),
    /// Goes on in a chain and does not come back here.
    Goto(String),
    /// Back to the chain that jumped here; in a hooked chain, the policy.
    Return,
    /// Destination: address and port, as far as they are given.
    Dnat { addr: Option<IpAddr>, port: Option<u16> },
    /// Source.
    Snat { addr: Option<IpAddr>, port: Option<u16> },
    /// Source becomes an address of the output device.
    Masquerade,
    /// Destination becomes this namespace.
    Redirect { port: Option<u16> },
    /// `mark = mark & !mask ^ value`.
    SetMark { value: u32, mask: u32 },
    /// Not tracked.
    Notrack,
    /// Handed to a program (`NFQUEUE`).
    Queue,
    /// Goes on with the next rule: counting, logging, or anything that decides nothing.
    Continue,
    /// Decides by a map of nftables.
    Map(Map),
    /// Not modelled, in its own words: may do anything.
    Other(String),
}

impl Target {
    /// How it translates, if that is what it does.
    #[must_use]
    pub fn nat_kind(&self) -> Option<NatKind> {
        Some(match self {
            Self::Dnat { .. } => NatKind::Dnat,
            Self::Snat { .. } => NatKind::Snat,
            Self::Masquerade => NatKind::Masquerade,
            Self::Redirect { .. } => NatKind::Redirect,
            Self::Map(Map { kind: MapKind::Dnat { .. }, .. }) => NatKind::Dnat,
            Self::Map(Map { kind: MapKind::Snat { .. }, .. }) => NatKind::Snat,
            _ => return None,
        })
    }
}

impl Table {
    /// Its named set or map.
    #[must_use]
    pub fn set(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|set| set.name == name)
    }
}

/// A set of `ipset(8)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipset {
    /// Name.
    pub name: String,
    /// `hash:ip`, `hash:net`, `hash:ip,port`, …
    pub kind: String,
    /// As `ipset list` prints them.
    pub members: Vec<String>,
}
