//! `pkttrace latency`: the run. Probes come and go; in between, the histograms are read.

mod again;
mod compare;
mod probes;
mod segment;
mod slow;
mod tcp;
mod times;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;
use tracer_common::perf::{BUCKETS, Histogram, SegmentKey};

use super::session::{Next, Room, Session};
use super::{Common, YEAR};
use crate::bpf;
use crate::cli::filter::FilterArgs;
use crate::cli::latency::{Duty, LatencyArgs, LatencyFormat, Profile};
use crate::net::meter::{Connection, Depth};
use crate::output::say;
use crate::privileges;
use crate::render::Style;
use crate::render::latency as render;
use crate::report::{self, Latency};
use crate::signals;
use again::Again;
use probes::Probes;
use segment::Segment;
use slow::Watch;
use tcp::Connections;
pub use times::Times;

/// Different segments that the kernel side has room for, four histograms each.
const SEGMENTS: u32 = 2_048;
/// Packets that are timed at once.
const UNDER_WAY: u32 = 65_536;
/// How often histograms are read while they are shown, and whether anybody still reads the output.
const LOOK: Duration = Duration::from_secs(1);

/// What to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to time.
    pub filter: FilterArgs,
    /// What can be asked of `drops` too.
    pub common: Common,
    /// Which parts of the way.
    pub profile: Profile,
    /// When to watch; always, when there is none.
    pub duty: Option<Duty>,
    /// Keep the result there.
    pub save: Option<PathBuf>,
    /// Compare with what was kept there.
    pub baseline: Option<PathBuf>,
    /// How to print.
    pub format: LatencyFormat,
    /// Where to print, if not to stdout.
    pub write: Option<PathBuf>,
    /// Print over what was printed last.
    pub in_place: bool,
}

impl Config {
    /// Resolves what was typed.
    fn resolve(args: &LatencyArgs) -> Self {
        let is_terminal = args.write.is_none() && io::stdout().is_terminal();
        Self {
            filter: args.filter.clone(),
            common: Common::resolve(&args.perf, is_terminal),
            profile: args.profile,
            duty: args.duty(),
            save: args.save.clone(),
            baseline: args.baseline.clone(),
            format: args.output,
            write: args.write.clone(),
            in_place: is_terminal && args.output == LatencyFormat::Table,
        }
    }
}

/// Runs it.
///
/// # Errors
///
/// What keeps it from running, or from going on, in one line.
pub fn run(args: &LatencyArgs) -> Result<ExitCode> {
    let config = Config::resolve(args);
    signals::block_on(async { Run::start(config).await?.run().await })
}

struct Run {
    config: Config,
    out: Box<dyn Write>,
    baseline: Option<Latency>,
    save: Option<Save>,
    session: Session,
    probes: Probes,
    /// As last read: they only grow.
    seen: BTreeMap<SegmentKey, Box<Histogram>>,
    times: Vec<(Segment, Times)>,
    again: Again,
    watch: Watch,
    start: Instant,
    observed: Duration,
    /// Since when it watches, while it does.
    attached: Option<Instant>,
    screen: Screen,
}

/// Tables, each over the last where they are printed in place.
struct Screen {
    style: Style,
    in_place: bool,
    /// Lines that the last table took.
    printed: usize,
}

impl Screen {
    fn new(config: &Config) -> Self {
        let width = crate::terminal::width().filter(|_| config.write.is_none());
        let style = Style { has_color: config.common.has_color, width, ..Style::default() };
        Self { style, in_place: config.in_place, printed: 0 }
    }

    fn print(&mut self, report: &Latency, is_last: bool, out: &mut dyn Write) -> Result<()> {
        let height = crate::terminal::height().filter(|_| self.in_place && !is_last);
        if self.in_place && self.printed > 0 {
            write!(out, "\x1b[{}A\x1b[J", self.printed)?;
        }
        let table = render::table(report, self.style, height);
        self.printed = table.matches('\n').count();
        print(out, &table)
    }
}

impl Run {
    async fn start(config: Config) -> Result<Self> {
        privileges::check(privileges::Command::Trace, config.common.quiet)?;
        // Before anything is attached: what cannot be read or written costs nothing then.
        let baseline = config.baseline.as_deref().map(read).transpose()?;
        let out = crate::output::open(config.write.as_deref())?;
        let save = config.save.clone().map(Save::to).transpose()?;
        let room = Room { drops: 0, segments: SEGMENTS, under_way: UNDER_WAY };
        let configure = |layout: &mut _| Probes::configure(config.profile, layout);
        let (mut session, btf) =
            Session::start(&config.common, &config.filter, room, configure).await?;
        let probes = Probes::load(config.profile, &mut session.side, &btf)?;
        let watch = Watch::start(&session.node.state_in_scope()).await?;
        Ok(Self {
            screen: Screen::new(&config),
            config,
            out,
            baseline,
            save,
            session,
            probes,
            seen: BTreeMap::new(),
            times: Vec::new(),
            again: Again::default(),
            watch,
            start: Instant::now(),
            observed: Duration::ZERO,
            attached: None,
        })
    }

    async fn run(mut self) -> Result<ExitCode> {
        let has_reader = self.config.write.is_none();
        self.start = self.session.begin(LOOK, has_reader);
        self.announce();
        let mut is_first = true;
        loop {
            let begin = Instant::now();
            self.probes.attach(&mut self.session.side, self.session.node.state())?;
            // Attaching takes its time, and nothing is observed meanwhile.
            let attached = Instant::now();
            self.attached = Some(attached);
            if is_first {
                self.session.ready()?;
            }
            is_first = false;
            let on = self.config.duty.map_or(YEAR, |duty| duty.on);
            let mut next = self.wait(attached + on, true).await?;
            self.observed += attached.elapsed();
            self.session.side.detach();
            self.attached = None;
            self.collect()?;
            if next == Next::Due
                && let Some(duty) = self.config.duty
            {
                next = self.wait(begin + duty.every, false).await?;
            }
            if next == Next::End {
                return self.end().await;
            }
        }
    }

    fn announce(&self) {
        if self.config.common.quiet {
            return;
        }
        for unavailable in self.probes.unavailable() {
            say(&format!("{} is not timed: {}", unavailable.probe, unavailable.why));
        }
        say(&match self.config.duty {
            Some(duty) => format!(
                "watching for {:?} in every {:?} (--continuous watches all the time); Ctrl-C ends",
                duty.on, duty.every
            ),
            None => "watching all the time; Ctrl-C ends".to_owned(),
        });
    }

    /// Does what there is to do until `until`, or until the run is over.
    async fn wait(&mut self, until: Instant, is_on: bool) -> Result<Next> {
        loop {
            match self.session.next(until).await? {
                Next::Look => {
                    self.show(is_on)?;
                    if is_on {
                        self.watch.look(Depth::Peaks).await?;
                    }
                }
                Next::Changed if is_on => {
                    self.probes.follow(&mut self.session.side, self.session.node.state());
                }
                Next::Changed => {}
                over => return Ok(over),
            }
        }
    }

    /// Shows what is known by now to whoever looks.
    fn show(&mut self, is_on: bool) -> Result<()> {
        self.take_events();
        if !self.config.in_place && !self.session.has_exporter() {
            return Ok(());
        }
        if is_on {
            self.collect()?;
        }
        let report = self.report(Vec::new())?;
        let again = &self.again;
        self.session.publish(|node| render::metrics(&report, &again.counts(node)));
        if self.config.in_place {
            self.screen.print(&report, false, &mut self.out)?;
        }
        Ok(())
    }

    fn take_events(&mut self) {
        let (again, node, filter) = (&mut self.again, &self.session.node, &self.config.filter);
        self.session.side.drain(|record| again.take(record, node, filter));
    }

    /// Adds what was counted since the last time.
    fn collect(&mut self) -> Result<()> {
        let nothing = Histogram { sum_ns: 0, max_ns: 0, buckets: [0; BUCKETS] };
        for (key, now) in self.session.side.histograms()? {
            let before = self.seen.get(&key).map_or(&nothing, |seen| &**seen);
            if let Some(segment) = Segment::of(&key, &self.session.node, self.probes.sees_queues())
            {
                let known = self.times.iter_mut().find(|(known, _)| *known == segment);
                match known {
                    Some((_, times)) => times.grow(before, &now),
                    None => {
                        let mut times = Times::default();
                        times.grow(before, &now);
                        self.times.push((segment, times));
                    }
                }
            }
            self.seen.insert(key, now);
        }
        Ok(())
    }

    fn report(&self, tcp: Vec<report::TcpConnection>) -> Result<Latency> {
        let mut report = Latency::new(crate::output::node_name(), self.config.profile.name());
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        report.t_ns = bpf::monotonic_ns().saturating_add_signed(bpf::clock_offset_ns());
        report.duration_ns = nanos(self.start.elapsed());
        let still = self.attached.map_or(Duration::ZERO, |begin| begin.elapsed());
        report.observed_ns = nanos(self.observed + still);
        let times = self.times.iter().filter(|(_, times)| times.count() > 0);
        report.segments = times.map(|(segment, times)| self.segment(segment, times)).collect();
        report.segments.sort_by_key(|s| std::cmp::Reverse((s.p50_ns, s.p99_ns)));
        report.tcp = tcp;
        report.retransmissions = self.again.last();
        report.retransmitted = self.again.count() + self.session.side.untold()?;
        report.unplaced = self.session.side.unplaced()?;
        report.missed = self.session.side.missed_runs();
        report.unavailable = self.probes.unavailable().to_vec();
        if let Some(baseline) = &self.baseline {
            report.findings = compare::findings(baseline, &report);
        }
        Ok(report)
    }

    fn segment(&self, segment: &Segment, times: &Times) -> report::Segment {
        report::Segment {
            segment: segment.name.to_owned(),
            netns: Some(segment.netns.clone()),
            owner: self.session.node.owner(segment.netns.inum).cloned(),
            dev: segment.dev.clone(),
            out_netns: segment.out_netns.clone(),
            out_dev: segment.out_dev.clone(),
            proto: segment.proto.clone(),
            count: times.count(),
            sum_ns: times.sum_ns(),
            p50_ns: times.percentile(0.5),
            p90_ns: times.percentile(0.9),
            p99_ns: times.percentile(0.99),
            max_ns: times.max_ns(),
            buckets: times.buckets(),
        }
    }

    async fn end(mut self) -> Result<ExitCode> {
        self.watch.look(Depth::All).await?;
        self.take_events();
        let filter = self.config.filter.clone();
        let is_meant = |c: &Connection| tcp::is_asked_for(&filter, c.local, c.peer);
        let (before, now) = self.watch.ends().context("nothing was read")?;
        let (before, now) = (Connections::of(before), Connections::of(now));
        let mut timed = slow::timed(&self.times);
        (timed.tuples, timed.port) = (now.tuples(is_meant), filter.dport.or(filter.port));
        let mut report = self.report(now.since(&before, &self.session.node, is_meant))?;
        let why =
            self.watch.conclude(self.session.node.state().clone(), timed, &report.node).await?;
        report.findings.extend(why);
        if let Some(save) = &mut self.save {
            save.write(&report)?;
        }
        let mut out = self.out;
        let result = match self.config.format {
            LatencyFormat::Table => self.screen.print(&report, true, &mut out),
            LatencyFormat::Json => print(&mut out, &(serde_json::to_string(&report)? + "\n")),
            LatencyFormat::Html => print(&mut out, &crate::render::latency_html::page(&report)),
        };
        self.session.stop().await;
        result.map(|()| ExitCode::SUCCESS)
    }
}

fn print(out: &mut dyn Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Where the result is kept. Opened before anything is measured, and emptied only when there is
/// something to write: the file may be the baseline.
struct Save {
    path: PathBuf,
    file: File,
}

impl Save {
    fn to(path: PathBuf) -> Result<Self> {
        let opened = File::options().create(true).write(true).truncate(false).open(&path);
        let file = opened.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file })
    }

    fn write(&mut self, report: &Latency) -> Result<()> {
        let text = serde_json::to_string(report)? + "\n";
        let written = self.file.set_len(0).and_then(|()| self.file.write_all(text.as_bytes()));
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// What was kept by `--save`.
fn read(path: &std::path::Path) -> Result<Latency> {
    let what = || format!("--baseline {}", path.display());
    let text = std::fs::read_to_string(path).with_context(what)?;
    let kept: Latency = serde_json::from_str(&text)
        .map_err(|e| io::Error::other(format!("not what --save writes: {e}")))
        .with_context(what)?;
    if kept.kind != "latency" {
        anyhow::bail!("{}: not what --save writes", what());
    }
    Ok(kept)
}
