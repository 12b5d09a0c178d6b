//! Carrying packets over long links: each is written to the other end when it has been on its way
//! for as long as the link is.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep_until};

use crate::lab::long::Long;

/// Packets under way, in one direction; what comes beyond is lost.
const CAPACITY: usize = 16_384;
const LONGEST: usize = 65_536;

type Packet = (Instant, Vec<u8>);

/// Carries both ways from now on.
pub(super) fn carry(link: Long) -> io::Result<()> {
    let [a, b] = link.ends.map(|end| {
        // SAFETY: a file keeps its descriptor for as long as it lives, and its bytes are moved with
        // shared references only.
        let end = unsafe { AsyncFd::register(File::from(end)) };
        end.map(Arc::new).map_err(io::Error::from)
    });
    let (a, b) = (a?, b?);
    for (from, to) in [(Arc::clone(&a), Arc::clone(&b)), (b, a)] {
        let (entered, leaves) = channel(CAPACITY);
        drop(tokio::spawn(enter(from, entered, link.delay)));
        drop(tokio::spawn(leave(leaves, to)));
    }
    Ok(())
}

async fn enter(from: Arc<AsyncFd<File>>, link: Sender<Packet>, delay: std::time::Duration) {
    let mut bytes = vec![0; LONGEST];
    loop {
        let read = from.async_io(tokio::io::Interest::READABLE, |mut tun| tun.read(&mut bytes));
        match read.await {
            // Where there is no room, it is lost, as on any link.
            Ok(len) => drop(link.try_send((Instant::now() + delay, bytes[..len].to_vec()))),
            Err(e) => return log::warn!("a long link ends: {e}"),
        }
    }
}

async fn leave(mut link: Receiver<Packet>, to: Arc<AsyncFd<File>>) {
    while let Some((due, packet)) = link.recv().await {
        sleep_until(due).await;
        // A device that is down takes nothing.
        let _ = to.get_ref().write(&packet);
    }
}
