//! Why it is slow, at the end of a run: what `diagnose --slow` makes of the figures of the
//! namespaces that packets were timed in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::spawn_blocking;

use super::segment::Segment;
use super::times::Times;
use crate::diagnose::slow::{self, Evidence, Moment, Timed};
use crate::net::inspect::{self, inspect_now};
use crate::net::meter::{self, Cpu, Depth, Place, Processes};
use crate::net::{Inum, NetworkState};
use crate::report::diagnosis::Finding;

/// Looks in between that are kept at most, the last ones: what peaks is seen in them.
const LOOKS: usize = 60;

/// The figures of the namespaces that are asked for.
pub(super) struct Watch {
    places: Arc<Vec<Place>>,
    processes: Arc<Processes>,
    moments: Vec<Moment>,
    cpus: Vec<Cpu>,
    start: Instant,
}

impl Watch {
    /// Reads them for the first time.
    pub(super) async fn start(state: &NetworkState) -> Result<Self> {
        let mut watch = Self {
            places: Arc::new(state.netns.values().map(Place::new).collect()),
            processes: Arc::new(spawn_blocking(meter::processes).await?),
            moments: Vec::new(),
            cpus: meter::cpus(),
            start: Instant::now(),
        };
        watch.look(Depth::All).await?;
        Ok(watch)
    }

    /// Reads them again.
    pub(super) async fn look(&mut self, depth: Depth) -> Result<()> {
        let (places, processes) = (Arc::clone(&self.places), Arc::clone(&self.processes));
        let moment = spawn_blocking(move || meter::read(&places, &processes, depth)).await?;
        if self.moments.len() > LOOKS {
            self.moments.remove(1);
        }
        self.moments.push(moment);
        Ok(())
    }

    /// The first and the last that was read.
    pub(super) fn ends(&self) -> Option<(&Moment, &Moment)> {
        self.moments.first().zip(self.moments.last())
    }

    /// What makes it slow. Whose fault it is not is left out where nobody asked for a flow.
    pub(super) async fn conclude(
        self,
        mut state: NetworkState,
        timed: Timed,
        node: &str,
    ) -> Result<Vec<Finding>> {
        let node = node.to_owned();
        let conclude = move || {
            let places: BTreeSet<Inum> = timed.devices.iter().map(|(netns, _)| *netns).collect();
            let what = inspect::What {
                sysctls: true,
                counters: true,
                firewall: true,
                ..inspect::What::default()
            };
            inspect_now(&mut state, &|netns| places.contains(&netns.inum), what);
            let evidence = Evidence {
                target: None,
                state: &state,
                ways: Vec::new(),
                journeys: &[],
                moments: self.moments,
                span: self.start.elapsed(),
                after: std::collections::BTreeMap::new(),
                cpus: (self.cpus, meter::cpus()),
                lookups: Vec::new(),
                tunnels: meter::Tunnels::new(),
                probes: Vec::new(),
                timed,
            };
            let found = slow::conclude(&evidence).findings;
            found.iter().map(|finding| Finding::new(finding, &node)).collect()
        };
        Ok(spawn_blocking(conclude).await?)
    }
}

/// What the segments tell of the way.
pub(super) fn timed(times: &[(Segment, Times)]) -> Timed {
    let mut timed = Timed::default();
    for (segment, times) in times.iter().filter(|(_, times)| times.count() > 0) {
        let from = segment.netns.inum;
        let to = segment.out_netns.as_ref().map_or(from, |netns| netns.inum);
        let devices = [(from, &segment.dev), (to, &segment.out_dev)];
        let devices = devices.into_iter().filter_map(|(n, dev)| Some((n, dev.as_ref()?.index)));
        timed.devices.extend(devices);
        let median = Duration::from_nanos(times.percentile(0.5));
        match (segment.name, &segment.dev) {
            ("qdisc", Some(dev)) => {
                let count = usize::try_from(times.count()).unwrap_or(usize::MAX);
                timed.queues.insert((from, dev.index), (median, count));
            }
            ("end-to-end", _) => {
                timed.delivered.insert(to);
                timed.whole = timed.whole.max(Some(median));
            }
            _ => {}
        }
    }
    timed
}
