//! The workshop of pkttrace: `cargo xtask setup | build | lint | test | demo | bench | install`.
//!
//! Progress goes to stderr, results to stdout.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is a task runner's job")]

mod build;
mod layout;
mod linker;
mod lint;
mod setup;
mod sh;
mod test;
mod tidy;
mod toolchain;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use layout::Layout;

/// pkttrace's workshop.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what this machine lacks, saying what and why
    Setup,
    /// Build the kernel side and the program: target/release/pkttrace
    Build,
    /// Format, clippy, docs and house rules
    Lint,
    /// Set up, lint, build, and run every test; needs root
    Test {
        /// Leave out what takes long
        #[arg(long)]
        fast: bool,
    },
}

fn main() -> ExitCode {
    run(&Cli::parse().task).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(task: &Task) -> Result<ExitCode> {
    let layout = Layout::find()?;
    match task {
        Task::Setup => setup::run(&layout)?,
        Task::Build => {
            setup::run(&layout)?;
            build::run(&layout)?;
        }
        Task::Lint => lint::run(&layout)?,
        Task::Test { fast } => return Ok(test::run(&layout, test::Options { fast: *fast })),
    }
    Ok(ExitCode::SUCCESS)
}
