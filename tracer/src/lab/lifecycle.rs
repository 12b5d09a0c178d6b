//! The life of a lab: up, open, down. A prefix is claimed by making its state directory; what
//! will be made is recorded before it is made, so `down` can also clear away half a lab.

use std::path::PathBuf;

use super::host::{Host, find_program, sysctl_path};
use super::inhabitants::{self, Inhabitant};
use super::labs::{LABS, Spec};
use super::netlink::Netlink;
use super::server::Server;
use super::state::{self, Record, StateDir};
use super::topology::{Choice, Topology};
use super::{Backend, Error, Prefix, build, daemon, netns, sys};
use crate::signals::{self, Signals};

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    pub prefix: Prefix,
    pub record: Record,
    pub spec: &'static Spec,
    state: StateDir,
}

/// How `up` came out.
#[derive(Debug)]
pub enum Up {
    Built(Lab),
    /// The same lab was up already; its servers were started again if they had ended.
    Already(Lab),
}

impl Lab {
    /// Builds a lab and returns when all of it works. A lab that is up already with the same
    /// choices is left as it is.
    ///
    /// # Errors
    ///
    /// Whatever stops it; what was built by then has been removed again. The same holds for
    /// SIGINT, SIGTERM and SIGHUP.
    pub async fn up(
        prefix: &Prefix,
        spec: &'static Spec,
        backend: Backend,
        choice: Choice,
    ) -> Result<Up, Error> {
        let topology = spec.topology(choice)?;
        check_machine(&topology, backend)?;
        // From here on a signal does not end the process before it has cleaned up.
        let mut signals = Signals::new().map_err(|e| Error::Server(e.to_string()))?;
        // Cleaning up takes as long as it gets on.
        signals::flushing(None);
        let state = StateDir::new(prefix);
        let record = Record {
            lab: spec.name.to_owned(),
            iptables: backend,
            ipv6: choice.ipv6,
            proxy: choice.proxy,
            is_complete: false,
            hosts: topology.host_names().into_iter().map(str::to_owned).collect(),
            faults: Vec::new(),
        };
        if !state.claim()? {
            return Self::already(prefix, &record).await.map(Up::Already);
        }
        let mut lab = Self { prefix: prefix.clone(), record, spec, state };
        if let Err(e) = lab.check_foreign().and_then(|()| lab.state.store(&lab.record)) {
            lab.state.remove()?;
            return Err(e);
        }
        let built = tokio::select! {
            built = lab.realise(&topology) => built,
            _ = signals.recv() => Err(Error::Interrupted),
        };
        if let Err(e) = built {
            // The first error is the one to tell; `down` can be repeated if this one fails too.
            let _ = tear_down(prefix);
            return Err(e);
        }
        lab.record.is_complete = true;
        lab.state.store(&lab.record)?;
        Ok(Up::Built(lab))
    }

    /// The lab with this prefix.
    ///
    /// # Errors
    ///
    /// [`Error::NotUp`], which names the labs that are.
    pub fn open(prefix: &Prefix) -> Result<Self, Error> {
        let state = StateDir::new(prefix);
        let record = state.load()?.ok_or_else(|| not_up(prefix))?;
        if !sys::is_root() {
            return Err(Error::NotRoot);
        }
        let spec = Spec::find(&record.lab)?;
        Ok(Self { prefix: prefix.clone(), record, spec, state })
    }

    /// All labs there are, complete or not; without a record where it cannot be read.
    #[must_use]
    pub fn all() -> Vec<(Prefix, Option<Record>)> {
        let prefixes = state::prefixes().into_iter();
        let record = |p: &Prefix| StateDir::new(p).load().ok().flatten();
        prefixes.map(|prefix| (prefix.clone(), record(&prefix))).collect()
    }

    /// What this lab consists of.
    ///
    /// # Errors
    ///
    /// As [`Spec::topology`].
    pub fn topology(&self) -> Result<Topology, Error> {
        self.spec.topology(Choice { ipv6: self.record.ipv6, proxy: self.record.proxy })
    }

    /// A host of it.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownHost`], naming those there are.
    pub fn host<'a>(&'a self, name: &'a str) -> Result<Host<'a>, Error> {
        if self.record.hosts.iter().any(|host| host == name) {
            return Ok(Host { prefix: &self.prefix, name });
        }
        Err(Error::UnknownHost {
            lab: self.record.lab.clone(),
            host: name.to_owned(),
            known: self.record.hosts.join(", "),
        })
    }

    /// A netlink socket in a host.
    ///
    /// # Errors
    ///
    /// As [`Self::host`] and [`Netlink::open`].
    pub fn netlink(&self, host: &str) -> Result<Netlink, Error> {
        Netlink::open(&self.prefix, self.host(host)?.name)
    }

    /// What it serves now.
    ///
    /// # Errors
    ///
    /// That the file cannot be read.
    pub fn servers(&self) -> Result<Vec<Server>, Error> {
        daemon::read_servers(&self.state)
    }

    /// Serves `servers` and nothing else from now on.
    ///
    /// # Errors
    ///
    /// That the daemon cannot be ended or started.
    pub async fn serve(&self, servers: &[Server]) -> Result<(), Error> {
        daemon::stop(&self.state)?;
        daemon::write_servers(&self.state, servers)?;
        daemon::start(&self.prefix, &self.state).await
    }

    /// Keeps others from changing this lab until the lock is dropped.
    pub(crate) fn lock(&self) -> Result<std::fs::File, Error> {
        self.state.lock()
    }

    /// Reads the record again, which another process may have written meanwhile.
    pub(crate) fn reload(&mut self) -> Result<(), Error> {
        self.record = self.state.load()?.ok_or_else(|| not_up(&self.prefix))?;
        Ok(())
    }

    pub(crate) fn store(&self) -> Result<(), Error> {
        self.state.store(&self.record)
    }

    async fn realise(&self, topology: &Topology) -> Result<(), Error> {
        build::build(&self.prefix, topology, self.record.iptables).await?;
        self.serve(&topology.servers).await
    }

    /// `up` where the prefix is taken.
    async fn already(prefix: &Prefix, wanted: &Record) -> Result<Self, Error> {
        let occupied = |lab: &str, how| Error::Occupied {
            prefix: prefix.to_string(),
            lab: lab.to_owned(),
            how,
        };
        let Some(record) = StateDir::new(prefix).load()? else {
            return Err(occupied(&wanted.lab, "half-built, or being built"));
        };
        if !record.is_complete {
            return Err(occupied(&record.lab, "half-built, or being built"));
        }
        let faults = record.faults.clone();
        if record != (Record { is_complete: true, faults, ..wanted.clone() }) {
            return Err(occupied(&record.lab, "another lab, or made with other options"));
        }
        let lab = Self::open(prefix)?;
        if !daemon::is_running(&lab.state) {
            daemon::start(prefix, &lab.state).await?;
        }
        Ok(lab)
    }

    fn check_foreign(&self) -> Result<(), Error> {
        let mut hosts = self.record.hosts.iter();
        let path = hosts.find_map(|name| Host { prefix: &self.prefix, name }.foreign_path());
        path.map_or(Ok(()), |path| Err(Error::Foreign { path }))
    }
}

/// What `down` has removed.
#[derive(Debug)]
pub struct Removed {
    /// The lab's name; none where it had not got far enough to have one.
    pub lab: Option<String>,
    /// Processes that still run in its namespaces and keep those alive, without a name.
    pub inhabitants: Vec<Inhabitant>,
}

/// Removes a lab, whole or half-built; `None` if there was nothing.
///
/// # Errors
///
/// The first thing that could not be removed; the rest is removed all the same.
pub fn down(prefix: &Prefix) -> Result<Option<Removed>, Error> {
    if !sys::is_root() {
        return Err(Error::NotRoot);
    }
    let state = StateDir::new(prefix);
    let was_there = state.exists();
    let record = state.load().ok().flatten();
    daemon::stop(&state)?;
    let hosts = record.as_ref().map_or(&[][..], |record| &record.hosts);
    let inhabitants = inhabitants::of(prefix, hosts);
    tear_down(prefix)?;
    let lab = record.map(|record| record.lab);
    Ok(was_there.then_some(Removed { lab, inhabitants }))
}

fn tear_down(prefix: &Prefix) -> Result<(), Error> {
    let state = StateDir::new(prefix);
    let hosts = match state.load() {
        Ok(Some(record)) => record.hosts,
        Ok(None) => Vec::new(),
        // The prefix was claimed: whatever a lab may have made under it is ours.
        Err(_) => known_hosts(),
    };
    let mut results = vec![daemon::stop(&state)];
    for name in &hosts {
        results.push(netns::remove(&prefix.netns_path(name)));
        results.push(Host { prefix, name }.remove_etc());
    }
    if hosts.is_empty() {
        // A reboot takes the state along and leaves `/etc/netns` behind.
        for name in known_hosts() {
            results.push(Host { prefix, name: &name }.remove_etc_leftover());
        }
    }
    results.into_iter().collect::<Result<(), Error>>()?;
    state.remove()
}

/// The hosts of all labs.
fn known_hosts() -> Vec<String> {
    let topologies = LABS.iter().filter_map(|lab| lab.topology(Choice::default()).ok());
    topologies.flat_map(|t| t.host_names()).map(str::to_owned).collect()
}

fn not_up(prefix: &Prefix) -> Error {
    let up: Vec<_> = state::prefixes().iter().map(|p| format!("--prefix {p}")).collect();
    let hint = if up.is_empty() {
        format!("start one with `pkttrace lab up cluster --prefix {prefix}`")
    } else {
        format!("there is {}", up.join(", "))
    };
    Error::NotUp { prefix: prefix.to_string(), hint }
}

/// What can be known to be missing before anything is made.
fn check_machine(topology: &Topology, backend: Backend) -> Result<(), Error> {
    if !sys::is_root() {
        return Err(Error::NotRoot);
    }
    let program = backend.restore_program();
    if !topology.rules.is_empty() && find_program(&program).is_none() {
        return Err(Error::NoIptables(program));
    }
    for sysctl in &topology.sysctls {
        let path = sysctl_path(sysctl.key);
        if sysctl.key.starts_with("net.bridge.") && !path.exists() {
            return Err(Error::NoSysctl { path, remedy: "modprobe br_netfilter" });
        }
    }
    let ipv6 = PathBuf::from("/proc/sys/net/ipv6");
    let needs_ipv6 = topology.addresses.iter().any(|address| address.cidr.ip.is_ipv6());
    if needs_ipv6 && !ipv6.exists() {
        return Err(Error::NoSysctl { path: ipv6, remedy: "leave out --ipv6" });
    }
    Ok(())
}
