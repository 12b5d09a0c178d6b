//! `pkttrace explain` on a terminal and as JSON.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::{Entry, TABLES, lookup, near};
use crate::render::hanging;

/// Explains `word`, or lists all words.
///
/// # Errors
///
/// A word that no table knows, with those that come near; or the writer's.
pub fn run(word: Option<&str>, json: bool) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    match (word, json) {
        (Some(word), _) => {
            let Some(entry) = lookup(word) else { bail!(unknown(word)) };
            if json { one_json(&entry, &mut out)? } else { one(&entry, &mut out)? }
        }
        (None, true) => list_json(&mut out)?,
        (None, false) => list(&mut out)?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn unknown(word: &str) -> String {
    let near = near(word);
    match near.is_empty() {
        true => format!("no explanation of {word:?} (`pkttrace explain` lists all words)"),
        false => format!("no explanation of {word:?}; did you mean {}?", near.join(", ")),
    }
}

fn one(entry: &Entry, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{}  ({}", entry.word, entry.group)?;
    if !entry.aliases.is_empty() {
        write!(out, "; also {}", entry.aliases.join(", "))?;
    }
    writeln!(out, ")\n")?;
    let width = crate::terminal::width();
    let mut say = |label, text: &str| write!(out, "{}", hanging(label, text, width));
    say("  ", &entry.what)?;
    say("  ", &entry.why)?;
    say("", "")?;
    say("  Kubernetes   ", &entry.kubernetes)?;
    // A command, to be copied.
    writeln!(out, "  Look next    {}", entry.look)
}

fn one_json(entry: &Entry, out: &mut impl Write) -> io::Result<()> {
    let mut value = serde_json::to_value(entry)?;
    value["schema"] = 1.into();
    value["type"] = "explanation".into();
    writeln!(out, "{value}")
}

fn list(out: &mut impl Write) -> io::Result<()> {
    for (n, table) in TABLES.iter().enumerate() {
        let gap = if n == 0 { "" } else { "\n" };
        writeln!(out, "{gap}{}", table.group)?;
        let mut line = String::new();
        for entry in (table.entries)() {
            if !line.is_empty() && line.len() + entry.word.len() + 2 > 76 {
                writeln!(out, "  {line}")?;
                line.clear();
            }
            line.push_str(if line.is_empty() { "" } else { "  " });
            line.push_str(&entry.word);
        }
        writeln!(out, "  {line}")?;
    }
    Ok(())
}

fn list_json(out: &mut impl Write) -> io::Result<()> {
    let groups: Vec<_> = TABLES
        .iter()
        .map(|table| {
            let words: Vec<_> = (table.entries)().into_iter().map(|e| e.word).collect();
            serde_json::json!({"group": table.group, "words": words})
        })
        .collect();
    writeln!(out, "{}", serde_json::json!({"schema": 1, "type": "words", "groups": groups}))
}
