//! A capture in the background of something else: all journeys of a filter, kept until its end.

use anyhow::Result;

use crate::config::Config;
use crate::journey::{self, Journey};
use crate::kernel::names::KernelNames;
use crate::net::NetworkState;

use super::{Live, Setup};

/// Journeys kept at most: what comes beyond is counted, and is hardly what is looked for.
const MAX_JOURNEYS: usize = 50_000;

/// A capture under way.
pub struct Capture {
    live: Live,
    names: KernelNames,
    builder: journey::Builder,
    finished: Vec<Journey>,
    surplus: u64,
}

/// What a capture came to.
#[derive(Debug)]
pub struct Captured {
    /// By their begin.
    pub journeys: Vec<Journey>,
    /// The node as it was at the end, without details.
    pub state: NetworkState,
    /// Packets that were not followed, for want of room.
    pub missed: u64,
}

impl Capture {
    /// Attaches everything.
    ///
    /// # Errors
    ///
    /// What keeps it from running, in one line.
    pub async fn start(config: &Config) -> Result<Self> {
        let Setup { live, names, .. } = Live::start(config).await?;
        let options = journey::Options::default();
        let builder = journey::Builder::new(options);
        Ok(Self { live, names, builder, finished: Vec::new(), surplus: 0 })
    }

    /// Reads what is there; returns the journeys that have ended by now.
    pub fn turn(&mut self) -> &[Journey] {
        let builder = &mut self.builder;
        let drained = self.live.drain(|event| builder.push(event));
        self.live.tell_lost(builder);
        let done = builder.take_finished(drained.read_to_ns, self.live.state(), &self.names);
        self.keep(done);
        &self.finished
    }

    /// Follows changes of the node; never ends by itself.
    pub async fn follow_change(&mut self) {
        self.live.follow_change().await;
    }

    /// Ages out what outlived its packet; once a second.
    pub fn age(&mut self) {
        self.live.age();
    }

    /// Ends it and lets go of the kernel.
    ///
    /// # Errors
    ///
    /// When the kernel's counters cannot be read.
    pub async fn end(mut self) -> Result<Captured> {
        self.turn();
        let open = self.builder.flush(self.live.state(), &self.names);
        self.keep(open);
        let missed = self.live.counters()?.refused() + self.surplus;
        let state = self.live.state().clone();
        self.live.stop().await;
        self.finished.sort_by_key(|j| (j.start_ns, j.id));
        Ok(Captured { journeys: self.finished, state, missed })
    }

    fn keep(&mut self, journeys: Vec<Journey>) {
        for mut journey in journeys {
            self.live.mark_uncovered(&mut journey);
            if self.finished.len() < MAX_JOURNEYS {
                self.finished.push(journey);
            } else {
                self.surplus += 1;
            }
        }
    }
}
