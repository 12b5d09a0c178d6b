//! Whose a network namespace is: a pod's, a container's, or a plain process's.
//!
//! Everything is read from what the runtimes leave on the node (cgroup paths, container
//! configurations, OCI bundles, libcni's cache), so no API server and no runtime socket is asked.
//! It happens beside the trace, never on the way of an event. Names are whatever their makers
//! wrote; renderers escape them.

mod cgroup;
mod claims;
mod cni;
mod docker;
mod file;
#[cfg(test)]
pub(crate) mod fuzz;
mod keep;
mod oci;
mod pidns;
mod resolve;
mod roots;
mod scan;
pub mod service;
mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use keep::{Keeper, scan_beside, scan_in_time};
pub use pidns::PidNs;
pub use resolve::{Error, Scope, resolve, resolve_among};
pub use roots::{Roots, View};
pub use scan::scan;

use crate::net::Inum;
use crate::report;

/// The owners of the node's namespaces, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    by_netns: BTreeMap<Inum, Owner>,
    doubts: Vec<String>,
}

/// Whose a network namespace is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Who made it.
    pub runtime: Option<Runtime>,
    /// The Kubernetes pod.
    pub pod: Option<Pod>,
    /// The containers in it, without a pod's pause container.
    pub containers: BTreeSet<Container>,
    /// Its oldest process.
    pub process: Option<Process>,
}

/// A Kubernetes pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container {
    /// Name, where one is known.
    pub name: Option<String>,
    /// The runtime's id, 64 hexadecimal digits.
    pub id: String,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its name, as in `/proc/PID/comm`.
    pub comm: String,
    /// Process id.
    pub pid: u32,
}

/// What runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Runtime {
    /// Docker Engine.
    Docker,
    /// Podman.
    Podman,
    /// containerd, by itself or for the kubelet.
    Containerd,
    /// CRI-O.
    Crio,
}

impl Owners {
    /// The owner of a namespace.
    #[must_use]
    pub fn get(&self, netns: Inum) -> Option<&Owner> {
        self.by_netns.get(&netns)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Inum, &Owner)> {
        self.by_netns.iter().map(|(inum, owner)| (*inum, owner))
    }

    /// What keeps names from being known or believed, each in a sentence.
    #[must_use]
    pub fn doubts(&self) -> &[String] {
        &self.doubts
    }

    /// With something else to say of them.
    fn doubting(mut self, what: String) -> Self {
        self.doubts.push(what);
        self
    }

    /// What reports say of them: pods and containers.
    #[must_use]
    pub fn report(&self) -> BTreeMap<Inum, report::Owner> {
        let named = self.by_netns.iter().map(|(inum, owner)| (*inum, report::Owner::from(owner)));
        named.filter(|(_, owner)| *owner != report::Owner::default()).collect()
    }
}

impl FromIterator<(Inum, Owner)> for Owners {
    fn from_iter<T: IntoIterator<Item = (Inum, Owner)>>(owners: T) -> Self {
        Self { by_netns: owners.into_iter().collect(), doubts: Vec::new() }
    }
}

impl Owner {
    /// The container, if there is exactly one.
    #[must_use]
    pub fn container(&self) -> Option<&Container> {
        self.containers.first().filter(|_| self.containers.len() == 1)
    }
}

impl Container {
    /// Its name, or the twelve digits by which people know a nameless one.
    #[must_use]
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.id.get(..12).unwrap_or(&self.id))
    }

    /// Whether `spec` is its name, or its id or the beginning of that (four digits or more).
    #[must_use]
    pub fn is_called(&self, spec: &str) -> bool {
        self.name.as_deref() == Some(spec) || spec.len() >= 4 && self.id.starts_with(spec)
    }
}

impl From<&Owner> for report::Owner {
    fn from(owner: &Owner) -> Self {
        let container = match owner.containers.len() {
            // Several containers share a pod's namespace, and the pod is its name; where there is
            // no pod, the first one lent it to the others.
            0 => None,
            1 => owner.container(),
            _ => owner.containers.first().filter(|_| owner.pod.is_none()),
        };
        Self {
            pod: owner.pod.as_ref().map(ToString::to_string),
            container: container.map(|c| c.label().to_owned()),
            process: None,
        }
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::Crio => "cri-o",
        })
    }
}
