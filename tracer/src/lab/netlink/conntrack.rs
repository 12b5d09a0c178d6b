//! Forgetting tracked connections, as `conntrack -F` does.

use std::io;

use netlink_sys::{Socket, SocketAddr};

const NETLINK_NETFILTER: isize = 12;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`: without a tuple it means all entries.
const DELETE: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const FLAGS: u16 = 1 | 4;
const HEADER_LEN: usize = 16;
/// `nfgenmsg`: any family, version 0, no resource.
const BODY_LEN: usize = 4;
/// `NLMSG_ERROR`, which also acknowledges.
const ERROR: u16 = 2;

/// Forgets the connections of the namespace that the calling thread is in.
pub(crate) fn forget_connections() -> io::Result<()> {
    let mut request = [0; HEADER_LEN + BODY_LEN];
    request[..4].copy_from_slice(&20_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&DELETE.to_ne_bytes());
    request[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let is_error = answer.get(4..6) == Some(&ERROR.to_ne_bytes());
    let code = answer.get(HEADER_LEN..HEADER_LEN + 4).and_then(|b| b.try_into().ok());
    match code.map(i32::from_ne_bytes).filter(|_| is_error) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("the kernel's answer is no acknowledgement")),
    }
}
