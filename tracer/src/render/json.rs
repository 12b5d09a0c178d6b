//! `-o json`: one object per line, `pkttrace schema` describes it.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use super::{Renderer, Style, text::is_unsafe};
use crate::report;

pub(super) struct Json {
    /// The line that is being written: many small pieces, of which a file wants to know nothing.
    line: Vec<u8>,
}

impl Json {
    pub(super) fn new(_: Style) -> Self {
        Self { line: Vec::new() }
    }

    fn line(&mut self, value: &impl Serialize, out: &mut dyn io::Write) -> io::Result<()> {
        self.line.clear();
        value.serialize(&mut Serializer::with_formatter(&mut self.line, Plain))?;
        self.line.push(b'\n');
        out.write_all(&self.line)
    }
}

impl Renderer for Json {
    fn journey(&mut self, journey: &report::Journey, out: &mut dyn io::Write) -> io::Result<()> {
        self.line(journey, out)
    }

    fn summary(&mut self, summary: &report::Summary, out: &mut dyn io::Write) -> io::Result<()> {
        self.line(summary, out)
    }
}

/// Compact, with everything escaped that JSON lets stand but a terminal would obey.
struct Plain;

impl Formatter for Plain {
    fn write_string_fragment<W>(&mut self, out: &mut W, text: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        // All but a few are plain, and have nothing to look for.
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return out.write_all(text.as_bytes());
        }
        let mut rest = text;
        while let Some(at) = rest.find(is_unsafe) {
            let (before, tail) = rest.split_at(at);
            out.write_all(before.as_bytes())?;
            let mut chars = tail.chars();
            // All of them have one UTF-16 unit.
            let code = chars.next().map_or(0, u32::from);
            write!(out, "\\u{code:04x}")?;
            rest = chars.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_hold_nothing_that_a_terminal_obeys() {
        let text = "a\u{9b}2J\x1b\x7f\u{202e}é";
        let mut out = Vec::new();
        Json::new(Style::default()).line(&text, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out, "\"a\\u009b2J\\u001b\\u007f\\u202eé\"\n");
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
    }
}
