//! What a notification means for the state.

use std::net::IpAddr;

use super::change::{Change, DeviceChange};
use super::listen::{Event, Heard};
use super::supervisor::Supervisor;
use crate::net::state::{Device, Inum, Netns};

impl Supervisor {
    /// Enters what the listeners tell.
    pub(super) async fn hear(&mut self, heard: Heard) {
        let inum = heard.inum;
        if self.alive.get(&inum).is_none_or(|alive| alive.listener.serial != heard.serial) {
            return;
        }
        match heard.event {
            Event::Link(device) => self.device(inum, device).await,
            Event::LinkGone(ifindex) => {
                if self.state.device(inum, ifindex).is_some() {
                    self.emit(Change::Links(inum, vec![DeviceChange::Removed(ifindex)])).await;
                }
            }
            Event::Address(ifindex, address) => {
                self.addresses(inum, ifindex, |addresses| {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                })
                .await;
            }
            Event::AddressGone(ifindex, address) => {
                self.addresses(inum, ifindex, |addresses| addresses.retain(|a| *a != address))
                    .await;
            }
            Event::Settings => _ = self.unset.insert(inum),
            Event::Routing => _ = self.unrouted.insert(inum),
            Event::Lost => {
                self.stale.insert(inum);
                self.unrouted.insert(inum);
            }
        }
    }

    async fn device(&mut self, inum: Inum, mut device: Device) {
        let known = self.state.device(inum, device.ifindex);
        let is_link_new = known.is_none_or(|known| !is_same_link(known, &device));
        if let Some(known) = known {
            device.addresses.clone_from(&known.addresses);
            if !is_link_new {
                device.link = known.link;
            }
        }
        let is_open = device.link.is_some_and(|link| link.netns.is_none());
        if is_open && let Some(netns) = self.state.netns.get(&inum) {
            let devices = [(device.ifindex, device.clone())].into();
            let alone = Netns { inum, path: netns.path.clone(), devices, ..Netns::default() };
            let asked = self.with_peers(alone).await.devices.remove(&device.ifindex);
            device = asked.unwrap_or(device);
        }
        let change = match self.state.device(inum, device.ifindex) {
            None => DeviceChange::Added(device),
            Some(known) if *known != device => DeviceChange::Changed(device),
            Some(_) => return,
        };
        self.emit(Change::Links(inum, vec![change])).await;
        if is_link_new {
            self.settle(inum).await;
        }
    }

    async fn addresses(
        &mut self,
        inum: Inum,
        ifindex: u32,
        edit: impl FnOnce(&mut Vec<(IpAddr, u8)>),
    ) {
        // Switching IPv6 off or on is not notified, but takes or brings addresses.
        self.unset.insert(inum);
        let Some(known) = self.state.device(inum, ifindex) else { return };
        let mut device = known.clone();
        edit(&mut device.addresses);
        if device != *known {
            self.emit(Change::Links(inum, vec![DeviceChange::Changed(device)])).await;
        }
    }
}

/// Whether the device still has the same other end.
fn is_same_link(known: &Device, device: &Device) -> bool {
    let ifindex = |device: &Device| device.link.map(|link| link.ifindex);
    known.link_nsid == device.link_nsid && ifindex(known) == ifindex(device)
}
