//! One netlink socket per namespace that hears of its devices, addresses and settings.
//!
//! The socket keeps the namespace in existence: it is closed by [`Listener::close`], at once.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll};

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket};
use tokio::runtime;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

use crate::net::discover::Found;
use crate::net::error::Error;
use crate::net::state::{Device, Inum};
use crate::net::{links, snapshot};

const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];
/// They only say that something has changed: tables may be large, and are read when needed.
const ROUTING: [u16; 4] =
    [libc::RTM_NEWROUTE, libc::RTM_DELROUTE, libc::RTM_NEWRULE, libc::RTM_DELRULE];
/// `RTM_NEWNETCONF` and `RTM_DELNETCONF`, which the netlink crates do not know.
const NETCONF: [u16; 2] = [80, 81];
/// More than any notification (the kernel allocates them by `NLMSG_GOODSIZE`, a page).
const DATAGRAM: usize = 32 * 1024;

/// What a namespace's socket has heard.
#[derive(Debug)]
pub(super) struct Heard {
    /// The namespace.
    pub(super) inum: Inum,
    /// Of the listener, so that the last words of a closed one can be told.
    pub(super) serial: u64,
    /// What it was.
    pub(super) event: Event,
}

/// A notification.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "few wait at a time, and most are links")]
pub(super) enum Event {
    /// A device is there, or has changed. Its addresses are not in it.
    Link(Device),
    /// A device is gone.
    LinkGone(u32),
    /// A device has an address.
    Address(u32, (IpAddr, u8)),
    /// A device has an address no longer.
    AddressGone(u32, (IpAddr, u8)),
    /// A setting has changed.
    Settings,
    /// A route or a policy routing rule has changed.
    Routing,
    /// Notifications were lost.
    Lost,
}

/// Listens to a namespace until it is closed or dropped.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) serial: u64,
    task: JoinHandle<()>,
}

impl Listener {
    /// Opens the socket and starts to listen: all that happens from here on is heard.
    pub(super) async fn open(
        found: &Found,
        serial: u64,
        heard: UnboundedSender<Heard>,
    ) -> Result<Self, Error> {
        let runtime = runtime::Handle::current();
        let socket = snapshot::inside(found, move || subscribe(&runtime)).await?;
        let task = tokio::spawn(listen(socket, found.inum, serial, heard));
        Ok(Self { serial, task })
    }

    /// Has the socket closed, at some time.
    pub(super) fn abort(&self) {
        self.task.abort();
    }

    /// Closes the socket; it is closed on return.
    pub(super) async fn close(mut self) {
        self.abort();
        // An error says that it was aborted, which is the wish.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.abort();
    }
}

fn subscribe(runtime: &runtime::Handle) -> io::Result<TokioSocket> {
    let _inside_runtime = runtime.enter();
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    for group in GROUPS {
        socket.socket_mut().add_membership(group as u32)?;
    }
    Ok(socket)
}

async fn listen(socket: TokioSocket, inum: Inum, serial: u64, heard: UnboundedSender<Heard>) {
    loop {
        let events = match poll_fn(|context| receive(&socket, inum, context)).await {
            Ok(events) => events,
            Err(error) => return log::warn!("listening to net:[{inum}]: {error}"),
        };
        for event in events {
            if heard.send(Heard { inum, serial, event }).is_err() {
                return;
            }
        }
    }
}

/// Reads one datagram. The buffer lives only here, not once per namespace.
///
/// When more came than the socket holds, all that it still holds is dropped first: it is older
/// than what is then read anew, and what would correct it was lost.
fn receive(
    socket: &TokioSocket,
    inum: Inum,
    context: &mut Context<'_>,
) -> Poll<io::Result<Vec<Event>>> {
    let mut buffer = [0; DATAGRAM];
    let mut has_lost = false;
    loop {
        let mut free = &mut buffer[..];
        match socket.poll_recv(context, &mut free) {
            Poll::Ready(Ok(())) if has_lost => {}
            Poll::Ready(Ok(())) => {
                let length = DATAGRAM - free.len();
                return Poll::Ready(Ok(events(inum, &buffer[..length])));
            }
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                has_lost = true;
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending if has_lost => return Poll::Ready(Ok(vec![Event::Lost])),
            Poll::Pending => return Poll::Pending,
        }
    }
}

fn events(inum: Inum, mut datagram: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while !datagram.is_empty() {
        let Ok(message) = NetlinkBuffer::new_checked(datagram) else {
            events.push(Event::Lost); // cut short
            break;
        };
        let length = message.length() as usize;
        if NETCONF.contains(&message.message_type()) {
            if is_of_all(&datagram[..length]) {
                events.push(Event::Settings);
            }
        } else if ROUTING.contains(&message.message_type()) {
            if !matches!(events.last(), Some(Event::Routing)) {
                events.push(Event::Routing);
            }
        } else {
            events.extend(event(inum, &datagram[..length]));
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    events
}

/// Whether a netconf message is about `net.ipv*.conf.all`: its first attribute, behind both
/// headers, is `NETCONFA_IFINDEX` (1) with the value −1.
fn is_of_all(message: &[u8]) -> bool {
    let [length, kind] = [8_u16, 1].map(u16::to_ne_bytes);
    message.get(20..28).is_some_and(|attribute| {
        attribute == [length.as_slice(), &kind, &(-1_i32).to_ne_bytes()].concat()
    })
}

fn event(inum: Inum, bytes: &[u8]) -> Option<Event> {
    let message = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
        Ok(message) => message,
        Err(error) => {
            log::debug!("a notification of net:[{inum}] makes no sense: {error}");
            return None;
        }
    };
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    match message {
        RouteNetlinkMessage::NewLink(link) => links::device(inum, &link).map(Event::Link),
        RouteNetlinkMessage::DelLink(link) => {
            links::device(inum, &link).map(|device| Event::LinkGone(device.ifindex))
        }
        RouteNetlinkMessage::NewAddress(address) => {
            links::address(&address).map(|(ifindex, address)| Event::Address(ifindex, address))
        }
        RouteNetlinkMessage::DelAddress(address) => {
            links::address(&address).map(|(ifindex, address)| Event::AddressGone(ifindex, address))
        }
        _ => None,
    }
}
