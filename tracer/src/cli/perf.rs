//! What `pkttrace drops` and `pkttrace latency` have in common.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::trace::{Color, Span};

/// Options of both.
#[derive(Args, Clone, Debug)]
pub struct PerfArgs {
    /// Stop after this long (10s, 500ms, 2m); else Ctrl-C ends it.
    #[arg(long, value_name = "TIME")]
    pub(crate) duration: Option<Span>,
    /// Serve what is counted to Prometheus at http://ADDR/metrics; a port alone is one of 127.0.0.1.
    #[arg(long, value_name = "ADDR", value_parser = super::listen_address)]
    pub(crate) listen: Option<SocketAddr>,
    /// Create FILE once it counts.
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Colours: auto is a terminal without NO_COLOR.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    pub(crate) color: Color,
    /// Say nothing on standard error but errors.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}
