//! Reading what runtimes leave on the node.
//!
//! Some of it may lie in a container that is a node itself, whose root could put anything there:
//! nothing but regular files of a sensible size is read, so that no pipe can stop the reader.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Larger than any configuration of a container.
const LIMIT: u64 = 4 << 20;

/// A JSON file; `None` when it is not there (any more) or not complete (yet).
pub(super) fn json(path: &Path) -> Option<Value> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(path)
        .ok()?;
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// What a directory holds, in order; nothing when it is not there.
pub(super) fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// `path`, absolute to a runtime that sees `base` as its `/`, from here.
pub(super) fn below(base: &Path, path: &Path) -> PathBuf {
    base.join(path.strip_prefix("/").unwrap_or(path))
}

/// The last part of a path, as text.
pub(super) fn name(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or_default()
}

/// A string member that says something.
pub(super) fn word(value: &Value) -> Option<String> {
    value.as_str().filter(|s| !s.is_empty()).map(str::to_owned)
}
