//! The rules on a Kubernetes node: kube-proxy in iptables mode, flannel's masquerading, a hostPort
//! of the CNI plugin, and the (empty) chain of a network-policy agent.

use crate::lab::topology::Proxy;

/// A Service: its chain's suffix, cluster IP, protocol, port.
const SERVICES: [(&str, &str, &str, u16); 7] = [
    ("WEB", "10.96.45.100", "tcp", 80),
    ("WEBSAME", "10.96.45.102", "tcp", 80),
    ("WEBREM", "10.96.45.103", "tcp", 80),
    ("SELF", "10.96.45.101", "tcp", 80),
    ("DNS", "10.96.0.10", "udp", 53),
    ("DNSTCP", "10.96.0.10", "tcp", 53),
    ("API", "10.96.0.1", "tcp", 443),
];

/// The rules of `node`, whose pods have addresses in `cidr`, for `iptables-restore --noflush`.
pub(super) fn render(node: &str, cidr: &str, proxy: Proxy) -> String {
    if proxy == Proxy::Nftables {
        return without_proxy(node, cidr);
    }
    let has_local_endpoint = node == "n1";
    let mut rules = NAT_HEAD.replace("{CIDR}", cidr);
    if has_local_endpoint {
        rules.push_str("-A KUBE-EXT-LOCAL -j KUBE-SEP-P2\n");
    }
    for (name, ip, proto, port) in SERVICES {
        rules.push_str(&format!(
            "-A KUBE-SVC-{name} ! -s 10.244.0.0/16 -d {ip}/32 -p {proto} -m {proto} --dport {port} -j KUBE-MARK-MASQ\n"
        ));
    }
    rules.push_str(ENDPOINTS);
    if has_local_endpoint {
        rules.push_str(HOST_PORT);
    }
    rules.push_str("COMMIT\n");
    rules.push_str(FILTER);
    if !has_local_endpoint {
        rules.push_str(NO_LOCAL_ENDPOINT);
    }
    rules.push_str("COMMIT\n");
    rules
}

/// What is there beside kube-proxy's own table of nftables.
fn without_proxy(node: &str, cidr: &str) -> String {
    let host_port = if node == "n1" { HOST_PORT } else { "" };
    let all = format!("{NAT_HEAD}{host_port}COMMIT\n{FILTER}COMMIT\n");
    let all = all
        .replace("{CIDR}", cidr)
        .replace("KUBE-MARK-MASQ", "CNI-HOSTPORT-SETMARK")
        .replace("--set-xmark 0x4000/0x4000", "--set-xmark 0x2000/0x2000");
    let is_other = |line: &&str| !line.contains("KUBE-") || line.contains("KUBE-ROUTER-");
    let mut text = String::new();
    for line in all.lines().filter(is_other) {
        text += line;
        text.push('\n');
        text += if line == "*nat" { PORTMAP } else { "" };
    }
    text
}

/// The portmap plugin masquerades with a mark of its own.
const PORTMAP: &str = "\
:CNI-HOSTPORT-MASQ - [0:0]
-A POSTROUTING -m comment --comment \"CNI portfwd requiring masquerade\" -j CNI-HOSTPORT-MASQ
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
";

const NAT_HEAD: &str = r#"*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SVC-WEB - [0:0]
:KUBE-SVC-WEBSAME - [0:0]
:KUBE-SVC-WEBREM - [0:0]
:KUBE-SVC-SELF - [0:0]
:KUBE-SVC-DNS - [0:0]
:KUBE-SVC-DNSTCP - [0:0]
:KUBE-SVC-API - [0:0]
:KUBE-EXT-WEBREM - [0:0]
:KUBE-EXT-LOCAL - [0:0]
:KUBE-SEP-P1 - [0:0]
:KUBE-SEP-P2 - [0:0]
:KUBE-SEP-P3 - [0:0]
:KUBE-SEP-DNS - [0:0]
:KUBE-SEP-DNSTCP - [0:0]
:KUBE-SEP-API - [0:0]
:FLANNEL-POSTRTG - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-DN-P2 - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
-A FLANNEL-POSTRTG -s {CIDR} -d 10.244.0.0/16 -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d {CIDR} -j RETURN
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d {CIDR} -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE --random-fully
-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m udp --dport 53 -m comment --comment "kube-system/kube-dns:dns cluster IP" -j KUBE-SVC-DNS
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 53 -m comment --comment "kube-system/kube-dns:dns-tcp cluster IP" -j KUBE-SVC-DNSTCP
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -m comment --comment "default/kubernetes:https cluster IP" -j KUBE-SVC-API
-A KUBE-SERVICES -d 10.96.45.100/32 -p tcp -m tcp --dport 80 -m comment --comment "default/web cluster IP" -j KUBE-SVC-WEB
-A KUBE-SERVICES -d 10.96.45.101/32 -p tcp -m tcp --dport 80 -m comment --comment "default/self cluster IP" -j KUBE-SVC-SELF
-A KUBE-SERVICES -d 10.96.45.102/32 -p tcp -m tcp --dport 80 -m comment --comment "default/websame cluster IP" -j KUBE-SVC-WEBSAME
-A KUBE-SERVICES -d 10.96.45.103/32 -p tcp -m tcp --dport 80 -m comment --comment "default/webrem cluster IP" -j KUBE-SVC-WEBREM
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -m comment --comment "default/webrem" -j KUBE-EXT-WEBREM
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30081 -m comment --comment "default/weblocal" -j KUBE-EXT-LOCAL
-A KUBE-EXT-WEBREM -j KUBE-MARK-MASQ
-A KUBE-EXT-WEBREM -j KUBE-SVC-WEBREM
"#;

const ENDPOINTS: &str = r"-A KUBE-SVC-WEB -m statistic --mode random --probability 0.5 -j KUBE-SEP-P2
-A KUBE-SVC-WEB -j KUBE-SEP-P3
-A KUBE-SVC-WEBSAME -j KUBE-SEP-P2
-A KUBE-SVC-WEBREM -j KUBE-SEP-P3
-A KUBE-SVC-SELF -j KUBE-SEP-P1
-A KUBE-SVC-DNS -j KUBE-SEP-DNS
-A KUBE-SVC-DNSTCP -j KUBE-SEP-DNSTCP
-A KUBE-SVC-API -j KUBE-SEP-API
-A KUBE-SEP-P1 -s 10.244.1.2/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-P1 -p tcp -m tcp -j DNAT --to-destination 10.244.1.2:8080
-A KUBE-SEP-P2 -s 10.244.1.3/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-P2 -p tcp -m tcp -j DNAT --to-destination 10.244.1.3:8080
-A KUBE-SEP-P3 -s 10.244.2.2/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-P3 -p tcp -m tcp -j DNAT --to-destination 10.244.2.2:8080
-A KUBE-SEP-DNS -s 10.244.2.53/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-DNS -p udp -m udp -j DNAT --to-destination 10.244.2.53:53
-A KUBE-SEP-DNSTCP -s 10.244.2.53/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-DNSTCP -p tcp -m tcp -j DNAT --to-destination 10.244.2.53:53
-A KUBE-SEP-API -s 192.168.50.11/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-API -p tcp -m tcp -j DNAT --to-destination 192.168.50.11:6443
";

/// `hostPort: 8088` of p2, as the portmap plugin writes it.
const HOST_PORT: &str = r#"-A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 8088 -m comment --comment "dnat name: \"cbr0\" id: \"p2\"" -j CNI-DN-P2
-A CNI-DN-P2 -s 10.244.1.0/24 -p tcp -m tcp --dport 8088 -j KUBE-MARK-MASQ
-A CNI-DN-P2 -s 127.0.0.1/32 -p tcp -m tcp --dport 8088 -j KUBE-MARK-MASQ
-A CNI-DN-P2 -p tcp -m tcp --dport 8088 -j DNAT --to-destination 10.244.1.3:8080
"#;

const FILTER: &str = r#"*filter
:KUBE-FORWARD - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
:FLANNEL-FWD - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment "kube-router netpol" -j KUBE-ROUTER-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FLANNEL-FWD -s 10.244.0.0/16 -j ACCEPT
-A FLANNEL-FWD -d 10.244.0.0/16 -j ACCEPT
"#;

/// externalTrafficPolicy Local without a local endpoint: kube-proxy drops it here.
const NO_LOCAL_ENDPOINT: &str = r#"-A KUBE-EXTERNAL-SERVICES -p tcp -m tcp --dport 30081 -m addrtype --dst-type LOCAL -m comment --comment "default/weblocal has no local endpoints" -j DROP
"#;
