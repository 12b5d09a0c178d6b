//! Classifiers on the devices where packets enter and leave the node: while nothing matches, they
//! stand in for the tracepoints that meet what every device receives and sends.

use std::io;

use aya::programs::LinkOrder;
use aya::programs::TcAttachType;
use aya::programs::tc::{SchedClassifier, SchedClassifierLink, TcAttachOptions};

use super::classifiers::EDGES;
use super::load::KernelSide;
use super::root_cause;
use crate::net::{Device, Netns, setns};

impl KernelSide {
    /// Attaches to a device, unless that is done. It stays: the kernel takes its time for each.
    ///
    /// # Errors
    ///
    /// What the kernel said; `NotFound` when the namespace or the device is gone.
    pub fn attach_edge(&mut self, netns: &Netns, device: &Device) -> io::Result<()> {
        let key = (netns.inum, device.ifindex);
        if self.attached.edges.contains_key(&key) {
            return Ok(());
        }
        let mut links = Vec::with_capacity(EDGES.len());
        for (program, direction) in EDGES {
            links.push(self.link_edge(netns, device, program, direction)?);
        }
        self.attached.edges.insert(key, links);
        Ok(())
    }

    fn link_edge(
        &mut self,
        netns: &Netns,
        device: &Device,
        program: &str,
        direction: TcAttachType,
    ) -> io::Result<SchedClassifierLink> {
        let failed = |e: &dyn std::error::Error| io::Error::other(root_cause(e));
        let found = self.ebpf.program_mut(program).ok_or_else(|| io::Error::other("no program"))?;
        let program: &mut SchedClassifier = found.try_into().map_err(|e| failed(&e))?;
        if program.fd().is_err() {
            program.load().map_err(|e| failed(&e))?;
        }
        let order = match direction {
            TcAttachType::Ingress => LinkOrder::first(),
            _ => LinkOrder::last(),
        };
        let id = setns::run_in_inum(&netns.path, netns.inum, || {
            let options = TcAttachOptions::TcxOrder(order);
            program.attach_with_options(&device.name, direction, options).map_err(|e| failed(&e))
        })?;
        program.take_link(id).map_err(|e| failed(&e))
    }
}
