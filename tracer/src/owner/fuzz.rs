//! The ways in for `crate::fuzz`: what runtimes write, to everything that reads it.

use serde_json::Value;

use super::{Runtime, cgroup, cni, docker, oci, storage};

/// Whether anything is claimed.
pub(crate) fn json(input: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<Value>(input) else { return false };
    let entries = value.as_array().cloned().unwrap_or_default();
    let in_storage = entries.iter().filter_map(|entry| storage::claim(entry, &[])).count() > 0;
    let one = [docker::claim(&value), cni::claim(&value), oci::claim(&value, "id", Runtime::Crio)];
    in_storage || one.into_iter().flatten().count() > 0
}

pub(crate) fn cgroup(text: &str) -> bool {
    cgroup::member(text).is_some()
}
