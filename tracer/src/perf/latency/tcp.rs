//! What held TCP's connections back while they were watched.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::cli::filter::{FilterArgs, Network, Proto};
use crate::net::inspect::tcp::{self, Connection, Info};
use crate::net::{Inum, NetworkState};
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
    /// Reads them.
    pub(super) fn read(state: &NetworkState) -> Self {
        let all = state.netns.values().filter_map(|netns| {
            // One that cannot be entered, or is gone, has none to tell of.
            let connections = tcp::connections(netns).ok()?;
            Some(connections.into_iter().map(|c| ((netns.inum, c.cookie), c)))
        });
        Self(all.flatten().collect())
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
            let old = before.0.get(key).map_or(Info::default(), |c| c.info);
            let sent = now.info.data_segs_out.wrapping_sub(old.data_segs_out);
            let received = now.info.segs_in.wrapping_sub(old.segs_in);
            if sent == 0 && received == 0 {
                continue;
            }
            told.push((
                sent,
                Tcp {
                    netns: node.netns(key.0),
                    owner: node.owner(key.0).cloned(),
                    src: now.local.to_string(),
                    dst: now.remote.to_string(),
                    rtt_us: u64::from(now.info.rtt_us),
                    min_rtt_us: (now.info.min_rtt_us != u32::MAX)
                        .then(|| now.info.min_rtt_us.into()),
                    retrans: u64::from(now.info.retrans.wrapping_sub(old.retrans)),
                    dsack: u64::from(now.info.dsack.wrapping_sub(old.dsack)),
                    limited: (sent > 0).then(|| limited(&old, &now.info)).map(str::to_owned),
                },
            ));
        }
        told.sort_by_key(|(sent, _)| std::cmp::Reverse(*sent));
        told.into_iter().take(MOST).map(|(_, tcp)| tcp).collect()
    }
}

/// Whether the filter asks for a connection, by its ends.
pub(super) fn is_asked_for(filter: &FilterArgs, connection: &Connection) -> bool {
    let (a, b) = (connection.local, connection.remote);
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

/// What a connection that sent something waited for most of the time that it had something to
/// send.
fn limited(old: &Info, now: &Info) -> &'static str {
    let busy = now.busy_us.saturating_sub(old.busy_us);
    let is_half = |part: u64| busy > 0 && part * 2 >= busy;
    if is_half(now.rwnd_us.saturating_sub(old.rwnd_us)) {
        "rwnd"
    } else if is_half(now.sndbuf_us.saturating_sub(old.sndbuf_us)) {
        "sndbuf"
    } else if now.is_app_limited {
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
        let old = Info { busy_us: 1_000, rwnd_us: 900, ..Info::default() };
        let now = |rwnd_us, sndbuf_us, is_app_limited| Info {
            busy_us: 3_000,
            rwnd_us,
            sndbuf_us,
            is_app_limited,
            ..Info::default()
        };
        assert_eq!(limited(&old, &now(1_900, 0, true)), "rwnd");
        assert_eq!(limited(&old, &now(1_000, 1_500, true)), "sndbuf");
        assert_eq!(limited(&old, &now(1_000, 0, true)), "app", "old time does not count");
        assert_eq!(limited(&old, &now(1_000, 0, false)), "cwnd");
    }
}
