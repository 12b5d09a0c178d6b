//! `-o table`: one row per journey.

use std::io;

use comfy_table::{Cell, Color, ContentArrangement, presets};

use super::{Group, Renderer, Style, style::Role, style::of_fate, text};
use crate::report;

/// Rows of one table: a long run prints a table now and then instead of holding everything back.
const ROWS: usize = 40;

pub(super) struct Table {
    style: Style,
    rows: Vec<[Cell; 5]>,
}

impl Table {
    pub(super) fn new(style: Style) -> Self {
        Self { style, rows: Vec::new() }
    }

    fn print(&mut self, out: &mut dyn io::Write) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut table = comfy_table::Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY).force_no_tty();
        if self.style.has_color {
            table.enforce_styling();
        }
        table.set_header(["#", "packet", "fate", "time", "path"]);
        if let Some(width) = self.style.width {
            table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(width.clamp(40, 1000) as u16);
        }
        for row in self.rows.drain(..) {
            table.add_row(row);
        }
        writeln!(out, "{table}")
    }
}

impl Renderer for Table {
    fn journey(&mut self, journey: &report::Journey, out: &mut dyn io::Write) -> io::Result<()> {
        self.add(journey, "", &text::duration(journey.duration_ns), out)
    }

    fn group(&mut self, group: &Group, out: &mut dyn io::Write) -> io::Result<()> {
        let times = format!(" ×{}", group.count);
        self.add(&group.first, &times, &text::spread(group.duration()), out)
    }

    fn summary(&mut self, _: &report::Summary, out: &mut dyn io::Write) -> io::Result<()> {
        self.print(out)
    }
}

impl Table {
    /// Adds a row.
    fn add(
        &mut self,
        journey: &report::Journey,
        times: &str,
        duration: &str,
        out: &mut dyn io::Write,
    ) -> io::Result<()> {
        let fate = match &journey.drop {
            Some(drop) => {
                let function =
                    drop.function.as_deref().map_or(String::new(), |f| format!(" @ {f}"));
                let hook = drop.hook.as_deref().map_or(String::new(), |h| format!(" ({h})"));
                format!("dropped {}{function}{hook}", drop.reason)
            }
            None => journey.fate.clone(),
        };
        let mut cell = Cell::new(text::escape(&fate));
        if let Some(color) = color(of_fate(&journey.fate)).filter(|_| self.style.has_color) {
            cell = cell.fg(color);
        }
        let id = match &journey.parent {
            Some(parent) => format!("{} ({} of {})", journey.id, parent.kind, parent.id),
            None => journey.id.clone(),
        };
        let lost = text::missing(journey).map_or_else(String::new, |said| format!(" ({said})"));
        self.rows.push([
            Cell::new(text::escape(&(id + times))),
            Cell::new(text::escape(&text::packet(journey, "→"))),
            cell,
            Cell::new(duration.to_owned() + &lost),
            Cell::new(text::escape(&journey.path)),
        ]);
        if self.rows.len() >= ROWS { self.print(out) } else { Ok(()) }
    }
}

fn color(role: Role) -> Option<Color> {
    match role {
        Role::Good => Some(Color::Green),
        Role::Bad => Some(Color::Red),
        Role::Warning => Some(Color::Yellow),
        Role::Plain | Role::Heading | Role::Change | Role::Faint => None,
    }
}
