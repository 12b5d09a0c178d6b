//! Debian packages: which are there, and installing the others without ever removing one.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::sh;

/// Those of `packages` that are not installed, in order.
///
/// # Errors
///
/// When this is not a Debian system.
pub(super) fn absent<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    if sh::which("dpkg-query").is_none() {
        bail!("this is not a Debian or Ubuntu system (no dpkg)");
    }
    // It fails when one of them is unknown; what it prints of the others counts all the same.
    let out = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\\n"])
        .args(packages)
        .output()
        .context("cannot start dpkg-query")?;
    let said = String::from_utf8_lossy(&out.stdout);
    let installed = |name: &str| said.lines().any(|line| line == format!("{name} installed"));
    Ok(packages.iter().filter(|name| !installed(name)).copied().collect())
}

/// Installs packages; the lists are brought up to date only when they do not know one of them or
/// the installation fails.
///
/// # Errors
///
/// Without root, apt or network, or when a package is unknown or would push out another.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    if sh::which("apt-get").is_none() {
        bail!("{} must be installed, and this machine has no apt-get", packages.join(" "));
    }
    if !sh::is_root() {
        bail!("{} must be installed, which needs root", packages.join(" "));
    }
    let mut updated = false;
    if unknown(packages)?.is_some() {
        update()?;
        updated = true;
        if let Some(package) = unknown(packages)? {
            bail!("no package {package} in this machine's apt sources");
        }
    }
    if let Err(first) = get_install(packages) {
        if updated {
            return Err(first);
        }
        // Old lists name files that the mirror no longer has.
        update()?;
        get_install(packages)?;
    }
    Ok(())
}

/// The first package that the lists offer in no version.
fn unknown<'a>(packages: &[&'a str]) -> Result<Option<&'a str>> {
    for package in packages {
        let policy =
            sh::output(Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package]))?;
        let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        if candidate.is_none_or(|version| version == "(none)") {
            return Ok(Some(package));
        }
    }
    Ok(None)
}

fn update() -> Result<()> {
    sh::run(get().args(["update", "-qq"])).context("the package lists cannot be fetched")
}

fn get_install(packages: &[&str]) -> Result<()> {
    let _quiet = NoServices::ask()?;
    let mut install = get();
    // --no-remove: rustc-web conflicts with Debian's rustc and rustup, which then stay.
    install.args(["install", "-y", "-qq", "--no-install-recommends", "--no-remove"]);
    sh::run(install.args(packages)).map_err(|_| {
        anyhow!("apt-get cannot install {} (its messages are above)", packages.join(" "))
    })
}

/// While this lives, packages do not start their services: Docker's daemon would write rules into
/// this machine's firewall, and tests start their own.
struct NoServices {
    is_ours: bool,
}

/// What Debian's packages ask before they start a service; 101 means no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn ask() -> Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o755);
        match options.open(POLICY) {
            Ok(mut file) => {
                let guard = Self { is_ours: true };
                file.write_all(b"#!/bin/sh\nexit 101\n")
                    .with_context(|| format!("cannot write {POLICY}"))?;
                Ok(guard)
            }
            // The machine has a policy of its own.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Self { is_ours: false }),
            Err(error) => Err(error).with_context(|| format!("cannot create {POLICY}")),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = std::fs::remove_file(POLICY);
        }
    }
}

fn get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(std::process::Stdio::null());
    // Another apt may be at work for a while, as on a machine that has just booted.
    command.args(["-o", "DPkg::Lock::Timeout=120"]);
    command
}
