//! What others have left lying about: files of containers, pipes where files should be, processes
//! that are called as runtimes are; and that a signal ends whatever is waited for.

use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use pkttrace_tests::{Diagnosis, Lab, Place as _, Site, binary, interruptible};

/// Half a second is the aim; a machine that does other things too takes longer. What waits for
/// ever does not end in this either.
const PROMPT: Duration = Duration::from_secs(20);

/// A process with a root of its own in a network namespace, as a container's has.
struct Container {
    child: Child,
    root: PathBuf,
}

impl Container {
    /// `fill` makes its files; its process is called `name`.
    fn new(netns: &str, root: &Path, name: &str, fill: impl Fn(&Path)) -> Self {
        for dir in ["usr", "etc", "run/netns"] {
            std::fs::create_dir_all(root.join(dir)).expect("a root");
        }
        for dir in ["bin", "lib", "lib64"] {
            symlink(format!("usr/{dir}"), root.join(dir)).expect("a link");
        }
        std::fs::copy("/bin/sleep", root.join(name)).expect("a program");
        fill(root);
        // `ip netns exec` gives it mounts of its own, too.
        let script = "mount --make-rprivate / && mount --rbind /usr $0/usr && \
                      for n in $0/run/netns/*; do \
                          [ ! -e $n ] || mount --bind /run/netns/${n##*/} $n; done; \
                      exec chroot $0 /$1 600";
        let child = Command::new("ip")
            .args(["netns", "exec", netns, "sh", "-c", script])
            .arg(root)
            .arg(name)
            .spawn()
            .expect("ip starts");
        let container = Self { child, root: root.to_owned() };
        let comm = format!("/proc/{}/comm", container.child.id());
        await_that("the container runs", || {
            std::fs::read_to_string(&comm).is_ok_and(|text| text.trim() == name)
        });
        container
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn await_that(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while !is() {
        assert!(Instant::now() < deadline, "not before the deadline: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(child.id()).expect("a process id");
    // SAFETY: a signal to a child that was not waited for yet.
    unsafe { libc::kill(pid, signal) };
}

/// Waits for the end, which must not take long.
fn ended(child: &mut Child, what: &str) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            println!("{what}: ended after {:?}, {status}", start.elapsed());
            return status;
        }
        if start.elapsed() > PROMPT {
            let waits = waits(child.id());
            let _ = child.kill();
            panic!("{what} does not end: {waits}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What the threads of a process wait for in the kernel.
fn waits(pid: u32) -> String {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |file: &str, thread: &std::fs::DirEntry| {
        std::fs::read_to_string(thread.path().join(file)).unwrap_or_default()
    };
    threads.map(|t| format!("{} in {}\n", of("comm", &t).trim(), of("stack", &t))).collect()
}

/// Exit code and complaint of a run that ends by itself.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let status = ended(&mut child, "a run that is refused");
    let mut text = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut text).expect("text");
    (status.code(), text)
}

fn pkttrace(args: &[&str]) -> Command {
    let mut command = interruptible();
    command.args(args);
    command
}

#[test]
fn the_resolv_conf_of_a_container_is_its_own_or_none() {
    let lab = Lab::cluster();
    let (p1, d1) = (lab.netns("p1"), lab.netns("d1"));
    let _pipe = Container::new(&d1, &lab.scratch().join("pipe"), "sh", |root| {
        let made = Command::new("mkfifo").arg(root.join("etc/resolv.conf")).status();
        assert!(made.expect("mkfifo starts").success());
    });
    Diagnosis::of(&["--from", &p1, "--to", "10.244.1.3"]).assert_healthy();
    let outside = lab.scratch().join("outside");
    std::fs::write(&outside, "nameserver 10.96.99.99\n").expect("a file");
    let _link = Container::new(&p1, &lab.scratch().join("link"), "sh", |root| {
        symlink(outside.parent().expect("a directory"), root.join("etc/x")).expect("a link");
        symlink("x/outside", root.join("etc/resolv.conf")).expect("a link");
    });
    let found = Diagnosis::of(&["--from", &p1, "--to", "web.default.svc.cluster.local"]);
    assert!(!found.json.to_string().contains("10.96.99.99"), "{:#}", found.json);
    assert!(!found.json.to_string().contains("root/etc/resolv.conf"), "{:#}", found.json);
}

#[test]
fn who_is_only_called_a_runtime_names_nobody() {
    let site = Site::new(&["victim", "evil"]);
    let victim = site.netns("victim");
    let id = "e".repeat(64);
    let bundle = serde_json::json!({
        "linux": {"namespaces": [{"type": "network", "path": format!("/run/netns/{victim}")}]},
        "annotations": {"io.kubernetes.cri.container-name": "forged",
            "io.kubernetes.cri.sandbox-name": "forged", "io.kubernetes.cri.sandbox-namespace": "forged"},
    });
    let fill = |root: &Path| {
        let dir = format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}");
        std::fs::create_dir_all(root.join(&dir)).expect("a directory");
        std::fs::write(root.join(dir).join("config.json"), bundle.to_string()).expect("a file");
        std::fs::write(root.join("run/netns").join(&victim), "").expect("a place to mount on");
    };
    let root = site.scratch().join("root");
    let _evil = Container::new(&site.netns("evil"), &root, "containerd", fill);
    let topology = pkttrace(&["topology", "-o", "json"]).output().expect("it starts");
    let text = String::from_utf8_lossy(&topology.stdout);
    assert!(text.contains(&victim), "{text}");
    assert!(!text.contains("forged"), "{text}");
}

#[test]
fn pipes_and_links_are_no_files() {
    let site = Site::new(&["a"]);
    let pipe = Path::new("/run/netns").join(site.netns("pipe"));
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo starts");
    assert!(made.success());
    let outcomes = [pipe.display().to_string(), site.netns("pipe")]
        .map(|netns| refused(&mut pkttrace(&["--netns", &netns, "--duration", "1ms"])));
    let seen = pkttrace(&["topology", "--netns", &site.netns("a")]).output();
    std::fs::remove_file(&pipe).expect("the pipe goes");
    for (code, text) in outcomes {
        assert_eq!((code, text.lines().count()), (Some(2), 1), "{text}");
    }
    assert!(seen.expect("it starts").status.success());
    let link = site.scratch().join("ready");
    symlink(site.scratch().join("made"), &link).expect("a link");
    let mut command = pkttrace(&["--netns", &site.netns("a"), "--duration", "1ms", "--ready-file"]);
    let (code, text) = refused(command.arg(&link));
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("symbolic link") && !site.scratch().join("made").exists(), "{text}");
}

#[test]
fn a_signal_ends_it_whatever_it_waits_for() {
    let lab = Lab::up("pair", &[]);
    let netns = lab.netns("a");
    // A pipe that nobody reads.
    let ready = lab.scratch().join("ready");
    let mut child = pkttrace(&["--netns", &netns, "-o", "json", "--ready-file"])
        .arg(&ready)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    await_that("it is ready", || ready.exists());
    let _ = lab.attempt("a", "ping -q -n -f -c 3000 127.0.0.1");
    let wait = format!("/proc/{}/wchan", child.id());
    await_that("it waits for the pipe", || {
        std::fs::read_to_string(&wait).is_ok_and(|text| text.contains("pipe"))
    });
    signal(&child, libc::SIGINT);
    let _ = ended(&mut child, "a pipe that nobody reads");
    // Any moment, those before anything is attached among them.
    let commands: [&[&str]; 4] = [
        &["diagnose", "--from", &netns, "--to", "198.18.77.77", "--timeout", "10m"],
        &["diagnose", "--duration", "10m"],
        &["--netns", &netns],
        &["topology"],
    ];
    for (n, command) in (0_u64..).zip(commands) {
        for kind in [libc::SIGINT, libc::SIGTERM] {
            let mut run = pkttrace(command);
            let mut child =
                run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
            let moment = 37 * (n + 1) * u64::from(kind.unsigned_abs()) % 700;
            std::thread::sleep(Duration::from_millis(moment));
            signal(&child, kind);
            let _ = ended(&mut child, &format!("{command:?}, signal {kind} after {moment} ms"));
        }
    }
}

#[test]
fn with_few_capabilities_a_healthy_way_is_not_called_broken() {
    let lab = Lab::cluster();
    let few = "-all,+bpf,+perfmon,+net_admin,+sys_admin";
    let p1 = lab.netns("p1");
    let diagnose = |to: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", few, "--inh-caps", "-all"]).arg(binary());
        refused(command.args(["diagnose", "--from", &p1, "--to", to]))
    };
    let (code, text) = diagnose("10.244.2.2");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("--cap-add NET_RAW"), "{text}");
    let (code, text) = diagnose("10.244.2.2:8080");
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn what_is_no_longer_needed_is_let_go_of() {
    let site = Site::new(&["a"]);
    let ready = site.scratch().join("ready");
    let mut child = pkttrace(&["--netns", &site.netns("a"), "-q", "--ready-file"])
        .arg(&ready)
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    await_that("it is ready", || ready.exists());
    let held = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|l| l.strip_prefix("CapEff:")).expect("capabilities");
        u64::from_str_radix(line.trim(), 16).expect("a number")
    };
    // CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_KILL, CAP_SETUID, CAP_SYS_MODULE, CAP_SYS_BOOT
    let gone = [0, 1, 5, 7, 16, 22].iter().fold(0, |bits, bit| bits | 1_u64 << bit);
    await_that("it has let go", || held() & gone == 0);
    let (net_admin, bpf) = (1 << 12, 1 << 39);
    assert_eq!(held() & (net_admin | bpf), net_admin | bpf);
    signal(&child, libc::SIGINT);
    assert_eq!(ended(&mut child, "a trace").code(), Some(0));
}

#[test]
fn tools_are_not_taken_from_the_callers_path() {
    let lab = Lab::cluster();
    let (dir, called) = (lab.scratch().join("bin"), lab.scratch().join("called"));
    std::fs::create_dir_all(&dir).expect("a directory");
    for tool in ["nft", "iptables", "iptables-save", "iptables-nft-save", "ipset", "conntrack"] {
        let file = dir.join(tool);
        std::fs::write(&file, format!("#!/bin/sh\n: > {}\n", called.display())).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&file, mode).expect("a mode");
    }
    let mut command = pkttrace(&["diagnose", "--from", &lab.netns("p1"), "--to", "10.244.2.2"]);
    let (code, text) = refused(command.env("PATH", &dir));
    assert_eq!(code, Some(0), "{text}");
    assert!(!called.exists());
}
