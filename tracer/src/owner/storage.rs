//! containers/storage: what Podman and CRI-O share.
//!
//! `ROOT/overlay-containers/containers.json` lists the containers with their names; the bundle of
//! each is below `ROOT/overlay-containers/ID/userdata` (Podman) and, for CRI-O, below the run
//! root as well.

use std::path::Path;

use serde_json::Value;

use super::claims::{Claim, Place};
use super::{Container, Runtime, file, oci};

/// The containers of a storage root; bundles are looked for there and below `runs`.
pub(super) fn claims(root: &Path, runs: &[impl AsRef<Path>]) -> Vec<Claim> {
    let drivers = file::entries(root);
    let lists = drivers.iter().filter(|dir| file::name(dir).ends_with("-containers"));
    lists
        .flat_map(|list| {
            let containers = file::json(&list.join("containers.json")).unwrap_or_default();
            let containers = containers.as_array().cloned().unwrap_or_default();
            let driver = file::name(list);
            let dirs: Vec<_> =
                runs.iter().map(|run| run.as_ref().join(driver)).chain([list.clone()]).collect();
            containers.into_iter().filter_map(move |container| claim(&container, &dirs))
        })
        .collect()
}

fn claim<P: AsRef<Path>>(entry: &Value, dirs: &[P]) -> Option<Claim> {
    let id = file::word(&entry["id"])?;
    // JSON inside a string, each tool's own.
    let metadata: Value =
        entry["metadata"].as_str().and_then(|m| serde_json::from_str(m).ok()).unwrap_or_default();
    let runtime = if metadata["pod-id"].is_string() { Runtime::Crio } else { Runtime::Podman };
    let name = file::word(&entry["names"][0])
        .or_else(|| file::word(&metadata["name"]))
        .filter(|n| *n != id);
    let bundle = dirs.iter().find_map(|dir| {
        let userdata = dir.as_ref().join(&id).join("userdata");
        oci::bundle(&userdata, &id, runtime)
    });
    let mut claim = bundle.unwrap_or_else(|| Claim {
        runtime: Some(runtime),
        pod: None,
        is_sandbox: false,
        container: Container { name: None, id },
        places: vec![Place::Cgroup],
    });
    claim.container.name = claim.container.name.or(name);
    Some(claim)
}
