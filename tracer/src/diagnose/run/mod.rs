//! What `pkttrace diagnose` does: captures, probes, reads the configuration, concludes.

mod active;
mod ask;
mod check;
mod passive;
mod seen;
mod slow;
mod stalled;
mod upstream;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::case::{Case, Counters, Probed, Target};
use super::engine::{Diagnosis, conclude};
use super::view;
use crate::app;
use crate::cli::filter::FilterArgs;
use crate::firewall;
use crate::journey::Journey;
use crate::net::discover::HOST;
use crate::net::{self, Inum, NetworkState, inspect};
use crate::owner::{self, Owner, Owners};

pub use active::active;
pub use ask::{Ask, To};
pub use passive::passive;
pub use slow::slow;

/// What to find out without probes.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Which traffic.
    pub filter: FilterArgs,
    /// For how long.
    pub duration: Duration,
    /// See the world as this node does.
    pub view: Option<String>,
    /// Created when every probe point is watched.
    pub ready_file: Option<PathBuf>,
    /// Is told what is being done, in a few words, while it takes its time.
    pub say: fn(&str),
}

/// The whole of a diagnosis, for a report.
#[derive(Debug)]
pub struct Outcome {
    /// What was asked; `None` without probes.
    pub target: Option<Target>,
    /// What was sent.
    pub probes: Vec<Probed>,
    /// What was concluded.
    pub diagnosis: Diagnosis,
    /// The packets that the findings speak of, and others.
    pub journeys: Vec<Journey>,
}

/// The node, read in full.
#[derive(Debug, Default)]
struct Node {
    state: NetworkState,
    /// What may be seen; empty is everything.
    view: BTreeSet<Inum>,
    /// What is worth reading; empty is everything.
    near: BTreeSet<Inum>,
    /// Whose the namespaces are.
    owners: Owners,
    /// Where a target begins and ends, as far as that is known.
    ends: BTreeSet<Inum>,
    /// What was left out, in a sentence.
    unread: Option<String>,
}

/// Why there is no result.
pub const INTERRUPTED: &str = "interrupted before there was a result";

/// Namespaces with nothing but `lo` that are read where there is no target.
const IDLE: usize = 128;

/// Namespaces whose firewall rules are read: each takes several processes.
const RULED: usize = 96;

impl Node {
    /// Reads everything there is to know of the namespaces that are connected with `from`; without
    /// it, of all.
    async fn read(
        owners: Owners,
        view: Option<Inum>,
        from: Option<Inum>,
        to: Option<IpAddr>,
    ) -> Result<Self> {
        let (mut state, _) = net::snapshot::take().await?;
        let view = view.map(|root| net::view::view(&state, root)).unwrap_or_default();
        // Who sends from elsewhere is seen where the packets come into the view.
        let inside = from.filter(|from| view.is_empty() || view.contains(from));
        let near = inside.map(|from| near(&state, from, &view));
        let near = near.unwrap_or_else(|| view.clone());
        let ends = to.iter().flat_map(|to| state.holders(*to)).map(|n| n.inum).chain(from);
        let ends = ends.collect();
        let node = Self { near, view, owners, ends, ..Self::default() };
        node.details(&mut state).await;
        let unread = node.passable(&state).len().checked_sub(RULED).filter(|n| *n > 0);
        let unread = unread.map(|n| format!("not looked at: the firewall rules of {n} namespaces"));
        Ok(Self { state, unread, ..node })
    }

    /// Reads the details of another snapshot of it.
    async fn details(&self, state: &mut NetworkState) {
        for (inum, name) in self.owners.iter().filter_map(|(i, o)| Some((i, called(o)?))) {
            if let Some(netns) = state.netns.get_mut(&inum).filter(|n| n.name != HOST) {
                netns.name = name;
            }
        }
        let idle = self.idle(state);
        let is_wanted = |n: &net::Netns| {
            (self.near.is_empty() || self.near.contains(&n.inum)) && !idle.contains(&n.inum)
        };
        // What could not be read is said in the details themselves.
        // Rules are read below, side by side and only where they are worth it.
        let what = inspect::What { firewall: false, ..inspect::What::ALL };
        let _ = inspect::inspect(state, &is_wanted, what).await;
        let ruled = self.ruled(state);
        read_rules(state, &ruled).await;
        let passable: BTreeSet<Inum> = self.passable(state).iter().map(|n| n.inum).collect();
        for inum in passable.difference(&ruled) {
            let netns = state.netns.get_mut(inum);
            if let Some(detail) = netns.and_then(|n| n.detail.as_mut()) {
                detail.unread.push("firewall rules: too many namespaces".to_owned());
            }
        }
    }

    /// The namespaces that nothing is read of but their devices: they have none but `lo`, and no
    /// packet from elsewhere ends there. Without a target, what they do among themselves counts,
    /// unless they are very many.
    fn idle(&self, state: &NetworkState) -> BTreeSet<Inum> {
        let is_idle = |n: &&net::Netns| n.devices.len() < 2 && !self.ends.contains(&n.inum);
        let idle: BTreeSet<Inum> = state.netns.values().filter(is_idle).map(|n| n.inum).collect();
        if self.ends.is_empty() && idle.len() <= IDLE { BTreeSet::new() } else { idle }
    }

    /// The namespaces whose rules are worth a few processes each: the ends of what was asked,
    /// those that route, then the rest as far as it goes.
    fn ruled(&self, state: &NetworkState) -> BTreeSet<Inum> {
        let rank = |n: &&net::Netns| {
            (!self.ends.contains(&n.inum), n.devices.len() < 3, n.inum != state.own, n.inum)
        };
        let mut all = self.passable(state);
        all.sort_by_key(rank);
        all.into_iter().take(RULED).map(|n| n.inum).collect()
    }

    /// The namespaces that were read and that packets can come through: where there is nothing but
    /// `lo`, no rule is met on the way elsewhere.
    fn passable<'a>(&self, state: &'a NetworkState) -> Vec<&'a net::Netns> {
        let is_passed = |n: &&net::Netns| n.devices.len() > 1 || self.ends.contains(&n.inum);
        state.netns.values().filter(|n| n.detail.is_some()).filter(is_passed).collect()
    }

    /// Counters, to be compared later.
    fn counters(&self) -> Counters {
        let all = self.state.netns.values();
        all.filter_map(|n| Some((n.inum, n.detail.as_ref()?.counters.clone()))).collect()
    }
}

/// The pod or the container that findings are to name.
fn called(owner: &Owner) -> Option<String> {
    let container = || owner.container().map(|c| c.label().to_owned());
    owner.pod.as_ref().map(ToString::to_string).or_else(container).filter(|name| name != HOST)
}

/// Whose the node's namespaces are, and which one a name means.
async fn owners(names: &[(&'static str, &str)]) -> Result<(Owners, Vec<Inum>)> {
    let owners = owner::scan_in_time().await?;
    owners.doubts().iter().for_each(|doubt| app::say(doubt));
    let resolve = |(option, name): &(&'static str, &str)| {
        owner::resolve(name, &owners).map_err(|error| anyhow!("{option}: {error}"))
    };
    let inums = names.iter().map(resolve).collect::<Result<_>>()?;
    Ok((owners, inums))
}

/// The namespaces in the view that a packet from `from` can come to: over veth pairs, whatever
/// their state.
fn near(state: &NetworkState, from: Inum, view: &BTreeSet<Inum>) -> BTreeSet<Inum> {
    let mut seen = BTreeSet::from([from]);
    let mut open = vec![from];
    while let Some(netns) = open.pop().and_then(|inum| state.netns.get(&inum)) {
        // Each end knows the other, but one that is half gone may know it alone.
        let onward = netns.devices.values().filter_map(|d| d.link?.netns);
        let back = state.netns.values().filter(|other| {
            other.devices.values().any(|d| d.link.is_some_and(|l| l.netns == Some(netns.inum)))
        });
        for next in onward.chain(back.map(|n| n.inum)) {
            if (view.is_empty() || view.contains(&next)) && seen.insert(next) {
                open.push(next);
            }
        }
    }
    // Those without any device belong to whoever lost one.
    let is_bare = |n: &&net::Netns| n.devices.len() < 2;
    seen.extend(state.netns.values().filter(is_bare).map(|n| n.inum));
    if !view.is_empty() {
        seen.retain(|inum| view.contains(inum));
    }
    seen
}

/// Reads the firewalls: each by its own tools, side by side.
async fn read_rules(state: &mut NetworkState, wanted: &BTreeSet<Inum>) {
    let jobs: Vec<_> = state
        .netns
        .values()
        .filter(|n| wanted.contains(&n.inum))
        .map(|n| {
            let (inum, path) = (n.inum, n.path.clone());
            tokio::task::spawn_blocking(move || (inum, firewall::read_in(&path, inum)))
        })
        .collect();
    for job in jobs {
        let Ok((inum, read)) = job.await else { continue };
        let Some(detail) = state.netns.get_mut(&inum).and_then(|n| n.detail.as_mut()) else {
            continue;
        };
        match read {
            Ok(firewall) => detail.firewall = firewall,
            Err(error) => detail.unread.push(format!("firewall rules: {error}")),
        }
    }
}

/// What a diagnosis is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    /// One target.
    Target,
    /// The connections that a filter lets through.
    Chosen {
        /// Until when they were watched, CLOCK_MONOTONIC.
        until_ns: u64,
    },
    /// The whole node: what is configured as well.
    Everything,
}

/// Concludes from what was seen and read.
fn judge(
    target: Option<Target>,
    probes: Vec<Probed>,
    journeys: Vec<Journey>,
    mut state: NetworkState,
    (node, what): (&Node, Watched),
) -> Outcome {
    if !node.near.is_empty() {
        view::restrict_state(&mut state, &node.near);
    }
    let view = &node.view;
    let journeys = match view.is_empty() {
        true => journeys,
        false => {
            view::restrict_state(&mut state, view);
            view::restrict_journeys(journeys, view, &state)
        }
    };
    let mut case = Case::new(target, probes, &journeys, &state);
    case.before = node.counters();
    case.view = view.iter().copied().collect();
    let mut diagnosis = match what {
        Watched::Target => {
            case.ways = ask::ways(&case);
            conclude(&case)
        }
        Watched::Chosen { until_ns } => passive::judge(&mut case, until_ns),
        Watched::Everything => {
            let (ways, sentence) = check::needed(&case);
            case.ways = check::unanswered(&case);
            case.ways.extend(ways);
            let mut diagnosis = conclude(&case);
            diagnosis.checked.push(sentence);
            diagnosis
        }
    };
    diagnosis.checked.extend(node.unread.clone());
    let (target, probes) = (case.target.take(), std::mem::take(&mut case.probes));
    Outcome { target, probes, diagnosis, journeys }
}
