//! `pkttrace drops`: the run. The kernel counts; every interval the counts are read and printed.

mod counters;
mod noise;
mod rows;
mod ways;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tracer_common::event::LONG_LEN;
use tracer_common::perf::DropKey;

use super::Common;
use super::session::{Next, Room, Session};
use crate::bpf;
use crate::cli::drops::{By, DropsArgs, DropsFormat};
use crate::cli::filter::FilterArgs;
use crate::event::Event;
use crate::journey::{self, GapCause};
use crate::kernel::{names::KernelNames, symbols::Symbols};
use crate::output::say;
use crate::privileges;
use crate::render::Style;
use crate::render::drops::View;
use crate::report::{self, Drops};
use crate::signals;
use counters::Before;
use rows::Table;
use ways::Ways;

/// Different drops that the kernel side has room for.
const ROOM: u32 = 4_096;
/// How often examples are read, and whether anybody still reads the output.
const LOOK: Duration = Duration::from_millis(200);

/// What to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to count.
    pub filter: FilterArgs,
    /// What can be asked of `latency` too.
    pub common: Common,
    /// How often to print.
    pub interval: Duration,
    /// What to tell apart.
    pub by: Vec<By>,
    /// Name the rules.
    pub rules: bool,
    /// Rows for noise too.
    pub with_noise: bool,
    /// How to print.
    pub format: DropsFormat,
    /// Print over what was printed last.
    pub in_place: bool,
}

impl Config {
    /// Resolves what was typed.
    fn resolve(args: &DropsArgs) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let default = if is_terminal { DropsFormat::Table } else { DropsFormat::Line };
        Self {
            filter: args.filter.clone(),
            common: Common::resolve(&args.perf, is_terminal),
            interval: args.interval.0,
            by: args.by.clone(),
            rules: args.rules,
            with_noise: args.all,
            format: args.output.unwrap_or(default),
            in_place: is_terminal,
        }
    }
}

/// Runs it.
///
/// # Errors
///
/// What keeps it from running, or from going on, in one line.
pub fn run(args: &DropsArgs) -> Result<ExitCode> {
    let config = Config::resolve(args);
    signals::block_on(async { Run::start(config).await?.run().await })
}

struct Run {
    config: Config,
    session: Session,
    names: KernelNames,
    table: Table,
    view: View,
    /// With `--rules`.
    ways: Option<Ways>,
    /// Counters as they were when last told, and their next reading.
    before: Before,
    reading: Option<JoinHandle<Before>>,
    last: Instant,
    total: u64,
}

impl Run {
    async fn start(config: Config) -> Result<Self> {
        privileges::check(privileges::Command::Trace, config.common.quiet)?;
        let symbols = std::thread::spawn(Symbols::read);
        let room = Room { drops: ROOM, ..Room::default() };
        let (mut session, btf) =
            Session::start(&config.common, &config.filter, room, |_| {}).await?;
        let load = session.side.load_tracepoint(&btf, "drops", "kfree_skb");
        load.map_err(anyhow::Error::msg).context("cannot count drops")?;
        let state = session.node.state_in_scope();
        let before = spawn_blocking(move || Before::read(state)).await?;
        let ways = match config.rules {
            true => Some(Ways::start(&config.filter).await?),
            false => None,
        };
        session.side.attach("drops")?;
        let names = KernelNames::of(&btf, symbols.join().unwrap_or_default());
        let style = Style {
            has_color: config.common.has_color,
            width: crate::terminal::width(),
            ..Style::default()
        };
        let table = Table::new(config.by.clone(), config.with_noise);
        let view = View::new(config.format, style, config.in_place);
        let last = Instant::now();
        Ok(Self {
            config,
            session,
            names,
            table,
            view,
            ways,
            before,
            reading: None,
            last,
            total: 0,
        })
    }

    async fn run(mut self) -> Result<ExitCode> {
        let every = self.config.interval;
        let mut due = self.session.begin(LOOK, true) + every;
        self.session.ready()?;
        loop {
            let next = tokio::select! {
                next = self.session.next(due) => next?,
                () = ways::follow(self.ways.as_mut()) => continue,
            };
            match next {
                Next::End => break,
                Next::Due => {
                    let before = self.counters_meanwhile().await;
                    self.print(before, false)?;
                    due = Instant::now().max(due) + every;
                }
                Next::Look => self.examples(),
                Next::Changed => {}
            }
        }
        self.end().await
    }

    /// Counters as they are known by now. They are read beside the rest, as it takes its time
    /// where there are many namespaces: what grows in this interval may be told in the next.
    async fn counters_meanwhile(&mut self) -> Option<Before> {
        let mut done = None;
        if self.reading.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(reading) = self.reading.take()
        {
            done = reading.await.ok();
        }
        if self.reading.is_none() {
            let state = self.session.node.state_in_scope();
            self.reading = Some(spawn_blocking(move || Before::read(state)));
        }
        done
    }

    /// Reads examples.
    fn examples(&mut self) {
        let mut samples = Vec::new();
        self.session.side.drain(|record| samples.extend(sample(record)));
        let ways = self.ways.as_mut().map(Ways::turn).unwrap_or_default();
        self.table.ways(ways);
        let context = self.session.node.context();
        for (key, event) in samples {
            let mut builder = journey::Builder::new(journey::Options::default());
            builder.push(event);
            let mut journeys = builder.flush(self.session.node.state(), &self.names);
            if let Some(journey) = journeys.first_mut() {
                if !rows::is_where_they_begin(&key, &self.session.node, &self.names) {
                    journey.add_gap(0, GapCause::JoinedMidway);
                }
                let journey = report::Journey::from(journey, &context);
                self.table.example(&key, journey, &self.session.node, &self.names);
            }
        }
    }

    /// Prints what was dropped since the last time.
    fn print(&mut self, counters: Option<Before>, is_last: bool) -> Result<()> {
        self.examples();
        let counts = self.session.side.drops()?;
        let other = self.session.side.other_drops()?;
        let now = Instant::now();
        let interval = u64::try_from((now - self.last).as_nanos()).unwrap_or(u64::MAX);
        self.last = now;
        let t_ns = bpf::monotonic_ns().saturating_add_signed(bpf::clock_offset_ns());
        let mut drops = Drops::new(crate::output::node_name(), t_ns, interval);
        self.table.take(&counts, &mut drops, &self.session.node, &self.names);
        self.table.take_other(&other, self.session.side.missed_runs(), &mut drops);
        if let Some(counters) = counters {
            drops.counters = self.before.growth(&counters);
            self.before = counters;
        }
        self.total += drops.packets();
        let all = self.table.all();
        self.session.publish(|_| crate::render::drops::metrics(&all, other.packets));
        let mut out = io::stdout().lock();
        self.view.print(&drops, &all, is_last, &mut out)?;
        out.flush()?;
        Ok(())
    }

    async fn end(mut self) -> Result<ExitCode> {
        if let Some(reading) = self.reading.take() {
            reading.abort();
        }
        let state = self.session.node.state_in_scope();
        let counters = spawn_blocking(move || Before::read(state)).await?;
        let result = self.print(Some(counters), true);
        if !self.config.common.quiet && result.is_ok() {
            say(&format!("{} packets dropped", self.total));
        }
        self.session.stop().await;
        if let Some(ways) = self.ways.take() {
            ways.stop().await;
        }
        result.map(|()| ExitCode::SUCCESS)
    }
}

/// An example as it lies in the ring.
fn sample(record: &[u8]) -> Option<(DropKey, Event)> {
    let (key, event) = record.split_at_checked(size_of::<DropKey>())?;
    let event = Event::decode(event.get(..LONG_LEN)?).ok()?;
    // SAFETY: plain old data, and as many bytes as it has.
    let key = unsafe { std::ptr::read_unaligned(key.as_ptr().cast()) };
    Some((key, event))
}
