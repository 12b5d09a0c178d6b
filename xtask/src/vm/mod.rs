//! `cargo xtask vm`: commands under other kernels than this machine's, in QEMU guests.
//!
//! A guest needs nothing of the host but processor time: its root is an archive in memory, joined
//! from layers (tools, what is run, the kernel's modules). Nothing of the machine's own apt or of
//! its installed packages is changed. No guest has a network.

mod apt;
mod cpio;
mod guest;
mod host;
pub(crate) mod kernel;
mod lock;
mod modules;
pub(crate) mod run;
mod store;
mod tools;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::layout::Layout;
use crate::{process, sh};
use host::Host;
use kernel::{Image, Kernel};
use lock::Lock;
use run::Job;
use store::Store;

/// `vm`'s own commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Vm {
    /// Fetch kernels, QEMU and the guests' own programs into target/vm
    Fetch {
        /// Only these, as in `5.10,6.1`
        #[arg(long, value_delimiter = ',')]
        kernel: Vec<String>,
        /// Take the newest packages and write them to xtask/vm.lock
        #[arg(long)]
        relock: bool,
    },
    /// Run a shell command in a guest of each kernel; output in target/vm/logs
    Run(Run),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Only these, as in `5.10,6.1`
    #[arg(long, value_delimiter = ',')]
    kernel: Vec<String>,
    /// Guests at a time [default: processors]
    #[arg(long)]
    jobs: Option<usize>,
    /// Seconds after which a guest is ended
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// A file for the guest's /usr/local/bin, without its debug information; may be repeated
    #[arg(long)]
    file: Vec<PathBuf>,
    /// Keep each guest's initrd and drive
    #[arg(long)]
    keep: bool,
    /// A script for bash; what it leaves in /out comes to target/vm/out
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// All that guests are made of, fetched and built.
#[derive(Debug)]
pub(crate) struct Ready {
    store: Store,
    host: Host,
    pub(crate) kernels: Vec<(Kernel, Image)>,
    /// Kernels that cannot be had, each with the reason in one line.
    pub(crate) missing: Vec<String>,
}

impl Ready {
    /// Fails if a kernel is missing.
    fn complete(self) -> Result<Self> {
        if self.missing.is_empty() { Ok(self) } else { bail!("{}", self.missing.join("\n")) }
    }
}

/// Carries out one of `vm`'s commands.
///
/// # Errors
///
/// When something cannot be fetched or built; a command that fails in a guest is an exit code.
pub(crate) fn main(layout: &Layout, vm: &Vm) -> Result<ExitCode> {
    process::catch_signals();
    match vm {
        Vm::Fetch { kernel, relock } => {
            let ready = fetch(layout, kernel, *relock)?.complete()?;
            let names: Vec<_> = ready.kernels.iter().map(|(kernel, _)| kernel.series).collect();
            sh::step(format!("guests ready to boot: {}", names.join(", ")));
            Ok(ExitCode::SUCCESS)
        }
        Vm::Run(args) => run_command(layout, args),
    }
}

/// Fetches what is not there yet; a kernel that cannot be had does not keep the others from
/// running.
///
/// # Errors
///
/// When QEMU or the guests' own programs cannot be had.
pub(crate) fn fetch(layout: &Layout, series: &[String], relock: bool) -> Result<Ready> {
    if !cfg!(target_arch = "x86_64") {
        bail!("guests run x86_64 kernels and this machine's own tools: it must be x86_64 too");
    }
    let store = Store::new(layout);
    let mut lock = Lock::read(&layout.root.join("xtask/vm.lock"), relock)?;
    let kernels = kernel::pick(series)?;
    let host = Host::fetch(&store, &mut lock)?;
    let (mut fetched, mut missing) = (Vec::new(), Vec::new());
    for kernel in kernels {
        process::check()?;
        match kernel.fetch(&store, &host, &mut lock) {
            Ok(image) => fetched.push((kernel, image)),
            Err(error) => missing.push(format!("{error:#}")),
        }
    }
    lock.write()?;
    Ok(Ready { store, host, kernels: fetched, missing })
}

fn run_command(layout: &Layout, args: &Run) -> Result<ExitCode> {
    let ready = fetch(layout, &args.kernel, false)?.complete()?;
    let files = args.file.iter().map(|path| {
        let name = path.file_name().with_context(|| format!("{} is no file", path.display()))?;
        Ok((name.to_string_lossy().into_owned(), path.clone()))
    });
    let jobs = args.jobs.unwrap_or_else(|| available_parallelism().map_or(1, usize::from));
    let job = Job {
        script: args.command.join(" "),
        files: files.collect::<Result<_>>()?,
        jobs,
        timeout: Duration::from_secs(args.timeout),
        keep: args.keep,
    };
    let alone = ready.kernels.len() == 1;
    let outcomes = run::run(&ready, &job, &|series, text| show(alone, series, text))?;
    let worst = outcomes.iter().map(|outcome| outcome.code.unwrap_or(u8::MAX)).max();
    Ok(ExitCode::from(worst.unwrap_or(0)))
}

/// A guest's line, whose it is unless there is but one.
pub(crate) fn show(alone: bool, series: &str, text: &str) {
    let mut out = std::io::stdout().lock();
    // A closed pipe downstream is no reason to end guests.
    let _ = if alone { writeln!(out, "{text}") } else { writeln!(out, "{series:>5}| {text}") };
}
