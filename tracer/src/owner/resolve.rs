//! What the user calls a container, a pod or a namespace, to namespaces.

use std::collections::{BTreeMap, BTreeSet};

use super::{Owner, Owners};
use crate::net::discover::{self, Found};
use crate::net::resolve as netns;
use crate::net::{self, Inum};

/// Why a name leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing has this name.
    #[error("no {what} {spec:?} on this node{}", hint(.near))]
    Unknown {
        /// What was looked for.
        what: &'static str,
        /// By which name.
        spec: String,
        /// Names that come near.
        near: Vec<String>,
    },
    /// Several have it.
    #[error(
        "{spec:?} is the name of {count} containers with networks of their own; give the id or the pod"
    )]
    Ambiguous {
        /// The name.
        spec: String,
        /// How many.
        count: usize,
    },
    /// The namespace itself cannot be looked at.
    #[error("{0}")]
    Netns(String),
}

fn hint(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) }
}

/// The namespaces that `--netns`, `--container` and `--pod` restrict a trace to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// `--netns`, as typed.
    pub netns: Option<String>,
    /// `--container`, as typed.
    pub container: Option<String>,
    /// `--pod`, as typed.
    pub pod: Option<String>,
}

impl Scope {
    /// Nothing is restricted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The namespaces that all of them mean; `None` when there is no restriction.
    ///
    /// # Errors
    ///
    /// The option that means nothing, with the names that come near.
    pub fn resolve(&self, owners: &Owners) -> anyhow::Result<Option<BTreeSet<Inum>>> {
        use anyhow::Context as _;
        let mut scope: Option<BTreeSet<Inum>> = None;
        let mut narrow = |inums: BTreeSet<Inum>| {
            scope = Some(match scope.take() {
                Some(known) => known.intersection(&inums).copied().collect(),
                None => inums,
            });
        };
        if let Some(spec) = &self.netns {
            narrow(BTreeSet::from([net::resolve(spec).context("--netns")?]));
        }
        if let Some(spec) = &self.pod {
            narrow(pods(owners, spec).context("--pod")?);
        }
        if let Some(spec) = &self.container {
            narrow(containers(owners, spec).context("--container")?);
        }
        if scope.as_ref().is_some_and(BTreeSet::is_empty) {
            anyhow::bail!("--netns, --container and --pod name different network namespaces");
        }
        Ok(scope)
    }
}

/// The namespace that `spec` means: its name, a path, a PID, an inode number, `host`, a
/// container's name or id (or the first four or more digits of one), or a pod as `NS/NAME`.
///
/// # Errors
///
/// [`Error::Unknown`] with the names that come near, or [`Error::Ambiguous`].
pub fn resolve(spec: &str, owners: &Owners) -> Result<Inum, Error> {
    let found = discover::scan().map_err(|e| Error::Netns(e.to_string()))?.found;
    resolve_among(spec, &found, owners)
}

/// [`resolve`] among namespaces that are known already.
///
/// # Errors
///
/// As [`resolve`].
pub fn resolve_among(
    spec: &str,
    found: &BTreeMap<Inum, Found>,
    owners: &Owners,
) -> Result<Inum, Error> {
    let netns = match netns::resolve_among(found, spec) {
        Ok(inum) => return Ok(inum),
        Err(error) => error,
    };
    if let Ok(pods) = pods(owners, spec) {
        return one(spec, &pods);
    }
    if let Ok(containers) = containers(owners, spec) {
        return one(spec, &containers);
    }
    match netns {
        net::Error::Unknown { .. } => {
            let names = found.values().map(|f| f.name.clone());
            let known = owners.iter().flat_map(|(_, owner)| names_of(owner));
            Err(unknown("network namespace, container or pod", spec, names.chain(known)))
        }
        other => Err(Error::Netns(other.to_string())),
    }
}

fn one(spec: &str, inums: &BTreeSet<Inum>) -> Result<Inum, Error> {
    match inums.len() {
        1 => inums.first().copied().ok_or(Error::Ambiguous { spec: spec.to_owned(), count: 0 }),
        count => Err(Error::Ambiguous { spec: spec.to_owned(), count }),
    }
}

/// The namespaces of the containers that are called so.
fn containers(owners: &Owners, spec: &str) -> Result<BTreeSet<Inum>, Error> {
    let is_meant = |owner: &Owner| owner.containers.iter().any(|c| c.is_called(spec));
    named(owners, is_meant).ok_or_else(|| {
        let labels = owners.iter().flat_map(|(_, o)| o.containers.iter().map(|c| c.label().into()));
        unknown("container", spec, labels)
    })
}

/// The namespaces of pod `NS/NAME`.
fn pods(owners: &Owners, spec: &str) -> Result<BTreeSet<Inum>, Error> {
    let pod = |owner: &Owner| owner.pod.as_ref().map(ToString::to_string);
    named(owners, |owner| pod(owner).as_deref() == Some(spec))
        .ok_or_else(|| unknown("pod", spec, owners.iter().filter_map(|(_, owner)| pod(owner))))
}

fn named(owners: &Owners, is_meant: impl Fn(&Owner) -> bool) -> Option<BTreeSet<Inum>> {
    let inums: BTreeSet<Inum> =
        owners.iter().filter(|(_, owner)| is_meant(owner)).map(|(inum, _)| inum).collect();
    (!inums.is_empty()).then_some(inums)
}

fn names_of(owner: &Owner) -> Vec<String> {
    let containers = owner.containers.iter().map(|c| c.label().to_owned());
    containers.chain(owner.pod.as_ref().map(ToString::to_string)).collect()
}

fn unknown(what: &'static str, spec: &str, names: impl Iterator<Item = String>) -> Error {
    let names: BTreeSet<String> = names.collect();
    let near = net::near(spec, names.iter().map(String::as_str));
    Error::Unknown { what, spec: spec.to_owned(), near }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::{Container, Pod};

    const ID: &str = "4c01db0b339c";

    fn owners() -> Owners {
        let container = |name: &str, id: &str| Container {
            name: Some(name.to_owned()),
            id: id.repeat(64 / id.len() + 1)[..64].to_owned(),
        };
        let pod = |name: &str| Pod { namespace: "shop".to_owned(), name: name.to_owned() };
        [
            (1, Owner { containers: [container("web", ID)].into(), ..Owner::default() }),
            (
                2,
                Owner {
                    pod: Some(pod("api")),
                    containers: [container("app", "aa"), container("log", "ab")].into(),
                    ..Owner::default()
                },
            ),
            (
                3,
                Owner {
                    pod: Some(pod("cart")),
                    containers: [container("app", "ac")].into(),
                    ..Owner::default()
                },
            ),
        ]
        .into_iter()
        .collect()
    }

    fn found() -> BTreeMap<Inum, Found> {
        let named = [(1, "httpd/812"), (2, "cni-1"), (3, "cni-2"), (4, "host")];
        named
            .into_iter()
            .map(|(inum, name)| (inum, Found { inum, name: name.to_owned(), ..Found::default() }))
            .collect()
    }

    fn resolved(spec: &str) -> Result<Inum, String> {
        resolve_among(spec, &found(), &owners()).map_err(|e| e.to_string())
    }

    #[test]
    fn names_ids_and_pods_lead_to_namespaces() {
        for (spec, inum) in [
            ("host", 4),
            ("cni-1", 2),
            ("httpd/812", 1),
            ("web", 1),
            ("4c01", 1),
            ("shop/api", 2),
            ("log", 2),
            ("acac", 3),
        ] {
            assert_eq!(resolved(spec), Ok(inum), "{spec}");
        }
    }

    #[test]
    fn what_is_not_known_or_not_clear_is_told() {
        let error = resolved("wbe").unwrap_err();
        assert!(error.starts_with("no network namespace, container or pod \"wbe\""), "{error}");
        let error = resolved("shop/apo").unwrap_err();
        assert!(error.ends_with("did you mean shop/api?"), "{error}");
        assert!(resolved("4c0").is_err(), "too short for an id");
        assert!(resolved("app").unwrap_err().contains("2 containers"));
    }

    #[test]
    fn a_scope_is_what_all_its_names_have_in_common() {
        let scope = |pod: Option<&str>, container: Option<&str>| Scope {
            netns: None,
            container: container.map(str::to_owned),
            pod: pod.map(str::to_owned),
        };
        let resolved = |s: Scope| s.resolve(&owners()).map_err(|e| format!("{e:#}"));
        assert_eq!(resolved(scope(None, None)), Ok(None));
        assert_eq!(resolved(scope(None, Some("app"))), Ok(Some([2, 3].into())));
        assert_eq!(resolved(scope(Some("shop/cart"), Some("app"))), Ok(Some([3].into())));
        let error = resolved(scope(Some("shop/cart"), Some("web"))).unwrap_err();
        assert!(error.contains("different network namespaces"), "{error}");
        let error = resolved(scope(Some("shop/car"), None)).unwrap_err();
        assert_eq!(error, "--pod: no pod \"shop/car\" on this node; did you mean shop/cart?");
    }
}
