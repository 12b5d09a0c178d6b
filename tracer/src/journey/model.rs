//! The types of a finished journey.

use super::{Hook, Hop};
use crate::event::{Headers, Tuple};

/// What one skb went through.
#[derive(Clone, Debug)]
pub struct Journey {
    /// Identity, unique in a run.
    pub id: u64,
    /// First event, CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// Last event, CLOCK_MONOTONIC.
    pub end_ns: u64,
    /// The followed packet as first seen; `None` when no event carried its headers.
    pub first: Option<Headers>,
    /// Tuple of the packet that this one quotes (it is an ICMP error).
    pub quoted: Option<Tuple>,
    /// The tuple as last seen, after all translations.
    pub last_tuple: Option<Tuple>,
    /// `skb->len` as first seen.
    pub len: u32,
    /// The longest segment that a SYN announces; where rules clamp that, as it was clamped.
    pub mss: Option<u16>,
    /// The journey that this one comes from.
    pub parent: Option<Parent>,
    /// The journey that this one goes on in.
    pub continues: Option<Parent>,
    /// What became of the packet.
    pub fate: Fate,
    /// Where and why it was dropped, if it was.
    pub dropped: Option<DropPoint>,
    /// How many events of it were lost.
    pub lost_events: u32,
    /// Where it is not whole, in order.
    pub gaps: Vec<Gap>,
    /// Address and port translations, in order.
    pub nat: Vec<Nat>,
    /// What happened, in order.
    pub hops: Vec<Hop>,
    /// Of an answer to a translated packet: whether the translation was undone.
    pub un_nat: Option<UnNat>,
    /// The hops in one line.
    pub path: String,
}

impl Journey {
    /// Nothing is known to be missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.gaps.is_empty()
    }

    /// Notes that something is missing before a hop; once for each place and cause.
    pub fn add_gap(&mut self, before_hop: usize, why: GapCause) {
        let at = self.gaps.partition_point(|gap| gap.before_hop < before_hop);
        let mut here = self.gaps[at..].iter().take_while(|gap| gap.before_hop == before_hop);
        if here.all(|gap| gap.why != why) {
            self.gaps.insert(at, Gap { before_hop, events: 0, why });
        }
    }

    /// Takes back a hop that no probe saw.
    ///
    /// # Panics
    ///
    /// If there is no such hop.
    pub fn remove_hop(&mut self, at: usize) {
        self.hops.remove(at);
        let gaps = self.gaps.iter_mut().map(|gap| &mut gap.before_hop);
        let places = gaps.chain(self.nat.iter_mut().map(|nat| &mut nat.hop));
        let dropped = self.dropped.iter_mut().map(|drop| &mut drop.hop);
        places.chain(dropped).filter(|n| **n > at).for_each(|n| *n -= 1);
    }
}

#[cfg(test)]
impl Journey {
    /// A journey of these hops, for the tests of those who look at journeys.
    pub(crate) fn of(first: Headers, hops: Vec<Hop>) -> Self {
        Self {
            id: 1,
            start_ns: 0,
            end_ns: 1,
            first: Some(first),
            quoted: None,
            last_tuple: None,
            len: first.len,
            mss: first.tcp().and_then(|tcp| tcp.mss),
            parent: None,
            continues: None,
            fate: Fate::Delivered,
            dropped: None,
            lost_events: 0,
            gaps: Vec::new(),
            nat: Vec::new(),
            hops,
            un_nat: None,
            path: String::new(),
        }
    }
}

/// What an answer has to become for whoever asked to know it as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnNat {
    /// The reverse of the question as it was first seen.
    pub expected: Tuple,
    /// It did, or went where it should have by then; `None` when it did not get that far.
    pub seen: Option<bool>,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// A socket or a local protocol took it.
    Delivered,
    /// It was handed to hardware.
    LeftNode,
    /// It was dropped.
    Dropped,
    /// It was used up without being delivered: flooded as clones, segmented, answered below IP.
    Consumed,
    /// Its end was not seen.
    InFlight,
}

impl Fate {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::LeftNode => "left-node",
            Self::Dropped => "dropped",
            Self::Consumed => "consumed",
            Self::InFlight => "in-flight",
        }
    }
}

/// Where and why a packet was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropPoint {
    /// Drop reason, `NOT_SPECIFIED` when the kernel gives none.
    pub reason: String,
    /// Kernel function.
    pub function: Option<String>,
    /// Netfilter hook.
    pub hook: Option<Hook>,
    /// Index of the `drop` hop.
    pub hop: usize,
}

/// A place where a journey is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Index of the hop before which something is missing; the number of hops when at the end.
    pub before_hop: usize,
    /// How many events, where they are counted.
    pub events: u32,
    /// Why.
    pub why: GapCause,
}

/// Why a part of a journey is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GapCause {
    /// The packet was under way already, or came from where the filter did not know it.
    JoinedMidway,
    /// It was in a namespace without probe points, which cannot have any.
    NamespaceNotCovered,
    /// Events did not fit.
    EventsLost,
    /// The kernel made another packet of it, and nothing told which.
    IdentityEnded,
    /// Not all probe points were attached: not yet, or no longer.
    LateAttach,
}

impl GapCause {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::JoinedMidway => "joined-midway",
            Self::NamespaceNotCovered => "namespace-not-covered",
            Self::EventsLost => "events-lost",
            Self::IdentityEnded => "identity-ended",
            Self::LateAttach => "late-attach",
        }
    }
}

/// The journey that a journey comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its identity.
    pub id: u64,
    /// How they are related.
    pub kind: Lineage,
}

/// How a journey is related to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lineage {
    /// Shares the parent's data: flooding, taps, mirrors.
    Clone,
    /// Has its own copy of the parent's data.
    Copy,
    /// One segment of a GSO packet.
    Segment,
    /// One fragment.
    Fragment,
    /// An ICMP error about the parent.
    IcmpError,
    /// The same TCP segment sent again.
    Retransmit,
    /// The answer.
    Reply,
    /// The parent is inside, encrypted.
    Encap,
    /// Was inside the parent.
    Decap,
    /// Was inside the parent, encrypted.
    Decrypt,
    /// The same packet in a new skb: a driver, XDP or a process made it.
    Rebuild,
    /// Put together from fragments, of which the parent is the one that it took the place of.
    Reassembly,
    /// Merged (GRO) from segments, of which the parent is the first.
    Merge,
}

impl Lineage {
    /// One of several that were made of the parent.
    #[must_use]
    pub fn is_part(self) -> bool {
        matches!(self, Self::Clone | Self::Copy | Self::Segment | Self::Fragment)
    }

    /// The parent goes on in this one, and nowhere else.
    #[must_use]
    pub fn is_succession(self) -> bool {
        matches!(
            self,
            Self::Encap
                | Self::Decap
                | Self::Decrypt
                | Self::Rebuild
                | Self::Reassembly
                | Self::Merge
        )
    }

    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clone => "clone",
            Self::Copy => "copy",
            Self::Segment => "segment",
            Self::Fragment => "fragment",
            Self::IcmpError => "icmp-error",
            Self::Retransmit => "retransmit",
            Self::Reply => "reply",
            Self::Encap => "encap",
            Self::Decap => "decap",
            Self::Decrypt => "decrypt",
            Self::Rebuild => "rebuild",
            Self::Reassembly => "reassembly",
            Self::Merge => "merge",
        }
    }
}

/// One translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Index of the hop where it happened.
    pub hop: usize,
    /// What kind.
    pub kind: NatKind,
    /// Before.
    pub before: Tuple,
    /// After.
    pub after: Tuple,
}

/// Kind of a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NatKind {
    /// Source, to an address of the device that the packet leaves by.
    Masquerade,
    /// Source.
    Snat,
    /// Destination.
    Dnat,
    /// Destination, to this namespace itself.
    Redirect,
    /// A reply's destination, back to the source before the translation.
    UnSnat,
    /// A reply's source, back to the destination before the translation.
    UnDnat,
}

impl NatKind {
    /// As reports spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Masquerade => "masquerade",
            Self::Snat => "snat",
            Self::Dnat => "dnat",
            Self::Redirect => "redirect",
            Self::UnSnat => "un-snat",
            Self::UnDnat => "un-dnat",
        }
    }

    /// Of an answer, back to what it was before the translation.
    #[must_use]
    pub fn is_undoing(self) -> bool {
        matches!(self, Self::UnSnat | Self::UnDnat)
    }

    /// The destination is what changed.
    #[must_use]
    pub fn is_destination(self) -> bool {
        matches!(self, Self::Dnat | Self::Redirect | Self::UnSnat)
    }
}
