//! Loading: constants into `.rodata`, programs and maps into the kernel.

use std::os::fd::AsFd as _;

use aya::maps::{Array, HashMap, Map, RingBuf};
use aya::{Ebpf, EbpfLoader};
use tracer_common::offsets::{KernelOffsets, Options};
use tracer_common::{Control, Filter, Portal, SCRATCH_SLOTS};

use super::attached::{Attached, Backends, ProbeStatus};
use super::clsact::Clsact;
use super::functions::{Functions, no_links};
use super::log::KernelLog;
use super::netfilter::NetfilterPrograms;
use super::raw::RawObject;
use super::ring::Ring;
use super::stats::{Counters, missed_runs};
use super::{Error, attach, conntrack};
use crate::kernel::btf::KernelBtf;

/// The object, as `build.rs` found it; empty when the kernel side has not been built.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pkttrace-ebpf"));

/// How many entrances a filter may have.
const ENTRANCES: u32 = 16_384;

/// What the kernel side is loaded with.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// What to follow.
    pub filter: Filter,
    /// Where the Service is reached, when the filter asks for one.
    pub portals: Vec<Portal>,
    /// Whether the filter may be given entrances.
    pub has_entrances: bool,
    /// Where this kernel keeps its fields.
    pub offsets: KernelOffsets,
    /// Size of the event ring, a power of two, bytes.
    pub ring_bytes: u32,
    /// Journeys admitted in a second, 0 for no limit.
    pub max_journeys: u64,
    /// What to attach.
    pub backends: Backends,
    /// Let the kernel side log (aya-log).
    pub debug: bool,
}

/// The kernel side: loaded, and attached as far as this kernel allows.
#[derive(Debug)]
pub struct KernelSide {
    pub(super) ebpf: Ebpf,
    pub(super) netfilter: Option<NetfilterPrograms>,
    pub(super) functions: Option<Functions>,
    pub(super) raw: RawObject,
    pub(super) attached: Attached,
    pub(super) options: LoadOptions,
    /// Entries of packets under way that were aged out so far.
    pub(super) aged: u64,
    /// All entries that were aged out so far.
    pub(super) aged_held: u64,
    log: Option<KernelLog>,
    ring: Ring,
    /// Lost events that were told already.
    pub(super) lost: u64,
    /// Those among them of which it is not known whose they are.
    pub(super) lost_unknown: u64,
    /// The programs have been told how conntrack keeps connections.
    knows_connections: bool,
}

impl KernelSide {
    /// Loads the programs and attaches those that are global.
    ///
    /// # Errors
    ///
    /// See [`Error`]; a probe point that this kernel lacks is no error but a [`ProbeStatus`].
    pub fn load(options: LoadOptions, btf: &KernelBtf) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NotBuilt);
        }
        let arguments = |name| btf.tracepoint_arguments(name).unwrap_or(0);
        let constants = Options {
            ring_bytes: u64::from(options.ring_bytes),
            max_journeys: options.max_journeys,
            consume_has_location: u8::from(arguments("consume_skb") > 1),
            kfree_has_reason: u8::from(arguments("kfree_skb") > 2),
            debug: u8::from(options.debug),
            reserved: 0,
            queue_purge: btf
                .enumeration("skb_drop_reason", "SKB_DROP_REASON_")
                .iter()
                .find_map(|(n, name)| (name == "QUEUE_PURGE").then_some(*n))
                .unwrap_or(0),
        };
        let mut ebpf = EbpfLoader::new()
            // No program asks to be relocated by the kernel's types.
            .btf(None)
            .override_global("OFFSETS", &options.offsets, true)
            .override_global("FILTER", &options.filter, true)
            .override_global("OPTIONS", &constants, true)
            .map_max_entries("EVENTS", options.ring_bytes)
            .map_max_entries("SCRATCH", scratch_slots())
            .map_max_entries(
                "PORTALS",
                u32::try_from(options.portals.len().max(1)).unwrap_or(u32::MAX),
            )
            .map_max_entries("ENTRANCES", if options.has_entrances { ENTRANCES } else { 1 })
            .load(OBJECT)
            .map_err(not_permitted)?;
        let events = ebpf.take_map("EVENTS").ok_or(Error::NoMap("EVENTS"))?;
        let raw = RawObject::prepare(OBJECT, &ebpf, &events)?;
        let mut attached = Attached::default();
        let mut options = options;
        if !btf.has_structure("tcx_link") {
            // Even without classifiers of our own: a killed process may have left some.
            attached.clsact = Some(Clsact::default());
            if options.backends.tc && !options.backends.clsact {
                let why =
                    "this kernel has no tcx links (since 6.6); `--probes tp,fn,tc` uses clsact";
                attached.missing("tc:devices", why.to_owned());
                options.backends.tc = false;
            }
        }
        let netfilter = match options.backends.nf.then(|| NetfilterPrograms::load(&raw)) {
            Some(Ok(programs)) => Some(programs),
            Some(Err(e)) => {
                attached.missing("nf:hooks", no_links(&e));
                None
            }
            None => None,
        };
        attached.per_netns = netfilter.is_some();
        let ring =
            RingBuf::try_from(events).map_err(|source| Error::Map { name: "EVENTS", source })?;
        let log = if options.debug { Some(KernelLog::open(&mut ebpf)?) } else { None };
        let mut side = Self {
            ebpf,
            netfilter,
            functions: None,
            raw,
            attached,
            options,
            aged: 0,
            aged_held: 0,
            log,
            ring: Ring::new(ring),
            lost: 0,
            lost_unknown: 0,
            knows_connections: false,
        };
        let portals = side.options.portals.clone();
        replace(&mut side.hash::<Portal, u8>("PORTALS")?, "PORTALS", portals.into_iter())?;
        attach::global(&side.raw, side.options.backends, &mut side.attached, btf)?;
        if side.options.backends.func {
            let has_links = side.netfilter.is_some();
            let (functions, words) = Functions::attach(&side.raw, &mut side.ebpf, btf, has_links);
            side.functions = Some(functions);
            side.tell(&words)?;
        }
        side.learn_connections(btf)?;
        Ok(side)
    }

    /// Attaches to functions of modules that were loaded since.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn attach_modules(&mut self) -> Result<(), Error> {
        let has_functions = self.functions.as_ref().is_some_and(Functions::has_news);
        if !has_functions && (self.knows_connections || !conntrack::is_loaded()) {
            return Ok(());
        }
        // Read anew: it is large, and modules are loaded rarely.
        let Ok(btf) = KernelBtf::read(std::path::Path::new(crate::kernel::btf::VMLINUX)) else {
            return Ok(());
        };
        self.learn_connections(&btf)?;
        let Some(functions) = self.functions.as_mut().filter(|_| has_functions) else {
            return Ok(());
        };
        let words = functions.attach_waiting(&self.raw, &mut self.ebpf, &btf);
        self.tell(&words)
    }

    /// Tells the programs how conntrack keeps connections, once it is there.
    fn learn_connections(&mut self, btf: &KernelBtf) -> Result<(), Error> {
        if self.knows_connections || !conntrack::is_loaded() {
            return Ok(());
        }
        // Also when nothing was found: it will not be said later.
        self.knows_connections = true;
        self.tell(&conntrack::layout(btf))
    }

    fn tell(&mut self, words: &[(Control, u64)]) -> Result<(), Error> {
        words.iter().try_for_each(|(word, value)| self.control(*word, *value))
    }

    /// The events that wait in the ring, and what is attached.
    pub fn ring_and_attached(&mut self) -> (&mut Ring, &Attached) {
        (&mut self.ring, &self.attached)
    }

    /// Prints what the kernel side has logged.
    pub fn print_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.print();
        }
    }

    /// How each probe point is attached, or why not.
    #[must_use]
    pub fn probes(&self) -> Vec<ProbeStatus> {
        let mut all = self.attached.statuses();
        all.extend(self.functions.iter().flat_map(Functions::statuses));
        all
    }

    /// The counters of the kernel side, summed over CPUs.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn counters(&self) -> Result<Counters, Error> {
        let mut counters = Counters::read(self.map("STATS")?)?;
        for tracepoint in &self.attached.tracepoints {
            counters.missed_runs += missed_runs(tracepoint.program.as_fd());
        }
        Ok(counters)
    }

    /// Lets journeys begin: everything is attached.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn enable(&mut self) -> Result<(), Error> {
        self.control(Control::Enabled, 1)
    }

    /// Writes a word that the kernel side reads.
    pub(super) fn control(&mut self, word: Control, value: u64) -> Result<(), Error> {
        let failed = |source| Error::Map { name: "CONTROL", source };
        let map = self.ebpf.map_mut("CONTROL").ok_or(Error::NoMap("CONTROL"))?;
        let mut words: Array<_, u64> = Array::try_from(map).map_err(failed)?;
        words.set(word as u32, value, 0).map_err(failed)
    }

    /// Tells in which namespaces a packet may be met first (`--netns`).
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn set_netns_scope(&mut self, inums: &[u32]) -> Result<(), Error> {
        let mut scope = self.hash::<u32, u8>("SCOPE_NETNS")?;
        replace(&mut scope, "SCOPE_NETNS", inums.iter().copied())
    }

    /// Tells by which addresses and ports what is asked for is reached from elsewhere.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn set_entrances(&mut self, entrances: &[Portal]) -> Result<(), Error> {
        let mut map = self.hash::<Portal, u8>("ENTRANCES")?;
        let kept = entrances.iter().take(ENTRANCES as usize).copied();
        replace(&mut map, "ENTRANCES", kept)
    }

    /// Tells on which devices (namespace, index) a packet may be met first (`--dev`).
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses.
    pub fn set_device_scope(&mut self, devices: &[(u32, u32)]) -> Result<(), Error> {
        let keys = devices.iter().map(|(netns, dev)| u64::from(*netns) << 32 | u64::from(*dev));
        let keys: Vec<u64> = keys.collect();
        let mut scope = self.hash::<u64, u8>("SCOPE_DEV")?;
        replace(&mut scope, "SCOPE_DEV", keys.into_iter())
    }

    pub(super) fn map(&self, name: &'static str) -> Result<&Map, Error> {
        self.ebpf.map(name).ok_or(Error::NoMap(name))
    }

    pub(super) fn hash<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &'static str,
    ) -> Result<HashMap<&mut aya::maps::MapData, K, V>, Error> {
        let map = self.ebpf.map_mut(name).ok_or(Error::NoMap(name))?;
        HashMap::try_from(map).map_err(|source| Error::Map { name, source })
    }
}

/// Makes the keys of a scope map exactly `wanted`.
pub(super) fn replace<K: aya::Pod + Ord>(
    map: &mut HashMap<&mut aya::maps::MapData, K, u8>,
    name: &'static str,
    wanted: impl Iterator<Item = K>,
) -> Result<(), Error> {
    let failed = |source| Error::Map { name, source };
    let mut stale: std::collections::BTreeSet<K> = map.keys().filter_map(Result::ok).collect();
    for key in wanted {
        stale.remove(&key);
        map.insert(key, 1, 0).map_err(failed)?;
    }
    for key in stale {
        map.remove(&key).map_err(failed)?;
    }
    Ok(())
}

/// How many programs may read packets at once on this machine.
pub(super) fn scratch_slots() -> u32 {
    // An estimate that is too low costs nothing but the packets on the CPUs beyond it.
    let cpus = aya::util::nr_cpus().unwrap_or(1);
    u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(SCRATCH_SLOTS)
}

pub(super) fn not_permitted(error: aya::EbpfError) -> Error {
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<std::io::Error>()
            && io.raw_os_error() == Some(libc::EPERM)
        {
            return Error::NotPermitted;
        }
        cause = e.source();
    }
    Error::Load(error)
}
