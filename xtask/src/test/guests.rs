//! The stage that runs tests under other kernels: built once here, run in a guest of each.
//!
//! What runs where is [`plan`]'s. What counts is what libtest prints: a test that printed no
//! result, and a guest that did not finish, are failures.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Options;
use super::costs;
use super::matrix::{self, Column};
use super::plan::{self, Part, Plan, Share};
use super::suites::{self, Suite};
use super::tally::Tally;
use crate::layout::Layout;
use crate::vm::kernel::KERNELS;
use crate::vm::run::{Job, Outcome};
use crate::{process, sh, vm};

/// Emulated, one more at a time than there are processors: each waits now and then.
fn jobs() -> usize {
    1 + available_parallelism().map_or(1, usize::from)
}

/// For one kernel, on a machine that does other things too.
const TIMEOUT: Duration = Duration::from_secs(2400);

/// Seconds that a test waits for what takes milliseconds outside a guest.
const PATIENCE: u32 = 300;

/// What every guest's kernel has, so that no test may do without: see `tests/src/kernel.rs`.
const FEATURES: &str = "ipvs,vlan,netem";

/// Runs each kernel's share under it.
pub(super) fn run(layout: &Layout, options: Options) -> Result<Tally> {
    if options.fast {
        sh::note("left out: --fast");
        return Ok(Tally::default());
    }
    process::catch_signals();
    let suites = suites::build(layout, options)?;
    let plan = plan::plan(&suites)?;
    let mut ready = vm::fetch(layout, &[], false)?;
    // What takes longest begins first.
    let load = |series: &str| plan.get(series).map_or(0, |share| share.load);
    ready.kernels.sort_by_key(|(kernel, _)| std::cmp::Reverse(load(kernel.series)));
    let mut files = vec![("pkttrace".to_owned(), layout.binary())];
    files.extend(programs(&plan));
    let job = Job { script: script(&plan), files, jobs: jobs(), timeout: TIMEOUT, keep: false };
    let clock = Clock::default();
    let line = |series: &str, text: &str| {
        clock.line(series, text);
        vm::show(false, series, text);
    };
    let mut outcomes = vm::run::run(&ready, &job, &line)?;
    outcomes.sort_by_key(|o| KERNELS.iter().position(|kernel| kernel.series == o.series));
    let failures = ready.missing.clone();
    let times = clock.times();
    let mut tally = Tally { failed: failures.len(), failures, times, ..Tally::default() };
    for outcome in &outcomes {
        let share = plan.get(outcome.series).context("a kernel of the plan")?;
        tally.add(count(outcome, share)?);
    }
    tables(layout, &outcomes)?;
    for outcome in &outcomes {
        costs::print(&outcome.out)?;
    }
    Ok(tally)
}

/// One column per guest, and this machine's where its kernel is of another kind.
fn tables(layout: &Layout, outcomes: &[Outcome]) -> Result<()> {
    let host = Column::read(&layout.test_out(), &matrix::PROBES)?;
    let is_other = host.is_some_and(|host| host.has_no_functions());
    for table in [matrix::PROBES, matrix::DATAPATHS] {
        let columns = outcomes.iter().map(|outcome| Column::read(&outcome.out, &table));
        let mut columns: Vec<_> = columns.collect::<Result<_>>()?;
        if is_other {
            let host = Column::read(&layout.test_out(), &table)?;
            columns.push(host.map(Column::without_functions));
        }
        match columns.into_iter().collect::<Option<Vec<_>>>() {
            Some(columns) => matrix::update(&layout.root.join(table.doc), &table, &columns)?,
            None => sh::note(format!("{} stays: a kernel left nothing for it", table.doc)),
        }
    }
    Ok(())
}

/// The suites that some kernel runs, each with its name in a guest.
fn programs(plan: &Plan<'_>) -> BTreeMap<String, PathBuf> {
    let parts = plan.values().flat_map(|share| &share.parts);
    parts.map(|Part { suite, .. }| (program(&suite.name), suite.program.clone())).collect()
}

/// What a suite's binary is called in a guest: suite `bridge` must not stand before the `bridge` of
/// iproute2.
fn program(suite: &str) -> String {
    format!("suite-{suite}")
}

/// Begins the line that a guest prints before each suite.
const HEAD: &str = "==> suite ";

fn head(suite: &str) -> String {
    format!("{HEAD}{suite}\n")
}

/// One script, of which each kernel runs its part; of the catalogue too.
fn script(plan: &Plan<'_>) -> String {
    let mut script = format!(
        "export PKTTRACE_BIN=/usr/local/bin/pkttrace PKTTRACE_OUT=/out RUST_BACKTRACE=0\n\
         export PKTTRACE_TEST_PATIENCE={PATIENCE} PKTTRACE_TEST_FEATURES={FEATURES}\ncode=0\n\
         case $(uname -r) in\n"
    );
    for (number, (series, share)) in plan.iter().enumerate() {
        let shares = plan.len();
        script += &format!("{series}.*)\nexport PKTTRACE_TEST_SHARE={number}/{shares}\n");
        for Part { suite: Suite { name, .. }, tests } in &share.parts {
            let (head, program, tests) = (head(name), program(name), tests.join(" "));
            let head = head.trim_end();
            script +=
                &format!("echo '{head}'; {program} --exact --test-threads=1 {tests} || code=1\n");
        }
        script += ";;\n";
    }
    script + "esac\nexit $code\n"
}

/// When each test ended, by the lines as they come: in a guest they run one after the other.
#[derive(Default)]
struct Clock(Mutex<BTreeMap<String, Watched>>);

/// Of one kernel.
struct Watched {
    suite: String,
    since: Instant,
    times: Vec<(String, f64)>,
}

impl Clock {
    fn line(&self, series: &str, text: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let fresh = || Watched { suite: String::new(), since: now, times: Vec::new() };
        let watched = all.entry(series.to_owned()).or_insert_with(fresh);
        if let Some(suite) = text.strip_prefix(HEAD) {
            (watched.suite, watched.since) = (suite.to_owned(), now);
        } else if let Some((test, _)) =
            text.strip_prefix("test ").and_then(|t| t.split_once(" ... "))
        {
            let name = format!("kernel {series}: {}::{test}", watched.suite);
            watched.times.push((name, (now - watched.since).as_secs_f64()));
            watched.since = now;
        }
    }

    fn times(self) -> Vec<(String, f64)> {
        let all = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        all.into_values().flat_map(|watched| watched.times).collect()
    }
}

/// What a guest's log says, the kernel and the suite before each test's name.
fn count(outcome: &Outcome, share: &Share<'_>) -> Result<Tally> {
    let log =
        fs::read(&outcome.log).with_context(|| format!("cannot read {}", outcome.log.display()))?;
    let mut tally = results(outcome.series, share, &String::from_utf8_lossy(&log));
    if outcome.code.is_none() {
        tally.failed += 1;
        tally.failures.push(format!("kernel {}: the guest did not finish", outcome.series));
    }
    Ok(tally)
}

fn results(series: &str, share: &Share<'_>, log: &str) -> Tally {
    let mut all = Tally::default();
    for Part { suite, tests } in &share.parts {
        let mut tally = Tally::default();
        let text = log.split_once(&head(&suite.name)).map_or("", |(_, rest)| rest);
        let text = text.split_once(HEAD).map_or(text, |(text, _)| text);
        text.lines().for_each(|line| tally.line(line));
        let silent = tests.len().saturating_sub(tally.passed + tally.not_green());
        if silent > 0 {
            tally.failed += silent;
            tally.failures.push(format!("no result of {silent} tests"));
        }
        for name in tally.failures.iter_mut().chain(&mut tally.ignored) {
            *name = format!("kernel {series}: {}: {name}", suite.name);
        }
        all.add(tally);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::plan::tests::suites;

    #[test]
    fn the_script_names_every_test_of_every_kernel() {
        let suites = suites();
        let plan = plan::plan(&suites).expect("suites are there");
        let script = script(&plan);
        for (series, share) in &plan {
            let part = script.split_once(&format!("\n{series}.*)\n")).expect("its part").1;
            let part = part.split_once(";;").expect("an end").0;
            assert!(part.contains("PKTTRACE_TEST_SHARE="), "{script}");
            for Part { suite, tests } in &share.parts {
                let call = format!("suite-{} --exact --test-threads=1", suite.name);
                assert!(part.contains(&format!("; {call} {} ||", tests.join(" "))), "{script}");
            }
        }
        let syntax = std::process::Command::new("bash").args(["-n", "-c", &script]).status();
        assert!(syntax.expect("bash starts").success(), "{script}");
        assert!(programs(&plan).contains_key("suite-bridge"));
    }

    #[test]
    fn a_test_without_result_is_a_failure_and_names_tell_the_kernel() {
        let suites = suites();
        let plan = plan::plan(&suites).expect("suites are there");
        let share = &plan["6.12"];
        let all: usize = share.parts.iter().map(|part| part.tests.len()).sum();
        let first = &share.parts[0];
        let log = format!(
            "{}test a ... FAILED\ntest result: FAILED. 1 passed; 1 failed\n",
            head(&first.suite.name)
        );
        let tally = results("6.12", share, &log);
        assert_eq!((tally.passed, tally.failed), (1, all - 1));
        let (suite, silent) = (&first.suite.name, first.tests.len() - 2);
        assert_eq!(tally.failures[0], format!("kernel 6.12: {suite}: a"));
        assert_eq!(tally.failures[1], format!("kernel 6.12: {suite}: no result of {silent} tests"));
        assert_eq!(results("6.12", share, "").failed, all);
    }

    #[test]
    fn a_test_takes_from_the_end_of_the_one_before() {
        let clock = Clock::default();
        let lines = ["==> suite drops", "running 2 tests", "test a ... ok", "test b ... FAILED"];
        for line in lines {
            clock.line("6.1", line);
        }
        let times = clock.times();
        let names: Vec<_> = times.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["kernel 6.1: drops::a", "kernel 6.1: drops::b"]);
        assert!(times.iter().all(|(_, seconds)| (0.0..60.0).contains(seconds)), "{times:?}");
    }
}
