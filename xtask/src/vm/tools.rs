//! The tools layer: what labs and tests call, from this machine's own files, with every library.
//!
//! It is the same for all kernels. A tool that is missing fails the build: a guest must not find
//! out by a test that fails for another reason than its own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::fresh_dir;
use super::cpio::Cpio;
use super::host::Host;
use super::store::Store;
use crate::sh;

/// Programs, by what they are for.
const TOOLS: &[&str] = &[
    // devices, addresses, namespaces
    "ip",
    "tc",
    "bridge",
    "ss",
    "ethtool",
    "nsenter",
    "unshare",
    "sysctl",
    "ipvsadm",
    "wg",
    // rules
    "nft",
    "ipset",
    "conntrack",
    "iptables",
    "iptables-save",
    "iptables-restore",
    "iptables-nft",
    "iptables-nft-save",
    "iptables-nft-restore",
    "iptables-legacy",
    "iptables-legacy-save",
    "iptables-legacy-restore",
    "ip6tables",
    "ip6tables-save",
    "ip6tables-restore",
    "ip6tables-nft",
    "ip6tables-nft-save",
    "ip6tables-nft-restore",
    "ip6tables-legacy",
    "ip6tables-legacy-save",
    "ip6tables-legacy-restore",
    "ebtables-nft",
    "arptables-nft",
    // traffic
    "ping",
    "curl",
    "getent",
    "tcpdump",
    "bpftool",
    // shell
    "bash",
    "sh",
    "awk",
    "basename",
    "cat",
    "chmod",
    "chown",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "dirname",
    "dmesg",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "grep",
    "head",
    "hostname",
    "id",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mktemp",
    "mount",
    "mountpoint",
    "mv",
    "nice",
    "nproc",
    "od",
    "pgrep",
    "pidof",
    "pkill",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "setpriv",
    "setsid",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "tail",
    "tar",
    "tee",
    "test",
    "timeout",
    "touch",
    "tr",
    "true",
    "umount",
    "uname",
    "uniq",
    "wc",
    "xargs",
];

/// Programs that kmod is under other names.
const KMOD: &[&str] = &["depmod", "insmod", "lsmod", "modinfo", "modprobe", "rmmod"];

/// What programs open by themselves; left out where the machine has none.
const DIRECTORIES: &[&str] =
    &["/usr/lib/x86_64-linux-gnu/xtables", "/usr/lib/tc", "/etc/iproute2", "/usr/share/iproute2"];

/// Names of protocols and ports, where the machine has them.
const FILES: &[&str] = &["/etc/protocols", "/etc/services", "/etc/ethertypes"];

/// Every layer uses these: the kernel cannot replace a directory of one by a link of another.
const MERGED: &[(&str, &str)] =
    &[("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64"), ("sbin", "usr/sbin")];

const TEXTS: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0::/root:/bin/bash\ntcpdump:x:72:72::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\ntcpdump:x:72:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost vm\n::1 localhost\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n"),
    // `ip netns exec` mounts a namespace's own over it.
    ("etc/resolv.conf", ""),
];

/// A file or link of the layer, by its path in the guest.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Item {
    File(PathBuf),
    Link(String),
}

/// Builds the layer unless none of its files changed, and returns its path. It has the libraries
/// of `guests` too, the programs that a run brings along.
///
/// # Errors
///
/// When a tool or a library is missing.
pub(super) fn layer<'a>(
    store: &Store,
    host: &Host,
    guests: impl Iterator<Item = &'a Path>,
) -> Result<PathBuf> {
    let part = store.part("tools");
    let layer = part.file("tools.cpio");
    let items = Items::collect(host, guests)?;
    let stamp = store.stamp(&[], &items.recipe()?);
    if !part.is_fresh(&stamp) {
        sh::step(format!("the guests' tools: {} files", items.all.len()));
        fresh_dir(&part.dir)?;
        items.write(&layer)?;
        part.done(&stamp, &[])?;
    }
    Ok(layer)
}

struct Items<'a> {
    host: &'a Host,
    all: BTreeMap<String, Item>,
}

impl<'a> Items<'a> {
    fn collect<'b>(host: &'a Host, guests: impl Iterator<Item = &'b Path>) -> Result<Self> {
        let mut items = Self { host, all: BTreeMap::new() };
        let mut programs =
            vec![items.program("kmod", "kmod")?, items.program("busybox", "busybox")?];
        for tool in TOOLS {
            programs.push(items.program(tool, tool)?);
        }
        for name in KMOD {
            items.all.insert(format!("usr/sbin/{name}"), Item::Link("/usr/bin/kmod".to_owned()));
        }
        for dir in DIRECTORIES.iter().map(Path::new).filter(|dir| dir.is_dir()) {
            programs.extend(items.directory(dir)?);
        }
        for file in FILES.iter().map(Path::new).filter(|file| file.is_file()) {
            items.file(file)?;
        }
        programs.extend(guests.map(Path::to_path_buf));
        programs.sort();
        programs.dedup();
        items.libraries(&programs)?;
        Ok(items)
    }

    /// A program under its own name; where it is a link, the name decides what it does.
    fn program(&mut self, name: &str, at: &str) -> Result<PathBuf> {
        let found = self.host.program(name)?;
        let real = self.file(&found)?;
        // Wherever the machine has it, the guest finds it in its PATH.
        let place = format!("usr/bin/{at}");
        let target = format!("/{}", self.place(&real)?);
        if target.trim_start_matches('/') != place {
            self.all.insert(place, Item::Link(target));
        }
        Ok(real)
    }

    /// A file of this machine, and the link that leads to it; returns the file itself.
    fn file(&mut self, path: &Path) -> Result<PathBuf> {
        let real = fs::canonicalize(path).with_context(|| format!("no {}", path.display()))?;
        let place = self.place(&real)?;
        if path.is_symlink() {
            let link = self.place(path)?;
            if link != place {
                self.all.insert(link, Item::Link(format!("/{place}")));
            }
        }
        self.all.insert(place, Item::File(real.clone()));
        Ok(real)
    }

    /// All files below a directory; returns those that may need libraries.
    fn directory(&mut self, dir: &Path) -> Result<Vec<PathBuf>> {
        let mut objects = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                objects.extend(self.directory(&path)?);
            } else {
                let real = self.file(&path)?;
                objects.extend(path.extension().is_some_and(|ext| ext == "so").then_some(real));
            }
        }
        Ok(objects)
    }

    /// Where a file lies in the guest: as here, what was unpacked as if it were installed.
    fn place(&self, path: &Path) -> Result<String> {
        let dir = path.parent().context("not a file")?;
        let dir = fs::canonicalize(dir).with_context(|| format!("no {}", dir.display()))?;
        let tree = fs::canonicalize(self.host.tree())?;
        let path = dir.join(path.file_name().context("not a file")?);
        let path = path.strip_prefix(tree).or_else(|_| path.strip_prefix("/"))?;
        let path = path.to_string_lossy();
        let is_merged = MERGED.iter().any(|(top, _)| path.starts_with(&format!("{top}/")));
        Ok(if is_merged { format!("usr/{path}") } else { path.into_owned() })
    }

    fn libraries(&mut self, programs: &[PathBuf]) -> Result<()> {
        let mut ldd = Command::new("ldd");
        ldd.env("LD_LIBRARY_PATH", self.host.libraries());
        // It fails on a static program, and goes on with the others.
        let out = ldd.args(programs).output().context("cannot start ldd")?;
        for line in String::from_utf8_lossy(&out.stdout).lines() {
            if line.contains("=> not found") {
                anyhow::bail!("a guest's tool lacks a library:{line}");
            }
            if let Some(path) = library(line) {
                self.file(Path::new(path))?;
            }
        }
        Ok(())
    }

    /// Changes when a file does.
    fn recipe(&self) -> Result<String> {
        let mut recipe = String::new();
        for (place, item) in &self.all {
            recipe += &match item {
                Item::Link(target) => format!("{place} > {target}\n"),
                Item::File(path) => {
                    let meta = fs::metadata(path)?;
                    format!("{place} {} {}\n", meta.len(), meta.mtime())
                }
            };
        }
        Ok(recipe + &format!("{TEXTS:?}"))
    }

    fn write(&self, to: &Path) -> Result<()> {
        let mut cpio = Cpio::create(to)?;
        for (link, target) in MERGED {
            cpio.directory(target)?;
            cpio.link(link, target)?;
        }
        for (place, text) in TEXTS {
            cpio.file(place, 0o644, text.as_bytes())?;
        }
        for (place, item) in &self.all {
            match item {
                Item::Link(target) => cpio.link(place, target)?,
                Item::File(path) => cpio.copy(place, path)?,
            }
        }
        cpio.finish().map(|_| ())
    }
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, and the loader's line without an arrow.
fn library(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with('/') && !word.ends_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found() {
        assert_eq!(library("\tlibc.so.6 => /lib/libc.so.6 (0x1)"), Some("/lib/libc.so.6"));
        assert_eq!(
            library("\t/lib64/ld-linux-x86-64.so.2 (0x1)"),
            Some("/lib64/ld-linux-x86-64.so.2")
        );
        assert_eq!(library("/usr/bin/ip:"), None);
        assert_eq!(library("\tlinux-vdso.so.1 (0x1)"), None);
    }
}
