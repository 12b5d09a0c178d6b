//! One boot of one guest: QEMU with emulated CPUs, a root in memory, three serial ports.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::apt::fresh_dir;
use super::host::Host;
use super::kernel::Image;
use crate::{process, sh};

/// `panic=-1` with `-no-reboot`: a panic ends QEMU within seconds. `no_timer_check`: an emulated
/// timer may be late on a busy host. `rcu_expedited`: detaching probes takes a fifth of the time.
/// `mitigations=off`: a system call without page table isolation is a fifth less to emulate.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 oops=panic no_timer_check \
                            rcupdate.rcu_expedited=1 mitigations=off";

/// The leanest that runs everything here: `max` brings features (SMAP, PCID, wide registers) that
/// cost an emulator a fifth more and show no test anything.
const CPU: &str = "Nehalem";

const MEMORY_MB: &str = "1024";

/// Room for what a guest leaves in `/out`; sparse on the host.
const OUT_BYTES: u64 = 256 << 20;

/// What one guest is made of and where its files go.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    pub(super) name: &'a str,
    pub(super) host: &'a Host,
    pub(super) image: &'a Image,
    /// Kernel options beside the common ones.
    pub(super) options: &'a str,
    /// Layers in order, the last one over the others.
    pub(super) layers: &'a [PathBuf],
    /// Its own directory, for the initrd and the ports.
    pub(super) scratch: PathBuf,
    pub(super) logs: PathBuf,
    pub(super) out: PathBuf,
    pub(super) timeout: Duration,
}

/// How a guest ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// What the command returned; none if the guest did not come that far.
    pub(super) code: Option<u8>,
    /// Seconds from the kernel's start to the command's.
    pub(super) boot: Option<f64>,
    pub(super) took: Duration,
    /// Its time was over while the command was at work: slow, not hung at boot.
    pub(super) is_slow: bool,
    /// Why there is no code.
    pub(super) why: String,
}

impl Guest<'_> {
    /// The command's output.
    pub(super) fn log(&self) -> PathBuf {
        self.logs.join(format!("{}.log", self.name))
    }

    /// The kernel's messages.
    pub(super) fn console(&self) -> PathBuf {
        self.logs.join(format!("{}.console", self.name))
    }

    /// Boots it and waits for its end; `line` takes each line of the command's output.
    ///
    /// # Errors
    ///
    /// When QEMU cannot be started, or on a signal.
    pub(super) fn boot(&self, line: &(dyn Fn(&str) + Sync)) -> Result<Ended> {
        fresh_dir(&self.scratch)?;
        fs::create_dir_all(&self.logs)?;
        let initrd = self.scratch.join("initrd");
        self.join_layers(&initrd)?;
        let drive = self.scratch.join("out.img");
        File::create(&drive)?.set_len(OUT_BYTES)?;
        let port = self.scratch.join("exit");
        let started = Instant::now();
        let mut running = Running(self.command(&initrd, &drive, &port).spawn().context("QEMU")?);
        let output = running.0.stdout.take().context("stdout is piped")?;
        let finished = thread::scope(|scope| {
            let reader = scope.spawn(|| tee(output, &self.log(), line));
            let finished = running.wait(started + self.timeout);
            drop(running);
            reader.join().unwrap_or_else(|_| bail!("reading the guest's output failed"))?;
            finished
        })?;
        let took = started.elapsed();
        let code = fs::read_to_string(&port).ok().and_then(|text| text.trim().parse().ok());
        if code.is_some() {
            self.take_out(&drive)?;
        }
        let console = fs::read(self.console()).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let boot = uptime(&console, "ready");
        let why = match (code, finished) {
            (Some(_), _) => String::new(),
            (None, false) => format!("no end within {} s", self.timeout.as_secs()),
            (None, true) => last_lines(&console),
        };
        let has_output = fs::metadata(self.log()).is_ok_and(|meta| meta.len() > 0);
        Ok(Ended { code, boot, took, is_slow: !finished && has_output, why })
    }

    fn command(&self, initrd: &Path, drive: &Path, port: &Path) -> Command {
        let mut qemu = self.host.qemu();
        qemu.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "1"]);
        qemu.args(["-m", MEMORY_MB, "-nodefaults", "-no-user-config", "-display", "none"]);
        let options = format!("{COMMAND_LINE} {}", self.options);
        qemu.args(["-no-reboot", "-device", "virtio-rng-pci", "-append", &options]);
        qemu.arg("-kernel").arg(&self.image.vmlinuz).arg("-initrd").arg(initrd);
        qemu.args(["-drive", &format!("file={},format=raw,if=virtio", drive.display())]);
        qemu.args(["-serial", &format!("file:{}", self.console().display())]);
        qemu.args(["-serial", "stdio", "-serial", &format!("file:{}", port.display())]);
        // SAFETY: `prctl` may be called between fork and exec.
        unsafe {
            qemu.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        qemu
    }

    fn join_layers(&self, initrd: &Path) -> Result<()> {
        let mut joined = File::create(initrd)?;
        for layer in self.layers.iter().chain([&self.image.modules]) {
            let mut layer =
                File::open(layer).with_context(|| format!("no layer {}", layer.display()))?;
            std::io::copy(&mut layer, &mut joined)?;
        }
        Ok(())
    }

    /// Unpacks what the guest wrote onto its drive, if anything.
    fn take_out(&self, drive: &Path) -> Result<()> {
        let mut head = [0; 512];
        std::io::Read::read_exact(&mut File::open(drive)?, &mut head)?;
        let to = self.out.join(self.name);
        fresh_dir(&to)?;
        if head.iter().all(|&byte| byte == 0) {
            return Ok(fs::remove_dir(&to)?);
        }
        sh::output(Command::new("tar").arg("xf").arg(drive).arg("-C").arg(&to)).map(|_| ())
    }
}

/// QEMU; killed when dropped.
struct Running(Child);

impl Running {
    /// Whether it ended by itself.
    fn wait(&mut self, deadline: Instant) -> Result<bool> {
        while self.0.try_wait()?.is_none() {
            process::check()?;
            if Instant::now() > deadline {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(true)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both do nothing when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tee(output: impl std::io::Read, log: &Path, line: &(dyn Fn(&str) + Sync)) -> Result<()> {
    let mut log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut output = BufReader::new(output);
    let mut bytes = Vec::new();
    while output.read_until(b'\n', &mut bytes)? > 0 {
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches(['\r', '\n']);
        writeln!(log, "{text}")?;
        line(text);
        bytes.clear();
    }
    Ok(())
}

/// The seconds in `vm: ready 2.41`.
fn uptime(console: &str, event: &str) -> Option<f64> {
    let mut events = console.lines().filter_map(|line| line.trim().strip_prefix("vm: "));
    events.find_map(|said| said.strip_prefix(event)?.trim().parse().ok())
}

fn last_lines(console: &str) -> String {
    let lines: Vec<_> = console.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(6)..).unwrap_or_default();
    format!("the guest died; its console ends in:\n    {}", last.join("\n    "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_tells_when_the_guest_was_ready() {
        let console = "noise\r\nvm: init 1.20\r\nvm: ready 2.41\r\n";
        assert_eq!(uptime(console, "ready"), Some(2.41));
        assert_eq!(uptime("vm: init 1.2", "ready"), None);
    }

    #[test]
    fn a_dead_guest_shows_its_last_words() {
        let said = last_lines("a\nb\nc\nd\ne\nf\r\n\r\ng\n");
        assert!(said.ends_with("f\n    g") && !said.contains("    a\n"), "{said}");
    }
}
