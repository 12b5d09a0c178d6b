//! Prometheus' text format over HTTP: one document, whoever asks.
//!
//! It answers `GET /metrics`, closes every connection after its answer, and waits for nobody: a
//! client that is slow to ask, or asks for more than it may, is dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// How long a client may take to ask and to be answered.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest request.
const REQUEST: usize = 8 << 10;

/// A listener and what it tells.
#[derive(Debug)]
pub struct Exporter {
    listener: TcpListener,
    text: Arc<str>,
}

impl Exporter {
    /// Listens.
    ///
    /// # Errors
    ///
    /// When the address is not to be had.
    pub async fn listen(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("--listen: cannot listen on {address}"))?;
        Ok(Self { listener, text: Arc::from("") })
    }

    /// What is told from now on.
    pub fn publish(&mut self, text: String) {
        self.text = Arc::from(text);
    }

    /// Takes one client; the answer goes on beside the rest.
    ///
    /// # Errors
    ///
    /// None that a client can cause.
    pub async fn serve(&mut self) -> Result<()> {
        let Ok((client, _)) = self.listener.accept().await else {
            // Out of descriptors, most likely: not to be tried again without pause.
            tokio::time::sleep(Duration::from_millis(100)).await;
            return Ok(());
        };
        let text = Arc::clone(&self.text);
        tokio::spawn(async move { timeout(PATIENCE, answer(client, &text)).await });
        Ok(())
    }
}

/// Answers Prometheus, if it is to be answered; else waits for ever.
///
/// # Errors
///
/// As [`Exporter::serve`].
pub async fn serve(exporter: Option<&mut Exporter>) -> Result<()> {
    match exporter {
        Some(exporter) => exporter.serve().await,
        None => std::future::pending().await,
    }
}

async fn answer(mut client: TcpStream, text: &str) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut more = [0; 1024];
        let n = client.read(&mut more).await?;
        if n == 0 || request.len() + n > REQUEST {
            return Ok(());
        }
        request.extend_from_slice(&more[..n]);
    }
    client.write_all(response(&request, text).as_bytes()).await?;
    client.shutdown().await
}

/// The answer to a request.
fn response(request: &[u8], text: &str) -> String {
    let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = target.split('?').next().unwrap_or("");
    let (status, body) = match (method, path) {
        ("GET" | "HEAD", "/metrics") => ("200 OK", text),
        ("GET" | "HEAD", _) => ("404 Not Found", "metrics are at /metrics\n"),
        _ => ("405 Method Not Allowed", "only GET\n"),
    };
    let sent = if method == "HEAD" { "" } else { body };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{sent}",
        body.len()
    )
}

/// A label's value as the format wants it.
#[must_use]
pub fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_metrics_are_answered() {
        let status = |request: &str| {
            let answer = response(request.as_bytes(), "a 1\n");
            answer.split_whitespace().nth(1).unwrap_or_default().to_owned()
        };
        assert_eq!(status("GET /metrics HTTP/1.1\r\n\r\n"), "200");
        assert_eq!(status("GET /metrics?x=1 HTTP/1.1\r\n\r\n"), "200");
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), "404");
        assert_eq!(status("POST /metrics HTTP/1.1\r\n\r\n"), "405");
        assert_eq!(status("\r\n\r\n"), "405");
        assert!(response(b"HEAD /metrics HTTP/1.1\r\n\r\n", "a 1\n").ends_with("\r\n\r\n"));
    }

    #[test]
    fn labels_cannot_end_early() {
        assert_eq!(label("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
