//! Drops that were seen: where, why, and whether they mean anything.

use std::net::IpAddr;

use super::Direction;
use crate::event::{Headers, Tcp, Tuple};
use crate::journey::{Fate, Hop, Journey, Route};

/// A drop that was seen.
#[derive(Clone, Copy, Debug)]
pub struct Drop<'a> {
    /// Which packet.
    pub journey: &'a Journey,
    /// Its `drop` hop.
    pub hop: &'a Hop,
    /// Index of the hop.
    pub at: usize,
    /// Drop reason.
    pub reason: &'a str,
    /// Kernel function, empty where unknown.
    pub function: &'a str,
    /// Which way the packet went.
    pub direction: Direction,
}

impl Drop<'_> {
    /// Where a journey was dropped, if it was.
    #[must_use]
    pub fn of(journey: &Journey, direction: Direction) -> Option<Drop<'_>> {
        let point = journey.dropped.as_ref().filter(|_| journey.fate == Fate::Dropped)?;
        Some(Drop {
            journey,
            hop: journey.hops.get(point.hop)?,
            at: point.hop,
            reason: &point.reason,
            function: point.function.as_deref().unwrap_or_default(),
            direction,
        })
    }

    /// Seen on healthy paths too: proves nothing.
    #[must_use]
    pub fn is_noise(&self) -> bool {
        match (self.reason, self.function) {
            // Each reply that a raw socket has got; the end of closing sockets.
            ("NO_SOCKET", "ping_rcv")
            | ("QUEUE_PURGE" | "TCP_OLD_DATA" | "TCP_ABORT_ON_DATA", _) => true,
            ("NOT_SPECIFIED", "tcp_v4_rcv" | "tcp_v6_rcv") => !self.opens(),
            ("NOT_SPECIFIED", "stp_pdu_rcv") => true,
            // NAT lets no redirect pass whose packet is not through with translation, and one that
            // is sent while the packet is forwarded never is (`nf_nat_icmp_reply_translation`). It
            // is a hint to the sender: the packet that it is about goes on.
            ("NETFILTER_DROP", _) => self.is_redirect(),
            _ => false,
        }
    }

    /// It asks for a connection.
    fn opens(&self) -> bool {
        let tcp = self.journey.first.as_ref().and_then(Headers::tcp);
        tcp.is_some_and(|tcp| tcp.flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN)
    }

    /// It answers somebody who asked for a connection.
    #[must_use]
    pub fn answers(&self) -> bool {
        let tcp = self.journey.first.as_ref().and_then(Headers::tcp);
        tcp.is_some_and(|tcp| tcp.flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN | Tcp::ACK)
    }

    /// Whether no socket took it, as far as the kernel says: before 5.17 it gives no reason, and
    /// what TCP and UDP let go of may have been wrong in itself.
    #[must_use]
    pub fn may_lack_socket(&self) -> bool {
        match (self.reason, self.function) {
            ("NO_SOCKET", "tcp_v4_rcv" | "tcp_v6_rcv" | "__udp4_lib_rcv" | "__udp6_lib_rcv") => {
                true
            }
            ("NOT_SPECIFIED", "tcp_v4_rcv" | "tcp_v6_rcv") => self.opens(),
            ("NOT_SPECIFIED", "__udp4_lib_rcv" | "__udp6_lib_rcv") => true,
            _ => false,
        }
    }

    /// An ICMP redirect (type 5), or that of ICMPv6 (137).
    fn is_redirect(&self) -> bool {
        let Some(headers) = self.journey.first else { return false };
        headers.icmp().is_some_and(|icmp| match headers.tuple.src {
            IpAddr::V4(_) => icmp.kind == 5,
            IpAddr::V6(_) => icmp.kind == 137,
        })
    }

    /// The last routing decision before it, in the same namespace.
    #[must_use]
    pub fn route(&self) -> Option<&Route> {
        let here = self.journey.hops[..self.at].iter().rev();
        here.take_while(|h| h.netns == self.hop.netns).find_map(|h| h.route.as_deref())
    }

    /// Device at which it was dropped: the drop's own, or the last one before it there.
    #[must_use]
    pub fn dev(&self) -> Option<&str> {
        let own = self.hop.dev.as_ref().map(|d| d.name.as_str());
        let before = || {
            let here = self.journey.hops[..self.at].iter().rev();
            here.take_while(|h| h.netns == self.hop.netns)
                .find_map(|h| h.dev.as_ref().map(|d| d.name.as_str()))
        };
        own.or_else(before)
    }

    /// Tuple with which it arrived here, translations included.
    #[must_use]
    pub fn tuple(&self) -> Option<Tuple> {
        let changed = self.journey.hops[..=self.at].iter().rev();
        let tunnelled = |h: &&Hop| !h.is_encap;
        changed
            .filter(tunnelled)
            .find_map(|h| h.tuple)
            .or_else(|| self.journey.first.map(|h| h.tuple))
    }

    /// The ICMP error that the kernel sent because of it.
    #[must_use]
    pub fn icmp(&self) -> Option<(u8, u8)> {
        self.journey.hops.iter().find_map(|h| h.icmp)
    }

    /// In a sentence: what was dropped where, by what.
    #[must_use]
    pub fn fact(&self) -> String {
        let what =
            self.journey.first.map_or_else(|| "a packet".to_owned(), |h| h.tuple.to_string());
        let way = match self.direction {
            Direction::Request => "the request",
            Direction::Reply => "the reply",
        };
        let dev = self.dev().map(|d| format!(" at {d}")).unwrap_or_default();
        let function = match self.function {
            "" => String::new(),
            f => format!(" in {f}()"),
        };
        format!(
            "{way} {what} was dropped in {}{dev}: {}{function}",
            self.hop.netns_name, self.reason
        )
    }
}
