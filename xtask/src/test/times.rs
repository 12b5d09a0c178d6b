//! How long it took: the slowest tests, and the table at the end of `docs/testing.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::sh;

/// Everything behind this line is written by the test run.
const MARK: &str = "<!-- written by cargo xtask test -->\n";

/// How many tests are named.
const SLOWEST: usize = 20;

/// A run that took less than this part longer or shorter than the table says leaves it as it is:
/// no two runs take the same.
const CHANGE: f64 = 0.25;

/// Begins the row with the time of the whole run.
const ALL: &str = "| all | ";

/// The slowest of these tests, slowest first.
pub(super) fn slowest(times: &[(String, f64)]) -> Vec<&(String, f64)> {
    let mut sorted: Vec<_> = times.iter().collect();
    sorted.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    sorted.truncate(SLOWEST);
    sorted
}

/// The seconds of each stage, and of the slowest tests, as the document has them.
fn tables(stages: &[(&str, f64)], times: &[(String, f64)]) -> String {
    let mut text = "\n| stage | seconds |\n|---|---|\n".to_owned();
    // Writing to a string cannot fail.
    for (name, seconds) in stages {
        let _ = writeln!(text, "| {name} | {seconds:.0} |");
    }
    let all: f64 = stages.iter().map(|(_, seconds)| seconds).sum();
    let _ = writeln!(text, "{ALL}{all:.0} |\n\n| slowest tests | seconds |\n|---|---|");
    for (name, seconds) in slowest(times) {
        let _ = writeln!(text, "| {name} | {seconds:.0} |");
    }
    text
}

/// Puts the times of a whole run into the document at `path`, if they are not about the ones that
/// it has.
///
/// # Errors
///
/// When the document is not as expected or cannot be written.
pub(super) fn update(path: &Path, stages: &[(&str, f64)], times: &[(String, f64)]) -> Result<()> {
    let before =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    if let Some(now) = changed(&before, stages, times)? {
        sh::note(format!("new times in {}", path.display()));
        fs::write(path, now).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The document with these times, if it has others.
fn changed(
    before: &str,
    stages: &[(&str, f64)],
    times: &[(String, f64)],
) -> Result<Option<String>> {
    let (head, table) =
        before.split_once(MARK).with_context(|| format!("there is no line {MARK}"))?;
    let said = table.lines().find_map(|line| line.strip_prefix(ALL)?.split_once(' '));
    let said: Option<f64> = said.and_then(|(seconds, _)| seconds.parse().ok());
    let all: f64 = stages.iter().map(|(_, seconds)| seconds).sum();
    let is_near = said.is_some_and(|said| (all - said).abs() < said * CHANGE);
    Ok((!is_near).then(|| format!("{head}{MARK}{}", tables(stages, times))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_come_first_and_no_more_than_are_asked_for() {
        let times: Vec<_> = (0..40_u32).map(|n| (format!("t{n}"), f64::from(n % 30))).collect();
        let slowest = slowest(&times);
        assert_eq!((slowest.len(), slowest[0].0.as_str()), (SLOWEST, "t29"));
        assert!(slowest.is_sorted_by(|a, b| a.1 >= b.1));
    }

    #[test]
    fn a_table_is_replaced_when_the_times_are_others() {
        let stages = [("lint", 40.0), ("unit", 60.0)];
        let times = [("a::b".to_owned(), 7.0)];
        let first = changed(&format!("# Tests\n\n{MARK}"), &stages, &times);
        let first = first.expect("a document").expect("it had no times");
        assert!(first.starts_with("# Tests\n") && first.contains("| unit | 60 |\n| all | 100 |"));
        assert!(first.ends_with("| a::b | 7 |\n"), "{first}");
        let near = [("lint", 50.0), ("unit", 70.0)];
        assert_eq!(changed(&first, &near, &times).expect("a document"), None);
        let other = [("lint", 50.0), ("unit", 80.0)];
        let second = changed(&first, &other, &times).expect("a document").expect("other times");
        assert!(second.contains("| all | 130 |") && !second.contains("| all | 100 |"), "{second}");
        assert!(changed("# Tests\n", &stages, &times).is_err());
    }
}
