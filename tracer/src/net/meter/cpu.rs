//! What processors do, and how much of them a process may use.

use std::fs;
use std::path::{Path, PathBuf};

/// How the bandwidth controller held a process back, since its cgroup was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// The cgroup that limits it, below the mount point.
    pub cgroup: String,
    /// Periods in which it wanted to run.
    pub periods: u64,
    /// Periods in which it was stopped.
    pub throttled: u64,
    /// How long it was stopped, microseconds.
    pub throttled_us: u64,
}

/// Figures of one processor since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Packets that its softirqs took (`softnet_stat`).
    pub packets: u64,
    /// Packets dropped since its backlog was full.
    pub backlog_drops: u64,
    /// Times that a softirq stopped with work left.
    pub squeezed: u64,
    /// Clock ticks of all kinds.
    pub ticks: u64,
    /// Of them in softirqs.
    pub softirq: u64,
    /// Of them idle.
    pub idle: u64,
}

/// Each processor, in order.
#[must_use]
pub fn cpus() -> Vec<Cpu> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    joined(&read("/proc/net/softnet_stat"), &read("/proc/stat"))
}

fn joined(softnet: &str, stat: &str) -> Vec<Cpu> {
    let ticks = stat.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu "));
    let mut ticks = ticks.map(|line| {
        line.split_whitespace().skip(1).map(|w| w.parse().unwrap_or(0)).collect::<Vec<u64>>()
    });
    let cpu = |line: &str| {
        let words: Vec<_> =
            line.split_whitespace().map(|w| u64::from_str_radix(w, 16).unwrap_or(0)).collect();
        let ticks = ticks.next().unwrap_or_default();
        let (word, tick) = (|at| words.get(at).copied(), |at: usize| ticks.get(at).copied());
        Cpu {
            packets: word(0).unwrap_or(0),
            backlog_drops: word(1).unwrap_or(0),
            squeezed: word(2).unwrap_or(0),
            // user nice system idle iowait irq softirq steal: guests are counted in user.
            ticks: ticks.iter().take(8).sum(),
            softirq: tick(6).unwrap_or(0),
            idle: tick(3).unwrap_or(0) + tick(4).unwrap_or(0),
        }
    };
    softnet.lines().map(cpu).collect()
}

/// The quotas of a process: its cgroup may have one, and each of those around it (a pod's around
/// its containers').
pub(super) fn quotas(pid: u32) -> Vec<Quota> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    groups.lines().flat_map(limited).collect()
}

/// The limited cgroups on a line of `/proc/PID/cgroup`, the nearest first: `0::/path` is version 2,
/// which has all controllers, `N:cpu,cpuacct:/path` version 1.
fn limited(line: &str) -> Vec<Quota> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let roots: &[&str] = match controllers {
        "" => &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"],
        names if names.split(',').any(|n| n == "cpu") => {
            &["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"]
        }
        _ => return Vec::new(),
    };
    // Of another cgroup namespace: not below the root that is seen here.
    if path.split('/').any(|part| part == "..") {
        return Vec::new();
    }
    let below = |root: &&str| {
        let quotas = quotas_below(Path::new(root), path);
        (!quotas.is_empty()).then_some(quotas)
    };
    roots.iter().find_map(below).unwrap_or_default()
}

fn quotas_below(root: &Path, path: &str) -> Vec<Quota> {
    let mut dir = PathBuf::from(root).join(path.trim_start_matches('/'));
    let mut found = Vec::new();
    while dir.starts_with(root) && dir != root {
        let text = fs::read_to_string(dir.join("cpu.stat"));
        if let (true, Ok(text), Ok(below)) = (is_limited(&dir), text, dir.strip_prefix(root)) {
            found.push(Quota { cgroup: format!("/{}", below.display()), ..figures(&text) });
        }
        dir.pop();
    }
    found
}

fn is_limited(dir: &Path) -> bool {
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let v2 = read("cpu.max");
    let v1 = read("cpu.cfs_quota_us");
    !v2.is_empty() && !v2.starts_with("max") || !v1.is_empty() && !v1.starts_with('-')
}

fn figures(text: &str) -> Quota {
    let mut quota = Quota::default();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(' ') else { continue };
        let value: u64 = value.trim().parse().unwrap_or(0);
        match name {
            "nr_periods" => quota.periods = value,
            "nr_throttled" => quota.throttled = value,
            "throttled_usec" => quota.throttled_us = value,
            // Version 1 counts nanoseconds.
            "throttled_time" => quota.throttled_us = value / 1000,
            _ => {}
        }
    }
    quota
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_tell_microseconds() {
        let v2 = "usage_usec 9\nnr_periods 31\nnr_throttled 30\nthrottled_usec 1940000\n";
        let v1 = "nr_periods 31\nnr_throttled 30\nthrottled_time 1940000000\n";
        assert_eq!(figures(v2), figures(v1));
        assert_eq!(figures(v2).throttled_us, 1_940_000);
    }

    #[test]
    fn processors_have_packets_and_ticks() {
        let softnet = "0000000a 00000001 00000002\n00000010 00000000 00000001\n";
        let stat = "cpu  9 9 9 9\ncpu0 1 0 2 50 3 0 4 0 0 0\ncpu1 1 0 2 60 0 0 0 0 0 0\nintr 5\n";
        let cpus = joined(softnet, stat);
        assert_eq!(cpus.len(), 2);
        assert_eq!((cpus[0].packets, cpus[0].backlog_drops, cpus[0].squeezed), (10, 1, 2));
        assert_eq!((cpus[0].ticks, cpus[0].softirq, cpus[0].idle), (60, 4, 53));
        assert_eq!(cpus[1].idle, 60);
    }
}
