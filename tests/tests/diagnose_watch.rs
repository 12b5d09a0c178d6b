//! `pkttrace diagnose` while others send: the causes that a probe of its own would have shown, also
//! of what only comes in from beyond the node.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pkttrace_tests::{Lab, binary};
use serde_json::Value;

/// A diagnosis that watches.
struct Watching {
    child: Child,
}

impl Watching {
    /// Begins to watch what `options` let through, and waits until it does.
    fn start(lab: &Lab, name: &str, options: &[&str]) -> Self {
        let ready: PathBuf = lab.scratch().join(format!("{name}.ready"));
        let mut command = Command::new(binary());
        command.args(["diagnose", "-o", "json", "--duration", "10m", "--ready-file"]);
        command.arg(&ready).args(options).stdout(Stdio::piped());
        let mut child = command.spawn().expect("diagnose starts");
        let deadline = Instant::now() + Duration::from_secs(120);
        while !ready.exists() {
            let ended = child.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "{options:?} ended: {ended:?}");
            assert!(Instant::now() < deadline, "{options:?} does not watch");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { child }
    }

    /// Ends it; what it says.
    fn conclude(self) -> Value {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: a signal to a child that was not waited for yet.
        unsafe { libc::kill(pid, libc::SIGINT) };
        let output = self.child.wait_with_output().expect("a child of ours");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

/// The first finding is this one, and it is in this host.
fn assert_first(lab: &Lab, found: &Value, id: &str, host: &str) {
    let first = &found["findings"][0];
    assert_eq!((&first["id"], &first["severity"]), (&id.into(), &"error".into()), "{found:#}");
    assert_eq!(first["where"]["netns"], lab.netns(host).as_str(), "{found:#}");
}

#[test]
fn the_cause_is_named_while_others_send() {
    let lab = Lab::cluster();
    let n1 = lab.netns("n1");

    // A client outside of the view, a NodePort.
    lab.exec("n1", "iptables -t raw -I PREROUTING -p tcp --dport 30080 -j DROP");
    let options = ["--dst", "192.168.50.11", "--dport", "30080", "--view", &n1];
    let watching = Watching::start(&lab, "nodeport", &options);
    lab.get_fails("ext", "192.168.50.11:30080/");
    assert_first(&lab, &watching.conclude(), "nodeport-raw-firewall", "n1");
    lab.exec("n1", "iptables -t raw -D PREROUTING -p tcp --dport 30080 -j DROP");

    // Nothing is dropped in the kernel's eyes: only silence tells.
    lab.exec(
        "n1",
        "bridge link set dev veth-p1 isolated on; bridge link set dev veth-p2 isolated on",
    );
    let watching = Watching::start(&lab, "isolated", &["--dst", "10.244.1.3", "--view", &n1]);
    lab.exec_fails("p1", "ping -n -c2 -W2 10.244.1.3");
    assert_first(&lab, &watching.conclude(), "bridge-port-isolated", "n1");
    lab.exec(
        "n1",
        "bridge link set dev veth-p1 isolated off; bridge link set dev veth-p2 isolated off",
    );

    // What works gives nothing to say.
    let watching = Watching::start(&lab, "healthy", &["--dst", "10.244.2.2", "--view", &n1]);
    lab.ping("p1", "10.244.2.2");
    let found = watching.conclude();
    assert_eq!((&found["healthy"], &found["findings"]), (&true.into(), &serde_json::json!([])));
    assert!(found["checked"][0].as_str().is_some_and(|c| c.contains("got an answer")), "{found:#}");

    // Long segments alone are lost, in a connection that answers.
    let ran = lab.run("break", &["underlay-mtu-blackhole"]);
    assert!(ran.ok, "{}", ran.stderr);
    let options = ["--dst", "10.244.2.2", "--dport", "8080", "--view", &lab.netns("n2")];
    let watching = Watching::start(&lab, "long", &options);
    lab.exec_fails("p1", "curl -sS -m 3 -o /dev/null http://10.244.2.2:8080/big");
    assert_first(&lab, &watching.conclude(), "underlay-mtu-blackhole", "n2");
    let ran = lab.run("fix", &["underlay-mtu-blackhole"]);
    assert!(ran.ok, "{}", ran.stderr);

    // Out of a tunnel, from a pod of a node that is not seen.
    let n2 = lab.netns("n2");
    lab.exec("n2", "ip route replace blackhole 10.244.1.0/24");
    let watching = Watching::start(&lab, "tunnel", &["--dst", "10.244.2.2", "--view", &n2]);
    lab.exec_fails("p1", "ping -n -c2 -W2 10.244.2.2");
    assert_first(&lab, &watching.conclude(), "route-blackhole", "n2");
}
