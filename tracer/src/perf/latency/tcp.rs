//! What held TCP's connections back while they were watched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::cli::filter::{FilterArgs, Network, Proto};
use crate::diagnose::slow::Moment;
use crate::event::{Proto as L4, Tuple};
use crate::net::Inum;
use crate::net::meter::Connection;
use crate::perf::Node;
use crate::report::TcpConnection as Tcp;

/// Connections that are told of: those that sent the most.
const MOST: usize = 100;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// The connections of the node at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(BTreeMap<(Inum, u64), Connection>);

impl Connections {
    /// Those that were read at one moment.
    pub(super) fn of(moment: &Moment) -> Self {
        let all = moment.iter().flat_map(|(netns, reading)| {
            reading.connections.iter().map(|c| ((*netns, c.cookie), c.clone()))
        });
        Self(all.collect())
    }

    /// The ends of those that are meant.
    pub(super) fn tuples(&self, is_meant: impl Fn(&Connection) -> bool) -> BTreeSet<Tuple> {
        let tuple = |c: &Connection| Tuple {
            src: c.local.ip(),
            dst: c.peer.ip(),
            proto: L4::Tcp,
            sport: c.local.port(),
            dport: c.peer.port(),
        };
        self.0.values().filter(|c| is_meant(c)).map(tuple).collect()
    }

    /// What became of those of `before` and of new ones; those that did nothing are left out.
    pub(super) fn since(
        &self,
        before: &Self,
        node: &Node,
        is_meant: impl Fn(&Connection) -> bool,
    ) -> Vec<Tcp> {
        let mut told: Vec<(u32, Tcp)> = Vec::new();
        for (key, now) in self.0.iter().filter(|(_, c)| is_meant(c)) {
            let old = before.0.get(key);
            let grown = |of: fn(&Connection) -> u32| of(now).wrapping_sub(old.map_or(0, of));
            let sent = grown(|c| c.data_segments);
            let received = grown(|c| c.segments_in);
            if sent == 0 && received == 0 {
                continue;
            }
            told.push((
                sent,
                Tcp {
                    netns: node.netns(key.0),
                    owner: node.owner(key.0).cloned(),
                    src: now.local.to_string(),
                    dst: now.peer.to_string(),
                    rtt_us: micros(now.rtt),
                    min_rtt_us: Some(micros(now.min_rtt)).filter(|us| *us > 0),
                    retrans: grown(|c| c.retransmits).into(),
                    dsack: grown(|c| c.needless).into(),
                    limited: (sent > 0)
                        .then(|| {
                            limited(Waits::of(now).since(old.map(Waits::of)), now.is_app_limited)
                        })
                        .map(str::to_owned),
                },
            ));
        }
        told.sort_by_key(|(sent, _)| std::cmp::Reverse(*sent));
        told.into_iter().take(MOST).map(|(_, tcp)| tcp).collect()
    }
}

/// Whether the filter asks for a connection between these two.
pub(super) fn is_asked_for(filter: &FilterArgs, a: SocketAddr, b: SocketAddr) -> bool {
    let is_tcp = filter.proto.is_none_or(|proto| proto == Proto::Ip(TCP));
    let fits = |src: SocketAddr, dst: SocketAddr| {
        filter.src.is_none_or(|net| net.contains(src.ip()))
            && filter.dst.is_none_or(|net| net.contains(dst.ip()))
            && filter.sport.is_none_or(|port| port == src.port())
            && filter.dport.is_none_or(|port| port == dst.port())
    };
    let has = |net: Network| net.contains(a.ip()) || net.contains(b.ip());
    is_tcp
        && (fits(a, b) || (!filter.no_replies && fits(b, a)))
        && filter.host.is_none_or(has)
        && filter.port.is_none_or(|port| port == a.port() || port == b.port())
}

fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Time with something to send, and of that, waiting for the other's window and for own buffers.
#[derive(Clone, Copy, Debug, Default)]
struct Waits {
    busy_us: u64,
    window_us: u64,
    buffer_us: u64,
}

impl Waits {
    fn of(connection: &Connection) -> Self {
        Self {
            busy_us: connection.busy_us,
            window_us: connection.window_limited_us,
            buffer_us: connection.buffer_limited_us,
        }
    }

    fn since(self, old: Option<Self>) -> Self {
        let old = old.unwrap_or_default();
        Self {
            busy_us: self.busy_us.saturating_sub(old.busy_us),
            window_us: self.window_us.saturating_sub(old.window_us),
            buffer_us: self.buffer_us.saturating_sub(old.buffer_us),
        }
    }
}

/// What a connection that sent something waited for most of the time that it had something to
/// send.
fn limited(waits: Waits, is_app_limited: bool) -> &'static str {
    let is_half = |part: u64| waits.busy_us > 0 && part * 2 >= waits.busy_us;
    if is_half(waits.window_us) {
        "rwnd"
    } else if is_half(waits.buffer_us) {
        "sndbuf"
    } else if is_app_limited {
        "app"
    } else {
        "cwnd"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_busy_time_decides() {
        let old = Waits { busy_us: 1_000, window_us: 900, buffer_us: 0 };
        let held = |window_us, buffer_us, is_app_limited| {
            let now = Waits { busy_us: 3_000, window_us, buffer_us };
            limited(now.since(Some(old)), is_app_limited)
        };
        assert_eq!(held(1_900, 0, true), "rwnd");
        assert_eq!(held(1_000, 1_500, true), "sndbuf");
        assert_eq!(held(1_000, 0, true), "app", "old time does not count");
        assert_eq!(held(1_000, 0, false), "cwnd");
    }
}
