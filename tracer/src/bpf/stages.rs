//! Two stages: between packets only those points stay attached where a packet begins or ends.
//!
//! Every hit costs, whether or not the packet is followed, and most points only tell what becomes
//! of one that is: those are let go of while there is none, and come back with the first. All
//! programs stay loaded; only links come and go. What begins or ends a packet stays, since identity
//! rests on it: `netif_receive_skb`, `net_dev_queue`, the first of `LOCAL_OUT`, `kfree_skb`,
//! `consume_skb`, and the cgroup's program, which tells that a socket has taken it. Functions stay,
//! too: on kernels without netfilter links packets begin there.

use std::io;

use super::load::KernelSide;
use super::raw::link_tracing;
use crate::net::{Inum, NetworkState};

impl KernelSide {
    /// Whether anything that is attached only follows.
    #[must_use]
    pub fn has_followers(&self) -> bool {
        self.netfilter.is_some() || self.attached.tracepoints.iter().any(|t| t.follows)
    }

    /// Lets go of what only follows.
    pub fn thin(&mut self) {
        self.attached.is_thin = true;
        self.attached.netfilter.values_mut().for_each(super::netfilter::HookLinks::thin);
        for tracepoint in self.attached.tracepoints.iter_mut().filter(|t| t.follows) {
            tracepoint.link = None;
        }
    }

    /// Attaches it again; gives the namespaces where that failed, which are let go of altogether.
    ///
    /// # Errors
    ///
    /// When a tracepoint is refused that was attached before: then this is to be tried again.
    pub fn complete(&mut self, state: &NetworkState) -> io::Result<Vec<Inum>> {
        for tracepoint in self.attached.tracepoints.iter_mut().filter(|t| t.link.is_none()) {
            tracepoint.link = Some(link_tracing(&tracepoint.program)?);
        }
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
