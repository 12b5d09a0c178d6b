//! The web server of every pod. It says who answered and whom it saw, which is what NAT changes.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const REQUEST_LIMIT: Duration = Duration::from_secs(8);
const BIG: usize = 200_000;
const SLOW: Duration = Duration::from_secs(4);

/// Answers one request and closes the connection.
pub(super) async fn answer(host: &str, mut stream: TcpStream, client: IpAddr) -> io::Result<()> {
    let mut request = [0; 4096];
    let len = tokio::time::timeout(REQUEST_LIMIT, stream.read(&mut request)).await??;
    if len == 0 {
        return Ok(());
    }
    let path = path_of(&request[..len]);
    let mut body = format!("pod={host} client={client}\n").into_bytes();
    if path.starts_with(b"/big") {
        body.resize(body.len() + BIG, b'x');
    }
    if path.starts_with(b"/slow") {
        tokio::time::sleep(SLOW).await;
    }
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await
}

/// The second word of the request.
fn path_of(request: &[u8]) -> &[u8] {
    request.split(|byte| *byte == b' ').nth(1).unwrap_or(b"/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_the_second_word() {
        assert_eq!(path_of(b"GET /big HTTP/1.0\r\n\r\n"), b"/big");
        assert_eq!(path_of(b"nonsense"), b"/");
    }
}
