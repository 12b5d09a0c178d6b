//! The stage that runs tests under other kernels: built once here, run in a guest of each.
//!
//! A suite is a row of [`SUITES`]. What counts is what libtest prints: a suite that printed no
//! result, and a guest that did not finish, are failures.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Options;
use super::costs;
use super::matrix::{self, Column};
use super::tally::Tally;
use crate::build::user_cargo;
use crate::layout::Layout;
use crate::vm::kernel::{KERNELS, Kernel};
use crate::vm::run::{Job, Outcome};
use crate::{process, sh, vm};

/// A test binary of `pkttrace-tests`, by the name of its file.
struct Suite {
    name: &'static str,
    /// Part of the names of its tests that are run; all where it is empty.
    only: &'static str,
}

const fn whole(name: &'static str) -> Suite {
    Suite { name, only: "" }
}

/// The suites of the main job, and of each kind of fault some.
const SUITES: &[Suite] = &[
    whole("probes"),
    whole("bridge"),
    whole("overlay"),
    whole("datapaths"),
    whole("service"),
    whole("egress"),
    whole("ingress"),
    whole("docker"),
    whole("protocols"),
    whole("drops"),
    whole("filters"),
    whole("clsact"),
    whole("ipvs"),
    whole("vlan"),
    // Seen from 5.12 on, computed before.
    Suite { name: "rules", only: "as_nft_prints_them" },
    // Each kernel takes its share of it: see `script`.
    Suite { name: "catalogue", only: "a_third_of_the_catalogue" },
];

/// Emulated, two at a time: more would compete for the same processors and run into deadlines.
const JOBS: usize = 2;

/// For one kernel, on a machine that does other things too.
const TIMEOUT: Duration = Duration::from_secs(2400);

/// Seconds that a test waits for what takes milliseconds outside a guest.
const PATIENCE: u32 = 300;

/// What every guest's kernel has, so that no test may do without: see `tests/src/kernel.rs`.
const FEATURES: &str = "ipvs,vlan,netem";

/// Runs every suite under every kernel.
pub(super) fn run(layout: &Layout, options: Options) -> Result<Tally> {
    if options.fast {
        sh::note("left out: --fast");
        return Ok(Tally::default());
    }
    process::catch_signals();
    let ready = vm::fetch(layout, &[], false)?;
    let mut files = vec![("pkttrace".to_owned(), layout.binary())];
    files.extend(binaries(layout)?);
    let script = script();
    let job = Job { script, files, jobs: JOBS, timeout: TIMEOUT, keep: false };
    let outcomes = vm::run::run(&ready, &job, &|series, text| vm::show(false, series, text))?;
    let failures = ready.missing.clone();
    let mut tally = Tally { failed: failures.len(), failures, ..Tally::default() };
    for outcome in &outcomes {
        tally.add(count(outcome)?);
    }
    matrix(layout, &outcomes)?;
    for outcome in &outcomes {
        costs::print(&outcome.out)?;
    }
    Ok(tally)
}

/// One column per guest, and this machine's where it is of another kind.
fn matrix(layout: &Layout, outcomes: &[Outcome]) -> Result<()> {
    let mut columns = Vec::new();
    for outcome in outcomes {
        let Some(column) = Column::read(&outcome.out)? else {
            sh::note(format!("kernel {} left no probe matrix", outcome.series));
            return Ok(());
        };
        columns.push(column);
    }
    let host = Column::read(&layout.test_out())?;
    columns.extend(host.and_then(Column::without_functions));
    matrix::update(&layout.root.join("docs/kernel-support.md"), &columns)
}

/// Builds the test binaries; each with its name in a guest.
fn binaries(layout: &Layout) -> Result<Vec<(String, PathBuf)>> {
    let mut build = user_cargo(layout, "test");
    build.args(["--no-run", "--message-format=json", "--package", "pkttrace-tests"]);
    let built = executables(&sh::output(&mut build)?);
    let suite = |Suite { name, .. }: &Suite| {
        let found = built.iter().find(|(built, _)| built == name);
        let (name, path) =
            found.with_context(|| format!("pkttrace-tests has no test binary `{name}`"))?;
        Ok((program(name), path.clone()))
    };
    SUITES.iter().map(suite).collect()
}

/// What a suite's binary is called in a guest: suite `bridge` must not stand before the `bridge` of
/// iproute2.
fn program(suite: &str) -> String {
    format!("suite-{suite}")
}

/// Names and paths of what cargo says it built.
fn executables(messages: &str) -> Vec<(String, PathBuf)> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let executable = |message: Value| {
        let path = message["executable"].as_str()?.into();
        Some((message["target"]["name"].as_str()?.to_owned(), path))
    };
    messages.filter_map(executable).collect()
}

/// Begins the line that a guest prints before each suite.
const HEAD: &str = "==> suite ";

fn head(suite: &str) -> String {
    format!("{HEAD}{suite}\n")
}

/// The same for all kernels, but for their shares.
fn script() -> String {
    let mut script = format!(
        "export PKTTRACE_BIN=/usr/local/bin/pkttrace PKTTRACE_OUT=/out RUST_BACKTRACE=0\n\
         export PKTTRACE_TEST_PATIENCE={PATIENCE} PKTTRACE_TEST_FEATURES={FEATURES}\ncode=0\n"
    );
    for (share, Kernel { series, .. }) in KERNELS.iter().enumerate() {
        script += &format!(
            "case $(uname -r) in {series}.*) export PKTTRACE_TEST_SHARE={share}/{};; esac\n",
            KERNELS.len()
        );
    }
    for Suite { name, only } in SUITES {
        let (head, program) = (head(name), program(name));
        script +=
            &format!("echo '{}'; {program} {only} --test-threads=1 || code=1\n", head.trim_end());
    }
    script + "exit $code\n"
}

/// What a guest's log says, the kernel and the suite before each test's name.
fn count(outcome: &Outcome) -> Result<Tally> {
    let log =
        fs::read(&outcome.log).with_context(|| format!("cannot read {}", outcome.log.display()))?;
    let mut tally = suites(outcome.series, &String::from_utf8_lossy(&log));
    if outcome.code.is_none() {
        tally.failed += 1;
        tally.failures.push(format!("kernel {}: the guest did not finish", outcome.series));
    }
    Ok(tally)
}

fn suites(series: &str, log: &str) -> Tally {
    let mut all = Tally::default();
    for Suite { name: suite, .. } in SUITES {
        let mut tally = Tally::default();
        let text = log.split_once(&head(suite)).map_or("", |(_, rest)| rest);
        let text = text.split_once(HEAD).map_or(text, |(text, _)| text);
        text.lines().for_each(|line| tally.line(line));
        if !text.lines().any(|line| line.starts_with("test result: ")) {
            tally.failed += 1;
            tally.failures.push("no result".to_owned());
        }
        for name in tally.failures.iter_mut().chain(&mut tally.ignored) {
            *name = format!("kernel {series}: {suite}: {name}");
        }
        all.add(tally);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_has_a_share_and_every_suite() {
        let script = script();
        for (share, kernel) in KERNELS.iter().enumerate() {
            let of = format!("{}.*) export PKTTRACE_TEST_SHARE={share}/", kernel.series);
            assert!(script.contains(&of), "{script}");
        }
        for Suite { name, .. } in SUITES {
            assert!(script.contains(&format!("; {} ", program(name))), "{script}");
        }
        assert_eq!(suites("6.12", "").failed, SUITES.len());
    }

    #[test]
    fn the_executables_are_read_from_cargos_messages() {
        let messages = "{\"target\":{\"name\":\"drops\"},\"executable\":\"/t/drops-1\"}\n\
            {\"target\":{\"name\":\"lib\"},\"executable\":null}\nnoise\n";
        assert_eq!(executables(messages), [("drops".to_owned(), PathBuf::from("/t/drops-1"))]);
    }

    #[test]
    fn a_suite_without_result_is_a_failure_and_names_tell_the_kernel() {
        let results: String = SUITES
            .iter()
            .skip(1)
            .map(|suite| {
                head(suite.name) + "test a ... FAILED\ntest result: FAILED. 2 passed; 1 failed\n"
            })
            .collect();
        let tally = suites("6.12", &format!("{}died\n{results}", head(SUITES[0].name)));
        let others = SUITES.len() - 1;
        assert_eq!((tally.passed, tally.failed), (2 * others, others + 1));
        assert_eq!(tally.failures[0], format!("kernel 6.12: {}: no result", SUITES[0].name));
        assert_eq!(tally.failures[1], format!("kernel 6.12: {}: a", SUITES[1].name));
    }
}
