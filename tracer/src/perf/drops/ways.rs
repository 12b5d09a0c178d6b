//! `--rules`: the whole way of the packets that are dropped, and the rule that dropped them. A
//! trace beside the counting; what it misses is counted all the same.

use anyhow::Result;

use crate::bpf;
use crate::cli::filter::FilterArgs;
use crate::config::Config;
use crate::journey::{self, Fate};
use crate::kernel::names::KernelNames;
use crate::report;
use crate::source::{Live, Setup};

/// Packets a second that are followed at most: they are examples.
const RATE: u64 = 2_000;

/// A trace of what is dropped.
pub(super) struct Ways {
    live: Live,
    names: KernelNames,
    builder: journey::Builder,
}

impl Ways {
    /// Attaches everything.
    pub(super) async fn start(filter: &FilterArgs) -> Result<Self> {
        let mut config = Config::capture(filter)?;
        config.rules = true;
        config.max_journeys = RATE;
        let Setup { live, names, .. } = Live::start(&config).await?;
        Ok(Self { live, names, builder: journey::Builder::new(journey::Options::default()) })
    }

    /// The journeys that ended in a drop since the last time.
    pub(super) fn turn(&mut self) -> Vec<report::Journey> {
        let builder = &mut self.builder;
        let drained = self.live.drain(|event| builder.push(event));
        self.live.drain_rules();
        let state = self.live.state();
        let mut done = self.builder.take_finished(drained.read_to_ns, state, &self.names);
        done.retain(|journey| journey.fate == Fate::Dropped);
        done.iter_mut().for_each(|journey| self.live.attribute(journey));
        let context = report::Context {
            node: crate::output::node_name(),
            clock_offset_ns: bpf::clock_offset_ns(),
            owners: self.live.owners().report(),
        };
        done.iter().map(|journey| report::Journey::from(journey, &context)).collect()
    }

    /// Follows changes of the node; never ends by itself.
    pub(super) async fn follow_change(&mut self) {
        self.live.follow_change().await;
    }

    /// Lets go of everything.
    pub(super) async fn stop(self) {
        self.live.stop().await;
    }
}

/// Follows changes of the node, where ways are asked for.
pub(super) async fn follow(ways: Option<&mut Ways>) {
    match ways {
        Some(ways) => ways.follow_change().await,
        None => std::future::pending().await,
    }
}
