//! Carrying out operations on a lab that is up.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use super::super::build::Nets;
use super::super::host::{Host, find_program};
use super::super::lifecycle::Lab;
use super::super::netlink::{Hook, LinkChange};
use super::super::server::{Proto, Server};
use super::super::topology::{Link, LinkKind, Resolver, Sysctl, Topology};
use super::super::{Error, LOCK_WAIT, netlink, sys};
use super::op::{Edit, Offload, Op};
use super::perf::rule_list;
use crate::bpf::{Verdict, always};
use crate::net::setns;

/// `ETHTOOL_STXCSUM`, `ETHTOOL_STSO`, `ETHTOOL_SGSO` of `linux/ethtool.h`.
const TX_CHECKSUM: u32 = 0x17;
const TSO: u32 = 0x1f;
const GSO: u32 = 0x24;
/// Enough for a connection within this machine; one that is not taken at once never is.
const CONNECT: Duration = Duration::from_millis(200);
/// A datagram that fills a small receive buffer fast.
const DATAGRAM: [u8; 500] = [b'x'; 500];

/// What operations work on.
pub(super) struct Work<'a> {
    pub(super) lab: &'a Lab,
    pub(super) topology: &'a Topology,
    pub(super) nets: &'a Nets,
}

impl Work<'_> {
    /// Carries out one operation.
    pub(super) async fn apply(&self, op: Op) -> Result<(), Error> {
        match op {
            Op::Link { .. }
            | Op::DelLink { .. }
            | Op::Remake { .. }
            | Op::Vxlan { .. }
            | Op::AddMacvlan { .. }
            | Op::AddOrphan { .. }
            | Op::Program { .. } => self.change_device(op).await,
            Op::Iptables { .. }
            | Op::OtherIptables { .. }
            | Op::Rules { .. }
            | Op::AddNft { .. }
            | Op::DelNft { .. }
            | Op::RuleList { .. }
            | Op::AddIpset { .. }
            | Op::DelIpset { .. }
            | Op::ForgetConnections { .. } => self.change_rules(op),
            Op::Serve { host, proto, port, edit } => {
                self.edit_servers(host, (proto, port), edit).await
            }
            Op::ServeAll => self.lab.serve(&self.topology.servers).await,
            Op::Sysctl { host, key, value, .. } => {
                self.host(host)?.set_sysctls(&[Sysctl { host, key, value }])
            }
            Op::Offload { host, dev, what, on } => self.set_offload(host, dev, what, on),
            Op::Qdisc { host, dev, words, .. } => {
                self.run(host, &format!("tc qdisc replace dev {dev} root {words}"))
            }
            Op::Resolver { host, nameserver } => {
                self.set_resolver(host, |built| Resolver { nameserver, ..built })
            }
            Op::Search { host, domains } => {
                self.set_resolver(host, |built| Resolver { search: domains, ..built })
            }
            Op::Send { host, to, sport, times } => {
                self.inside(host, &format!("send to {to}"), || send(to, sport, times))
            }
            Op::Connect { host, to, times } => {
                self.inside(host, &format!("connect to {to}"), || connect(to, times))
            }
            _ => self.change_routes(op).await,
        }
    }

    /// [`Self::apply`] of an operation that undoes another. Whoever repaired the lab by hand has
    /// done part of it already, which is as good.
    pub(super) async fn apply_undo(&self, op: Op) -> Result<(), Error> {
        let done: &[i32] = match op {
            Op::AddAddress { .. } => &[libc::EEXIST],
            Op::DelAddress { .. } => &[libc::EADDRNOTAVAIL, libc::ENODEV],
            Op::DelRoute { .. } | Op::DelRule { .. } => &[libc::ESRCH, libc::ENOENT, libc::ENODEV],
            Op::DelNeighbour { .. } => &[libc::ENOENT, libc::ENODEV],
            Op::DelLink { .. } => &[libc::ENODEV],
            // What the kernel says to the deletion of a qdisc that is not there.
            Op::Program { .. } => &[libc::ENOENT, libc::EINVAL, libc::ENODEV],
            _ => &[],
        };
        match self.apply(op).await {
            Err(Error::Netns { cause, .. })
                if cause.raw_os_error().is_some_and(|code| done.contains(&code)) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    fn host<'b>(&'b self, name: &'b str) -> Result<Host<'b>, Error> {
        self.lab.host(name)
    }

    fn inside(
        &self,
        host: &str,
        what: &str,
        work: impl FnOnce() -> io::Result<()> + Send,
    ) -> Result<(), Error> {
        let prefix = &self.lab.prefix;
        setns::run_in_path(&prefix.netns_path(host), work)
            .map_err(Error::netns(prefix.netns(host), what))
    }

    fn link(&self, host: &str, dev: &str) -> Result<&Link, Error> {
        let link = self.topology.links.iter().find(|l| (l.host, l.dev) == (host, dev));
        link.ok_or_else(|| Error::BadSpec(format!("the lab has no device {dev} in {host}")))
    }

    async fn change_device(&self, op: Op) -> Result<(), Error> {
        match op {
            Op::Link { host, dev, change } => self.nets.of(host)?.set_link(dev, change).await,
            Op::DelLink { host, dev } => self.nets.of(host)?.del_link(dev).await,
            Op::Remake { host, dev } => self.remake(*self.link(host, dev)?).await,
            Op::Vxlan { host, vni, local, port } => {
                let built = *self.link(host, "flannel.1")?;
                let kind = LinkKind::Vxlan { vni, underlay_dev: "eth0", local, port };
                self.remake(Link { kind, ..built }).await
            }
            Op::AddMacvlan { host, parent, into, dev } => {
                let path = self.lab.prefix.netns_path(into);
                let netns = File::open(&path).map_err(Error::io("open", path))?;
                self.nets.of(host)?.add_macvlan(parent, dev, netns.as_fd()).await
            }
            Op::AddOrphan { host, dev, peer: (peer_host, peer_dev), master } => {
                let kind = LinkKind::Veth { peer_host, peer_dev };
                let link = Link { kind, ..Link::bridge(host, dev, 1500) }.port_of(master);
                self.nets.add_link(&self.lab.prefix, &link).await?;
                self.nets.of(peer_host)?.set_link(peer_dev, LinkChange::Down).await
            }
            Op::Program { host, dev, hook, on: true } => {
                let verdict = match hook {
                    Hook::XdpGeneric | Hook::XdpDriver => Verdict::DropXdp,
                    Hook::XdpPassing => Verdict::PassXdp,
                    Hook::TcIngress | Hook::TcEgress => Verdict::DropTc,
                };
                let netns = self.lab.prefix.netns(host);
                let program = always(verdict).map_err(Error::netns(netns, "load a BPF program"))?;
                self.nets.of(host)?.attach(dev, hook, program.as_fd()).await
            }
            Op::Program { host, dev, hook, on: false } => {
                self.nets.of(host)?.detach(dev, hook).await
            }
            _ => Ok(()),
        }
    }

    /// Deletes the device, if it is there, and makes it with its addresses and routes.
    async fn remake(&self, link: Link) -> Result<(), Error> {
        for (host, dev) in link.ends() {
            match self.nets.of(host)?.del_link(dev).await {
                Err(Error::Netns { cause, .. }) if cause.raw_os_error() == Some(libc::ENODEV) => {}
                result => result?,
            }
        }
        self.nets.add_link(&self.lab.prefix, &link).await?;
        for end in link.ends() {
            for address in &self.topology.addresses {
                if (address.host, address.dev) == end {
                    self.nets.of(end.0)?.add_address(end.1, address.cidr).await?;
                }
            }
        }
        for (host, _) in link.ends() {
            self.nets.add_routes_of(host, self.topology).await?;
        }
        Ok(())
    }

    async fn change_routes(&self, op: Op) -> Result<(), Error> {
        match op {
            Op::AddAddress { host, dev, cidr } => {
                self.nets.of(host)?.add_address(dev, cidr.parse()?).await
            }
            Op::DelAddress { host, dev, cidr } => {
                self.nets.of(host)?.del_address(dev, cidr.parse()?).await
            }
            Op::SetRoute { host, route } => {
                self.nets.of(host)?.replace_route(&route.parse()?).await
            }
            Op::DelRoute { host, route } => self.nets.of(host)?.del_route(&route.parse()?).await,
            Op::AddRule { host, from, table, priority } => {
                self.nets.of(host)?.add_rule(from.parse()?, table, priority).await
            }
            Op::DelRule { host, from, table, priority } => {
                self.nets.of(host)?.del_rule(from.parse()?, table, priority).await
            }
            Op::SetNeighbour { host, dev, ip, mac } => {
                self.nets.of(host)?.replace_neighbour(dev, address(ip)?, mac).await
            }
            Op::DelNeighbour { host, dev, ip } => {
                self.nets.of(host)?.del_neighbour(dev, address(ip)?).await
            }
            Op::DelFdb { host, dev, remote } => {
                let remote = address(remote)?;
                let mut entries = self.topology.fdb.iter();
                let entry = entries.find(|e| (e.host, e.remote) == (host, remote));
                let missing = || Error::BadSpec(format!("{host} has no fdb entry to {remote}"));
                let mac = entry.ok_or_else(missing)?.mac;
                self.nets.of(host)?.del_fdb(dev, mac, remote).await
            }
            Op::Routes { host } => self.nets.add_routes_of(host, self.topology).await,
            _ => Ok(()),
        }
    }

    fn change_rules(&self, op: Op) -> Result<(), Error> {
        let backend = self.lab.record.iptables;
        match op {
            Op::Iptables { host, words } => {
                self.run(host, &format!("iptables-{} -w {LOCK_WAIT} {words}", backend.name()))
            }
            Op::OtherIptables { host, words, .. } => self
                .run(host, &format!("iptables-{} -w {LOCK_WAIT} {words}", backend.other().name())),
            Op::Rules { host, has_raw } => {
                let rules = self.topology.rules.iter().find(|rules| rules.host == host);
                let text = rules.map_or("", |rules| &rules.text);
                let text = whole_tables(text, has_raw);
                self.host(host)?.run(&backend.restore_program(), &["-w", LOCK_WAIT], &text)
            }
            Op::AddNft { host, table, chain, rule } => {
                let text = format!(
                    "add table {table}\nadd chain {table} c {{ {chain} }}\nadd rule {table} c {rule}\n"
                );
                self.run_with(host, "nft -f -", &text)
            }
            // Adding first makes it no error where it is gone already.
            Op::DelNft { host, table } => self.run_with(
                host,
                "nft -f -",
                &format!("add table {table}\ndelete table {table}\n"),
            ),
            Op::RuleList { host, chain, count } => {
                self.host(host)?.restore_rules(backend, &rule_list(chain, count))
            }
            Op::AddIpset { host, name, member } => {
                let text = format!("create {name} hash:ip\nadd {name} {member}\n");
                self.run_with(host, "ipset restore", &text)
            }
            Op::DelIpset { host, name } => {
                let text = format!("create {name} hash:ip\ndestroy {name}\n");
                self.run_with(host, "ipset -exist restore", &text)
            }
            Op::ForgetConnections { host } => {
                self.inside(host, "flush conntrack", netlink::forget_connections)
            }
            _ => Ok(()),
        }
    }

    fn run(&self, host: &str, command: &str) -> Result<(), Error> {
        self.run_with(host, command, "")
    }

    fn run_with(&self, host: &str, command: &str, input: &str) -> Result<(), Error> {
        let words = words(command);
        let Some((program, args)) = words.split_first() else { return Ok(()) };
        if find_program(program).is_none() {
            return Err(Error::NoTool(program.clone()));
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.host(host)?.run(program, &args, input)
    }

    async fn edit_servers(
        &self,
        host: &str,
        (proto, port): (Proto, u16),
        edit: Edit,
    ) -> Result<(), Error> {
        let is_meant = |s: &Server| s.host == host && s.proto == proto && s.addr.port() == port;
        let mut servers = self.lab.servers()?;
        if edit == Edit::Stop {
            servers.retain(|server| !is_meant(server));
        }
        for server in servers.iter_mut().filter(|server| is_meant(server)) {
            match edit {
                Edit::Stop => {}
                Edit::Loopback => server.addr.set_ip(match server.addr.ip() {
                    IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
                }),
                Edit::Become(kind) => server.kind = kind,
            }
        }
        self.lab.serve(&servers).await
    }

    fn set_offload(&self, host: &str, dev: &str, what: Offload, on: bool) -> Result<(), Error> {
        let commands: &[u32] = match what {
            Offload::Segmentation => &[TSO, GSO],
            Offload::Checksum => &[TX_CHECKSUM],
        };
        self.inside(host, &format!("set offloads of {dev}"), || {
            commands.iter().try_for_each(|command| sys::set_offload(dev, *command, on))
        })
    }

    fn set_resolver(
        &self,
        host: &str,
        change: impl FnOnce(Resolver) -> Resolver,
    ) -> Result<(), Error> {
        let built = self.topology.resolvers.iter().find(|resolver| resolver.host == host);
        let missing = || Error::BadSpec(format!("{host} has no resolv.conf"));
        self.host(host)?.write_resolver(&change(*built.ok_or_else(missing)?))
    }
}

fn address(text: &str) -> Result<IpAddr, Error> {
    text.parse().map_err(|_| Error::BadSpec(format!("`{text}` is not an address")))
}

fn socket_address(text: &str) -> io::Result<SocketAddr> {
    text.parse().map_err(|_| io::Error::new(ErrorKind::InvalidInput, "it does not parse"))
}

fn send(to: &str, sport: u16, times: u8) -> io::Result<()> {
    let to = socket_address(to)?;
    let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, sport))?;
    (0..times).try_for_each(|_| socket.send_to(&DATAGRAM, to).map(drop))
}

/// That some, or all, are not accepted is what it is for.
fn connect(to: &str, times: u8) -> io::Result<()> {
    let to = socket_address(to)?;
    let streams = (0..times).map(|_| TcpStream::connect_timeout(&to, CONNECT));
    drop(streams.collect::<Vec<_>>());
    Ok(())
}

/// Splits a command line at spaces; double quotes keep some together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    for c in line.chars() {
        match c {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            ' ' if !is_quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Rules of a lab as input for `iptables-restore` without `--noflush`: built-in chains are named,
/// so that their policies come back too.
fn whole_tables(text: &str, has_raw: bool) -> String {
    let chains = |names: &[&str]| -> String {
        names.iter().map(|name| format!(":{name} ACCEPT [0:0]\n")).collect()
    };
    let mut all = String::new();
    for line in text.lines() {
        all += line;
        all.push('\n');
        let names: &[&str] = match line {
            "*filter" => &["INPUT", "FORWARD", "OUTPUT"],
            "*nat" => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
            _ => &[],
        };
        // A policy that the lab's own rules set wins.
        let free = |name: &&&str| !text.contains(&format!("\n:{name} "));
        all += &chains(&names.iter().filter(free).copied().collect::<Vec<_>>());
    }
    if has_raw {
        all += &format!("*raw\n{}COMMIT\n", chains(&["PREROUTING", "OUTPUT"]));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(words("a -m \"b c\" \"\" d"), ["a", "-m", "b c", "", "d"]);
        assert!(words("").is_empty());
    }

    #[test]
    fn policies_come_back_unless_the_lab_sets_them() {
        let text = whole_tables("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -j X\nCOMMIT\n", true);
        assert_eq!(
            text,
            "*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n-A FORWARD -j X\nCOMMIT\n*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
        );
    }
}
