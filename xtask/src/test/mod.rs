//! `cargo xtask test`: every stage from set-up to integration tests, and one closing line.
//!
//! Stages are rows of a list: another kind of test is one more row.

mod cargo_test;
mod catalogue;
mod costs;
mod guests;
mod integration;
mod matrix;
mod plan;
mod pool;
mod report;
mod suites;
mod tally;
mod times;

use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::layout::Layout;
use crate::{build, lint, setup, sh};
use report::Report;
use tally::Tally;

/// What the user asked of the run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Leave out what takes long.
    pub(crate) fast: bool,
}

/// One stage: what it is called, what it does, and whether the others make sense without it.
struct Stage {
    name: &'static str,
    is_gate: bool,
    run: fn(&Layout, Options) -> Result<Tally>,
}

const STAGES: &[Stage] = &[
    gate("setup", |layout, _| setup::with_lint(layout).map(|()| Tally::default())),
    gate("lint", |layout, _| lint::run(layout).map(|()| Tally::default())),
    gate("build", |layout, options| programs(layout, options).map(|()| Tally::default())),
    tests("unit", cargo_test::unit),
    tests("kernel-side", cargo_test::kernel_side),
    tests("integration", integration::run),
    tests("guests", guests::run),
];

const fn gate(name: &'static str, run: fn(&Layout, Options) -> Result<Tally>) -> Stage {
    Stage { name, is_gate: true, run }
}

const fn tests(name: &'static str, run: fn(&Layout, Options) -> Result<Tally>) -> Stage {
    Stage { name, is_gate: false, run }
}

/// The program and the tests, side by side: for half of its time a compiler keeps one processor busy
/// and no more.
fn programs(layout: &Layout, options: Options) -> Result<()> {
    build::kernel_side(layout)?;
    thread::scope(|scope| {
        let tests = scope.spawn(|| cargo_test::build(layout, options));
        let program = build::user_side(layout);
        let tests = tests.join().unwrap_or_else(|_| bail!("the thread that builds panicked"));
        program.and(tests)
    })
}

/// The names of all stages.
pub(crate) fn stages() -> Vec<&'static str> {
    STAGES.iter().map(|stage| stage.name).collect()
}

/// Runs the stages in order, all where none is named; the closing line is the last thing printed,
/// come what may.
pub(crate) fn run(layout: &Layout, options: Options, only: &[String]) -> ExitCode {
    let mut report = Report::default();
    for stage in STAGES.iter().filter(|s| only.is_empty() || only.iter().any(|o| o == s.name)) {
        sh::step(format!("stage: {}", stage.name));
        let started = Instant::now();
        let result = (stage.run)(layout, options);
        let failed = result.is_err();
        if let Err(error) = &result {
            eprintln!("error: {}: {error:#}", stage.name);
        }
        report.add(stage.name, started.elapsed(), result);
        if failed && stage.is_gate {
            break;
        }
    }
    // The times of a run that failed, or did not do all, say nothing.
    if report.is_green()
        && !options.fast
        && only.is_empty()
        && let Err(error) =
            times::update(&layout.root.join("docs/testing.md"), &report.stages(), &report.times())
    {
        eprintln!("warning: the times are not kept: {error:#}");
    }
    report.print();
    if report.is_green() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
