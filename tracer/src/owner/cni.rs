//! libcni's cache: what every runtime that uses CNI plugins has asked them for.
//!
//! `results/NETWORK-CONTAINER-IFNAME` holds the container's id, with newer versions the path of its
//! namespace, the arguments (`K8S_POD_NAMESPACE`, `K8S_POD_NAME` from the kubelet's runtimes) and
//! the plugins' result, which names the namespace as `sandbox` of the pod's interface.

use std::path::PathBuf;

use serde_json::Value;

use super::claims::{Claim, Place};
use super::{Container, Pod, cgroup, file};
use crate::foreign::Spot;

/// The attachments that are in a cache directory.
pub(super) fn claims(dir: &Spot) -> Vec<Claim> {
    let read = |spot: &Spot| {
        let written = file::json(spot)?;
        Some(claim(&written.value)?.by(written.by))
    };
    dir.entries().iter().filter_map(read).collect()
}

pub(super) fn claim(entry: &Value) -> Option<Claim> {
    if entry["kind"] != "cniCacheV1" {
        return None;
    }
    let id = file::word(&entry["containerId"])?;
    let arg = |name: &str| {
        let args = entry["cniArgs"].as_array()?;
        args.iter().find(|pair| pair[0] == name).and_then(|pair| file::word(&pair[1]))
    };
    let pod = arg("K8S_POD_NAMESPACE").zip(arg("K8S_POD_NAME"));
    let pod = pod.map(|(namespace, name)| Pod { namespace, name });
    // The node's end of the pair has no sandbox.
    let interfaces = entry["result"]["interfaces"].as_array();
    let sandboxes = interfaces.into_iter().flatten().filter_map(|i| file::word(&i["sandbox"]));
    let mut places: Vec<_> = file::word(&entry["netns"])
        .into_iter()
        .chain(sandboxes)
        .map(|path| Place::File(PathBuf::from(path)))
        .collect();
    places.dedup();
    if cgroup::is_id(&id) {
        places.push(Place::Cgroup);
    }
    // The id is that of the pod's sandbox, which no user has a name for.
    let is_sandbox = pod.is_some();
    let container = Container { name: None, id };
    Some(Claim { runtime: None, pod, is_sandbox, container, places, author: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_attachment_names_pod_and_namespace() {
        let claim = claim(&json!({
            "kind": "cniCacheV1", "containerId": "ab12", "ifName": "eth0", "networkName": "cbr0",
            "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "kube-system"],
                        ["K8S_POD_NAME", "coredns-5d78"]],
            "result": {"cniVersion": "1.0.0", "interfaces": [
                {"name": "cni0"}, {"name": "veth1", "mac": "02:00:00:00:00:01"},
                {"name": "eth0", "sandbox": "/var/run/netns/cni-9"}]}
        }))
        .unwrap();
        assert_eq!(claim.pod.unwrap().to_string(), "kube-system/coredns-5d78");
        assert_eq!(claim.places, [Place::File("/var/run/netns/cni-9".into())]);
    }

    #[test]
    fn other_files_are_passed_over() {
        assert!(claim(&json!({"cniVersion": "0.3.1"})).is_none());
    }
}
