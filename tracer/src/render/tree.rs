//! `-o tree`: a timeline per journey, to be read at three in the morning.
//!
//! A heading, the path, and one row per hop in aligned columns; a drop is the last row and says
//! what it means. Clones that came to nothing are one line each.

use std::io::{self, Write};

use super::{
    Group, Renderer, Style,
    rows::{COLUMNS, Row, rows},
    style::{Role, of_fate},
    text,
};
use crate::report::{Journey, Summary};

/// A column is not made wider than this by one long name, but on a wide terminal.
const MAX_WIDTH: usize = 24;
/// See [`MAX_WIDTH`]; on a terminal of this many columns and more.
const WIDE: usize = 160;
/// Nor narrower for want of room.
const SHORTEST: usize = 9;
/// Columns that a sentence needs beside others.
const BESIDE: usize = 24;
/// The columns of names, which may be cut.
const PLACES: [usize; 2] = [1, 2];

pub(super) struct Tree {
    style: Style,
    is_first: bool,
}

impl Tree {
    pub(super) fn new(style: Style) -> Self {
        Self { style, is_first: true }
    }
}

impl Renderer for Tree {
    fn journey(&mut self, journey: &Journey, out: &mut dyn Write) -> io::Result<()> {
        if is_minor(journey) {
            return self.compact(journey, 1, out);
        }
        if !std::mem::take(&mut self.is_first) {
            writeln!(out)?;
        }
        self.whole(journey, None, out)
    }

    fn group(&mut self, group: &Group, out: &mut dyn Write) -> io::Result<()> {
        if is_minor(&group.first) {
            return self.compact(&group.first, group.count, out);
        }
        if !std::mem::take(&mut self.is_first) {
            writeln!(out)?;
        }
        self.whole(&group.first, Some(group), out)
    }

    fn summary(&mut self, _: &Summary, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

/// A relative that only repeats its parent: a clone that nobody wanted, a part of a whole.
fn is_minor(journey: &Journey) -> bool {
    let Some(parent) = &journey.parent else { return false };
    let is_unwanted = journey.fate == "consumed"
        || journey.drop.as_ref().is_some_and(|drop| drop.reason == "OTHERHOST");
    match parent.kind.as_str() {
        "clone" | "copy" => is_unwanted,
        "segment" | "fragment" => journey.fate != "dropped",
        _ => false,
    }
}

impl Tree {
    /// The timeline of a journey, or of all those that a group has in its place.
    fn whole(
        &self,
        journey: &Journey,
        group: Option<&Group>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        self.heading(journey, group, out)?;
        self.path(&journey.path, out)?;
        let mut rows = rows(journey);
        if let Some(group) = group {
            for row in &mut rows {
                if let Some(hop) = row.hop {
                    row.cells[0] = format!("+{}", text::spread(group.at(hop)));
                }
            }
        }
        let widths = self.widths(&rows);
        for row in &rows {
            self.row(row, &widths, out)?;
        }
        Ok(())
    }

    fn heading(
        &self,
        journey: &Journey,
        group: Option<&Group>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let style = &self.style;
        let parent = journey.parent.as_ref();
        let parent = parent.map_or(String::new(), |p| format!("  ({} of #{})", p.kind, p.id));
        let fate = journey.fate.to_uppercase().replace('-', " ");
        let missing = text::missing(journey);
        let (completeness, role) = match &missing {
            None => ("complete", Role::Faint),
            Some(missing) => (missing.as_str(), Role::Warning),
        };
        let id = match group {
            None => format!("#{}", journey.id),
            Some(group) => format!("#{} to #{}  ×{}", journey.id, group.last_id, group.count),
        };
        let time = text::clock(journey.start_ns, self.style.utc_offset_s);
        let packet = text::packet(journey, "→");
        let duration = match group {
            None => text::duration(journey.duration_ns),
            Some(group) => format!("p50 / p99 {}", text::spread(group.duration())),
        };
        let length = [&id, &time, &packet, &parent, &fate, &duration]
            .map(|part| columns(part))
            .iter()
            .sum::<usize>();
        let is_long = style.width.is_some_and(|width| length + columns(completeness) + 13 > width);
        writeln!(
            out,
            "{}  {}  {}{}{}{}   {}   {}",
            style.paint(Role::Faint, &id),
            style.paint(Role::Faint, &time),
            style.paint(Role::Heading, &packet),
            style.paint(Role::Faint, &parent),
            if is_long { "\n    " } else { "   " },
            style.paint(of_fate(&journey.fate), &fate),
            style.paint(Role::Plain, &duration),
            style.paint(role, completeness),
        )
    }

    /// The path, broken before arrows where it would not fit.
    fn path(&self, path: &str, out: &mut dyn Write) -> io::Result<()> {
        if path.is_empty() {
            return Ok(());
        }
        let room = self.style.width.map_or(usize::MAX, |width| width.saturating_sub(5).max(30));
        let mut line = String::new();
        for (n, part) in path.split(" → ").enumerate() {
            let part = if n == 0 { part.to_owned() } else { format!(" → {part}") };
            if !line.is_empty() && columns(&line) + columns(&part) > room {
                writeln!(out, "    {}", self.style.paint(Role::Plain, &line))?;
                line = format!(" {part}");
            } else {
                line.push_str(&part);
            }
        }
        writeln!(out, "    {}", self.style.paint(Role::Plain, &line))
    }

    fn row(&self, row: &Row, widths: &[usize; COLUMNS], out: &mut dyn Write) -> io::Result<()> {
        let mut line = String::from("    ");
        let last = (0..COLUMNS).rev().find(|n| !row.cells[*n].is_empty()).unwrap_or(0);
        for (n, cell) in row.cells.iter().enumerate() {
            let is_time = n == 0;
            let role = if is_time && row.role == Role::Plain { Role::Faint } else { row.role };
            let role = if n == 4 && row.role == Role::Plain { row.outcome } else { role };
            let cell =
                if PLACES.contains(&n) { self.fitted(cell, widths[n]) } else { cell.clone() };
            let pad = " ".repeat(widths[n].saturating_sub(columns(&cell)));
            let cell = self.style.paint(role, &cell);
            if is_time {
                line.push_str(&format!("{pad}{cell}"));
            } else if n <= last || !row.detail.is_empty() {
                line.push_str(&format!("  {cell}{pad}"));
            }
        }
        let role = if row.role == Role::Plain { row.detail_role } else { row.role };
        let beside = 4 + widths.iter().sum::<usize>() + 2 * COLUMNS;
        let below = widths[0] + 8;
        // Where there is no room left beside the columns, it goes under the row.
        let fits = |width| beside + columns(&row.detail) <= width || beside + BESIDE <= width;
        let is_beside = self.style.width.is_none_or(fits);
        let indent = if is_beside { beside } else { below };
        for (n, part) in self.wrapped(&row.detail, indent).iter().enumerate() {
            if n == 0 && is_beside {
                line.push_str("  ");
            } else {
                line = format!("{}\n{}", line.trim_end(), " ".repeat(indent));
            }
            line.push_str(&self.style.paint(role, part));
        }
        writeln!(out, "{}", line.trim_end())?;
        let indent = below;
        for part in self.wrapped(row.explain.as_deref().unwrap_or_default(), indent) {
            writeln!(out, "{}{}", " ".repeat(indent), self.style.paint(Role::Faint, &part))?;
        }
        Ok(())
    }

    /// `text` in pieces that fit behind `indent`, broken at spaces.
    fn wrapped(&self, text: &str, indent: usize) -> Vec<String> {
        let room =
            self.style.width.map_or(usize::MAX, |width| width.saturating_sub(indent).max(BESIDE));
        let mut lines: Vec<String> = Vec::new();
        for word in text.split(' ') {
            match lines.last_mut() {
                Some(line) if columns(line) + 1 + columns(word) <= room => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
        if text.is_empty() { Vec::new() } else { lines }
    }

    /// One line for a journey that only repeats another one.
    fn compact(&mut self, journey: &Journey, count: u64, out: &mut dyn Write) -> io::Result<()> {
        let Some(parent) = &journey.parent else { return Ok(()) };
        self.is_first = false;
        let role = if journey.fate == "dropped" { Role::Warning } else { Role::Faint };
        let times = if count > 1 { format!("  ×{count}") } else { String::new() };
        let head = format!("└ {} of #{}{times}", parent.kind, parent.id);
        let tail = format!("{}   {}", journey.fate, text::duration(journey.duration_ns));
        let taken = columns(&head) + columns(&tail) + 4 + 2 + 3;
        let path = self.style.width.map_or_else(
            || journey.path.clone(),
            |width| middle_cut(&journey.path, width.saturating_sub(taken).max(BESIDE)),
        );
        writeln!(
            out,
            "    {}  {}   {}",
            self.style.paint(Role::Faint, &head),
            self.style.paint(Role::Plain, &path),
            self.style.paint(role, &tail)
        )
    }

    /// As wide as the longest cell of each column; on a narrow terminal the names of places and
    /// devices share what the others leave.
    fn widths(&self, rows: &[Row]) -> [usize; COLUMNS] {
        let max = match self.style.width {
            Some(width) if width >= WIDE => 2 * MAX_WIDTH,
            _ => MAX_WIDTH,
        };
        let mut widths = [0; COLUMNS];
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(&row.cells) {
                *width = (*width).max(columns(cell).min(max));
            }
        }
        let [time, place, device, step, outcome] = widths;
        let Some(width) = self.style.width else { return widths };
        let taken = 4 + time + step + outcome + 2 * (COLUMNS - 1);
        let room = width.saturating_sub(taken).max(2 * SHORTEST);
        if place + device > room {
            let half = room / 2;
            let place = place.min(half.max(room.saturating_sub(device)));
            [widths[1], widths[2]] = [place, device.min(room - place)];
        }
        widths
    }

    /// A name in a column that is narrower than it, on a terminal.
    fn fitted(&self, cell: &str, room: usize) -> String {
        if self.style.width.is_none() { cell.to_owned() } else { middle_cut(cell, room) }
    }
}

/// What is too long loses its middle: names tell one from the other at their ends.
fn middle_cut(text: &str, room: usize) -> String {
    let length = columns(text);
    if length <= room || room < 3 {
        return text.to_owned();
    }
    let tail = (room - 1) / 2;
    let head = room - 1 - tail;
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(length - tail).collect();
    format!("{start}…{end}")
}

/// Columns on a terminal. Good enough for names of devices and namespaces.
fn columns(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: [&str; COLUMNS], detail: &str) -> Row {
        Row {
            cells: cells.map(str::to_owned),
            detail: detail.to_owned(),
            hop: None,
            explain: None,
            role: Role::Plain,
            outcome: Role::Plain,
            detail_role: Role::Plain,
        }
    }

    fn written(rows: &[Row], width: Option<usize>) -> String {
        let tree = Tree::new(Style { width, ..Style::default() });
        let widths = tree.widths(rows);
        let mut out = Vec::new();
        rows.iter().for_each(|r| tree.row(r, &widths, &mut out).unwrap());
        String::from_utf8(out).unwrap()
    }

    fn rows() -> [Row; 2] {
        let cells =
            ["+0.0 µs", "net:[4026532001]", "veth0123abcd→br-0123456789", "FORWARD", "accept"];
        let rule = "filter/FORWARD: -s 10.244.1.0/24 -m comment --comment cni -j ACCEPT";
        [
            row(cells, rule),
            row(["+12.1 µs", "net:[4026532777]", "eth0", "xmit", ""], "port of br-0"),
        ]
    }

    #[test]
    fn long_names_do_not_overrun_a_narrow_terminal() {
        let text = written(&rows(), Some(80));
        assert!(text.lines().all(|l| columns(l) <= 80), "{text}");
        // Names that differ at their ends still do, and columns are aligned.
        let at = |line: &str, word: &str| line.find(word).map(|b| columns(&line[..b]));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("001]") && lines.iter().any(|l| l.contains("777]")), "{text}");
        let last = lines.iter().find(|l| l.contains("xmit")).unwrap();
        assert_eq!(at(lines[0], "FORWARD"), at(last, "xmit"), "{text}");
        // The rule is whole, under its row.
        let joined: Vec<&str> = text.split_whitespace().collect();
        assert!(joined.join(" ").contains("-s 10.244.1.0/24 -m comment --comment cni -j ACCEPT"));
    }

    #[test]
    fn nothing_is_cut_where_there_is_no_terminal() {
        let text = written(&rows(), None);
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("veth0123abcd→br-0123456789") && text.contains("--comment cni"));
    }

    #[test]
    fn the_middle_is_cut() {
        assert_eq!(middle_cut("net:[4026532001]", 9), "net:…001]");
        assert_eq!(middle_cut("eth0", 9), "eth0");
    }
}
