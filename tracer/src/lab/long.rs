//! Long links: pairs of tun devices, and the two ends of each held open. Who holds them carries
//! packets from one to the other (`super::serve`).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::topology::{LinkKind, Topology};
use super::{Error, Prefix, sys};
use crate::net::setns;

/// Packets that wait to be read: as many as a window holds, since whoever reads them may have to wait
/// for a processor.
const QUEUE: i32 = 10_000;

/// Both ends of a link, open.
#[derive(Debug)]
pub(crate) struct Long {
    pub(crate) ends: [OwnedFd; 2],
    pub(crate) delay: Duration,
}

/// Opens the long links of a lab, and makes those that are not there yet. They stay when they are
/// closed, and do not carry then.
pub(crate) fn open_all(prefix: &Prefix, topology: &Topology) -> Result<Vec<Long>, Error> {
    let long = topology.links.iter().filter_map(|link| match link.kind {
        LinkKind::Long { peer_host, peer_dev, delay } => {
            Some(([(link.host, link.dev), (peer_host, peer_dev)], delay))
        }
        _ => None,
    });
    long.map(|([a, b], delay)| Ok(Long { ends: [open(prefix, a)?, open(prefix, b)?], delay }))
        .collect()
}

fn open(prefix: &Prefix, (host, dev): (&str, &str)) -> Result<OwnedFd, Error> {
    let opened = setns::run_in_path(&prefix.netns_path(host), || {
        let tun = File::options().read(true).write(true).open("/dev/net/tun")?;
        sys::attach_tun(&tun, dev)?;
        sys::set_queue(dev, QUEUE)?;
        sys::set_nonblocking(&tun)?;
        io::Result::Ok(tun.into())
    });
    opened.map_err(Error::netns(prefix.netns(host), format!("open tun device {dev}")))
}
