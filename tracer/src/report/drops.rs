//! What was dropped in an interval (`pkttrace drops -o json`).

use serde::{Deserialize, Serialize};

use super::{Dev, Journey, Netns, Owner, Rule, SCHEMA};

/// What was dropped in an interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `drops`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Host name of the node.
    pub node: String,
    /// Unix time of the interval's end.
    pub t_ns: u64,
    /// Its length.
    pub interval_ns: u64,
    /// By what was asked for (`--by`), most packets first.
    pub rows: Vec<DropRow>,
    /// What happens on every healthy node, by why.
    pub folded: Vec<Folded>,
    /// What was counted, but for which there was no row left.
    pub other: Other,
    /// Drops that the kernel did not show, as a program was running in its place.
    pub missed: u64,
    /// Counters of the kernel that tell of loss, as far as they grew: not every loss is a packet
    /// buffer that is freed, and one that is may be counted here too.
    pub counters: Vec<Counter>,
}

/// Drops of one kind at one place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRow {
    /// `enum skb_drop_reason` without its prefix.
    pub reason: Option<String>,
    /// What it means.
    pub meaning: Option<String>,
    /// Function that dropped them.
    pub function: Option<String>,
    /// Where.
    pub netns: Option<Netns>,
    /// Whose that is.
    pub owner: Option<Owner>,
    /// Device that they were at.
    pub dev: Option<Dev>,
    /// Hook of netfilter, where netfilter dropped them.
    pub hook: Option<String>,
    /// Firewall rule (`--rules`).
    pub rule: Option<Rule>,
    /// How many in this interval.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many since the beginning.
    pub total: u64,
    /// Unix time of the first since the beginning.
    pub first_ns: u64,
    /// Unix time of the last.
    pub last_ns: u64,
    /// One of them.
    pub example: Option<Box<Journey>>,
}

/// Drops that are no loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folded {
    /// Why they happen.
    pub why: String,
    /// How many in this interval.
    pub packets: u64,
}

/// Drops without a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// How many in this interval.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A counter of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// As `nstat` calls it, or `if.DEV.…`, `qdisc.DEV.drops`, `ct.…`, `softnet.…`, `socket.…`.
    pub name: String,
    /// Whose it is; the whole node's when there is none.
    pub netns: Option<Netns>,
    /// By how much it grew in this interval.
    pub delta: u64,
}

impl Drops {
    /// Nothing was dropped.
    #[must_use]
    pub fn new(node: String, t_ns: u64, interval_ns: u64) -> Self {
        Self {
            schema: SCHEMA,
            kind: "drops".to_owned(),
            node,
            t_ns,
            interval_ns,
            rows: Vec::new(),
            folded: Vec::new(),
            other: Other::default(),
            missed: 0,
            counters: Vec::new(),
        }
    }

    /// How many packets were dropped in the interval, noise left out.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.rows.iter().map(|row| row.packets).sum::<u64>() + self.other.packets
    }
}
