//! Servers of streams that mean nothing.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PIECE: usize = 256 * 1024;

/// Sends back what comes until the other end closes.
pub(super) async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes).await? {
            0 => return Ok(()),
            len => stream.write_all(&bytes[..len]).await?,
        }
    }
}

/// Reads until the other end closes.
pub(super) async fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; PIECE];
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}

/// Writes until the other end closes.
pub(super) async fn source(mut stream: TcpStream) -> io::Result<()> {
    let bytes = vec![b'x'; PIECE];
    loop {
        stream.write_all(&bytes).await?;
    }
}

/// One line, and the end.
pub(super) async fn greet(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"welcome\n").await?;
    stream.shutdown().await
}
