//! Drops: a table that refreshes in place, a line per interval, JSON, and Prometheus' text.

use std::fmt::Write as _;
use std::io;

use super::style::Role;
use super::{Style, text};
use crate::cli::drops::DropsFormat;
use crate::perf::exporter::label;
use crate::report::{DropRow, Drops, Journey};

/// Rows of a terminal whose size is not known.
const HEIGHT: usize = 24;
/// Lines beside those of rows.
const FRAME: usize = 5;
/// Counters that a table shows at most.
const COUNTERS: usize = 6;

/// What prints drops.
pub struct View {
    format: DropsFormat,
    style: Style,
    in_place: bool,
    /// Lines that the last table took.
    printed: usize,
}

impl View {
    /// Prints in this format.
    #[must_use]
    pub fn new(format: DropsFormat, style: Style, in_place: bool) -> Self {
        let in_place = in_place && format == DropsFormat::Table;
        Self { format, style, in_place, printed: 0 }
    }

    /// Prints an interval; `all` are the rows of the whole run.
    ///
    /// # Errors
    /// The writer's.
    pub fn print(
        &mut self,
        drops: &Drops,
        all: &[DropRow],
        is_last: bool,
        out: &mut dyn io::Write,
    ) -> io::Result<()> {
        match self.format {
            DropsFormat::Json => {
                serde_json::to_writer(&mut *out, drops)?;
                writeln!(out)
            }
            DropsFormat::Line => writeln!(out, "{}", self.line(drops)),
            DropsFormat::Table => {
                if self.in_place && self.printed > 0 {
                    write!(out, "\x1b[{}A\x1b[J", self.printed)?;
                }
                let limit = if self.in_place && !is_last { height() } else { usize::MAX };
                let table = self.table(drops, all, limit);
                self.printed = table.matches('\n').count();
                out.write_all(table.as_bytes())
            }
        }
    }

    fn line(&self, drops: &Drops) -> String {
        let time = text::time(drops.t_ns);
        let mut parts: Vec<String> = drops
            .rows
            .iter()
            .map(|row| format!("{} {}", row.packets, text::escape(&what(row).join(" "))))
            .collect();
        if drops.other.packets > 0 {
            parts.push(format!("{} of other kinds", drops.other.packets));
        }
        let folded: u64 = drops.folded.iter().map(|f| f.packets).sum();
        if folded > 0 {
            parts.push(format!("{folded} more as on any node"));
        }
        let clock = time.get(11..19).unwrap_or(&time);
        let head = format!(
            "{clock}  {} dropped in {}",
            drops.packets(),
            text::duration(drops.interval_ns)
        );
        match parts.is_empty() {
            true => head,
            false => format!("{head}: {}", parts.join("; ")),
        }
    }

    fn table(&self, drops: &Drops, all: &[DropRow], limit: usize) -> String {
        let width = self.style.width.unwrap_or(usize::MAX);
        let total: u64 = all.iter().map(|row| row.total).sum();
        let seconds = (drops.interval_ns as f64 / 1e9).max(1e-9);
        let mut table = format!(
            "{}\n",
            self.style.paint(
                Role::Heading,
                &text::cut(
                    &format!(
                        "{:.0} drops/s, {total} since the start   {}",
                        drops.packets() as f64 / seconds,
                        text::time(drops.t_ns).get(11..19).unwrap_or_default()
                    ),
                    width,
                )
            )
        );
        let head = format!(
            "{:>9}  {:>9}  {:>5}  {:>6}  {}",
            "RATE/s", "TOTAL", "SHARE", "LAST", "WHAT AND WHERE"
        );
        let _ = writeln!(table, "{}", self.style.paint(Role::Faint, &text::cut(&head, width)));
        let mut room = limit.saturating_sub(FRAME);
        let mut shown = 0;
        for row in all {
            let mut lines = String::new();
            self.row(row, drops, total, seconds, width, &mut lines);
            let taken = lines.matches('\n').count();
            if taken > room {
                break;
            }
            (room, shown) = (room - taken, shown + 1);
            table.push_str(&lines);
        }
        if all.len() > shown {
            let _ = writeln!(table, "{:>9}  and {} rows more", "", all.len() - shown);
        }
        self.rest(drops, width, &mut table);
        table
    }

    fn row(
        &self,
        row: &DropRow,
        drops: &Drops,
        total: u64,
        seconds: f64,
        width: usize,
        table: &mut String,
    ) {
        let is_now = drops.rows.iter().find(|now| same(now, row));
        let packets = is_now.map_or(0, |now| now.packets);
        let share = 100.0 * row.total as f64 / total.max(1) as f64;
        let ago = drops.t_ns.saturating_sub(row.last_ns) / 1_000_000_000;
        let ago = if ago < 1 { "now".to_owned() } else { format!("{ago}s") };
        let numbers = format!(
            "{:>9.0}  {:>9}  {share:>4.0}%  {ago:>6}  ",
            packets as f64 / seconds,
            row.total
        );
        let role = if packets > 0 { Role::Bad } else { Role::Plain };
        let what = fitting(row, width.saturating_sub(numbers.len()));
        let _ = writeln!(table, "{numbers}{}", self.style.paint(role, &what));
        let mut more: Vec<String> = row.meaning.clone().into_iter().collect();
        if let Some(rule) = &row.rule {
            more.push(format!("{}/{} {}", rule.table, rule.chain, rule.text));
        }
        more.extend(row.example.as_deref().map(example));
        let indent = " ".repeat(11);
        let room = width.saturating_sub(indent.len());
        let joined = more.join(" · ");
        // Where there is no room for all of it in one line, each has its own.
        let lines = if joined.chars().count() <= room { vec![joined] } else { more };
        for line in lines {
            let line = text::cut(&line, room);
            let _ = writeln!(table, "{indent}{}", self.style.paint(Role::Faint, &line));
        }
    }

    /// What has no row.
    fn rest(&self, drops: &Drops, width: usize, table: &mut String) {
        let mut line = |text: String| {
            let _ = writeln!(table, "{}", self.style.paint(Role::Faint, &text::cut(&text, width)));
        };
        if drops.other.packets > 0 {
            line(format!(
                "{:>9}  of other kinds, for which there was no room",
                drops.other.packets
            ));
        }
        if !drops.folded.is_empty() {
            let parts = drops.folded.iter().map(|f| format!("{} {}", f.packets, f.why));
            line(format!("no loss: {}", parts.collect::<Vec<_>>().join(", ")));
        }
        if !drops.counters.is_empty() {
            let parts = drops.counters.iter().take(COUNTERS).map(|c| {
                let place = c.netns.as_ref().map_or(String::new(), |n| format!("{} ", n.name));
                format!("{place}{} +{}", c.name, c.delta)
            });
            let all = parts.collect::<Vec<_>>().join(", ");
            text::fold(&format!("counters: {all}"), Some(width)).into_iter().for_each(line);
        }
    }
}

/// What is dropped, and where.
fn what(row: &DropRow) -> Vec<String> {
    let mut parts: Vec<String> =
        [&row.reason, &row.function].into_iter().flatten().cloned().collect();
    let owner = row.owner.as_ref();
    let pod = owner.and_then(|o| o.pod.as_ref()).map(|pod| format!("pod {pod}"));
    let container = owner.and_then(|o| o.container.as_ref());
    let whose = pod.or_else(|| container.map(|c| format!("container {c}")));
    parts.extend(whose.or_else(|| row.netns.as_ref().map(|n| n.name.clone())));
    parts.extend(row.dev.as_ref().map(|dev| dev.name.clone()));
    parts.extend(row.hook.as_ref().map(|hook| hook.to_uppercase()));
    if parts.is_empty() {
        parts.push("any".to_owned());
    }
    parts
}

/// The same within so many columns: where it happens matters more than in which function.
fn fitting(row: &DropRow, width: usize) -> String {
    let whole = what(row).join("  ");
    if whole.chars().count() <= width {
        return whole;
    }
    let short =
        DropRow { function: row.function.clone().filter(|_| row.reason.is_none()), ..row.clone() };
    text::cut(&what(&short).join("  "), width)
}

/// The packet of an example; its way too, where that is known.
fn example(journey: &Journey) -> String {
    let packet = text::packet(journey, "→");
    if journey.hops.len() > 1 { format!("{packet}  {}", journey.path) } else { packet }
}

fn same(a: &DropRow, b: &DropRow) -> bool {
    (&a.reason, &a.function, &a.netns, &a.dev, &a.owner, &a.hook)
        == (&b.reason, &b.function, &b.netns, &b.dev, &b.owner, &b.hook)
}

/// Rows of the terminal.
fn height() -> usize {
    crate::terminal::height().unwrap_or(HEIGHT)
}

/// All rows of the run as Prometheus wants them.
#[must_use]
pub fn metrics(rows: &[DropRow], other: u64) -> String {
    let mut out = String::from(
        "# HELP pkttrace_drops_total Packets that the kernel dropped.\n\
         # TYPE pkttrace_drops_total counter\n",
    );
    for row in rows {
        let owner = row.owner.as_ref();
        let name = |value: Option<&str>| label(value.unwrap_or(""));
        let _ = writeln!(
            out,
            "pkttrace_drops_total{{reason=\"{}\",function=\"{}\",netns=\"{}\",device=\"{}\",hook=\"{}\",pod=\"{}\",container=\"{}\"}} {}",
            name(row.reason.as_deref()),
            name(row.function.as_deref()),
            name(row.netns.as_ref().map(|n| n.name.as_str())),
            name(row.dev.as_ref().map(|d| d.name.as_str())),
            name(row.hook.as_deref()),
            name(owner.and_then(|o| o.pod.as_deref())),
            name(owner.and_then(|o| o.container.as_deref())),
            row.total
        );
    }
    let _ = writeln!(
        out,
        "# HELP pkttrace_drops_other_total Packets that were dropped for which there was no room.\n\
         # TYPE pkttrace_drops_other_total counter\npkttrace_drops_other_total {other}"
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Dev, Netns, Owner};

    fn row(packets: u64) -> DropRow {
        DropRow {
            reason: Some("NETFILTER_DROP".to_owned()),
            meaning: Some("a firewall rule drops it".to_owned()),
            function: Some("nft_do_chain".to_owned()),
            netns: Some(Netns { inum: 7, name: "n1".to_owned() }),
            owner: Some(Owner { pod: Some("shop/web".to_owned()), ..Owner::default() }),
            dev: Some(Dev { index: 2, name: "eth0".to_owned() }),
            hook: Some("forward".to_owned()),
            packets,
            total: packets,
            ..DropRow::default()
        }
    }

    fn printed(format: DropsFormat, width: Option<usize>) -> String {
        let mut drops = Drops::new("n".to_owned(), 2_000_000_000, 1_000_000_000);
        drops.rows = vec![row(5)];
        let mut view =
            View::new(format, Style { has_color: false, width, ..Style::default() }, false);
        let mut out = Vec::new();
        view.print(&drops, &drops.rows.clone(), false, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_has_everything_of_its_interval() {
        assert_eq!(
            printed(DropsFormat::Line, None),
            "00:00:02  5 dropped in 1.00 s: 5 NETFILTER_DROP nft_do_chain pod shop/web eth0 FORWARD\n"
        );
    }

    #[test]
    fn a_table_fits_its_terminal() {
        for width in [60, 80, 200] {
            let table = printed(DropsFormat::Table, Some(width));
            assert!(table.lines().all(|line| line.chars().count() <= width), "{table}");
            assert!(table.contains("NETFI"), "{table}");
        }
        let narrow = printed(DropsFormat::Table, Some(80));
        assert!(narrow.contains("a firewall rule drops it"));
        // The function goes before the place does.
        assert!(narrow.contains("NETFILTER_DROP  pod shop/web  eth0  FORWARD"), "{narrow}");
    }

    #[test]
    fn metrics_have_labels() {
        let text = metrics(&[row(5)], 0);
        assert!(text.contains("{reason=\"NETFILTER_DROP\",function=\"nft_do_chain\",netns=\"n1\""));
        assert!(text.contains("pod=\"shop/web\",container=\"\"} 5\n"), "{text}");
    }
}
