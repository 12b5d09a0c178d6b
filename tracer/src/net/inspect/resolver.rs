//! Which `resolv.conf` and which `hosts` the programs of a namespace read.
//!
//! The file is the container's own work: see [`crate::foreign`] for how it is opened.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::foreign::{self, Root};
use crate::net::detail::{Hosts, Resolver};
use crate::net::discover;
use crate::net::state::Inum;

/// Larger than any that is of use.
const LIMIT: u64 = 64 << 10;
/// How long a file system may take. That of a container can be one that never answers.
const PATIENCE: Duration = Duration::from_millis(500);

/// The processes of all namespaces.
pub(super) type Pids = BTreeMap<Inum, Vec<u32>>;

/// Who lives where; empty when `/proc` cannot be read.
pub(super) fn pids() -> Pids {
    let found = discover::scan().map(|scan| scan.found).unwrap_or_default();
    found.into_values().map(|found| (found.inum, found.pids)).collect()
}

/// The file as a process of the namespace sees it. Containers have their own view of the file
/// system; for a namespace without one, it is what `ip netns exec` would show. `None` when there is
/// none.
///
/// # Errors
///
/// Why a file that is there cannot be read: then nobody knows what it says.
pub(super) fn read(netns_file: &Path, pids: &[u32]) -> io::Result<Option<Resolver>> {
    let found = file(netns_file, pids, "resolv.conf")?;
    Ok(found.map(|(path, text)| Resolver { path, ..parse(&text) }))
}

/// The names that are looked up there before any server is asked; `None` where that is not known,
/// or where servers are asked first.
pub(super) fn hosts(netns_file: &Path, pids: &[u32]) -> Option<Hosts> {
    let order = file(netns_file, pids, "nsswitch.conf").ok()?;
    if order.is_some_and(|(_, text)| !is_file_first(&text)) {
        return None;
    }
    let (path, text) = file(netns_file, pids, "hosts").ok()??;
    Some(Hosts { path, entries: entries(&text) })
}

/// A file of `/etc`: its path, and what it says.
fn file(netns_file: &Path, pids: &[u32], name: &str) -> io::Result<Option<(String, String)>> {
    let own_view = fs::read_link("/proc/self/ns/mnt").ok();
    let other_view = || {
        pids.iter().find(|pid| {
            let view = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
            view.is_some() && view != own_view
        })
    };
    let path = || Path::new("/etc").join(name);
    let of = |pid: u32| (PathBuf::from(format!("/proc/{pid}/root")), path());
    let ours = || (PathBuf::from("/"), path());
    let candidates = match (other_view(), named(netns_file)) {
        // The node's own: services with a view of their own see what they were given.
        _ if pids.contains(&1) => vec![of(1), ours()],
        _ if pids.contains(&std::process::id()) => vec![ours()],
        (Some(pid), _) => vec![of(*pid)],
        (None, Some(netns)) => {
            let dir = Path::new("/etc/netns").join(netns);
            vec![("/".into(), dir.join(name)), ours()]
        }
        (None, None) => vec![ours()],
    };
    for (root, file) in candidates {
        let read = foreign::at_most(PATIENCE, move || read_below(&root, &file));
        match read.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())) {
            // Its process may have gone, or have no such file.
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            read => return read.map(Some),
        }
    }
    Ok(None)
}

fn read_below(root: &Path, file: &Path) -> io::Result<(String, String)> {
    let spot = Root::open(root)?.at(file).settled()?;
    let text = spot.read(LIMIT)?.bytes;
    Ok((spot.outside().display().to_string(), String::from_utf8_lossy(&text).into_owned()))
}

/// `nsswitch.conf(5)`: the file comes before any server. So it does without such a line.
fn is_file_first(text: &str) -> bool {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut order = lines.filter_map(|line| line.trim().strip_prefix("hosts:"));
    let Some(order) = order.next() else { return true };
    let first = order.split_whitespace().find(|word| matches!(*word, "files" | "dns"));
    first == Some("files") || order.contains("resolve")
}

/// `hosts(5)`: an address, and its names.
fn entries(text: &str) -> Vec<(IpAddr, Vec<String>)> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let addr = words.next()?.parse().ok()?;
            Some((addr, words.map(str::to_lowercase).collect()))
        })
        .collect()
}

/// The name that `ip netns` knows it by.
fn named(netns_file: &Path) -> Option<&std::ffi::OsStr> {
    let dir = netns_file.parent()?;
    ["/run/netns", "/var/run/netns"].iter().any(|d| dir == Path::new(d)).then_some(())?;
    netns_file.file_name()
}

/// `resolv.conf(5)`; the last `search` or `domain` counts.
pub(super) fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver { ndots: 1, ..Resolver::default() };
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                // A zone (`fe80::1%eth0`) is not kept.
                let server = words.next().map(|word| word.split('%').next().unwrap_or(word));
                let server = server.and_then(|word| word.parse::<IpAddr>().ok());
                resolver.nameservers.extend(server);
            }
            Some("search" | "domain") => resolver.search = words.map(str::to_owned).collect(),
            Some("options") => {
                for word in words {
                    resolver.rotates |= word == "rotate";
                    let ndots = word.strip_prefix("ndots:").and_then(|n| n.parse::<u8>().ok());
                    // The library takes no more than 15.
                    resolver.ndots = ndots.map_or(resolver.ndots, |n| n.min(15));
                }
            }
            _ => {}
        }
    }
    resolver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_file_is_parsed() {
        let resolver = parse(
            "# made by kubelet\nsearch shop.svc.cluster.local svc.cluster.local\n\
             nameserver 10.96.0.10\nnameserver fe80::1%eth0\noptions ndots:5 timeout:2\n",
        );
        assert_eq!(resolver.nameservers.len(), 2);
        assert_eq!(resolver.nameservers[0], "10.96.0.10".parse::<IpAddr>().unwrap());
        assert_eq!(resolver.search, ["shop.svc.cluster.local", "svc.cluster.local"]);
        assert_eq!(resolver.ndots, 5);
        assert_eq!(parse("").ndots, 1);
    }

    #[test]
    fn the_order_says_whether_the_file_comes_first() {
        let usual = "passwd: files\nhosts:  files mdns4_minimal [NOTFOUND=return] dns # mine\n";
        assert!(is_file_first(usual) && is_file_first("") && is_file_first("hosts: resolve dns"));
        assert!(!is_file_first("hosts: dns files") && !is_file_first("hosts:\tdns # files\n"));
    }

    #[test]
    fn of_a_name_with_several_addresses_ipv4_comes_first() {
        let text =
            "127.0.0.1 localhost # mine\n#10.0.0.1 old\nfd00::2 DB db2\n10.0.0.2\tdb\n\nbad line\n";
        let hosts = Hosts { path: String::new(), entries: entries(text) };
        assert_eq!(hosts.entries.len(), 3);
        assert_eq!(hosts.address("Db"), Some([10, 0, 0, 2].into()));
        assert_eq!(hosts.address("db2."), Some("fd00::2".parse().unwrap()));
        assert_eq!(hosts.address("old"), None);
    }

    #[test]
    fn the_path_is_that_of_the_file_itself() {
        let root = std::env::temp_dir().join(format!("pkttrace-resolver-{}", std::process::id()));
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("run")).unwrap();
        fs::write(root.join("run/stub"), "nameserver 127.0.0.53\n").unwrap();
        std::os::unix::fs::symlink("/run/stub", root.join("etc/resolv.conf")).unwrap();
        let read = read_below(&root, Path::new("/etc/resolv.conf"));
        fs::remove_dir_all(&root).unwrap();
        let (path, text) = read.unwrap();
        assert_eq!(path, root.join("run/stub").display().to_string());
        assert_eq!(text, "nameserver 127.0.0.53\n");
    }
}
