//! The user side's cargo, as xtask calls it.

use std::env;
use std::process::Command;

use crate::layout::Layout;

/// The cargo that runs xtask, in the workspace.
pub(crate) fn cargo(layout: &Layout) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&layout.root);
    command
}

/// A cargo subcommand on the user side, in the workspace's target directory.
pub(crate) fn user_cargo(layout: &Layout, subcommand: &str) -> Command {
    let mut command = cargo(layout);
    command.arg(subcommand);
    // What starts from nothing and is built once gains nothing by it.
    if env::var_os("CI").is_some() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    // Without the variable a user's own configuration could lead elsewhere than `target`.
    if env::var_os("CARGO_TARGET_DIR").is_none() {
        command.arg("--target-dir").arg(&layout.target);
    } else {
        command.env("CARGO_TARGET_DIR", &layout.target);
    }
    command
}
