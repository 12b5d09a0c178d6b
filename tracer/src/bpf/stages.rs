//! Two stages: while nothing matches, few probe points stay attached.
//!
//! Every hit costs, whether or not the packet is followed, and most points only tell what becomes
//! of one that is: those are let go of while there is none, and come back with the first. All
//! programs stay loaded; only links come and go. Functions stay, too: on kernels without netfilter
//! links packets begin there.
//!
//! Ends are not seen meanwhile, so the kernel side remembers where each packet was met first: one
//! that is met there again is another one.

use std::io;

use tracer_common::Control;
use tracer_common::filter::terms;

use super::Error;
use super::age::monotonic_ns;
use super::idle::Idle;
use super::load::KernelSide;
use super::raw::{link_cgroup, link_tracing};
use crate::net::{Device, Inum, Netns, NetworkState};

impl KernelSide {
    /// Whether packets that are sent are met by other points than `net_dev_queue`: as their own in
    /// the namespace that sends them, where they are received next, and where they leave the node.
    /// Not on a device of a filter, where those that are forwarded are met as they are sent.
    #[must_use]
    pub fn may_watch_edges(&self) -> bool {
        self.netfilter.is_some()
            && self.attached.clsact.is_none()
            && self.options.filter.terms & terms::DEV == 0
    }

    /// Lets go of what only follows. `edges` are the devices where packets enter and leave the node.
    ///
    /// # Errors
    ///
    /// [`Error::Map`] when the kernel refuses; everything is attached then.
    pub fn thin(&mut self, idle: Idle, edges: &[(&Netns, &Device)]) -> Result<(), Error> {
        self.control(Control::WholeSince, u64::MAX)?;
        self.control(Control::Thin, 1)?;
        self.attached.is_thin = true;
        let may_watch = self.may_watch_edges();
        let failed = edges.iter().filter(|_| may_watch).filter(|(netns, device)| {
            // What goes meanwhile sends nothing any more.
            self.attach_edge(netns, device).is_err_and(|e| e.kind() != io::ErrorKind::NotFound)
        });
        let has_edges = failed.count() == 0 && may_watch;
        self.attached.netfilter.values_mut().for_each(super::netfilter::HookLinks::thin);
        for tracepoint in &mut self.attached.tracepoints {
            if !tracepoint.role.stays(idle, has_edges) {
                tracepoint.link = None;
            }
        }
        if let Some(socket) = &mut self.attached.socket {
            socket.link = None;
        }
        Ok(())
    }

    /// Attaches it again; gives the namespaces where that failed, which are let go of altogether.
    ///
    /// # Errors
    ///
    /// When a tracepoint is refused that was attached before: then this is to be tried again.
    pub fn complete(&mut self, state: &NetworkState) -> io::Result<Vec<Inum>> {
        // Those first where packets begin: they are what edges stand in for.
        for tracepoint in self.attached.tracepoints.iter_mut().filter(|t| t.link.is_none()) {
            tracepoint.link = Some(link_tracing(&tracepoint.program)?);
        }
        self.control(Control::Thin, 0).map_err(io::Error::other)?;
        if let Some(socket) = &mut self.attached.socket {
            socket.link = Some(link_cgroup(&socket.program, &socket.cgroup)?);
        }
        self.control(Control::WholeSince, monotonic_ns()).map_err(io::Error::other)?;
        self.attached.is_thin = false;
        let Some(programs) = &self.netfilter else { return Ok(Vec::new()) };
        let mut failed = Vec::new();
        let mut links = std::mem::take(&mut self.attached.netfilter);
        links.retain(|inum, links| {
            let Some(netns) = state.netns.get(inum) else { return false };
            let done = programs.complete(links, netns, &self.families(netns));
            if let Err(e) = &done {
                failed.push((*inum, e.to_string()));
            }
            done.is_ok()
        });
        self.attached.netfilter = links;
        let inums = failed.iter().map(|(inum, _)| *inum).collect();
        self.attached.netfilter_failures.extend(failed);
        Ok(inums)
    }
}
