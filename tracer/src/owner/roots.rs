//! Where to look: the places that runtimes use by default, and those that the ones that run were
//! told to use.
//!
//! Anybody can call a process as a runtime is called, so a name proves nothing. The node's own
//! runtimes share the root of its first process (or ours), where only the node's root can have
//! put what is read. A runtime in a container that plays a node (kind, Docker in Docker) has a root
//! and process numbers of its own: it is read through `/proc/PID/root`, and believed about what
//! lives inside that container, and about nothing else.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::docker;
use super::pidns::{self, PidNs};
use crate::foreign::{Root, Spot};
use crate::net::Inum;
use crate::net::discover::netns_of_pid;

/// Directories, as the runtimes see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// Docker's data roots.
    pub docker: Vec<PathBuf>,
    /// Docker's configuration files, for other data roots.
    pub docker_config: Vec<PathBuf>,
    /// containerd's directories of tasks.
    pub containerd: Vec<PathBuf>,
    /// Roots of containers/storage (Podman, CRI-O); a `*` stands for each entry.
    pub storage: Vec<PathBuf>,
    /// Run roots of containers/storage.
    pub storage_runs: Vec<PathBuf>,
    /// libcni's caches.
    pub cni: Vec<PathBuf>,
}

impl Default for Roots {
    fn default() -> Self {
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect();
        Self {
            docker: paths(&["/var/lib/docker", "/var/snap/docker/common/var-lib-docker"]),
            docker_config: paths(&["/etc/docker/daemon.json"]),
            containerd: paths(&[
                "/run/containerd/io.containerd.runtime.v2.task",
                "/run/k3s/containerd/io.containerd.runtime.v2.task",
                "/var/snap/microk8s/common/run/containerd/io.containerd.runtime.v2.task",
            ]),
            storage: paths(&[
                "/var/lib/containers/storage",
                "/root/.local/share/containers/storage",
                "/home/*/.local/share/containers/storage",
            ]),
            storage_runs: paths(&["/run/containers/storage"]),
            cni: paths(&["/var/lib/cni/results", "/var/lib/cni/cache/results"]),
        }
    }
}

#[cfg(test)]
impl Roots {
    /// The same places below a directory.
    pub(super) fn below(self, base: &Path) -> Self {
        let below = |paths: Vec<PathBuf>| {
            paths.iter().map(|p| base.join(p.strip_prefix("/").unwrap())).collect()
        };
        Self {
            docker: below(self.docker),
            docker_config: below(self.docker_config),
            containerd: below(self.containerd),
            storage: below(self.storage),
            storage_runs: below(self.storage_runs),
            cni: below(self.cni),
        }
    }
}

/// The node as one runtime sees it.
#[derive(Clone, Debug)]
pub struct View {
    /// What is `/` to it.
    pub root: Root,
    /// The network namespace that is the node's own to it: nobody's in particular.
    pub own: Option<Inum>,
    /// The processes that it is believed about: those of this namespace and of those below;
    /// all without one. With one, process numbers mean something else than to us.
    pub within: Option<PidNs>,
    /// The user whose files are believed about all of those.
    pub trusted: u32,
    /// Where its files are.
    pub roots: Roots,
}

impl View {
    /// The node as one with this root sees it.
    fn of_node(base: &Path) -> Option<Self> {
        let root = Root::open(base).ok()?;
        let (own, roots) = (netns_of_pid(1), Roots::default());
        Some(Self { root, own, within: None, trusted: 0, roots })
    }

    /// Ours first, then the first process's, if we are in a container beside it, then those of
    /// the runtimes among these processes that see another or keep their files elsewhere.
    pub(super) fn all(pids: impl Iterator<Item = u32>) -> Vec<Self> {
        let is_beside = place_of("1").is_some_and(|first| Some(first) != place_of("self"));
        let beside = is_beside.then(|| Self::of_node(Path::new("/proc/1/root"))).flatten();
        let mut views: Vec<_> = Self::of_node(Path::new("/")).into_iter().chain(beside).collect();
        let mut seen = Vec::new();
        for (key, view) in pids.filter_map(Self::of_process) {
            if !seen.contains(&key) {
                seen.push(key);
                views.push(view);
            }
        }
        views
    }

    /// What a process sees that is called as a runtime is, and what tells one view from another.
    fn of_process(pid: u32) -> Option<(Key, Self)> {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        let comm = comm.trim_end();
        if !matches!(comm, "dockerd" | "containerd" | "crio" | "k3s-server" | "k3s-agent") {
            return None;
        }
        let who = pid.to_string();
        let same = |kind: &str| namespace(&who, kind) == namespace("self", kind);
        if !is_root(pid) || !same("user") {
            return None;
        }
        let place = place_of(&who)?;
        let of_node =
            ["self", "1"].into_iter().find(|node| place_of(node).as_ref() == Some(&place));
        let within = match of_node {
            Some(_) => None,
            // With our process numbers and another root it could be in any container.
            None if same("pid") => return None,
            None => Some(pidns::of(pid)?),
        };
        let mut roots = Roots::default();
        let mut is_told = false;
        if comm == "dockerd" {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let options = Options::of(&line);
            // `--graph` and `-g` are its names of old.
            let names = ["--data-root", "--graph", "-g"];
            if let Some(path) = names.iter().find_map(|name| options.value(name)) {
                roots.docker = vec![path];
                is_told = true;
            }
            if let Some(path) = options.value("--config-file") {
                roots.docker_config.insert(0, path);
                is_told = true;
            }
        }
        if of_node.is_some() && !is_told {
            return None;
        }
        let root = Root::open(Path::new(&format!("/proc/{pid}/root"))).ok()?;
        let own = netns_of_pid(pid);
        let key = (place, roots.clone());
        Some((key, Self { root, own, within, trusted: 0, roots }))
    }

    /// Docker's data roots, with those that its configuration files name.
    pub(super) fn docker(&self) -> Vec<PathBuf> {
        let files = self.roots.docker_config.iter().map(|path| self.root.at(path));
        let told = files.filter_map(|spot| docker::data_root(&spot));
        told.chain(self.roots.docker.clone()).collect()
    }

    /// These directories, from here; a part `*` stands for all that is there.
    pub(super) fn dirs(&self, paths: &[PathBuf]) -> Vec<Spot> {
        paths.iter().flat_map(|path| expand(&self.root, path)).collect()
    }
}

/// A mount namespace and the root directory in it.
type Place = (PathBuf, u64, u64);
/// What tells one view from another.
type Key = (Place, Roots);

/// Where a process (`PID`, `self`) is, among the file systems.
fn place_of(process: &str) -> Option<Place> {
    let root = fs::metadata(format!("/proc/{process}/root/")).ok()?;
    Some((namespace(process, "mnt")?, root.dev(), root.ino()))
}

fn namespace(process: &str, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/{kind}")).ok()
}

/// Whether a process is root's, whichever way one asks. The owner of `/proc/PID` tells nothing:
/// that is root for every process that must not be dumped.
fn is_root(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.is_some_and(|uids| uids.split_whitespace().all(|uid| uid == "0"))
}

fn expand(root: &Root, path: &Path) -> Vec<Spot> {
    let mut found = vec![root.at("/")];
    for part in path {
        found = match part.to_str() {
            Some("*") => found.iter().flat_map(Spot::entries).collect(),
            _ => found.into_iter().map(|dir| dir.join(part)).collect(),
        };
    }
    found
}

/// A command line, as `/proc/PID/cmdline` has it.
struct Options<'a>(Vec<&'a str>);

impl<'a> Options<'a> {
    fn of(line: &'a [u8]) -> Self {
        let words = line.split(|b| *b == 0);
        Self(words.map(|word| std::str::from_utf8(word).unwrap_or_default()).collect())
    }

    /// `--name VALUE` or `--name=VALUE`.
    fn value(&self, name: &str) -> Option<PathBuf> {
        self.0.iter().enumerate().find_map(|(n, word)| match word.strip_prefix(name)? {
            "" => self.0.get(n + 1).map(PathBuf::from),
            rest => rest.strip_prefix('=').map(PathBuf::from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_values_in_two_ways() {
        let options = Options::of(b"dockerd\0--data-root\0/a\0--config-file=/b\0");
        assert_eq!(options.value("--data-root"), Some("/a".into()));
        assert_eq!(options.value("--config-file"), Some("/b".into()));
        assert_eq!(options.value("--exec-root"), None);
    }

    #[test]
    fn a_star_stands_for_each_entry() {
        let root = Root::open(Path::new("/")).unwrap();
        let paths = |path: &str| -> Vec<PathBuf> {
            expand(&root, Path::new(path)).iter().map(|spot| spot.path().to_owned()).collect()
        };
        assert!(paths("/proc/*/fd").contains(&"/proc/self/fd".into()));
        assert_eq!(paths("/nowhere/*/x"), Vec::<PathBuf>::new());
        assert_eq!(paths("/a/b"), [PathBuf::from("/a/b")]);
    }

    #[test]
    fn a_process_is_roots_if_all_its_users_are() {
        // SAFETY: takes nothing, cannot fail.
        let is_root_here = unsafe { libc::geteuid() } == 0;
        assert_eq!(is_root(std::process::id()), is_root_here);
        assert!(!is_root(u32::MAX));
    }
}
