//! What `pkttrace diagnose` does: captures, probes, reads the configuration, concludes.

mod active;
mod answers;
mod ask;
mod check;
mod passive;
mod seen;
mod slow;
mod stalled;
mod taken;
mod upstream;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::case::{Case, Counters, Probed, Target};
use super::engine::{Diagnosis, conclude};
use super::view;
use crate::cli::filter::FilterArgs;
use crate::firewall;
use crate::journey::Journey;
use crate::net::discover::HOST;
use crate::net::{self, Inum, NetworkState, inspect};
use crate::output;
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
    /// Who sends, where that is in the view.
    from: Option<Inum>,
    /// What a packet from there can come to.
    linked: BTreeSet<Inum>,
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
        let linked = inside.map(|from| linked(&state, from, &view)).unwrap_or_default();
        let near = near(&state, &linked, &view);
        let ends = to.iter().flat_map(|to| state.holders(*to)).map(|n| n.inum).chain(from);
        let ends = ends.collect();
        let node = Self { near, from: inside, linked, view, owners, ends, ..Self::default() };
        if !node.near.is_empty() {
            // Who asks from beyond the view is entered all the same.
            let kept = node.near.iter().copied().chain(from).collect();
            view::restrict_state(&mut state, &kept);
        }
        node.details(&mut state).await;
        let unread = node.passable(&state).len().checked_sub(RULED).filter(|n| *n > 0);
        let unread = unread.map(|n| format!("not looked at: the firewall rules of {n} namespaces"));
        Ok(Self { state, unread, ..node })
    }

    /// What is near in another snapshot: what had no device before may be somebody else's by now,
    /// with the addresses that this one's have.
    fn near_in(&self, state: &NetworkState) -> BTreeSet<Inum> {
        let mut linked = self.linked.clone();
        if let Some(from) = self.from {
            linked.extend(self::linked(state, from, &self.view));
        }
        near(state, &linked, &self.view)
    }

    /// Reads the details of another snapshot of it.
    async fn details(&self, state: &mut NetworkState) {
        for (inum, name) in self.owners.iter().filter_map(|(i, o)| Some((i, called(o)?))) {
            if let Some(netns) = state.netns.get_mut(&inum).filter(|n| n.name != HOST) {
                netns.name = name;
            }
        }
        let (idle, near) = (self.idle(state), self.near_in(state));
        let is_wanted =
            |n: &net::Netns| (near.is_empty() || near.contains(&n.inum)) && !idle.contains(&n.inum);
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
    owners.doubts().iter().for_each(|doubt| output::say(doubt));
    let resolve = |(option, name): &(&'static str, &str)| {
        owner::resolve(name, &owners).map_err(|error| anyhow!("{option}: {error}"))
    };
    let inums = names.iter().map(resolve).collect::<Result<_>>()?;
    Ok((owners, inums))
}

/// The namespaces in the view that a packet from `from` can come to: over veth pairs, whatever
/// their state.
fn linked(state: &NetworkState, from: Inum, view: &BTreeSet<Inum>) -> BTreeSet<Inum> {
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
    seen
}

/// What is worth looking at in `state`: what is linked, and those without any device, which may
/// belong to whoever lost one; the view where there is no sender in it.
fn near(state: &NetworkState, linked: &BTreeSet<Inum>, view: &BTreeSet<Inum>) -> BTreeSet<Inum> {
    if linked.is_empty() {
        return view.clone();
    }
    let bare = state.netns.values().filter(|n| n.devices.len() < 2).map(|n| n.inum);
    let bare = bare.filter(|inum| view.is_empty() || view.contains(inum));
    linked.iter().copied().chain(bare).collect()
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
    let near = node.near_in(&state);
    if !near.is_empty() {
        view::restrict_state(&mut state, &near);
    }
    let view = &node.view;
    let journeys = match view.is_empty() {
        true => journeys,
        false => view::restrict_journeys(journeys, view, &state),
    };
    let mut case = Case::new(target, probes, &journeys, &state);
    case.before = node.counters();
    case.view = view.iter().copied().collect();
    let mut diagnosis = match what {
        Watched::Target => {
            let outcomes = taken::outcomes(&case);
            case.probes.iter_mut().zip(outcomes).for_each(|(probe, came)| probe.outcome = came);
            case.ways = ask::ways(&case);
            let (long, ways) = answers::lost(&case).unzip();
            case.probes.extend(long);
            case.ways.extend(ways.into_iter().flatten());
            let diagnosis = conclude(&case);
            answers::forget(&mut case.probes);
            diagnosis
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Device, DeviceKind, Netns, Peer};

    fn device(kind: DeviceKind, ifindex: u32, link: Option<(Inum, u32)>) -> (u32, Device) {
        let link = link.map(|(netns, ifindex)| Peer { netns: Some(netns), ifindex });
        (ifindex, Device { ifindex, kind, link, ..Device::default() })
    }

    fn state(netns: &[(Inum, &[(u32, Device)])]) -> NetworkState {
        let mut state = NetworkState::default();
        for (inum, devices) in netns {
            let devices = devices.iter().cloned().collect();
            state.netns.insert(*inum, Netns { inum: *inum, devices, ..Netns::default() });
        }
        state
    }

    /// A pod that is only coming into being has no device yet; then it is another network's, with
    /// the addresses of one that is looked at.
    #[test]
    fn who_has_no_device_yet_is_not_near_for_good() {
        let lo = device(DeviceKind::Loopback, 1, None);
        let ours = [lo.clone(), device(DeviceKind::Veth, 2, Some((20, 7)))];
        let node = [lo.clone(), device(DeviceKind::Veth, 7, Some((10, 2)))];
        let theirs = [lo.clone(), device(DeviceKind::Veth, 2, Some((40, 9)))];
        let bare = [lo];
        let (from, view) = (Some(10), BTreeSet::new());
        let first = state(&[(10, &ours), (20, &node), (30, &bare), (50, &bare)]);
        let linked = linked(&first, 10, &view);
        let read = Node { near: near(&first, &linked, &view), from, linked, ..Node::default() };
        assert_eq!(read.near, [10, 20, 30, 50].into());
        let then = state(&[(10, &ours), (20, &node), (30, &theirs), (50, &bare)]);
        assert_eq!(read.near_in(&then), [10, 20, 50].into());
        // A pair that is gone by then was one of this network all the same.
        let then = state(&[(10, &bare), (20, &bare), (30, &theirs)]);
        assert_eq!(read.near_in(&then), [10, 20].into());
    }
}
