//! The node that is counted on: its namespaces, devices and owners, kept current, and what the
//! filter's names mean there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tracer_common::offsets::KernelOffsets;
use tracer_common::perf::PerfConfig;
use tracer_common::{Filter, Portal};

use crate::bpf::PerfSide;
use crate::cli::filter::FilterArgs;
use crate::config::{Config, add_service};
use crate::kernel::btf::{KernelBtf, VMLINUX};
use crate::kernel::{self, offsets};
use crate::net::watch::{Change, Watcher};
use crate::net::{self, Device, Inum, Netns, NetworkState};
use crate::owner::{self, Owners};
use crate::report;
use crate::source;

/// Namespaces that are gone whose names are remembered: what was lost in them is still told.
const GONE: usize = 1_024;

/// The node.
pub struct Node {
    state: NetworkState,
    gone: BTreeMap<Inum, Netns>,
    watcher: Watcher,
    changes: mpsc::Receiver<Change>,
    owners: owner::Keeper,
    /// Owners of what is gone, too.
    known_owners: BTreeMap<Inum, report::Owner>,
    config: Config,
}

/// What the kernel side has to be loaded with.
pub struct Asked {
    /// All there is to count when it has no terms.
    pub filter: Filter,
    /// Where the Service is reached.
    pub portals: Vec<Portal>,
    /// Where this kernel keeps its fields.
    pub offsets: KernelOffsets,
    /// Likewise.
    pub config: PerfConfig,
    /// Its type information.
    pub btf: KernelBtf,
}

impl Node {
    /// Reads the node, and resolves the filter on it.
    ///
    /// # Errors
    ///
    /// What keeps it from running, in one line.
    pub async fn start(args: &FilterArgs) -> Result<(Self, Asked)> {
        let _ = crate::descriptors::raise();
        let config = Config::capture(args)?;
        let btf = KernelBtf::read(Path::new(VMLINUX))?;
        let offsets = offsets::find(&btf)?;
        let (state, _) = net::snapshot::take().await?;
        let owners = owner::scan_in_time().await?;
        source::check_names(&config, &state, &owners)?;
        // Without a filter also what is no packet of IP or ARP.
        let is_all = FilterArgs { no_replies: false, ..args.clone() } == FilterArgs::default();
        let mut filter = if is_all { Filter::default() } else { config.filter };
        let mut portals = Vec::new();
        if let Some(spec) = &config.service {
            let service = source::find_service(&state, spec).await?;
            portals = add_service(&mut filter, &service).context("--service")?;
        }
        let asked = Asked { filter, portals, offsets, config: kernel::perf::config(&btf), btf };
        let (watcher, changes) = Watcher::start(state.clone());
        let known_owners = owners.report();
        let node = Self {
            state,
            gone: BTreeMap::new(),
            watcher,
            changes,
            owners: owner::Keeper::start(owners),
            known_owners,
            config,
        };
        Ok((node, asked))
    }

    /// Waits for a change of the node and follows it; true when names may mean something else now.
    pub async fn follow_change(&mut self) -> bool {
        tokio::select! {
            change = self.changes.recv() => {
                let Some(change) = change else { return std::future::pending().await };
                let mut is_other = self.follow(change);
                // The rest of a burst, before anything else gets its turn.
                while let Ok(change) = self.changes.try_recv() {
                    is_other |= self.follow(change);
                }
                is_other
            }
            () = self.owners.changed() => {
                self.known_owners.extend(self.owners.owners().report());
                true
            }
        }
    }

    fn follow(&mut self, change: Change) -> bool {
        if let Change::Gone(inum) = &change
            && let Some(netns) = self.state.netns.get(inum)
        {
            if self.gone.len() >= GONE {
                self.gone.pop_first();
            }
            self.gone.insert(*inum, netns.clone());
        }
        if matches!(change, Change::Appeared(_) | Change::Gone(_) | Change::Renamed(..)) {
            self.owners.look_again();
        }
        let is_other = !matches!(change, Change::Routing(_) | Change::Sysctls(..));
        self.state.apply(change);
        is_other
    }

    /// Tells the kernel side what `--netns`, `--container`, `--pod` and `--dev` mean now.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn set_scope(&self, side: &mut PerfSide) -> Result<()> {
        let mut netns = None;
        if !self.config.scope.is_empty() {
            // The names were good when it started; what they mean now is all that is asked.
            let inums = self.config.scope.resolve(&self.owners.owners()).ok().flatten();
            let inums = inums.unwrap_or_default();
            let is_named = self.config.scope.pod.is_some() || self.config.scope.container.is_some();
            let addresses = if is_named { self.addresses(inums.iter()) } else { Vec::new() };
            side.set_scope(&inums.iter().copied().collect::<Vec<_>>(), &addresses)?;
            netns = Some(inums);
        }
        if let Some(name) = &self.config.dev {
            let is_in = |n: &&Netns| netns.as_ref().is_none_or(|inums| inums.contains(&n.inum));
            let devices: Vec<(u32, u32)> = self
                .state
                .netns
                .values()
                .filter(is_in)
                .flat_map(|n| n.devices.values().map(move |d| (n.inum, d)))
                .filter(|(_, d)| d.name == *name)
                .map(|(inum, d)| (inum, d.ifindex))
                .collect();
            side.set_devices(&devices)?;
        }
        Ok(())
    }

    /// The addresses of namespaces by which others know them.
    fn addresses<'a>(&self, inums: impl Iterator<Item = &'a Inum>) -> Vec<[u32; 4]> {
        let netns = inums.filter_map(|inum| self.state.netns.get(inum));
        let addresses = netns.flat_map(|n| n.devices.values()).flat_map(|d| &d.addresses);
        let is_known = |addr: &IpAddr| match addr {
            IpAddr::V4(addr) => !addr.is_loopback() && !addr.is_link_local(),
            IpAddr::V6(addr) => !addr.is_loopback() && !addr.is_unicast_link_local(),
        };
        addresses.map(|(addr, _)| *addr).filter(is_known).map(words).collect()
    }

    /// The state of the node.
    #[must_use]
    pub fn state(&self) -> &NetworkState {
        &self.state
    }

    /// Only the namespaces that the filter names, if it names some.
    #[must_use]
    pub fn state_in_scope(&self) -> NetworkState {
        let mut state = self.state.clone();
        if let Some(inums) = self.config.scope.resolve(&self.owners.owners()).ok().flatten() {
            state.netns.retain(|inum, _| inums.contains(inum));
        }
        state
    }

    /// Whether the filter names a namespace, or none.
    #[must_use]
    pub fn is_in_scope(&self, netns: Inum) -> bool {
        let named = self.config.scope.resolve(&self.owners.owners()).ok().flatten();
        named.is_none_or(|inums| inums.contains(&netns))
    }

    /// Whose the namespaces are.
    #[must_use]
    pub fn owners(&self) -> Arc<Owners> {
        self.owners.owners()
    }

    /// What a report says beside the packets themselves.
    #[must_use]
    pub fn context(&self) -> report::Context {
        report::Context {
            node: crate::output::node_name(),
            clock_offset_ns: crate::bpf::clock_offset_ns(),
            owners: self.known_owners.clone(),
        }
    }

    /// A namespace, gone or not.
    fn known(&self, inum: Inum) -> Option<&Netns> {
        self.state.netns.get(&inum).or_else(|| self.gone.get(&inum))
    }

    /// A namespace by its name.
    #[must_use]
    pub fn netns(&self, inum: Inum) -> report::Netns {
        let name = self.known(inum).map_or_else(|| format!("net:[{inum}]"), |n| n.name.clone());
        report::Netns { inum, name }
    }

    /// A device, gone with its namespace or not.
    #[must_use]
    pub fn device(&self, inum: Inum, ifindex: u32) -> Option<&Device> {
        self.known(inum)?.devices.get(&ifindex)
    }

    /// A device by its name.
    #[must_use]
    pub fn dev(&self, inum: Inum, index: u32) -> Option<report::Dev> {
        let name =
            || self.device(inum, index).map_or_else(|| index.to_string(), |d| d.name.clone());
        (index != 0).then(|| report::Dev { index, name: name() })
    }

    /// The owner of a namespace.
    #[must_use]
    pub fn owner(&self, inum: Inum) -> Option<&report::Owner> {
        self.known_owners.get(&inum)
    }

    /// Ends the watching.
    pub async fn stop(self) {
        drop(self.changes);
        self.watcher.stop().await;
    }
}

/// An address as packets have it; IPv4 takes the first word.
fn words(addr: IpAddr) -> [u32; 4] {
    let mut bytes = [0; 16];
    match addr {
        IpAddr::V4(addr) => bytes[..4].copy_from_slice(&addr.octets()),
        IpAddr::V6(addr) => bytes = addr.octets(),
    }
    let word = |n: usize| u32::from_ne_bytes([bytes[n], bytes[n + 1], bytes[n + 2], bytes[n + 3]]);
    [word(0), word(4), word(8), word(12)]
}
