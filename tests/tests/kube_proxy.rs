//! What goes wrong with a Service, in the shapes that kube-proxy gives its rules: every row in every
//! mode that it concerns. IPVS needs a kernel that has it: see `ipvs`.

use pkttrace_tests::{Diagnosis, Lab, is_fast, side_by_side};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    IptablesNft,
    IptablesLegacy,
    Nftables,
}

use Mode::{IptablesLegacy, IptablesNft, Nftables};

const EVERY: &[Mode] = &[IptablesNft, IptablesLegacy, Nftables];
const IPTABLES: &[Mode] = &[IptablesNft, IptablesLegacy];
const NFT: &[Mode] = &[Nftables];

/// In a fast run, one of so many.
const FAST_STEP: usize = 5;

/// A lab with a mode of kube-proxy.
struct Bed {
    lab: Lab,
    mode: Mode,
}

impl Bed {
    fn up(mode: Mode) -> Self {
        let lab = match mode {
            IptablesNft => Lab::cluster_with("nft"),
            IptablesLegacy => Lab::cluster_with("legacy"),
            Nftables => Lab::up("cluster", &["--proxy", "nftables"]),
        };
        Self { lab, mode }
    }

    /// Runs lines in a host: `iptables` is that of the mode, and in mode `nftables` what begins with
    /// it concerns nobody, as `nft` does in the others.
    fn run(&self, host: &str, lines: &[&str]) {
        for line in lines {
            let is_nft = line.starts_with("nft ");
            let command = match self.mode {
                Nftables if line.starts_with("iptables ") => continue,
                IptablesNft | IptablesLegacy if is_nft => continue,
                IptablesLegacy => line.replacen("iptables ", "iptables-legacy ", 1),
                _ => (*line).to_owned(),
            };
            self.lab.exec(host, &command);
        }
    }

    fn ask(&self, row: &Row) -> Diagnosis {
        let from = self.lab.netns(row.from);
        let (to, rest) = row.to.split_once(' ').unwrap_or((row.to, "--proto tcp"));
        let ask = ["--from", &from, "--to", to];
        Diagnosis::of(&ask.into_iter().chain(rest.split(' ')).collect::<Vec<_>>())
    }
}

/// A fault, what is asked, and what has to be said of it.
struct Row {
    what: &'static str,
    modes: &'static [Mode],
    /// Where it is made, and how.
    host: &'static str,
    breaks: &'static [&'static str],
    from: &'static str,
    /// Address, port and, where it is not TCP, further options.
    to: &'static str,
    id: &'static str,
    /// Words of the first finding.
    says: &'static str,
    /// Its commands heal; else it is advice.
    heals: bool,
}

const ROW: Row = Row {
    what: "",
    modes: EVERY,
    host: "n1",
    breaks: &[],
    from: "p1",
    to: "10.96.45.102:80",
    id: "",
    says: "",
    heals: false,
};

/// The Service `websame` is about to be led elsewhere.
const LOSE_WEBSAME: &str = "iptables -t nat -D KUBE-SERVICES -d 10.96.45.102/32 -p tcp -m tcp --dport 80 -m comment --comment 'default/websame cluster IP' -j KUBE-SVC-WEBSAME";

/// `breaks` leads port 8088 of n1 to an address that only its neighbour table still knows.
const GONE_POD: Row = Row {
    from: "ext",
    to: "192.168.50.11:8088",
    id: "hostport-stale-pod",
    says: "10.244.1.99",
    ..ROW
};

const KNOW_GONE_POD: &str =
    "ip neigh replace 10.244.1.99 lladdr 0a:58:0a:f4:01:63 dev cni0 nud reachable";

const ROWS: &[Row] = &[
    Row {
        what: "a NodePort at 127.0.0.1",
        modes: NFT,
        from: "n1",
        to: "127.0.0.1:30080",
        id: "nodeport-not-on-loopback",
        says: "192.168.50.11",
        ..ROW
    },
    Row {
        what: "no endpoints, NodePort",
        breaks: &[
            "iptables -t nat -D KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -m comment --comment default/webrem -j KUBE-EXT-WEBREM",
            "iptables -A KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment 'default/webrem has no endpoints' -m addrtype --dst-type LOCAL -m tcp --dport 30080 -j REJECT",
            "nft 'delete element ip kube-proxy service-nodeports { tcp . 30080 }'",
            "nft 'add element ip kube-proxy no-endpoint-nodeports { tcp . 30080 comment \"default/webrem\" : goto reject-chain }'",
        ],
        from: "ext",
        to: "192.168.50.11:30080",
        id: "svc-no-endpoints",
        says: "default/webrem",
        ..ROW
    },
    Row {
        what: "wrong targetPort",
        modes: NFT,
        breaks: &[
            "nft 'flush chain ip kube-proxy service-O6YHTNFQ-default/websame/tcp/'",
            "nft 'add rule ip kube-proxy service-O6YHTNFQ-default/websame/tcp/ meta l4proto tcp dnat ip to numgen random mod 1 map { 0 : 10.244.1.3 . 9999 }'",
        ],
        id: "svc-wrong-targetport",
        says: "leads to port 9999",
        heals: true,
        ..ROW
    },
    Row {
        what: "externalTrafficPolicy Local, NodePort",
        host: "n2",
        from: "ext",
        to: "192.168.50.12:30081",
        id: "svc-no-local-endpoints",
        says: "externalTrafficPolicy",
        ..ROW
    },
    Row {
        what: "externalTrafficPolicy Local, address of a load balancer",
        host: "n2",
        breaks: &[
            "iptables -A KUBE-EXTERNAL-SERVICES -d 198.51.100.20/32 -p tcp -m comment --comment 'default/weblocal has no local endpoints' -m tcp --dport 80 -j DROP",
            "nft 'add element ip kube-proxy no-endpoint-services { 198.51.100.20 . tcp . 80 comment \"default/weblocal\" : drop }'",
        ],
        from: "ext",
        to: "198.51.100.20:80",
        id: "svc-no-local-endpoints",
        says: "externalTrafficPolicy",
        ..ROW
    },
    Row {
        what: "externalTrafficPolicy Local, a pod asks for the private address of a load balancer",
        modes: NFT,
        breaks: &[
            "nft 'add element ip kube-proxy no-endpoint-services { 10.88.1.2 . tcp . 80 comment \"default/weblocal\" : drop }'",
        ],
        to: "10.88.1.2:80",
        id: "svc-no-local-endpoints",
        says: "default/weblocal",
        ..ROW
    },
    Row {
        what: "internalTrafficPolicy Local",
        modes: IPTABLES,
        breaks: &[
            LOSE_WEBSAME,
            "iptables -A KUBE-SERVICES -d 10.96.45.102/32 -p tcp -m comment --comment 'default/websame has no local endpoints' -m tcp --dport 80 -j DROP",
        ],
        id: "svc-no-local-endpoints",
        says: "internalTrafficPolicy",
        ..ROW
    },
    Row {
        what: "source range of a load balancer",
        breaks: &[
            "iptables -t nat -N KUBE-FW-WEBREM",
            "iptables -t nat -A KUBE-FW-WEBREM -s 192.0.2.0/24 -m comment --comment 'default/webrem loadbalancer IP' -j KUBE-EXT-WEBREM",
            "iptables -t nat -A KUBE-FW-WEBREM -m comment --comment 'other traffic to default/webrem will be dropped by KUBE-PROXY-FIREWALL'",
            "iptables -t nat -I KUBE-SERVICES -d 198.51.100.20/32 -p tcp -m comment --comment 'default/webrem loadbalancer IP' -m tcp --dport 80 -j KUBE-FW-WEBREM",
            "iptables -A KUBE-PROXY-FIREWALL -d 198.51.100.20/32 -p tcp -m comment --comment 'default/webrem traffic not accepted by KUBE-FW-WEBREM' -m tcp --dport 80 -j DROP",
            "nft 'add element ip kube-proxy service-ips { 198.51.100.20 . tcp . 80 : goto external-4AT6LBPK-default/webrem/tcp/ }'",
            "nft 'add chain ip kube-proxy firewall-4AT6LBPK-default/webrem/tcp/'",
            "nft 'add rule ip kube-proxy firewall-4AT6LBPK-default/webrem/tcp/ ip saddr != { 192.0.2.0/24 } drop'",
            "nft 'add element ip kube-proxy firewall-ips { 198.51.100.20 . tcp . 80 comment \"default/webrem\" : goto firewall-4AT6LBPK-default/webrem/tcp/ }'",
        ],
        from: "ext",
        to: "198.51.100.20:80",
        id: "nodeport-lb-source-ranges",
        says: "default/webrem",
        heals: true,
        ..ROW
    },
    Row {
        what: "a port that the Service lacks",
        modes: IPTABLES,
        to: "10.96.45.102:81",
        id: "svc-port-unknown",
        says: "port 80",
        ..ROW
    },
    Row {
        what: "a Service newer than the rules",
        to: "10.96.45.150:80",
        id: "kube-proxy-rules-missing",
        says: "restart kube-proxy",
        ..ROW
    },
    Row {
        what: "table nat flushed",
        modes: IPTABLES,
        breaks: &["iptables -t nat -F", "iptables -t nat -X"],
        id: "kube-proxy-rules-missing",
        says: "restart kube-proxy",
        ..ROW
    },
    Row {
        what: "the jump to the Services is lost",
        modes: NFT,
        breaks: &["nft 'flush chain ip kube-proxy nat-prerouting'"],
        id: "kube-proxy-jump-missing",
        says: "nat-prerouting",
        heals: true,
        ..ROW
    },
    Row {
        what: "a dead endpoint whose neighbour is still there",
        breaks: &[
            "iptables -t nat -R KUBE-SEP-P2 2 -p tcp -m tcp -j DNAT --to-destination 10.244.1.99:8080",
            "nft 'flush chain ip kube-proxy service-O6YHTNFQ-default/websame/tcp/'",
            "nft 'add rule ip kube-proxy service-O6YHTNFQ-default/websame/tcp/ meta l4proto tcp dnat ip to numgen random mod 1 map { 0 : 10.244.1.99 . 8080 }'",
            "ip neigh replace 10.244.1.99 lladdr 0a:58:0a:f4:01:63 dev cni0 nud stale",
        ],
        id: "svc-endpoint-stale-ip",
        says: "10.244.1.99",
        ..ROW
    },
    Row {
        what: "a UDP entry that leads to a dead pod",
        modes: NFT,
        breaks: &[
            "conntrack -I -p udp -s 10.244.1.2 -d 10.96.0.10 --sport 5353 --dport 53 --dst-nat 10.244.2.99:53 -t 120",
        ],
        to: "10.96.0.10 --proto dns --sport 5353",
        id: "dns-stale-udp-conntrack",
        says: "10.244.2.99",
        heals: true,
        ..ROW
    },
    Row {
        what: "a UDP entry from before the rules",
        breaks: &["conntrack -I -p udp -s 10.244.1.2 -d 10.96.0.10 --sport 5354 --dport 53 -t 120"],
        to: "10.96.0.10 --proto dns --sport 5354",
        id: "dns-stale-udp-conntrack",
        says: "10.96.0.10",
        heals: true,
        ..ROW
    },
    Row {
        what: "policy REJECT",
        modes: NFT,
        // A policy's agent writes with iptables beside it.
        breaks: &[
            "iptables-nft -A KUBE-ROUTER-FORWARD -d 10.244.1.3/32 -p tcp -m conntrack --ctstate NEW -j REJECT",
        ],
        id: "netpol-ingress-reject",
        heals: true,
        ..ROW
    },
    Row {
        what: "bridges do not pass the rules",
        modes: NFT,
        breaks: &["sysctl -qw net.bridge.bridge-nf-call-iptables=0"],
        id: "bridge-nf-call-iptables-off",
        heals: true,
        ..ROW
    },
    Row {
        what: "masquerading is gone, hairpin",
        breaks: &[
            "iptables -t nat -F KUBE-POSTROUTING",
            "nft 'flush chain ip kube-proxy masquerading'",
        ],
        to: "10.96.45.101:80",
        id: "svc-hairpin-unmasqueraded",
        heals: true,
        ..ROW
    },
    Row {
        what: "masquerading is gone, NodePort",
        breaks: &[
            "iptables -t nat -F KUBE-POSTROUTING",
            "nft 'flush chain ip kube-proxy masquerading'",
        ],
        from: "ext",
        to: "192.168.50.11:30080",
        id: "svc-reply-bypasses-node",
        says: "masquerade",
        heals: true,
        ..ROW
    },
    Row {
        what: "FORWARD drops beside the Services' rules",
        modes: NFT,
        breaks: &["iptables-nft -F FLANNEL-FWD", "iptables-nft -P FORWARD DROP"],
        id: "svc-forward-policy-drop",
        says: "policy",
        heals: true,
        ..ROW
    },
    Row {
        what: "a hostPort whose pod is gone, beside nftables",
        modes: NFT,
        breaks: &[
            "iptables-nft -t nat -R CNI-DN-P2 3 -p tcp -m tcp --dport 8088 -j DNAT --to-destination 10.244.1.99:8080",
            KNOW_GONE_POD,
        ],
        ..GONE_POD
    },
    Row {
        what: "a hostPort whose pod is gone",
        modes: IPTABLES,
        breaks: &[
            "iptables -t nat -R CNI-DN-P2 3 -p tcp -m tcp --dport 8088 -j DNAT --to-destination 10.244.1.99:8080",
            KNOW_GONE_POD,
        ],
        ..GONE_POD
    },
];

/// What is wrong with what is said of a row.
fn wrong(row: &Row, mode: Mode) -> Option<String> {
    let bed = Bed::up(mode);
    let node = if row.host == "n1" { "192.168.50.11" } else { "192.168.50.12" };
    bed.lab.exec("ext", &format!("ip route add 198.51.100.20 via {node}"));
    bed.run(row.host, row.breaks);
    let found = bed.ask(row);
    let first = found.first();
    let said = || format!("{} ({mode:?}): {:?} {first:#}", row.what, found.loud());
    let is_there = first["where"]["netns"] == bed.lab.netns(row.host).as_str();
    if first["id"] != row.id || !is_there || !first.to_string().contains(row.says) {
        return Some(said());
    }
    if !row.heals {
        return None;
    }
    found.run_fix();
    let healed = bed.ask(row);
    (healed.json["healthy"] != true).then(|| format!("{}\nnot healed: {:#}", said(), healed.json))
}

#[test]
fn every_fault_of_a_service_is_named_in_every_mode() {
    let all = ROWS.iter().flat_map(|row| row.modes.iter().map(move |mode| (row, *mode)));
    let all: Vec<(&Row, Mode)> = all.step_by(if is_fast() { FAST_STEP } else { 1 }).collect();
    let rows = side_by_side(&all, |rows| {
        rows.filter_map(|(row, mode)| wrong(row, *mode)).collect::<Vec<_>>()
    });
    let wrong = rows.concat();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}
