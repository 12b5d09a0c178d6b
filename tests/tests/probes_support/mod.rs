//! What the kernel counts of the programs on probe points.

pub mod empty;

use std::collections::BTreeMap;

use aya::programs::loaded_programs;

/// Runs of a program, and how long they took in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub runs: u64,
    pub ns: u64,
}

impl Cost {
    /// What was added since `before`.
    pub fn since(self, before: Self) -> Self {
        Self { runs: self.runs - before.runs, ns: self.ns - before.ns }
    }

    /// In the mean, where there are enough runs to say.
    pub fn ns_per_run(self) -> Option<f64> {
        const ENOUGH: u64 = 100;
        (self.runs >= ENOUGH).then(|| self.ns as f64 / self.runs as f64)
    }
}

/// What `/proc/…/fdinfo` says of a program.
pub fn cost_in_fdinfo(text: &str) -> Option<Cost> {
    Some(Cost { runs: field(text, "run_cnt:")?, ns: field(text, "run_time_ns:")? })
}

fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

/// The programs of a process, by name, since the statistics were switched on.
pub fn costs(pid: u32) -> BTreeMap<String, Cost> {
    let mut held = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("a process of ours") {
        let text = entry.and_then(|e| std::fs::read_to_string(e.path())).unwrap_or_default();
        if let (Some(id), Some(cost)) = (field(&text, "prog_id:"), cost_in_fdinfo(&text)) {
            held.insert(id, cost);
        }
    }
    let mut costs = BTreeMap::<String, Cost>::new();
    for program in loaded_programs().filter_map(Result::ok) {
        let Some(cost) = held.get(&u64::from(program.id())) else { continue };
        let name = program.name_as_str().unwrap_or_default().to_owned();
        let all = costs.entry(name).or_default();
        *all = Cost { runs: all.runs + cost.runs, ns: all.ns + cost.ns };
    }
    costs
}
