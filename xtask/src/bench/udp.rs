//! UDP as fast as the path takes it, counted where it arrives.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::loads::RARE_PORT;
use super::net::{Path, RECEIVER};
use super::report::Sample;
use crate::process;

/// Packets per system call. One more comes from [`RARE_PORT`] each time: one in a hundred.
const BATCH: usize = 99;
const PAYLOAD: [u8; 64] = [0x5a; 64];

/// Sends for `time` and counts what is delivered.
///
/// # Errors
///
/// When a socket fails, nothing arrives, or a signal comes.
pub(super) fn run(path: &Path, time: Duration) -> Result<Sample> {
    process::check()?;
    let (stop, listening) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let receiver = path.spawn(scope, "d", || receive(&stop, &listening))?;
        let measured = || -> Result<(u64, f64)> {
            process::wait_for("the receiver's socket", Duration::from_secs(5), || {
                Ok(listening.load(Ordering::Acquire) || receiver.is_finished())
            })?;
            let sender = path.spawn(scope, "s", || send(time))?;
            joined(sender.join()).context("the sender")
        };
        let sent = measured();
        // The receiver ends whether or not the sender could start.
        stop.store(true, Ordering::Release);
        let delivered = joined(receiver.join()).context("the receiver")?;
        let (sent, seconds) = sent?;
        process::check()?;
        if delivered == 0 {
            bail!("of {sent} packets none arrived");
        }
        let (sent_per_s, delivered_per_s) = (rate(sent, seconds), rate(delivered, seconds));
        Ok(Sample { sent_per_s, delivered_per_s, usage: None })
    })
}

fn joined<T>(result: thread::Result<io::Result<T>>) -> Result<T> {
    Ok(result.map_err(|_| anyhow!("its thread panicked"))??)
}

#[expect(clippy::cast_precision_loss, reason = "packet counts are far below 2^52")]
fn rate(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

/// Sends until the time is over or a signal comes; returns the count and the seconds it took.
fn send(time: Duration) -> io::Result<(u64, f64)> {
    pin(0);
    let [socket, rare] = [0, RARE_PORT].map(|port| UdpSocket::bind(("0.0.0.0", port)));
    let (socket, rare) = (socket?, rare?);
    socket.connect(RECEIVER)?;
    rare.connect(RECEIVER)?;
    let mut batch = Batch::new(PAYLOAD.to_vec());
    let started = Instant::now();
    let mut sent = 0;
    while started.elapsed() < time && process::check().is_ok() {
        let flags = 0;
        // SAFETY: the headers and what they point to live in `batch`, which outlives the call.
        let n = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), batch.headers.as_mut_ptr(), BATCH_LEN, flags)
        };
        match u64::try_from(n) {
            Ok(n) => sent += n,
            Err(_) => passing(io::Error::last_os_error())?,
        }
        match rare.send(&PAYLOAD) {
            Ok(_) => sent += 1,
            Err(e) => passing(e)?,
        }
    }
    Ok((sent, started.elapsed().as_secs_f64()))
}

/// Counts until it is told to stop and the socket is empty.
fn receive(stop: &AtomicBool, listening: &AtomicBool) -> io::Result<u64> {
    pin(1);
    let socket = UdpSocket::bind(RECEIVER)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let room: libc::c_int = 64 << 20;
    // SAFETY: the option's value is one int that lives through the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const room).cast(),
            size_of_val(&room) as libc::socklen_t,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    listening.store(true, Ordering::Release);
    // One byte of each: the rest is cut off, for only the count is wanted.
    let mut batch = Batch::new(vec![0; 1]);
    let mut count = 0;
    loop {
        let stopping = stop.load(Ordering::Acquire);
        // SAFETY: as in `send`; no timeout is passed, the socket has its own.
        let n = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                batch.headers.as_mut_ptr(),
                BATCH_LEN,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        match u64::try_from(n) {
            Ok(n) => count += n,
            Err(_) if stopping => return Ok(count),
            Err(_) => passing(io::Error::last_os_error())?,
        }
    }
}

const BATCH_LEN: libc::c_uint = BATCH as libc::c_uint;

/// Headers for `BATCH` packets that share one buffer.
struct Batch {
    headers: Vec<libc::mmsghdr>,
    /// What `headers` point to; boxed, so that it stays where it is.
    _io: Box<libc::iovec>,
    _buffer: Vec<u8>,
}

impl Batch {
    fn new(mut buffer: Vec<u8>) -> Self {
        let mut io =
            Box::new(libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() });
        // SAFETY: zero bytes are an empty header: null pointers and zero lengths.
        let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        header.msg_hdr.msg_iov = &raw mut *io;
        header.msg_hdr.msg_iovlen = 1;
        Self { headers: vec![header; BATCH], _io: io, _buffer: buffer }
    }
}

/// Errors that a busy path gives and that mean "again".
fn passing(error: io::Error) -> io::Result<()> {
    use io::ErrorKind::{ConnectionRefused, Interrupted, TimedOut, WouldBlock};

    let again = matches!(error.kind(), ConnectionRefused | Interrupted | TimedOut | WouldBlock);
    if again || error.raw_os_error() == Some(libc::ENOBUFS) { Ok(()) } else { Err(error) }
}

/// Sender (with the softirq work of the whole path) and receiver each on a processor of their own.
fn pin(cpu: usize) {
    if cpu >= thread::available_parallelism().map_or(1, usize::from) {
        return;
    }
    // SAFETY: a zeroed set is empty; the calls read and write that set only.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        // Where it is not allowed, the scheduler places the thread.
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}
