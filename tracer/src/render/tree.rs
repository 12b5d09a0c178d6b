//! `-o tree`: a timeline per journey, to be read at three in the morning.
//!
//! A heading, the path, and one row per hop in aligned columns; a drop is the last row and says
//! what it means. Clones that came to nothing are one line each.

use std::io::{self, Write};

use super::{
    Renderer, Style,
    rows::{COLUMNS, Row, rows},
    style::{Role, of_fate},
    text,
};
use crate::report::{Journey, Summary};

/// A column is not made wider than this by one long name.
const MAX_WIDTH: usize = 24;

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
            return self.compact(journey, out);
        }
        if !std::mem::take(&mut self.is_first) {
            writeln!(out)?;
        }
        self.heading(journey, out)?;
        self.path(&journey.path, out)?;
        let rows = rows(journey);
        let widths = widths(&rows);
        for row in &rows {
            self.row(row, &widths, out)?;
        }
        Ok(())
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
    fn heading(&self, journey: &Journey, out: &mut dyn Write) -> io::Result<()> {
        let style = &self.style;
        let parent = journey.parent.as_ref();
        let parent = parent.map_or(String::new(), |p| format!("  ({} of #{})", p.kind, p.id));
        let fate = journey.fate.to_uppercase().replace('-', " ");
        let missing = match journey.lost_events {
            1 => "1 event lost".to_owned(),
            n => format!("{n} events lost"),
        };
        let (completeness, role) = if journey.complete {
            ("complete", Role::Faint)
        } else {
            (missing.as_str(), Role::Warning)
        };
        let id = format!("#{}", journey.id);
        let packet = text::packet(journey, "→");
        let duration = text::duration(journey.duration_ns);
        let length = [&id, &packet, &parent, &fate, &duration]
            .map(|part| columns(part))
            .iter()
            .sum::<usize>();
        let is_long = style.width.is_some_and(|width| length + columns(completeness) + 11 > width);
        writeln!(
            out,
            "{}  {}{}{}{}   {}   {}",
            style.paint(Role::Faint, &id),
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
            let pad = " ".repeat(widths[n].saturating_sub(columns(cell)));
            let cell = self.style.paint(role, cell);
            if is_time {
                line.push_str(&format!("{pad}{cell}"));
            } else if n <= last || !row.detail.is_empty() {
                line.push_str(&format!("  {cell}{pad}"));
            }
        }
        let role = if row.role == Role::Plain { row.detail_role } else { row.role };
        let indent = 4 + widths.iter().sum::<usize>() + 2 * COLUMNS;
        for (n, part) in self.wrapped(&row.detail, indent).iter().enumerate() {
            if n == 0 {
                line.push_str("  ");
            } else {
                line.push_str(&format!("\n{}", " ".repeat(indent)));
            }
            line.push_str(&self.style.paint(role, part));
        }
        writeln!(out, "{}", line.trim_end())
    }

    /// `text` in pieces that fit behind `indent`, broken at spaces.
    fn wrapped(&self, text: &str, indent: usize) -> Vec<String> {
        let room =
            self.style.width.map_or(usize::MAX, |width| width.saturating_sub(indent).max(24));
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
    fn compact(&mut self, journey: &Journey, out: &mut dyn Write) -> io::Result<()> {
        let Some(parent) = &journey.parent else { return Ok(()) };
        self.is_first = false;
        let role = if journey.fate == "dropped" { Role::Warning } else { Role::Faint };
        let head = format!("└ {} of #{}", parent.kind, parent.id);
        let tail = format!("{}   {}", journey.fate, text::duration(journey.duration_ns));
        writeln!(
            out,
            "    {}  {}   {}",
            self.style.paint(Role::Faint, &head),
            self.style.paint(Role::Plain, &journey.path),
            self.style.paint(role, &tail)
        )
    }
}

fn widths(rows: &[Row]) -> [usize; COLUMNS] {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(&row.cells) {
            *width = (*width).max(columns(cell).min(MAX_WIDTH));
        }
    }
    widths
}

/// Columns on a terminal. Good enough for names of devices and namespaces.
fn columns(text: &str) -> usize {
    text.chars().count()
}
