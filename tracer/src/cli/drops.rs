//! `pkttrace drops`.

use clap::{Args, ValueEnum};

use super::filter::FilterArgs;
use super::perf::PerfArgs;
use super::trace::Span;

/// Count what the kernel drops, by reason and place. A packet that arrives costs nothing.
///
/// With no filter every drop of the node is counted. --netns is where a packet is dropped;
/// --container and --pod are that, and what goes to or comes from their addresses.
#[derive(Args, Clone, Debug)]
pub struct DropsArgs {
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// How often to print.
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub(crate) interval: Span,
    /// What to tell apart.
    #[arg(long, value_name = "LIST", value_enum, value_delimiter = ',', default_values_t = By::ALL)]
    pub(crate) by: Vec<By>,
    /// Name the firewall rule of the examples, and show the way that they came: follows packets as
    /// `pkttrace --dropped --rules` does, and costs as much.
    #[arg(long)]
    pub(crate) rules: bool,
    /// Give rows also to what every healthy node drops, instead of one number for each kind of it.
    #[arg(long)]
    pub(crate) all: bool,
    /// How to print: a table that refreshes in place on a terminal, else a line per interval.
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub(crate) output: Option<DropsFormat>,
    #[command(flatten)]
    pub(crate) perf: PerfArgs,
}

/// What drops are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// The kernel's reason.
    Reason,
    /// The function that dropped it.
    Function,
    /// Network namespace.
    Netns,
    /// Device.
    Dev,
    /// Pod or container.
    Owner,
    /// Hook of netfilter.
    Hook,
    /// Firewall rule (with --rules).
    Rule,
}

impl By {
    /// Everything.
    pub const ALL: [Self; 7] =
        [Self::Reason, Self::Function, Self::Netns, Self::Dev, Self::Owner, Self::Hook, Self::Rule];
}

/// How to print drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DropsFormat {
    /// A table: on a terminal one that refreshes in place, else one per interval.
    Table,
    /// One line per interval.
    Line,
    /// One JSON object per interval, each on a line.
    Json,
}
