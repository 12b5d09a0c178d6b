//! Which kernel runs which tests: in a guest runs what that kernel alone can show, and not again
//! what the machine itself or a kernel of the same kind has shown. `docs/testing.md` says why.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::suites::Suite;
use crate::vm::kernel::KERNELS;

/// Kernels by what a suite can see of them: each of its tests runs once under one kernel of every
/// list.
type Kinds = &'static [&'static [&'static str]];

/// Every kernel differs in what the suite looks at.
const EACH: Kinds = &[&["5.10"], &["6.1"], &["6.12"], &["6.18"], &["7.2"]];

/// Hooks are seen by functions alone: netfilter links came with 6.4, and are this machine's.
const FUNCTIONS: Kinds = &[&["5.10", "6.1"]];

/// Hooks are seen by links and functions. 6.18 lies between two others of its kind.
const LINKS: Kinds = &[&["6.12", "7.2"]];

/// What this machine's kernel may lack, and which differs from none to none.
const ANY: Kinds = &[&["5.10", "6.1", "6.12", "6.18", "7.2"]];

/// The oldest names no reason of a drop, the newest has other functions that drop than the rest:
/// this machine's among them.
const DROPS: Kinds = &[&["5.10"], &["7.2"]];

/// Rules are computed before 5.12, and seen by nftables' own tracing from then on.
const TRACED_RULES: Kinds = &[&["5.10"], &["6.1", "6.12", "6.18", "7.2"]];

/// Booted with `preempt=full`: see `vm::kernel`.
const PREEMPTED: Kinds = &[&["6.12"], &["7.2"]];

/// A suite that runs in guests.
struct Row {
    suite: &'static str,
    /// Part of the names of its tests that are run; all where it is empty.
    only: &'static str,
    kinds: Kinds,
    /// What one of its tests takes, as a multiple of what most take.
    weight: usize,
}

const fn row(suite: &'static str, kinds: Kinds) -> Row {
    Row { suite, only: "", kinds, weight: 1 }
}

const ROWS: &[Row] = &[
    Row { weight: 4, ..row("probes", EACH) },
    // Each kernel takes its share of it: see `guests::script`.
    Row { only: "a_sixth_of_the_catalogue", weight: 5, ..row("catalogue", EACH) },
    Row { weight: 4, ..row("datapaths", EACH) },
    Row { only: "packets_that_nothing_tells_apart", weight: 6, ..row("truth", PREEMPTED) },
    row("drops", DROPS),
    Row { only: "count_the_same_packets", ..row("drops_cmd", EACH) },
    Row { only: "are_those_of_the_packets", ..row("latency", EACH) },
    Row { only: "as_nft_prints_them", ..row("rules", TRACED_RULES) },
    row("bridge", FUNCTIONS),
    Row { only: "with_br_netfilter", ..row("bridge", LINKS) },
    row("overlay", FUNCTIONS),
    Row { only: "a_ping_between_nodes", ..row("overlay", LINKS) },
    row("service", FUNCTIONS),
    Row { only: "before_the_tunnel", ..row("service", LINKS) },
    row("egress", FUNCTIONS),
    Row { only: "on_its_way_out_by_iptables_nft", ..row("egress", LINKS) },
    row("ingress", FUNCTIONS),
    Row {
        only: "a_node_port_is_translated_and_masqueraded_by_iptables_nft",
        ..row("ingress", LINKS)
    },
    row("docker", FUNCTIONS),
    Row { weight: 2, ..row("protocols", FUNCTIONS) },
    Row { only: "http_exchange", weight: 2, ..row("protocols", LINKS) },
    Row { only: "ports_select", weight: 3, ..row("filters", FUNCTIONS) },
    Row { weight: 2, ..row("clsact", FUNCTIONS) },
    Row { weight: 2, ..row("ipvs", FUNCTIONS) },
    Row { only: "on_the_other_node", weight: 2, ..row("ipvs", LINKS) },
    Row { weight: 3, ..row("vlan", ANY) },
    Row { only: "a_quiet_time", weight: 3, ..row("stages", FUNCTIONS) },
    Row { weight: 3, ..row("stages", LINKS) },
];

/// The tests of a suite that a kernel runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    pub(super) suite: &'a Suite,
    pub(super) tests: Vec<&'a str>,
}

/// What one kernel runs, in the order of the suites.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Share<'a> {
    pub(super) parts: Vec<Part<'a>>,
    /// What it takes, in tests.
    pub(super) load: usize,
}

/// By kernel.
pub(super) type Plan<'a> = BTreeMap<&'static str, Share<'a>>;

/// Deals the tests: each to the kernel of its kind that has the least to do.
///
/// # Errors
///
/// When a suite is not there, or has no test of the name asked for.
pub(super) fn plan(suites: &[Suite]) -> Result<Plan<'_>> {
    let mut plan: Plan<'_> =
        KERNELS.iter().map(|kernel| (kernel.series, Share::default())).collect();
    for Row { suite: name, only, kinds, weight } in ROWS {
        let suite = suites.iter().find(|suite| suite.name == *name);
        let suite = suite.with_context(|| format!("pkttrace-tests has no suite `{name}`"))?;
        let tests = suite.tests.iter().filter(|test| test.contains(only)).map(String::as_str);
        let tests: Vec<_> = tests.collect();
        tests.first().with_context(|| format!("suite `{name}` has no test of `{only}`"))?;
        for kind in *kinds {
            for test in &tests {
                let least = kind.iter().min_by_key(|series| plan.get(*series).map(|s| s.load));
                let share = least.and_then(|series| plan.get_mut(series));
                let share = share.with_context(|| format!("suite `{name}`: no such kernel"))?;
                share.take(suite, test, *weight);
            }
        }
    }
    Ok(plan)
}

impl<'a> Share<'a> {
    fn take(&mut self, suite: &'a Suite, test: &'a str, weight: usize) {
        self.load += weight;
        match self.parts.last_mut().filter(|part| part.suite.name == suite.name) {
            Some(part) => part.tests.push(test),
            None => self.parts.push(Part { suite, tests: vec![test] }),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;

    fn tests(row: &Row) -> [String; 3] {
        ["x", "y", "z"].map(|end| format!("{}{end}", row.only))
    }

    /// Suites as [`ROWS`] names them, with three tests for each row.
    pub(in crate::test) fn suites() -> Vec<Suite> {
        let names: BTreeSet<_> = ROWS.iter().map(|row| row.suite).collect();
        let suite = |name: &&str| Suite {
            name: (*name).to_owned(),
            program: PathBuf::from("/t").join(name),
            tests: ROWS.iter().filter(|row| row.suite == *name).flat_map(tests).collect(),
        };
        names.iter().map(suite).collect()
    }

    #[test]
    fn every_test_runs_under_each_kind_of_kernel_once() {
        let suites = suites();
        let plan = plan(&suites).expect("suites are there");
        for row in ROWS {
            for kind in row.kinds {
                let parts = kind.iter().flat_map(|series| &plan[series].parts);
                let run = parts.filter(|p| p.suite.name == row.suite).flat_map(|p| &p.tests);
                let run: Vec<_> = run.collect();
                for test in tests(row) {
                    let times = run.iter().filter(|name| **name == &test).count();
                    assert_eq!(times, 1, "{} {test} in {kind:?}", row.suite);
                }
            }
        }
    }

    #[test]
    fn every_kernel_is_in_the_lists_and_the_lists_know_no_other() {
        let all: BTreeSet<_> = KERNELS.iter().map(|kernel| kernel.series).collect();
        for kinds in [EACH, FUNCTIONS, LINKS, ANY, DROPS, TRACED_RULES, PREEMPTED] {
            assert!(kinds.iter().copied().flatten().all(|series| all.contains(series)));
        }
        assert_eq!(EACH.iter().copied().flatten().copied().collect::<BTreeSet<_>>(), all);
    }

    #[test]
    fn a_suite_that_is_not_there_is_an_error() {
        assert!(plan(&suites()[1..]).is_err());
    }
}
