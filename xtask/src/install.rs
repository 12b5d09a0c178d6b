//! `cargo xtask install`: the program, its man page and its completions under one root.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::layout::Layout;
use crate::{build, setup, sh};

/// Where each shell looks for completions below the root.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "share/bash-completion/completions/pkttrace"),
    ("fish", "share/fish/vendor_completions.d/pkttrace.fish"),
    ("zsh", "share/zsh/site-functions/_pkttrace"),
];

/// Builds and installs.
///
/// # Errors
///
/// When the build fails or the root cannot be written.
pub(crate) fn run(layout: &Layout, root: &Path) -> Result<()> {
    setup::run(layout)?;
    build::run(layout)?;
    let binary = fs::read(layout.binary()).context("the built program cannot be read")?;
    put(root, "bin/pkttrace", &binary, 0o755)?;
    if let Some(page) = printed(layout, &["man"]) {
        put(root, "share/man/man1/pkttrace.1", &page, 0o644)?;
    }
    for (shell, path) in COMPLETIONS {
        if let Some(script) = printed(layout, &["completions", shell]) {
            put(root, path, &script, 0o644)?;
        }
    }
    Ok(())
}

/// What the program prints for one of its generated files, if it can.
fn printed(layout: &Layout, args: &[&str]) -> Option<Vec<u8>> {
    let out = Command::new(layout.binary()).args(args).output().ok()?;
    if out.status.success() && !out.stdout.is_empty() {
        return Some(out.stdout);
    }
    sh::note(format!("left out: `pkttrace {}` prints nothing", args.join(" ")));
    None
}

/// Writes beside the place and renames, so that a running program is not written into.
fn put(root: &Path, path: &str, content: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;

    let place = root.join(path);
    let fresh = place.with_extension(format!("new-{}", std::process::id()));
    let write = || -> io::Result<()> {
        if let Some(dir) = place.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(&fresh, content)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(mode))?;
        fs::rename(&fresh, &place)
    };
    if let Err(error) = write() {
        if error.kind() == io::ErrorKind::PermissionDenied {
            bail!("cannot write {}: run as root, or choose another --root", place.display());
        }
        return Err(error).with_context(|| format!("cannot write {}", place.display()));
    }
    println!("{}", place.display());
    Ok(())
}
