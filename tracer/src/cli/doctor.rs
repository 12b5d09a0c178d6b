//! `pkttrace doctor`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::doctor;

/// Options of `pkttrace doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}

/// Runs the command.
///
/// # Errors
///
/// When the report cannot be written.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    doctor::run(args.output == Output::Json)
}
