//! What `diagnose` prints to be run: nothing that a name says, and nothing that is not proved.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pkttrace_tests::{Lab, binary, is_fast, side_by_side};
use serde_json::{Value, json};

/// In a fast run, one of so many faults.
const FAST_STEP: usize = 11;

/// What a healed path may take to work again: devices come up, neighbours are asked anew.
const HEALS: Duration = Duration::from_secs(60);

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

/// Runs a command that may fail; what it prints.
fn attempt(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A name that is a command for a shell that reads it unquoted. With 15 bytes, as long as a
/// device's may be.
fn hostile(n: usize) -> String {
    let quotes = ["`", ";", "|", "&"];
    let quote = quotes[n % quotes.len()];
    format!("{quote}touch${{IFS}}x{quote}{}", n / quotes.len())
}

/// Gives all that a host has hostile names: devices, chains, comments, sets, and itself. The lab
/// keeps its own name for the host beside that.
fn rename(lab: &Lab, host: &str) -> Named {
    let list = lab.exec(host, "ip -o link show | cut -d: -f2 | cut -d@ -f1");
    let devices = list.split_whitespace().filter(|dev| *dev != "lo");
    let devices: HashMap<&str, String> = devices.zip((0..).map(hostile)).collect();
    for (dev, name) in &devices {
        // A device that is up is renamed since Linux 6.2; on others it keeps its name.
        let rename = ["link", "set", "dev", dev, "name", name];
        let _ = attempt(Command::new("ip").args(["-n", &lab.netns(host)]).args(rename));
    }
    for kind in ["iptables-nft", "iptables-legacy"] {
        rewrite(lab, host, kind, &devices);
    }
    let sets = lab.attempt(host, "ipset list -n").stdout;
    for (n, set) in sets.lines().enumerate() {
        let _ = lab.attempt(host, &format!("ipset rename '{set}' 'set{}'", hostile(n)));
    }
    let named = Named(format!("{}-$(touch${{IFS}}x){host}", lab.prefix()));
    let [old, new] = [&lab.netns(host), &named.0].map(|name| Path::new("/run/netns").join(name));
    std::fs::write(&new, "").expect("a place to mount on");
    let _ = attempt(Command::new("mount").arg("--bind").args([&old, &new]));
    let [old, new] = [&lab.netns(host), &named.0].map(|name| Path::new("/etc/netns").join(name));
    if old.exists() {
        std::os::unix::fs::symlink(old, new).expect("a link");
    }
    named
}

/// Gives chains and comments of one kind of rules hostile names, and `devices` those that they have.
fn rewrite(lab: &Lab, host: &str, kind: &str, devices: &HashMap<&str, String>) {
    let saved = lab.attempt(host, &format!("{kind}-save")).stdout;
    let own = saved.lines().filter_map(|line| line.strip_prefix(':')?.split_once(" - "));
    let chains: HashMap<&str, String> = own.map(|own| own.0).zip((0..).map(hostile)).collect();
    if chains.is_empty() {
        return;
    }
    let word = |word: &str| match word.strip_prefix(':') {
        Some(chain) => format!(":{}", chains.get(chain).map_or(chain, String::as_str)),
        None => chains.get(word).or(devices.get(word)).map_or(word, String::as_str).to_owned(),
    };
    let words = |text: &str| text.split(' ').map(word).collect::<Vec<_>>().join(" ");
    let line = |line: &str| match line.split_once('"') {
        Some((before, rest)) => {
            let rest = rest.replace("\\\"", "");
            let after = rest.split_once('"').map_or("", |(_, after)| after);
            format!("{}\"'; touch x; '\"{}\n", words(before), words(after))
        }
        None => words(line) + "\n",
    };
    let file = lab.scratch().join(format!("{host}.rules"));
    std::fs::write(&file, saved.lines().map(line).collect::<String>()).expect("written");
    lab.exec(host, &format!("{kind}-restore < '{}'", file.display()));
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

/// Makes one fault among hostile names, and says what is wrong with what is printed about it.
fn misled(id: &str, target: &Value) -> Result<usize, String> {
    let lab = Lab::cluster();
    let stage = Stage::new(&lab);
    assert!(lab.run("break", &[id]).ok, "{id}");
    let part = |field: &str| target[field].as_str().unwrap_or_default().to_owned();
    let hosts = attempt(Command::new("ip").args(["netns", "list"]));
    let prefix = format!("{}-", lab.prefix());
    let hosts = hosts.split_whitespace().filter_map(|name| name.strip_prefix(&prefix));
    // Those names go before the lab does.
    let named: HashMap<_, _> = hosts.map(|host| (host, rename(&lab, host))).collect();
    let from = named[part("from").as_str()].0.clone();
    let found = diagnose(&["--from", &from, "--to", &part("to"), "--proto", &part("proto")]);
    let lines = stage.try_all(id, &found);
    let fix = found["findings"][0]["fix"].as_array().cloned().unwrap_or_default();
    let fix: Vec<&str> = fix.iter().filter_map(Value::as_str).collect();
    // What is only commands has to heal.
    if fix.is_empty() || fix.iter().any(|line| line.starts_with('#')) {
        return Ok(lines);
    }
    let mut shell = Command::new("bash");
    let ran = shell.args(["-c", &fix.join("\n")]).current_dir(&stage.0).output();
    let stderr = String::from_utf8_lossy(&ran.expect("bash starts").stderr).into_owned();
    assert!(!stage.0.join("x").exists(), "{id}: {fix:#?}");
    let until = Instant::now() + HEALS;
    while lab.run("symptom", &[id]).code != Some(1) {
        if Instant::now() > until {
            return Err(format!("{id}: still broken after {fix:#?}: {stderr}"));
        }
    }
    Ok(lines)
}

#[test]
fn no_name_is_run_and_every_fix_heals_whatever_is_wrong() {
    let step = if is_fast() { FAST_STEP } else { 1 };
    let faults = faults(&Lab::cluster());
    let chosen: Vec<_> = faults.iter().step_by(step).collect();
    let one = |(id, target): &(String, Value)| misled(id, target);
    let results = side_by_side(&chosen, |faults| faults.map(|f| one(f)).collect::<Vec<_>>());
    let results: Vec<_> = results.into_iter().flatten().collect();
    let wrong: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), results.len());
    assert!(results.into_iter().flatten().sum::<usize>() >= chosen.len());
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

/// `nft` itself would not write such names; who speaks netlink or JSON does.
#[test]
fn no_name_of_a_table_a_chain_or_a_set_is_run() {
    let lab = Lab::cluster();
    let stage = Stage::new(&lab);
    let from = lab.netns("p1");
    let names =
        ["x;$(touch${IFS}x)", "'; touch x; '", "`touch x`", "-x\ntouch x\n", "\"|touch x\""];
    for name in names {
        let of = |mut object: Value| {
            object["family"] = "inet".into();
            object["table"] = name.into();
            object
        };
        let table = json!({ "family": "inet", "name": name });
        let daddr = json!({ "payload": { "protocol": "ip", "field": "daddr" } });
        let set = of(json!({ "name": name, "type": "ipv4_addr", "elem": ["10.244.2.2"] }));
        let chain = of(json!({ "name": name, "type": "filter", "hook": "forward", "prio": 0 }));
        let is_in = json!({ "op": "==", "left": daddr, "right": format!("@{name}") });
        let drop = json!([{ "match": is_in }, { "drop": null }]);
        let rule = of(json!({ "chain": name, "comment": name, "expr": drop }));
        let objects = [("table", &table), ("set", &set), ("chain", &chain), ("rule", &rule)];
        let added = objects.map(|(kind, object)| json!({ "add": { kind: object } }));
        let run = |list: Value| {
            let file = lab.scratch().join("names.json");
            std::fs::write(&file, json!({ "nftables": list }).to_string()).expect("written");
            lab.exec("n1", &format!("nft -j -f {}", file.display()));
        };
        run(added.to_vec().into());
        let found = diagnose(&["--from", &from, "--to", "10.244.2.2"]);
        assert_eq!(found["findings"][0]["where"]["netns"], lab.netns("n1"), "{name:?}: {found:#}");
        assert!(stage.try_all(name, &found) > 0);
        run(json!([{ "delete": { "table": table } }]));
    }
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
        let _ = std::fs::remove_file(Path::new("/etc/netns").join(&self.0));
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
