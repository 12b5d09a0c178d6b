//! Opening the daemon's sockets inside the lab's namespaces.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::os::fd::OwnedFd;

use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::runtime::Handle;

use crate::lab::server::{Kind, Proto, Server};
use crate::lab::{Error, Prefix, sys};
use crate::net::setns;

const BACKLOG: u32 = 128;
/// Bytes, which the kernel doubles: some twenty datagrams.
const CRAMPED: libc::c_int = 8192;

/// A socket that listens.
pub(super) enum Listening {
    Tcp(TcpListener),
    Udp(UdpSocket),
    /// For the kinds that never read.
    Ignored(OwnedFd),
}

/// Opens what `server` says, in its host's namespace.
pub(super) fn open(prefix: &Prefix, server: &Server, runtime: &Handle) -> Result<Listening, Error> {
    let opened = setns::run_in_path(&prefix.netns_path(&server.host), || {
        let _inside = runtime.enter();
        match server.proto {
            Proto::Tcp => open_tcp(server),
            Proto::Udp => open_udp(server),
        }
    });
    let what = format!("listen on {} {}", server.proto, server.addr);
    opened.map_err(Error::netns(prefix.netns(&server.host), what))
}

fn open_tcp(server: &Server) -> io::Result<Listening> {
    let socket = match server.addr {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    if server.kind == Kind::Stalled {
        socket.set_recv_buffer_size(1)?;
    }
    socket.bind(server.addr)?;
    // Even a backlog of 0 holds one connection.
    let backlog = if server.kind == Kind::Stalled { 0 } else { BACKLOG };
    let listener = socket.listen(backlog)?;
    if is_ignored(server.kind) {
        return Ok(Listening::Ignored(listener.into_std()?.into()));
    }
    Ok(Listening::Tcp(listener))
}

fn open_udp(server: &Server) -> io::Result<Listening> {
    let socket = StdUdpSocket::bind(server.addr)?;
    if server.kind == Kind::Cramped {
        sys::set_socket_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, CRAMPED)?;
    }
    if server.kind == Kind::Stalled {
        // The kernel raises it to its minimum, about two small datagrams.
        sys::set_socket_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 1)?;
    }
    if is_ignored(server.kind) {
        return Ok(Listening::Ignored(socket.into()));
    }
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket).map(Listening::Udp)
}

fn is_ignored(kind: Kind) -> bool {
    matches!(kind, Kind::Stalled | Kind::Hang)
}
