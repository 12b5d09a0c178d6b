//! Tests of built suites, each in a process of its own: so each has a time, a hang or a crash is
//! one test's, and more of them wait side by side than there are processors.

use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, available_parallelism};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::suites::Suite;
use super::tally::Tally;
use crate::process;

/// Suites that measure, that load the machine on purpose or that share it out among labs of their
/// own: each of their tests runs by itself. Beside a hundred namespaces more, a tracer watches less;
/// beside another tracer with `--rules`, more is told than one asked for.
const ALONE: &[&str] = &[
    "bystanders",
    "catalogue",
    "diagnose_hostile",
    "faults",
    "kube_proxy",
    "latency",
    "probes",
    "remedies",
    "robust_clean",
    "rules",
    "signals",
    "slow",
    "slow_kinds",
    "slow_labs",
    "truth",
];

/// Suites whose tests take long: what begins last must not run on alone.
const FIRST: &[&str] = &["diagnose", "real", "hostile"];

/// Tests at a time for each processor: most of them wait, for an answer that does not come or for
/// the kernel to let go of probes.
const PER_PROCESSOR: usize = 2;

/// What all tests are run with.
#[derive(Debug)]
pub(super) struct Settings {
    /// Where they run.
    pub(super) directory: PathBuf,
    /// Their environment beside the caller's.
    pub(super) environment: Vec<(&'static str, PathBuf)>,
    /// Of the tests that run by themselves, one in so many.
    pub(super) sample: usize,
}

/// One test of a suite.
#[derive(Debug, Clone, Copy)]
struct Test<'a> {
    suite: &'a str,
    program: &'a Path,
    name: &'a str,
}

/// Runs all tests; a line for each that is over goes to `sink`, what it printed before it if it
/// failed.
///
/// # Errors
///
/// When a test cannot be started, or on a signal.
pub(super) fn run(
    suites: &[Suite],
    settings: &Settings,
    sink: &mut (dyn Write + Send),
) -> Result<Tally> {
    let (alone, together) = order(suites);
    let alone = alone.into_iter().step_by(settings.sample).collect();
    let slots = PER_PROCESSOR * available_parallelism().map_or(1, usize::from);
    let mut tally = Tally::default();
    for (tests, slots) in [(together, slots), (alone, 1)] {
        tally.add(side_by_side(tests, slots, settings, sink)?);
    }
    Ok(tally)
}

/// Tests that run by themselves, and the others with the long ones first.
fn order(suites: &[Suite]) -> (Vec<Test<'_>>, Vec<Test<'_>>) {
    let tests = suites.iter().flat_map(|Suite { name, program, tests }| {
        tests.iter().map(move |test| Test { suite: name, program, name: test })
    });
    let (alone, mut together): (Vec<_>, Vec<_>) =
        tests.partition(|test| ALONE.contains(&test.suite));
    let rank = |test: &Test<'_>| FIRST.iter().position(|first| *first == test.suite);
    together.sort_by_key(|test| rank(test).unwrap_or(FIRST.len()));
    (alone, together)
}

fn side_by_side(
    tests: Vec<Test<'_>>,
    slots: usize,
    settings: &Settings,
    sink: &mut (dyn Write + Send),
) -> Result<Tally> {
    let waiting = Mutex::new(VecDeque::from(tests));
    let done = Mutex::new((Tally::default(), sink));
    let worker = || -> Result<()> {
        loop {
            process::check()?;
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(test) = next else { return Ok(()) };
            let ran = test.run(settings)?;
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            let (tally, sink) = &mut *done;
            tally.add(ran.told(*sink)?);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..slots).map(|_| scope.spawn(worker)).collect();
        let ended = workers.into_iter().map(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread that runs tests panicked"),
        });
        // All are joined, whatever the first one says.
        ended.collect::<Vec<_>>().into_iter().collect::<Result<Vec<()>>>()
    })?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner).0)
}

/// What became of a test.
struct Ran {
    /// Suite and test.
    name: String,
    seconds: f64,
    /// How it was called, and how that ended.
    status: String,
    tally: Tally,
    output: Vec<u8>,
}

impl Test<'_> {
    fn run(&self, settings: &Settings) -> Result<Ran> {
        let mut test = Command::new(self.program);
        test.args([self.name, "--exact", "--test-threads=1"]).stdin(Stdio::null());
        test.current_dir(&settings.directory).envs(settings.environment.iter().cloned());
        let started = Instant::now();
        let ended = test
            .output()
            .with_context(|| format!("cannot start suite {} for {}", self.suite, self.name))?;
        let seconds = started.elapsed().as_secs_f64();
        let mut tally = Tally::default();
        String::from_utf8_lossy(&ended.stdout).lines().for_each(|line| tally.line(line));
        let mut output = ended.stdout;
        output.extend(ended.stderr);
        let name = format!("{}::{}", self.suite, self.name);
        Ok(Ran { name, seconds, status: ended.status.to_string(), tally, output })
    }
}

impl Ran {
    /// Says how it ended, and counts it.
    fn told(self, sink: &mut dyn Write) -> Result<Tally> {
        let Self { name, seconds, status, tally, output } = self;
        let mut count = Tally::default();
        let word = if !tally.ignored.is_empty() {
            count.ignored.push(name.clone());
            "ignored"
        } else if (tally.passed, tally.failed) == (1, 0) {
            count.passed = 1;
            "ok"
        } else {
            count.failed = 1;
            count.failures.push(name.clone());
            sink.write_all(&output)?;
            "FAILED"
        };
        let why = if word == "FAILED" { format!(", {status}") } else { String::new() };
        writeln!(sink, "test {name} ... {word} ({seconds:.1} s{why})")?;
        sink.flush()?;
        count.times.push((name, seconds));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A suite whose tests print what libtest would of this, and exit with `code`.
    fn suite(dir: &Path, name: &str, says: &str, code: u8) -> Suite {
        let program = dir.join(name);
        let script = format!("#!/bin/sh\nprintf '{says}'\nexit {code}\n");
        fs::write(&program, script).expect("a script");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
        Suite { name: name.to_owned(), program, tests: vec!["a".to_owned()] }
    }

    #[test]
    fn each_test_is_told_with_its_time_and_failures_with_their_output() {
        let dir = std::env::temp_dir().join(format!("xtask-pool-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let passes = "test a ... ok\\ntest result: ok. 1 passed; 0 failed\\n";
        let fails = "why\\ntest a ... FAILED\\ntest result: FAILED. 0 passed; 1 failed\\n";
        let ignores = "test a ... ignored\\ntest result: ok. 0 passed; 0 failed; 1 ignored\\n";
        let suites = [
            suite(&dir, "passes", passes, 0),
            suite(&dir, "truth", fails, 101),
            suite(&dir, "ignores", ignores, 0),
            suite(&dir, "dies", "half a word", 134),
        ];
        let settings = Settings { directory: dir.clone(), environment: Vec::new(), sample: 1 };
        let mut sink = Vec::new();
        let tally = run(&suites, &settings, &mut sink).expect("runs");
        let sampled = Settings { sample: 2, ..settings };
        let twice = [suite(&dir, "truth", passes, 0), suite(&dir, "rules", passes, 0)];
        let sample = run(&twice, &sampled, &mut Vec::new()).expect("runs");
        assert_eq!(sample.passed, 1, "the first of two");
        fs::remove_dir_all(&dir).expect("removed");
        let said = String::from_utf8(sink).expect("text");
        assert_eq!((tally.passed, tally.failed), (1, 2), "{said}");
        assert_eq!(tally.failures, ["dies::a", "truth::a"]);
        assert_eq!((tally.ignored, tally.times.len()), (vec!["ignores::a".to_owned()], 4));
        assert!(said.contains("test passes::a ... ok (") && said.contains("why\n"), "{said}");
        assert!(said.contains("half a wordtest dies::a ... FAILED ("), "{said}");
    }

    #[test]
    fn what_measures_comes_after_the_rest_and_what_is_long_before_it() {
        let suite = |name: &str| Suite {
            name: name.to_owned(),
            program: PathBuf::new(),
            tests: vec!["t".to_owned()],
        };
        let suites = ["truth", "bridge", "rules", "diagnose"].map(suite);
        let (alone, together) = order(&suites);
        let names = |tests: &[Test<'_>]| -> Vec<String> {
            tests.iter().map(|test| test.suite.to_owned()).collect()
        };
        assert_eq!(names(&alone), ["truth", "rules"]);
        assert_eq!(names(&together), ["diagnose", "bridge"]);
    }
}
