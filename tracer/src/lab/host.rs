//! One host of a lab that is up: its sysctls, its firewall rules, commands run inside it, its
//! `resolv.conf`. Devices and routes are [`super::netlink`]'s.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::prefix::ETC_NETNS_DIR;
use super::topology::{Resolver, Sysctl};
use super::{Backend, Error, LOCK_WAIT, Prefix};
use crate::net::setns;

/// The first line of every file written below `/etc/netns`. `/etc` outlives a reboot and `/run`
/// does not: this tells a leftover of ours from a file that somebody needs.
const MARK: &str = "# made by pkttrace lab";

/// A host, by its prefix and name.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    pub prefix: &'a Prefix,
    pub name: &'a str,
}

impl Host<'_> {
    /// Sets sysctls, all on one thread inside the namespace: `/proc/sys/net` is that of the
    /// namespace of the thread that opens it.
    ///
    /// # Errors
    ///
    /// The first that cannot be set.
    pub fn set_sysctls(&self, sysctls: &[Sysctl]) -> Result<(), Error> {
        let mut failed = None;
        let entered = setns::run_in_path(&self.prefix.netns_path(self.name), || {
            for sysctl in sysctls {
                if let Err(e) = fs::write(sysctl_path(sysctl.key), sysctl.value) {
                    failed = Some(sysctl);
                    return Err(e);
                }
            }
            Ok(())
        });
        entered.map_err(|e| {
            let what = failed.map_or_else(
                || "enter the namespace".to_owned(),
                |sysctl| format!("set {} = {}", sysctl.key, sysctl.value),
            );
            Error::netns(self.prefix.netns(self.name), what)(e)
        })
    }

    /// Runs a command inside the namespace with `input` on its stdin, to its end.
    ///
    /// # Errors
    ///
    /// That it cannot be run, or what it wrote to stderr when it fails.
    pub fn run(&self, program: &str, args: &[&str], input: &str) -> Result<(), Error> {
        let command = || [&[program], args].concat().join(" ");
        let path = find_program(program).unwrap_or_else(|| PathBuf::from(program));
        // A child is born in the namespace of the thread that makes it.
        let output = setns::run_in_path(&self.prefix.netns_path(self.name), || {
            let mut child = Command::new(&path)
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                match stdin.write_all(input.as_bytes()) {
                    // It ended early; its exit code and stderr say why.
                    Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
                    other => other?,
                }
            }
            child.wait_with_output()
        })
        .map_err(Error::netns(self.prefix.netns(self.name), format!("run `{}`", command())))?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stderr = stderr.lines().map(str::trim).filter(|line| !line.is_empty());
        let stderr = stderr.collect::<Vec<_>>().join("; ");
        let why = if stderr.is_empty() { output.status.to_string() } else { stderr };
        Err(Error::Command { netns: self.prefix.netns(self.name), command: command(), why })
    }

    /// Adds rules in the format of `iptables-save`, leaving those of other chains alone.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn restore_rules(&self, backend: Backend, text: &str) -> Result<(), Error> {
        self.run(&backend.restore_program(), &["-w", LOCK_WAIT, "--noflush"], text)
    }

    /// Writes the host's own `/etc/resolv.conf`.
    ///
    /// # Errors
    ///
    /// That it cannot be written.
    pub fn write_resolver(&self, resolver: &Resolver) -> Result<(), Error> {
        let dir = self.prefix.etc_dir(self.name);
        while let Err(e) = fs::create_dir_all(&dir) {
            // Another lab's `down` has just found the parent empty and removed it.
            if e.kind() != ErrorKind::NotFound {
                return Err(Error::io("make", dir)(e));
            }
        }
        let Resolver { nameserver, search, .. } = resolver;
        let text = format!(
            "{MARK}\nnameserver {nameserver}\nsearch {search}\noptions ndots:5 timeout:1 attempts:1\n"
        );
        let path = dir.join("resolv.conf");
        fs::write(&path, text).map_err(Error::io("write", path))
    }

    /// What is in the way of making this host and is not ours to remove.
    pub(crate) fn foreign_path(&self) -> Option<PathBuf> {
        let netns = self.prefix.netns_path(self.name);
        if netns.exists() {
            return Some(netns);
        }
        let etc = self.prefix.etc_dir(self.name);
        let entries = fs::read_dir(&etc).ok()?;
        entries.flatten().map(|entry| entry.path()).find(|path| !is_marked(path))
    }

    /// Removes the host's own files in `/etc`, whoever changed or added some since it was made.
    pub(crate) fn remove_etc(&self) -> Result<(), Error> {
        let dir = self.prefix.etc_dir(self.name);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", dir)(e)),
            _ => {
                // Only if this was the last host's, ours or not.
                let _ = fs::remove_dir(ETC_NETNS_DIR);
                Ok(())
            }
        }
    }

    /// Removes them where only the mark tells that they are ours, from before a reboot.
    pub(crate) fn remove_etc_leftover(&self) -> Result<(), Error> {
        let is_ours = is_marked(&self.prefix.etc_dir(self.name).join("resolv.conf"));
        if is_ours && self.foreign_path().is_none() { self.remove_etc() } else { Ok(()) }
    }
}

/// Where a program is. Root's PATH may lack the `sbin` directories, where iptables lives.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut dirs = std::env::split_paths(&path).chain(sbin);
    dirs.find_map(|dir| Some(dir.join(program)).filter(|path| path.is_file()))
}

fn is_marked(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.starts_with(MARK))
}

/// Where a sysctl lives. As in `sysctl(8)`, a key with slashes may hold dots (`cali1.100`).
pub(crate) fn sysctl_path(key: &str) -> PathBuf {
    let key = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    Path::new("/proc/sys").join(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_keys_take_dots_or_slashes() {
        let dots = sysctl_path("net.ipv4.ip_forward");
        assert_eq!(dots.to_str(), Some("/proc/sys/net/ipv4/ip_forward"));
        let slashes = sysctl_path("net/ipv4/conf/flannel.1/rp_filter");
        assert_eq!(slashes.to_str(), Some("/proc/sys/net/ipv4/conf/flannel.1/rp_filter"));
    }
}
