//! One look at the node: which namespaces there are, whose processes live in them, and what the
//! runtimes' files say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::cgroup::{self, Member};
use super::claims::{self, Claim, Ground};
use super::{Owner, Owners, Pod, Process, View, cni, docker, oci, pidns, storage};
use crate::net::discover::{self, Found, HOST};
use crate::net::{Error, Inum, setns};

/// Processes that are looked at in one namespace: the first ones started it, and a pod has few
/// containers.
const PROCESSES: usize = 256;

/// Finds the owners of all namespaces. Reads a few files a namespace and some a container:
/// milliseconds, but to be done beside other work.
///
/// # Errors
///
/// Only when `/proc` cannot be read.
pub fn scan() -> Result<Owners, Error> {
    let found = discover::scan()?.found;
    let pids = found.values().flat_map(|f| f.pids.iter().copied());
    Ok(among(&found, &View::all(pids)))
}

/// The owners of these namespaces, as these views of the node say, outermost first.
pub(super) fn among(found: &BTreeMap<Inum, Found>, views: &[View]) -> Owners {
    let members: BTreeMap<Inum, Vec<(u32, Member)>> =
        found.values().filter(|f| f.name != HOST).map(|f| (f.inum, members(&f.pids))).collect();
    // Processes of a container may be elsewhere, in namespaces that it made itself: its own is
    // that of its oldest process. If we run in one, its namespace is the node's own to us.
    let ours: Vec<_> = ["self", "1"].into_iter().filter_map(member_of).map(|m| m.id).collect();
    let mut oldest: BTreeMap<&str, (u32, Inum)> = BTreeMap::new();
    for (inum, members) in &members {
        for (pid, member) in members.iter().filter(|(_, m)| !ours.contains(&m.id)) {
            let known = oldest.entry(&member.id).or_insert((*pid, *inum));
            *known = (*known).min((*pid, *inum));
        }
    }
    let by_container: BTreeMap<String, Inum> =
        oldest.into_iter().map(|(id, (_, inum))| (id.to_owned(), inum)).collect();
    let mut owners: BTreeMap<Inum, Owner> = BTreeMap::new();
    let mut pods: BTreeMap<Inum, Vec<(usize, Pod)>> = BTreeMap::new();
    for (n, view) in views.iter().enumerate() {
        let shares_pids = view.within.is_none();
        let ground = Ground { root: &view.root, shares_pids, by_container: &by_container };
        for claim in claims(view) {
            let netns = ground.netns(&claim).filter(|inum| Some(*inum) != view.own);
            let Some(netns) = netns.filter(|inum| members.contains_key(inum)) else { continue };
            let is_roots = claim.author == view.trusted;
            if !found.get(&netns).is_some_and(|f| is_believed(view, claim.author, f)) {
                continue;
            }
            // A runtime says more than the cache of what it once asked for. Who is no more than a
            // user makes no pods.
            let rank = 2 * n + usize::from(claim.runtime.is_none());
            let pod = claim.pod.clone().filter(|_| is_roots);
            pods.entry(netns).or_default().extend(pod.map(|pod| (rank, pod)));
            claims::enter(owners.entry(netns).or_default(), claim);
        }
    }
    let mut doubts = Vec::new();
    for (inum, said) in pods {
        let (pod, contradiction) = claims::pod(&said);
        owners.entry(inum).or_default().pod = pod;
        let name = found.get(&inum).map_or("", |f| &f.name);
        doubts.extend(contradiction.map(|what| format!("network namespace {name} {what}")));
    }
    for (inum, members) in members {
        let owner = owners.entry(inum).or_default();
        if owner.pod.is_none() && owner.containers.is_empty() {
            let own = |m: &Member| by_container.get(&m.id) == Some(&inum);
            let first = members.into_iter().map(|(_, member)| member).find(own);
            first.into_iter().for_each(|m| claims::enter(owner, claims::nameless(m)));
        }
        owner.process = found.get(&inum).and_then(|f| process(&f.pids));
    }
    Owners { by_netns: owners, doubts }
}

/// Whether somebody in this view may say whose a namespace is: the view reaches it, and its author
/// is root or has made it.
fn is_believed(view: &View, author: u32, netns: &Found) -> bool {
    let is_reached = view.within.is_none_or(|outer| {
        !netns.pids.is_empty() && netns.pids.iter().all(|pid| pidns::is_within(*pid, outer))
    });
    let has_made = || setns::maker(&netns.path, netns.inum).is_ok_and(|uid| uid == author);
    is_reached && (author == view.trusted || has_made())
}

/// What the files of a view say, the most telling first.
fn claims(view: &View) -> Vec<Claim> {
    let dirs = |paths| view.dirs(paths).into_iter();
    let roots = &view.roots;
    let runs = view.dirs(&roots.storage_runs);
    let mut seen = BTreeSet::new();
    view.docker()
        .into_iter()
        .filter(|root| seen.insert(root.clone()))
        .flat_map(|root| docker::claims(&view.root.at(root)))
        .chain(dirs(&roots.containerd).flat_map(|tasks| oci::containerd_claims(&tasks)))
        .chain(dirs(&roots.storage).flat_map(|root| storage::claims(&root, &runs)))
        .chain(dirs(&roots.cni).flat_map(|dir| cni::claims(&dir)))
        .collect()
}

/// The containers that these processes belong to, each with its oldest process, in their order.
fn members(pids: &[u32]) -> Vec<(u32, Member)> {
    let mut members: Vec<(u32, Member)> = Vec::new();
    for pid in pids.iter().take(PROCESSES) {
        let Some(member) = member_of(&pid.to_string()) else { continue };
        if members.iter().all(|(_, known)| known.id != member.id) {
            members.push((*pid, member));
        }
    }
    members
}

/// The container of a process, `PID` or `self`.
fn member_of(process: &str) -> Option<Member> {
    cgroup::member(&fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?)
}

fn process(pids: &[u32]) -> Option<Process> {
    pids.iter().find_map(|pid| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(Process { comm: comm.trim_end().to_owned(), pid: *pid })
    })
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::foreign::Root;
    use crate::net::discover;
    use crate::owner::Roots;

    /// A directory that vanishes.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("pkttrace-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn put(&self, path: &str, value: &serde_json::Value) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value.to_string()).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const NETNS: &str = "/proc/self/ns/net";

    /// Our own namespace, as if it were a container's, and a view of files below `base`, where
    /// whoever runs this is believed.
    fn stage(base: &Path) -> (Inum, BTreeMap<Inum, Found>, View) {
        let own = discover::own().unwrap();
        let path = PathBuf::from(NETNS);
        let pids = vec![std::process::id()];
        let found = Found { inum: own, name: "x/1".to_owned(), path, pids, ..Found::default() };
        // SAFETY: takes nothing, cannot fail.
        let trusted = unsafe { libc::geteuid() };
        let (root, roots) = (Root::open(Path::new("/")).unwrap(), Roots::default().below(base));
        let view = View { root, own: None, within: None, trusted, roots };
        (own, BTreeMap::from([(own, found)]), view)
    }

    #[test]
    fn bundles_and_cache_below_a_root_name_a_namespace() {
        let scratch = Scratch::new("owners");
        let (own, found, view) = stage(&scratch.0);
        let network = serde_json::json!({"namespaces": [{"type": "network", "path": NETNS}]});
        let tasks = "run/containerd/io.containerd.runtime.v2.task/k8s.io";
        scratch.put(
            &format!("{tasks}/{}/config.json", "b".repeat(64)),
            &serde_json::json!({"linux": network, "annotations": {
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.container-name": "nginx",
                "io.kubernetes.cri.sandbox-name": "web", "io.kubernetes.cri.sandbox-namespace": "shop"}}),
        );
        scratch.put(
            "var/lib/cni/results/cbr0-x-eth0",
            &serde_json::json!({"kind": "cniCacheV1", "containerId": "x", "netns": NETNS,
                "cniArgs": [["K8S_POD_NAMESPACE", "evil"], ["K8S_POD_NAME", "late"]]}),
        );
        let owners = among(&found, &[view]);
        let owner = owners.get(own).unwrap();
        assert_eq!(owner.pod.as_ref().unwrap().to_string(), "shop/web");
        assert_eq!(owner.container().unwrap().label(), "nginx");
        assert_eq!(owners.report()[&own].pod.as_deref(), Some("shop/web"));
        assert!(owners.doubts()[0].contains("evil/late and shop/web: shop/web is believed"));
    }

    /// The files of one container, which claim our namespace for pod `shop/web`.
    fn bundle(scratch: &Scratch) {
        let tasks = "run/containerd/io.containerd.runtime.v2.task/k8s.io";
        scratch.put(
            &format!("{tasks}/{}/config.json", "b".repeat(64)),
            &serde_json::json!({"linux": {"namespaces": [{"type": "network", "path": NETNS}]},
                "annotations": {"io.kubernetes.cri.container-name": "nginx",
                    "io.kubernetes.cri.sandbox-name": "web",
                    "io.kubernetes.cri.sandbox-namespace": "shop"}}),
        );
    }

    #[test]
    fn who_is_not_root_names_only_what_he_has_made() {
        let scratch = Scratch::new("author");
        let (own, found, view) = stage(&scratch.0);
        bundle(&scratch);
        let owner = |trusted| {
            let owners = among(&found, &[View { trusted, ..view.clone() }]);
            owners.get(own).cloned().unwrap()
        };
        assert!(owner(view.trusted).pod.is_some());
        let other = owner(view.trusted + 1);
        assert_eq!(other.pod, None);
        let has_made = setns::maker(Path::new(NETNS), own).is_ok_and(|uid| uid == view.trusted);
        assert_eq!(!other.containers.is_empty(), has_made);
        // What anybody may write to says nothing.
        let file = scratch.0.join("run/containerd/io.containerd.runtime.v2.task/k8s.io");
        let file = file.join("b".repeat(64)).join("config.json");
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o646)).unwrap();
        assert_eq!(owner(view.trusted).pod, None);
    }

    #[test]
    fn a_runtime_in_a_container_names_only_what_lives_in_there() {
        let scratch = Scratch::new("within");
        let (own, found, view) = stage(&scratch.0);
        bundle(&scratch);
        let pod = |within, pids: &[u32]| {
            let mut found = found.clone();
            found.get_mut(&own).unwrap().pids = pids.to_vec();
            let view = View { within: Some(within), ..view.clone() };
            among(&found, &[view]).get(own).unwrap().pod.clone()
        };
        let (me, inside) = (std::process::id(), pidns::of(std::process::id()).unwrap());
        assert!(pod(inside, &[me]).is_some());
        for (within, pids) in [(inside + 1, &[me][..]), (inside, &[]), (inside, &[me, u32::MAX])] {
            assert_eq!(pod(within, pids), None);
        }
    }

    #[test]
    fn storage_below_a_root_names_a_podman_container() {
        let scratch = Scratch::new("storage");
        let (own, found, view) = stage(&scratch.0);
        let id = "c".repeat(64);
        let dir = "home/me/.local/share/containers/storage/overlay-containers";
        scratch.put(
            &format!("{dir}/containers.json"),
            &serde_json::json!([{"id": id, "names": ["db"], "metadata": "{\"name\":\"db\"}"}]),
        );
        scratch.put(
            &format!("{dir}/{id}/userdata/config.json"),
            &serde_json::json!({"linux": {"namespaces": [{"type": "network", "path": NETNS}]}}),
        );
        let owners = among(&found, &[view]);
        let owner = owners.get(own).unwrap();
        assert_eq!(owner.container().unwrap().label(), "db");
        assert_eq!(owner.runtime, Some(crate::owner::Runtime::Podman));
    }

    #[test]
    fn a_runtimes_own_network_is_nobodys_in_particular() {
        let scratch = Scratch::new("own");
        let (own, found, view) = stage(&scratch.0);
        scratch.put(
            "var/lib/docker/containers/x/config.v2.json",
            &serde_json::json!({"ID": "x", "Name": "/hostnet", "State": {"Running": true},
                "NetworkSettings": {"SandboxKey": NETNS}}),
        );
        let owners = among(&found, &[View { own: Some(own), ..view.clone() }]);
        assert!(owners.report().is_empty());
        assert_eq!(among(&found, &[view]).report()[&own].container.as_deref(), Some("hostnet"));
    }
}
