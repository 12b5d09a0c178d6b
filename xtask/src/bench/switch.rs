//! How long it takes until everything is attached when, after a quiet time, a packet matches.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::crowd::Crowd;
use super::loads::{await_cold, scratch};
use super::net::{Path, RECEIVER};
use crate::process::{self, Tracer};
use crate::sh;

const NAMESPACES: [usize; 2] = [15, 500];
const ROUNDS: usize = 5;
/// What `pkttrace -v` says then, before the time.
const SAID: &str = "all probe points are attached, ";

/// Milliseconds from the packet on, in each round.
#[derive(Debug, Clone)]
pub(super) struct Switch {
    pub(super) namespaces: usize,
    pub(super) ms: Vec<f64>,
}

/// Lets a trace wait, sends it a packet, and reads what it says.
pub(super) fn measure(binary: &path::Path, path: &Path) -> Result<Vec<Switch>> {
    NAMESPACES.into_iter().map(|namespaces| among(binary, path, namespaces)).collect()
}

fn among(binary: &path::Path, path: &Path, namespaces: usize) -> Result<Switch> {
    sh::step(format!("first match, {namespaces} namespaces"));
    let _crowd = Crowd::make(namespaces)?;
    let ms = (0..ROUNDS).map(|_| once(binary, path)).collect::<Result<_>>()?;
    Ok(Switch { namespaces, ms })
}

fn once(binary: &path::Path, path: &Path) -> Result<f64> {
    let said = scratch("switch");
    let mut command = Command::new(binary);
    let (_, port) = RECEIVER.rsplit_once(':').context("an address with a port")?;
    command.args(["--armed", "--proto", "udp", "--dport", port, "-v", "-o", "json"]);
    command.args(["-w", "/dev/null"]);
    command.stderr(File::create(&said).context("cannot keep what the tracer says")?);
    let tracer = Tracer::start(command, &scratch("ready"))?;
    await_cold(tracer.pid())?;
    thread::scope(|scope| {
        let sender = path.spawn(scope, "s", || {
            UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", RECEIVER).map(drop)
        })?;
        sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        anyhow::Ok(())
    })?;
    let read = || fs::read_to_string(&said).unwrap_or_default();
    process::wait_for("the points", Duration::from_secs(10), || Ok(read().contains(SAID)))?;
    let text = read();
    drop(tracer.finish(Duration::ZERO)?);
    let _ = fs::remove_file(&said);
    milliseconds(&text).with_context(|| format!("no time in what it says: {text}"))
}

/// Reads `… are attached, 6.13 ms after a packet`.
fn milliseconds(said: &str) -> Option<f64> {
    let mut words = said.split_once(SAID)?.1.split_whitespace();
    let number: f64 = words.next()?.parse().ok()?;
    let factor = match words.next()? {
        "µs" | "us" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        _ => return None,
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_read_in_its_unit() {
        let said = |time: &str| milliseconds(&format!("pkttrace: {SAID}{time} after a packet\n"));
        assert_eq!(said("6.13 ms"), Some(6.13));
        assert_eq!(said("0.5 s"), Some(500.0));
        assert!((said("812.0 µs").expect("a time") - 0.812).abs() < 1e-9);
        assert_eq!(said("soon"), None);
    }
}
