//! `cargo xtask lint`: format, clippy on both sides, docs, the house rules, and cargo-deny.

use anyhow::{Context, Result};

use crate::cargo::{cargo, user_cargo};
use crate::layout::Layout;
use crate::{deny, sh, tidy, toolchain};

/// Runs every check; each is a failure of its own, the first ends the run.
///
/// # Errors
///
/// The check that failed.
pub(crate) fn run(layout: &Layout) -> Result<()> {
    sh::step("format");
    sh::run(cargo(layout).args(["fmt", "--all", "--check"]))
        .context("`cargo fmt --all` formats the code")?;
    sh::step("house rules");
    tidy::check(&layout.root)?;
    user_side(layout)?;
    kernel_side(layout)?;
    deny::check(layout)
}

fn user_side(layout: &Layout) -> Result<()> {
    // The kernel side's host part compiles in its own tests; clippy sees it with its own compiler.
    let members = ["--workspace", "--exclude", "tracer-ebpf"];
    sh::step("clippy, user side");
    let mut clippy = user_cargo(layout, "clippy");
    sh::run(clippy.args(members).args(["--all-targets", "--", "-D", "warnings"]))?;
    sh::step("docs");
    let mut doc = user_cargo(layout, "doc");
    doc.env("RUSTDOCFLAGS", "-D warnings").args(members).arg("--no-deps");
    sh::run(&mut doc)
}

fn kernel_side(layout: &Layout) -> Result<()> {
    let toolchain = toolchain::find(layout).context("run `cargo xtask setup` first")?;
    if toolchain.compiler.has_clippy {
        sh::step("clippy, kernel side");
        let mut clippy = toolchain.cargo(layout, "clippy", &[])?;
        sh::run(clippy.args(["--", "-D", "warnings"]))
    } else {
        sh::step("kernel side (its toolchain has no clippy: compiler warnings only)");
        sh::run(&mut toolchain.cargo(layout, "check", &["-D", "warnings"])?)
    }
}
