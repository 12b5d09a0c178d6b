//! The command line.

pub mod lab;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit code of a usage or environment error.
const ENVIRONMENT_ERROR: u8 = 2;

/// Follows packets through a container node's network, hop by hop.
#[derive(Debug, Parser)]
#[command(name = "pkttrace", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Lab(lab::LabArgs),
}

/// Parses the command line, runs the command and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Lab(args) => lab::run(args),
    };
    result.unwrap_or_else(|e| {
        // Without stderr there is nobody left to tell.
        let _ = writeln!(io::stderr(), "pkttrace: {e:#}");
        ExitCode::from(ENVIRONMENT_ERROR)
    })
}
