//! What a runtime's files claim, and how claims become owners.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::cgroup::Member;
use super::{Container, Owner, Pod, Runtime, file};
use crate::net::Inum;
use crate::net::discover::netns_of_pid;
use crate::net::setns::inum_of;

/// A container says that a network namespace is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) runtime: Option<Runtime>,
    pub(super) pod: Option<Pod>,
    /// It only holds a pod's namespaces: its own name tells nobody anything.
    pub(super) is_sandbox: bool,
    pub(super) container: Container,
    /// Where the namespace is to be found; the first that leads to one counts.
    pub(super) places: Vec<Place>,
}

/// A way to a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A file, as the runtime sees it.
    File(PathBuf),
    /// A process, by the number that the runtime knows it by.
    Process(u32),
    /// The processes in the container's cgroup.
    Cgroup,
}

/// Where the claims of one view of the node lead.
pub(super) struct Ground<'a> {
    /// What is `/` to the runtime.
    pub(super) base: &'a Path,
    /// The device of nsfs: a file that is not on it is no namespace (any more).
    pub(super) nsfs: u64,
    /// Process numbers mean the same to the runtime as to us.
    pub(super) shares_pids: bool,
    /// The namespaces in which processes of a container were found, by its id.
    pub(super) by_container: &'a BTreeMap<String, Inum>,
}

impl Ground<'_> {
    /// The namespace that a claim is about.
    pub(super) fn netns(&self, claim: &Claim) -> Option<Inum> {
        claim.places.iter().find_map(|place| match place {
            Place::File(path) => {
                let meta = fs::metadata(file::below(self.base, path)).ok()?;
                (meta.dev() == self.nsfs).then(|| inum_of(&meta))
            }
            Place::Process(pid) => self.shares_pids.then(|| netns_of_pid(*pid)).flatten(),
            Place::Cgroup => self.by_container.get(&claim.container.id).copied(),
        })
    }
}

/// Enters a claim. The first word counts: views are asked from the outermost to the innermost,
/// and a container cannot rename what the node itself has named.
pub(super) fn enter(owner: &mut Owner, claim: Claim) {
    owner.runtime = owner.runtime.or(claim.runtime);
    owner.pod = owner.pod.take().or(claim.pod);
    let known = owner.containers.iter().find(|c| c.id == claim.container.id).cloned();
    if claim.is_sandbox {
        // Found by its cgroup alone before: now it is known what it is.
        if let Some(known) = known.filter(|c| c.name.is_none()) {
            owner.containers.remove(&known);
        }
        return;
    }
    match known {
        Some(Container { name: Some(_), .. }) => return,
        Some(nameless) => _ = owner.containers.remove(&nameless),
        None => {}
    }
    owner.containers.insert(claim.container);
}

/// A container that no file tells of.
pub(super) fn nameless(member: Member) -> Claim {
    Claim {
        runtime: member.runtime,
        pod: None,
        is_sandbox: false,
        container: Container { name: None, id: member.id },
        places: vec![Place::Cgroup],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(id: &str, name: Option<&str>, pod: Option<&str>, is_sandbox: bool) -> Claim {
        Claim {
            runtime: None,
            pod: pod.map(|p| Pod { namespace: "shop".to_owned(), name: p.to_owned() }),
            is_sandbox,
            container: Container { name: name.map(str::to_owned), id: id.to_owned() },
            places: vec![],
        }
    }

    #[test]
    fn a_pods_containers_are_together_and_its_pause_container_is_none() {
        let mut owner = Owner::default();
        enter(&mut owner, claim("1", None, None, false));
        enter(&mut owner, claim("1", None, Some("web"), true));
        enter(&mut owner, claim("2", Some("nginx"), Some("web"), false));
        enter(&mut owner, claim("3", Some("log"), Some("web"), false));
        let names: Vec<_> = owner.containers.iter().map(Container::label).collect();
        assert_eq!(names, ["log", "nginx"]);
        assert_eq!(owner.pod.unwrap().to_string(), "shop/web");
    }

    #[test]
    fn the_first_name_stays() {
        let mut owner = Owner::default();
        enter(&mut owner, claim("1", Some("web"), None, false));
        enter(&mut owner, claim("1", Some("evil"), None, false));
        assert_eq!(owner.container().unwrap().label(), "web");
    }
}
