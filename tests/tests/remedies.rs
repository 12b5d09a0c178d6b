//! What `diagnose` prints to be run: nothing that a name says, and nothing that is not proved.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pkttrace_tests::{Lab, binary, is_fast};
use serde_json::Value;

/// Names that are commands for a shell that reads them unquoted, as long as a device's may be. Each
/// makes a file `x`.
const HOSTILE: [&str; 5] =
    ["$(touch${IFS}x)", "'`touch${IFS}x`", ";touch${IFS}x;", "|touch${IFS}x|#", "&touch${IFS}x&"];

/// In a fast run, one of so many faults.
const FAST_STEP: usize = 11;

/// A directory to run printed lines in, where every tool but `touch` does nothing.
struct Stage(PathBuf);

impl Stage {
    fn new(lab: &Lab) -> Self {
        let dir = lab.scratch().join("stage");
        std::fs::create_dir_all(dir.join("bin")).expect("a directory");
        let tools = "ip bridge tc nsenter sysctl iptables iptables-nft iptables-legacy ip6tables \
                     ip6tables-nft ip6tables-legacy nft conntrack ethtool bpftool sh";
        for tool in tools.split_whitespace() {
            std::os::unix::fs::symlink("/bin/true", dir.join("bin").join(tool)).expect("a link");
        }
        std::os::unix::fs::symlink("/usr/bin/touch", dir.join("bin/touch")).expect("a link");
        Self(dir)
    }

    /// Runs a line, and says whether it ran what a name says.
    fn is_hurt_by(&self, line: &str) -> bool {
        let mut shell = Command::new("/bin/bash");
        shell.args(["-c", line]).current_dir(&self.0).env_clear().env("PATH", self.0.join("bin"));
        shell.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("bash starts");
        let mark = self.0.join("x");
        let is_hurt = mark.exists();
        let _ = std::fs::remove_file(mark);
        is_hurt
    }

    /// Every printed line, and every remedy as its words.
    fn try_all(&self, what: &str, found: &Value) -> usize {
        let mut lines = 0;
        for finding in found["findings"].as_array().into_iter().flatten() {
            for line in finding["fix"].as_array().expect("fix") {
                let line = line.as_str().expect("a line");
                assert!(!line.contains(char::is_control), "{what}: {line:?}");
                assert!(!self.is_hurt_by(line), "{what}: {line}");
                lines += 1;
            }
            let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
            let evidence = finding["evidence"].as_array().into_iter().flatten();
            let evidence = evidence.filter_map(Value::as_str).map(str::to_owned);
            for text in [text("title"), text("explain")].into_iter().chain(evidence) {
                assert!(!text.contains(char::is_control), "{what}: {text:?}");
            }
        }
        lines
    }
}

fn diagnose(args: &[&str]) -> Value {
    let mut command = Command::new(binary());
    command.args(["diagnose", "-o", "json", "--timeout", "400ms"]).args(args);
    let output = command.output().expect("diagnose starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {stderr}"))
}

/// Gives the devices of a host hostile names, with the addresses and routes that they have.
fn rename(lab: &Lab, host: &str) {
    let list = lab.exec(host, "ip -o link show | cut -d: -f2 | cut -d@ -f1");
    let devices = list.split_whitespace().filter(|dev| *dev != "lo");
    for (dev, name) in devices.zip(HOSTILE) {
        // A device that is up is renamed since Linux 6.2; on others it keeps its name.
        let mut ip = Command::new("ip");
        ip.args(["-n", &lab.netns(host), "link", "set", "dev", dev, "name", name]);
        let _ = ip.output().expect("ip starts");
    }
}

/// The catalogue, each fault once.
fn faults(lab: &Lab) -> Vec<(String, Value)> {
    let ran = lab.run("list", &["--faults", "-o", "json"]);
    let text = ran.stdout.replace(&format!("{}-", lab.prefix()), "");
    let list: Value = serde_json::from_str(&text).expect("one JSON object");
    let faults = list["faults"].as_array().expect("a list").iter();
    let id = |f: &Value| f["id"].as_str().unwrap_or_default().to_owned();
    faults
        .filter(|f| f["kind"] == "fault" && f["lab"] == "cluster")
        .map(|f| (id(f), f["target"].clone()))
        .collect()
}

#[test]
fn no_name_of_a_device_is_run_whatever_is_wrong() {
    let lab = Lab::cluster();
    let step = if is_fast() { FAST_STEP } else { 1 };
    let mut lines = 0;
    for (id, target) in faults(&lab).into_iter().step_by(step) {
        let lab = Lab::cluster();
        let stage = Stage::new(&lab);
        assert!(lab.run("break", &[&id]).ok, "{id}");
        ["p1", "p2", "n1", "n2", "dh", "web"].iter().for_each(|host| {
            if Path::new("/run/netns").join(lab.netns(host)).exists() {
                rename(&lab, host);
            }
        });
        let part = |field: &str| target[field].as_str().unwrap_or_default().to_owned();
        let (from, to, proto) = (lab.netns(&part("from")), part("to"), part("proto"));
        let found = diagnose(&["--from", &from, "--to", &to, "--proto", &proto]);
        lines += stage.try_all(&id, &found);
    }
    assert!(lines > 0, "nothing was printed");
}

#[test]
fn no_name_of_a_namespace_a_chain_a_comment_a_process_or_a_domain_is_run() {
    let lab = Lab::cluster();
    let stage = Stage::new(&lab);
    let from = lab.netns("p1");
    let ask = |to: &str, proto: &str| diagnose(&["--from", &from, "--to", to, "--proto", proto]);
    // A chain, and a comment that ends a line.
    let chain = "'$(touch${IFS}x)'";
    lab.exec(
        "n1",
        &format!(
            "iptables -N {chain} && iptables -A {chain} -m comment --comment \"'; touch x; '\" -j DROP && \
             iptables -I FORWARD -p icmp -j {chain}"
        ),
    );
    assert!(stage.try_all("chain", &ask("10.244.2.2", "icmp")) > 0);
    lab.exec("n1", &format!("iptables -D FORWARD -p icmp -j {chain}"));
    // A process with a line break in its name, at localhost only.
    let script = "import ctypes, socket, time\n\
                  ctypes.CDLL(None).prctl(15, b'a\\ntouch x\\n', 0, 0, 0)\n\
                  s = socket.create_server(('127.0.0.1', 7777))\nprint('ready', flush=True)\ntime.sleep(60)";
    let mut listener = Command::new("ip")
        .args(["netns", "exec", &lab.netns("p2"), "python3", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    let mut line = String::new();
    let stdout = listener.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    let found = ask("10.244.1.3:7777", "tcp");
    listener.kill().expect("it lives");
    listener.wait().expect("it ends");
    assert!(stage.try_all("process", &found) > 0);
    // The search list of a pod beside it.
    let dir = |host: &str| PathBuf::from("/etc/netns").join(lab.netns(host)).join("resolv.conf");
    std::fs::write(dir("p1"), "nameserver 10.96.0.10\n").expect("written");
    for host in ["p2", "pc"].into_iter().filter(|host| dir(host).exists()) {
        let text = "nameserver 10.96.0.10\nsearch x';touch${IFS}x;' svc.cluster.local\n";
        std::fs::write(dir(host), text).expect("written");
    }
    assert!(stage.try_all("search", &ask("web", "dns")) > 0);
}

/// A namespace that is removed when this is dropped.
struct Named(String);

impl Named {
    fn new(name: String) -> Self {
        let made = Self(name);
        made.ip("add");
        made
    }

    fn ip(&self, job: &str) {
        let _ = Command::new("ip").args(["netns", job, &self.0]).output().expect("ip starts");
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.ip("del");
    }
}

#[test]
fn no_name_of_a_namespace_is_run() {
    let lab = Lab::up("pair", &[]);
    let stage = Stage::new(&lab);
    let named = Named::new(format!("$(touch${{IFS}}x){}", lab.prefix()));
    let found = diagnose(&["--from", &named.0, "--to", "127.0.0.1"]);
    let fix = found["findings"][0]["fix"][0].as_str().unwrap_or_default();
    assert!(fix.contains("link set dev lo up"), "{found:#}");
    assert!(stage.try_all("namespace", &found) > 0);
}
