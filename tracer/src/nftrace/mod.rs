//! Which firewall rules a packet met, exactly: nftables' own tracing (`meta nftrace`), which sees
//! the rules of iptables-nft too.
//!
//! Tracing ends where a packet leaves its namespace, so every namespace has a [`Tracer`] of its
//! own: a netlink socket that owns the table that switches it on and receives what it tells.

mod attribute;
mod lives;
mod passages;
mod select;
mod step;
mod table;
mod wanted;
mod wire;

use std::collections::BTreeSet;
use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

pub use attribute::Attribution;
pub use lives::{Life, Lives};
pub use step::{Step, Verdict, What};
pub use wanted::{End, Wanted};

use crate::net::{Netns, setns};
use select::Selection;
use table::Table;

/// `NFNLGRP_NFTABLES`
const GROUP_RULES: u32 = 7;
/// `NFNLGRP_NFTRACE`
const GROUP_TRACE: u32 = 9;
/// Bytes that may wait to be read: a packet through Kubernetes' rules takes some 10 KB.
const BUFFER: usize = 64 << 20;
/// What the names of tracing tables begin with, the process's number follows.
pub(crate) const TABLE_PREFIX: &str = "pkttrace_";
/// `NFPROTO_BRIDGE`
const BRIDGE_FAMILY: u8 = 7;
/// The largest datagram: the kernel fills at most this for a notification.
const DATAGRAM: usize = 64 << 10;

/// nftables' tracing in one namespace, for as long as this lives.
#[derive(Debug)]
pub struct Tracer {
    socket: Socket,
    buffer: Vec<u8>,
    /// The name of its table, by which its own steps are told.
    pub table: String,
    /// Bridged frames are traced too.
    pub has_bridge: bool,
    /// What its rules ask for, and whether they ask once more behind translations.
    asks: (Wanted, bool),
}

/// What nftables tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A packet has met something.
    Step(Step),
    /// The table of this family (`NFPROTO_*`) and name is gone.
    TableGone(u8, String),
}

/// What [`Tracer::drain`] met beside steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// The kernel had more to tell than was read in time: some steps are missing.
    pub overran: bool,
    /// The rules have changed.
    pub changed: bool,
    /// The kernel has refused what [`Tracer::follow`] sent.
    pub refused: bool,
}

impl Tracer {
    /// Switches tracing of what is `wanted` on in `netns`, for bridged frames too when there are rules for them. `None`
    /// when there are no rules at all.
    ///
    /// # Errors
    ///
    /// `EINVAL` or `EOPNOTSUPP` before 5.12, where no table can be made to vanish with its
    /// process; `EPERM` without `CAP_NET_ADMIN`; that of entering the namespace.
    pub fn start(netns: &Netns, wanted: &Wanted) -> io::Result<Option<Self>> {
        let socket = open(netns)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let families = families(&socket)?;
        if families.is_empty() {
            return Ok(None);
        }
        enlarge(&socket);
        let table = format!("{TABLE_PREFIX}{}", std::process::id());
        let has_bridge = families.contains(&BRIDGE_FAMILY);
        for family in table_families(has_bridge) {
            let selection = Selection::of(wanted, family == table::BRIDGE);
            socket.send(Table { name: &table, family }.make(&selection, false).bytes(), 0)?;
            acknowledged(&socket)?;
        }
        // Only now: making the table is a change of the rules as well.
        socket.add_membership(GROUP_TRACE)?;
        socket.add_membership(GROUP_RULES)?;
        socket.set_non_blocking(true)?;
        let (buffer, asks) = (Vec::with_capacity(DATAGRAM), (wanted.clone(), false));
        Ok(Some(Self { socket, buffer, table, has_bridge, asks }))
    }

    /// Has it trace something else from now on; `has_nat` says that the namespace translates
    /// addresses. Whether the kernel refuses is told by [`Self::drain`].
    ///
    /// # Errors
    ///
    /// That of sending.
    pub fn follow(&mut self, wanted: &Wanted, has_nat: bool) -> io::Result<()> {
        let is_behind = wanted.behind && has_nat;
        if self.asks.0 == *wanted && self.asks.1 == is_behind {
            return Ok(());
        }
        for family in table_families(self.has_bridge) {
            let selection = Selection::of(wanted, family == table::BRIDGE);
            let table = Table { name: &self.table, family };
            self.socket.send(table.replace(&selection, is_behind).bytes(), 0)?;
        }
        self.asks = (wanted.clone(), is_behind);
        Ok(())
    }

    /// Hands what waits to be read to `take`, in the order in which it happened.
    pub fn drain(&mut self, mut take: impl FnMut(Told)) -> Drained {
        let mut drained = Drained::default();
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    // A change of the rules may be among it.
                    (drained.overran, drained.changed) = (true, true);
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
            for message in wire::messages(&self.buffer) {
                if let Some(step) = Step::parse(&message) {
                    take(Told::Step(step));
                    continue;
                }
                drained.refused |= message.error().is_some_and(|code| code != 0);
                drained.changed |= table::is_change(&message);
                if let Some(name) = table::deleted(&message) {
                    take(Told::TableGone(message.family, name));
                }
            }
        }
        drained
    }
}

/// Waits for the first rules of a namespace.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Watch {
    /// Listens for changes of the rules from now on.
    ///
    /// # Errors
    ///
    /// That of entering the namespace, or the kernel's.
    pub fn start(netns: &Netns) -> io::Result<Self> {
        let socket = open(netns)?;
        socket.add_membership(GROUP_RULES)?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Whether rules have changed since this was asked last.
    pub fn has_news(&mut self) -> bool {
        let mut has_news = false;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => has_news = true,
                // There was more than there was room for.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => has_news = true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return has_news,
            }
        }
    }
}

/// The families that get a table.
fn table_families(has_bridge: bool) -> impl Iterator<Item = i32> {
    [Some(table::INET), has_bridge.then_some(table::BRIDGE)].into_iter().flatten()
}

/// A socket in the namespace.
fn open(netns: &Netns) -> io::Result<Socket> {
    setns::run_in_inum(&netns.path, netns.inum, || {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        Ok(socket)
    })
}

/// The families of the namespace's tables, but for tables of other tracers.
fn families(socket: &Socket) -> io::Result<BTreeSet<u8>> {
    socket.send(table::list().bytes(), 0)?;
    let mut families = BTreeSet::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for message in wire::messages(&bytes) {
            if i32::from(message.kind) == libc::NLMSG_DONE {
                return Ok(families);
            }
            if let Some(code) = message.error() {
                return Err(io::Error::from_raw_os_error(-code));
            }
            let is_ours = message.attributes().any(|(kind, value)| {
                kind == table::NAME && wire::text(value).starts_with(TABLE_PREFIX)
            });
            if !is_ours {
                families.insert(message.family);
            }
        }
    }
}

/// Reads up to the acknowledgement of a batch, or to the first error.
fn acknowledged(socket: &Socket) -> io::Result<()> {
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for message in wire::messages(&bytes) {
            match message.error() {
                Some(0) => return Ok(()),
                Some(code) => return Err(io::Error::from_raw_os_error(-code)),
                None => {}
            }
        }
    }
}

/// Beyond the system's limit where that is allowed; more is lost sooner otherwise.
fn enlarge(socket: &Socket) {
    use std::os::fd::AsRawFd as _;
    let size = libc::c_int::try_from(BUFFER).unwrap_or(libc::c_int::MAX);
    for option in [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF] {
        // SAFETY: reads one integer of the length given.
        let rc = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const size).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if rc == 0 {
            return;
        }
    }
}

/// The ways in for `crate::fuzz`: what nftables tells.
#[cfg(test)]
pub(crate) mod fuzz {
    use super::{End, Step, Wanted, select::Selection, table, wire};

    /// How many messages there are, and steps among them.
    pub(crate) fn messages(input: &[u8]) -> usize {
        let about = |message: wire::Message<'_>| {
            let is_step = Step::parse(&message).is_some();
            1 + usize::from(is_step || table::is_change(&message) || message.error().is_some())
        };
        wire::messages(input).map(about).sum()
    }

    /// The attributes of the table that a tracer makes, and of all that is in it.
    pub(crate) fn objects() -> Vec<Vec<u8>> {
        let end = |addr: [u8; 4]| End {
            network: Some((addr.into(), 24)),
            port: Some(80),
            also: [std::net::IpAddr::from(addr)].into(),
            ..End::default()
        };
        let pairs = vec![(End::default(), end([10, 0, 0, 1]))];
        let wanted = Wanted { pairs, vxlan: vec![4789, 8472], ..Wanted::everything() };
        let table = table::Table { name: "pkttrace_1", family: table::INET };
        let made = table.make(&Selection::of(&wanted, false), true);
        let mut objects: Vec<Vec<u8>> = Vec::new();
        // Batches have no attributes, and the table itself but a name.
        for message in wire::messages(made.bytes()).filter(|m| m.body.len() > 4).skip(1) {
            let attributes = &message.body[4..];
            match objects.last_mut() {
                // A set and its elements are one.
                Some(set) if table::is_elements(&message) => set.extend(attributes),
                _ => objects.push(attributes.to_vec()),
            }
        }
        objects
    }

    pub(crate) fn samples() -> Vec<Vec<u8>> {
        let (name, family) = ("pkttrace_1", table::INET);
        let table = table::Table { name, family };
        let mut steps = wire::Batch::default();
        steps.message(0x0a11, 0, family, 0, |a| {
            a.text(1, "filter");
            a.text(2, "FORWARD");
            a.bytes(3, &7_u64.to_be_bytes());
            a.number(4, 3);
            a.nest(5, |a| a.number(1, 1));
            a.number(6, 9);
            a.bytes(8, &[0x45, 0, 0, 28, 0, 2, 0, 0, 64, 1, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2]);
            a.bytes(9, &[8, 0, 0, 0, 0, 7, 0, 1]);
        });
        let made = table.make(&Selection::of(&Wanted::everything(), false), true);
        vec![made.bytes().to_vec(), steps.bytes().to_vec()]
    }
}
