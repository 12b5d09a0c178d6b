//! `cargo xtask bench`: what the tracer costs, in packets per second and in ns per program run.
//!
//! The path is veth → bridge → routing → veth, in namespaces of its own, then the same with rules. One round measures every
//! load once, so that a slow minute of the machine falls on all of them alike; ratios are taken
//! within a round.

mod bpf;
mod crowd;
mod loads;
mod net;
mod programs;
mod report;
mod switch;
mod topology;
mod udp;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::layout::Layout;
use crate::{build, process, setup, sh};
use loads::{Beside, LOADS, LOADS_WITH_RULES, Load};
use net::Path;
use programs::Program;
use report::{Costs, Measured, Report, Sample};

/// Rules on the second way.
const RULES: u32 = 500;

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) json: bool,
    /// Only packets per second.
    pub(crate) fast: bool,
    /// Put the table into docs/performance.md.
    pub(crate) write: bool,
    /// What is measured, if not what is built here.
    pub(crate) binary: Option<PathBuf>,
    /// Further arguments for the tracer.
    pub(crate) tracer: Vec<String>,
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
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => {
            setup::run(layout)?;
            build::run(layout)?;
            layout.binary()
        }
    };
    process::catch_signals();
    let path = Path::make()?;
    sh::step("warm-up");
    udp::run(&path, Duration::from_millis(500))?;
    let bench = Bench { binary, options, path };
    let plain = bench.throughput(LOADS)?;
    let is_whole = !bench.options.fast;
    let costs = is_whole.then(|| bench.program_costs()).transpose()?;
    let topology = is_whole.then(|| topology::measure(&bench.binary)).transpose()?;
    let switches = is_whole.then(|| switch::measure(&bench.binary, &bench.path)).transpose()?;
    // Last, since they stay.
    bench.path.add_rules(RULES)?;
    let with_rules = bench.throughput(LOADS_WITH_RULES)?;
    let switches = switches.unwrap_or_default();
    let report = Report { plain, with_rules, costs, topology, switches };
    report.print(bench.options.json);
    if bench.options.write {
        report.write(&layout.root.join("docs/performance.md"))?;
    }
    Ok(())
}

struct Bench {
    binary: PathBuf,
    options: Options,
    path: Path,
}

impl Bench {
    /// Each round gives one sample per load, in their order.
    fn throughput(&self, loads: &'static [Load]) -> Result<Measured> {
        let mut rounds = Vec::new();
        for round in 1..=self.options.rounds {
            let mut samples = Vec::new();
            for &load in loads {
                let sample = self.sample(load)?;
                let (pps, name) = (sample.delivered_per_s, load.name());
                sh::note(format!("round {round}: {name:<42} {pps:>10.0} packets/s"));
                samples.push(sample);
            }
            rounds.push(samples);
        }
        Ok(Measured { loads, rounds })
    }

    fn sample(&self, load: Load) -> Result<Sample> {
        let beside = self.start(load)?;
        let mut sample = udp::run(&self.path, Duration::from_secs_f64(self.options.seconds))?;
        sample.usage = beside.map(Beside::finish).transpose()?;
        Ok(sample)
    }

    fn start(&self, load: Load) -> Result<Option<Beside>> {
        let measured = Duration::from_secs_f64(self.options.seconds);
        load.start(&self.binary, &self.options.tracer, &self.path, measured)
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
        for load in [Load::NoMatch, Load::Refused, Load::AllMatch] {
            let tracer = self.start(load)?.context("this load has a tracer")?;
            udp::run(&self.path, traffic)?;
            programs.push((load, programs::of_process(tracer.pid())?));
            tracer.finish()?;
        }
        Ok(Costs { empty, programs })
    }
}
