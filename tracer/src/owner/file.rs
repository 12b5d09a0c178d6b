//! Reading what runtimes leave on the node.
//!
//! Some of it may lie in a container that is a node itself, or in a home directory, whose owners
//! could put anything there: see [`foreign`](crate::foreign) for how it is read. What it says
//! counts for as much as whoever wrote it.

use std::os::unix::fs::MetadataExt as _;

use serde_json::Value;

use crate::foreign::Spot;

/// Larger than any configuration of a container.
const LIMIT: u64 = 4 << 20;

/// A JSON document and the user who can have written it.
pub(super) struct Written {
    pub(super) value: Value,
    pub(super) by: u32,
}

/// A JSON file; `None` when it is not there (any more), not complete (yet), or anybody's.
pub(super) fn json(spot: &Spot) -> Option<Written> {
    let contents = spot.read(LIMIT).ok()?;
    let (mode, by) = (contents.metadata.mode(), contents.metadata.uid());
    let by_group = mode & 0o020 != 0 && contents.metadata.gid() != 0;
    if mode & 0o002 != 0 || by_group {
        return None;
    }
    Some(Written { value: serde_json::from_slice(&contents.bytes).ok()?, by })
}

/// A string member that says something.
pub(super) fn word(value: &Value) -> Option<String> {
    value.as_str().filter(|s| !s.is_empty()).map(str::to_owned)
}
