//! Programs that guests take on the host's side and that this machine may lack: QEMU, kmod, and
//! what goes into every guest. They are unpacked beside the kernels and never installed.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Installed, fresh_dir};
use super::lock::{Lock, Pin};
use super::store::Store;
use crate::sh;

/// The part's name in the lock file.
const PART: &str = "host";

/// QEMU 7.2's TCG corrupts kernels from 6.12 on (double faults in random places); 10.0 does not.
const QEMU_SINCE: u32 = 10;

const QEMU: &str = "qemu-system-x86";
/// Static, so it needs nothing; as a package it would push out a machine's own busybox.
const BUSYBOX: &str = "busybox-static";

/// The unpacked packages.
#[derive(Debug)]
pub(super) struct Host {
    tree: PathBuf,
    qemu: PathBuf,
}

impl Host {
    /// Fetches what the machine lacks, unless it is there already.
    ///
    /// # Errors
    ///
    /// When a package cannot be had, or QEMU is too old even then.
    pub(super) fn fetch(store: &Store, lock: &mut Lock) -> Result<Self> {
        let codename = codename()?;
        let part = store.part(PART);
        let pins = lock.wanted(PART);
        let own = sh::which("qemu-system-x86_64").filter(|qemu| is_recent(Command::new(qemu)));
        let recipe = format!("{codename} {}", own.is_some());
        if lock.is_renewed() || !part.is_fresh(&store.stamp(&pins, &recipe)) {
            sh::step("QEMU and the guests' own programs");
            fresh_dir(&part.dir)?;
            let taken = fetch(store, &part.dir, &codename, own.is_none(), &pins)?;
            lock.renew(PART, &taken);
            part.done(&store.stamp(&lock.of(PART), &recipe), &taken)?;
        }
        let tree = part.dir.join("tree");
        let unpacked = tree.join("usr/bin/qemu-system-x86_64");
        let host = Self { qemu: own.unwrap_or(unpacked), tree };
        let version = sh::output(host.qemu().arg("--version"))?;
        if major(&version).is_none_or(|major| major < QEMU_SINCE) {
            bail!("guests need QEMU {QEMU_SINCE} or newer, this is {}", version.trim());
        }
        Ok(host)
    }

    /// QEMU, ready for its arguments.
    pub(super) fn qemu(&self) -> Command {
        let mut command = Command::new(&self.qemu);
        if self.qemu.starts_with(&self.tree) {
            command.env("LD_LIBRARY_PATH", self.libraries());
            for data in ["qemu", "seabios"] {
                command.arg("-L").arg(self.tree.join("usr/share").join(data));
            }
        }
        command
    }

    /// Finds a program, the unpacked one first.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(super) fn program(&self, name: &str) -> Result<PathBuf> {
        let dirs = ["usr/sbin", "usr/bin", "sbin", "bin"];
        let unpacked = dirs.map(|dir| self.tree.join(dir).join(name));
        // A link may be absolute and then leads out of the tree.
        let unpacked = unpacked.into_iter().find(|p| p.is_file() && !p.is_symlink());
        unpacked.or_else(|| sh::which(name)).with_context(|| {
            format!("guests need the program `{name}`, which this machine lacks: install it")
        })
    }

    /// `LD_LIBRARY_PATH` for programs of the tree.
    pub(super) fn libraries(&self) -> OsString {
        let dirs = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        std::env::join_paths(dirs.map(|dir| self.tree.join(dir))).unwrap_or_default()
    }

    /// Where the packages are unpacked.
    pub(super) fn tree(&self) -> &std::path::Path {
        &self.tree
    }
}

fn fetch(
    store: &Store,
    dir: &std::path::Path,
    codename: &str,
    needs_qemu: bool,
    pins: &[Pin],
) -> Result<Vec<Pin>> {
    let backports = format!("{codename}-backports");
    let suites = match codename {
        // Its own QEMU is 7.2.
        "bookworm" => vec![codename, &backports],
        _ => vec![codename],
    };
    let apt = Apt::update(store.apt(PART), &suites, Installed::Host)?;
    let mut taken = Vec::new();
    for name in [QEMU, "ipvsadm", "kmod", BUSYBOX] {
        if name != QEMU || needs_qemu {
            taken.push(choose(&apt, name, codename, pins)?);
        }
    }
    let (alone, together): (Vec<_>, Vec<_>) = taken.iter().partition(|pin| pin.package == BUSYBOX);
    let together: Vec<_> = together.into_iter().map(Pin::spec).collect();
    let mut packages = apt.missing(&together)?;
    packages.extend(alone.into_iter().map(Pin::spec));
    apt.unpack(&packages, &dir.join("tree"))?;
    fs::remove_dir_all(store.apt(PART))?;
    Ok(taken)
}

fn choose(apt: &Apt, name: &str, codename: &str, pins: &[Pin]) -> Result<Pin> {
    let pinned = pins.iter().find(|pin| pin.package == name && pin.suite == codename);
    if let Some(pin) = pinned.filter(|pin| apt.offers(pin)) {
        return Ok(pin.clone());
    }
    let found = apt.show(name).with_context(|| format!("the mirror has no {name}"))?;
    if let Some(pin) = pinned {
        sh::note(format!("{} is no longer on the mirror: {} instead", pin.spec(), found.version));
    }
    Ok(Pin {
        part: PART.to_owned(),
        suite: codename.to_owned(),
        package: found.package,
        version: found.version,
        sha256: found.sha256,
    })
}

fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("no /etc/os-release")?;
    let codename = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    codename.map(|name| name.trim_matches('"').to_owned()).context(
        "this system has no release name (VERSION_CODENAME in /etc/os-release): guests are built \
         from Debian's packages",
    )
}

fn is_recent(mut qemu: Command) -> bool {
    let version = sh::output(qemu.arg("--version"));
    version.is_ok_and(|text| major(&text).is_some_and(|major| major >= QEMU_SINCE))
}

/// `QEMU emulator version 10.0.2 (…)` is 10.
fn major(version: &str) -> Option<u32> {
    version.split("version ").nth(1)?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read() {
        assert_eq!(major("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\n"), Some(10));
        assert_eq!(major("unknown"), None);
    }
}
