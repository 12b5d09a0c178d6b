//! `pkttrace [trace]`: follow matching packets.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::filter::FilterArgs;
use crate::render::Format;

/// Follow matching packets and print one timeline per packet.
#[derive(Args, Clone, Debug)]
pub struct TraceArgs {
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Print only packets that end in a drop.
    #[arg(long)]
    pub(crate) dropped: bool,
    /// Show what the node with this root network namespace would see: the hops in it and in its
    /// pods.
    #[arg(long, value_name = "NETNS")]
    pub(crate) view: Option<String>,
    /// Exit with code 1 when a packet was dropped (with --dropped).
    #[arg(long, requires = "dropped")]
    pub(crate) exit_code: bool,
    /// Keep all probe points attached, also while nothing matches.
    ///
    /// Without it, and without --rules, a trace that has seen nothing for 10 s watches packets only
    /// where they are sent, received and dropped, which costs a node without matching packets a
    /// third. The next packet brings everything back within milliseconds; where something of it may
    /// be missing until then, its journey says so (late-attach).
    #[arg(long)]
    pub(crate) warm: bool,
    /// While nothing matches, watch packets only where a namespace sends them as its own, where they
    /// enter or leave the node, and where they are dropped.
    ///
    /// From the start, and after 10 s without a match: for what waits for days. It needs netfilter
    /// and tcx links (Linux 6.6). What a virtual machine sends is met as it leaves the node, and not
    /// before; where packets arrive they are not waited for, so --netns and --dev do not go with it.
    #[arg(long, conflicts_with_all = ["warm", "rules", "netns", "dev"])]
    pub(crate) armed: bool,
    /// Print each packet for itself, also those of one flow that went the same way.
    #[arg(long)]
    pub(crate) each: bool,
    /// Say under each hop what it is and who is behind it in Kubernetes (tree and json).
    #[arg(long)]
    pub(crate) explain: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Options of every command that follows packets.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub struct CommonArgs {
    /// How to print: a tree on a terminal, else a line per packet, unless said here.
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub(crate) output: Option<Format>,
    /// Write to FILE instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
    /// Stop after N finished packets (copies and fragments of a packet do not count).
    #[arg(short, long, value_name = "N", value_parser = at_least_one)]
    pub(crate) count: Option<u64>,
    /// Stop after this long (10s, 500ms, 2m).
    #[arg(long, value_name = "TIME")]
    pub(crate) duration: Option<Span>,
    /// Name the exact firewall rules: adds a table to nftables in every traced namespace that has
    /// rules, which vanishes with pkttrace.
    #[arg(long)]
    pub(crate) rules: bool,
    /// Size of the buffer between kernel and pkttrace (16M, 256K); rounded up to a power of two.
    #[arg(long, value_name = "SIZE", default_value = "16M")]
    pub(crate) buffer: Bytes,
    /// Follow at most this many packets a second, the rest is counted; 0 is no limit.
    #[arg(long, value_name = "RATE", default_value_t = 20_000)]
    pub(crate) max_journeys: u64,
    /// What to attach: auto, or a list of tp, nf, fn, tc.
    #[arg(long, value_name = "LIST", default_value = "auto")]
    pub(crate) probes: Probes,
    /// Create FILE once every probe is attached.
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Colours: auto is a terminal without NO_COLOR.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    pub(crate) color: Color,
    /// Say more on standard error; twice lets the kernel side log too.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say nothing on standard error but errors.
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

/// A number of packets.
fn at_least_one(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "not a number from 1 up".to_owned())
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether to use colours on an output that is a terminal, or is none.
    #[must_use]
    pub fn is_on(self, is_terminal: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => is_terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        }
    }
}

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        if number.is_empty() {
            return Err("not a time like 10s".to_owned());
        }
        let seconds = match unit {
            "ms" => 1e-3,
            "" | "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return Err(format!("unknown unit {unit:?}: use ms, s, m or h")),
        };
        let number: f64 = number.parse().map_err(|_| "not a time like 10s".to_owned())?;
        let span = Duration::try_from_secs_f64(number * seconds).map_err(|e| e.to_string())?;
        if span.is_zero() { Err("must be longer than nothing".to_owned()) } else { Ok(Self(span)) }
    }
}

/// Smallest and largest ring: below, one packet does not fit; above, the kernel refuses.
const RING: std::ops::RangeInclusive<u64> = 256 << 10..=1 << 30;

/// A number of bytes that can be the size of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u32);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        if digits.is_empty() {
            return Err("not a size like 16M".to_owned());
        }
        let factor: u64 = match &text[digits.len()..].to_ascii_uppercase()[..] {
            "" | "B" => 1,
            "K" | "KB" | "KIB" => 1 << 10,
            "M" | "MB" | "MIB" => 1 << 20,
            "G" | "GB" | "GIB" => 1 << 30,
            unit => return Err(format!("unknown unit {unit:?}: use K, M or G")),
        };
        let number: u64 = digits.parse().map_err(|_| "not a size like 16M".to_owned())?;
        number
            .checked_mul(factor)
            .and_then(u64::checked_next_power_of_two)
            .filter(|n| RING.contains(n))
            .and_then(|n| u32::try_from(n).ok())
            .map(Self)
            .ok_or_else(|| "out of range: from 256K to 1G".to_owned())
    }
}

/// Which backends were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probes {
    /// What this kernel does best.
    Auto,
    /// These.
    Only {
        /// Tracepoints.
        tp: bool,
        /// BPF netfilter links.
        nf: bool,
        /// Functions.
        func: bool,
        /// tc classifiers.
        tc: bool,
    },
}

impl FromStr for Probes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let (mut tp, mut nf, mut func, mut tc) = (false, false, false, false);
        for name in text.split(',') {
            match name {
                "tp" => tp = true,
                "nf" => nf = true,
                "fn" => func = true,
                "tc" => tc = true,
                _ => {
                    return Err(format!(
                        "unknown backend {name:?}: use auto, or some of tp,nf,fn,tc"
                    ));
                }
            }
        }
        // Without tracepoints no packet would ever be seen to begin or to end.
        if tp {
            Ok(Self::Only { tp, nf, func, tc })
        } else {
            Err("tp must be among them".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_sizes_are_powers_of_two_in_range() {
        assert_eq!("16M".parse(), Ok(Bytes(16 << 20)));
        assert_eq!("300K".parse(), Ok(Bytes(512 << 10)));
        assert!("1K".parse::<Bytes>().unwrap_err().contains("out of range"));
        assert!("99999999999G".parse::<Bytes>().is_err());
        assert!("x".parse::<Bytes>().is_err());
    }

    #[test]
    fn spans_have_units() {
        assert_eq!("500ms".parse(), Ok(Span(Duration::from_millis(500))));
        assert_eq!("2m".parse(), Ok(Span(Duration::from_secs(120))));
        assert!("0s".parse::<Span>().is_err());
        assert!("10 parsecs".parse::<Span>().is_err());
    }

    #[test]
    fn backends_need_tracepoints() {
        let only = Probes::Only { tp: true, nf: true, func: false, tc: false };
        assert_eq!("tp,nf".parse(), Ok(only));
        assert!(matches!("tp,fn".parse(), Ok(Probes::Only { nf: false, func: true, .. })));
        assert!("nf".parse::<Probes>().is_err());
        assert!("xdp".parse::<Probes>().unwrap_err().contains("unknown backend"));
    }
}
