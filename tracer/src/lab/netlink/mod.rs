//! Changing the devices, addresses, routes and neighbours of one lab host by rtnetlink. The
//! socket is made inside the host's namespace, so no message can reach another one.

mod conntrack;
mod hook;
mod neighbour;
mod port;
mod rule;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{BorrowedFd, RawFd};

use futures_util::{Stream, StreamExt, pin_mut};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage, MacVlanMode, State as OperState,
};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkBridgePort, LinkMacVlan, LinkMessageBuilder, LinkUnspec,
    LinkVeth, LinkVxlan, RouteMessageBuilder,
};
use tokio::task::JoinHandle;

use super::addr::{Cidr, Mac};
use super::route::{Route, RouteKind};
use super::topology::{Link, LinkKind};
use super::{Error, Prefix};
use crate::net::setns;

pub(crate) use conntrack::forget_connections;
pub use hook::Hook;

/// A change to a device that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange<'a> {
    Up,
    Down,
    Mtu(u32),
    /// Make it a port of this bridge.
    Master(&'a str),
    NoMaster,
    /// As a bridge port: may send a frame back out of the port it came in by.
    Hairpin(bool),
    /// As a bridge port: passes nothing to other isolated ports.
    Isolated(bool),
    /// As a bridge port: forwards, or is disabled as by STP.
    Forwarding(bool),
    Address(Mac),
}

/// An rtnetlink socket in one host's namespace.
#[derive(Debug)]
pub struct Netlink {
    netns: String,
    handle: rtnetlink::Handle,
    connection: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// Opens the socket; to be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// That the namespace is not there, or cannot be entered.
    pub fn open(prefix: &Prefix, host: &str) -> Result<Self, Error> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle, _) = setns::run_in_path(&prefix.netns_path(host), || {
            let _inside = runtime.enter();
            rtnetlink::new_connection()
        })
        .map_err(Error::netns(prefix.netns(host), "open an rtnetlink socket"))?;
        let connection = tokio::spawn(connection);
        Ok(Self { netns: prefix.netns(host), handle, connection })
    }

    /// The name of the namespace.
    #[must_use]
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// Makes a device, down. A veth's peer is born in `peer_netns`.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or that a device it names is not there.
    pub async fn add_link(
        &self,
        link: &Link,
        peer_netns: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        use std::os::fd::AsRawFd;
        let peer_netns = peer_netns.map(|fd| fd.as_raw_fd());
        let mut message = match link.kind {
            LinkKind::Bridge => LinkMessageBuilder::<LinkBridge>::new(link.dev).build(),
            LinkKind::Veth { peer_dev, .. } => veth_message(link, peer_dev, peer_netns),
            LinkKind::Vxlan { vni, underlay_dev, local, port } => {
                let underlay = self.ifindex(underlay_dev).await?;
                let local = local
                    .parse()
                    .map_err(|_| Error::BadSpec(format!("`{local}` is not an IPv4 address")))?;
                LinkVxlan::new(link.dev, vni)
                    .dev(underlay)
                    .local(local)
                    .port(port)
                    .learning(false)
                    .build()
            }
            LinkKind::Long { .. } => {
                return Err(Error::BadSpec(format!("{} is no device of netlink's", link.dev)));
            }
        };
        message.attributes.push(LinkAttribute::Mtu(link.mtu));
        if let Some(mac) = link.mac {
            message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        }
        let added = self.handle.link().add(message).execute().await;
        added.map_err(self.failed(format!("add device {}", link.dev)))
    }

    /// Makes a macvlan in mode bridge above `parent`, in another namespace, down.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or that a device it names is not there.
    pub async fn add_macvlan(
        &self,
        parent: &str,
        dev: &str,
        netns: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        use std::os::fd::AsRawFd;
        let parent = self.ifindex(parent).await?;
        let message = LinkMacVlan::new(dev, parent, MacVlanMode::Bridge)
            .setns_by_fd(netns.as_raw_fd())
            .build();
        let added = self.handle.link().add(message).execute().await;
        added.map_err(self.failed(format!("add device {dev}")))
    }

    /// Changes a device.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or that a device it names is not there.
    pub async fn set_link(&self, dev: &str, change: LinkChange<'_>) -> Result<(), Error> {
        let index = self.ifindex(dev).await?;
        let link = LinkUnspec::new_with_index(index);
        let message = match change {
            LinkChange::Up => link.up().build(),
            LinkChange::Down => link.down().build(),
            LinkChange::Mtu(mtu) => link.mtu(mtu).build(),
            LinkChange::Master(bridge) => link.controller(self.ifindex(bridge).await?).build(),
            LinkChange::NoMaster => link.nocontroller().build(),
            LinkChange::Hairpin(on) => LinkBridgePort::new(index).hairpin(on).build(),
            LinkChange::Isolated(on) => LinkBridgePort::new(index).isolated(on).build(),
            LinkChange::Forwarding(on) => return self.set_port_state(dev, index, on).await,
            LinkChange::Address(mac) => link.address(mac.0.to_vec()).build(),
        };
        let changed = self.handle.link().change(message).execute().await;
        changed.map_err(self.failed(format!("set {dev} {change:?}")))
    }

    /// Removes a device, and with a veth its peer.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or that a device it names is not there.
    pub async fn del_link(&self, dev: &str) -> Result<(), Error> {
        let index = self.ifindex(dev).await?;
        let deleted = self.handle.link().del(index).execute().await;
        deleted.map_err(self.failed(format!("delete device {dev}")))
    }

    /// Adds an address, without a broadcast address, as `ip addr add` does.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or that a device it names is not there.
    pub async fn add_address(&self, dev: &str, cidr: Cidr) -> Result<(), Error> {
        let index = self.ifindex(dev).await?;
        let mut request = self.handle.address().add(index, cidr.ip, cidr.len);
        let attributes = &mut request.message_mut().attributes;
        attributes.retain(|a| !matches!(a, AddressAttribute::Broadcast(_)));
        let added = request.execute().await;
        added.map_err(self.failed(format!("add address {cidr} to {dev}")))
    }

    /// Removes an address.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or that a device it names is not there.
    pub async fn del_address(&self, dev: &str, cidr: Cidr) -> Result<(), Error> {
        let index = self.ifindex(dev).await?;
        let message = match cidr.ip {
            IpAddr::V4(ip) => {
                AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, cidr.len).build()
            }
            IpAddr::V6(ip) => {
                AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(ip, cidr.len).build()
            }
        };
        let deleted = self.handle.address().del(message).execute().await;
        deleted.map_err(self.failed(format!("delete address {cidr} from {dev}")))
    }

    /// Adds a route, or changes the one that is there.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or that a device it names is not there.
    pub async fn replace_route(&self, route: &Route) -> Result<(), Error> {
        let message = self.route_message(route).await?;
        let added = self.handle.route().add(message).replace().execute().await;
        added.map_err(self.failed(format!("add route {route}")))
    }

    /// Removes a route.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or that a device it names is not there.
    pub async fn del_route(&self, route: &Route) -> Result<(), Error> {
        let mut message = self.route_message(route).await?;
        // As `ip route del`: what is not said may be anything.
        message.header.scope = RouteScope::NoWhere;
        message.header.protocol = RouteProtocol::Unspec;
        let deleted = self.handle.route().del(message).execute().await;
        deleted.map_err(self.failed(format!("delete route {route}")))
    }

    /// A device that is set up and does not carry yet; `None` when all do.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or that a device it names is not there.
    pub async fn waiting_link(&self) -> Result<Option<String>, Error> {
        let links = self.handle.link().get().execute();
        pin_mut!(links);
        while let Some(link) = self.next(&mut links, "list devices").await? {
            let is_up = link.header.flags.contains(LinkFlags::Up);
            if is_up && link.attributes.iter().any(is_not_carrying) {
                let name = link.attributes.into_iter().find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                });
                return Ok(Some(name.unwrap_or_default()));
            }
        }
        Ok(None)
    }

    async fn ifindex(&self, dev: &str) -> Result<u32, Error> {
        let links = self.handle.link().get().match_name(dev).execute();
        pin_mut!(links);
        let link = self.next(&mut links, &format!("find device {dev}")).await?;
        let missing = || io::Error::from_raw_os_error(libc::ENODEV);
        link.map(|link| link.header.index)
            .ok_or_else(|| Error::netns(&self.netns, format!("find device {dev}"))(missing()))
    }

    async fn next<S>(&self, links: &mut S, what: &str) -> Result<Option<LinkMessage>, Error>
    where
        S: Stream<Item = Result<LinkMessage, rtnetlink::Error>> + Unpin,
    {
        links.next().await.transpose().map_err(self.failed(what))
    }

    async fn route_message(&self, route: &Route) -> Result<RouteMessage, Error> {
        let impossible = |_| Error::BadSpec(format!("{route:?} mixes address families"));
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .protocol(RouteProtocol::Boot)
            .destination_prefix(route.dst.ip, route.dst.len)
            .map_err(impossible)?
            .kind(match route.kind {
                RouteKind::Unicast => RouteType::Unicast,
                RouteKind::Blackhole => RouteType::BlackHole,
                RouteKind::Unreachable => RouteType::Unreachable,
                RouteKind::Prohibit => RouteType::Prohibit,
            });
        match route.via {
            Some(via) => builder = builder.gateway(via).map_err(impossible)?,
            None if route.kind == RouteKind::Unicast => builder = builder.scope(RouteScope::Link),
            None => {}
        }
        if let Some(dev) = &route.dev {
            builder = builder.output_interface(self.ifindex(dev).await?);
        }
        if let Some(table) = route.table {
            builder = builder.table_id(table);
        }
        if route.is_onlink {
            builder = builder.onlink();
        }
        let mut message = builder.build();
        if let Some(window) = route.window {
            let limits = vec![RouteMetric::Window(window)];
            message.attributes.push(RouteAttribute::Metrics(limits));
        }
        Ok(message)
    }

    fn failed(&self, what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
        let in_netns = Error::netns(&self.netns, what);
        |e| {
            in_netns(match e {
                rtnetlink::Error::NetlinkError(e) => e.to_io(),
                other => io::Error::other(other.to_string()),
            })
        }
    }
}

fn veth_message(link: &Link, peer_dev: &str, peer_netns: Option<RawFd>) -> LinkMessage {
    let mut peer = LinkUnspec::new_with_name(peer_dev).mtu(link.mtu);
    if let Some(fd) = peer_netns {
        peer = peer.setns_by_fd(fd);
    }
    let data = InfoData::Veth(InfoVeth::Peer(peer.build()));
    LinkVeth::new(link.dev, peer_dev).set_info_data(data).build()
}

/// `UNKNOWN` is the state of devices that have no carrier to report (`lo`, vxlan).
fn is_not_carrying(attribute: &LinkAttribute) -> bool {
    match attribute {
        LinkAttribute::OperState(state) => !matches!(state, OperState::Up | OperState::Unknown),
        _ => false,
    }
}
