//! Commands in guests: as many at a time as asked for, one line of result each.
//!
//! A guest that did not finish (a panic, a hang) is booted once more: the fault may be the
//! emulator's. A command that returned is never run again, whatever it returned, nor one that was
//! at work when its time was over.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::cpio::Cpio;
use super::guest::{Ended, Guest};
use super::kernel::{Image, Kernel};
use super::{Ready, tools};
use crate::{process, sh};

const INIT: &str = include_str!("init.sh");

/// What to run, and in how many guests at once.
#[derive(Debug)]
pub(crate) struct Job {
    /// A bash script.
    pub(crate) script: String,
    /// Programs and other files, put into the guest's `/usr/local/bin` under the name given.
    pub(crate) files: Vec<(String, PathBuf)>,
    pub(crate) jobs: usize,
    pub(crate) timeout: Duration,
    /// Keep initrd and drive of each guest.
    pub(crate) keep: bool,
}

/// What became of a kernel's guest.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) series: &'static str,
    /// The command's exit code; none if the guest never finished.
    pub(crate) code: Option<u8>,
    /// The command's output.
    pub(crate) log: PathBuf,
    /// What it left in `/out`.
    pub(crate) out: PathBuf,
    line: String,
}

/// Runs the job under each kernel; `line` takes the output, with the kernel it came from.
///
/// # Errors
///
/// When a layer cannot be built, QEMU not started, or on a signal.
pub(crate) fn run(
    ready: &Ready,
    job: &Job,
    line: &(dyn Fn(&str, &str) + Sync),
) -> Result<Vec<Outcome>> {
    let scratch = ready.store.scratch();
    fs::create_dir_all(&scratch)?;
    let result = run_in(ready, job, line, &scratch);
    if job.keep {
        sh::note(format!("kept: {}", scratch.display()));
    } else {
        fs::remove_dir_all(&scratch)?;
    }
    let outcomes = result?;
    for outcome in &outcomes {
        eprintln!("    {}", outcome.line);
    }
    Ok(outcomes)
}

fn run_in(
    ready: &Ready,
    job: &Job,
    line: &(dyn Fn(&str, &str) + Sync),
    scratch: &Path,
) -> Result<Vec<Outcome>> {
    let layer = scratch.join("run.cpio");
    job.layer(&layer, scratch)?;
    let programs = job.files.iter().map(|(_, path)| path.as_path());
    let layers = [tools::layer(&ready.store, &ready.host, programs)?, layer];
    let waiting = Mutex::new(ready.kernels.iter().rev().collect::<Vec<_>>());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..job.jobs.clamp(1, ready.kernels.len().max(1)) {
            scope.spawn(|| {
                while let Some((kernel, image)) = pop(&waiting) {
                    let guest = job.guest(ready, *kernel, image, &layers, scratch);
                    let outcome = finish(&guest, kernel.series, &|text| line(kernel.series, text));
                    if let Ok(mut done) = done.lock() {
                        done.push(outcome);
                    }
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_default();
    let mut outcomes = done.into_iter().collect::<Result<Vec<_>>>()?;
    outcomes
        .sort_by_key(|o| ready.kernels.iter().position(|(kernel, _)| kernel.series == o.series));
    Ok(outcomes)
}

fn pop<T>(from: &Mutex<Vec<T>>) -> Option<T> {
    process::check().ok()?;
    from.lock().ok()?.pop()
}

/// Boots a guest, twice if need be.
fn finish(
    guest: &Guest<'_>,
    series: &'static str,
    line: &(dyn Fn(&str) + Sync),
) -> Result<Outcome> {
    let mut ended = guest.boot(line)?;
    let mut again = "";
    if ended.code.is_none() && !ended.is_slow {
        eprintln!("warning: guest {series}: {}\n    booting it once more", ended.why);
        again = ", second boot";
        ended = guest.boot(line)?;
    }
    let Ended { code, boot, took, why, .. } = ended;
    let boot = boot.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}"));
    let result = code.map_or_else(|| why, |code| format!("exit {code}"));
    let took = took.as_secs_f64();
    let line = format!("{series:<5} boot {boot:>5} s  total {took:>6.1} s{again}  {result}");
    Ok(Outcome { series, code, log: guest.log(), out: guest.out.join(series), line })
}

impl Job {
    fn guest<'a>(
        &self,
        ready: &'a Ready,
        kernel: Kernel,
        image: &'a Image,
        layers: &'a [PathBuf],
        scratch: &Path,
    ) -> Guest<'a> {
        let Ready { host, store, .. } = ready;
        Guest {
            name: kernel.series,
            host,
            image,
            options: kernel.options,
            layers,
            scratch: scratch.join(kernel.series),
            logs: store.logs(),
            out: store.out(),
            timeout: self.timeout,
        }
    }

    /// The run layer: init, the command, and its files without debug information.
    fn layer(&self, to: &Path, scratch: &Path) -> Result<()> {
        let mut cpio = Cpio::create(to)?;
        cpio.file("init", 0o755, INIT.as_bytes())?;
        cpio.file("vm/command", 0o644, self.script.as_bytes())?;
        for (name, path) in &self.files {
            let stripped = scratch.join("stripped");
            let mut strip = Command::new("strip");
            strip.arg("-o").arg(&stripped).arg(path);
            let is_elf = fs::read(path)
                .with_context(|| format!("cannot read {}", path.display()))?
                .starts_with(b"\x7fELF");
            let from = if is_elf && sh::succeeds(&mut strip) { &stripped } else { path };
            cpio.copy(&format!("usr/local/bin/{name}"), from)?;
        }
        cpio.finish().map(|_| ())
    }
}
