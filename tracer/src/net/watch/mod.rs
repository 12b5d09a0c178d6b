//! Keeps a `NetworkState` current.
//!
//! A namespace is alive while a file is mounted on it or a process lives in it. Our own sockets
//! keep it in existence too, so they never count: `triggers` says when to look, `supervisor`
//! looks, and closes the socket of `listen` before it reports a namespace as gone.

mod change;
mod events;
mod listen;
mod supervisor;
mod triggers;

use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

pub use change::{Change, DeviceChange};

use super::state::NetworkState;

/// How many changes may wait for the reader. Beyond, watching pauses; nothing is lost, for what
/// the kernel then drops is read anew.
const BACKLOG: usize = 4096;

/// Watches the node's namespaces until it is dropped or the receiver is.
#[derive(Debug)]
pub struct Watcher {
    rescan: Arc<Notify>,
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Starts watching. What has changed since `state` was taken comes as changes, too.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(state: NetworkState) -> (Self, mpsc::Receiver<Change>) {
        let (changes, receiver) = mpsc::channel(BACKLOG);
        let rescan = Arc::new(Notify::new());
        let stop = Arc::new(Notify::new());
        let task = supervisor::run(state, changes, Arc::clone(&rescan), Arc::clone(&stop));
        (Self { rescan, stop, task: tokio::spawn(task) }, receiver)
    }

    /// Looks for new namespaces soon: to be called when an event comes from an unknown one.
    /// Cheap, and many calls at once are as good as one.
    pub fn rescan_now(&self) {
        self.rescan.notify_one();
    }

    /// Ends watching; on return all sockets are closed. The receiver may be dropped before or
    /// after; a full one that nobody reads must be dropped before.
    pub async fn stop(mut self) {
        self.stop.notify_one();
        // It neither panics nor is aborted.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}
