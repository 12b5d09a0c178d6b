//! `target/vm`: what was fetched and built for guests, each part with a stamp of what it came from.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::lock::Pin;
use crate::layout::Layout;

/// The cache.
#[derive(Debug, Clone)]
pub(super) struct Store {
    dir: PathBuf,
}

/// One part: a directory, and in it the file `from`.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) dir: PathBuf,
}

impl Store {
    /// The cache of this workspace.
    pub(super) fn new(layout: &Layout) -> Self {
        Self { dir: layout.target.join("vm") }
    }

    /// A part by its name.
    pub(super) fn part(&self, name: &str) -> Part {
        Part { dir: self.dir.join(name) }
    }

    /// Scratch space for a package manager of our own.
    pub(super) fn apt(&self, name: &str) -> PathBuf {
        self.dir.join("apt").join(name)
    }

    /// Guests' output and consoles, by kernel.
    pub(super) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// Files that guests left in `/out`, in a directory per kernel.
    pub(super) fn out(&self) -> PathBuf {
        self.dir.join("out")
    }

    /// The files of guests that this process runs.
    pub(super) fn scratch(&self) -> PathBuf {
        self.dir.join("run").join(std::process::id().to_string())
    }

    /// What a part is made from, in a word.
    pub(super) fn stamp(&self, pins: &[Pin], recipe: &str) -> String {
        let mut hasher = DefaultHasher::new();
        for pin in pins {
            pin.line().hash(&mut hasher);
        }
        recipe.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}

impl Part {
    /// Whether it is complete and made from what `stamp` says.
    pub(super) fn is_fresh(&self, stamp: &str) -> bool {
        let from = fs::read_to_string(self.from()).unwrap_or_default();
        from.lines().next() == Some(stamp)
    }

    /// Marks it as complete.
    ///
    /// # Errors
    ///
    /// When the stamp cannot be written.
    pub(super) fn done(&self, stamp: &str, pins: &[Pin]) -> Result<()> {
        let pins: String = pins.iter().map(Pin::line).collect();
        fs::write(self.from(), format!("{stamp}\n{pins}"))
            .with_context(|| format!("cannot write {}", self.from().display()))
    }

    fn from(&self) -> PathBuf {
        self.dir.join("from")
    }

    /// A file of it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// A path as text, for command lines that are text.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
