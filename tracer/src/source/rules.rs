//! The exact rules (`--rules`): nftables' tracing in every namespace that has rules or gets some,
//! and the rules as configured, read again when they change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::firewall::{self, Destinations, Firewall};
use crate::journey::{Journey, Nat, NatKind};
use crate::net::detail::IpvsService;
use crate::net::inspect::virtual_servers_here;
use crate::net::{Inum, Netns, NetworkState, setns};
use crate::nftrace::{Attribution, Lives, Told, Tracer, Wanted, Watch};

use super::translations::{self, Place};

/// How long rules have to be left alone before they are read again: a restore is many changes.
const SETTLED: Duration = Duration::from_millis(200);
/// How often namespaces without rules are asked whether they have any by now.
const LOOK: Duration = Duration::from_millis(100);

/// The rules of a namespace, and which tables there were when reading them began.
type Read = (Inum, Place, Lives);

/// Rules and what packets met of them.
#[derive(Debug)]
pub(super) struct Rules {
    /// What to trace, as the filter says it.
    wanted: Wanted,
    /// And with what translations make of it.
    wide: Wanted,
    /// The translations of each namespace whose rules were read.
    translating: BTreeMap<Inum, Place>,
    tracers: BTreeMap<Inum, Tracer>,
    /// Namespaces without rules so far.
    waiting: BTreeMap<Inum, (Watch, Netns)>,
    looked: Instant,
    /// Namespaces with rules of which this kernel tells only that they change.
    untold: BTreeMap<Inum, Watch>,
    attribution: Attribution,
    /// The rules that nobody tells of: those of iptables-legacy, those at devices, and all where
    /// tracing cannot be had.
    computed: BTreeMap<Inum, Firewall>,
    /// Where all rules can lead.
    destinations: BTreeMap<Inum, Destinations>,
    /// Last change, and how to get there.
    changed: BTreeMap<Inum, (Instant, Netns)>,
    places: BTreeMap<Inum, Netns>,
    /// Being read.
    reading: BTreeSet<Inum>,
    sender: Sender<Read>,
    read: Receiver<Read>,
    overran: bool,
    notes: Vec<String>,
}

impl Rules {
    pub(super) fn new(wanted: Wanted) -> Self {
        let (sender, read) = channel();
        Self {
            wide: wanted.clone(),
            wanted,
            translating: BTreeMap::new(),
            tracers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            looked: Instant::now(),
            untold: BTreeMap::new(),
            attribution: Attribution::default(),
            computed: BTreeMap::new(),
            destinations: BTreeMap::new(),
            changed: BTreeMap::new(),
            places: BTreeMap::new(),
            reading: BTreeSet::new(),
            sender,
            read,
            overran: false,
            notes: Vec::new(),
        }
    }

    /// Switches tracing on in a namespace, as soon as it has rules at all.
    pub(super) fn start(&mut self, netns: &Netns) {
        if self.places.contains_key(&netns.inum) {
            return;
        }
        match self.try_start(netns) {
            Ok(()) => {}
            // It has gone meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                self.notes.push(format!("--rules: nftables tracing in {}: {error}", netns.name));
            }
        }
    }

    fn try_start(&mut self, netns: &Netns) -> std::io::Result<()> {
        let place = Netns {
            inum: netns.inum,
            name: netns.name.clone(),
            path: netns.path.clone(),
            // Its addresses are those that a masquerading rule may use.
            devices: netns.devices.clone(),
            ..Netns::default()
        };
        let mut has_rules = self.trace(netns)?;
        if !has_rules && !self.waiting.contains_key(&netns.inum) {
            self.waiting.insert(netns.inum, (Watch::start(netns)?, place.clone()));
            // Rules may have come just before it listened.
            has_rules = self.trace(netns)?;
        }
        let has_legacy =
            || setns::run_in_inum(&netns.path, netns.inum, || Ok(firewall::has_legacy_here()));
        if has_rules {
            self.waiting.remove(&netns.inum);
        } else if !has_legacy().unwrap_or(false) {
            return Ok(());
        }
        self.places.insert(netns.inum, place);
        self.read(netns.inum);
        Ok(())
    }

    /// Has nftables tell what packets meet, or else notes that it does not. False without rules.
    fn trace(&mut self, netns: &Netns) -> std::io::Result<bool> {
        match Tracer::start(netns, &self.wide) {
            Ok(None) => return Ok(false),
            Ok(Some(tracer)) => _ = self.tracers.insert(netns.inum, tracer),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                if self.untold.is_empty() {
                    self.notes.push(
                        "--rules: this kernel cannot be asked which rules packets meet (since \
                         5.12); they are computed from the configuration"
                            .to_owned(),
                    );
                }
                self.untold.insert(netns.inum, Watch::start(netns)?);
            }
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    /// Begins where there were no rules and are some now.
    fn look(&mut self) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let news = self
            .waiting
            .values_mut()
            .filter_map(|(watch, place)| watch.has_news().then(|| place.clone()));
        for place in news.collect::<Vec<_>>() {
            // Those of iptables-legacy may be known already.
            self.places.remove(&place.inum);
            self.start(&place);
        }
    }

    /// Lets go of a namespace.
    pub(super) fn stop(&mut self, netns: Inum) {
        self.tracers.remove(&netns);
        self.waiting.remove(&netns);
        self.untold.remove(&netns);
        self.places.remove(&netns);
        self.changed.remove(&netns);
        self.attribution.forget(netns);
        self.computed.remove(&netns);
        self.destinations.remove(&netns);
        self.translating.remove(&netns);
    }

    /// Waits until the rules of all namespaces have been read.
    pub(super) fn settle(&mut self) {
        while !self.reading.is_empty() {
            let Ok((netns, place, lives)) = self.read.recv() else { return };
            self.take(netns, place, lives);
        }
        self.widen();
    }

    /// Takes over what was told since, and follows changes.
    pub(super) fn turn(&mut self) {
        self.look();
        let mut has_read = false;
        while let Ok((netns, place, lives)) = self.read.try_recv() {
            self.take(netns, place, lives);
            has_read = true;
        }
        if has_read {
            self.widen();
        }
        let (mut news, mut refused) = (Vec::new(), Vec::new());
        for (netns, tracer) in &mut self.tracers {
            let (attribution, own) = (&mut self.attribution, tracer.table.clone());
            let drained = tracer.drain(|told| match told {
                Told::Step(step) => attribution.push(*netns, step, &own),
                Told::TableGone(family, table) => attribution.table_gone(*netns, family, &table),
            });
            if drained.overran {
                self.overran = true;
                attribution.lost(*netns);
            }
            if drained.changed {
                news.push(*netns);
            }
            if drained.refused {
                refused.push(*netns);
            }
        }
        self.widen_refused(&refused);
        let told = self.untold.iter_mut().filter_map(|(n, watch)| watch.has_news().then_some(*n));
        news.extend(told);
        for netns in news {
            if let Some(place) = self.places.get(&netns) {
                self.changed.insert(netns, (Instant::now(), place.clone()));
            }
        }
        let due: Vec<Inum> = self
            .changed
            .iter()
            .filter(|(netns, (at, _))| at.elapsed() > SETTLED && !self.reading.contains(netns))
            .map(|(netns, _)| *netns)
            .collect();
        for netns in due {
            self.changed.remove(&netns);
            self.read(netns);
        }
    }

    /// Names the rules at the hops of a journey.
    pub(super) fn attribute(&mut self, journey: &mut Journey, state: &NetworkState) {
        self.attribution.attribute(journey);
        for (netns, firewall) in &self.computed {
            if journey.hops.iter().any(|hop| hop.netns == *netns) {
                firewall::infer(journey, *netns, firewall, state);
            }
        }
        for nat in &journey.nat {
            let Some(hop) = journey.hops.get_mut(nat.hop) else { continue };
            if hop.note.is_none() && self.is_stale(nat, hop.netns, state) {
                hop.note = Some(format!("stale: no rule leads to {} any more", nat.after.dst));
            }
        }
    }

    /// Whether conntrack translates as a rule did that is gone. Only where the rules are known as
    /// they are now (changes of iptables-legacy are not told), and know the destination that was asked
    /// for.
    fn is_stale(&self, nat: &Nat, netns: Inum, state: &NetworkState) -> bool {
        if nat.kind != NatKind::Dnat
            || self.computed.contains_key(&netns)
            || self.changed.contains_key(&netns)
            || self.reading.contains(&netns)
        {
            return false;
        }
        let to = nat.after.dst;
        let has = |n: &Netns| n.devices.values().any(|d| d.addresses.iter().any(|(a, _)| *a == to));
        let is_local = state.netns.get(&netns).is_some_and(has);
        let destinations = self.destinations.get(&netns);
        destinations.is_some_and(|d| d.speak_of(nat.before.dst) && !d.may_be(to)) && !is_local
    }

    /// What could not be done, once.
    pub(super) fn take_notes(&mut self) -> Vec<String> {
        if std::mem::take(&mut self.overran) {
            self.notes.push(
                "--rules: nftables told more than could be read in time; some packets have no rule"
                    .to_owned(),
            );
        }
        std::mem::take(&mut self.notes)
    }

    fn take(&mut self, netns: Inum, place: Place, lives: Lives) {
        self.reading.remove(&netns);
        let firewall = &place.firewall;
        self.attribution.set_rules(netns, firewall, lives);
        self.cover_bridge(netns, firewall);
        self.destinations.insert(netns, Destinations::of(firewall));
        let is_untold = self.untold.contains_key(&netns);
        match if is_untold { Some(firewall.clone()) } else { firewall.untold() } {
            Some(rules) => _ = self.computed.insert(netns, rules),
            None => _ = self.computed.remove(&netns),
        }
        if self.places.contains_key(&netns) {
            self.translating.insert(netns, place);
        }
    }

    /// Has every namespace trace what all translations together make of what is wanted.
    fn widen(&mut self) {
        let (wide, why) = translations::widened(&self.wanted, self.translating.values());
        if wide != self.wide
            && let Some(why) = why
        {
            self.notes.push(format!("--rules: more packets are traced than asked for: {why}"));
        }
        self.wide = wide;
        for (netns, tracer) in &mut self.tracers {
            let has_nat = self.translating.get(netns).is_some_and(Place::translates);
            // A namespace that has gone, or a refusal that comes later.
            if let Err(error) = tracer.follow(&self.wide, has_nat) {
                log::debug!("nftables tracing in {netns}: {error}");
            }
        }
    }

    /// Traces everything where the kernel does not take more exact rules.
    fn widen_refused(&mut self, refused: &[Inum]) {
        for netns in refused {
            let Some(tracer) = self.tracers.get_mut(netns) else { continue };
            let is_new = tracer.follow(&Wanted::everything(), false).is_ok();
            let name = self.places.get(netns).map_or("a namespace", |place| &place.name);
            if is_new {
                self.notes.push(format!(
                    "--rules: more packets are traced than asked for in {name}: the kernel does \
                     not take more exact rules"
                ));
            }
        }
    }

    /// Starts tracing anew when the first rules for bridged frames have come: they take a table of
    /// their own. What was not yet read of the old trace is lost.
    fn cover_bridge(&mut self, netns: Inum, firewall: &Firewall) {
        let is_covered = self.tracers.get(&netns).is_none_or(|tracer| tracer.has_bridge);
        if is_covered || !firewall.tables.iter().any(|t| t.family == "bridge") {
            return;
        }
        // First: its tables go with it, and have the same name.
        self.tracers.remove(&netns);
        self.attribution.lost(netns);
        if let Some(place) = self.places.remove(&netns) {
            self.start(&place);
        }
    }

    /// Reads the rules of a namespace on a thread of its own.
    fn read(&mut self, netns: Inum) {
        let Some(place) = self.places.get(&netns) else { return };
        let (path, sender) = (place.path.clone(), self.sender.clone());
        let addresses = place.devices.values().flat_map(|d| &d.addresses).map(|(addr, _)| *addr);
        let locals = addresses.filter(|addr| !addr.is_loopback()).collect();
        let lives = self.attribution.lives(netns);
        self.reading.insert(netns);
        std::thread::spawn(move || {
            // A namespace that has gone has no rules.
            let firewall = firewall::read_in(&path, netns).unwrap_or_default();
            let servers = setns::run_in_inum(&path, netns, virtual_servers_here);
            let real = |s: IpvsService| (s.addr, s.servers.iter().map(|(a, ..)| *a).collect());
            let ipvs = servers.unwrap_or_default().into_iter().map(real).collect();
            // Nobody to tell is no harm: the trace has ended.
            let _ = sender.send((netns, Place { firewall, locals, ipvs }, lives));
        });
    }
}
