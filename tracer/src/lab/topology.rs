//! A lab as a value: hosts, devices, addresses, routes, rules, servers. Nothing here touches the
//! kernel; `super::build` realises it.

use std::time::Duration;

use super::Error;
use super::addr::{Cidr, Mac};
use super::route::Route;
use super::server::Server;

/// What can be chosen when a lab is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice {
    /// Give every host IPv6 addresses and routes as well; otherwise IPv6 is off.
    pub ipv6: bool,
    /// With which of its modes kube-proxy has written the rules of the Services.
    pub proxy: Proxy,
}

/// A mode of kube-proxy.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Proxy {
    #[default]
    Iptables,
    Nftables,
}

/// A whole lab.
#[derive(Debug, Default)]
pub struct Topology {
    pub hosts: Vec<HostSpec>,
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    pub routes: Vec<HostRoute>,
    pub neighbours: Vec<Neighbour>,
    pub fdb: Vec<FdbEntry>,
    /// Set before there is any device.
    pub base_sysctls: Vec<Sysctl>,
    /// Set when all devices are there.
    pub sysctls: Vec<Sysctl>,
    pub rules: Vec<Rules>,
    /// Tables of nftables beside them.
    pub nft: Vec<Rules>,
    pub resolvers: Vec<Resolver>,
    pub servers: Vec<Server>,
    /// Commands worth trying: words after `pkttrace`, and what they show.
    pub tries: Vec<(&'static str, &'static str)>,
}

/// One network namespace.
#[derive(Debug, Clone, Copy)]
pub struct HostSpec {
    pub name: &'static str,
    /// What it plays, with its main addresses.
    pub role: &'static str,
}

/// A device, and for a veth its peer as well.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    pub host: &'static str,
    pub dev: &'static str,
    pub kind: LinkKind,
    pub mtu: u32,
    pub mac: Option<Mac>,
    /// The bridge that it is a port of.
    pub master: Option<&'static str>,
    /// As a bridge port: may send a frame back out of the port it came in by.
    pub has_hairpin: bool,
}

#[derive(Debug, Clone, Copy)]
pub enum LinkKind {
    Bridge,
    /// The peer takes the same MTU and is set up as well.
    Veth {
        peer_host: &'static str,
        peer_dev: &'static str,
    },
    /// As flannel makes it: no learning, entries are written.
    Vxlan {
        vni: u32,
        underlay_dev: &'static str,
        local: &'static str,
        port: u16,
    },
    /// Two tun devices between which the lab's daemon holds every packet back for a while.
    Long {
        peer_host: &'static str,
        peer_dev: &'static str,
        delay: Duration,
    },
}

impl Link {
    /// A bridge.
    #[must_use]
    pub fn bridge(host: &'static str, dev: &'static str, mtu: u32) -> Self {
        Self { host, dev, kind: LinkKind::Bridge, mtu, mac: None, master: None, has_hairpin: false }
    }

    /// A veth from `dev` on `host` to `eth0` on `peer_host`.
    #[must_use]
    pub fn veth(host: &'static str, dev: &'static str, peer_host: &'static str, mtu: u32) -> Self {
        let kind = LinkKind::Veth { peer_host, peer_dev: "eth0" };
        Self { kind, ..Self::bridge(host, dev, mtu) }
    }

    /// A VXLAN device as flannel makes it: vni 1, port 8472, over `eth0`.
    #[must_use]
    pub fn vxlan(host: &'static str, dev: &'static str, local: &'static str, mtu: u32) -> Self {
        let kind = LinkKind::Vxlan { vni: 1, underlay_dev: "eth0", local, port: 8472 };
        Self { kind, ..Self::bridge(host, dev, mtu) }
    }

    /// A link of `delay` each way between `dev` on `host` and a device of the same name on
    /// `peer_host`.
    #[must_use]
    pub fn long(
        host: &'static str,
        dev: &'static str,
        peer_host: &'static str,
        delay: Duration,
    ) -> Self {
        let kind = LinkKind::Long { peer_host, peer_dev: dev, delay };
        Self { kind, ..Self::bridge(host, dev, 1500) }
    }

    /// This link as a port of `bridge`.
    #[must_use]
    pub fn port_of(self, bridge: &'static str) -> Self {
        Self { master: Some(bridge), ..self }
    }

    /// This bridge port with hairpin on.
    #[must_use]
    pub fn hairpin(self) -> Self {
        Self { has_hairpin: true, ..self }
    }

    /// Both ends: the host and the name of each device that this link makes.
    pub fn ends(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let peer = match self.kind {
            LinkKind::Veth { peer_host, peer_dev } | LinkKind::Long { peer_host, peer_dev, .. } => {
                Some((peer_host, peer_dev))
            }
            LinkKind::Bridge | LinkKind::Vxlan { .. } => None,
        };
        std::iter::once((self.host, self.dev)).chain(peer)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Address {
    pub host: &'static str,
    pub dev: &'static str,
    pub cidr: Cidr,
}

#[derive(Debug, Clone)]
pub struct HostRoute {
    pub host: &'static str,
    pub route: Route,
}

/// A permanent neighbour entry.
#[derive(Debug, Clone, Copy)]
pub struct Neighbour {
    pub host: &'static str,
    pub dev: &'static str,
    pub ip: std::net::IpAddr,
    pub mac: Mac,
}

/// A permanent entry in a VXLAN device's own forwarding database.
#[derive(Debug, Clone, Copy)]
pub struct FdbEntry {
    pub host: &'static str,
    pub dev: &'static str,
    pub mac: Mac,
    pub remote: std::net::IpAddr,
}

/// A value below `/proc/sys/`, the key with dots or slashes as for `sysctl(8)`.
#[derive(Debug, Clone, Copy)]
pub struct Sysctl {
    pub host: &'static str,
    pub key: &'static str,
    pub value: &'static str,
}

/// Input of `iptables-restore --noflush`, or of `nft -f`.
#[derive(Debug, Clone)]
pub struct Rules {
    pub host: &'static str,
    pub text: String,
}

/// The `resolv.conf` of a host.
#[derive(Debug, Clone, Copy)]
pub struct Resolver {
    pub host: &'static str,
    pub nameserver: &'static str,
    pub search: &'static str,
}

/// Adding to a topology from tables of text. An entry that does not parse is an [`Error::BadSpec`];
/// the tests build every lab, so none reaches a user.
impl Topology {
    pub(crate) fn hosts(&mut self, table: &[(&'static str, &'static str)]) {
        self.hosts.extend(table.iter().map(|&(name, role)| HostSpec { name, role }));
    }

    pub(crate) fn sysctls(&mut self, host: &'static str, table: &[(&'static str, &'static str)]) {
        self.sysctls.extend(table.iter().map(|&(key, value)| Sysctl { host, key, value }));
    }

    /// Rows of host, device, address with prefix length.
    pub(crate) fn addresses(
        &mut self,
        table: &[(&'static str, &'static str, &str)],
    ) -> Result<(), Error> {
        for &(host, dev, cidr) in table {
            let cidr = cidr.parse()?;
            self.addresses.push(Address { host, dev, cidr });
        }
        Ok(())
    }

    /// Rows of host, route in the words of `ip route`.
    pub(crate) fn routes(&mut self, table: &[(&'static str, &str)]) -> Result<(), Error> {
        for &(host, route) in table {
            let route = route.parse()?;
            self.routes.push(HostRoute { host, route });
        }
        Ok(())
    }

    /// Rows in the words of the servers' file.
    pub(crate) fn servers(&mut self, table: &[&str]) -> Result<(), Error> {
        for row in table {
            self.servers.push(row.parse()?);
        }
        Ok(())
    }

    /// What every pod serves: a UDP echo on port 9000, a UDP sink on port 9001.
    pub(crate) fn datagram_servers(&mut self, hosts: &[&str]) -> Result<(), Error> {
        for host in hosts {
            self.servers.push(format!("{host} udp 0.0.0.0 9000 echo").parse()?);
            self.servers.push(format!("{host} udp 0.0.0.0 9001 sink").parse()?);
        }
        Ok(())
    }

    /// The names of all hosts.
    #[must_use]
    pub fn host_names(&self) -> Vec<&'static str> {
        self.hosts.iter().map(|host| host.name).collect()
    }
}
