//! Every parser of what others have made, fed with damaged samples: it must neither panic, nor take
//! long, nor take much memory.
//!
//! The samples are damaged the same way in every run. A short run is one of the tests; a long one
//! is `cargo xtask fuzz`, which sets [`TARGET`], [`RUNS`] and [`TIME`]. An input that was found
//! becomes a sample.

mod mutate;
mod targets;

use std::time::{Duration, Instant};

use mutate::Mutator;
use targets::{TARGETS, Target};

/// Names a target; all without it.
const TARGET: &str = "PKTTRACE_FUZZ";
/// How often each is run.
const RUNS: &str = "PKTTRACE_FUZZ_RUNS";
/// For how many seconds each is run.
const TIME: &str = "PKTTRACE_FUZZ_TIME";

/// In the tests.
const SHORT: u64 = 1_500;
/// Processor time that one input may take, however slow the machine.
const LIMIT: Duration = Duration::from_secs(2);
/// Memory that a parser may take beyond what was taken before, kilobytes.
const MEMORY_KB: u64 = 64 << 10;

fn asked<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_parser_is_harmed_by_damage() {
    let only: Option<String> = asked(TARGET);
    let (runs, time) = (asked(RUNS), asked(TIME).map(Duration::from_secs));
    let is_long = runs.is_some() || time.is_some();
    let chosen = |t: &&Target| only.as_deref().is_none_or(|name| name == t.name);
    let targets: Vec<_> = TARGETS.iter().filter(chosen).collect();
    let names: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
    assert!(!targets.is_empty(), "the targets are {}", names.join(", "));
    for target in targets {
        let limit = runs.unwrap_or(if time.is_some() { u64::MAX } else { SHORT });
        let before = if is_long { memory_kb() } else { 0 };
        let (done, took, slowest) = run(target, limit, time.unwrap_or(Duration::MAX));
        if is_long {
            // Of a run of its own alone: other tests take memory too.
            let grown = memory_kb().saturating_sub(before);
            println!("{}: {done} inputs in {took:?}, slowest {slowest:?}, {grown} KB", target.name);
            assert!(grown < MEMORY_KB, "{} took {grown} KB", target.name);
        }
    }
}

#[test]
fn samples_mean_something_to_their_parsers() {
    for target in TARGETS.iter() {
        assert!(!target.samples.is_empty(), "{}", target.name);
        for (n, sample) in target.samples.iter().enumerate() {
            assert!((target.parse)(sample), "sample {n} of {} says nothing", target.name);
        }
    }
}

/// Feeds a target; how many inputs, how long that took, and the slowest one.
fn run(target: &Target, limit: u64, time: Duration) -> (u64, Duration, Duration) {
    let (start, mut slowest, mut done) = (Instant::now(), Duration::ZERO, 0);
    let mut mutator = Mutator::new(target);
    while done < limit && start.elapsed() < time {
        let input = mutator.next();
        let began = processor_time();
        let outcome = std::panic::catch_unwind(|| (target.parse)(&input));
        let took = processor_time().saturating_sub(began);
        let what = || format!("{}, input {done}: {}", target.name, input.escape_ascii());
        assert!(outcome.is_ok(), "panic in {}", what());
        assert!(took < LIMIT, "{took:?} for {}", what());
        slowest = slowest.max(took);
        done += 1;
    }
    (done, start.elapsed(), slowest)
}

/// What this thread has used of the processors.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// The most memory that this process ever had.
fn memory_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
