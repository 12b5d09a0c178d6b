//! Counting what libtest prints.

/// Tests counted over one or more test binaries.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// Names of ignored tests: they ran nowhere, so they count as failed.
    pub(crate) ignored: Vec<String>,
    /// Names of failed tests.
    pub(crate) failures: Vec<String>,
    /// Seconds that tests took, where each was watched.
    pub(crate) times: Vec<(String, f64)>,
}

impl Tally {
    /// Takes in one line of a test binary's output.
    pub(crate) fn line(&mut self, line: &str) {
        let line = line.trim();
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count(counts, " passed");
            self.failed += count(counts, " failed");
        } else if let Some(test) = line.strip_prefix("test ")
            && let Some((name, outcome)) = test.rsplit_once(" ... ")
        {
            self.outcome(name, outcome);
        }
    }

    /// Takes in what another run came to.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored.extend(other.ignored);
        self.failures.extend(other.failures);
        self.times.extend(other.times);
    }

    fn outcome(&mut self, name: &str, outcome: &str) {
        if outcome == "FAILED" {
            self.failures.push(name.to_owned());
        } else if outcome == "ignored" || outcome.starts_with("ignored, ") {
            self.ignored.push(name.to_owned());
        }
    }

    /// Failed tests, and those that did not run at all.
    pub(crate) fn not_green(&self) -> usize {
        self.failed + self.ignored.len()
    }
}

/// The number before `word` in `ok. 3 passed; 0 failed; …`.
fn count(counts: &str, word: &str) -> usize {
    counts
        .split([';', '.'])
        .find_map(|part| part.trim().strip_suffix(word)?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &str) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.line(line));
        tally
    }

    #[test]
    fn results_of_several_binaries_add_up() {
        let text = "running 2 tests\ntest a::b ... ok\ntest c ... FAILED\n\
            test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
            test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        let tally = tally(text);
        assert_eq!((tally.passed, tally.failed), (13, 1));
        assert_eq!(tally.failures, ["c"]);
    }

    #[test]
    fn ignored_tests_are_named_and_not_green() {
        let text = "test a ... ignored\ntest b - should panic ... ok\ntest c ... ignored, needs luck\n\
            test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out\n";
        let tally = tally(text);
        assert_eq!(tally.ignored, ["a", "c"]);
        assert_eq!(tally.not_green(), 2);
    }

    #[test]
    fn what_a_test_prints_is_not_counted() {
        assert_eq!(tally("test the water ... maybe\nresult: ok. 5 passed\n"), Tally::default());
    }
}
