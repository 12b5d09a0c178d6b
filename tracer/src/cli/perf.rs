//! What `pkttrace drops` and `pkttrace latency` have in common.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::trace::{Color, Span};
use crate::perf::Common;

/// Options of both.
#[derive(Args, Clone, Debug)]
pub struct PerfArgs {
    /// Stop after this long (10s, 500ms, 2m); else Ctrl-C ends it.
    #[arg(long, value_name = "TIME")]
    pub(crate) duration: Option<Span>,
    /// Serve what is counted to Prometheus at http://ADDR/metrics; a port alone is one of 127.0.0.1.
    #[arg(long, value_name = "ADDR", value_parser = super::listen_address)]
    listen: Option<SocketAddr>,
    /// Create FILE once it counts.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Colours: auto is a terminal without NO_COLOR.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    color: Color,
    /// Say nothing on standard error but errors.
    #[arg(short, long)]
    quiet: bool,
}

impl PerfArgs {
    /// What they come to, printed on a terminal or not.
    pub(super) fn common(&self, is_terminal: bool) -> Common {
        Common {
            duration: self.duration.map_or(Duration::MAX, |d| d.0),
            has_color: self.color.is_on(is_terminal),
            listen: self.listen,
            ready_file: self.ready_file.clone(),
            quiet: self.quiet,
        }
    }
}
