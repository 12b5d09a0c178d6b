//! Events of the running kernel, and the state of the node they refer to.
//!
//! Keeps the kernel side attached to what there is: namespaces and devices that appear while it
//! runs are attached to, those that go are let go of at once, since a link would keep them alive.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use tokio::sync::mpsc;

use crate::bpf::{Counters, KernelSide, LoadOptions, ProbeStatus};
use crate::cli::filter::Network;
use crate::config::Config;
use crate::event::Event;
use crate::kernel::{btf::KernelBtf, btf::VMLINUX, names::KernelNames, offsets};
use crate::net::watch::{Change, DeviceChange, Watcher};
use crate::net::{self, Inum, Netns, NetworkState};

/// Above this many namespaces, only those that forward, the node's own, and those that hold an
/// address of the filter are attached to from the start, the others when a followed packet enters
/// them: every netfilter position costs time to attach, and every packet there. What such a first
/// packet did in the hooks is missing, and its journey says so.
const ATTACH_ALL: usize = 512;
/// Records read from the ring before other work gets its turn.
const BATCH: usize = 65_536;

/// A source of live events.
#[derive(Debug)]
pub struct Live {
    side: KernelSide,
    state: NetworkState,
    watcher: Watcher,
    changes: mpsc::Receiver<Change>,
    netns_spec: Option<String>,
    dev_spec: Option<String>,
    tc_only_beside_others: bool,
    /// Addresses that the filter asks for.
    networks: Vec<Network>,
    /// Namespaces without probe points of their own that followed packets have entered.
    entered: BTreeSet<Inum>,
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
        raise_descriptor_limit();
        let btf = KernelBtf::read(Path::new(VMLINUX))?;
        let offsets = offsets::find(&btf)?;
        let (state, skipped) = net::snapshot::take().await?;
        check_names(config, &state)?;
        let side = KernelSide::load(
            LoadOptions {
                filter: config.filter,
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
            netns_spec: config.netns.clone(),
            dev_spec: config.dev.clone(),
            tc_only_beside_others: config.tc_only_beside_others,
            networks: config.networks.clone(),
            entered: BTreeSet::new(),
        };
        live.set_scope()?;
        live.attach_all();
        live.side.enable()?;
        let names = KernelNames::read(&btf);
        let notes = skipped.iter().map(|s| format!("{}: {}", s.what, s.why)).collect();
        Ok(Setup { live, names, notes })
    }

    /// Hands the events that wait to `take`; returns how many there were.
    pub fn drain(&mut self, mut take: impl FnMut(Event)) -> usize {
        let mut strange = BTreeSet::new();
        let (ring, attached) = self.side.ring_and_attached();
        let count = ring.drain(BATCH, |record| {
            // Both sides are built together: a record that does not decode cannot come.
            let Ok(event) = Event::decode(record) else { return };
            if !attached.has_netns(event.netns) {
                strange.insert(event.netns);
            }
            take(event);
        });
        for inum in strange {
            if self.state.netns.contains_key(&inum) {
                self.attach(inum);
            } else {
                self.watcher.rescan_now();
            }
            self.entered.insert(inum);
        }
        count
    }

    /// Whether followed packets have been in this namespace before its probe points were.
    #[must_use]
    pub fn entered_unprepared(&self, netns: Inum) -> bool {
        self.entered.contains(&netns)
    }

    /// Waits for a change of the node and follows it. Ends only with the watcher.
    pub async fn follow_change(&mut self) {
        let Some(change) = self.changes.recv().await else {
            std::future::pending::<()>().await;
            return;
        };
        self.follow(change);
        // The rest of a burst, before anything else gets its turn.
        while let Ok(change) = self.changes.try_recv() {
            self.follow(change);
        }
        // Once a burst: it may look through all processes. The names were good when it started;
        // what they mean now is all that is asked.
        let _ = self.set_scope();
    }

    fn follow(&mut self, change: Change) {
        let devices = matches!(&change, Change::Links(_, list)
            if list.iter().any(|c| !matches!(c, DeviceChange::Changed(_))));
        let netns = match &change {
            Change::Appeared(netns) => Some(netns.inum),
            Change::Links(inum, _) => devices.then_some(*inum),
            Change::Gone(inum) => {
                self.side.detach_netns(*inum);
                None
            }
            Change::Renamed(..) | Change::Sysctls(..) => None,
        };
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
        // A failure leaves entries for the next turn.
        let _ = self.side.age();
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
        self.side.attach_netns(netns);
        for device in netns.devices.values() {
            if self.tc_only_beside_others && !self.side.has_other_classifier(netns, device) {
                continue;
            }
            // A device that went away meanwhile, or a kernel without tcx: `doctor` tells.
            let _ = self.side.attach_device(netns, device);
        }
    }

    /// Resolves `--netns` and `--dev` anew.
    fn set_scope(&mut self) -> Result<()> {
        let netns = match &self.netns_spec {
            Some(spec) => {
                let inum = net::resolve(spec).ok();
                self.side.set_netns_scope(inum.as_slice())?;
                inum
            }
            None => None,
        };
        if let Some(name) = &self.dev_spec {
            let devices: Vec<(u32, u32)> = self
                .state
                .netns
                .values()
                .filter(|n| netns.is_none_or(|inum| inum == n.inum))
                .flat_map(|n| n.devices.values().map(move |d| (n.inum, d)))
                .filter(|(_, d)| d.name == *name)
                .map(|(inum, d)| (inum, d.ifindex))
                .collect();
            self.side.set_device_scope(&devices)?;
        }
        Ok(())
    }
}

/// Whether the namespace holds an address of one of the networks.
fn holds_any(netns: &Netns, networks: &[Network]) -> bool {
    netns.devices.values().any(|d| {
        d.addresses.iter().any(|(addr, _)| networks.iter().any(|network| network.contains(*addr)))
    })
}

/// Fails early when `--netns` or `--dev` name nothing.
fn check_names(config: &Config, state: &NetworkState) -> Result<()> {
    let netns = match &config.netns {
        Some(spec) => Some(net::resolve(spec).context("--netns")?),
        None => None,
    };
    let Some(name) = &config.dev else { return Ok(()) };
    let names = |inum: Option<Inum>| {
        let namespaces = state.netns.values().filter(move |n| inum.is_none_or(|i| i == n.inum));
        namespaces.flat_map(|n| n.devices.values().map(|d| d.name.as_str()))
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

/// Links are descriptors, and there may be thousands; the hard limit is usually far higher.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only read or write the structure.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !done {
        log::debug!("cannot raise RLIMIT_NOFILE: {}", io::Error::last_os_error());
    }
}
