//! What runs beside the traffic: nothing, the tracer with one filter or another, tcpdump.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::net::Path as Net;
use crate::process::{self, Tracer};

/// Source port of one packet in a hundred.
pub(super) const RARE_PORT: u16 = 9100;

/// How long anything may take to be in place.
const IN_PLACE: Duration = Duration::from_secs(20);

/// What runs beside the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    Nothing,
    Armed,
    Cold,
    NoMatch,
    Hundredth,
    Refused,
    AllAdmitted,
    AllMatch,
    Drops,
    LatencyByTurns,
    Latency,
    TcpdumpNoMatch,
    TcpdumpAll,
}

/// In the order in which a round measures them; the first is what they are compared to.
pub(super) const LOADS: &[Load] = &[
    Load::Nothing,
    Load::Armed,
    Load::Cold,
    Load::NoMatch,
    Load::Hundredth,
    Load::Refused,
    Load::AllAdmitted,
    Load::AllMatch,
    Load::Drops,
    Load::LatencyByTurns,
    Load::Latency,
    Load::TcpdumpNoMatch,
    Load::TcpdumpAll,
];

/// Those that tell how much of it is left where a packet takes its time anyway.
pub(super) const LOADS_WITH_RULES: &[Load] = &[
    Load::Nothing,
    Load::Armed,
    Load::Cold,
    Load::NoMatch,
    Load::AllAdmitted,
    Load::TcpdumpNoMatch,
    Load::TcpdumpAll,
];

/// An address that no packet has.
const NOWHERE: &str = "203.0.113.250";

impl Load {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no tracer",
            Self::Armed => "nothing matches, --armed",
            Self::Cold => "nothing matches, for more than 10 s",
            Self::NoMatch => "nothing matches, --warm",
            Self::Hundredth => "one in a hundred matches",
            Self::Refused => "everything matches, one a second admitted",
            Self::AllAdmitted => "everything matches, default admission",
            Self::AllMatch => "everything matches, no limit",
            Self::Drops => "drops, nothing is dropped",
            Self::LatencyByTurns => "latency, a thirtieth of the time",
            Self::Latency => "latency, all the time",
            Self::TcpdumpNoMatch => "tcpdump, nothing matches",
            Self::TcpdumpAll => "tcpdump, everything matches",
        }
    }

    /// The arguments of what counts instead of following, where it does. `latency` watches its usual
    /// share of the time, by turns that are short enough to be measured.
    fn counts(self, measured: Duration) -> Option<Vec<String>> {
        let turn = format!("{}ms/{}ms", measured.as_millis() / 30, measured.as_millis());
        let args: &[&str] = match self {
            Self::Drops => &["drops", "--interval", "1h"],
            Self::LatencyByTurns => &["latency", "--duration", "1h", "--duty", &turn],
            Self::Latency => &["latency", "--duration", "1h", "--continuous"],
            _ => return None,
        };
        Some(args.iter().map(|arg| (*arg).to_owned()).collect())
    }

    /// The tracer's arguments, where it is the tracer.
    fn filter(self) -> Option<Vec<String>> {
        let rare = RARE_PORT.to_string();
        let args: &[&str] = match self {
            Self::Armed => &["--dst", NOWHERE, "--armed"],
            Self::Cold => &["--dst", NOWHERE],
            Self::NoMatch => &["--dst", NOWHERE, "--warm"],
            Self::Hundredth => &["--proto", "udp", "--sport", &rare],
            Self::Refused => &["--proto", "udp", "--max-journeys", "1"],
            Self::AllAdmitted => &["--proto", "udp"],
            Self::AllMatch => &["--proto", "udp", "--max-journeys", "0"],
            _ => return None,
        };
        Some(args.iter().map(|arg| (*arg).to_owned()).collect())
    }

    fn capture(self) -> Option<String> {
        match self {
            Self::TcpdumpNoMatch => Some(format!("dst {NOWHERE}")),
            Self::TcpdumpAll => Some("udp".to_owned()),
            _ => None,
        }
    }

    /// Starts it, and returns once it is in place; `None` where nothing is to be started.
    pub(super) fn start(
        self,
        binary: &Path,
        more: &[String],
        net: &Net,
        measured: Duration,
    ) -> Result<Option<Beside>> {
        let started = Instant::now();
        let ready;
        let said = scratch("said");
        let running = if let Some(filter) = self.filter() {
            let mut command = Command::new(binary);
            command.args(filter).args(["-o", "json", "-w", "/dev/null"]).args(more);
            if matches!(self, Self::Armed | Self::Cold | Self::NoMatch) {
                // What turns packets away is counted at first, for whoever waits for them.
                command.arg("-q");
            }
            command.stderr(File::create(&said).context("cannot keep what the tracer says")?);
            let tracer = Tracer::start(command, &scratch("ready"))?;
            ready = started.elapsed();
            if matches!(self, Self::Armed | Self::Cold) {
                await_cold(tracer.pid())?;
            }
            Running::Tracer(tracer)
        } else if let Some(args) = self.counts(measured) {
            // What it has to say at the end is not the benchmark's.
            let mut command = Command::new(binary);
            command.args(args).arg("-q");
            let tracer = Tracer::start_unheard(command, &scratch("ready"))?;
            ready = started.elapsed();
            Running::Tracer(tracer)
        } else if let Some(expression) = self.capture() {
            let capture = Capture::start(net, &expression)?;
            ready = started.elapsed();
            Running::Capture(capture)
        } else {
            return Ok(None);
        };
        let cpu = cpu_time(running.pid())?;
        Ok(Some(Beside { running, ready, cpu, since: Instant::now(), said }))
    }
}

/// Waits until the tracer has let go of all tracepoints but those where packets begin and are
/// dropped, for want of packets that match.
pub(super) fn await_cold(pid: u32) -> Result<()> {
    process::wait_for("fewer links", IN_PLACE, || Ok(links(pid)? <= 3))
}

/// How many tracepoints a process is attached to.
fn links(pid: u32) -> Result<usize> {
    let dir = format!("/proc/{pid}/fdinfo");
    let files = fs::read_dir(&dir).with_context(|| format!("cannot read {dir}"))?;
    // One may be closed while they are looked through.
    let texts = files.filter_map(|file| fs::read_to_string(file.ok()?.path()).ok());
    Ok(texts.filter(|text| text.contains("link_type:\traw_tracepoint")).count())
}

/// A file of this run.
pub(super) fn scratch(what: &str) -> PathBuf {
    std::env::temp_dir().join(format!("pkttrace-bench-{}.{what}", std::process::id()))
}

/// What runs beside the traffic now.
pub(super) struct Beside {
    running: Running,
    ready: Duration,
    cpu: Duration,
    since: Instant,
    said: PathBuf,
}

enum Running {
    Tracer(Tracer),
    Capture(Capture),
}

impl Running {
    fn pid(&self) -> u32 {
        match self {
            Self::Tracer(tracer) => tracer.pid(),
            Self::Capture(capture) => capture.0.id(),
        }
    }
}

/// What running beside the traffic took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    /// Of one processor.
    pub(super) cpu: f64,
    pub(super) rss_mb: f64,
    pub(super) ready_s: f64,
    pub(super) end_s: f64,
    /// What the tracer counted; nothing where it says nothing.
    pub(super) counts: Option<Counts>,
}

/// The tracer's own summary.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) journeys: f64,
    pub(super) events_per_s: f64,
    pub(super) refused: f64,
    pub(super) lost: f64,
}

impl Beside {
    pub(super) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Ends it, and tells what it took.
    pub(super) fn finish(self) -> Result<Usage> {
        let pid = self.running.pid();
        let busy = cpu_time(pid)?.saturating_sub(self.cpu);
        let seconds = self.since.elapsed().as_secs_f64();
        let cpu = busy.as_secs_f64() / seconds;
        let rss_mb = peak_mb(pid)?;
        let ending = Instant::now();
        match self.running {
            Running::Tracer(tracer) => drop(tracer.finish(Duration::ZERO)?),
            Running::Capture(capture) => drop(capture),
        }
        let end_s = ending.elapsed().as_secs_f64();
        let counts = counts(&fs::read_to_string(&self.said).unwrap_or_default(), seconds);
        // Gone already where nothing was kept.
        let _ = fs::remove_file(&self.said);
        Ok(Usage { cpu, rss_mb, ready_s: self.ready.as_secs_f64(), end_s, counts })
    }
}

/// A tcpdump, ended when dropped.
struct Capture(Child);

impl Capture {
    /// In the namespace that forwards, on all its devices.
    fn start(net: &Net, expression: &str) -> Result<Self> {
        let child = Command::new("ip")
            .args(["netns", "exec", &net.netns("r"), "tcpdump", "-i", "any", "-w", "/dev/null"])
            .arg(expression)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start tcpdump")?;
        let capture = Self(child);
        let sockets = format!("/proc/{}/net/packet", capture.0.id());
        process::wait_for("tcpdump's socket", IN_PLACE, || {
            // A line of titles, and one for each socket, in the namespace that it is in by then.
            let is_inside = fs::read_link(format!("/proc/{}/exe", capture.0.id()))
                .is_ok_and(|exe| exe.ends_with("tcpdump"));
            let text = fs::read_to_string(&sockets).unwrap_or_default();
            Ok(is_inside && text.lines().count() > 1)
        })?;
        Ok(capture)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It has nothing to save; gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processor time of a process so far.
#[expect(clippy::cast_precision_loss, reason = "ticks are far below 2^52")]
fn cpu_time(pid: u32) -> Result<Duration> {
    let file = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    // SAFETY: takes a number, gives one.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let ticks = ticks(&text).with_context(|| format!("{file} is not as expected"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second.max(1) as f64))
}

/// `utime` and `stime`, behind the name, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// The most memory that a process has had, MB.
#[expect(clippy::cast_precision_loss, reason = "kilobytes are far below 2^52")]
fn peak_mb(pid: u32) -> Result<f64> {
    let file = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kb.with_context(|| format!("{file} has no VmHWM"))? as f64 / 1024.0)
}

/// Reads `N packets, N events; N packets not followed (…); N events lost (…)`.
fn counts(said: &str, seconds: f64) -> Option<Counts> {
    let line = said.lines().find(|line| line.contains(" packets, ") && line.contains(" events"))?;
    let before = |what: &str| -> Option<f64> {
        let (head, _) = line.split_once(what)?;
        head.rsplit([' ', ';', ',']).next()?.parse().ok()
    };
    Some(Counts {
        journeys: before(" packets, ")?,
        events_per_s: before(" events")? / seconds,
        refused: before(" packets not followed").unwrap_or(0.0),
        lost: before(" events lost").unwrap_or(0.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read() {
        let said = "pkttrace: tracing\npkttrace: 12 packets, 340 events; 5 packets not followed \
                    (the buffer was full: raise --buffer); 7 events lost (marked where)\n";
        let all = Counts { journeys: 12.0, events_per_s: 170.0, refused: 5.0, lost: 7.0 };
        assert_eq!(counts(said, 2.0), Some(all));
        let clean = Counts { journeys: 1.0, events_per_s: 9.0, ..Counts::default() };
        assert_eq!(counts("pkttrace: 1 packets, 9 events\n", 1.0), Some(clean));
        assert_eq!(counts("pkttrace: nothing matched\n", 1.0), None);
    }

    #[test]
    fn ticks_stand_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 30 12 0 0 20 0 1 0 5 0 0\n";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (x) S 1"), None);
    }
}
