//! Perf analysis: where packets are lost (`drops`) and where their time goes (`latency`).
//!
//! The kernel side counts; here the counts get names and are handed to a renderer. Nothing is
//! followed packet by packet.

pub mod drops;
pub mod exporter;
pub mod latency;
mod node;
mod session;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use node::Node;

use crate::cli::perf::PerfArgs;

/// How long the last look at the node may stand still.
const SUMMING: Duration = Duration::from_secs(5);
/// Longest run.
const YEAR: Duration = Duration::from_secs(86_400 * 365);

/// What can be asked of both.
#[derive(Clone, Debug)]
pub struct Common {
    /// For how long.
    pub duration: Duration,
    /// With colours.
    pub has_color: bool,
    /// Where Prometheus asks.
    pub listen: Option<SocketAddr>,
    /// Created when ready.
    pub ready_file: Option<PathBuf>,
    /// Nothing on stderr but errors.
    pub quiet: bool,
}

impl Common {
    /// Resolves what was typed; it is printed on a terminal or not.
    fn resolve(args: &PerfArgs, is_terminal: bool) -> Self {
        Self {
            duration: args.duration.map_or(Duration::MAX, |d| d.0),
            has_color: args.color.is_on(is_terminal),
            listen: args.listen,
            ready_file: args.ready_file.clone(),
            quiet: args.quiet,
        }
    }
}
