//! Neighbour and forwarding-database entries.

use std::net::IpAddr;

use futures_util::{StreamExt, pin_mut};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::Netlink;
use crate::lab::Error;
use crate::lab::addr::Mac;

impl Netlink {
    /// Writes a permanent neighbour entry.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or that a device it names is not there.
    pub async fn replace_neighbour(&self, dev: &str, ip: IpAddr, mac: Mac) -> Result<(), Error> {
        let index = self.ifindex(dev).await?;
        let request = self.handle.neighbours().add(index, ip).link_layer_address(&mac.0);
        let added = request.replace().execute().await;
        added.map_err(self.failed(format!("add neighbour {ip} to {dev}")))
    }

    /// Writes a permanent entry in the device's own forwarding database
    /// (`bridge fdb replace … self permanent`).
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or that a device it names is not there.
    pub async fn replace_fdb(&self, dev: &str, mac: Mac, remote: IpAddr) -> Result<(), Error> {
        let index = self.ifindex(dev).await?;
        let request = self.handle.neighbours().add_bridge(index, &mac.0).destination(remote);
        let added = request.flags(NeighbourFlags::Own).replace().execute().await;
        added.map_err(self.failed(format!("add fdb entry {mac} to {dev}")))
    }

    /// Removes a neighbour entry.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or that a device it names is not there.
    pub async fn del_neighbour(&self, dev: &str, ip: IpAddr) -> Result<(), Error> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = self.ifindex(dev).await?;
        message.header.family = match ip {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.attributes.push(NeighbourAttribute::Destination(ip.into()));
        let deleted = self.handle.neighbours().del(message).execute().await;
        deleted.map_err(self.failed(format!("delete neighbour {ip} from {dev}")))
    }

    /// Removes an entry of [`Self::replace_fdb`].
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or that a device it names is not there.
    pub async fn del_fdb(&self, dev: &str, mac: Mac, remote: IpAddr) -> Result<(), Error> {
        let index = self.ifindex(dev).await?;
        let add = self.handle.neighbours().add_bridge(index, &mac.0).destination(remote);
        // A deletion names the entry by the message that made it.
        let message = add.flags(NeighbourFlags::Own).message_mut().clone();
        let deleted = self.handle.neighbours().del(message).execute().await;
        deleted.map_err(self.failed(format!("delete fdb entry {mac} from {dev}")))
    }

    /// Forgets what was learned about neighbours, as some idle minutes would.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub async fn forget_neighbours(&self) -> Result<(), Error> {
        let mut learned = Vec::new();
        let entries = self.handle.neighbours().get().execute();
        pin_mut!(entries);
        while let Some(entry) = entries.next().await {
            let entry = entry.map_err(self.failed("list neighbours"))?;
            if !matches!(entry.header.state, NeighbourState::Permanent | NeighbourState::Noarp) {
                learned.push(entry);
            }
        }
        for mut entry in learned {
            entry.attributes.retain(|a| {
                matches!(
                    a,
                    NeighbourAttribute::Destination(
                        NeighbourAddress::Inet(_) | NeighbourAddress::Inet6(_)
                    )
                )
            });
            // Another packet may have removed or renewed it meanwhile.
            let _ = self.handle.neighbours().del(entry).execute().await;
        }
        Ok(())
    }
}
