//! The event that the kernel side writes into the ring buffer.
//!
//! An event is [`EventHeader`], then [`DETAIL_LEN`] bytes whose meaning depends on
//! [`EventHeader::probe`], then, unless the event is a short one, [`SNAP_LEN`] bytes of the packet
//! from its network header on. The user side tells short from long by the record's length.

/// Bytes of detail, see [`Detail`].
pub const DETAIL_LEN: usize = 32;
/// Bytes of the packet, from the network header on (IPv4, IPv6 or ARP header first).
pub const SNAP_LEN: usize = 96;
/// Size of an event without packet bytes.
pub const SHORT_LEN: usize = size_of::<EventHeader>() + DETAIL_LEN;
/// Size of an event with packet bytes.
pub const LONG_LEN: usize = SHORT_LEN + SNAP_LEN;
/// How many events an admitted journey is given room for in the ring.
pub const JOURNEY_EVENTS: u64 = 64;

/// Where an event was seen. The numbers are part of the recording format: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Probe {
    /// `net:netif_receive_skb`, in `__netif_receive_skb_core`, after generic receive offload.
    Rx = 1,
    /// `net:net_dev_queue`, in `__dev_queue_xmit`, after tc egress and before the qdisc.
    Queue = 2,
    /// `net:net_dev_start_xmit`, the driver's `ndo_start_xmit` is next.
    Xmit = 3,
    /// `skb:kfree_skb`: dropped, with location and (since 5.17) reason.
    Kfree = 4,
    /// `skb:consume_skb`: freed after use.
    Consume = 5,
    /// `fib:fib_table_lookup`.
    Fib = 6,
    /// `fib6:fib6_table_lookup`.
    Fib6 = 7,
    /// `neigh:neigh_event_send_done` / `_dead`: the packet met a neighbour that is not resolved.
    Neigh = 8,
    /// `icmp:icmp_send` (since 6.1): an ICMP error is sent because of this packet.
    IcmpSend = 9,
    /// `tcp:tcp_probe`: an established TCP socket takes the segment.
    TcpSocket = 10,
    /// `skb:skb_copy_datagram_iovec`: the application reads the datagram.
    CopyToUser = 11,
    /// BPF netfilter link, before every other hook function (of `LOCAL_OUT`).
    NfFirst = 12,
    /// BPF netfilter link, after every other hook function (conntrack confirm excepted).
    NfLast = 13,
    /// tc ingress, before other tc programs.
    TcIngressFirst = 14,
    /// tc ingress, after other tc programs.
    TcIngressLast = 15,
    /// tc egress, before other tc programs.
    TcEgressFirst = 16,
    /// tc egress, after other tc programs.
    TcEgressLast = 17,
    /// cgroup ingress: the socket's filter runs, the packet has found its socket.
    CgSocket = 18,
    /// The skb address was met again holding another packet: the journey ended unseen.
    Reused = 19,
    /// `nf_hook_slow` is entered: the hook has functions, and the packet is before the first one.
    HookEnter = 20,
    /// `nf_hook_slow` has returned 1: every function of the hook, conntrack's confirmation
    /// included, let the packet go on.
    HookExit = 21,
    /// A netfilter function has returned: a table's chains, conntrack's look or confirmation.
    HookStep = 22,
    /// Follows the first event of a journey: the skb is a copy that the kernel made of another.
    Origin = 23,
    /// `ip_finish_output2` / `ip6_finish_output2`: routed, and about to look for its neighbour.
    Output = 24,
    /// `br_flood`: the bridge does not know the way and sends the frame out by every port.
    Flood = 25,
    /// `icmp_glue_bits`, where there is no `icmp:icmp_send`: the same said of the same packet.
    IcmpGlue = 26,
}

impl Probe {
    /// Every probe, in the order of its number.
    pub const ALL: [Self; 26] = [
        Self::Rx,
        Self::Queue,
        Self::Xmit,
        Self::Kfree,
        Self::Consume,
        Self::Fib,
        Self::Fib6,
        Self::Neigh,
        Self::IcmpSend,
        Self::TcpSocket,
        Self::CopyToUser,
        Self::NfFirst,
        Self::NfLast,
        Self::TcIngressFirst,
        Self::TcIngressLast,
        Self::TcEgressFirst,
        Self::TcEgressLast,
        Self::CgSocket,
        Self::Reused,
        Self::HookEnter,
        Self::HookExit,
        Self::HookStep,
        Self::Origin,
        Self::Output,
        Self::Flood,
        Self::IcmpGlue,
    ];

    /// The probe with this number, if there is one.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n).checked_sub(1)?).copied()
    }
}

/// Bits of [`EventHeader::flags`].
pub mod flags {
    /// First event of its journey.
    pub const BIRTH: u8 = 1;
    /// `skb->cloned`: another skb shares (or has shared) the data.
    pub const CLONED: u8 = 1 << 1;
    /// The packet bytes are those of an outer header; the followed packet is inside.
    pub const ENCAP: u8 = 1 << 2;
    /// Matched by a learned (translated) flow, not by the filter's own terms.
    pub const LEARNED: u8 = 1 << 3;
    /// Last event of its journey: nothing more will come.
    pub const END: u8 = 1 << 4;
    /// The user asked for the reverse direction of the filter: this packet is a reply.
    pub const REVERSE: u8 = 1 << 5;
}

/// Bit of [`EventHeader::ct`]: `skb->_nfct` is set.
pub const CT_ATTACHED: u8 = 0x80;
/// Bit of [`EventHeader::ct`]: the connection was looked at, see `ct_mark` and its like.
pub const CT_READ: u8 = 0x40;

/// What every event begins with. Host byte order unless the name ends in `_be`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct EventHeader {
    /// `bpf_ktime_get_ns`: CLOCK_MONOTONIC, nanoseconds.
    pub ktime_ns: u64,
    /// Identity of the journey, unique in this run.
    pub journey: u64,
    /// `nf_conn.mark` at a netfilter hook; 0 elsewhere, and where the kernel has none.
    pub ct_mark: u32,
    /// The low bits of `nf_conn.status` (`IPS_*`), likewise.
    pub ct_status: u16,
    /// `nf_conn.zone.id`, likewise.
    pub ct_zone: u16,
    /// `skb->head`: equal for clones.
    pub head: u64,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// `skb->dev->ifindex`, 0 if there is none.
    pub ifindex: u32,
    /// `skb->len`.
    pub len: u32,
    /// `skb->mark`.
    pub mark: u32,
    /// Number of this event in its journey, from 0; gaps are lost events.
    pub seq: u16,
    /// A [`Probe`].
    pub probe: u8,
    /// See [`flags`].
    pub flags: u8,
    /// `skb_shinfo(skb)->gso_size`, 0 when not a GSO packet or not read.
    pub gso_size: u16,
    /// `skb->protocol`, network order (0x0800, 0x86dd, 0x0806).
    pub protocol_be: [u8; 2],
    /// `enum ip_conntrack_info` in the low three bits, [`CT_ATTACHED`], [`CT_READ`].
    pub ct: u8,
    /// `skb->pkt_type` (`PACKET_HOST` 0, `PACKET_OTHERHOST` 3, …).
    pub pkt_type: u8,
    /// CPU that wrote the event.
    pub cpu: u16,
    /// How many events of this journey the ring refused so far.
    pub lost: u16,
    /// How many tunnels the followed packet is in: not 0 exactly with [`flags::ENCAP`].
    pub tunnels: u16,
}

/// What follows the header; read through [`Detail`]'s constructors on the user side.
pub type DetailBytes = [u8; DETAIL_LEN];

/// An event as it lies in the ring buffer.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RawEvent {
    /// Common part.
    pub header: EventHeader,
    /// Depends on the probe.
    pub detail: DetailBytes,
    /// Packet bytes from the network header on; absent in short events.
    pub snap: [u8; SNAP_LEN],
}

/// Detail of `Rx`, `Queue`, `Xmit` and the tc probes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct DeviceDetail {
    /// `dev->name`, NUL-padded.
    pub name: [u8; 16],
    /// Destination and source of the Ethernet header, where `Rx` and `Queue` find one: the device
    /// need not have such headers. Zeroes elsewhere.
    pub macs: [u32; 3],
    /// Zero.
    pub reserved: u32,
}

/// Detail of `Kfree` and `Consume`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FreeDetail {
    /// Return address of the function that freed the skb, 0 if the kernel does not say.
    pub location: u64,
    /// `enum skb_drop_reason`, 0 if the kernel has none.
    pub reason: u32,
    /// Return addresses behind `location`, innermost first: who called the function that freed the
    /// skb, who called that one, and so on. As the distance from `location`; 0 where unknown.
    pub callers: [i32; 5],
}

/// Detail of `CopyToUser`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ReaderDetail {
    /// Process (thread group) that reads.
    pub pid: u32,
    /// Name of its thread, NUL-padded.
    pub comm: [u8; 16],
    /// Zero.
    pub reserved: [u32; 3],
}

/// Detail of `Fib` and `Fib6`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FibDetail {
    /// Table looked up (254 is main, 255 local).
    pub table: u32,
    /// Device of the next hop, 0 if none.
    pub ifindex: u32,
    /// 0, or a negative errno (`-EAGAIN`: no entry in this table).
    pub err: i32,
    /// `AF_INET` or `AF_INET6` when there is a gateway, else 0.
    pub gw_family: u8,
    /// 1 when the route is known to lead to this namespace itself, whatever the table is called.
    pub is_local: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Gateway, network order; an IPv4 gateway takes the first four bytes.
    pub gw: [u8; 16],
}

/// Detail of `Neigh`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct NeighDetail {
    /// Device of the neighbour entry.
    pub ifindex: u32,
    /// `NUD_*` state after the event.
    pub nud_state: u8,
    /// 1 when the packet was queued (or dropped) in wait for an answer.
    pub waiting: u8,
    /// Zero.
    pub reserved: [u8; 10],
    /// Protocol address asked for, network order; IPv4 takes the first four bytes.
    pub key: [u8; 16],
}

/// Detail of `IcmpSend` and `IcmpGlue`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct IcmpDetail {
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub code: u8,
    /// Zero.
    pub reserved: [u8; 30],
}

/// Detail of `NfFirst`, `NfLast`, `HookEnter`, `HookExit` and `Output`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct NfDetail {
    /// `state->in`, 0 if none.
    pub in_ifindex: u32,
    /// `state->out`, 0 if none.
    pub out_ifindex: u32,
    /// `NF_INET_PRE_ROUTING` 0, `LOCAL_IN` 1, `FORWARD` 2, `LOCAL_OUT` 3, `POST_ROUTING` 4.
    pub hook: u8,
    /// `NFPROTO_IPV4` 2, `NFPROTO_IPV6` 10.
    pub pf: u8,
    /// `AF_INET` or `AF_INET6` when `gw` is set.
    pub gw_family: u8,
    /// Zero.
    pub reserved: [u8; 5],
    /// Gateway of the route on the skb, network order.
    pub gw: [u8; 16],
}

/// Detail of `HookStep`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct StepDetail {
    /// See [`step`].
    pub kind: u8,
    /// What the function returned: `NF_DROP` 0, `NF_ACCEPT` 1, `NF_STOLEN` 2, `NF_QUEUE` 3, …;
    /// 255 when it is not known.
    pub verdict: u8,
    /// Name of the table, NUL-padded; cut off when there is no NUL.
    pub table: [u8; 14],
    /// Name of the chain, likewise; empty where the hook names it.
    pub chain: [u8; 16],
}

/// Values of [`StepDetail::kind`].
pub mod step {
    /// `ipt_do_table`: a table of iptables (legacy).
    pub const IPT: u8 = 1;
    /// `ip6t_do_table`.
    pub const IP6T: u8 = 2;
    /// `nft_do_chain`: a base chain of nftables (and of iptables-nft).
    pub const NFT: u8 = 3;
    /// `nf_conntrack_in`: the connection of the packet is looked up or begun.
    pub const CONNTRACK: u8 = 4;
    /// `__nf_conntrack_confirm`: a new connection is entered into the table.
    pub const CONFIRM: u8 = 5;
}

/// Detail of `Origin`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct OriginDetail {
    /// Journey of the skb that it was made of.
    pub parent: u64,
    /// See [`origin`].
    pub kind: u8,
    /// Zero.
    pub reserved: [u8; 7],
    /// Zero.
    pub reserved2: [u64; 2],
}

/// Values of [`OriginDetail::kind`].
pub mod origin {
    /// `skb_clone`: shares the data.
    pub const CLONE: u8 = 1;
    /// `skb_copy`, `__pskb_copy_fclone`: has its own.
    pub const COPY: u8 = 2;
    /// At the address of the parent's skb, which was not seen to end: its fragments put together,
    /// its segments merged, what was decrypted or unpacked from it, or only the next packet there.
    pub const SAME: u8 = 3;
    /// The skb of the parent, handed out again by the device (or the transformation) that the
    /// parent was sent into: it is in there and cannot be read, for it is encrypted.
    pub const ENCAP: u8 = 4;
}

/// The typed view of [`DetailBytes`].
#[derive(Clone, Copy, Debug)]
pub enum Detail {
    /// See [`DeviceDetail`].
    Device(DeviceDetail),
    /// See [`FreeDetail`].
    Free(FreeDetail),
    /// See [`FibDetail`].
    Fib(FibDetail),
    /// See [`NeighDetail`].
    Neigh(NeighDetail),
    /// See [`IcmpDetail`].
    Icmp(IcmpDetail),
    /// See [`NfDetail`].
    Nf(NfDetail),
    /// See [`StepDetail`].
    Step(StepDetail),
    /// See [`OriginDetail`].
    Origin(OriginDetail),
    /// See [`ReaderDetail`].
    Reader(ReaderDetail),
    /// The probe has no detail.
    None,
}

impl Detail {
    /// Reads `bytes` as the detail that `probe` writes.
    #[must_use]
    pub fn read(probe: Probe, bytes: &DetailBytes) -> Self {
        /// Copies the detail out.
        fn copy<T: Copy>(bytes: &DetailBytes) -> T {
            const { assert!(size_of::<T>() == DETAIL_LEN) };
            // SAFETY: `T` is one of the plain old data details above and as long as `bytes`.
            unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) }
        }
        match probe {
            Probe::Rx
            | Probe::Queue
            | Probe::Xmit
            | Probe::TcIngressFirst
            | Probe::TcIngressLast
            | Probe::TcEgressFirst
            | Probe::TcEgressLast => Self::Device(copy(bytes)),
            Probe::Kfree | Probe::Consume => Self::Free(copy(bytes)),
            Probe::Fib | Probe::Fib6 => Self::Fib(copy(bytes)),
            Probe::Neigh => Self::Neigh(copy(bytes)),
            Probe::IcmpSend | Probe::IcmpGlue => Self::Icmp(copy(bytes)),
            Probe::NfFirst | Probe::NfLast | Probe::HookEnter | Probe::HookExit | Probe::Output => {
                Self::Nf(copy(bytes))
            }
            Probe::HookStep => Self::Step(copy(bytes)),
            Probe::Origin => Self::Origin(copy(bytes)),
            Probe::CopyToUser => Self::Reader(copy(bytes)),
            Probe::TcpSocket | Probe::CgSocket | Probe::Reused | Probe::Flood => Self::None,
        }
    }
}

/// What the kernel side remembers of an skb that belongs to a journey, keyed by its address.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Tracked {
    /// Identity of the journey; 0 marks a refused packet, which is remembered to be ignored.
    pub journey: u64,
    /// `skb->head` when last seen.
    pub head: u64,
    /// Fingerprint of the followed (inner) packet: what NAT, routing and tunnels leave alone.
    pub fingerprint: u64,
    /// First payload bytes of a datagram, 0 when they were not in the linear part.
    pub payload: u64,
    /// When last seen, CLOCK_MONOTONIC nanoseconds.
    pub ktime_ns: u64,
    /// Hash of the tuple when last seen, to notice translations.
    pub tuple: u32,
    /// What it looked like where it was met first, and where that was, if ends were not seen then:
    /// the same again is another packet. 0 where its end will be seen.
    pub birthmark: u32,
    /// Namespace when last seen.
    pub netns: u32,
    /// Device when last seen.
    pub ifindex: u32,
    /// Number of the next event; of a packet that was refused, the probe point where it was met
    /// first.
    pub seq: u16,
    /// Events that the ring refused.
    pub lost: u16,
    /// See [`state`].
    pub state: u16,
    /// How many tunnels the packet was in when last seen.
    pub tunnels: u8,
    /// It is a fragment.
    pub is_fragment: u8,
}

/// Values of [`Tracked::state`].
pub mod state {
    /// Under way.
    pub const MOVING: u16 = 0;
    /// Handed to a local protocol handler (the last INPUT function accepted it).
    pub const LOCAL: u16 = 1;
    /// Taken by a TCP or UDP socket: its end may not be visible, it no longer counts as under way.
    pub const SETTLED: u16 = 2;
    /// Handed to a driver, which may merge it into another packet or make a new one of it unseen.
    pub const SENT: u16 = 3;
}

const _: () = assert!(size_of::<EventHeader>() == 64);
const _: () = assert!(size_of::<RawEvent>() == LONG_LEN && LONG_LEN == 192);
const _: () = assert!(size_of::<Tracked>() == 64);
const _: () = assert!(size_of::<DeviceDetail>() == DETAIL_LEN);
const _: () = assert!(size_of::<FreeDetail>() == DETAIL_LEN);
const _: () = assert!(size_of::<FibDetail>() == DETAIL_LEN);
const _: () = assert!(size_of::<NeighDetail>() == DETAIL_LEN);
const _: () = assert!(size_of::<IcmpDetail>() == DETAIL_LEN);
const _: () = assert!(size_of::<NfDetail>() == DETAIL_LEN);
const _: () = assert!(size_of::<StepDetail>() == DETAIL_LEN);
const _: () = assert!(size_of::<OriginDetail>() == DETAIL_LEN);
const _: () = assert!(size_of::<ReaderDetail>() == DETAIL_LEN);
