//! Attaching what belongs to a namespace or a device, as they appear.

use std::collections::BTreeSet;

use aya::programs::LinkOrder;
use aya::programs::tc::{SchedClassifier, TcAttachOptions};
use tracer_common::filter::terms;

use super::attached::ProbeStatus;
use super::classifiers::{CLASSIFIERS, classifiers_here};
use super::clsact::is_tracers;
use super::load::KernelSide;
use super::{netfilter, root_cause};
use crate::net::inspect::filters_here;
use crate::net::{Device, Inum, Netns, setns};

impl KernelSide {
    /// Whether the hooks of a namespace are seen by probe points of its own.
    #[must_use]
    pub fn has_hooks_per_netns(&self) -> bool {
        self.attached.per_netns
    }

    /// Why the hooks of netfilter are not seen anywhere although they are asked for: neither has the
    /// kernel BPF netfilter links for us nor `nf_hook_slow`.
    #[must_use]
    pub fn blind_to_hooks(&self) -> Option<String> {
        let backends = self.options.backends;
        if !(backends.nf || backends.func) || self.attached.per_netns {
            return None;
        }
        let probes = self.probes();
        let find = |name: &str| probes.iter().find(|p| p.probe == name);
        let (links, function) = (find("nf:hooks"), find("fn:nf_hook_slow"));
        if function.is_some_and(|p| p.by.is_some()) {
            return None;
        }
        links.or(function).map(|p| p.why.clone().unwrap_or_default())
    }

    /// Attaches what belongs to a namespace, unless that is done; tells whether it is done now.
    pub fn attach_netns(&mut self, netns: &Netns) -> bool {
        if let Some(clsact) = &mut self.attached.clsact {
            clsact.sweep(netns);
        }
        if self.attached.netfilter.contains_key(&netns.inum) {
            return true;
        }
        let Some(programs) = &self.netfilter else { return false };
        let families = self.families(netns);
        match programs.attach(netns, &families, !self.attached.is_thin) {
            Ok(links) => {
                self.attached.netfilter.insert(netns.inum, links);
                self.attached.netfilter_failures.remove(&netns.inum);
                true
            }
            // Gone meanwhile: nothing to trace there any more.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            Err(e) => {
                self.attached.netfilter_failures.insert(netns.inum, e.to_string());
                false
            }
        }
    }

    /// The protocol families whose hooks the filter is about.
    pub(super) fn families(&self, netns: &Netns) -> Vec<u32> {
        let filter = self.options.filter.terms;
        let mut families = Vec::new();
        if filter & terms::IPV4 != 0 {
            families.push(netfilter::IPV4);
        }
        if filter & terms::IPV6 != 0 && netns.has_ipv6 {
            families.push(netfilter::IPV6);
        }
        families
    }

    /// Lets go of a namespace: a link would keep it alive.
    pub fn detach_netns(&mut self, netns: Inum) {
        self.attached.netfilter.remove(&netns);
        self.attached.netfilter_failures.remove(&netns);
        self.attached.classifiers.retain(|(n, _), _| *n != netns);
        self.attached.edges.retain(|(n, _), _| *n != netns);
        if let Some(clsact) = &mut self.attached.clsact {
            clsact.detach(netns);
        }
    }

    /// Removes clsact filters everywhere: alone of all that is attached, they outlive the process.
    pub fn remove_filters(&mut self) {
        self.attached.clsact = None;
    }

    /// The devices of a namespace that have classifiers which are no tracer's.
    #[must_use]
    pub fn with_other_classifiers(&self, netns: &Netns) -> BTreeSet<u32> {
        if !self.options.backends.tc {
            return BTreeSet::new();
        }
        let names = netns.devices.values().map(|d| (d.ifindex, d.name.clone())).collect();
        let found = setns::run_in_inum(&netns.path, netns.inum, || {
            let mut filters = filters_here()?;
            filters.retain(|filter| filter.place.is_some() && !is_tracers(filter));
            filters.extend(classifiers_here(&names));
            Ok(filters.iter().map(|filter| filter.dev).collect())
        });
        found.unwrap_or_default()
    }

    /// [`Self::attach_device`], with its outcome among the statuses.
    pub fn try_device(&mut self, netns: &Netns, device: &Device) {
        if let Err(why) = self.attach_device(netns, device) {
            self.attached.global.push(ProbeStatus::new("tc".to_owned(), "tcx link", Some(why)));
        }
    }

    /// Attaches the classifiers to a device, first and last in both directions.
    ///
    /// # Errors
    ///
    /// What the kernel said, with the device's name.
    pub fn attach_device(&mut self, netns: &Netns, device: &Device) -> Result<(), String> {
        let key = (netns.inum, device.ifindex);
        if !self.options.backends.tc || self.attached.classifiers.contains_key(&key) {
            return Ok(());
        }
        if let Some(clsact) = &mut self.attached.clsact {
            if clsact.has(netns.inum, device.ifindex) {
                return Ok(());
            }
            let attached = clsact.attach(&mut self.ebpf, netns, device);
            return attached.map_err(|e| format!("{}: {e}", device.name));
        }
        let mut links = Vec::with_capacity(CLASSIFIERS.len());
        for (program, direction, first) in CLASSIFIERS {
            let found = self.ebpf.program_mut(program).ok_or("not in the object")?;
            let program: &mut SchedClassifier = found.try_into().map_err(|e| root_cause(&e))?;
            if program.fd().is_err() {
                program.load().map_err(|e| root_cause(&e))?;
            }
            let order = if first { LinkOrder::first() } else { LinkOrder::last() };
            let options = TcAttachOptions::TcxOrder(order);
            let id = setns::run_in_inum(&netns.path, netns.inum, || {
                program
                    .attach_with_options(&device.name, direction, options)
                    .map_err(|e| std::io::Error::other(root_cause(&e)))
            })
            .map_err(|e| format!("{}: {e}", device.name))?;
            links.push(program.take_link(id).map_err(|e| root_cause(&e))?);
        }
        self.attached.classifiers.insert(key, links);
        Ok(())
    }
}
