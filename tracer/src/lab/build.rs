//! Realising a topology: namespaces, devices, addresses, routes, rules, files. What it makes is
//! torn down by [`super::lifecycle`], whichever step failed.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::host::Host;
use super::netlink::{LinkChange, Netlink};
use super::topology::{Link, LinkKind, Rules, Sysctl, Topology};
use super::{Backend, Error, Prefix, long, netns};

/// How long devices may take to carry; it takes them milliseconds.
const CARRIER_LIMIT: Duration = Duration::from_secs(5);
const CARRIER_INTERVAL: Duration = Duration::from_millis(2);

/// Builds all of the lab but its servers.
pub(crate) async fn build(
    prefix: &Prefix,
    topology: &Topology,
    backend: Backend,
) -> Result<(), Error> {
    netns::prepare_dir()?;
    for host in &topology.hosts {
        netns::create(&prefix.netns_path(host.name))?;
        // A signal is noticed where this function waits.
        tokio::task::yield_now().await;
    }
    set_sysctls(prefix, &topology.base_sysctls)?;
    // Rules need no devices: iptables works beside us.
    let rules = topology.rules.iter().map(|rules| restore(prefix, rules, backend));
    let tables = topology.nft.iter().map(|rules| load(prefix, rules));
    let rules: Vec<_> = rules.chain(tables).collect();
    let nets = Nets::open(prefix, topology)?;
    // They carry while somebody holds them; later that is the daemon.
    let _long = long::open_all(prefix, topology)?;
    nets.add_links(prefix, topology).await?;
    for address in &topology.addresses {
        nets.of(address.host)?.add_address(address.dev, address.cidr).await?;
    }
    set_sysctls(prefix, &topology.sysctls)?;
    nets.add_routes(topology).await?;
    for resolver in &topology.resolvers {
        Host { prefix, name: resolver.host }.write_resolver(resolver)?;
    }
    for task in rules {
        task.await.map_err(|e| Error::Server(e.to_string()))??;
    }
    nets.wait_for_carriers().await
}

fn restore(prefix: &Prefix, rules: &Rules, backend: Backend) -> JoinHandle<Result<(), Error>> {
    let (prefix, rules) = (prefix.clone(), rules.clone());
    tokio::task::spawn_blocking(move || {
        Host { prefix: &prefix, name: rules.host }.restore_rules(backend, &rules.text)
    })
}

fn load(prefix: &Prefix, rules: &Rules) -> JoinHandle<Result<(), Error>> {
    let (prefix, rules) = (prefix.clone(), rules.clone());
    tokio::task::spawn_blocking(move || {
        Host { prefix: &prefix, name: rules.host }.run("nft", &["-f", "-"], &rules.text)
    })
}

/// Sets them host by host, so that each namespace is entered once per run of equal hosts. A
/// kernel without IPv6 has no IPv6 to turn off.
fn set_sysctls(prefix: &Prefix, sysctls: &[Sysctl]) -> Result<(), Error> {
    let has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    let sysctls = sysctls.iter().filter(|s| has_ipv6 || !s.key.starts_with("net.ipv6."));
    let sysctls: Vec<Sysctl> = sysctls.copied().collect();
    for run in sysctls.chunk_by(|a, b| a.host == b.host) {
        let Some(first) = run.first() else { continue };
        Host { prefix, name: first.host }.set_sysctls(run)?;
    }
    Ok(())
}

/// A netlink socket in each namespace.
pub(crate) struct Nets(BTreeMap<&'static str, Netlink>);

impl Nets {
    pub(crate) fn open(prefix: &Prefix, topology: &Topology) -> Result<Self, Error> {
        let names = topology.host_names().into_iter();
        let open = names.map(|name| Ok((name, Netlink::open(prefix, name)?)));
        open.collect::<Result<_, Error>>().map(Self)
    }

    pub(crate) fn of(&self, host: &str) -> Result<&Netlink, Error> {
        self.0.get(host).ok_or_else(|| Error::BadSpec(format!("the lab has no host `{host}`")))
    }

    async fn add_links(&self, prefix: &Prefix, topology: &Topology) -> Result<(), Error> {
        for net in self.0.values() {
            net.set_link("lo", LinkChange::Up).await?;
        }
        for link in &topology.links {
            self.add_link(prefix, link).await?;
        }
        Ok(())
    }

    /// Adds a device, makes it a port, sets it up, and for a veth its peer too.
    pub(crate) async fn add_link(&self, prefix: &Prefix, link: &Link) -> Result<(), Error> {
        let net = self.of(link.host)?;
        let (peer_host, peer_dev) = match link.kind {
            LinkKind::Veth { peer_host, peer_dev } => (peer_host, peer_dev),
            // Made by who holds it open.
            LinkKind::Long { peer_host, peer_dev, .. } => {
                net.set_link(link.dev, LinkChange::Up).await?;
                return self.of(peer_host)?.set_link(peer_dev, LinkChange::Up).await;
            }
            LinkKind::Bridge | LinkKind::Vxlan { .. } => {
                net.add_link(link, None).await?;
                return net.set_link(link.dev, LinkChange::Up).await;
            }
        };
        let path = prefix.netns_path(peer_host);
        let peer_netns = File::open(&path).map_err(Error::io("open", path))?;
        net.add_link(link, Some(peer_netns.as_fd())).await?;
        if let Some(master) = link.master {
            net.set_link(link.dev, LinkChange::Master(master)).await?;
        }
        if link.has_hairpin {
            net.set_link(link.dev, LinkChange::Hairpin(true)).await?;
        }
        net.set_link(link.dev, LinkChange::Up).await?;
        self.of(peer_host)?.set_link(peer_dev, LinkChange::Up).await
    }

    async fn add_routes(&self, topology: &Topology) -> Result<(), Error> {
        for host in self.0.keys() {
            self.add_routes_of(host, topology).await?;
        }
        Ok(())
    }

    /// Writes the routes and the permanent neighbour and fdb entries of one host.
    pub(crate) async fn add_routes_of(&self, host: &str, topology: &Topology) -> Result<(), Error> {
        let net = self.of(host)?;
        for route in topology.routes.iter().filter(|route| route.host == host) {
            net.replace_route(&route.route).await?;
        }
        for n in topology.neighbours.iter().filter(|n| n.host == host) {
            net.replace_neighbour(n.dev, n.ip, n.mac).await?;
        }
        for entry in topology.fdb.iter().filter(|entry| entry.host == host) {
            net.replace_fdb(entry.dev, entry.mac, entry.remote).await?;
        }
        Ok(())
    }

    /// Every host's socket.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Netlink> {
        self.0.values()
    }

    /// The kernel turns a device's carrier into a working queue and a forwarding bridge port a
    /// little later, in a worker; until then packets are lost.
    pub(crate) async fn wait_for_carriers(&self) -> Result<(), Error> {
        let deadline = Instant::now() + CARRIER_LIMIT;
        for net in self.0.values() {
            while let Some(dev) = net.waiting_link().await? {
                if Instant::now() > deadline {
                    return Err(Error::NoCarrier { netns: net.netns().to_owned(), dev });
                }
                tokio::time::sleep(CARRIER_INTERVAL).await;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Spec;
    use crate::lab::topology::Choice;

    /// Removes the namespaces whatever becomes of the test.
    struct Cleanup(Prefix);

    impl Drop for Cleanup {
        fn drop(&mut self) {
            for host in ["a", "b"] {
                let _ = netns::remove(&self.0.netns_path(host));
            }
        }
    }

    #[tokio::test]
    #[ignore = "needs root: cargo test -p pkttrace -- --ignored"]
    async fn a_lab_that_is_up_can_be_changed() {
        let lab = Cleanup(format!("lbtest-{}", std::process::id()).parse().unwrap());
        let topology = Spec::find("pair").unwrap().topology(Choice::default()).unwrap();
        build(&lab.0, &topology, Backend::Nft).await.unwrap();
        let net = Netlink::open(&lab.0, "a").unwrap();
        for change in [LinkChange::Mtu(1400), LinkChange::Down, LinkChange::Up] {
            net.set_link("eth0", change).await.unwrap();
        }
        for route in ["blackhole 10.9.0.0/16", "10.8.0.0/16 via 10.0.0.2 table 1000"] {
            let route = route.parse().unwrap();
            net.replace_route(&route).await.unwrap();
            net.del_route(&route).await.unwrap();
            let gone = net.del_route(&route).await.unwrap_err().to_string();
            assert!(gone.ends_with("No such process"), "{gone}");
        }
        net.add_link(&Link::bridge("a", "br0", 1500), None).await.unwrap();
        for change in [
            LinkChange::Master("br0"),
            LinkChange::Hairpin(true),
            LinkChange::Hairpin(false),
            LinkChange::NoMaster,
        ] {
            net.set_link("eth0", change).await.unwrap();
        }
        net.del_link("eth0").await.unwrap();
        let gone = net.set_link("eth0", LinkChange::Up).await.unwrap_err().to_string();
        assert!(gone.ends_with("cannot find device eth0: No such device"), "{gone}");
    }
}
