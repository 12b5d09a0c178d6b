//! The daemon behind a lab: one process that listens in all the lab's namespaces. Each socket is
//! made by a scratch thread inside its namespace and then served by a task here.

mod dns;
mod http;
mod long;
mod socket;
mod stream;

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};

use self::socket::Listening;
use super::daemon::{self, READY};
use super::labs::Spec;
use super::long::{Long, open_all};
use super::server::{Kind, Server};
use super::state::StateDir;
use super::topology::Choice;
use super::{Error, Prefix, sys};

const MAX_DATAGRAM: usize = 65536;
/// After an error that is not the peer's (no descriptors left, say), before the next attempt.
const PAUSE: Duration = Duration::from_millis(50);
/// What a paced server does meanwhile.
const ACCEPT_WORK: Duration = Duration::from_millis(2);
const RECEIVE_WORK: Duration = Duration::from_millis(10);

/// All that the daemon holds open.
type Opened = (Vec<(Server, Listening)>, Vec<Long>);

/// Serves the lab until a signal ends it. Says its readiness on stdout when every socket listens, or
/// else what went wrong.
///
/// # Errors
///
/// That a socket cannot be opened. It has been said on stdout by then.
pub fn run(prefix: &Prefix) -> Result<(), Error> {
    let failed = |e: io::Error| Error::Server(e.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let started = runtime.map_err(failed).and_then(|runtime| {
        let opened = start(prefix, &runtime)?;
        Ok((runtime, opened))
    });
    let (runtime, (sockets, links)) = match started {
        Ok(started) => started,
        Err(e) => {
            say(&e.to_string()).map_err(failed)?;
            return Err(e);
        }
    };
    runtime.block_on(async {
        for link in links {
            long::carry(link).map_err(failed)?;
        }
        for (server, socket) in sockets {
            serve(prefix, server, socket);
        }
        say(READY).map_err(failed)?;
        std::future::pending().await
    })
}

fn start(prefix: &Prefix, runtime: &tokio::runtime::Runtime) -> Result<Opened, Error> {
    let failed = |e: io::Error| Error::Server(e.to_string());
    sys::set_process_name(c"pkttrace-lab");
    sys::leave_session().map_err(failed)?;
    std::env::set_current_dir("/").map_err(failed)?;
    let state = StateDir::new(prefix);
    // First of all, so that `down` finds this process whatever becomes of the one that started it.
    daemon::record_self(&state)?;
    let servers = daemon::read_servers(&state)?;
    let open = |server: Server| {
        let socket = socket::open(prefix, &server, runtime.handle())?;
        Ok((server, socket))
    };
    let sockets = servers.into_iter().map(open).collect::<Result<_, _>>()?;
    let Some(record) = state.load()? else { return Ok((sockets, Vec::new())) };
    let choice = Choice { ipv6: record.ipv6, proxy: record.proxy };
    let links = open_all(prefix, &Spec::find(&record.lab)?.topology(choice)?)?;
    Ok((sockets, links))
}

/// Says the one thing there is to say and closes the pipe, by putting `/dev/null` in its place.
fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    sys::replace_stdout(&File::options().write(true).open("/dev/null")?)
}

fn serve(prefix: &Prefix, server: Server, socket: Listening) {
    match socket {
        Listening::Tcp(listener) => drop(tokio::spawn(serve_tcp(prefix.clone(), server, listener))),
        Listening::Udp(socket) => drop(tokio::spawn(serve_udp(prefix.clone(), server, socket))),
        // It must stay open, and nobody ever reads from it.
        Listening::Ignored(socket) => std::mem::forget(socket),
    }
}

async fn serve_tcp(prefix: Prefix, server: Server, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let netns = prefix.netns_path(&server.host);
                drop(tokio::spawn(answer_tcp(netns, server.clone(), stream, peer)));
                if server.kind == Kind::Paced {
                    tokio::time::sleep(ACCEPT_WORK).await;
                }
            }
            Err(e) => {
                log::warn!("{server}: accept: {e}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// A client that goes away early is its own business.
async fn answer_tcp(netns: PathBuf, server: Server, stream: TcpStream, peer: SocketAddr) {
    let answered = match server.kind {
        Kind::Dns => dns::answer_stream(&netns, stream).await,
        Kind::Echo => stream::echo(stream).await,
        Kind::Sink => stream::sink(stream).await,
        Kind::Source => stream::source(stream).await,
        Kind::Paced => stream::greet(stream).await,
        Kind::Named => {
            dns::ask_for(&netns, peer.ip().to_canonical()).await;
            stream::greet(stream).await
        }
        _ => http::answer(&server.host, stream, peer.ip().to_canonical()).await,
    };
    if let Err(e) = answered {
        log::debug!("{server}: {peer}: {e}");
    }
}

async fn serve_udp(prefix: Prefix, server: Server, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut datagram = vec![0; MAX_DATAGRAM];
    loop {
        let (len, peer) = match socket.recv_from(&mut datagram).await {
            Ok(received) => received,
            Err(e) => {
                log::warn!("{server}: receive: {e}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match server.kind {
            Kind::Echo => send(&server, &socket, &datagram[..len], peer).await,
            Kind::Paced | Kind::Cramped => {
                send(&server, &socket, &datagram[..len], peer).await;
                while let Ok((len, peer)) = socket.try_recv_from(&mut datagram) {
                    send(&server, &socket, &datagram[..len], peer).await;
                }
                tokio::time::sleep(RECEIVE_WORK).await;
            }
            Kind::Dns | Kind::UpDns => {
                let query = datagram[..len].to_vec();
                let netns = prefix.netns_path(&server.host);
                let (server, socket) = (server.clone(), Arc::clone(&socket));
                drop(tokio::spawn(async move {
                    if let Some(answer) = dns::answer(&netns, &query, server.kind).await {
                        send(&server, &socket, &answer, peer).await;
                    }
                }));
            }
            Kind::Sink | Kind::Source | Kind::Http | Kind::Named | Kind::Stalled | Kind::Hang => {}
        }
    }
}

async fn send(server: &Server, socket: &UdpSocket, answer: &[u8], peer: SocketAddr) {
    if let Err(e) = socket.send_to(answer, peer).await {
        log::debug!("{server}: {peer}: {e}");
    }
}
