//! `cargo xtask bench`: what the tracer costs, in packets per second and in ns per program run.
//!
//! The path is veth → bridge → routing → veth, in namespaces of its own. One round measures every
//! load once, so that a slow minute of the machine falls on all of them alike; ratios are taken
//! within a round.

mod bpf;
mod net;
mod programs;
mod report;
mod topology;
mod udp;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::layout::Layout;
use crate::process::{self, Tracer};
use crate::{build, setup, sh};
use net::Path;
use programs::Program;
use report::{Costs, Report, Sample};

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) json: bool,
    /// Further arguments for the tracer.
    pub(crate) tracer: Vec<String>,
}

/// What runs beside the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    Nothing,
    NoMatch,
    AllMatch,
}

pub(crate) const LOADS: [Load; 3] = [Load::Nothing, Load::NoMatch, Load::AllMatch];

impl Load {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no tracer",
            Self::NoMatch => "nothing matches",
            Self::AllMatch => "everything matches",
        }
    }

    /// The tracer's filter, or no tracer.
    fn filter(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Nothing => None,
            Self::NoMatch => Some(&["--dst", "203.0.113.250"]),
            Self::AllMatch => Some(&["--proto", "udp", "--max-journeys", "1000000000"]),
        }
    }
}

/// Builds, measures, prints.
///
/// # Errors
///
/// Without root, or when a measurement fails; the namespaces are gone afterwards.
pub(crate) fn run(layout: &Layout, options: Options) -> Result<()> {
    if !sh::is_root() {
        bail!("the benchmark makes network namespaces and loads BPF programs: run it as root");
    }
    if options.rounds == 0 || !(0.1..=600.0).contains(&options.seconds) {
        bail!("at least one round, of 0.1 to 600 seconds");
    }
    setup::run(layout)?;
    build::run(layout)?;
    process::catch_signals();
    let path = Path::make()?;
    sh::step("warm-up");
    udp::run(&path, Duration::from_millis(500))?;
    let bench = Bench { binary: layout.binary(), options, path };
    let rounds = bench.throughput()?;
    let costs = bench.program_costs()?;
    let topology = topology::measure(&bench.binary)?;
    Report { rounds, costs, topology }.print(bench.options.json);
    Ok(())
}

struct Bench {
    binary: PathBuf,
    options: Options,
    path: Path,
}

impl Bench {
    /// Each round gives one sample per load, in the order of [`LOADS`].
    fn throughput(&self) -> Result<Vec<[Sample; 3]>> {
        let mut rounds = Vec::new();
        for round in 1..=self.options.rounds {
            let mut samples = [Sample::default(); 3];
            for (load, sample) in LOADS.into_iter().zip(&mut samples) {
                *sample = self.sample(load)?;
                let (pps, name) = (sample.delivered_per_s, load.name());
                sh::note(format!("round {round}: {name:<20} {pps:>10.0} packets/s"));
            }
            rounds.push(samples);
        }
        Ok(rounds)
    }

    fn sample(&self, load: Load) -> Result<Sample> {
        let tracer = self.tracer(load)?;
        let counts = udp::run(&self.path, Duration::from_secs_f64(self.options.seconds))?;
        if let Some(tracer) = tracer {
            tracer.finish(Duration::ZERO)?;
        }
        Ok(counts)
    }

    fn tracer(&self, load: Load) -> Result<Option<Tracer>> {
        let Some(filter) = load.filter() else { return Ok(None) };
        let mut command = Command::new(&self.binary);
        command.args(filter).args(["-q", "-o", "json", "-w", "/dev/null"]);
        command.args(&self.options.tracer);
        let ready = format!("pkttrace-bench-{}.ready", std::process::id());
        Tracer::start(command, &std::env::temp_dir().join(ready)).map(Some)
    }

    /// Apart from the rounds, since counting costs time itself.
    fn program_costs(&self) -> Result<Costs> {
        sh::step("ns per program run");
        let _counting = bpf::count_runs().context("the kernel's BPF run-time counters")?;
        let traffic = Duration::from_secs_f64(self.options.seconds);
        let empty = bpf::EmptyProgram::attach(c"netif_receive_skb")?;
        udp::run(&self.path, traffic)?;
        let empty = empty.cost()?;
        let mut programs: Vec<(Load, Vec<Program>)> = Vec::new();
        for load in [Load::NoMatch, Load::AllMatch] {
            let tracer = self.tracer(load)?.context("this load has a tracer")?;
            udp::run(&self.path, traffic)?;
            programs.push((load, programs::of_process(tracer.pid())?));
            tracer.finish(Duration::ZERO)?;
        }
        Ok(Costs { empty, programs })
    }
}
