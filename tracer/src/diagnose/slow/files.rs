//! Servers that may open no more files, so that they accept nobody.

use super::{Check, Evidence};
use crate::diagnose::finding::Finding;
use crate::net::Inum;
use crate::net::detail::Socket;
use crate::net::meter::Files;

pub(super) const CHECK: Check = Check {
    explains: &[(
        "slow-open-files",
        "Each connection is an open file, and a process may have only so many (RLIMIT_NOFILE, ulimit \
         -n): one more, and accept(2) fails (\"too many open files\"). Connections wait in the accept \
         queue until another one is closed, then the queue is full, and SYNs are ignored. Nothing on \
         the network is wrong.",
    )],
    find,
};

fn find(evidence: &Evidence<'_>) -> Vec<Finding> {
    let receivers = evidence.receivers();
    let found = receivers.iter().filter_map(|(netns, history)| full(evidence, *netns, history));
    found.collect()
}

fn full(evidence: &Evidence<'_>, netns: Inum, history: &[&Socket]) -> Option<Finding> {
    let socket = history.last().filter(|s| i32::from(s.proto) == libc::IPPROTO_TCP)?;
    let (pid, program) = history.iter().rev().find_map(|s| s.process.clone())?;
    let here = evidence.moments.iter().filter_map(|moment| moment.get(&netns));
    let mut files = here.filter_map(|reading| reading.files.get(&pid));
    let Files { open, most } = *files.find(|files| files.open >= files.most)?;
    let waiting = history.iter().filter(|s| s.queued > 0).count();
    let overflows = evidence.grown(netns, "TcpExtListenOverflows");
    // One that has just come is accepted at once.
    if overflows == 0 && waiting * 2 < history.len() {
        return None;
    }
    let title = format!("{program} (PID {pid}) has {open} open files and may have {most}");
    let fullest = history.iter().map(|s| s.queued).max().unwrap_or(0);
    let finding = evidence.finding("slow-open-files", netns, title).fact(format!(
        "connections to port {} waited to be accepted in {waiting} of {} looks, up to {fullest}; \
         ListenOverflows grew by {overflows}",
        socket.port,
        history.len()
    ));
    Some(finding.fix(format!(
        "let it have more (LimitNOFILE of its unit, ulimits of its container; `prlimit --pid {pid} \
         --nofile=65536:` at once), and look whether it closes what it no longer needs"
    )))
}
