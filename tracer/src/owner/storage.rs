//! containers/storage: what Podman and CRI-O share.
//!
//! `ROOT/overlay-containers/containers.json` lists the containers with their names; the bundle of
//! each is below `ROOT/overlay-containers/ID/userdata` (Podman) and, for CRI-O, below the run
//! root as well.

use serde_json::Value;

use super::claims::{Claim, Place};
use super::{Container, Runtime, file, oci};
use crate::foreign::Spot;

/// The containers of a storage root; bundles are looked for there and below `runs`.
pub(super) fn claims(root: &Spot, runs: &[Spot]) -> Vec<Claim> {
    let lists = root.entries().into_iter().filter(|dir| dir.name().ends_with("-containers"));
    lists
        .flat_map(|list| {
            let written = file::json(&list.join("containers.json"));
            let (containers, by) = written.map_or((Value::Null, 0), |w| (w.value, w.by));
            let containers = containers.as_array().cloned().unwrap_or_default();
            let dirs: Vec<_> =
                runs.iter().map(|run| run.join(list.name())).chain([list.clone()]).collect();
            containers.into_iter().filter_map(move |c| Some(claim(&c, &dirs)?.by(by)))
        })
        .collect()
}

pub(super) fn claim(entry: &Value, dirs: &[Spot]) -> Option<Claim> {
    let id = file::word(&entry["id"])?;
    // JSON inside a string, each tool's own.
    let metadata: Value =
        entry["metadata"].as_str().and_then(|m| serde_json::from_str(m).ok()).unwrap_or_default();
    let runtime = if metadata["pod-id"].is_string() { Runtime::Crio } else { Runtime::Podman };
    let name = file::word(&entry["names"][0])
        .or_else(|| file::word(&metadata["name"]))
        .filter(|n| *n != id);
    let bundle = dirs.iter().find_map(|dir| {
        let userdata = dir.join(&id).join("userdata");
        oci::bundle(&userdata, &id, runtime)
    });
    let mut claim = bundle.unwrap_or_else(|| Claim {
        runtime: Some(runtime),
        pod: None,
        is_sandbox: false,
        container: Container { name: None, id },
        places: vec![Place::Cgroup],
        author: 0,
    });
    claim.container.name = claim.container.name.or(name);
    Some(claim)
}
