//! Docker's containers, by `DATA-ROOT/containers/ID/config.v2.json`.
//!
//! `NetworkSettings.SandboxKey` is the file that the daemon keeps the namespace by; a container
//! in another's network has none and is found by `State.Pid`. Under cri-dockerd the labels name
//! the pod.

use std::path::PathBuf;

use serde_json::Value;

use super::claims::{Claim, Place};
use super::{Container, Runtime, file, oci};
use crate::foreign::Spot;

/// The running containers of a daemon with this data root.
pub(super) fn claims(data_root: &Spot) -> Vec<Claim> {
    let read = |dir: &Spot| {
        let written = file::json(&dir.join("config.v2.json"))?;
        Some(claim(&written.value)?.by(written.by))
    };
    data_root.join("containers").entries().iter().filter_map(read).collect()
}

pub(super) fn claim(config: &Value) -> Option<Claim> {
    if config["State"]["Running"] != true {
        return None;
    }
    let id = file::word(&config["ID"])?;
    let name = file::word(&config["Name"]).map(|n| n.trim_start_matches('/').to_owned());
    let labels = &config["Config"]["Labels"];
    let pod = oci::pod(labels);
    let is_sandbox = labels["io.kubernetes.docker.type"] == "podsandbox";
    let name = file::word(&labels["io.kubernetes.container.name"]).or(name);
    let mut places = Vec::new();
    if let Some(key) = file::word(&config["NetworkSettings"]["SandboxKey"]) {
        places.push(Place::File(PathBuf::from(key)));
    }
    if let Some(pid) = config["State"]["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()) {
        places.push(Place::Process(pid));
    }
    places.push(Place::Cgroup);
    let container = Container { name, id };
    Some(Claim { runtime: Some(Runtime::Docker), pod, is_sandbox, container, places, author: 0 })
}

/// The data root that the daemon's configuration file asks for, which is root's.
pub(super) fn data_root(daemon_json: &Spot) -> Option<PathBuf> {
    let config = file::json(daemon_json).filter(|written| written.by == 0)?.value;
    // `graph` is the name of old.
    let root = file::word(&config["data-root"]).or_else(|| file::word(&config["graph"]))?;
    Some(PathBuf::from(root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Pod;
    use serde_json::json;

    #[test]
    fn a_running_container_is_known_by_its_sandbox() {
        let claim = claim(&json!({
            "State": {"Running": true, "Pid": 4711},
            "ID": "ab12", "Name": "/web", "Config": {"Labels": {}},
            "NetworkSettings": {"SandboxKey": "/var/run/docker/netns/1f9a3c5d7e90"}
        }))
        .unwrap();
        assert_eq!(claim.container.name.as_deref(), Some("web"));
        let key = PathBuf::from("/var/run/docker/netns/1f9a3c5d7e90");
        assert_eq!(claim.places, [Place::File(key), Place::Process(4711), Place::Cgroup]);
        assert_eq!(claim.pod, None);
    }

    #[test]
    fn labels_of_cri_dockerd_name_the_pod() {
        let claim = claim(&json!({
            "State": {"Running": true, "Pid": 1}, "ID": "ab12", "Name": "/k8s_POD_web_shop_1_0",
            "Config": {"Labels": {
                "io.kubernetes.docker.type": "podsandbox", "io.kubernetes.container.name": "POD",
                "io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "shop"}},
            "NetworkSettings": {"SandboxKey": ""}
        }))
        .unwrap();
        let pod = Pod { namespace: "shop".to_owned(), name: "web".to_owned() };
        assert_eq!((claim.pod, claim.is_sandbox), (Some(pod), true));
        assert_eq!(claim.places, [Place::Process(1), Place::Cgroup]);
    }

    #[test]
    fn a_stopped_container_owns_nothing() {
        assert!(claim(&json!({"State": {"Running": false}, "ID": "ab12", "Name": "/x"})).is_none());
    }
}
