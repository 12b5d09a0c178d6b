//! Serializable twins of the model: schema version 1, one object per line of `-o json`.
//!
//! The only types that know serde, and the only thing that renderers see. Names and spellings are
//! a promise to scripts: add freely, rename or remove nothing. Absent is `null`.

mod convert;
pub mod diagnosis;
mod drops;
mod ids;
mod latency;
mod schema;
mod summary;

pub use convert::Context;
pub use drops::{Counter, DropRow, Drops, Folded, Other};
pub use ids::Ids;
pub use latency::{Latency, Retransmission, Segment, Tcp as TcpConnection};
pub use schema::SCHEMA_TEXT;
pub use summary::{Probes, Summary, Unavailable};

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Version of the schema.
pub const SCHEMA: u32 = 1;

/// One of a few words: every hop has some, and none is to be copied for it.
pub type Word = Cow<'static, str>;

/// A finished journey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journey {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `journey`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Unique in a run.
    pub id: String,
    /// Host name of the node.
    pub node: String,
    /// Unix time of the first event.
    pub start_ns: u64,
    /// From the first event to the last.
    pub duration_ns: u64,
    /// The followed packet's tuple as first seen.
    pub flow: Option<Flow>,
    /// Its headers as first seen.
    pub packet: Option<Packet>,
    /// The journey that it comes from.
    pub parent: Option<Parent>,
    /// The journey that it goes on in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<Parent>,
    /// What became of it.
    pub fate: String,
    /// Where and why it was dropped.
    pub drop: Option<Drop>,
    /// There are no gaps.
    pub complete: bool,
    /// How many events were lost.
    pub lost_events: u32,
    /// Where it is not whole.
    pub gaps: Vec<Gap>,
    /// The hops in one line.
    pub path: String,
    /// Translations in order.
    pub nat: Vec<Nat>,
    /// Of an answer to a translated packet: whether the translation was undone.
    #[serde(default)]
    pub un_nat: Option<UnNat>,
    /// Steps in order.
    pub hops: Vec<Hop>,
}

/// One direction of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// 4 or 6.
    pub family: u8,
    /// `icmp`, `icmp6`, `tcp`, `udp`, `sctp`, `arp` or a number.
    pub proto: String,
    /// Source address.
    pub src: String,
    /// Destination address.
    pub dst: String,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
}

/// Headers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// `skb->len`.
    pub len: u32,
    /// IP identification.
    pub ip_id: Option<u32>,
    /// Time to live or hop limit.
    pub ttl: Option<u8>,
    /// Place in a fragmented packet.
    pub fragment: Option<Fragment>,
    /// ICMP header.
    pub icmp: Option<Icmp>,
    /// TCP header.
    pub tcp: Option<Tcp>,
    /// ARP.
    pub arp: Option<Arp>,
    /// First eight bytes of the payload, hexadecimal.
    pub payload_head: Option<String>,
}

/// Place in a fragmented packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fragment {
    /// Bytes before it.
    pub offset: u16,
    /// More follow.
    pub more: bool,
}

/// ICMP header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Icmp {
    /// Type.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Identifier of an echo.
    pub id: Option<u16>,
    /// Sequence number of an echo.
    pub seq: Option<u16>,
    /// Next-hop MTU that the error tells.
    pub mtu: Option<u32>,
    /// Tuple of the packet that the error is about, or address of neighbour discovery.
    pub about: Option<String>,
}

/// TCP header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tcp {
    /// Letters as tcpdump writes them, `S.` for SYN and ACK.
    pub flags: String,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Bytes of payload.
    pub payload_len: u32,
}

/// ARP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arp {
    /// `request`, `reply` or a number.
    pub op: String,
    /// Sender's link-layer address.
    pub sender: String,
}

/// Relation to another journey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The other journey's id.
    pub id: String,
    /// `clone`, `copy`, `segment`, `fragment`, `encap`, `icmp-error`, `retransmit`, `reply`,
    /// `decap`, `decrypt`, `rebuild`, `reassembly`, `merge`.
    pub kind: String,
}

/// A drop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// Drop reason, without `SKB_DROP_REASON_`.
    pub reason: String,
    /// Kernel function.
    pub function: Option<String>,
    /// Netfilter hook.
    pub hook: Option<String>,
    /// Number of the drop's hop.
    pub hop: usize,
}

/// A place where a journey is not whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Something is missing behind this hop; before the first one when absent.
    pub after: Option<usize>,
    /// `joined-midway`, `namespace-not-covered`, `events-lost`, `identity-ended`, `late-attach`.
    pub why: String,
    /// The same place, as the number of the hop that follows.
    pub before_hop: usize,
    /// How many events, where they are counted.
    pub events: u32,
}

/// A translation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    /// Number of its hop.
    pub hop: usize,
    /// `masquerade`, `snat`, `dnat`, `redirect`, `un-snat`, `un-dnat`.
    pub kind: String,
    /// Before.
    pub before: Endpoints,
    /// After.
    pub after: Endpoints,
}

/// What an answer has to become for whoever asked to know it as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnNat {
    /// The reverse of the question as it was first seen.
    pub expected: Endpoints,
    /// It did; `null` when it did not get that far.
    pub seen: Option<bool>,
}

/// The two ends of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Source address.
    pub src: String,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination address.
    pub dst: String,
    /// Destination port.
    pub dport: Option<u16>,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Number, from 0.
    pub n: usize,
    /// Since the journey's first event.
    pub t_ns: u64,
    /// Kind of step.
    pub stage: Word,
    /// Network namespace.
    pub netns: Netns,
    /// Whose namespace it is.
    pub owner: Owner,
    /// Device that it came in by or is handed to.
    pub dev: Option<Dev>,
    /// Device that it is about to leave by.
    pub out_dev: Option<Dev>,
    /// Bridge, bond or VRF of `dev`.
    pub master: Option<String>,
    /// `bridge` when a hook runs for a bridged frame.
    pub layer: Option<Word>,
    /// Netfilter hook.
    pub hook: Option<Word>,
    /// Firewall table.
    pub table: Option<String>,
    /// Firewall chain.
    pub chain: Option<String>,
    /// Firewall rule that decided.
    pub rule: Option<Rule>,
    /// All rules that it met there, in order.
    pub rules: Vec<Rule>,
    /// What the hook decided.
    pub verdict: Option<Word>,
    /// Routing decision.
    pub route: Option<Route>,
    /// Neighbour that is not resolved.
    pub neigh: Option<Neigh>,
    /// Addresses of the frame.
    #[serde(default)]
    pub frame: Option<Frame>,
    /// What a forwarding database decided.
    #[serde(default)]
    pub fdb: Option<Fdb>,
    /// Tunnel that is entered or left.
    pub tunnel: Option<Tunnel>,
    /// ICMP error that is sent because of the packet.
    pub icmp_error: Option<IcmpError>,
    /// Conntrack's view.
    pub ct: Option<Word>,
    /// What it keeps of the connection.
    #[serde(default)]
    pub conntrack: Option<Conntrack>,
    /// The tuple, when it differs from the hop before.
    pub flow: Option<Flow>,
    /// Inside a tunnel.
    pub encap: bool,
    /// `skb->len`.
    pub len: u32,
    /// `skb->mark`.
    pub mark: u32,
    /// Drop reason at a `drop` (or at a `free` that the kernel calls a drop).
    pub reason: Option<String>,
    /// Function that freed it.
    pub function: Option<String>,
    /// A remark.
    pub note: Option<String>,
    /// What happens here in plain words, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explain: Option<String>,
    /// Probe families: `tp`, `nf`, `tc`, `cg`, `fn`.
    pub source: Vec<Word>,
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netns {
    /// Inode number.
    pub inum: u32,
    /// Name.
    pub name: String,
}

/// Whose a namespace is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// `NAMESPACE/NAME`.
    pub pod: Option<String>,
    /// Container name or id.
    pub container: Option<String>,
    /// The process that reads the packet, where one was seen to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dev {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
}

/// A firewall rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Table.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// nftables handle.
    pub handle: Option<u64>,
    /// As its own tool prints it.
    pub text: String,
    /// Its comment.
    pub comment: Option<String>,
    /// Chains jumped through to get there, outermost first.
    pub via: Vec<String>,
    /// `accept`, `drop`, `continue`, `return`, `queue` or `jump CHAIN`.
    pub verdict: String,
    /// `seen` (the kernel said so), `computed` or `candidate` (from the rules as configured).
    pub basis: String,
    /// It is of iptables-legacy; for what is printed.
    #[serde(skip)]
    pub is_legacy: bool,
}

/// A routing decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Prefix.
    pub dst: Option<String>,
    /// Gateway.
    pub via: Option<String>,
    /// Device name.
    pub dev: Option<String>,
    /// Table name or number.
    pub table: Option<String>,
    /// `unicast`, `local`, `blackhole`, `unreachable`, `prohibit`, `none`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Part of a conntrack entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conntrack {
    /// Zone.
    pub zone: u16,
    /// `ct mark`.
    pub mark: u32,
    /// As `ct status` of nftables spells them: `seen-reply`, `assured`, `confirmed`, `snat`, ….
    pub status: Vec<Word>,
}

/// A neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neigh {
    /// Address asked for.
    pub address: String,
    /// As `ip neigh` spells it.
    pub state: String,
    /// The packet waits for the answer.
    pub waiting: bool,
    /// `answered`, `silent`; `null` while neither was seen.
    #[serde(default)]
    pub outcome: Option<String>,
    /// Link-layer address that the answer gave.
    #[serde(default)]
    pub mac: Option<String>,
    /// How long the packet waited, nanoseconds.
    #[serde(default)]
    pub waited_ns: Option<u64>,
}

/// Addresses of an Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Source.
    pub src: String,
    /// Destination.
    pub dst: String,
}

/// What the forwarding database of a bridge or a tunnel said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fdb {
    /// Address that was looked up.
    pub mac: String,
    /// `unicast`, `broadcast`, `multicast`, `unknown` (flooded for want of an entry), `remote`,
    /// `none` (dropped for want of one).
    pub decision: String,
    /// Port that the frame left by.
    pub port: Option<String>,
    /// Other end of the tunnel.
    pub remote: Option<String>,
    /// `learned`, `static`, `permanent`; `default` for the tunnel's entry for all others.
    pub entry: Option<String>,
}

/// A tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// `vxlan`, …
    pub kind: String,
    /// Network identifier.
    pub vni: Option<u32>,
    /// Outer source.
    pub src: Option<String>,
    /// Outer destination.
    pub dst: Option<String>,
}

/// An ICMP error about to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IcmpError {
    /// Type.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Code.
    pub code: u8,
}
