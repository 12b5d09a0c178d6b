//! Reads the whole [`NetworkState`] once.
//!
//! A few namespaces at a time, and no socket outlives the reading of its namespace.

use std::io;

use futures_util::stream::{self, StreamExt as _};

use super::discover::{self, Found, Scan, Skipped};
use super::error::Error;
use super::inspect::wire::Netlink;
use super::state::{Netns, NetworkState, Sysctls};
use super::{links, nsid, setns, settings};

/// Namespaces that are read at once: each waits for a thread that enters it, and for the kernel.
const SIDE_BY_SIDE: usize = 16;

/// Reads every network namespace of the node. Namespaces that cannot be read, or that go away
/// meanwhile, are left out; the former are reported.
///
/// # Errors
///
/// Only when no namespace can be read at all, for the reason that the own one gave.
pub async fn take() -> Result<(NetworkState, Vec<Skipped>), Error> {
    let Scan { own, found, mut skipped } = blocking(discover::scan).await?;
    let mut state = NetworkState { own, ..NetworkState::default() };
    let reads = found.values().map(|found| async move { (found, read(found).await) });
    let mut reads = stream::iter(reads).buffer_unordered(SIDE_BY_SIDE);
    while let Some((found, outcome)) = reads.next().await {
        match outcome {
            Ok(netns) => _ = state.netns.insert(netns.inum, netns),
            Err(error) if error.is_vanished() => {}
            Err(error) if found.inum == own => return Err(error),
            Err(error) => skipped.push(Skipped {
                what: format!("network namespace {}", found.name),
                why: error.to_string(),
            }),
        }
    }
    drop(reads);
    skipped.sort_by(|a, b| a.what.cmp(&b.what));
    let state = blocking(move || {
        nsid::resolve_all(&mut state);
        Ok(state)
    })
    .await?;
    Ok((state, skipped))
}

/// Reads one namespace. Peers in other namespaces are left open; see [`nsid`].
pub(super) async fn read(found: &Found) -> Result<Netns, Error> {
    let inum = found.inum;
    // The socket is closed before the thread leaves the namespace.
    let here = move || {
        let mut netlink = Netlink::open(libc::NETLINK_ROUTE)?;
        let devices = links::dump(&mut netlink, inum);
        Ok((devices, settings::read(&mut netlink)))
    };
    let (devices, sysctls) = inside(found, here).await?;
    let mut netns = Netns {
        inum,
        name: found.name.clone(),
        path: found.path.clone(),
        devices: devices.map_err(Error::io("reading the devices of", found.name.clone()))?,
        ..Netns::default()
    };
    netns.set_sysctls(sysctls);
    Ok(netns)
}

/// The settings of one namespace.
pub(super) async fn sysctls(found: &Found) -> Result<Sysctls, Error> {
    inside(found, || Ok(settings::read(&mut Netlink::open(libc::NETLINK_ROUTE)?))).await
}

/// Runs `work` inside a namespace, off the runtime's thread.
pub(super) async fn inside<T: Send + 'static>(
    found: &Found,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let (path, inum) = (found.path.clone(), found.inum);
    let error = Error::io("entering network namespace", found.name.clone());
    blocking(move || setns::run_in_inum(&path, inum, work).map_err(error)).await
}

/// Runs `work` on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::io("running", "a scratch thread")(io::Error::other(error)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::DeviceKind;

    #[tokio::test]
    async fn the_own_namespace_needs_no_privileges() {
        let (state, _) = take().await.unwrap();
        let own = &state.netns[&state.own];
        assert_eq!(own.devices[&1].name, "lo");
        assert_eq!(own.devices[&1].kind, DeviceKind::Loopback);
    }
}
