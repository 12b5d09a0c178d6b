//! Where to look: the places that runtimes use by default, and those that the ones that run were
//! told to use.
//!
//! A runtime may live in a mount namespace of its own: in a snap, or in a container that plays a
//! node (kind, Docker in Docker). What such a one wrote is read through `/proc/PID/root`; only root
//! of the node's own user namespace is believed to be a runtime, since anybody can call a process
//! so and mount what never answers.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{docker, file};
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

/// The node as one runtime sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// What is `/` to it.
    pub base: PathBuf,
    /// The network namespace that is the node's own to it: nobody's in particular.
    pub own: Option<Inum>,
    /// Process numbers mean the same to it as to us.
    pub shares_pids: bool,
    /// Where its files are.
    pub roots: Roots,
}

impl View {
    /// The node as it is to us.
    #[must_use]
    pub fn ours() -> Self {
        Self {
            base: PathBuf::from("/"),
            own: netns_of_pid(1),
            shares_pids: true,
            roots: Roots::default(),
        }
    }

    /// Ours first, then those of the runtimes among these processes that see another.
    pub(super) fn all(pids: impl Iterator<Item = u32>) -> Vec<Self> {
        let mut views = vec![Self::ours()];
        for view in pids.filter_map(Self::of_process) {
            if !views.contains(&view) {
                views.push(view);
            }
        }
        views
    }

    fn of_process(pid: u32) -> Option<Self> {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        let comm = comm.trim_end();
        if !matches!(comm, "dockerd" | "containerd" | "crio" | "k3s-server" | "k3s-agent") {
            return None;
        }
        let same = |kind: &str| {
            let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/{kind}")).ok();
            of("self") == of(&pid.to_string())
        };
        if fs::metadata(format!("/proc/{pid}")).ok()?.uid() != 0 || !same("user") {
            return None;
        }
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
        let is_elsewhere = !same("mnt");
        (is_told || is_elsewhere).then(|| Self {
            base: match is_elsewhere {
                true => PathBuf::from(format!("/proc/{pid}/root")),
                false => PathBuf::from("/"),
            },
            own: netns_of_pid(pid),
            shares_pids: same("pid"),
            roots,
        })
    }

    /// Docker's data roots, with those that its configuration files name.
    pub(super) fn docker(&self) -> Vec<PathBuf> {
        let files = self.roots.docker_config.iter().map(|path| file::below(&self.base, path));
        let told = files.filter_map(|path| docker::data_root(&path));
        told.chain(self.roots.docker.clone()).map(|root| file::below(&self.base, &root)).collect()
    }

    /// These directories, from here; a part `*` stands for all that is there.
    pub(super) fn dirs(&self, paths: &[PathBuf]) -> Vec<PathBuf> {
        paths.iter().flat_map(|path| expand(&file::below(&self.base, path))).collect()
    }
}

fn expand(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in path {
        found = match part.to_str() {
            Some("*") => found.iter().flat_map(|dir| file::entries(dir)).collect(),
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
        assert!(expand(Path::new("/proc/*/fd")).contains(&"/proc/self/fd".into()));
        assert_eq!(expand(Path::new("/nowhere/*/x")), Vec::<PathBuf>::new());
        assert_eq!(expand(Path::new("/a/b")), [PathBuf::from("/a/b")]);
    }
}
