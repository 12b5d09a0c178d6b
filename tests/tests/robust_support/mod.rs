//! What the robustness tests share: a tracer that can be ended in every way, a flood of
//! datagrams each with a number of its own, and waiting on conditions.

#![allow(dead_code, reason = "every test binary uses a part of it")]

pub mod objects;

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::ops::Deref;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pkttrace_tests::{Lab, binary};
use serde_json::Value;

/// How long a loaded machine may take for what takes moments.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until `holds`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs `job` on a thread inside the namespace called `netns`.
pub fn in_netns<T: Send + 'static>(
    netns: &str,
    job: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let path = Path::new("/run/netns").join(netns);
    thread::spawn(move || {
        let file = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        // SAFETY: moves only this thread.
        let rc = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(rc, 0, "setns {}: {}", path.display(), io::Error::last_os_error());
        job()
    })
}

/// A namespace with a name of its own; deleted when dropped.
#[derive(Debug)]
pub struct Namespace(pub String);

impl Namespace {
    pub fn add(name: String) -> Self {
        ip(&["netns", "add", &name]);
        Self(name)
    }

    pub fn ip(&self, args: &[&str]) {
        ip(&[&["-n", &self.0], args].concat());
    }

    pub fn delete(self) {}
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// `ip` with these arguments, which must work.
#[track_caller]
pub fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("ip starts");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A cluster with one more Service, whose address no other lab has: a tracer sees the whole kernel.
#[derive(Debug)]
pub struct Cluster {
    pub lab: Lab,
    /// Address of the Service.
    pub service: Ipv4Addr,
}

impl Deref for Cluster {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Cluster {
    /// Brings it up: node 1 translates UDP port 9001 and TCP port 80 of the Service to pod p3 on
    /// node 2.
    pub fn up() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let pid = std::process::id();
        let (high, low) = ((pid >> 8) as u8, pid as u8);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let service = Ipv4Addr::new(10, 128 | (high & 0x3f), low, n);
        let lab = Lab::cluster();
        for (proto, from, to) in [("udp", 9001, 9001), ("tcp", 80, 8080)] {
            lab.exec(
                "n1",
                &format!(
                    "iptables-nft -w -t nat -I KUBE-SERVICES -d {service}/32 -p {proto} \
                     --dport {from} -j DNAT --to-destination 10.244.2.2:{to}"
                ),
            );
        }
        lab.ping("p1", "10.244.2.2");
        Self { lab, service }
    }

    /// Options that follow the datagrams to the Service, and more.
    pub fn arguments(&self, more: &[&str]) -> Vec<String> {
        let service = self.service.to_string();
        let filter = ["--proto", "udp", "--dport", "9001", "--no-replies", "--warm", "--dst"];
        let filter = [&filter[..], &[&service]].concat();
        filter.iter().chain(more).map(|word| (*word).to_owned()).collect()
    }

    /// A tracer of the datagrams to the Service.
    pub fn trace(&self, more: &[&str]) -> Tracer {
        let arguments = self.arguments(more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Tracer::start(self.scratch(), &arguments)
    }

    /// Sends a flood from p1; the handle gives how many datagrams were sent.
    pub fn flood(&self, flood: Flood) -> JoinHandle<u64> {
        flood.start(&self.netns("p1"), self.service)
    }
}

/// What a flood sends.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// How many datagrams.
    pub count: u32,
    /// The first one's number, which is the first eight bytes of its payload.
    pub first: u64,
    /// Payload bytes of datagram `n`: 16 and up to this many more, by its number.
    pub spread: u32,
    /// All with the same bytes and without an IP identification: nothing tells them apart.
    pub alike: bool,
    /// Pause after each batch of 64.
    pub pause: Duration,
}

impl Flood {
    pub fn new(count: u32) -> Self {
        Self { count, first: 0xfeed_0000_0000_0000, spread: 0, alike: false, pause: Duration::ZERO }
    }

    /// Payload length of the datagram with this number.
    pub fn len(&self, id: u64) -> u32 {
        let n = u32::try_from(id - self.first).expect("a number of this flood");
        16 + if self.spread == 0 { 0 } else { n % self.spread }
    }

    /// Sends to a Service from `netns`; the handle gives how many were sent.
    pub fn start(self, netns: &str, service: Ipv4Addr) -> JoinHandle<u64> {
        let to = SocketAddrV4::new(service, 9001);
        in_netns(netns, move || self.send(to).expect("sending"))
    }

    fn send(self, to: SocketAddrV4) -> io::Result<u64> {
        const BATCH: u32 = 64;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        if self.alike {
            let (level, name) = (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER);
            set_option(&socket, level, name, libc::IP_PMTUDISC_DO)?;
        } else {
            socket.connect(SocketAddr::V4(to))?;
        }
        set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 8 << 20)?;
        let target = sockaddr(to);
        let mut sent = 0;
        let mut next = 0;
        while next < self.count {
            let end = (next + BATCH).min(self.count);
            let mut payloads: Vec<Vec<u8>> =
                (next..end).map(|n| self.payload(self.first + u64::from(n))).collect();
            sent += send_batch(&socket, &mut payloads, self.alike.then_some(&target));
            next = end;
            if !self.pause.is_zero() {
                thread::sleep(self.pause);
            }
        }
        Ok(sent)
    }

    fn payload(&self, id: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.len(id) as usize];
        let id = if self.alike { self.first } else { id };
        bytes[..8].copy_from_slice(&id.to_be_bytes());
        bytes
    }
}

/// How many of the datagrams the kernel took.
fn send_batch(socket: &UdpSocket, payloads: &mut [Vec<u8>], to: Option<&libc::sockaddr_in>) -> u64 {
    let mut vectors: Vec<libc::iovec> = payloads
        .iter_mut()
        .map(|p| libc::iovec { iov_base: p.as_mut_ptr().cast(), iov_len: p.len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = vectors
        .iter_mut()
        .map(|vector| {
            // SAFETY: all zeroes is an empty message.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            if let Some(to) = to {
                message.msg_hdr.msg_name = std::ptr::from_ref(to).cast_mut().cast();
                message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
            }
            message
        })
        .collect();
    let (mut done, mut sent) = (0, 0);
    while done < messages.len() {
        let rest = &mut messages[done..];
        // SAFETY: every message points to a buffer that outlives the call.
        let rc =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
        match usize::try_from(rc) {
            Ok(n) => {
                sent += n as u64;
                done += n;
            }
            // This one was refused: go on behind it.
            Err(_) => done += 1,
        }
    }
    sent
}

fn sockaddr(to: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    }
}

fn set_option(socket: &UdpSocket, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: an integer option, by value.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A process of the test's; killed when dropped.
#[derive(Debug)]
pub struct Running {
    pub child: Child,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts a command, its errors collected.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut pipe = child.stderr.take().expect("piped");
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            let _ = pipe.read_to_string(&mut text);
            text
        });
        Self { child, stderr: Some(stderr) }
    }

    pub fn pid(&self) -> libc::pid_t {
        libc::pid_t::try_from(self.child.id()).expect("a process id")
    }

    /// One of its threads runs, or would if there were a processor for it.
    pub fn is_busy(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        tasks.into_iter().flatten().flatten().any(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // Behind the name, which may hold anything.
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R'))
        })
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: to a child that has not been waited for, so the number is its own.
        unsafe { libc::kill(self.pid(), signal) };
    }

    /// Waits for its end; gives exit status, errors and how long that took.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> (ExitStatus, String, Duration) {
        let start = Instant::now();
        let mut status = None;
        wait_until("the end of a process", limit, || {
            status = self.child.try_wait().expect("a child of ours");
            status.is_some()
        });
        let stderr = self.stderr.take().expect("once").join().expect("reading does not panic");
        (status.expect("it ended"), stderr, start.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A tracer writing JSON into a file, attached.
#[derive(Debug)]
pub struct Tracer {
    pub running: Running,
    pub file: PathBuf,
}

/// How a tracer ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stderr: String,
    pub took: Duration,
    pub file: PathBuf,
}

impl Tracer {
    pub fn start(scratch: &Path, options: &[&str]) -> Self {
        let base = fresh(scratch);
        let (file, ready) = (base.with_extension("json"), base.with_extension("ready"));
        let mut command = Command::new(binary());
        command.args(options).args(["-o", "json", "-w"]).arg(&file);
        command.arg("--ready-file").arg(&ready).stdout(Stdio::null());
        let mut running = Running::spawn(&mut command);
        wait_ready(&mut running, &ready);
        Self { running, file }
    }

    /// Ends it as Ctrl-C does.
    #[track_caller]
    pub fn finish(self) -> Ended {
        self.running.signal(libc::SIGINT);
        self.join()
    }

    /// Presses Ctrl-C until it ends: signals that come while it prints a batch are one to it.
    #[track_caller]
    pub fn insist(mut self) -> Ended {
        let start = Instant::now();
        wait_until("the end after many signals", PATIENCE * 3, || {
            self.running.signal(libc::SIGINT);
            self.running.child.try_wait().expect("a child of ours").is_some()
        });
        let took = start.elapsed();
        Ended { took, ..self.join() }
    }

    /// Waits for its end.
    #[track_caller]
    pub fn join(self) -> Ended {
        let (status, stderr, took) = self.running.wait(PATIENCE * 3);
        Ended { code: status.code(), stderr, took, file: self.file }
    }

    /// Complete lines written so far.
    pub fn lines(&self) -> usize {
        std::fs::read(&self.file).map_or(0, |b| b.iter().filter(|b| **b == b'\n').count())
    }
}

impl Ended {
    /// Gives each journey to `each`; returns the summary.
    pub fn journeys(&self, mut each: impl FnMut(Value)) -> Value {
        let file = File::open(&self.file).expect("the output");
        let mut summary = Value::Null;
        for line in BufReader::new(file).lines() {
            let line = line.expect("text");
            let value: Value = serde_json::from_str(&line).expect("JSON, one object a line");
            assert!(summary.is_null(), "the summary comes last, but then: {line}");
            if value["type"] == "summary" { summary = value } else { each(value) }
        }
        assert!(!summary.is_null(), "no summary; stderr: {}", self.stderr);
        summary
    }
}

/// A name in `scratch` that no other call gives.
pub fn fresh(scratch: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    scratch.join(format!("run{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Waits until a tracer has created its ready file.
#[track_caller]
pub fn wait_ready(running: &mut Running, ready: &Path) {
    wait_until("pkttrace is ready", PATIENCE, || {
        if let Some(status) = running.child.try_wait().expect("a child of ours") {
            let stderr = running.stderr.take().and_then(|t| t.join().ok()).unwrap_or_default();
            panic!("pkttrace ended before it was ready ({status}): {stderr}");
        }
        ready.exists()
    });
}
