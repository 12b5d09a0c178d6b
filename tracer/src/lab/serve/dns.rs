//! The DNS servers of lab `cluster`: the cluster's own, which knows the Services and asks the
//! upstream server for everything else, and that upstream server.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::path::Path;
use std::time::Duration;

use bytes::BufMut as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::lab::server::Kind;
use crate::net::setns;

const CLUSTER_ZONE: [(&str, Ipv4Addr); 4] = [
    ("web.default.svc.cluster.local", Ipv4Addr::new(10, 96, 45, 100)),
    ("websame.default.svc.cluster.local", Ipv4Addr::new(10, 96, 45, 102)),
    ("webrem.default.svc.cluster.local", Ipv4Addr::new(10, 96, 45, 103)),
    ("kubernetes.default.svc.cluster.local", Ipv4Addr::new(10, 96, 0, 1)),
];
const OUTSIDE_ZONE: [(&str, Ipv4Addr); 1] = [("www.example.test", Ipv4Addr::new(203, 0, 113, 10))];
const CLUSTER_DOMAIN: &str = "cluster.local";
const UPSTREAM: (Ipv4Addr, u16) = (Ipv4Addr::new(203, 0, 113, 53), 53);
const UPSTREAM_LIMIT: Duration = Duration::from_millis(700);

const HEADER_LEN: usize = 12;
const TYPE_A: u16 = 1;
const TTL_S: u32 = 5;
const CLASS_IN: u16 = 1;
/// A pointer to offset 12, where the question's name is.
const NAME_OF_QUESTION: u16 = 0xc000 | 12;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

/// Answers the one query that comes on a connection.
pub(super) async fn answer_stream(netns: &Path, mut stream: TcpStream) -> io::Result<()> {
    let len = stream.read_u16().await?;
    let mut query = vec![0; len.into()];
    stream.read_exact(&mut query).await?;
    let Some(answer) = answer(netns, &query, Kind::Dns).await else { return Ok(()) };
    let len = u16::try_from(answer.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes()[..], &answer].concat()).await?;
    stream.shutdown().await
}

/// The answer to `query`; `None` if that is no query. `netns` is where the server listens, and
/// from where it asks upstream.
pub(super) async fn answer(netns: &Path, query: &[u8], kind: Kind) -> Option<Vec<u8>> {
    let question = Question::parse(query)?;
    if kind == Kind::UpDns {
        return Some(question.answer_from(&OUTSIDE_ZONE));
    }
    if question.name.ends_with(CLUSTER_DOMAIN) {
        return Some(question.answer_from(&CLUSTER_ZONE));
    }
    let asked = tokio::time::timeout(UPSTREAM_LIMIT, ask_upstream(netns, query)).await;
    Some(asked.ok().and_then(Result::ok).unwrap_or_else(|| question.reply(SERVFAIL, None)))
}

/// Asks for the name of a client, and gives up after a second; what it is is no matter.
pub(super) async fn ask_for(netns: &Path, client: IpAddr) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let IpAddr::V4(client) = client else { return };
    let [a, b, c, d] = client.octets();
    let mut query = vec![0x4e, 0x41, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [&d.to_string(), &c.to_string(), &b.to_string(), &a.to_string(), "in-addr", "arpa"]
    {
        // Labels of addresses are short.
        query.put_u8(label.len() as u8);
        query.put_slice(label.as_bytes());
    }
    query.put_slice(&[0, 0, 12, 0, 1]);
    // No answer is as good as any.
    let _ = tokio::time::timeout(PATIENCE, ask_upstream(netns, &query)).await;
}

async fn ask_upstream(netns: &Path, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket = setns::run_in_path(netns, || StdUdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    socket.connect(SocketAddr::from(UPSTREAM)).await?;
    socket.send(query).await?;
    let mut answer = vec![0; 4096];
    let len = socket.recv(&mut answer).await?;
    answer.truncate(len);
    Ok(answer)
}

/// The question of a query, as far as an answer needs it.
struct Question<'a> {
    name: String,
    qtype: u16,
    id: &'a [u8],
    count: &'a [u8],
    /// Name, type and class as they came.
    section: &'a [u8],
}

impl<'a> Question<'a> {
    fn parse(query: &'a [u8]) -> Option<Self> {
        let mut labels = Vec::new();
        let mut at = HEADER_LEN;
        loop {
            let len = usize::from(*query.get(at)?);
            at += 1;
            if len == 0 {
                break;
            }
            let label = query.get(at..at + len)?;
            labels.push(String::from_utf8_lossy(label).to_lowercase());
            at += len;
        }
        let qtype = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
        let section = query.get(HEADER_LEN..at + 4)?;
        let (id, count) = (&query[..2], &query[4..6]);
        Some(Self { name: labels.join("."), qtype, id, count, section })
    }

    fn answer_from(&self, zone: &[(&str, Ipv4Addr)]) -> Vec<u8> {
        match zone.iter().find(|(name, _)| *name == self.name) {
            None => self.reply(NXDOMAIN, None),
            Some(_) if self.qtype != TYPE_A => self.reply(0, None),
            Some((_, ip)) => self.reply(0, Some(*ip)),
        }
    }

    fn reply(&self, code: u8, address: Option<Ipv4Addr>) -> Vec<u8> {
        let mut reply = Vec::with_capacity(HEADER_LEN + self.section.len() + 16);
        reply.put_slice(self.id);
        // Response, recursion desired and available.
        reply.put_slice(&[0x81, 0x80 | code]);
        reply.put_slice(self.count);
        reply.put_u16(u16::from(address.is_some()));
        // No authority, nothing additional.
        reply.put_u32(0);
        reply.put_slice(self.section);
        if let Some(ip) = address {
            reply.put_u16(NAME_OF_QUESTION);
            reply.put_u16(TYPE_A);
            reply.put_u16(CLASS_IN);
            reply.put_u32(TTL_S);
            reply.put_u16(4);
            reply.put_slice(&ip.octets());
        }
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, qtype: u8) -> Vec<u8> {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(label.len().try_into().unwrap());
            query.extend_from_slice(label.as_bytes());
        }
        query.extend_from_slice(&[0, 0, qtype, 0, 1]);
        query
    }

    #[test]
    fn service_names_resolve_whatever_their_case() {
        let query = query("WEB.default.svc.cluster.local", 1);
        let reply = Question::parse(&query).unwrap().answer_from(&CLUSTER_ZONE);
        assert_eq!(reply[..4], [0x12, 0x34, 0x81, 0x80]);
        assert_eq!(reply[6..8], [0, 1]);
        assert!(reply.ends_with(&[0, 4, 10, 96, 45, 100]));
    }

    #[test]
    fn other_types_are_empty_and_other_names_unknown() {
        let aaaa = query("web.default.svc.cluster.local", 28);
        let reply = Question::parse(&aaaa).unwrap().answer_from(&CLUSTER_ZONE);
        assert_eq!((reply[3], &reply[6..8]), (0x80, &[0, 0][..]));
        let other = query("nope.cluster.local", 1);
        let reply = Question::parse(&other).unwrap().answer_from(&CLUSTER_ZONE);
        assert_eq!(reply[3], 0x83);
    }

    #[test]
    fn half_a_query_is_none() {
        let whole = query("web", 1);
        for len in 0..whole.len() {
            assert!(Question::parse(&whole[..len]).is_none(), "{len}");
        }
    }
}
