//! The workshop of pkttrace: `cargo xtask setup | build | lint | test | fuzz | demo | bench | vm | install`.
//!
//! Progress goes to stderr, results to stdout.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is a task runner's job")]

mod bench;
mod build;
mod cargo;
mod demo;
mod deny;
mod fuzz;
mod install;
mod layout;
mod linker;
mod lint;
mod process;
mod setup;
mod sh;
mod test;
mod tidy;
mod toolchain;
mod vm;

use std::path::PathBuf;
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
        /// Only this stage, as in `guests`; may be repeated
        #[arg(long, value_parser = test::stages())]
        stage: Vec<String>,
    },
    /// A tour: a cluster lab, packets as timelines, a fault named and healed; needs root
    Demo,
    /// Packets per second with and without the tracer, ns per BPF program; needs root
    Bench {
        /// Rounds, each measuring every load once
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Seconds of traffic per measurement
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// One JSON object instead of tables
        #[arg(long)]
        json: bool,
        /// Only packets per second: no ns per program, no topology of a crowded node
        #[arg(long)]
        fast: bool,
        /// Put the table into docs/performance.md
        #[arg(long)]
        write: bool,
        /// This pkttrace, and not the one that is built here
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
        /// Further arguments for the tracer, as in `-- --probes tp`
        #[arg(last = true)]
        tracer: Vec<String>,
    },
    /// Feed damaged samples to every parser of what others have made
    Fuzz {
        /// One parser alone; a wrong name lists them
        target: Option<String>,
        /// For how long each: 90s, 5m, 1h; a minute where nothing is said
        #[arg(long, value_parser = fuzz::duration)]
        time: Option<std::time::Duration>,
        /// How many inputs each
        #[arg(long)]
        runs: Option<u64>,
    },
    /// Run commands under other kernels, in QEMU guests
    #[command(subcommand)]
    Vm(vm::Vm),
    /// Build, and put the program, man page and completions into place
    Install {
        /// Install below this directory
        #[arg(long, default_value = "/usr/local")]
        root: PathBuf,
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
        Task::Setup => setup::with_lint(&layout)?,
        Task::Build => {
            setup::run(&layout)?;
            build::run(&layout)?;
        }
        Task::Lint => lint::run(&layout)?,
        Task::Test { fast, stage } => {
            return Ok(test::run(&layout, test::Options { fast: *fast }, stage));
        }
        Task::Demo => demo::run(&layout)?,
        Task::Bench { rounds, seconds, json, fast, write, binary, tracer } => {
            let options = bench::Options {
                rounds: *rounds,
                seconds: *seconds,
                json: *json,
                fast: *fast,
                write: *write,
                binary: binary.clone(),
                tracer: tracer.clone(),
            };
            bench::run(&layout, options)?;
        }
        Task::Fuzz { target, time, runs } => {
            let (target, time, runs) = (target.clone(), *time, *runs);
            fuzz::run(&layout, &fuzz::Options { target, time, runs })?;
        }
        Task::Vm(vm) => return vm::main(&layout, vm),
        Task::Install { root } => install::run(&layout, root)?,
    }
    Ok(ExitCode::SUCCESS)
}
