//! `pkttrace latency`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::filter::FilterArgs;
use super::perf::PerfArgs;
use super::trace::Span;

/// Runs up to here are watched all the time unless --duty says otherwise.
const SHORT: Duration = Duration::from_secs(10);

/// Measure where packets spend their time: histograms per segment of the way, counted in the
/// kernel.
///
/// Runs of more than ten seconds watch for one second in thirty, so that they can be left on.
#[derive(Args, Clone, Debug)]
pub struct LatencyArgs {
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// What to time.
    #[arg(long, value_enum, default_value_t = Profile::Waits)]
    pub(crate) profile: Profile,
    /// Watch for the first time in each of the second.
    #[arg(long, value_name = "ON/EVERY", conflicts_with = "continuous")]
    pub(crate) duty: Option<Duty>,
    /// Watch all the time, however long.
    #[arg(long)]
    pub(crate) continuous: bool,
    /// Keep the result in FILE.
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// Say which segments got slower since FILE was kept.
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = LatencyFormat::Table)]
    pub(crate) output: LatencyFormat,
    /// Write to FILE instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) perf: PerfArgs,
}

/// What to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// Where packets wait: veth and backlog, queueing disciplines, sockets.
    Waits,
    /// Every part of the way, each hook of netfilter among them.
    Path,
    /// Each hook of netfilter alone.
    Netfilter,
}

impl Profile {
    /// As it is typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waits => "waits",
            Self::Path => "path",
            Self::Netfilter => "netfilter",
        }
    }
}

/// How to print times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LatencyFormat {
    /// A table; on a terminal it refreshes in place.
    Table,
    /// One JSON object.
    Json,
    /// A page with plots.
    Html,
}

/// For how long to watch, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duty {
    /// For how long.
    pub on: Duration,
    /// From one beginning to the next.
    pub every: Duration,
}

impl Duty {
    const DEFAULT: Self = Self { on: Duration::from_secs(1), every: Duration::from_secs(30) };
}

impl FromStr for Duty {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (on, every) = text.split_once('/').ok_or("not of the form 1s/30s")?;
        let (Span(on), Span(every)) = (on.parse()?, every.parse()?);
        if on > every { Err("longer than the whole".to_owned()) } else { Ok(Self { on, every }) }
    }
}

impl LatencyArgs {
    /// When to watch; always, when there is none.
    pub(crate) fn duty(&self) -> Option<Duty> {
        let is_short = self.perf.duration.is_some_and(|d| d.0 <= SHORT);
        match self.duty {
            Some(duty) => (duty.on < duty.every).then_some(duty),
            None => (!is_short && !self.continuous).then_some(Duty::DEFAULT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duty_is_a_part_of_a_whole() {
        let (on, every) = (Duration::from_millis(500), Duration::from_secs(10));
        assert_eq!("500ms/10s".parse(), Ok(Duty { on, every }));
        assert!("10s/1s".parse::<Duty>().is_err());
        assert!("1s".parse::<Duty>().is_err());
    }
}
