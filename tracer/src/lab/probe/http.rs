//! A small HTTP client: 1 s to connect, 2 s in all.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::parse;
use crate::net::setns;

const CONNECT: Duration = Duration::from_secs(1);
const TOTAL: Duration = Duration::from_secs(2);
const SLOW_CONNECT: Duration = Duration::from_secs(2);
const SLOW_TOTAL: Duration = Duration::from_secs(8);
const IDLE_ANSWER: Duration = Duration::from_millis(2500);

/// `ADDRESS:PORT/PATH`.
#[derive(Debug)]
pub(super) struct Url<'a> {
    server: SocketAddr,
    path: &'a str,
}

impl<'a> Url<'a> {
    pub(super) fn parse(text: &'a str) -> io::Result<Self> {
        let end = text.find('/').unwrap_or(text.len());
        let (server, path) = text.split_at(end);
        Ok(Self { server: parse(server)?, path: if path.is_empty() { "/" } else { path } })
    }
}

/// Fetches, and wants a whole answer that has `body_has` in it.
pub(super) fn get(url: &Url<'_>, body_has: &str) -> io::Result<()> {
    let body = fetch(url, CONNECT, TOTAL)?;
    if body.contains(body_has) {
        return Ok(());
    }
    let line = body.lines().next().unwrap_or_default();
    Err(io::Error::other(format!("the answer is `{line}`, without `{}`", body_has.trim())))
}

/// Fetches `times` at once from a server that takes its time. To be called inside `netns`, which
/// new threads do not inherit where it was entered by name only.
pub(super) fn get_at_once(netns: &Path, url: &Url<'_>, times: u8) -> io::Result<()> {
    let one = || setns::run_in_path(netns, || fetch(url, SLOW_CONNECT, SLOW_TOTAL));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..times).map(|_| scope.spawn(one)).collect();
        let panicked = |_| Err(io::Error::other("the scratch thread panicked"));
        let results = threads.into_iter().map(|t| t.join().unwrap_or_else(panicked).map(drop));
        // All are joined before the first error is picked.
        results.collect::<Vec<_>>().into_iter().collect()
    })
}

/// Connects, is silent for a while, then fetches on that connection.
pub(super) fn get_idle(url: &Url<'_>, seconds: u8) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&url.server, SLOW_CONNECT)?;
    std::thread::sleep(Duration::from_secs(seconds.into()));
    exchange(stream, url, Instant::now() + IDLE_ANSWER).map(drop)
}

fn fetch(url: &Url<'_>, connect: Duration, total: Duration) -> io::Result<String> {
    let deadline = Instant::now() + total;
    let stream = TcpStream::connect_timeout(&url.server, connect).map_err(|e| match e.kind() {
        ErrorKind::TimedOut => no_answer("the connection request", connect),
        _ => e,
    })?;
    exchange(stream, url, deadline)
}

fn exchange(mut stream: TcpStream, url: &Url<'_>, deadline: Instant) -> io::Result<String> {
    let start = Instant::now();
    let request = format!("GET {} HTTP/1.0\r\nHost: {}\r\n\r\n", url.path, url.server);
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 16384];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(incomplete(&answer, start.elapsed()));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => return whole_body(&answer),
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
    }
}

/// The body, if it is as long as the header says.
fn whole_body(answer: &[u8]) -> io::Result<String> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::other(format!("{} bytes that are no answer", answer.len())))?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    match length.map(str::parse::<usize>) {
        Some(Ok(length)) if length == body.len() => Ok(body.to_owned()),
        _ => Err(io::Error::other(format!("the answer ended after {} bytes", answer.len()))),
    }
}

fn incomplete(answer: &[u8], waited: Duration) -> io::Error {
    if answer.is_empty() {
        return no_answer("the request (the connection was made)", waited);
    }
    let text = format!("only {} bytes of the answer came within {waited:.1?}", answer.len());
    io::Error::new(ErrorKind::TimedOut, text)
}

fn no_answer(to: &str, waited: Duration) -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("no answer to {to} within {waited:.1?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_split_into_server_and_path() {
        let url = Url::parse("[fd00::1]:8080/big").unwrap();
        assert_eq!((url.server.port(), url.path), (8080, "/big"));
        assert_eq!(Url::parse("10.0.0.1:80").unwrap().path, "/");
        assert!(Url::parse("10.0.0.1/").is_err());
    }

    #[test]
    fn a_short_body_is_no_answer() {
        assert_eq!(whole_body(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap(), "hi");
        assert!(whole_body(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nhi").is_err());
        assert!(whole_body(b"").is_err());
    }
}
