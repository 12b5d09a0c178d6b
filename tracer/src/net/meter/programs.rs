//! Programs that see packets besides those who hold their sockets: captures, and what lies behind
//! tunnel devices; and how many files a program may open.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Processes;

/// By the device's name: process id and command name of those that hold it open. Devices of several
/// namespaces may share a name.
pub type Tunnels = BTreeMap<String, Vec<(u32, String)>>;

/// Packet sockets that take all packets of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taps {
    /// How many.
    pub count: usize,
    /// One of those who hold them.
    pub process: Option<(u32, String)>,
}

/// Files of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// How many it has open, of those that count: inherited ones may have higher numbers.
    pub open: u64,
    /// How many it may have open (`RLIMIT_NOFILE`).
    pub most: u64,
}

/// Those of a process; `None` when it is gone, or must not be looked at.
pub(super) fn files(pid: u32) -> Option<Files> {
    let most = allowed(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)?;
    let all = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    let open = numbers.filter(|number| *number < most).count();
    Some(Files { open: open as u64, most })
}

/// `Max open files  SOFT  HARD  files` of `/proc/PID/limits`.
fn allowed(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Those of the calling thread's namespace, by interface index; 0 is every device.
pub(super) fn taps(processes: &Processes) -> BTreeMap<u32, Taps> {
    listed(&fs::read_to_string("/proc/thread-self/net/packet").unwrap_or_default(), processes)
}

/// Lines of `/proc/net/packet`: sk, references, type, protocol, interface, …, inode.
fn listed(text: &str, processes: &Processes) -> BTreeMap<u32, Taps> {
    /// `ETH_P_ALL`, hexadecimal.
    const ALL: &str = "0003";
    let mut found: BTreeMap<u32, Taps> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, ALL, dev, .., inode] = words[..] else { continue };
        let Ok(dev) = dev.parse() else { continue };
        let taps = found.entry(dev).or_default();
        taps.count += 1;
        if taps.process.is_none() {
            taps.process = inode.parse().ok().and_then(|inode| processes.get(&inode)).cloned();
        }
    }
    found
}

/// Who holds which tunnel device open: a look at every descriptor of the node.
#[must_use]
pub fn tunnels() -> Tunnels {
    let mut found = Tunnels::new();
    let Ok(entries) = fs::read_dir("/proc") else { return found };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        // Processes come and go, and some must not be looked at.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let is_tun = |path: &Path| fs::read_link(path).is_ok_and(|l| l.ends_with("dev/net/tun"));
        let tuns = descriptors.flatten().filter(|e| is_tun(&e.path()));
        let names = tuns.filter_map(|e| {
            let info = format!("/proc/{pid}/fdinfo/{}", e.file_name().to_str()?);
            Some(interface(&fs::read_to_string(info).ok()?)?.to_owned())
        });
        let program = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        for name in names {
            let holders = found.entry(name).or_default();
            if !holders.iter().any(|(holder, _)| *holder == pid) {
                holders.push((pid, program().trim_end().to_owned()));
            }
        }
    }
    found
}

/// `iff: tun0` of `/proc/PID/fdinfo/N`.
fn interface(info: &str) -> Option<&str> {
    info.lines().find_map(|line| Some(line.strip_prefix("iff:")?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_that_take_everything_are_counted() {
        let text = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n\
                    0000000000000000 3      3    0003   4     1 0      0      71\n\
                    0000000000000000 3      3    0003   4     1 0      0      72\n\
                    0000000000000000 3      2    0806   4     1 0      0      73\n\
                    0000000000000000 3      3    0003   0     1 0      0      74\n";
        let agent = (9, "agent".to_owned());
        let found = listed(text, &[(72, agent.clone())].into());
        let of = |count, process| Taps { count, process };
        assert_eq!(found, [(0, of(1, None)), (4, of(2, Some(agent)))].into());
        let limits = "Limit      Soft Limit  Hard Limit  Units\nMax open files  16  4096  files\n";
        assert_eq!(allowed(limits), Some(16));
        assert_eq!(interface("pos:\t0\nflags:\t02\niff:\ttun0\n"), Some("tun0"));
    }
}
