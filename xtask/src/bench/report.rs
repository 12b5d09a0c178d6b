//! Medians, ratios, and the tables.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::loads::{Counts, Load, Usage};
use super::programs::{Cost, Program};
use super::switch::Switch;
use super::topology::Drawing;

/// Around the table in the documentation.
const MARKS: [&str; 2] =
    ["<!-- written by `cargo xtask bench --write` -->\n", "<!-- until here -->"];

/// One measurement of one load.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) sent_per_s: f64,
    pub(super) delivered_per_s: f64,
    /// What ran beside it.
    pub(super) usage: Option<Usage>,
}

/// What the programs cost per run.
pub(super) struct Costs {
    pub(super) empty: Cost,
    pub(super) programs: Vec<(Load, Vec<Program>)>,
}

/// What one path took.
pub(super) struct Measured {
    /// The first is what the others are compared to.
    pub(super) loads: &'static [Load],
    /// In that order.
    pub(super) rounds: Vec<Vec<Sample>>,
}

/// Everything that was measured.
pub(super) struct Report {
    pub(super) plain: Measured,
    /// With firewall rules and conntrack on the path.
    pub(super) with_rules: Measured,
    pub(super) costs: Option<Costs>,
    pub(super) topology: Option<Drawing>,
    pub(super) switches: Vec<Switch>,
}

/// One line of the first table.
struct Row {
    load: Load,
    delivered: f64,
    sent: f64,
    ratio: f64,
    lowest: f64,
    highest: f64,
    /// What a packet takes longer than without a tracer, nanoseconds.
    added_ns: f64,
    /// Medians, each for itself.
    usage: Option<Usage>,
}

impl Report {
    pub(super) fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.json());
        } else {
            print!("{}", self.plain.throughput("as it is"));
            print!("{}", self.with_rules.throughput("with rules and conntrack"));
            print!("{}{}{}", self.per_program(), self.drawing(), self.switching());
        }
    }

    /// Puts the table where the documentation has the last one.
    pub(super) fn write(&self, file: &Path) -> Result<()> {
        let text = fs::read_to_string(file).context("the documentation")?;
        let (before, rest) =
            text.split_once(MARKS[0]).context("the table's begin is not marked")?;
        let (_, after) = rest.split_once(MARKS[1]).context("the table's end is not marked")?;
        let tables = format!(
            "Medians of {} rounds.\n\n{}\nWith 500 rules and conntrack where packets are forwarded:\n\n\
             {}\n{}",
            self.plain.rounds.len(),
            self.plain.table(),
            self.with_rules.table(),
            self.switching().trim_start(),
        );
        let text = format!("{before}{}\n{tables}\n{}{after}", MARKS[0], MARKS[1]);
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    fn per_program(&self) -> String {
        let Some(costs) = &self.costs else { return String::new() };
        let empty = costs.empty.ns_per_run().unwrap_or(0.0);
        let mut text = format!("\nns per run, less an empty program's {empty:.1} ns\n");
        for (load, programs) in &costs.programs {
            text += &format!(
                "\n{}\n{:<20}{:<18}{:>12}{:>10}\n",
                load.name(),
                "program",
                "type",
                "runs",
                "ns"
            );
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
        let Some(Drawing { namespaces, services, seconds }) = &self.topology else {
            return String::new();
        };
        let median = median(seconds.clone());
        format!("\ntopology of {namespaces} namespaces, {services} Services: {median:.2} s\n")
    }

    fn switching(&self) -> String {
        self.switches.iter().fold(String::new(), |text, Switch { namespaces, ms }| {
            let median = median(ms.clone());
            text + &format!(
                "\nFrom the first match until everything is attached, among {namespaces} more \
                 namespaces: {median:.1} ms.\n"
            )
        })
    }

    fn json(&self) -> Value {
        let empty = self.costs.as_ref().and_then(|costs| costs.empty.ns_per_run());
        let rows = |measured: &Measured| measured.rows().iter().map(Row::json).collect::<Vec<_>>();
        let programs = self.costs.iter().flat_map(|costs| &costs.programs);
        let programs = programs.flat_map(|(load, programs)| {
            programs.iter().map(|p| {
                let ns = p.cost.ns_per_run().map(|ns| ns - empty.unwrap_or(0.0));
                json!({"load": load.name(), "name": p.name, "type": p.kind,
                    "runs": p.cost.runs, "ns_per_run": ns})
            })
        });
        let programs: Vec<_> = programs.collect();
        let topology_s = self.topology.as_ref().map(|drawing| median(drawing.seconds.clone()));
        let switches = self.switches.iter().map(
            |switch| json!({"namespaces": switch.namespaces, "ms": median(switch.ms.clone())}),
        );
        json!({"rounds": self.plain.rounds.len(), "loads": rows(&self.plain),
            "loads_with_rules": rows(&self.with_rules), "empty_program_ns": empty,
            "programs": programs, "topology_s": topology_s,
            "switches": switches.collect::<Vec<_>>()})
    }
}

impl Measured {
    fn table(&self) -> String {
        let mut text = "| load | packets/s | ratio | range | added, ns a packet | CPU | MB \
                        | ready, s | end, s | journeys | events/s | refused | lost |\n\
                        |---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
        for row in self.rows() {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {} | {:.0} | {:.3} | {:.3}–{:.3} | {:.0} | {} |",
                row.load.name(),
                row.delivered,
                row.ratio,
                row.lowest,
                row.highest,
                row.added_ns,
                cells(row.usage)
            );
        }
        text
    }

    fn rows(&self) -> Vec<Row> {
        let row = |(at, load): (usize, Load)| {
            let samples = || self.rounds.iter().map(move |round| round[at]);
            // Within a round, so that the machine's other work falls out.
            let speeds =
                || self.rounds.iter().map(|r| (r[at].delivered_per_s, r[0].delivered_per_s));
            let ratios: Vec<f64> = speeds().map(|(with, without)| with / without).collect();
            let added = speeds().map(|(with, without)| 1e9 / with - 1e9 / without);
            Row {
                load,
                delivered: median(samples().map(|s| s.delivered_per_s).collect()),
                sent: median(samples().map(|s| s.sent_per_s).collect()),
                lowest: ratios.iter().copied().fold(f64::INFINITY, f64::min),
                highest: ratios.iter().copied().fold(0.0, f64::max),
                ratio: median(ratios),
                added_ns: median(added.collect()),
                usage: middle(&samples().filter_map(|s| s.usage).collect::<Vec<_>>()),
            }
        };
        self.loads.iter().copied().enumerate().map(row).collect()
    }

    fn throughput(&self, what: &str) -> String {
        let rounds = self.rounds.len();
        let mut text =
            format!("\n{what}: medians of {rounds} rounds; ratios to \"no tracer\" per round\n");
        text += &format!(
            "{:<42}{:>12}{:>12}{:>8}{:>14}{:>10}\n",
            "load", "delivered/s", "sent/s", "ratio", "range", "added ns"
        );
        for Row { load, delivered, sent, ratio, lowest, highest, added_ns, .. } in self.rows() {
            let range = format!("{lowest:.3}-{highest:.3}");
            text += &format!(
                "{:<42}{delivered:>12.0}{sent:>12.0}{ratio:>8.3}{range:>14}{added_ns:>10.0}\n",
                load.name()
            );
        }
        text
    }
}

impl Row {
    fn json(&self) -> Value {
        let usage = self.usage.map(|usage| {
            let counts = usage.counts.map(|c| {
                json!({"journeys": c.journeys, "events_per_s": c.events_per_s,
                    "refused": c.refused, "lost": c.lost})
            });
            json!({"cpu": usage.cpu, "rss_mb": usage.rss_mb, "ready_s": usage.ready_s,
                "end_s": usage.end_s, "counts": counts})
        });
        json!({"load": self.load.name(), "delivered_per_s": self.delivered,
            "sent_per_s": self.sent, "ratio": self.ratio, "ratio_lowest": self.lowest,
            "ratio_highest": self.highest, "added_ns": self.added_ns, "usage": usage})
    }
}

/// The last columns of a line of the table.
fn cells(usage: Option<Usage>) -> String {
    let Some(Usage { cpu, rss_mb, ready_s, end_s, counts }) = usage else {
        return "– | – | – | – | – | – | – | –".to_owned();
    };
    let took = format!("{:.0} % | {rss_mb:.0} | {ready_s:.2} | {end_s:.2}", cpu * 100.0);
    match counts {
        Some(Counts { journeys, events_per_s, refused, lost }) => {
            format!("{took} | {journeys:.0} | {events_per_s:.0} | {refused:.0} | {lost:.0}")
        }
        None => format!("{took} | – | – | – | –"),
    }
}

/// The median of each figure for itself.
fn middle(all: &[Usage]) -> Option<Usage> {
    let of = |figure: fn(&Usage) -> f64| median(all.iter().map(figure).collect());
    let counts: Vec<Counts> = all.iter().filter_map(|usage| usage.counts).collect();
    let counted = |figure: fn(&Counts) -> f64| median(counts.iter().map(figure).collect());
    (!all.is_empty()).then(|| Usage {
        cpu: of(|u| u.cpu),
        rss_mb: of(|u| u.rss_mb),
        ready_s: of(|u| u.ready_s),
        end_s: of(|u| u.end_s),
        counts: (!counts.is_empty()).then(|| Counts {
            journeys: counted(|c| c.journeys),
            events_per_s: counted(|c| c.events_per_s),
            refused: counted(|c| c.refused),
            lost: counted(|c| c.lost),
        }),
    })
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
    use super::super::loads::LOADS;
    use super::*;

    fn round(base: f64) -> Vec<Sample> {
        let sample = |share: f64| {
            let rate = base * share;
            Sample { sent_per_s: rate, delivered_per_s: rate, usage: None }
        };
        (0..LOADS.len()).map(|at| sample(if at == 0 { 1.0 } else { 0.5 })).collect()
    }

    fn report(rounds: Vec<Vec<Sample>>) -> Report {
        let plain = Measured { loads: LOADS, rounds };
        let with_rules = Measured { loads: LOADS, rounds: vec![round(5e5)] };
        let switches = vec![Switch { namespaces: 15, ms: vec![9.0, 7.0, 8.0] }];
        Report { plain, with_rules, costs: None, topology: None, switches }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The second round ran on a machine half as fast.
        let report = report(vec![round(2e6), round(1e6)]);
        let rows = report.plain.rows();
        assert!(rows.iter().skip(1).all(|row| (row.ratio - 0.5).abs() < 1e-9));
        // 500 ns more in the first round, 1000 in the second.
        assert!((rows[1].added_ns - 750.0).abs() < 1e-6);
        assert_eq!(report.json()["loads"][0]["delivered_per_s"], 1.5e6);
    }

    #[test]
    fn the_table_takes_the_place_of_the_last_one() {
        let file = std::env::temp_dir().join(format!("xtask-table-{}.md", std::process::id()));
        fs::write(&file, format!("before\n{}old\n{}\nafter\n", MARKS[0], MARKS[1])).expect("temp");
        let report = report(vec![round(1e6)]);
        report.write(&file).expect("marked");
        report.write(&file).expect("still marked");
        let text = fs::read_to_string(&file).expect("written");
        fs::remove_file(&file).expect("removed");
        assert!(text.starts_with("before\n<!--") && text.ends_with("until here -->\nafter\n"));
        assert_eq!(text.matches("| no tracer | 1000000 | 1.000 |").count(), 1, "{text}");
        assert!(
            text.contains("| no tracer | 500000 |") && text.contains("among 15 more"),
            "{text}"
        );
        assert!(text.contains("namespaces: 8.0 ms."), "{text}");
        assert!(!text.contains("old"));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(Vec::new()).is_nan());
    }
}
