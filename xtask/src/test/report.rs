//! The table of stages and the closing line.

use std::time::Duration;

use anyhow::Result;

use super::tally::Tally;
use super::times;

struct Row {
    name: &'static str,
    seconds: f64,
    tally: Tally,
    /// The stage itself failed, tests or not.
    broke: bool,
}

/// What the stages came to.
#[derive(Default)]
pub(super) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a stage; one that broke counts as one failure beside its tests.
    pub(super) fn add(&mut self, name: &'static str, took: Duration, result: Result<Tally>) {
        let broke = result.is_err();
        let tally = result.unwrap_or_default();
        self.rows.push(Row { name, seconds: took.as_secs_f64(), tally, broke });
    }

    fn totals(&self) -> (usize, usize) {
        let passed = self.rows.iter().map(|row| row.tally.passed).sum();
        let failed = self.rows.iter().map(|row| row.tally.not_green() + usize::from(row.broke));
        (passed, failed.sum())
    }

    /// No failure, nothing ignored, and at least one test ran.
    pub(super) fn is_green(&self) -> bool {
        matches!(self.totals(), (1.., 0))
    }

    /// Everything but the closing line.
    fn table(&self) -> String {
        let mut text = format!("\n{:<26}{:>9}{:>9}{:>9}\n", "stage", "seconds", "passed", "failed");
        for Row { name, seconds, tally, broke } in &self.rows {
            let failed = tally.not_green() + usize::from(*broke);
            let end = if *broke { "  broke off" } else { "" };
            text += &format!("{name:<26}{seconds:>9.1}{:>9}{failed:>9}{end}\n", tally.passed);
        }
        text += "\nslowest tests             seconds\n";
        for (name, seconds) in times::slowest(&self.times()) {
            text += &format!("{seconds:>33.1}  {name}\n");
        }
        for tally in self.rows.iter().map(|row| &row.tally) {
            for name in &tally.failures {
                text += &format!("failed: {name}\n");
            }
            for name in &tally.ignored {
                text += &format!("ignored, which counts as failed: {name}\n");
            }
        }
        text
    }

    /// Seconds of each stage.
    pub(super) fn stages(&self) -> Vec<(&'static str, f64)> {
        self.rows.iter().map(|row| (row.name, row.seconds)).collect()
    }

    /// Seconds of each test that was watched.
    pub(super) fn times(&self) -> Vec<(String, f64)> {
        self.rows.iter().flat_map(|row| row.tally.times.clone()).collect()
    }

    /// Prints the table and the closing line.
    pub(super) fn print(&self) {
        let (passed, failed) = self.totals();
        println!("{}\n{passed} passed, {failed} failed", self.table());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_stage_is_a_failure() {
        let mut report = Report::default();
        report.add("unit", Duration::ZERO, Ok(Tally { passed: 3, ..Tally::default() }));
        assert!(report.is_green());
        report.add("lint", Duration::ZERO, Err(anyhow::anyhow!("no")));
        assert_eq!(report.totals(), (3, 1));
        assert!(!report.is_green());
    }

    #[test]
    fn a_run_without_tests_is_not_green() {
        assert!(!Report::default().is_green());
    }

    #[test]
    fn ignored_tests_are_told() {
        let mut report = Report::default();
        let ignored = vec!["a::b".to_owned()];
        report.add("unit", Duration::ZERO, Ok(Tally { passed: 1, ignored, ..Tally::default() }));
        assert_eq!(report.totals(), (1, 1));
        assert!(report.table().contains("ignored, which counts as failed: a::b"));
    }
}
