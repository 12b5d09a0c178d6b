//! Starting and ending a lab's servers, seen from outside; [`super::serve`] is their inside.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::server::{self, Server};
use super::state::{StateDir, read_json, write_json};
use super::{Error, Prefix, sys};

/// What the daemon writes to its stdout when every socket listens; anything else is its error.
pub(crate) const READY: &str = "ready\n";
const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(2);

const PROCESS_FILE: &str = "server.json";
const SERVERS_FILE: &str = "servers";
const LOG_FILE: &str = "serve.log";

/// `server.json`. With its start time a process is told from a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct ProcessId {
    pid: i32,
    /// Clock ticks after boot, as in `/proc/PID/stat`.
    start_ticks: u64,
}

impl ProcessId {
    /// Of a process that runs.
    fn of(pid: i32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_ticks = start_ticks(&stat)
            .ok_or_else(|| io::Error::new(ErrorKind::NotFound, "the process has ended"))?;
        Ok(Self { pid, start_ticks })
    }

    fn load(state: &StateDir) -> Option<Self> {
        read_json(&state.file(PROCESS_FILE)).ok()
    }

    /// The process, if it is still the one that was recorded.
    fn open(self) -> Option<sys::Process> {
        // Opened first and compared second: the id cannot pass to another process in between.
        let process = sys::Process::open(self.pid).ok()?;
        (Self::of(self.pid).ok()? == self).then_some(process)
    }
}

/// Field 22; none for a process that has ended and waits to be reaped. The name in field 2 may
/// hold spaces and parentheses.
fn start_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Records the calling process as the daemon.
pub(crate) fn record_self(state: &StateDir) -> Result<(), Error> {
    let path = state.file(PROCESS_FILE);
    let pid = i32::try_from(std::process::id()).map_err(|e| Error::Server(e.to_string()))?;
    let written = ProcessId::of(pid).and_then(|id| write_json(&path, &id));
    written.map_err(Error::io("write", path))
}

/// What the daemon is to serve.
pub(crate) fn read_servers(state: &StateDir) -> Result<Vec<Server>, Error> {
    let path = state.file(SERVERS_FILE);
    let text = fs::read_to_string(&path).map_err(Error::io("read", path))?;
    server::parse_file(&text)
}

pub(crate) fn write_servers(state: &StateDir, servers: &[Server]) -> Result<(), Error> {
    let path = state.file(SERVERS_FILE);
    fs::write(&path, server::render_file(servers)).map_err(Error::io("write", path))
}

/// Whether the recorded daemon runs.
pub(crate) fn is_running(state: &StateDir) -> bool {
    ProcessId::load(state).and_then(ProcessId::open).is_some()
}

/// Starts the daemon and returns when all its sockets listen.
pub(crate) async fn start(prefix: &Prefix, state: &StateDir) -> Result<(), Error> {
    let failed = |e: io::Error| Error::Server(e.to_string());
    let log = state.file(LOG_FILE);
    let log = File::create(&log).map_err(Error::io("write", log))?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("pkttrace")
        .args(["lab", "serve", "--prefix", prefix.as_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(failed)?;
    let stdout = child.stdout.take().map(OwnedFd::from);
    let stdout = stdout.ok_or_else(|| Error::Server("its stdout is not a pipe".to_owned()))?;
    let mut stdout = pipe::Receiver::from_owned_fd(stdout).map_err(failed)?;
    let mut answer = String::new();
    let read = tokio::time::timeout(START_LIMIT, stdout.read_to_string(&mut answer)).await;
    match read {
        Ok(Ok(_)) if answer == READY => Ok(()),
        Ok(Ok(_)) if answer.is_empty() => Err(Error::Server("the daemon ended early".to_owned())),
        Ok(Ok(_)) => Err(Error::Server(answer.trim().to_owned())),
        Ok(Err(e)) => Err(failed(e)),
        Err(_) => Err(Error::Server(format!("the daemon was not ready after {START_LIMIT:?}"))),
    }
}

/// Ends the daemon, if there is one, and waits for its end.
pub(crate) fn stop(state: &StateDir) -> Result<(), Error> {
    let Some(process) = ProcessId::load(state).and_then(ProcessId::open) else {
        return Ok(());
    };
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        match process.signal(signal) {
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
                return Err(Error::Server(format!("they cannot be ended either: {e}")));
            }
            _ => {}
        }
        if process.wait(STOP_LIMIT).unwrap_or(false) {
            break;
        }
    }
    let path = state.file(PROCESS_FILE);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        assert_eq!(start_ticks(stat), Some(4242));
        assert_eq!(start_ticks(&stat.replace(" S ", " Z ")), None, "a zombie has ended");
        assert_eq!(start_ticks("nonsense"), None);
    }

    #[test]
    fn a_recycled_id_is_not_opened() {
        let me = ProcessId::of(std::process::id().try_into().unwrap()).unwrap();
        assert!(me.open().is_some());
        let earlier = ProcessId { start_ticks: me.start_ticks - 1, ..me };
        assert!(earlier.open().is_none());
    }
}
