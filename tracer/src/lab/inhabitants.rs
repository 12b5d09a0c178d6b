//! Who still runs inside a lab's namespaces: a namespace whose name is removed lives on until its
//! last process has ended, with all its devices.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Prefix;

/// A process inside a namespace of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inhabitant {
    pub pid: i32,
    pub name: String,
    pub netns: String,
}

/// The processes in the namespaces of these hosts.
pub(crate) fn of(prefix: &Prefix, hosts: &[String]) -> Vec<Inhabitant> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let namespaces: Vec<_> = hosts
        .iter()
        .filter_map(|host| Some((identity(&prefix.netns_path(host))?, prefix.netns(host))))
        .collect();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let inhabitant = |dir: &Path| {
        let pid = dir.file_name()?.to_str()?.parse().ok()?;
        let own = identity(&dir.join("ns/net"))?;
        let (_, netns) = namespaces.iter().find(|(identity, _)| *identity == own)?;
        let name = fs::read_to_string(dir.join("comm")).ok()?.trim_end().to_owned();
        Some(Inhabitant { pid, name, netns: netns.clone() })
    };
    processes.filter_map(|entry| inhabitant(&entry.ok()?.path())).collect()
}
