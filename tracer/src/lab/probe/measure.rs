//! Probes that measure: how fast, how late, how much of it comes. Each makes the traffic that it
//! measures, so that it is also what to run while a slow network is looked into.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::{dns, parse};
use crate::lab::Prefix;
use crate::lab::netlink::Netlink;
use crate::net::setns;

/// How long one measurement takes.
const SPAN: Duration = Duration::from_millis(1200);
/// What a transfer does before its rate counts: windows have to open.
const WARM: Duration = Duration::from_millis(600);
/// Of the ways that are compared, each in turn.
const TURNS: u32 = 3;
const CONNECT: Duration = Duration::from_secs(3);
/// For connections that are made at once: beyond the first SYN that is sent again, and not so long
/// that nothing happens until all of them are through.
const AT_ONCE: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_millis(200);
const PIECE: usize = 256 * 1024;
/// Between bursts.
const PAUSE: Duration = Duration::from_millis(40);
/// After the last datagram, for the last answer.
const LAST: Duration = Duration::from_millis(300);
/// As a line of a log.
const DATAGRAM: [u8; 300] = [b'x'; 300];

/// Something to measure, and what is good enough. Targets are `ADDRESS:PORT`.
#[derive(Debug, Clone, Copy)]
pub enum Measure {
    /// Round trips of one byte: their lower quartile.
    RoundTrip { to: &'static str, most: Duration },
    /// Bytes a second to a server that reads.
    Upload { to: &'static str, least: u64 },
    /// Bytes a second from a server that sends.
    Download { to: &'static str, least: u64 },
    /// The rate of an upload in percent of another's, from another host to another server.
    Compare { to: &'static str, other: (&'static str, &'static str), least: u64 },
    /// Connections at once, with a line of answer: the time that nine in ten take.
    Connect { to: &'static str, at_once: u8, most: Duration },
    /// Datagrams in a burst that are answered, in percent.
    Burst { to: &'static str, at_once: u8, least: u64 },
    /// Datagrams, each from a socket of its own, that are answered, in percent.
    Questions { to: &'static str, least: u64 },
    /// A connection when no neighbour is known: the median.
    FirstPacket { to: &'static str, most: Duration },
    /// A name, through the host's own `resolv.conf`.
    Lookup { name: &'static str, most: Duration },
}

/// Who measures.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) prefix: &'a Prefix,
    pub(super) host: &'a str,
}

/// What it came to.
enum Figure {
    Time(Duration),
    Rate(u64),
    Percent(u64),
}

impl Measure {
    /// Measures; too slow is an error. To be called inside the namespace of the host.
    pub(super) fn check(self, at: At<'_>) -> io::Result<()> {
        let (figure, limit) = (self.run(at, SPAN)?, self.limit());
        let (is_good, than) = match (&figure, &limit) {
            (Figure::Time(time), Figure::Time(most)) => (time <= most, "more than"),
            (Figure::Rate(n), Figure::Rate(least))
            | (Figure::Percent(n), Figure::Percent(least)) => (n >= least, "less than"),
            _ => (false, "no match for"),
        };
        if is_good {
            return Ok(());
        }
        Err(io::Error::other(format!("{}, {than} {}", say(&figure), say(&limit))))
    }

    /// Makes its traffic for so long; how it goes is no matter.
    pub(super) fn load(self, at: At<'_>, span: Duration) -> io::Result<()> {
        let end = Instant::now() + span;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let ran = match self {
                Self::Compare { to, .. } => upload(to, left).map(drop),
                other => other.run(at, left).map(drop),
            };
            if ran.is_err() {
                std::thread::sleep(PAUSE.min(left));
            }
        }
    }

    /// For `cannot …`.
    pub(super) fn describe(self) -> String {
        match self {
            Self::RoundTrip { to, .. } => format!("reach {to} and back fast"),
            Self::Upload { to, .. } => format!("send to {to} fast"),
            Self::Download { to, .. } => format!("receive from {to} fast"),
            Self::Compare { to, other: (host, _), .. } => {
                format!("send to {to} as fast as {host} does")
            }
            Self::Connect { to, at_once, .. } => format!("connect to {to} {at_once} times at once"),
            Self::Burst { to, .. } | Self::Questions { to, .. } => {
                format!("get answers to datagrams to {to}")
            }
            Self::FirstPacket { to, .. } => format!("connect to {to} with no neighbour known"),
            Self::Lookup { name, .. } => format!("resolve {name} fast"),
        }
    }

    fn limit(self) -> Figure {
        match self {
            Self::RoundTrip { most, .. }
            | Self::Connect { most, .. }
            | Self::FirstPacket { most, .. }
            | Self::Lookup { most, .. } => Figure::Time(most),
            Self::Upload { least, .. } | Self::Download { least, .. } => Figure::Rate(least),
            Self::Compare { least, .. }
            | Self::Burst { least, .. }
            | Self::Questions { least, .. } => Figure::Percent(least),
        }
    }

    fn run(self, at: At<'_>, span: Duration) -> io::Result<Figure> {
        match self {
            Self::RoundTrip { to, .. } => round_trip(to, span).map(Figure::Time),
            Self::Upload { to, .. } => upload(to, span).map(Figure::Rate),
            Self::Download { to, .. } => download(to, span).map(Figure::Rate),
            Self::Compare { to, other, .. } => compare(at, to, other, span).map(Figure::Percent),
            Self::Connect { to, at_once, .. } => {
                repeat(span, || connect(at, to, at_once)).map(Figure::Time)
            }
            Self::Burst { to, at_once, .. } => burst(to, at_once, span).map(Figure::Percent),
            Self::Questions { to, .. } => questions(to, span).map(Figure::Percent),
            Self::FirstPacket { to, .. } => {
                repeat(span, || first_packet(at, to).map(|time| vec![time])).map(Figure::Time)
            }
            Self::Lookup { name, .. } => {
                let begun = Instant::now();
                dns::lookup(&at.prefix.etc_dir(at.host), name)?;
                Ok(Figure::Time(begun.elapsed()))
            }
        }
    }
}

fn say(figure: &Figure) -> String {
    match figure {
        Figure::Time(time) => format!("{time:.1?}"),
        Figure::Rate(rate) => format!("{:.1} MB/s", *rate as f64 / 1e6),
        Figure::Percent(percent) => format!("{percent} %"),
    }
}

fn open(to: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&parse(to)?, CONNECT)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What waiting in vain for a while comes to.
fn moved(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(0),
        other => other,
    }
}

fn round_trip(to: &str, span: Duration) -> io::Result<Duration> {
    let (mut stream, end) = (open(to)?, Instant::now() + span);
    stream.set_read_timeout(Some(CONNECT))?;
    let mut times = Vec::new();
    while Instant::now() < end {
        let begun = Instant::now();
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
        times.push(begun.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 4])
}

fn upload(to: &str, span: Duration) -> io::Result<u64> {
    let (mut stream, data) = (open(to)?, vec![b'x'; PIECE]);
    rate(span, || moved(stream.write(&data)))
}

fn download(to: &str, span: Duration) -> io::Result<u64> {
    let (mut stream, mut data) = (open(to)?, vec![0; PIECE]);
    rate(span, || moved(stream.read(&mut data)))
}

/// Bytes a second, once it is warm.
fn rate(span: Duration, mut once: impl FnMut() -> io::Result<usize>) -> io::Result<u64> {
    let begun = Instant::now();
    let warm = WARM.min(span / 2);
    let mut counted = (0, begun);
    while begun.elapsed() < span {
        if counted.1 == begun && begun.elapsed() > warm {
            counted = (0, Instant::now());
        }
        counted.0 += once()?;
    }
    Ok((counted.0 as f64 / counted.1.elapsed().as_secs_f64()) as u64)
}

/// The best of some turns each, so that what else the machine does hits both alike.
fn compare(at: At<'_>, to: &str, (host, there): (&str, &str), span: Duration) -> io::Result<u64> {
    let (mut own, mut other) = (0, 0);
    for _ in 0..TURNS {
        own = own.max(upload(to, span / TURNS)?);
        let inside = at.prefix.netns_path(host);
        other = other.max(setns::run_in_path(&inside, || upload(there, span / TURNS))?);
    }
    Ok(own * 100 / other.max(1))
}

/// Again and again; of all the times, the one that nine in ten do not exceed.
fn repeat(
    span: Duration,
    mut once: impl FnMut() -> io::Result<Vec<Duration>>,
) -> io::Result<Duration> {
    let (begun, mut times) = (Instant::now(), Vec::new());
    while times.is_empty() || begun.elapsed() < span {
        times.extend(once()?);
        std::thread::sleep(PAUSE);
    }
    times.sort();
    Ok(times[(times.len() - 1) * 9 / 10])
}

/// What does not work takes as long as it was tried for.
fn connect(at: At<'_>, to: &str, at_once: u8) -> io::Result<Vec<Duration>> {
    let (netns, to) = (at.prefix.netns_path(at.host), parse::<SocketAddr>(to)?);
    let one = || {
        let begun = Instant::now();
        let tried = setns::run_in_path(&netns, || {
            let mut stream = TcpStream::connect_timeout(&to, AT_ONCE)?;
            stream.set_read_timeout(Some(AT_ONCE))?;
            stream.read(&mut [0; 16])
        });
        if tried.is_ok() { begun.elapsed() } else { begun.elapsed().max(AT_ONCE) }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(one)).collect();
        let panicked = |_| io::Error::other("the scratch thread panicked");
        threads.into_iter().map(|thread| thread.join().map_err(panicked)).collect()
    })
}

fn burst(to: &str, at_once: u8, span: Duration) -> io::Result<u64> {
    let socket = datagrams(to)?;
    let (end, mut sent, mut answered) = (Instant::now() + span, 0, 0);
    while Instant::now() < end {
        for _ in 0..at_once {
            socket.send(&DATAGRAM)?;
            sent += 1;
        }
        answered += answers(&socket, PAUSE)?;
    }
    answered += answers(&socket, LAST)?;
    Ok(answered * 100 / sent)
}

fn questions(to: &str, span: Duration) -> io::Result<u64> {
    let (end, mut sent, mut answered) = (Instant::now() + span, 0, 0);
    // Two at a time: a lost answer must not be all that is waited for.
    while Instant::now() < end {
        let sockets = [datagrams(to)?, datagrams(to)?];
        for socket in &sockets {
            socket.send(&DATAGRAM[..16])?;
            sent += 1;
        }
        for socket in &sockets {
            answered += answers(socket, PAUSE / 2)?.min(1);
        }
    }
    Ok(answered * 100 / sent)
}

fn datagrams(to: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(parse::<SocketAddr>(to)?)?;
    Ok(socket)
}

/// How many come within `span`.
fn answers(socket: &UdpSocket, span: Duration) -> io::Result<u64> {
    let (end, mut count) = (Instant::now() + span, 0);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(count);
        }
        socket.set_read_timeout(Some(left))?;
        count += u64::from(moved(socket.recv(&mut [0; 512]))? > 0);
    }
}

fn first_packet(at: At<'_>, to: &str) -> io::Result<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let forget = async { Netlink::open(at.prefix, at.host)?.forget_neighbours().await };
    runtime.block_on(forget).map_err(io::Error::other)?;
    let begun = Instant::now();
    drop(TcpStream::connect_timeout(&parse(to)?, CONNECT)?);
    Ok(begun.elapsed())
}
