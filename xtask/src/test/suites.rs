//! The test binaries of `pkttrace-tests`: built once for this machine and the guests, and the
//! names of the tests in each.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Options;
use super::cargo_test;
use crate::layout::Layout;
use crate::sh;

/// A test binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suite {
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) tests: Vec<String>,
}

/// Builds every suite and asks each for its tests, in the order in which it names them.
///
/// # Errors
///
/// When one does not compile or does not answer.
pub(super) fn build(layout: &Layout, options: Options) -> Result<Vec<Suite>> {
    let mut build = cargo_test::test(layout, options);
    build.args(["--no-run", "--message-format=json-render-diagnostics"]);
    build.args(cargo_test::LABS);
    eprintln!("  $ {}", sh::show(&build));
    // What the compiler complains of is for the reader.
    let built = build.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let built = built.context("cannot start cargo")?;
    if !built.status.success() {
        bail!("pkttrace-tests does not compile");
    }
    let suites = executables(&String::from_utf8_lossy(&built.stdout));
    suites.into_iter().map(|(name, program)| list(layout, name, program)).collect()
}

/// Where cargo runs the tests of `pkttrace-tests`.
pub(super) fn directory(layout: &Layout) -> PathBuf {
    layout.root.join("tests")
}

fn list(layout: &Layout, name: String, program: PathBuf) -> Result<Suite> {
    let mut list = Command::new(&program);
    list.current_dir(directory(layout)).args(["--list", "--format", "terse"]);
    let tests = tests(&sh::output(&mut list)?);
    Ok(Suite { name, program, tests })
}

/// `a::b: test` is a test; benchmarks are not.
fn tests(list: &str) -> Vec<String> {
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// Names and paths of what cargo says it built.
fn executables(messages: &str) -> Vec<(String, PathBuf)> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let executable = |message: Value| {
        let path = Path::new(message["executable"].as_str()?).to_path_buf();
        Some((message["target"]["name"].as_str()?.to_owned(), path))
    };
    messages.filter_map(executable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executables_are_read_from_cargos_messages() {
        let messages = "{\"target\":{\"name\":\"drops\"},\"executable\":\"/t/drops-1\"}\n\
            {\"target\":{\"name\":\"lib\"},\"executable\":null}\nnoise\n";
        assert_eq!(executables(messages), [("drops".to_owned(), PathBuf::from("/t/drops-1"))]);
    }

    #[test]
    fn tests_are_listed_by_name() {
        assert_eq!(super::tests("a: test\nb::c: test\nd: benchmark\n"), ["a", "b::c"]);
    }
}
