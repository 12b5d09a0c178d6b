//! What is generated from the clap definitions, and the JSON Schema.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;
use crate::report;

/// `pkttrace completions SHELL`
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// Which shell.
    shell: Shell,
}

/// Prints a completion script.
///
/// # Errors
///
/// When it cannot be written.
pub fn completions(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pkttrace", &mut script);
    print(&script)
}

/// Prints the manual page.
///
/// # Errors
///
/// When it cannot be written.
pub fn man() -> Result<ExitCode> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    print(&page)
}

/// Prints the JSON Schema.
///
/// # Errors
///
/// When it cannot be written.
pub fn schema() -> Result<ExitCode> {
    print(report::SCHEMA_TEXT.as_bytes())
}

fn print(bytes: &[u8]) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
