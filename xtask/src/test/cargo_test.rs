//! The stages that call `cargo test`: its output is passed on and counted.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Options;
use super::tally::Tally;
use crate::cargo::{cargo, user_cargo};
use crate::layout::Layout;
use crate::sh;

/// The packages of the stages `unit` and, beside them, of the labs.
const UNIT: &[&str] = &["--workspace", "--exclude", "tracer-ebpf", "--exclude", "pkttrace-tests"];
pub(super) const LABS: &[&str] = &["--package", "pkttrace-tests"];

/// Compiles what the stages behind it run.
pub(super) fn build(layout: &Layout, options: Options) -> Result<()> {
    for packages in [UNIT, LABS] {
        let mut build = test(layout, options);
        sh::run(build.args(["--no-run", "--quiet"]).args(packages))?;
    }
    Ok(())
}

/// What needs no lab. Tests that are left out elsewhere because they need root run here as root.
pub(super) fn unit(layout: &Layout, options: Options) -> Result<Tally> {
    let mut test = test(layout, options);
    test.args(UNIT);
    if sh::is_root() {
        test.args(["--", "--include-ignored"]);
    }
    counted(&mut test)
}

/// The kernel side's pure code, as far as it has tests on the host.
pub(super) fn kernel_side(layout: &Layout, options: Options) -> Result<Tally> {
    let metadata = sh::output(cargo(layout).args(["metadata", "--no-deps", "--format-version=1"]))?;
    if !has_tests(&serde_json::from_str(&metadata)?, "tracer-ebpf") {
        sh::note("tracer-ebpf has no target with host tests");
        return Ok(Tally::default());
    }
    counted(test(layout, options).args(["--package", "tracer-ebpf"]))
}

/// A `cargo test` that goes on after a failure.
pub(super) fn test(layout: &Layout, options: Options) -> Command {
    let mut test = user_cargo(layout, "test");
    // One failing binary must not hide the others.
    test.arg("--no-fail-fast");
    if options.fast {
        test.env("PKTTRACE_TEST_FAST", "1");
    }
    test
}

/// Runs a `cargo test`, passing its output on.
fn counted(test: &mut Command) -> Result<Tally> {
    counted_into(test, &mut std::io::stdout())
}

fn counted_into(test: &mut Command, sink: &mut dyn Write) -> Result<Tally> {
    eprintln!("  $ {}", sh::show(test));
    let mut child = test
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", sh::show(test)))?;
    let mut tally = Tally::default();
    let mut output = BufReader::new(child.stdout.take().context("stdout is piped")?);
    let mut line = Vec::new();
    // By bytes: a test may print what is not UTF-8.
    while output.read_until(b'\n', &mut line)? > 0 {
        sink.write_all(&line)?;
        sink.flush()?;
        tally.line(&String::from_utf8_lossy(&line));
        line.clear();
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        // It did not compile, or a test binary died without a result line.
        tally.failed = 1;
        tally.failures.push(format!("`{}` ({status})", sh::show(test)));
    }
    Ok(tally)
}

/// Does a package have a target that `cargo test` would run?
fn has_tests(metadata: &Value, package: &str) -> bool {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.filter(|p| p["name"] == package).filter_map(|p| p["targets"].as_array()).flatten().any(
        |target| target["test"] == true && target["kind"] != serde_json::json!(["custom-build"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_targets_with_tests_are_run() {
        let target = |kind: &str, test: bool| serde_json::json!({"kind": [kind], "test": test});
        let with = |targets: Vec<Value>| serde_json::json!({"packages": [{"name": "a", "targets": targets}]});
        assert!(!has_tests(&with(vec![target("bin", false)]), "a"));
        assert!(has_tests(&with(vec![target("bin", false), target("lib", true)]), "a"));
        assert!(!has_tests(&with(vec![target("lib", true)]), "b"));
    }

    #[test]
    fn a_run_that_dies_without_a_result_is_a_failure() {
        let mut sink = Vec::new();
        let mut dies = Command::new("sh");
        dies.args(["-c", "echo 'test a ... ok'; exit 101"]);
        let tally = counted_into(&mut dies, &mut sink).expect("runs");
        assert_eq!(sink, b"test a ... ok\n");
        assert_eq!((tally.passed, tally.failed), (0, 1));
    }
}
