//! One step of a packet through a chain, as `NFT_MSG_TRACE` tells it.

use super::lives::Life;
use super::wire::{self, Message, SUBSYS_NFTABLES};
use crate::event::{Headers, Packet};

/// `NFT_MSG_TRACE`
const TRACE: u16 = SUBSYS_NFTABLES << 8 | 17;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const IPV6_FRAGMENT: u8 = 44;

/// A rule that matched, or the end of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The kernel's name for the packet: the same while it passes one namespace, and soon used
    /// for another one.
    pub id: u32,
    /// `NFPROTO_*` of the table.
    pub family: u8,
    /// Table.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// What happened.
    pub what: What,
    /// What follows from it.
    pub verdict: Verdict,
    /// Input device, 0 for none.
    pub iif: u32,
    /// Output device, 0 for none.
    pub oif: u32,
    /// The packet's headers; told with the first step in each hooked chain.
    pub headers: Option<Headers>,
    /// Which of the tables of this name it was.
    pub life: Life,
}

/// What a step is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The rule with this handle matched.
    Rule(u64),
    /// The chain ended and its caller goes on.
    Return,
    /// The hooked chain ended, and its policy decides.
    Policy,
}

/// What a step decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The hooked chain ends well.
    Accept,
    /// The packet is dropped.
    Drop,
    /// The next rule.
    Continue,
    /// Another chain.
    Chain(String),
    /// Back to the caller.
    Return,
    /// Handed to a program or kept by the rule.
    Taken,
}

impl Step {
    /// From a message of the nftrace group.
    pub(super) fn parse(message: &Message<'_>) -> Option<Self> {
        if message.kind != TRACE {
            return None;
        }
        let mut step = Self {
            id: 0,
            family: message.family,
            table: String::new(),
            chain: String::new(),
            what: What::Return,
            verdict: Verdict::Continue,
            iif: 0,
            oif: 0,
            headers: None,
            life: Life::default(),
        };
        let (mut handle, mut kind) = (0, 0);
        let (mut network, mut transport): (&[u8], &[u8]) = (&[], &[]);
        for (attribute, value) in message.attributes() {
            match attribute {
                1 => step.table = wire::text(value),
                2 => step.chain = wire::text(value),
                3 => handle = value.try_into().map_or(0, u64::from_be_bytes),
                4 => kind = wire::number(value),
                5 => step.verdict = verdict(value),
                6 => step.id = wire::number(value),
                8 => network = value,
                9 => transport = value,
                10 => step.iif = wire::number(value),
                12 => step.oif = wire::number(value),
                // The policy's verdict has an attribute of its own.
                16 => step.verdict = code(wire::number(value)),
                _ => {}
            }
        }
        step.what = match kind {
            1 => What::Policy,
            2 => What::Return,
            // The end of a chain is told as a rule without a handle since 5.17.
            3 if handle == 0 => What::Return,
            3 => What::Rule(handle),
            _ => return None,
        };
        step.headers = headers(network, transport);
        Some(step)
    }
}

/// The kernel tells network and transport header apart; options between them are left out.
fn headers(network: &[u8], transport: &[u8]) -> Option<Headers> {
    let mut bytes = [0; 64];
    let len = match network.first()? >> 4 {
        4 => IPV4_LEN,
        6 => IPV6_LEN,
        _ => return None,
    };
    bytes[..len].copy_from_slice(network.get(..len)?);
    if len == IPV4_LEN {
        // Options were not told: the header must not promise them.
        let left_out =
            usize::from(bytes[0] & 15) * 4 - IPV4_LEN.min(usize::from(bytes[0] & 15) * 4);
        bytes[0] = 0x45;
        let total = u16::from_be_bytes([bytes[2], bytes[3]]).saturating_sub(left_out as u16);
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
    } else if bytes[6] == IPV6_FRAGMENT {
        return None;
    }
    let end = (len + transport.len()).min(bytes.len());
    bytes[len..end].copy_from_slice(&transport[..end - len]);
    Packet::parse(0, &bytes[..end], 0).map(|packet| packet.headers)
}

fn verdict(nest: &[u8]) -> Verdict {
    let mut verdict = Verdict::Continue;
    for (attribute, value) in wire::attributes(nest) {
        match attribute {
            1 => verdict = code(wire::number(value)),
            2 => verdict = Verdict::Chain(wire::text(value)),
            _ => {}
        }
    }
    verdict
}

/// `NF_*` and `NFT_*` verdicts; the upper half of the former carries more.
fn code(code: u32) -> Verdict {
    match code.cast_signed() {
        // NFT_JUMP and NFT_GOTO, whose chain follows.
        -3 | -4 => Verdict::Chain(String::new()),
        -5 => Verdict::Return,
        n if n < 0 => Verdict::Continue,
        n => match n & 0xff {
            0 => Verdict::Drop,
            1 => Verdict::Accept,
            _ => Verdict::Taken,
        },
    }
}
