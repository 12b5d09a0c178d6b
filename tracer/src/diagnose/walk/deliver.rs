//! For this namespace: INPUT, then whoever takes it.

use super::conf::Conf;
use super::hooks::Devs;
use super::walker::{Next, Walker};
use super::{Effect, End, ObstacleKind, What};
use crate::event::{Proto, Tuple};
use crate::journey::{Hook, NatKind};
use crate::net::Inum;
use crate::net::detail::Socket;

impl Walker<'_> {
    pub(super) fn input(&mut self, netns: Inum, dev: u32, port: Option<u32>) -> Next {
        let devs = Devs { iif: Some(dev), ports: (port, None), ..Devs::default() };
        self.hook(netns, Hook::Input, devs);
        self.ipsec(netns, "in");
        if let Some(next) = self.balance(netns) {
            return next;
        }
        if let Some(next) = self.decap(netns, dev) {
            return next;
        }
        let socket = if self.flight.is_reply { Ok(None) } else { self.socket(netns, dev) };
        self.step(
            netns,
            Some(dev),
            None,
            What::Deliver { socket: socket.as_ref().ok().cloned().flatten() },
        );
        let socket = match socket {
            Ok(socket) => socket,
            Err(why_not) => {
                let (effect, kind) = *why_not;
                self.hinder(effect, netns, Some(dev), kind);
                None
            }
        };
        if let Some(socket) = &socket {
            self.queue(netns, dev, socket);
        }
        if self.flight.is_reply {
            self.expected(netns, dev);
        }
        Next::Over(End::Delivered { netns, socket })
    }

    /// The answer is the one that the client waits for.
    fn expected(&mut self, netns: Inum, dev: u32) {
        let Some(request) = self.request else { return };
        let expected = request.tuple.reversed();
        let got = self.flight.tuple;
        if expected == got {
            return;
        }
        let bypasses =
            self.walk.obstacles().any(|(_, o)| matches!(o.kind, ObstacleKind::BypassesNat { .. }));
        if bypasses {
            return;
        }
        let bypassed = request.nat.first().map_or(netns, |n| n.netns);
        let (expected, got) = (expected.src, got.src);
        let kind = ObstacleKind::AnswerFromElsewhere { expected, got, bypassed };
        self.hinder(Effect::Stops, netns, Some(dev), kind);
    }

    /// IPVS, in LOCAL_IN: a virtual server hands the packet to one of its real servers.
    fn balance(&mut self, netns: Inum) -> Option<Next> {
        if self.flight.is_reply || !self.inside.is_empty() {
            return None;
        }
        let t = self.flight.tuple;
        let mark = self.flight.mark;
        let service = self.conf.detail(netns)?.ipvs.iter().find(|s| {
            if s.mark != 0 {
                s.mark == mark
            } else {
                (s.proto, s.addr, s.port) == (t.proto.number(), t.dst, t.dport)
            }
        })?;
        let servers: Vec<_> = service.servers.iter().filter(|s| s.2 > 0).collect();
        let taken = self.choose(servers.len(), |at| {
            servers.get(at).map_or_else(String::new, |(a, p, _)| format!("{a} port {p}"))
        });
        let Some((addr, port, _)) = servers.get(taken).copied() else {
            let kind = ObstacleKind::NoRealServer { service: service.clone() };
            self.hinder(Effect::Stops, netns, None, kind);
            return Some(self.stop());
        };
        let after = Tuple { dst: *addr, dport: *port, ..t };
        self.translated(netns, NatKind::Dnat, after, None);
        let Some(way) = self.route(netns, None) else { return Some(self.stop()) };
        let Some(dev) = self.out_dev(netns, &way) else { return Some(self.stop()) };
        Some(Next::Emit { netns, iif: None, dev, hop: way.hop.via })
    }

    /// The socket that takes the packet; `Ok(None)` when none is needed.
    fn socket(
        &mut self,
        netns: Inum,
        dev: u32,
    ) -> Result<Option<Socket>, Box<(Effect, ObstacleKind)>> {
        let t = self.flight.tuple;
        match t.proto {
            Proto::Icmp | Proto::Icmp6 => echo_ignored(self.conf, netns, t.proto)
                .map_or(Ok(None), |sysctl| {
                    Err(Box::new((Effect::Stops, ObstacleKind::EchoIgnored { sysctl })))
                }),
            Proto::Tcp | Proto::Udp | Proto::Sctp => self.listener(netns, dev, t).map(Some),
            Proto::Arp | Proto::Other(_) => Ok(None),
        }
    }

    fn listener(
        &mut self,
        netns: Inum,
        dev: u32,
        t: Tuple,
    ) -> Result<Socket, Box<(Effect, ObstacleKind)>> {
        let detail = self.conf.detail(netns);
        let sockets = detail.map_or(&[][..], |d| &d.sockets);
        let number = t.proto.number();
        let same: Vec<&Socket> = sockets.iter().filter(|s| s.proto == number).collect();
        let at_port: Vec<&Socket> = same.iter().copied().filter(|s| s.port == t.dport).collect();
        let fits = |s: &&&Socket| takes(s, t) && s.dev.is_none_or(|d| d == dev);
        let mut found: Vec<&Socket> = at_port.iter().filter(fits).copied().collect();
        // The most specific one; among equals, one that still takes something.
        found.sort_by_key(|s| (s.addr.is_unspecified(), s.peer.is_none(), is_full(s)));
        if let Some(best) = found.first().copied() {
            // Connections are spread over all that share the port (SO_REUSEPORT), whether they
            // still take something or not.
            let shares = |s: &&Socket| (s.addr, s.dev) == (best.addr, best.dev);
            let full = found.iter().copied().filter(shares).find(|s| number == 6 && is_full(s));
            let any = [Some(best), full.filter(|_| !is_full(best))];
            let any: Vec<&Socket> = any.into_iter().flatten().collect();
            let taken = self.choose(any.len(), |at| any.get(at).map_or_else(String::new, who));
            return Ok(any.get(taken).copied().unwrap_or(best).clone());
        }
        let is_unread = detail.is_none_or(|d| d.unread.iter().any(|u| u.contains("socket")));
        let effect = if is_unread { Effect::MayStop } else { Effect::Stops };
        let owned = |list: &[&Socket]| list.iter().map(|s| (*s).clone()).collect();
        let kind = if at_port.is_empty() {
            ObstacleKind::NoListener { port: t.dport, others: owned(&same) }
        } else {
            ObstacleKind::ListensElsewhere { sockets: owned(&at_port) }
        };
        Err(Box::new((effect, kind)))
    }

    fn queue(&mut self, netns: Inum, dev: u32, socket: &Socket) {
        let (effect, kind) = if is_full(socket) {
            (Effect::Stops, ObstacleKind::QueueFull { socket: socket.clone() })
        } else if socket.queued > 0 {
            (Effect::Degrades, ObstacleKind::NotServed { socket: socket.clone() })
        } else {
            return;
        };
        self.hinder(effect, netns, Some(dev), kind);
    }
}

/// `sk_acceptq_is_full` for TCP; for datagrams, hardly a tenth of the buffer is left, which is
/// less than one packet costs there.
fn is_full(socket: &Socket) -> bool {
    let (queued, limit) = (u64::from(socket.queued), u64::from(socket.limit));
    match socket.proto {
        6 => queued > limit,
        _ => limit > 0 && queued * 10 >= limit * 9,
    }
}

fn who(socket: &&Socket) -> String {
    let name = socket.process.as_ref().map(|(pid, name)| format!("{name} ({pid})"));
    name.unwrap_or_else(|| format!("port {}", socket.port))
}

fn takes(socket: &Socket, t: Tuple) -> bool {
    let addr = socket.addr == t.dst
        || socket.addr.is_unspecified()
            && (socket.addr.is_ipv4() == t.dst.is_ipv4() || (t.dst.is_ipv4() && !socket.v6only));
    addr && socket.peer.is_none_or(|peer| peer == (t.src, t.sport))
}

fn echo_ignored(conf: Conf<'_>, netns: Inum, proto: Proto) -> Option<String> {
    let path = match proto {
        Proto::Icmp => "ipv4/icmp_echo_ignore_all",
        _ => "ipv6/icmp/echo_ignore_all",
    };
    (conf.sysctl(netns, path).unwrap_or(0) != 0).then(|| path.to_owned())
}
