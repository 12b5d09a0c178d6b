//! Keeps the owners current, beside the trace.
//!
//! A runtime makes the namespace first and writes its name down afterwards, so one look when a
//! namespace appears is too early: there are a few more, further and further apart. However many
//! namespaces come at once, the looks are the same few.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{Owners, scan};

/// When to look after a change, one after the other.
const LOOKS: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(4),
];

/// On a node with very many containers, looking takes one part in so many of the time at most.
const SHARE: u32 = 20;

/// How long names of containers are waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Owners that follow the node until this is dropped.
#[derive(Debug)]
pub struct Keeper {
    owners: watch::Receiver<Arc<Owners>>,
    changed: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Starts with these.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(owners: Owners) -> Self {
        let (tell, owners) = watch::channel(Arc::new(owners));
        let changed = Arc::new(Notify::new());
        let task = tokio::spawn(follow(tell, Arc::clone(&changed)));
        Self { owners, changed, task }
    }

    /// Looks again soon: to be called when namespaces come, go or get another name. Many calls
    /// are as good as one.
    pub fn look_again(&self) {
        self.changed.notify_one();
    }

    /// The owners as last seen.
    #[must_use]
    pub fn owners(&self) -> Arc<Owners> {
        Arc::clone(&self.owners.borrow())
    }

    /// Waits until they are others than when last waited for.
    pub async fn changed(&mut self) {
        if self.owners.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(tell: watch::Sender<Arc<Owners>>, changed: Arc<Notify>) {
    changed.notified().await;
    loop {
        let mut is_changed = false;
        for wait in LOOKS {
            tokio::select! {
                () = sleep(wait) => look(&tell).await,
                // Another one: from the start, but no sooner than the next look is due.
                () = changed.notified() => {
                    sleep(LOOKS[0]).await;
                    look(&tell).await;
                    is_changed = true;
                    break;
                }
            }
        }
        if !is_changed {
            changed.notified().await;
        }
    }
}

async fn look(tell: &watch::Sender<Arc<Owners>>) {
    let start = Instant::now();
    match scan_beside().await {
        Ok(owners) => {
            tell.send_if_modified(|known| {
                let is_new = **known != owners;
                if is_new {
                    *known = Arc::new(owners);
                }
                is_new
            });
        }
        Err(error) => log::warn!("{error:#}; names of containers and pods stay as they are"),
    }
    sleep(start.elapsed() * (SHARE - 1)).await;
}

/// [`scan`], but no names at all when it takes too long: better than to wait for them.
///
/// # Errors
///
/// As [`scan`].
pub async fn scan_in_time() -> Result<Owners> {
    match timeout(PATIENCE, scan_beside()).await {
        Ok(owners) => owners,
        Err(_) => Ok(Owners::default().doubting(
            "looking for containers takes long: namespaces go by their own names".to_owned(),
        )),
    }
}

/// [`scan`] on a thread of its own. Files of runtimes may lie on a file system that hangs (a home
/// directory, say): then only that thread does.
///
/// # Errors
///
/// As [`scan`].
pub async fn scan_beside() -> Result<Owners> {
    let (tell, told) = oneshot::channel();
    let look = move || {
        // Whoever asked may have gone.
        let _ = tell.send(scan());
    };
    thread::Builder::new()
        .name("owners".to_owned())
        .spawn(look)
        .context("cannot look for containers")?;
    Ok(told.await.context("looking for containers failed")??)
}
