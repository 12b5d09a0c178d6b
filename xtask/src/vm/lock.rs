//! `xtask/vm.lock`: which bits the guests are made of, so that two machines test the same.
//!
//! Debian takes point releases off its mirrors. A pin that is gone is replaced for the run by the
//! newest package of its suite, which is said; `vm fetch --relock` writes what was taken.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const HEAD: &str = "# Packages that guests are made of; `cargo xtask vm fetch --relock` writes it.\n\
                    # part suite package version sha256\n";

/// One package, down to its bits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pin {
    /// What it is a part of: a kernel's series, or `host`.
    pub(super) part: String,
    pub(super) suite: String,
    pub(super) package: String,
    pub(super) version: String,
    pub(super) sha256: String,
}

impl Pin {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().map(str::to_owned);
        let pin = Self {
            part: words.next()?,
            suite: words.next()?,
            package: words.next()?,
            version: words.next()?,
            sha256: words.next()?,
        };
        words.next().is_none().then_some(pin)
    }

    /// As a line of the file.
    pub(super) fn line(&self) -> String {
        let Self { part, suite, package, version, sha256 } = self;
        format!("{part} {suite} {package} {version} {sha256}\n")
    }

    /// As apt wants to be asked for it.
    pub(super) fn spec(&self) -> String {
        format!("{}={}", self.package, self.version)
    }
}

/// The lock file.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    pins: Vec<Pin>,
    /// Pins are being replaced by the newest packages.
    is_renewed: bool,
}

impl Lock {
    /// Reads it; a missing file pins nothing.
    ///
    /// # Errors
    ///
    /// When a line is not a pin.
    pub(super) fn read(path: &Path, is_renewed: bool) -> Result<Self> {
        let text = if path.exists() { fs::read_to_string(path)? } else { String::new() };
        let mut pins = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            match Pin::parse(line) {
                Some(pin) => pins.push(pin),
                None => bail!("{}:{}: not a pin", path.display(), number + 1),
            }
        }
        Ok(Self { path: path.to_path_buf(), pins, is_renewed })
    }

    /// Whether pins are replaced by the newest packages, whatever was fetched before.
    pub(super) fn is_renewed(&self) -> bool {
        self.is_renewed
    }

    /// What to take for one part; nothing is pinned while the lock is renewed.
    pub(super) fn wanted(&self, part: &str) -> Vec<Pin> {
        if self.is_renewed { Vec::new() } else { self.of(part) }
    }

    /// The pins of one part.
    pub(super) fn of(&self, part: &str) -> Vec<Pin> {
        self.pins.iter().filter(|pin| pin.part == part).cloned().collect()
    }

    /// Replaces the pins of one part, if the lock is being renewed.
    pub(super) fn renew(&mut self, part: &str, pins: &[Pin]) {
        if !self.is_renewed {
            return;
        }
        self.pins.retain(|pin| pin.part != part);
        self.pins.extend_from_slice(pins);
    }

    /// Writes it, if it was renewed.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub(super) fn write(&mut self) -> Result<()> {
        if !self.is_renewed {
            return Ok(());
        }
        self.pins.sort();
        let text: String = self.pins.iter().map(Pin::line).collect();
        fs::write(&self.path, format!("{HEAD}{text}"))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let path = std::env::temp_dir().join(format!("xtask-lock-{}", std::process::id()));
        let pin = Pin::parse("6.1 bookworm linux-image 6.1.176-1 ab").expect("five words");
        let mut lock = Lock { path: path.clone(), pins: Vec::new(), is_renewed: true };
        lock.renew("6.1", std::slice::from_ref(&pin));
        lock.write().expect("writes");
        let read = Lock::read(&path, false).expect("reads");
        fs::write(&path, "6.1 bookworm linux-image\n").expect("writes");
        let broken = Lock::read(&path, false);
        fs::remove_file(&path).expect("removes");
        assert_eq!((read.of("6.1"), read.of("host")), (vec![pin], vec![]));
        assert!(broken.is_err());
    }
}
