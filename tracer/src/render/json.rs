//! `-o json`: one object per line, `pkttrace schema` describes it.

use std::io;

use super::{Renderer, Style};
use crate::report;

pub(super) struct Json;

impl Json {
    pub(super) fn new(_: Style) -> Self {
        Self
    }
}

impl Renderer for Json {
    fn journey(&mut self, journey: &report::Journey, out: &mut dyn io::Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, journey)?;
        out.write_all(b"\n")
    }

    fn summary(&mut self, summary: &report::Summary, out: &mut dyn io::Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, summary)?;
        out.write_all(b"\n")
    }
}
