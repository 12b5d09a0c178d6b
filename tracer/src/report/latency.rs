//! Where time goes (`pkttrace latency -o json`), and what `--save` keeps.

use serde::{Deserialize, Serialize};

use super::diagnosis::Finding;
use super::{Dev, Netns, Owner, SCHEMA};

/// What was timed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `latency`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Host name of the node.
    pub node: String,
    /// Unix time of the end.
    pub t_ns: u64,
    /// From the beginning to the end.
    pub duration_ns: u64,
    /// For how long of that probes were attached.
    pub observed_ns: u64,
    /// `waits`, `path` or `netfilter`.
    pub profile: String,
    /// Slowest first.
    pub segments: Vec<Segment>,
    /// Connections of TCP that carry traffic.
    pub tcp: Vec<Tcp>,
    /// The last segments that were sent again.
    #[serde(default)]
    pub retransmissions: Vec<Retransmission>,
    /// How many there were.
    #[serde(default)]
    pub retransmitted: u64,
    /// What got slower than the baseline, and why it is slow.
    pub findings: Vec<Finding>,
    /// Times that were not counted, as there are too many segments.
    pub unplaced: u64,
    /// Runs of programs that the kernel left out, since the same program was running: as many times
    /// at most are missing.
    #[serde(default)]
    pub missed: u64,
    /// What could not be attached, and why.
    pub unavailable: Vec<super::Unavailable>,
}

impl Latency {
    /// Nothing was timed.
    #[must_use]
    pub fn new(node: String, profile: &str) -> Self {
        Self {
            schema: SCHEMA,
            kind: "latency".to_owned(),
            node,
            t_ns: 0,
            duration_ns: 0,
            observed_ns: 0,
            profile: profile.to_owned(),
            segments: Vec::new(),
            tcp: Vec::new(),
            retransmissions: Vec::new(),
            retransmitted: 0,
            findings: Vec::new(),
            unplaced: 0,
            missed: 0,
            unavailable: Vec::new(),
        }
    }
}

/// The times of a part of the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// What it is: `veth`, `qdisc`, `forward`, …
    pub segment: String,
    /// Where it begins.
    pub netns: Option<Netns>,
    /// Whose that is.
    pub owner: Option<Owner>,
    /// The device at which it begins.
    pub dev: Option<Dev>,
    /// Where it ends, if that is another namespace.
    pub out_netns: Option<Netns>,
    /// The device at which it ends, if that is another one.
    pub out_dev: Option<Dev>,
    /// Of `end-to-end`: the protocol of the packets.
    pub proto: Option<String>,
    /// How many times.
    pub count: u64,
    /// Their sum.
    pub sum_ns: u64,
    /// Half of them are shorter.
    pub p50_ns: u64,
    /// 90 % are shorter.
    pub p90_ns: u64,
    /// 99 % are shorter.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// Shortest time of a bucket, and how many are in it; it ends where the next one may begin,
    /// at most 1/32 later.
    pub buckets: Vec<(u64, u64)>,
}

/// A connection of TCP, as the kernel keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tcp {
    /// Where its socket is.
    pub netns: Netns,
    /// Whose that is.
    pub owner: Option<Owner>,
    /// Own end.
    pub src: String,
    /// Other end.
    pub dst: String,
    /// Smoothed round trip.
    pub rtt_us: u64,
    /// Shortest round trip of late.
    pub min_rtt_us: Option<u64>,
    /// Segments sent again while it was watched.
    pub retrans: u64,
    /// Of those, what had arrived after all (the other end said so): no loss.
    pub dsack: u64,
    /// What held it back most: `cwnd`, `rwnd`, `sndbuf`, `app`; null when it sent nothing.
    pub limited: Option<String>,
}

/// A segment that TCP sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retransmission {
    /// Unix time.
    pub t_ns: u64,
    /// Where its socket is.
    pub netns: Netns,
    /// Whose that is.
    pub owner: Option<Owner>,
    /// Own end.
    pub src: String,
    /// Other end.
    pub dst: String,
    /// Its first sequence number.
    pub seq: u32,
    /// `syn` (the connection is not answered), `timeout`, `fast` (the other end's
    /// acknowledgements tell of a loss), `probe` (whether the last segment came).
    pub cause: String,
}
