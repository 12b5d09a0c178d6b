//! How long `pkttrace topology` takes on a crowded node: many namespaces, and in one of them the
//! rules of many Services.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use super::crowd::{Crowd, feed};
use crate::{process, sh};

const NAMESPACES: usize = 500;
const SERVICES: usize = 5_000;
const ROUNDS: usize = 5;

/// The time that each drawing took.
#[derive(Debug, Clone)]
pub(super) struct Drawing {
    pub(super) namespaces: usize,
    pub(super) services: usize,
    pub(super) seconds: Vec<f64>,
}

/// Makes the namespaces, draws, removes them.
pub(super) fn measure(binary: &Path) -> Result<Drawing> {
    sh::step(format!("topology: {NAMESPACES} namespaces, {SERVICES} Services"));
    let crowd = Crowd::make(NAMESPACES)?;
    feed(
        Command::new("ip").args(["netns", "exec", &crowd.name(0), "iptables-nft-restore", "-w"]),
        &services(),
    )?;
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS {
        process::check()?;
        let started = Instant::now();
        let map = sh::output(Command::new(binary).args(["topology", "-o", "json"]))?;
        seconds.push(started.elapsed().as_secs_f64());
        let last = format!("\"{}\"", crowd.name(NAMESPACES - 1));
        if !map.contains(&last) {
            bail!("the map lacks the namespace {last}");
        }
    }
    Ok(Drawing { namespaces: NAMESPACES, services: SERVICES, seconds })
}

/// As kube-proxy writes them.
fn services() -> String {
    let mut text = "*nat\n:KUBE-SERVICES - [0:0]\n".to_owned();
    for n in 0..SERVICES {
        let _ = writeln!(text, ":KUBE-SVC-{n} - [0:0]\n:KUBE-SEP-{n} - [0:0]");
    }
    for n in 0..SERVICES {
        let _ = writeln!(
            text,
            "-A KUBE-SERVICES -d 10.97.{}.{}/32 -p tcp -m comment --comment \"many/s{n} cluster \
             IP\" -m tcp --dport 80 -j KUBE-SVC-{n}\n\
             -A KUBE-SVC-{n} -j KUBE-SEP-{n}\n\
             -A KUBE-SEP-{n} -p tcp -m tcp -j DNAT --to-destination 10.244.1.3:8080",
            n / 250,
            n % 250 + 1
        );
    }
    text + "COMMIT\n"
}
