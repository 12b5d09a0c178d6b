//! `pkttrace diagnose` on nodes that nobody would want: right, or honestly incomplete, and at a price that a node can pay.
//!
//! Everything here is made in namespaces of the test's own.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pkttrace_tests::{Lab, binary, is_fast};
use serde_json::Value;

/// A diagnosis takes no more of a processor, whatever the node holds. Not measured by the clock on
/// the wall: other tests run meanwhile.
const LIMIT: Duration = Duration::from_secs(60);

/// Diagnoses; with what that took of the processors, the tools that were asked included.
#[expect(clippy::zombie_processes, reason = "wait4 waits for it")]
fn diagnose(args: &[&str]) -> (Value, Duration) {
    let mut diagnose = Command::new(binary());
    let mut child = diagnose
        .args(["diagnose", "-o", "json"])
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .expect("diagnose starts");
    let mut text = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
    let took = processor_time(&child);
    (serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}")), took)
}

/// Waits for a child; what it and those that it waited for took.
fn processor_time(child: &Child) -> Duration {
    let pid = child.id().try_into().expect("a PID");
    // SAFETY: both are plain numbers, for which zeroes are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let mut status = 0;
    // SAFETY: both pointers are to live variables of the types that wait4(2) fills in.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    assert_eq!(waited, pid);
    let time = |t: libc::timeval| {
        let micros = u64::try_from(t.tv_usec).expect("not negative");
        Duration::from_secs(t.tv_sec.try_into().expect("not negative"))
            + Duration::from_micros(micros)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

fn first(found: &Value) -> &str {
    found["findings"][0]["id"].as_str().unwrap_or("nothing")
}

/// Feeds a shell inside a host.
fn feed(lab: &Lab, host: &str, command: &str, text: &str) {
    let path = lab.scratch().join("feed");
    std::fs::write(&path, text).expect("a file in the scratch directory");
    lab.exec(host, &format!("{command} {}", path.display()));
}

#[test]
fn five_thousand_services() {
    let lab = Lab::cluster();
    let count = if is_fast() { 500 } else { 5000 };
    let mut rules = "*nat\n".to_owned();
    for n in 0..count {
        rules += &format!(":KUBE-SVC-X{n:05} - [0:0]\n");
    }
    for n in 0..count {
        let ip = format!("10.97.{}.{}/32", n / 250, n % 250 + 1);
        rules +=
            &format!("-A KUBE-SERVICES -d {ip} -p tcp -m tcp --dport 80 -j KUBE-SVC-X{n:05}\n");
        rules += &format!("-A KUBE-SVC-X{n:05} -p tcp -j DNAT --to-destination 10.244.1.3:8080\n");
    }
    rules += "COMMIT\n";
    feed(&lab, "n1", "iptables-restore --noflush", &rules);
    let from = lab.netns("p1");
    let (found, took) = diagnose(&["--from", &from, "--to", "10.97.1.9:80"]);
    assert_eq!(found["healthy"], true, "{found:#}");
    assert!(took < LIMIT, "{took:?}");
    lab.exec("n1", "ip link set veth-p2 down");
    let (found, took) = diagnose(&["--from", &from, "--to", "10.97.1.9:80"]);
    assert_eq!(first(&found), "veth-host-down", "{found:#}");
    assert!(took < LIMIT, "{took:?}");
}

#[test]
fn ten_thousand_routes() {
    let lab = Lab::cluster();
    let mut routes = String::new();
    for n in 0..10_000_u32 {
        routes += &format!("route add 172.{}.{}.0/24 via 192.168.50.1\n", 64 + n / 250, n % 250);
    }
    feed(&lab, "n1", "ip -batch", &routes);
    lab.exec("n1", "ip route replace blackhole 10.244.2.0/25");
    let from = lab.netns("p1");
    let (found, took) = diagnose(&["--from", &from, "--to", "10.244.2.2"]);
    assert_eq!(first(&found), "route-blackhole", "{found:#}");
    assert!(took < LIMIT, "{took:?}");
}

#[test]
fn hundreds_of_namespaces() {
    let lab = Lab::cluster();
    let count = if is_fast() { 50 } else { 500 };
    let crowd = Crowd::new(&lab, count);
    let from = lab.netns("p1");
    let (found, took) = diagnose(&["--from", &from, "--to", "10.244.2.2"]);
    assert_eq!(found["healthy"], true, "{found:#}");
    assert!(took < LIMIT, "{took:?}");
    lab.exec("n1", "sysctl -qw net.ipv4.ip_forward=0");
    let (found, took) = diagnose(&["--from", &from, "--to", "10.244.2.2"]);
    assert_eq!(first(&found), "ip-forward-disabled", "{found:#}");
    assert!(took < LIMIT, "{took:?}");
    drop(crowd);
}

/// Namespaces with nothing in them, gone when dropped.
struct Crowd(Vec<String>);

impl Crowd {
    fn new(lab: &Lab, count: usize) -> Self {
        let crowd = Self((0..count).map(|n| lab.netns(&format!("x{n}"))).collect());
        crowd.each("add");
        crowd
    }

    fn each(&self, job: &str) {
        let batch: String = self.0.iter().map(|n| format!("ip netns {job} {n}\n")).collect();
        let status = Command::new("sh").args(["-c", &batch]).status().expect("sh starts");
        assert!(status.success() || std::thread::panicking(), "ip netns {job}");
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.each("del");
    }
}

/// A name of `ip netns` whose namespace is gone: what is left is a plain file that nobody can enter.
struct Ruin(PathBuf);

impl Ruin {
    fn new(name: &str) -> Self {
        let path = Path::new("/run/netns").join(name);
        std::fs::write(&path, "").expect("a file beside the names of namespaces");
        Self(path)
    }
}

impl Drop for Ruin {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_namespace_that_cannot_be_entered() {
    let lab = Lab::cluster();
    let name = lab.netns("ruin");
    let ruin = Ruin::new(&name);
    let from = lab.netns("p1");
    let (found, _) = diagnose(&["--from", &from, "--to", "10.244.2.2"]);
    assert_eq!(found["healthy"], true, "{found:#}");
    lab.exec("n1", "sysctl -qw net.ipv4.ip_forward=0");
    let (found, _) = diagnose(&["--from", &from, "--to", "10.244.2.2"]);
    assert_eq!(first(&found), "ip-forward-disabled", "{found:#}");
    // From there nothing can be sent, and one line says so.
    let output = Command::new(binary())
        .args(["diagnose", "-o", "json", "--from", &name, "--to", "10.244.2.2"])
        .output()
        .expect("diagnose starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(&name), "{stderr}");
    drop(ruin);
}

/// A namespace without a name, with this process alone in it, once it has run `setup`.
fn nameless(setup: &str) -> Child {
    let mut sleeper = Command::new("unshare")
        .args(["--net", "sh", "-c", &format!("{setup}; echo ready; exec sleep 1000")])
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare starts");
    let mut line = String::new();
    let stdout = sleeper.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    sleeper
}

#[test]
fn a_process_that_dies_while_it_is_probed() {
    let lab = Lab::up("pair", &[]);
    let mut sleeper = nameless("ip link set lo up");
    let pid = sleeper.id().to_string();
    // Nobody is at this address: it lasts, so that the process dies meanwhile.
    let diagnose = Command::new(binary())
        .args(["diagnose", "-o", "json", "--from", &pid, "--to", "10.99.99.99"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("diagnose starts");
    sleeper.kill().expect("it lives");
    sleeper.wait().expect("it ends");
    let output = diagnose.wait_with_output().expect("diagnose ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    // Told what is wrong from there, or that there is no there any more: never a crash.
    match output.status.code() {
        Some(1) => {
            let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_eq!(found["healthy"], false, "{found:#}");
        }
        code => {
            assert_eq!(code, Some(2), "{stderr}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
    }
    drop(lab);
}

/// A namespace without a name is entered by one of its processes, in fixes too.
#[test]
fn a_fix_enters_a_namespace_that_has_no_name() {
    let mut sleeper = nameless("true");
    let pid = sleeper.id().to_string();
    let (found, _) = diagnose(&["--from", &pid, "--to", "127.0.0.1"]);
    let fix = found["findings"][0]["fix"][0].as_str().unwrap_or_default().to_owned();
    let healed = Command::new("bash").args(["-c", &fix]).status().expect("bash starts");
    let (after, _) = diagnose(&["--from", &pid, "--to", "127.0.0.1"]);
    sleeper.kill().expect("it lives");
    sleeper.wait().expect("it ends");
    assert_eq!(first(&found), "lo-down", "{found:#}");
    assert!(fix.starts_with(&format!("nsenter --net=/proc/{pid}/ns/net ")), "{fix}");
    assert!(healed.success());
    assert_eq!(after["healthy"], true, "{after:#}");
}
