//! OCI bundles: the `config.json` that containerd, Podman and CRI-O hand to runc or crun.
//!
//! It says which namespace the container joins (`linux.namespaces`), and its annotations say
//! which pod it belongs to.

use std::path::PathBuf;

use serde_json::Value;

use super::claims::{Claim, Place};
use super::{Container, Pod, Runtime, file};
use crate::foreign::Spot;

/// The tasks of containerd: `STATE/io.containerd.runtime.v2.task/NAMESPACE/ID/config.json`.
pub(super) fn containerd_claims(tasks: &Spot) -> Vec<Claim> {
    let namespaces = tasks.entries();
    // Docker's own tasks are here too, nameless: its configuration says more.
    let namespaces = namespaces.iter().filter(|dir| dir.name() != "moby");
    let bundles = namespaces.flat_map(Spot::entries);
    bundles.filter_map(|dir| bundle(&dir, dir.name(), Runtime::Containerd)).collect()
}

/// The container of a bundle; `None` when it has no network of its own to name.
pub(super) fn bundle(dir: &Spot, id: &str, runtime: Runtime) -> Option<Claim> {
    let written = file::json(&dir.join("config.json"))?;
    Some(claim(&written.value, id, runtime)?.by(written.by))
}

pub(super) fn claim(spec: &Value, id: &str, runtime: Runtime) -> Option<Claim> {
    let namespaces = spec["linux"]["namespaces"].as_array()?;
    // Without this entry the container runs in the host's network.
    let network = namespaces.iter().find(|n| n["type"] == "network")?;
    let mut places = Vec::new();
    if let Some(path) = file::word(&network["path"]) {
        places.push(Place::File(PathBuf::from(path)));
    }
    places.push(Place::Cgroup);
    let annotations = &spec["annotations"];
    let word = |key: &str| file::word(&annotations[key]);
    let kind = word("io.kubernetes.cri.container-type")
        .or_else(|| word("io.kubernetes.cri-o.ContainerType"));
    let name = word("io.kubernetes.cri.container-name")
        .or_else(|| word("io.kubernetes.container.name"))
        .or_else(|| word("nerdctl/name"));
    Some(Claim {
        runtime: Some(runtime),
        pod: pod(annotations),
        is_sandbox: kind.as_deref() == Some("sandbox"),
        container: Container { name, id: id.to_owned() },
        places,
        author: 0,
    })
}

/// The pod that annotations or labels name, as the kubelet, containerd or CRI-O write them.
pub(super) fn pod(labels: &Value) -> Option<Pod> {
    let word = |keys: [&str; 3]| keys.iter().find_map(|key| file::word(&labels[*key]));
    let namespace = word([
        "io.kubernetes.cri.sandbox-namespace",
        "io.kubernetes.pod.namespace",
        "io.kubernetes.cri-o.Namespace",
    ])?;
    let name = word([
        "io.kubernetes.cri.sandbox-name",
        "io.kubernetes.pod.name",
        "io.kubernetes.cri-o.KubeName",
    ])?;
    Some(Pod { namespace, name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_sandbox_of_containerd_names_its_pod_and_namespace() {
        let claim = claim(
            &json!({
                "annotations": {
                    "io.kubernetes.cri.container-type": "sandbox",
                    "io.kubernetes.cri.sandbox-name": "web-7d4b9c", "io.kubernetes.cri.sandbox-namespace": "shop"},
                "linux": {"namespaces": [
                    {"type": "pid"}, {"type": "network", "path": "/var/run/netns/cni-1f2e"}]}
            }),
            "ab12",
            Runtime::Containerd,
        )
        .unwrap();
        assert_eq!(claim.pod.unwrap().to_string(), "shop/web-7d4b9c");
        assert!(claim.is_sandbox);
        assert_eq!(claim.places, [Place::File("/var/run/netns/cni-1f2e".into()), Place::Cgroup]);
    }

    #[test]
    fn a_container_of_crio_names_itself() {
        let claim = claim(
            &json!({
                "annotations": {
                    "io.kubernetes.cri-o.ContainerType": "container",
                    "io.kubernetes.container.name": "nginx",
                    "io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "shop"},
                "linux": {"namespaces": [{"type": "network", "path": "/var/run/netns/9c"}]}
            }),
            "cd34",
            Runtime::Crio,
        )
        .unwrap();
        assert_eq!(claim.container.name.as_deref(), Some("nginx"));
        assert!(!claim.is_sandbox);
    }

    #[test]
    fn a_container_in_the_hosts_network_claims_nothing() {
        let spec = json!({"annotations": {}, "linux": {"namespaces": [{"type": "mount"}]}});
        assert!(claim(&spec, "ab12", Runtime::Containerd).is_none());
    }
}
