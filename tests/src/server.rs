//! Servers of a test's own inside of a [`Site`]'s hosts, each in a thread that ends with the test.

use std::fs::File;
use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;

use crate::Site;
use crate::lab::inside;

/// Whoever connects at `port` of `host` is greeted and left alone, until the test ends.
///
/// # Panics
///
/// If the port cannot be had.
pub fn greeter(site: &Site, host: &str, port: u16) {
    let bind = || TcpListener::bind(("::", port));
    greet(inside(&site.netns(host), bind).expect("a listener"));
}

/// The same, of a socket that is bound to a device.
///
/// # Panics
///
/// If the port cannot be had, or there is no such device.
pub fn greeter_by(site: &Site, host: &str, dev: &str, port: u16) {
    let bind = || {
        let listener = TcpListener::bind(("0.0.0.0", port)).expect("a listener");
        let (value, length) = (dev.as_ptr().cast(), dev.len() as libc::socklen_t);
        let fd = listener.as_raw_fd();
        // SAFETY: the name outlives the call, and its length is given.
        let rc =
            unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, value, length) };
        assert_eq!(rc, 0, "setsockopt: {}", std::io::Error::last_os_error());
        listener
    };
    greet(inside(&site.netns(host), bind));
}

fn greet(listener: TcpListener) {
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else { return };
            let _ = client.write_all(b"220 ready\r\n");
        }
    });
}

/// A name server for A records: `answer` says what a name has, 24 addresses do not fit a datagram.
///
/// # Panics
///
/// If port 53 cannot be had.
pub fn name_server(site: &Site, host: &str, answer: fn(&str) -> &'static [[u8; 4]]) {
    name_server_at(site, host, ("0.0.0.0", 53), answer);
}

/// The same at an address and port of its own.
///
/// # Panics
///
/// If those cannot be had.
pub fn name_server_at(
    site: &Site,
    host: &str,
    at: (&str, u16),
    answer: fn(&str) -> &'static [[u8; 4]],
) {
    let socket = inside(&site.netns(host), || UdpSocket::bind(at)).expect("a socket");
    std::thread::spawn(move || {
        let mut question = [0; 512];
        // What is kept from leaving is asked again.
        while let Ok((n, from)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(&reply(&question[..n], answer), from);
        }
    });
}

fn reply(question: &[u8], answer: fn(&str) -> &'static [[u8; 4]]) -> Vec<u8> {
    let (mut labels, mut at) = (Vec::new(), 12);
    while question[at] > 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..end]).into_owned());
        at = end;
    }
    let found = answer(&labels.join("."));
    let is_cut = found.len() > 20;
    let (flags, code) = (if is_cut { 0x87 } else { 0x85 }, if found.is_empty() { 3 } else { 0 });
    let count = if is_cut { 0 } else { found.len() as u8 };
    let mut reply = question[..2].to_vec();
    reply.extend_from_slice(&[flags, code, 0, 1, 0, count, 0, 0, 0, 0]);
    reply.extend_from_slice(&question[12..at + 5]);
    for address in found.iter().take(usize::from(count)) {
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend_from_slice(address);
    }
    reply
}

/// A tun device of a host, up, as a VPN client has it: what goes there is never answered, and it is
/// gone when the file is closed.
///
/// # Panics
///
/// If it cannot be made.
#[must_use]
pub fn tun(site: &Site, host: &str, dev: &str) -> File {
    let make = || -> std::io::Result<File> {
        let file = File::options().read(true).write(true).open("/dev/net/tun")?;
        // SAFETY: `ifreq` is a plain structure for which zeroes are valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(dev.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: a whole ifreq that outlives the call.
        match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } {
            0 => Ok(file),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let file = inside(&site.netns(host), make).expect("a tun device");
    site.exec(host, &format!("ip link set {dev} up"));
    file
}
