//! `cargo xtask setup`: installs what the machine lacks, and nothing else.
//!
//! Everything is looked for before it is installed, so that a second run does nothing. The
//! machine's own Rust set-up is not changed: compilers come as packages or into the project's
//! cache.

mod apt;
mod manual;
mod needs;

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::layout::Layout;
use crate::toolchain::{self, Compiler, Origin, Toolchain};
use crate::{deny, linker, sh};

/// What [`run`] does, and what lint needs beyond it.
///
/// # Errors
///
/// As [`run`]'s.
pub(crate) fn with_lint(layout: &Layout) -> Result<()> {
    run(layout)?;
    match deny::find(layout) {
        Some(_) => Ok(()),
        None => deny::install(layout).map_err(manual::explain),
    }
}

/// Checks all that building and testing needs, and installs what is missing.
///
/// # Errors
///
/// One sentence and the manual steps, when something cannot be installed here.
pub(crate) fn run(layout: &Layout) -> Result<()> {
    rustup_components()?;
    let tools = needs::missing_tools();
    let libraries = needs::missing_user_libraries();
    if tools.is_empty()
        && libraries.is_empty()
        && let Ok(toolchain) = toolchain::find(layout)
    {
        sh::step(format!("set up already: {}", toolchain.describe()));
        return Ok(());
    }
    let packages: Vec<_> = libraries.into_iter().chain(tools).collect();
    install_tools(&packages).map_err(manual::explain)?;
    let toolchain = ebpf_toolchain(layout).map_err(manual::explain)?;
    sh::step(format!("set up: {}", toolchain.describe()));
    Ok(())
}

fn install_tools(needs: &[needs::Need]) -> Result<()> {
    if needs.is_empty() {
        return Ok(());
    }
    let mut wanted = Vec::new();
    for need in needs {
        sh::step(format!("{} is missing: {}", need.package, need.why));
        wanted.push(need.package);
    }
    apt::install(&wanted)
}

/// clippy and rustfmt come with the user's Rust; they are asked for, not installed.
fn rustup_components() -> Result<()> {
    for (tool, component) in [("cargo-clippy", "clippy"), ("cargo-fmt", "rustfmt")] {
        if !sh::succeeds(Command::new(tool).arg("--version")) {
            bail!("{component} is missing: run `rustup component add {component}`");
        }
    }
    Ok(())
}

/// The first of the three ways that works or can be made to work.
fn ebpf_toolchain(layout: &Layout) -> Result<Toolchain> {
    if let Ok(toolchain) = toolchain::find(layout) {
        return Ok(toolchain);
    }
    // A user's nightly lacks only its linker: the released one fits any of them.
    if let Ok(nightly) = toolchain::compiler(layout, Origin::Nightly) {
        return released_linker(layout, nightly);
    }
    match debian(layout) {
        Ok(toolchain) => Ok(toolchain),
        Err(debian) => {
            sh::note(format!("Debian's compiler cannot be used: {debian:#}"));
            private(layout)
                .with_context(|| format!("no eBPF compiler: Debian's cannot be used ({debian:#})"))
        }
    }
}

/// Debian's compiler, and a linker built against the LLVM that it uses.
fn debian(layout: &Layout) -> Result<Toolchain> {
    let mut wanted = needs::missing_debian_compiler();
    if !wanted.is_empty() {
        sh::step(format!("{}: compile the kernel side", wanted.join(" ")));
        apt::install(&wanted)?;
    }
    let compiler = toolchain::compiler(layout, Origin::Debian)?;
    let llvm = compiler.rustc.llvm;
    if !linker::LLVM.contains(&llvm) {
        bail!(
            "rustc-web {} has LLVM {llvm}, bpf-linker {} wants {} to {}",
            compiler.rustc.release,
            linker::VERSION,
            linker::LLVM.start(),
            linker::LLVM.end()
        );
    }
    if let Ok(toolchain) = toolchain::with_linker(layout, compiler.clone()) {
        return Ok(toolchain);
    }
    let libraries =
        [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"), "libzstd-dev".to_owned()];
    wanted = apt::absent(&libraries.each_ref().map(String::as_str))?;
    if !wanted.is_empty() {
        sh::step(format!("{}: bpf-linker is built against them", wanted.join(" ")));
        apt::install(&wanted)?;
    }
    linker::build(layout, llvm)?;
    toolchain::with_linker(layout, compiler)
}

/// A nightly in the project's cache, where no package serves; rustup downloads it.
fn private(layout: &Layout) -> Result<Toolchain> {
    let compiler = match toolchain::compiler(layout, Origin::Private) {
        Ok(compiler) => compiler,
        Err(_) => {
            sh::step("a nightly compiler for the kernel side, in the project's own cache");
            let mut rustup = Command::new("rustup");
            rustup.env("RUSTUP_HOME", layout.rustup()).env_remove("RUSTUP_TOOLCHAIN");
            rustup.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
            sh::run(rustup.args(["--component", "rust-src,clippy", "--no-self-update"]))?;
            toolchain::compiler(layout, Origin::Private)?
        }
    };
    released_linker(layout, compiler)
}

fn released_linker(layout: &Layout, compiler: Compiler) -> Result<Toolchain> {
    if let Ok(toolchain) = toolchain::with_linker(layout, compiler.clone()) {
        return Ok(toolchain);
    }
    let wanted = apt::absent(&["zstd"])?;
    if !wanted.is_empty() {
        sh::step("zstd: unpacks bpf-linker");
        apt::install(&wanted)?;
    }
    linker::download(layout)?;
    toolchain::with_linker(layout, compiler)
}
