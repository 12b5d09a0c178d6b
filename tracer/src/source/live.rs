//! Events of the running kernel, and the state of the node they refer to.
//!
//! Keeps the kernel side attached to what there is: namespaces and devices that appear while it
//! runs are attached to, those that go are let go of at once, since a link would keep them alive.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use tokio::sync::mpsc;
use tracer_common::Portal;
use tracer_common::filter::terms;

use super::coverage::Coverage;
use super::entrances::{self, Goal};
use super::routes::Routes;
use super::stages::{Stages, Switch};
use crate::bpf::{self, Counters, Idle, KernelSide, LoadOptions, Misses, ProbeStatus};
use crate::cli::filter::Network;
use crate::config::{Config, add_service, portal};
use crate::descriptors;
use crate::event::Event;
use crate::journey::{Builder, Journey};
use crate::kernel::{btf::KernelBtf, btf::VMLINUX, names::KernelNames, offsets, symbols::Symbols};
use crate::net::watch::{Change, DeviceChange, Watcher};
use crate::net::{self, Device, DeviceKind, Inum, Netns, NetworkState};
use crate::nftrace::Wanted;
use crate::output;
use crate::owner::service::{self, Service};
use crate::owner::{self, Owners, Scope};

use super::rules::Rules;

/// Above this many namespaces, only those that forward, the node's own, and those that hold an
/// address of the filter are attached to from the start, the others when a followed packet enters
/// them: every netfilter position costs time to attach, and every packet there. What such a first
/// packet did in the hooks is missing, and its journey says so.
const ATTACH_ALL: usize = 512;
/// Records read from the ring before other work gets its turn.
const BATCH: usize = 8_192;

/// A source of live events.
#[derive(Debug)]
pub struct Live {
    side: KernelSide,
    state: NetworkState,
    watcher: Watcher,
    changes: mpsc::Receiver<Change>,
    owners: owner::Keeper,
    scope: Scope,
    idle: Idle,
    dev_spec: Option<String>,
    tc_only_beside_others: bool,
    /// Addresses that the filter asks for.
    networks: Vec<Network>,
    /// Entrances of the addresses that the filter asks for.
    entered: Vec<Portal>,
    /// Addresses of the scope, when its entrances were looked for last.
    surrounded: Vec<IpAddr>,
    coverage: Coverage,
    /// No probe point sees any hook.
    is_blind: bool,
    /// Journeys begin from now on.
    is_enabled: bool,
    /// None with all points attached all the time.
    stages: Option<Stages>,
    /// With `--rules`.
    rules: Option<Rules>,
    routes: Routes,
}

/// What [`Live::drain`] read. Times are CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug)]
pub struct Drained {
    /// How many.
    pub events: usize,
    /// Time of the first event that was read; 0 if there was none.
    pub first_ns: u64,
    /// Time of the newest event; 0 if there was none.
    pub newest_ns: u64,
    /// No event up to here waits any more. Behind a flood this is earlier than now, and silence
    /// since then is the reader's, not the packet's.
    pub read_to_ns: u64,
    /// There may be more.
    pub is_behind: bool,
}

/// What starting gives beside the source.
#[derive(Debug)]
pub struct Setup {
    /// The source.
    pub live: Live,
    /// The kernel's names for things.
    pub names: KernelNames,
    /// Things that could not be done, for `-v`.
    pub notes: Vec<String>,
}

impl Live {
    /// Loads and attaches everything.
    ///
    /// # Errors
    ///
    /// What keeps it from running, in one line.
    pub async fn start(config: &Config) -> Result<Setup> {
        let descriptors = descriptors::raise();
        // The kernel takes its time to write them, and so it does to verify programs.
        let symbols = std::thread::spawn(Symbols::read);
        let btf = KernelBtf::read(Path::new(VMLINUX))?;
        let offsets = offsets::find(&btf)?;
        let (state, skipped) = net::snapshot::take().await?;
        let owners = owner::scan_in_time().await?;
        if !config.quiet {
            owners.doubts().iter().for_each(|doubt| output::say(doubt));
        }
        let all = state.netns.len();
        if let Some(shortage) = descriptors::shortage(descriptors, all, all.min(ATTACH_ALL)) {
            output::say(&shortage);
        }
        check_names(config, &state, &owners)?;
        let mut filter = config.filter;
        let mut networks = config.networks.clone();
        let mut portals = Vec::new();
        if let Some(spec) = &config.service {
            let service = find_service(&state, spec).await?;
            portals = add_service(&mut filter, &service).context("--service")?;
            networks.extend(service.networks());
        }
        let goal = Goal { networks: goal_networks(config), port: config.port, proto: config.proto };
        let entered = entrances_of(&state, &goal).await?;
        filter.terms |= if entered.is_empty() { 0 } else { terms::ENTRANCES };
        let has_owner = has_owner(&config.scope);
        filter.terms |= if has_owner { terms::SURROUNDINGS } else { 0 };
        let wanted = Wanted::of(&filter, &portals).entering(&entered);
        let rules = config.rules.then(|| Rules::new(wanted));
        let side = KernelSide::load(
            LoadOptions {
                filter,
                portals,
                has_entrances: has_owner || !entered.is_empty(),
                offsets,
                ring_bytes: config.ring_bytes,
                max_journeys: config.max_journeys,
                backends: config.backends,
                debug: config.verbose > 1,
            },
            &btf,
        )?;
        let (watcher, changes) = Watcher::start(state.clone());
        let mut live = Self {
            side,
            state,
            watcher,
            changes,
            owners: owner::Keeper::start(owners),
            scope: config.scope.clone(),
            idle: config.idle,
            dev_spec: config.dev.clone(),
            tc_only_beside_others: config.tc_only_beside_others,
            networks,
            entered,
            surrounded: Vec::new(),
            coverage: Coverage::default(),
            is_blind: false,
            is_enabled: false,
            stages: None,
            rules,
            routes: Routes::default(),
        };
        if has_owner {
            live.surround()?;
        } else if !live.entered.is_empty() {
            live.side.set_entrances(&live.entered)?;
        }
        live.set_scope()?;
        live.attach_all();
        live.side.count_misses(!config.quiet)?;
        if let Some(rules) = &mut live.rules {
            rules.settle();
        }
        live.side.enable()?;
        live.is_enabled = true;
        live.stages = match config.idle {
            Idle::Warm => None,
            Idle::Cold => Some(Stages::new(bpf::monotonic_ns())),
            Idle::Armed => Some(Stages::armed()),
        };
        if live.idle == Idle::Armed && !live.side.may_watch_edges() {
            output::say(
                "--armed: this kernel has no tcx and netfilter links (Linux 6.6): packets \
                 are also watched wherever they are received and sent",
            );
        }
        let names = KernelNames::of(&btf, symbols.join().unwrap_or_default());
        if let Some(why) = live.side.blind_to_hooks() {
            live.is_blind = true;
            if !config.quiet {
                output::say(&format!("no hook of netfilter is seen: {why}"));
            }
        }
        let notes = skipped.iter().map(|s| format!("{}: {}", s.what, s.why)).collect();
        Ok(Setup { live, names, notes })
    }

    /// Hands the events that wait to `take`.
    pub fn drain(&mut self, mut take: impl FnMut(Event)) -> Drained {
        let before_ns = bpf::monotonic_ns();
        let (mut first_ns, mut newest_ns) = (0, 0);
        let mut strange = BTreeSet::new();
        let mut unrouted = BTreeSet::new();
        let routes = &self.routes;
        let (ring, attached) = self.side.ring_and_attached();
        let count = ring.drain(BATCH, |record| {
            // Both sides are built together: a record that does not decode cannot come.
            let Ok(event) = Event::decode(record) else { return };
            newest_ns = newest_ns.max(event.ktime_ns);
            first_ns = if first_ns == 0 { event.ktime_ns } else { first_ns };
            if !attached.has_netns(event.netns) {
                strange.insert(event.netns);
            }
            if !routes.is_current(event.netns) {
                unrouted.insert(event.netns);
            }
            take(event);
        });
        self.routes.read(&mut self.state, &unrouted);
        for inum in strange {
            if self.state.netns.contains_key(&inum) {
                self.attach(inum);
            } else {
                self.watcher.rescan_now();
            }
        }
        let read_to_ns = if count == BATCH { newest_ns.min(before_ns) } else { before_ns };
        Drained { events: count, first_ns, newest_ns, read_to_ns, is_behind: count == BATCH }
    }

    /// Whether packets are watched only where they begin and are dropped.
    #[must_use]
    pub fn is_thin(&self) -> bool {
        self.stages.as_ref().is_some_and(Stages::is_thin)
    }

    /// Goes over to the other stage when that is due, and says so.
    pub fn change_stage(&mut self, has_events: bool, builder: &mut Builder) -> Option<Switch> {
        let stages = self.stages.as_mut()?;
        let switch = stages.turn(bpf::monotonic_ns(), has_events, builder.open_count())?;
        match switch {
            Switch::Thin => {
                builder.watch_thins(bpf::monotonic_ns());
                let edges: Vec<_> = self.state.netns.values().flat_map(edges).collect();
                if self.side.thin(self.idle, &edges).is_err() {
                    builder.watch_is_whole(bpf::monotonic_ns());
                    stages.is_refused(switch);
                    return None;
                }
            }
            Switch::Complete => {
                let Ok(failed) = self.side.complete(&self.state) else {
                    stages.is_refused(switch);
                    return None;
                };
                let now_ns = bpf::monotonic_ns();
                failed.into_iter().for_each(|inum| self.coverage.end(inum, now_ns));
                builder.watch_is_whole(now_ns);
            }
        }
        Some(switch)
    }

    /// Tells whose events did not fit.
    pub fn tell_lost(&mut self, builder: &mut Builder) {
        // A failure leaves them for the next turn.
        let Ok(lost) = self.side.take_lost() else { return };
        lost.known.into_iter().for_each(|(journey, events)| builder.lose(journey, events));
        if lost.has_unknown {
            builder.lose_unknown();
        }
    }

    /// What did not match, as long as that is counted.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn misses(&mut self) -> Result<Misses> {
        Ok(self.side.misses()?)
    }

    /// Counts what does not match, or no longer.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn count_misses(&mut self, is_on: bool) -> Result<()> {
        Ok(self.side.count_misses(is_on)?)
    }

    /// Reads what nftables told of the packets so far.
    pub fn drain_rules(&mut self) {
        if let Some(rules) = &mut self.rules {
            rules.turn();
        }
    }

    /// Names the rules that a journey met, and what forwarding databases decided.
    pub fn attribute(&mut self, journey: &mut Journey) {
        self.routes.decide(&mut self.state, journey);
        if let Some(rules) = &mut self.rules {
            rules.attribute(journey, &self.state);
            journey.retell(&self.state);
        }
    }

    /// What `--rules` could not do since this was asked last.
    pub fn rule_notes(&mut self) -> Vec<String> {
        self.rules.as_mut().map(Rules::take_notes).unwrap_or_default()
    }

    /// Says in a journey where hooks are missing for want of probe points.
    pub fn mark_uncovered(&self, journey: &mut Journey) {
        if self.is_blind || self.side.has_hooks_per_netns() {
            let hops = journey.hops.len();
            self.coverage.mark(journey);
            if journey.hops.len() < hops {
                journey.retell(&self.state);
            }
        }
    }

    /// Waits for a change of the node and follows it. Ends only with the watcher.
    pub async fn follow_change(&mut self) {
        let mut may_rename = true;
        tokio::select! {
            change = self.changes.recv() => {
                let Some(change) = change else { return std::future::pending().await };
                may_rename = !matches!(change, Change::Routing(_));
                self.follow(change);
                // The rest of a burst, before anything else gets its turn.
                while let Ok(change) = self.changes.try_recv() {
                    may_rename |= !matches!(change, Change::Routing(_));
                    self.follow(change);
                }
            }
            () = self.owners.changed() => {}
        }
        if !may_rename {
            return;
        }
        // What made a bridge or a table may have loaded its module.
        let _ = self.side.attach_modules();
        // Once a burst: it may look through all processes. The names were good when it started;
        // what they mean now is all that is asked.
        let _ = self.set_scope();
        if has_owner(&self.scope) {
            let _ = self.surround();
        }
    }

    fn follow(&mut self, change: Change) {
        let devices = matches!(&change, Change::Links(_, list)
            if list.iter().any(|c| !matches!(c, DeviceChange::Changed(_))));
        let netns = match &change {
            Change::Appeared(netns) => Some(netns.inum),
            Change::Links(inum, _) => devices.then_some(*inum),
            Change::Gone(inum) => {
                self.side.detach_netns(*inum);
                self.coverage.end(*inum, bpf::monotonic_ns());
                if let Some(rules) = &mut self.rules {
                    rules.stop(*inum);
                }
                None
            }
            Change::Renamed(..) | Change::Sysctls(..) | Change::Routing(_) => None,
        };
        match &change {
            Change::Links(inum, _) | Change::Routing(inum) => self.routes.changed(*inum),
            Change::Gone(inum) => self.routes.gone(*inum),
            Change::Appeared(_) | Change::Renamed(..) | Change::Sysctls(..) => {}
        }
        if matches!(change, Change::Appeared(_) | Change::Gone(_) | Change::Renamed(..)) {
            self.owners.look_again();
        }
        self.state.apply(change);
        if let Some(inum) = netns {
            self.attach(inum);
        }
    }

    /// The state of the node.
    #[must_use]
    pub fn state(&self) -> &NetworkState {
        &self.state
    }

    /// Whose the namespaces are, as last seen.
    #[must_use]
    pub fn owners(&self) -> Arc<Owners> {
        self.owners.owners()
    }

    /// How each probe point is attached.
    #[must_use]
    pub fn probes(&self) -> Vec<ProbeStatus> {
        self.side.probes()
    }

    /// The kernel side's counters.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn counters(&self) -> Result<Counters> {
        Ok(self.side.counters()?)
    }

    /// Ages out what outlived its packet.
    pub fn age(&mut self) {
        self.side.print_log();
        // A failure leaves entries, and modules, for the next turn.
        let _ = self.side.age();
        let _ = self.side.attach_modules();
    }

    /// Removes what the kernel would not remove with this process.
    pub fn remove_filters(&mut self) {
        self.side.remove_filters();
    }

    /// Lets go of everything.
    pub async fn stop(self) {
        drop(self.changes);
        self.watcher.stop().await;
    }

    fn attach_all(&mut self) {
        let few = self.state.netns.len() <= ATTACH_ALL;
        let wanted: Vec<Inum> = self
            .state
            .netns
            .values()
            .filter(|n| {
                few || n.forwards_v4
                    || n.forwards_v6
                    || n.inum == self.state.own
                    || holds_any(n, &self.networks)
            })
            .map(|n| n.inum)
            .collect();
        for inum in wanted {
            self.attach(inum);
        }
    }

    /// Attaches to a namespace and its devices, as far as that is not done.
    fn attach(&mut self, inum: Inum) {
        let Some(netns) = self.state.netns.get(&inum) else { return };
        if self.side.attach_netns(netns) {
            let now_ns = if self.is_enabled { bpf::monotonic_ns() } else { 0 };
            self.coverage.begin(inum, now_ns);
        }
        if let Some(rules) = &mut self.rules {
            rules.start(netns);
        }
        if self.stages.as_ref().is_some_and(Stages::is_thin) && self.side.may_watch_edges() {
            // One that cannot be had is told by the next turn that lets go of points.
            edges(netns).for_each(|(netns, device)| drop(self.side.attach_edge(netns, device)));
        }
        let beside = self.tc_only_beside_others.then(|| self.side.with_other_classifiers(netns));
        for device in netns.devices.values() {
            if beside.as_ref().is_some_and(|others| !others.contains(&device.ifindex)) {
                continue;
            }
            // A device that went away meanwhile, or a kernel without tcx: `doctor` tells.
            let _ = self.side.attach_device(netns, device);
        }
    }

    /// Resolves `--container` and `--pod` to addresses and entrances: their packets are followed
    /// from where they enter the node.
    fn surround(&mut self) -> Result<()> {
        let inums = self.scope.resolve(&self.owners.owners()).ok().flatten().unwrap_or_default();
        let addresses = entrances::addresses(&self.state, &inums);
        if addresses == self.surrounded {
            return Ok(());
        }
        let networks = addresses.iter().copied().map(Network::host).collect();
        let found = entrances::find(&self.state, &Goal { networks, ..Goal::default() });
        // A whole address that is no member's stands for later fragments, which are not followed
        // from there: all packets of a node's address would be.
        let mut all: Vec<Portal> = found.into_iter().filter(|p| p.port != 0).collect();
        all.extend(addresses.iter().map(|addr| portal(*addr, 0, 0)));
        self.side.set_entrances(&all)?;
        self.surrounded = addresses;
        Ok(())
    }

    /// Resolves `--netns`, `--container`, `--pod` and `--dev` anew.
    fn set_scope(&mut self) -> Result<()> {
        let mut netns = None;
        if !self.scope.is_empty() {
            let inums = self.scope.resolve(&self.owners.owners()).ok().flatten();
            let inums = inums.unwrap_or_default();
            self.side.set_netns_scope(&inums.iter().copied().collect::<Vec<_>>())?;
            netns = Some(inums);
        }
        if let Some(name) = &self.dev_spec {
            let devices: Vec<(u32, u32)> = self
                .state
                .netns
                .values()
                .filter(|n| netns.as_ref().is_none_or(|inums| inums.contains(&n.inum)))
                .flat_map(|n| n.devices.values().map(move |d| (n.inum, d)))
                .filter(|(_, d)| d.name == *name)
                .map(|(inum, d)| (inum, d.ifindex))
                .collect();
            self.side.set_device_scope(&devices)?;
        }
        Ok(())
    }
}

/// The devices by which packets enter and leave the node: hardware, and a pair whose other end is in
/// a namespace that is not to be seen from here.
fn edges(netns: &Netns) -> impl Iterator<Item = (&Netns, &Device)> {
    let is_edge = |device: &&Device| match device.kind {
        DeviceKind::Physical => device.up,
        DeviceKind::Veth => device.up && device.link.is_none_or(|peer| peer.netns.is_none()),
        _ => false,
    };
    netns.devices.values().filter(is_edge).map(move |device| (netns, device))
}

/// Whether namespaces are meant by whose they are.
fn has_owner(scope: &Scope) -> bool {
    scope.container.is_some() || scope.pod.is_some()
}

/// The addresses that are asked for as a destination, or as either end: but for whole networks,
/// which are no place to be translated to.
fn goal_networks(config: &Config) -> Vec<Network> {
    let is_host = |network: &Network| network.len == if network.addr.is_ipv4() { 32 } else { 128 };
    config.goals.iter().copied().filter(is_host).collect()
}

/// The entrances of what is asked for. Rules are read only where the node has the address: what is
/// translated to one beyond it, the packet has become when it leaves.
async fn entrances_of(state: &NetworkState, goal: &Goal) -> Result<Vec<Portal>> {
    if !state.netns.values().any(|n| holds_any(n, &goal.networks)) {
        return Ok(Vec::new());
    }
    let (state, goal) = (state.clone(), goal.clone());
    Ok(tokio::task::spawn_blocking(move || entrances::find(&state, &goal)).await?)
}

/// Whether the namespace holds an address of one of the networks.
fn holds_any(netns: &Netns, networks: &[Network]) -> bool {
    netns.devices.values().any(|d| {
        d.addresses.iter().any(|(addr, _)| networks.iter().any(|network| network.contains(*addr)))
    })
}

/// What `--service` means.
pub(crate) async fn find_service(state: &NetworkState, spec: &str) -> Result<Service> {
    let (state, spec) = (state.clone(), spec.to_owned());
    let found = tokio::task::spawn_blocking(move || service::find(&state, &spec)).await?;
    found.context("--service")
}

/// Fails early when `--netns`, `--container`, `--pod` or `--dev` name nothing.
pub(crate) fn check_names(config: &Config, state: &NetworkState, owners: &Owners) -> Result<()> {
    let netns = config.scope.resolve(owners)?;
    let netns = netns.as_ref();
    let Some(name) = &config.dev else { return Ok(()) };
    let names = |scope: Option<&BTreeSet<Inum>>| {
        let is_in = |n: &&Netns| scope.is_none_or(|inums| inums.contains(&n.inum));
        let namespaces: Vec<&Netns> = state.netns.values().filter(is_in).collect();
        namespaces.into_iter().flat_map(|n| n.devices.values().map(|d| d.name.as_str()))
    };
    if names(netns).any(|n| n == name) {
        return Ok(());
    }
    let mut near = net::near(name, names(netns));
    near.dedup();
    let hint = match near.is_empty() {
        true => String::new(),
        false => format!("; did you mean {}?", near.join(", ")),
    };
    bail!("--dev: no network namespace has a device {name:?}{hint} (`ip -br link` lists them)")
}
