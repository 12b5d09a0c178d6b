//! `pkttrace explain`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::explain;

/// Options of `pkttrace explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// A word of the output: a stage, hook, chain, drop reason, fate, kind of translation, or a
    /// part of Linux networking. Without one, all words are listed.
    word: Vec<String>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// Runs the command.
///
/// # Errors
///
/// A word that is not known, or output that cannot be written.
pub fn run(args: &ExplainArgs) -> Result<ExitCode> {
    let word = args.word.join(" ");
    explain::run((!word.is_empty()).then_some(&word), args.output == Output::Json)
}
