//! A client, a router and a server, each in a namespace of its own, and real traffic between them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pkttrace_tests::{Diagnosis, Site};

pub const SERVER: &str = "10.81.2.2";

/// `app` 10.81.1.2, `node`, `web` 10.81.2.2.
pub fn routed() -> Site {
    let site = Site::new(&["app", "node", "web"]);
    site.wire(("app", "eth0", "10.81.1.2/24"), ("node", "va", "10.81.1.1/24"));
    site.wire(("web", "eth0", "10.81.2.2/24"), ("node", "vw", "10.81.2.1/24"));
    site.exec("app", "ip route add default via 10.81.1.1");
    site.exec("web", "ip route add default via 10.81.2.1");
    site.exec("node", "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0");
    site
}

/// Runs `work` on a thread inside a host until it is dropped.
pub struct Traffic {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    pub fn none() -> Self {
        Self { end: Arc::new(AtomicBool::new(false)), threads: Vec::new() }
    }

    /// `work` is called again and again.
    pub fn and(
        mut self,
        site: &Site,
        host: &str,
        begin: impl FnOnce() -> Box<dyn FnMut()> + Send + 'static,
    ) -> Self {
        let netns = File::open(format!("/run/netns/{}", site.netns(host))).expect("a namespace");
        let end = Arc::clone(&self.end);
        let (ready, is_ready) = std::sync::mpsc::channel();
        self.threads.push(std::thread::spawn(move || {
            // SAFETY: two integers; the file is open meanwhile.
            let entered = unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(entered, 0, "setns");
            let mut work = begin();
            ready.send(()).expect("the test waits");
            while !end.load(Ordering::Relaxed) {
                work();
            }
        }));
        is_ready.recv().expect("the thread begins");
        self
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

pub const PATIENCE: Duration = Duration::from_millis(200);

/// Takes connections and reads all that comes, at most `pace` bytes at once, with a pause after.
pub fn sink(port: u16, pause: Duration) -> Box<dyn FnMut()> {
    sink_on("0.0.0.0", port, pause)
}

pub fn sink_on(addr: &str, port: u16, pause: Duration) -> Box<dyn FnMut()> {
    let listener = TcpListener::bind((addr, port)).expect("a port");
    listener.set_nonblocking(true).expect("a listener");
    let mut open: Vec<TcpStream> = Vec::new();
    let mut buffer = vec![0; 65_536];
    Box::new(move || {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_read_timeout(Some(Duration::from_millis(5))).expect("a stream");
            stream.set_nonblocking(false).expect("a stream");
            open.push(stream);
        }
        open.retain_mut(|stream| match stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        });
        std::thread::sleep(if open.is_empty() { Duration::from_millis(1) } else { pause });
    })
}

/// Sends as fast as it goes.
pub fn bulk(port: u16) -> Box<dyn FnMut()> {
    bulk_to(SERVER, port)
}

pub fn bulk_to(server: &'static str, port: u16) -> Box<dyn FnMut()> {
    let mut stream: Option<TcpStream> = None;
    let data = vec![7; 65_536];
    Box::new(move || {
        if stream.is_none() {
            stream = TcpStream::connect((server, port)).ok();
        }
        let Some(open) = &mut stream else { return std::thread::sleep(PATIENCE) };
        open.set_write_timeout(Some(PATIENCE)).expect("a stream");
        let _ = open.write(&data);
    })
}

/// Answers every byte.
pub fn echo(port: u16) -> Box<dyn FnMut()> {
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("a port");
    listener.set_nonblocking(true).expect("a listener");
    let mut open: Vec<TcpStream> = Vec::new();
    Box::new(move || {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).expect("a stream");
            stream.set_read_timeout(Some(Duration::from_millis(5))).expect("a stream");
            open.push(stream);
        }
        let mut byte = [0];
        open.retain_mut(|stream| match stream.read(&mut byte) {
            Ok(0) => false,
            Ok(_) => stream.write_all(&byte).is_ok(),
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        });
        if open.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
    })
}

/// Round trips of one byte on one connection.
pub fn ping_pong(port: u16) -> Box<dyn FnMut()> {
    let mut stream: Option<TcpStream> = None;
    Box::new(move || {
        if stream.is_none() {
            stream = TcpStream::connect((SERVER, port)).ok();
        }
        let Some(open) = &mut stream else { return std::thread::sleep(PATIENCE) };
        open.set_read_timeout(Some(PATIENCE)).expect("a stream");
        let _ = open.write(&[1]);
        let _ = open.read(&mut [0]);
    })
}

/// The client and the server talk at port 8080.
pub fn talk(site: &Site) -> Traffic {
    Traffic::none().and(site, "web", || echo(8080)).and(site, "app", || ping_pong(8080))
}

/// The client sends all it can to the server's port 9000.
pub fn load(site: &Site) -> Traffic {
    Traffic::none().and(site, "web", || sink(9000, Duration::ZERO)).and(site, "app", || bulk(9000))
}

pub fn ask(site: &Site, to: &str, proto: &str) -> Diagnosis {
    ask_for("3s", site, to, proto)
}

/// What shows in every packet is seen at once.
pub fn glance(site: &Site, to: &str) -> Diagnosis {
    ask_for("2s", site, to, "tcp")
}

pub fn ask_for(span: &str, site: &Site, to: &str, proto: &str) -> Diagnosis {
    let from = site.netns("app");
    Diagnosis::of(&["--slow", "--from", &from, "--to", to, "--proto", proto, "--duration", span])
}

pub fn assert_quiet(found: &Diagnosis) {
    assert!(found.loud().is_empty(), "{:#}", found.json);
}

/// The first finding's evidence, in one text.
pub fn evidence(found: &Diagnosis) -> String {
    found.first()["evidence"].to_string()
}
