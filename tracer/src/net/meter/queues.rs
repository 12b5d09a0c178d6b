//! Queueing disciplines with their figures.

use std::collections::BTreeMap;
use std::io;

use crate::net::inspect::wire::{Netlink, attributes, attributes_after, text, u32_at, u64_at};

/// `struct tcmsg`.
pub(super) const HEADER: usize = 20;
const TCA_KIND: u16 = 1;
pub(super) const TCA_OPTIONS: u16 = 2;
pub(super) const TCA_STATS2: u16 = 7;
/// `struct gnet_stats_basic`: bytes and packets.
const TCA_STATS_BASIC: u16 = 1;
/// `struct gnet_stats_queue`: qlen, backlog, drops, requeues, overlimits.
const TCA_STATS_QUEUE: u16 = 3;

/// A queueing discipline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Interface index.
    pub dev: u32,
    /// Device name.
    pub name: String,
    /// `tbf`, `htb`, `fq_codel`, …
    pub kind: String,
    /// `tc`'s handle and parent, major and minor number.
    pub handle: u32,
    /// See `handle`; `0xffff_ffff` is the root.
    pub parent: u32,
    /// Bytes a second that it lets through, where it says so.
    pub rate: Option<u64>,
    /// The class that takes what no filter leads to another one (`htb`).
    pub default: Option<u32>,
    /// Bytes sent.
    pub bytes: u64,
    /// Packets sent (a GSO packet counts its segments).
    pub packets: u64,
    /// Packets dropped.
    pub drops: u64,
    /// Times that the rate was exceeded.
    pub overlimits: u64,
    /// Bytes waiting.
    pub backlog: u64,
}

impl Queue {
    /// It limits or delays by design; others queue only while the device is busy.
    #[must_use]
    pub fn shapes(&self) -> bool {
        matches!(self.kind.as_str(), "tbf" | "htb" | "hfsc" | "cbq" | "cake" | "netem")
    }

    /// Its packets are in classes, each with limits of its own.
    #[must_use]
    pub fn has_classes(&self) -> bool {
        matches!(self.kind.as_str(), "htb" | "hfsc" | "cbq")
    }
}

/// Those of the calling thread's namespace.
pub(super) fn queues(
    netlink: &mut Netlink,
    names: &BTreeMap<u32, String>,
) -> io::Result<Vec<Queue>> {
    let answer = netlink.dump(libc::RTM_GETQDISC, &[0; HEADER])?;
    Ok(answer.messages().filter_map(|(_, body)| queue(body, names)).collect())
}

fn queue(body: &[u8], names: &BTreeMap<u32, String>) -> Option<Queue> {
    let dev = u32_at(body, 4)?;
    let mut queue = Queue {
        dev,
        name: names.get(&dev)?.clone(),
        handle: u32_at(body, 8)?,
        parent: u32_at(body, 12)?,
        ..Queue::default()
    };
    let mut options = &[][..];
    for (kind, value) in attributes_after(body, HEADER) {
        match kind {
            TCA_KIND => queue.kind = text(value),
            TCA_OPTIONS => options = value,
            TCA_STATS2 => {
                let now = figures(value);
                (queue.bytes, queue.packets, queue.drops) = (now.bytes, now.packets, now.drops);
                (queue.overlimits, queue.backlog) = (now.overlimits, now.backlog);
            }
            _ => {}
        }
    }
    match queue.kind.as_str() {
        "tbf" => queue.rate = tbf_rate(options),
        "htb" => queue.default = htb_default(options, queue.handle),
        _ => {}
    }
    (!matches!(queue.kind.as_str(), "clsact" | "ingress")).then_some(queue)
}

/// What queueing disciplines and their classes count alike.
#[derive(Default)]
pub(super) struct Figures {
    pub(super) bytes: u64,
    pub(super) packets: u64,
    pub(super) drops: u64,
    pub(super) overlimits: u64,
    pub(super) backlog: u64,
}

/// The attributes within `TCA_STATS2`.
pub(super) fn figures(stats: &[u8]) -> Figures {
    let mut now = Figures::default();
    for (kind, value) in attributes(stats) {
        let word = |at| u32_at(value, at).map_or(0, u64::from);
        match kind {
            TCA_STATS_BASIC => (now.bytes, now.packets) = (u64_at(value, 0).unwrap_or(0), word(8)),
            TCA_STATS_QUEUE => {
                (now.backlog, now.drops, now.overlimits) = (word(4), word(8), word(16));
            }
            _ => {}
        }
    }
    now
}

/// `TCA_HTB_INIT`, a `struct tc_htb_glob`: version, quantum, default class, …
fn htb_default(options: &[u8], handle: u32) -> Option<u32> {
    const INIT: u16 = 2;
    let (_, global) = attributes(options).find(|(kind, _)| *kind == INIT)?;
    let minor = u32_at(global, 8).filter(|minor| *minor != 0)?;
    Some(handle & 0xffff_0000 | minor)
}

/// Bytes a second: `TCA_TBF_RATE64`, else the rate in `struct tc_tbf_qopt`.
fn tbf_rate(options: &[u8]) -> Option<u64> {
    const PARAMETERS: u16 = 1;
    const RATE64: u16 = 4;
    let of = |wanted| attributes(options).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
    of(RATE64).and_then(|v| u64_at(v, 0)).or_else(|| u32_at(of(PARAMETERS)?, 8).map(u64::from))
}
