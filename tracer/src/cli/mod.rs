//! The command line: clap types and the way from them to what runs. No logic.

pub mod diagnose;
pub mod doctor;
pub mod drops;
pub mod explain;
pub mod filter;
pub mod generate;
pub mod lab;
pub mod latency;
pub mod perf;
pub mod topology;
pub mod trace;

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::{app, output, render};

/// Exit code of a usage or environment error.
const ENVIRONMENT_ERROR: u8 = 2;

/// Shows what really happens to each packet on a container node: hop by hop, through namespaces,
/// veth, bridge, netfilter, routing, NAT and tunnels, to the socket, the wire or the drop.
#[derive(Debug, Parser)]
#[command(
    name = "pkttrace",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        pkttrace --dst 10.244.1.5                 follow packets to a pod, and the replies\n  \
        pkttrace --proto udp --port 53 -o json    DNS, one JSON object a line\n  \
        pkttrace --dropped                        only packets that are dropped\n  \
        pkttrace diagnose --from web --to 10.96.0.10:53   why it does not get through\n  \
        pkttrace lab up cluster                   a whole cluster to try it on"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    trace: trace::TraceArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Follow matching packets and print one timeline per packet (the default command).
    Trace(Box<trace::TraceArgs>),
    Diagnose(Box<diagnose::DiagnoseArgs>),
    Drops(Box<drops::DropsArgs>),
    Latency(Box<latency::LatencyArgs>),
    Topology(topology::TopologyArgs),
    Lab(lab::LabArgs),
    /// Tell what this kernel and these privileges allow: each probe point, attached by what, or why not.
    Doctor(doctor::DoctorArgs),
    /// Explain a word of the output: what it is, why one sees it, and its Kubernetes equivalent.
    Explain(explain::ExplainArgs),
    /// Print the JSON Schema of the output.
    Schema,
    /// Print the completion script of a shell.
    Completions(generate::CompletionsArgs),
    /// Print the manual page.
    Man,
}

/// Parses the command line, runs the command and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let result = match cli.command {
        None => follow(&cli.trace),
        Some(Command::Trace(args)) => follow(&args),
        Some(Command::Diagnose(args)) => diagnose::run(&args),
        Some(Command::Drops(args)) => crate::perf::drops::run(&args),
        Some(Command::Latency(args)) => crate::perf::latency::run(&args),
        Some(Command::Topology(args)) => topology::run(args),
        Some(Command::Lab(args)) => lab::run(args),
        Some(Command::Doctor(args)) => doctor::run(&args),
        Some(Command::Explain(args)) => explain::run(&args),
        Some(Command::Schema) => generate::schema(),
        Some(Command::Completions(args)) => generate::completions(&args),
        Some(Command::Man) => generate::man(),
    };
    result.unwrap_or_else(|e| {
        if output::is_closed_pipe(&e) {
            return ExitCode::SUCCESS;
        }
        // Without stderr there is nobody left to tell.
        let _ = writeln!(io::stderr(), "pkttrace: {}", one_line(&e));
        ExitCode::from(ENVIRONMENT_ERROR)
    })
}

fn follow(args: &trace::TraceArgs) -> Result<ExitCode> {
    app::trace(Config::resolve(args)?)
}

/// `ADDRESS:PORT`, or a port of this host's own address.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>();
    match port {
        Ok(port) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Err(_) => text.parse().map_err(|_| "not ADDRESS:PORT or PORT".to_owned()),
    }
}

/// What was tried, then the causes, each said once: many errors already end with theirs.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text += if text.is_empty() { "" } else { ": " };
            text += &cause;
        }
    }
    // Among the causes may be names that anybody may have given.
    render::escape(&without_errno(&text).replace('\n', " "))
}

/// The system's words are enough; its numbers help nobody.
fn without_errno(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut rest = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        rest += part.split_once(')').map_or("", |(_, after)| after);
    }
    rest
}

/// Help and version as clap prints them; an error in one line.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        return match error.print() {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(ENVIRONMENT_ERROR),
            _ => ExitCode::SUCCESS,
        };
    }
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let mut message = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    for line in lines.take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more")) {
        message.push_str(if message.ends_with(':') { " " } else { "; " });
        let line = line.trim_start_matches("tip: ");
        match line.strip_prefix("[possible values: ").and_then(|l| l.strip_suffix(']')) {
            Some(values) => message.push_str(&format!("use one of {values}")),
            None => message.push_str(line),
        }
    }
    let _ = writeln!(io::stderr(), "pkttrace: {message} (see pkttrace --help)");
    ExitCode::from(ENVIRONMENT_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once_and_without_numbers() {
        let cause = io::Error::from_raw_os_error(libc::ENOENT);
        let error = anyhow::Error::from(cause)
            .context("cannot create /x: No such file or directory (os error 2)");
        assert_eq!(one_line(&error), "cannot create /x: No such file or directory");
        let error = anyhow::anyhow!("because").context("failed");
        assert_eq!(one_line(&error), "failed: because");
        assert_eq!(one_line(&anyhow::anyhow!("no pod a\n\x1b[2J")), "no pod a \\u{1b}[2J");
    }
}
