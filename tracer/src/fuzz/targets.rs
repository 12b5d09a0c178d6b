//! The parsers, each with samples of what it reads.

use std::sync::LazyLock;

use tracer_common::event::{LONG_LEN, SHORT_LEN};

use crate::diagnose::probe::fuzz as probe;
use crate::event::{Event, Packet};
use crate::firewall;
use crate::kernel::btf::{self, KernelBtf};
use crate::kernel::symbols::Symbols;
use crate::net::inspect::fuzz as inspect;
use crate::nftrace::fuzz as nftrace;
use crate::owner::fuzz as owner;

/// A parser.
pub(super) struct Target {
    pub(super) name: &'static str,
    pub(super) samples: Vec<Vec<u8>>,
    /// Words that mean something to it.
    pub(super) words: &'static [&'static str],
    /// Bytes of an input at most.
    pub(super) longest: usize,
    /// Whether the input says anything.
    pub(super) parse: fn(&[u8]) -> bool,
}

/// Of most of them: what counts or nests has room to.
const LONGEST: usize = 64 << 10;

pub(super) static TARGETS: LazyLock<Vec<Target>> = LazyLock::new(|| {
    let text = |name, samples: &[&str], words, parse| Target {
        name,
        samples: samples.iter().map(|sample| sample.as_bytes().to_vec()).collect(),
        words,
        longest: LONGEST,
        parse,
    };
    let bytes =
        |name, samples, parse| Target { name, samples, words: &[], longest: LONGEST, parse };
    vec![
        bytes("event", events(), |input| Event::decode(input).is_ok()),
        bytes("packet", packets(), |input| {
            Packet::parse(0, input, 2).is_some() | Packet::parse(0x0806, input, 0).is_some()
        }),
        bytes("btf", vec![btf::sample()], btf_of),
        bytes("dns", vec![DNS.to_vec()], |input| probe::dns(input) > 0),
        bytes("netlink", inspect::samples(), |input| inspect::netlink(input) > 0),
        bytes("nftrace", nftrace::samples(), |input| nftrace::messages(input) > 0),
        Target {
            name: "nftables",
            samples: nftrace::objects()
                .into_iter()
                .filter(|o| firewall::fuzz::nftables(o))
                .collect(),
            words: EXPRESSIONS,
            longest: LONGEST,
            parse: firewall::fuzz::nftables,
        },
        text("ipset", IPSET, &["create ", "add ", " nomatch", "\n"], |input| {
            firewall::fuzz::ipset(&string(input))
        }),
        text("proc", PROC, &["->", "[", "]", ":", "\n"], |input| inspect::proc(&string(input)) > 0),
        text("resolv-conf", RESOLV, &["nameserver ", "search ", "options ndots:", "%"], |input| {
            inspect::resolv_conf(&string(input)) > 0
        }),
        text(
            "kallsyms",
            &["ffffffff81000000 T _text\nffffffff81000040 t ip_rcv\t[x]\n"],
            &[],
            |i| Symbols::parse(&string(i)) != Symbols::default(),
        ),
        text("owner", OWNER, &["[", "{", "\"", "null", "..", "/proc/1/ns/net"], owner::json),
        text("cgroup", CGROUP, &["/docker/", ".scope", ":", "crio-"], |input| {
            owner::cgroup(&string(input))
        }),
        Target {
            // Every line of it is read by itself.
            longest: 2 << 10,
            ..text(
                "iptables",
                IPTABLES,
                &["-A ", "-j ", "\"", "\\", "--comment ", "! ", "\n"],
                |input| !firewall::parsed(&[("ip", &string(input))], "").tables.is_empty(),
            )
        },
    ]
});

fn string(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

fn events() -> Vec<Vec<u8>> {
    // All probes are small numbers; the packet behind the header begins with a version.
    let mut long = vec![1; LONG_LEN];
    long[SHORT_LEN] = 0x45;
    vec![vec![1; SHORT_LEN], long]
}

fn packets() -> Vec<Vec<u8>> {
    let mut vxlan = vec![0x45, 0, 0, 98, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    vxlan.extend([0x9c, 0x40, 0x21, 0x18, 0, 78, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0]);
    vxlan.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    vxlan.extend([0x45, 0, 0, 28, 0, 2, 0, 0, 64, 1, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2]);
    vxlan.extend([8, 0, 0, 0, 0, 7, 0, 1]);
    let mut six = vec![0x60, 0, 0, 0, 0, 16, 44, 64];
    six.extend([0xfd; 32]);
    six.extend([6, 0, 0, 1, 0, 0, 0, 9, 0, 80, 0, 81, 0, 0, 0, 1]);
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend([2; 20]);
    vec![vxlan, six, arp]
}

fn btf_of(input: &[u8]) -> bool {
    let Ok(btf) = KernelBtf::parse(input.to_vec(), None) else { return false };
    let _ = (btf.member("outer", "ns.a"), btf.member("inner", "flag"), btf.size("outer"));
    let _ = (btf.first_argument("ip_rcv"), btf.enumeration("skb_drop_reason", "SKB_"));
    let module = KernelBtf::parse(input.to_vec(), Some(&btf));
    let _ = module.map(|module| (module.member("outer", "ns.a"), module.function("ip_rcv")));
    btf.tracepoint_arguments("kfree_skb").is_some()
}

/// An answer with a pointer for a name, and an A record.
const DNS: &[u8] = &[
    0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 1, b'a', 1, b'b', 0, 0, 1, 0, 1, 0xc0, 12, 0, 1, 0,
    1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 1,
];

const RESOLV: &[&str] = &[
    "search a.b c.d\nnameserver 10.96.0.10\nnameserver fe80::1%eth0\noptions ndots:5 timeout:2\n",
];

const PROC: &[&str] = &[
    "IP Virtual Server version 1.2.1 (size=4096)\nTCP  0A60000A:0050 rr \n  -> 0AF40105:1F90      \
     Masq    1      0          0\nUDP  [fd00:0096::000a]:0035 wlc\nFWM  00000011 sh\n",
    "Tcp: RtoAlgorithm InSegs MaxConn\nTcp: 1 204 -1\nIp6InReceives 32\n000008d5 00000000 0000001a\n",
    "   1: 0100007F:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 35 2 0 0\n",
];

const OWNER: &[&str] = &[
    r#"{"State":{"Running":true,"Pid":7},"ID":"ab","Name":"/web","Config":{"Labels":{"io.kubernetes.pod.name":"a","io.kubernetes.pod.namespace":"b"}},"NetworkSettings":{"SandboxKey":"/x"}}"#,
    r#"{"kind":"cniCacheV1","containerId":"ab12","cniArgs":[["K8S_POD_NAMESPACE","a"],["K8S_POD_NAME","b"]],"result":{"interfaces":[{"name":"eth0","sandbox":"/x"}]}}"#,
    r#"{"annotations":{"io.kubernetes.cri.container-name":"nginx"},"linux":{"namespaces":[{"type":"network","path":"/x"}]}}"#,
    r#"[{"id":"cc","names":["db"],"metadata":"{\"pod-id\":\"x\",\"name\":\"db\"}"}]"#,
];

const CGROUP: &[&str] = &[
    "9:name=systemd:/\n5:devices:/docker/4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c1234\n0::/\n",
    "0::/kubepods.slice/crio-4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c1234.scope\n",
];

const IPSET: &[&str] = &["create A hash:ip family inet hashsize 1024 maxelem 65536\n\
     create B hash:net,port family inet\nadd A 10.244.1.77\nadd B 10.1.0.0/16,tcp:80 nomatch\n"];

/// Names of nf_tables' expressions, as they are in an attribute.
const EXPRESSIONS: &[&str] = &[
    "bitwise\0",
    "byteorder\0",
    "cmp\0",
    "connlimit\0",
    "counter\0",
    "ct\0",
    "dup\0",
    "dynset\0",
    "exthdr\0",
    "fib\0",
    "flow_offload\0",
    "fwd\0",
    "hash\0",
    "immediate\0",
    "limit\0",
    "log\0",
    "lookup\0",
    "masq\0",
    "match\0",
    "meta\0",
    "nat\0",
    "numgen\0",
    "objref\0",
    "payload\0",
    "queue\0",
    "quota\0",
    "range\0",
    "redir\0",
    "reject\0",
    "rt\0",
    "socket\0",
    "synproxy\0",
    "target\0",
    "tproxy\0",
];

const IPTABLES: &[&str] =
    &["*filter\n:INPUT ACCEPT [0:0]\n:X - [0:0]\n-A INPUT -s 10.0.0.0/8 ! -i eth0 -p tcp -m tcp \
     --dport 80:90 -m comment --comment \"a \\\"b\" -m conntrack --ctstate NEW,ESTABLISHED -j X\n\
     -A X -m set --match-set s dst,src -j DNAT --to-destination 10.1.1.1:80\nCOMMIT\n"];
