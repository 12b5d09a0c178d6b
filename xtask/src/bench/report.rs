//! Medians, ratios, and the tables.

use serde_json::{Value, json};

use super::programs::{Cost, Program};
use super::{LOADS, Load, topology::Drawing};

/// One measurement of one load.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) sent_per_s: f64,
    pub(super) delivered_per_s: f64,
}

/// What the programs cost per run.
pub(super) struct Costs {
    pub(super) empty: Cost,
    pub(super) programs: Vec<(Load, Vec<Program>)>,
}

/// Everything that was measured.
pub(super) struct Report {
    /// In the order of [`LOADS`].
    pub(super) rounds: Vec<[Sample; 3]>,
    pub(super) costs: Costs,
    pub(super) topology: Drawing,
}

/// One line of the first table.
struct Row {
    load: Load,
    delivered: f64,
    sent: f64,
    ratio: f64,
    lowest: f64,
    highest: f64,
}

impl Report {
    pub(super) fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.json());
        } else {
            print!("{}{}{}", self.throughput(), self.per_program(), self.drawing());
        }
    }

    fn rows(&self) -> Vec<Row> {
        let row = |(at, load): (usize, Load)| {
            let samples = || self.rounds.iter().map(move |round| round[at]);
            // Within a round, so that the machine's other work falls out.
            let ratios = self.rounds.iter().map(|r| r[at].delivered_per_s / r[0].delivered_per_s);
            let ratios: Vec<f64> = ratios.collect();
            Row {
                load,
                delivered: median(samples().map(|s| s.delivered_per_s).collect()),
                sent: median(samples().map(|s| s.sent_per_s).collect()),
                lowest: ratios.iter().copied().fold(f64::INFINITY, f64::min),
                highest: ratios.iter().copied().fold(0.0, f64::max),
                ratio: median(ratios),
            }
        };
        LOADS.into_iter().enumerate().map(row).collect()
    }

    fn throughput(&self) -> String {
        let rounds = self.rounds.len();
        let mut text = format!("\nmedians of {rounds} rounds; ratios to \"no tracer\" per round\n");
        text += &format!(
            "{:<20}{:>14}{:>14}{:>8}{:>16}\n",
            "load", "delivered/s", "sent/s", "ratio", "lowest-highest"
        );
        for Row { load, delivered, sent, ratio, lowest, highest } in self.rows() {
            let range = format!("{lowest:.3}-{highest:.3}");
            let name = load.name();
            text += &format!("{name:<20}{delivered:>14.0}{sent:>14.0}{ratio:>8.3}{range:>16}\n");
        }
        text
    }

    fn per_program(&self) -> String {
        let empty = self.costs.empty.ns_per_run().unwrap_or(0.0);
        let mut text = format!("\nns per run, less an empty program's {empty:.1} ns\n");
        for (load, programs) in &self.costs.programs {
            text += &format!("\n{:<20}{:<18}{:>12}{:>10}\n", load.name(), "type", "runs", "ns");
            for Program { name, kind, cost } in programs {
                let ns = cost.ns_per_run();
                let ns = ns.map_or_else(|| "-".to_owned(), |ns| format!("{:.1}", ns - empty));
                text += &format!("{name:<20}{kind:<18}{:>12}{ns:>10}\n", cost.runs);
            }
            if programs.is_empty() {
                text += "the tracer holds no BPF program\n";
            }
        }
        text
    }

    fn drawing(&self) -> String {
        let Drawing { namespaces, services, seconds } = &self.topology;
        let median = median(seconds.clone());
        format!("\ntopology of {namespaces} namespaces, {services} Services: {median:.2} s\n")
    }

    fn json(&self) -> Value {
        let empty = self.costs.empty.ns_per_run();
        let loads: Vec<_> = self
            .rows()
            .iter()
            .map(|row| {
                json!({"load": row.load.name(), "delivered_per_s": row.delivered,
                    "sent_per_s": row.sent, "ratio": row.ratio,
                    "ratio_lowest": row.lowest, "ratio_highest": row.highest})
            })
            .collect();
        let programs = self.costs.programs.iter().flat_map(|(load, programs)| {
            programs.iter().map(|p| {
                let ns = p.cost.ns_per_run().map(|ns| ns - empty.unwrap_or(0.0));
                json!({"load": load.name(), "name": p.name, "type": p.kind,
                    "runs": p.cost.runs, "ns_per_run": ns})
            })
        });
        let programs: Vec<_> = programs.collect();
        json!({"rounds": self.rounds.len(), "loads": loads, "empty_program_ns": empty,
            "programs": programs, "topology_s": median(self.topology.seconds.clone())})
    }
}

/// The middle value; of an even number, the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match (values.get(half), half.checked_sub(1).and_then(|i| values.get(i))) {
        (Some(high), Some(low)) if values.len().is_multiple_of(2) => f64::midpoint(*low, *high),
        (Some(middle), _) => *middle,
        (None, _) => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(delivered_per_s: f64) -> Sample {
        Sample { sent_per_s: delivered_per_s, delivered_per_s }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let costs = Costs { empty: Cost { runs: 1, ns: 20 }, programs: Vec::new() };
        let round = |base: f64| [sample(base), sample(base * 0.9), sample(base * 0.5)];
        // The second round ran on a machine half as fast.
        let topology = Drawing { namespaces: 1, services: 1, seconds: vec![0.5] };
        let report = Report { rounds: vec![round(100.0), round(50.0)], costs, topology };
        let ratios: Vec<_> = report.rows().iter().map(|row| (row.ratio * 10.0).round()).collect();
        assert_eq!(ratios, [10.0, 9.0, 5.0]);
        assert_eq!(report.json()["loads"][0]["delivered_per_s"], 75.0);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(Vec::new()).is_nan());
    }
}
