//! A Docker engine of its own: in its own network, mount and PID namespaces, with its own
//! directories and socket. The PID namespace takes containers, shims and containerd with it,
//! however the test ends.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pkttrace_tests::{Place as _, Ran, Site};

/// How long the engine may take to start on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A running engine.
pub struct Engine<'a> {
    site: &'a Site,
    dir: PathBuf,
    child: Child,
}

impl<'a> Engine<'a> {
    /// Starts it in the network of `host`, and waits until it answers; with an image `box` that
    /// holds busybox.
    pub fn start(site: &'a Site, host: &str) -> Self {
        // Docker's own sockets below this must fit into 108 bytes.
        let dir = site.scratch().join("d");
        std::fs::create_dir_all(dir.join("cgroup")).expect("a directory");
        std::fs::write(dir.join("daemon.json"), "{}").expect("a configuration");
        let log = File::create(dir.join("log")).expect("a log");
        // sysfs shows the devices of the namespace that it is mounted in.
        let script = format!(
            "set -e; cd {0}; mount --rbind /sys/fs/cgroup cgroup; mount -t sysfs sysfs /sys
             mount --rbind cgroup /sys/fs/cgroup
             if [ -d /run/containerd ]; then mount -t tmpfs tmpfs /run/containerd; fi
             dockerd --config-file daemon.json --data-root {0}/data --exec-root {0}/exec \
               --pidfile {0}/pid -H unix://{0}/sock --bridge none \
               --cgroup-parent /{1} --exec-opt native.cgroupdriver=cgroupfs &
             wait",
            dir.display(),
            site.prefix(),
        );
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", site.netns(host)))
            .args(["unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc"])
            .args(["--fork", "--kill-child", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("nsenter starts");
        let mut engine = Self { site, dir, child };
        engine.await_ready();
        engine.import_box();
        engine
    }

    fn await_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.attempt(&["version"]).ok {
            let ended = self.child.try_wait().expect("a child of ours");
            let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "dockerd ended:\n{}", log());
            assert!(Instant::now() < deadline, "dockerd does not answer:\n{}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn import_box(&self) {
        let bin = self.dir.join("root/bin");
        std::fs::create_dir_all(&bin).expect("a directory");
        std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
        for name in ["sh", "ping", "httpd", "sleep", "wget"] {
            symlink("busybox", bin.join(name)).expect("a link");
        }
        let tar = self.dir.join("root.tar");
        let mut pack = Command::new("tar");
        pack.arg("-C").arg(self.dir.join("root")).arg("-cf").arg(&tar);
        assert!(pack.arg(".").status().expect("tar starts").success());
        self.run(&["import", &tar.display().to_string(), "box"]);
    }

    /// `docker ARGS`, however it ends.
    pub fn attempt(&self, args: &[&str]) -> Ran {
        let mut docker = Command::new("docker");
        docker.arg("-H").arg(format!("unix://{}/sock", self.dir.display())).args(args);
        docker.env("DOCKER_CONFIG", &self.dir).output().expect("docker starts").into()
    }

    /// `docker ARGS`, which must succeed; returns what it prints.
    pub fn run(&self, args: &[&str]) -> String {
        let ran = self.attempt(args);
        assert!(ran.ok, "docker {args:?}: {}{}", ran.stdout, ran.stderr);
        ran.stdout.trim().to_owned()
    }

    /// Starts a container that does nothing.
    pub fn idle(&self, name: &str, network: &str) {
        self.run(&["run", "-d", "--name", name, "--network", network, "box", "sleep", "3600"]);
    }

    /// A container's address in its only network.
    pub fn address(&self, name: &str) -> String {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        self.run(&["inspect", "-f", format, name])
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        // So that runc removes their cgroups; the rest ends with the namespaces.
        let containers = self.attempt(&["ps", "-aq"]).stdout;
        for id in containers.split_whitespace() {
            self.attempt(&["rm", "-f", id]);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let prefix = self.site.prefix();
        let _ = Command::new("find")
            .args(["/sys/fs/cgroup", "-depth", "-type", "d", "-path", &format!("*/{prefix}*")])
            .args(["-exec", "rmdir", "{}", ";"])
            .output();
    }
}
