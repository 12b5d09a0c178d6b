//! `pkttrace topology`.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::trace::Color;
use crate::owner;
use crate::privileges;
use crate::render::Style;
use crate::signals;
use crate::topology::{self, Format, Scope};
use crate::{output, terminal};

/// Draw the node's map: network namespaces, devices and what connects them, tunnels, routes, each
/// with what it would be in Kubernetes.
#[derive(Args, Debug)]
pub struct TopologyArgs {
    /// How to print it.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Tree)]
    output: Format,
    /// Show what the node with this root network namespace would see: itself and its pods.
    #[arg(long, value_name = "NETNS")]
    view: Option<String>,
    /// Show this network namespace alone: a name, path, PID or inode number.
    #[arg(long, value_name = "NETNS")]
    netns: Option<String>,
    /// Colours: auto is a terminal without NO_COLOR.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    color: Color,
}

/// Runs the command.
///
/// # Errors
///
/// What keeps it from reading the node, in one line.
pub fn run(args: TopologyArgs) -> Result<ExitCode> {
    let has_color = args.color.is_on(io::stdout().is_terminal());
    let style = Style { has_color, width: terminal::width(), ..Style::default() };
    let scope = Scope { view: args.view, netns: args.netns };
    privileges::check(privileges::Command::Topology, false)?;
    privileges::shed();
    let text = signals::block_on(async {
        let owners = owner::scan_in_time().await?;
        owners.doubts().iter().for_each(|doubt| output::say(doubt));
        topology::draw(&scope, &owners.report(), args.output, style).await
    })?;
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
