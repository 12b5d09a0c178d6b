//! The only wiring: source → journeys → report → renderer, and everything that ends a run.

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, interval, sleep, sleep_until};

use crate::bpf::{self, Counters};
use crate::config::Config;
use crate::explain;
use crate::journey::{self, Fate, GapCause, Journey};
use crate::kernel::names::KernelNames;
use crate::net::{self, Inum};
use crate::output::{self, is_closed_pipe, is_reader_gone, say};
use crate::owner::Owners;
use crate::privileges;
use crate::ready;
use crate::render::{self, Renderer, Style};
use crate::report::{self, Summary};
use crate::signals::{self, Signals};
use crate::silence::Silence;
use crate::source::{Drained, Live, Setup, Switch};
use crate::terminal;

/// How often the ring is looked at: no packet wakes the reader, so that a hop stays cheap.
const TICK: Duration = Duration::from_millis(2);
/// How often when nothing has come for [`QUIET`]: waiting should cost nothing.
const IDLE_TICK: Duration = Duration::from_millis(20);
/// How often when packets are watched only where they begin: the first one is waited for.
const THIN_TICK: Duration = Duration::from_millis(4);
/// See [`IDLE_TICK`].
const QUIET: Duration = Duration::from_secs(1);
/// How often outlived entries are looked for, and whether anybody still reads the output.
const AGE: Duration = Duration::from_secs(1);
/// How long the end may take that a signal asks for: then what is left is left out, and said.
const LAST: Duration = Duration::from_millis(350);
/// The same of an end by `--duration`: nobody waits for the prompt, and a busy machine is slow.
const LAST_OF_ITSELF: Duration = Duration::from_secs(5);
/// Far future, for the deadline that was not asked for.
const NEVER: Duration = Duration::from_secs(86_400 * 365);

/// `pkttrace trace`.
///
/// # Errors
///
/// What keeps it from running, or from going on, in one line.
pub fn trace(config: Config) -> Result<ExitCode> {
    signals::block_on(async { Trace::start(config).await?.run().await })
}

/// One run.
struct Trace {
    config: Config,
    live: Live,
    names: KernelNames,
    builder: journey::Builder,
    order: journey::Sequencer,
    /// Those that `context` speaks of.
    owners: Arc<Owners>,
    context: report::Context,
    /// The root namespace of the node whose view is asked for.
    view: Option<Inum>,
    renderer: Box<dyn Renderer>,
    ids: report::Ids,
    out: Box<dyn Write>,
    counted: u64,
    finished: u64,
    drops: u64,
    /// What did not match, while nothing has.
    silence: Silence,
    /// When to stop printing, once the end has begun.
    until: Option<Instant>,
    /// A signal has come.
    is_told_to_end: bool,
    /// Journeys that the node whose view is asked for does not see.
    hidden: u64,
    /// Journeys that were met while not all probe points were attached.
    late: u64,
    /// Packets were watched only where they begin and are dropped for a while.
    has_thinned: bool,
}

impl Trace {
    async fn start(config: Config) -> Result<Self> {
        privileges::check(privileges::Command::Trace, config.quiet)?;
        let view = config.view.as_deref().map(net::resolve).transpose().context("--view")?;
        // Before anything is attached: a file that cannot be written costs nothing then.
        let out = output::open(config.write.as_deref())?;
        let Setup { live, names, notes } = Live::start(&config).await?;
        if config.verbose > 0 {
            for note in notes {
                say(&note);
            }
        }
        let owners = live.owners();
        let context = report::Context {
            node: output::node_name(),
            clock_offset_ns: bpf::clock_offset_ns(),
            owners: owners.report(),
        };
        let style = Style {
            has_color: config.color,
            width: terminal_width(&config),
            utc_offset_s: terminal::utc_offset_s(),
        };
        let each = config.each || config.verbose > 0;
        Ok(Self {
            renderer: render::of_run(config.format, style, each),
            ids: report::Ids::default(),
            live,
            names,
            builder: journey::Builder::new(journey::Options::default()),
            order: journey::Sequencer::default(),
            owners,
            context,
            view,
            out,
            counted: 0,
            finished: 0,
            drops: 0,
            silence: Silence::new(config.quiet),
            until: None,
            is_told_to_end: false,
            hidden: 0,
            late: 0,
            has_thinned: false,
            config,
        })
    }

    async fn run(mut self) -> Result<ExitCode> {
        let mut signals = Signals::new()?;
        signals::flushing(None);
        self.announce()?;
        privileges::shed();
        let mut next_turn = Instant::now();
        let mut last_event = next_turn;
        let mut age = interval(AGE);
        let deadline = Instant::now() + self.config.duration.unwrap_or(NEVER);
        let result = loop {
            tokio::select! {
                biased;
                _ = signals.recv() => {
                    self.is_told_to_end = true;
                    break Ok(());
                }
                () = sleep_until(deadline) => break Ok(()),
                () = sleep_until(next_turn) => match self.turn() {
                    Ok(Turn { is_enough: true, .. }) => break Ok(()),
                    Ok(Turn { events, is_behind, .. }) => {
                        let now = Instant::now();
                        last_event = if events > 0 { now } else { last_event };
                        let is_quiet = now.duration_since(last_event) > QUIET;
                        next_turn = now
                            + match is_quiet {
                                _ if self.live.is_thin() => THIN_TICK,
                                true => IDLE_TICK,
                                false => TICK,
                            };
                        // Behind a flood there is no time to wait, but for a signal.
                        if is_behind {
                            next_turn = now;
                        }
                    }
                    Err(e) => break Err(e),
                },
                _ = age.tick() => {
                    self.live.age();
                    self.silence.tick(&mut self.live, &self.config.filter);
                    if self.config.write.is_none() && is_reader_gone() {
                        break Ok(());
                    }
                }
                // Last: a node that changes without pause must not keep the ring from being read.
                () = self.live.follow_change() => self.name_owners(),
            }
        };
        self.end(result, &mut signals).await
    }

    /// Takes over the owners as they are known now.
    fn name_owners(&mut self) {
        let owners = self.live.owners();
        if !Arc::ptr_eq(&owners, &self.owners) {
            let is_new =
                |doubt: &&String| !self.config.quiet && !self.owners.doubts().contains(doubt);
            owners.doubts().iter().filter(is_new).for_each(|doubt| say(doubt));
            self.context.owners = owners.report();
            self.owners = owners;
        }
    }

    /// Says that every probe is attached.
    fn announce(&self) -> Result<()> {
        if let Some(path) = &self.config.ready_file {
            ready::say(path)?;
        }
        if !self.config.quiet && io::stderr().is_terminal() {
            say("tracing, Ctrl-C ends");
        }
        Ok(())
    }

    /// Reads what is there and prints what is finished.
    fn turn(&mut self) -> Result<Turn> {
        let builder = &mut self.builder;
        let drained = self.live.drain(|event| builder.push(event));
        let Drained { events, first_ns, newest_ns, read_to_ns: now, is_behind } = drained;
        if let Some(switch) = self.live.change_stage(events > 0, builder) {
            self.has_thinned = true;
            if self.config.verbose > 0 {
                say_stage(switch, first_ns);
            }
        }
        self.live.tell_lost(&mut self.builder);
        self.live.drain_rules();
        let mut done = self.builder.take_finished(now, self.live.state(), &self.names);
        done.iter_mut().for_each(|j| self.live.attribute(j));
        done.iter_mut().for_each(|j| self.live.mark_uncovered(j));
        let seen = self.in_view(done);
        let due = self.order.pass(seen, now);
        Ok(Turn { events, newest_ns, is_behind, is_enough: !self.print(due)? })
    }

    /// What the node that was asked for sees of the journeys. Its pods come and go.
    fn in_view(&mut self, journeys: Vec<Journey>) -> Vec<Journey> {
        let Some(root) = self.view.filter(|_| !journeys.is_empty()) else { return journeys };
        let state = self.live.state();
        let view = net::view::view(state, root);
        let all = journeys.len();
        let seen: Vec<_> =
            journeys.into_iter().filter_map(|journey| journey.within(&view, state)).collect();
        self.hidden += (all - seen.len()) as u64;
        seen
    }

    /// Prints what has been seen by now. Events that come meanwhile do not keep it: a flood may
    /// bring them as fast as they are read. Another signal means that even this is too long.
    async fn rest(&mut self, signals: &mut Signals) -> Result<()> {
        let until_ns = bpf::monotonic_ns();
        let last = if self.is_told_to_end { LAST } else { LAST_OF_ITSELF };
        self.until = Some(Instant::now() + last);
        loop {
            let turn = self.turn()?;
            if turn.is_enough {
                return Ok(());
            }
            if turn.events == 0 || turn.newest_ns >= until_ns || self.is_late() {
                break;
            }
            tokio::select! {
                biased;
                _ = signals.recv() => return Ok(()),
                () = sleep(Duration::from_millis(1)) => {}
            }
        }
        self.live.drain_rules();
        let mut open = self.builder.flush(self.live.state(), &self.names);
        open.iter_mut().for_each(|j| self.live.attribute(j));
        open.iter_mut().for_each(|j| self.live.mark_uncovered(j));
        let seen = self.in_view(open);
        let rest = self.order.finish(seen);
        self.print(rest).map(|_| ())
    }

    /// The time for what is left is over.
    fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Prints; false when enough is printed.
    fn print(&mut self, journeys: Vec<Journey>) -> Result<bool> {
        let any = !journeys.is_empty();
        for mut journey in journeys {
            if self.is_late() {
                break;
            }
            self.finished += 1;
            self.silence.end();
            let dropped = journey.fate == Fate::Dropped;
            self.drops += u64::from(dropped);
            if self.config.dropped && !dropped {
                continue;
            }
            self.ids.renumber(&mut journey);
            self.late += u64::from(journey.gaps.iter().any(|g| g.why == GapCause::LateAttach));
            let mut twin = report::Journey::from(&journey, &self.context);
            if self.config.explain {
                twin.explain(explain::hop);
            }
            self.renderer.journey(&twin, &mut self.out)?;
            self.counted += u64::from(counts(&journey));
            if self.config.count.is_some_and(|n| self.counted >= n) {
                self.out.flush()?;
                return Ok(false);
            }
        }
        let now_ns = bpf::monotonic_ns().saturating_add_signed(self.context.clock_offset_ns);
        self.renderer.turn(now_ns, &mut self.out)?;
        if any {
            self.out.flush()?;
        }
        Ok(true)
    }

    /// Flushes, sums up, lets go of the kernel.
    async fn end(mut self, result: Result<()>, signals: &mut Signals) -> Result<ExitCode> {
        let enough = self.config.count.is_some_and(|n| self.counted >= n);
        let mut result = result;
        if result.is_ok() && !enough {
            result = self.rest(signals).await;
        }
        let counters = self.live.counters()?;
        let summary = self.summary(&counters);
        if result.is_ok() {
            result = self
                .renderer
                .summary(&summary, &mut self.out)
                .and_then(|()| self.out.flush())
                .map_err(Into::into);
        }
        // An error is all that is said, but nobody reading any more is none.
        self.silence.clear();
        let is_clean = result.as_ref().err().is_none_or(is_closed_pipe);
        if !self.config.quiet && is_clean {
            self.live.rule_notes().iter().for_each(|note| say(note));
            self.sum_up(&counters);
            self.silence.explain(&mut self.live, &self.config.filter).iter().for_each(|l| say(l));
        }
        let code = u8::from(self.config.exit_code && self.drops > 0);
        self.live.remove_filters();
        if result.is_ok() {
            signals::concluded(code);
        }
        self.live.stop().await;
        result.map(|()| ExitCode::from(code)).with_context(|| match &self.config.write {
            Some(path) => format!("cannot write {}", path.display()),
            None => "cannot write to standard output".to_owned(),
        })
    }

    fn summary(&self, counters: &Counters) -> Summary {
        let probes = self.live.probes();
        let attached = probes.iter().filter(|p| p.by.is_some()).count();
        Summary {
            journeys: self.finished,
            events: counters.events,
            lost_events: self.lost(counters),
            refused_journeys: counters.refused() + self.untold(counters),
            probes: report::Probes {
                attached: u32::try_from(attached).unwrap_or(u32::MAX),
                unavailable: probes
                    .into_iter()
                    .filter_map(|p| Some(report::Unavailable { probe: p.probe, why: p.why? }))
                    .collect(),
            },
            ..Summary::new()
        }
    }

    /// Events that the journeys lack which were told.
    fn lost(&self, counters: &Counters) -> u64 {
        let elsewhere = self.builder.lost_late() + self.builder.lost_untold();
        counters.lost_events.saturating_sub(elsewhere)
    }

    /// Packets that were admitted and not told, but for want of need: their events did not arrive,
    /// or the end came first.
    fn untold(&self, counters: &Counters) -> u64 {
        let is_enough = self.config.count.is_some_and(|n| self.counted >= n);
        let told = self.finished + self.hidden + self.builder.dismissed();
        if is_enough { 0 } else { counters.admitted.saturating_sub(told) }
    }

    /// The loss summary, on stderr.
    fn sum_up(&self, counters: &Counters) {
        let mut text = format!("{} packets, {} events", self.finished, counters.events);
        let untold = self.untold(counters);
        let refused = counters.refused() + untold;
        if refused > 0 {
            let mut why = Vec::new();
            if untold > self.builder.unheard() {
                why.push("the end came before they were told");
            }
            if untold > 0 && self.builder.unheard() > 0 {
                why.push("all their events were lost: raise --buffer");
            }
            if counters.refused_ring > 0 {
                why.push("the buffer was full: raise --buffer");
            }
            if counters.refused_rate > 0 {
                why.push("over --max-journeys: raise it, or filter more narrowly");
            }
            if counters.refused_table > 0 {
                why.push("too many packets under way at once");
            }
            text.push_str(&format!("; {refused} packets not followed ({})", why.join(", ")));
        }
        let lost = self.lost(counters);
        if lost > 0 {
            text.push_str(&format!("; {lost} events lost (marked where)"));
        }
        if self.late > 0 {
            text.push_str(&format!(
                "; {} met while not all probe points were attached (marked where{})",
                self.late,
                if self.has_thinned { "; --warm keeps them" } else { "" }
            ));
        }
        if counters.missed_runs > 0 {
            let missed = counters.missed_runs;
            text.push_str(&format!("; {missed} frees or route look-ups missed by the kernel"));
        }
        say(&text);
    }
}

/// What one look at the ring came to.
struct Turn {
    /// How many events there were.
    events: usize,
    /// When the newest of them was written, CLOCK_MONOTONIC.
    newest_ns: u64,
    /// More events wait.
    is_behind: bool,
    /// As many journeys are printed as were asked for.
    is_enough: bool,
}

/// Says which stage it is now.
fn say_stage(switch: Switch, first_ns: u64) {
    match switch {
        Switch::Thin => {
            say(
                "until something matches, packets are watched only where they begin and are dropped",
            );
        }
        Switch::Complete => {
            let after = bpf::monotonic_ns().saturating_sub(first_ns);
            say(&format!(
                "all probe points are attached, {} after a packet",
                render::duration(after)
            ));
        }
    }
}

/// Whether a journey counts for `-c`: copies, pieces and what a packet goes on as come with the
/// packet they belong to.
fn counts(journey: &Journey) -> bool {
    !journey.parent.is_some_and(|p| p.kind.is_part() || p.kind.is_succession())
}

/// Columns of the terminal that is written to, if it is one.
fn terminal_width(config: &Config) -> Option<usize> {
    if config.write.is_some() { None } else { terminal::width() }
}
