//! What a runtime's files claim, and how claims become owners.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::cgroup::Member;
use super::{Container, Owner, Pod, Runtime};
use crate::foreign::Root;
use crate::net::Inum;
use crate::net::discover::netns_of_pid;

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
    /// The user who can have written it.
    pub(super) author: u32,
}

impl Claim {
    /// The same, resting on a file that this user can have written too.
    pub(super) fn by(mut self, user: u32) -> Self {
        self.author = match (self.author, user) {
            (one, other) if one == other => one,
            (0, one) | (one, 0) => one,
            _ => NOBODY,
        };
        self
    }
}

/// Owns nothing: files of several users have no author.
const NOBODY: u32 = u32::MAX;

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
    pub(super) root: &'a Root,
    /// Process numbers mean the same to the runtime as to us.
    pub(super) shares_pids: bool,
    /// The namespaces in which processes of a container were found, by its id.
    pub(super) by_container: &'a BTreeMap<String, Inum>,
}

impl Ground<'_> {
    /// The namespace that a claim is about.
    pub(super) fn netns(&self, claim: &Claim) -> Option<Inum> {
        claim.places.iter().find_map(|place| match place {
            Place::File(path) => self.root.at(path).netns(),
            Place::Process(pid) => self.shares_pids.then(|| netns_of_pid(*pid)).flatten(),
            Place::Cgroup => self.by_container.get(&claim.container.id).copied(),
        })
    }
}

/// The pod that claims about one namespace agree on, each with its rank, and what they do not
/// agree on. The first rank that names one counts: a container cannot rename what the node itself
/// has named, and a cache says less than the runtime. Within a rank nobody is more credible.
pub(super) fn pod(claims: &[(usize, Pod)]) -> (Option<Pod>, Option<String>) {
    let all: BTreeSet<&Pod> = claims.iter().map(|(_, pod)| pod).collect();
    let first = claims.iter().map(|(rank, _)| *rank).min();
    let mut said = claims.iter().filter(|(rank, _)| Some(*rank) == first).map(|(_, pod)| pod);
    let agreed = said.next().filter(|pod| said.all(|other| other == *pod));
    let contradiction = (all.len() > 1).then(|| {
        let names: Vec<_> = all.iter().map(ToString::to_string).collect();
        let believed = match agreed {
            Some(pod) => format!("{pod} is believed, by what says more"),
            None => "none is believed".to_owned(),
        };
        format!("is said to be of pods {}: {believed}", names.join(" and "))
    });
    (agreed.cloned(), contradiction)
}

/// Enters a claim, but for its pod. The first name of a container counts.
pub(super) fn enter(owner: &mut Owner, claim: Claim) {
    owner.runtime = owner.runtime.or(claim.runtime);
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
        author: 0,
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
            author: 0,
        }
    }

    #[test]
    fn pods_are_agreed_on_within_a_rank() {
        let pod = |name: &str| Pod { namespace: "shop".to_owned(), name: name.to_owned() };
        let of = |claims: &[(usize, &str)]| {
            let claims: Vec<_> = claims.iter().map(|(rank, name)| (*rank, pod(name))).collect();
            let (agreed, contradiction) = super::pod(&claims);
            (agreed.map(|p| p.name), contradiction)
        };
        assert_eq!(of(&[]), (None, None));
        assert_eq!(of(&[(1, "web"), (0, "web")]), (Some("web".to_owned()), None));
        let (outer, why) = of(&[(1, "evil"), (0, "web")]);
        assert_eq!(outer.as_deref(), Some("web"));
        assert!(why.is_some_and(|w| w.contains("shop/evil and shop/web: shop/web is believed")));
        let (none, why) = of(&[(0, "web"), (0, "evil"), (1, "web")]);
        assert_eq!(none, None);
        assert!(why.is_some_and(|w| w.ends_with("none is believed")));
    }

    #[test]
    fn who_wrote_one_of_two_files_is_the_author() {
        let by = |users: &[u32]| {
            users.iter().fold(claim("1", None, None, false), |c, user| c.by(*user)).author
        };
        assert_eq!((by(&[0, 0]), by(&[0, 7]), by(&[7, 0, 7]), by(&[7, 8])), (0, 7, 7, NOBODY));
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
    }

    #[test]
    fn the_first_name_stays() {
        let mut owner = Owner::default();
        enter(&mut owner, claim("1", Some("web"), None, false));
        enter(&mut owner, claim("1", Some("evil"), None, false));
        assert_eq!(owner.container().unwrap().label(), "web");
    }
}
