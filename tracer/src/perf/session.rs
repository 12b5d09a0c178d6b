//! What runs of `drops` and `latency` have in common: the node and the kernel side, who asks for
//! metrics, and what a run waits for.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tracer_common::perf::PerfConfig;

use super::exporter::{self, Exporter};
use super::node::Asked;
use super::{Common, Node, SUMMING, YEAR};
use crate::bpf::{PerfOptions, PerfSide};
use crate::cli::filter::FilterArgs;
use crate::kernel::btf::KernelBtf;
use crate::output::is_reader_gone;
use crate::signals::{self, Signals};
use crate::{privileges, ready};

/// What the maps have room for; those of the other command have none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    /// Different drops.
    pub(super) drops: u32,
    /// Different segments.
    pub(super) segments: u32,
    /// Packets that are timed at once.
    pub(super) under_way: u32,
}

/// Why waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The run is over: its time, a signal, or nobody reads any more.
    End,
    /// The time that was waited for.
    Due,
    /// Time to look at what came.
    Look,
    /// The node has changed, and names may mean something else.
    Changed,
}

/// The kernel side on the node.
pub(super) struct Session {
    pub(super) node: Node,
    pub(super) side: PerfSide,
    exporter: Option<Exporter>,
    signals: Signals,
    common: Common,
    look: Interval,
    deadline: Instant,
    /// Somebody may read standard output while it runs.
    has_reader: bool,
}

impl Session {
    /// Loads the kernel side for what is asked for; nothing is attached yet.
    pub(super) async fn start(
        common: &Common,
        filter: &FilterArgs,
        room: Room,
        configure: impl FnOnce(&mut PerfConfig),
    ) -> Result<(Self, KernelBtf)> {
        // Before anything is loaded: an address that is taken costs nothing then.
        let exporter = match common.listen {
            Some(address) => Some(Exporter::listen(address).await?),
            None => None,
        };
        let (node, asked) = Node::start(filter).await?;
        let Asked { filter, portals, offsets, mut config, btf } = asked;
        configure(&mut config);
        let Room { drops, segments, under_way } = room;
        let options = PerfOptions { filter, portals, offsets, config, drops, segments, under_way };
        let mut side = PerfSide::load(&options, &btf)?;
        node.set_scope(&mut side)?;
        let now = Instant::now();
        let session = Self {
            node,
            side,
            exporter,
            signals: Signals::new()?,
            common: common.clone(),
            look: interval_at(now, YEAR),
            deadline: now + YEAR,
            has_reader: true,
        };
        Ok((session, btf))
    }

    /// The time of the run begins: it looks this often at what came, and at whether anybody still
    /// reads standard output, if that is where it writes.
    pub(super) fn begin(&mut self, look: Duration, has_reader: bool) -> Instant {
        signals::flushing(Some(SUMMING));
        let start = Instant::now();
        self.deadline = start + self.common.duration.min(YEAR);
        self.look = interval_at(start + look, look);
        self.look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.has_reader = has_reader;
        start
    }

    /// Everything is attached: says so to who waits for it, and needs no privileges any more.
    pub(super) fn ready(&self) -> Result<()> {
        if let Some(path) = &self.common.ready_file {
            ready::say(path)?;
        }
        privileges::shed();
        Ok(())
    }

    /// Waits until `until`, or until there is something to do. May be dropped while it waits.
    pub(super) async fn next(&mut self, until: Instant) -> Result<Next> {
        loop {
            tokio::select! {
                biased;
                _ = self.signals.recv() => return Ok(Next::End),
                () = sleep_until(self.deadline) => return Ok(Next::End),
                () = sleep_until(until) => return Ok(Next::Due),
                _ = self.look.tick() => {
                    let is_over = self.has_reader && is_reader_gone();
                    return Ok(if is_over { Next::End } else { Next::Look });
                }
                result = exporter::serve(self.exporter.as_mut()) => result?,
                is_other = self.node.follow_change() => if is_other {
                    // The names were good when it started.
                    let _ = self.node.set_scope(&mut self.side);
                    return Ok(Next::Changed);
                }
            }
        }
    }

    /// Whether anybody may ask for metrics.
    pub(super) fn has_exporter(&self) -> bool {
        self.exporter.is_some()
    }

    /// What whoever asks for metrics is told from now on.
    pub(super) fn publish(&mut self, text: impl FnOnce(&Node) -> String) {
        if let Some(exporter) = &mut self.exporter {
            exporter.publish(text(&self.node));
        }
    }

    /// Lets go of everything.
    pub(super) async fn stop(self) {
        self.node.stop().await;
    }
}
