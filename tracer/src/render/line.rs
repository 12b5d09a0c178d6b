//! `-o line`: one line per journey, made for `grep` and `tail -f`.

use std::io;

use super::{
    Group, Renderer, Style,
    style::{Role, of_fate},
    text,
};
use crate::report;

pub(super) struct Line {
    style: Style,
}

impl Line {
    pub(super) fn new(style: Style) -> Self {
        Self { style }
    }
}

impl Renderer for Line {
    fn journey(&mut self, journey: &report::Journey, out: &mut dyn io::Write) -> io::Result<()> {
        self.write(journey, &text::duration(journey.duration_ns), "", out)
    }

    fn group(&mut self, group: &Group, out: &mut dyn io::Write) -> io::Result<()> {
        let duration = format!("p50/p99 {}", text::spread(group.duration()));
        let times = format!(" ×{} to #{}", group.count, group.last_id);
        self.write(&group.first, &duration, &times, out)
    }

    fn summary(&mut self, _: &report::Summary, _: &mut dyn io::Write) -> io::Result<()> {
        Ok(())
    }
}

impl Line {
    fn write(
        &self,
        journey: &report::Journey,
        duration: &str,
        times: &str,
        out: &mut dyn io::Write,
    ) -> io::Result<()> {
        let paint = |role, text: &str| self.style.paint(role, text);
        let mut fate = journey.fate.clone();
        if let Some(drop) = &journey.drop {
            fate.push(' ');
            fate.push_str(&drop.reason);
            if let Some(function) = &drop.function {
                fate.push('@');
                fate.push_str(function);
            }
            if let Some(hook) = &drop.hook {
                fate.push_str(&format!(" hook {hook}"));
            }
        }
        let parent = journey.parent.as_ref();
        let parent = parent.map_or(String::new(), |p| format!("  {} of #{}", p.kind, p.id));
        let lost = text::missing(journey).map_or_else(String::new, |said| format!("  {said}"));
        writeln!(
            out,
            "{}  #{}{}  {}  {}  {}  {}{}{}",
            paint(Role::Faint, &text::time(journey.start_ns)),
            paint(Role::Plain, &journey.id),
            paint(Role::Change, times),
            paint(Role::Heading, &text::packet(journey, ">")),
            paint(Role::Plain, &journey.path),
            paint(of_fate(&journey.fate), &fate),
            paint(Role::Plain, duration),
            paint(Role::Faint, &parent),
            paint(Role::Warning, &lost),
        )
    }
}
