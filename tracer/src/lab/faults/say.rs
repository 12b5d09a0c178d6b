//! Saying an operation in the words that a person would type.

use super::super::netlink::{Hook, LinkChange};
use super::super::server::Kind;
use super::super::{Backend, Prefix};
use super::op::{Edit, Offload, Op};

/// Who speaks: the names of the namespaces and of the programs depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Speaker<'a> {
    pub prefix: &'a Prefix,
    pub backend: Backend,
}

impl Speaker<'_> {
    /// The command line for an operation. What has no short one is said as a comment.
    #[must_use]
    pub fn say(&self, op: Op) -> String {
        match op {
            Op::Link { .. }
            | Op::DelLink { .. }
            | Op::Remake { .. }
            | Op::Vxlan { .. }
            | Op::AddMacvlan { .. }
            | Op::AddOrphan { .. }
            | Op::Offload { .. }
            | Op::Qdisc { .. }
            | Op::Program { .. } => self.say_device(op),
            Op::AddAddress { .. }
            | Op::DelAddress { .. }
            | Op::SetRoute { .. }
            | Op::DelRoute { .. }
            | Op::AddRule { .. }
            | Op::DelRule { .. }
            | Op::SetNeighbour { .. }
            | Op::DelNeighbour { .. }
            | Op::DelFdb { .. }
            | Op::Routes { .. } => self.say_route(op),
            Op::Iptables { .. }
            | Op::OtherIptables { .. }
            | Op::Rules { .. }
            | Op::AddNft { .. }
            | Op::DelNft { .. }
            | Op::RuleList { .. }
            | Op::AddIpset { .. }
            | Op::DelIpset { .. }
            | Op::ForgetConnections { .. } => self.say_rule(op),
            Op::Sysctl { host, key, value, .. } => {
                format!("{} sysctl -w {key}=\"{value}\"", self.exec(host))
            }
            Op::Resolver { host, nameserver } => {
                let path = self.prefix.etc_dir(host).join("resolv.conf");
                format!("sed -i 's/^nameserver .*/nameserver {nameserver}/' {}", path.display())
            }
            Op::Search { host, domains } => {
                let path = self.prefix.etc_dir(host).join("resolv.conf");
                format!("sed -i 's/^search .*/search {domains}/' {}", path.display())
            }
            Op::Serve { host, proto, port, edit } => {
                self.say_edit(host, &format!("{proto} port {port}"), edit)
            }
            Op::ServeAll => "# start the servers as they were built".to_owned(),
            Op::Send { host, to, sport, times } => {
                let from = if sport == 0 { String::new() } else { format!(" from port {sport}") };
                format!("# {}: {times} datagrams to {to}{from}, without waiting", self.netns(host))
            }
            Op::Connect { host, to, times } => {
                format!("# {}: {times} connections to {to}", self.netns(host))
            }
        }
    }

    fn netns(&self, host: &str) -> String {
        self.prefix.netns(host)
    }

    fn exec(&self, host: &str) -> String {
        format!("ip netns exec {}", self.netns(host))
    }

    fn ip(&self, host: &str) -> String {
        format!("ip -n {}", self.netns(host))
    }

    fn iptables(&self, host: &str, backend: Backend, words: &str) -> String {
        format!("{} iptables-{} {words}", self.exec(host), backend.name())
    }

    fn say_device(&self, op: Op) -> String {
        match op {
            Op::Link { host, dev, change } => self.say_link(host, dev, change),
            Op::DelLink { host, dev } => format!("{} link del {dev}", self.ip(host)),
            Op::Remake { host, dev } => {
                format!("# make {dev} in {} anew, with its addresses", self.netns(host))
            }
            Op::Vxlan { host, vni, local, port } => {
                let ip = self.ip(host);
                format!(
                    "{ip} link del flannel.1; {ip} link add flannel.1 mtu 1450 type vxlan id {vni} dev eth0 local {local} dstport {port} nolearning"
                )
            }
            Op::AddMacvlan { host, parent, into, dev } => format!(
                "{} link add {dev} link {parent} netns {} type macvlan mode bridge",
                self.ip(host),
                self.netns(into)
            ),
            Op::AddOrphan { host, dev, peer: (peer_host, peer_dev), master } => {
                let (ip, peer_netns) = (self.ip(host), self.netns(peer_host));
                format!(
                    "{ip} link add {dev} type veth peer name {peer_dev} netns {peer_netns}; {ip} link set {dev} master {master} up"
                )
            }
            Op::Offload { host, dev, what, on } => {
                let on = on_off(on);
                let what = match what {
                    Offload::Segmentation => format!("tso {on} gso {on}"),
                    Offload::Checksum => format!("tx {on}"),
                };
                format!("{} ethtool -K {dev} {what}", self.exec(host))
            }
            Op::Qdisc { host, dev, words, .. } => {
                format!("{} tc qdisc replace dev {dev} root {words}", self.exec(host))
            }
            Op::Program { host, dev, hook, on } => self.say_program(host, dev, hook, on),
            _ => String::new(),
        }
    }

    fn say_link(&self, host: &str, dev: &str, change: LinkChange<'_>) -> String {
        let set = format!("{} link set {dev}", self.ip(host));
        let port = format!("bridge -n {} link set dev {dev}", self.netns(host));
        match change {
            LinkChange::Up => format!("{set} up"),
            LinkChange::Down => format!("{set} down"),
            LinkChange::Mtu(mtu) => format!("{set} mtu {mtu}"),
            LinkChange::Master(bridge) => format!("{set} master {bridge}"),
            LinkChange::NoMaster => format!("{set} nomaster"),
            LinkChange::Address(mac) => format!("{set} address {mac}"),
            LinkChange::Hairpin(on) => format!("{port} hairpin {}", on_off(on)),
            LinkChange::Isolated(on) => format!("{port} isolated {}", on_off(on)),
            LinkChange::Forwarding(on) => {
                format!("{port} state {}", if on { "forwarding" } else { "disabled" })
            }
        }
    }

    fn say_program(&self, host: &str, dev: &str, hook: Hook, on: bool) -> String {
        let netns = self.netns(host);
        let object = if hook == Hook::XdpPassing { "xdp-pass.o" } else { "xdp-drop.o" };
        let xdp = |mode| match on {
            true => format!("ip -n {netns} link set dev {dev} {mode} object {object}"),
            false => format!("ip -n {netns} link set dev {dev} {mode} off"),
        };
        let tc = |direction| match on {
            true => format!(
                "tc -n {netns} qdisc add dev {dev} clsact; tc -n {netns} filter add dev {dev} {direction} bpf da object tc-drop.o"
            ),
            false => format!("tc -n {netns} qdisc del dev {dev} clsact"),
        };
        match hook {
            Hook::XdpGeneric => xdp("xdpgeneric"),
            Hook::XdpDriver | Hook::XdpPassing => xdp("xdpdrv"),
            Hook::TcIngress => tc("ingress"),
            Hook::TcEgress => tc("egress"),
        }
    }

    fn say_route(&self, op: Op) -> String {
        match op {
            Op::AddAddress { host, dev, cidr } => {
                format!("{} addr add {cidr} dev {dev}", self.ip(host))
            }
            Op::DelAddress { host, dev, cidr } => {
                format!("{} addr del {cidr} dev {dev}", self.ip(host))
            }
            Op::SetRoute { host, route } => format!("{} route replace {route}", self.ip(host)),
            Op::DelRoute { host, route } => format!("{} route del {route}", self.ip(host)),
            Op::AddRule { host, from, table, priority } => {
                format!("{} rule add from {from} lookup {table} pref {priority}", self.ip(host))
            }
            Op::DelRule { host, from, table, priority } => {
                format!("{} rule del from {from} lookup {table} pref {priority}", self.ip(host))
            }
            Op::SetNeighbour { host, dev, ip, mac } => {
                format!("{} neigh replace {ip} lladdr {mac} dev {dev} nud permanent", self.ip(host))
            }
            Op::DelNeighbour { host, dev, ip } => {
                format!("{} neigh del {ip} dev {dev}", self.ip(host))
            }
            Op::DelFdb { host, dev, remote } => {
                let netns = self.netns(host);
                format!("bridge -n {netns} fdb del VTEP-MAC dev {dev} dst {remote} self")
            }
            Op::Routes { host } => {
                format!("# write the routes, neighbours and fdb entries of {}", self.netns(host))
            }
            _ => String::new(),
        }
    }

    fn say_rule(&self, op: Op) -> String {
        match op {
            Op::Iptables { host, words } => self.iptables(host, self.backend, words),
            Op::OtherIptables { host, words, .. } => {
                self.iptables(host, self.backend.other(), words)
            }
            Op::Rules { host, .. } => format!("# write the iptables rules of {}", self.netns(host)),
            Op::AddNft { host, table, chain, rule } => {
                let nft = format!("{} nft", self.exec(host));
                format!(
                    "{nft} 'add table {table}; add chain {table} c {{ {chain} }}; add rule {table} c {rule}'"
                )
            }
            Op::DelNft { host, table } => format!("{} nft delete table {table}", self.exec(host)),
            Op::RuleList { host, chain, count } => {
                let jump = format!("-I FORWARD 1 -j {chain}");
                let jump = self.iptables(host, self.backend, &jump);
                format!("{jump}  # and {count} rules for others in {chain}")
            }
            Op::AddIpset { host, name, member } => {
                let exec = self.exec(host);
                format!("{exec} ipset create {name} hash:ip; {exec} ipset add {name} {member}")
            }
            Op::DelIpset { host, name } => format!("{} ipset destroy {name}", self.exec(host)),
            Op::ForgetConnections { host } => format!("{} conntrack -F", self.exec(host)),
            _ => String::new(),
        }
    }

    fn say_edit(&self, host: &str, port: &str, edit: Edit) -> String {
        let netns = self.netns(host);
        let what = match edit {
            Edit::Stop => "ends".to_owned(),
            Edit::Loopback => "listens on 127.0.0.1 only".to_owned(),
            Edit::Become(Kind::Hang) => "accepts and never answers".to_owned(),
            Edit::Become(Kind::Paced) => "starts anew".to_owned(),
            Edit::Become(Kind::Named) => "asks 203.0.113.53 for each client's name".to_owned(),
            Edit::Become(Kind::Cramped) => "has a receive buffer of 8 KiB".to_owned(),
            Edit::Become(_) => "stops reading, with no room to queue".to_owned(),
        };
        format!("# {netns}: the server on {port} {what}")
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
