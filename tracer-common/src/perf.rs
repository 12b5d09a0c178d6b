//! What `drops` and `latency` share with the kernel side: counts of drops, and histograms of the
//! time between two points of a packet's way.

use crate::RawEvent;

/// Byte offsets of members that only these two need, as in [`crate::KernelOffsets`], and facts
/// about the kernel beside them.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PerfConfig {
    /// `sk_buff.sk`
    pub skb_sk: u16,
    /// `sk_buff.skb_iif`
    pub skb_iif: u16,
    /// `sock.__sk_common.skc_net.net`
    pub sock_net: u16,
    /// `dst_entry.dev`
    pub dst_dev: u16,
    /// `rtable.rt_type`
    pub rt_type: u16,
    /// `rtable.rt_is_input`
    pub rt_is_input: u16,
    /// `rt6_info.rt6i_flags`
    pub rt6_flags: u16,
    /// `netdev_queue.dev`
    pub queue_dev: u16,
    /// `sk_buff.cb`, which begins with the first sequence number of a segment of TCP.
    pub skb_cb: u16,
    /// `sock.__sk_common.skc_family`
    pub sock_family: u16,
    /// `sock.__sk_common.skc_state`
    pub sock_state: u16,
    /// `sock.__sk_common.skc_num`, the own port in the host's order
    pub sock_port: u16,
    /// `sock.__sk_common.skc_dport`, the other end's in the network's
    pub sock_peer_port: u16,
    /// `sock.__sk_common.skc_rcv_saddr`
    pub sock_addr: u16,
    /// `sock.__sk_common.skc_daddr`
    pub sock_peer_addr: u16,
    /// `sock.__sk_common.skc_v6_rcv_saddr`
    pub sock_addr6: u16,
    /// `sock.__sk_common.skc_v6_daddr`
    pub sock_peer_addr6: u16,
    /// `inet_connection_sock.icsk_ca_state`, the low bits of its byte
    pub sock_recovery: u16,
    /// `skb:kfree_skb` has a fourth argument, the receiving socket (since 6.11).
    pub kfree_has_socket: u8,
    /// Time to every transmission is measured too, not only to sockets.
    pub whole_at_xmit: u8,
    /// Packets begin at a hook of netfilter.
    pub begin_at_hooks: u8,
    /// Packets begin at `net_dev_start_xmit`: nothing that comes earlier is attached.
    pub begin_at_xmit: u8,
}

/// What drops are counted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct DropKey {
    /// Return address of the function that freed the skb.
    pub location: u64,
    /// `enum skb_drop_reason`, 0 if the kernel has none.
    pub reason: u32,
    /// Inode number of the network namespace, 0 if there is none.
    pub netns: u32,
    /// Device, 0 if there is none.
    pub ifindex: u32,
    /// `skb->protocol`, network order.
    pub protocol_be: [u8; 2],
    /// See [`hook`].
    pub hook: u8,
    /// 1 when it was for a group (multicast), whose members are whoever likes.
    pub to_group: u8,
}

/// Values of [`DropKey::hook`]: at which hook of netfilter a packet must be that has this route
/// and device, should netfilter have dropped it.
pub mod hook {
    /// Cannot be told.
    pub const UNKNOWN: u8 = 0;
    /// Received and not yet routed.
    pub const PREROUTING: u8 = 1;
    /// Routed to this host.
    pub const INPUT: u8 = 2;
    /// Routed onwards, still at the device it came in by.
    pub const FORWARD: u8 = 3;
    /// Sent by this host, not yet at a device.
    pub const OUTPUT: u8 = 4;
    /// At the device that it is to leave by.
    pub const POSTROUTING: u8 = 5;
}

/// What is counted, on each CPU by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DropCount {
    /// How many.
    pub packets: u64,
    /// Sum of `skb->len`.
    pub bytes: u64,
    /// Time of the first, CLOCK_MONOTONIC nanoseconds; 0 when there was none.
    pub first_ns: u64,
    /// Time of the last.
    pub last_ns: u64,
    /// Time of the last that was sent as an example.
    pub example_ns: u64,
}

/// An example of a drop, in the ring.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DropSample {
    /// What it is counted under.
    pub key: DropKey,
    /// The packet, as an event of the probe `Kfree`.
    pub event: RawEvent,
}

/// A segment that TCP sends again, in the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Retransmission {
    /// CLOCK_MONOTONIC nanoseconds.
    pub ktime_ns: u64,
    /// Inode number of the socket's network namespace.
    pub netns: u32,
    /// Its first sequence number.
    pub seq: u32,
    /// Own address, network order; IPv4 takes the first word.
    pub addr: [u32; 4],
    /// The other end's.
    pub peer_addr: [u32; 4],
    /// Own port.
    pub port: u16,
    /// The other end's, network order.
    pub peer_port_be: [u8; 2],
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// `TCP_ESTABLISHED` and its like.
    pub state: u8,
    /// `enum tcp_ca_state`: 4 (`TCP_CA_Loss`) after a time-out.
    pub recovery: u8,
}

/// A point of a packet's way.
pub mod point {
    /// Where it was first seen: stands for the whole way in [`super::SegmentKey::from`].
    pub const BEGIN: u8 = 0;
    /// `net:netif_receive_skb`.
    pub const RX: u8 = 1;
    /// `net:net_dev_queue`.
    pub const QUEUE: u8 = 2;
    /// `qdisc:qdisc_enqueue`.
    pub const ENQUEUE: u8 = 3;
    /// `qdisc:qdisc_dequeue`.
    pub const DEQUEUE: u8 = 4;
    /// `net:net_dev_start_xmit`.
    pub const XMIT: u8 = 5;
    /// The socket takes it.
    pub const SOCKET: u8 = 6;
    /// The application reads it.
    pub const READ: u8 = 7;
    /// The kernel itself has used it.
    pub const CONSUME: u8 = 8;
    /// Before the functions of a hook of netfilter; its number is added.
    pub const HOOK_FIRST: u8 = 16;
    /// After them; its number is added.
    pub const HOOK_LAST: u8 = 24;
}

/// A packet under way, by the skb's address.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct UnderWay {
    /// When it was first seen.
    pub begin_ns: u64,
    /// When it was last seen.
    pub last_ns: u64,
    /// Namespace in which it was first seen.
    pub begin_netns: u32,
    /// Device at which it was first seen.
    pub begin_ifindex: u32,
    /// Namespace in which it was last seen.
    pub netns: u32,
    /// Device at which it was last seen.
    pub ifindex: u32,
    /// See [`point`]: where it was last seen.
    pub point: u32,
    /// IP protocol, 0 when it was not looked at.
    pub proto: u32,
}

/// What times are counted by: two points that follow each other on a packet's way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct SegmentKey {
    /// Namespace of the first point.
    pub from_netns: u32,
    /// Device of the first point.
    pub from_ifindex: u32,
    /// Namespace of the second point.
    pub to_netns: u32,
    /// Device of the second point.
    pub to_ifindex: u32,
    /// See [`point`].
    pub from: u8,
    /// See [`point`].
    pub to: u8,
    /// IP protocol, where `from` is [`point::BEGIN`].
    pub proto: u8,
    /// Which CPUs share the histogram.
    pub shard: u8,
    /// Zero.
    pub reserved: u32,
}

/// Sub-buckets of a power of two, as a power of two: a bucket is at most 1/32 of its lower bound
/// wide (3.1 %), and half of that from its middle.
pub const GROUPING: u32 = 5;
/// How many buckets there are.
pub const BUCKETS: usize = 1024;
/// Times from here on count as this long (68.7 s).
pub const LONGEST_NS: u64 = (1 << 36) - 1;

/// How often each time was seen.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Histogram {
    /// Sum of all times, nanoseconds.
    pub sum_ns: u64,
    /// The longest, nanoseconds.
    pub max_ns: u64,
    /// By [`bucket`].
    pub buckets: [u32; BUCKETS],
}

/// The bucket of a time: exact below 64 ns, then 32 buckets for each doubling ("H2").
#[must_use]
#[inline(always)]
pub fn bucket(ns: u64) -> u32 {
    if ns < 2 << GROUPING {
        return ns as u32;
    }
    let ns = if ns > LONGEST_NS { LONGEST_NS } else { ns };
    let shift = log2(ns) - GROUPING;
    (shift << GROUPING) + (ns >> shift) as u32
}

/// The shortest time of a bucket.
#[must_use]
pub fn lower_ns(bucket: u32) -> u64 {
    if bucket < 2 << GROUPING {
        return u64::from(bucket);
    }
    let shift = (bucket >> GROUPING) - 1;
    u64::from(bucket - (shift << GROUPING)) << shift
}

/// The position of the highest bit of a number that is not 0 and below 2^36. In steps, as the
/// processors that programs of the kernel are compiled for have no instruction for it.
#[inline(always)]
fn log2(mut n: u64) -> u32 {
    let mut log = 0;
    let mut step = 32;
    while step > 0 {
        if n >> step != 0 {
            n >>= step;
            log += step;
        }
        step >>= 1;
    }
    log
}

/// Slot of a word that only the user side writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PerfControl {
    /// What was seen before this time, CLOCK_MONOTONIC nanoseconds, is over: probes were not
    /// attached all the time since.
    Since = 0,
}

/// Slot of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PerfStat {
    /// Times that were not counted: there are too many segments.
    Unplaced = 0,
    /// Segments that were sent again, for which the ring had no room.
    Untold = 1,
}

const _: () = assert!(size_of::<PerfConfig>() == 40);
const _: () = assert!(size_of::<DropKey>() == 24);
const _: () = assert!(size_of::<DropCount>() == 40);
const _: () = assert!(size_of::<DropSample>() == 24 + crate::event::LONG_LEN);
const _: () = assert!(size_of::<Retransmission>() == 56);
const _: () = assert!(size_of::<UnderWay>() == 40);
const _: () = assert!(size_of::<SegmentKey>() == 24);
const _: () = assert!(size_of::<Histogram>() == 16 + 4 * BUCKETS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_without_gaps() {
        for b in 0..BUCKETS as u32 {
            assert_eq!(bucket(lower_ns(b)), b);
            if b > 0 {
                assert_eq!(bucket(lower_ns(b) - 1), b - 1);
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS as u32 - 1);
    }

    #[test]
    fn a_bucket_is_at_most_a_thirty_second_wide() {
        for b in 64..BUCKETS as u32 - 1 {
            let width = lower_ns(b + 1) - lower_ns(b);
            assert!(width * 32 <= lower_ns(b), "bucket {b}");
        }
    }
}
