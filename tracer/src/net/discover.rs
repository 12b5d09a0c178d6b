//! Which network namespaces exist: those with a file (`ip netns`, CNI, Docker) and those that a
//! process lives in.
//!
//! Opens no namespace, so that looking never keeps one alive: `stat` and `readlink` only.
//! A thread that has left its process's namespace is not looked for; neither is a namespace that
//! only an open file descriptor or another mount namespace keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{Error, vanished};
use super::setns::inum_of;
use super::state::Inum;

/// Where files are bind-mounted onto namespaces. The second half is the first on all but the
/// oldest systems, where `/var/run` is no link to `/run`.
pub const DIRS: [&str; 4] =
    ["/run/netns", "/run/docker/netns", "/var/run/netns", "/var/run/docker/netns"];

/// Name of the node's own network namespace.
pub const HOST: &str = "host";

/// A network namespace that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Inode number.
    pub inum: Inum,
    /// As in [`Netns::name`](super::Netns::name).
    pub name: String,
    /// A file that `setns(2)` accepts.
    pub path: PathBuf,
    /// A file is mounted on it: it lives without processes.
    pub is_mounted: bool,
    /// The processes in it, ascending.
    pub pids: Vec<u32>,
}

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// The outcome of [`scan`].
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// The namespace that pkttrace itself runs in.
    pub own: Inum,
    /// All that was found.
    pub found: BTreeMap<Inum, Found>,
    /// What could not be read.
    pub skipped: Vec<Skipped>,
}

/// The namespace that this program runs in.
///
/// # Errors
///
/// When `/proc` is not there.
pub fn own() -> Result<Inum, Error> {
    let file = "/proc/self/ns/net";
    fs::metadata(file).map(|m| inum_of(&m)).map_err(Error::io("looking at", file))
}

/// Finds all network namespaces.
///
/// # Errors
///
/// Only when `/proc` cannot be read at all; the rest goes to [`Scan::skipped`].
pub fn scan() -> Result<Scan, Error> {
    let own = own()?;
    let (files, mut skipped) = files();
    let processes = processes(&mut skipped)?;
    // The node's own namespace is that of its first process; where that must not be looked at,
    // take the one that we run in.
    let node = netns_of_pid(1).unwrap_or(own);
    let mut inums: BTreeSet<Inum> = files.keys().chain(processes.keys()).copied().collect();
    inums.insert(own);
    let mut found = BTreeMap::new();
    for inum in inums {
        let pids = processes.get(&inum).cloned().unwrap_or_default();
        let file = files.get(&inum).cloned();
        let is_mounted = file.is_some();
        let own_path = || (inum == own).then(|| PathBuf::from("/proc/self/ns/net"));
        let Some((mut name, path)) = file
            .or_else(|| by_process(&pids))
            .or_else(|| own_path().map(|path| (HOST.to_owned(), path)))
        else {
            continue; // its last process went away meanwhile
        };
        if inum == node {
            HOST.clone_into(&mut name);
        }
        let path = own_path().unwrap_or(path);
        found.insert(inum, Found { inum, name, path, is_mounted, pids });
    }
    Ok(Scan { own, found, skipped })
}

/// The namespaces that have a file: name and path of the first one each.
#[must_use]
pub fn files() -> (BTreeMap<Inum, (String, PathBuf)>, Vec<Skipped>) {
    let mut files = BTreeMap::new();
    let mut skipped = Vec::new();
    let Ok(nsfs) = fs::metadata("/proc/self/ns/net").map(|m| m.dev()) else {
        return (files, skipped); // without /proc, `scan` fails anyway
    };
    let mut seen = BTreeSet::new();
    for dir in DIRS {
        let Ok(meta) = fs::metadata(dir) else { continue };
        if !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        if let Err(error) = files_of(Path::new(dir), nsfs, &mut files, &mut skipped) {
            skipped.push(Skipped { what: dir.to_owned(), why: error.to_string() });
        }
    }
    (files, skipped)
}

fn files_of(
    dir: &Path,
    nsfs: u64,
    files: &mut BTreeMap<Inum, (String, PathBuf)>,
    skipped: &mut Vec<Skipped>,
) -> io::Result<()> {
    let mut names: Vec<_> =
        fs::read_dir(dir)?.filter_map(Result::ok).map(|e| e.file_name()).collect();
    names.sort();
    for name in names {
        let path = dir.join(&name);
        match fs::metadata(&path) {
            // Not (yet, or no longer) mounted: `ip netns add` makes the file first.
            Ok(meta) if meta.dev() != nsfs => {}
            Ok(meta) => {
                let name = printable(&name.to_string_lossy());
                files.entry(inum_of(&meta)).or_insert((name, path));
            }
            Err(error) if vanished(&error) => {}
            Err(error) => {
                skipped.push(Skipped { what: path.display().to_string(), why: error.to_string() })
            }
        }
    }
    Ok(())
}

/// The processes by namespace; those that must not be looked at become one entry of `skipped`.
fn processes(skipped: &mut Vec<Skipped>) -> Result<BTreeMap<Inum, Vec<u32>>, Error> {
    let mut by_netns: BTreeMap<Inum, Vec<u32>> = BTreeMap::new();
    let (mut denied, mut why) = (0_usize, String::new());
    for entry in fs::read_dir("/proc").map_err(Error::io("listing", "/proc"))? {
        let Some(pid) = entry.ok().and_then(|e| e.file_name().to_str()?.parse::<u32>().ok()) else {
            continue;
        };
        match fs::read_link(format!("/proc/{pid}/ns/net")) {
            Ok(link) => by_netns.entry(inum_of_link(&link).unwrap_or(0)).or_default().push(pid),
            // A zombie has no namespaces any more.
            Err(error) if vanished(&error) => {}
            Err(error) => {
                denied += 1;
                why = error.to_string();
            }
        }
    }
    by_netns.remove(&0);
    by_netns.values_mut().for_each(|pids| pids.sort_unstable());
    if denied > 0 {
        let what = match denied {
            1 => "the network namespace of 1 process".to_owned(),
            n => format!("the network namespaces of {n} processes"),
        };
        skipped.push(Skipped { what, why });
    }
    Ok(by_netns)
}

/// Name and path of a namespace without a file: those of the oldest process in it.
fn by_process(pids: &[u32]) -> Option<(String, PathBuf)> {
    pids.iter().find_map(|pid| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        let name = format!("{}/{pid}", printable(comm.trim_end()));
        Some((name, PathBuf::from(format!("/proc/{pid}/ns/net"))))
    })
}

/// The namespace that a process lives in.
pub(crate) fn netns_of_pid(pid: u32) -> Option<Inum> {
    inum_of_link(&fs::read_link(format!("/proc/{pid}/ns/net")).ok()?)
}

/// `net:[4026532001]` → 4026532001.
pub(crate) fn inum_of_link(link: &Path) -> Option<Inum> {
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Names come from files and processes that anybody may have made; they end on terminals.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_proc_are_parsed() {
        assert_eq!(inum_of_link(Path::new("net:[4026532001]")), Some(4_026_532_001));
        assert_eq!(inum_of_link(Path::new("mnt:[4026532001]")), None);
        assert_eq!(inum_of_link(Path::new("net:[]")), None);
    }

    #[test]
    fn names_hold_no_control_characters() {
        assert_eq!(printable("a\u{1b}[31mb\n"), "a?[31mb?");
    }

    #[test]
    fn own_namespace_is_always_found() {
        let scan = scan().unwrap();
        let own = &scan.found[&scan.own];
        assert_eq!(own.inum, super::own().unwrap());
        assert_eq!(own.path, Path::new("/proc/self/ns/net"));
        assert!(own.pids.contains(&std::process::id()));
    }
}
