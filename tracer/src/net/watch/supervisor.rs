//! The task that keeps the state: looks for namespaces, listens in those that are there, and
//! reports what changes. Everything happens in this one task, so changes come in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::change::{Change, DeviceChange, diff};
use super::listen::{Heard, Listener};
use super::triggers;
use crate::net::discover::{self, Found};
use crate::net::error::Error;
use crate::net::state::{Inum, Netns, NetworkState};
use crate::net::{nsid, snapshot};

/// How often to look for namespaces that nothing told of: those of processes.
const PERIOD: Duration = Duration::from_secs(1);
/// On a node with very many processes, looking takes one part in so many of the time at most.
const SHARE: u32 = 20;
/// Least time between two looks that were asked for.
const GAP: Duration = Duration::from_millis(20);

/// Watches until the receiver of `changes` is dropped, or until told to `stop`.
pub(super) async fn run(
    state: NetworkState,
    changes: mpsc::Sender<Change>,
    rescan: Arc<Notify>,
    stop: Arc<Notify>,
) {
    let names = Arc::new(Notify::new());
    let _names_watch = Task(tokio::spawn(triggers::watch_names(Arc::clone(&names))));
    let (tell, mut heard) = mpsc::unbounded_channel();
    let mut it = Supervisor::new(state, changes.clone(), Arc::clone(&rescan), tell);
    let mut is_rescan_due = false;
    loop {
        let is_quiet = heard.is_empty();
        tokio::select! {
            () = changes.closed() => break,
            () = stop.notified() => break,
            () = names.notified() => it.look_at_names().await,
            () = sleep_until(it.next_look) => it.look().await,
            () = rescan.notified() => is_rescan_due = true,
            () = sleep_until(it.looked + GAP), if is_rescan_due => {
                is_rescan_due = false;
                it.look().await;
            }
            Some(heard) = heard.recv() => it.hear(heard).await,
            () = std::future::ready(()), if it.has_work(is_quiet) => it.work(is_quiet).await,
        }
    }
    // All are told before the first is waited for.
    let listeners: Vec<_> =
        std::mem::take(&mut it.alive).into_values().map(|a| a.listener).collect();
    listeners.iter().for_each(Listener::abort);
    for listener in listeners {
        listener.close().await;
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A namespace that is listened to.
pub(super) struct Alive {
    found: Found,
    pub(super) listener: Listener,
    /// Waits for the process that the namespace is named after, if no file keeps it.
    _process: Option<Task>,
}

pub(super) struct Supervisor {
    pub(super) state: NetworkState,
    changes: mpsc::Sender<Change>,
    rescan: Arc<Notify>,
    tell: mpsc::UnboundedSender<Heard>,
    pub(super) alive: BTreeMap<Inum, Alive>,
    /// Found, but not listened to yet.
    new: VecDeque<Found>,
    /// Could not be read; each is reported once, and tried again with every look.
    unreadable: BTreeSet<Inum>,
    /// Whose settings may have changed.
    pub(super) unset: BTreeSet<Inum>,
    /// Whose routes have changed.
    pub(super) unrouted: BTreeSet<Inum>,
    /// Whose notifications were lost.
    pub(super) stale: BTreeSet<Inum>,
    /// The files when last looked at.
    files: BTreeMap<Inum, (String, PathBuf)>,
    looked: Instant,
    next_look: Instant,
    serial: u64,
}

impl Supervisor {
    fn new(
        state: NetworkState,
        changes: mpsc::Sender<Change>,
        rescan: Arc<Notify>,
        tell: mpsc::UnboundedSender<Heard>,
    ) -> Self {
        Self {
            state,
            changes,
            rescan,
            tell,
            alive: BTreeMap::new(),
            new: VecDeque::new(),
            unreadable: BTreeSet::new(),
            unset: BTreeSet::new(),
            unrouted: BTreeSet::new(),
            stale: BTreeSet::new(),
            files: BTreeMap::new(),
            looked: Instant::now(),
            next_look: Instant::now(),
            serial: 0,
        }
    }

    pub(super) async fn emit(&mut self, change: Change) {
        self.state.apply(change.clone());
        // Without a receiver, `run` ends.
        let _ = self.changes.send(change).await;
    }

    /// A look at the files alone, which is cheap; at the processes only if that shows a change.
    async fn look_at_names(&mut self) {
        let files = snapshot::blocking(|| Ok(discover::files().0)).await.unwrap_or_default();
        if files != self.files {
            self.files = files;
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let start = Instant::now();
        let scan = snapshot::blocking(discover::scan).await;
        self.looked = Instant::now();
        self.next_look = self.looked + PERIOD.max((self.looked - start) * SHARE);
        let found = match scan {
            Ok(scan) => scan.found,
            Err(error) => return log::warn!("looking for network namespaces: {error}"),
        };
        let known = self.state.netns.keys().chain(self.alive.keys());
        let gone: BTreeSet<Inum> = known.filter(|i| !found.contains_key(i)).copied().collect();
        for inum in gone {
            self.let_go(inum).await;
        }
        self.unreadable.retain(|inum| found.contains_key(inum));
        self.new.clear();
        for found in found.into_values() {
            if self.alive.contains_key(&found.inum) {
                self.meet_again(found).await;
            } else {
                self.new.push_back(found);
            }
        }
    }

    /// Closes the socket first: the namespace waits for it.
    async fn let_go(&mut self, inum: Inum) {
        if let Some(alive) = self.alive.remove(&inum) {
            alive.listener.close().await;
        }
        self.unset.remove(&inum);
        self.unrouted.remove(&inum);
        self.stale.remove(&inum);
        if self.state.netns.contains_key(&inum) {
            self.emit(Change::Gone(inum)).await;
        }
    }

    /// A namespace that is listened to was found again, maybe by another name.
    async fn meet_again(&mut self, mut found: Found) {
        let Some(alive) = self.alive.get_mut(&found.inum) else { return };
        let old = &alive.found;
        let is_kept = pid_of(&old.path).is_some_and(|pid| found.pids.contains(&pid));
        if !found.is_mounted && is_kept && pid_of(&found.path) != pid_of(&old.path) {
            found.name.clone_from(&old.name);
            found.path.clone_from(&old.path);
        }
        if (&found.path, found.is_mounted) != (&old.path, old.is_mounted) {
            alive._process = watch_process(&found, &self.rescan);
        }
        alive.found = found.clone();
        self.rename(found).await;
    }

    async fn rename(&mut self, found: Found) {
        let Some(netns) = self.state.netns.get(&found.inum) else { return };
        if netns.name != found.name || netns.path != found.path {
            self.emit(Change::Renamed(found.inum, found.name, found.path)).await;
        }
    }

    fn has_work(&self, is_quiet: bool) -> bool {
        let is_idle = self.stale.is_empty() && self.unset.is_empty() && self.unrouted.is_empty();
        !self.new.is_empty() || is_quiet && !is_idle
    }

    /// One piece of what can wait. While notifications pour in (`!is_quiet`), nothing that they
    /// may ask for once more.
    async fn work(&mut self, is_quiet: bool) {
        if let Some(found) = self.new.pop_front() {
            let inum = found.inum;
            if let Err(error) = self.admit(found).await
                && !error.is_vanished()
                && self.unreadable.insert(inum)
            {
                log::warn!("{error}; what happens there has no names");
            }
        } else if is_quiet && let Some(inum) = self.stale.pop_first() {
            self.read_again(inum).await;
        } else if is_quiet && let Some(inum) = self.unset.pop_first() {
            self.read_sysctls(inum).await;
        } else if is_quiet && let Some(inum) = self.unrouted.pop_first() {
            self.emit(Change::Routing(inum)).await;
        }
    }

    /// Listens to a namespace, then reads it: nothing falls between.
    async fn admit(&mut self, found: Found) -> Result<(), Error> {
        self.serial += 1;
        let listener = Listener::open(&found, self.serial, self.tell.clone()).await?;
        let netns = snapshot::read(&found).await?;
        let process = watch_process(&found, &self.rescan);
        self.alive.insert(found.inum, Alive { found: found.clone(), listener, _process: process });
        let inum = found.inum;
        if self.state.netns.contains_key(&inum) {
            self.rename(found).await;
            self.compare(netns).await;
        } else {
            let netns = self.with_peers(netns).await;
            self.emit(Change::Appeared(netns)).await;
        }
        self.settle(inum).await;
        Ok(())
    }

    async fn read_again(&mut self, inum: Inum) {
        let Some(found) = self.alive.get(&inum).map(|alive| alive.found.clone()) else { return };
        match snapshot::read(&found).await {
            Ok(netns) => self.compare(netns).await,
            Err(error) => log::debug!("{error}"),
        }
        self.settle(inum).await;
    }

    async fn read_sysctls(&mut self, inum: Inum) {
        let Some(found) = self.alive.get(&inum).map(|alive| alive.found.clone()) else { return };
        let Ok(sysctls) = snapshot::sysctls(&found).await else { return };
        if self.state.netns.get(&inum).is_some_and(|known| known.sysctls() != sysctls) {
            self.emit(Change::Sysctls(inum, sysctls)).await;
        }
    }

    /// Reports how a known namespace differs from what it is now.
    async fn compare(&mut self, netns: Netns) {
        let netns = self.with_peers(netns).await;
        let inum = netns.inum;
        let Some(known) = self.state.netns.get(&inum) else { return };
        let (old, new) = (known.sysctls(), netns.sysctls());
        let changes = diff(&known.devices, &netns.devices);
        if old != new {
            self.emit(Change::Sysctls(inum, new)).await;
        }
        if !changes.is_empty() {
            self.emit(Change::Links(inum, changes)).await;
        }
    }

    /// Fills in the peers of `netns` as far as they are known.
    pub(super) async fn with_peers(&self, mut netns: Netns) -> Netns {
        let candidates = nsid::candidates(&netns, &self.state);
        if candidates.is_empty() {
            return netns;
        }
        let asked = snapshot::blocking(move || {
            let ids = nsid::answers(&netns, candidates);
            nsid::fill_in(&mut netns, &ids);
            Ok(netns)
        });
        asked.await.unwrap_or_default()
    }

    /// Fills in the peers elsewhere that may be in `inum`, now that its devices are known.
    pub(super) async fn settle(&mut self, inum: Inum) {
        let Some(here) = self.state.netns.get(&inum) else { return };
        let path = here.path.clone();
        let others = self.state.netns.values().filter(|other| other.inum != inum);
        let open: Vec<Netns> =
            others.filter(|other| nsid::may_be_in(other, here)).cloned().collect();
        for mut other in open {
            let here = vec![(inum, path.clone())];
            let asked = snapshot::blocking(move || {
                let ids = nsid::answers(&other, here);
                let changed = nsid::fill_in(&mut other, &ids);
                Ok((other, changed))
            });
            let Ok((other, changed)) = asked.await else { continue };
            let devices = changed.iter().filter_map(|ifindex| other.devices.get(ifindex));
            let changes: Vec<_> = devices.cloned().map(DeviceChange::Changed).collect();
            if !changes.is_empty() {
                self.emit(Change::Links(other.inum, changes)).await;
            }
        }
    }
}

/// Waits for the process in the path of a namespace that no file keeps.
fn watch_process(found: &Found, rescan: &Arc<Notify>) -> Option<Task> {
    let pid = pid_of(&found.path).filter(|_| !found.is_mounted)?;
    // Where this fails (before Linux 5.3), the periodic look notices.
    triggers::watch_process(pid, found.inum, Arc::clone(rescan)).ok().map(Task)
}

/// 812 of `/proc/812/ns/net`.
fn pid_of(path: &Path) -> Option<u32> {
    path.strip_prefix("/proc").ok()?.iter().next()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_read_from_the_path() {
        assert_eq!(pid_of(Path::new("/proc/812/ns/net")), Some(812));
        assert_eq!(pid_of(Path::new("/proc/self/ns/net")), None);
        assert_eq!(pid_of(Path::new("/run/netns/812")), None);
    }
}
